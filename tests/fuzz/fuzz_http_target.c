/* Paths and queries: what decodes is UTF-8 without NUL and control bytes and no longer than before;
 * what is matched has as many values as the pattern names; an escaped slash never makes a segment.
 */
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

static void check_path(const char *path)
{
    static const struct {
        const char *pattern;
        int count;
    } patterns[] = {{"/a/{id}", 1}, {"/{x}/b/{y}", 2}, {"/f/{rest*}", 1}, {"/health", 0}};
    size_t length = strlen(path);
    char *text = malloc(8 * (length + 1));
    struct http_field values[8];

    expect(text != NULL);
    if (http_decode(text, path, length, false, false)) {
        expect(strlen(text) <= length && http_text_is_utf8(text, strlen(text)));
        expect(!strpbrk(text, "\n\r\t\x01\x1f\x7f"));
    }
    for (size_t i = 0; i < COUNT_OF(patterns); i++) {
        int count = http_match_path(patterns[i].pattern, path, values, 8, text);

        expect(count == -1 || count == patterns[i].count);
        for (int j = 0; j < count; j++) {
            expect(*values[j].value && strcmp(values[j].value, "..") != 0);
            expect(i == 2 || !strchr(values[j].value, '/'));
        }
    }
    free(text);
}

static void check_query(const char *query)
{
    struct http_field *fields;
    size_t count, total = 0;
    char *text;

    if (http_query_parse(&fields, &count, &text, query)) {
        for (size_t i = 0; i < count; i++) {
            total += strlen(fields[i].name) + strlen(fields[i].value);
            expect(http_text_is_utf8(fields[i].name, strlen(fields[i].name)));
            expect(http_text_is_utf8(fields[i].value, strlen(fields[i].value)));
        }
        expect(total <= strlen(query));
    }
    free(fields);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = malloc(size + 1), *query;
    uint64_t from, length;

    expect(text != NULL);
    memcpy(text, bytes, size);
    text[size] = '\0';
    if (http_range_parse(text, 1000, &from, &length) == 206)
        expect(from < 1000 && length > 0 && length <= 1000 - from);
    (void)http_etag_matches(text, "\"x\"");
    query = strchr(text, '?');
    check_query(query ? query + 1 : text);
    if (query)
        *query = '\0';
    check_path(text);
    free(text);
    return 0;
}
