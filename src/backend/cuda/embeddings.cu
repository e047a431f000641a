/* Tables, positions, and the two orders of a patch. */
#include <math.h>

#include "backend/cuda/device_types.cuh"

#define EMBEDDING_THREADS 256

/* Of a row that is looked up: columns a thread, and blocks at most. */
#define EMBEDDING_COLUMNS 8
#define EMBEDDING_PARTS_MAX 1024

/* Blocks walk with this many at most, so that indices may be larger than a grid. */
#define EMBEDDING_BLOCKS_MAX 16384

static dim3 walking_grid(int64_t count)
{
    int64_t blocks = divide_up(count, EMBEDDING_THREADS);

    return dim3((unsigned)(blocks < EMBEDDING_BLOCKS_MAX ? blocks : EMBEDDING_BLOCKS_MAX));
}

/* The caller's loop over [0, count) across the grid. */
#define WALK(i, count)                                                                             \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x,                               \
                 i##_step = (int64_t)gridDim.x * blockDim.x;                                       \
         i < (count); i += i##_step)

/* --- embedding_rows --- */

/* A row of blocks a token: text has many narrow ones, a step's modulation few of half a million
 * columns. An id outside of the table reads nothing and gives zeros. */
static __global__ void embedding_rows_kernel(const __grid_constant__ struct view out,
                                             const __grid_constant__ struct view table,
                                             const __grid_constant__ struct view ids, int *fault)
{
    int64_t t = blockIdx.x, first = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
    int64_t id = ((const int32_t *)ids.data)[t * ids.stride[0]];
    bool is_inside = id >= 0 && id < table.dim[0];

    if (!is_inside && first == 0)
        *fault = 1;

    for (int64_t c = first; c < out.dim[1]; c += (int64_t)gridDim.y * blockDim.x) {
        float value =
            is_inside ? load_element(table.type, table.data, id * table.stride[0] + c) : 0.0f;

        store_element(out.type, out.data, t * out.stride[0] + c, isnan(value) ? 0.0f : value);
    }
}

extern "C" cudaError_t kernel_embedding_rows(cudaStream_t stream, const struct view *out,
                                             const struct view *table, const struct view *ids,
                                             int *fault)
{
    if (!is_same_shape(out, out) || !has_valid_rank(table) || !has_valid_rank(ids) ||
        out->rank != 2 || table->rank != 2 || ids->rank != 1 || ids->type != VIEW_I32 ||
        !is_activation_type(out->type) || !is_float_type(table->type) ||
        ids->dim[0] != out->dim[0] || table->dim[1] != out->dim[1] || out->dim[0] >= INDEX_LIMIT ||
        !is_last_contiguous(out) || !is_last_contiguous(table))
        return cudaErrorInvalidValue;
    if (element_count(out) == 0)
        return cudaSuccess;
    int64_t parts = divide_up(out->dim[1], EMBEDDING_THREADS * EMBEDDING_COLUMNS);
    const dim3 grid((unsigned)out->dim[0],
                    (unsigned)(parts < EMBEDDING_PARTS_MAX ? parts : EMBEDDING_PARTS_MAX));
    embedding_rows_kernel<<<grid, EMBEDDING_THREADS, 0, stream>>>(*out, *table, *ids, fault);
    return cudaGetLastError();
}

/* --- Patches --- */

struct patches {
    struct view picture, tokens;
    struct divider width, height, channels, patch;
    int64_t count;
    bool to_tokens; /* else to the picture, with the channel fastest inside a token */
};

/* In the picture's order, which both directions share. */
static __global__ void patch_kernel(const __grid_constant__ struct patches p)
{
    const struct view &picture = p.picture, &tokens = p.tokens;
    uint32_t patch = p.patch.divisor, grid_width = p.width.divisor / patch;

    WALK(i, p.count)
    {
        uint32_t line = divide((uint32_t)i, p.width);
        uint32_t column = (uint32_t)i - line * p.width.divisor;
        uint32_t plane = divide(line, p.height), row = line - plane * p.height.divisor;
        uint32_t b = divide(plane, p.channels), c = plane - b * p.channels.divisor;
        uint32_t gy = divide(row, p.patch), gx = divide(column, p.patch);
        uint32_t y = row - gy * patch, x = column - gx * patch;
        uint32_t inside =
            p.to_tokens ? (c * patch + y) * patch + x : (y * patch + x) * p.channels.divisor + c;
        int64_t at_token =
            b * tokens.stride[0] + (gy * grid_width + gx) * tokens.stride[1] + inside;
        int64_t at_pixel =
            b * picture.stride[0] + c * picture.stride[1] + row * picture.stride[2] + column;

        if (p.to_tokens)
            store_element(tokens.type, tokens.data, at_token,
                          load_element(picture.type, picture.data, at_pixel));
        else
            store_element(picture.type, picture.data, at_pixel,
                          load_element(tokens.type, tokens.data, at_token));
    }
}

