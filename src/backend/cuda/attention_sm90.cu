/* Attention of the transformer on Hopper: BF16, head width 64, every query sees every key.
 *
 * A CTA owns 3 x 64 query rows of one head and walks over all keys, 128 at a time. One warpgroup
 * loads (TMA into rings of key and value tiles), the other three, 64 rows each, compute: S = Q K^T
 * by wgmma out of shared memory, P = exp2(S c - m) in registers, O += P V by wgmma with P as
 * register operand. The grid is persistent: CTA i takes the tiles i, i + grid, .. with the rows of
 * one head adjacent, so that CTAs which run together read the same keys from L2; what is left of
 * heads comes after all that is whole. No tile's result depends on who computes it: the same sample
 * gives the same bits in any batch.
 *
 * What bounds it. For 32 scores in a quarter of a multiprocessor the tensor cores take 8 cycles and
 * the exponentials 8 as well, so both have to be busy all the time:
 *  - the product S of the next key tile is issued together with P V of the last one, and the
 *    warpgroups fill each other's gaps;
 *  - where the caller knows a bound of the scores (q and k are RMS-normed) there is no running
 *    maximum: a constant offset does, for f32 and BF16 have exponents enough.
 * Tried and not faster for long sequences: two score tiles in registers, warpgroups that take turns
 * in issuing products, a part of the exponentials by FMAs, other tile sizes. Q in registers, which
 * would save a fifth of what products read of shared memory, takes more of them than there are.
 * Clusters of two CTAs, each loading half of the keys for both: 0.6 % of one picture, and nothing
 * of four.
 */
#include "backend/cuda/kernels.h"

#include <cuda.h>
#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

#include "backend/cuda/hopper.cuh"

namespace {

/* Bodies are empty but for sm_90a, and then nobody looks at most of the constants. */
#pragma nv_diag_suppress 177

constexpr int head_width = 64;
constexpr int groups = 3;     /* computing warpgroups */
constexpr int unit_rows = 64; /* query rows of a warpgroup */
constexpr int cta_rows = groups * unit_rows;
constexpr int cta_threads = 128 * (groups + 1);
constexpr int tile_keys = 128;
constexpr int stages = 3;                 /* of the key ring, and of the value ring */
constexpr int row_bytes = head_width * 2; /* = one row of the 128-byte swizzle */
constexpr int unit_bytes = unit_rows * row_bytes, tile_bytes = tile_keys * row_bytes;
/* The 128 registers a thread that a launch gets are shared out anew: 4 x 128 = 3 x 160 + 32. More
 * would wait for ever. */
constexpr int math_registers = 160, load_registers = 32;
constexpr float log2_e = 1.4426950408889634f;
constexpr float static_limit = 60.0f; /* of |s| log2(e): exp2 then stays within 2^-120 .. 1 */

/* Shared memory, from a multiple of 1024, which the swizzle wants. Barriers: a buffer is full when
 * TMA has filled it and free when everybody has read it. */
constexpr int q_at = 0;
constexpr int out_at = q_at + groups * unit_bytes;
constexpr int k_at = out_at + groups * unit_bytes;
constexpr int v_at = k_at + stages * tile_bytes;
constexpr int k_full = v_at + stages * tile_bytes;
constexpr int k_free = k_full + 8 * stages;
constexpr int v_full = k_free + 8 * stages;
constexpr int v_free = v_full + 8 * stages;
constexpr int q_full = v_free + 8 * stages;
constexpr int q_free = q_full + 8 * groups;
constexpr int shared_bytes = q_free + 8 * groups + 1024; /* see shared_begin */
static_assert(shared_bytes <= shared_bytes_max, "more shared memory than there is");

struct plan {
    CUtensorMap q, k, v, out;
    int query_count, key_count, head_count;
    int full_tiles, full_count; /* with rows for every warpgroup: of a head, of all heads */
    int tile_count;             /* of all heads; those that are not full come last, one a head */
    int grid;
    bool is_online; /* with a running maximum */
    float factor;   /* scale log2(e) */
    float offset;   /* static softmax: p = exp2(s factor - offset), a whole number */
};
static_assert(sizeof(plan) <= sizeof(attention_sm90_plan), "attention_sm90_plan is too small");

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* --- Copies --- */

struct place {
    int token, head, sample;
};

/* Starts filling a buffer with `bytes`; `full` completes when they are there. */
DEVICE void load_tile(uint32_t to, const CUtensorMap *map, uint32_t full, int bytes, place at)
{
    barrier_expect(full, bytes);
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to), "l"(map), "r"(full),
                 "r"(0), "r"(at.head), "r"(at.token), "r"(at.sample)
                 : "memory");
}

