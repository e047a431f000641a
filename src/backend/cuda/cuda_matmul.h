/* Matrix products through cuBLASLt, by an algorithm that is chosen when a shape is first met. */
#ifndef BACKEND_CUDA_CUDA_MATMUL_H
#define BACKEND_CUDA_CUDA_MATMUL_H

#include "backend/cuda/cuda_stream.h"

/* Everything that an algorithm is chosen for. Compared as bytes: no holes, zeroed first. M rows of
 * each sample: x and out of one lie x_sample and out_sample elements after those of another. */
struct product_key {
    int64_t m, n, k, x_stride, w_stride, out_stride;
    int64_t samples, x_sample, out_sample; /* 1, 0, 0: all rows lie evenly */
    int32_t type, out_type, is_outer, w_is_turned, bias_type, x_align, w_align, out_align;
    int32_t adds, with_gelu; /* adds: out += instead of out = */
};

struct product {
    struct product_key key;
    const void *x, *w, *bias;
    const float *x_scale, *w_scale; /* [M], [N]: is_outer */
    void *out;
};

/* Enqueues the product. False: cuBLASLt does not take it, and nothing happened. A failure is the
 * stream's, as everywhere. */
MUST_CHECK bool cuda_matmul(struct stream *stream, const struct product *product);

#endif
