/* FP8 products on Hopper with what follows them in the transformer done in registers.
 *
 * Compute capability 9.0. All memory is the device's; launchers enqueue and return at once. A row
 * of the result has the same bits whatever rows stand beside it.
 */
#ifndef BACKEND_CUDA_PRODUCTS_SM90_H
#define BACKEND_CUDA_PRODUCTS_SM90_H

#include <stdbool.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* v = (sum over k of x[m, k] w[n, k]) x_scale[m] w_scale[n] + bias[n], then: */
enum product_sm90_epilogue {
    EPILOGUE_PLAIN,     /* out = v, BF16 */
    EPILOGUE_GELU_ROWS, /* out = gelu_tanh(v) / out_scale[m], E4M3, to nearest even, saturating */
    EPILOGUE_HEAD_NORM, /* out = v, RMS-normed in heads of 64 columns where that is asked; BF16 */
    EPILOGUE_GATED      /* out += gate[b, n] v, BF16 */
};

struct product_sm90 {
    const void *x;        /* E4M3 [M, K], rows x_stride bytes apart */
    const void *w;        /* E4M3 [N, K], contiguous */
    const float *x_scale; /* [M] */
    const float *w_scale; /* [N] */
    const void *bias;     /* BF16 [N], or NULL */
    /* Row m = (b, t), b = m / rows_per_sample, lies out_sample_stride b + out_row_stride t elements
     * from here. Of one row the columns are contiguous. */
    void *out;
    int64_t m, n, k, x_stride, out_row_stride, out_sample_stride, rows_per_sample;
    enum product_sm90_epilogue epilogue;
    const float *out_scale; /* GELU_ROWS: [M], not 0 */
    /* HEAD_NORM: the first norm_columns columns are heads, q_norm [64] weighs those of the first
     * half, k_norm [64] of the second. Columns beyond are plain. */
    const float *q_norm, *k_norm;
    int64_t norm_columns;
    float epsilon;
    const void *gate; /* GATED: BF16 [B, N], samples gate_stride elements apart */
    int64_t gate_stride;
};

/* Made once for a set of addresses and shapes, and passed to every launch. */
struct product_sm90_plan {
    unsigned char bytes[512]; /* of products_sm90.cu */
};

/* N and K multiples of 16, any M. x, w, out and their strides are multiples of 16 bytes, w_scale
 * and the norms' weights of 8, bias, gate and gate_stride of 4. */
bool kernel_product_sm90_fits(const struct product_sm90 *product);
/* encode: the driver's cuTensorMapEncodeTiled, from cudaGetDriverEntryPointByVersion. */
cudaError_t kernel_product_sm90_plan(struct product_sm90_plan *plan, void *encode,
                                     const struct product_sm90 *product, int multiprocessors);
cudaError_t kernel_product_sm90(cudaStream_t stream, const struct product_sm90_plan *plan);

/* For measuring: which of the kernels later plans take; -1, as it is at first: what suits. */
int kernel_product_sm90_variant_count(void);
void kernel_product_sm90_set_variant(int variant);
const char *kernel_product_sm90_variant_name(int variant);

#ifdef __cplusplus
}
#endif

#endif
