/* Norms: of rows, of heads, and of groups of channels. Row norms are device_types.cuh's row ops. */
#include "backend/cuda/device_types.cuh"

/* --- Rows --- */

static bool is_vector_of(const struct view *v, int64_t width)
{
    return has_valid_rank(v) && v->rank == 1 && v->type == VIEW_F32 && v->dim[0] == width &&
           is_last_contiguous(v);
}

/* [B, C], a row for each sample of x [B, T, C]. */
static bool is_sample_rows(const struct view *v, const struct view *x)
{
    return has_valid_rank(v) && v->rank == 2 && x->rank == 3 && v->type == x->type &&
           v->dim[0] == x->dim[0] && v->dim[1] == x->dim[2] && is_last_contiguous(v);
}

static bool is_row_op_shape(const struct view *out, const struct view *x)
{
    return is_same_shape(out, x) && is_row_output(out, x->type) && is_last_contiguous(x);
}

static struct sample_rows sample_rows_of(const struct view *v)
{
    return {v->data, v->stride[0]};
}

extern "C" cudaError_t kernel_layer_norm(cudaStream_t stream, const struct view *out,
                                         const struct view *x, const struct view *weight,
                                         const struct view *bias, float epsilon)
{
    struct row_params p;

    if (!is_row_op_shape(out, x) || !is_vector_of(weight, last_dim(x)) ||
        !is_vector_of(bias, last_dim(x)))
        return cudaErrorInvalidValue;
    if (element_count(x) == 0)
        return cudaSuccess;
    if (!fill_row_params(&p, out, x, NULL))
        return cudaErrorInvalidValue;
    p.weight = (const float *)weight->data;
    p.bias = (const float *)bias->data;
    p.epsilon = epsilon;
    return launch_rows<ROW_LAYER_NORM>(stream, p,
                                       has_vector_rows(out) && has_vector_rows(x) &&
                                           is_aligned(p.weight, 16) && is_aligned(p.bias, 16));
}

extern "C" cudaError_t kernel_modulated_norm(cudaStream_t stream, const struct view *out,
                                             const struct view *x, const struct view *shift,
                                             const struct view *scale, float epsilon)
{
    struct row_params p;

    if (!is_row_op_shape(out, x) || !is_sample_rows(shift, x) || !is_sample_rows(scale, x))
        return cudaErrorInvalidValue;
    if (element_count(x) == 0)
        return cudaSuccess;
    if (x->dim[1] >= INDEX_LIMIT || !fill_row_params(&p, out, x, NULL))
        return cudaErrorInvalidValue;
    p.shift = sample_rows_of(shift);
    p.scale = sample_rows_of(scale);
    p.tokens = make_divider(x->dim[1]);
    p.epsilon = epsilon;
    return launch_rows<ROW_MODULATED_NORM>(stream, p,
                                           has_vector_rows(out) && has_vector_rows(x) &&
                                               has_vector_rows(shift) && has_vector_rows(scale));
}

extern "C" cudaError_t kernel_gated_modulated_norm(cudaStream_t stream, const struct view *out,
                                                   const struct view *x, const struct view *gate,
                                                   const struct view *y, const struct view *shift,
                                                   const struct view *scale, float epsilon)
{
    struct row_params p;

    if (!is_row_op_shape(out, x) || !is_same_shape(x, y) || y->type != x->type ||
        !is_last_contiguous(y) || !is_sample_rows(gate, x) || !is_sample_rows(shift, x) ||
        !is_sample_rows(scale, x))
        return cudaErrorInvalidValue;
    if (element_count(x) == 0)
        return cudaSuccess;
    if (x->dim[1] >= INDEX_LIMIT || !fill_row_params(&p, out, x, y))
        return cudaErrorInvalidValue;
    p.gate = sample_rows_of(gate);
    p.shift = sample_rows_of(shift);
    p.scale = sample_rows_of(scale);
    p.tokens = make_divider(x->dim[1]);
    p.epsilon = epsilon;
    return launch_rows<ROW_GATED_NORM>(stream, p,
                                       has_vector_rows(out) && has_vector_rows(x) &&
                                           has_vector_rows(y) && has_vector_rows(gate) &&
                                           has_vector_rows(shift) && has_vector_rows(scale));
}

