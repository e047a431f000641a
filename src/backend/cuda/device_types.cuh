/* What the .cu files share: element types, 16-byte access, reductions in a fixed order, where a row
 * of a strided view lies, and the kernels of ops that work row by row.
 *
 * A type is a constant of enum view_type as a template argument where speed counts, or ANY_TYPE,
 * and then the run-time type decides at each access.
 */
#ifndef BACKEND_CUDA_DEVICE_TYPES_CUH
#define BACKEND_CUDA_DEVICE_TYPES_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "backend/cuda/kernels.h"

#define ANY_TYPE (-1)
#define E4M3_LARGEST 448.0f
#define ROW_AXES_MAX (VIEW_MAX_RANK - 1)
#define INDEX_LIMIT ((int64_t)1 << 31) /* what a divider and a 32-bit index can take */

/* --- Host: shapes and launches --- */

static inline int64_t divide_up(int64_t count, int64_t by)
{
    return (count + by - 1) / by;
}

/* Blocks for `count` items at `per_block` each, as many as a grid's first axis takes. */
static inline dim3 grid_for(int64_t count, int64_t per_block)
{
    return dim3((unsigned)divide_up(count, per_block));
}

static inline int type_size(enum view_type type)
{
    if (type == VIEW_F32 || type == VIEW_I32)
        return 4;
    return type == VIEW_F16 || type == VIEW_BF16 ? 2 : 1;
}

static inline bool is_known_type(enum view_type type)
{
    return (unsigned)type <= (unsigned)VIEW_U8;
}

static inline bool is_float_type(enum view_type type)
{
    return (unsigned)type <= (unsigned)VIEW_E5M2;
}

/* What kernels.h calls f. */
static inline bool is_activation_type(enum view_type type)
{
    return (unsigned)type <= (unsigned)VIEW_BF16;
}

static inline bool has_valid_rank(const struct view *v)
{
    return v && v->rank > 0 && v->rank <= VIEW_MAX_RANK;
}

static inline bool is_same_shape(const struct view *a, const struct view *b)
{
    if (!has_valid_rank(a) || !has_valid_rank(b) || a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i] || a->dim[i] < 0)
            return false;
    return true;
}

static inline int64_t element_count(const struct view *v)
{
    int64_t count = 1;

    for (int i = 0; i < v->rank; i++)
        count *= v->dim[i];
    return count;
}

static inline int64_t last_dim(const struct view *v)
{
    return v->dim[v->rank - 1];
}

static inline bool is_last_contiguous(const struct view *v)
{
    return last_dim(v) <= 1 || v->stride[v->rank - 1] == 1;
}

/* What 8 elements at once have to be aligned to. */
static inline int64_t vector_alignment(enum view_type type)
{
    return type_size(type) == 1 ? 8 : 16;
}

static inline bool is_aligned(const void *data, int64_t alignment)
{
    return (uintptr_t)data % (uintptr_t)alignment == 0;
}

/* Whether every row can be taken 8 elements at a time. Strides of axes of size 1 count as well:
 * the same sample has to take the same path in any batch. */
static inline bool has_vector_rows(const struct view *v)
{
    int64_t alignment = vector_alignment(v->type);

    if (last_dim(v) % 8 != 0 || v->stride[v->rank - 1] != 1 || !is_aligned(v->data, alignment))
        return false;
    for (int i = 0; i + 1 < v->rank; i++)
        if (v->stride[i] * type_size(v->type) % alignment != 0)
            return false;
    return true;
}

/* Division by a number that the host knows, of numbers below 2^31: the quotient is
 * n 2^32 / (2^32 d), with the factor 2^(32 + shift) / d rounded up and its leading 1 implied
 * (Granlund and Montgomery 1994). */
struct divider {
    uint32_t divisor, factor, shift;
};

static inline struct divider make_divider(int64_t divisor)
{
    struct divider d = {(uint32_t)divisor, 0, 0};

    while (d.shift < 31 && ((int64_t)1 << d.shift) < divisor)
        d.shift++;
    d.factor =
        (uint32_t)(((((uint64_t)1 << d.shift) - (uint64_t)divisor) << 32) / (uint64_t)divisor + 1);
    return d;
}

static __device__ __forceinline__ uint32_t divide(uint32_t n, struct divider d)
{
    return (__umulhi(n, d.factor) + n) >> d.shift;
}

/* Where the rows of up to VIEWS views of one shape lie. Axes that follow on each other without a
 * gap in all of the views are one axis here. */
template <int VIEWS> struct row_layout {
    int axes; /* before the last one */
    int64_t rows, width;
    struct divider size[ROW_AXES_MAX];
    int64_t stride[VIEWS][ROW_AXES_MAX], step[VIEWS]; /* step: of the last axis */
};

