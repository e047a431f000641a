/* Element by element. Outputs that are quantised row by row are device_types.cuh's row ops; all
 * others go through one pair of kernels: 8 elements at once where every tensor allows it, single
 * elements with any strides otherwise. */
#include "backend/cuda/device_types.cuh"

enum element_op {
    OP_COPY,
    OP_FILL,
    OP_ADD,
    OP_GATED_ADD, /* x, gate, y */
    OP_SCALE_ADD,
    OP_MASK_BLEND, /* mask, x, y */
    OP_SILU,
    OP_GELU_TANH,
    OP_GELU_OTHER,
    OP_GATED_GELU,
    OP_RGB_TO_BYTES,
    OP_BYTES_TO_RGB,
};

static __host__ __device__ constexpr int input_count(enum element_op op)
{
    if (op == OP_FILL)
        return 0;
    if (op == OP_GATED_ADD || op == OP_MASK_BLEND)
        return 3;
    return op == OP_ADD || op == OP_SCALE_ADD || op == OP_GATED_GELU ? 2 : 1;
}

#define INPUTS_MAX 3
#define ELEMENT_THREADS 256
#define ELEMENT_VECTORS 2 /* a thread of the vector kernel has in flight */

template <int INPUTS> struct element_params {
    struct row_layout<INPUTS + 1> layout; /* out, then the inputs */
    struct divider per_row;               /* vectors, or elements, of a row */
    int64_t count;                        /* of them, of all rows */
    void *data[INPUTS + 1];
    int type[INPUTS + 1];
    float a, b;
    int kind;
};

template <enum element_op OP, bool FAST, int INPUTS>
static __device__ __forceinline__ float apply(const struct element_params<INPUTS> &p,
                                              const float *in)
{
    switch (OP) {
    case OP_COPY:
        return in[0];
    case OP_FILL:
        return p.a;
    case OP_ADD:
        return in[0] + in[1];
    case OP_GATED_ADD:
        return fmaf(in[1], in[2], in[0]);
    case OP_SCALE_ADD:
        return fmaf(p.a, in[0], p.b * in[1]);
    case OP_MASK_BLEND:
        return fmaf(in[0], in[1], (1.0f - in[0]) * in[2]);
    case OP_SILU:
        return sigmoid_times<FAST>(in[0], 1.0f);
    case OP_GELU_TANH:
        return gelu_tanh<FAST>(in[0]);
    case OP_GELU_OTHER:
        return gelu_of_kind<FAST>(in[0], p.kind);
    case OP_GATED_GELU:
        return gelu_tanh<FAST>(in[0]) * in[1];
    case OP_RGB_TO_BYTES: /* fmaxf: NaN becomes 0 */
        return 255.0f * fminf(fmaxf((in[0] + 1.0f) * 0.5f, 0.0f), 1.0f);
    case OP_BYTES_TO_RGB:
        return (2.0f * in[0] - 255.0f) / 255.0f;
    }
    return 0.0f;
}

/* Offsets of vector or element `index`, `step` elements each, for every tensor. */
template <int INPUTS>
static __device__ __forceinline__ void find_elements(const struct element_params<INPUTS> &p,
                                                     uint32_t index, int step, int64_t *offset)
{
    uint32_t row = p.layout.axes > 0 ? divide(index, p.per_row) : 0;
    int64_t column = (int64_t)(index - row * p.per_row.divisor) * step;

    if (p.layout.axes == 0)
        column = (int64_t)index * step;
    row_offsets(p.layout, row, offset);
#pragma unroll
    for (int i = 0; i <= INPUTS; i++)
        offset[i] += column * p.layout.step[i];
}

/* TYPE: of all tensors, or ANY_TYPE when each has its own. */
template <enum element_op OP, int TYPE, bool FAST>
static __global__ void __launch_bounds__(ELEMENT_THREADS)
    vector_kernel(const __grid_constant__ struct element_params<input_count(OP)> p)
{
    constexpr int inputs = input_count(OP);
    constexpr int room = inputs ? inputs : 1;
    uint32_t first = blockIdx.x * (ELEMENT_THREADS * ELEMENT_VECTORS) + threadIdx.x;
    packed8<TYPE> raw[ELEMENT_VECTORS][room];
    int64_t to[ELEMENT_VECTORS];

#pragma unroll
    for (int u = 0; u < ELEMENT_VECTORS; u++) {
        uint32_t index = first + u * ELEMENT_THREADS;
        int64_t offset[inputs + 1];

        if (index >= p.count)
            break;
        find_elements<inputs>(p, index, 8, offset);
        to[u] = offset[0];
#pragma unroll
        for (int i = 0; i < inputs; i++)
            raw[u][i] = load_packed<TYPE, LOAD_ONCE>(p.type[i + 1], p.data[i + 1], offset[i + 1]);
    }
#pragma unroll
    for (int u = 0; u < ELEMENT_VECTORS; u++) {
        float v[room][8], result[8];

        if (first + u * ELEMENT_THREADS >= p.count)
            break;
#pragma unroll
        for (int i = 0; i < inputs; i++)
            unpack<TYPE>(p.type[i + 1], raw[u][i], v[i]);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            float in[room];

            for (int i = 0; i < inputs; i++)
                in[i] = v[i][e];
            result[e] = apply<OP, FAST, inputs>(p, in);
        }
        store8<TYPE>(p.type[0], p.data[0], to[u], result);
    }
}