/* --- Heads: rows so short that eight threads hold one --- */

#define HEAD_LANES 8
#define HEAD_THREADS 256
#define HEAD_ROWS 4 /* rows a thread has in flight */
#define HEADS_AT_ONCE (HEAD_THREADS / HEAD_LANES)

/* Rows of at most 64 elements; the weight stays in registers. */
template <int TYPE>
static __global__ void __launch_bounds__(HEAD_THREADS)
    head_norm_kernel(const __grid_constant__ struct row_params p)
{
    int at = (int)threadIdx.x % HEAD_LANES * 8, width = (int)p.layout.width;
    uint32_t first = blockIdx.x * (HEADS_AT_ONCE * HEAD_ROWS) + threadIdx.x / HEAD_LANES;
    bool is_inside = at < width;
    packed8<TYPE> raw[HEAD_ROWS];
    int64_t to[HEAD_ROWS];
    float weight[8] = {};

#pragma unroll
    for (int r = 0; r < HEAD_ROWS; r++) {
        uint32_t row = first + r * HEADS_AT_ONCE;
        int64_t offset[3];

        raw[r] = {}; /* zeros take part in the sums */
        to[r] = -1;
        if (!is_inside || row >= (uint32_t)p.layout.rows)
            continue;
        row_offsets(p.layout, row, offset);
        to[r] = offset[0] + at;
        raw[r] = load_packed<TYPE, LOAD_ONCE>(TYPE, p.x, offset[1] + at);
    }
    if (is_inside)
        load8<VIEW_F32, LOAD_TABLE>(VIEW_F32, p.weight, at, weight);
#pragma unroll
    for (int r = 0; r < HEAD_ROWS; r++) {
        float v[8], squares = 0.0f, inverse;

        unpack<TYPE>(TYPE, raw[r], v);
#pragma unroll
        for (int i = 0; i < 8; i++)
            squares = fmaf(v[i], v[i], squares);
        squares = reduce<HEAD_LANES>(squares, (float *)NULL, add_floats());
        inverse = rsqrtf(squares * p.inverse_width + p.epsilon);
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] *= inverse * weight[i];
        if (is_inside && first + r * HEADS_AT_ONCE < (uint32_t)p.layout.rows)
            store8<TYPE>(TYPE, p.out, to[r], v);
    }
}

static cudaError_t launch_heads(cudaStream_t stream, const struct row_params &p)
{
    dim3 grid = grid_for(p.layout.rows, HEADS_AT_ONCE * HEAD_ROWS);

    if (p.type == VIEW_BF16)
        head_norm_kernel<VIEW_BF16><<<grid, HEAD_THREADS, 0, stream>>>(p);
    else if (p.type == VIEW_F16)
        head_norm_kernel<VIEW_F16><<<grid, HEAD_THREADS, 0, stream>>>(p);
    else
        head_norm_kernel<VIEW_F32><<<grid, HEAD_THREADS, 0, stream>>>(p);
    return cudaGetLastError();
}

extern "C" cudaError_t kernel_rms_norm(cudaStream_t stream, const struct view *out,
                                       const struct view *x, const struct view *weight,
                                       float epsilon)
{
    struct row_params p;
    bool is_vector;

    if (!is_row_op_shape(out, x) || !is_vector_of(weight, last_dim(x)))
        return cudaErrorInvalidValue;
    if (element_count(x) == 0)
        return cudaSuccess;
    if (!fill_row_params(&p, out, x, NULL))
        return cudaErrorInvalidValue;
    p.weight = (const float *)weight->data;
    p.epsilon = epsilon;
    is_vector = has_vector_rows(out) && has_vector_rows(x) && is_aligned(p.weight, 16);
    if (is_vector && !p.row_scale && p.layout.width <= 8 * HEAD_LANES)
        return launch_heads(stream, p);
    return launch_rows<ROW_RMS_NORM>(stream, p, is_vector);
}

