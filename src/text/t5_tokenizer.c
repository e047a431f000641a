#include "text/t5_tokenizer.h"

#include <stdlib.h>

#include "text/added_tokens.h"
#include "text/charsmap.h"
#include "text/spiece_model.h"
#include "text/text_buffer.h"
#include "text/tokenizer_files.h"
#include "text/unigram.h"
#include "text/unigram_json.h"

#define SPACE_MARK 0x2581 /* stands for a space in pieces */

struct t5_tokenizer {
    struct unigram unigram;
    struct charsmap *charsmap; /* NULL: the vocabulary has none */
    struct added_tokens added;
    int32_t eos, pad;
    int32_t size;       /* largest id + 1, added tokens included */
    int32_t length_max; /* 0: unknown */
};

static bool read_model(struct t5_tokenizer *tokenizer, const struct tokenizer_files *files,
                       const struct tokenizer_settings *settings, struct error *err)
{
    const struct tokenizer_file *spiece = &files->file[TOKENIZER_SPIECE];

    if (settings->tokenizer)
        return unigram_json_read(&tokenizer->unigram, &tokenizer->charsmap, settings->tokenizer,
                                 err) ||
               error_in(err, "'%s'", settings->tokenizer_path);
    if (!spiece->bytes)
        return error_set(err, ERROR_IO, "'%s' is missing, and so is '%s'", spiece->path,
                         files->file[TOKENIZER_JSON].path);
    return spiece_model_read(&tokenizer->unigram, &tokenizer->charsmap, spiece, err);
}

static bool take_roles(struct t5_tokenizer *tokenizer, const struct tokenizer_settings *settings,
                       struct error *err)
{
    const struct token_role eos = {.key = "eos_token", .fallback = "</s>"};
    const struct token_role pad = {.key = "pad_token", .fallback = "<pad>"};
    const struct vocabulary *pieces = &tokenizer->unigram.pieces;
    const struct token_role unknown = {
        .key = "unk_token", .fallback = vocabulary_find(pieces, "<unk>", 5) >= 0 ? "<unk>" : NULL};
    struct added_tokens *added = &tokenizer->added;
    int32_t unknown_id; /* the text "<unk>" is that token; the model's own id is in the unigram */

    return added_tokens_take_role(added, &tokenizer->eos, settings, &eos, pieces, err) &&
           added_tokens_take_role(added, &tokenizer->pad, settings, &pad, pieces, err) &&
           added_tokens_take_role(added, &unknown_id, settings, &unknown, pieces, err);
}

/* tokenizer.json does not tell ordinary pieces from control pieces, but its added tokens are the
 * latter: full-width letters that normalise to "</s>" must not end the text. */
static void hide_added_tokens(struct t5_tokenizer *tokenizer)
{
    const struct vocabulary *added = &tokenizer->added.raw;

    for (size_t i = 0; i < added->count; i++) {
        int32_t id = added->entries[i].id;

        if ((size_t)id < tokenizer->unigram.pieces.count)
            unigram_hide(&tokenizer->unigram, id);
    }
}

static bool read_added_tokens(struct t5_tokenizer *tokenizer,
                              const struct tokenizer_settings *settings, struct error *err)
{
    struct added_tokens *added = &tokenizer->added;

    if (!added_tokens_read(added, settings, err) || !take_roles(tokenizer, settings, err))
        return false;
    if (!added_tokens_sort(added, &tokenizer->unigram.pieces, NULL, err))
        return error_in(err, "'%s': the added tokens", settings->vocabulary_path);
    hide_added_tokens(tokenizer);
    tokenizer->size = tokenizer->unigram.pieces.size > added->raw.size
                          ? tokenizer->unigram.pieces.size
                          : added->raw.size;
    return true;
}

/* Transformers writes 1e30 where there is no limit: that is no integer, or none that fits. */
static int32_t read_length_max(const struct tokenizer_settings *settings)
{
    const json_t *value = json_object_get(settings->config, "model_max_length");
    json_int_t length = json_is_integer(value) ? json_integer_value(value) : 0;

    return length > 0 && length <= INT32_MAX ? (int32_t)length : 0;
}

static bool read_all(struct t5_tokenizer *tokenizer, const struct tokenizer_files *files,
                     struct error *err)
{
    struct tokenizer_settings settings;
    bool ok = tokenizer_settings_read(&settings, files, TOKENIZER_SPIECE, err) &&
              read_model(tokenizer, files, &settings, err) &&
              read_added_tokens(tokenizer, &settings, err);

    tokenizer->length_max = ok ? read_length_max(&settings) : 0;
    tokenizer_settings_finish(&settings);
    return ok;
}

bool t5_tokenizer_create_from_files(struct t5_tokenizer **out, const struct tokenizer_files *files,
                                    struct error *err)
{
    struct t5_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);

    if (!tokenizer)
        return error_set(err, ERROR_NO_MEMORY, "T5 tokenizer");
    if (!read_all(tokenizer, files, err)) {
        t5_tokenizer_destroy(tokenizer);
        return error_in(err, "T5 tokenizer");
    }
    *out = tokenizer;
    return true;
}

