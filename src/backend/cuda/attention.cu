/* Attention for everything but the transformer on Hopper (attention_sm90.cu), and the softmax of
 * rows for attention that is too wide for either.
 *
 * Two kernels: one on tensor cores (mma.sync, sm_80 on) for 16-bit types and head widths that are
 * multiples of 16, one of plain arithmetic for everything else. Both keep a running maximum; hidden
 * keys have a score of -infinity, and as long as a row has seen nothing else its maximum counts as
 * 0, so that no infinity is taken from another. A row that sees no key at all becomes 0.
 */
#include "backend/cuda/kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>

namespace {

constexpr int max_plain_width = 512; /* of heads */
constexpr float log2_e = 1.4426950408889634f;

/* Of [B, T, N, D]; bias [N, Tq, Tk]. In elements. */
struct strides {
    int64_t sample, token, head;
};

struct problem {
    const void *q, *k, *v;
    void *out;
    const float *bias; /* NULL: none */
    strides q_stride, k_stride, v_stride, out_stride;
    int64_t bias_head, bias_query;
    int query_count, key_count, head_count, sample_count, width;
    float scale;
    int is_causal;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void from_float(float *to, float x) { *to = x; }
__device__ __forceinline__ void from_float(__half *to, float x) { *to = __float2half_rn(x); }
__device__ __forceinline__ void from_float(__nv_bfloat16 *to, float x)
{
    *to = __float2bfloat16_rn(x);
}

/* Keys that a query may see: [0, this). */
__device__ __forceinline__ int visible_keys(const problem &p, int query)
{
    return p.is_causal && query + 1 < p.key_count ? query + 1 : p.key_count;
}

/* --- Tensor cores --- */

constexpr int tile_rows = 64; /* queries of a CTA, 16 for each of 4 warps */
constexpr int tile_keys = 64;

template <class f> struct products;

template <> struct products<__half> {
    static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                    uint32_t b0, uint32_t b1)
    {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        __half2 y = __floats2half2_rn(low, high);
        return *(uint32_t *)&y;
    }
};

template <> struct products<__nv_bfloat16> {
    static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                    uint32_t b0, uint32_t b1)
    {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        __nv_bfloat162 y = __floats2bfloat162_rn(low, high);
        return *(uint32_t *)&y;
    }
};

template <bool transposed>
__device__ __forceinline__ void load_matrices(uint32_t (&x)[4], const void *row)
{
    uint32_t from = (uint32_t)__cvta_generic_to_shared(row);
    if (transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(from)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(from)
                     : "memory");
}

/* Rows [first, first + 64) of x into shared memory, zeros beyond `count`: 0 p has to be 0, which
 * stale memory would not promise. */
