/* A request is checked here, whole, before anything is planned for it. */
#include <math.h>
#include <string.h>
#include <utf8proc.h>

#include "base/size.h"
#include "pipeline/pipeline_private.h"

static void watch_device_memory(struct run *run)
{
    size_t free_bytes, total_bytes;

    if (!run->ops->memory_info)
        return;
    run->ops->memory_info(&free_bytes, &total_bytes);
    if (run->device_least_free == 0 || free_bytes < run->device_least_free)
        run->device_least_free = free_bytes;
}

void run_report(struct run *run, enum pipeline_phase phase, int step, int step_count)
{
    struct pipeline_progress progress = {.phase = phase, .step = step, .step_count = step_count};
    double now = seconds_now();

    watch_device_memory(run);
    if (!run->callbacks || !run->callbacks->progress)
        return;
    progress.phase_seconds = now - run->phase_started;
    progress.total_seconds = now - run->started;
    run->callbacks->progress(run->callbacks->context, &progress);
}

void run_begin_phase(struct run *run, enum pipeline_phase phase, int step_count)
{
    run->phase_started = seconds_now();
    run_report(run, phase, 0, step_count);
}

/* --- Checks --- */

static bool check_side(const char *name, int side, const struct pipeline_info *info,
                       struct error *err)
{
    if (side >= PIPELINE_SIDE_STEP && side % PIPELINE_SIDE_STEP == 0 && side <= info->side_max)
        return true;
    return error_set(err, ERROR_BAD_REQUEST,
                     "%s %d: must be a multiple of %d from %d to %d for this model", name, side,
                     PIPELINE_SIDE_STEP, PIPELINE_SIDE_STEP, info->side_max);
}

static bool check_integer(const char *name, int value, int low, int high, struct error *err)
{
    if (value >= low && value <= high)
        return true;
    return error_set(err, ERROR_BAD_REQUEST, "%s %d: must be from %d to %d", name, value, low,
                     high);
}

static bool check_number(const char *name, double value, double low, double high, struct error *err)
{
    if (value >= low && value <= high) /* false for NaN */
        return true;
    return error_set(err, ERROR_BAD_REQUEST, "%s %g: must be from %g to %g", name, value, low,
                     high);
}

/* NULL is fine. */
static bool check_text(const char *name, const char *text, struct error *err)
{
    size_t length, at = 0;

    if (!text)
        return true;
    length = strlen(text);
    if (length > PIPELINE_PROMPT_BYTES_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "%s: %zu bytes, more than the %d allowed", name,
                         length, PIPELINE_PROMPT_BYTES_MAX);
    while (at < length) {
        utf8proc_int32_t code;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                 (utf8proc_ssize_t)(length - at), &code);

        if (used < 1)
            return error_set(err, ERROR_BAD_REQUEST, "%s: not UTF-8 at byte %zu", name, at);
        at += (size_t)used;
    }
    return true;
}

static bool check_texts(const struct pipeline_request *request, struct error *err)
{
    if (!request->prompt)
        return error_set(err, ERROR_BAD_REQUEST, "prompt: missing");
    return check_text("prompt", request->prompt, err) &&
           check_text("prompt_2", request->prompt_2, err) &&
           check_text("prompt_3", request->prompt_3, err) &&
           check_text("negative_prompt", request->negative_prompt, err) &&
           check_text("negative_prompt_2", request->negative_prompt_2, err) &&
           check_text("negative_prompt_3", request->negative_prompt_3, err);
}

static bool check_skip_layers(const struct pipeline_request *request,
                              const struct pipeline_info *info, struct error *err)
{
    if (!check_integer("number of skip_layers", request->skip_layer_count, 0, SKIP_LAYERS_MAX, err))
        return false;
    for (int i = 0; i < request->skip_layer_count; i++)
        if (!check_integer("skip_layers", request->skip_layers[i], 0, info->layer_count - 1, err))
            return false;
    return request->skip_layer_count == 0 ||
           (check_number("skip_layer_scale", request->skip_layer_scale, 0.0, 100.0, err) &&
            check_number("skip_layer_start", request->skip_layer_start, 0.0, 1.0, err) &&
            check_number("skip_layer_stop", request->skip_layer_stop, 0.0, 1.0, err));
}

static bool check_init_image(const struct pipeline_request *request,
                             const struct pipeline_info *info, struct error *err)
{
    bool has_init = request->init_image || request->init_pixels;

    if (request->mask && !has_init)
        return error_set(err, ERROR_BAD_REQUEST, "mask: needs an init image to keep parts of");
    if (!has_init)
        return true;
    if (!info->has_encoder)
        return error_set(err, ERROR_BAD_REQUEST,
                         "init image: this model's VAE has no encoder to read it with");
    return check_number("strength", request->strength, 0.0, 1.0, err);
}

