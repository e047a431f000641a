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
    struct tensor tensors[SAMPLER_TENSORS_MAX]; /* like the latents; the first is the velocity */
};

/* Places what sampling latents [B, 16, H, W] needs. Lives as long as the arena. */
MUST_CHECK bool sampler_plan_init(struct sampler_plan *plan, const struct sampler *sampler,
                                  struct arena *arena, const struct tensor *latent,
                                  struct error *err);

/* A latent on its way from noise to clean; each has its own schedule and place in it. */
struct sampler_track {
    struct tensor latent;                  /* [1, 16, H, W] f32, at schedule->sigma[step] */
    const struct sigma_schedule *schedule; /* borrowed */
    int step;                              /* the next one, below schedule->count */
};

/* velocity[i] = what the network predicts for tracks[i], guidance included
 *   velocity [count, 16, H, W] f32 */
typedef bool (*velocity_function)(void *context, struct tensor *velocity,
                                  const struct sampler_track *tracks, int count, struct error *err);

/* What a step borrows. */
struct sampling {
    const struct backend_ops *ops;
    struct stream *stream;
    velocity_function velocity;
    void *context; /* of the function */
};

/* Takes every latent to its next sigma; counting is the caller's. At most as many tracks as the
 * plan was made for. Fails only when the function does; what the device reports is for
 * stream_finish. */
MUST_CHECK bool sampler_step(struct sampler_plan *plan, const struct sampling *sampling,
                             struct sampler_track *tracks, int count, struct error *err);

/* out = sigma noise + (1 - sigma) clean: a clean latent taken to a noise level. out may be either
 * of the inputs; all f32. */
void latent_add_noise(const struct backend_ops *ops, struct stream *stream, struct tensor *out,
                      const struct tensor *clean, const struct tensor *noise, float sigma);

#endif
