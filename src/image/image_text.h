/* The encodings that picture files keep text in, to and from UTF-8.
 *
 * Texts from files may hold anything: what cannot be decoded becomes U+FFFD, and a NUL ends the
 * text. All results are allocated, and the caller frees them.
 */
#ifndef IMAGE_IMAGE_TEXT_H
#define IMAGE_IMAGE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"

/* The longest text that is written into a picture or read from one, in bytes of UTF-8. */
#define IMAGE_TEXT_BYTES_MAX ((size_t)4 << 20)

/* NUL-terminated UTF-8 that is certainly valid. Fail only with ERROR_NO_MEMORY. */
MUST_CHECK bool image_text_from_utf8(char **out, const unsigned char *bytes, size_t size,
                                     struct error *err);
MUST_CHECK bool image_text_from_latin1(char **out, const unsigned char *bytes, size_t size,
                                       struct error *err);
MUST_CHECK bool image_text_from_utf16(char **out, const unsigned char *bytes, size_t size,
                                      bool is_big_endian, struct error *err);

/* True when each character of a valid UTF-8 text is below U+0100. */
bool image_text_is_latin1(const char *text);

/* From valid UTF-8; image_text_to_latin1 wants a text for which image_text_is_latin1 is true. */
MUST_CHECK bool image_text_to_latin1(unsigned char **out, size_t *out_size, const char *text,
                                     struct error *err);
MUST_CHECK bool image_text_to_utf16be(unsigned char **out, size_t *out_size, const char *text,
                                      struct error *err);

#endif
