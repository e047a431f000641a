/* tokenizer.json of a T5 tokenizer: the same unigram vocabulary as in spiece.model, as the
 * tokenizers library stores it. */
#ifndef TEXT_UNIGRAM_JSON_H
#define TEXT_UNIGRAM_JSON_H

#include <stdbool.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"
#include "text/charsmap.h"
#include "text/unigram.h"

/* As spiece_model_read, from the file's JSON object. */
MUST_CHECK bool unigram_json_read(struct unigram *unigram, struct charsmap **charsmap,
                                  const json_t *root, struct error *err);

#endif
