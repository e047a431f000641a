/* FP8 products on Hopper: out = epilogue(x w^T), x and w E4M3, sums in the tensor cores throughout.
 *
 * A CTA works on tiles of 128 x 192. One warpgroup loads (TMA into a ring of K slices of both
 * operands, 128 bytes a row), two compute by wgmma out of shared memory. These take turns: each one
 * has its own tile, and its epilogue goes on under the products of the other one. Clusters of two
 * CTAs do tiles one below the other, and each loads half of the slice of w for both.
 *
 * The grid is persistent, tiles go round in a fixed order: a few row tiles times all column tiles,
 * so that CTAs which run together read the same slices from L2. Every tile takes the same K slices
 * in the same order: a row's bits do not depend on M.
 *
 * What bounds it: in the time of m64n192k32 (96 cycles of an idealised multiprocessor) products
 * read 8 KB of shared memory, TMA writes another 5 KB, and L2 has to deliver 3.5 KB. At 700 W the
 * clock falls, so what moves less is faster even where nothing waits for it: tiles of 128 x 128,
 * with 9, 6 and 4.5 KB for as much work, take 6 to 16 % longer.
 * Tried and not kept: tiles of 128 x 152 (2432, the width of Large, is 16 times that, which fills
 * 132 multiprocessors better) and of 128 x 256 with 64 rows for either warpgroup (least traffic,
 * but the tensor cores idle during the epilogue). They gave the same bits. An epilogue that gates
 * and adds to the residual stream: 2 % of a step slower than cuBLASLt's product for each sample.
 * What ends in a bias or a gate alone is left to cuBLASLt, which is faster there.
 */
#include "backend/cuda/products_sm90.h"

#include <cuda.h>
#include <cuda_runtime.h>
#include <string.h>

#include "backend/cuda/hopper.cuh"

