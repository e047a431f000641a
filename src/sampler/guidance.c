#include "sampler/guidance.h"

bool guidance_is_on(const struct guidance *guidance)
{
    return guidance->scale > 1.0;
}

bool guidance_skips_at(const struct guidance *guidance, int step, int step_count)
{
    return guidance_is_on(guidance) && guidance->skips_layers &&
           step > step_count * guidance->skip_start && step < step_count * guidance->skip_stop;
}

void guidance_combine(const struct guidance *guidance, const struct backend_ops *ops,
                      struct stream *stream, struct tensor *negative, const struct tensor *positive)
{
    float scale = (float)guidance->scale;

    ops->scale_add(stream, negative, 1.0f - scale, negative, scale, positive);
}

void guidance_add_skip(const struct guidance *guidance, const struct backend_ops *ops,
                       struct stream *stream, struct tensor *velocity,
                       const struct tensor *positive, struct tensor *skipped)
{
    ops->scale_add(stream, skipped, 1.0f, positive, -1.0f, skipped);
    ops->scale_add(stream, velocity, 1.0f, velocity, (float)guidance->skip_scale, skipped);
}
