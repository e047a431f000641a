/* What the fuzz targets of both tokenizers share: reading their input, and insisting. */
#ifndef TESTS_FUZZ_TOKENIZER_INPUT_H
#define TESTS_FUZZ_TOKENIZER_INPUT_H

#include <stdint.h>
#include <stdlib.h>

#include "support/small_vocabularies.h"

static inline void require(int condition)
{
    if (!condition)
        abort();
}

/* The file that begins at `at` with its size in two bytes; returns where it ends. */
static inline const uint8_t *take_file(struct tokenizer_files *files, enum tokenizer_file_kind kind,
                                       const uint8_t *at, const uint8_t *end)
{
    size_t size;

    if (end - at < 2)
        return end;
    size = (size_t)at[0] | (size_t)at[1] << 8;
    at += 2;
    if (size > (size_t)(end - at))
        size = (size_t)(end - at);
    if (size > 0)
        small_put(files, kind, at, size);
    return at + size;
}

#endif
