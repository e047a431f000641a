/* Multipart bodies: the first line is the Content-Type, the rest the body. Parts lie inside the
 * body, in order, and hold no boundary. */
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

static void check_parts(const struct http_part *parts, size_t count, const char *body, size_t size)
{
    const char *last = body;

    expect(count <= HTTP_MULTIPART_PARTS_MAX);
    for (size_t i = 0; i < count; i++) {
        const char *part = parts[i].bytes;

        expect(part >= last && part <= body + size && parts[i].size <= size);
        expect(part + parts[i].size <= body + size);
        last = part + parts[i].size;
        expect(parts[i].name != NULL && http_text_is_utf8(parts[i].name, strlen(parts[i].name)));
        expect(!parts[i].filename || strlen(parts[i].filename) <= size);
        expect(!parts[i].type || strlen(parts[i].type) <= size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const uint8_t *line = memchr(bytes, '\n', size);
    struct http_part *parts;
    size_t count, length = line ? (size_t)(line - bytes) : 0;
    char type[200], *text, *body;
    const char *wrong;

    if (!line || length >= sizeof type)
        return 0;
    memcpy(type, bytes, length);
    type[length] = '\0';
    size -= length + 1;
    body = malloc(size ? size : 1); /* exact, so that a sanitizer sees each byte beyond */
    expect(body != NULL);
    memcpy(body, line + 1, size);
    wrong = http_multipart_parse(&parts, &count, &text, type, body, size);
    if (!wrong)
        check_parts(parts, count, body, size);
    else
        expect(!parts && !text && count == 0);
    free(parts);
    free(text);
    free(body);
    return 0;
}
