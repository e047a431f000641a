#include "text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

/* The symbols' bytes together; keeps offsets far inside 32 bits. */
#define TEXT_BYTES_LIMIT (64u << 20)

static bool grow_entries(struct vocabulary *vocabulary, struct error *err)
{
    size_t capacity = vocabulary->capacity ? vocabulary->capacity * 2 : 64;
    struct vocabulary_entry *entries;

    if (vocabulary->count < vocabulary->capacity)
        return true;
    entries = realloc(vocabulary->entries, capacity * sizeof *entries);
    if (!entries)
        return error_set(err, ERROR_NO_MEMORY, "a vocabulary of %zu entries", capacity);
    vocabulary->entries = entries;
    vocabulary->capacity = capacity;
    return true;
}

static bool grow_text(struct vocabulary *vocabulary, size_t length, struct error *err)
{
    size_t capacity = vocabulary->text_capacity ? vocabulary->text_capacity : 1024;
    char *text;

    if (vocabulary->text_bytes + length > TEXT_BYTES_LIMIT)
        return error_set(err, ERROR_BAD_FILE, "the symbols have more than %u bytes together",
                         TEXT_BYTES_LIMIT);
    while (capacity < vocabulary->text_bytes + length)
        capacity *= 2;
    if (capacity == vocabulary->text_capacity)
        return true;
    text = realloc(vocabulary->text, capacity);
    if (!text)
        return error_set(err, ERROR_NO_MEMORY, "a vocabulary of %zu bytes", capacity);
    vocabulary->text = text;
    vocabulary->text_capacity = capacity;
    return true;
}

bool vocabulary_add(struct vocabulary *vocabulary, const char *symbol, size_t length, int64_t id,
                    struct error *err)
{
    if (id < 0 || id >= VOCABULARY_ENTRIES_MAX)
        return error_set(err, ERROR_BAD_FILE, "an id is %lld, outside 0 to %d", (long long)id,
                         VOCABULARY_ENTRIES_MAX - 1);
    if (length == 0 || length > VOCABULARY_SYMBOL_BYTES_MAX)
        return error_set(err, ERROR_BAD_FILE, "the symbol of id %lld has %zu bytes, not 1 to %d",
                         (long long)id, length, VOCABULARY_SYMBOL_BYTES_MAX);
    if (vocabulary->count == VOCABULARY_ENTRIES_MAX)
        return error_set(err, ERROR_BAD_FILE, "the vocabulary has more than %d entries",
                         VOCABULARY_ENTRIES_MAX);
    if (!grow_entries(vocabulary, err) || !grow_text(vocabulary, length, err))
        return false;
    memcpy(vocabulary->text + vocabulary->text_bytes, symbol, length);
    vocabulary->entries[vocabulary->count++] = (struct vocabulary_entry){
        .offset = (uint32_t)vocabulary->text_bytes, .length = (uint32_t)length, .id = (int32_t)id};
    vocabulary->text_bytes += length;
    if (id >= vocabulary->size)
        vocabulary->size = (int32_t)id + 1;
    return true;
}

static int compare_symbols(const char *a, size_t a_length, const char *b, size_t b_length)
{
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);

    if (order != 0)
        return order;
    return (a_length > b_length) - (a_length < b_length);
}

static int compare_entries(const void *a, const void *b, void *text)
{
    const struct vocabulary_entry *left = a, *right = b;
    const char *base = text;

    return compare_symbols(base + left->offset, left->length, base + right->offset, right->length);
}

static unsigned char byte_at(const struct vocabulary *vocabulary, size_t entry, uint32_t depth)
{
    return (unsigned char)vocabulary->text[vocabulary->entries[entry].offset + depth];
}

static void index_first_bytes(struct vocabulary *vocabulary)
{
    size_t entry = 0;

    for (size_t byte = 0; byte < 256; byte++) {
        vocabulary->first[byte] = entry;
        while (entry < vocabulary->count && byte_at(vocabulary, entry, 0) == byte)
            entry++;
    }
    vocabulary->first[256] = entry;
}

static bool refuse_equal_symbols(const struct vocabulary *vocabulary, struct error *err)
{
    for (size_t i = 1; i < vocabulary->count; i++) {
        const struct vocabulary_entry *before = &vocabulary->entries[i - 1];
        const struct vocabulary_entry *entry = &vocabulary->entries[i];

        if (compare_entries(before, entry, vocabulary->text) == 0)
            return error_set(err, ERROR_BAD_FILE, "ids %d and %d are the same symbol",
                             (int)before->id, (int)entry->id);
    }
    return true;
}

