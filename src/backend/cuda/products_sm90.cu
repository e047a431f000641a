/* FP8 products on Hopper: out = epilogue(x w^T), x and w E4M3, sums in the tensor cores throughout.
 *
 * One warpgroup loads (TMA into a ring of K slices of both operands, 128 bytes a row), two compute
 * by wgmma out of shared memory. The grid is persistent, tiles go round in a fixed order: a few
 * row tiles times all column tiles, so that CTAs which run together read the same slices from L2.
 * Every tile takes the same K slices in the same order: a row's bits do not depend on M.
 *
 * Two ways of sharing the work between the computing warpgroups:
 *  - in turns: each one has its own tile of 128 x 128, and its epilogue goes on under the products
 *    of the other one. Or of 128 x 152: 2432, the width of Large, is 16 times that, and 64 x 16
 *    tiles fill 132 multiprocessors 97 % where 64 x 19 fill 92 %;
 *  - together: 64 rows each of a tile of 128 x 256. Least traffic, for a column slice serves more
 *    rows and columns; but the tensor cores idle during the epilogue.
 * Either way alone or in clusters of two CTAs with adjacent row tiles, where each loads half of the
 * slice of w for both.
 *
 * What bounds it: in the time of m64n128k32 (64 cycles of an idealised multiprocessor) products
 * read 6 KB of shared memory (m64n256k32: 5 KB), TMA writes another 4 (3) KB, and L2 has to deliver
 * 4 KB alone, 3 KB in a cluster (3 and 2 KB).
 */
#include "backend/cuda/products_sm90.h"

#include <cuda.h>
#include <cuda_runtime.h>
#include <string.h>

namespace {

/* Bodies are empty but for sm_90a, and then nobody looks at most of the constants. */
#pragma nv_diag_suppress 177

constexpr int cta_threads = 384;
constexpr int tile_rows = 128;
constexpr int slice_bytes = 128;  /* of K, and one row of the 128-byte swizzle */
constexpr int chunk_columns = 64; /* what a warp finishes at once, of 16 rows; a head */
/* Rows of the staging area are padded so that neither the accumulator layout nor 16-byte pieces
 * meet in a bank. */
constexpr int staging_bf16 = chunk_columns * 2 + 16;
constexpr int staging_e4m3 = chunk_columns + 16;
constexpr int staging_bytes = 16 * staging_bf16; /* of a warp */
constexpr int most_shared_bytes = 232448;
/* The 168 registers a thread that a launch gets are shared out anew: 3 x 168 = 2 x 240 + 24. More
 * would wait for ever. */
constexpr int math_registers = 240, load_registers = 24;

/* The work of a kernel. in_turns: see above; cluster: CTAs in one. */
template <bool turns, int columns, int cluster_size> struct shape {
    static constexpr bool in_turns = turns;
    static constexpr int cluster = cluster_size;
    static constexpr int tile_columns = columns;
    static constexpr int accumulators = turns ? columns : columns / 2; /* of a thread */
    /* The columns that one CTA loads, in whole groups of 8: perhaps a few more than are used. */
    static constexpr int part_columns = (columns / cluster + 7) / 8 * 8;
    static constexpr int x_bytes = tile_rows * slice_bytes;
    static constexpr int w_bytes = cluster * part_columns * slice_bytes;
    /* less staging areas, barriers and what alignment costs */
    static constexpr int stages =
        (most_shared_bytes - 8 * staging_bytes - 256 - 1024) / (x_bytes + w_bytes);
    /* Shared memory, from a multiple of 1024, which the swizzle wants. Barriers: a stage is full
     * when TMA has filled it and free when everybody has read it, in both CTAs of a cluster, for
     * either one writes into both. */
    static constexpr int x_at = 0;
    static constexpr int w_at = x_at + stages * x_bytes;
    static constexpr int staging_at = w_at + stages * w_bytes;
    static constexpr int full_at = staging_at + 8 * staging_bytes;
    static constexpr int free_at = full_at + 8 * stages;
    static constexpr int shared_bytes = free_at + 8 * stages + 1024; /* see attention_sm90.cu */
    static_assert(shared_bytes <= most_shared_bytes, "more shared memory than there is");
    /* Row tiles (of a cluster) that are walked over before the next column tile. */
    static constexpr int group_rows = 16 / cluster;
};

struct plan {
    CUtensorMap x, w;
    const float *x_scale, *w_scale, *out_scale, *q_norm, *k_norm;
    const uint16_t *bias, *gate; /* BF16 */
    unsigned char *out;
    int64_t gate_stride;
    uint32_t out_row_step, out_sample_step; /* in units of 16 bytes */
    int m, n, rows_per_sample, norm_columns;
    int slices;                /* of K */
    int row_tiles, tile_count; /* counted in what a cluster does at once */
    int grid, variant;
    float epsilon;
    product_sm90_epilogue epilogue;
};
static_assert(sizeof(plan) <= sizeof(product_sm90_plan), "product_sm90_plan is too small");

#define DEVICE __device__ __forceinline__

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* --- Barriers and copies --- */

DEVICE void barrier_init(uint32_t at, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}

DEVICE void barrier_expect(uint32_t at, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
                 : "memory");
}

