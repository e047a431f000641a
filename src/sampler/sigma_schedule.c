#include "sampler/sigma_schedule.h"

#include <stdint.h>
#include <stdlib.h>

#define TRAIN_TIMESTEPS 1000

/* The scheduler computes the ends of its range from its f32 training grid ... */
static double shift_f32(float u, double flow_shift)
{
    return (float)flow_shift * u / (1.0f + (float)(flow_shift - 1.0) * u);
}

/* ... and everything between them in f64. */
static double shift_f64(double u, double flow_shift)
{
    return flow_shift * u / (1.0 + (flow_shift - 1.0) * u);
}

/* The range ends at an already shifted sigma, and each of its points is shifted again: a quirk of
 * diffusers that the published settings count on. The last step starts at 0.0089, not 0.0030. */
static void fill_sigmas(struct sigma_schedule *schedule, double flow_shift)
{
    int count = schedule->count;
    double first = TRAIN_TIMESTEPS * shift_f32(1.0f, flow_shift);
    double last = TRAIN_TIMESTEPS * shift_f32(1.0f / TRAIN_TIMESTEPS, flow_shift);
    double step = count > 1 ? (last - first) / (count - 1) : 0.0;

    for (int i = 0; i < count; i++) {
        double timestep = i * step + first;

        schedule->sigma[i] = (float)shift_f64(timestep / TRAIN_TIMESTEPS, flow_shift);
    }
    schedule->sigma[count] = 0.0f;
}

bool sigma_schedule_create(struct sigma_schedule **out, int steps, double flow_shift,
                           struct error *err)
{
    struct sigma_schedule *schedule;

    if (steps < 1)
        return error_set(err, ERROR_BAD_REQUEST, "steps: %d is less than 1", steps);
    if (!(flow_shift >= FLOW_SHIFT_MIN && flow_shift <= FLOW_SHIFT_MAX))
        return error_set(err, ERROR_BAD_REQUEST, "flow_shift: %g is not between %g and %g",
                         flow_shift, FLOW_SHIFT_MIN, FLOW_SHIFT_MAX);
    schedule = malloc(sizeof *schedule + ((size_t)steps + 1) * sizeof schedule->sigma[0]);
    if (!schedule)
        return error_set(err, ERROR_NO_MEMORY, "sigma schedule of %d steps", steps);
    schedule->count = steps;
    fill_sigmas(schedule, flow_shift);
    *out = schedule;
    return true;
}

void sigma_schedule_destroy(struct sigma_schedule *schedule)
{
    free(schedule);
}

float sigma_schedule_timestep(const struct sigma_schedule *schedule, int step)
{
    return schedule->sigma[step] * (float)TRAIN_TIMESTEPS;
}

bool sigma_schedule_first_step(int *first, const struct sigma_schedule *schedule, double strength,
                               struct error *err)
{
    int count = schedule->count;
    int skipped;

    if (!(strength >= 0.0 && strength <= 1.0))
        return error_set(err, ERROR_BAD_REQUEST, "strength: %g is not between 0 and 1", strength);
    skipped = (int)(count - count * strength);
    if (skipped >= count)
        return error_set(err, ERROR_BAD_REQUEST, "strength: %g leaves none of the %d steps",
                         strength, count);
    *first = skipped;
    return true;
}
