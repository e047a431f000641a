#include "backend/ref/ref_ops.h"

/* Room for one decoded row: of weights, or of an attention's shares. */
static size_t ref_scratch_bytes(int threads)
{
    (void)threads;
    return (size_t)65536 * sizeof(double);
}

static bool ref_stream_create(struct stream **out, const struct backend_ops *ops,
                              const struct stream_options *options, struct error *err)
{
    (void)ops;
    return host_stream_create(out, -1, options->cancel, ref_scratch_bytes, err);
}

const struct backend_ops backend_ref_ops = {
    .name = "ref",
    .activation_dtype = DTYPE_F32,

    .stream_create = ref_stream_create,
    .stream_destroy = host_stream_destroy,
    .stream_finish = host_stream_finish,
    .stream_watch = host_stream_watch,
    .memory_alloc = host_memory_alloc,
    .memory_free = host_memory_free,
    .upload = host_copy_bytes,
    .download = host_copy_bytes,
    .scratch_bytes = host_stream_scratch_bytes,

    .copy = ref_copy,
    .fill = ref_fill,
    .embedding_rows = ref_embedding_rows,
    .patchify = ref_patchify,
    .unpatchify = ref_unpatchify,

    .linear = ref_linear,
    .attention = ref_attention,
    .conv2d = ref_conv2d,

    .layer_norm = ref_layer_norm,
    .modulated_norm = ref_modulated_norm,
    .rms_norm = ref_rms_norm,
    .group_stats = ref_group_stats,
    .group_norm = ref_group_norm,

    .add = ref_add,
    .gated_add = ref_gated_add,
    .scale_add = ref_scale_add,
    .mask_blend = ref_mask_blend,
    .silu = ref_silu,
    .gelu = ref_gelu,
    .gated_gelu = ref_gated_gelu,

    .timestep_embedding = ref_timestep_embedding,
    .position_embedding = ref_position_embedding,
    .relative_bias = ref_relative_bias,

    .rgb_to_bytes = ref_rgb_to_bytes,
    .bytes_to_rgb = ref_bytes_to_rgb,
};
