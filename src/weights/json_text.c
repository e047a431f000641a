#include "weights/json_text.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* The byte after the string that begins at bytes[at], or `size` when it does not end. */
static size_t skip_string(const unsigned char *bytes, size_t size, size_t at)
{
    for (at++; at < size && bytes[at] != '"'; at++)
        if (bytes[at] == '\\')
            at++;
    return at < size ? at + 1 : size;
}

static bool check_extent(const unsigned char *bytes, size_t size, int depth_max, struct error *err)
{
    size_t elements = 0;
    int depth = 0;

    for (size_t at = 0; at < size;) {
        unsigned char c = bytes[at];

        if (c == '"') {
            at = skip_string(bytes, size, at);
            continue;
        }
        if (c == '{' || c == '[') {
            if (++depth > depth_max)
                return error_set(err, ERROR_BAD_FILE, "the JSON is nested too deeply");
            elements++;
        } else if (c == '}' || c == ']') {
            depth--;
        } else if (c == ',' || c == ':') {
            elements++;
        }
        if (elements > JSON_TEXT_ELEMENTS_MAX)
            return error_set(err, ERROR_BAD_FILE, "the JSON has more than %d elements",
                             JSON_TEXT_ELEMENTS_MAX);
        at++;
    }
    return true;
}

json_t *json_text_parse(const void *bytes, size_t size, int depth_max, struct error *err)
{
    const unsigned char *nul;
    json_error_t cause;
    json_t *root;

    if (size > JSON_TEXT_BYTES_MAX) {
        error_set(err, ERROR_BAD_FILE, "the JSON has %zu bytes, more than the %u that are read",
                  size, JSON_TEXT_BYTES_MAX);
        return NULL;
    }
    nul = size ? memchr(bytes, '\0', size) : NULL;
    if (nul) { /* the parser overlooks one that follows a number */
        error_set(err, ERROR_BAD_FILE, "the JSON is not valid at byte %zu: a NUL",
                  (size_t)(nul - (const unsigned char *)bytes));
        return NULL;
    }
    if (!check_extent(bytes, size, depth_max, err))
        return NULL;
    root = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &cause);
    if (!root) {
        if (json_error_code(&cause) == json_error_out_of_memory)
            error_set(err, ERROR_NO_MEMORY, "parsing %zu bytes of JSON", size);
        else
            error_set(err, ERROR_BAD_FILE, "the JSON is not valid at byte %d: %s", cause.position,
                      cause.text);
        return NULL;
    }
    if (!json_is_object(root)) {
        error_set(err, ERROR_BAD_FILE, "the JSON is not an object");
        json_decref(root);
        return NULL;
    }
    return root;
}

json_t *json_text_read(const char *path, struct error *err)
{
    unsigned char *bytes;
    size_t size;
    json_t *root;

    if (!file_read(&bytes, &size, path, JSON_TEXT_BYTES_MAX, err))
        return NULL;
    root = json_text_parse(bytes, size, JSON_TEXT_DEPTH_MAX, err);
    free(bytes);
    if (!root)
        error_in(err, "'%s'", path);
    return root;
}