template <class f, int width>
__device__ __forceinline__ void load_rows(f *to, const f *x, int64_t token_stride, int first,
                                          int count)
{
    constexpr int pitch = width + 8, chunks = width / 8;
    for (int i = threadIdx.x; i < 64 * chunks; i += 128) {
        int row = i / chunks, column = i % chunks * 8;
        uint32_t at = (uint32_t)__cvta_generic_to_shared(to + row * pitch + column);
        bool exists = first + row < count;
        const f *from = x + (exists ? (int64_t)(first + row) : 0) * token_stride + column;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
                     "r"(exists ? 16 : 0)
                     : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int pending> __device__ __forceinline__ void wait_rows()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
    __syncthreads();
}

template <class f, int width>
constexpr int tensor_shared_bytes = (tile_rows + 2 * tile_keys) * (width + 8) * (int)sizeof(f);

/* grid: row tiles, heads, samples. Rows are padded by 16 bytes, so that the 8 rows which ldmatrix
 * reads at a time lie in different banks. Values are loaded behind the scores' arithmetic, the next
 * keys behind the values'. */
template <class f, int width>
__global__ void __launch_bounds__(128) attend_tensor(const problem p)
{
    using op = products<f>;
    constexpr int pitch = width + 8;
    extern __shared__ __align__(16) unsigned char memory[];
    f *q_rows = (f *)memory;
    f *k_rows = q_rows + tile_rows * pitch;
    f *v_rows = k_rows + tile_keys * pitch;

    int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    int head = blockIdx.y, sample = blockIdx.z;
    int first_query = blockIdx.x * tile_rows;
    const f *q = (const f *)p.q + sample * p.q_stride.sample + head * p.q_stride.head;
    const f *k = (const f *)p.k + sample * p.k_stride.sample + head * p.k_stride.head;
    const f *v = (const f *)p.v + sample * p.v_stride.sample + head * p.v_stride.head;
    f *out = (f *)p.out + sample * p.out_stride.sample + head * p.out_stride.head;

    int query[2], visible[2];
    const float *bias[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        query[r] = first_query + 16 * warp + lane / 4 + 8 * r;
        visible[r] = visible_keys(p, query[r]);
        bias[r] = p.bias && query[r] < p.query_count
                      ? p.bias + head * p.bias_head + query[r] * p.bias_query
                      : NULL;
    }
    int key_end = visible_keys(p, first_query + tile_rows - 1);

    load_rows<f, width>(q_rows, q, p.q_stride.token, first_query, p.query_count);
    load_rows<f, width>(k_rows, k, p.k_stride.token, 0, p.key_count);
    wait_rows<0>();
    uint32_t a[width / 16][4];
#pragma unroll
    for (int i = 0; i < width / 16; i++)
        load_matrices<false>(a[i], q_rows + (16 * warp + lane % 16) * pitch + 16 * i +
                                       lane / 16 * 8);

    float sum[2] = {0.0f, 0.0f}, max[2] = {-INFINITY, -INFINITY};
    float o[width / 8][4];
#pragma unroll
    for (int i = 0; i < width / 8; i++)
        o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.0f;

    for (int first = 0; first < key_end; first += tile_keys) {
        load_rows<f, width>(v_rows, v, p.v_stride.token, first, p.key_count);
        float s[8][4];
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                s[j][e] = s[j + 1][e] = 0.0f;
#pragma unroll
            for (int i = 0; i < width / 16; i++) {
                /* 16 keys by 16 columns: matrices 0, 1 the halves of keys 0..7, 2, 3 of 8..15 */
                uint32_t b[4];
                load_matrices<false>(b, k_rows + (8 * j + lane % 8 + lane / 16 * 8) * pitch +
                                            16 * i + lane / 8 % 2 * 8);
                op::multiply(s[j], a[i], b[0], b[1]);
                op::multiply(s[j + 1], a[i], b[2], b[3]);
            }
        }

        /* Row r of this thread is s[..][2 r .. 2 r + 1], columns 8 j + 2 (lane % 4) + {0, 1}. */
        float rescale[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float m = max[r];
#pragma unroll
            for (int j = 0; j < 8; j++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int key = first + 8 * j + 2 * (lane & 3) + e;
                    float *x = &s[j][2 * r + e];
                    if (key >= visible[r])
                        *x = -INFINITY;
                    else if (bias[r])
                        *x = fmaf(*x, p.scale, bias[r][key]);
                    else
                        *x *= p.scale;
                    m = fmaxf(m, *x);
                }
            }
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
            float shift = m == -INFINITY ? 0.0f : m;
            rescale[r] = exp2f((max[r] - shift) * log2_e);
            max[r] = m;
            sum[r] *= rescale[r];
            /* The difference is taken first: scores may be large, what counts is close to 0. */
#pragma unroll
            for (int j = 0; j < 8; j++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float *x = &s[j][2 * r + e];
                    *x = exp2f((*x - shift) * log2_e);
                    sum[r] += *x;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < width / 8; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                o[i][e] *= rescale[e / 2];

        wait_rows<0>(); /* values are there, and everybody is done with the keys */
        if (first + tile_keys < key_end)
            load_rows<f, width>(k_rows, k, p.k_stride.token, first + tile_keys, p.key_count);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t w[4] = {op::pack(s[2 * j][0], s[2 * j][1]), op::pack(s[2 * j][2], s[2 * j][3]),
                             op::pack(s[2 * j + 1][0], s[2 * j + 1][1]),
                             op::pack(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
            for (int i = 0; i < width / 16; i++) {
                /* 16 keys by 16 columns: matrices 0, 1 the keys' halves of columns 0..7, .. */
                uint32_t b[4];
                load_matrices<true>(b, v_rows + (16 * j + lane % 16) * pitch + 16 * i +
                                           lane / 16 * 8);
                op::multiply(o[2 * i], w, b[0], b[1]);
                op::multiply(o[2 * i + 1], w, b[2], b[3]);
            }
        }
        wait_rows<0>(); /* keys are there, and everybody is done with the values */
    }

#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        float inverse = sum[r] == 0.0f ? 0.0f : 1.0f / sum[r];
        if (query[r] < p.query_count) {
            f *row = out + query[r] * p.out_stride.token;
#pragma unroll
            for (int i = 0; i < width / 8; i++)
                *(uint32_t *)(row + 8 * i + 2 * (lane & 3)) =
                    op::pack(o[i][2 * r] * inverse, o[i][2 * r + 1] * inverse);
        }
    }
}

/* --- Plain --- */

/* A warp for each query: each lane scores one key of 32, then each owns up to 16 output columns. */
template <class f> __global__ void __launch_bounds__(128) attend_plain(const problem p)
{
    __shared__ float q_rows[4][max_plain_width];
    int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    int head = blockIdx.y, sample = blockIdx.z;
    int query = blockIdx.x * 4 + warp;
    if (query >= p.query_count)
        return;
    const f *q = (const f *)p.q + sample * p.q_stride.sample + head * p.q_stride.head +
                 query * p.q_stride.token;
    const f *k = (const f *)p.k + sample * p.k_stride.sample + head * p.k_stride.head;
    const f *v = (const f *)p.v + sample * p.v_stride.sample + head * p.v_stride.head;
    f *out = (f *)p.out + sample * p.out_stride.sample + head * p.out_stride.head +
             query * p.out_stride.token;
    const float *bias =
        p.bias ? p.bias + head * p.bias_head + query * p.bias_query : NULL;
    int visible = visible_keys(p, query);

    for (int c = lane; c < p.width; c += 32)
        q_rows[warp][c] = to_float(q[c]);
    __syncwarp();

    float sum = 0.0f, max = -INFINITY, o[max_plain_width / 32] = {};
    for (int first = 0; first < visible; first += 32) {
        int key = first + lane;
        float s = -INFINITY;
        if (key < visible) {
            const f *row = k + key * p.k_stride.token;
            float dot = 0.0f;
            for (int c = 0; c < p.width; c++)
                dot = fmaf(q_rows[warp][c], to_float(row[c]), dot);
            s = bias ? fmaf(dot, p.scale, bias[key]) : dot * p.scale;
        }
        float m = s;
#pragma unroll
        for (int i = 16; i > 0; i /= 2)
            m = fmaxf(m, __shfl_xor_sync(~0u, m, i));
        m = fmaxf(m, max);
        float shift = m == -INFINITY ? 0.0f : m;
        float rescale = exp2f((max - shift) * log2_e);
        float weight = exp2f((s - shift) * log2_e);
        max = m;
        sum = fmaf(sum, rescale, weight); /* of this lane's keys; the factor is everybody's */
#pragma unroll
        for (int i = 0; i < max_plain_width / 32; i++)
            o[i] *= rescale;
        int count = visible - first < 32 ? visible - first : 32;
        for (int j = 0; j < count; j++) {
            float w = __shfl_sync(~0u, weight, j);
            const f *row = v + (first + j) * p.v_stride.token;
#pragma unroll
            for (int i = 0; i < max_plain_width / 32; i++)
                if (lane + 32 * i < p.width)
                    o[i] = fmaf(w, to_float(row[lane + 32 * i]), o[i]);
        }
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        sum += __shfl_xor_sync(~0u, sum, i);
    float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
    for (int i = 0; i < max_plain_width / 32; i++)
        if (lane + 32 * i < p.width)
            from_float(&out[lane + 32 * i], o[i] * inverse);
}

/* --- Softmax of rows --- */

constexpr int softmax_threads = 1024;

template <bool is_max> __device__ __forceinline__ float reduce(float x, float *scratch)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        float y = __shfl_xor_sync(~0u, x, i);
        x = is_max ? fmaxf(x, y) : x + y;
    }
    __syncthreads(); /* of an earlier call: everybody has read */
    if (threadIdx.x % 32 == 0)
        scratch[threadIdx.x / 32] = x;
    __syncthreads();
    x = scratch[threadIdx.x % 32];
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        float y = __shfl_xor_sync(~0u, x, i);
        x = is_max ? fmaxf(x, y) : x + y;
    }
    return x;
}

