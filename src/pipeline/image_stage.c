/* Where sampling starts: noise from the seeds, and for image to image the init image's latent. */
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "pipeline/pipeline_private.h"

bool image_stage_plan(struct image_stage *stage, struct run *run, struct arena *work,
                      struct error *err)
{
    const struct pipeline_request *request = run->request;
    enum dtype f = run->ops->activation_dtype;

    *stage = (struct image_stage){0};
    if (!run->has_init)
        return true;
    return TENSOR_ALLOC(&stage->bytes, work, DTYPE_U8, "init image", err, 1, request->height,
                        request->width, 3) &&
           TENSOR_ALLOC(&stage->rgb, work, f, "init image", err, 1, request->height, request->width,
                        3) &&
           (!request->init_pixels || TENSOR_ALLOC(&stage->pixels, work, DTYPE_F32, "init image",
                                                  err, 1, request->height, request->width, 3)) &&
           TENSOR_ALLOC(&stage->moments, work, DTYPE_F32, "init image", err, 1, 2 * run->channels,
                        run->height, run->width) &&
           vae_encode_plan_create(&stage->encode, run->pipeline->vae_encoder, work, 1, run->height,
                                  run->width, run->pipeline->vae_band_rows, err);
}

void image_stage_finish(struct image_stage *stage)
{
    vae_encode_plan_destroy(stage->encode);
}

/* --- Noise --- */

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

/* --- Init image and mask --- */

/* Copies the init image to the device, resized to the request's size. */
static bool upload_init(struct image_stage *stage, struct run *run, struct error *err)
{
    const struct pipeline_request *request = run->request;
    struct image resized = {0};
    const struct image *image = request->init_image;
    struct tensor host;

    if (request->init_pixels) {
        host = TENSOR_OF((void *)(uintptr_t)request->init_pixels, DTYPE_F32, 1, request->height,
                         request->width, 3);
        run->ops->upload(run->stream, &stage->pixels, &host);
        run->ops->copy(run->stream, &stage->rgb, &stage->pixels); /* a device's f has 16 bits */
        return true;
    }
    if (image->width != request->width || image->height != request->height) {
        if (!image_resize(&resized, image, request->width, request->height, err))
            return error_in(err, "init image");
        image = &resized;
    }
    host = TENSOR_OF(image->pixels, DTYPE_U8, 1, request->height, request->width, 3);
    run->ops->upload(run->stream, &stage->bytes, &host);
    run->ops->bytes_to_rgb(run->stream, &stage->rgb, &stage->bytes);
    image_finish(&resized);
    return true;
}

/* One value a latent cell: the mask's grey at the cell's first pixel, as PyTorch's nearest
 * interpolation picks it, 1 from half grey upwards. */
static void reduce_mask(float *cells, const struct image *mask, int64_t height, int64_t width)
{
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            const unsigned char *rgb =
                mask->pixels +
                ((size_t)(y * VAE_FACTOR) * (size_t)mask->width + (size_t)(x * VAE_FACTOR)) * 3;
            int grey = (299 * rgb[0] + 587 * rgb[1] + 114 * rgb[2]) / 1000;

            cells[y * width + x] = grey >= 128 ? 1.0f : 0.0f;
        }
}

static bool upload_mask(struct run *run, struct error *err)
{
    const struct pipeline_request *request = run->request;
    struct image resized = {0};
    const struct image *mask = request->mask;
    struct tensor host;
    float *cells;

    if (mask->width != request->width || mask->height != request->height) {
        if (!image_resize_nearest(&resized, mask, request->width, request->height, err))
            return error_in(err, "mask");
        mask = &resized;
    }
    cells = malloc((size_t)(run->height * run->width) * sizeof *cells);
    if (!cells) {
        image_finish(&resized);
        return error_set(err, ERROR_NO_MEMORY, "mask");
    }
    reduce_mask(cells, mask, run->height, run->width);
    host = TENSOR_OF(cells, DTYPE_F32, 1, 1, run->height, run->width);
    run->ops->upload(run->stream, &run->mask, &host);
    free(cells);
    image_finish(&resized);
    return true;
}

/* The moments of the init image, on the host; the caller frees them. */
static float *encode_init(struct image_stage *stage, struct run *run, struct error *err)
{
    struct tensor host = stage->moments;
    float *moments;

    if (!upload_init(stage, run, err))
        return NULL;
    vae_encode(stage->encode, run->stream, &stage->moments, &stage->rgb);
    moments = malloc(tensor_bytes(&stage->moments));
    if (!moments) {
        error_set(err, ERROR_NO_MEMORY, "init image");
        return NULL;
    }
    host.data = moments;
    run->ops->download(run->stream, &host, &stage->moments);
    if (!run->ops->stream_finish(run->stream, err)) {
        free(moments);
        return NULL;
    }
    return moments;
}

/* --- The start of every picture --- */

/* `host` [16 h w] to picture i of a tensor [images, 16, h, w]. */
static void upload_picture(struct run *run, struct tensor *tensor, int64_t i, float *host)
{
    struct tensor to = tensor_slice(tensor, 0, i, 1);
    struct tensor from = TENSOR_OF(host, DTYPE_F32, 1, run->channels, run->height, run->width);

    run->ops->upload(run->stream, &to, &from);
}

/* Picture i starts from seed + i: the posterior's noise first if it is drawn, then the latent's,
 * the order of diffusers. */
static void start_picture(struct run *run, int64_t i, const float *moments, float *buffer)
{
    const struct pipeline_request *request = run->request;
    int64_t count = run->channels * run->height * run->width;
    struct tensor latent = tensor_slice(&run->latents, 0, i, 1);
    struct noise noise;

    noise_seed(&noise, request->noise_source, request->seed + (uint64_t)i);
    if (moments) {
        float *clean = buffer + count;

        if (request->as_diffusers)
            noise_draw(&noise, buffer, (size_t)count);
        vae_sample(run->pipeline->vae_encoder, clean, moments,
                   request->as_diffusers ? buffer : NULL, run->height, run->width);
        upload_picture(run, &run->clean, i, clean);
    }
    if (request->initial_noise)
        memcpy(buffer, request->initial_noise + i * count, (size_t)count * sizeof *buffer);
    else
        noise_draw(&noise, buffer, (size_t)count);
    upload_picture(run, &run->latents, i, buffer);
    if (run->has_mask)
        upload_picture(run, &run->noise, i, buffer);
    if (moments) {
        struct tensor clean = tensor_slice(&run->clean, 0, i, 1);

        latent_add_noise(run->ops, run->stream, &latent, &clean, &latent,
                         run->schedule->sigma[run->first_step]);
    }
}

bool image_stage_run(struct image_stage *stage, struct run *run, struct error *err)
{
    int64_t count = run->channels * run->height * run->width;
    float *moments = NULL, *buffer = malloc((size_t)(2 * count) * sizeof *buffer);

    if (!buffer)
        return error_set(err, ERROR_NO_MEMORY, "noise");
    if (run->has_init) {
        run_begin_phase(run, PHASE_IMAGE, 1);
        moments = encode_init(stage, run, err);
        if (!moments || (run->has_mask && !upload_mask(run, err)))
            goto fail;
        run_report(run, PHASE_IMAGE, 1, 1);
    }
    for (int64_t i = 0; i < run->images; i++)
        start_picture(run, i, moments, buffer);
    free(moments);
    free(buffer);
    return run->ops->stream_finish(run->stream, err);

fail:
    free(moments);
    free(buffer);
    return false;
}
