#include "text/text_buffer.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#define REPLACEMENT_CHARACTER 0xFFFD

static bool reserve(struct text_buffer *buffer, size_t size, struct error *err)
{
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    char *bytes;

    if (size > buffer->limit - buffer->size)
        return error_set(err, ERROR_BAD_REQUEST, "the text is too long: more than %zu bytes",
                         buffer->limit);
    while (capacity < buffer->size + size)
        capacity *= 2;
    if (capacity == buffer->capacity)
        return true;
    bytes = realloc(buffer->bytes, capacity);
    if (!bytes)
        return error_set(err, ERROR_NO_MEMORY, "the text: %zu bytes", capacity);
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return true;
}

bool text_buffer_append(struct text_buffer *buffer, const char *bytes, size_t size,
                        struct error *err)
{
    if (size == 0)
        return true;
    if (!reserve(buffer, size, err))
        return false;
    memcpy(buffer->bytes + buffer->size, bytes, size);
    buffer->size += size;
    return true;
}

bool text_buffer_append_codepoint(struct text_buffer *buffer, int32_t codepoint, struct error *err)
{
    unsigned char encoded[4];
    utf8proc_ssize_t size = utf8proc_encode_char(codepoint, encoded);

    return text_buffer_append(buffer, (const char *)encoded, (size_t)size, err);
}

bool text_buffer_append_valid(struct text_buffer *buffer, const char *text, size_t size,
                              struct error *err)
{
    for (size_t at = 0, length; at < size; at += length) {
        int32_t codepoint = text_decode(text + at, size - at, &length);

        if (!text_buffer_append_codepoint(buffer, codepoint, err))
            return false;
    }
    return true;
}

void text_buffer_finish(struct text_buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (struct text_buffer){.limit = buffer->limit};
}

int32_t text_decode(const char *text, size_t size, size_t *length)
{
    /* A character has at most 4 bytes; the rest need not pass through the library's signed size. */
    utf8proc_ssize_t room = size < 4 ? (utf8proc_ssize_t)size : 4;
    utf8proc_int32_t codepoint;
    utf8proc_ssize_t used = utf8proc_iterate((const unsigned char *)text, room, &codepoint);

    if (used <= 0) {
        *length = 1;
        return REPLACEMENT_CHARACTER;
    }
    *length = (size_t)used;
    return codepoint;
}

bool text_is_utf8(const char *text, size_t size)
{
    for (size_t at = 0, length; at < size; at += length) {
        /* U+FFFD may be there in its own right; as itself it has three bytes. */
        if (text_decode(text + at, size - at, &length) == REPLACEMENT_CHARACTER && length == 1)
            return false;
    }
    return true;
}

bool text_is_space(int32_t codepoint)
{
    return (codepoint >= 0x09 && codepoint <= 0x0D) || codepoint == 0x20 || codepoint == 0x85 ||
           codepoint == 0xA0 || codepoint == 0x1680 ||
           (codepoint >= 0x2000 && codepoint <= 0x200A) || codepoint == 0x2028 ||
           codepoint == 0x2029 || codepoint == 0x202F || codepoint == 0x205F || codepoint == 0x3000;
}
