/* Products that cuBLASLt does not take: odd sizes and alignments. Right rather than fast. */
#include "backend/cuda/device_types.cuh"

#define TILE 16

/* A tile of 16 x 16 sums a block, 16 terms of K at a time through shared memory. */
static __global__ void product_tile(struct kernel_product p)
{
    __shared__ float x_tile[TILE][TILE + 1], w_tile[TILE][TILE + 1];
    int64_t m = (int64_t)blockIdx.y * TILE + threadIdx.y, n = (int64_t)blockIdx.x * TILE;
    float sum = 0.0f;

    for (int64_t first = 0; first < p.k; first += TILE) {
        int64_t k = first + threadIdx.x, row = n + threadIdx.y;
        int64_t turned_k = first + threadIdx.y, turned_row = n + threadIdx.x;

        x_tile[threadIdx.y][threadIdx.x] =
            m < p.m && k < p.k ? load_element(p.type, p.x, m * p.x_stride + k) : 0.0f;
        if (p.w_is_turned)
            w_tile[threadIdx.x][threadIdx.y] =
                turned_row < p.n && turned_k < p.k
                    ? load_element(p.type, p.w, turned_k * p.w_stride + turned_row)
                    : 0.0f;
        else
            w_tile[threadIdx.y][threadIdx.x] =
                row < p.n && k < p.k ? load_element(p.type, p.w, row * p.w_stride + k) : 0.0f;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILE; i++)
            sum = fmaf(x_tile[threadIdx.y][i], w_tile[threadIdx.x][i], sum);
        __syncthreads();
    }
    n += threadIdx.x;
    if (m >= p.m || n >= p.n)
        return;
    if (p.x_scale)
        sum *= p.x_scale[m];
    if (p.w_scale)
        sum *= p.w_scale[n];
    if (p.bias)
        sum += load_element(p.out_type, p.bias, n);
    if (p.with_gelu) {
        float inner = 0.7978845608028654f * (sum + 0.044715f * sum * sum * sum);

        sum = 0.5f * sum * (1.0f + tanhf(inner));
    }
    if (p.adds)
        sum += load_element(p.out_type, p.out, m * p.out_stride + n);
    store_element(p.out_type, p.out, m * p.out_stride + n, sum);
}

cudaError_t kernel_product(cudaStream_t stream, const struct kernel_product *product)
{
    dim3 grid((unsigned)divide_up(product->n, TILE), (unsigned)divide_up(product->m, TILE));

    if (product->type > VIEW_E4M3 || !is_activation_type(product->out_type) ||
        product->k < 1)
        return cudaErrorInvalidValue;
    if (product->m < 1 || product->n < 1)
        return cudaSuccess;
    if (divide_up(product->m, TILE) > 65535)
        return cudaErrorInvalidValue;
    product_tile<<<grid, dim3(TILE, TILE), 0, stream>>>(*product);
    return cudaGetLastError();
}

static __global__ void scale_rows(struct kernel_scaling s)
{
    int64_t m = blockIdx.y, n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    float value;

    if (n >= s.n)
        return;
    value = load_element(s.type, s.out, m * s.out_stride + n) * s.x_scale[m] * s.w_scale[n];
    if (s.bias)
        value += load_element(s.type, s.bias, n);
    store_element(s.type, s.out, m * s.out_stride + n, value);
}

cudaError_t kernel_scale_product(cudaStream_t stream, const struct kernel_scaling *scaling)
{
    struct kernel_scaling part = *scaling;
    const int64_t rows_max = 65535;

    if (!is_activation_type(scaling->type))
        return cudaErrorInvalidValue;
    for (int64_t first = 0; first < scaling->m; first += rows_max) {
        int64_t rows = scaling->m - first < rows_max ? scaling->m - first : rows_max;
        dim3 grid((unsigned)divide_up(part.n, 256), (unsigned)rows);

        part.out = (char *)scaling->out +
                   first * scaling->out_stride * type_size(scaling->type);
        part.x_scale = scaling->x_scale + first;
        scale_rows<<<grid, 256, 0, stream>>>(part);
    }
    return cudaGetLastError();
}

static __global__ void fold_gate(float *out_scale, void *out_bias, const float *scale,
                                 const void *bias, const __grid_constant__ struct view gate)
{
    int64_t b = blockIdx.y, n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t at = b * gate.dim[1] + n;
    float factor;

    if (n >= gate.dim[1])
        return;
    factor = load_element(gate.type, gate.data, b * gate.stride[0] + n);
    out_scale[at] = scale[n] * factor;
    store_element(gate.type, out_bias, at,
                  bias ? load_element(gate.type, bias, n) * factor : 0.0f);
}

cudaError_t kernel_fold_gate(cudaStream_t stream, float *out_scale, void *out_bias,
                             const float *scale, const void *bias, const struct view *gate)
{
    dim3 grid((unsigned)divide_up(gate->dim[1], 256), (unsigned)gate->dim[0]);

    if (gate->rank != 2 || gate->dim[0] > 65535 || !is_last_contiguous(gate) ||
        (gate->type != VIEW_BF16 && gate->type != VIEW_F16))
        return cudaErrorInvalidValue;
    fold_gate<<<grid, 256, 0, stream>>>(out_scale, out_bias, scale, bias, *gate);
    return cudaGetLastError();
}