namespace {

/* Bodies are empty but for sm_90a, and then nobody looks at most of the constants. */
#pragma nv_diag_suppress 177

constexpr int cta_threads = 384;
constexpr int cluster = 2; /* CTAs in one */
constexpr int tile_rows = 128, tile_columns = 192;
constexpr int part_columns = tile_columns / cluster; /* of w, that one CTA loads */
constexpr int group_rows = 8; /* row tiles (of a cluster) walked over before the next column tile */
constexpr int slice_bytes = 128; /* of K, and one row of the 128-byte swizzle */
constexpr int x_bytes = tile_rows * slice_bytes, w_bytes = tile_columns * slice_bytes;
constexpr int stages = 5; /* as many as there is memory for */
/* What a warp finishes at once; the columns are a head. Rows of its staging area are padded so that
 * neither the accumulator layout nor 16-byte pieces meet in a bank. */
constexpr int chunk_rows = 16, chunk_columns = 64;
constexpr int chunks_across = tile_columns / chunk_columns;
constexpr int staging_bf16 = chunk_columns * 2 + 16;
constexpr int staging_e4m3 = chunk_columns + 16;
constexpr int staging_bytes = chunk_rows * staging_bf16;
constexpr int vector_bytes = tile_columns * 4; /* w_scale or bias of a tile, as F32 */
/* The 168 registers a thread that a launch gets are shared out anew: 3 x 168 = 2 x 240 + 24. More
 * would wait for ever. */
constexpr int math_registers = 240, load_registers = 24;

/* Shared memory, from a multiple of 1024, which the swizzle wants. Barriers: a stage is full when
 * TMA has filled it and free when everybody has read it, in both CTAs of the cluster, for either
 * one writes into both. */
constexpr int x_at = 0;
constexpr int w_at = x_at + stages * x_bytes;
constexpr int staging_at = w_at + stages * w_bytes;        /* of 8 warps */
constexpr int vectors_at = staging_at + 8 * staging_bytes; /* of 2 warpgroups, 2 each */
constexpr int full_at = vectors_at + 4 * vector_bytes;
constexpr int free_at = full_at + 8 * stages;
constexpr int shared_bytes = free_at + 8 * stages + 1024; /* see shared_begin */
static_assert(shared_bytes <= shared_bytes_max, "more shared memory than there is");

struct plan {
    CUtensorMap x, w;
    const float *x_scale, *w_scale, *out_scale, *q_norm, *k_norm;
    const uint16_t *bias; /* BF16 */
    unsigned char *out;
    uint32_t out_row_step, out_sample_step; /* in units of 16 bytes */
    int m, n, rows_per_sample, norm_columns;
    int slices;                /* of K */
    int row_tiles, tile_count; /* counted in what a cluster does at once */
    int grid;
    float epsilon;
    product_sm90_epilogue epilogue;
};
static_assert(sizeof(plan) <= sizeof(product_sm90_plan), "product_sm90_plan is too small");

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* --- Clusters --- */

/* Every thread of both CTAs. */
DEVICE void cluster_meet()
{
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
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

/* --- Loading: one thread --- */

struct place {
    int row, column;
};

DEVICE place tile_place(const plan &plan, int tile, int rank)
{
    int column_tiles = (plan.n + tile_columns - 1) / tile_columns;
    int group = tile / (group_rows * column_tiles);
    int first = group * group_rows;
    int rows = min(plan.row_tiles - first, group_rows);
    tile -= first * column_tiles;
    int column = tile / rows;
    int row = first + tile - column * rows;
    return {(row * cluster + rank) * tile_rows, column * tile_columns};
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

DEVICE void load(const plan &plan, uint32_t shared, int rank)
{
    ring_place<stages> ring = {0, 0};
    int clusters = gridDim.x / cluster;
    for (int tile = blockIdx.x / cluster; tile < plan.tile_count; tile += clusters) {
        place at = tile_place(plan, tile, rank);
        at.column += rank * part_columns;
        for (int i = 0; i < plan.slices; i++) {
            uint32_t full = shared + full_at + 8 * ring.stage;
            uint32_t free = shared + free_at + 8 * ring.stage;
            uint32_t x_to = shared + x_at + x_bytes * ring.stage;
            uint32_t w_to =
                shared + w_at + w_bytes * ring.stage + rank * (part_columns * slice_bytes);
            barrier_wait(free, ring.parity ^ 1);
            barrier_expect(full, x_bytes + w_bytes);
            load_box(x_to, &plan.x, full, i * slice_bytes, at.row);
            /* The other CTA's half may arrive before what this one expects is said: its barrier
             * still lacks the arrival, and waits. */
            load_box_for_both(w_to, &plan.w, full, i * slice_bytes, at.column);
            ring.advance();
        }
    }
}

/* --- Multiplying --- */

/* What a thread has of a tile, by chunks: those side by side of the first 64 rows, then those of
 * the others. Of a chunk it has two rows, 8 apart: in [4 j + i] column 8 j + 2 (lane % 4) + i % 2
 * of row i / 2. */
using accumulators = float[2][chunks_across][32];

/* d (+)= x w^T: 64 rows, all columns of the tile, 32 of K. */
DEVICE void multiply_64_rows(float (&d)[chunks_across][32], uint64_t x, uint64_t w, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n192k32.f32.e4m3.e4m3 "
                 "{" NAMES_96 "}, %96, %97, p, 1, 1;\n}\n"
                 : ACCUMULATORS_32(d[0], 0), ACCUMULATORS_32(d[1], 0), ACCUMULATORS_32(d[2], 0)
                 : "l"(x), "l"(w), "r"(accumulate));
}

/* Both operands are K-major. */
DEVICE void multiply_slice(accumulators &d, uint64_t x, uint64_t w, bool is_first)
{
    constexpr int k_step_32 = 32 >> 4, row_step_64 = 64 * slice_bytes >> 4;
#pragma unroll
    for (int k = 0; k < slice_bytes / 32; k++, x += k_step_32, w += k_step_32) {
        int accumulate = k > 0 || !is_first;
        multiply_64_rows(d[0], x, w, accumulate);
        multiply_64_rows(d[1], x + row_step_64, w, accumulate);
    }
}

/* --- Finishing a tile --- */

DEVICE uint16_t pack_e4m3(float low, float high)
{
    uint16_t y;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(y) : "f"(high), "f"(low));
    return y;
}

/* tanh is off by 2^-11 at most, so small results of large negative x are as far off as x 2^-12. That
 * is less than E4M3 tells apart beside the row's other values: of 80 million, 2000 differed from
 * those by x times the sigmoid, which takes two special functions. */
DEVICE float gelu(float x)
{
    constexpr float a = 0.7978845608028654f; /* sqrt(2 / pi) */
    float half = 0.5f * x, tanh;
    asm("tanh.approx.f32 %0, %1;" : "=f"(tanh) : "f"(x * fmaf(a * 0.044715f, x * x, a)));
    return fmaf(half, tanh, half);
}

DEVICE void store_word(uint32_t at, uint32_t x)
{
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(x) : "memory");
}

