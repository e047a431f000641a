#include "text/byte_pair.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/size.h"

#define WORD_END "</w>"

/* Printable bytes stand for themselves; the others are moved, in order, to U+0100 and up, so that
 * a symbol is printable text. */
static bool stands_for_itself(unsigned byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

static size_t encode_byte_symbol(char *out, unsigned byte, unsigned *moved)
{
    utf8proc_int32_t codepoint =
        (utf8proc_int32_t)(stands_for_itself(byte) ? byte : 0x100 + (*moved)++);

    return (size_t)utf8proc_encode_char(codepoint, (unsigned char *)out);
}

void byte_pair_set_symbols(struct byte_pair_table *table, const struct vocabulary *vocabulary,
                           int32_t unknown_id)
{
    char symbol[4 + sizeof WORD_END];
    unsigned moved = 0;

    for (unsigned byte = 0; byte < 256; byte++) {
        size_t length = encode_byte_symbol(symbol, byte, &moved);

        table->byte_ids[byte] = vocabulary_find(vocabulary, symbol, length);
        memcpy(symbol + length, WORD_END, sizeof WORD_END);
        table->last_byte_ids[byte] = vocabulary_find(vocabulary, symbol, length + strlen(WORD_END));
    }
    table->unknown_id = unknown_id;
}

static bool grow(struct byte_pair_table *table, struct error *err)
{
    size_t capacity = table->capacity ? table->capacity * 2 : 64;
    struct byte_pair_merge *merges;

    if (table->count == VOCABULARY_ENTRIES_MAX)
        return error_set(err, ERROR_BAD_FILE, "there are more than %d merges",
                         VOCABULARY_ENTRIES_MAX);
    if (table->count < table->capacity)
        return true;
    merges = realloc(table->merges, capacity * sizeof *merges);
    if (!merges)
        return error_set(err, ERROR_NO_MEMORY, "a table of %zu merges", capacity);
    table->merges = merges;
    table->capacity = capacity;
    return true;
}

static int32_t find_joined(const struct vocabulary *vocabulary, const char *left,
                           size_t left_length, const char *right, size_t right_length)
{
    char joined[VOCABULARY_SYMBOL_BYTES_MAX];

    if (left_length > sizeof joined || right_length > sizeof joined - left_length)
        return -1;
    memcpy(joined, left, left_length);
    memcpy(joined + left_length, right, right_length);
    return vocabulary_find(vocabulary, joined, left_length + right_length);
}

bool byte_pair_add(struct byte_pair_table *table, const struct vocabulary *vocabulary,
                   const char *left, size_t left_length, const char *right, size_t right_length,
                   struct error *err)
{
    struct byte_pair_merge merge = {
        .left = vocabulary_find(vocabulary, left, left_length),
        .right = vocabulary_find(vocabulary, right, right_length),
        .merged = find_joined(vocabulary, left, left_length, right, right_length),
        .rank = (int32_t)table->count,
    };

    if (merge.left < 0 || merge.right < 0)
        return error_set(err, ERROR_BAD_FILE, "merge %zu names a symbol outside the vocabulary",
                         table->count + 1);
    if (merge.merged < 0)
        return error_set(err, ERROR_BAD_FILE, "merge %zu makes a symbol outside the vocabulary",
                         table->count + 1);
    if (!grow(table, err))
        return false;
    table->merges[table->count++] = merge;
    return true;
}

static int compare_pairs(int32_t left, int32_t right, const struct byte_pair_merge *merge)
{
    if (left != merge->left)
        return left < merge->left ? -1 : 1;
    return (right > merge->right) - (right < merge->right);
}

static int compare_merges(const void *a, const void *b)
{
    const struct byte_pair_merge *merge = a;

    return compare_pairs(merge->left, merge->right, b);
}

bool byte_pair_sort(struct byte_pair_table *table, struct error *err)
{
    if (table->count > 0)
        qsort(table->merges, table->count, sizeof *table->merges, compare_merges);
    for (size_t i = 1; i < table->count; i++) {
        const struct byte_pair_merge *before = &table->merges[i - 1];
        const struct byte_pair_merge *merge = &table->merges[i];

        if (compare_merges(before, merge) == 0)
            return error_set(err, ERROR_BAD_FILE, "merges %d and %d are the same pair",
                             (int)before->rank + 1, (int)merge->rank + 1);
    }
    return true;
}

void byte_pair_finish(struct byte_pair_table *table)
{
    free(table->merges);
    *table = (struct byte_pair_table){0};
}

static const struct byte_pair_merge *find_merge(const struct byte_pair_table *table, int32_t left,
                                                int32_t right)
{
    size_t begin = 0, end = table->count;

    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        int order = compare_pairs(left, right, &table->merges[middle]);

        if (order == 0)
            return &table->merges[middle];
        if (order > 0)
            begin = middle + 1;
        else
            end = middle;
    }
    return NULL;
}

#define NO_SYMBOL (-1)     /* the vocabulary lacks it: merges with nothing */
#define MERGED_SYMBOL (-2) /* is part of the symbol before it now */

/* The word as a linked list in an array. */
struct byte_pair_symbol {
    int32_t id;
    int32_t previous, next; /* -1 at the ends */
};

