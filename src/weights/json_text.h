/* JSON from files that nobody vouches for.
 *
 * The text is scanned before it is parsed: its size, nesting and number of elements are bounded, so
 * that no file can make the parser recurse deeply, allocate without end or take its time.
 */
#ifndef WEIGHTS_JSON_TEXT_H
#define WEIGHTS_JSON_TEXT_H

#include <stddef.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"

/* Enough for 20,000 tensors in a safetensors header, and parsed in less than a second. */
#define JSON_TEXT_BYTES_MAX (8u << 20)
#define JSON_TEXT_ELEMENTS_MAX 400000
#define JSON_TEXT_DEPTH_MAX 16

/* The object that the text holds, or NULL with ERROR_BAD_FILE. Duplicate keys and embedded NULs are
 * refused. `depth_max` counts the outermost object. Free with json_decref. */
MUST_CHECK json_t *json_text_parse(const void *bytes, size_t size, int depth_max,
                                   struct error *err);

/* The same from a file; errors name it. */
MUST_CHECK json_t *json_text_read(const char *path, struct error *err);

#endif