DEVICE void store_tile(const CUtensorMap *map, uint32_t from, place at)
{
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group "
                 "[%0, {%2, %3, %4, %5}], [%1];\n"
                 "cp.async.bulk.commit_group;" ::"l"(map),
                 "r"(from), "r"(0), "r"(at.head), "r"(at.token), "r"(at.sample)
                 : "memory");
}

/* --- wgmma --- */

/* q and k are K-major: a row is a token, the sum runs along it. v, the second operand of the other
 * product, is MN-major: a row is a token, the sum runs over tokens. */
constexpr int k_step_16 = 32 >> 4, v_step_16 = 16 * row_bytes >> 4;

/* s (+)= q k^T: 64 queries, 128 keys, 16 of the sum. Both K-major in shared memory. */
DEVICE void multiply_scores(float (&s)[64], uint64_t q, uint64_t k, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{" NAMES_64 "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
                 : ACCUMULATORS_32(s, 0), ACCUMULATORS_32(s, 32)
                 : "l"(q), "l"(k), "r"(accumulate));
}

/* out (+)= p v: 64 queries, 64 columns, 16 keys. p in registers, v MN-major in shared memory. */
DEVICE void multiply_output(float (&out)[32], const uint32_t *p, uint64_t v, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{" NAMES_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"
                 : ACCUMULATORS_32(out, 0)
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v), "r"(accumulate));
}

/* --- Loading: two threads, of two warps --- */

DEVICE place tile_place(const plan &plan, int tile)
{
    int head, row = plan.full_tiles;
    if (tile < plan.full_count) {
        head = tile / plan.full_tiles;
        row = tile - head * plan.full_tiles;
    } else {
        head = tile - plan.full_count;
    }
    int sample = head / plan.head_count;
    return {row * cta_rows, head - sample * plan.head_count, sample};
}

DEVICE void load_keys(const plan &plan, uint32_t shared)
{
    ring_place<stages> ring = {0, 0};
    for (int tile = blockIdx.x; tile < plan.tile_count; tile += gridDim.x) {
        place at = tile_place(plan, tile);
        for (at.token = 0; at.token < plan.key_count; at.token += tile_keys) {
            uint32_t barriers = shared + 8 * ring.stage;
            uint32_t buffers = shared + tile_bytes * ring.stage;
            barrier_wait(barriers + k_free, ring.parity ^ 1);
            load_tile(buffers + k_at, &plan.k, barriers + k_full, tile_bytes, at);
            barrier_wait(barriers + v_free, ring.parity ^ 1);
            load_tile(buffers + v_at, &plan.v, barriers + v_full, tile_bytes, at);
            ring.advance();
        }
    }
}

/* Apart, for the next queries shall not make the next keys wait. */
DEVICE void load_queries(const plan &plan, uint32_t shared)
{
    uint32_t parity[groups] = {};
    for (int tile = blockIdx.x; tile < plan.tile_count; tile += gridDim.x) {
        place at = tile_place(plan, tile);
#pragma unroll
        for (int g = 0; g < groups; g++, at.token += unit_rows) {
            uint32_t barriers = shared + 8 * g;
            if (at.token >= plan.query_count)
                continue;
            barrier_wait(barriers + q_free, parity[g] ^ 1);
            load_tile(shared + q_at + g * unit_bytes, &plan.q, barriers + q_full, unit_bytes, at);
            parity[g] ^= 1;
        }
    }
}

/* --- Computing --- */

/* The accumulator layout of S is the operand layout of P: 8 columns pairwise. Pinned, so that no
 * rounding ends up between products. */
DEVICE void round_scores(uint32_t (&p)[32], const float (&s)[64])
{
#pragma unroll
    for (int i = 0; i < 32; i++)
        p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
#pragma unroll
    for (int i = 0; i < 32; i++)
        asm volatile("" : "+r"(p[i])::"memory");
}

