/* The smallest tokenizers that serve: bytes and a few pairs for CLIP, single characters for T5. */
#ifndef TOOLS_RANDOM_TOKENIZERS_H
#define TOOLS_RANDOM_TOKENIZERS_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"

/* Rows that an embedding needs for these. */
int random_tokenizers_clip_size(void);
int random_tokenizers_t5_size(void);

/* Writes `folder`/tokenizer, tokenizer_2 and, with T5, tokenizer_3. The begin and end tokens of
 * CLIP get the last two ids below `clip_vocabulary`. */
MUST_CHECK bool random_tokenizers_write(const char *folder, int clip_vocabulary, bool with_t5,
                                        struct error *err);

#endif
