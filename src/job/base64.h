/* Base64 of RFC 4648, section 4: bytes that arrive inside JSON. */
#ifndef JOB_BASE64_H
#define JOB_BASE64_H

#include <stddef.h>

#include "base/attributes.h"

enum base64_result { BASE64_OK, BASE64_MALFORMED, BASE64_TOO_LARGE, BASE64_NO_MEMORY };

/* The bytes of `text`, of which there may be `bytes_max`. Padding may be missing; white space,
 * which mail programs put in, is skipped; anything else is malformed, bits behind the last byte
 * that are not zero included. The caller frees *out, which is not NULL even for no bytes. */
MUST_CHECK enum base64_result base64_decode(unsigned char **out, size_t *out_size, const char *text,
                                            size_t length, size_t bytes_max);

#endif
