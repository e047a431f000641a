/* Where a picture starts: noise from its seed, and for image to image the init image's latent. */
#include <string.h>

#include "pipeline/pipeline_private.h"

/* A seed's generator, whichever it is: successive draws continue the stream. */
struct noise {
    enum noise_source source;
    struct mt19937 cpu;
    struct philox cuda;
};

static void noise_seed(struct noise *noise, enum noise_source source, uint64_t seed)
{
    noise->source = source;
    if (source == NOISE_TORCH_CPU)
        mt19937_seed(&noise->cpu, seed);
    else
        noise->cuda = (struct philox){.seed = seed, .threads_max = TORCH_CUDA_THREADS_H100};
}

static void noise_draw(struct noise *noise, float *out, size_t count)
{
    if (noise->source == NOISE_TORCH_CPU)
        torch_cpu_normal(out, count, &noise->cpu);
    else
        torch_cuda_normal(out, count, &noise->cuda);
}

/* From seed + image: the posterior's noise first if it is drawn, then the latent's, the order of
 * diffusers. */
bool start_picture(const struct pipeline_job *job, const struct pipeline *pipeline,
                   const struct batch_shape *shape, int image, float *noise, float *clean,
                   struct error *err)
{
    int64_t count = shape->channels * shape->height * shape->width;
    bool draws_clean = job->moments && job->request.as_diffusers;
    struct noise generator;

    if (image < 0 || image >= job->request.image_count)
        return error_set(err, ERROR_BAD_REQUEST, "picture %d of %d", image + 1,
                         job->request.image_count);
    noise_seed(&generator, job->request.noise_source, job->request.seed + (uint64_t)image);
    if (draws_clean)
        noise_draw(&generator, noise, (size_t)count);
    if (job->moments)
        vae_sample(pipeline->vae_encoder, clean, job->moments, draws_clean ? noise : NULL,
                   shape->height, shape->width);
    if (job->initial_noise)
        memcpy(noise, job->initial_noise + image * count, (size_t)count * sizeof *noise);
    else
        noise_draw(&generator, noise, (size_t)count);
    return true;
}
