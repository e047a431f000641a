/* The reference backend's ops, and how they read and write elements.
 *
 * Every op is its formula, element by element: any float type in and out, sums in double, one
 * thread, no tricks. Speed is none of its business.
 */
#ifndef BACKEND_REF_REF_OPS_H
#define BACKEND_REF_REF_OPS_H

#include "backend/backend.h"
#include "backend/host_stream.h"

/* The element at `offset` (in elements from data). */
static inline double ref_get(const struct tensor *tensor, int64_t offset)
{
    return (double)dtype_load(tensor->dtype, tensor->data, offset);
}

static inline void ref_put(struct tensor *tensor, int64_t offset, double value)
{
    dtype_store(tensor->dtype, tensor->data, offset, (float)value);
}

/* The offset of element `index` in row-major order: any strides, the last axis included. */
static inline int64_t ref_offset(const struct tensor *tensor, int64_t index)
{
    int64_t offset = 0;

    for (int i = tensor->rank - 1; i >= 0; i--) {
        offset += index % tensor->dim[i] * tensor->stride[i];
        index /= tensor->dim[i];
    }
    return offset;
}

void ref_copy(struct stream *stream, struct tensor *out, const struct tensor *x);
void ref_fill(struct stream *stream, struct tensor *out, float value);
void ref_add(struct stream *stream, struct tensor *out, const struct tensor *a,
             const struct tensor *b);
void ref_gated_add(struct stream *stream, struct tensor *out, const struct tensor *x,
                   const struct tensor *gate, const struct tensor *y);
void ref_scale_add(struct stream *stream, struct tensor *out, float a, const struct tensor *x,
                   float b, const struct tensor *y);
void ref_mask_blend(struct stream *stream, struct tensor *out, const struct tensor *mask,
                    const struct tensor *x, const struct tensor *y);
void ref_silu(struct stream *stream, struct tensor *out, const struct tensor *x);
void ref_gelu(struct stream *stream, struct tensor *out, const struct tensor *x,
              enum gelu_kind kind);
void ref_gated_gelu(struct stream *stream, struct tensor *out, const struct tensor *gate,
                    const struct tensor *up);
void ref_rgb_to_bytes(struct stream *stream, struct tensor *out, const struct tensor *x);
void ref_bytes_to_rgb(struct stream *stream, struct tensor *out, const struct tensor *x);

void ref_embedding_rows(struct stream *stream, struct tensor *out, const struct tensor *table,
                        const struct tensor *ids);
void ref_patchify(struct stream *stream, struct tensor *out, const struct tensor *x, int patch);
void ref_unpatchify(struct stream *stream, struct tensor *out, const struct tensor *x, int patch);
void ref_timestep_embedding(struct stream *stream, struct tensor *out,
                            const struct tensor *timesteps);
void ref_position_embedding(struct stream *stream, struct tensor *out, const struct tensor *x,
                            const struct tensor *table, int64_t grid_height, int64_t grid_width);
int64_t ref_relative_bucket(int64_t offset, int64_t buckets, int max_distance);
void ref_relative_bias(struct stream *stream, struct tensor *out, const struct tensor *table,
                       int max_distance);

void ref_layer_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                    const struct tensor *weight, const struct tensor *bias, float epsilon);
void ref_modulated_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                        const struct tensor *shift, const struct tensor *scale, float epsilon);
void ref_rms_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                  const struct tensor *weight, float epsilon);
void ref_group_stats(struct stream *stream, struct tensor *stats, const struct tensor *x,
                     float epsilon);
void ref_group_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                    const struct tensor *stats, const struct tensor *weight,
                    const struct tensor *bias, bool with_silu);

void ref_linear(struct stream *stream, struct tensor *out, const struct tensor *x,
                const struct linear *layer);
void ref_attention(struct stream *stream, struct tensor *out, const struct tensor *q,
                   const struct tensor *k, const struct tensor *v,
                   const struct attention_options *options);
void ref_conv2d(struct stream *stream, struct tensor *out, const struct tensor *x,
                const struct linear *layer, const struct conv_options *options);

#endif
