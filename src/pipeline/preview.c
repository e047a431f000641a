/* Previews: what a picture's colours will be, seen long before it is done. */
#include <jansson.h>
#include <stdlib.h>

#include "pipeline/pipeline_private.h"

/* A linear fit of what the VAE of SD 3 makes of a cell, as ComfyUI's latent format has it. */
static const struct latent_colours sd3_colours = {
    .factors = {{-0.0922f, -0.0175f, 0.0749f},
                {0.0311f, 0.0633f, 0.0954f},
                {0.1994f, 0.0927f, 0.0458f},
                {0.0856f, 0.0339f, 0.0902f},
                {0.0587f, 0.0272f, -0.0496f},
                {-0.0006f, 0.1104f, 0.0309f},
                {0.0978f, 0.0306f, 0.0427f},
                {-0.0042f, 0.1038f, 0.1358f},
                {-0.0194f, 0.0020f, 0.0669f},
                {-0.0488f, 0.0130f, -0.0268f},
                {0.0922f, 0.0988f, 0.0951f},
                {-0.0278f, 0.0524f, -0.0542f},
                {0.0332f, 0.0456f, 0.0895f},
                {-0.0069f, -0.0030f, -0.0810f},
                {-0.0596f, -0.0465f, -0.0293f},
                {-0.1448f, -0.1463f, -0.1189f}},
    .bias = {0.2394f, 0.2135f, 0.1925f},
};

/* Three numbers. */
static bool read_colour(float out[3], const json_t *numbers)
{
    if (json_array_size(numbers) != 3)
        return false;
    for (size_t i = 0; i < 3; i++) {
        const json_t *number = json_array_get(numbers, i);

        if (!json_is_number(number))
            return false;
        out[i] = (float)json_number_value(number);
    }
    return true;
}

void latent_colours_read(struct latent_colours *out, const json_t *config)
{
    const json_t *factors = json_object_get(config, "latent_rgb_factors");
    bool ok = json_array_size(factors) == LATENT_CHANNELS &&
              read_colour(out->bias, json_object_get(config, "latent_rgb_bias"));

    for (size_t c = 0; ok && c < LATENT_CHANNELS; c++)
        ok = read_colour(out->factors[c], json_array_get(factors, c));
    if (!ok)
        *out = sd3_colours;
}

/* The clean picture, as far as the last step's velocity tells: x - sigma v. */
static bool remove_noise(struct pipeline_batch *batch, const struct sample *sample, float *latent,
                         struct error *err)
{
    struct tensor from = tensor_slice(&batch->denoise.sampler.tensors[0], 0, sample->velocity, 1);
    struct tensor host = from;
    size_t count = (size_t)tensor_count(&from);
    float *velocity = malloc(count * sizeof *velocity);
    float sigma = sample->job->schedule->sigma[sample->step];
    bool ok;

    if (!velocity)
        return error_set(err, ERROR_NO_MEMORY, "preview");
    host.data = velocity;
    batch->ops->download(batch->stream, &host, &from);
    ok = batch->ops->stream_finish(batch->stream, err);
    for (size_t i = 0; ok && i < count; i++)
        latent[i] -= sigma * velocity[i];
    free(velocity);
    return ok;
}

static unsigned char to_byte(float value)
{
    float byte = (value + 1.0f) * 127.5f + 0.5f;

    return byte > 0.0f ? byte < 255.0f ? (unsigned char)byte : 255 : 0;
}

static void paint(struct image *out, const float *latent, const struct latent_colours *colours)
{
    size_t cells = (size_t)out->width * (size_t)out->height;

    for (size_t i = 0; i < cells; i++)
        for (size_t colour = 0; colour < 3; colour++) {
            float value = colours->bias[colour];

            for (size_t c = 0; c < LATENT_CHANNELS; c++)
                value += latent[c * cells + i] * colours->factors[c][colour];
            out->pixels[3 * i + colour] = to_byte(value);
        }
}

bool pipeline_batch_preview(struct pipeline_batch *batch, int place, struct image *out,
                            struct error *err)
{
    const struct sample *sample = &batch->samples[place];
    const struct batch_shape *shape = &batch->shape;
    size_t count = (size_t)(shape->channels * shape->height * shape->width);
    float *latent = malloc(count * sizeof *latent);
    bool ok;

    if (!latent)
        return error_set(err, ERROR_NO_MEMORY, "preview");
    ok = pipeline_batch_latent(batch, place, latent, err) &&
         (sample->velocity < 0 || remove_noise(batch, sample, latent, err)) &&
         image_init(out, (int)shape->width, (int)shape->height, err);
    if (ok)
        paint(out, latent, &batch->pipeline->colours);
    free(latent);
    return ok;
}