/* At the same barrier of CTA `rank` of the cluster. Not .release.cluster: that costs a fence of all
 * memory, while only wgmma's reads, complete by now, have to be over. */
DEVICE void barrier_arrive_at(uint32_t at, int rank)
{
    asm volatile("{\n.reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(at),
                 "r"(rank) : "memory");
}

DEVICE void barrier_arrive(uint32_t at)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}

/* Returns once the phase of this parity has completed. */
DEVICE void barrier_wait(uint32_t at, uint32_t parity)
{
    asm volatile("{\n.reg .pred done;\nagain:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}\n" ::"r"(at), "r"(parity) : "memory");
}

/* Every thread of both CTAs. */
DEVICE void cluster_meet()
{
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

DEVICE void load_box(uint32_t to, const CUtensorMap *map, uint32_t full, int k, int row)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(to), "l"(map), "r"(full), "r"(k), "r"(row)
                 : "memory");
}

/* To the same place in both CTAs of the cluster, and told to the barrier of each. */
DEVICE void load_box_for_both(uint32_t to, const CUtensorMap *map, uint32_t full, int k, int row)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to), "l"(map),
                 "r"(full), "r"(k), "r"(row), "h"((uint16_t)3)
                 : "memory");
}

/* A place in the ring of stages, and the parity of the round. */
template <int stages> struct ring_place {
    int stage;
    uint32_t parity;
    DEVICE void advance()
    {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
    DEVICE void skip(int count)
    {
        unsigned all = (unsigned)(stage + count), rounds = all / stages;
        stage = (int)(all - rounds * stages);
        parity ^= rounds & 1;
    }
};

/* --- wgmma --- */

/* Matrix of 128-byte rows along K, 128-byte swizzle: 1024 bytes between groups of 8 rows; 32 more
 * of K (32 bytes) are 32 bytes further in the row. The leading offset means nothing. */
DEVICE uint64_t matrix_descriptor(uint32_t address)
{
    return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)(1024 >> 4) << 16 |
           (uint64_t)((address & 0x3ffff) >> 4);
}
constexpr int k_step_32 = 32 >> 4;
constexpr int row_step_64 = 64 * slice_bytes >> 4;

DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending> DEVICE void products_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

/* Keeps the compiler from moving uses of accumulators across this point. */
template <int n> DEVICE void pin(float (&x)[n])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("" : "+f"(x[i])::"memory");
}

#define ACCUMULATORS_8(d, i)                                                                       \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define ACCUMULATORS_32(d, i)                                                                      \
    ACCUMULATORS_8(d, i), ACCUMULATORS_8(d, i + 8), ACCUMULATORS_8(d, i + 16),                     \
        ACCUMULATORS_8(d, i + 24)
#define NAMES_64                                                                                   \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_76                                                                                   \
    NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75"
#define NAMES_128                                                                                  \
    NAMES_64 ", "                                                                                  \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "   \
    "%127"

/* d[from ..] (+)= x w^T: 64 rows, 128 columns, 32 of K. */
template <int from, int n>
DEVICE void multiply_128(float (&d)[n], uint64_t x, uint64_t w, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 "
                 "{" NAMES_64 "}, %64, %65, p, 1, 1;\n}\n"
                 : ACCUMULATORS_32(d, from), ACCUMULATORS_32(d, from + 32)
                 : "l"(x), "l"(w), "r"(accumulate));
}

/* 64 rows, 152 columns, 32 of K. */
template <int from, int n>
DEVICE void multiply_152(float (&d)[n], uint64_t x, uint64_t w, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %78, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n152k32.f32.e4m3.e4m3 "
                 "{" NAMES_76 "}, %76, %77, p, 1, 1;\n}\n"
                 : ACCUMULATORS_32(d, from), ACCUMULATORS_32(d, from + 32),
                   ACCUMULATORS_8(d, from + 64), "+f"(d[from + 72]), "+f"(d[from + 73]),
                   "+f"(d[from + 74]), "+f"(d[from + 75])
                 : "l"(x), "l"(w), "r"(accumulate));
}

/* 64 rows, 256 columns, 32 of K. */
DEVICE void multiply_256(float (&d)[128], uint64_t x, uint64_t w, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k32.f32.e4m3.e4m3 "
                 "{" NAMES_128 "}, %128, %129, p, 1, 1;\n}\n"
                 : ACCUMULATORS_32(d, 0), ACCUMULATORS_32(d, 32), ACCUMULATORS_32(d, 64),
                   ACCUMULATORS_32(d, 96)
                 : "l"(x), "l"(w), "r"(accumulate));
}