/* --- Groups of channels --- */

/* How many parts a picture's statistics are made of depends on its size alone. The most: four
 * blocks for each of an H100's multiprocessors. */
#define GROUP_PARTS_MAX 528
#define GROUP_PART_ELEMENTS 16384
#define GROUP_THREADS 256
#define GROUP_CHANNELS_MAX (8 * GROUP_THREADS) /* that the vector kernels take */
#define GROUP_LOADS 4                          /* pixels a thread has in flight */

/* Of a set of numbers: mean, and the sum of the squared deviations from it. */
struct spread {
    double mean, squares;
};

/* x [B, H, W, C] as pixels, and how they are shared out. */
struct pictures {
    const void *x;
    void *out;
    int64_t sample[2], row[2], pixel[2]; /* strides of x and out */
    struct divider picture_width, group_width;
    uint32_t pixels, pixels_per_part, channels, groups, parts;
    const float *stats, *weight, *bias;
    int64_t stats_sample, stats_group; /* strides */
};

static __device__ __forceinline__ int64_t pixel_offset(const struct pictures &p, int view,
                                                       uint32_t pixel)
{
    uint32_t row = divide(pixel, p.picture_width);

    return row * p.row[view] + (pixel - row * p.picture_width.divisor) * p.pixel[view];
}

static __device__ __forceinline__ uint32_t pixels_of_part(const struct pictures &p, uint32_t part)
{
    uint32_t first = part * p.pixels_per_part;

    return first >= p.pixels ? 0 : min(p.pixels_per_part, p.pixels - first);
}

/* One warp joins `count` sets, each given by spread_of(i) and size_of(i): the mean of the means,
 * then what each adds around it (Chan, Golub and LeVeque 1983). The order is fixed. */
template <class SpreadOf, class SizeOf>
static __device__ struct spread join_spreads(uint32_t count, SpreadOf spread_of, SizeOf size_of)
{
    double size = 0.0, sum = 0.0, squares = 0.0, mean;

    for (uint32_t i = threadIdx.x % 32; i < count; i += 32) {
        size += size_of(i);
        sum += size_of(i) * spread_of(i).mean;
    }
    size = reduce_lanes<32>(size, add_floats());
    sum = reduce_lanes<32>(sum, add_floats());
    mean = size > 0.0 ? sum / size : 0.0;
    for (uint32_t i = threadIdx.x % 32; i < count; i += 32) {
        struct spread s = spread_of(i);

        squares += s.squares + size_of(i) * (s.mean - mean) * (s.mean - mean);
    }
    return {mean, reduce_lanes<32>(squares, add_floats())};
}

/* Sums of a thread's eight channels, each around a pivot close to its own mean, so that f32 is
 * enough for as many pixels as a thread meets. */
struct channel_sums {
    float pivot[8], sum[8], squares[8];
};

template <int TYPE>
static __device__ __forceinline__ void set_pivots(struct channel_sums *s, const packed8<TYPE> *raw,
                                                  uint32_t count)
{
    float share = 1.0f / (float)count;

#pragma unroll
    for (int u = 0; u < GROUP_LOADS; u++) {
        float v[8];

        unpack<TYPE>(TYPE, raw[u], v);
#pragma unroll
        for (int i = 0; i < 8; i++)
            s->pivot[i] += (uint32_t)u < count ? v[i] * share : 0.0f;
    }
}

template <int TYPE>
static __device__ __forceinline__ void add_pixel(struct channel_sums *s, packed8<TYPE> raw)
{
    float v[8];

    unpack<TYPE>(TYPE, raw, v);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] -= s->pivot[i];
        s->sum[i] += v[i];
        s->squares[i] = fmaf(v[i], v[i], s->squares[i]);
    }
}

