/* Added tokens: strings such as "<|endoftext|>" that stand for one id wherever they occur in a
 * text, and are cut out before the rest is tokenized.
 *
 * tokenizer.json lists them ("added_tokens"), tokenizer_config.json too ("added_tokens_decoder"),
 * and a token that has a role ("pad_token") is one of them. Filled once, then only read.
 */
#ifndef TEXT_ADDED_TOKENS_H
#define TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "text/text_buffer.h"
#include "text/token_sink.h"
#include "text/tokenizer_files.h"
#include "text/vocabulary.h"

struct added_tokens {
    struct added_token *list; /* only while filling */
    size_t count;
    size_t capacity;
    struct vocabulary raw;        /* looked for in the text as it came */
    struct vocabulary normalised; /* looked for after normalisation */
};

/* Starts zeroed. */
void added_tokens_finish(struct added_tokens *tokens);

/* Takes the lists of tokenizer.json and tokenizer_config.json. The latter wins where both have a
 * token. */
MUST_CHECK bool added_tokens_read(struct added_tokens *tokens,
                                  const struct tokenizer_settings *settings, struct error *err);

MUST_CHECK bool added_tokens_add(struct added_tokens *tokens, const char *content, int64_t id,
                                 bool is_normalised, struct error *err);

/* A part that a token plays; tokenizer_config.json or special_tokens_map.json say which one. */
struct token_role {
    const char *key;           /* "pad_token" */
    const char *fallback;      /* for folders that do not say; NULL: then the role stays empty */
    bool fallback_normalised;  /* how a fallback is looked for in texts */
    bool fallback_is_no_token; /* a fallback is not looked for in texts at all */
};

/* *id = the id of the token with this role, or -1 when it stays empty. Refuses a token that neither
 * the vocabulary nor the added tokens have. */
MUST_CHECK bool added_tokens_take_role(struct added_tokens *tokens, int32_t *id,
                                       const struct tokenizer_settings *settings,
                                       const struct token_role *role,
                                       const struct vocabulary *vocabulary, struct error *err);

/* Normalises a token's content as texts are. */
typedef bool (*added_tokens_normaliser)(struct text_buffer *out, const char *text, size_t size,
                                        struct error *err);

/* Makes the tokens usable; nothing is added afterwards. Refuses ids that contradict the vocabulary
 * or each other. Without `normalise` all tokens are raw ones. */
MUST_CHECK bool added_tokens_sort(struct added_tokens *tokens, const struct vocabulary *vocabulary,
                                  added_tokens_normaliser normalise, struct error *err);

/* What becomes of a stretch of text between two tokens. */
typedef bool (*added_tokens_stretch)(void *context, const char *text, size_t size,
                                     struct error *err);

/* Walks over a text: ids of tokens go into the sink, the stretches between them to `encode`. The
 * first token from the left goes first, and the longest of those that start there. */
MUST_CHECK bool added_tokens_split(const struct vocabulary *tokens, const char *text, size_t size,
                                   struct token_sink *sink, added_tokens_stretch encode,
                                   void *context, struct error *err);

#endif