/* A slice into the tile of a warpgroup, in turns (128 rows) or together (64). */
template <typename shape>
DEVICE void multiply_slice(float (&d)[shape::accumulators], uint64_t x, uint64_t w, bool is_first)
{
#pragma unroll
    for (int k = 0; k < slice_bytes / 32; k++, x += k_step_32, w += k_step_32) {
        int accumulate = k > 0 || !is_first;
        if constexpr (!shape::in_turns)
            multiply_256(d, x, w, accumulate);
        else if constexpr (shape::tile_columns == 128) {
            multiply_128<0>(d, x, w, accumulate);
            multiply_128<64>(d, x + row_step_64, w, accumulate);
        } else {
            multiply_152<0>(d, x, w, accumulate);
            multiply_152<76>(d, x + row_step_64, w, accumulate);
        }
    }
}

/* --- Loading: one thread --- */

struct place {
    int row, column;
};

template <typename shape> DEVICE place tile_place(const plan &plan, int tile, int rank)
{
    int column_tiles = (plan.n + shape::tile_columns - 1) / shape::tile_columns;
    int group = tile / (shape::group_rows * column_tiles);
    int first = group * shape::group_rows;
    int rows = min(plan.row_tiles - first, shape::group_rows);
    tile -= first * column_tiles;
    int column = tile / rows;
    int row = first + tile - column * rows;
    return {(row * shape::cluster + rank) * tile_rows, column * shape::tile_columns};
}

template <typename shape> DEVICE void load(const plan &plan, uint32_t shared, int rank)
{
    ring_place<shape::stages> ring = {0, 0};
    int clusters = gridDim.x / shape::cluster;
    for (int tile = blockIdx.x / shape::cluster; tile < plan.tile_count; tile += clusters) {
        place at = tile_place<shape>(plan, tile, rank);
        at.column += rank * shape::part_columns;
        for (int i = 0; i < plan.slices; i++) {
            uint32_t full = shared + shape::full_at + 8 * ring.stage;
            uint32_t free = shared + shape::free_at + 8 * ring.stage;
            uint32_t x_to = shared + shape::x_at + shape::x_bytes * ring.stage;
            uint32_t w_to = shared + shape::w_at + shape::w_bytes * ring.stage +
                            rank * (shape::part_columns * slice_bytes);
            barrier_wait(free, ring.parity ^ 1);
            barrier_expect(full, shape::x_bytes + shape::w_bytes);
            load_box(x_to, &plan.x, full, i * slice_bytes, at.row);
            /* The other CTA's half may arrive before what this one expects is said: its barrier
             * still lacks the arrival, and waits. */
            if (shape::cluster > 1)
                load_box_for_both(w_to, &plan.w, full, i * slice_bytes, at.column);
            else
                load_box(w_to, &plan.w, full, i * slice_bytes, at.column);
            ring.advance();
        }
    }
}

/* --- Finishing a tile --- */

DEVICE uint32_t pack_bf16(float low, float high)
{
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
DEVICE float low_bf16(uint32_t x) { return __uint_as_float(x << 16); }
DEVICE float high_bf16(uint32_t x) { return __uint_as_float(x & 0xffff0000u); }

DEVICE uint16_t pack_e4m3(float low, float high)
{
    uint16_t y;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(y) : "f"(high), "f"(low));
    return y;
}

/* x times the sigmoid of twice the argument of tanh: unlike 1 + tanh.approx right for small results
 * as well, which E4M3 represents no less well than large ones. */
DEVICE float gelu(float x)
{
    constexpr float a = -2.0f * 1.4426950408889634f * 0.7978845608028654f;
    float e, y;
    float u = x * fmaf(a * 0.044715f, x * x, a);
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(u));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.0f + e));
    return x * y;
}

/* Where row m of the result begins, in units of 16 bytes, or no_row. */
constexpr uint32_t no_row = ~0u;
DEVICE uint32_t row_place(const plan &plan, int m)
{
    if (m >= plan.m)
        return no_row;
    uint32_t sample = (unsigned)m / (unsigned)plan.rows_per_sample;
    return sample * plan.out_sample_step + (m - sample * plan.rows_per_sample) * plan.out_row_step;
}

/* How a warp works off its part of a tile: chunks of 16 rows and 64 columns, 32 accumulators each
 * (the last of a row perhaps less), in the order of the accumulators. In turns, the chunks of rows
 * 64 further follow; together, all are of the same rows. */