static cudaError_t launch_patches(cudaStream_t stream, const struct view *picture,
                                  const struct view *tokens, int patch, bool to_tokens)
{
    struct patches p = {};
    int64_t channels, height, width;

    if (!is_same_shape(picture, picture) || !is_same_shape(tokens, tokens) || picture->rank != 4 ||
        tokens->rank != 3 || patch < 1 || !is_activation_type(picture->type) ||
        !is_activation_type(tokens->type) || !is_last_contiguous(picture) ||
        !is_last_contiguous(tokens))
        return cudaErrorInvalidValue;
    channels = picture->dim[1], height = picture->dim[2], width = picture->dim[3];
    if (height % patch || width % patch || tokens->dim[0] != picture->dim[0] ||
        tokens->dim[1] != height / patch * (width / patch) ||
        tokens->dim[2] != channels * patch * patch || element_count(picture) >= INDEX_LIMIT)
        return cudaErrorInvalidValue;
    p.count = element_count(picture);
    if (p.count == 0)
        return cudaSuccess;
    p.picture = *picture;
    p.tokens = *tokens;
    p.width = make_divider(width);
    p.height = make_divider(height);
    p.channels = make_divider(channels);
    p.patch = make_divider(patch);
    p.to_tokens = to_tokens;
    patch_kernel<<<walking_grid(p.count), EMBEDDING_THREADS, 0, stream>>>(p);
    return cudaGetLastError();
}

extern "C" cudaError_t kernel_patchify(cudaStream_t stream, const struct view *out,
                                       const struct view *x, int patch)
{
    return launch_patches(stream, x, out, patch, true);
}

extern "C" cudaError_t kernel_unpatchify(cudaStream_t stream, const struct view *out,
                                         const struct view *x, int patch)
{
    return launch_patches(stream, out, x, patch, false);
}

/* --- Timesteps --- */

/* In double: an angle of up to 1000 radians leaves a float too few bits behind the point. */
static __global__ void timestep_kernel(const __grid_constant__ struct view out,
                                       const __grid_constant__ struct view timesteps)
{
    int64_t half = out.dim[1] / 2, r = blockIdx.x;
    double t = (double)((const float *)timesteps.data)[r * timesteps.stride[0]];

    for (int64_t i = threadIdx.x; i < half; i += blockDim.x) {
        double angle = t * exp(-log(10000.0) * (double)i / (double)half);
        double sine, cosine;

        sincos(angle, &sine, &cosine);
        store_element(out.type, out.data, r * out.stride[0] + i, (float)cosine);
        store_element(out.type, out.data, r * out.stride[0] + half + i, (float)sine);
    }
}

extern "C" cudaError_t kernel_timestep_embedding(cudaStream_t stream, const struct view *out,
                                                 const struct view *timesteps)
{
    if (!is_same_shape(out, out) || !has_valid_rank(timesteps) || out->rank != 2 ||
        timesteps->rank != 1 || timesteps->type != VIEW_F32 || !is_activation_type(out->type) ||
        timesteps->dim[0] != out->dim[0] || out->dim[0] >= INDEX_LIMIT || !is_last_contiguous(out))
        return cudaErrorInvalidValue;
    if (element_count(out) == 0)
        return cudaSuccess;
    timestep_kernel<<<(unsigned)out->dim[0], 128, 0, stream>>>(*out, *timesteps);
    return cudaGetLastError();
}

/* --- Positions --- */

struct positions {
    struct row_layout<2> layout; /* out, x */
    void *out;
    const void *x, *window;
    struct divider tokens, per_row;
    int type, window_type;
    int64_t count;
};

/* WIDTH elements, 8 or 1, at once. */
template <int WIDTH>
static __global__ void position_kernel(const __grid_constant__ struct positions p)
{
    WALK(i, p.count)
    {
        uint32_t row = divide((uint32_t)i, p.per_row);
        int64_t c = (int64_t)((uint32_t)i - row * p.per_row.divisor) * WIDTH;
        uint32_t token = row - divide(row, p.tokens) * p.tokens.divisor;
        int64_t at_table = token * p.layout.width + c, offset[2];

        row_offsets(p.layout, row, offset);
        if (WIDTH == 8) {
            float v[8], table[8];

            load8<ANY_TYPE, LOAD_ONCE>(p.type, p.x, offset[1] + c, v);
            load8<ANY_TYPE, LOAD_TABLE>(p.window_type, p.window, at_table, table);
#pragma unroll
            for (int e = 0; e < 8; e++)
                v[e] += table[e];
            store8<ANY_TYPE>(p.type, p.out, offset[0] + c, v);
        } else {
            store_element(p.type, p.out, offset[0] + c,
                          load_element(p.type, p.x, offset[1] + c) +
                              load_element(p.window_type, p.window, at_table));
        }
    }
}

