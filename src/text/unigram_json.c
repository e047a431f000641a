#include "text/unigram_json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static bool read_pieces(struct unigram *unigram, const json_t *vocab, struct error *err)
{
    if (!json_is_array(vocab))
        return error_set(err, ERROR_BAD_FILE, "model.vocab is not a list");
    for (size_t i = 0; i < json_array_size(vocab); i++) {
        const json_t *entry = json_array_get(vocab, i);
        const json_t *piece = json_array_get(entry, 0), *score = json_array_get(entry, 1);

        if (json_array_size(entry) != 2 || !json_is_string(piece) || !json_is_number(score))
            return error_set(err, ERROR_BAD_FILE, "piece %zu is not a text and a score", i);
        if (!unigram_add(unigram, json_string_value(piece), json_string_length(piece),
                         json_number_value(score), false, err))
            return false;
    }
    return true;
}

static bool read_model(struct unigram *unigram, const json_t *model, struct error *err)
{
    const char *type = json_string_value(json_object_get(model, "type"));
    const json_t *unknown = json_object_get(model, "unk_id");

    if (!json_is_object(model) || (type && strcmp(type, "Unigram") != 0))
        return error_set(err, ERROR_BAD_FILE, "model is not a unigram model");
    if (!read_pieces(unigram, json_object_get(model, "vocab"), err))
        return false;
    return unigram_sort(unigram, json_is_integer(unknown) ? json_integer_value(unknown) : -1, err);
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* *out is allocated. False with *out NULL when the text is no Base64, true with NULL when memory is
 * short. */
static bool decode_base64(unsigned char **out, size_t *out_size, const char *text, size_t size)
{
    unsigned char *bytes;
    uint32_t bits = 0;
    size_t used = 0;

    *out = NULL;
    for (unsigned padding = 0; padding < 2 && size > 0 && text[size - 1] == '='; padding++)
        size--;
    if (size % 4 == 1 || !(bytes = malloc(size / 4 * 3 + 3)))
        return size % 4 != 1;
    for (size_t i = 0; i < size; i++) {
        int digit = base64_digit(text[i]);

        if (digit < 0) {
            free(bytes);
            return false;
        }
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4 != 0) /* the first digit of four completes no byte */
            bytes[used++] = (unsigned char)(bits >> (6 - 2 * (i % 4)));
    }
    *out = bytes;
    *out_size = used;
    return true;
}

/* The charsmap's text in the normalizer, which may be a sequence of several; NULL when there is
 * none. */
static const json_t *find_charsmap(const json_t *normalizer)
{
    const json_t *parts = json_object_get(normalizer, "normalizers");
    const json_t *found = json_object_get(normalizer, "precompiled_charsmap");

    for (size_t i = 0; !found && i < json_array_size(parts); i++)
        found = json_object_get(json_array_get(parts, i), "precompiled_charsmap");
    return json_is_null(found) ? NULL : found;
}

static bool read_charsmap(struct charsmap **charsmap, const json_t *normalizer, struct error *err)
{
    const json_t *text = find_charsmap(normalizer);
    unsigned char *bytes;
    size_t size;
    bool ok;

    if (!text || (json_is_string(text) && json_string_length(text) == 0))
        return true;
    if (!json_is_string(text) ||
        !decode_base64(&bytes, &size, json_string_value(text), json_string_length(text)))
        return error_set(err, ERROR_BAD_FILE, "precompiled_charsmap is not Base64");
    if (!bytes)
        return error_set(err, ERROR_NO_MEMORY, "precompiled_charsmap");
    ok = charsmap_create(charsmap, bytes, size, err);
    free(bytes);
    return ok;
}

bool unigram_json_read(struct unigram *unigram, struct charsmap **charsmap, const json_t *root,
                       struct error *err)
{
    *charsmap = NULL;
    return read_model(unigram, json_object_get(root, "model"), err) &&
           read_charsmap(charsmap, json_object_get(root, "normalizer"), err);
}
