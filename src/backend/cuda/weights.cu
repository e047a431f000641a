/* Weights on their way to where products take them, and doubled pixels. */
#include "backend/cuda/device_types.cuh"

#define WEIGHT_THREADS 256
#define WEIGHT_VECTORS 4 /* a thread has in flight */
#define GRID_ROWS_MAX 65535

static bool is_scale_of(const float *scale, int64_t scale_count, int64_t n)
{
    return !scale || scale_count == 1 || scale_count == n;
}

static __device__ __forceinline__ float scale_of(const float *scale, int64_t scale_count,
                                                 int64_t row)
{
    return scale ? scale[scale_count == 1 ? 0 : row] : 1.0f;
}

/* --- decode_weight --- */

struct decode {
    void *out;
    const void *x;
    const float *scale;
    int out_type, x_type;
    int64_t n, k, scale_count;
};

/* Block (part of a row, row); rows beyond a grid's second axis are walked. */
static __global__ void decode_vector_kernel(const __grid_constant__ struct decode d)
{
    int64_t first = ((int64_t)blockIdx.x * WEIGHT_THREADS * WEIGHT_VECTORS + threadIdx.x) * 8;

    for (int64_t row = blockIdx.y; row < d.n; row += gridDim.y) {
        float factor = scale_of(d.scale, d.scale_count, row);
        packed8<ANY_TYPE> raw[WEIGHT_VECTORS];

#pragma unroll
        for (int u = 0; u < WEIGHT_VECTORS; u++) {
            int64_t at = first + u * WEIGHT_THREADS * 8;

            if (at < d.k)
                raw[u] = load_packed<ANY_TYPE, LOAD_ONCE>(d.x_type, d.x, row * d.k + at);
        }
#pragma unroll
        for (int u = 0; u < WEIGHT_VECTORS; u++) {
            int64_t at = first + u * WEIGHT_THREADS * 8;
            float v[8];

            if (at >= d.k)
                break;
            unpack<ANY_TYPE>(d.x_type, raw[u], v);
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] *= factor;
            store8<ANY_TYPE>(d.out_type, d.out, row * d.k + at, v);
        }
    }
}

static __global__ void decode_kernel(const __grid_constant__ struct decode d)
{
    int64_t k = (int64_t)blockIdx.x * WEIGHT_THREADS + threadIdx.x;

    if (k < d.k)
        for (int64_t row = blockIdx.y; row < d.n; row += gridDim.y)
            store_element(d.out_type, d.out, row * d.k + k,
                          load_element(d.x_type, d.x, row * d.k + k) *
                              scale_of(d.scale, d.scale_count, row));
}

extern "C" cudaError_t kernel_decode_weight(cudaStream_t stream, void *out, enum view_type out_type,
                                            const void *x, enum view_type x_type, int64_t n,
                                            int64_t k, const float *scale, int64_t scale_count)
{
    struct decode d = {out, x, scale, out_type, x_type, n, k, scale_count};
    unsigned rows = (unsigned)(n < GRID_ROWS_MAX ? n : GRID_ROWS_MAX);

    if (!is_activation_type(out_type) || !is_float_type(x_type) || n < 0 || k < 0 ||
        !is_scale_of(scale, scale_count, n))
        return cudaErrorInvalidValue;
    if (n == 0 || k == 0)
        return cudaSuccess;
    if (k % 8 == 0 && is_aligned(out, 16) && is_aligned(x, vector_alignment(x_type)))
        decode_vector_kernel<<<dim3((unsigned)divide_up(k, 8 * WEIGHT_THREADS * WEIGHT_VECTORS),
                                    rows),
                               WEIGHT_THREADS, 0, stream>>>(d);
    else
        decode_kernel<<<dim3((unsigned)divide_up(k, WEIGHT_THREADS), rows), WEIGHT_THREADS, 0,
                        stream>>>(d);
    return cudaGetLastError();
}

/* --- arrange_filter --- */

struct filter {
    void *out;
    const void *x;
    const float *scale;
    int out_type, x_type;
    int64_t o, c, taps, padded_c, scale_count;
};

/* Block (part of the channels, output channel): a thread takes one channel through all taps, which
 * follow on each other in x. */
