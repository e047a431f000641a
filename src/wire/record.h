/* Record: flat, length-checked bytes between processes. Little-endian; texts and byte strings have
 * their length before them. A reader never runs past its end: the first read that would fails all
 * later ones, which give 0, so that one check at the end is enough.
 */
#ifndef WIRE_RECORD_H
#define WIRE_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"

#define RECORD_BYTES_MAX ((size_t)96 << 20)

struct record_writer {
    unsigned char *bytes; /* owned */
    size_t size, capacity;
    bool has_failed; /* memory was short, or RECORD_BYTES_MAX reached */
};
void record_put_u32(struct record_writer *writer, uint32_t value);
void record_put_i32(struct record_writer *writer, int32_t value);
void record_put_u64(struct record_writer *writer, uint64_t value);
void record_put_f64(struct record_writer *writer, double value);
void record_put_bool(struct record_writer *writer, bool value);
void record_put_bytes(struct record_writer *writer, const void *bytes, size_t size);
void record_put_text(struct record_writer *writer, const char *text); /* NULL is kept as NULL */
void record_writer_finish(struct record_writer *writer);

struct record_reader {
    const unsigned char *at, *end; /* borrowed */
    bool has_failed;
};
uint32_t record_get_u32(struct record_reader *reader);
int32_t record_get_i32(struct record_reader *reader);
uint64_t record_get_u64(struct record_reader *reader);
double record_get_f64(struct record_reader *reader); /* one that is not finite fails */
bool record_get_bool(struct record_reader *reader);  /* another byte than 0 and 1 fails */
/* Borrowed from the record; NULL and 0 on failure. */
const unsigned char *record_get_bytes(struct record_reader *reader, size_t *size);
/* A copy, freed by the caller; NULL for NULL and on failure. What is not UTF-8 or has a NUL inside
 * fails, here and below. */
char *record_get_text(struct record_reader *reader);
/* Copies a text into a fixed field; NULL and one that does not fit fail. */
void record_get_text_into(struct record_reader *reader, char *to, size_t size);
/* For what is read but makes no sense: all later reads fail. */
void record_reader_fail(struct record_reader *reader);
/* Everything was read, and nothing failed. */
MUST_CHECK bool record_reader_is_done(const struct record_reader *reader);

#endif