bool t5_tokenizer_create(struct t5_tokenizer **out, const char *directory, struct error *err)
{
    static const enum tokenizer_file_kind wanted[] = {TOKENIZER_JSON, TOKENIZER_SPIECE,
                                                      TOKENIZER_CONFIG, TOKENIZER_SPECIAL_NAMES};
    struct tokenizer_files files;
    bool ok = tokenizer_files_read(&files, directory, wanted, COUNT_OF(wanted), err)
                  ? t5_tokenizer_create_from_files(out, &files, err)
                  : error_in(err, "T5 tokenizer");

    tokenizer_files_finish(&files);
    return ok;
}

void t5_tokenizer_destroy(struct t5_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    added_tokens_finish(&tokenizer->added);
    charsmap_destroy(tokenizer->charsmap);
    unigram_finish(&tokenizer->unigram);
    free(tokenizer);
}

int32_t t5_tokenizer_vocabulary_size(const struct t5_tokenizer *tokenizer)
{
    return tokenizer->size;
}

int32_t t5_tokenizer_length_max(const struct t5_tokenizer *tokenizer)
{
    return tokenizer->length_max;
}

/* One call of encode. */
struct encoding {
    const struct t5_tokenizer *tokenizer;
    struct token_sink sink;
    struct text_buffer valid;  /* a stretch of the text as UTF-8 */
    struct text_buffer mapped; /* after the charsmap */
    struct text_buffer marked; /* with spaces as pieces have them */
};

/* Puts the mark before every word, and drops the white space. A word that brings a mark of its own
 * gets no second one. */
static bool mark_words(struct text_buffer *out, const struct text_buffer *text, struct error *err)
{
    bool in_word = false;

    for (size_t at = 0, length; at < text->size; at += length) {
        int32_t codepoint = text_decode(text->bytes + at, text->size - at, &length);

        if (text_is_space(codepoint)) {
            in_word = false;
            continue;
        }
        if (!in_word && codepoint != SPACE_MARK &&
            !text_buffer_append_codepoint(out, SPACE_MARK, err))
            return false;
        if (!text_buffer_append_codepoint(out, codepoint, err))
            return false;
        in_word = true;
    }
    return true;
}

/* A stretch of the text without added tokens. */
static bool encode_stretch(void *context, const char *text, size_t size, struct error *err)
{
    struct encoding *encoding = context;
    const struct charsmap *map = encoding->tokenizer->charsmap;
    struct text_buffer *valid = &encoding->valid;
    struct text_buffer *mapped = &encoding->mapped;
    struct text_buffer *marked = &encoding->marked;

    valid->size = 0;
    mapped->size = 0;
    marked->size = 0;
    if (!text_buffer_append_valid(valid, text, size, err) ||
        (map && !charsmap_apply(mapped, map, valid->bytes, valid->size, err)) ||
        !mark_words(marked, map ? mapped : valid, err))
        return false;
    return unigram_encode(&encoding->tokenizer->unigram, marked->bytes, marked->size,
                          &encoding->sink, err);
}

static bool encode_text(struct encoding *encoding, const char *text, size_t size, struct error *err)
{
    if (size > TEXT_BYTES_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "the text has %zu bytes, more than %u", size,
                         TEXT_BYTES_MAX);
    return added_tokens_split(&encoding->tokenizer->added.raw, text, size, &encoding->sink,
                              encode_stretch, encoding, err);
}

bool t5_tokenizer_encode(const struct t5_tokenizer *tokenizer, const char *text, size_t text_bytes,
                         int32_t *ids, size_t capacity, size_t *count, struct error *err)
{
    struct encoding encoding = {.tokenizer = tokenizer,
                                .sink = {.ids = ids, .capacity = capacity},
                                .valid = {.limit = TEXT_NORMALISED_BYTES_MAX},
                                .mapped = {.limit = TEXT_NORMALISED_BYTES_MAX},
                                .marked = {.limit = 2 * TEXT_NORMALISED_BYTES_MAX}};
    bool ok = encode_text(&encoding, text, text_bytes, err);

    *count = encoding.sink.count;
    text_buffer_finish(&encoding.valid);
    text_buffer_finish(&encoding.mapped);
    text_buffer_finish(&encoding.marked);
    return ok || error_in(err, "T5 tokenizer");
}

bool t5_tokenizer_encode_padded(const struct t5_tokenizer *tokenizer, const char *text,
                                size_t text_bytes, int32_t *ids, size_t length, size_t *cut,
                                struct error *err)
{
    size_t count, kept;

    if (length == 0)
        return error_set(err, ERROR_BAD_REQUEST, "T5 tokenizer: no room for the end token");
    if (!t5_tokenizer_encode(tokenizer, text, text_bytes, ids, length - 1, &count, err))
        return false;
    kept = count < length - 1 ? count : length - 1;
    ids[kept] = tokenizer->eos;
    for (size_t i = kept + 1; i < length; i++)
        ids[i] = tokenizer->pad;
    *cut = count - kept;
    return true;
}
