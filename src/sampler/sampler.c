#include "sampler/sampler.h"

#include <stdio.h>
#include <string.h>

struct sampler {
    const char *name;
    int tensor_count; /* of sampler_plan.tensors, the velocity included */
    bool (*step)(struct sampler_plan *plan, const struct sampling *sampling,
                 struct sampler_track *tracks, int count, struct error *err);
};

/* x' = x + (sigma' - sigma) v, the first-order solution of dx/dsigma = v. */
static bool euler_step(struct sampler_plan *plan, const struct sampling *sampling,
                       struct sampler_track *tracks, int count, struct error *err)
{
    struct tensor velocity = tensor_slice(&plan->tensors[0], 0, 0, count);

    if (!sampling->velocity(sampling->context, &velocity, tracks, count, err))
        return false;
    for (int i = 0; i < count; i++) {
        const float *sigma = &tracks[i].schedule->sigma[tracks[i].step];
        struct tensor *latent = &tracks[i].latent, v = tensor_slice(&velocity, 0, i, 1);

        sampling->ops->scale_add(sampling->stream, latent, 1.0f, latent, sigma[1] - sigma[0], &v);
    }
    return true;
}

static const struct sampler samplers[] = {
    {.name = "euler", .tensor_count = 1, .step = euler_step},
};

const struct sampler *sampler_at(int index)
{
    return index >= 0 && index < (int)COUNT_OF(samplers) ? &samplers[index] : NULL;
}

const char *sampler_name(const struct sampler *sampler)
{
    return sampler->name;
}

static const char *names_text(char *text, size_t size)
{
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; i < COUNT_OF(samplers) && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "", samplers[i].name);
    return text;
}

bool sampler_find(const struct sampler **out, const char *name, struct error *err)
{
    char names[256];

    for (size_t i = 0; i < COUNT_OF(samplers); i++)
        if (strcmp(samplers[i].name, name) == 0) {
            *out = &samplers[i];
            return true;
        }
    return error_set(err, ERROR_BAD_REQUEST, "sampler: '%.64s' is not one of: %s", name,
                     names_text(names, sizeof names));
}

bool sampler_plan_init(struct sampler_plan *plan, const struct sampler *sampler,
                       struct arena *arena, const struct tensor *latent, struct error *err)
{
    *plan = (struct sampler_plan){.sampler = sampler};
    for (int i = 0; i < sampler->tensor_count; i++)
        if (!tensor_alloc(&plan->tensors[i], arena, DTYPE_F32, "velocity", latent->rank,
                          latent->dim, err))
            return error_in(err, "sampler %s", sampler->name);
    return true;
}

bool sampler_step(struct sampler_plan *plan, const struct sampling *sampling,
                  struct sampler_track *tracks, int count, struct error *err)
{
    return plan->sampler->step(plan, sampling, tracks, count, err);
}

void latent_add_noise(const struct backend_ops *ops, struct stream *stream, struct tensor *out,
                      const struct tensor *clean, const struct tensor *noise, float sigma)
{
    ops->scale_add(stream, out, sigma, noise, 1.0f - sigma, clean);
}
