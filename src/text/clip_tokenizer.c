#include "text/clip_tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "text/added_tokens.h"
#include "text/byte_pair.h"
#include "text/clip_text.h"
#include "text/tokenizer_files.h"
#include "text/vocabulary.h"

#define WORD_END "</w>"

struct clip_tokenizer {
    struct vocabulary vocabulary;
    struct byte_pair_table pairs;
    struct added_tokens added;
    int32_t bos, eos, pad;
    int32_t size; /* largest id + 1, added tokens included */
};

static bool read_vocabulary(struct vocabulary *vocabulary, const json_t *object, struct error *err)
{
    if (!json_is_object(object))
        return error_set(err, ERROR_BAD_FILE, "the vocabulary is not an object");
    for (void *at = json_object_iter((json_t *)object); at;
         at = json_object_iter_next((json_t *)object, at)) {
        const json_t *id = json_object_iter_value(at);

        if (!json_is_integer(id))
            return error_set(err, ERROR_BAD_FILE,
                             "a symbol of the vocabulary has no whole number as id");
        if (!vocabulary_add(vocabulary, json_object_iter_key(at), json_object_iter_key_len(at),
                            json_integer_value(id), err))
            return false;
    }
    return vocabulary_sort(vocabulary, err);
}

/* "left right" */
static bool add_merge_line(struct clip_tokenizer *tokenizer, const char *line, size_t length,
                           struct error *err)
{
    const char *space = memchr(line, ' ', length);
    size_t left = space ? (size_t)(space - line) : 0;

    if (!space || left == 0 || left + 1 == length || memchr(space + 1, ' ', length - left - 1))
        return error_set(err, ERROR_BAD_FILE, "merge %zu is not two symbols",
                         tokenizer->pairs.count + 1);
    return byte_pair_add(&tokenizer->pairs, &tokenizer->vocabulary, line, left, space + 1,
                         length - left - 1, err);
}

/* merges.txt: perhaps a line "#version: ...", then a merge on each line. */
static bool read_merges_text(struct clip_tokenizer *tokenizer, const char *text, size_t size,
                             struct error *err)
{
    const char *at = text, *end = text + size;

    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *next = newline ? newline + 1 : end;
        size_t length = (size_t)((newline ? newline : end) - at);

        if (length > 0 && at[length - 1] == '\r')
            length--;
        if (at == text && length >= 8 && memcmp(at, "#version", 8) == 0)
            length = 0;
        if (length > 0 && !add_merge_line(tokenizer, at, length, err))
            return false;
        at = next;
    }
    return true;
}

/* tokenizer.json writes a merge as "left right" or as ["left", "right"]. */
static bool add_merge_json(struct clip_tokenizer *tokenizer, const json_t *merge, struct error *err)
{
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);

    if (json_is_string(merge))
        return add_merge_line(tokenizer, json_string_value(merge), json_string_length(merge), err);
    if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right) ||
        json_string_length(left) == 0 || json_string_length(right) == 0)
        return error_set(err, ERROR_BAD_FILE, "merge %zu is not two symbols",
                         tokenizer->pairs.count + 1);
    return byte_pair_add(&tokenizer->pairs, &tokenizer->vocabulary, json_string_value(left),
                         json_string_length(left), json_string_value(right),
                         json_string_length(right), err);
}

static bool read_merges_json(struct clip_tokenizer *tokenizer, const json_t *merges,
                             struct error *err)
{
    if (!json_is_array(merges))
        return error_set(err, ERROR_BAD_FILE, "model.merges is not a list");
    for (size_t i = 0; i < json_array_size(merges); i++) {
        if (!add_merge_json(tokenizer, json_array_get(merges, i), err))
            return false;
    }
    return true;
}

static bool check_model(const json_t *model, struct error *err)
{
    const char *type = json_string_value(json_object_get(model, "type"));
    const char *word_end = json_string_value(json_object_get(model, "end_of_word_suffix"));

    if (!json_is_object(model) || (type && strcmp(type, "BPE") != 0))
        return error_set(err, ERROR_BAD_FILE, "model is not a byte-pair encoding");
    if (word_end && strcmp(word_end, WORD_END) != 0)
        return error_set(err, ERROR_BAD_FILE, "words do not end in " WORD_END ", as CLIP's do");
    return true;
}

static bool read_model_json(struct clip_tokenizer *tokenizer, const json_t *root, struct error *err)
{
    const json_t *model = json_object_get(root, "model");

    return check_model(model, err) &&
           read_vocabulary(&tokenizer->vocabulary, json_object_get(model, "vocab"), err) &&
           read_merges_json(tokenizer, json_object_get(model, "merges"), err) &&
           byte_pair_sort(&tokenizer->pairs, err);
}

