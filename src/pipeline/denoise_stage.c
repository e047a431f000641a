/* Denoising: the transformer under a sampler, with guidance; every picture at its own step. */
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "pipeline/pipeline_private.h"

static bool plan_transformer(struct denoise_stage *stage, const struct pipeline *pipeline,
                             const struct batch_shape *shape, struct arena *kept,
                             struct arena *work, struct error *err)
{
    const struct mmdit_plan_options options = {
        .batch = shape->conds * shape->places,
        .height = shape->height,
        .width = shape->width,
        .context_tokens = CLIP_TOKENS + shape->t5_tokens,
        .row_count = shape->conds * shape->places * WINDOW_STEPS,
        .rows_at_once = shape->conds * WINDOW_STEPS,
    };

    return mmdit_plan_create(&stage->mmdit, pipeline->mmdit, kept, work, &options, err);
}

bool denoise_stage_plan(struct denoise_stage *stage, const struct pipeline *pipeline,
                        const struct batch_shape *shape, struct arena *kept, struct arena *work,
                        struct error *err)
{
    const struct mmdit_shape *network = mmdit_shape(pipeline->mmdit);
    enum dtype f = pipeline->backend->ops.activation_dtype;
    int64_t n = shape->places, batch = shape->conds * n, rows = shape->conds * WINDOW_STEPS;
    int64_t c = shape->channels, h = shape->height, w = shape->width;
    struct tensor latents = TENSOR_OF(NULL, DTYPE_F32, n, c, h, w);

    *stage = (struct denoise_stage){0};
    return TENSOR_ALLOC(&stage->context, work, f, "context", err, shape->conds,
                        CLIP_TOKENS + shape->t5_tokens, network->context_width) &&
           TENSOR_ALLOC(&stage->timesteps, work, DTYPE_F32, "timesteps", err, rows) &&
           TENSOR_ALLOC(&stage->pooled, work, f, "pooled text", err, rows, network->pooled_width) &&
           TENSOR_ALLOC(&stage->input, work, DTYPE_F32, "latents", err, batch, c, h, w) &&
           TENSOR_ALLOC(&stage->output, work, DTYPE_F32, "velocities", err, batch, c, h, w) &&
           TENSOR_ALLOC(&stage->skipped, work, DTYPE_F32, "velocities", err, 1, c, h, w) &&
           sampler_plan_init(&stage->sampler, sampler_at(0), kept, &latents, err) &&
           plan_transformer(stage, pipeline, shape, kept, work, err);
}

void denoise_stage_finish(struct denoise_stage *stage)
{
    mmdit_plan_destroy(stage->mmdit);
}

/* --- What the network is told of a picture --- */

void denoise_set_text(struct pipeline_batch *batch, const struct sample *sample)
{
    struct denoise_stage *stage = &batch->denoise;
    int64_t conds = batch->shape.conds;

    for (int64_t cond = 0; cond < conds; cond++) {
        struct tensor to = tensor_slice(&stage->context, 0, cond, 1);

        batch->ops->upload(batch->stream, &to, &sample->job->embedding[cond]->context);
    }
    mmdit_set_context(stage->mmdit, batch->stream, sample->position * conds, &stage->context);
}

/* The modulation of the steps from sample->step on: it depends on timestep and pooled text only. */
static bool set_window(struct pipeline_batch *batch, const struct sample *sample, struct error *err)
{
    struct denoise_stage *stage = &batch->denoise;
    const struct sigma_schedule *schedule = sample->job->schedule;
    int64_t conds = batch->shape.conds, place = sample - batch->samples;
    size_t row_bytes = tensor_bytes(&sample->job->embedding[0]->pooled);
    float times[CONDS_MAX * WINDOW_STEPS];
    struct tensor host_times = TENSOR_OF(times, DTYPE_F32, conds * WINDOW_STEPS);
    struct tensor host_pooled = stage->pooled;
    char *pooled = malloc((size_t)(conds * WINDOW_STEPS) * row_bytes);

    if (!pooled)
        return error_set(err, ERROR_NO_MEMORY, "modulation");
    for (int64_t row = 0; row < conds * WINDOW_STEPS; row++) {
        int step = (int)min_i64(sample->step + row / conds, schedule->count - 1);

        times[row] = sigma_schedule_timestep(schedule, step);
        memcpy(pooled + (size_t)row * row_bytes, sample->job->embedding[row % conds]->pooled.data,
               row_bytes);
    }
    host_pooled.data = pooled;
    batch->ops->upload(batch->stream, &stage->timesteps, &host_times);
    batch->ops->upload(batch->stream, &stage->pooled, &host_pooled);
    free(pooled);
    mmdit_modulate(stage->mmdit, batch->stream, place * conds * WINDOW_STEPS, &stage->timesteps,
                   &stage->pooled);
    return true;
}

/* --- The guided velocity --- */

/* The pictures of a step, in the order of their positions. */
struct stepping {
    struct pipeline_batch *batch;
    struct sample *const *samples; /* [batch->running] */
};

static int32_t modulation_row(const struct pipeline_batch *batch, const struct sample *sample,
                              int64_t cond)
{
    int64_t place = sample - batch->samples;
    int64_t step = (sample->step - sample->job->first_step) % WINDOW_STEPS;

    return (int32_t)((place * WINDOW_STEPS + step) * batch->shape.conds + cond);
}

