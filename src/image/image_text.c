#include "image/image_text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "image/image_bytes.h"

#define REPLACEMENT 0xfffdu

/* *code_point = the first character of the text; returns the bytes that it takes, which is 1 and
 * U+FFFD where the bytes are not UTF-8. size is at least 1. */
static size_t decode_utf8(uint32_t *code_point, const unsigned char *bytes, size_t size)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned first = bytes[0];
    size_t length = first < 0x80 ? 1 : first < 0xc0 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    uint32_t value = length == 1 ? first : first & (0x7fu >> length);

    *code_point = REPLACEMENT;
    if (length == 0 || first > 0xf4 || length > size)
        return 1;
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xc0) != 0x80)
            return 1;
        value = value << 6 | (bytes[i] & 0x3f);
    }
    if (value < smallest[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
        return 1;
    *code_point = value;
    return length;
}

static size_t encode_utf8(char *out, uint32_t code_point)
{
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (char)(0xc0 | code_point >> 6);
        out[1] = (char)(0x80 | (code_point & 0x3f));
        return 2;
    }
    if (code_point < 0x10000) {
        out[0] = (char)(0xe0 | code_point >> 12);
        out[1] = (char)(0x80 | (code_point >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code_point & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code_point >> 18);
    out[1] = (char)(0x80 | (code_point >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code_point >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code_point & 0x3f));
    return 4;
}

/* Memory for `count` units that take at most `unit_bytes` each, and a NUL. */
static void *alloc_text(size_t count, size_t unit_bytes, struct error *err)
{
    size_t bytes;
    void *text = NULL;

    if (size_mul(&bytes, count, unit_bytes) && size_add(&bytes, bytes, 1))
        text = malloc(bytes);
    if (!text)
        error_set(err, ERROR_NO_MEMORY, "a text of %zu bytes", count);
    return text;
}

bool image_text_from_utf8(char **out, const unsigned char *bytes, size_t size, struct error *err)
{
    size_t length = 0;
    char *text = alloc_text(size, 3, err);

    if (!text)
        return false;
    for (size_t at = 0; at < size && bytes[at];) {
        uint32_t code_point;

        at += decode_utf8(&code_point, bytes + at, size - at);
        length += encode_utf8(text + length, code_point);
    }
    text[length] = '\0';
    *out = text;
    return true;
}

bool image_text_from_latin1(char **out, const unsigned char *bytes, size_t size, struct error *err)
{
    size_t length = 0;
    char *text = alloc_text(size, 2, err);

    if (!text)
        return false;
    for (size_t at = 0; at < size && bytes[at]; at++)
        length += encode_utf8(text + length, bytes[at]);
    text[length] = '\0';
    *out = text;
    return true;
}

static bool is_between(uint32_t value, uint32_t low, uint32_t high)
{
    return value >= low && value <= high;
}

bool image_text_from_utf16(char **out, const unsigned char *bytes, size_t size, bool is_big_endian,
                           struct error *err)
{
    uint32_t (*read_unit)(const unsigned char *) = is_big_endian ? read_be16 : read_le16;
    size_t unit_count = size / 2;
    size_t length = 0;
    char *text = alloc_text(unit_count, 3, err);

    if (!text)
        return false;
    for (size_t i = 0; i < unit_count; i++) {
        uint32_t unit = read_unit(bytes + 2 * i);
        uint32_t next = i + 1 < unit_count ? read_unit(bytes + 2 * i + 2) : 0;

        if (unit == 0)
            break;
        if (is_between(unit, 0xd800, 0xdbff) && is_between(next, 0xdc00, 0xdfff)) {
            unit = 0x10000 + ((unit - 0xd800) << 10) + (next - 0xdc00);
            i++;
        } else if (is_between(unit, 0xd800, 0xdfff)) {
            unit = REPLACEMENT;
        }
        length += encode_utf8(text + length, unit);
    }
    text[length] = '\0';
    *out = text;
    return true;
}

bool image_text_is_latin1(const char *text)
{
    /* 0xc2 and 0xc3 begin the characters U+0080 to U+00FF. */
    for (const unsigned char *byte = (const unsigned char *)text; *byte; byte++)
        if (*byte > 0xc3)
            return false;
    return true;
}

bool image_text_to_latin1(unsigned char **out, size_t *out_size, const char *text,
                          struct error *err)
{
    const unsigned char *bytes = (const unsigned char *)text;
    size_t size = strlen(text);
    size_t length = 0;
    unsigned char *latin1 = alloc_text(size, 1, err);

    if (!latin1)
        return false;
    for (size_t at = 0; at < size;) {
        uint32_t code_point;

        at += decode_utf8(&code_point, bytes + at, size - at);
        latin1[length++] = (unsigned char)code_point;
    }
    *out = latin1;
    *out_size = length;
    return true;
}

bool image_text_to_utf16be(unsigned char **out, size_t *out_size, const char *text,
                           struct error *err)
{
    const unsigned char *bytes = (const unsigned char *)text;
    size_t size = strlen(text);
    size_t length = 0;
    unsigned char *utf16 = alloc_text(size, 2, err);

    if (!utf16)
        return false;
    for (size_t at = 0; at < size;) {
        uint32_t code_point;

        at += decode_utf8(&code_point, bytes + at, size - at);
        if (code_point >= 0x10000) {
            write_be16(utf16 + length, 0xd800 + ((code_point - 0x10000) >> 10));
            length += 2;
            code_point = 0xdc00 + (code_point & 0x3ff);
        }
        write_be16(utf16 + length, code_point);
        length += 2;
    }
    *out = utf16;
    *out_size = length;
    return true;
}
