#include "server/json_writer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES 2048 /* a job with one picture is half of it */

json_t *json_any_string(const char *value)
{
    json_t *string;
    char *ascii;

    if (!value)
        return json_null();
    string = json_string(value);
    if (string)
        return string;
    ascii = strdup(value);
    if (!ascii)
        return NULL;
    for (char *at = ascii; *at; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    string = json_string(ascii);
    free(ascii);
    return string;
}

/* --- Bytes --- */

static bool make_room(struct json_writer *out, size_t size)
{
    size_t room = out->room ? out->room : FIRST_BYTES;
    char *bytes;

    if (out->has_failed)
        return false;
    if (size <= out->room - out->used)
        return true;
    while (size > room - out->used)
        room *= 2;
    bytes = realloc(out->bytes, room);
    if (!bytes) {
        out->has_failed = true;
        return false;
    }
    out->bytes = bytes;
    out->room = room;
    return true;
}

static void put(struct json_writer *out, const char *bytes, size_t size)
{
    if (!make_room(out, size))
        return;
    memcpy(out->bytes + out->used, bytes, size);
    out->used += size;
}

static void put_byte(struct json_writer *out, char byte)
{
    put(out, &byte, 1);
}

/* What stands before a value. */
static void begin(struct json_writer *out, const char *key)
{
    char last = out->used > 0 ? out->bytes[out->used - 1] : '[';

    if (last != '{' && last != '[')
        put_byte(out, ',');
    if (!key)
        return;
    put_byte(out, '"');
    put(out, key, strlen(key));
    put(out, "\":", 2);
}

/* --- Values --- */

void json_writer_open(struct json_writer *out, const char *key, char bracket)
{
    begin(out, key);
    put_byte(out, bracket);
}

void json_writer_close(struct json_writer *out, char bracket)
{
    put_byte(out, bracket);
}

void json_writer_raw(struct json_writer *out, const char *key, const char *json)
{
    if (!json)
        json = "null";
    begin(out, key);
    put(out, json, strlen(json));
}

static int put_dumped(const char *bytes, size_t size, void *out)
{
    put(out, bytes, size);
    return 0;
}

void json_writer_value(struct json_writer *out, const char *key, const json_t *value)
{
    if (!value) {
        json_writer_raw(out, key, NULL);
        return;
    }
    begin(out, key);
    if (json_dump_callback(value, put_dumped, out, JSON_COMPACT | JSON_ENCODE_ANY) != 0)
        out->has_failed = true;
}

/* Whether it can be copied as it is. */
static bool is_plain(const char *value, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)value[i];

        if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\')
            return false;
    }
    return true;
}

void json_writer_string(struct json_writer *out, const char *key, const char *value)
{
    size_t size = value ? strlen(value) : 0;
    json_t *string;

    if (!value) {
        json_writer_raw(out, key, NULL);
    } else if (is_plain(value, size)) {
        begin(out, key);
        put_byte(out, '"');
        put(out, value, size);
        put_byte(out, '"');
    } else {
        string = json_any_string(value);
        out->has_failed |= !string;
        json_writer_value(out, key, string);
        json_decref(string);
    }
}

/* The digits up to `end`, at least `count`. Returns where they begin. */
static char *digits_before(char *end, uint64_t value, int count)
{
    while (value > 0 || count > 0) {
        *--end = (char)('0' + value % 10);
        value /= 10;
        count--;
    }
    return end;
}

void json_writer_integer(struct json_writer *out, const char *key, int64_t value)
{
    char digits[24], *end = digits + sizeof digits;
    char *at = digits_before(end, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, 1);

    if (value < 0)
        *--at = '-';
    begin(out, key);
    put(out, at, (size_t)(end - at));
}

/* Of printf's seventeen digits most say nothing, and they cost as much as the rest of a job. */
static void put_millionths(struct json_writer *out, double value)
{
    uint64_t millionths = (uint64_t)llround(fabs(value) * 1e6);
    char digits[32], *end = digits + sizeof digits;
    char *point = digits_before(end, millionths % 1000000, 6) - 1;
    char *at = digits_before(point, millionths / 1000000, 1);

    *point = '.';
    while (end[-1] == '0' && end - 2 > point)
        end--;
    if (value < 0 && millionths > 0)
        *--at = '-';
    put(out, at, (size_t)(end - at));
}

void json_writer_real(struct json_writer *out, const char *key, double value)
{
    json_t *number;

    if (!isfinite(value)) {
        json_writer_raw(out, key, NULL);
    } else if (fabs(value) < 1e9) {
        begin(out, key);
        put_millionths(out, value);
    } else {
        number = json_real(value);
        out->has_failed |= !number;
        json_writer_value(out, key, number);
        json_decref(number);
    }
}

void json_writer_boolean(struct json_writer *out, const char *key, bool value)
{
    json_writer_raw(out, key, value ? "true" : "false");
}

/* --- The end --- */

char *json_writer_take(struct json_writer *out, size_t *size)
{
    char *bytes;

    put_byte(out, '\0');
    if (out->has_failed) {
        json_writer_finish(out);
        return NULL;
    }
    bytes = out->bytes;
    *size = out->used - 1;
    *out = (struct json_writer){0};
    return bytes;
}

void json_writer_finish(struct json_writer *out)
{
    free(out->bytes);
    *out = (struct json_writer){0};
}
