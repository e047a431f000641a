/* Byte-pair encoding of one word (Sennrich et al. 2016, arXiv:1508.07909), with CLIP's symbols: one
 * for each byte, and a second one for each byte that ends a word.
 */
#ifndef TEXT_BYTE_PAIR_H
#define TEXT_BYTE_PAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "text/token_sink.h"
#include "text/vocabulary.h"

struct byte_pair_merge {
    int32_t left, right; /* ids */
    int32_t merged;      /* id */
    int32_t rank;        /* lower goes first */
};

/* Starts zeroed; never changed once finished, so that any number of threads may encode. */
struct byte_pair_table {
    struct byte_pair_merge *merges; /* sorted by left, then right, once finished */
    size_t count;
    size_t capacity;
    int32_t byte_ids[256];      /* -1: the vocabulary lacks it */
    int32_t last_byte_ids[256]; /* of a byte that ends a word */
    int32_t unknown_id;
};

/* Takes the ids of all byte symbols from the vocabulary. Bytes without one become `unknown_id`. */
void byte_pair_set_symbols(struct byte_pair_table *table, const struct vocabulary *vocabulary,
                           int32_t unknown_id);
/* The next merge, by its two symbols. Refuses it when they, or what they make together, are not in
 * the vocabulary. */
MUST_CHECK bool byte_pair_add(struct byte_pair_table *table, const struct vocabulary *vocabulary,
                              const char *left, size_t left_length, const char *right,
                              size_t right_length, struct error *err);
/* Makes the table usable. Refuses a pair that was added twice. */
MUST_CHECK bool byte_pair_sort(struct byte_pair_table *table, struct error *err);
void byte_pair_finish(struct byte_pair_table *table);

/* Working memory that words reuse. Starts zeroed. */
struct byte_pair_scratch {
    struct byte_pair_symbol *symbols;
    struct byte_pair_candidate *heap;
    size_t capacity; /* bytes of a word that fit */
};

void byte_pair_scratch_finish(struct byte_pair_scratch *scratch);

/* Splits the word into the ids that it is made of. Time grows as n log n. */
MUST_CHECK bool byte_pair_encode(const struct byte_pair_table *table,
                                 struct byte_pair_scratch *scratch, const char *word, size_t length,
                                 struct token_sink *sink, struct error *err);

#endif
