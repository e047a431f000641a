#include "text/clip_text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/size.h"

#define NFC ((utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE))
#define DECOMPOSED_MAX 32 /* codepoints from one; Unicode 15 needs 4 */

struct codepoints {
    utf8proc_int32_t *items;
    size_t count;
    size_t capacity;
};

static bool grow(struct codepoints *codepoints, struct error *err)
{
    size_t capacity = codepoints->capacity ? codepoints->capacity * 2 : 256;
    utf8proc_int32_t *items;
    size_t bytes;

    if (codepoints->capacity - codepoints->count >= DECOMPOSED_MAX)
        return true;
    if (!size_mul(&bytes, capacity, sizeof *items) || !(items = realloc(codepoints->items, bytes)))
        return error_set(err, ERROR_NO_MEMORY, "a text of %zu characters", capacity);
    codepoints->items = items;
    codepoints->capacity = capacity;
    return true;
}

static bool decompose(struct codepoints *out, const char *text, size_t size, struct error *err)
{
    for (size_t at = 0, length; at < size; at += length) {
        int32_t codepoint = text_decode(text + at, size - at, &length);
        utf8proc_ssize_t made;
        int boundary = 0; /* only used for grapheme breaks, which we do not ask for */

        if (!grow(out, err))
            return false;
        made = utf8proc_decompose_char(codepoint, out->items + out->count, DECOMPOSED_MAX, NFC,
                                       &boundary);
        if (made < 0 || made > DECOMPOSED_MAX)
            return error_set(err, ERROR_BAD_REQUEST, "U+%04X has no decomposition we can use",
                             (unsigned)codepoint);
        out->count += (size_t)made;
    }
    return true;
}

static unsigned combining_class(utf8proc_int32_t codepoint)
{
    return (unsigned)utf8proc_get_property(codepoint)->combining_class & 0xFF;
}

/* Counting sort by class. `spare` has room for the whole run. */
static void sort_marks(utf8proc_int32_t *run, size_t count, utf8proc_int32_t *spare)
{
    size_t starts[257] = {0};

    for (size_t i = 0; i < count; i++)
        starts[combining_class(run[i]) + 1]++;
    for (size_t class = 1; class < 256; class ++)
        starts[class] += starts[class - 1];
    for (size_t i = 0; i < count; i++)
        spare[starts[combining_class(run[i])]++] = run[i];
    memcpy(run, spare, count * sizeof *run);
}

/* The end of the run of marks that begins at `begin`; *sorted says whether it is in order. */
static size_t find_run_end(const struct codepoints *codepoints, size_t begin, bool *sorted)
{
    unsigned before = 0, class;
    size_t end = begin;

    *sorted = true;
    for (; end < codepoints->count; end++) {
        class = combining_class(codepoints->items[end]);
        if (class == 0)
            break;
        if (class < before)
            *sorted = false;
        before = class;
    }
    return end;
}

/* Unicode's canonical ordering. The library's own is an insertion sort, which takes minutes over a
 * prompt of 100,000 marks in the wrong order. */
static bool order_marks(struct codepoints *codepoints, struct error *err)
{
    utf8proc_int32_t *spare = NULL;
    bool sorted;

    for (size_t begin = 0, end; begin < codepoints->count; begin = end + 1) {
        end = find_run_end(codepoints, begin, &sorted);
        if (sorted)
            continue;
        if (!spare && !(spare = calloc(codepoints->count, sizeof *spare)))
            return error_set(err, ERROR_NO_MEMORY, "a text of %zu characters", codepoints->count);
        sort_marks(codepoints->items + begin, end - begin, spare);
    }
    free(spare);
    return true;
}

static bool compose(struct codepoints *codepoints, struct error *err)
{
    utf8proc_ssize_t count;

    if (codepoints->count == 0)
        return true;
    count = utf8proc_normalize_utf32(codepoints->items, (utf8proc_ssize_t)codepoints->count, NFC);
    if (count < 0)
        return error_set(err, ERROR_BAD_REQUEST, "normalising the text: %s",
                         utf8proc_errmsg(count));
    codepoints->count = (size_t)count;
    return true;
}

/* Lower case character by character. U+0130 is the only one that becomes two by itself. */
static bool append_lower(struct text_buffer *out, utf8proc_int32_t codepoint, struct error *err)
{
    if (codepoint == 0x130)
        return text_buffer_append(out, "i\xCC\x87", 3, err);
    return text_buffer_append_codepoint(out, utf8proc_tolower(codepoint), err);
}

static bool append_clean(struct text_buffer *out, const struct codepoints *codepoints,
                         struct error *err)
{
    bool after_space = false;

    for (size_t i = 0; i < codepoints->count; i++) {
        bool is_space = text_is_space(codepoints->items[i]);

        if (is_space && after_space)
            continue;
        if (!append_lower(out, is_space ? ' ' : codepoints->items[i], err))
            return false;
        after_space = is_space;
    }
    return true;
}

bool clip_text_normalise(struct text_buffer *out, const char *text, size_t size, struct error *err)
{
    struct codepoints codepoints = {0};
    bool ok = decompose(&codepoints, text, size, err) && order_marks(&codepoints, err) &&
              compose(&codepoints, err) && append_clean(out, &codepoints, err);

    free(codepoints.items);
    return ok;
}

enum character_class { SPACE, LETTER, NUMBER, OTHER };

static enum character_class classify(int32_t codepoint)
{
    if (text_is_space(codepoint))
        return SPACE;
    switch (utf8proc_category(codepoint)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return NUMBER;
    default:
        return OTHER;
    }
}

/* The length of the first of `literals` that `text` begins with, or 0. */
static size_t match_literal(const char *const *literals, size_t count, const char *text,
                            size_t size)
{
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(literals[i]);

        if (length <= size && memcmp(text, literals[i], length) == 0)
            return length;
    }
    return 0;
}

/* The first character of `text` and all of its class that follow; a number stays alone. */
static size_t measure_run(const char *text, size_t size)
{
    size_t length, end;
    enum character_class class = classify(text_decode(text, size, &end));

    if (class == NUMBER)
        return end;
    while (end < size && classify(text_decode(text + end, size - end, &length)) == class)
        end += length;
    return end;
}

static void skip_space(struct clip_words *words)
{
    size_t length;

    while (words->at < words->size &&
           text_is_space(text_decode(words->text + words->at, words->size - words->at, &length)))
        words->at += length;
}

/* The reference splits twice: by CLIP's pattern, in which the two special tokens are alternatives,
 * and then by GPT-2's, which cuts such a token ("<|", "endoftext", "|>") where it was not
 * recognised as one. So a literal's end is a boundary, and its inside splits as anything else does.
 */
bool clip_words_next(struct clip_words *words, const char **word, size_t *length)
{
    static const char *const specials[] = {"<|startoftext|>", "<|endoftext|>"};
    static const char *const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    const char *text;
    size_t room, literal;

    skip_space(words);
    if (words->at == words->size)
        return false;
    text = words->text + words->at;
    room = words->size - words->at;
    literal = match_literal(specials, COUNT_OF(specials), text, room);
    if (literal > 0)
        words->literal_end = words->at + literal;
    if (words->at < words->literal_end)
        room = words->literal_end - words->at;

    *word = text;
    *length = match_literal(contractions, COUNT_OF(contractions), text, room);
    if (*length == 0)
        *length = measure_run(text, room);
    words->at += *length;
    return true;
}
