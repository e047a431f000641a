#include "tensor/dtype.h"

#include <math.h>

#include "tensor/f8_grid.h"

const char *dtype_name(enum dtype dtype)
{
    static const char *const names[DTYPE_COUNT] = {
        [DTYPE_F32] = "f32",         [DTYPE_F16] = "f16",         [DTYPE_BF16] = "bf16",
        [DTYPE_F8_E4M3] = "f8_e4m3", [DTYPE_F8_E5M2] = "f8_e5m2", [DTYPE_I32] = "i32",
        [DTYPE_U8] = "u8",
    };

    return names[dtype];
}

/* A small float: sign, exponent_bits, mantissa_bits, the usual bias. `finite_top`: the largest
 * exponent holds numbers too, and only the all-ones mantissa is NaN (the "FN" form). */
struct small_float {
    int exponent_bits, mantissa_bits;
    int finite_top;
};

static const struct small_float e4m3_form = {4, 3, 1};
static const struct small_float e5m2_form = {5, 2, 0};

static float small_to_float(struct small_float form, uint32_t bits)
{
    int bias = (1 << (form.exponent_bits - 1)) - 1;
    uint32_t mantissa_mask = (1u << form.mantissa_bits) - 1;
    uint32_t top = (1u << form.exponent_bits) - 1;
    uint32_t mantissa = bits & mantissa_mask;
    uint32_t exponent = (bits >> form.mantissa_bits) & top;
    uint32_t sign = (bits >> (form.mantissa_bits + form.exponent_bits)) & 1u;
    float magnitude;

    if (exponent == top && (!form.finite_top || mantissa == mantissa_mask))
        return float_of_bits(sign << 31 | 0x7f800000u |
                             (mantissa && !form.finite_top ? mantissa << (23 - form.mantissa_bits)
                              : form.finite_top            ? 0x400000u
                                                           : 0u));
    if (exponent == 0)
        magnitude = ldexpf((float)mantissa, 1 - bias - form.mantissa_bits);
    else
        magnitude = float_of_bits((exponent + 127u - (uint32_t)bias) << 23 |
                                  mantissa << (23 - form.mantissa_bits));
    return sign ? -magnitude : magnitude;
}

/* Rounds the magnitude to f16's grid, ties to even. */
static uint16_t magnitude_to_f16(uint32_t magnitude)
{
    int exponent = (int)(magnitude >> 23) - 127, shift = 13;
    uint32_t significand, result, rest, half;

    if (magnitude > 0x7f800000u)
        return 0x7e00;
    if (exponent < -25)
        return 0; /* less than half of the smallest number */
    significand = (magnitude & 0x7fffffu) | 0x800000u;
    if (exponent < -14)
        shift += -14 - exponent;
    result = significand >> shift;
    rest = significand & ((1u << shift) - 1);
    half = 1u << (shift - 1);
    if (rest > half || (rest == half && (result & 1u)))
        result++;
    /* A carry out of the mantissa raises the exponent by itself. */
    if (exponent >= -14)
        result += (uint32_t)(exponent + 14) << 10;
    return (uint16_t)(result < 0x7c00 ? result : 0x7c00);
}

float f8_e4m3_to_float(uint8_t bits)
{
    return small_to_float(e4m3_form, bits);
}

float f8_e5m2_to_float(uint8_t bits)
{
    return small_to_float(e5m2_form, bits);
}

uint16_t float_to_f16(float value)
{
    uint32_t bits = f8_float_bits(value);

    return (uint16_t)((bits >> 16 & 0x8000u) | magnitude_to_f16(bits & 0x7fffffffu));
}

uint8_t float_to_f8_e4m3(float value)
{
    return f8_encode(value, f8_e4m3_grid);
}

uint8_t float_to_f8_e5m2(float value)
{
    return f8_encode(value, f8_e5m2_grid);
}

uint16_t float_to_bf16(float value)
{
    uint32_t bits = f8_float_bits(value);

    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static float clamp_round(float value, float low, float high)
{
    value = rintf(value);
    if (!(value > low)) /* NaN too */
        return low;
    return value > high ? high : value;
}

void dtype_store(enum dtype dtype, void *memory, int64_t index, float value)
{
    unsigned char *at = (unsigned char *)memory + (size_t)index * dtype_size(dtype);
    uint16_t half;
    int32_t integer;

    switch (dtype) {
    case DTYPE_F32:
        memcpy(at, &value, sizeof value);
        return;
    case DTYPE_F16:
        half = float_to_f16(value);
        memcpy(at, &half, sizeof half);
        return;
    case DTYPE_BF16:
        half = float_to_bf16(value);
        memcpy(at, &half, sizeof half);
        return;
    case DTYPE_F8_E4M3:
        *at = float_to_f8_e4m3(value);
        return;
    case DTYPE_F8_E5M2:
        *at = float_to_f8_e5m2(value);
        return;
    case DTYPE_I32:
        integer = (int32_t)clamp_round(value, -2147483648.0f, 2147483520.0f);
        memcpy(at, &integer, sizeof integer);
        return;
    case DTYPE_U8:
        *at = (unsigned char)clamp_round(value, 0.0f, 255.0f);
        return;
    case DTYPE_COUNT:
        return;
    }
}