/* keep_width: the last axis stays what it is, because rows mean something. */
template <int VIEWS>
static bool make_layout(struct row_layout<VIEWS> *layout, const struct view *const *views,
                        bool keep_width)
{
    const struct view *first = views[0];
    int64_t dim[VIEW_MAX_RANK] = {}, stride[VIEWS][VIEW_MAX_RANK] = {};
    int axes = 0;

    for (int i = 0; i < first->rank; i++) {
        bool is_last = i == first->rank - 1, joins = axes > 0 && !(is_last && keep_width);

        if (first->dim[i] == 1 && !(is_last && (keep_width || axes == 0)))
            continue;
        for (int v = 0; v < VIEWS; v++)
            joins = joins && stride[v][axes - 1] == first->dim[i] * views[v]->stride[i];
        if (!joins)
            dim[axes++] = 1;
        dim[axes - 1] *= first->dim[i];
        for (int v = 0; v < VIEWS; v++)
            stride[v][axes - 1] = views[v]->stride[i];
    }
    layout->axes = axes - 1;
    layout->width = dim[axes - 1];
    layout->rows = 1;
    for (int v = 0; v < VIEWS; v++)
        layout->step[v] = stride[v][axes - 1];
    for (int i = 0; i < axes - 1; i++) {
        if (dim[i] >= INDEX_LIMIT)
            return false;
        layout->rows *= dim[i];
        layout->size[i] = make_divider(dim[i]);
        for (int v = 0; v < VIEWS; v++)
            layout->stride[v][i] = stride[v][i];
    }
    return layout->rows < INDEX_LIMIT;
}

/* In elements, for each view. */
template <int VIEWS>
static __device__ __forceinline__ void row_offsets(const struct row_layout<VIEWS> &layout,
                                                   uint32_t row, int64_t *offset)
{
#pragma unroll
    for (int v = 0; v < VIEWS; v++)
        offset[v] = 0;
#pragma unroll
    for (int i = ROW_AXES_MAX - 1; i >= 0; i--) {
        uint32_t outer = 0, at = row;

        if (i >= layout.axes)
            continue;
        if (i > 0) {
            outer = divide(row, layout.size[i]);
            at = row - outer * layout.size[i].divisor;
        }
#pragma unroll
        for (int v = 0; v < VIEWS; v++)
            offset[v] += (int64_t)at * layout.stride[v][i];
        row = outer;
    }
}

/* --- Single elements --- */

template <int TYPE> static __device__ __forceinline__ int type_of(int type)
{
    return TYPE == ANY_TYPE ? type : TYPE;
}

static __device__ __forceinline__ int size_of_type(int type)
{
    if (type == VIEW_F32 || type == VIEW_I32)
        return 4;
    return type == VIEW_F16 || type == VIEW_BF16 ? 2 : 1;
}

static __device__ __forceinline__ float f8_to_float(uint8_t bits, __nv_fp8_interpretation_t form)
{
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(bits, form)));
}

static __device__ __forceinline__ float load_element(int type, const void *data, int64_t at)
{
    switch (type) {
    case VIEW_F32:
        return ((const float *)data)[at];
    case VIEW_F16:
        return __half2float(((const __half *)data)[at]);
    case VIEW_BF16:
        return __bfloat162float(((const __nv_bfloat16 *)data)[at]);
    case VIEW_E4M3:
        return f8_to_float(((const uint8_t *)data)[at], __NV_E4M3);
    case VIEW_E5M2:
        return f8_to_float(((const uint8_t *)data)[at], __NV_E5M2);
    case VIEW_I32:
        return (float)((const int32_t *)data)[at];
    default:
        return (float)((const uint8_t *)data)[at];
    }
}

/* NaN becomes `low`, as in the reference. */
static __device__ __forceinline__ float round_between(float value, float low, float high)
{
    value = rintf(value);
    return value > low ? fminf(value, high) : low;
}

static __device__ __forceinline__ void store_element(int type, void *data, int64_t at, float value)
{
    switch (type) {
    case VIEW_F32:
        ((float *)data)[at] = value;
        return;
    case VIEW_F16:
        ((__half *)data)[at] = __float2half_rn(value);
        return;
    case VIEW_BF16:
        ((__nv_bfloat16 *)data)[at] = __float2bfloat16_rn(value);
        return;
    case VIEW_E4M3:
        ((uint8_t *)data)[at] = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
        return;
    case VIEW_E5M2:
        ((uint8_t *)data)[at] = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E5M2);
        return;
    case VIEW_I32:
        ((int32_t *)data)[at] = (int32_t)round_between(value, -2147483648.0f, 2147483520.0f);
        return;
    default:
        ((uint8_t *)data)[at] = (uint8_t)round_between(value, 0.0f, 255.0f);
        return;
    }
}

/* What is left of `value` in that type. */
static __device__ __forceinline__ float round_to_type(int type, float value)
{
    if (type == VIEW_F16)
        return __half2float(__float2half_rn(value));
    return type == VIEW_BF16 ? __bfloat162float(__float2bfloat16_rn(value)) : value;
}

/* --- Eight elements at once --- */

