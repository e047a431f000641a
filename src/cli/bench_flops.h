/* How much a denoising step computes, from the model's shape alone. */
#ifndef CLI_BENCH_FLOPS_H
#define CLI_BENCH_FLOPS_H

#include <stdint.h>

struct step_shape {
    int64_t layers;                       /* joint blocks */
    int64_t self_attentions;              /* of them, those with a second, image-only attention */
    int64_t width;                        /* C */
    int64_t image_tokens, context_tokens; /* of one sample */
    int64_t samples;                      /* pictures, twice where guidance is on */
};

/* Floating-point operations of the blocks' linears and attentions, a multiplication and an addition
 * being two. All else (modulation, embeddings, norms) is below a hundredth and not counted. */
double bench_step_flops(const struct step_shape *shape);

#endif
