#include "job/base64.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define PADDING 64
#define SPACE 65
#define STRANGER 66

static unsigned value_of(unsigned char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26u;
    if (c >= '0' && c <= '9')
        return c - '0' + 52u;
    switch (c) {
    case '+':
        return 62;
    case '/':
        return 63;
    case '=':
        return PADDING;
    case ' ':
    case '\t':
    case '\r':
    case '\n':
        return SPACE;
    default:
        return STRANGER;
    }
}

/* What was read so far. */
struct decoder {
    unsigned char *bytes;
    size_t size;
    uint32_t bits;      /* that are not bytes yet, at the low end */
    unsigned bit_count; /* of them */
    size_t digits, padding;
};

static bool take(struct decoder *decoder, unsigned value)
{
    if (value == SPACE)
        return true;
    if (value == PADDING) {
        decoder->padding++;
        return true;
    }
    if (value == STRANGER || decoder->padding > 0)
        return false;
    decoder->digits++;
    decoder->bits = (decoder->bits << 6 | value) & 0xfff;
    decoder->bit_count += 6;
    if (decoder->bit_count >= 8) {
        decoder->bit_count -= 8;
        decoder->bytes[decoder->size++] = (unsigned char)(decoder->bits >> decoder->bit_count);
    }
    return true;
}

/* Four digits make three bytes; one digit over makes none. */
static bool ends_well(const struct decoder *decoder)
{
    size_t over = decoder->digits % 4;

    if (over == 1 || (decoder->bits & ((1u << decoder->bit_count) - 1)) != 0)
        return false;
    return decoder->padding == 0 || (over != 0 && decoder->padding == 4 - over);
}

enum base64_result base64_decode(unsigned char **out, size_t *out_size, const char *text,
                                 size_t length, size_t bytes_max)
{
    struct decoder decoder = {0};
    size_t digits = 0;
    bool ok = true;

    for (size_t i = 0; i < length; i++)
        digits += value_of((unsigned char)text[i]) < PADDING;
    if (digits / 4 * 3 + digits % 4 * 3 / 4 > bytes_max)
        return BASE64_TOO_LARGE;
    decoder.bytes = malloc(digits / 4 * 3 + 3);
    if (!decoder.bytes)
        return BASE64_NO_MEMORY;
    for (size_t i = 0; ok && i < length; i++)
        ok = take(&decoder, value_of((unsigned char)text[i]));
    if (!ok || !ends_well(&decoder)) {
        free(decoder.bytes);
        return BASE64_MALFORMED;
    }
    *out = decoder.bytes;
    *out_size = decoder.size;
    return BASE64_OK;
}
