/* Sigma schedule: the noise levels that sampling goes through, from noise to clean.
 *
 * The one schedule is that of diffusers' FlowMatchEulerDiscreteScheduler with a static flow shift
 * (Esser et al. 2024, arXiv:2403.03206, section 5.3.2), bit for bit. Never changed after it was
 * created, so any number of threads may read it.
 */
#ifndef SAMPLER_SIGMA_SCHEDULE_H
#define SAMPLER_SIGMA_SCHEDULE_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"

#define FLOW_SHIFT_MIN 0.01
#define FLOW_SHIFT_MAX 100.0

struct sigma_schedule {
    int count;     /* steps, at least 1: step i goes from sigma[i] to sigma[i + 1] */
    float sigma[]; /* [count + 1], falling; the last is 0 */
};

/* Fails with ERROR_BAD_REQUEST when steps < 1 or flow_shift lies outside its limits. The caller
 * bounds `steps` from above. Free with sigma_schedule_destroy. */
MUST_CHECK bool sigma_schedule_create(struct sigma_schedule **out, int steps, double flow_shift,
                                      struct error *err);
void sigma_schedule_destroy(struct sigma_schedule *schedule); /* NULL is fine */

/* What the network is told at a step: 1000 * sigma. */
float sigma_schedule_timestep(const struct sigma_schedule *schedule, int step);

/* Image to image: *first = the step to start from, so that about strength * count steps run.
 * Strength 1 runs all of them. Fails with ERROR_BAD_REQUEST when strength is not in [0, 1] or so
 * small that no step is left. */
MUST_CHECK bool sigma_schedule_first_step(int *first, const struct sigma_schedule *schedule,
                                          double strength, struct error *err);

#endif