/* A merge that was possible at `position` when it was found; the symbols may have changed since. */
struct byte_pair_candidate {
    const struct byte_pair_merge *merge;
    int32_t position;
};

struct heap {
    struct byte_pair_candidate *items;
    size_t count;
};

static bool goes_before(const struct byte_pair_candidate *a, const struct byte_pair_candidate *b)
{
    if (a->merge->rank != b->merge->rank)
        return a->merge->rank < b->merge->rank;
    return a->position < b->position;
}

static void heap_push(struct heap *heap, struct byte_pair_candidate candidate)
{
    size_t at = heap->count++;

    while (at > 0 && goes_before(&candidate, &heap->items[(at - 1) / 2])) {
        heap->items[at] = heap->items[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap->items[at] = candidate;
}

static struct byte_pair_candidate heap_pop(struct heap *heap)
{
    struct byte_pair_candidate top = heap->items[0];
    struct byte_pair_candidate last = heap->items[--heap->count];
    size_t at = 0, child;

    while ((child = 2 * at + 1) < heap->count) {
        if (child + 1 < heap->count && goes_before(&heap->items[child + 1], &heap->items[child]))
            child++;
        if (!goes_before(&heap->items[child], &last))
            break;
        heap->items[at] = heap->items[child];
        at = child;
    }
    heap->items[at] = last;
    return top;
}

void byte_pair_scratch_finish(struct byte_pair_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (struct byte_pair_scratch){0};
}

static bool reserve(struct byte_pair_scratch *scratch, size_t length, struct error *err)
{
    size_t capacity = length < 64 ? 64 : length;
    size_t candidates, symbol_bytes, heap_bytes;

    if (length <= scratch->capacity)
        return true;
    byte_pair_scratch_finish(scratch);
    /* n - 1 pairs at the start, and each of at most n - 1 merges makes two new ones. */
    if (length > INT32_MAX || !size_mul(&candidates, capacity, 3) ||
        !size_mul(&symbol_bytes, capacity, sizeof *scratch->symbols) ||
        !size_mul(&heap_bytes, candidates, sizeof *scratch->heap))
        return error_set(err, ERROR_BAD_REQUEST, "a word of %zu bytes is too long", length);
    scratch->symbols = malloc(symbol_bytes);
    scratch->heap = malloc(heap_bytes);
    if (!scratch->symbols || !scratch->heap)
        return error_set(err, ERROR_NO_MEMORY, "a word of %zu bytes", length);
    scratch->capacity = capacity;
    return true;
}

static void split_into_bytes(const struct byte_pair_table *table, struct byte_pair_symbol *symbols,
                             const char *word, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)word[i];
        bool is_last = i + 1 == length;

        symbols[i] = (struct byte_pair_symbol){
            .id = is_last ? table->last_byte_ids[byte] : table->byte_ids[byte],
            .previous = (int32_t)i - 1,
            .next = is_last ? -1 : (int32_t)i + 1,
        };
    }
}

static void propose(const struct byte_pair_table *table, const struct byte_pair_symbol *symbols,
                    struct heap *heap, int32_t position)
{
    const struct byte_pair_merge *merge;

    if (position < 0 || symbols[position].next < 0)
        return;
    merge = find_merge(table, symbols[position].id, symbols[symbols[position].next].id);
    if (merge)
        heap_push(heap, (struct byte_pair_candidate){merge, position});
}

static bool still_possible(const struct byte_pair_symbol *symbols,
                           const struct byte_pair_candidate *candidate)
{
    const struct byte_pair_symbol *symbol = &symbols[candidate->position];

    return symbol->id == candidate->merge->left && symbol->next >= 0 &&
           symbols[symbol->next].id == candidate->merge->right;
}

static void merge_with_next(struct byte_pair_symbol *symbols, int32_t position, int32_t merged)
{
    struct byte_pair_symbol *symbol = &symbols[position];
    struct byte_pair_symbol *next = &symbols[symbol->next];

    symbol->id = merged;
    symbol->next = next->next;
    next->id = MERGED_SYMBOL;
    if (symbol->next >= 0)
        symbols[symbol->next].previous = position;
}

bool byte_pair_encode(const struct byte_pair_table *table, struct byte_pair_scratch *scratch,
                      const char *word, size_t length, struct token_sink *sink, struct error *err)
{
    struct byte_pair_symbol *symbols;
    struct heap heap = {0};

    if (length == 0)
        return true;
    if (!reserve(scratch, length, err))
        return false;
    symbols = scratch->symbols;
    heap.items = scratch->heap;

    split_into_bytes(table, symbols, word, length);
    for (size_t i = 0; i < length; i++)
        propose(table, symbols, &heap, (int32_t)i);
    while (heap.count > 0) {
        struct byte_pair_candidate best = heap_pop(&heap);

        if (!still_possible(symbols, &best))
            continue;
        merge_with_next(symbols, best.position, best.merge->merged);
        propose(table, symbols, &heap, symbols[best.position].previous);
        propose(table, symbols, &heap, best.position);
    }
    for (int32_t i = 0; i >= 0; i = symbols[i].next)
        token_sink_push(sink, symbols[i].id == NO_SYMBOL ? table->unknown_id : symbols[i].id);
    return true;
}
