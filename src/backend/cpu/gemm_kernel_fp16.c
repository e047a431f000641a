/* The inner loop on AVX512-FP16: 32 products in f16 at a time, summed in f16 over SPAN k's and then
 * in f32. Operands are rounded to f16, one part in 2048, and must lie below 65504; this level is
 * for choosing by name only. */
#include "backend/cpu/gemm_edges.h"

#define SPAN 16 /* more would lose small sums, fewer the speed */

static int64_t half_depth(int64_t depth)
{
    return depth / SPAN * SPAN;
}

void LEVEL(gemm_begin)(void)
{
}

void LEVEL(gemm_end)(void)
{
}

static inline __m256i round_to_f16(const float *values)
{
    return _mm512_cvtps_ph(_mm512_loadu_ps(values), _MM_FROUND_TO_NEAREST_INT);
}

/* Each value of the first half_depth(depth) becomes two equal ones of f16 in place: 32 bits go to
 * all lanes in a load, 16 bits would need the port that multiplies. */
void LEVEL(gemm_finish_rows)(float *rows, int64_t count, int64_t depth)
{
    for (int64_t r = 0; r < count; r++, rows += GEMM_ROW_STRIDE)
        for (int64_t k = 0; k < half_depth(depth); k += 16) {
            __m512i halves = _mm512_cvtepu16_epi32(round_to_f16(rows + k));

            _mm512_storeu_si512(rows + k, _mm512_or_si512(halves, _mm512_slli_epi32(halves, 16)));
        }
}

/* Each k's GEMM_NR values, as f16 in the first half of where they were. */
void LEVEL(gemm_finish_panel)(float *panel, int64_t depth)
{
    for (int64_t k = 0; k < half_depth(depth); k++, panel += GEMM_NR) {
        __m256i first = round_to_f16(panel), second = round_to_f16(panel + 16);

        _mm256_storeu_si256((void *)panel, first);
        _mm256_storeu_si256((void *)(panel + 8), second);
    }
}

static inline __m512h load_columns(const struct gemm_tile *tile, int64_t k)
{
    return _mm512_loadu_ph(tile->b + k * GEMM_NR);
}

static inline __m512h load_row(const struct gemm_tile *tile, int row, int64_t k)
{
    int32_t pair;

    memcpy(&pair, tile->a + row * GEMM_ROW_STRIDE + k, sizeof pair);
    return _mm512_castsi512_ph(_mm512_set1_epi32(pair));
}

static inline void add_halves(__m512 sum[2], __m512h halves)
{
    __m512i bits = _mm512_castph_si512(halves);

    sum[0] = _mm512_add_ps(sum[0], _mm512_cvtph_ps(_mm512_castsi512_si256(bits)));
    sum[1] = _mm512_add_ps(sum[1], _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1)));
}

static inline __attribute__((always_inline)) void multiply(const struct gemm_tile *tile,
                                                           const int rows)
{
    __m512 sum[GEMM_MR][2];

    SIMD_UNROLL for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < half_depth(tile->depth); k += SPAN) {
        __m512h halves[GEMM_MR];

        SIMD_UNROLL for (int r = 0; r < rows; r++) halves[r] = _mm512_setzero_ph();
        for (int64_t i = k; i < k + SPAN; i++) {
            __m512h columns = load_columns(tile, i);

            SIMD_UNROLL for (int r = 0; r < rows; r++) halves[r] =
                _mm512_fmadd_ph(load_row(tile, r, i), columns, halves[r]);
        }
        SIMD_UNROLL for (int r = 0; r < rows; r++) add_halves(sum[r], halves[r]);
    }
    SIMD_UNROLL for (int r = 0; r < rows; r++)
    {
        add_rest(sum[r], tile, r, half_depth(tile->depth));
        add_row_to_out(tile, r, sum[r]);
    }
}

void LEVEL(gemm_kernel)(const struct gemm_tile *tile)
{
    MULTIPLY_TILE(tile, multiply);
}
