/* Denoising: the transformer under a sampler, with guidance. */
#include "base/size.h"
#include "pipeline/pipeline_private.h"

static int64_t evaluated_steps(const struct run *run)
{
    return run->schedule->count - run->first_step;
}

/* Recordings hold the addresses of weights, so a plan outlives a run only where weights do. */
static bool keeps_plans(const struct run *run, const struct arena *work)
{
    return run->pipeline->keep_weights && run->ops->record_begin && work->base;
}

static bool plan_transformer(struct denoise_stage *stage, struct arena *work, int64_t rows,
                             struct error *err)
{
    struct run *run = stage->run;
    struct kept_plan *kept = &run->pipeline->kept;
    struct kept_plan wanted = {.place = work->base + work->used,
                               .batch = run->conds * run->at_once,
                               .height = run->height,
                               .width = run->width,
                               .context_tokens = run->context_tokens,
                               .rows = rows};
    size_t before = work->used;

    if (keeps_plans(run, work) && kept->plan && kept->place == wanted.place &&
        kept->batch == wanted.batch && kept->height == wanted.height &&
        kept->width == wanted.width && kept->context_tokens == wanted.context_tokens &&
        kept->rows == wanted.rows) {
        void *unused;

        stage->mmdit = kept->plan;
        return arena_alloc(&unused, work, kept->bytes, 1);
    }
    if (!mmdit_plan_create(&stage->mmdit, run->pipeline->mmdit, work, wanted.batch, wanted.height,
                           wanted.width, wanted.context_tokens, rows, err))
        return false;
    if (keeps_plans(run, work)) {
        mmdit_plan_destroy(kept->plan);
        *kept = wanted;
        kept->plan = stage->mmdit;
        kept->bytes = work->used - before;
    }
    return true;
}

bool denoise_stage_plan(struct denoise_stage *stage, struct run *run, struct arena *work,
                        struct error *err)
{
    const struct mmdit_shape *shape = mmdit_shape(run->pipeline->mmdit);
    enum dtype f = run->ops->activation_dtype;
    int64_t n = run->at_once, batch = run->conds * n;
    int64_t rows = evaluated_steps(run) * run->conds;
    int64_t c = run->channels, h = run->height, w = run->width;
    struct tensor latent = TENSOR_OF(NULL, DTYPE_F32, n, c, h, w);

    *stage = (struct denoise_stage){.run = run};
    return TENSOR_ALLOC(&stage->context, work, f, "context", err, batch, run->context_tokens,
                        shape->context_width) &&
           TENSOR_ALLOC(&stage->timesteps, work, DTYPE_F32, "timesteps", err, rows) &&
           TENSOR_ALLOC(&stage->pooled, work, f, "pooled text", err, rows, shape->pooled_width) &&
           TENSOR_ALLOC(&stage->input, work, DTYPE_F32, "latents", err, batch, c, h, w) &&
           TENSOR_ALLOC(&stage->output, work, DTYPE_F32, "velocities", err, batch, c, h, w) &&
           TENSOR_ALLOC(&stage->skipped, work, DTYPE_F32, "velocities", err, n, c, h, w) &&
           sampler_plan_init(&stage->sampler, sampler_at(0), work, &latent, err) &&
           plan_transformer(stage, work, rows, err);
}

void denoise_stage_finish(struct denoise_stage *stage)
{
    if (!stage->run || stage->mmdit != stage->run->pipeline->kept.plan)
        mmdit_plan_destroy(stage->mmdit);
}

/* The modulation of every step: it depends on timestep and pooled text only. */
static void prepare_modulation(struct denoise_stage *stage)
{
    struct run *run = stage->run;
    const struct backend_ops *op = run->ops;
    int64_t steps = evaluated_steps(run);

    for (int64_t step = 0; step < steps; step++) {
        struct tensor times = tensor_slice(&stage->timesteps, 0, step * run->conds, run->conds);
        struct tensor pooled = tensor_slice(&stage->pooled, 0, step * run->conds, run->conds);

        op->fill(run->stream, &times,
                 sigma_schedule_timestep(run->schedule, run->first_step + (int)step));
        op->copy(run->stream, &pooled, &run->pooled);
    }
    mmdit_modulate(stage->mmdit, run->stream, &stage->timesteps, &stage->pooled);
}

/* The text of a group of `count` pictures: the negative prompt `count` times, then the positive. */
static void prepare_context(struct denoise_stage *stage, int64_t count)
{
    struct run *run = stage->run;
    struct tensor batch = tensor_slice(&stage->context, 0, 0, run->conds * count);

    for (int64_t i = 0; i < run->conds * count; i++) {
        struct tensor to = tensor_slice(&batch, 0, i, 1);
        struct tensor from = tensor_slice(&run->context, 0, i / count, 1);

        run->ops->copy(run->stream, &to, &from);
    }
    mmdit_set_context(stage->mmdit, run->stream, &batch);
}

