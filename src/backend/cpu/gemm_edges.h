/* What kernels of 16-bit products share: the k's and the sums that stay f32, and partial tiles. */
#ifndef BACKEND_CPU_GEMM_EDGES_H
#define BACKEND_CPU_GEMM_EDGES_H

#include "backend/cpu/gemm.h"

/* Adds the k's from `first` on, which are still f32, to a row of the tile's sums. */
static inline void add_rest(__m512 sum[2], const struct gemm_tile *tile, int row, int64_t first)
{
    const float *a = tile->a + row * GEMM_ROW_STRIDE;

    for (int64_t k = first; k < tile->depth; k++) {
        __m512 value = _mm512_set1_ps(a[k]);
        const float *b = tile->b + k * GEMM_NR;

        sum[0] = _mm512_fmadd_ps(value, _mm512_loadu_ps(b), sum[0]);
        sum[1] = _mm512_fmadd_ps(value, _mm512_loadu_ps(b + 16), sum[1]);
    }
}

/* out row = what it was, or the bias, + sum */
static inline void add_row_to_out(const struct gemm_tile *tile, int row, const __m512 sum[2])
{
    for (int half = 0; half < 2; half++) {
        vmask mask = vmask_first(max_i64(tile->columns - half * 16, 0));
        float *out = tile->out[row] + half * 16;
        __m512 start = _mm512_setzero_ps();

        if (!tile->is_first)
            start = _mm512_maskz_loadu_ps(mask, out);
        else if (tile->bias)
            start = _mm512_maskz_loadu_ps(mask, tile->bias + half * 16);
        _mm512_mask_storeu_ps(out, mask, _mm512_add_ps(start, sum[half]));
    }
}

/* Full tiles are the rule; edges take their rows one by one. */
#define MULTIPLY_TILE(tile, multiply)                                                              \
    do {                                                                                           \
        struct gemm_tile row_tile = *(tile);                                                       \
                                                                                                   \
        if ((tile)->rows == GEMM_MR) {                                                             \
            multiply((tile), GEMM_MR);                                                             \
            break;                                                                                 \
        }                                                                                          \
        for (int r = 0; r < (tile)->rows; r++) {                                                   \
            multiply(&row_tile, 1);                                                                \
            row_tile.a += GEMM_ROW_STRIDE;                                                         \
            row_tile.out++;                                                                        \
        }                                                                                          \
    } while (0)

#endif
