#include "pipeline/request_record.h"

#include "base/version.h"
#include "image/infotext.h"

static bool has_init(const struct request_record *record)
{
    return record->request->init_image != NULL;
}

/* --- Our own record --- */

static json_t *skip_layers_json(const struct pipeline_request *request)
{
    json_t *layers = json_array();

    for (int i = 0; layers && i < request->skip_layer_count; i++)
        if (json_array_append_new(layers, json_integer(request->skip_layers[i])) != 0) {
            json_decref(layers);
            return NULL;
        }
    return json_pack("{s:o, s:f, s:f, s:f}", "skip_layers", layers, "skip_layer_scale",
                     request->skip_layer_scale, "skip_layer_start", request->skip_layer_start,
                     "skip_layer_stop", request->skip_layer_stop);
}

static json_t *init_json(const struct request_record *record)
{
    return json_pack("{s:s*, s:s*, s:f, s:b}", "init_image", record->init_image, "mask",
                     record->mask, "strength", record->request->strength, "as_diffusers",
                     record->request->as_diffusers);
}

/* Takes `part`, which may be NULL for a failure. */
static bool merge(json_t *record, json_t *part)
{
    bool ok = part && json_object_update(record, part) == 0;

    json_decref(part);
    return ok;
}

json_t *request_record_json(const struct request_record *record, uint64_t seed)
{
    const struct pipeline_request *request = record->request;
    json_t *json = json_pack(
        "{s:s, s:s, s:s, s:b, s:s, s:s*, s:s*, s:s*, s:s*, s:s*, s:i, s:i, s:i, s:f, s:I, s:f, "
        "s:s}",
        "version", PROGRAM_NAME_AND_VERSION, "model", record->model, "variant",
        record->info->variant, "turbo", record->info->is_turbo, "prompt", request->prompt,
        "prompt_2", request->prompt_2, "prompt_3", request->prompt_3, "negative_prompt",
        request->negative_prompt, "negative_prompt_2", request->negative_prompt_2,
        "negative_prompt_3", request->negative_prompt_3, "width", request->width, "height",
        request->height, "steps", request->steps, "guidance_scale", request->guidance_scale, "seed",
        (json_int_t)seed, "flow_shift", request->flow_shift, "noise_source",
        request->noise_source == NOISE_TORCH_CUDA ? "cuda" : "cpu");

    if (!json || !merge(json, json_pack("{s:b}", "without_t5", !record->info->has_t5)) ||
        (record->info->has_t5 &&
         !merge(json, json_pack("{s:i}", "t5_tokens", request->t5_tokens))) ||
        (request->skip_layer_count > 0 && !merge(json, skip_layers_json(request))) ||
        (has_init(record) && !merge(json, init_json(record)))) {
        json_decref(json);
        return NULL;
    }
    return json;
}

/* --- AUTOMATIC1111's --- */

bool request_record_infotext(char **out, const struct request_record *record, uint64_t seed,
                             struct error *err)
{
    const struct pipeline_request *request = record->request;
    const struct infotext_drawing drawing = {
        .prompt = request->prompt,
        .negative_prompt = request->negative_prompt,
        .steps = request->steps,
        .width = request->width,
        .height = request->height,
        .guidance_scale = request->guidance_scale,
        .flow_shift = request->flow_shift,
        .seed = seed,
        .model = record->model,
        .weight_types = record->info->weight_types,
        .has_init_image = has_init(record),
        .has_t5 = record->info->has_t5,
        .strength = request->strength,
        .t5_tokens = request->t5_tokens,
        .has_cuda_noise = request->noise_source == NOISE_TORCH_CUDA,
        .skip_layers = request->skip_layers,
        .skip_layer_count = request->skip_layer_count,
        .skip_layer_scale = request->skip_layer_scale,
        .version = PROGRAM_NAME_AND_VERSION,
    };

    return infotext_of_drawing(out, &drawing, err);
}