/* As they lie in memory; 8-bit types use two words, 16-bit ones four. */
template <int WORDS> struct packed {
    uint32_t word[WORDS];
};

template <int TYPE> struct words_of {
    static constexpr int count = TYPE == ANY_TYPE || TYPE == VIEW_F32 || TYPE == VIEW_I32 ? 8
                                 : TYPE == VIEW_F16 || TYPE == VIEW_BF16                  ? 4
                                                                                          : 2;
};
template <int TYPE> using packed8 = packed<words_of<TYPE>::count>;

/* Tensors that pass through once stay out of L1, where tables that every row reads should be. */
enum load_kind { LOAD_ONCE, LOAD_TABLE };

template <enum load_kind KIND, class T> static __device__ __forceinline__ T load_word(const T *at)
{
    return KIND == LOAD_TABLE ? __ldg(at) : __ldcg(at);
}

template <int TYPE, enum load_kind KIND>
static __device__ __forceinline__ packed8<TYPE> load_packed(int run_time_type, const void *data,
                                                            int64_t at)
{
    int size = size_of_type(type_of<TYPE>(run_time_type));
    const char *from = (const char *)data + at * size;
    packed8<TYPE> p;

    if (size == 1) {
        uint2 pair = load_word<KIND>((const uint2 *)from);

        p.word[0] = pair.x, p.word[1] = pair.y;
        return p;
    }
    if constexpr (words_of<TYPE>::count >= 4) {
        uint4 four = load_word<KIND>((const uint4 *)from);

        p.word[0] = four.x, p.word[1] = four.y, p.word[2] = four.z, p.word[3] = four.w;
    }
    if constexpr (words_of<TYPE>::count == 8)
        if (size == 4) {
            uint4 four = load_word<KIND>((const uint4 *)from + 1);

            p.word[4] = four.x, p.word[5] = four.y, p.word[6] = four.z, p.word[7] = four.w;
        }
    return p;
}

static __device__ __forceinline__ void unpack_f8(const uint32_t *word,
                                                 __nv_fp8_interpretation_t form, float *v)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t pair = word[i / 2] >> (i % 2 * 16) & 0xffffu;
        float2 two =
            __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)pair, form)));

        v[2 * i] = two.x;
        v[2 * i + 1] = two.y;
    }
}

static __device__ __forceinline__ float2 unpack_halves(uint32_t word)
{
    __half2 pair;

    memcpy(&pair, &word, sizeof pair);
    return __half22float2(pair);
}

template <int TYPE>
static __device__ __forceinline__ void unpack(int run_time_type, packed8<TYPE> p, float *v)
{
    int type = type_of<TYPE>(run_time_type);

    if (type == VIEW_E4M3 || type == VIEW_E5M2) {
        unpack_f8(p.word, type == VIEW_E4M3 ? __NV_E4M3 : __NV_E5M2, v);
    } else if (type == VIEW_U8) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = (float)(p.word[i / 4] >> (i % 4 * 8) & 0xffu);
    }
    if constexpr (words_of<TYPE>::count >= 4) {
        if (type == VIEW_BF16) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                v[2 * i] = __uint_as_float(p.word[i] << 16);
                v[2 * i + 1] = __uint_as_float(p.word[i] & 0xffff0000u);
            }
        } else if (type == VIEW_F16) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float2 two = unpack_halves(p.word[i]);

                v[2 * i] = two.x;
                v[2 * i + 1] = two.y;
            }
        }
    }
    if constexpr (words_of<TYPE>::count == 8)
        if (type == VIEW_F32 || type == VIEW_I32) {
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] = type == VIEW_F32 ? __uint_as_float(p.word[i]) : (float)(int32_t)p.word[i];
        }
}

template <int TYPE, enum load_kind KIND>
static __device__ __forceinline__ void load8(int type, const void *data, int64_t at, float *v)
{
    unpack<TYPE>(type, load_packed<TYPE, KIND>(type, data, at), v);
}

static __device__ __forceinline__ void store_f8(__nv_fp8_interpretation_t form, void *data,
                                                const float *v)
{
    uint32_t pair[4];

#pragma unroll
    for (int i = 0; i < 4; i++)
        pair[i] =
            __nv_cvt_float2_to_fp8x2(make_float2(v[2 * i], v[2 * i + 1]), __NV_SATFINITE, form);
    *(uint2 *)data = make_uint2(pair[0] | pair[1] << 16, pair[2] | pair[3] << 16);
}

static __device__ __forceinline__ uint32_t pack_halves(int type, float low, float high)
{
    uint32_t word;

    if (type == VIEW_BF16) {
        __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);

        memcpy(&word, &pair, sizeof word);
    } else {
        __half2 pair = __floats2half2_rn(low, high);

        memcpy(&word, &pair, sizeof word);
    }
    return word;
}