/* Pixels `lane`, `lane` + lanes, ... of a part. */
template <int TYPE>
static __device__ __forceinline__ void
sum_channels(struct channel_sums *s, const struct pictures &p, int64_t at, uint32_t first,
             uint32_t count, uint32_t lane, uint32_t lanes)
{
    for (uint32_t from = lane; from < count; from += GROUP_LOADS * lanes) {
        uint32_t here = min((count - from + lanes - 1) / lanes, (uint32_t)GROUP_LOADS);
        packed8<TYPE> raw[GROUP_LOADS];

#pragma unroll
        for (int u = 0; u < GROUP_LOADS; u++) { /* without conditions, so that none waits */
            uint32_t pixel = min(from + u * lanes, count - 1);

            raw[u] =
                load_packed<TYPE, LOAD_ONCE>(TYPE, p.x, at + pixel_offset(p, 0, first + pixel));
        }
        if (from == lane)
            set_pivots<TYPE>(s, raw, here);
#pragma unroll
        for (int u = 0; u < GROUP_LOADS; u++)
            if ((uint32_t)u < here)
                add_pixel<TYPE>(s, raw[u]);
    }
}

/* Block (part, sample): every thread has eight channels of every lanes-th pixel. */
template <int TYPE>
static __global__ void __launch_bounds__(GROUP_THREADS, TYPE == VIEW_BF16 ? 4 : 2)
    group_parts_kernel(const __grid_constant__ struct pictures p, struct spread *partial)
{
    __shared__ struct spread spreads[8 * GROUP_THREADS]; /* [lanes, C] */
    uint32_t vectors = p.channels / 8, lanes = GROUP_THREADS / vectors;
    uint32_t lane = threadIdx.x / vectors, channel = threadIdx.x % vectors * 8;
    uint32_t count = pixels_of_part(p, blockIdx.x), width = p.group_width.divisor;
    struct channel_sums s = {};

    if (lane < lanes) {
        uint32_t mine = lane < count ? (count - lane + lanes - 1) / lanes : 0;

        double share = mine ? 1.0 / (double)mine : 0.0;

        sum_channels<TYPE>(&s, p, blockIdx.y * p.sample[0] + channel,
                           blockIdx.x * p.pixels_per_part, count, lane, lanes);
        for (int i = 0; i < 8; i++) {
            double offset = (double)s.sum[i] * share;

            spreads[lane * p.channels + channel + i] = {
                (double)s.pivot[i] + offset, (double)s.squares[i] - (double)s.sum[i] * offset};
        }
    }
    __syncthreads();
    for (uint32_t g = threadIdx.x / 32; g < p.groups; g += GROUP_THREADS / 32) {
        struct spread joined = join_spreads(
            lanes * width,
            [&](uint32_t i) {
                uint32_t from = divide(i, p.group_width);

                return spreads[from * p.channels + g * width + (i - from * width)];
            },
            [&](uint32_t i) {
                uint32_t from = divide(i, p.group_width);

                return from < count ? (double)((count - from + lanes - 1) / lanes) : 0.0;
            });

        if (threadIdx.x % 32 == 0)
            partial[((int64_t)blockIdx.y * p.groups + g) * p.parts + blockIdx.x] = joined;
    }
}

/* The same for any width and alignment, in double around the group's first element: block
 * (part, group, sample). */
static __global__ void __launch_bounds__(GROUP_THREADS)
    group_parts_any_kernel(const __grid_constant__ struct pictures p, int type,
                           struct spread *partial)
{
    __shared__ double slots[2][GROUP_THREADS / 32];
    uint32_t width = p.group_width.divisor, first = blockIdx.x * p.pixels_per_part;
    int64_t at = blockIdx.z * p.sample[0] + (int64_t)blockIdx.y * width;
    int64_t count = (int64_t)pixels_of_part(p, blockIdx.x) * width;
    double pivot = (double)load_element(type, p.x, at), sum = 0.0, squares = 0.0;