template <typename shape, int epilogue> struct finisher {
    static constexpr int element = epilogue == EPILOGUE_GELU_ROWS ? 1 : 2;
    static constexpr int halves = shape::in_turns ? 2 : 1;
    static constexpr int columns = shape::tile_columns;
    static constexpr int chunks = (columns + chunk_columns - 1) / chunk_columns; /* of a half */
    static constexpr int pieces = chunk_columns * element / 16; /* of 16 bytes, of a row */
    static constexpr int passes = 16 * pieces / 32; /* in which the warp's lanes cover a chunk */
    static constexpr int staging_row = element == 1 ? staging_e4m3 : staging_bf16;

    const plan &plan_;
    uint32_t staging; /* the warp's */
    int row, column;  /* the warp's first of the tile */
    using accumulators = float (&)[shape::accumulators];
    uint32_t out_at[halves][passes]; /* of row_place */
    uint4 old[passes]; /* GATED: what the next chunk's result is added to */

    DEVICE void begin(int first_row, int first_column)
    {
        row = first_row;
        column = first_column;
#pragma unroll
        for (int h = 0; h < halves; h++)
#pragma unroll
            for (int i = 0; i < passes; i++)
                out_at[h][i] = row_place(plan_, row + 64 * h + piece_row(i));
        if (epilogue == EPILOGUE_GATED)
            fetch(0);
    }

    /* Row and column of a lane's piece in a pass. */
    DEVICE int piece_row(int pass) { return pass * (32 / pieces) + (threadIdx.x & 31) / pieces; }
    DEVICE int piece_column() { return (threadIdx.x & (pieces - 1)) * (16 / element); }

    DEVICE uint4 *out_piece(uint32_t at, int n)
    {
        return (uint4 *)(plan_.out + n * element) + at;
    }

    DEVICE void fetch(int chunk)
    {
        int piece = chunk_columns * (chunk % chunks) + piece_column(), n = column + piece;
#pragma unroll
        for (int i = 0; i < passes; i++) {
            uint32_t at = out_at[chunk / chunks][i];
            old[i] = make_uint4(0, 0, 0, 0);
            if (at != no_row && piece < columns && n < plan_.n)
                old[i] = *out_piece(at, n);
        }
    }

    /* In turns there is time to wait, but there are no registers for this next to arithmetic. */
    template <int chunk> DEVICE void fetch_late()
    {
        if (epilogue == EPILOGUE_GATED && shape::in_turns && chunk < halves * chunks)
            fetch(chunk);
    }

    template <int chunk> DEVICE void finish_from(accumulators d)
    {
        finish<chunk>(d);
        if constexpr (chunk + 1 < halves * chunks)
            finish_from<chunk + 1>(d);
    }

    template <int chunk> DEVICE void finish(accumulators d)
    {
        constexpr int half = chunk / chunks;
        constexpr int from = half * (columns / 2) + 32 * (chunk % chunks);
        constexpr int left = columns - chunk_columns * (chunk % chunks);
        constexpr int width = left < chunk_columns ? left : chunk_columns;
        int lane = threadIdx.x & 31;
        int n = column + chunk_columns * (chunk % chunks);
        int m = row + 64 * half + lane / 4;
        bool is_idle = n >= plan_.n || row + 64 * half >= plan_.m; /* all of the chunk */
        uint32_t piece_at = staging + piece_row(0) * staging_row + piece_column() * element;
        constexpr int pass_step = 32 / pieces * staging_row;

        if (epilogue == EPILOGUE_GATED) {
#pragma unroll
            for (int i = 0; i < passes; i++)
                asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(piece_at +
                                                                             i * pass_step),
                             "r"(old[i].x), "r"(old[i].y), "r"(old[i].z), "r"(old[i].w)
                             : "memory");
            if (!shape::in_turns && chunk + 1 < halves * chunks)
                fetch(chunk + 1);
            __syncwarp();
        }
        if (is_idle) {
            __syncwarp();
            fetch_late<chunk + 1>();
            return;
        }

        /* v: column 8 j + 2 (lane % 4) + i % 2 of row i / 2 in 4 j + i, rows 8 apart. */
        float x_scale[2];
#pragma unroll
        for (int r = 0; r < 2; r++)
            x_scale[r] = m + 8 * r < plan_.m ? __ldg(plan_.x_scale + m + 8 * r) : 0.0f;
        int first = n + 2 * (lane & 3);
#pragma unroll
        for (int j = 0; j < width / 8; j++) {
            bool is_inside = n + 8 * j < plan_.n;
            float2 w_scale = make_float2(0.0f, 0.0f);
            uint32_t bias = 0;
            if (is_inside)
                w_scale = __ldg((const float2 *)(plan_.w_scale + first + 8 * j));
            if (is_inside && plan_.bias)
                bias = __ldg((const unsigned *)(plan_.bias + first + 8 * j));
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float b = i % 2 ? high_bf16(bias) : low_bf16(bias);
                float s = i % 2 ? w_scale.y : w_scale.x;
                float &v = d[from + 4 * j + i];
                v = fmaf(v * x_scale[i / 2], s, b);
            }
        }

        uint32_t to = staging + lane / 4 * staging_row + 2 * element * (lane & 3);
        if (epilogue == EPILOGUE_GELU_ROWS)
            store_gelu<from, width>(d, to, m);
        else {
            if (epilogue == EPILOGUE_HEAD_NORM && n < plan_.norm_columns)
                norm<from, width>(d, n);
            if (epilogue == EPILOGUE_GATED)
                add_gated<from, width>(d, to, m, n);
#pragma unroll
            for (int j = 0; j < width / 8; j++) {
                uint32_t a = pack_bf16(d[from + 4 * j], d[from + 4 * j + 1]);
                uint32_t b = pack_bf16(d[from + 4 * j + 2], d[from + 4 * j + 3]);
                asm volatile("st.shared.b32 [%0], %1;" ::"r"(to + 16 * j), "r"(a) : "memory");
                asm volatile("st.shared.b32 [%0], %1;" ::"r"(to + 16 * j + 8 * staging_row), "r"(b)
                             : "memory");
            }
        }
        __syncwarp();
        fetch_late<chunk + 1>();
