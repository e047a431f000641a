/* CLIP tokenizer: lower-cased byte-pair encoding (Radford et al. 2021; model.md, section 5.1).
 *
 * Reads what lies in a tokenizer folder: tokenizer.json, or else vocab.json with merges.txt. Never
 * changed by use: any number of threads may encode at the same time.
 */
#ifndef TEXT_CLIP_TOKENIZER_H
#define TEXT_CLIP_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"

#define CLIP_TOKENS 77 /* context length of both CLIP encoders */

struct clip_tokenizer;
struct tokenizer_files;

/* `default_pad` is used when the folder does not name a pad token (tokenizer_config.json,
 * special_tokens_map.json): "<|endoftext|>" for CLIP-L, "!" for CLIP-G. Free with
 * clip_tokenizer_destroy. */
MUST_CHECK bool clip_tokenizer_create(struct clip_tokenizer **out, const char *directory,
                                      const char *default_pad, struct error *err);
/* The same from files in memory (text/tokenizer_files.h), borrowed during the call. */
MUST_CHECK bool clip_tokenizer_create_from_files(struct clip_tokenizer **out,
                                                 const struct tokenizer_files *files,
                                                 const char *default_pad, struct error *err);
void clip_tokenizer_destroy(struct clip_tokenizer *tokenizer); /* NULL is fine */

int32_t clip_tokenizer_eos(const struct clip_tokenizer *tokenizer);
int32_t clip_tokenizer_vocabulary_size(const struct clip_tokenizer *tokenizer); /* largest id + 1 */

/* The ids of `text` (UTF-8; invalid bytes count as U+FFFD) without begin, end and padding. Writes
 * at most `capacity` ids and sets *count to how many there are. */
MUST_CHECK bool clip_tokenizer_encode(const struct clip_tokenizer *tokenizer, const char *text,
                                      size_t text_bytes, int32_t *ids, size_t capacity,
                                      size_t *count, struct error *err);

/* begin, at most 75 ids, end, padding. *cut is how many ids did not fit. */
MUST_CHECK bool clip_tokenizer_encode_padded(const struct clip_tokenizer *tokenizer,
                                             const char *text, size_t text_bytes,
                                             int32_t ids[CLIP_TOKENS], size_t *cut,
                                             struct error *err);

#endif
