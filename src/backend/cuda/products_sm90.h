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
    /* out = gelu_tanh(v) / out_scale[m], E4M3, to nearest even, saturating. No CTA sees a whole
     * row, so its factor is given: a bound of the row that is known before, / 448, in place of its
     * largest magnitude (kernel_bound_rows). E4M3 is as precise for much smaller values. */
    EPILOGUE_GELU_ROWS,
    /* out = v, BF16. The first norm_columns are heads of 64, each RMS-normed in f32 before it is
     * rounded: v / sqrt(mean of v^2 + epsilon) weight. Columns beyond are plain. */
    EPILOGUE_HEAD_NORM
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
    /* HEAD_NORM: q_norm [64] weighs the heads of the first half of norm_columns, a multiple of 128,
     * k_norm [64] those of the second. */
    const float *q_norm, *k_norm;
    int64_t norm_columns;
    float epsilon;
};

/* Made once for a set of addresses and shapes, and passed to every launch. */
struct product_sm90_plan {
    unsigned char bytes[512]; /* of products_sm90.cu */
};

/* N and K multiples of 16, any M. x, w, out and their strides are multiples of 16 bytes, the norms'
 * weights of 8. */
bool kernel_product_sm90_fits(const struct product_sm90 *product);
/* encode: the driver's cuTensorMapEncodeTiled, from cudaGetDriverEntryPointByVersion. */
cudaError_t kernel_product_sm90_plan(struct product_sm90_plan *plan, void *encode,
                                     const struct product_sm90 *product, int multiprocessors);
cudaError_t kernel_product_sm90(cudaStream_t stream, const struct product_sm90_plan *plan);

#ifdef __cplusplus
}
#endif

#endif