/* The network at one step for samples [first, first + B') of the group's batch. */
static void evaluate(struct denoise_stage *stage, struct tensor *velocity,
                     const struct tensor *latent, int step, int64_t first, const int *skips,
                     int skip_count)
{
    struct run *run = stage->run;
    int32_t rows[CONDS_MAX * PIPELINE_IMAGES_MAX];
    struct mmdit_evaluation evaluation = {
        .rows = rows, .first_sample = first, .skips = skips, .skip_count = skip_count};

    for (int64_t i = 0; i < latent->dim[0]; i++)
        rows[i] =
            (int32_t)((step - run->first_step) * run->conds + (first + i) / stage->group_size);
    mmdit_run(stage->mmdit, run->stream, velocity, latent, &evaluation);
}

/* The guided velocity. Both halves go through the network in one batch: negative, then positive. */
static bool predict(void *context, struct tensor *velocity, const struct tensor *latent, int step,
                    struct error *err)
{
    struct denoise_stage *stage = context;
    struct run *run = stage->run;
    const struct backend_ops *op = run->ops;
    int64_t n = stage->group_size;
    struct tensor input = tensor_slice(&stage->input, 0, 0, run->conds * n);
    struct tensor output = tensor_slice(&stage->output, 0, 0, run->conds * n);
    struct tensor guided = tensor_slice(&output, 0, 0, n);
    struct tensor positive = tensor_slice(&output, 0, (run->conds - 1) * n, n);
    struct tensor skipped = tensor_slice(&stage->skipped, 0, 0, n);

    (void)err; /* the stream keeps failures until after_step asks */
    for (int64_t cond = 0; cond < run->conds; cond++) {
        struct tensor half = tensor_slice(&input, 0, cond * n, n);

        op->copy(run->stream, &half, latent);
    }
    evaluate(stage, &output, &input, step, 0, NULL, 0);
    if (run->conds == 2) {
        guidance_combine(&run->guidance, op, run->stream, &guided, &positive);
        if (guidance_skips_at(&run->guidance, step, run->schedule->count)) {
            evaluate(stage, &skipped, latent, step, n, run->request->skip_layers,
                     run->request->skip_layer_count);
            guidance_add_skip(&run->guidance, op, run->stream, &guided, &positive, &skipped);
        }
    }
    op->copy(run->stream, velocity, &guided);
    return true;
}

/* The same for every picture and channel: strides of 0. */
static struct tensor repeat_mask(const struct run *run, const struct tensor *latent)
{
    struct tensor view = run->mask;

    view.dim[0] = latent->dim[0];
    view.dim[1] = latent->dim[1];
    view.stride[0] = view.stride[1] = 0;
    return view;
}

/* Inpainting: what the mask keeps follows the init image's own path from noise to clean (model.md,
 * section 7.10). */
static void keep_unmasked(struct denoise_stage *stage, struct tensor *latent, int step)
{
    struct run *run = stage->run;
    int64_t n = stage->group_size;
    struct tensor mask = repeat_mask(run, latent);
    struct tensor clean = tensor_slice(&run->clean, 0, stage->first_image, n);
    struct tensor noise = tensor_slice(&run->noise, 0, stage->first_image, n);
    struct tensor kept = tensor_slice(&stage->skipped, 0, 0, n);

    latent_add_noise(run->ops, run->stream, &kept, &clean, &noise, run->schedule->sigma[step + 1]);
    run->ops->mask_blend(run->stream, latent, &mask, latent, &kept);
}

static bool after_step(void *context, struct tensor *latent, int step, struct error *err)
{
    struct denoise_stage *stage = context;
    struct run *run = stage->run;
    int groups = (int)ceil_div_i64(run->images, run->at_once);

    if (run->has_mask)
        keep_unmasked(stage, latent, step);
    if (run->ops->check_finite)
        run->ops->check_finite(run->stream, latent);
    if (!run->ops->stream_finish(run->stream, err))
        return error_in(err, "step %d of %d", step + 1, run->schedule->count);
    stage->done_steps++;
    run_report(run, PHASE_DENOISE, stage->done_steps, groups * (int)evaluated_steps(run));
    return true;
}

/* Draws pictures [first_image, first_image + group_size). */
static bool run_group(struct denoise_stage *stage, struct error *err)
{
    struct run *run = stage->run;
    struct tensor latent = tensor_slice(&run->latents, 0, stage->first_image, stage->group_size);
    struct sampler_plan sampler = stage->sampler;
    struct sampling sampling = {
        .ops = run->ops,
        .stream = run->stream,
        .schedule = run->schedule,
        .first_step = run->first_step,
        .velocity = predict,
        .after_step = after_step,
        .context = stage,
    };

    for (int i = 0; i < SAMPLER_TENSORS_MAX; i++)
        if (tensor_exists(&sampler.tensors[i]))
            sampler.tensors[i] = tensor_slice(&sampler.tensors[i], 0, 0, stage->group_size);
    prepare_context(stage, stage->group_size);
    return sampler_run(&sampler, &sampling, &latent, err);
}

bool denoise_stage_run(struct denoise_stage *stage, struct error *err)
{
    struct run *run = stage->run;
    int groups = (int)ceil_div_i64(run->images, run->at_once);

    run_begin_phase(run, PHASE_DENOISE, groups * (int)evaluated_steps(run));
    prepare_modulation(stage);
    for (int64_t first = 0; first < run->images; first += run->at_once) {
        stage->first_image = first;
        stage->group_size = min_i64(run->at_once, run->images - first);
        if (!run_group(stage, err))
            return false;
    }
    return true;
}
