/* The scan of JSON before jansson: whatever passes it and jansson is within the limits, counted
 * again over the tree. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/http_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void expect(bool is_true)
{
    if (!is_true)
        abort();
}

static int count_values(const json_t *value, int depth)
{
    const char *key;
    size_t index;
    json_t *child;
    int count = 1;

    expect(depth <= JSON_DEPTH_MAX + 1); /* a scalar in the deepest object */
    if (json_is_object(value)) {
        expect(json_object_size(value) <= JSON_KEYS_MAX && depth <= JSON_DEPTH_MAX);
        json_object_foreach((json_t *)value, key, child) count += count_values(child, depth + 1);
    } else if (json_is_array(value)) {
        expect(depth <= JSON_DEPTH_MAX);
        json_array_foreach(value, index, child) count += count_values(child, depth + 1);
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = malloc(size ? size : 1);
    const char *wrong;
    json_t *value;

    expect(text != NULL);
    memcpy(text, bytes, size);
    wrong = http_json_scan(text, size);
    value = wrong ? NULL : json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    if (value)
        expect(count_values(value, 1) <= JSON_VALUES_MAX + 1);
    json_decref(value);
    free(text);
    return 0;
}