    for (int64_t i = threadIdx.x; i < count; i += GROUP_THREADS) {
        uint32_t pixel = (uint32_t)(i / width), c = (uint32_t)(i % width);
        double value = (double)load_element(type, p.x, at + pixel_offset(p, 0, first + pixel) + c);

        sum += value - pivot;
        squares += (value - pivot) * (value - pivot);
    }
    sum = reduce<GROUP_THREADS>(sum, slots[0], add_floats());
    squares = reduce<GROUP_THREADS>(squares, slots[1], add_floats());
    if (threadIdx.x == 0) {
        double offset = count ? sum / (double)count : 0.0;

        partial[((int64_t)blockIdx.z * p.groups + blockIdx.y) * p.parts + blockIdx.x] = {
            pivot + offset, squares - sum * offset};
    }
}

/* One warp for each group of each sample. */
static __global__ void join_parts_kernel(const __grid_constant__ struct pictures p, float *stats,
                                         const struct spread *partial, float epsilon)
{
    const struct spread *parts = partial + ((int64_t)blockIdx.y * p.groups + blockIdx.x) * p.parts;
    double width = (double)p.group_width.divisor;
    struct spread joined = join_spreads(
        p.parts, [&](uint32_t i) { return parts[i]; },
        [&](uint32_t i) { return width * (double)pixels_of_part(p, i); });
    double variance = fmax(joined.squares, 0.0) / ((double)p.pixels * width);
    float *to = stats + blockIdx.y * p.stats_sample + blockIdx.x * p.stats_group;

    if (threadIdx.x == 0) {
        to[0] = (float)joined.mean;
        to[1] = (float)(1.0 / sqrt(variance + (double)epsilon));
    }
}

static bool is_stats_of(const struct view *stats, const struct view *x)
{
    return has_valid_rank(stats) && stats->rank == 3 && stats->type == VIEW_F32 &&
           has_valid_rank(x) && x->rank == 4 && is_activation_type(x->type) &&
           is_last_contiguous(x) && stats->dim[0] == x->dim[0] && stats->dim[1] > 0 &&
           x->dim[3] % stats->dim[1] == 0 && stats->dim[2] == 2 && stats->stride[2] == 1;
}

/* out may be NULL. False for pictures that 32-bit indices cannot walk. */
static bool fill_pictures(struct pictures *p, const struct view *out, const struct view *x,
                          const struct view *stats)
{
    int64_t pixels = x->dim[1] * x->dim[2], channels = x->dim[3];

    *p = {};
    if (pixels * channels >= INDEX_LIMIT * 8 || pixels >= INDEX_LIMIT / 2 || channels > 1 << 20 ||
        x->dim[0] > 65535 || stats->dim[1] > 65535)
        return false;
    p->x = x->data;
    for (int i = 0; i < (out ? 2 : 1); i++) {
        const struct view *v = i == 0 ? x : out;

        p->sample[i] = v->stride[0];
        p->row[i] = v->stride[1];
        p->pixel[i] = v->stride[2];
    }
    p->picture_width = make_divider(x->dim[2]);
    p->group_width = make_divider(channels / stats->dim[1]);
    p->pixels = (uint32_t)pixels;
    p->channels = (uint32_t)channels;
    p->groups = (uint32_t)stats->dim[1];
    p->stats_sample = stats->stride[0];
    p->stats_group = stats->stride[1];
    return true;
}

static bool is_vector_picture(const struct view *v)
{
    return has_vector_rows(v) && v->dim[3] <= GROUP_CHANNELS_MAX;
}

extern "C" size_t kernel_group_stats_scratch(int64_t batch, int64_t groups)
{
    return (size_t)(batch * groups) * GROUP_PARTS_MAX * sizeof(struct spread);
}

