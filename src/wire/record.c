#include "wire/record.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

/* --- Writing --- */

/* Room for `size` more bytes; NULL when there is none. */
static unsigned char *extend(struct record_writer *writer, size_t size)
{
    unsigned char *bytes, *at;
    size_t capacity;

    if (writer->has_failed || size > RECORD_BYTES_MAX - writer->size) {
        writer->has_failed = true;
        return NULL;
    }
    if (size > writer->capacity - writer->size) {
        capacity =
            writer->capacity > RECORD_BYTES_MAX / 2 ? RECORD_BYTES_MAX : 2 * writer->capacity + 64;
        if (capacity < writer->size + size)
            capacity = writer->size + size;
        bytes = realloc(writer->bytes, capacity);
        if (!bytes) {
            writer->has_failed = true;
            return NULL;
        }
        writer->bytes = bytes;
        writer->capacity = capacity;
    }
    at = writer->bytes + writer->size;
    writer->size += size;
    return at;
}

static void put_little(struct record_writer *writer, uint64_t value, size_t size)
{
    unsigned char *at = extend(writer, size);

    for (size_t i = 0; at && i < size; i++)
        at[i] = (unsigned char)(value >> 8 * i);
}

void record_put_u32(struct record_writer *writer, uint32_t value)
{
    put_little(writer, value, 4);
}

void record_put_i32(struct record_writer *writer, int32_t value)
{
    put_little(writer, (uint32_t)value, 4);
}

void record_put_u64(struct record_writer *writer, uint64_t value)
{
    put_little(writer, value, 8);
}

void record_put_f64(struct record_writer *writer, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    put_little(writer, bits, 8);
}

void record_put_bool(struct record_writer *writer, bool value)
{
    put_little(writer, value, 1);
}

void record_put_bytes(struct record_writer *writer, const void *bytes, size_t size)
{
    unsigned char *at;

    record_put_u64(writer, size);
    at = extend(writer, size);
    if (at && size > 0)
        memcpy(at, bytes, size);
}

void record_put_text(struct record_writer *writer, const char *text)
{
    record_put_bool(writer, text != NULL);
    if (text)
        record_put_bytes(writer, text, strlen(text));
}

void record_writer_finish(struct record_writer *writer)
{
    free(writer->bytes);
    *writer = (struct record_writer){0};
}

/* --- Reading --- */

void record_reader_fail(struct record_reader *reader)
{
    reader->has_failed = true;
}

/* The next `size` bytes; NULL when there are fewer. */
static const unsigned char *take(struct record_reader *reader, uint64_t size)
{
    const unsigned char *at = reader->at;

    if (reader->has_failed || size > (uint64_t)(reader->end - at)) {
        reader->has_failed = true;
        return NULL;
    }
    reader->at += size;
    return at;
}

static uint64_t get_little(struct record_reader *reader, size_t size)
{
    const unsigned char *at = take(reader, size);
    uint64_t value = 0;

    for (size_t i = 0; at && i < size; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

uint32_t record_get_u32(struct record_reader *reader)
{
    return (uint32_t)get_little(reader, 4);
}

int32_t record_get_i32(struct record_reader *reader)
{
    return (int32_t)(uint32_t)get_little(reader, 4);
}

uint64_t record_get_u64(struct record_reader *reader)
{
    return get_little(reader, 8);
}

double record_get_f64(struct record_reader *reader)
{
    uint64_t bits = get_little(reader, 8);
    double value;

    memcpy(&value, &bits, sizeof value);
    if (isfinite(value))
        return value;
    record_reader_fail(reader);
    return 0.0;
}

bool record_get_bool(struct record_reader *reader)
{
    uint64_t value = get_little(reader, 1);

    if (value > 1)
        record_reader_fail(reader);
    return value == 1;
}

const unsigned char *record_get_bytes(struct record_reader *reader, size_t *size)
{
    uint64_t length = record_get_u64(reader);
    const unsigned char *bytes = take(reader, length);

    *size = bytes ? (size_t)length : 0;
    return bytes;
}

/* Bytes of the character that begins here; 0: it is none. Table 3-7 of the Unicode standard. */
static size_t utf8_length(const unsigned char *at, size_t size)
{
    size_t length = at[0] < 0x80                     ? 1
                    : at[0] >= 0xc2 && at[0] <= 0xdf ? 2
                    : (at[0] & 0xf0) == 0xe0         ? 3
                    : at[0] >= 0xf0 && at[0] <= 0xf4 ? 4
                                                     : 0;

    if (length == 0 || length > size)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) ||
        (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f))
        return 0;
    return length;
}

static bool is_text(const unsigned char *bytes, size_t size)
{
    size_t at = 0;

    while (at < size) {
        size_t length = bytes[at] == '\0' ? 0 : utf8_length(bytes + at, size - at);

        if (length == 0)
            return false;
        at += length;
    }
    return true;
}

/* A text's bytes; NULL for NULL and on failure. */
static const unsigned char *get_text(struct record_reader *reader, size_t *size)
{
    const unsigned char *bytes;

    *size = 0;
    if (!record_get_bool(reader))
        return NULL;
    bytes = record_get_bytes(reader, size);
    if (bytes && is_text(bytes, *size))
        return bytes;
    record_reader_fail(reader);
    return NULL;
}

char *record_get_text(struct record_reader *reader)
{
    size_t size;
    const unsigned char *bytes = get_text(reader, &size);
    char *text;

    if (!bytes)
        return NULL;
    text = malloc(size + 1);
    if (!text) {
        record_reader_fail(reader);
        return NULL;
    }
    memcpy(text, bytes, size);
    text[size] = '\0';
    return text;
}

void record_get_text_into(struct record_reader *reader, char *to, size_t size)
{
    size_t length;
    const unsigned char *bytes = get_text(reader, &length);

    to[0] = '\0';
    if (!bytes || length >= size) {
        record_reader_fail(reader);
        return;
    }
    memcpy(to, bytes, length);
    to[length] = '\0';
}

bool record_reader_is_done(const struct record_reader *reader)
{
    return !reader->has_failed && reader->at == reader->end;
}
