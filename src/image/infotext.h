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

/* The field fp8_weight for a list of the types of weights, "f16 f8_e4m3"; NULL: none is FP8. */
const char *infotext_fp8_weight(const char *weight_types);
/* The field skip_layers, in `text` of `size` bytes, 14 for each layer; NULL: none. */
const char *infotext_skip_layers(char *text, size_t size, const int32_t *layers, int count);

/* The caller frees *out. Always ends with the parameters line. */
MUST_CHECK bool infotext_format(char **out, const struct infotext *infotext, struct error *err);

#endif