#pragma unroll
        for (int i = 0; i < passes; i++) {
            uint4 x;
            uint32_t at = out_at[half][i];
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                         : "r"(piece_at + i * pass_step)
                         : "memory");
            if (at != no_row && piece_column() < width && n + piece_column() < plan_.n)
                *out_piece(at, n + piece_column()) = x;
        }
        __syncwarp();
    }

    template <int from, int width> DEVICE void store_gelu(accumulators d, uint32_t to, int m)
    {
        float inverse[2];
#pragma unroll
        for (int r = 0; r < 2; r++)
            inverse[r] = m + 8 * r < plan_.m ? 1.0f / __ldg(plan_.out_scale + m + 8 * r) : 0.0f;
#pragma unroll
        for (int j = 0; j < width / 8; j++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                uint16_t y = pack_e4m3(gelu(d[from + 4 * j + 2 * r]) * inverse[r],
                                       gelu(d[from + 4 * j + 2 * r + 1]) * inverse[r]);
                asm volatile("st.shared.b16 [%0], %1;" ::"r"(to + 8 * j + 8 * r * staging_row),
                             "h"(y) : "memory");
            }
    }

    /* The four lanes of a quad have the head's columns of a row between them. */
    template <int from, int width> DEVICE void norm(accumulators d, int n)
    {
        const float *weight = 2 * n < plan_.norm_columns ? plan_.q_norm : plan_.k_norm;
        float factor[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < width / 8; j++) {
                float a = d[from + 4 * j + 2 * r], b = d[from + 4 * j + 2 * r + 1];
                sum = fmaf(a, a, fmaf(b, b, sum));
            }
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            factor[r] = rsqrtf(sum * (1.0f / chunk_columns) + plan_.epsilon);
        }
#pragma unroll
        for (int j = 0; j < width / 8; j++) {
            float2 w = __ldg((const float2 *)(weight + 8 * j + 2 * (threadIdx.x & 3)));
#pragma unroll
            for (int i = 0; i < 4; i++)
                d[from + 4 * j + i] *= factor[i / 2] * (i % 2 ? w.y : w.x);
        }
    }

    /* The old values stand in the staging area, where this thread will put the new ones. */
    template <int from, int width>
    DEVICE void add_gated(accumulators d, uint32_t to, int m, int n)
    {
        unsigned samples[2];
#pragma unroll
        for (int r = 0; r < 2; r++)
            samples[r] = (unsigned)min(m + 8 * r, plan_.m - 1) / (unsigned)plan_.rows_per_sample;
        const uint16_t *gate = plan_.gate + n + 2 * (threadIdx.x & 3);
        const uint16_t *gate_a = gate + samples[0] * plan_.gate_stride;
        const uint16_t *gate_b = gate + samples[1] * plan_.gate_stride;
#pragma unroll
        for (int j = 0; j < width / 8; j++) {
            bool is_inside = n + 8 * j < plan_.n;
            uint32_t a = is_inside ? __ldg((const unsigned *)(gate_a + 8 * j)) : 0, b = a;
            if (is_inside && gate_a != gate_b)
                b = __ldg((const unsigned *)(gate_b + 8 * j));
            uint32_t old_a, old_b;
            asm volatile("ld.shared.b32 %0, [%1];" : "=r"(old_a) : "r"(to + 16 * j) : "memory");
            asm volatile("ld.shared.b32 %0, [%1];"
                         : "=r"(old_b)
                         : "r"(to + 16 * j + 8 * staging_row)
                         : "memory");
            float *v = d + from + 4 * j;
            v[0] = fmaf(low_bf16(a), v[0], low_bf16(old_a));
            v[1] = fmaf(high_bf16(a), v[1], high_bf16(old_a));
            v[2] = fmaf(low_bf16(b), v[2], low_bf16(old_b));
            v[3] = fmaf(high_bf16(b), v[3], high_bf16(old_b));
        }
    }
};

