/* The infotext of a job's picture: what the worker writes into the file, and what AUTOMATIC1111's
 * clients get beside it.
 */
#ifndef JOB_JOB_INFOTEXT_H
#define JOB_JOB_INFOTEXT_H

#include "base/attributes.h"
#include "base/error.h"
#include "job/job_spec.h"

/* The spec may have lost its pictures: `has_init_image` says whether there was one. `seed` is the
 * picture's own. `version`: "sd35 0.1.0". The caller frees *out. Fails only with
 * ERROR_NO_MEMORY. */
MUST_CHECK bool job_infotext(char **out, const struct job_spec *spec, bool has_init_image,
                             const struct worker_facts *facts, uint64_t seed, const char *version,
                             struct error *err);

#endif