template <int TYPE>
static __device__ __forceinline__ void store8(int run_time_type, void *data, int64_t at,
                                              const float *v)
{
    int type = type_of<TYPE>(run_time_type);
    char *to = (char *)data + at * size_of_type(type);

    if (type == VIEW_E4M3 || type == VIEW_E5M2) {
        store_f8(type == VIEW_E4M3 ? __NV_E4M3 : __NV_E5M2, to, v);
    } else if (type == VIEW_BF16 || type == VIEW_F16) {
        *(uint4 *)to = make_uint4(pack_halves(type, v[0], v[1]), pack_halves(type, v[2], v[3]),
                                  pack_halves(type, v[4], v[5]), pack_halves(type, v[6], v[7]));
    } else if (type == VIEW_F32) {
        ((float4 *)to)[0] = make_float4(v[0], v[1], v[2], v[3]);
        ((float4 *)to)[1] = make_float4(v[4], v[5], v[6], v[7]);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            store_element(type, data, at + i, v[i]);
    }
}

/* --- Reductions: always in one order --- */

struct add_floats {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const
    {
        return a + b;
    }
};

struct larger_float {
    __device__ __forceinline__ float operator()(float a, float b) const
    {
        return fmaxf(a, b);
    }
};

template <int LANES, class T, class Combine>
static __device__ __forceinline__ T reduce_lanes(T value, Combine combine)
{
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2)
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

/* Over LANES threads: a part of a warp, a warp, or the whole block, which then passes `slots`,
 * LANES / 32 values that nothing else used since the last barrier but one. All get the result. */
template <int LANES, class T, class Combine>
static __device__ __forceinline__ T reduce(T value, T *slots, Combine combine)
{
    value = reduce_lanes<(LANES < 32 ? LANES : 32)>(value, combine);
    if constexpr (LANES > 32) {
        if (threadIdx.x % 32 == 0)
            slots[threadIdx.x / 32] = value;
        __syncthreads();
        value = slots[0];
#pragma unroll
        for (int i = 1; i < LANES / 32; i++)
            value = combine(value, slots[i]);
    }
    return value;
}

/* --- Functions --- */

/* Whether results of that type are so coarse that the hardware's own functions are exact enough. */
static __host__ __device__ __forceinline__ constexpr bool is_coarse(int type)
{
    return type == VIEW_F16 || type == VIEW_BF16;
}

template <bool FAST> static __device__ __forceinline__ float sigmoid_times(float x, float steepness)
{
    if constexpr (FAST)
        return __fdividef(x, 1.0f + __expf(-steepness * x));
    return x / (1.0f + expf(-steepness * x));
}