/* One output a thread, neighbouring channels next to each other. */
static __global__ void conv_point(struct kernel_conv c, int64_t count)
{
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t channels = c.x.dim[3], o = at % c.out.dim[3], pixel = at / c.out.dim[3];
    int64_t ox = pixel % c.out.dim[2], oy = pixel / c.out.dim[2] % c.out.dim[1];
    int64_t b = pixel / c.out.dim[2] / c.out.dim[1];
    float sum = 0.0f;

    if (at >= count)
        return;
    for (int64_t i = 0; i < c.kernel_height; i++)
        for (int64_t j = 0; j < c.kernel_width; j++) {
            int64_t y = oy * c.stride + i - c.pad_top, x = ox * c.stride + j - c.pad_left;
            int64_t from = b * c.x.stride[0] + y * c.x.stride[1] + x * c.x.stride[2];
            int64_t weight = ((o * c.kernel_height + i) * c.kernel_width + j) * c.filter_channels;

            if (y < 0 || y >= c.x.dim[1] || x < 0 || x >= c.x.dim[2])
                continue;
            for (int64_t k = 0; k < channels; k++)
                sum = fmaf(load_element(c.x.type, c.x.data, from + k * c.x.stride[3]),
                           load_element(c.filter_type, c.filter, weight + k), sum);
        }
    if (c.bias)
        sum += load_element(c.out.type, c.bias, o);
    store_element(c.out.type, c.out.data,
                  b * c.out.stride[0] + oy * c.out.stride[1] + ox * c.out.stride[2] +
                      o * c.out.stride[3],
                  sum);
}

cudaError_t kernel_conv(cudaStream_t stream, const struct kernel_conv *conv)
{
    int64_t count;

    if (conv->x.rank != 4 || conv->out.rank != 4 || conv->stride < 1 ||
        !is_activation_type(conv->x.type) || !is_activation_type(conv->out.type) ||
        conv->x.dim[3] > conv->filter_channels || conv->x.dim[0] != conv->out.dim[0])
        return cudaErrorInvalidValue;
    count = element_count(&conv->out);
    if (count < 1)
        return cudaSuccess;
    if (divide_up(count, 256) >= INDEX_LIMIT)
        return cudaErrorInvalidValue;
    conv_point<<<grid_for(count, 256), 256, 0, stream>>>(*conv, count);
    return cudaGetLastError();
}

#define BOUND_THREADS 256

/* Lengths are positive, so that their bits are in their order; a maximum has no order to keep. */
static __global__ void weight_bound(const __grid_constant__ struct kernel_bound b)
{
    __shared__ float parts[BOUND_THREADS / 32];
    int64_t row = blockIdx.x;
    float sum = 0.0f;

    for (int64_t i = threadIdx.x; i < b.k; i += BOUND_THREADS) {
        float value = load_element(b.type, b.w, row * b.k + i);

        sum = fmaf(value, value, sum);
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        sum += __shfl_xor_sync(~0u, sum, i);
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    for (int i = 1; i < BOUND_THREADS / 32; i++)
        sum += parts[i];
    /* A part in a thousand more, for the roundings of this sum. */
    atomicMax((int *)&b.bound[0], __float_as_int(1.001f * sqrtf(sum) * fabsf(b.scale[row])));
    if (b.bias)
        atomicMax((int *)&b.bound[1], __float_as_int(fabsf(load_element(b.bias_type, b.bias, row))));
}

cudaError_t kernel_weight_bound(cudaStream_t stream, const struct kernel_bound *bound)
{
    cudaError_t status = cudaMemsetAsync(bound->bound, 0, 2 * sizeof *bound->bound, stream);

    if (status != cudaSuccess || bound->n < 1)
        return status;
    if ((bound->type != VIEW_E4M3 && bound->type != VIEW_E5M2) || bound->n >= INDEX_LIMIT)
        return cudaErrorInvalidValue;
    weight_bound<<<(unsigned)bound->n, BOUND_THREADS, 0, stream>>>(*bound);
    return cudaGetLastError();
}

static __global__ void bound_rows(float *out_scale, const float *x_scale, const float *bound,
                                  float length, int64_t count)
{
    int64_t m = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (m < count)
        out_scale[m] = fmaxf(x_scale[m] * length * bound[0] + bound[1] / E4M3_LARGEST, 1e-30f);
}

cudaError_t kernel_bound_rows(cudaStream_t stream, float *out_scale, const float *x_scale,
                              const float *bound, int64_t k, int64_t m)
{
    if (m < 1)
        return cudaSuccess;
    bound_rows<<<grid_for(m, 256), 256, 0, stream>>>(out_scale, x_scale, bound, sqrtf((float)k), m);
    return cudaGetLastError();
}
