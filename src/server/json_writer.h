/* JSON written from left to right into one text, for what is asked for often: a tree of values that
 * is built, written and freed takes ten times as long. Lack of memory, wherever it was, is told by
 * json_writer_take.
 *
 * Every function writes one value: a member of the object that is open where `key` is given, an
 * element or the whole where it is NULL. Keys are our own words and need no escaping.
 */
#ifndef SERVER_JSON_WRITER_H
#define SERVER_JSON_WRITER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Start it as {0}. */
struct json_writer {
    char *bytes;
    size_t used, room;
    bool has_failed; /* memory was short */
};

void json_writer_open(struct json_writer *out, const char *key, char bracket); /* '{' or '[' */
void json_writer_close(struct json_writer *out, char bracket);
/* A value that is written already; NULL: null. */
void json_writer_raw(struct json_writer *out, const char *key, const char *json);
/* A tree; NULL: null. */
void json_writer_value(struct json_writer *out, const char *key, const json_t *value);
/* Bytes that are no UTF-8 become '?'. NULL: null. */
void json_writer_string(struct json_writer *out, const char *key, const char *value);
void json_writer_integer(struct json_writer *out, const char *key, int64_t value);
/* To a millionth, where it is less than 10^9. Not finite: null. */
void json_writer_real(struct json_writer *out, const char *key, double value);
void json_writer_boolean(struct json_writer *out, const char *key, bool value);

/* The text, ended by a NUL, to be freed; NULL: memory was short. `out` is as at its start. */
char *json_writer_take(struct json_writer *out, size_t *size);
void json_writer_finish(struct json_writer *out);

/* A string of any bytes as a tree has it: those that are no UTF-8 become '?'. A new reference; NULL
 * is JSON's null, and lack of memory NULL. */
json_t *json_any_string(const char *value);

#endif
