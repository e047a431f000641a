/* Weights, as they lie in the model file, to f32 panels in the order in which the kernel reads.
 *
 * A weight's row runs along k but the kernel wants vectors across rows, so VF_WIDTH rows are
 * converted into a small buffer that stays in L1, and squares of it are transposed in registers.
 */
#include "backend/cpu/gemm.h"

#define RUN 64 /* k's converted at a time; a multiple of VF_WIDTH */

/* VF_WIDTH rows of RUN converted weights. */
struct converted {
    float row[VF_WIDTH][RUN];
};

static inline __attribute__((always_inline)) void
convert_run(enum dtype dtype, float *to, const char *from, int64_t count, float scale)
{
    const int64_t size = (int64_t)dtype_size(dtype);
    int64_t i = 0;

    for (; i + VF_WIDTH <= count; i += VF_WIDTH)
        vf_store(to + i, vf_load_dtype(dtype, from + i * size) * vf_set(scale));
    if (i < count)
        vf_store(to + i, vf_load_dtype_tail(dtype, from + i * size, count - i) * vf_set(scale));
}

static inline void fetch_run(const char *from, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(from + i);
}

/* Rows [n, n + VF_WIDTH), k in [k, k + count); rows beyond the last are zero. */
static void convert_rows(const struct gemm_weights *weights, struct converted *to, int64_t n_count,
                         int64_t n, int64_t k, int64_t count)
{
    int64_t size = (int64_t)dtype_size(weights->dtype);

    for (int64_t r = 0; r < VF_WIDTH; r++) {
        const char *from = (const char *)weights->data + ((n + r) * weights->row_stride + k) * size;
        float scale = 1.0f;

        if (n + r >= n_count) {
            memset(to->row[r], 0, sizeof to->row[r]);
            continue;
        }
        fetch_run(from + RUN * size, RUN * size);
        if (weights->scale)
            scale = weights->scale[(n + r) * weights->scale_stride];
        switch (weights->dtype) {
        case DTYPE_F16:
            convert_run(DTYPE_F16, to->row[r], from, count, scale);
            break;
        case DTYPE_BF16:
            convert_run(DTYPE_BF16, to->row[r], from, count, scale);
            break;
        case DTYPE_F8_E4M3:
            convert_run(DTYPE_F8_E4M3, to->row[r], from, count, scale);
            break;
        case DTYPE_F8_E5M2:
            convert_run(DTYPE_F8_E5M2, to->row[r], from, count, scale);
            break;
        default:
            convert_run(DTYPE_F32, to->row[r], from, count, scale);
        }
    }
}

#if SIMD_AVX512

/* The quarter `column`.. of rows first, first + 4, first + 8, first + 12, one to each 128 bits. */
static inline __m512 load_quarters(const struct converted *from, int first, int64_t column)
{
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(from->row[first] + column));

    v = _mm512_insertf32x4(v, _mm_loadu_ps(from->row[first + 4] + column), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(from->row[first + 8] + column), 2);
    return _mm512_insertf32x4(v, _mm_loadu_ps(from->row[first + 12] + column), 3);
}

/* Columns [column, column + 4) of the rows, as vectors. Loads place the 128-bit pieces, which
 * spares half of the shuffles: the one port that shuffles is the bottleneck. */
static inline void transpose_four(const struct converted *from, int64_t column, vf out[4])
{
    __m512 a = load_quarters(from, 0, column), b = load_quarters(from, 1, column);
    __m512 c = load_quarters(from, 2, column), d = load_quarters(from, 3, column);
    __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
    __m512d ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
    __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
    __m512d cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));

    out[0] = (vf)_mm512_unpacklo_pd(ab_low, cd_low);
    out[1] = (vf)_mm512_unpackhi_pd(ab_low, cd_low);
    out[2] = (vf)_mm512_unpacklo_pd(ab_high, cd_high);
    out[3] = (vf)_mm512_unpackhi_pd(ab_high, cd_high);
}

#else

static inline __m256 load_halves(const struct converted *from, int first, int64_t column)
{
    __m256 v = _mm256_castps128_ps256(_mm_loadu_ps(from->row[first] + column));

    return _mm256_insertf128_ps(v, _mm_loadu_ps(from->row[first + 4] + column), 1);
}

/* Columns [column, column + 4) of the rows, as vectors. Loads place the 128-bit pieces, which
 * spares half of the shuffles: the one port that shuffles is the bottleneck. */
static inline void transpose_four(const struct converted *from, int64_t column, vf out[4])
{
    __m256 a = load_halves(from, 0, column), b = load_halves(from, 1, column);
    __m256 c = load_halves(from, 2, column), d = load_halves(from, 3, column);
    __m256d ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
    __m256d ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
    __m256d cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
    __m256d cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));

    out[0] = (vf)_mm256_unpacklo_pd(ab_low, cd_low);
    out[1] = (vf)_mm256_unpackhi_pd(ab_low, cd_low);
    out[2] = (vf)_mm256_unpacklo_pd(ab_high, cd_high);
    out[3] = (vf)_mm256_unpackhi_pd(ab_high, cd_high);
}

#endif

/* Where in its panel the next weight of a row goes: the file has [channel, tap]. */
struct destination {
    float *row;
    float *channel; /* the row of this channel's first tap */
    int64_t tap, taps;
    int64_t tap_step; /* floats */
};

static inline float *next_row(struct destination *to)
{
    float *row = to->row;

    to->row += to->tap_step;
    if (++to->tap == to->taps) {
        to->tap = 0;
        to->channel += GEMM_NR;
        to->row = to->channel;
    }
    return row;
}

static void transpose_run(const struct converted *from, struct destination *to, int64_t count)
{
    vf column[4];

    for (int64_t i = 0; i < count; i += 4) {
        transpose_four(from, i, column);
        for (int64_t j = 0; j < 4 && i + j < count; j++)
            vf_store(next_row(to), column[j]);
    }
}

/* As transpose_run for weights without taps: row after row. */
static void transpose_plain_run(const struct converted *from, float *to, int64_t count)
{
    vf column[4];
    int64_t i = 0;

    for (; i + 4 <= count; i += 4, to += 4 * GEMM_NR) {
        transpose_four(from, i, column);
        vf_store(to, column[0]);
        vf_store(to + GEMM_NR, column[1]);
        vf_store(to + 2 * GEMM_NR, column[2]);
        vf_store(to + 3 * GEMM_NR, column[3]);
    }
    if (i == count)
        return;
    transpose_four(from, i, column);
    for (int64_t j = 0; i + j < count; j++)
        vf_store(to + j * GEMM_NR, column[j]);
}

void LEVEL(gemm_pack_panel)(const struct gemm_weights *weights, float *to, int64_t n_count,
                            int64_t n, int64_t k, int64_t depth)
{
    struct converted converted;
    struct destination half[2];

    for (int h = 0; h < 2; h++)
        half[h] = (struct destination){.row = to + h * VF_WIDTH,
                                       .channel = to + h * VF_WIDTH,
                                       .taps = weights->taps,
                                       .tap_step = weights->channels * GEMM_NR};
    for (int64_t i = 0; i < depth; i += RUN) {
        int64_t count = min_i64(RUN, depth - i);

        for (int h = 0; h < 2; h++) {
            convert_rows(weights, &converted, n_count, n + h * VF_WIDTH, k + i, count);
            if (weights->taps == 1)
                transpose_plain_run(&converted, to + i * GEMM_NR + h * VF_WIDTH, count);
            else
                transpose_run(&converted, &half[h], count);
        }
    }
}
