#include "server/a1111_fields.h"

#include <string.h>

#include "base/attributes.h"

#define BOTH (A1111_TXT2IMG | A1111_IMG2IMG)
#define IMAGE A1111_IMG2IMG
#define EXTRAS (A1111_EXTRA_SINGLE | A1111_EXTRA_BATCH)

/* Initialisers in the order of struct a1111_field. */
#define OF_SPEC(name, bodies, type, fallback, spec, about)                                         \
    {                                                                                              \
        name, bodies, A1111_##type, A1111_USED, fallback, 0, 0, spec, about                        \
    }
#define USED(name, bodies, type, fallback, low, high, about)                                       \
    {                                                                                              \
        name, bodies, A1111_##type, A1111_USED, fallback, low, high, NULL, about                   \
    }
#define NOTED(name, bodies, type, fallback)                                                        \
    {                                                                                              \
        name, bodies, A1111_##type, A1111_NOTED, fallback, 0, 0, NULL, "has no effect"             \
    }
#define PASSED(name, bodies, type, fallback)                                                       \
    {                                                                                              \
        name, bodies, A1111_##type, A1111_PASSED, fallback, 0, 0, NULL, "has no effect"            \
    }

/* Defaults are AUTOMATIC1111's own. */
const struct a1111_field a1111_fields[] = {
    OF_SPEC("prompt", BOTH, TEXT, 0, "prompt", "what the picture shows"),
    OF_SPEC("negative_prompt", BOTH, TEXT, 0, "negative_prompt", "what the picture does not show"),
    NOTED("styles", BOTH, TEXTS, 0),
    OF_SPEC("seed", BOTH, INTEGER, -1, "seed", "of the first picture; negative: a random one"),
    PASSED("subseed", BOTH, INTEGER, -1),
    NOTED("subseed_strength", BOTH, NUMBER, 0),
    NOTED("seed_resize_from_h", BOTH, INTEGER, -1),
    NOTED("seed_resize_from_w", BOTH, INTEGER, -1),
    USED("sampler_name", BOTH, TEXT, 0, 0, 0, "a name of /sdapi/v1/samplers; each means Euler"),
    USED("sampler_index", BOTH, TEXT, 0, 0, 0, "sampler_name's older name"),
    USED("scheduler", BOTH, TEXT, 0, 0, 0, "a name of /sdapi/v1/schedulers; each means Normal"),
    OF_SPEC("steps", BOTH, INTEGER, 50, "steps", "of denoising; a turbo model has its own default"),
    OF_SPEC("cfg_scale", BOTH, NUMBER, 7, "guidance_scale",
            "how closely the prompt is followed; a turbo model has its own default"),
    NOTED("distilled_cfg_scale", BOTH, NUMBER, 0),
    NOTED("eta", BOTH, NUMBER, 0),
    NOTED("s_min_uncond", BOTH, NUMBER, 0),
    NOTED("s_churn", BOTH, NUMBER, 0),
    PASSED("s_tmax", BOTH, NUMBER, 0),
    NOTED("s_tmin", BOTH, NUMBER, 0),
    PASSED("s_noise", BOTH, NUMBER, 1),
    OF_SPEC("denoising_strength", BOTH, NUMBER, 0.75, "strength",
            "of img2img: how much of the picture is drawn anew"),
    OF_SPEC("width", BOTH, INTEGER, 512, "width", "pixels, rounded down to a multiple of 16"),
    OF_SPEC("height", BOTH, INTEGER, 512, "height", "pixels, rounded down to a multiple of 16"),
    OF_SPEC("batch_size", BOTH, INTEGER, 1, "count", "pictures, n_iter times"),
    OF_SPEC("n_iter", BOTH, INTEGER, 1, "count", "how many times batch_size pictures are drawn"),
    USED("send_images", BOTH, FLAG, true, 0, 0, "whether the answer has the pictures"),
    PASSED("save_images", BOTH, FLAG, false),
    PASSED("do_not_save_samples", BOTH, FLAG, false),
    PASSED("do_not_save_grid", BOTH, FLAG, false),
    USED("override_settings", BOTH, OBJECT, 0, 0, 0, "samples_format and jpeg_quality count"),
    PASSED("override_settings_restore_afterwards", BOTH, FLAG, true),
    NOTED("enable_hr", BOTH, FLAG, false),
    PASSED("hr_scale", BOTH, NUMBER, 2),
    PASSED("hr_upscaler", BOTH, TEXT, 0),
    PASSED("hr_second_pass_steps", BOTH, INTEGER, 0),
    PASSED("hr_resize_x", BOTH, INTEGER, 0),
    PASSED("hr_resize_y", BOTH, INTEGER, 0),
    PASSED("hr_checkpoint_name", BOTH, TEXT, 0),
    PASSED("hr_sampler_name", BOTH, TEXT, 0),
    PASSED("hr_scheduler", BOTH, TEXT, 0),
    PASSED("hr_prompt", BOTH, TEXT, 0),
    PASSED("hr_negative_prompt", BOTH, TEXT, 0),
    PASSED("firstphase_width", BOTH, INTEGER, 0),
    PASSED("firstphase_height", BOTH, INTEGER, 0),
    NOTED("firstpass_image", BOTH, TEXT, 0),
    NOTED("restore_faces", BOTH, FLAG, false),
    NOTED("tiling", BOTH, FLAG, false),
    NOTED("refiner_checkpoint", BOTH, TEXT, 0),
    PASSED("refiner_switch_at", BOTH, NUMBER, 0),
    PASSED("disable_extra_networks", BOTH, FLAG, false),
    PASSED("comments", BOTH, OBJECT, 0),
    USED("script_name", BOTH, TEXT, 0, 0, 0, "there are no scripts: any name is an error"),
    PASSED("script_args", BOTH, LIST, 0),
    USED("alwayson_scripts", BOTH, OBJECT, 0, 0, 0, "there are no scripts: any member is an error"),
    USED("force_task_id", BOTH, TEXT, 0, 0, 0, "a name for /internal/progress"),
    USED("infotext", BOTH, TEXT, 0, 0, 0, "fields that the body leaves out are taken from it"),

    OF_SPEC("init_images", IMAGE, PICTURES, 0, "init_image",
            "base64 of one PNG, JPEG or WebP file, or a data URI; links are not followed"),
    NOTED("resize_mode", IMAGE, INTEGER, 0),
    NOTED("image_cfg_scale", IMAGE, NUMBER, 0),
    OF_SPEC("mask", IMAGE, TEXT, 0, "mask", "base64 of a picture; white is painted anew"),
    NOTED("mask_blur", IMAGE, INTEGER, 0),
    NOTED("mask_blur_x", IMAGE, INTEGER, 4),
    NOTED("mask_blur_y", IMAGE, INTEGER, 4),
    PASSED("mask_round", IMAGE, FLAG, true),
    PASSED("inpainting_fill", IMAGE, INTEGER, 0),
    NOTED("inpaint_full_res", IMAGE, FLAG, false),
    PASSED("inpaint_full_res_padding", IMAGE, INTEGER, 0),
    USED("inpainting_mask_invert", IMAGE, INTEGER, 0, 0, 0, "not 0: black is painted anew"),
    PASSED("initial_noise_multiplier", IMAGE, NUMBER, 1),
    NOTED("latent_mask", IMAGE, TEXT, 0),
    USED("include_init_images", IMAGE, FLAG, false, 0, 0, "whether the echo has the pictures"),

    USED("image", A1111_EXTRA_SINGLE | A1111_PICTURE, TEXT, 0, 0, 0,
         "base64 of a PNG, JPEG or WebP file, or a data URI"),
    USED("imageList", A1111_EXTRA_BATCH, FILES, 0, 0, 0, "pictures, as image of a single one"),
    USED("upscaler_1", EXTRAS, TEXT, 0, 0, 0, "None, Lanczos or Nearest"),
    USED("upscaler_2", EXTRAS, TEXT, 0, 0, 0, "None: there is no second one"),
    USED("extras_upscaler_2_visibility", EXTRAS, NUMBER, 0, 0, 1, "0: there is no second one"),
    USED("resize_mode", EXTRAS, INTEGER, 0, 0, 1, "0: by a factor; 1: to a size"),
    USED("upscaling_resize", EXTRAS, NUMBER, 2, 1, 8, "the factor"),
    USED("upscaling_resize_w", EXTRAS, INTEGER, 512, 1, JOB_IMAGE_SIDE_MAX, "of the size"),
    USED("upscaling_resize_h", EXTRAS, INTEGER, 512, 1, JOB_IMAGE_SIDE_MAX, "of the size"),
    USED("upscaling_crop", EXTRAS, FLAG, true, 0, 0, "cut to the size, which is covered"),
    USED("gfpgan_visibility", EXTRAS, NUMBER, 0, 0, 1, "0: there is no such model"),
    USED("codeformer_visibility", EXTRAS, NUMBER, 0, 0, 1, "0: there is no such model"),
    PASSED("codeformer_weight", EXTRAS, NUMBER, 0),
    PASSED("show_extras_results", EXTRAS, FLAG, true),
    PASSED("upscale_first", EXTRAS, FLAG, false),

    USED("id_task", A1111_TASK, TEXT, 0, 0, 0, "the force_task_id of a request"),
    USED("id_live_preview", A1111_TASK, INTEGER, -1, 0, 0, "of the preview that is there already"),
    USED("live_preview", A1111_TASK, FLAG, true, 0, 0, "whether a preview is wanted"),
};
const size_t a1111_field_count = COUNT_OF(a1111_fields);

