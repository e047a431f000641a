/* Element types, with exact scalar conversions to and from float.
 *
 * f8_e4m3 is the OCP "FN" form: no infinity, NaN is 0x7f and 0xff, largest 448. f8_e5m2 has
 * infinities, largest 57344 (Micikevicius et al. 2022, arXiv:2209.05433). Conversions from float
 * round to nearest even; the f8 ones saturate and keep NaN.
 */
#ifndef TENSOR_DTYPE_H
#define TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_F8_E4M3,
    DTYPE_F8_E5M2,
    DTYPE_I32,
    DTYPE_U8,
    DTYPE_COUNT,
};

/* Bytes of one element. */
static inline size_t dtype_size(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32:
    case DTYPE_I32:
        return 4;
    case DTYPE_F16:
    case DTYPE_BF16:
        return 2;
    default:
        return 1;
    }
}

const char *dtype_name(enum dtype dtype); /* "f32", "f16", "bf16", "f8_e4m3", ... */

static inline float f16_to_float(uint16_t bits);
static inline float bf16_to_float(uint16_t bits);
float f8_e4m3_to_float(uint8_t bits);
float f8_e5m2_to_float(uint8_t bits);
uint16_t float_to_f16(float value); /* overflow becomes infinity */
uint16_t float_to_bf16(float value);
uint8_t float_to_f8_e4m3(float value); /* beyond 448 becomes 448 */
uint8_t float_to_f8_e5m2(float value); /* beyond 57344 becomes 57344, infinity too */

/* Element `index` of memory that need not be aligned, as float; i32 and u8 by value. */
static inline float dtype_load(enum dtype dtype, const void *memory, int64_t index);
/* Rounds to nearest even; i32 and u8 clamp to their range. */
void dtype_store(enum dtype dtype, void *memory, int64_t index, float value);

/* Inline, because ref/ reads every element through dtype_load. */

static inline float float_of_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float f16_to_float(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t magnitude = (uint32_t)(bits & 0x7fffu) << 13;
    float value;

    if (magnitude >= 0x0f800000u) /* infinity and NaN keep the top exponent */
        return float_of_bits(sign | 0x70000000u | magnitude);
    /* The exponent is off by 127 - 15; multiplying mends it and normalises subnormals. */
    value = float_of_bits(magnitude) * 0x1p112f;
    return sign ? -value : value;
}

static inline float bf16_to_float(uint16_t bits)
{
    return float_of_bits((uint32_t)bits << 16);
}

static inline float dtype_load(enum dtype dtype, const void *memory, int64_t index)
{
    const unsigned char *at = (const unsigned char *)memory + (size_t)index * dtype_size(dtype);
    uint16_t half;
    int32_t integer;
    float value;

    switch (dtype) {
    case DTYPE_F32:
        memcpy(&value, at, sizeof value);
        return value;
    case DTYPE_F16:
        memcpy(&half, at, sizeof half);
        return f16_to_float(half);
    case DTYPE_BF16:
        memcpy(&half, at, sizeof half);
        return bf16_to_float(half);
    case DTYPE_F8_E4M3:
        return f8_e4m3_to_float(*at);
    case DTYPE_F8_E5M2:
        return f8_e5m2_to_float(*at);
    case DTYPE_I32:
        memcpy(&integer, at, sizeof integer);
        return (float)integer;
    case DTYPE_U8:
        return (float)*at;
    case DTYPE_COUNT:
        break;
    }
    return 0.0f;
}

#endif
