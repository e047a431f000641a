/* The batch: memory and plans for pictures of one shape, and who is in it. */
#include <math.h>
#include <stdlib.h>

#include "base/size.h"
#include "pipeline/pipeline_private.h"

/* Bytes of memory: what outlives a stage, and the work memory, which all stages share. */
struct block_bytes {
    size_t kept, text, image, denoise, decode;
};

static size_t work_bytes(const struct block_bytes *bytes)
{
    size_t text = bytes->text > bytes->image ? bytes->text : bytes->image;
    size_t draw = bytes->denoise > bytes->decode ? bytes->denoise : bytes->decode;

    return text > draw ? text : draw;
}

static struct batch_shape shape_of(const struct pipeline *pipeline,
                                   const struct pipeline_request *request, int places)
{
    const struct guidance guidance = request_guidance(request);

    return (struct batch_shape){
        .places = places,
        .conds = guidance_is_on(&guidance) ? 2 : 1,
        .channels = mmdit_shape(pipeline->mmdit)->latent_channels,
        .height = request->height / VAE_FACTOR,
        .width = request->width / VAE_FACTOR,
        .t5_tokens = request->t5_tokens,
        /* Where weights stay, so does the batch, for requests of both kinds. */
        .with_init = request_has_init(request) ||
                     (pipeline_keeps_weights(pipeline) && pipeline->vae_encoder),
    };
}

bool pipeline_batch_fits(const struct pipeline_batch *batch, const struct pipeline_request *request)
{
    const struct batch_shape *has = &batch->shape;
    struct batch_shape wanted = shape_of(batch->pipeline, request, (int)has->places);

    return wanted.conds == has->conds && wanted.height == has->height &&
           wanted.width == has->width && wanted.t5_tokens == has->t5_tokens &&
           (has->with_init || !wanted.with_init);
}

/* --- Planning --- */

static bool plan_latents(struct pipeline_batch *batch, struct arena *kept, struct error *err)
{
    const struct batch_shape *shape = &batch->shape;
    int64_t n = shape->places, c = shape->channels, h = shape->height, w = shape->width;

    return TENSOR_ALLOC(&batch->latents, kept, DTYPE_F32, "latents", err, n, c, h, w) &&
           (!shape->with_init ||
            (TENSOR_ALLOC(&batch->noise, kept, DTYPE_F32, "noise", err, n, c, h, w) &&
             TENSOR_ALLOC(&batch->clean, kept, DTYPE_F32, "init latents", err, n, c, h, w) &&
             TENSOR_ALLOC(&batch->mask, kept, DTYPE_F32, "mask", err, n, 1, h, w)));
}

static void forget_plans(struct pipeline_batch *batch)
{
    text_stage_finish(&batch->text);
    image_stage_finish(&batch->image);
    denoise_stage_finish(&batch->denoise);
    decode_stage_finish(&batch->decode);
}

void batch_forget_recordings(struct pipeline_batch *batch)
{
    for (int i = 0; i < CLIP_COUNT; i++)
        clip_plan_forget(batch->text.clip[i]);
    if (batch->text.t5)
        t5_plan_forget(batch->text.t5);
    mmdit_plan_forget(batch->denoise.mmdit);
}

/* Into `block`, whose parts are `known`; or, without one, only counts. */
static bool make_plans(struct pipeline_batch *batch, void *block, const struct block_bytes *known,
                       struct block_bytes *bytes, struct error *err)
{
    const struct pipeline *pipeline = batch->pipeline;
    const struct batch_shape *shape = &batch->shape;
    void *shared = block ? (char *)block + known->kept : NULL;
    size_t room = block ? work_bytes(known) : 0;
    struct arena kept, text, image, denoise, decode;
    bool ok;