template <bool FAST> static __device__ __forceinline__ float hyperbolic_tangent(float x)
{
    float result;

    if constexpr (!FAST)
        return tanhf(x);
    asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

template <bool FAST> static __device__ __forceinline__ float gelu_tanh(float x)
{
    const float root = 0.79788456080286536f; /* sqrt(2 / pi) */
    float half = 0.5f * x;

    return fmaf(half, hyperbolic_tangent<FAST>(x * fmaf(root * 0.044715f * x, x, root)), half);
}

template <bool FAST> static __device__ __forceinline__ float gelu_of_kind(float x, int kind)
{
    if (kind == 0)
        return gelu_tanh<FAST>(x);
    if (kind == 1)
        return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    return sigmoid_times<FAST>(x, 1.702f);
}

/* --- Ops that work row by row --- */

enum row_op {
    ROW_LAYER_NORM,
    ROW_MODULATED_NORM,
    ROW_GATED_NORM, /* kernel_gated_modulated_norm */
    ROW_RMS_NORM,
    ROW_COPY,
    ROW_GELU_TANH,
    ROW_GELU_OTHER,
    ROW_GATED_GELU,
};

static __host__ __device__ constexpr bool takes_mean(enum row_op op)
{
    return op <= ROW_GATED_NORM;
}

static __host__ __device__ constexpr bool is_norm(enum row_op op)
{
    return op <= ROW_RMS_NORM;
}

static __host__ __device__ constexpr bool is_modulated(enum row_op op)
{
    return op == ROW_MODULATED_NORM || op == ROW_GATED_NORM;
}

static __host__ __device__ constexpr bool takes_y(enum row_op op)
{
    return op == ROW_GATED_NORM || op == ROW_GATED_GELU;
}

/* One row [C] a sample. */
struct sample_rows {
    const void *data;
    int64_t stride;
};

struct row_params {
    struct row_layout<3> layout; /* out, x, y; x again without y */
    void *out, *x;
    const void *y;
    float *row_scale; /* NULL: out is not quantised */
    struct sample_rows gate, shift, scale;
    struct divider tokens;
    const float *weight, *bias;
    float epsilon, inverse_width;
    int type, out_type, gelu_kind;
};

/* What a thread knows about its row. */
struct row_place {
    uint32_t row;
    int64_t out, x, y, gate, shift, scale; /* offsets */
};

template <enum row_op OP>
static __device__ __forceinline__ struct row_place find_row(const struct row_params &p,
                                                            uint32_t row)
{
    struct row_place place = {};
    int64_t offset[3];

    row_offsets(p.layout, row, offset);
    place.row = row;
    place.out = offset[0];
    place.x = offset[1];
    place.y = offset[2];
    if (is_modulated(OP)) {
        int64_t sample = divide(row, p.tokens);

        place.gate = sample * p.gate.stride;
        place.shift = sample * p.shift.stride;
        place.scale = sample * p.scale.stride;
    }
    return place;
}

struct row_moments {
    float mean, inverse; /* inverse: of the standard deviation, or of the root mean square */
    float mean_rest;     /* what `mean` lacks: large numbers may lie closely together */
};

/* a / b, correctly rounded but for the smallest numbers, from a nearly right 1 / b: without the
 * branches of a general division, which cost rows in registers a few of them. */
static __device__ __forceinline__ float divide_known(float a, float b, float inverse_b)
{
    float quotient = a * inverse_b;

    return fmaf(fmaf(-quotient, b, a), inverse_b, quotient);
}

static __device__ __forceinline__ float approximate_inverse(float x)
{
    float result;

    asm("rcp.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

/* The row maximum's two uses. */
struct row_factor {
    float scale, inverse;
};

static __device__ __forceinline__ struct row_factor factor_of(float largest)
{
    /* Below this the inverse would overflow; such a row keeps fewer bits. */
    float kept = largest > 0.0f ? fmaxf(largest, 1e-35f) : 1.0f;

    return {divide_known(kept, E4M3_LARGEST, 1.0f / E4M3_LARGEST),
            E4M3_LARGEST * approximate_inverse(kept)};
}

/* How a row lies in registers: vector k of thread `lane` begins at element `at` of the row. The
 * last few may lie beyond the row; those below FULL never do. Threads load from the row's beginning
 * instead and drop the values, because a load under a condition waits for the one before. */
template <int LANES, int FULL> struct row_part {
    int lane, width;

    __device__ __forceinline__ bool has(int k) const
    {
        return k < FULL || (k * LANES + lane) * 8 < width;
    }
    __device__ __forceinline__ int at(int k) const
    {
        return has(k) ? (k * LANES + lane) * 8 : 0;
    }
};

/* The epilogue that quantises: out, the thread's v and the row's factor. */
template <int LANES, int FULL, int K>
static __device__ __forceinline__ void store_quantised(uint8_t *out, float *row_scale,
                                                       struct row_part<LANES, FULL> part,
                                                       float (*v)[8], float *slots)
{
    float largest = 0.0f;
    struct row_factor factor;

#pragma unroll
    for (int k = 0; k < K; k++) {
        float here = 0.0f;

#pragma unroll
        for (int i = 0; i < 8; i++)
            here = fmaxf(here, fabsf(v[k][i]));
        largest = part.has(k) ? fmaxf(largest, here) : largest;
    }
    factor = factor_of(reduce<LANES>(largest, slots, larger_float()));
    if (part.lane == 0)
        *row_scale = factor.scale;
#pragma unroll
    for (int k = 0; k < K; k++) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[k][i] *= factor.inverse;
        if (part.has(k))
            store_f8(__NV_E4M3, out + part.at(k), v[k]);
    }
}

/* x and, of ops that have one, y as they lie in memory. */
template <enum row_op OP, int TYPE> struct row_raw {
    packed8<TYPE> x;
    packed<(takes_y(OP) ? words_of<TYPE>::count : 1)> y;
};

template <enum row_op OP, int TYPE>
static __device__ __forceinline__ struct row_raw<OP, TYPE>
load_raw(const struct row_params &p, const struct row_place &place, int at) {
    struct row_raw<OP, TYPE> raw;

    raw.x = load_packed<TYPE, LOAD_ONCE>(TYPE, p.x, place.x + at);
    if constexpr (takes_y(OP))
        raw.y = load_packed<TYPE, LOAD_ONCE>(TYPE, p.y, place.y + at);
    return raw;
}

/* From raw to what the statistics are about, or, without statistics, to the result. */
template <enum row_op OP, int TYPE>
static __device__ __forceinline__ void open_raw(const struct row_params &p,
                                                const struct row_place &place, int at,
                                                const struct row_raw<OP, TYPE> &raw, float *v)
{
    float y[8], gate[8];

    unpack<TYPE>(TYPE, raw.x, v);
    if constexpr (takes_y(OP))
        unpack<TYPE>(TYPE, raw.y, y);
    if constexpr (OP == ROW_GATED_NORM)
        load8<TYPE, LOAD_TABLE>(TYPE, p.gate.data, place.gate + at, gate);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (OP == ROW_GATED_NORM)
            v[i] = fmaf(gate[i], y[i], v[i]);
        if (OP == ROW_GELU_TANH)
            v[i] = gelu_tanh<is_coarse(TYPE)>(v[i]);
        if (OP == ROW_GELU_OTHER)
            v[i] = gelu_of_kind<is_coarse(TYPE)>(v[i], p.gelu_kind);
        if (OP == ROW_GATED_GELU)
            v[i] = gelu_tanh<is_coarse(TYPE)>(v[i]) * y[i];
    }
    if constexpr (OP == ROW_GATED_NORM && TYPE != VIEW_F32)
#pragma unroll
        for (int i = 0; i < 8; i += 2) { /* the sum is what x will hold */
            uint32_t pair = pack_halves(TYPE, v[i], v[i + 1]);
            float2 two = TYPE == VIEW_F16 ? unpack_halves(pair)
                                          : make_float2(__uint_as_float(pair << 16),
                                                        __uint_as_float(pair & 0xffff0000u));

            v[i] = two.x;
            v[i + 1] = two.y;
        }
}

/* Replaces v by its deviations from the mean where the op takes one, and returns the inverse of the
 * spread. F32 rows may have a mean that a float does not hold; sums of 16-bit numbers are exact
 * enough as they are. */
template <enum row_op OP, int TYPE, int LANES, int FULL, int K>
static __device__ __forceinline__ float center_row(const struct row_params &p,
                                                   struct row_part<LANES, FULL> part, float (*v)[8],
                                                   float (*slots)[LANES / 32])
{
    float sum = 0.0f, squares = 0.0f, rest = 0.0f, mean = 0.0f, variance;

    if (takes_mean(OP)) {
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                sum += part.has(k) ? v[k][i] : 0.0f;
        mean = divide_known(reduce<LANES>(sum, slots[0], add_floats()), (float)part.width,
                            p.inverse_width);
    }
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[k][i] = part.has(k) ? v[k][i] - mean : 0.0f;
            if (takes_mean(OP) && TYPE == VIEW_F32)
                rest += v[k][i];
            squares = fmaf(v[k][i], v[k][i], squares);
        }
    variance = reduce<LANES>(squares, slots[1], add_floats()) * p.inverse_width;
    if (takes_mean(OP) && TYPE == VIEW_F32) {
        rest = reduce<LANES>(rest, slots[2], add_floats()) * p.inverse_width;
        variance = fmaxf(variance - rest * rest, 0.0f);
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[k][i] -= rest;
    }
    return rsqrtf(variance + p.epsilon);
}