const struct a1111_field *a1111_field(unsigned bodies, const char *name)
{
    size_t i = 0;

    while (!(a1111_fields[i].bodies & bodies) || strcmp(a1111_fields[i].name, name) != 0)
        i++;
    return &a1111_fields[i];
}

const struct a1111_field *a1111_field_of_spec(const char *spec)
{
    for (size_t i = 0; i < a1111_field_count; i++)
        if (a1111_fields[i].spec && strcmp(a1111_fields[i].spec, spec) == 0)
            return &a1111_fields[i];
    return NULL;
}

/* --- As JSON Schema --- */

static bool add(json_t *schema, const char *key, json_t *value)
{
    return json_object_set_new(schema, key, value) == 0;
}

/* A keyword of the spec's field, where there is one. */
static bool add_of_spec(json_t *schema, const char *key, const json_t *field)
{
    json_t *value = json_object_get(field, key);

    return !value || json_object_set(schema, key, value) == 0;
}

static json_t *number_json(const struct a1111_field *field, double value)
{
    return field->type == A1111_NUMBER ? json_real(value) : json_integer((json_int_t)value);
}

/* Keywords of numbers do not touch texts, nor those of texts numbers. */
static bool add_number(json_t *schema, const struct a1111_field *field, const json_t *spec)
{
    bool is_whole = field->type == A1111_INTEGER;

    return add(schema, "type",
               json_pack("[s, s, s]", is_whole ? "integer" : "number", "string", "null")) &&
           add(schema, "pattern",
               json_string(is_whole ? "^([-+]?[0-9]+(\\.0+)?)?$"
                                    : "^([-+]?[0-9]+(\\.[0-9]+)?)?$")) &&
           add(schema, "default", number_json(field, field->fallback)) &&
           add_of_spec(schema, "minimum", spec) && add_of_spec(schema, "maximum", spec) &&
           (field->low >= field->high || (add(schema, "minimum", number_json(field, field->low)) &&
                                          add(schema, "maximum", number_json(field, field->high))));
}