static bool read_vocabulary_file(struct clip_tokenizer *tokenizer,
                                 const struct tokenizer_file *file, struct error *err)
{
    json_t *root;
    bool ok;

    if (!tokenizer_file_json(&root, file, err))
        return false;
    ok = read_vocabulary(&tokenizer->vocabulary, root, err) || error_in(err, "'%s'", file->path);
    json_decref(root);
    return ok;
}

static bool read_merges_file(struct clip_tokenizer *tokenizer, const struct tokenizer_file *file,
                             struct error *err)
{
    if (file->size == 0)
        return error_set(err, ERROR_BAD_FILE, "'%s' is empty", file->path);
    if (!tokenizer_file_check_start(file, err))
        return false;
    return (read_merges_text(tokenizer, (const char *)file->bytes, file->size, err) &&
            byte_pair_sort(&tokenizer->pairs, err)) ||
           error_in(err, "'%s'", file->path);
}

static bool read_model_files(struct clip_tokenizer *tokenizer, const struct tokenizer_files *files,
                             struct error *err)
{
    const struct tokenizer_file *vocab = &files->file[TOKENIZER_VOCAB];
    const struct tokenizer_file *merges = &files->file[TOKENIZER_MERGES];

    if (!vocab->bytes || !merges->bytes)
        return error_set(err, ERROR_IO, "'%s' is missing, and so is '%s'",
                         vocab->bytes ? merges->path : vocab->path,
                         files->file[TOKENIZER_JSON].path);
    return read_vocabulary_file(tokenizer, vocab, err) && read_merges_file(tokenizer, merges, err);
}

static const char *name_unknown(const json_t *tokenizer)
{
    return json_string_value(json_object_get(json_object_get(tokenizer, "model"), "unk_token"));
}

/* A byte that the vocabulary lacks becomes the unknown token, which is the end token unless the
 * files name another. */
static bool take_roles(struct clip_tokenizer *tokenizer, const struct tokenizer_settings *settings,
                       const char *default_pad, struct error *err)
{
    const struct token_role bos = {.key = "bos_token",
                                   .fallback = "<|startoftext|>",
                                   .fallback_normalised = true}; /* as in the published files */
    const struct token_role eos = {.key = "eos_token", .fallback = "<|endoftext|>"};
    const struct token_role unknown = {.key = "unk_token",
                                       .fallback = name_unknown(settings->tokenizer)};
    const struct token_role pad = {
        .key = "pad_token", .fallback = default_pad, .fallback_is_no_token = true};
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    struct added_tokens *added = &tokenizer->added;
    int32_t unknown_id;

    if (!added_tokens_take_role(added, &tokenizer->bos, settings, &bos, vocabulary, err) ||
        !added_tokens_take_role(added, &tokenizer->eos, settings, &eos, vocabulary, err) ||
        !added_tokens_take_role(added, &unknown_id, settings, &unknown, vocabulary, err) ||
        !added_tokens_take_role(added, &tokenizer->pad, settings, &pad, vocabulary, err))
        return false;
    byte_pair_set_symbols(&tokenizer->pairs, vocabulary,
                          unknown_id >= 0 ? unknown_id : tokenizer->eos);
    return true;
}

static bool read_added_tokens(struct clip_tokenizer *tokenizer,
                              const struct tokenizer_settings *settings, const char *default_pad,
                              struct error *err)
{
    struct added_tokens *added = &tokenizer->added;

    if (!added_tokens_read(added, settings, err) ||
        !take_roles(tokenizer, settings, default_pad, err))
        return false;
    return added_tokens_sort(added, &tokenizer->vocabulary, clip_text_normalise, err) ||
           error_in(err, "'%s': the added tokens", settings->vocabulary_path);
}

static int32_t largest_size(const struct clip_tokenizer *tokenizer)
{
    int32_t size = tokenizer->vocabulary.size;

    if (tokenizer->added.raw.size > size)
        size = tokenizer->added.raw.size;
    if (tokenizer->added.normalised.size > size)
        size = tokenizer->added.normalised.size;
    return size;
}

static bool read_all(struct clip_tokenizer *tokenizer, const struct tokenizer_files *files,
                     const char *default_pad, struct error *err)
{
    struct tokenizer_settings settings;
    bool ok = tokenizer_settings_read(&settings, files, TOKENIZER_VOCAB, err);

    if (ok && settings.tokenizer)
        ok = read_model_json(tokenizer, settings.tokenizer, err) ||
             error_in(err, "'%s'", settings.tokenizer_path);
    else if (ok)
        ok = read_model_files(tokenizer, files, err);
    ok = ok && read_added_tokens(tokenizer, &settings, default_pad, err);
    tokenizer->size = largest_size(tokenizer);
    tokenizer_settings_finish(&settings);
    return ok;
}

