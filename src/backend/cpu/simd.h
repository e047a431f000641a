/* Vectors of floats, as wide as the level that the including file is compiled for: 16 lanes with
 * AVX-512, 8 with AVX2, 4 elsewhere. Kernels are written once with these and compiled once a level.
 *
 * The types are GCC vector extensions, so + - * / and comparisons work on them; functions here are
 * what the extensions lack. Nothing needs aligned memory.
 */
#ifndef BACKEND_CPU_SIMD_H
#define BACKEND_CPU_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "tensor/dtype.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define SIMD_AVX512 1
#define SIMD_AVX2 0
#define VF_WIDTH 16
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SIMD_AVX512 0
#define SIMD_AVX2 1
#define VF_WIDTH 8
#else
#define SIMD_AVX512 0
#define SIMD_AVX2 0
#define VF_WIDTH 4
#endif

#if SIMD_AVX512 || SIMD_AVX2
#include <immintrin.h>
#endif

typedef float vf __attribute__((vector_size(VF_WIDTH * 4)));
typedef int32_t vi __attribute__((vector_size(VF_WIDTH * 4)));
typedef uint32_t vu __attribute__((vector_size(VF_WIDTH * 4)));

/* Before a loop of few and constant turns over an array of vectors, so that the array becomes
 * registers. */
#if defined(__clang__)
#define SIMD_UNROLL _Pragma("unroll")
#else
#define SIMD_UNROLL _Pragma("GCC unroll 32")
#endif

/* --- Loads, stores, masks --- */

static inline vf vf_load(const float *from)
{
    vf v;

    memcpy(&v, from, sizeof v);
    return v;
}

static inline void vf_store(float *to, vf v)
{
    memcpy(to, &v, sizeof v);
}

static inline vf vf_set(float value)
{
#if SIMD_AVX512
    return (vf)_mm512_set1_ps(value);
#elif SIMD_AVX2
    return (vf)_mm256_set1_ps(value);
#else
    return (vf){value, value, value, value};
#endif
}

static inline vf vf_zero(void)
{
    return (vf){0};
}

static inline vi vi_set(int32_t value)
{
#if SIMD_AVX512
    return (vi)_mm512_set1_epi32(value);
#elif SIMD_AVX2
    return (vi)_mm256_set1_epi32(value);
#else
    return (vi){value, value, value, value};
#endif
}

/* Which lanes a tail touches: the first `count` of them. */
#if SIMD_AVX512
typedef __mmask16 vmask;
#elif SIMD_AVX2
typedef __m256i vmask;
#else
typedef int vmask;
#endif

/* count: anything from 0; VF_WIDTH and more mean all lanes. */
static inline vmask vmask_first(int64_t count)
{
#if SIMD_AVX512
    unsigned lanes = count >= VF_WIDTH ? 0xffffu : (1u << count) - 1u;

    return (vmask)(lanes & 0xffffu);
#elif SIMD_AVX2
    static const int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

    return _mm256_loadu_si256((const void *)(lanes + (count >= VF_WIDTH ? 0 : 8 - count)));
#else
    return count >= VF_WIDTH ? VF_WIDTH : (int)count;
#endif
}

/* Lanes outside the mask are 0 and their memory is not read. */
static inline vf vf_load_masked(vmask mask, const float *from)
{
#if SIMD_AVX512
    return (vf)_mm512_maskz_loadu_ps(mask, from);
#elif SIMD_AVX2
    return (vf)_mm256_maskload_ps(from, mask);
#else
    vf v = {0};

    memcpy(&v, from, (size_t)mask * sizeof *from);
    return v;
#endif
}

/* Memory of lanes outside the mask is not written. */
static inline void vf_store_masked(vmask mask, float *to, vf v)
{
#if SIMD_AVX512
    _mm512_mask_storeu_ps(to, mask, (__m512)v);
#elif SIMD_AVX2
    _mm256_maskstore_ps(to, mask, (__m256)v);
#else
    memcpy(to, &v, (size_t)mask * sizeof *to);
#endif
}

/* Lanes of a where condition (-1 or 0 in each lane, as comparisons give) holds, else of b. */
static inline vf vf_select(vi condition, vf a, vf b)
{
    return (vf)(((vi)a & condition) | ((vi)b & ~condition));
}

/* Lanes of v inside the mask, `other` elsewhere. */
static inline vf vf_keep_masked(vmask mask, vf v, vf other)
{
#if SIMD_AVX512
    return (vf)_mm512_mask_mov_ps((__m512)other, mask, (__m512)v);
#elif SIMD_AVX2
    return (vf)_mm256_blendv_ps((__m256)other, (__m256)v, (__m256)mask);
#else
    return vf_select((vi){0, 1, 2, 3} < vi_set(mask), v, other);
#endif
}