DEVICE float2 load_pair(uint32_t at)
{
    float2 x;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                 : "=f"(x.x), "=f"(x.y)
                 : "r"(at)
                 : "memory");
    return x;
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

/* How a warp works off its part of a tile. A chunk goes through the staging area, so that whole
 * rows of it are stored, in pieces of 16 bytes. */
template <product_sm90_epilogue epilogue> struct finisher {
    static constexpr int element = epilogue == EPILOGUE_GELU_ROWS ? 1 : 2;
    static constexpr int pieces = chunk_columns * element / 16; /* of a row */
    static constexpr int pass_rows = 32 / pieces; /* that the warp's lanes cover at once */
    static constexpr int passes = chunk_rows / pass_rows;
    static constexpr int staging_row = element == 1 ? staging_e4m3 : staging_bf16;

    const plan &plan_;
    uint32_t staging; /* the warp's */
    uint32_t vectors; /* the warpgroup's: w_scale, bias */
    int group;
    int row, column;            /* the warp's first of the tile */
    uint32_t out_at[2][passes]; /* of row_place; by half of the tile's rows */

    DEVICE void finish(accumulators &d, place tile)
    {
        row = tile.row + threadIdx.x / 32 % 4 * chunk_rows;
        column = tile.column;
        fetch_vectors();
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < passes; i++)
                out_at[h][i] = row_place(plan_, row + 64 * h + i * pass_rows + piece_row());
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < chunks_across; i++)
                finish_chunk(d[h][i], h, i * chunk_columns);
    }

    DEVICE void fetch_vectors()
    {
        /* The warpgroup is through with the vectors of its last tile; then it has the new ones. */
        threads_meet<128>(3 + group);
#pragma unroll
        for (int i = threadIdx.x & 127; i < tile_columns; i += 128) {
            int n = column + i;
            bool is_inside = n < plan_.n;
            float w_scale = is_inside ? __ldg(plan_.w_scale + n) : 0.0f;
            uint32_t bias = is_inside && plan_.bias ? __ldg(plan_.bias + n) : 0;
            store_word(vectors + 4 * i, __float_as_uint(w_scale));
            store_word(vectors + vector_bytes + 4 * i, bias << 16);
        }
        threads_meet<128>(3 + group);
    }

    /* Row and first column of a lane's piece in the first pass. */
    DEVICE int piece_row() { return (threadIdx.x & 31) / pieces; }
    DEVICE int piece_column() { return (threadIdx.x & (pieces - 1)) * (16 / element); }

    DEVICE void finish_chunk(float (&v)[32], int half, int first_column)
    {
        int n = column + first_column;
        if (n >= plan_.n || row + 64 * half >= plan_.m)
            return;

        int lane = threadIdx.x & 31, m = row + 64 * half + lane / 4;
        uint32_t to = staging + lane / 4 * staging_row + 2 * element * (lane & 3);
        scale(v, m, first_column);
        if (epilogue == EPILOGUE_GELU_ROWS)
            stage_gelu(v, to, m);
        else {
            if (n < plan_.norm_columns)
                norm(v, n);
            stage(v, to);
        }
        __syncwarp();
        store_pieces(out_at[half], n);
        __syncwarp(); /* before the area is written again */
    }

    /* From sums to v of products_sm90.h. */
    DEVICE void scale(float (&v)[32], int m, int first_column)
    {
        float x_scale[2];
#pragma unroll
        for (int r = 0; r < 2; r++)
            x_scale[r] = m + 8 * r < plan_.m ? __ldg(plan_.x_scale + m + 8 * r) : 0.0f;
        uint32_t at = vectors + 4 * first_column + 8 * (threadIdx.x & 3);
        /* Hidden, or else the compiler takes "or" for adding to it, an instruction each. */
        asm("" : "+r"(at));
#pragma unroll
        for (int j = 0; j < 8; j++, at += 32) {
            float2 w_scale = load_pair(at), bias = load_pair(at + vector_bytes);
#pragma unroll
            for (int i = 0; i < 4; i++)
                v[4 * j + i] = fmaf(v[4 * j + i] * x_scale[i / 2], i % 2 ? w_scale.y : w_scale.x,
                                    i % 2 ? bias.y : bias.x);
        }
    }

    DEVICE void stage_gelu(const float (&v)[32], uint32_t to, int m)
    {
        float inverse[2];
#pragma unroll
        for (int r = 0; r < 2; r++)
            inverse[r] = m + 8 * r < plan_.m ? 1.0f / __ldg(plan_.out_scale + m + 8 * r) : 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                uint16_t y = pack_e4m3(gelu(v[4 * j + 2 * r]) * inverse[r],
                                       gelu(v[4 * j + 2 * r + 1]) * inverse[r]);
                asm volatile("st.shared.b16 [%0], %1;" ::"r"(to + 8 * j + 8 * r * staging_row),
                             "h"(y) : "memory");
            }
    }

    /* Of the head that begins at column n. The four lanes of a quad have a row's columns between
     * them. */
    DEVICE void norm(float (&v)[32], int n)
    {
        const float *weight = 2 * n < plan_.norm_columns ? plan_.q_norm : plan_.k_norm;
        float factor[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                float a = v[4 * j + 2 * r], b = v[4 * j + 2 * r + 1];
                sum = fmaf(a, a, fmaf(b, b, sum));
            }
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            factor[r] = rsqrtf(sum * (1.0f / chunk_columns) + plan_.epsilon);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float2 w = __ldg((const float2 *)(weight + 8 * j + 2 * (threadIdx.x & 3)));
#pragma unroll
            for (int i = 0; i < 4; i++)
                v[4 * j + i] *= factor[i / 2] * (i % 2 ? w.y : w.x);
        }
    }

    DEVICE void stage(const float (&v)[32], uint32_t to)
    {
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                store_word(to + 16 * j + 8 * r * staging_row,
                           pack_bf16(v[4 * j + 2 * r], v[4 * j + 2 * r + 1]));
    }

    DEVICE void store_pieces(const uint32_t (&at)[passes], int n)
    {
        uint32_t from = staging + piece_row() * staging_row + piece_column() * element;
        n += piece_column();
#pragma unroll
        for (int i = 0; i < passes; i++) {
            uint4 x;
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                         : "r"(from + i * pass_rows * staging_row)
                         : "memory");
            if (at[i] != no_row && n < plan_.n)
                ((uint4 *)(plan_.out + n * element))[at[i]] = x;
        }
    }
};

