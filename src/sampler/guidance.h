/* Guidance: how several predictions of the network become the one velocity that sampling follows.
 *
 * Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598) pushes away from the negative
 * prompt; skip-layer guidance pushes away from what the network says with some of its blocks left
 * out. Both as diffusers' StableDiffusion3Pipeline does them.
 */
#ifndef SAMPLER_GUIDANCE_H
#define SAMPLER_GUIDANCE_H

#include <stdbool.h>

#include "backend/backend.h"
#include "tensor/tensor.h"

struct guidance {
    double scale;                 /* of the difference between the prompts; on above 1 */
    bool skips_layers;            /* there are layers to skip */
    double skip_scale;            /* of the difference that the skipped layers make */
    double skip_start, skip_stop; /* shares of all steps: neither end is included */
};

/* True when the negative prompt has to be evaluated too. */
bool guidance_is_on(const struct guidance *guidance);

/* True when the positive prompt has to be evaluated a second time, with layers skipped: at step
 * `step` of the schedule's `step_count`, counted from 0, and only while guidance is on. */
bool guidance_skips_at(const struct guidance *guidance, int step, int step_count);

/* negative = negative + scale (positive - negative); both f32 of one shape. The guided velocity
 * replaces the negative one because skip-layer guidance still needs the positive one. */
void guidance_combine(const struct guidance *guidance, const struct backend_ops *ops,
                      struct stream *stream, struct tensor *negative,
                      const struct tensor *positive);

/* velocity += skip_scale (positive - skipped), with the positive velocity as the network gave it.
 * Overwrites `skipped`. */
void guidance_add_skip(const struct guidance *guidance, const struct backend_ops *ops,
                       struct stream *stream, struct tensor *velocity,
                       const struct tensor *positive, struct tensor *skipped);

#endif