extern "C" cudaError_t kernel_position_embedding(cudaStream_t stream, const struct view *out,
                                                 const struct view *x, const struct view *window)
{
    const struct view *views[2] = {out, x};
    struct positions p = {};
    bool is_vector;

    if (!is_same_shape(out, x) || !has_valid_rank(window) || x->rank != 3 || window->rank != 2 ||
        out->type != x->type || !is_activation_type(x->type) || !is_float_type(window->type) ||
        window->dim[0] != x->dim[1] || window->dim[1] != x->dim[2] || !is_last_contiguous(out) ||
        !is_last_contiguous(x))
        return cudaErrorInvalidValue;
    if (element_count(x) == 0)
        return cudaSuccess;
    if (element_count(x) >= INDEX_LIMIT || !make_layout<2>(&p.layout, views, true))
        return cudaErrorInvalidValue;
    is_vector = has_vector_rows(out) && has_vector_rows(x) &&
                is_aligned(window->data, vector_alignment(window->type));
    p.out = out->data;
    p.x = x->data;
    p.window = window->data;
    p.type = x->type;
    p.window_type = window->type;
    p.tokens = make_divider(x->dim[1]);
    p.per_row = make_divider(is_vector ? x->dim[2] / 8 : x->dim[2]);
    p.count = element_count(x) / (is_vector ? 8 : 1);
    if (is_vector)
        position_kernel<8><<<walking_grid(p.count), EMBEDDING_THREADS, 0, stream>>>(p);
    else
        position_kernel<1><<<walking_grid(p.count), EMBEDDING_THREADS, 0, stream>>>(p);
    return cudaGetLastError();
}

/* --- Relative positions --- */

#define BUCKETS_MAX 256

/* Bucket b of one half holds distances from least[b] up to least[b + 1]. The host works them out
 * with the reference's own logarithm: at powers of two the last bit of another one would matter. */
struct buckets {
    int exact, half; /* buckets of one distance each; buckets of one direction */
    int32_t least[BUCKETS_MAX / 2];
};

static bool make_buckets(struct buckets *b, int64_t buckets, int max_distance, int64_t tokens)
{
    int64_t bucket;

    if (buckets < 4 || buckets > BUCKETS_MAX)
        return false;
    b->half = (int)(buckets / 2);
    b->exact = b->half / 2;
    if (max_distance <= b->exact)
        return false;
    for (int i = 0; i < b->half; i++)
        b->least[i] = i <= b->exact ? i : INT32_MAX;
    bucket = b->exact;
    for (int64_t distance = b->exact; distance < tokens && bucket < b->half - 1; distance++) {
        int64_t now = b->exact + (int64_t)(log((double)distance / (double)b->exact) /
                                           log((double)max_distance / (double)b->exact) *
                                           (double)(b->half - b->exact));

        while (bucket < now && bucket < b->half - 1)
            b->least[++bucket] = (int32_t)distance;
    }
    return true;
}

/* Block (query, head). */
static __global__ void relative_bias_kernel(const __grid_constant__ struct view out,
                                            const __grid_constant__ struct view table,
                                            const __grid_constant__ struct buckets b)
{
    int64_t i = blockIdx.x, n = blockIdx.y;
    float *to = (float *)out.data + n * out.stride[0] + i * out.stride[1];

    for (int64_t j = threadIdx.x; j < out.dim[2]; j += blockDim.x) {
        int64_t distance = j < i ? i - j : j - i;
        int bucket = (int)(distance < b.exact ? distance : b.exact);

        if (distance >= b.exact)
            while (bucket + 1 < b.half && b.least[bucket + 1] <= distance)
                bucket++;
        to[j] = load_element(table.type, table.data,
                             (bucket + (j > i ? b.half : 0)) * table.stride[0] + n);
    }
}

extern "C" cudaError_t kernel_relative_bias(cudaStream_t stream, const struct view *out,
                                            const struct view *table, int max_distance)
{
    struct buckets b;

    if (!is_same_shape(out, out) || !has_valid_rank(table) || out->rank != 3 || table->rank != 2 ||
        out->type != VIEW_F32 || !is_float_type(table->type) || out->dim[0] != table->dim[1] ||
        out->dim[1] != out->dim[2] || out->dim[0] > 65535 || out->dim[1] >= INDEX_LIMIT ||
        !is_last_contiguous(out) || !is_last_contiguous(table) ||
        !make_buckets(&b, table->dim[0], max_distance, out->dim[1]))
        return cudaErrorInvalidValue;
    if (element_count(out) == 0)
        return cudaSuccess;
    relative_bias_kernel<<<dim3((unsigned)out->dim[1], (unsigned)out->dim[0]), EMBEDDING_THREADS, 0,
                           stream>>>(*out, *table, b);
    return cudaGetLastError();
}