/* What a computing warpgroup carries along. */
template <bool is_online> struct worker {
    uint32_t shared;
    uint64_t q, k, v; /* descriptors of the first buffers */
    bool leads_warp;
    float factor, offset;
    ring_place<stages> keys, values;
    /* A thread has two rows of its warpgroup's 64, 8 apart: in s[4 j + i] column
     * 8 j + 2 (lane % 4) + i % 2 of row i / 2. Sums are of its columns only, in two chains. */
    float out[32];
    uint32_t p[32];
    float sum[2][2];
    float max[2]; /* times factor; online only */

    /* Starts s = q k^T of the next key tile. */
    DEVICE void start_scores(float (&s)[64])
    {
        barrier_wait(shared + k_full + 8 * keys.stage, keys.parity);
        uint64_t tile = k + (uint32_t)(keys.stage * (tile_bytes >> 4));
        products_begin();
#pragma unroll
        for (int i = 0; i < head_width / 16; i++)
            multiply_scores(s, q + i * k_step_16, tile + i * k_step_16, i > 0);
        products_commit();
    }

    /* Starts out += p v of the next value tile. */
    DEVICE void start_output(int accumulate)
    {
        barrier_wait(shared + v_full + 8 * values.stage, values.parity);
        uint64_t tile = v + (uint32_t)(values.stage * (tile_bytes >> 4));
        products_begin();
#pragma unroll
        for (int i = 0; i < tile_keys / 16; i++)
            multiply_output(out, p + 4 * i, tile + i * v_step_16, i > 0 ? 1 : accumulate);
        products_commit();
    }

    /* wgmma's completion is seen by each warp for itself, so each one frees. */
    DEVICE void release(ring_place<stages> &ring, int free)
    {
        if (leads_warp)
            barrier_arrive(shared + free + 8 * ring.stage);
        ring.advance();
    }

    /* Takes the new scores into the running maximum, and the sums to it. rescale: what the old
     * output has to be multiplied by. */
    DEVICE void raise_max(const float (&s)[64], float (&rescale)[2])
    {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float m = fmaxf(s[2 * r], s[2 * r + 1]);
#pragma unroll
            for (int i = 4; i < 64; i += 4)
                m = fmaxf(m, fmaxf(s[i + 2 * r], s[i + 2 * r + 1]));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
            m = fmaxf(max[r], m * factor);
            rescale[r] = exp2_fast(max[r] - m);
            max[r] = m;
            sum[r][0] *= rescale[r];
            sum[r][1] *= rescale[r];
        }
    }

    /* s becomes p, still in f32; only `visible` columns count in the last tile. The sums take p
     * before it is rounded to BF16: its rounding errors are independent with mean zero and vanish
     * in the average over keys, while unrounding packed values would cost an instruction a score.
     *
     * P V of the tile before goes on meanwhile. The assembler would move the following wait for it
     * up before most of the exponentials, if not for a branch in between: that of waiting for the
     * values, which are there since start_output. */
    template <bool is_last> DEVICE void soften(float (&s)[64], int visible, float (&rescale)[2])
    {
        int column = 2 * (threadIdx.x & 3);
#pragma unroll
        for (int i = 0; is_last && i < 64; i++)
            if (column + 8 * (i / 4) + i % 2 >= visible)
                s[i] = -INFINITY;
        if (is_online)
            raise_max(s, rescale);
#pragma unroll
        for (int i = 0; i < 64; i++) {
            int row = i / 2 % 2;
            s[i] = exp2_fast(fmaf(s[i], factor, is_online ? -max[row] : -offset));
            sum[row][i % 2] += s[i];
        }
        pin(s);
        barrier_wait(shared + v_full + 8 * values.stage, values.parity);
        pin(s);
    }

    /* From p of the last tile to p of the next. */
    template <bool is_last> DEVICE void step(float (&s)[64], int accumulate, int visible)
    {
        float rescale[2];
        start_scores(s);
        start_output(accumulate);
        products_wait<1>(s);
        release(keys, k_free);
        soften<is_last>(s, visible, rescale);
        products_wait<0>(out);
        release(values, v_free);
#pragma unroll
        for (int i = 0; is_online && i < 32; i++)
            out[i] *= rescale[i / 2 % 2];
        round_scores(p, s);
    }

    /* All keys; leaves the output, not yet divided by the sums. */
    DEVICE void run(int tiles, int visible)
    {
        float s[64], rescale[2];
        sum[0][0] = sum[0][1] = sum[1][0] = sum[1][1] = 0.0f;
        max[0] = max[1] = -INFINITY;
        start_scores(s);
        products_wait<0>(s);
        release(keys, k_free);
        if (tiles == 1)
            soften<true>(s, visible, rescale);
        else
            soften<false>(s, visible, rescale);
        round_scores(p, s);
        for (int j = 1; j < tiles - 1; j++)
            step<false>(s, j > 1, visible);
        if (tiles > 1)
            step<true>(s, tiles > 2, visible);
        start_output(tiles > 1);
        products_wait<0>(out);
        release(values, v_free);
    }

    /* A warpgroup whose rows all lie beyond the last query only keeps step. */
    DEVICE void run_idle(int tiles)
    {
        for (int j = 0; j < tiles; j++) {
            barrier_wait(shared + k_full + 8 * keys.stage, keys.parity);
            release(keys, k_free);
            barrier_wait(shared + v_full + 8 * values.stage, values.parity);
            release(values, v_free);
        }
    }

    /* The output as BF16 into shared memory, swizzled as the map wants; 8 rows are 1024 bytes. */
    DEVICE void write_output(uint32_t to)
    {
        float inverse[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float all = sum[r][0] + sum[r][1];
            all += __shfl_xor_sync(~0u, all, 1);
            inverse[r] = 1.0f / (all + __shfl_xor_sync(~0u, all, 2));
        }
        int lane = threadIdx.x & 31, row = 16 * (threadIdx.x / 32 % 4) + lane / 4;
        to += row * row_bytes + 4 * (lane & 3);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            uint32_t a = pack_bf16(out[4 * i] * inverse[0], out[4 * i + 1] * inverse[0]);
            uint32_t b = pack_bf16(out[4 * i + 2] * inverse[1], out[4 * i + 3] * inverse[1]);
            uint32_t chunk = to + 16 * (i ^ (row & 7));
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(chunk), "r"(a) : "memory");
            asm volatile("st.shared.b32 [%0 + 1024], %1;" ::"r"(chunk), "r"(b) : "memory");
        }
    }
};