template <enum row_op OP, int TYPE>
static __device__ __forceinline__ void finish_norm(const struct row_params &p,
                                                   const struct row_place &place, int at,
                                                   float inverse, float *v)
{
    float factor[8], offset[8];

    if constexpr (is_modulated(OP)) {
        load8<TYPE, LOAD_TABLE>(TYPE, p.scale.data, place.scale + at, factor);
        load8<TYPE, LOAD_TABLE>(TYPE, p.shift.data, place.shift + at, offset);
    } else {
        load8<VIEW_F32, LOAD_TABLE>(VIEW_F32, p.weight, at, factor);
        if constexpr (OP == ROW_LAYER_NORM)
            load8<VIEW_F32, LOAD_TABLE>(VIEW_F32, p.bias, at, offset);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float normal = v[i] * inverse;

        if (is_modulated(OP))
            v[i] = fmaf(normal, factor[i], normal) + offset[i];
        else
            v[i] = OP == ROW_RMS_NORM ? normal * factor[i] : fmaf(normal, factor[i], offset[i]);
    }
}

#define WARP_ROWS 4 /* rows a block where each has one warp */

/* Blocks that a multiprocessor should hold, where the compiler would rather take more registers for
 * loads of tables than leave room for another row. */
static constexpr int blocks_wanted(enum row_op op, int lanes, int k)
{
    return lanes == 32 && k >= 9 ? (takes_y(op) ? 3 : 4) : 1;
}

/* The whole row lies in the registers of LANES threads, K vectors of 8 each: one read, one write.
 */
template <enum row_op OP, int TYPE, bool QUANTISES, int LANES, int FULL, int K>
static __global__ void __launch_bounds__(LANES == 32 ? 32 * WARP_ROWS : LANES,
                                         blocks_wanted(OP, LANES, K))
    row_kernel(const __grid_constant__ struct row_params p)
{
    __shared__ float slots[4][LANES / 32];
    struct row_part<LANES, FULL> part = {
        (int)threadIdx.x % LANES, (int)p.layout.width
    };
    uint32_t row = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
    struct row_raw<OP, TYPE> raw[K];
    float v[K][8];
    struct row_place place;

    if (row >= (uint32_t)p.layout.rows)
        return;
    place = find_row<OP>(p, row);
#pragma unroll
    for (int k = 0; k < K; k++)
        raw[k] = load_raw<OP, TYPE>(p, place, part.at(k));
#pragma unroll
    for (int k = 0; k < K; k++)
        open_raw<OP, TYPE>(p, place, part.at(k), raw[k], v[k]);
    if constexpr (OP == ROW_GATED_NORM)
#pragma unroll
        for (int k = 0; k < K; k++)
            if (part.has(k))
                store8<TYPE>(TYPE, p.x, place.x + part.at(k), v[k]);
    if constexpr (is_norm(OP)) {
        float inverse = center_row<OP, TYPE, LANES, FULL, K>(p, part, v, slots);

#pragma unroll
        for (int k = 0; k < K; k++)
            finish_norm<OP, TYPE>(p, place, part.at(k), inverse, v[k]);
    }
    if constexpr (QUANTISES) {
        store_quantised<LANES, FULL, K>((uint8_t *)p.out + place.out, p.row_scale + row, part, v,
                                        slots[3]);
    } else {
#pragma unroll
        for (int k = 0; k < K; k++)
            if (part.has(k))
                store8<TYPE>(TYPE, p.out, place.out + part.at(k), v[k]);
    }
}