static __global__ void arrange_filter_kernel(const __grid_constant__ struct filter f)
{
    int64_t c = (int64_t)blockIdx.x * WEIGHT_THREADS + threadIdx.x;

    if (c >= f.padded_c)
        return;
    for (int64_t o = blockIdx.y; o < f.o; o += gridDim.y) {
        float factor = scale_of(f.scale, f.scale_count, o);

        for (int64_t tap = 0; tap < f.taps; tap++) {
            float value =
                c < f.c ? load_element(f.x_type, f.x, (o * f.c + c) * f.taps + tap) : 0.0f;

            store_element(f.out_type, f.out, (o * f.taps + tap) * f.padded_c + c,
                          c < f.c ? value * factor : 0.0f);
        }
    }
}

extern "C" cudaError_t kernel_arrange_filter(cudaStream_t stream, void *out,
                                             enum view_type out_type, const void *x,
                                             enum view_type x_type, int64_t o, int64_t c,
                                             int64_t kernel_height, int64_t kernel_width,
                                             int64_t padded_c, const float *scale,
                                             int64_t scale_count)
{
    struct filter f = {
        out, x, scale, out_type, x_type, o, c, kernel_height * kernel_width, padded_c, scale_count};

    if (!is_activation_type(out_type) || !is_float_type(x_type) || o < 0 || c < 0 ||
        kernel_height < 0 || kernel_width < 0 || padded_c < c ||
        !is_scale_of(scale, scale_count, o))
        return cudaErrorInvalidValue;
    if (o == 0 || padded_c == 0 || f.taps == 0)
        return cudaSuccess;
    arrange_filter_kernel<<<dim3((unsigned)divide_up(padded_c, WEIGHT_THREADS),
                                 (unsigned)(o < GRID_ROWS_MAX ? o : GRID_ROWS_MAX)),
                            WEIGHT_THREADS, 0, stream>>>(f);
    return cudaGetLastError();
}

/* --- quantise_weight --- */

/* The same arithmetic as convert/quantise.c and quantise_kernels.c, addition for addition, so that
 * weights have the same bits whichever of the two made them. Roundings are spelled out: nothing may
 * be contracted. */
#define CANDIDATES 8
#define ERROR_BLOCK 512                        /* elements that are added up in f32 */
#define ERROR_LANES 8                          /* partial sums of these */
#define ERROR_TASKS (CANDIDATES * ERROR_LANES) /* chains of additions of a block */
#define SECTION_BLOCKS 8                       /* of a row that lie in shared memory at a time */
#define SECTION (SECTION_BLOCKS * ERROR_BLOCK)

struct quantise {
    uint8_t *out;
    float *scale;
    const void *x;
    int x_type;
    int64_t n, k;
};

static __constant__ float candidate_factors[CANDIDATES] = {1.0f,    1.0905f, 1.1892f, 1.2968f,
                                                           1.4142f, 1.5422f, 1.6818f, 1.8340f};

static __device__ __forceinline__ float candidate_scale(float largest, int i)
{
    const float least = 0x1p-126f, most = 0x1p127f / E4M3_LARGEST;
    float scale = __fmul_rn(__fdiv_rn(largest, E4M3_LARGEST), candidate_factors[i]);

    if (largest == 0.0f)
        return 1.0f;
    if (scale < least)
        return least;
    return scale < most ? scale : most;
}

/* What is left of a magnitude in E4M3, to nearest even, saturating: below 2^-6 the grid is even. */
static __device__ __forceinline__ float round_to_e4m3(float magnitude)
{
    float kept = fminf(magnitude, E4M3_LARGEST);
    uint32_t bits = __float_as_uint(kept);
    float normal = __uint_as_float((bits + 0x7ffffu + (bits >> 20 & 1u)) & 0xfff00000u);

    return kept < 0x1p-6f ? __fsub_rn(__fadd_rn(kept, 0x1p14f), 0x1p14f) : normal;
}

/* The largest magnitude of a row, in every thread; infinity when anything is infinite or NaN. */
static __device__ float largest_of_row(const struct quantise &q, int64_t row)
{
    __shared__ uint32_t parts[WEIGHT_THREADS / 32];
    uint32_t most = 0;

    for (int64_t i = threadIdx.x; i < q.k; i += WEIGHT_THREADS)
        most = max(most, __float_as_uint(load_element(q.x_type, q.x, row * q.k + i)) & 0x7fffffffu);
    most = __reduce_max_sync(~0u, most);
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = most;
    __syncthreads();
    for (int i = 0; i < WEIGHT_THREADS / 32; i++)
        most = max(most, parts[i]);
    return __uint_as_float(min(most, 0x7f800000u));
}

