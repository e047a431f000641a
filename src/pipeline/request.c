/* A request is checked here, whole, before anything is planned for it. */
#include <math.h>
#include <string.h>
#include <utf8proc.h>

#include "pipeline/pipeline_private.h"

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
    bool has_init = request_has_init(request);

    if (request->mask && !has_init)
        return error_set(err, ERROR_BAD_REQUEST, "mask: needs an init image to keep parts of");
    if (!has_init)
        return true;
    if (!info->has_encoder)
        return error_set(err, ERROR_BAD_REQUEST,
                         "init image: this model's VAE has no encoder to read it with");
    return check_number("strength", request->strength, 0.0, 1.0, err);
}

bool request_check(const struct pipeline_request *request, const struct pipeline *pipeline,
                   struct error *err)
{
    struct pipeline_info known;
    const struct pipeline_info *info = &known;

    pipeline_info(pipeline, &known);
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

struct guidance request_guidance(const struct pipeline_request *request)
{
    return (struct guidance){
        .scale = request->guidance_scale,
        .skips_layers = request->skip_layer_count > 0,
        .skip_scale = request->skip_layer_scale,
        .skip_start = request->skip_layer_start,
        .skip_stop = request->skip_layer_stop,
    };
}

bool request_has_init(const struct pipeline_request *request)
{
    return request->init_image || request->init_pixels;
}