static bool refuse_equal_ids(const struct vocabulary *vocabulary, struct error *err)
{
    bool *seen = calloc((size_t)vocabulary->size + 1, sizeof *seen);
    bool ok = true;

    if (!seen)
        return error_set(err, ERROR_NO_MEMORY, "a vocabulary of %d ids", (int)vocabulary->size);
    for (size_t i = 0; ok && i < vocabulary->count; i++) {
        int32_t id = vocabulary->entries[i].id;

        if (seen[id])
            ok = error_set(err, ERROR_BAD_FILE, "two symbols have the id %d", (int)id);
        seen[id] = true;
    }
    free(seen);
    return ok;
}

bool vocabulary_sort(struct vocabulary *vocabulary, struct error *err)
{
    if (vocabulary->count > 0)
        qsort_r(vocabulary->entries, vocabulary->count, sizeof *vocabulary->entries,
                compare_entries, vocabulary->text);
    index_first_bytes(vocabulary);
    return refuse_equal_symbols(vocabulary, err) && refuse_equal_ids(vocabulary, err);
}

void vocabulary_finish(struct vocabulary *vocabulary)
{
    free(vocabulary->entries);
    free(vocabulary->text);
    *vocabulary = (struct vocabulary){0};
}

int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *symbol, size_t length)
{
    size_t begin = 0, end = vocabulary->count;

    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        const struct vocabulary_entry *entry = &vocabulary->entries[middle];
        int order =
            compare_symbols(vocabulary->text + entry->offset, entry->length, symbol, length);

        if (order == 0)
            return entry->id;
        if (order < 0)
            begin = middle + 1;
        else
            end = middle;
    }
    return -1;
}

bool vocabulary_enter(const struct vocabulary *vocabulary, struct vocabulary_cursor *cursor,
                      char byte)
{
    cursor->begin = vocabulary->first[(unsigned char)byte];
    cursor->end = vocabulary->first[(unsigned char)byte + 1];
    cursor->depth = 1;
    return cursor->begin < cursor->end;
}

/* The first entry of [begin, end) whose byte at `depth` is not below `bound`. */
static size_t lower_bound(const struct vocabulary *vocabulary, size_t begin, size_t end,
                          uint32_t depth, unsigned bound)
{
    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;

        if (byte_at(vocabulary, middle, depth) < bound)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

bool vocabulary_follow(const struct vocabulary *vocabulary, struct vocabulary_cursor *cursor,
                       char byte)
{
    unsigned wanted = (unsigned char)byte;
    size_t begin = cursor->begin, end = cursor->end;
    uint32_t depth = cursor->depth;

    if (vocabulary->entries[begin].length == depth) /* the symbol that ends here sorts first */
        begin++;
    if (begin == end)
        return false;
    /* Deep in the array the range is often down to what is wanted, and needs no search. */
    if (byte_at(vocabulary, begin, depth) != wanted)
        begin = lower_bound(vocabulary, begin, end, depth, wanted);
    if (begin < end && byte_at(vocabulary, end - 1, depth) != wanted)
        end = lower_bound(vocabulary, begin, end, depth, wanted + 1);
    *cursor = (struct vocabulary_cursor){begin, end, depth + 1};
    return begin < end;
}

int32_t vocabulary_here(const struct vocabulary *vocabulary, const struct vocabulary_cursor *cursor)
{
    const struct vocabulary_entry *entry = &vocabulary->entries[cursor->begin];

    return entry->length == cursor->depth ? entry->id : -1;
}

size_t vocabulary_longest(const struct vocabulary *vocabulary, const char *text, size_t size,
                          int32_t *id)
{
    struct vocabulary_cursor cursor;
    size_t longest = 0;
    bool more = size > 0 && vocabulary_enter(vocabulary, &cursor, text[0]);

    while (more) {
        int32_t here = vocabulary_here(vocabulary, &cursor);

        if (here >= 0) {
            longest = cursor.depth;
            *id = here;
        }
        more = cursor.depth < size && vocabulary_follow(vocabulary, &cursor, text[cursor.depth]);
    }
    return longest;
}