/* Adds up one lane's squared differences in a block of `count` elements. */
static __device__ float sum_lane(const float *block, int count, int lane, float inverse)
{
    float sum = 0.0f;

    for (int i = lane; i < count; i += ERROR_LANES) {
        float magnitude = fabsf(__fmul_rn(block[i], inverse));
        float difference = __fsub_rn(magnitude, round_to_e4m3(magnitude));

        sum = __fadd_rn(sum, __fmul_rn(difference, difference));
    }
    return sum;
}

/* The factor of a row whose largest magnitude is known, in every thread. */
static __device__ float best_scale(const struct quantise &q, int64_t row, float largest)
{
    __shared__ float section[SECTION], sums[SECTION_BLOCKS][CANDIDATES][ERROR_LANES];
    __shared__ double errors[CANDIDATES];
    int lane = threadIdx.x % ERROR_LANES, candidate = threadIdx.x / ERROR_LANES % CANDIDATES;
    float inverse = __fdiv_rn(1.0f, candidate_scale(largest, candidate));
    double error = 0.0;
    int best = 0;

    for (int64_t at = 0; at < q.k; at += SECTION) {
        int count = q.k - at < SECTION ? (int)(q.k - at) : SECTION;
        int blocks = (count + ERROR_BLOCK - 1) / ERROR_BLOCK;

        for (int i = threadIdx.x; i < count; i += WEIGHT_THREADS)
            section[i] = load_element(q.x_type, q.x, row * q.k + at + i);
        __syncthreads();
        for (int b = threadIdx.x / ERROR_TASKS; b < blocks; b += WEIGHT_THREADS / ERROR_TASKS)
            sums[b][candidate][lane] =
                sum_lane(section + b * ERROR_BLOCK, min(count - b * ERROR_BLOCK, ERROR_BLOCK), lane,
                         inverse);
        __syncthreads();
        for (int b = 0; b < blocks && threadIdx.x < CANDIDATES; b++) {
            double sum = 0.0;

            for (int i = 0; i < ERROR_LANES; i++)
                sum += (double)sums[b][threadIdx.x][i];
            error += sum;
        }
    }
    if (threadIdx.x < CANDIDATES) {
        double scale = (double)candidate_scale(largest, threadIdx.x);

        errors[threadIdx.x] = error * scale * scale;
    }
    __syncthreads();
    for (int i = 1; i < CANDIDATES; i++)
        if (errors[i] < errors[best])
            best = i;
    return candidate_scale(largest, best);
}

/* A block a row. A row that is not finite gets a factor that is no number: what it is used for
 * shall not be finite either. */
static __global__ void quantise_kernel(const __grid_constant__ struct quantise q)
{
    int64_t row = blockIdx.x;
    float largest = largest_of_row(q, row);
    bool is_finite = largest < INFINITY;
    float scale = is_finite && largest > 0.0f ? best_scale(q, row, largest) : 1.0f;
    float inverse = __fdiv_rn(1.0f, scale);

    for (int64_t i = threadIdx.x; i < q.k; i += WEIGHT_THREADS)
        q.out[row * q.k + i] =
            __nv_cvt_float_to_fp8(__fmul_rn(load_element(q.x_type, q.x, row * q.k + i), inverse),
                                  __NV_SATFINITE, __NV_E4M3);
    if (threadIdx.x == 0)
        q.scale[row] = is_finite ? scale : NAN;
}

extern "C" cudaError_t kernel_quantise_weight(cudaStream_t stream, void *out, float *scale,
                                              const void *x, enum view_type x_type, int64_t n,
                                              int64_t k)
{
    struct quantise q = {(uint8_t *)out, scale, x, x_type, n, k};

    if (!is_activation_type(x_type) || n < 0 || k < 0 || !scale || n >= INDEX_LIMIT)
        return cudaErrorInvalidValue;
    if (n == 0 || k == 0)
        return cudaSuccess;
    quantise_kernel<<<(unsigned)n, WEIGHT_THREADS, 0, stream>>>(q);
    return cudaGetLastError();
}

