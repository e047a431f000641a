/* spiece.model: a unigram vocabulary as SentencePiece stores it (protobuf message ModelProto). */
#ifndef TEXT_SPIECE_MODEL_H
#define TEXT_SPIECE_MODEL_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "text/charsmap.h"
#include "text/tokenizer_files.h"
#include "text/unigram.h"

/* Fills the zeroed `unigram`, and *charsmap with the normalisation table, or NULL when the file has
 * none. The caller frees both, also after a failure. */
MUST_CHECK bool spiece_model_read(struct unigram *unigram, struct charsmap **charsmap,
                                  const struct tokenizer_file *file, struct error *err);

#endif
