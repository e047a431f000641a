/* The inner loop: a tile of the output held in registers while k runs. */
#include "backend/cpu/gemm.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* What the sums of the tile are added to. */
static ALWAYS_INLINE vf start_of(const struct gemm_tile *tile, int row, int vector, vmask mask)
{
    if (!tile->is_first)
        return vf_load_masked(mask, tile->out[row] + vector * VF_WIDTH);
    return tile->bias ? vf_load_masked(mask, tile->bias + vector * VF_WIDTH) : vf_zero();
}

static ALWAYS_INLINE void add_to_out(const struct gemm_tile *tile, int row, int vector, vf sum)
{
    vmask mask = vmask_first(tile->columns - vector * VF_WIDTH);

    vf_store_masked(mask, tile->out[row] + vector * VF_WIDTH,
                    start_of(tile, row, vector, mask) + sum);
}

/* One k: every row of a times the panel's row of b. */
static ALWAYS_INLINE void add_products(vf sum[GEMM_MR][2], const float *a, const float *b,
                                       const int rows, const int vectors)
{
    vf first = vf_load(b), second = vectors > 1 ? vf_load(b + VF_WIDTH) : vf_zero();

#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        vf value = vf_set(a[r * GEMM_ROW_STRIDE]);

        sum[r][0] = vf_fma(value, first, sum[r][0]);
        if (vectors > 1)
            sum[r][1] = vf_fma(value, second, sum[r][1]);
    }
}

/* Into L2, not L1: there it would push out the panels in use. */
static ALWAYS_INLINE void fetch(const char *line)
{
    __builtin_prefetch(line, 0, 2);
}

/* `rows` and `vectors` are constants where this is inlined, so that the sums live in registers. */
static ALWAYS_INLINE void multiply(const struct gemm_tile *tile, const int rows, const int vectors)
{
    vf sum[GEMM_MR][2];
    const float *a = tile->a, *b = tile->b;
    const char *next_b = tile->next_b;
    int64_t left = tile->depth;

#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sum[r][v] = vf_zero();
    for (int i = 0; left >= 16; i++, left -= 16) {
        const char *next_a = tile->next_a[i];

#ifndef NO_FC
        fetch((const char *)tile->out[i]);
        fetch((const char *)(tile->out[i] + VF_WIDTH));
#endif
        for (int j = 0; j < 4; j++, a += 4, b += 4 * GEMM_NR, next_a += 64, next_b += 64) {
#ifndef NO_FA
            fetch(next_a);
#endif
#ifndef NO_FB
            fetch(next_b);
#endif
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++)
                add_products(sum, a + k, b + k * GEMM_NR, rows, vectors);
        }
    }
    for (; left > 0; left--, a++, b += GEMM_NR)
        add_products(sum, a, b, rows, vectors);
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            add_to_out(tile, r, v, sum[r][v]);
}

#define ROWS_CASE(n)                                                                               \
    case n:                                                                                        \
        if (tile->columns > VF_WIDTH)                                                              \
            multiply(tile, n, 2);                                                                  \
        else                                                                                       \
            multiply(tile, n, 1);                                                                  \
        break;

void LEVEL(gemm_kernel)(const struct gemm_tile *tile)
{
    switch (tile->rows) {
        ROWS_CASE(1)
        ROWS_CASE(2)
        ROWS_CASE(3)
        ROWS_CASE(4)
        ROWS_CASE(5)
        ROWS_CASE(6)
#if GEMM_MR > 6
        ROWS_CASE(7)
        ROWS_CASE(8)
        ROWS_CASE(9)
        ROWS_CASE(10)
        ROWS_CASE(11)
        ROWS_CASE(12)
        ROWS_CASE(13)
        ROWS_CASE(14)
#endif
    }
}
