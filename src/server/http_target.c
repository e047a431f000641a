/* What a request's target says: decoding of paths and queries. */
#include <stdlib.h>
#include <string.h>

#include "server/http_private.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Bytes of the character at `text`; 0: not UTF-8 (RFC 3629: shortest form, no surrogates). */
static size_t utf8_length(const unsigned char *text, size_t size)
{
    unsigned char lead = text[0];
    size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;

    if (length == 0 || lead > 0xf4 || length > size)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((lead == 0xe0 && text[1] < 0xa0) || (lead == 0xed && text[1] > 0x9f) ||
        (lead == 0xf0 && text[1] < 0x90) || (lead == 0xf4 && text[1] > 0x8f))
        return 0;
    return length;
}

bool http_text_is_utf8(const char *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        size_t length = utf8_length((const unsigned char *)text + at, size - at);

        if (length == 0)
            return false;
        at += length;
    }
    return true;
}

bool http_decode(char *out, const char *text, size_t size, bool is_query, bool allow_slash)
{
    size_t length = 0;

    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == '%') {
            int high = size - i > 2 ? hex_digit(text[i + 1]) : -1;
            int low = size - i > 2 ? hex_digit(text[i + 2]) : -1;

            if (high < 0 || low < 0)
                return false;
            c = (unsigned char)(high << 4 | low);
            i += 2;
            if (c == '/' && !allow_slash)
                return false;
        } else if (c == '+' && is_query) {
            c = ' ';
        }
        if (c == 0x7f || (c < 0x20 && !(is_query && (c == '\n' || c == '\r' || c == '\t'))))
            return false;
        out[length++] = (char)c;
    }
    out[length] = '\0';
    return http_text_is_utf8(out, length);
}

bool http_query_parse(struct http_field **fields, size_t *count, char **text, const char *query)
{
    size_t most = 1;
    char *out;

    *fields = NULL;
    *count = 0;
    *text = NULL;
    if (!*query)
        return true;
    for (const char *c = query; *c; c++)
        most += *c == '&';
    *fields = calloc(most, sizeof **fields);
    out = *text = malloc(strlen(query) + most * 2);
    if (!*fields || !out)
        return false;
    for (;;) {
        size_t length = strcspn(query, "&");
        const char *equal = memchr(query, '=', length);
        size_t name_length = equal ? (size_t)(equal - query) : length;

        if (length > 0) {
            struct http_field *field = &(*fields)[(*count)++];

            field->name = out;
            if (!http_decode(out, query, name_length, true, true))
                return false;
            out += strlen(out) + 1;
            field->value = out;
            if (!http_decode(out, equal ? equal + 1 : "", equal ? length - name_length - 1 : 0,
                             true, true))
                return false;
            out += strlen(out) + 1;
        }
        if (!query[length])
            return true;
        query += length + 1;
    }
}