static bool describe(json_t *schema, const struct a1111_field *field, const json_t *spec)
{
    switch (field->type) {
    case A1111_INTEGER:
    case A1111_NUMBER:
        return add_number(schema, field, spec);
    case A1111_FLAG:
        return add(schema, "enum",
                   json_pack("[b, b, n, i, i, s, s, s, s, s, s, s, s, s]", 1, 0, 0, 1, "true",
                             "false", "yes", "no", "on", "off", "1", "0", "")) &&
               add(schema, "default", json_boolean(field->fallback != 0));
    case A1111_TEXT:
        return add(schema, "type", json_pack("[s, s]", "string", "null")) &&
               add_of_spec(schema, "maxLength", spec);
    case A1111_TEXTS:
        return add(schema, "type", json_pack("[s, s]", "array", "null")) &&
               add(schema, "items", json_pack("{s:s}", "type", "string"));
    case A1111_OBJECT:
        return add(schema, "type", json_pack("[s, s]", "object", "null"));
    case A1111_LIST:
        return add(schema, "type", json_pack("[s, s]", "array", "null"));
    case A1111_PICTURES:
        return add(schema, "type", json_string("array")) &&
               add(schema, "minItems", json_integer(1)) &&
               add(schema, "maxItems", json_integer(1)) &&
               add(schema, "items", json_pack("{s:s}", "type", "string"));
    case A1111_FILES:
        return add(schema, "type", json_string("array")) &&
               add(schema, "items",
                   json_pack("{s:s, s:[s], s:{s:{s:s}, s:{s:s}}}", "type", "object", "required",
                             "data", "properties", "data", "type", "string", "name", "type",
                             "string"));
    }
    return false;
}

static bool add_property(json_t *properties, const struct a1111_field *field, const json_t *specs)
{
    const json_t *spec = field->spec ? json_object_get(specs, field->spec) : NULL;
    json_t *schema = json_object();

    return add(properties, field->name, schema) && describe(schema, field, spec) &&
           add(schema, "description", json_string(field->about));
}

json_t *a1111_body_schema(enum a1111_body body, const struct worker_facts *facts,
                          const struct job_limits *limits)
{
    json_t *spec = job_spec_schema(facts, limits), *properties = json_object();
    json_t *schema = json_pack("{s:s, s:b, s:o}", "type", "object", "additionalProperties", 1,
                               "properties", properties);
    bool ok = spec && schema;

    for (size_t i = 0; ok && i < a1111_field_count; i++)
        if (a1111_fields[i].bodies & (unsigned)body)
            ok = add_property(properties, &a1111_fields[i], json_object_get(spec, "properties"));
    json_decref(spec);
    if (ok)
        return schema;
    json_decref(schema);
    return NULL;
}