/* --- Computing --- */

/* wgmma's completion is seen by each warp for itself, so each one frees, in both CTAs that load. */
DEVICE void release(uint32_t shared, int stage)
{
    int lane = threadIdx.x & 31;
    if (lane < cluster)
        barrier_arrive_at(shared + free_at + 8 * stage, lane);
}

/* Whose turn it is to issue products. The stages themselves would keep the order, but a barrier's
 * parity tells a round from the one before it only, and whoever waits must not be further behind.
 */
DEVICE void turn_wait(int group) { threads_meet<256>(1 + group); }
DEVICE void turn_give(int group) { threads_arrive<256>(1 + group); }

template <product_sm90_epilogue epilogue>
DEVICE void compute(const plan &plan, uint32_t shared, int group, int rank)
{
    int warp = threadIdx.x / 32 % 4;
    int clusters = gridDim.x / cluster;
    int first = blockIdx.x / cluster;
    finisher<epilogue> finisher = {
        plan, shared + staging_at + (4 * group + warp) * staging_bytes,
        shared + vectors_at + group * 2 * vector_bytes, group};
    uint64_t x = matrix_descriptor(shared + x_at), w = matrix_descriptor(shared + w_at);
    ring_place<stages> ring = {0, 0};
    int tile = first;
    if (group) {
        ring.skip(plan.slices);
        tile += clusters;
    }

    for (; tile < plan.tile_count; tile += 2 * clusters) {
        accumulators d;
        if (tile != first)
            turn_wait(group);
        int last = 0;
        for (int i = 0; i < plan.slices; i++) {
            barrier_wait(shared + full_at + 8 * ring.stage, ring.parity);
            uint64_t x_slice = x + (uint32_t)(ring.stage * (x_bytes >> 4));
            uint64_t w_slice = w + (uint32_t)(ring.stage * (w_bytes >> 4));
            products_begin();
            multiply_slice(d, x_slice, w_slice, i == 0);
            products_commit();
            /* Two slices are in the works: time enough for the other one to take over. */
            if (i == plan.slices - 1 && tile + clusters < plan.tile_count)
                turn_give(group ^ 1);
            /* The slice before is done with while this one is in the works. */
            products_wait<1>();
            if (i > 0)
                release(shared, last);
            last = ring.stage;
            ring.advance();
        }
        place at = tile_place(plan, tile, rank);
        products_wait<0>();
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < chunks_across; i++)
                pin(d[h][i]);
        release(shared, last); /* first of all, for the other warpgroup goes on */
        finisher.finish(d, at);
        ring.skip(plan.slices); /* those of the other one */
    }
}