static bool check(const struct pipeline_request *request, const struct pipeline_info *info,
                  struct error *err)
{
    if (!check_texts(request, err) || !check_side("width", request->width, info, err) ||
        !check_side("height", request->height, info, err) ||
        !check_integer("steps", request->steps, 1, PIPELINE_STEPS_MAX, err) ||
        !check_number("guidance_scale", request->guidance_scale, 0.0, 100.0, err) ||
        !check_integer("image_count", request->image_count, 1, PIPELINE_IMAGES_MAX, err) ||
        !check_number("flow_shift", request->flow_shift, FLOW_SHIFT_MIN, FLOW_SHIFT_MAX, err) ||
        !check_integer("t5_tokens", request->t5_tokens, T5_TOKENS_MIN, T5_TOKENS_MAX, err))
        return false;
    if (request->noise_source != NOISE_TORCH_CPU && request->noise_source != NOISE_TORCH_CUDA)
        return error_set(err, ERROR_BAD_REQUEST, "noise_source: unknown");
    return check_skip_layers(request, info, err) && check_init_image(request, info, err);
}

bool run_init(struct run *run, struct pipeline *pipeline, const struct pipeline_request *request,
              const struct pipeline_callbacks *callbacks, struct error *err)
{
    struct pipeline_info info;

    *run = (struct run){
        .pipeline = pipeline,
        .ops = &pipeline->backend->ops,
        .stream = pipeline->stream,
        .request = request,
        .callbacks = callbacks,
        .started = seconds_now(),
    };
    pipeline_info(pipeline, &info);
    if (!check(request, &info, err))
        return false;
    run->guidance = (struct guidance){
        .scale = request->guidance_scale,
        .skips_layers = request->skip_layer_count > 0,
        .skip_scale = request->skip_layer_scale,
        .skip_start = request->skip_layer_start,
        .skip_stop = request->skip_layer_stop,
    };
    run->conds = guidance_is_on(&run->guidance) ? 2 : 1;
    run->height = request->height / VAE_FACTOR;
    run->width = request->width / VAE_FACTOR;
    run->channels = mmdit_shape(pipeline->mmdit)->latent_channels;
    run->context_tokens = CLIP_TOKENS + request->t5_tokens;
    run->images = request->image_count;
    run->at_once = min_i64(run->images, pipeline->images_at_once);
    run->has_init = request->init_image || request->init_pixels;
    run->has_mask = request->mask != NULL;
    if (!sigma_schedule_create(&run->schedule, request->steps, request->flow_shift, err))
        return false;
    if (run->has_init &&
        !sigma_schedule_first_step(&run->first_step, run->schedule, request->strength, err)) {
        run_finish(run);
        return false;
    }
    return true;
}

void run_finish(struct run *run)
{
    sigma_schedule_destroy(run->schedule);
    run->schedule = NULL;
}

/* --- Tokens --- */

static int64_t first_of(const int32_t *ids, int64_t count, int32_t wanted)
{
    for (int64_t i = 0; i < count; i++)
        if (ids[i] == wanted)
            return i;
    return count - 1; /* a cut prompt ends with it, so this is never reached */
}

static bool tokenize_cond(struct run *run, int cond, const char *const texts[3], struct error *err)
{
    struct pipeline *pipeline = run->pipeline;
    struct tokens *tokens = &run->tokens;
    size_t cut;

    for (int i = 0; i < CLIP_COUNT; i++) {
        int32_t *ids = tokens->clip[i][cond];

        if (!clip_tokenizer_encode_padded(pipeline->clip_tokenizer[i], texts[i], strlen(texts[i]),
                                          ids, &cut, err))
            return false;
        tokens->clip_cut = (int)max_i64(tokens->clip_cut, (int64_t)cut);
        tokens->clip_eos[i][cond] =
            first_of(ids, CLIP_TOKENS, clip_tokenizer_eos(pipeline->clip_tokenizer[i]));
    }
    if (!pipeline->t5)
        return true;
    if (!t5_tokenizer_encode_padded(pipeline->t5_tokenizer, texts[2], strlen(texts[2]),
                                    tokens->t5[cond], (size_t)run->request->t5_tokens, &cut, err))
        return false;
    tokens->t5_cut = (int)max_i64(tokens->t5_cut, (int64_t)cut);
    return true;
}

static const char *either(const char *text, const char *fallback)
{
    return text ? text : fallback;
}

bool run_tokenize(struct run *run, struct error *err)
{
    const struct pipeline_request *request = run->request;
    const char *negative = either(request->negative_prompt, "");
    const char *positives[3] = {request->prompt, either(request->prompt_2, request->prompt),
                                either(request->prompt_3, request->prompt)};
    const char *negatives[3] = {negative, either(request->negative_prompt_2, negative),
                                either(request->negative_prompt_3, negative)};

    /* The negative prompt comes first in every batch. */
    if (run->conds == 2 && !tokenize_cond(run, 0, negatives, err))
        return error_in(err, "negative prompt");
    if (!tokenize_cond(run, (int)run->conds - 1, positives, err))
        return error_in(err, "prompt");
    return true;
}