/* A CTA for each row, which it holds in registers, `values` a thread: all is read before anything
 * is written, so out may lie over the row. values 0: rows of any length, read three times; then out
 * may be x itself only. */
template <class f, int values>
__global__ void __launch_bounds__(softmax_threads)
softmax_rows(f *out, int64_t out_stride, const float *x, int64_t x_stride, int64_t count,
             float scale)
{
    __shared__ float scratch[32];
    out += blockIdx.x * out_stride;
    x += blockIdx.x * x_stride;
    float m = -INFINITY, sum = 0.0f;
    if constexpr (values > 0) {
        float y[values];
#pragma unroll
        for (int i = 0; i < values; i++) {
            int at = threadIdx.x + i * softmax_threads;
            y[i] = at < count ? x[at] * scale : -INFINITY;
            m = fmaxf(m, y[i]);
        }
        m = reduce<true>(m, scratch);
        float shift = m == -INFINITY ? 0.0f : m;
#pragma unroll
        for (int i = 0; i < values; i++) {
            y[i] = exp2f((y[i] - shift) * log2_e);
            sum += y[i];
        }
        sum = reduce<false>(sum, scratch);
        float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
        for (int i = 0; i < values; i++) {
            int at = threadIdx.x + i * softmax_threads;
            if (at < count)
                from_float(&out[at], y[i] * inverse);
        }
    } else {
        for (int64_t at = threadIdx.x; at < count; at += softmax_threads)
            m = fmaxf(m, x[at] * scale);
        m = reduce<true>(m, scratch);
        float shift = m == -INFINITY ? 0.0f : m;
        for (int64_t at = threadIdx.x; at < count; at += softmax_threads)
            sum += exp2f((x[at] * scale - shift) * log2_e);
        sum = reduce<false>(sum, scratch);
        float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
        for (int64_t at = threadIdx.x; at < count; at += softmax_threads)
            from_float(&out[at], exp2f((x[at] * scale - shift) * log2_e) * inverse);
    }
}

