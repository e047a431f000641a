/* The inner loop on AVX512-BF16: products of bf16 pairs, sums in f32. Operands are rounded to bf16,
 * one part in 256, so this level is for choosing by name only. */
#include "backend/cpu/gemm_split.h"

void LEVEL(gemm_begin)(void)
{
}

void LEVEL(gemm_end)(void)
{
}

void LEVEL(gemm_finish_rows)(float *rows, int64_t count, int64_t depth)
{
    for (int64_t r = 0; r < count; r++)
        split_row(rows + r * GEMM_ROW_STRIDE, depth);
}

void LEVEL(gemm_finish_panel)(float *panel, int64_t depth)
{
    split_panel(panel, depth);
}

/* `rows` is a constant where this is inlined, so that the sums live in registers. Of both operands
 * only the high planes are read. */
static inline __attribute__((always_inline)) void multiply(const struct gemm_tile *tile,
                                                           const int rows)
{
    __m512 sum[GEMM_MR][2];

    SIMD_UNROLL for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < split_depth(tile->depth); k += 2) {
        const char *b = (const char *)(tile->b + k * GEMM_NR);
        __m512bh first = (__m512bh)_mm512_loadu_si512(b);
        __m512bh second = (__m512bh)_mm512_loadu_si512(b + 64);

        SIMD_UNROLL for (int r = 0; r < rows; r++)
        {
            const char *a = (const char *)(tile->a + r * GEMM_ROW_STRIDE);
            int32_t pair;
            __m512bh pairs;

            memcpy(&pair, a + k * (int64_t)sizeof(uint16_t), sizeof pair);
            pairs = (__m512bh)_mm512_set1_epi32(pair);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], pairs, first);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], pairs, second);
        }
    }
    SIMD_UNROLL for (int r = 0; r < rows; r++)
    {
        add_rest(sum[r], tile, r, split_depth(tile->depth));
        add_row_to_out(tile, r, sum[r]);
    }
}

void LEVEL(gemm_kernel)(const struct gemm_tile *tile)
{
    MULTIPLY_TILE(tile, multiply);
}
