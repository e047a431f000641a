/* f32 operands as pairs of bf16, for kernels that multiply bf16: x = high + low, with 16 bits of
 * precision together.
 *
 * Packed f32 rows and panels are rewritten in place, in as many bytes: the first split_depth(depth)
 * k's as two planes of bf16, the rest stays f32.
 *   row    high[split], low[split], f32[depth - split]
 *   panel  for each two k's: high pairs [GEMM_NR][2], low pairs [GEMM_NR][2]; then f32 rows
 */
#ifndef BACKEND_CPU_GEMM_SPLIT_H
#define BACKEND_CPU_GEMM_SPLIT_H

#include "backend/cpu/gemm_edges.h"

#define SPLIT_STEP 32 /* k's of a tile of bf16 */

static inline int64_t split_depth(int64_t depth)
{
    return depth / SPLIT_STEP * SPLIT_STEP;
}

static inline __m256i round_to_bf16(__m512 v)
{
    return (__m256i)_mm512_cvtneps_pbh(v);
}

/* What rounding to bf16 left over, itself rounded. */
static inline __m256i rest_as_bf16(__m512 v, __m256i high)
{
    __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);

    return round_to_bf16(_mm512_sub_ps(v, _mm512_castsi512_ps(bits)));
}

static inline void split_row(float *row, int64_t depth)
{
    uint16_t planes[2][GEMM_KC];
    int64_t split = split_depth(depth);

    for (int64_t k = 0; k < split; k += 16) {
        __m512 v = _mm512_loadu_ps(row + k);
        __m256i high = round_to_bf16(v);

        _mm256_storeu_si256((void *)(planes[0] + k), high);
        _mm256_storeu_si256((void *)(planes[1] + k), rest_as_bf16(v, high));
    }
    memcpy(row, planes[0], (size_t)split * sizeof **planes);
    memcpy((uint16_t *)(void *)row + split, planes[1], (size_t)split * sizeof **planes);
}

/* a's and b's elements in turn: the pairs of 16 columns. */
static inline __m512i pairs_of(__m256i a, __m256i b)
{
    return _mm512_or_si512(_mm512_cvtepu16_epi32(a),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

static inline void split_panel(float *panel, int64_t depth)
{
    int64_t split = split_depth(depth);

    for (int64_t k = 0; k < split; k += 2) {
        float *even = panel + k * GEMM_NR, *odd = even + GEMM_NR;
        __m512i planes[2][2];

        for (int half = 0; half < 2; half++) {
            __m512 a = _mm512_loadu_ps(even + half * 16), b = _mm512_loadu_ps(odd + half * 16);
            __m256i a_high = round_to_bf16(a), b_high = round_to_bf16(b);

            planes[0][half] = pairs_of(a_high, b_high);
            planes[1][half] = pairs_of(rest_as_bf16(a, a_high), rest_as_bf16(b, b_high));
        }
        memcpy(even, planes, sizeof planes);
    }
}

#endif