static void launch_group_parts(cudaStream_t stream, const struct pictures &p, const struct view *x,
                               struct spread *partial)
{
    dim3 grid(p.parts, (unsigned)x->dim[0]);

    if (!is_vector_picture(x))
        group_parts_any_kernel<<<dim3(p.parts, p.groups, (unsigned)x->dim[0]), GROUP_THREADS, 0,
                                 stream>>>(p, x->type, partial);
    else if (x->type == VIEW_BF16)
        group_parts_kernel<VIEW_BF16><<<grid, GROUP_THREADS, 0, stream>>>(p, partial);
    else if (x->type == VIEW_F16)
        group_parts_kernel<VIEW_F16><<<grid, GROUP_THREADS, 0, stream>>>(p, partial);
    else
        group_parts_kernel<VIEW_F32><<<grid, GROUP_THREADS, 0, stream>>>(p, partial);
}

extern "C" cudaError_t kernel_group_stats(cudaStream_t stream, const struct view *stats,
                                          const struct view *x, float epsilon, void *partial)
{
    struct pictures p;
    int64_t parts;

    if (!is_stats_of(stats, x) || !partial || !is_aligned(partial, sizeof(double)))
        return cudaErrorInvalidValue;
    if (element_count(x) == 0)
        return cudaSuccess;
    if (!fill_pictures(&p, NULL, x, stats))
        return cudaErrorInvalidValue;
    parts = divide_up((int64_t)p.pixels * p.channels, GROUP_PART_ELEMENTS);
    parts = parts < GROUP_PARTS_MAX ? parts : GROUP_PARTS_MAX;
    p.pixels_per_part = (uint32_t)divide_up(p.pixels, parts);
    p.parts = (uint32_t)divide_up(p.pixels, p.pixels_per_part);
    launch_group_parts(stream, p, x, (struct spread *)partial);
    join_parts_kernel<<<dim3(p.groups, (unsigned)x->dim[0]), 32, 0, stream>>>(
        p, (float *)stats->data, (const struct spread *)partial, epsilon);
    return cudaGetLastError();
}

/* --- group_norm --- */

#define GROUP_NORM_STEPS 4 /* times GROUP_LOADS pixels a thread */

template <bool WITH_SILU, bool FAST>
static __device__ __forceinline__ float normalise(float x, float mean, float factor, float bias)
{
    float value = fmaf(x - mean, factor, bias);

    return WITH_SILU ? sigmoid_times<FAST>(value, 1.0f) : value;
}

/* Block (part, sample): a thread keeps what belongs to its eight channels. */
template <int TYPE, bool WITH_SILU>
static __global__ void __launch_bounds__(GROUP_THREADS)
    group_norm_kernel(const __grid_constant__ struct pictures p)
{
    uint32_t vectors = p.channels / 8, lanes = GROUP_THREADS / vectors;
    uint32_t lane = threadIdx.x / vectors, channel = threadIdx.x % vectors * 8;
    uint32_t first = blockIdx.x * p.pixels_per_part, count = pixels_of_part(p, blockIdx.x);
    int64_t from = blockIdx.y * p.sample[0] + channel, to = blockIdx.y * p.sample[1] + channel;
    float mean[8], factor[8], bias[8];

    if (lane >= lanes)
        return;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float *stats = p.stats + blockIdx.y * p.stats_sample +
                             divide(channel + i, p.group_width) * p.stats_group;

        mean[i] = stats[0];
        factor[i] = stats[1] * p.weight[channel + i];
        bias[i] = p.bias[channel + i];
    }
    for (uint32_t at = lane; at < count; at += GROUP_LOADS * lanes) {
        packed8<TYPE> raw[GROUP_LOADS];

#pragma unroll
        for (int u = 0; u < GROUP_LOADS; u++)
            if (at + u * lanes < count)
                raw[u] = load_packed<TYPE, LOAD_ONCE>(
                    TYPE, p.x, from + pixel_offset(p, 0, first + at + u * lanes));
#pragma unroll
        for (int u = 0; u < GROUP_LOADS; u++) {
            float v[8];

            if (at + u * lanes >= count)
                break;
            unpack<TYPE>(TYPE, raw[u], v);
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] = normalise<WITH_SILU, is_coarse(TYPE)>(v[i], mean[i], factor[i], bias[i]);
            store8<TYPE>(TYPE, p.out, to + pixel_offset(p, 1, first + at + u * lanes), v);
        }
    }
}

