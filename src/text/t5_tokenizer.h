/* T5 tokenizer: SentencePiece unigram segmentation (Kudo 2018, arXiv:1804.10959; model.md, section
 * 5.2).
 *
 * Reads what lies in a tokenizer folder: tokenizer.json, or else spiece.model. Never changed by
 * use: any number of threads may encode at the same time.
 */
#ifndef TEXT_T5_TOKENIZER_H
#define TEXT_T5_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"

struct t5_tokenizer;
struct tokenizer_files;

MUST_CHECK bool t5_tokenizer_create(struct t5_tokenizer **out, const char *directory,
                                    struct error *err);
/* The same from files in memory (text/tokenizer_files.h), borrowed during the call. */
MUST_CHECK bool t5_tokenizer_create_from_files(struct t5_tokenizer **out,
                                               const struct tokenizer_files *files,
                                               struct error *err);
void t5_tokenizer_destroy(struct t5_tokenizer *tokenizer); /* NULL is fine */

int32_t t5_tokenizer_vocabulary_size(const struct t5_tokenizer *tokenizer); /* largest id + 1 */
/* The most tokens that the model was made for ("model_max_length"); 0: the folder does not say. */
int32_t t5_tokenizer_length_max(const struct t5_tokenizer *tokenizer);

/* The ids of `text` (UTF-8; invalid bytes count as U+FFFD) without end and padding. Writes at most
 * `capacity` ids and sets *count to how many there are. */
MUST_CHECK bool t5_tokenizer_encode(const struct t5_tokenizer *tokenizer, const char *text,
                                    size_t text_bytes, int32_t *ids, size_t capacity, size_t *count,
                                    struct error *err);

/* At most length - 1 ids, the end token, padding: `length` ids in all. *cut is how many ids did not
 * fit. */
MUST_CHECK bool t5_tokenizer_encode_padded(const struct t5_tokenizer *tokenizer, const char *text,
                                           size_t text_bytes, int32_t *ids, size_t length,
                                           size_t *cut, struct error *err);

#endif