/* --- Arithmetic --- */

/* a * b + c, rounded once where the machine can */
static inline vf vf_fma(vf a, vf b, vf c)
{
#if SIMD_AVX512
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif SIMD_AVX2
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* c - a * b */
static inline vf vf_fnma(vf a, vf b, vf c)
{
#if SIMD_AVX512
    return (vf)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif SIMD_AVX2
    return (vf)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return c - a * b;
#endif
}

/* Both return b where a lane of either is NaN. */
static inline vf vf_max(vf a, vf b)
{
#if SIMD_AVX512
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif SIMD_AVX2
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vf_select(a > b, a, b);
#endif
}

static inline vf vf_min(vf a, vf b)
{
#if SIMD_AVX512
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif SIMD_AVX2
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vf_select(a < b, a, b);
#endif
}

/* To the nearest integer, ties to even. |v| < 2^22. */
static inline vf vf_round(vf v)
{
#if SIMD_AVX512
    return (vf)_mm512_roundscale_ps((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif SIMD_AVX2
    return (vf)_mm256_round_ps((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    vf big = vf_set(12582912.0f); /* 1.5 * 2^23: no bits are left below the point */

    return (v + big) - big;
#endif
}

static inline vf vf_abs(vf v)
{
    return (vf)((vi)v & vi_set(0x7fffffff));
}

/* Always added in the same order: halves onto halves. */
static inline float vf_sum(vf v)
{
#if SIMD_AVX512
    __m256 high = _mm512_extractf32x8_ps((__m512)v, 1);
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), high);
#elif SIMD_AVX2
    __m256 eight = (__m256)v;
#endif
#if SIMD_AVX512 || SIMD_AVX2
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

static inline float vf_highest(vf v)
{
#if SIMD_AVX512
    return _mm512_reduce_max_ps((__m512)v);
#elif SIMD_AVX2
    __m128 four =
        _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
    float high = v[0] > v[2] ? v[0] : v[2];
    float other = v[1] > v[3] ? v[1] : v[3];

    return high > other ? high : other;
#endif
}

/* A vector's lanes as doubles, for sums in which floats would lose the small terms. */
typedef double vd __attribute__((vector_size(VF_WIDTH * 4)));

struct vd_pair {
    vd low, high;
};

static inline struct vd_pair vd_of(vf v)
{
#if SIMD_AVX512
    return (struct vd_pair){(vd)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v)),
                            (vd)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1))};
#elif SIMD_AVX2
    return (struct vd_pair){(vd)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v)),
                            (vd)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1))};
#else
    return (struct vd_pair){{(double)v[0], (double)v[1]}, {(double)v[2], (double)v[3]}};
#endif
}

/* sum + v, lane by lane */
static inline struct vd_pair vd_add(struct vd_pair sum, vf v)
{
    struct vd_pair more = vd_of(v);

    return (struct vd_pair){sum.low + more.low, sum.high + more.high};
}

static inline double vd_sum(struct vd_pair v)
{
    vd both = v.low + v.high;
    double sum = 0.0;

    for (int i = 0; i < VF_WIDTH / 2; i++)
        sum += both[i];
    return sum;
}

