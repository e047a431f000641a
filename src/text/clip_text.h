/* What CLIP does to a text before byte pairs: clean-up, and the split into words (model.md, section
 * 5.1).
 */
#ifndef TEXT_CLIP_TEXT_H
#define TEXT_CLIP_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"
#include "text/text_buffer.h"

/* Appends the text in Unicode's form NFC, each run of white space as one space, in lower case. Time
 * grows with the size, also for long runs of combining marks. */
MUST_CHECK bool clip_text_normalise(struct text_buffer *out, const char *text, size_t size,
                                    struct error *err);

/* A normalised text, word by word. Start it as {text, size, 0, 0}. */
struct clip_words {
    const char *text;
    size_t size;
    size_t at;
    size_t literal_end; /* no word reaches across it */
};

/* The next word; false at the end. */
bool clip_words_next(struct clip_words *words, const char **word, size_t *length);

#endif