/* --- The same for any alignment and width: memory is read again for each step --- */

#define LONG_ROW_THREADS 256

/* x as the statistics see it; with `is_first`, gated ops update it. */
template <enum row_op OP>
static __device__ __forceinline__ float
load_input(const struct row_params &p, const struct row_place &place, int64_t at, bool is_first)
{
    float x = load_element(p.type, p.x, place.x + at);

    if (OP == ROW_GATED_NORM && is_first) {
        x = fmaf(load_element(p.type, p.gate.data, place.gate + at),
                 load_element(p.type, p.y, place.y + at), x);
        x = round_to_type(p.type, x);
        store_element(p.type, p.x, place.x + at, x);
    }
    return x;
}

template <enum row_op OP>
static __device__ __forceinline__ float row_result(const struct row_params &p,
                                                   const struct row_place &place, int64_t at,
                                                   const struct row_moments &m)
{
    float x = load_input<OP>(p, place, at, false);
    bool is_fast = is_coarse(p.type);
    float normal;

    if (OP == ROW_COPY)
        return x;
    if (OP == ROW_GELU_TANH || OP == ROW_GATED_GELU)
        x = is_fast ? gelu_tanh<true>(x) : gelu_tanh<false>(x);
    if (OP == ROW_GELU_OTHER)
        return is_fast ? gelu_of_kind<true>(x, p.gelu_kind) : gelu_of_kind<false>(x, p.gelu_kind);
    if (OP == ROW_GATED_GELU)
        return x * load_element(p.type, p.y, place.y + at);
    if (OP == ROW_GELU_TANH)
        return x;
    normal = (x - m.mean - m.mean_rest) * m.inverse;
    if (is_modulated(OP))
        return fmaf(normal, load_element(p.type, p.scale.data, place.scale + at), normal) +
               load_element(p.type, p.shift.data, place.shift + at);
    return OP == ROW_RMS_NORM ? normal * p.weight[at] : fmaf(normal, p.weight[at], p.bias[at]);
}

template <enum row_op OP>
static __device__ __forceinline__ struct row_moments
long_row_moments(const struct row_params &p, const struct row_place &place,
                 float (*slots)[LONG_ROW_THREADS / 32])
{
    struct row_moments m = {};
    float width = (float)p.layout.width, sum = 0.0f, rest = 0.0f, squares = 0.0f;

    if (takes_mean(OP)) {
        for (int64_t c = threadIdx.x; c < p.layout.width; c += LONG_ROW_THREADS)
            sum += load_input<OP>(p, place, c, true);
        m.mean = reduce<LONG_ROW_THREADS>(sum, slots[0], add_floats()) / width;
    }
    for (int64_t c = threadIdx.x; c < p.layout.width; c += LONG_ROW_THREADS) {
        float deviation = load_input<OP>(p, place, c, false) - m.mean;

        rest += deviation;
        squares = fmaf(deviation, deviation, squares);
    }
    squares = reduce<LONG_ROW_THREADS>(squares, slots[1], add_floats()) / width;
    if (takes_mean(OP)) {
        m.mean_rest = reduce<LONG_ROW_THREADS>(rest, slots[2], add_floats()) / width;
        squares = fmaxf(squares - m.mean_rest * m.mean_rest, 0.0f);
    }
    m.inverse = 1.0f / sqrtf(squares + p.epsilon);
    return m;
}

template <enum row_op OP>
static __global__ void __launch_bounds__(LONG_ROW_THREADS)
    long_row_kernel(const __grid_constant__ struct row_params p)
{
    __shared__ float slots[4][LONG_ROW_THREADS / 32];
    struct row_place place = find_row<OP>(p, blockIdx.x);
    struct row_moments m = {};
    struct row_factor factor = {1.0f, 1.0f};

    if constexpr (is_norm(OP))
        m = long_row_moments<OP>(p, place, slots);
    if (p.row_scale) {
        float largest = 0.0f;

        for (int64_t c = threadIdx.x; c < p.layout.width; c += LONG_ROW_THREADS)
            largest = fmaxf(largest, fabsf(row_result<OP>(p, place, c, m)));
        factor = factor_of(reduce<LONG_ROW_THREADS>(largest, slots[3], larger_float()));
        if (threadIdx.x == 0)
            p.row_scale[place.row] = factor.scale;
    }
    /* E4M3 may lie over the row itself: its byte c over element c / 2, which must have been read. */
    for (int64_t first = 0; first < p.layout.width; first += LONG_ROW_THREADS) {
        int64_t c = first + threadIdx.x;
        bool is_inside = c < p.layout.width;
        float value = is_inside ? row_result<OP>(p, place, c, m) * factor.inverse : 0.0f;

        __syncthreads();
        if (is_inside)
            store_element(p.out_type, p.out, place.out + c, value);
    }
}