/* --- Host --- */

template <class f, int width> cudaError_t launch_tensor(cudaStream_t stream, const problem &p)
{
    constexpr int bytes = tensor_shared_bytes<f, width>;
    if (bytes > 48 * 1024) {
        cudaError_t status = cudaFuncSetAttribute(
            attend_tensor<f, width>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
        if (status != cudaSuccess)
            return status;
    }
    dim3 grid((p.query_count + tile_rows - 1) / tile_rows, p.head_count, p.sample_count);
    attend_tensor<f, width><<<grid, 128, bytes, stream>>>(p);
    return cudaGetLastError();
}

template <class f> cudaError_t launch_plain(cudaStream_t stream, const problem &p)
{
    dim3 grid((p.query_count + 3) / 4, p.head_count, p.sample_count);
    attend_plain<f><<<grid, 128, 0, stream>>>(p);
    return cudaGetLastError();
}

template <class f> cudaError_t launch_half(cudaStream_t stream, const problem &p, bool aligned)
{
    if (aligned) {
        switch (p.width) {
        case 16: return launch_tensor<f, 16>(stream, p);
        case 32: return launch_tensor<f, 32>(stream, p);
        case 48: return launch_tensor<f, 48>(stream, p);
        case 64: return launch_tensor<f, 64>(stream, p);
        case 80: return launch_tensor<f, 80>(stream, p);
        case 96: return launch_tensor<f, 96>(stream, p);
        case 112: return launch_tensor<f, 112>(stream, p);
        case 128: return launch_tensor<f, 128>(stream, p);
        }
    }
    return launch_plain<f>(stream, p);
}

strides view_strides(const view *x)
{
    return strides{x->stride[0], x->stride[1], x->stride[2]};
}

/* Whether rows of heads of this 16-bit view begin at multiples of `elements`. */
bool view_aligned(const view *x, int elements)
{
    if ((uintptr_t)x->data % (2 * elements))
        return false;
    for (int i = 0; i < 3; i++)
        if (x->dim[i] > 1 && x->stride[i] % elements)
            return false;
    return true;
}

bool view_usable(const view *x, view_type type)
{
    return x->type == type && x->rank == 4 && (x->stride[3] == 1 || x->dim[3] == 1);
}

template <class f>
void launch_softmax(cudaStream_t stream, const view *out, const view *x, float scale)
{
    int64_t count = x->dim[1];
    unsigned rows = (unsigned)x->dim[0];
    f *to = (f *)out->data;
    const float *from = (const float *)x->data;
    if (count <= 4 * softmax_threads)
        softmax_rows<f, 4><<<rows, softmax_threads, 0, stream>>>(to, out->stride[0], from,
                                                                 x->stride[0], count, scale);
    else if (count <= 10 * softmax_threads)
        softmax_rows<f, 10><<<rows, softmax_threads, 0, stream>>>(to, out->stride[0], from,
                                                                  x->stride[0], count, scale);
    else if (count <= 20 * softmax_threads)
        softmax_rows<f, 20><<<rows, softmax_threads, 0, stream>>>(to, out->stride[0], from,
                                                                  x->stride[0], count, scale);
    else
        softmax_rows<f, 0><<<rows, softmax_threads, 0, stream>>>(to, out->stride[0], from,
                                                                 x->stride[0], count, scale);
}

} // namespace