bool clip_tokenizer_create_from_files(struct clip_tokenizer **out,
                                      const struct tokenizer_files *files, const char *default_pad,
                                      struct error *err)
{
    struct clip_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);

    if (!tokenizer)
        return error_set(err, ERROR_NO_MEMORY, "CLIP tokenizer");
    if (!read_all(tokenizer, files, default_pad, err)) {
        clip_tokenizer_destroy(tokenizer);
        return error_in(err, "CLIP tokenizer");
    }
    *out = tokenizer;
    return true;
}

bool clip_tokenizer_create(struct clip_tokenizer **out, const char *directory,
                           const char *default_pad, struct error *err)
{
    static const enum tokenizer_file_kind wanted[] = {TOKENIZER_JSON, TOKENIZER_VOCAB,
                                                      TOKENIZER_MERGES, TOKENIZER_CONFIG,
                                                      TOKENIZER_SPECIAL_NAMES};
    struct tokenizer_files files;
    bool ok = tokenizer_files_read(&files, directory, wanted, COUNT_OF(wanted), err)
                  ? clip_tokenizer_create_from_files(out, &files, default_pad, err)
                  : error_in(err, "CLIP tokenizer");

    tokenizer_files_finish(&files);
    return ok;
}

void clip_tokenizer_destroy(struct clip_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    added_tokens_finish(&tokenizer->added);
    byte_pair_finish(&tokenizer->pairs);
    vocabulary_finish(&tokenizer->vocabulary);
    free(tokenizer);
}

int32_t clip_tokenizer_eos(const struct clip_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

int32_t clip_tokenizer_vocabulary_size(const struct clip_tokenizer *tokenizer)
{
    return tokenizer->size;
}

/* One call of encode. */
struct encoding {
    const struct clip_tokenizer *tokenizer;
    struct token_sink sink;
    struct text_buffer normalised;
    struct byte_pair_scratch scratch;
};

static bool encode_words(void *context, const char *text, size_t size, struct error *err)
{
    struct encoding *encoding = context;
    struct clip_words words = {text, size, 0, 0};
    const char *word;
    size_t length;

    while (clip_words_next(&words, &word, &length)) {
        if (!byte_pair_encode(&encoding->tokenizer->pairs, &encoding->scratch, word, length,
                              &encoding->sink, err))
            return false;
    }
    return true;
}

/* A stretch of the text without added tokens of the raw kind. */
static bool encode_stretch(void *context, const char *text, size_t size, struct error *err)
{
    struct encoding *encoding = context;

    encoding->normalised.size = 0;
    return clip_text_normalise(&encoding->normalised, text, size, err) &&
           added_tokens_split(&encoding->tokenizer->added.normalised, encoding->normalised.bytes,
                              encoding->normalised.size, &encoding->sink, encode_words, encoding,
                              err);
}

static bool encode_text(struct encoding *encoding, const char *text, size_t size, struct error *err)
{
    if (size > TEXT_BYTES_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "the text has %zu bytes, more than %u", size,
                         TEXT_BYTES_MAX);
    return added_tokens_split(&encoding->tokenizer->added.raw, text, size, &encoding->sink,
                              encode_stretch, encoding, err);
}

bool clip_tokenizer_encode(const struct clip_tokenizer *tokenizer, const char *text,
                           size_t text_bytes, int32_t *ids, size_t capacity, size_t *count,
                           struct error *err)
{
    struct encoding encoding = {.tokenizer = tokenizer,
                                .sink = {.ids = ids, .capacity = capacity},
                                .normalised = {.limit = TEXT_NORMALISED_BYTES_MAX}};
    bool ok = encode_text(&encoding, text, text_bytes, err);

    *count = encoding.sink.count;
    text_buffer_finish(&encoding.normalised);
    byte_pair_scratch_finish(&encoding.scratch);
    return ok || error_in(err, "CLIP tokenizer");
}

bool clip_tokenizer_encode_padded(const struct clip_tokenizer *tokenizer, const char *text,
                                  size_t text_bytes, int32_t ids[CLIP_TOKENS], size_t *cut,
                                  struct error *err)
{
    const size_t room = CLIP_TOKENS - 2; /* begin and end */
    size_t count, kept;

    if (!clip_tokenizer_encode(tokenizer, text, text_bytes, ids + 1, room, &count, err))
        return false;
    kept = count < room ? count : room;
    ids[0] = tokenizer->bos;
    ids[kept + 1] = tokenizer->eos;
    for (size_t i = kept + 2; i < CLIP_TOKENS; i++)
        ids[i] = tokenizer->pad;
    *cut = count - kept;
    return true;
}