/* Lane j of row i becomes lane i of row j. */
static inline void vf_transpose(vf rows[VF_WIDTH])
{
#if SIMD_AVX512
    /* Swaps the off-diagonal blocks of size 8, then 4, 2, 1. */
    SIMD_UNROLL for (int size = 8; size > 0; size /= 2)
    {
        vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        vi is_second = (lane & size) != 0;
        vi upper = (lane & ~is_second) | ((lane - size + 16) & is_second);
        vi lower = ((lane + size) & ~is_second) | ((lane + 16) & is_second);

        SIMD_UNROLL for (int i = 0; i < 16; i++)
        {
            if (i & size)
                continue;
            __m512 a = (__m512)rows[i], b = (__m512)rows[i + size];

            rows[i] = (vf)_mm512_permutex2var_ps(a, (__m512i)upper, b);
            rows[i + size] = (vf)_mm512_permutex2var_ps(a, (__m512i)lower, b);
        }
    }
#elif SIMD_AVX2
    __m256 pairs[8], quads[8];

    SIMD_UNROLL for (int i = 0; i < 4; i++)
    {
        pairs[2 * i] = _mm256_unpacklo_ps((__m256)rows[2 * i], (__m256)rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps((__m256)rows[2 * i], (__m256)rows[2 * i + 1]);
    }
    SIMD_UNROLL for (int i = 0; i < 8; i += 4)
    {
        quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    SIMD_UNROLL for (int i = 0; i < 4; i++)
    {
        rows[i] = (vf)_mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
        rows[i + 4] = (vf)_mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
#else
    for (int i = 0; i < VF_WIDTH; i++)
        for (int j = i + 1; j < VF_WIDTH; j++) {
            float kept = rows[i][j];

            rows[i][j] = rows[j][i];
            rows[j][i] = kept;
        }
#endif
}

/* to[d to_step + r] = factor from[r from_step + d] for `lanes` <= VF_WIDTH rows and `width`
 * columns. Rows from `rows` on are zeros. */
static inline void vf_copy_transposed(float *to, int64_t to_step, int64_t lanes, const float *from,
                                      int64_t from_step, int64_t rows, int64_t width, float factor)
{
    vmask lane_mask = vmask_first(lanes);

    for (int64_t d = 0; d < width; d += VF_WIDTH) {
        vmask mask = vmask_first(width - d);
        int64_t columns = width - d < VF_WIDTH ? width - d : VF_WIDTH;
        vf square[VF_WIDTH];

        for (int64_t r = 0; r < VF_WIDTH; r++)
            square[r] = r < rows ? vf_load_masked(mask, from + r * from_step + d) : vf_zero();
        vf_transpose(square);
        for (int64_t c = 0; c < columns; c++)
            vf_store_masked(lane_mask, to + (d + c) * to_step, square[c] * vf_set(factor));
    }
}

/* --- Functions --- */

/* v 2^n for whole n in [-126, 127] */
static inline vf vf_scale_by_power(vf v, vf n)
{
#if SIMD_AVX512
    return (vf)_mm512_scalef_ps((__m512)v, (__m512)n);
#else
    /* The integer n as the lowest bits of a sum whose grid is whole numbers; NaN does no harm. */
    vu power = ((vu)(n + vf_set(12582912.0f)) + 127u) << 23;

    return v * (vf)power;
#endif
}

/* v, or 0 where x < limit. */
static inline vf vf_zero_below(vf v, vf x, vf limit)
{
#if SIMD_AVX512
    return (vf)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)x, (__m512)limit, _CMP_NLT_UQ),
                                   (__m512)v);
#else
    return (vf)((vi)v & ~(x < limit));
#endif
}

/* e^x to 2 ulp; 0 below the smallest normal number, e^88.37 above that, NaN for NaN. */
static inline vf vf_exp(vf x)
{
    const vf lowest = vf_set(-87.3365447f); /* log 2^-126 */
    vf clamped = vf_max(lowest, vf_min(vf_set(88.37f), x));
    vf n = vf_round(clamped * vf_set(1.44269504f));
    /* r = x - n log 2, in two steps because n log 2 needs more digits than a float has. */
    vf r = vf_fnma(n, vf_set(-2.12194440e-4f), vf_fnma(n, vf_set(0.693359375f), clamped));
    /* Minimax for e^r / 1 on |r| <= log(2) / 2 with the first two terms kept: 1e-8. */
    vf p = vf_fma(r, vf_set(1.393997110e-3f), vf_set(8.363173075e-3f));

    p = vf_fma(p, r, vf_set(4.166634754e-2f));
    p = vf_fma(p, r, vf_set(1.666657703e-1f));
    p = vf_fma(p, r, vf_set(5.000000062e-1f));
    p = vf_fma(p * r, r, r + vf_set(1.0f));
    return vf_zero_below(vf_scale_by_power(p, n), x, lowest);
}

/* 1 / (1 + e^-x). Below -80 it stays at e^-80: results too small to be normal numbers would take a
 * hundred times as long. */
static inline vf vf_sigmoid(vf x)
{
    return vf_set(1.0f) / (vf_set(1.0f) + vf_exp(vf_min(vf_set(80.0f), -x)));
}

/* To 3e-7, not relative to small results. */
static inline vf vf_tanh(vf x)
{
    return vf_set(1.0f) - vf_set(2.0f) / (vf_exp(x + x) + vf_set(1.0f));
}

static inline vf vf_silu(vf x)
{
    return x * vf_sigmoid(x);
}

/* To 5e-7 (Abramowitz and Stegun, 7.1.26), not relative to small results. */
static inline vf vf_erf(vf x)
{
    vf size = vf_abs(x);
    vf t = vf_set(1.0f) / vf_fma(size, vf_set(0.3275911f), vf_set(1.0f));
    vf p = vf_fma(t, vf_set(1.061405429f), vf_set(-1.453152027f));
    vf result;

    p = vf_fma(p, t, vf_set(1.421413741f));
    p = vf_fma(p, t, vf_set(-0.284496736f));
    p = vf_fma(p, t, vf_set(0.254829592f));
    result = vf_fnma(p * t, vf_exp(-x * x), vf_set(1.0f));
    return (vf)((vi)result ^ ((vi)x & vi_set(INT32_MIN)));
}

/* --- Other element types, exactly and with NaN kept --- */

