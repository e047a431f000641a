/* Arithmetic on sizes from outside: every product and sum says whether it overflowed. */
#ifndef BASE_SIZE_H
#define BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"

/* *out = a * b, or false and *out untouched when the product does not fit. */
MUST_CHECK static inline bool size_mul(size_t *out, size_t a, size_t b)
{
    size_t product;

    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

/* *out = a + b, or false and *out untouched when the sum does not fit. */
MUST_CHECK static inline bool size_add(size_t *out, size_t a, size_t b)
{
    size_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

/* Rounds up to a multiple of `align`, a power of two. The caller knows that it fits. */
static inline size_t size_round_up(size_t size, size_t align)
{
    return (size + align - 1) & ~(align - 1);
}

static inline int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline int64_t ceil_div_i64(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

#endif
