/* Symbols and their ids, kept as one sorted array.
 *
 * A sorted array has no worst case that a file could provoke, and it is a trie for free: the
 * symbols that begin with a given prefix lie side by side, so following one more byte narrows a
 * range. Filled once (add, add, ..., sort), then only read, by any number of threads.
 */
#ifndef TEXT_VOCABULARY_H
#define TEXT_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"

#define VOCABULARY_ENTRIES_MAX 1000000 /* also one more than the largest id */
#define VOCABULARY_SYMBOL_BYTES_MAX 512

struct vocabulary_entry {
    uint32_t offset; /* in text */
    uint32_t length;
    int32_t id;
};

struct vocabulary {
    struct vocabulary_entry *entries;
    size_t count;
    size_t capacity;
    char *text; /* all symbols, one after the other */
    size_t text_bytes;
    size_t text_capacity;
    size_t first[257]; /* entries that begin with byte b are first[b] up to first[b + 1] */
    int32_t size;      /* largest id + 1 */
};

/* Refuses empty and very long symbols, ids outside 0 to VOCABULARY_ENTRIES_MAX - 1, and one entry
 * too many. A vocabulary starts zeroed. */
MUST_CHECK bool vocabulary_add(struct vocabulary *vocabulary, const char *symbol, size_t length,
                               int64_t id, struct error *err);
/* Makes the functions below usable. Refuses a symbol or an id that was added twice. */
MUST_CHECK bool vocabulary_sort(struct vocabulary *vocabulary, struct error *err);
void vocabulary_finish(struct vocabulary *vocabulary);

/* -1 when there is no such symbol. */
int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *symbol, size_t length);

/* The symbols that begin with the bytes seen so far. */
struct vocabulary_cursor {
    size_t begin, end; /* entries */
    uint32_t depth;    /* bytes seen */
};

/* Starts with one byte, or follows one more; false when no symbol begins so. */
bool vocabulary_enter(const struct vocabulary *vocabulary, struct vocabulary_cursor *cursor,
                      char byte);
bool vocabulary_follow(const struct vocabulary *vocabulary, struct vocabulary_cursor *cursor,
                       char byte);
/* The id of the symbol that is exactly the bytes seen so far, or -1. */
int32_t vocabulary_here(const struct vocabulary *vocabulary,
                        const struct vocabulary_cursor *cursor);

/* The longest symbol at the front of `text`: its length, and its id in *id. 0 when there is none.
 */
size_t vocabulary_longest(const struct vocabulary *vocabulary, const char *text, size_t size,
                          int32_t *id);

#endif
