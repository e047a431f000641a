#include "text/charsmap.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#define BYTES_MAX (4u << 20) /* T5's table has 237,539 */
#define REPLACEMENT_BYTES_MAX 512
#define LONG_CLUSTER_BYTES 6

struct charsmap {
    uint32_t *units;
    uint32_t unit_count;
    char *strings; /* replacements, each ends with a NUL */
    size_t string_bytes;
};

/* A unit is a node: the label of the edge that leads to it, whether a key ends there, and where its
 * children are. A node's child over byte b is at (node ^ offset ^ b), its value at (node ^ offset).
 */
static bool has_value(uint32_t unit)
{
    return (unit >> 8) & 1;
}

static uint32_t label_of(uint32_t unit)
{
    return unit & 0x800000FFu; /* the top bit marks values, which no byte leads to */
}

static uint32_t offset_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & 0x200) >> 6);
}

static uint32_t value_of(uint32_t unit)
{
    return unit & 0x7FFFFFFFu;
}

/* False when the node has no child over this byte. No key has a NUL: what lies there is a value. */
static bool follow(const struct charsmap *map, uint32_t *node, unsigned char byte)
{
    uint32_t child = *node ^ offset_of(map->units[*node]) ^ byte;

    if (byte == 0 || child >= map->unit_count || label_of(map->units[child]) != byte)
        return false;
    *node = child;
    return true;
}

