/* The kernels of one feature level. Their sources are compiled once for each level (cpu.cmake),
 * under names that end in the level's: LEVEL(cpu_linear) is cpu_linear_avx512 there.
 */
#ifndef BACKEND_CPU_CPU_KERNELS_H
#define BACKEND_CPU_CPU_KERNELS_H

#include "backend/backend.h"

#if !defined(CPU_LEVEL)
#error "compiled for no level: the source belongs into cpu.cmake's list"
#endif

#define LEVEL_PASTE(name, level) name##_##level
#define LEVEL_EXPAND(name, level) LEVEL_PASTE(name, level)
#define LEVEL(name) LEVEL_EXPAND(name, CPU_LEVEL)

/* level_ops.c: puts the level's kernels into the table. */
void LEVEL(cpu_level_ops)(struct backend_ops *ops);

void LEVEL(cpu_linear)(struct stream *stream, struct tensor *out, const struct tensor *x,
                       const struct linear *layer);
void LEVEL(cpu_conv2d)(struct stream *stream, struct tensor *out, const struct tensor *x,
                       const struct linear *layer, const struct conv_options *options);
void LEVEL(cpu_attention)(struct stream *stream, struct tensor *out, const struct tensor *q,
                          const struct tensor *k, const struct tensor *v,
                          const struct attention_options *options);

void LEVEL(cpu_copy)(struct stream *stream, struct tensor *out, const struct tensor *x);
void LEVEL(cpu_fill)(struct stream *stream, struct tensor *out, float value);
void LEVEL(cpu_patchify)(struct stream *stream, struct tensor *out, const struct tensor *x,
                         int patch);
void LEVEL(cpu_unpatchify)(struct stream *stream, struct tensor *out, const struct tensor *x,
                           int patch);

void LEVEL(cpu_layer_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                           const struct tensor *weight, const struct tensor *bias, float epsilon);
void LEVEL(cpu_modulated_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                               const struct tensor *shift, const struct tensor *scale,
                               float epsilon);
void LEVEL(cpu_rms_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                         const struct tensor *weight, float epsilon);
void LEVEL(cpu_group_stats)(struct stream *stream, struct tensor *stats, const struct tensor *x,
                            float epsilon);
void LEVEL(cpu_group_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                           const struct tensor *stats, const struct tensor *weight,
                           const struct tensor *bias, bool with_silu);

void LEVEL(cpu_add)(struct stream *stream, struct tensor *out, const struct tensor *a,
                    const struct tensor *b);
void LEVEL(cpu_gated_add)(struct stream *stream, struct tensor *out, const struct tensor *x,
                          const struct tensor *gate, const struct tensor *y);
void LEVEL(cpu_scale_add)(struct stream *stream, struct tensor *out, float a,
                          const struct tensor *x, float b, const struct tensor *y);
void LEVEL(cpu_mask_blend)(struct stream *stream, struct tensor *out, const struct tensor *mask,
                           const struct tensor *x, const struct tensor *y);
void LEVEL(cpu_silu)(struct stream *stream, struct tensor *out, const struct tensor *x);
void LEVEL(cpu_gelu)(struct stream *stream, struct tensor *out, const struct tensor *x,
                     enum gelu_kind kind);
void LEVEL(cpu_gated_gelu)(struct stream *stream, struct tensor *out, const struct tensor *gate,
                           const struct tensor *up);

void LEVEL(cpu_embedding_rows)(struct stream *stream, struct tensor *out,
                               const struct tensor *table, const struct tensor *ids);
void LEVEL(cpu_position_embedding)(struct stream *stream, struct tensor *out,
                                   const struct tensor *x, const struct tensor *table,
                                   int64_t grid_height, int64_t grid_width);
void LEVEL(cpu_relative_bias)(struct stream *stream, struct tensor *out, const struct tensor *table,
                              int max_distance);

void LEVEL(cpu_rgb_to_bytes)(struct stream *stream, struct tensor *out, const struct tensor *x);
void LEVEL(cpu_bytes_to_rgb)(struct stream *stream, struct tensor *out, const struct tensor *x);

#endif