template <enum element_op OP, bool FAST>
static __global__ void __launch_bounds__(ELEMENT_THREADS)
    scalar_kernel(const __grid_constant__ struct element_params<input_count(OP)> p)
{
    constexpr int inputs = input_count(OP);
    uint32_t index = blockIdx.x * ELEMENT_THREADS + threadIdx.x;
    float in[inputs ? inputs : 1];
    int64_t offset[inputs + 1];

    if (index >= p.count)
        return;
    find_elements<inputs>(p, index, 1, offset);
#pragma unroll
    for (int i = 0; i < inputs; i++)
        in[i] = load_element(p.type[i + 1], p.data[i + 1], offset[i + 1]);
    store_element(p.type[0], p.data[0], offset[0], apply<OP, FAST, inputs>(p, in));
}

/* --- Launching --- */

struct element_call {
    const struct view *view[INPUTS_MAX + 1]; /* out, then the inputs */
    float a, b;
    int kind;
};

/* Whether the layout's rows can be taken 8 elements at a time. */
template <int VIEWS>
static bool is_vector_layout(const struct row_layout<VIEWS> *layout,
                             const struct view *const *views)
{
    if (layout->width % 8 != 0)
        return false;
    for (int v = 0; v < VIEWS; v++) {
        int64_t alignment = vector_alignment(views[v]->type);

        if (layout->step[v] != 1 || !is_aligned(views[v]->data, alignment))
            return false;
        for (int i = 0; i < layout->axes; i++)
            if (layout->stride[v][i] * type_size(views[v]->type) % alignment != 0)
                return false;
    }
    return true;
}

template <enum element_op OP, bool FAST>
static cudaError_t launch_layout(cudaStream_t stream, struct element_params<input_count(OP)> *p,
                                 bool is_vector, bool is_one_type)
{
    int64_t per_row = is_vector ? p->layout.width / 8 : p->layout.width;
    int64_t per_block = ELEMENT_THREADS * (is_vector ? ELEMENT_VECTORS : 1);
    dim3 grid;

    p->count = per_row * p->layout.rows;
    p->per_row = make_divider(per_row);
    grid = grid_for(p->count, per_block);
    if (!is_vector)
        scalar_kernel<OP, FAST><<<grid, ELEMENT_THREADS, 0, stream>>>(*p);
    else if (is_one_type && p->type[0] == VIEW_BF16)
        vector_kernel<OP, VIEW_BF16, FAST><<<grid, ELEMENT_THREADS, 0, stream>>>(*p);
    else
        vector_kernel<OP, ANY_TYPE, FAST><<<grid, ELEMENT_THREADS, 0, stream>>>(*p);
    return cudaGetLastError();
}

template <enum element_op OP, bool FAST>
static cudaError_t launch_elements(cudaStream_t stream, const struct element_call *call);

/* Halves the call along its largest axis, for tensors of more elements than 32 bits count. */
template <enum element_op OP, bool FAST>
static cudaError_t launch_halves(cudaStream_t stream, const struct element_call *call)
{
    int axis = 0;

    for (int i = 1; i < call->view[0]->rank; i++)
        if (call->view[0]->dim[i] > call->view[0]->dim[axis])
            axis = i;
    for (int half = 0; half < 2; half++) {
        struct element_call part = *call;
        struct view views[INPUTS_MAX + 1];
        cudaError_t status;

        for (int i = 0; i <= input_count(OP); i++) {
            int64_t whole = call->view[i]->dim[axis], begin = half ? whole / 2 : 0;

            views[i] = *call->view[i];
            views[i].dim[axis] = half ? whole - begin : whole / 2;
            views[i].data =
                (char *)views[i].data + begin * views[i].stride[axis] * type_size(views[i].type);
            part.view[i] = &views[i];
        }
        status = launch_elements<OP, FAST>(stream, &part);
        if (status != cudaSuccess)
            return status;
    }
    return cudaSuccess;
}

