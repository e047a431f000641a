#include "backend/cuda/cuda_ops.h"

#include "backend/cuda/cuda_stream.h"
#include "backend/cuda/cuda_weights.h"

/* --- Moving --- */

static void cuda_copy(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    struct view o = view_of(out), from;
    struct tensor device_x;

    if (stream_skips(stream) || !weight_store_table(stream, &device_x, x))
        return;
    from = view_of(&device_x);
    stream_check(stream, kernel_copy(stream_now(stream), &o, &from), "copy");
}

static void cuda_fill(struct stream *stream, struct tensor *out, float value)
{
    struct view o = view_of(out);

    if (!stream_skips(stream))
        stream_check(stream, kernel_fill(stream_now(stream), &o, value), "fill");
}

static void cuda_embedding_rows(struct stream *stream, struct tensor *out,
                                const struct tensor *table, const struct tensor *ids)
{
    struct view o = view_of(out), i = view_of(ids), t;
    struct tensor device_table;

    if (stream_skips(stream) || !weight_store_table(stream, &device_table, table))
        return;
    t = view_of(&device_table);
    stream_check(stream,
                 kernel_embedding_rows(stream_now(stream), &o, &t, &i, stream->fault + FAULT_ID),
                 "embedding_rows");
}

static void cuda_patchify(struct stream *stream, struct tensor *out, const struct tensor *x,
                          int patch)
{
    struct view o = view_of(out), from = view_of(x);

    if (!stream_skips(stream))
        stream_check(stream, kernel_patchify(stream_now(stream), &o, &from, patch), "patchify");
}

static void cuda_unpatchify(struct stream *stream, struct tensor *out, const struct tensor *x,
                            int patch)
{
    struct view o = view_of(out), from = view_of(x);

    if (!stream_skips(stream))
        stream_check(stream, kernel_unpatchify(stream_now(stream), &o, &from, patch), "unpatchify");
}

/* --- Norms --- */

static void cuda_layer_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                            const struct tensor *weight, const struct tensor *bias, float epsilon)
{
    struct view o = view_of(out), from = view_of(x), w, b;
    struct tensor device_weight, device_bias;

    if (stream_skips(stream) || !weight_store_vector(stream, &device_weight, weight) ||
        !weight_store_vector(stream, &device_bias, bias))
        return;
    w = view_of(&device_weight);
    b = view_of(&device_bias);
    stream_check(stream, kernel_layer_norm(stream_now(stream), &o, &from, &w, &b, epsilon),
                 "layer_norm");
}

static void cuda_rms_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                          const struct tensor *weight, float epsilon)
{
    struct view o = view_of(out), from = view_of(x), w;
    struct tensor device_weight;

    if (stream_skips(stream) || !weight_store_vector(stream, &device_weight, weight))
        return;
    w = view_of(&device_weight);
    stream_check(stream, kernel_rms_norm(stream_now(stream), &o, &from, &w, epsilon), "rms_norm");
}

static void cuda_modulated_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                                const struct tensor *shift, const struct tensor *scale,
                                float epsilon)
{
    struct view o = view_of(out), from = view_of(x), s = view_of(shift), f = view_of(scale);

    if (!stream_skips(stream))
        stream_check(stream, kernel_modulated_norm(stream_now(stream), &o, &from, &s, &f, epsilon),
                     "modulated_norm");
}

static void cuda_gated_modulated_norm(struct stream *stream, struct tensor *out, struct tensor *x,
                                      const struct tensor *gate, const struct tensor *y,
                                      const struct tensor *shift, const struct tensor *scale,
                                      float epsilon)
{
    struct view o = view_of(out), sum = view_of(x), g = view_of(gate), added = view_of(y);
    struct view s = view_of(shift), f = view_of(scale);

    if (!stream_skips(stream))
        stream_check(
            stream,
            kernel_gated_modulated_norm(stream_now(stream), &o, &sum, &g, &added, &s, &f, epsilon),
            "gated_modulated_norm");
}

/* --- Element by element --- */

static void cuda_add(struct stream *stream, struct tensor *out, const struct tensor *a,
                     const struct tensor *b)
{
    struct view o = view_of(out), x = view_of(a), y = view_of(b);

    if (!stream_skips(stream))
        stream_check(stream, kernel_add(stream_now(stream), &o, &x, &y), "add");
}

static void cuda_gated_add(struct stream *stream, struct tensor *out, const struct tensor *x,
                           const struct tensor *gate, const struct tensor *y)
{
    struct view o = view_of(out), from = view_of(x), g = view_of(gate), added = view_of(y);

    if (!stream_skips(stream))
        stream_check(stream, kernel_gated_add(stream_now(stream), &o, &from, &g, &added),
                     "gated_add");
}

