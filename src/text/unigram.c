#include "text/unigram.h"

#include <math.h>
#include <stdlib.h>

#include "base/size.h"
#include "text/text_buffer.h"

/* What an unknown character costs below the worst piece, as in SentencePiece. */
#define UNKNOWN_PENALTY 10.0

static bool grow(struct unigram *unigram, struct error *err)
{
    size_t capacity = unigram->capacity ? unigram->capacity * 2 : 64;
    double *scores;
    bool *is_hidden;

    if (unigram->pieces.count < unigram->capacity)
        return true;
    scores = realloc(unigram->scores, capacity * sizeof *scores);
    if (scores)
        unigram->scores = scores;
    is_hidden = realloc(unigram->is_hidden, capacity * sizeof *is_hidden);
    if (is_hidden)
        unigram->is_hidden = is_hidden;
    if (!scores || !is_hidden)
        return error_set(err, ERROR_NO_MEMORY, "%zu pieces", capacity);
    unigram->capacity = capacity;
    return true;
}

bool unigram_add(struct unigram *unigram, const char *piece, size_t length, double score,
                 bool is_hidden, struct error *err)
{
    size_t id = unigram->pieces.count;

    if (!isfinite(score))
        return error_set(err, ERROR_BAD_FILE, "the score of piece %zu is not finite", id);
    if (!text_is_utf8(piece, length))
        return error_set(err, ERROR_BAD_FILE, "piece %zu is not UTF-8", id);
    if (!grow(unigram, err) || !vocabulary_add(&unigram->pieces, piece, length, (int64_t)id, err))
        return false;
    unigram->scores[id] = score;
    unigram->is_hidden[id] = is_hidden;
    return true;
}

void unigram_hide(struct unigram *unigram, int32_t id)
{
    unigram->is_hidden[id] = true;
}

bool unigram_sort(struct unigram *unigram, int64_t unknown_id, struct error *err)
{
    double lowest = 0;

    if (unknown_id < 0 || unknown_id >= (int64_t)unigram->pieces.count)
        return error_set(err, ERROR_BAD_FILE, "there is no piece for unknown characters");
    unigram->unknown_id = (int32_t)unknown_id;
    unigram_hide(unigram, unigram->unknown_id);
    for (size_t id = 0; id < unigram->pieces.count; id++) {
        if (!unigram->is_hidden[id] && unigram->scores[id] < lowest)
            lowest = unigram->scores[id];
    }
    unigram->unknown_score = lowest - UNKNOWN_PENALTY;
    return vocabulary_sort(&unigram->pieces, err);
}

void unigram_finish(struct unigram *unigram)
{
    vocabulary_finish(&unigram->pieces);
    free(unigram->scores);
    free(unigram->is_hidden);
    *unigram = (struct unigram){0};
}

/* The best way to reach a position of the text. */
struct step {
    double score;  /* of all pieces up to here; in double, sums of the files' scores are exact */
    int32_t start; /* where the last piece begins; -1: not reached yet */
    int32_t id;    /* the last piece */
};

static void offer(struct step *step, double score, size_t start, int32_t id)
{
    if (step->start >= 0 && score <= step->score) /* of equals the first found stays */
        return;
    *step = (struct step){score, (int32_t)start, id};
}

/* Extends the best way to `start` by each piece that begins there. */
static void extend(const struct unigram *unigram, struct step *steps, const char *text, size_t size,
                   size_t start, size_t character)
{
    struct vocabulary_cursor cursor;
    double score = steps[start].score;
    bool is_known = false;
    bool more = vocabulary_enter(&unigram->pieces, &cursor, text[start]);

    while (more) {
        size_t end = start + cursor.depth;
        int32_t id = vocabulary_here(&unigram->pieces, &cursor);

        if (id >= 0 && !unigram->is_hidden[id]) {
            offer(&steps[end], score + unigram->scores[id], start, id);
            is_known = is_known || cursor.depth == character;
        }
        more = end < size && vocabulary_follow(&unigram->pieces, &cursor, text[end]);
    }
    if (!is_known)
        offer(&steps[start + character], score + unigram->unknown_score, start,
              unigram->unknown_id);
}

/* Turns the links around, so that each start knows the end of its piece. Reuses `start` for it. */
static void reverse(struct step *steps, size_t size)
{
    int32_t next = -1;

    for (int32_t at = (int32_t)size; at >= 0;) {
        int32_t before = at == 0 ? -1 : steps[at].start;

        steps[at].start = next;
        next = at;
        at = before;
    }
}

static void collect(const struct unigram *unigram, const struct step *steps,
                    struct token_sink *sink)
{
    int32_t before = -1;

    for (int32_t end = steps[0].start; end >= 0; end = steps[end].start) {
        int32_t id = steps[end].id;

        if (id != unigram->unknown_id || before != unigram->unknown_id)
            token_sink_push(sink, id);
        before = id;
    }
}

bool unigram_encode(const struct unigram *unigram, const char *text, size_t size,
                    struct token_sink *sink, struct error *err)
{
    struct step *steps;

    if (size == 0)
        return true;
    if (size >= INT32_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "a text of %zu bytes is too long", size);
    steps = malloc((size + 1) * sizeof *steps);
    if (!steps)
        return error_set(err, ERROR_NO_MEMORY, "a text of %zu bytes", size);
    for (size_t i = 0; i <= size; i++)
        steps[i] = (struct step){.start = -1};
    for (size_t start = 0, character; start < size; start += character) {
        (void)text_decode(text + start, size - start, &character);
        extend(unigram, steps, text, size, start, character);
    }
    reverse(steps, size);
    collect(unigram, steps, sink);
    free(steps);
    return true;
}