/* --- Computing --- */

/* wgmma's completion is seen by each warp for itself, so each one frees, in all CTAs that load. */
template <typename shape> DEVICE void release(uint32_t shared, int stage)
{
    int lane = threadIdx.x & 31;
    uint32_t free = shared + shape::free_at + 8 * stage;
    if (shape::cluster > 1) {
        if (lane < shape::cluster)
            barrier_arrive_at(free, lane);
    } else if (lane == 0)
        barrier_arrive(free);
}

/* Whose turn it is to issue products. The stages themselves would keep the order, but a barrier's
 * parity tells a round from the one before it only, and whoever waits must not be further behind. */
DEVICE void turn_wait(int group) { asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory"); }
DEVICE void turn_give(int group)
{
    asm volatile("bar.arrive %0, 256;" ::"r"(1 + group) : "memory");
}

template <typename shape, int epilogue>
DEVICE void compute(const plan &plan, uint32_t shared, int group, int rank)
{
    constexpr bool in_turns = shape::in_turns;
    constexpr int stages = shape::stages;
    int warp = threadIdx.x / 32 % 4;
    int clusters = gridDim.x / shape::cluster;
    int first = blockIdx.x / shape::cluster;
    finisher<shape, epilogue> finisher = {
        plan, shared + shape::staging_at + (4 * group + warp) * staging_bytes};
    uint64_t x = matrix_descriptor(shared + shape::x_at) + (in_turns ? 0 : group * row_step_64);
    uint64_t w = matrix_descriptor(shared + shape::w_at);
    ring_place<stages> ring = {0, 0};
    int tile = first;
    if (in_turns && group) {
        ring.skip(plan.slices);
        tile += clusters;
    }

    for (; tile < plan.tile_count; tile += in_turns ? 2 * clusters : clusters) {
        float d[shape::accumulators];
        if (in_turns && tile != first)
            turn_wait(group);
        int last = 0;
        for (int i = 0; i < plan.slices; i++) {
            barrier_wait(shared + shape::full_at + 8 * ring.stage, ring.parity);
            uint64_t x_slice = x + (uint32_t)(ring.stage * (shape::x_bytes >> 4));
            uint64_t w_slice = w + (uint32_t)(ring.stage * (shape::w_bytes >> 4));
            products_begin();
            multiply_slice<shape>(d, x_slice, w_slice, i == 0);
            products_commit();
            /* The slice before is done with while this one is in the works. */
            products_wait<1>();
            if (i > 0)
                release<shape>(shared, last);
            last = ring.stage;
            ring.advance();
        }
        if (in_turns && tile + clusters < plan.tile_count)
            turn_give(group ^ 1);

        place at = tile_place<shape>(plan, tile, rank);
        finisher.begin(at.row + 16 * warp + (in_turns ? 0 : 64 * group), at.column);
        products_wait<0>();
        pin(d);
        release<shape>(shared, last);
        finisher.template finish_from<0>(d);
        if (in_turns)
            ring.skip(plan.slices);
    }
}

#endif

template <typename shape, int epilogue>
__global__ void __launch_bounds__(cta_threads, 1) multiply(const __grid_constant__ plan plan)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ unsigned char memory[];
    uint32_t shared = ((uint32_t)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    /* the same in all lanes, and known to be */
    int warp = __shfl_sync(~0u, (int)threadIdx.x / 32, 0);
    int rank = shape::cluster > 1 ? (int)(blockIdx.x % shape::cluster) : 0;

    if (threadIdx.x == 0) {
        for (int i = 0; i < shape::stages; i++) {
            barrier_init(shared + shape::full_at + 8 * i, 1);
            /* every warp that reads the stage */
            barrier_init(shared + shape::free_at + 8 * i,
                         (shape::in_turns ? 4 : 8) * shape::cluster);
        }
        asm volatile("fence.mbarrier_init.release.cluster;\n"
                     "fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (shape::cluster > 1)
        cluster_meet(); /* the other CTA's barriers are there as well */

    if (warp < 4) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(load_registers));
        if (threadIdx.x == 0)
            load<shape>(plan, shared, rank);
        __syncwarp();
        if (shape::cluster > 1)
            cluster_meet(); /* nobody leaves while the other CTA may write here */
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(math_registers));
        compute<shape, epilogue>(plan, shared, warp / 4 - 1, rank);
        if (shape::cluster > 1)
            cluster_meet();
    }
#endif
}

