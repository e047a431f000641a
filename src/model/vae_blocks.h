/* VAE blocks: what encoder and decoder are made of, and the list of steps that a plan runs. */
#ifndef MODEL_VAE_BLOCKS_H
#define MODEL_VAE_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "backend/weight_list.h"
#include "base/arena.h"
#include "base/error.h"
#include "weights/weights.h"

struct vae_norm {
    struct tensor weight, bias; /* [C] */
};

/* x + conv2(silu(norm2(conv1(silu(norm1(x)))))), x through a 1x1 convolution if widths differ */
struct vae_resnet {
    int64_t in, out;
    struct vae_norm norm1, norm2;
    struct linear conv1, conv2; /* [out, in, 3, 3], [out, out, 3, 3] */
    struct linear shortcut;     /* [out, in, 1, 1]; no data when in == out */
};

/* One head over all pixels: x + proj(attention(norm(x))) */
struct vae_attention {
    int64_t width;
    struct vae_norm norm;
    struct linear q, k, v, proj; /* [C, C] */
};

void vae_resnet_load(struct vae_resnet *resnet, struct weight_loader *loader, const char *name);
void vae_attention_load(struct vae_attention *attention, struct weight_loader *loader,
                        const char *name, int64_t width);
void vae_norm_load(struct vae_norm *norm, struct weight_loader *loader, const char *name,
                   int64_t width);

MUST_CHECK bool vae_resnet_list_weights(const struct vae_resnet *resnet, struct weight_list *list,
                                        struct error *err);

enum vae_step_kind {
    VAE_STEP_CONV,      /* 3x3, perhaps with stride 2 or on the doubled picture */
    VAE_STEP_RESNET,    /* */
    VAE_STEP_ATTENTION, /* */
    VAE_STEP_NORM_CONV, /* norm, silu, 3x3: the last of encoder and decoder */
};

struct vae_step {
    enum vae_step_kind kind;
    const struct linear *conv;
    const struct vae_resnet *resnet;
    const struct vae_attention *attention;
    const struct vae_norm *norm;
    struct conv_options options;     /* of conv */
    int64_t height, width, channels; /* of the input */
    int64_t out_height, out_width, out_channels;
};

#define VAE_STEPS_MAX 256

/* A straight list of steps and the memory they share. Two regions hold what goes from step to step
 * and change places; the others are scratch within a step. */
struct vae_program {
    const struct backend_ops *ops;
    int64_t batch, band_rows, groups;
    int step_count;
    struct vae_step steps[VAE_STEPS_MAX];
    int64_t region_count[2], hidden_count, normed_count, branch_count; /* in elements */
    void *region[2];                                                   /* step input and output */
    void *hidden; /* inside a resnet: between its convolutions; q, k, v of attention */
    void *normed; /* a band after its norm */
    void *branch; /* a band of the residual branch */
    struct tensor stats;
};

/* An empty program for pictures that start as [batch, height, width, channels]; band_rows 0: whole
 * pictures. Steps are appended in order; each takes what the one before left. */
void vae_program_init(struct vae_program *program, const struct backend_ops *ops, int64_t batch,
                      int64_t band_rows, int64_t groups, int64_t height, int64_t width,
                      int64_t channels);
void vae_program_conv(struct vae_program *program, const struct linear *conv, int stride,
                      int upsample);
void vae_program_resnet(struct vae_program *program, const struct vae_resnet *resnet);
void vae_program_attention(struct vae_program *program, const struct vae_attention *attention);
void vae_program_norm_conv(struct vae_program *program, const struct vae_norm *norm,
                           const struct linear *conv);
/* Places the regions. */
MUST_CHECK bool vae_program_place(struct vae_program *program, struct arena *scratch,
                                  struct error *err);
/* x [B, height, width, channels] f -> out, the shape that the last step leaves. */
void vae_program_run(struct vae_program *program, struct stream *stream, struct tensor *out,
                     const struct tensor *x);

#endif