    arena_init(&kept, block, block ? known->kept : 0);
    arena_init(&text, shared, room);
    arena_init(&image, shared, room);
    arena_init(&denoise, shared, room);
    arena_init(&decode, shared, room);
    ok = plan_latents(batch, &kept, err) &&
         text_stage_plan(&batch->text, pipeline, shape, &text, err) &&
         image_stage_plan(&batch->image, pipeline, shape, &image, err) &&
         denoise_stage_plan(&batch->denoise, pipeline, shape, &kept, &denoise, err) &&
         decode_stage_plan(&batch->decode, pipeline, shape, &decode, err);
    *bytes = (struct block_bytes){.kept = kept.peak,
                                  .text = text.peak,
                                  .image = image.peak,
                                  .denoise = denoise.peak,
                                  .decode = decode.peak};
    if (!ok)
        forget_plans(batch);
    return ok;
}

/* What it would take; plans are made and forgotten. */
static bool measure(const struct pipeline_batch *batch, struct block_bytes *bytes,
                    struct error *err)
{
    struct pipeline_batch counted = {
        .pipeline = batch->pipeline, .ops = batch->ops, .stream = batch->stream};

    counted.shape = batch->shape;
    if (!make_plans(&counted, NULL, NULL, bytes, err))
        return false;
    forget_plans(&counted);
    return true;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void add_bytes(struct weight_bytes *sum, struct weight_bytes more)
{
    sum->held += more.held;
    sum->streamed += more.streamed;
    sum->pinned += more.pinned;
}

struct phase_weights {
    struct weight_bytes text, transformer, vae;
};

static struct phase_weights phase_weights(const struct pipeline_batch *batch)
{
    const struct pipeline *pipeline = batch->pipeline;
    struct phase_weights weights = {
        .transformer = weights_component_bytes(pipeline, COMPONENT_TRANSFORMER, false),
        .vae = weights_component_bytes(pipeline, COMPONENT_VAE, batch->shape.with_init),
    };

    add_bytes(&weights.text, weights_component_bytes(pipeline, COMPONENT_CLIP_L, false));
    add_bytes(&weights.text, weights_component_bytes(pipeline, COMPONENT_CLIP_G, false));
    add_bytes(&weights.text, weights_component_bytes(pipeline, COMPONENT_T5, false));
    return weights;
}

/* The most that is resident at once: the weights of each phase as stored, and the pages that it
 * writes. Pages of the work memory stay resident once touched, whichever phase touched them. */
static size_t peak_of(const struct pipeline_batch *batch, const struct block_bytes *bytes,
                      const struct phase_weights *weights)
{
    bool with_init = batch->shape.with_init, keeps = pipeline_keeps_weights(batch->pipeline);
    size_t text_work = bytes->text, denoise_work = larger(bytes->text, bytes->denoise);
    size_t text, denoise, decode;

    if (with_init)
        denoise_work = larger(denoise_work, bytes->image);
    if (batch->ops->memory_info) /* taken as one block from the start */
        text_work = denoise_work = work_bytes(bytes);
    text = weights->text.held + text_work;
    denoise = weights->transformer.held + denoise_work;
    decode = weights->vae.held + larger(denoise_work, bytes->decode);
    if (keeps) {
        denoise += weights->text.held + (with_init ? weights->vae.held : 0);
        decode += weights->text.held + weights->transformer.held;
    }
    /* What streams stays from its first use on, into the next picture's text. */
    return weights->text.streamed + weights->transformer.streamed +
           larger(text, larger(denoise, decode));
}

/* What every picture touches, and the program has. Weights are not counted, which are pages of
 * files, nor is scratch, which few shapes use up, and what only init images need. */
static size_t firm_bytes(const struct pipeline *pipeline, const struct block_bytes *bytes)
{
    return pipeline->base_firm_bytes + larger(bytes->text, larger(bytes->denoise, bytes->decode));
}

static size_t firm_limit(const struct pipeline *pipeline)
{
    size_t limit;

    if (!size_add(&limit, pipeline->machine.memory_bytes, pipeline->machine.swap_bytes))
        return SIZE_MAX;
    return limit;
}

static void estimate(const struct pipeline_batch *batch, const struct block_bytes *bytes,
                     struct pipeline_memory *memory)
{
    const struct pipeline *pipeline = batch->pipeline;
    const struct batch_shape *shape = &batch->shape;
    const struct mmdit_shape *network = mmdit_shape(pipeline->mmdit);
    const struct phase_weights weights = phase_weights(batch);
    size_t row = (size_t)network->chunk_count * (size_t)network->width *
                 dtype_size(batch->ops->activation_dtype);