static uint32_t read_u32(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

static bool copy_table(struct charsmap *map, const unsigned char *bytes, size_t size,
                       struct error *err)
{
    size_t trie_bytes = size >= 4 ? read_u32(bytes) : 0;

    if (size > BYTES_MAX)
        return error_set(err, ERROR_BAD_FILE, "it has %zu bytes, more than %u", size, BYTES_MAX);
    if (size < 4 || trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes > size - 4)
        return error_set(err, ERROR_BAD_FILE, "its trie of %zu bytes does not fit its %zu",
                         trie_bytes, size);
    map->unit_count = (uint32_t)(trie_bytes / 4);
    map->string_bytes = size - 4 - trie_bytes;
    map->units = malloc(trie_bytes);
    map->strings = malloc(map->string_bytes + 1);
    if (!map->units || !map->strings)
        return error_set(err, ERROR_NO_MEMORY, "%zu bytes", size);
    for (uint32_t i = 0; i < map->unit_count; i++)
        map->units[i] = read_u32(bytes + 4 + 4 * (size_t)i);
    memcpy(map->strings, bytes + 4 + trie_bytes, map->string_bytes);
    return true;
}

static bool check_value(const struct charsmap *map, uint32_t node, struct error *err)
{
    uint32_t leaf = node ^ offset_of(map->units[node]);
    size_t room, length;
    uint32_t start;

    if (leaf >= map->unit_count || !(label_of(map->units[leaf]) >> 31))
        return error_set(err, ERROR_BAD_FILE, "trie unit %u leads to no value", node);
    start = value_of(map->units[leaf]);
    if (start >= map->string_bytes)
        return error_set(err, ERROR_BAD_FILE, "trie unit %u leads past the strings", node);
    room = map->string_bytes - start;
    length = strnlen(map->strings + start, room);
    if (length == room || length > REPLACEMENT_BYTES_MAX ||
        !text_is_utf8(map->strings + start, length))
        return error_set(err, ERROR_BAD_FILE, "the string at %u is unusable", start);
    return true;
}

struct trie_walk {
    uint32_t *queue; /* nodes found */
    uint32_t count;
    bool *seen; /* by node: equal ends of keys share their nodes */
};

static bool visit_children(const struct charsmap *map, uint32_t parent, struct trie_walk *walk,
                           struct error *err)
{
    uint32_t base = parent ^ offset_of(map->units[parent]);

    if (base >= map->unit_count)
        return error_set(err, ERROR_BAD_FILE, "trie unit %u leads outside the trie", parent);
    for (unsigned byte = 1; byte < 256; byte++) {
        uint32_t node = parent;

        if (!follow(map, &node, (unsigned char)byte) || walk->seen[node])
            continue;
        walk->seen[node] = true;
        walk->queue[walk->count++] = node;
    }
    return true;
}

static bool visit_all(const struct charsmap *map, struct trie_walk *walk, struct error *err)
{
    walk->queue[walk->count++] = 0;
    walk->seen[0] = true;
    for (uint32_t i = 0; i < walk->count; i++) {
        uint32_t node = walk->queue[i];

        if (!visit_children(map, node, walk, err))
            return false;
        if (i > 0 && has_value(map->units[node]) && !check_value(map, node, err))
            return false;
    }
    return true;
}

static bool check_trie(const struct charsmap *map, struct error *err)
{
    struct trie_walk walk = {.queue = calloc(map->unit_count, sizeof *walk.queue),
                             .seen = calloc(map->unit_count, sizeof *walk.seen)};
    bool ok;

    if (walk.queue && walk.seen)
        ok = visit_all(map, &walk, err);
    else
        ok = error_set(err, ERROR_NO_MEMORY, "a trie of %u units", map->unit_count);
    free(walk.queue);
    free(walk.seen);
    return ok;
}

bool charsmap_create(struct charsmap **out, const unsigned char *bytes, size_t size,
                     struct error *err)
{
    struct charsmap *map = calloc(1, sizeof *map);

    if (!map)
        return error_set(err, ERROR_NO_MEMORY, "normalisation table");
    if (!copy_table(map, bytes, size, err) || !check_trie(map, err))
        goto fail;
    *out = map;
    return true;

fail:
    charsmap_destroy(map);
    return error_in(err, "the normalisation table");
}

void charsmap_destroy(struct charsmap *map)
{
    if (!map)
        return;
    free(map->units);
    free(map->strings);
    free(map);
}

/* What replaces the shortest key that `text` begins with; NULL when there is none. */
static const char *find_replacement(const struct charsmap *map, const char *text, size_t size)
{
    uint32_t node = 0;

    for (size_t i = 0; i < size && follow(map, &node, (unsigned char)text[i]); i++) {
        if (has_value(map->units[node])) {
            uint32_t leaf = node ^ offset_of(map->units[node]);

            return map->strings + value_of(map->units[leaf]);
        }
    }
    return NULL;
}

/* The length of the grapheme cluster (what a reader sees as one character) at the front of `text`,
 * which is not empty. */
static size_t measure_cluster(const char *text, size_t size)
{
    utf8proc_int32_t state = 0;
    size_t length, end;
    int32_t before = text_decode(text, size, &end);

    while (end < size) {
        int32_t codepoint = text_decode(text + end, size - end, &length);

        if (utf8proc_grapheme_break_stateful(before, codepoint, &state))
            break;
        before = codepoint;
        end += length;
    }
    return end;
}

static bool append_characters(struct text_buffer *out, const struct charsmap *map, const char *text,
                              size_t size, struct error *err)
{
    for (size_t at = 0, length; at < size; at += length) {
        const char *replacement;

        (void)text_decode(text + at, size - at, &length);
        replacement = find_replacement(map, text + at, length);
        if (!(replacement ? text_buffer_append(out, replacement, strlen(replacement), err)
                          : text_buffer_append(out, text + at, length, err)))
            return false;
    }
    return true;
}

/* The reference for T5's ids is the tokenizers library (spm_precompiled), which does not replace
 * the longest key at each position, as SentencePiece does. It looks up whole clusters of less than
 * 6 bytes, takes the first key that one begins with, and else looks up each character alone. They
 * differ for letters with several combining marks. */
bool charsmap_apply(struct text_buffer *out, const struct charsmap *map, const char *text,
                    size_t size, struct error *err)
{
    for (size_t at = 0, length; at < size; at += length) {
        const char *replacement = NULL;

        length = measure_cluster(text + at, size - at);
        if (length < LONG_CLUSTER_BYTES)
            replacement = find_replacement(map, text + at, length);
        if (!(replacement ? text_buffer_append(out, replacement, strlen(replacement), err)
                          : append_characters(out, map, text + at, length, err)))
            return false;
    }
    return true;
}
