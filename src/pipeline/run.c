/* A whole request at once: a batch with one job. */
#include <stdlib.h>

#include "base/size.h"
#include "pipeline/pipeline_private.h"

/* One request on its way. */
struct run {
    struct pipeline *pipeline;
    const struct pipeline_request *request;
    const struct pipeline_callbacks *callbacks;
    struct progress progress;
    struct pipeline_batch *batch;
    struct pipeline_job *job;
    int place_of[PIPELINE_IMAGES_MAX]; /* by picture; -1: not in the batch */
    int joined, finished;              /* pictures */
    size_t floats;                     /* of a latent */
};

static bool result_init(struct pipeline_result *result, const struct run *run, struct error *err)
{
    size_t count = (size_t)run->request->image_count;

    *result = (struct pipeline_result){.image_count = (int)count};
    result->images = calloc(count, sizeof *result->images);
    result->seeds = calloc(count, sizeof *result->seeds);
    result->latents = malloc(count * run->floats * sizeof *result->latents);
    if (!result->images || !result->seeds || !result->latents)
        return error_set(err, ERROR_NO_MEMORY, "result");
    for (size_t i = 0; i < count; i++)
        result->seeds[i] = run->request->seed + i;
    return true;
}

void pipeline_result_finish(struct pipeline_result *result)
{
    for (int i = 0; result->images && i < result->image_count; i++)
        image_finish(&result->images[i]);
    free(result->images);
    free(result->latents);
    free(result->seeds);
    *result = (struct pipeline_result){0};
}

/* --- Denoising --- */

/* Pictures join as places become free. */
static bool fill_places(struct run *run, struct error *err)
{
    while (run->joined < run->request->image_count && pipeline_batch_free_places(run->batch) > 0) {
        if (!pipeline_batch_join(run->batch, run->job, run->joined, &run->place_of[run->joined],
                                 err))
            return false;
        run->joined++;
    }
    return true;
}

/* Latents of finished pictures to the host, and their places to others. */
static bool take_finished(struct run *run, struct pipeline_result *result, struct error *err)
{
    for (int i = 0; i < run->joined; i++) {
        int place = run->place_of[i];

        if (place < 0 || !pipeline_batch_is_done(run->batch, place))
            continue;
        if (!pipeline_batch_latent(run->batch, place, result->latents + (size_t)i * run->floats,
                                   err))
            return false;
        pipeline_batch_leave(run->batch, place);
        run->place_of[i] = -1;
        run->finished++;
    }
    return true;
}

static int steps_done(const struct run *run)
{
    int steps = run->finished * pipeline_job_step_count(run->job);

    for (int i = 0; i < run->joined; i++)
        if (run->place_of[i] >= 0)
            steps += pipeline_batch_steps_done(run->batch, run->place_of[i]);
    return steps;
}

static bool denoise(struct run *run, struct pipeline_result *result, struct error *err)
{
    int steps = pipeline_job_step_count(run->job) * run->request->image_count;

    progress_begin_phase(&run->progress, PHASE_DENOISE, steps);
    while (run->finished < run->request->image_count) {
        if (!fill_places(run, err))
            return false;
        if (!pipeline_batch_step(run->batch, err))
            return error_in(err, "step %d of %d", steps_done(run) + 1, steps);
        progress_report(&run->progress, PHASE_DENOISE, steps_done(run), steps);
        if (!take_finished(run, result, err))
            return false;
    }
    return true;
}

static bool decode(struct run *run, struct pipeline_result *result, struct error *err)
{
    progress_begin_phase(&run->progress, PHASE_DECODE, run->request->image_count);
    for (int i = 0; i < run->request->image_count; i++) {
        if (!pipeline_batch_decode(run->batch, run->job, result->latents + (size_t)i * run->floats,
                                   &result->images[i], err))
            return false;
        progress_report(&run->progress, PHASE_DECODE, i + 1, run->request->image_count);
    }
    return true;
}

static void leave_all(struct run *run)
{
    for (int i = 0; i < run->joined; i++)
        if (run->place_of[i] >= 0)
            pipeline_batch_leave(run->batch, run->place_of[i]);
    run->joined = run->finished = 0;
}

/* All phases. The result is empty when one fails. */
static bool draw(struct run *run, struct pipeline_result *result, struct error *err)
{
    double encoded, denoised, began = run->progress.started;
    bool ok = result_init(result, run, err) &&
              pipeline_job_create(&run->job, run->batch, run->request, run->callbacks, err);

    encoded = seconds_now();
    ok = ok && denoise(run, result, err);
    denoised = seconds_now();
    ok = ok && decode(run, result, err);
    if (ok) {
        result->clip_tokens_cut = run->job->clip_cut;
        result->t5_tokens_cut = run->job->t5_cut;
        result->encode_seconds = encoded - began;
        result->denoise_seconds = denoised - encoded;
        result->decode_seconds = seconds_now() - denoised;
        result->total_seconds = seconds_now() - began;
        progress_report(&run->progress, PHASE_DONE, 1, 1);
    }
    if (!ok)
        pipeline_result_finish(result);
    leave_all(run);
    pipeline_job_destroy(run->job);
    run->job = NULL;
    weights_leave(run->pipeline);
    return ok;
}

