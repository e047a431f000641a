/* The names of samplers and schedules that AUTOMATIC1111's clients send. There is one of each here:
 * Euler over the model's own schedule, which they call "Normal". Others are known, so that a
 * client's default does no harm, and answered with Euler. Pure functions.
 */
#ifndef SERVER_A1111_SAMPLERS_H
#define SERVER_A1111_SAMPLERS_H

#include <jansson.h>
#include <stdbool.h>

#define A1111_SAMPLER "Euler"
#define A1111_SCHEDULER "Normal"

enum a1111_sampler { A1111_SAMPLER_UNKNOWN, A1111_SAMPLER_OTHER, A1111_SAMPLER_EULER };
/* In any case, with a schedule's name behind it as in "DPM++ 2M Karras". */
enum a1111_sampler a1111_sampler_find(const char *name);
/* Whether the schedule is what is used anyway: ours, the automatic choice, or none named. */
bool a1111_scheduler_is_ours(const char *name);

/* Bodies of /samplers and /schedulers; NULL when memory is short. */
json_t *a1111_samplers_json(void);
json_t *a1111_schedulers_json(void);

#endif