static void cuda_scale_add(struct stream *stream, struct tensor *out, float a,
                           const struct tensor *x, float b, const struct tensor *y)
{
    struct view o = view_of(out), from = view_of(x), added = view_of(y);

    if (!stream_skips(stream))
        stream_check(stream, kernel_scale_add(stream_now(stream), &o, a, &from, b, &added),
                     "scale_add");
}

static void cuda_mask_blend(struct stream *stream, struct tensor *out, const struct tensor *mask,
                            const struct tensor *x, const struct tensor *y)
{
    struct view o = view_of(out), m = view_of(mask), a = view_of(x), b = view_of(y);

    if (!stream_skips(stream))
        stream_check(stream, kernel_mask_blend(stream_now(stream), &o, &m, &a, &b), "mask_blend");
}

static void cuda_silu(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    struct view o = view_of(out), from = view_of(x);

    if (!stream_skips(stream))
        stream_check(stream, kernel_silu(stream_now(stream), &o, &from), "silu");
}

static void cuda_gelu(struct stream *stream, struct tensor *out, const struct tensor *x,
                      enum gelu_kind kind)
{
    struct view o = view_of(out), from = view_of(x);

    if (!stream_skips(stream))
        stream_check(stream, kernel_gelu(stream_now(stream), &o, &from, (int)kind), "gelu");
}

static void cuda_gated_gelu(struct stream *stream, struct tensor *out, const struct tensor *gate,
                            const struct tensor *up)
{
    struct view o = view_of(out), g = view_of(gate), u = view_of(up);

    if (!stream_skips(stream))
        stream_check(stream, kernel_gated_gelu(stream_now(stream), &o, &g, &u), "gated_gelu");
}

/* --- Embeddings --- */

static void cuda_timestep_embedding(struct stream *stream, struct tensor *out,
                                    const struct tensor *timesteps)
{
    struct view o = view_of(out), t = view_of(timesteps);

    if (!stream_skips(stream))
        stream_check(stream, kernel_timestep_embedding(stream_now(stream), &o, &t),
                     "timestep_embedding");
}

static void cuda_position_embedding(struct stream *stream, struct tensor *out,
                                    const struct tensor *x, const struct tensor *table,
                                    int64_t grid_height, int64_t grid_width)
{
    struct view o = view_of(out), from = view_of(x), w;
    struct tensor window;

    if (stream_skips(stream) ||
        !weight_store_window(stream, &window, table, grid_height, grid_width))
        return;
    w = view_of(&window);
    stream_check(stream, kernel_position_embedding(stream_now(stream), &o, &from, &w),
                 "position_embedding");
}

static void cuda_relative_bias(struct stream *stream, struct tensor *out,
                               const struct tensor *table, int max_distance)
{
    struct view o = view_of(out), t;
    struct tensor device_table;

    if (stream_skips(stream) || !weight_store_table(stream, &device_table, table))
        return;
    t = view_of(&device_table);
    stream_check(stream, kernel_relative_bias(stream_now(stream), &o, &t, max_distance),
                 "relative_bias");
}

/* --- Pictures --- */

static void cuda_rgb_to_bytes(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    struct view o = view_of(out), from = view_of(x);

    if (!stream_skips(stream))
        stream_check(stream, kernel_rgb_to_bytes(stream_now(stream), &o, &from), "rgb_to_bytes");
}

static void cuda_bytes_to_rgb(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    struct view o = view_of(out), from = view_of(x);

    if (!stream_skips(stream))
        stream_check(stream, kernel_bytes_to_rgb(stream_now(stream), &o, &from), "bytes_to_rgb");
}

void cuda_ops_fill(struct backend_ops *ops)
{
    ops->copy = cuda_copy;
    ops->fill = cuda_fill;
    ops->embedding_rows = cuda_embedding_rows;
    ops->patchify = cuda_patchify;
    ops->unpatchify = cuda_unpatchify;

    ops->layer_norm = cuda_layer_norm;
    ops->rms_norm = cuda_rms_norm;
    ops->modulated_norm = cuda_modulated_norm;
    ops->gated_modulated_norm = cuda_gated_modulated_norm;

    ops->add = cuda_add;
    ops->gated_add = cuda_gated_add;
    ops->scale_add = cuda_scale_add;
    ops->mask_blend = cuda_mask_blend;
    ops->silu = cuda_silu;
    ops->gelu = cuda_gelu;
    ops->gated_gelu = cuda_gated_gelu;

    ops->timestep_embedding = cuda_timestep_embedding;
    ops->position_embedding = cuda_position_embedding;
    ops->relative_bias = cuda_relative_bias;

    ops->rgb_to_bytes = cuda_rgb_to_bytes;
    ops->bytes_to_rgb = cuda_bytes_to_rgb;
}
