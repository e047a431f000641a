/* Rounding to FP8 without branches, so that loops over it become vectors: what dtype.c converts one
 * number with and the quantiser rows.
 */
#ifndef TENSOR_F8_GRID_H
#define TENSOR_F8_GRID_H

#include <stdint.h>
#include <string.h>

#include "tensor/dtype.h"

/* `shift` bits of an f32 mantissa are rounded away. Below `least_normal` the grid is even, and
 * adding `magic`, whose last bit is worth one step of it, rounds to nearest even. */
struct f8_grid {
    uint32_t shift, rebias;
    uint32_t largest, least_normal; /* as f32 bits */
    uint32_t nan;
    float magic;
};

static const struct f8_grid f8_e4m3_grid = {20,    (127u - 7u) << 3, 0x43e00000u, 0x3c800000u,
                                            0x7fu, 0x1p14f};
static const struct f8_grid f8_e5m2_grid = {
    21, (127u - 15u) << 2, 0x47600000u, 0x38800000u, 0x7eu, 0x1p7f};

static inline uint32_t f8_float_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The bits of a magnitude of at most grid.largest, ready for the lowest `shift` bits to be cut off.
 * A carry out of the mantissa raises the exponent by itself. */
static inline uint32_t f8_round_normal(uint32_t magnitude, struct f8_grid grid)
{
    return magnitude + (1u << (grid.shift - 1)) - 1u + ((magnitude >> grid.shift) & 1u);
}

/* To nearest even, saturating, NaN kept. */
static inline uint8_t f8_encode(float value, struct f8_grid grid)
{
    uint32_t bits = f8_float_bits(value), magnitude = bits & 0x7fffffffu;
    uint32_t kept = magnitude < grid.largest ? magnitude : grid.largest;
    uint32_t normal = (f8_round_normal(kept, grid) >> grid.shift) - grid.rebias;
    uint32_t small = f8_float_bits(float_of_bits(kept) + grid.magic) - f8_float_bits(grid.magic);
    uint32_t code = kept < grid.least_normal ? small : normal;

    code = magnitude > 0x7f800000u ? grid.nan : code;
    return (uint8_t)(code | (bits >> 24 & 0x80u));
}

/* The magnitude that the code of a finite `value` stands for. */
static inline float f8_round(float value, struct f8_grid grid)
{
    uint32_t magnitude = f8_float_bits(value) & 0x7fffffffu;
    uint32_t kept = magnitude < grid.largest ? magnitude : grid.largest;
    uint32_t mask = ~((1u << grid.shift) - 1u);
    float normal = float_of_bits(f8_round_normal(kept, grid) & mask);
    float small = (float_of_bits(kept) + grid.magic) - grid.magic;

    return kept < grid.least_normal ? small : normal;
}

#endif