#if SIMD_AVX512 || SIMD_AVX2

#if SIMD_AVX512
typedef __m256i v16; /* VF_WIDTH 16-bit lanes */
#else
typedef __m128i v16;
#endif

static inline v16 v16_load(const void *from)
{
    v16 v;

    memcpy(&v, from, sizeof v);
    return v;
}

/* VF_WIDTH bytes, each widened to 16 bits */
static inline v16 v16_load_bytes(const void *from)
{
#if SIMD_AVX512
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(from));
#else
    return _mm_cvtepu8_epi16(_mm_loadl_epi64(from));
#endif
}

static inline vf vf_from_f16(v16 bits)
{
#if SIMD_AVX512
    return (vf)_mm512_cvtph_ps(bits);
#else
    return (vf)_mm256_cvtph_ps(bits);
#endif
}

static inline vf vf_load_f16(const void *from)
{
    return vf_from_f16(v16_load(from));
}

static inline vf vf_load_bf16(const void *from)
{
#if SIMD_AVX512
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(v16_load(from)), 16);
#else
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(v16_load(from)), 16);
#endif
}

/* Through f16, whose conversion knows small numbers and takes no time for them: the same bits one
 * exponent field further, 2^8 too small. */
static inline vf vf_load_f8_e4m3(const void *from)
{
    v16 byte = v16_load_bytes(from);
#if SIMD_AVX512
    v16 magnitude = _mm256_slli_epi16(_mm256_and_si256(byte, _mm256_set1_epi16(0x7f)), 7);
    v16 sign = _mm256_slli_epi16(_mm256_and_si256(byte, _mm256_set1_epi16(0x80)), 8);
    v16 is_nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x3f80));
    v16 nan = _mm256_and_si256(is_nan, _mm256_set1_epi16(0x7e00));
    v16 half = _mm256_or_si256(_mm256_or_si256(magnitude, sign), nan);
#else
    v16 magnitude = _mm_slli_epi16(_mm_and_si128(byte, _mm_set1_epi16(0x7f)), 7);
    v16 sign = _mm_slli_epi16(_mm_and_si128(byte, _mm_set1_epi16(0x80)), 8);
    v16 is_nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x3f80));
    v16 nan = _mm_and_si128(is_nan, _mm_set1_epi16(0x7e00));
    v16 half = _mm_or_si128(_mm_or_si128(magnitude, sign), nan);
#endif
    return vf_from_f16(half) * vf_set(256.0f);
}

/* e5m2 is the upper half of f16. */
static inline vf vf_load_f8_e5m2(const void *from)
{
#if SIMD_AVX512
    return vf_from_f16(_mm256_slli_epi16(v16_load_bytes(from), 8));
#else
    return vf_from_f16(_mm_slli_epi16(v16_load_bytes(from), 8));
#endif
}

static inline vf vf_load_u8(const void *from)
{
#if SIMD_AVX512
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from)));
#else
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from)));
#endif
}

#else

static inline vf vf_load_each(enum dtype dtype, const void *from)
{
    vf v;

    for (int i = 0; i < VF_WIDTH; i++)
        v[i] = dtype_load(dtype, from, i);
    return v;
}

static inline vf vf_load_f16(const void *from)
{
    return vf_load_each(DTYPE_F16, from);
}

static inline vf vf_load_bf16(const void *from)
{
    return vf_load_each(DTYPE_BF16, from);
}

static inline vf vf_load_f8_e4m3(const void *from)
{
    return vf_load_each(DTYPE_F8_E4M3, from);
}

static inline vf vf_load_f8_e5m2(const void *from)
{
    return vf_load_each(DTYPE_F8_E5M2, from);
}

static inline vf vf_load_u8(const void *from)
{
    return vf_load_each(DTYPE_U8, from);
}

#endif

/* VF_WIDTH elements of any float type, or bytes; dtype is better a constant. */
static inline vf vf_load_dtype(enum dtype dtype, const void *from)
{
    switch (dtype) {
    case DTYPE_F16:
        return vf_load_f16(from);
    case DTYPE_BF16:
        return vf_load_bf16(from);
    case DTYPE_F8_E4M3:
        return vf_load_f8_e4m3(from);
    case DTYPE_F8_E5M2:
        return vf_load_f8_e5m2(from);
    case DTYPE_U8:
        return vf_load_u8(from);
    default:
        return vf_load(from);
    }
}

/* As vf_load_dtype for the first `count` <= VF_WIDTH elements; other lanes are 0. */
static inline vf vf_load_dtype_tail(enum dtype dtype, const void *from, int64_t count)
{
    unsigned char padded[VF_WIDTH * 4] = {0};

    memcpy(padded, from, (size_t)count * dtype_size(dtype));
    return vf_load_dtype(dtype, padded);
}

#endif