    *memory = (struct pipeline_memory){
        .weights_text = weights.text.held + weights.text.streamed,
        .weights_transformer = weights.transformer.held + weights.transformer.streamed,
        .weights_vae = weights.vae.held,
        .work_text = bytes->text,
        .work_transformer = bytes->denoise + bytes->kept,
        .work_vae = larger(bytes->image, bytes->decode),
        .modulation = (size_t)(shape->places * shape->conds * WINDOW_STEPS) * row,
        .base = pipeline->base_bytes + batch->ops->scratch_bytes(batch->stream),
        .pinned = weights.text.pinned + weights.transformer.pinned,
    };
    memory->peak = memory->base + bytes->kept + peak_of(batch, bytes, &weights);
    if (batch->ops->memory_info)
        return;
    memory->firm = firm_bytes(pipeline, bytes);
    memory->firm_limit = firm_limit(pipeline);
}

static struct pipeline_batch describe(struct pipeline *pipeline,
                                      const struct pipeline_request *like, int places)
{
    return (struct pipeline_batch){
        .pipeline = pipeline,
        .ops = &pipeline->backend->ops,
        .stream = pipeline->stream,
        .shape = shape_of(pipeline, like, places),
    };
}

static bool check_places(int places, struct error *err)
{
    if (places >= 1 && places <= PIPELINE_IMAGES_MAX)
        return true;
    return error_set(err, ERROR_BAD_REQUEST, "%d pictures at once: must be from 1 to %d", places,
                     PIPELINE_IMAGES_MAX);
}

bool pipeline_batch_estimate(struct pipeline *pipeline, const struct pipeline_request *like,
                             int places, struct pipeline_memory *memory, struct error *err)
{
    struct pipeline_batch batch;
    struct block_bytes bytes;

    if (!check_places(places, err) || !request_check(like, pipeline, err))
        return false;
    batch = describe(pipeline, like, places);
    if (!measure(&batch, &bytes, err))
        return false;
    estimate(&batch, &bytes, memory);
    return true;
}

/* --- Opening --- */

void pipeline_watch(struct pipeline *pipeline, const atomic_bool *cancel)
{
    pipeline->backend->ops.stream_watch(pipeline->stream, cancel);
}

void pipeline_batch_close(struct pipeline *pipeline)
{
    struct pipeline_batch *batch = pipeline->batch;

    if (!batch)
        return;
    forget_plans(batch);
    batch->ops->memory_free(batch->block, batch->block_bytes);
    free(batch->samples);
    free(batch);
    pipeline->batch = NULL;
}

/* The kernel promises more memory than there is, and kills later: said now instead. */
static bool check_room(const struct pipeline_batch *batch, const struct block_bytes *bytes,
                       struct error *err)
{
    size_t firm = firm_bytes(batch->pipeline, bytes), limit = firm_limit(batch->pipeline);