/* --- double_pixels --- */

struct doubling {
    struct view out, x;
    int64_t first_row;
    struct divider per_pixel; /* chunks of x */
    uint32_t chunks;          /* of one row of x */
};

/* Block (part of a row, row, sample). A thread writes one chunk of a pixel of x twice: it and its
 * neighbour to the right; the row below is another block's. */
template <class CHUNK>
static __global__ void double_pixels_kernel(const __grid_constant__ struct doubling d)
{
    int64_t per_chunk = sizeof(CHUNK) / size_of_type(d.x.type);
    uint32_t i = blockIdx.x * WEIGHT_THREADS + threadIdx.x;
    uint32_t column = divide(i, d.per_pixel), part = i - column * d.per_pixel.divisor;

    if (i >= d.chunks)
        return;
    for (int64_t r = blockIdx.y; r < d.out.dim[1]; r += gridDim.y) {
        int64_t from = (int64_t)blockIdx.z * d.x.stride[0] + (d.first_row + r) / 2 * d.x.stride[1] +
                       column * d.x.stride[2] + part * per_chunk;
        int64_t to = (int64_t)blockIdx.z * d.out.stride[0] + r * d.out.stride[1] +
                     2 * column * d.out.stride[2] + part * per_chunk;
        CHUNK value = *((const CHUNK *)d.x.data + from / per_chunk);

        *((CHUNK *)d.out.data + to / per_chunk) = value;
        *((CHUNK *)d.out.data + (to + d.out.stride[2]) / per_chunk) = value;
    }
}

/* Whether all rows of channels can be taken `bytes` at a time. */
static bool has_chunks(const struct view *v, int64_t bytes)
{
    int64_t size = type_size(v->type);

    if (!is_aligned(v->data, bytes) || v->dim[3] * size % bytes != 0)
        return false;
    for (int i = 0; i < 3; i++)
        if (v->stride[i] * size % bytes != 0)
            return false;
    return true;
}

template <class CHUNK> static cudaError_t launch_doubling(cudaStream_t stream, struct doubling *d)
{
    int64_t per_pixel = d->x.dim[3] * type_size(d->x.type) / (int64_t)sizeof(CHUNK);
    int64_t rows = d->out.dim[1] < GRID_ROWS_MAX ? d->out.dim[1] : GRID_ROWS_MAX;
    int64_t chunks = per_pixel * d->x.dim[2];

    if (chunks >= INDEX_LIMIT - WEIGHT_THREADS || d->x.dim[0] > GRID_ROWS_MAX)
        return cudaErrorInvalidValue;
    d->chunks = (uint32_t)chunks;
    d->per_pixel = make_divider(per_pixel);
    double_pixels_kernel<CHUNK>
        <<<dim3((unsigned)divide_up(chunks, WEIGHT_THREADS), (unsigned)rows, (unsigned)d->x.dim[0]),
           WEIGHT_THREADS, 0, stream>>>(*d);
    return cudaGetLastError();
}

extern "C" cudaError_t kernel_double_pixels(cudaStream_t stream, const struct view *out,
                                            const struct view *x, int64_t first_row)
{
    struct doubling d = {};

    if (!is_same_shape(out, out) || !is_same_shape(x, x) || out->rank != 4 || x->rank != 4 ||
        out->type != x->type || !is_activation_type(x->type) || out->dim[0] != x->dim[0] ||
        out->dim[2] != 2 * x->dim[2] || out->dim[3] != x->dim[3] || first_row < 0 ||
        first_row + out->dim[1] > 2 * x->dim[1] || !is_last_contiguous(out) ||
        !is_last_contiguous(x))
        return cudaErrorInvalidValue;
    if (element_count(out) == 0)
        return cudaSuccess;
    d.out = *out;
    d.x = *x;
    d.first_row = first_row;
    if (has_chunks(out, 16) && has_chunks(x, 16))
        return launch_doubling<uint4>(stream, &d);
    if (type_size(x->type) == 4)
        return launch_doubling<uint32_t>(stream, &d);
    return launch_doubling<uint16_t>(stream, &d);
}
