/* The inner loop: a tile of the output held in registers while k runs. */
#include "backend/cpu/gemm.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* How many k's ahead lines of b are brought from L2 to L1. The CPU would do most of it by itself,
 * but not when the core's other hyperthread takes half of its buffers: then the kernel falls from
 * 95 to 89 % of its peak without this, and from 98 to 95 % with it. */
#define B_AHEAD 8
#define UNROLL 4 /* k's in the loop's body */

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

    SIMD_UNROLL
    for (int r = 0; r < rows; r++) {
        vf value = vf_set(a[r * GEMM_ROW_STRIDE]);

        sum[r][0] = vf_fma(value, first, sum[r][0]);
        if (vectors > 1)
            sum[r][1] = vf_fma(value, second, sum[r][1]);
    }
}

static ALWAYS_INLINE void add_run(vf sum[GEMM_MR][2], const float *a, const float *b,
                                  const int rows, const int vectors)
{
    SIMD_UNROLL
    for (int k = 0; k < UNROLL; k++) {
        for (int line = 0; line < GEMM_NR; line += 16)
            __builtin_prefetch(b + (k + B_AHEAD) * GEMM_NR + line);
        add_products(sum, a + k, b + k * GEMM_NR, rows, vectors);
    }
}

/* Into L2, not L1: there it would push out the panels in use. */
static ALWAYS_INLINE void fetch(const void *line)
{
    __builtin_prefetch(line, 0, 2);
}

/* `rows` and `vectors` are constants where this is inlined. */
static ALWAYS_INLINE void multiply(const struct gemm_tile *tile, const int rows, const int vectors)
{
    vf sum[GEMM_MR][2];
    const float *a = tile->a, *b = tile->b;
    const char *next = tile->next;
    int64_t left = tile->depth;

    SIMD_UNROLL
    for (int r = 0; r < rows; r++)
        sum[r][0] = sum[r][1] = vf_zero();
    for (int r = 0; r < rows && left >= UNROLL; r++, left -= UNROLL) {
        fetch(next);
        fetch(tile->out[r]);
        fetch(tile->out[r] + VF_WIDTH);
        add_run(sum, a, b, rows, vectors);
        a += UNROLL;
        b += UNROLL * GEMM_NR;
        next += 64;
    }
    for (; left >= UNROLL; left -= UNROLL) {
        fetch(next);
        add_run(sum, a, b, rows, vectors);
        a += UNROLL;
        b += UNROLL * GEMM_NR;
        next += 64;
    }
    for (; left > 0; left--, a++, b += GEMM_NR)
        add_products(sum, a, b, rows, vectors);
    SIMD_UNROLL
    for (int r = 0; r < rows; r++) {
        add_to_out(tile, r, 0, sum[r][0]);
        if (vectors > 1)
            add_to_out(tile, r, 1, sum[r][1]);
    }
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