#endif

template <product_sm90_epilogue epilogue>
__global__ void __launch_bounds__(cta_threads, 1) multiply(const __grid_constant__ plan plan)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    uint32_t shared = shared_begin();
    int warp = warp_index(), rank = (int)(blockIdx.x % cluster);

    if (threadIdx.x == 0) {
        for (int i = 0; i < stages; i++) {
            barrier_init(shared + full_at + 8 * i, 1);
            barrier_init(shared + free_at + 8 * i, 4 * cluster); /* every warp that reads */
        }
        barriers_ready();
    }
    __syncthreads();
    cluster_meet(); /* the other CTA's barriers are there as well */

    if (warp < 4) {
        registers_give<load_registers>();
        if (threadIdx.x == 0)
            load(plan, shared, rank);
        __syncwarp();
        cluster_meet(); /* nobody leaves while the other CTA may write here */
    } else {
        registers_take<math_registers>();
        compute<epilogue>(plan, shared, warp / 4 - 1, rank);
        cluster_meet();
    }
#endif
}

/* --- Host --- */

auto kernel_of(product_sm90_epilogue epilogue)
{
    return epilogue == EPILOGUE_GELU_ROWS ? multiply<EPILOGUE_GELU_ROWS>
                                          : multiply<EPILOGUE_HEAD_NORM>;
}

/* Elements of the result in 16 bytes. */
int unit_of(product_sm90_epilogue epilogue)
{
    return epilogue == EPILOGUE_GELU_ROWS ? 16 : 8;
}

