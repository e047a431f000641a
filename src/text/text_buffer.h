/* UTF-8 text: reading it character by character, and a string that grows up to a limit. */
#ifndef TEXT_TEXT_BUFFER_H
#define TEXT_TEXT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"

/* What a tokenizer accepts at once, and what normalisation may make of it. A prompt that fits the
 * longest context is a few KiB. */
#define TEXT_BYTES_MAX (1u << 20)
#define TEXT_NORMALISED_BYTES_MAX (8u << 20)

/* Start it as {.limit = N}. */
struct text_buffer {
    char *bytes;
    size_t size;
    size_t capacity;
    size_t limit;
};

/* Fails with ERROR_BAD_REQUEST at the limit. */
MUST_CHECK bool text_buffer_append(struct text_buffer *buffer, const char *bytes, size_t size,
                                   struct error *err);
MUST_CHECK bool text_buffer_append_codepoint(struct text_buffer *buffer, int32_t codepoint,
                                             struct error *err);
/* Appends the text with U+FFFD for each byte that is not UTF-8. */
MUST_CHECK bool text_buffer_append_valid(struct text_buffer *buffer, const char *text, size_t size,
                                         struct error *err);
void text_buffer_finish(struct text_buffer *buffer);

/* The codepoint at the front of `text`, which is not empty, and its length in bytes. A byte that
 * starts no valid UTF-8 sequence reads as U+FFFD of length 1. */
int32_t text_decode(const char *text, size_t size, size_t *length);

bool text_is_utf8(const char *text, size_t size);

/* The White_Space property of Unicode. */
bool text_is_space(int32_t codepoint);

#endif