/* --- Host --- */

struct variant {
    const char *name;
    int tile_columns, cluster, box_columns, shared_bytes;
    void (*kernels[4])(const plan); /* by epilogue; NULL: it cannot */
};

template <bool in_turns, int columns, int cluster> variant make_variant(const char *name)
{
    using s = shape<in_turns, columns, cluster>;
    variant v = {name, columns, cluster, s::part_columns, s::shared_bytes, {}};
    v.kernels[EPILOGUE_PLAIN] = multiply<s, EPILOGUE_PLAIN>;
    v.kernels[EPILOGUE_GATED] = multiply<s, EPILOGUE_GATED>;
    if constexpr (columns % chunk_columns == 0) { /* whole heads, and 16 bytes' multiples of E4M3 */
        v.kernels[EPILOGUE_GELU_ROWS] = multiply<s, EPILOGUE_GELU_ROWS>;
        v.kernels[EPILOGUE_HEAD_NORM] = multiply<s, EPILOGUE_HEAD_NORM>;
    }
    return v;
}

enum { NARROW, NARROW_CLUSTER, WIDE, WIDE_CLUSTER, TOGETHER, TOGETHER_CLUSTER, VARIANTS };

const variant variants[VARIANTS] = {
    make_variant<true, 128, 1>("128x128 in turns"),
    make_variant<true, 128, 2>("128x128 in turns, cluster"),
    make_variant<true, 152, 1>("128x152 in turns"),
    make_variant<true, 152, 2>("128x152 in turns, cluster"),
    make_variant<false, 256, 1>("128x256 together"),
    make_variant<false, 256, 2>("128x256 together, cluster"),
};

int wanted_variant = -1;

int tiles_of(int64_t count, int size)
{
    return (int)((count + size - 1) / size);
}

/* What the busiest multiprocessor has to do, in columns of tiles. */
int64_t columns_of(const variant &variant, const product_sm90 *product, int multiprocessors)
{
    int64_t tiles = (int64_t)tiles_of(product->m, tile_rows * variant.cluster) *
                    tiles_of(product->n, variant.tile_columns);
    int clusters = multiprocessors / variant.cluster;
    return (tiles + clusters - 1) / clusters * variant.tile_columns;
}

int choose_variant(const product_sm90 *product, int multiprocessors)
{
    if (wanted_variant >= 0)
        return variants[wanted_variant].kernels[product->epilogue] ? wanted_variant : NARROW_CLUSTER;
    int chosen = NARROW_CLUSTER;
    int64_t least = columns_of(variants[chosen], product, multiprocessors);
    for (int i : {WIDE_CLUSTER, NARROW}) { /* only for a clear gain */
        int64_t columns = columns_of(variants[i], product, multiprocessors);
        if (variants[i].kernels[product->epilogue] && columns < least - least / 32) {
            chosen = i;
            least = columns;
        }
    }
    return chosen;
}

