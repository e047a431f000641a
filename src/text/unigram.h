/* Unigram language model segmentation (Kudo 2018, arXiv:1804.10959): the split of a text into
 * pieces with the highest sum of scores.
 */
#ifndef TEXT_UNIGRAM_H
#define TEXT_UNIGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "text/token_sink.h"
#include "text/vocabulary.h"

/* Starts zeroed; never changed once sorted. */
struct unigram {
    struct vocabulary pieces; /* ids count up from 0 */
    double *scores;           /* by id */
    bool *is_hidden;          /* by id: never found in a text */
    size_t capacity;
    int32_t unknown_id;
    double unknown_score;
};

/* The next piece. Refuses what vocabulary_add refuses, text that is not UTF-8, and scores that are
 * not finite. */
MUST_CHECK bool unigram_add(struct unigram *unigram, const char *piece, size_t length, double score,
                            bool is_hidden, struct error *err);
void unigram_hide(struct unigram *unigram, int32_t id);
/* Makes the model usable, with the piece that stands for unknown characters. Pieces can still be
 * hidden afterwards, before the first use. */
MUST_CHECK bool unigram_sort(struct unigram *unigram, int64_t unknown_id, struct error *err);
void unigram_finish(struct unigram *unigram);

/* `text` is valid UTF-8. Neighbouring unknown characters become one unknown piece. */
MUST_CHECK bool unigram_encode(const struct unigram *unigram, const char *text, size_t size,
                               struct token_sink *sink, struct error *err);

#endif