template <bool is_online>
DEVICE void compute(const plan &plan, uint32_t shared, int group)
{
    uint32_t out_to = shared + out_at + group * unit_bytes;
    bool leads_group = (threadIdx.x & 127) == 0;

    worker<is_online> w = {
        shared, matrix_descriptor(shared + q_at + group * unit_bytes),
        matrix_descriptor(shared + k_at), matrix_descriptor(shared + v_at),
        (threadIdx.x & 31) == 0, plan.factor, plan.offset};
    uint32_t q_parity = 0;
    int tiles = (plan.key_count + tile_keys - 1) / tile_keys;
    int visible = plan.key_count - (tiles - 1) * tile_keys;

    for (int tile = blockIdx.x; tile < plan.tile_count; tile += gridDim.x) {
        place at = tile_place(plan, tile);
        at.token += group * unit_rows;
        if (at.token >= plan.query_count) {
            w.run_idle(tiles);
            continue;
        }
        barrier_wait(shared + q_full + 8 * group, q_parity);
        q_parity ^= 1;
        w.run(tiles, visible);
        if (w.leads_warp)
            barrier_arrive(shared + q_free + 8 * group);

        /* The store of the last tile must have read the buffer before it is written again. This
         * one clips rows beyond the last query. */
        if (leads_group)
            asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
        threads_meet<128>(1 + group);
        w.write_output(out_to);
        fence_for_tma();
        threads_meet<128>(1 + group);
        if (leads_group)
            store_tile(&plan.out, out_to, at);
    }
    if (leads_group)
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

#endif

template <bool is_online>
__global__ void __launch_bounds__(cta_threads, 1) attend(const __grid_constant__ plan plan)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    uint32_t shared = shared_begin();
    int warp = warp_index();

    if (threadIdx.x == 0) {
        for (int i = 0; i < stages; i++) {
            barrier_init(shared + k_full + 8 * i, 1);
            barrier_init(shared + v_full + 8 * i, 1);
            barrier_init(shared + k_free + 8 * i, 4 * groups); /* every warp that computes */
            barrier_init(shared + v_free + 8 * i, 4 * groups);
        }
        for (int i = 0; i < groups; i++) {
            barrier_init(shared + q_full + 8 * i, 1);
            barrier_init(shared + q_free + 8 * i, 4);
        }
        barriers_ready();
    }
    __syncthreads();

    if (warp < 4) {
        registers_give<load_registers>();
        if (threadIdx.x == 0)
            load_keys(plan, shared);
        else if (threadIdx.x == 32)
            load_queries(plan, shared);
    } else {
        registers_take<math_registers>();
        compute<is_online>(plan, shared, warp / 4 - 1);
    }
#endif
}

/* --- Host --- */

