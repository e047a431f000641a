/* Sampler: the update rule that takes a latent from one sigma to the next.
 *
 * A sampler is a row of a table (sampler.c); adding one is adding a row. It knows no model: the
 * network is a function that it is handed. What a rule needs beside the latent is placed by
 * sampler_plan_init; running allocates nothing.
 */
#ifndef SAMPLER_SAMPLER_H
#define SAMPLER_SAMPLER_H

#include <stdbool.h>

#include "backend/backend.h"
#include "base/arena.h"
#include "base/attributes.h"
#include "base/error.h"
#include "sampler/sigma_schedule.h"
#include "tensor/tensor.h"

struct sampler;

/* The sampler of this name. Fails with ERROR_BAD_REQUEST, naming those that there are. */
MUST_CHECK bool sampler_find(const struct sampler **out, const char *name, struct error *err);
/* The samplers in the order of the table, the default first; NULL after the last. */
const struct sampler *sampler_at(int index);
const char *sampler_name(const struct sampler *sampler); /* "euler" */

#define SAMPLER_TENSORS_MAX 4

struct sampler_plan {
    const struct sampler *sampler;
    struct tensor tensors[SAMPLER_TENSORS_MAX]; /* like the latent; the first is the velocity */
};

/* Places what sampling a latent of this shape needs. Lives as long as the arena. */
MUST_CHECK bool sampler_plan_init(struct sampler_plan *plan, const struct sampler *sampler,
                                  struct arena *arena, const struct tensor *latent,
                                  struct error *err);

/* velocity = what the network predicts at schedule->sigma[step], guidance included
 *   velocity, latent [B, 16, H, W] f32 */
typedef bool (*velocity_function)(void *context, struct tensor *velocity,
                                  const struct tensor *latent, int step, struct error *err);

/* After step `step`, with the latent at schedule->sigma[step + 1]: may change it (inpainting), wait
 * for the stream, report progress, or end the run by failing. */
typedef bool (*step_function)(void *context, struct tensor *latent, int step, struct error *err);

/* What a run borrows. */
struct sampling {
    const struct backend_ops *ops;
    struct stream *stream;
    const struct sigma_schedule *schedule;
    int first_step; /* 0, or where image to image starts */
    velocity_function velocity;
    step_function after_step; /* may be NULL */
    void *context;            /* for both functions */
};

/* latent [B, 16, H, W] f32: at schedule->sigma[first_step] -> clean. Fails only when one of the two
 * functions does; what the device reports is for stream_finish. */
MUST_CHECK bool sampler_run(struct sampler_plan *plan, const struct sampling *sampling,
                            struct tensor *latent, struct error *err);

/* out = sigma noise + (1 - sigma) clean: a clean latent taken to a noise level. out may be either
 * of the inputs; all f32. */
void latent_add_noise(const struct backend_ops *ops, struct stream *stream, struct tensor *out,
                      const struct tensor *clean, const struct tensor *noise, float sigma);

#endif
