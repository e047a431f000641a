/* Infotext: the parameters line that AUTOMATIC1111 and its family write into pictures and read
 * back.
 */
#ifndef IMAGE_INFOTEXT_H
#define IMAGE_INFOTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"

/* Numbers that are not set: negative. Texts that are not set: NULL. */
struct infotext {
    const char *prompt;
    const char *negative_prompt;
    int steps;
    const char *sampler;       /* "Euler" */
    const char *schedule_type; /* "Simple", ...; NULL: left out */
    double guidance_scale;     /* "CFG scale" */
    uint64_t seed;
    int width, height;
    const char *model_hash;    /* ten hexadecimal digits; NULL or "": left out */
    const char *model;         /* name without extension */
    const char *fp8_weight;    /* "fp8_e4m3fn"; NULL: left out */
    double denoising_strength; /* negative: left out */
    const char *rng;           /* "CPU", "NV"; NULL: left out (means GPU) */
    const char *skip_layers;   /* "7, 8, 9"; NULL: left out */
    double skip_layer_scale;   /* "SLG scale"; negative: left out */
    double flow_shift;         /* "Shift"; negative: left out */
    int t5_tokens;             /* "T5 tokens"; negative: left out */
    const char *version;       /* "sd35 0.1.0" */
};

/* The caller frees *out. Always ends with the parameters line. */
MUST_CHECK bool infotext_format(char **out, const struct infotext *infotext, struct error *err);

/* What a picture of ours was drawn with: by the sampler that there is, over the model's own
 * schedule. All borrowed. */
struct infotext_drawing {
    const char *prompt, *negative_prompt;
    int steps, width, height;
    double guidance_scale, flow_shift;
    uint64_t seed;
    const char *model; /* its hash is left out: it becomes known later, and bytes must not change */
    const char *weight_types; /* "f16 f8_e4m3" */
    bool has_init_image, has_t5;
    double strength; /* with an init image */
    int t5_tokens;   /* with T5 */
    bool has_cuda_noise;
    const int32_t *skip_layers;
    int skip_layer_count;
    double skip_layer_scale; /* with layers to skip */
    const char *version;     /* "sd35 0.1.0" */
};
#define INFOTEXT_SKIP_LAYERS_MAX 64
/* As infotext_format. */
MUST_CHECK bool infotext_of_drawing(char **out, const struct infotext_drawing *drawing,
                                    struct error *err);

#endif