int tiles_of(int64_t count, int size)
{
    return (int)((count + size - 1) / size);
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

bool kernel_product_sm90_fits(const struct product_sm90 *p)
{
    static int known = -1;
    const int64_t limit = 1 << 24;
    int unit = unit_of(p->epilogue);

    if (!has_body(&known, multiply<EPILOGUE_HEAD_NORM>))
        return false;
    if (p->m < 1 || p->n < 16 || p->k < 16 || p->m > limit || p->n > limit || p->k > limit ||
        p->n % 16 || p->k % 16 || p->x_stride < p->k || p->x_stride % 16 || p->x_stride >> 39 ||
        p->rows_per_sample < 1 || p->rows_per_sample > INT32_MAX)
        return false;
    /* tiles are counted in an int */
    if ((p->m / tile_rows + 2) * (p->n / tile_columns + 1) > INT32_MAX / 2)
        return false;
    if (!p->x || !p->w || !p->x_scale || !p->w_scale || !p->out || !is_aligned(p->x, 16) ||
        !is_aligned(p->w, 16) || !is_aligned(p->x_scale, 4) || !is_aligned(p->w_scale, 4) ||
        !is_aligned(p->bias, 2) || !is_aligned(p->out, 16))
        return false;
    /* The result is addressed in units of 16 bytes, in 32 bits. Strides of axes of one are not
     * looked at. */
    int64_t rows = p->m < p->rows_per_sample ? p->m : p->rows_per_sample;
    int64_t samples = (p->m - 1) / p->rows_per_sample + 1, reach = p->n / unit + 1;
    if (!stride_fits(p->out_row_stride, rows, unit, &reach) ||
        !stride_fits(p->out_sample_stride, samples, unit, &reach))
        return false;
    switch (p->epilogue) {
    case EPILOGUE_GELU_ROWS:
        return p->out_scale && is_aligned(p->out_scale, 4);
    case EPILOGUE_HEAD_NORM:
        return p->norm_columns >= 0 && p->norm_columns % (2 * chunk_columns) == 0 &&
               p->norm_columns <= p->n && p->q_norm && p->k_norm && is_aligned(p->q_norm, 8) &&
               is_aligned(p->k_norm, 8);
    }
    return false;
}

cudaError_t kernel_product_sm90_plan(struct product_sm90_plan *plan_bytes, void *encode,
                                     const struct product_sm90 *product, int multiprocessors)
{
    if (!encode || multiprocessors < cluster || !kernel_product_sm90_fits(product))
        return cudaErrorInvalidValue;
    plan plan = {};
    plan.epilogue = product->epilogue;
    if (!make_map(&plan.x, encode, product->x, product->m, product->k, product->x_stride,
                  tile_rows) ||
        !make_map(&plan.w, encode, product->w, product->n, product->k, product->k, part_columns))
        return cudaErrorInvalidValue;
    plan.x_scale = product->x_scale;
    plan.w_scale = product->w_scale;
    plan.out_scale = product->out_scale;
    plan.q_norm = product->q_norm;
    plan.k_norm = product->k_norm;
    plan.bias = (const uint16_t *)product->bias;
    plan.out = (unsigned char *)product->out;
    int unit = unit_of(plan.epilogue);
    plan.out_row_step = (uint32_t)(product->out_row_stride / unit);
    plan.out_sample_step = (uint32_t)(product->out_sample_stride / unit);
    plan.m = (int)product->m;
    plan.n = (int)product->n;
    plan.rows_per_sample = (int)product->rows_per_sample;
    plan.norm_columns = (int)product->norm_columns;
    plan.slices = tiles_of(product->k, slice_bytes);
    plan.row_tiles = tiles_of(product->m, tile_rows * cluster);
    plan.tile_count = plan.row_tiles * tiles_of(product->n, tile_columns);
    int clusters = multiprocessors / cluster;
    plan.grid = (plan.tile_count < clusters ? plan.tile_count : clusters) * cluster;
    plan.epsilon = product->epsilon;
    memcpy(plan_bytes->bytes, &plan, sizeof plan);
    return cudaFuncSetAttribute(kernel_of(plan.epilogue),
                                cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
}

cudaError_t kernel_product_sm90(cudaStream_t stream, const struct product_sm90_plan *plan_bytes)
{
    plan plan; /* the maps want alignment that the bytes do not have */
    memcpy(&plan, plan_bytes->bytes, sizeof plan);
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = cluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(plan.grid);
    config.blockDim = dim3(cta_threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel_of(plan.epilogue), plan);
}
