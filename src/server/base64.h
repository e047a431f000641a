/* Base64 for answers: the standard alphabet, padded, without line breaks. */
#ifndef SERVER_BASE64_H
#define SERVER_BASE64_H

#include <jansson.h>
#include <stddef.h>

#include "base/attributes.h"
#include "server/hub.h"

/* Freed by the caller; NULL when memory is short. */
char *base64_encode(const void *bytes, size_t size);
/* A JSON text, a new reference; NULL when memory is short. */
json_t *base64_json(const void *bytes, size_t size);
/* A stored picture's file as a JSON text. NULL: it is gone, cannot be read, or memory is short.
 * Waits for the disk. */
json_t *base64_picture(struct hub *hub, const struct store_picture *picture);

/* Takes a "data:...;base64," before it and white space inside. *out is freed by the caller. */
enum base64_result { BASE64_OK, BASE64_DAMAGED, BASE64_NO_MEMORY };
MUST_CHECK enum base64_result base64_decode(unsigned char **out, size_t *size, const char *text);

#endif