/* [rows, K] E4M3, with box_rows rows of a slice in a box */
bool make_map(CUtensorMap *map, void *encode, const void *x, int64_t rows, int64_t k,
              int64_t stride, int box_rows)
{
    cuuint64_t dims[2] = {(cuuint64_t)k, (cuuint64_t)rows}, strides[1] = {(cuuint64_t)stride};
    cuuint32_t box[2] = {slice_bytes, (cuuint32_t)box_rows}, steps[2] = {1, 1};
    return ((decltype(&cuTensorMapEncodeTiled))encode)(
               map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, (void *)x, dims, strides, box, steps,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool is_aligned(const void *address, int to)
{
    return (uintptr_t)address % to == 0;
}

bool stride_fits(int64_t stride, int64_t count, int64_t unit, int64_t *reach)
{
    if (count == 1)
        return true;
    if (stride < 0 || stride % unit || stride / unit >= UINT32_MAX)
        return false;
    *reach += stride / unit * (count - 1);
    return *reach < UINT32_MAX;
}

} // namespace

int kernel_product_sm90_variant_count(void)
{
    return VARIANTS;
}

void kernel_product_sm90_set_variant(int variant)
{
    wanted_variant = variant < VARIANTS ? variant : -1;
}

const char *kernel_product_sm90_variant_name(int variant)
{
    return variant >= 0 && variant < VARIANTS ? variants[variant].name : "what suits";
}

bool kernel_product_sm90_fits(const struct product_sm90 *p)
{
    const int64_t limit = 1 << 24;
    int64_t unit = p->epilogue == EPILOGUE_GELU_ROWS ? 16 : 8; /* elements in 16 bytes */
    if (p->m < 1 || p->n < 16 || p->k < 16 || p->m > limit || p->n > limit || p->k > limit ||
        p->n % 16 || p->k % 16 || p->x_stride < p->k || p->x_stride % 16 || p->x_stride >> 39 ||
        p->rows_per_sample < 1 || p->rows_per_sample > INT32_MAX)
        return false;
    /* tiles are counted in an int */
    if ((p->m / tile_rows + 2) * (p->n / 128 + 1) > INT32_MAX / 2)
        return false;
    if (!p->x || !p->w || !p->x_scale || !p->w_scale || !p->out || !is_aligned(p->x, 16) ||
        !is_aligned(p->w, 16) || !is_aligned(p->x_scale, 4) || !is_aligned(p->w_scale, 8) ||
        !is_aligned(p->bias, 4) || !is_aligned(p->out, 16))
        return false;
    /* The result is addressed in units of 16 bytes, in 32 bits. Strides of axes of one are not
     * looked at. */
    int64_t rows = p->m < p->rows_per_sample ? p->m : p->rows_per_sample;
    int64_t samples = (p->m - 1) / p->rows_per_sample + 1, reach = p->n / unit + 1;
    if (!stride_fits(p->out_row_stride, rows, unit, &reach) ||
        !stride_fits(p->out_sample_stride, samples, unit, &reach))
        return false;
    switch (p->epilogue) {
    case EPILOGUE_PLAIN:
        return true;
    case EPILOGUE_GELU_ROWS:
        return p->out_scale && is_aligned(p->out_scale, 4);
    case EPILOGUE_HEAD_NORM:
        return p->norm_columns >= 0 && p->norm_columns % (2 * chunk_columns) == 0 &&
               p->norm_columns <= p->n && p->q_norm && p->k_norm && is_aligned(p->q_norm, 8) &&
               is_aligned(p->k_norm, 8);
    case EPILOGUE_GATED:
        return p->gate && is_aligned(p->gate, 4) &&
               (p->m <= p->rows_per_sample || p->gate_stride % 2 == 0);
    }
    return false;
}

cudaError_t kernel_product_sm90_plan(struct product_sm90_plan *plan_bytes, void *encode,
                                     const struct product_sm90 *product, int multiprocessors)
{
    if (!encode || multiprocessors < 2 || !kernel_product_sm90_fits(product))
        return cudaErrorInvalidValue;
    plan plan = {};
    plan.epilogue = product->epilogue;
    plan.variant = choose_variant(product, multiprocessors);
    const variant &variant = variants[plan.variant];
    if (!make_map(&plan.x, encode, product->x, product->m, product->k, product->x_stride,
                  tile_rows) ||
        !make_map(&plan.w, encode, product->w, product->n, product->k, product->k,
                  variant.box_columns))
        return cudaErrorInvalidValue;
    plan.x_scale = product->x_scale;
    plan.w_scale = product->w_scale;
    plan.out_scale = product->out_scale;
    plan.q_norm = product->q_norm;
    plan.k_norm = product->k_norm;
    plan.bias = (const uint16_t *)product->bias;
    plan.gate = (const uint16_t *)product->gate;
    plan.out = (unsigned char *)product->out;
    int unit = plan.epilogue == EPILOGUE_GELU_ROWS ? 16 : 8;
    plan.out_row_step = (uint32_t)(product->out_row_stride / unit);
    plan.out_sample_step = (uint32_t)(product->out_sample_stride / unit);
    plan.gate_stride = product->gate_stride;
    plan.m = (int)product->m;
    plan.n = (int)product->n;
    plan.rows_per_sample = (int)product->rows_per_sample;
    plan.norm_columns = (int)product->norm_columns;
    plan.slices = tiles_of(product->k, slice_bytes);
    plan.row_tiles = tiles_of(product->m, tile_rows * variant.cluster);
    plan.tile_count = plan.row_tiles * tiles_of(product->n, variant.tile_columns);
    int clusters = multiprocessors / variant.cluster;
    plan.grid = (plan.tile_count < clusters ? plan.tile_count : clusters) * variant.cluster;
    plan.epsilon = product->epsilon;
    memcpy(plan_bytes->bytes, &plan, sizeof plan);
    return cudaFuncSetAttribute(variant.kernels[plan.epilogue],
                                cudaFuncAttributeMaxDynamicSharedMemorySize, variant.shared_bytes);
}

cudaError_t kernel_product_sm90(cudaStream_t stream, const struct product_sm90_plan *plan_bytes)
{
    plan plan; /* the maps want alignment that the bytes do not have */
    memcpy(&plan, plan_bytes->bytes, sizeof plan);
    const variant &variant = variants[plan.variant];
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = variant.cluster;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(plan.grid);
    config.blockDim = dim3(cta_threads);
    config.dynamicSmemBytes = variant.shared_bytes;
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = variant.cluster > 1;
    return cudaLaunchKernelEx(&config, variant.kernels[plan.epilogue], plan);
}
