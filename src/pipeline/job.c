/* A job: a request on its way, with its prompts and init image encoded. */
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "pipeline/pipeline_private.h"

static const char *either(const char *text, const char *fallback)
{
    return text ? text : fallback;
}

/* The three texts of the negative prompt, or of the positive one. */
static void texts_of(const char *texts[3], const struct pipeline_request *request, bool negative)
{
    texts[0] = negative ? either(request->negative_prompt, "") : request->prompt;
    texts[1] = either(negative ? request->negative_prompt_2 : request->prompt_2, texts[0]);
    texts[2] = either(negative ? request->negative_prompt_3 : request->prompt_3, texts[0]);
}

static bool encode_prompt(struct pipeline_job *job, struct pipeline_batch *batch, int64_t cond,
                          const struct prompt_tokens *tokens, struct error *err)
{
    struct pipeline *pipeline = batch->pipeline;
    struct embedding **out = &job->embedding[cond];

    job->clip_cut = (int)max_i64(job->clip_cut, tokens->cut_clip);
    job->t5_cut = (int)max_i64(job->t5_cut, tokens->cut_t5);
    *out = prompt_store_find(pipeline->prompts, tokens);
    if (*out)
        return true;
    if (!weights_enter(pipeline, WEIGHTS_TEXT, err) ||
        !text_stage_run(&batch->text, pipeline, tokens, out, err))
        return false;
    prompt_store_add(pipeline->prompts, tokens, *out);
    return true;
}

/* The negative prompt comes first. */
static bool encode_prompts(struct pipeline_job *job, struct pipeline_batch *batch,
                           const struct pipeline_request *request, struct progress *progress,
                           struct error *err)
{
    struct prompt_tokens tokens;
    const char *texts[3];

    progress_begin_phase(progress, PHASE_ENCODE, (int)job->conds);
    for (int64_t cond = 0; cond < job->conds; cond++) {
        bool negative = cond + 1 < job->conds;

        texts_of(texts, request, negative);
        if (!prompt_tokenize(&tokens, batch->pipeline, texts, request->t5_tokens, err))
            return error_in(err, negative ? "negative prompt" : "prompt");
        if (!encode_prompt(job, batch, cond, &tokens, err))
            return false;
        progress_report(progress, PHASE_ENCODE, (int)cond + 1, (int)job->conds);
    }
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

static bool read_mask(struct pipeline_job *job, const struct batch_shape *shape,
                      const struct pipeline_request *request, struct error *err)
{
    const struct image *mask = request->mask;
    struct image resized = {0};

    job->mask = malloc((size_t)(shape->height * shape->width) * sizeof *job->mask);
    if (!job->mask)
        return error_set(err, ERROR_NO_MEMORY, "mask");
    if (mask->width != request->width || mask->height != request->height) {
        if (!image_resize_nearest(&resized, mask, request->width, request->height, err))
            return error_in(err, "mask");
        mask = &resized;
    }
    reduce_mask(job->mask, mask, shape->height, shape->width);
    image_finish(&resized);
    return true;
}

static bool encode_init(struct pipeline_job *job, struct pipeline_batch *batch,
                        const struct pipeline_request *request, struct progress *progress,
                        struct error *err)
{
    const struct batch_shape *shape = &batch->shape;
    int64_t count = 2 * shape->channels * shape->height * shape->width;

    progress_begin_phase(progress, PHASE_IMAGE, 1);
    job->moments = malloc((size_t)count * sizeof *job->moments);
    if (!job->moments)
        return error_set(err, ERROR_NO_MEMORY, "init image");
    if ((request->mask && !read_mask(job, shape, request, err)) ||
        !weights_enter(batch->pipeline, WEIGHTS_IMAGE, err) ||
        !image_stage_run(&batch->image, batch->pipeline, request, job->moments, err))
        return false;
    progress_report(progress, PHASE_IMAGE, 1, 1);
    return true;
}

/* What is needed after the encoding, without pointers into the caller's request. */
static void keep_request(struct pipeline_job *job, const struct pipeline_request *request)
{
    job->request = *request;
    job->initial_noise = request->initial_noise;
    job->request.prompt = job->request.prompt_2 = job->request.prompt_3 = NULL;
    job->request.negative_prompt = NULL;
    job->request.negative_prompt_2 = job->request.negative_prompt_3 = NULL;
    job->request.init_image = job->request.mask = NULL;
    job->request.init_pixels = job->request.initial_noise = NULL;
    job->guidance = request_guidance(request);
    job->conds = guidance_is_on(&job->guidance) ? 2 : 1;
}

bool pipeline_job_create(struct pipeline_job **out, struct pipeline_batch *batch,
                         const struct pipeline_request *request,
                         const struct pipeline_callbacks *callbacks, struct error *err)
{
    struct progress progress = {
        .pipeline = batch->pipeline, .callbacks = callbacks, .started = seconds_now()};
    struct pipeline_job *job;
    bool ok;

    if (!request_check(request, batch->pipeline, err))
        return false;
    if (!pipeline_batch_fits(batch, request))
        return error_set(err, ERROR_BAD_REQUEST, "the request does not fit this batch");
    job = calloc(1, sizeof *job);
    if (!job)
        return error_set(err, ERROR_NO_MEMORY, "job");
    keep_request(job, request);
    ok = sigma_schedule_create(&job->schedule, request->steps, request->flow_shift, err) &&
         (!request_has_init(request) ||
          sigma_schedule_first_step(&job->first_step, job->schedule, request->strength, err)) &&
         encode_prompts(job, batch, request, &progress, err) &&
         (!request_has_init(request) || encode_init(job, batch, request, &progress, err));
    if (!ok) {
        pipeline_job_destroy(job);
        return false;
    }
    *out = job;
    return true;
}

void pipeline_job_destroy(struct pipeline_job *job)
{
    if (!job)
        return;
    for (int i = 0; i < CONDS_MAX; i++)
        embedding_release(job->embedding[i]);
    sigma_schedule_destroy(job->schedule);
    free(job->moments);
    free(job->mask);
    free(job);
}

int pipeline_job_step_count(const struct pipeline_job *job)
{
    return job->schedule->count - job->first_step;
}

void pipeline_job_tokens_cut(const struct pipeline_job *job, int *clip, int *t5)
{
    *clip = job->clip_cut;
    *t5 = job->t5_cut;
}