cudaError_t kernel_attention(cudaStream_t stream, const struct view *out, const struct view *q,
                             const struct view *k, const struct view *v, float scale,
                             bool is_causal, const struct view *bias)
{
    view_type type = out->type;
    if (!view_usable(out, type) || !view_usable(q, type) || !view_usable(k, type) ||
        !view_usable(v, type))
        return cudaErrorInvalidValue;
    for (int i = 0; i < 4; i++)
        if (out->dim[i] != q->dim[i] || k->dim[i] != v->dim[i] ||
            (i != 1 && q->dim[i] != k->dim[i]))
            return cudaErrorInvalidValue;
    int64_t samples = q->dim[0], queries = q->dim[1], heads = q->dim[2], width = q->dim[3];
    int64_t keys = k->dim[1];
    if (width < 1 || width > max_plain_width || keys < 1 || heads > 65535 || samples > 65535 ||
        queries > 1 << 30 || keys > 1 << 30)
        return cudaErrorInvalidValue;
    problem p = {};
    if (bias && bias->rank) {
        if (bias->type != VIEW_F32 || bias->rank != 3 || bias->dim[0] != heads ||
            bias->dim[1] != queries || bias->dim[2] != keys ||
            (bias->stride[2] != 1 && keys > 1))
            return cudaErrorInvalidValue;
        p.bias = (const float *)bias->data;
        p.bias_head = bias->stride[0];
        p.bias_query = bias->stride[1];
    }
    if (samples < 1 || queries < 1 || heads < 1)
        return cudaSuccess;
    p.q = q->data;
    p.k = k->data;
    p.v = v->data;
    p.out = out->data;
    p.q_stride = view_strides(q);
    p.k_stride = view_strides(k);
    p.v_stride = view_strides(v);
    p.out_stride = view_strides(out);
    p.query_count = (int)queries;
    p.key_count = (int)keys;
    p.head_count = (int)heads;
    p.sample_count = (int)samples;
    p.width = (int)width;
    p.scale = scale;
    p.is_causal = is_causal;
    bool aligned = view_aligned(q, 8) && view_aligned(k, 8) && view_aligned(v, 8) &&
                   view_aligned(out, 2);
    switch (type) {
    case VIEW_F32: return launch_plain<float>(stream, p);
    case VIEW_F16: return launch_half<__half>(stream, p, aligned);
    case VIEW_BF16: return launch_half<__nv_bfloat16>(stream, p, aligned);
    default: return cudaErrorInvalidValue;
    }
}

cudaError_t kernel_softmax_rows(cudaStream_t stream, const struct view *out, const struct view *x,
                                float scale)
{
    if (x->type != VIEW_F32 || x->rank != 2 || out->rank != 2 || out->dim[0] != x->dim[0] ||
        out->dim[1] != x->dim[1] || x->dim[0] > INT32_MAX ||
        (x->dim[1] > 1 && (x->stride[1] != 1 || out->stride[1] != 1)))
        return cudaErrorInvalidValue;
    if (x->dim[0] < 1 || x->dim[1] < 1)
        return cudaSuccess;
    switch (out->type) {
    case VIEW_F32: launch_softmax<float>(stream, out, x, scale); break;
    case VIEW_F16: launch_softmax<__half>(stream, out, x, scale); break;
    case VIEW_BF16: launch_softmax<__nv_bfloat16>(stream, out, x, scale); break;
    default: return cudaErrorInvalidValue;
    }
    return cudaGetLastError();
}