    if (batch->ops->memory_info || firm <= limit)
        return true;
    return error_set(err, ERROR_NO_MEMORY,
                     "pictures of %lld x %lld, %lld at once, need %zu MiB of memory beside the "
                     "weights, and the limit is %zu MiB",
                     (long long)(batch->shape.width * VAE_FACTOR),
                     (long long)(batch->shape.height * VAE_FACTOR), (long long)batch->shape.places,
                     firm >> 20, limit >> 20);
}

static bool take_block(struct pipeline_batch *batch, struct error *err)
{
    struct block_bytes bytes, unused;

    if (!measure(batch, &bytes, err) || !check_room(batch, &bytes, err))
        return false;
    batch->block_bytes = bytes.kept + work_bytes(&bytes);
    batch->block = batch->ops->memory_alloc(batch->block_bytes);
    if (!batch->block) /* unless the device has none to give because it is lost */
        return batch->ops->stream_finish(batch->stream, err) &&
               error_set(err, ERROR_NO_MEMORY,
                         "pictures of %lld x %lld need %zu MiB of working memory",
                         (long long)(batch->shape.width * VAE_FACTOR),
                         (long long)(batch->shape.height * VAE_FACTOR), batch->block_bytes >> 20);
    if (make_plans(batch, batch->block, &bytes, &unused, err))
        return true;
    batch->ops->memory_free(batch->block, batch->block_bytes);
    return false;
}

bool pipeline_batch_open(struct pipeline_batch **out, struct pipeline *pipeline,
                         const struct pipeline_request *like, int places, struct error *err)
{
    struct pipeline_batch *batch;

    if (!check_places(places, err) || !request_check(like, pipeline, err))
        return false;
    if (pipeline->batch && pipeline->batch->shape.places == places &&
        pipeline_batch_fits(pipeline->batch, like)) {
        *out = pipeline->batch;
        return true;
    }
    pipeline_batch_close(pipeline);
    batch = malloc(sizeof *batch);
    if (!batch)
        return error_set(err, ERROR_NO_MEMORY, "batch");
    *batch = describe(pipeline, like, places);
    batch->samples = calloc((size_t)places, sizeof *batch->samples);
    if (!batch->samples || !take_block(batch, err)) {
        if (!batch->samples)
            error_set(err, ERROR_NO_MEMORY, "batch");
        free(batch->samples);
        free(batch);
        return false;
    }
    *out = pipeline->batch = batch;
    return true;
}

/* --- Who is in it --- */

int pipeline_batch_free_places(const struct pipeline_batch *batch)
{
    int count = 0;

    for (int64_t i = 0; i < batch->shape.places; i++)
        count += batch->samples[i].job == NULL;
    return count;
}

static struct tensor upload_picture(struct pipeline_batch *batch, const struct tensor *tensor,
                                    int64_t place, float *host)
{
    struct tensor to = tensor_slice(tensor, 0, place, 1), from = to;

    from.data = host;
    batch->ops->upload(batch->stream, &to, &from);
    return to;
}

/* The latent where sampling starts, and what inpainting comes back to. */
static bool start(struct pipeline_batch *batch, const struct pipeline_job *job, int image,
                  int64_t place, struct error *err)
{
    const struct batch_shape *shape = &batch->shape;
    size_t count = (size_t)(shape->channels * shape->height * shape->width);
    float *noise = malloc(2 * count * sizeof *noise);
    struct tensor latent, clean;

    if (!noise)
        return error_set(err, ERROR_NO_MEMORY, "noise");
    if (!start_picture(job, batch->pipeline, shape, image, noise, noise + count, err)) {
        free(noise);
        return false;
    }
    latent = upload_picture(batch, &batch->latents, place, noise);
    if (job->moments) {
        clean = upload_picture(batch, &batch->clean, place, noise + count);
        if (job->mask) {
            upload_picture(batch, &batch->noise, place, noise);
            upload_picture(batch, &batch->mask, place, job->mask);
        }
        latent_add_noise(batch->ops, batch->stream, &latent, &clean, &latent,
                         job->schedule->sigma[job->first_step]);
    }
    free(noise);
    return true;
}

bool pipeline_batch_join(struct pipeline_batch *batch, const struct pipeline_job *job, int image,
                         int *place, struct error *err)
{
    int64_t i = 0;

    while (i < batch->shape.places && batch->samples[i].job)
        i++;
    if (i == batch->shape.places)
        return error_set(err, ERROR_BAD_REQUEST, "the batch has no free place");
    if (!weights_enter(batch->pipeline, WEIGHTS_DENOISE, err) || !start(batch, job, image, i, err))
        return false;
    batch->samples[i] = (struct sample){.job = job,
                                        .image = image,
                                        .step = job->first_step,
                                        .position = batch->running,
                                        .velocity = -1};
    denoise_set_text(batch, &batch->samples[i]);
    if (!batch->ops->stream_finish(batch->stream, err)) {
        batch->samples[i] = (struct sample){0};
        return error_in(err, "prompt");
    }
    batch->running++;
    *place = (int)i;
    return true;
}

static bool is_done(const struct sample *sample)
{
    return sample->is_broken || sample->step == sample->job->schedule->count;
}

/* The sample at a position of the network's batch. */
static struct sample *sample_at(const struct pipeline_batch *batch, int64_t position)
{
    for (int64_t i = 0; i < batch->shape.places; i++)
        if (batch->samples[i].job && batch->samples[i].position == position)
            return &batch->samples[i];
    return NULL;
}

/* Out of the network's batch: the last one takes the free position. */
static void stop_running(struct pipeline_batch *batch, struct sample *sample)
{
    struct sample *last = sample_at(batch, batch->running - 1);
    int64_t conds = batch->shape.conds;

    if (last != sample) {
        mmdit_copy_context(batch->denoise.mmdit, batch->stream, sample->position * conds,
                           last->position * conds, conds);
        last->position = sample->position;
    }
    sample->position = -1;
    batch->running--;
}

void pipeline_batch_leave(struct pipeline_batch *batch, int place)
{
    struct sample *sample = &batch->samples[place];

    if (sample->position >= 0)
        stop_running(batch, sample);
    *sample = (struct sample){0};
}

int pipeline_batch_steps_done(const struct pipeline_batch *batch, int place)
{
    return batch->samples[place].step - batch->samples[place].job->first_step;
}

bool pipeline_batch_is_done(const struct pipeline_batch *batch, int place)
{
    return is_done(&batch->samples[place]);
}

/* --- Drawing --- */

/* After the device met a number that is not finite: whose it is. False when it is nobody's. */
static bool find_broken(struct pipeline_batch *batch)
{
    size_t count = (size_t)(batch->shape.channels * batch->shape.height * batch->shape.width);
    float *latent = malloc(count * sizeof *latent);
    bool found = false;

    for (int64_t i = 0; latent && i < batch->shape.places; i++) {
        struct sample *sample = &batch->samples[i];

        if (!sample->job || sample->position < 0)
            continue;
        sample->is_broken = !pipeline_batch_latent(batch, (int)i, latent, NULL);
        found = found || sample->is_broken;
    }
    free(latent);
    return found;
}

bool pipeline_batch_step(struct pipeline_batch *batch, struct error *err)
{
    struct sample *samples[PIPELINE_IMAGES_MAX];
    int count = (int)batch->running;
    struct error failure = {0};
    bool ok;

    for (int i = 0; i < count; i++)
        samples[i] = sample_at(batch, i);
    if (count == 0)
        return true;
    if (!weights_enter(batch->pipeline, WEIGHTS_DENOISE, err))
        return false;
    ok = denoise_step(batch, samples, count, &failure);
    ok = batch->ops->stream_finish(batch->stream, ok ? &failure : NULL) && ok;
    if (!ok && (failure.code != ERROR_NOT_FINITE || !find_broken(batch))) {
        if (err)
            *err = failure;
        return false;
    }
    for (int i = 0; i < count; i++) {
        samples[i]->step++;
        samples[i]->velocity = i;
        if (is_done(samples[i]))
            stop_running(batch, samples[i]);
    }
    return true;
}

bool pipeline_batch_latent(struct pipeline_batch *batch, int place, float *latent,
                           struct error *err)
{
    struct tensor from = tensor_slice(&batch->latents, 0, place, 1), host = from;

    host.data = latent;
    batch->ops->download(batch->stream, &host, &from);
    if (!batch->ops->stream_finish(batch->stream, err))
        return false;
    /* Never a black picture: what is not a number is an error. */
    for (int64_t i = 0; i < tensor_count(&host); i++)
        if (!isfinite(latent[i]))
            return error_set(err, ERROR_NOT_FINITE,
                             "the network's result is not finite: the weights may be damaged");
    return true;
}

bool pipeline_batch_decode(struct pipeline_batch *batch, const struct pipeline_job *job,
                           const float *latent, struct image *image, struct error *err)
{
    bool adds_shift = !job->request.as_diffusers || !job->mask;

    vae_decode_plan_add_shift(batch->decode.decode, adds_shift);
    return weights_enter(batch->pipeline, WEIGHTS_DECODE, err) &&
           decode_stage_run(&batch->decode, batch->pipeline, latent, image, err);
}
