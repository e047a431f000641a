#include "server/native_cursor.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "job/job_spec.h"

/* A cursor is this byte and the sequence, largest byte first, in base64url. */
#define CURSOR_MARK 0x6a
#define CURSOR_RAW_BYTES 9

void native_cursor_write(char cursor[NATIVE_CURSOR_BYTES], int64_t sequence)
{
    unsigned char raw[CURSOR_RAW_BYTES] = {CURSOR_MARK};

    for (int i = 0; i < 8; i++)
        raw[1 + i] = (unsigned char)((uint64_t)sequence >> (56 - 8 * i));
    sodium_bin2base64(cursor, NATIVE_CURSOR_BYTES, raw, sizeof raw,
                      sodium_base64_VARIANT_URLSAFE_NO_PADDING);
}

bool native_cursor_read(int64_t *sequence, const char *cursor)
{
    unsigned char raw[CURSOR_RAW_BYTES];
    char written[NATIVE_CURSOR_BYTES];
    uint64_t value = 0;
    size_t size;

    if (sodium_base642bin(raw, sizeof raw, cursor, strlen(cursor), NULL, &size, NULL,
                          sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0 ||
        size != sizeof raw || raw[0] != CURSOR_MARK)
        return false;
    for (int i = 0; i < 8; i++)
        value = value << 8 | raw[1 + i];
    if (value == 0 || value > INT64_MAX)
        return false;
    /* libsodium takes some bytes above 127 for digits. */
    native_cursor_write(written, (int64_t)value);
    if (strcmp(written, cursor) != 0)
        return false;
    *sequence = (int64_t)value;
    return true;
}

void native_boot_draw(char boot[NATIVE_BOOT_BYTES])
{
    unsigned char raw[(NATIVE_BOOT_BYTES - 1) / 2];

    randombytes_buf(raw, sizeof raw);
    sodium_bin2hex(boot, NATIVE_BOOT_BYTES, raw, sizeof raw);
}

void native_event_id_write(char id[NATIVE_EVENT_ID_BYTES], const char *boot, uint64_t number)
{
    snprintf(id, NATIVE_EVENT_ID_BYTES, "%.16s-%" PRIu64, boot, number);
}

bool native_event_id_read(uint64_t *number, const char *boot, const char *id)
{
    size_t length = strlen(boot);
    uint64_t value;

    if (strncmp(id, boot, length) != 0 || id[length] != '-' ||
        !native_digits_read(&value, id + length + 1) || value == 0)
        return false;
    *number = value;
    return true;
}

bool native_digits_read(uint64_t *out, const char *text)
{
    uint64_t value = 0;

    if (*text == '\0')
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    *out = value;
    return true;
}

bool native_is_id(const char *text)
{
    return text && strspn(text, "0123456789abcdef") == JOB_ID_BYTES - 1 &&
           text[JOB_ID_BYTES - 1] == '\0';
}