template <enum element_op OP, bool FAST>
static cudaError_t launch_elements(cudaStream_t stream, const struct element_call *call)
{
    constexpr int inputs = input_count(OP);
    struct element_params<inputs> p = {};
    bool is_one_type = true, is_vector;

    if (element_count(call->view[0]) == 0)
        return cudaSuccess;
    if (element_count(call->view[0]) >= INDEX_LIMIT - ELEMENT_THREADS * ELEMENT_VECTORS)
        return launch_halves<OP, FAST>(stream, call);
    if (!make_layout<inputs + 1>(&p.layout, call->view, false))
        return cudaErrorInvalidValue;
    for (int i = 0; i <= inputs; i++) {
        p.data[i] = call->view[i]->data;
        p.type[i] = call->view[i]->type;
        is_one_type = is_one_type && p.type[i] == p.type[0];
    }
    p.a = call->a;
    p.b = call->b;
    p.kind = call->kind;
    is_vector = is_vector_layout<inputs + 1>(&p.layout, call->view);
    return launch_layout<OP, FAST>(stream, &p, is_vector, is_one_type);
}

/* The hardware's functions where the output is coarse enough. */
template <enum element_op OP>
static cudaError_t launch_function(cudaStream_t stream, const struct element_call *call)
{
    if (is_coarse(call->view[0]->type))
        return launch_elements<OP, true>(stream, call);
    return launch_elements<OP, false>(stream, call);
}

/* --- Copies --- */

extern "C" cudaError_t kernel_copy(cudaStream_t stream, const struct view *out,
                                   const struct view *x)
{
    struct element_call call = {{out, x}, 0, 0, 0};
    struct row_params p;

    if (!is_same_shape(out, x) || !is_known_type(out->type) || !is_known_type(x->type) ||
        (x->type == VIEW_E4M3 && x->row_scale)) /* rows with factors are for products alone */
        return cudaErrorInvalidValue;
    if (out->type != VIEW_E4M3 || !out->row_scale)
        return launch_elements<OP_COPY, false>(stream, &call);
    if (!is_last_contiguous(out) || !is_last_contiguous(x) || !is_float_type(x->type))
        return cudaErrorInvalidValue;
    if (element_count(x) == 0)
        return cudaSuccess;
    if (!fill_row_params(&p, out, x, NULL))
        return cudaErrorInvalidValue;
    return launch_rows<ROW_COPY>(stream, p, has_vector_rows(out) && has_vector_rows(x));
}

extern "C" cudaError_t kernel_fill(cudaStream_t stream, const struct view *out, float value)
{
    struct element_call call = {{out}, value, 0, 0};

    if (!is_same_shape(out, out) || !is_known_type(out->type))
        return cudaErrorInvalidValue;
    return launch_elements<OP_FILL, false>(stream, &call);
}

/* --- Arithmetic --- */

static bool is_like(const struct view *v, const struct view *out)
{
    return is_same_shape(v, out) && v->type == out->type && is_activation_type(v->type);
}

extern "C" cudaError_t kernel_add(cudaStream_t stream, const struct view *out, const struct view *a,
                                  const struct view *b)
{
    struct element_call call = {{out, a, b}, 0, 0, 0};

    if (!is_like(a, out) || !is_like(b, out))
        return cudaErrorInvalidValue;
    return launch_elements<OP_ADD, false>(stream, &call);
}

extern "C" cudaError_t kernel_gated_add(cudaStream_t stream, const struct view *out,
                                        const struct view *x, const struct view *gate,
                                        const struct view *y)
{
    struct view gates;
    struct element_call call = {{out, x, &gates, y}, 0, 0, 0};

    if (!is_like(x, out) || !is_like(y, out) || x->rank != 3 || !has_valid_rank(gate) ||
        gate->rank != 2 || gate->type != x->type || gate->dim[0] != x->dim[0] ||
        gate->dim[1] != x->dim[2])
        return cudaErrorInvalidValue;
    gates = *x; /* [B, C] seen as [B, T, C] */
    gates.data = gate->data;
    gates.stride[0] = gate->stride[0];
    gates.stride[1] = 0;
    gates.stride[2] = gate->stride[1];
    return launch_elements<OP_GATED_ADD, false>(stream, &call);
}

extern "C" cudaError_t kernel_scale_add(cudaStream_t stream, const struct view *out, float a,
                                        const struct view *x, float b, const struct view *y)
{
    struct element_call call = {{out, x, y}, a, b, 0};

    if (!is_same_shape(x, out) || !is_same_shape(y, out) || !is_activation_type(out->type) ||
        !is_activation_type(x->type) || !is_activation_type(y->type))
        return cudaErrorInvalidValue;
    return launch_elements<OP_SCALE_ADD, false>(stream, &call);
}

