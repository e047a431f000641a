/* Weights on the device: copies of what ops find in the model's files, by the address there.
 *
 * FP8 weights stay as they are, with a factor for each row; others are turned to the activation
 * type on the way. Belongs to one stream.
 */
#ifndef BACKEND_CUDA_CUDA_WEIGHTS_H
#define BACKEND_CUDA_CUDA_WEIGHTS_H

#include "backend/cuda/cuda_stream.h"

struct weight_store;
struct weight_table;

MUST_CHECK bool weight_store_create(struct weight_store **out, struct error *err);
void weight_store_destroy(struct weight_store *store); /* NULL is fine */
/* Forgets every copy that an op made. */
void weight_store_forget(struct weight_store *store);
struct weight_table *weight_store_table_of(struct weight_store *store);

/* A layer, or several side by side, on the device. */
struct device_weight {
    void *data;          /* [N, K]; of a convolution [padded O, kh, kw, padded C] */
    enum view_type type; /* E4M3, E5M2 or the activation type */
    float *scale;        /* F32 [N] when it is 8 bits, else NULL */
    float *bound;        /* [2] when it is 8 bits: the longest row's length, the largest |bias| */
    void *bias;          /* [N] in the activation type; NULL: none */
    int64_t n, k;
};

/* A convolution's channels on the device, of input and output: cuDNN wants multiples of this. */
#define FILTER_CHANNEL_STEP 8

/* Each copies what is not there yet; false when the stream has failed. */
bool weight_store_linear(struct stream *stream, struct device_weight *out,
                         const struct linear *layers, int count);
bool weight_store_filter(struct stream *stream, struct device_weight *out,
                         const struct linear *layer);
/* f32 [C] */
bool weight_store_vector(struct stream *stream, struct tensor *out, const struct tensor *host);
/* Any table; what lies on the device already comes back as it is. */
bool weight_store_table(struct stream *stream, struct tensor *out, const struct tensor *host);
/* The rows of a [P P, C] table that a grid in its middle sees: out [height width, C]. */
bool weight_store_window(struct stream *stream, struct tensor *out, const struct tensor *host,
                         int64_t height, int64_t width);

bool cuda_weights_hold(struct stream *stream, struct held_weights **out,
                       const struct weight_request *requests, size_t count, struct error *err);
void cuda_weights_drop(struct stream *stream, struct held_weights *held);
size_t cuda_weights_bytes(const struct weight_request *requests, size_t count);

#endif