/* --- Launching them --- */

template <enum row_op OP, int TYPE, bool QUANTISES, int LANES, int FULL, int K>
static void launch_row_shape(cudaStream_t stream, const struct row_params &p)
{
    int rows = LANES == 32 ? WARP_ROWS : 1;

    row_kernel<OP, TYPE, QUANTISES, LANES, FULL, K>
        <<<grid_for(p.layout.rows, rows), rows * LANES, 0, stream>>>(p);
}

/* One warp a row as long as its registers hold one, because then nothing waits at barriers. BF16 is
 * what the models run in; the others do with fewer shapes. */
template <enum row_op OP, int TYPE, bool QUANTISES>
static bool launch_vector_rows(cudaStream_t stream, const struct row_params &p)
{
    int64_t width = p.layout.width;

    if (width > 16384)
        return false;
    if (width <= 512) {
        launch_row_shape<OP, TYPE, QUANTISES, 32, 0, 2>(stream, p);
    } else if constexpr (TYPE == VIEW_BF16) {
        if (width <= 1280)
            launch_row_shape<OP, TYPE, QUANTISES, 32, 2, 5>(stream, p);
        else if (width <= 1536)
            launch_row_shape<OP, TYPE, QUANTISES, 32, 5, 6>(stream, p);
        else if (width <= 2304)
            launch_row_shape<OP, TYPE, QUANTISES, 32, 6, 9>(stream, p);
        else if (width <= 2560)
            launch_row_shape<OP, TYPE, QUANTISES, 32, 9, 10>(stream, p);
        else if (width <= 4096)
            launch_row_shape<OP, TYPE, QUANTISES, 256, 1, 2>(stream, p);
        else if (width <= 10240)
            launch_row_shape<OP, TYPE, QUANTISES, 256, 2, 5>(stream, p);
        else
            launch_row_shape<OP, TYPE, QUANTISES, 256, 5, 8>(stream, p);
    } else {
        if (width <= 4096)
            launch_row_shape<OP, TYPE, QUANTISES, 256, 0, 2>(stream, p);
        else
            launch_row_shape<OP, TYPE, QUANTISES, 256, 2, 8>(stream, p);
    }
    return true;
}

template <enum row_op OP, int TYPE>
static bool launch_vector_rows_to(cudaStream_t stream, const struct row_params &p)
{
    if (p.row_scale)
        return launch_vector_rows<OP, TYPE, true>(stream, p);
    if constexpr (is_norm(OP)) /* the others are no row ops then: elementwise.cu */
        return launch_vector_rows<OP, TYPE, false>(stream, p);
    return false;
}

/* is_vector: has_vector_rows of all tensors. */
template <enum row_op OP>
static cudaError_t launch_rows(cudaStream_t stream, const struct row_params &p, bool is_vector)
{
    bool is_done = false;

    if (is_vector && p.type == VIEW_BF16)
        is_done = launch_vector_rows_to<OP, VIEW_BF16>(stream, p);
    else if (is_vector && p.type == VIEW_F16)
        is_done = launch_vector_rows_to<OP, VIEW_F16>(stream, p);
    else if (is_vector && p.type == VIEW_F32)
        is_done = launch_vector_rows_to<OP, VIEW_F32>(stream, p);
    if (!is_done)
        long_row_kernel<OP><<<grid_for(p.layout.rows, 1), LONG_ROW_THREADS, 0, stream>>>(p);
    return cudaGetLastError();
}

/* Whether `out` may be what kernels.h calls rows, for inputs of type f. */
static inline bool is_row_output(const struct view *out, enum view_type type)
{
    return is_activation_type(type) && is_last_contiguous(out) &&
           (out->type == type || (out->type == VIEW_E4M3 && out->row_scale));
}

/* The part of row_params that every row op fills in the same way; y may be NULL. */
static inline bool fill_row_params(struct row_params *p, const struct view *out,
                                   const struct view *x, const struct view *y)
{
    const struct view *views[3] = {out, x, y ? y : x};

    *p = {};
    if (!make_layout<3>(&p->layout, views, true))
        return false;
    p->out = out->data;
    p->x = x->data;
    p->y = y ? y->data : NULL;
    p->row_scale = out->type == VIEW_E4M3 ? out->row_scale : NULL;
    p->inverse_width = 1.0f / (float)p->layout.width;
    p->type = x->type;
    p->out_type = out->type;
    return true;
}

#endif