extern "C" cudaError_t kernel_mask_blend(cudaStream_t stream, const struct view *out,
                                         const struct view *mask, const struct view *x,
                                         const struct view *y)
{
    struct element_call call = {{out, mask, x, y}, 0, 0, 0};

    if (!is_same_shape(mask, out) || !is_same_shape(x, out) || !is_same_shape(y, out) ||
        !is_activation_type(out->type) || !is_activation_type(mask->type) ||
        !is_activation_type(x->type) || !is_activation_type(y->type))
        return cudaErrorInvalidValue;
    return launch_elements<OP_MASK_BLEND, false>(stream, &call);
}

/* --- Functions --- */

extern "C" cudaError_t kernel_silu(cudaStream_t stream, const struct view *out,
                                   const struct view *x)
{
    struct element_call call = {{out, x}, 0, 0, 0};

    if (!is_like(x, out))
        return cudaErrorInvalidValue;
    return launch_function<OP_SILU>(stream, &call);
}

/* Both gelus to quantised rows. y: gated_gelu's second factor, or NULL. */
template <enum row_op OP>
static cudaError_t launch_gelu_rows(cudaStream_t stream, const struct view *out,
                                    const struct view *x, const struct view *y, int kind)
{
    struct row_params p;

    if (!is_last_contiguous(x) || (y && !is_last_contiguous(y)))
        return cudaErrorInvalidValue;
    if (element_count(x) == 0)
        return cudaSuccess;
    if (!fill_row_params(&p, out, x, y))
        return cudaErrorInvalidValue;
    p.gelu_kind = kind;
    return launch_rows<OP>(
        stream, p, has_vector_rows(out) && has_vector_rows(x) && (!y || has_vector_rows(y)));
}

extern "C" cudaError_t kernel_gelu(cudaStream_t stream, const struct view *out,
                                   const struct view *x, int kind)
{
    struct element_call call = {{out, x}, 0, 0, kind};

    if (!is_same_shape(out, x) || !is_row_output(out, x->type) || kind < 0 || kind > 2)
        return cudaErrorInvalidValue;
    if (out->type == VIEW_E4M3 && kind == 0)
        return launch_gelu_rows<ROW_GELU_TANH>(stream, out, x, NULL, kind);
    if (out->type == VIEW_E4M3)
        return launch_gelu_rows<ROW_GELU_OTHER>(stream, out, x, NULL, kind);
    if (kind == 0)
        return launch_function<OP_GELU_TANH>(stream, &call);
    return launch_function<OP_GELU_OTHER>(stream, &call);
}

extern "C" cudaError_t kernel_gated_gelu(cudaStream_t stream, const struct view *out,
                                         const struct view *gate, const struct view *up)
{
    struct element_call call = {{out, gate, up}, 0, 0, 0};

    if (!is_same_shape(out, gate) || !is_same_shape(gate, up) || gate->type != up->type ||
        !is_row_output(out, gate->type))
        return cudaErrorInvalidValue;
    if (out->type == VIEW_E4M3)
        return launch_gelu_rows<ROW_GATED_GELU>(stream, out, gate, up, 0);
    return launch_function<OP_GATED_GELU>(stream, &call);
}

/* --- Pictures --- */

extern "C" cudaError_t kernel_rgb_to_bytes(cudaStream_t stream, const struct view *out,
                                           const struct view *x)
{
    struct element_call call = {{out, x}, 0, 0, 0};

    if (!is_same_shape(out, x) || out->type != VIEW_U8 || !is_activation_type(x->type))
        return cudaErrorInvalidValue;
    return launch_elements<OP_RGB_TO_BYTES, false>(stream, &call);
}

extern "C" cudaError_t kernel_bytes_to_rgb(cudaStream_t stream, const struct view *out,
                                           const struct view *x)
{
    struct element_call call = {{out, x}, 0, 0, 0};

    if (!is_same_shape(out, x) || x->type != VIEW_U8 || !is_activation_type(out->type))
        return cudaErrorInvalidValue;
    return launch_elements<OP_BYTES_TO_RGB, false>(stream, &call);
}

/* --- Watching for trouble --- */

static __global__ void find_not_finite_kernel(int *flag, const float *x, int64_t count)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    bool is_bad = false;

#pragma unroll 4
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
        is_bad |= !isfinite(x[i]);
    if (is_bad)
        *flag = 1;
}

extern "C" cudaError_t kernel_find_not_finite(cudaStream_t stream, int *flag, const float *x,
                                              int64_t count)
{
    int64_t blocks = divide_up(count, 4 * ELEMENT_THREADS);

    if (count < 0 || !flag || (count > 0 && !x))
        return cudaErrorInvalidValue;
    if (count == 0)
        return cudaSuccess;
    find_not_finite_kernel<<<(unsigned)(blocks < 1024 ? blocks : 1024), ELEMENT_THREADS, 0,
                             stream>>>(flag, x, count);
    return cudaGetLastError();
}
