/* Pictures as texts, base64 for answers: the standard alphabet, padded, without line breaks. */
#ifndef SERVER_PICTURE_TEXT_H
#define SERVER_PICTURE_TEXT_H

#include <jansson.h>
#include <stddef.h>

#include "base/attributes.h"
#include "server/hub.h"

/* Freed by the caller; NULL when memory is short. */
char *picture_text_encode(const void *bytes, size_t size);
/* A JSON text, a new reference; NULL when memory is short. */
json_t *picture_text_json(const void *bytes, size_t size);
/* A stored picture's file as a JSON text. NULL: it is gone, cannot be read, or memory is short.
 * Waits for the disk. */
json_t *picture_text_stored(struct hub *hub, const struct store_picture *picture);

#endif
