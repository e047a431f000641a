/* JSON from files that nobody vouches for.
 *
 * The text is scanned before it is parsed: nesting and the number of elements are bounded, so that
 * a small file cannot make the parser recurse deeply or allocate without end.
 */
#ifndef WEIGHTS_JSON_TEXT_H
#define WEIGHTS_JSON_TEXT_H

#include <stddef.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"

#define JSON_TEXT_ELEMENTS_MAX 1000000 /* about 50,000 tensors in a safetensors header */
#define JSON_TEXT_DEPTH_MAX 16
#define JSON_TEXT_FILE_BYTES_MAX (16u << 20)

/* The object that the text holds, or NULL with ERROR_BAD_FILE. Duplicate keys and embedded NULs are
 * refused. `depth_max` counts the outermost object. Free with json_decref. */
MUST_CHECK json_t *json_text_parse(const void *bytes, size_t size, int depth_max,
                                   struct error *err);

/* The same from a file of at most JSON_TEXT_FILE_BYTES_MAX bytes; errors name it. */
MUST_CHECK json_t *json_text_read(const char *path, struct error *err);

#endif
