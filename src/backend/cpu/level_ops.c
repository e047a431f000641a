#include "backend/cpu/cpu_kernels.h"

void LEVEL(cpu_level_ops)(struct backend_ops *ops)
{
    ops->linear = LEVEL(cpu_linear);
    ops->conv2d = LEVEL(cpu_conv2d);
    ops->attention = LEVEL(cpu_attention);

    ops->copy = LEVEL(cpu_copy);
    ops->fill = LEVEL(cpu_fill);
    ops->embedding_rows = LEVEL(cpu_embedding_rows);
    ops->patchify = LEVEL(cpu_patchify);
    ops->unpatchify = LEVEL(cpu_unpatchify);

    ops->layer_norm = LEVEL(cpu_layer_norm);
    ops->modulated_norm = LEVEL(cpu_modulated_norm);
    ops->rms_norm = LEVEL(cpu_rms_norm);
    ops->group_stats = LEVEL(cpu_group_stats);
    ops->group_norm = LEVEL(cpu_group_norm);

    ops->add = LEVEL(cpu_add);
    ops->gated_add = LEVEL(cpu_gated_add);
    ops->scale_add = LEVEL(cpu_scale_add);
    ops->mask_blend = LEVEL(cpu_mask_blend);
    ops->silu = LEVEL(cpu_silu);
    ops->gelu = LEVEL(cpu_gelu);
    ops->gated_gelu = LEVEL(cpu_gated_gelu);

    ops->position_embedding = LEVEL(cpu_position_embedding);
    ops->relative_bias = LEVEL(cpu_relative_bias);

    ops->rgb_to_bytes = LEVEL(cpu_rgb_to_bytes);
    ops->bytes_to_rgb = LEVEL(cpu_bytes_to_rgb);
}
