/* Loops without branches that compilers turn into vectors. QUANTISE_LEVEL names the level that this
 * file is compiled for. Nothing here may be contracted or reassociated: the build says so. */
#include "convert/quantise_kernels.h"

#include <math.h>
#include <string.h>

#include "tensor/f8_grid.h"

#define BLOCK 512 /* elements: the scratch of one stays in the first cache */
#define LANES 8   /* partial sums, whatever the width of the level's vectors */

static void decode(float *restrict out, const void *in, enum dtype dtype, int64_t count)
{
    const unsigned char *at = in;

    if (dtype == DTYPE_F32) {
        memcpy(out, in, (size_t)count * sizeof *out);
    } else if (dtype == DTYPE_F16) {
        for (int64_t i = 0; i < count; i++) {
            uint16_t half;

            memcpy(&half, at + 2 * i, sizeof half);
            out[i] = f16_to_float(half);
        }
    } else {
        for (int64_t i = 0; i < count; i++) {
            uint16_t half;

            memcpy(&half, at + 2 * i, sizeof half);
            out[i] = bf16_to_float(half);
        }
    }
}

/* Magnitudes order as their bits do, NaN above infinity above all numbers. */
static float largest(const float *in, int64_t count)
{
    uint32_t most = 0;

    for (int64_t i = 0; i < count; i++) {
        uint32_t magnitude = f8_float_bits(in[i]) & 0x7fffffffu;

        most = magnitude > most ? magnitude : most;
    }
    return float_of_bits(most < 0x7f800000u ? most : 0x7f800000u);
}

/* Adds up `count` values, at most BLOCK. */
static double sum_of(const float *values, int64_t count)
{
    float lanes[LANES] = {0};
    double sum = 0.0;
    int64_t i = 0;

    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += values[i + lane];
    for (int lane = 0; i < count; i++, lane++)
        lanes[lane] += values[i];
    for (int lane = 0; lane < LANES; lane++)
        sum += (double)lanes[lane];
    return sum;
}

static inline void square_differences(float *restrict out, const float *restrict in, int64_t count,
                                      float inverse, struct f8_grid grid)
{
    for (int64_t i = 0; i < count; i++) {
        float value = in[i] * inverse;
        float difference = fabsf(value) - f8_round(value, grid);

        out[i] = difference * difference;
    }
}

static double error(const float *in, int64_t count, enum dtype format, float scale)
{
    float block[BLOCK], inverse = 1.0f / scale;
    double sum = 0.0;

    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t part = count - at < BLOCK ? count - at : BLOCK;

        if (format == DTYPE_F8_E4M3)
            square_differences(block, in + at, part, inverse, f8_e4m3_grid);
        else
            square_differences(block, in + at, part, inverse, f8_e5m2_grid);
        sum += sum_of(block, part);
    }
    return sum * (double)scale * (double)scale;
}

/* The same scale for all keeps squares of small weights from underflowing. */
static double squares(const float *in, int64_t count)
{
    float most = largest(in, count), block[BLOCK];
    float inverse = most > 0x1p-126f ? 1.0f / most : 0x1p126f;
    double sum = 0.0;

    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t part = count - at < BLOCK ? count - at : BLOCK;

        for (int64_t i = 0; i < part; i++)
            block[i] = (in[at + i] * inverse) * (in[at + i] * inverse);
        sum += sum_of(block, part);
    }
    return sum / (double)inverse / (double)inverse;
}

static inline void encode_all(uint8_t *restrict out, const float *restrict in, int64_t count,
                              float inverse, struct f8_grid grid)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = f8_encode(in[i] * inverse, grid);
}

static void encode(uint8_t *restrict out, const float *restrict in, int64_t count,
                   enum dtype format, float scale)
{
    if (format == DTYPE_F8_E4M3)
        encode_all(out, in, count, 1.0f / scale, f8_e4m3_grid);
    else
        encode_all(out, in, count, 1.0f / scale, f8_e5m2_grid);
}

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
#define NAME_OF(level) quantise_##level
#define NAME(level) NAME_OF(level)

const struct quantise_ops NAME(QUANTISE_LEVEL) = {
    .level = TEXT(QUANTISE_LEVEL),
    .decode = decode,
    .largest = largest,
    .error = error,
    .squares = squares,
    .encode = encode,
};