/* [B, T, N, 64] with `rows` rows of one head in a box */
bool make_map(CUtensorMap *map, void *encode, const view *x, int rows)
{
    cuuint64_t dims[4], strides[4]; /* the first stride is not asked for */
    cuuint32_t box[4] = {head_width, 1, (cuuint32_t)rows, 1}, steps[4] = {1, 1, 1, 1};
    for (int i = 0; i < 4; i++) { /* an axis of one has a stride that nobody looks at */
        dims[i] = (cuuint64_t)x->dim[3 - i];
        strides[i] = dims[i] == 1 ? row_bytes : (cuuint64_t)x->stride[3 - i] * 2;
    }
    return ((decltype(&cuTensorMapEncodeTiled))encode)(
               map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, x->data, dims, strides + 1, box, steps,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool view_fits(const view *x)
{
    if (x->type != VIEW_BF16 || x->rank != 4 || x->dim[3] != head_width || x->stride[3] != 1 ||
        (uintptr_t)x->data % 16)
        return false;
    for (int i = 0; i < 3; i++) {
        bool is_regular = x->stride[i] >= 8 && x->stride[i] % 8 == 0 && x->stride[i] >> 39 == 0;
        if (x->dim[i] < 1 || x->dim[i] > 1 << 24 || (x->dim[i] > 1 && !is_regular))
            return false;
    }
    return true;
}

} // namespace

bool kernel_attention_sm90_fits(const struct view *out, const struct view *q, const struct view *k,
                                const struct view *v)
{
    static int known = -1;

    if (!has_body(&known, attend<false>) || !view_fits(out) || !view_fits(q) || !view_fits(k) ||
        !view_fits(v))
        return false;
    for (int i = 0; i < 3; i++)
        if (out->dim[i] != q->dim[i] || k->dim[i] != v->dim[i] ||
            (i != 1 && q->dim[i] != k->dim[i]))
            return false;
    /* tiles are counted in an int */
    return q->dim[0] * q->dim[2] <= INT32_MAX / (q->dim[1] / unit_rows + 1);
}

cudaError_t kernel_attention_sm90_plan(struct attention_sm90_plan *plan_bytes, void *encode,
                                       const struct view *out, const struct view *q,
                                       const struct view *k, const struct view *v, float scale,
                                       float score_limit, int multiprocessors)
{
    /* The maximum is taken before the scale, so that must be positive. */
    if (!encode || multiprocessors < 1 || !(scale > 0.0f) ||
        !kernel_attention_sm90_fits(out, q, k, v))
        return cudaErrorInvalidValue;
    plan plan = {};
    if (!make_map(&plan.q, encode, q, unit_rows) || !make_map(&plan.k, encode, k, tile_keys) ||
        !make_map(&plan.v, encode, v, tile_keys) || !make_map(&plan.out, encode, out, unit_rows))
        return cudaErrorInvalidValue;
    float limit = score_limit * log2_e;
    plan.is_online = !(limit > 0.0f && limit <= static_limit);
    plan.query_count = (int)q->dim[1];
    plan.key_count = (int)k->dim[1];
    plan.head_count = (int)q->dim[2];
    /* A tile with rows for some warpgroups only takes less time, so it may fill a gap at the end. */
    int heads = (int)(q->dim[0] * q->dim[2]);
    plan.full_tiles = plan.query_count / cta_rows;
    plan.full_count = heads * plan.full_tiles;
    plan.tile_count = plan.full_count + (plan.query_count % cta_rows ? heads : 0);
    plan.factor = scale * log2_e;
    plan.offset = plan.is_online ? 0.0f : ceilf(limit);
    plan.grid = plan.tile_count < multiprocessors ? plan.tile_count : multiprocessors;
    memcpy(plan_bytes->bytes, &plan, sizeof plan);
    return cudaFuncSetAttribute(plan.is_online ? attend<true> : attend<false>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
}

bool kernel_attention_sm90_is_online(const struct attention_sm90_plan *plan_bytes)
{
    plan plan;
    memcpy(&plan, plan_bytes->bytes, sizeof plan);
    return plan.is_online;
}

cudaError_t kernel_attention_sm90(cudaStream_t stream, const struct attention_sm90_plan *plan_bytes)
{
    plan plan; /* the maps want alignment that the bytes do not have */
    memcpy(&plan, plan_bytes->bytes, sizeof plan);
    auto kernel = plan.is_online ? attend<true> : attend<false>;
    kernel<<<plan.grid, cta_threads, shared_bytes, stream>>>(plan);
    return cudaGetLastError();
}