/* Every picture goes through the network with its negative and its positive prompt. */
static void evaluate_all(const struct stepping *stepping, struct tensor *output,
                         const struct sampler_track *tracks, int count)
{
    struct pipeline_batch *batch = stepping->batch;
    int64_t conds = batch->shape.conds;
    struct tensor input = tensor_slice(&batch->denoise.input, 0, 0, conds * count);
    int32_t rows[CONDS_MAX * PIPELINE_IMAGES_MAX];
    const struct mmdit_evaluation evaluation = {.rows = rows};

    for (int64_t i = 0; i < conds * count; i++) {
        struct tensor to = tensor_slice(&input, 0, i, 1);

        batch->ops->copy(batch->stream, &to, &tracks[i / conds].latent);
        rows[i] = modulation_row(batch, stepping->samples[i / conds], i % conds);
    }
    mmdit_run(batch->denoise.mmdit, batch->stream, output, &input, &evaluation);
}

/* The positive prompt once more, with blocks left out. */
static void evaluate_skipped(const struct stepping *stepping, const struct sample *sample,
                             const struct tensor *latent)
{
    struct pipeline_batch *batch = stepping->batch;
    int32_t row = modulation_row(batch, sample, 1);
    const struct mmdit_evaluation evaluation = {
        .rows = &row,
        .first_sample = sample->position * batch->shape.conds + 1,
        .skips = sample->job->request.skip_layers,
        .skip_count = sample->job->request.skip_layer_count,
    };
    struct tensor input = tensor_slice(&batch->denoise.input, 0, 0, 1);

    /* Where recordings expect it. */
    batch->ops->copy(batch->stream, &input, latent);
    mmdit_run(batch->denoise.mmdit, batch->stream, &batch->denoise.skipped, &input, &evaluation);
}

static void guide(const struct stepping *stepping, const struct sample *sample,
                  const struct tensor *latent, struct tensor *negative,
                  const struct tensor *positive)
{
    const struct pipeline_batch *batch = stepping->batch;
    const struct guidance *guidance = &sample->job->guidance;

    guidance_combine(guidance, batch->ops, batch->stream, negative, positive);
    if (!guidance_skips_at(guidance, sample->step, sample->job->schedule->count))
        return;
    evaluate_skipped(stepping, sample, latent);
    guidance_add_skip(guidance, batch->ops, batch->stream, negative, positive,
                      &stepping->batch->denoise.skipped);
}

static bool predict(void *context, struct tensor *velocity, const struct sampler_track *tracks,
                    int count, struct error *err)
{
    const struct stepping *stepping = context;
    struct pipeline_batch *batch = stepping->batch;
    int64_t conds = batch->shape.conds;
    struct tensor output = tensor_slice(&batch->denoise.output, 0, 0, conds * count);

    (void)err; /* the stream keeps failures until the step is over */
    evaluate_all(stepping, &output, tracks, count);
    for (int64_t i = 0; i < count; i++) {
        struct tensor guided = tensor_slice(&output, 0, i * conds, 1);
        struct tensor positive = tensor_slice(&output, 0, i * conds + conds - 1, 1);
        struct tensor to = tensor_slice(velocity, 0, i, 1);

        if (conds == 2)
            guide(stepping, stepping->samples[i], &tracks[i].latent, &guided, &positive);
        batch->ops->copy(batch->stream, &to, &guided);
    }
    return true;
}

/* Inpainting: what the mask keeps follows the init image's own path from noise to clean (model.md,
 * section 7.10). */
static void keep_unmasked(struct pipeline_batch *batch, const struct sample *sample,
                          struct tensor *latent)
{
    int64_t place = sample - batch->samples;
    struct tensor mask = tensor_slice(&batch->mask, 0, place, 1);
    struct tensor clean = tensor_slice(&batch->clean, 0, place, 1);
    struct tensor noise = tensor_slice(&batch->noise, 0, place, 1);
    struct tensor *kept = &batch->denoise.skipped;

    mask.dim[1] = latent->dim[1]; /* the same for every channel */
    mask.stride[1] = 0;
    latent_add_noise(batch->ops, batch->stream, kept, &clean, &noise,
                     sample->job->schedule->sigma[sample->step + 1]);
    batch->ops->mask_blend(batch->stream, latent, &mask, latent, kept);
}

bool denoise_step(struct pipeline_batch *batch, struct sample *const *samples, int count,
                  struct error *err)
{
    struct sampler_track tracks[PIPELINE_IMAGES_MAX];
    struct stepping stepping = {.batch = batch, .samples = samples};
    const struct sampling sampling = {
        .ops = batch->ops, .stream = batch->stream, .velocity = predict, .context = &stepping};

    for (int i = 0; i < count; i++) {
        tracks[i] = (struct sampler_track){
            .latent = tensor_slice(&batch->latents, 0, samples[i] - batch->samples, 1),
            .schedule = samples[i]->job->schedule,
            .step = samples[i]->step,
        };
        if ((samples[i]->step - samples[i]->job->first_step) % WINDOW_STEPS == 0 &&
            !set_window(batch, samples[i], err))
            return false;
    }
    if (!sampler_step(&batch->denoise.sampler, &sampling, tracks, count, err))
        return false;
    for (int i = 0; i < count; i++) {
        if (samples[i]->job->mask)
            keep_unmasked(batch, samples[i], &tracks[i].latent);
        if (batch->ops->check_finite)
            batch->ops->check_finite(batch->stream, &tracks[i].latent);
    }
    return true;
}
