/* The matrix product behind linear and conv2d: out[m, n] = sum_k a[m, k] b[n, k] + bias[n].
 *
 * The loops are those of Goto and van de Geijn 2008 ("Anatomy of high-performance matrix
 * multiplication"): both operands are cut into blocks that fit the caches and packed, so that the
 * kernel reads memory in order. b, the weights, goes into panels of GEMM_NR columns [k][GEMM_NR]; a
 * goes into panels of GEMM_MR rows, each row contiguous. Where a comes from (rows of a tensor,
 * patches of a picture) is the caller's pack_rows.
 *
 * An output element is summed over k in order, in blocks of GEMM_KC that start from zero and are
 * added up in order: nothing else enters its value, neither the other rows nor the threads.
 */
#ifndef BACKEND_CPU_GEMM_H
#define BACKEND_CPU_GEMM_H

#include "backend/backend.h"
#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/simd.h"
#include "backend/host_stream.h"
#include "base/size.h"

/* The kernel's tile of the output: GEMM_MR rows of GEMM_NR columns. For f32, two vectors for b and
 * one for a leave 29 (AVX-512) or 13 (AVX2) registers for sums. */
#if defined(__AMX_BF16__)
#define GEMM_MR 32
#elif defined(__AVX512FP16__)
#define GEMM_MR 8 /* sums in f16 as well */
#elif SIMD_AVX512
#define GEMM_MR 14
#else
#define GEMM_MR 6
#endif
#define GEMM_NR (2 * VF_WIDTH)

/* Depth of a block: the sums of a tile go to memory every 384 products, and a panel of rows takes
 * 22 KiB of L1. 256 and 320 were slower. */
#define GEMM_KC 384
/* Floats from one packed row to the next: one line more than the block, since rows that lie a power
 * of two apart would compete for the same lines of L1. */
#define GEMM_ROW_STRIDE (GEMM_KC + 16)
#define GEMM_ROWS_PANEL ((int64_t)GEMM_MR * GEMM_ROW_STRIDE) /* floats */

struct gemm_job;

/* Writes rows [row, row + rows) of a, columns [k, k + depth), GEMM_ROW_STRIDE apart. */
typedef void (*gemm_pack_rows)(const struct gemm_job *job, float *to, int64_t row, int64_t rows,
                               int64_t k, int64_t depth);

struct gemm_weights {
    const void *data; /* [n, channels, taps], perhaps unaligned; taps is 1 for a linear layer */
    enum dtype dtype;
    int64_t row_stride; /* elements */
    int64_t channels, taps;
    const float *scale;   /* NULL: 1 */
    int64_t scale_stride; /* 0: one scale for all rows; 1 */
};

struct gemm_job {
    struct stream *stream;
    int64_t m, n;
    int64_t k; /* channels * taps; the taps of a's columns come first: [tap, channel] */
    struct gemm_weights weights;
    const float *bias;  /* NULL: none */
    struct tensor *out; /* f32, m rows of n */
    gemm_pack_rows pack_rows;
    bool shares_rows; /* how gemm_driver.c cuts the work */
    const void *rows; /* what pack_rows knows about a */
};

/* Checks what every product shares: f32 activations, float weights with contiguous rows. False
 * after failing the stream. Then the caller fills in m, k, pack_rows and rows. */
bool LEVEL(gemm_prepare)(struct gemm_job *job, struct stream *stream, struct tensor *out,
                         const struct tensor *x, const struct linear *layer);
void LEVEL(gemm_run)(const struct gemm_job *job);

/* Floats of a packed panel of GEMM_NR columns and `depth` k's. */
static inline int64_t gemm_panel_floats(int64_t depth)
{
    return depth * GEMM_NR;
}

/* Packs the columns [n, n + GEMM_NR) of b, zeros beyond the last, k in [k, k + depth); all k's for
 * weights with taps. */
void LEVEL(gemm_pack_panel)(const struct gemm_weights *weights, float *to, int64_t n_count,
                            int64_t n, int64_t k, int64_t depth);

/* Kernels of 16-bit products want packed operands in another form: gemm_finish_rows rewrites the
 * rows of a panel and gemm_finish_panel a panel of columns, in place, right after packing. A panel
 * of columns has all its k's from a multiple of GEMM_KC on. Each thread calls gemm_begin before its
 * first tile and gemm_end after its last. */
#if defined(__AMX_BF16__) || defined(__AVX512FP16__) || defined(__AVX512BF16__)
void LEVEL(gemm_begin)(void);
void LEVEL(gemm_end)(void);
void LEVEL(gemm_finish_rows)(float *rows, int64_t count, int64_t depth);
void LEVEL(gemm_finish_panel)(float *panel, int64_t depth);
#else
static inline void LEVEL(gemm_begin)(void)
{
}

static inline void LEVEL(gemm_end)(void)
{
}

static inline void LEVEL(gemm_finish_rows)(float *rows, int64_t count, int64_t depth)
{
    (void)rows;
    (void)count;
    (void)depth;
}

static inline void LEVEL(gemm_finish_panel)(float *panel, int64_t depth)
{
    (void)panel;
    (void)depth;
}
#endif

/* One cache line for each four k's. */
#define GEMM_FETCH_BYTES (GEMM_KC / 4 * 64)

/* One tile: out rows += a b over `depth`, or = bias + a b for the first block of k. */
struct gemm_tile {
    const float *a;    /* GEMM_MR rows, GEMM_ROW_STRIDE apart */
    const float *b;    /* [depth][GEMM_NR] */
    float *const *out; /* `rows` pointers to the tile's first column */
    const float *bias; /* of the tile's first column; NULL: none */
    int64_t depth;
    int rows, columns; /* up to GEMM_MR and GEMM_NR */
    bool is_first;
    /* GEMM_FETCH_BYTES that later tiles read, fetched into L2 meanwhile. A hint, but a page that is
     * not there costs time. */
    const char *next;
};

void LEVEL(gemm_kernel)(const struct gemm_tile *tile);

#endif
