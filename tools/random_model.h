/* Random models: complete model folders and files of any size, whose pictures are noise, for tests,
 * benchmarks and trying things out without a download. The same seed gives the same weights in
 * every layout and, up to rounding, in every type.
 */
#ifndef TOOLS_RANDOM_MODEL_H
#define TOOLS_RANDOM_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "tensor/dtype.h"

enum random_model_layout {
    RANDOM_MODEL_DIFFUSERS, /* a folder; FP8 with a scale for each row, as sd35 convert writes it */
    RANDOM_MODEL_SINGLE,    /* a file with the original names; FP8 without scales */
    RANDOM_MODEL_COMFY_FP8, /* the same with one scale for each tensor and a marker */
};

#define RANDOM_MODEL_VAE_LEVELS_MAX 8

struct random_model_encoder {
    int width, layers, heads, mlp_width;
};

struct random_model_options {
    const char *output;
    enum random_model_layout layout;
    enum dtype dtype; /* of the matrices; what is never FP8 becomes bf16 then */
    uint64_t seed;
    int heads, layers; /* transformer: heads of width 64 */
    int dual_layers;   /* the first blocks have a second attention, as SD3.5 Medium's */
    int position_side; /* of the position table, in patches */
    bool has_qk_norm;
    struct random_model_encoder clip_l, clip_g, t5;
    int clip_vocabulary, t5_vocabulary; /* 0: what the tokenizers written beside need */
    int vae_channels[RANDOM_MODEL_VAE_LEVELS_MAX];
    int vae_levels;
    bool with_encoders, with_t5;
    int outliers;        /* rows of each block's q and k whose weights are larger than the others */
    float outlier_scale; /* by this factor */
};

/* "tiny", "medium", "large" or "sd3-medium"; false for other names. */
bool random_model_preset(struct random_model_options *out, const char *name);

MUST_CHECK bool random_model_write(const struct random_model_options *options, struct error *err);

#endif