static int places_for(const struct pipeline *pipeline, const struct pipeline_request *request)
{
    return request->image_count < pipeline->images_at_once ? request->image_count
                                                           : pipeline->images_at_once;
}

/* Where 8 bits give no number, once more in 16. */
static bool draw_finite(struct run *run, struct pipeline_result *result, struct error *err)
{
    struct pipeline *pipeline = run->pipeline;
    const struct backend_ops *ops = &pipeline->backend->ops;
    bool ok = draw(run, result, err);

    if (ok || !ops->avoid_8_bits || err->code != ERROR_NOT_FINITE)
        return ok;
    ops->avoid_8_bits(pipeline->stream, true);
    pipeline_batch_close(pipeline); /* what it recorded is in 8 bits */
    ok = pipeline_batch_open(&run->batch, pipeline, run->request,
                             places_for(pipeline, run->request), err) &&
         draw(run, result, err);
    pipeline_batch_close(pipeline);
    run->batch = NULL;
    ops->avoid_8_bits(pipeline->stream, false);
    result->was_repeated = ok;
    return ok;
}

/* --- Memory --- */

/* Tells the plan, and draws in the memory that it takes. */
static bool plan_and_draw(struct run *run, struct pipeline_result *result, struct error *err)
{
    struct pipeline *pipeline = run->pipeline;
    const struct pipeline_callbacks *callbacks = run->callbacks;
    int places = places_for(pipeline, run->request);
    struct pipeline_memory memory;
    bool ok;

    if (!pipeline_batch_estimate(pipeline, run->request, places, &memory, err))
        return false;
    if (callbacks && callbacks->planned)
        callbacks->planned(callbacks->context, &memory);
    pipeline->device_least_free = 0;
    ok = pipeline_batch_open(&run->batch, pipeline, run->request, places, err) &&
         draw_finite(run, result, err);
    if (!pipeline_keeps_weights(pipeline))
        pipeline_batch_close(pipeline);
    result->memory = memory;
    if (pipeline->device_least_free > 0 && pipeline->device_least_free < pipeline->device_free)
        result->memory.device_peak = pipeline->device_free - pipeline->device_least_free +
                                     pipeline->backend->ops.scratch_bytes(pipeline->stream);
    return ok;
}

/* One memory mode down, for good: the VAE in bands, and the phases taking turns or, if they do so
 * already, their weights streaming. False on hosts, and when there is no mode below. */
static bool make_room(struct pipeline *pipeline)
{
    const struct backend_ops *ops = &pipeline->backend->ops;
    bool has_bands = pipeline->vae_band_rows > 0;

    if (!ops->weights_hold || (pipeline->memory == MEMORY_STREAMED && has_bands))
        return false;
    pipeline_batch_close(pipeline);
    weights_drop(pipeline);
    if (pipeline->memory == MEMORY_ALL)
        pipeline->memory = MEMORY_TURNS;
    else if (has_bands)
        pipeline->memory = MEMORY_STREAMED;
    if (!has_bands)
        pipeline->vae_band_rows = PIPELINE_BAND_ROWS;
    return true;
}

bool pipeline_run(struct pipeline *pipeline, const struct pipeline_request *request,
                  const struct pipeline_callbacks *callbacks, struct pipeline_result *result,
                  struct error *err)
{
    const struct backend_ops *ops = &pipeline->backend->ops;
    struct run run = {.pipeline = pipeline, .request = request, .callbacks = callbacks};
    struct error failure;
    bool ok;

    *result = (struct pipeline_result){0};
    if (!request_check(request, pipeline, err))
        return false;
    run.progress =
        (struct progress){.pipeline = pipeline, .callbacks = callbacks, .started = seconds_now()};
    run.floats = (size_t)mmdit_shape(pipeline->mmdit)->latent_channels *
                 (size_t)(request->height / VAE_FACTOR) * (size_t)(request->width / VAE_FACTOR);
    ops->stream_watch(pipeline->stream, callbacks ? callbacks->cancel : NULL);
    progress_begin_phase(&run.progress, PHASE_PLAN, 1);
    ok = plan_and_draw(&run, result, &failure);
    while (!ok && failure.code == ERROR_NO_MEMORY && make_room(pipeline)) {
        ok = plan_and_draw(&run, result, &failure);
        result->was_short_of_memory = ok;
    }
    ops->stream_watch(pipeline->stream, NULL);
    if (!ok && err)
        *err = failure;
    return ok;
}

bool pipeline_estimate(struct pipeline *pipeline, const struct pipeline_request *request,
                       struct pipeline_memory *memory, struct error *err)
{
    return request_check(request, pipeline, err) &&
           pipeline_batch_estimate(pipeline, request, places_for(pipeline, request), memory, err);
}