/* Any width and alignment: block (part, sample), one element a thread at a time. */
static __global__ void __launch_bounds__(GROUP_THREADS)
    group_norm_any_kernel(const __grid_constant__ struct pictures p, int type, bool with_silu)
{
    int64_t count = (int64_t)pixels_of_part(p, blockIdx.x) * p.channels;

    for (int64_t i = threadIdx.x; i < count; i += GROUP_THREADS) {
        uint32_t pixel = blockIdx.x * p.pixels_per_part + (uint32_t)(i / p.channels);
        uint32_t c = (uint32_t)(i % p.channels);
        const float *stats =
            p.stats + blockIdx.y * p.stats_sample + divide(c, p.group_width) * p.stats_group;
        float x = load_element(type, p.x, blockIdx.y * p.sample[0] + pixel_offset(p, 0, pixel) + c);
        float factor = stats[1] * p.weight[c];

        store_element(type, p.out, blockIdx.y * p.sample[1] + pixel_offset(p, 1, pixel) + c,
                      with_silu ? normalise<true, false>(x, stats[0], factor, p.bias[c])
                                : normalise<false, false>(x, stats[0], factor, p.bias[c]));
    }
}

template <int TYPE>
static void launch_group_norm(cudaStream_t stream, dim3 grid, const struct pictures &p,
                              bool with_silu)
{
    if (with_silu)
        group_norm_kernel<TYPE, true><<<grid, GROUP_THREADS, 0, stream>>>(p);
    else
        group_norm_kernel<TYPE, false><<<grid, GROUP_THREADS, 0, stream>>>(p);
}

extern "C" cudaError_t kernel_group_norm(cudaStream_t stream, const struct view *out,
                                         const struct view *x, const struct view *stats,
                                         const struct view *weight, const struct view *bias,
                                         bool with_silu)
{
    struct pictures p;
    bool is_vector;
    int64_t lanes;
    dim3 grid;

    if (!is_stats_of(stats, x) || !is_same_shape(out, x) || out->type != x->type ||
        !is_last_contiguous(out) || !is_vector_of(weight, x->dim[3]) ||
        !is_vector_of(bias, x->dim[3]))
        return cudaErrorInvalidValue;
    if (element_count(x) == 0)
        return cudaSuccess;
    if (!fill_pictures(&p, out, x, stats))
        return cudaErrorInvalidValue;
    p.out = out->data;
    p.stats = (const float *)stats->data;
    p.weight = (const float *)weight->data;
    p.bias = (const float *)bias->data;
    is_vector = is_vector_picture(x) && is_vector_picture(out);
    lanes = is_vector ? GROUP_THREADS / (x->dim[3] / 8) : divide_up(2048, x->dim[3]);
    p.pixels_per_part = (uint32_t)(lanes * GROUP_LOADS * (is_vector ? GROUP_NORM_STEPS : 1));
    grid = dim3((unsigned)divide_up(p.pixels, p.pixels_per_part), (unsigned)x->dim[0]);
    if (!is_vector)
        group_norm_any_kernel<<<grid, GROUP_THREADS, 0, stream>>>(p, x->type, with_silu);
    else if (x->type == VIEW_BF16)
        launch_group_norm<VIEW_BF16>(stream, grid, p, with_silu);
    else if (x->type == VIEW_F16)
        launch_group_norm<VIEW_F16>(stream, grid, p, with_silu);
    else
        launch_group_norm<VIEW_F32>(stream, grid, p, with_silu);
    return cudaGetLastError();
}
