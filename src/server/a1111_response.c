#include "server/a1111_response.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "job/job_infotext.h"
#include "server/a1111_samplers.h"

void a1111_timestamp(char out[16], int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm parts;

    if (!gmtime_r(&seconds, &parts) || strftime(out, 16, "%Y%m%d%H%M%S", &parts) == 0)
        snprintf(out, 16, "0");
}

json_t *a1111_model_title(const struct worker_facts *facts)
{
    const char *file = *facts->model_file ? facts->model_file : facts->model;

    return *facts->model_hash ? json_sprintf("%s [%.10s]", file, facts->model_hash)
                              : json_string(file);
}

json_t *a1111_short_hash(const struct worker_facts *facts)
{
    return json_sprintf("%.10s", facts->model_hash);
}

/* The same text for each picture. */
static json_t *repeated(const char *text, int count)
{
    json_t *array = json_array();

    for (int i = 0; array && i < count; i++)
        json_array_append_new(array, json_string(text));
    return array;
}

static json_t *seeds_json(const struct a1111_answer *answer)
{
    json_t *array = json_array();

    for (int i = 0; array && i < answer->picture_count; i++)
        json_array_append_new(array, json_integer((json_int_t)answer->seeds[i]));
    return array;
}

static json_t *infotexts_json(const struct a1111_answer *answer)
{
    json_t *array = json_array();

    for (int i = 0; array && i < answer->picture_count; i++) {
        char *text;

        if (!job_infotext(&text, answer->spec, answer->has_init_image, answer->facts,
                          answer->seeds[i], answer->version, NULL)) {
            json_decref(array);
            return NULL;
        }
        json_array_append_new(array, json_string(text));
        free(text);
    }
    return array;
}

static json_t *prompts_part(const struct a1111_answer *answer)
{
    const struct job_spec *spec = answer->spec;
    const char *prompt = spec->prompt ? spec->prompt : "";
    const char *negative = spec->negative_prompt ? spec->negative_prompt : "";
    int count = answer->picture_count;

    return json_pack("{s:s, s:o, s:s, s:o, s:o, s:[]}", "prompt", prompt, "all_prompts",
                     repeated(prompt, count), "negative_prompt", negative, "all_negative_prompts",
                     repeated(negative, count), "infotexts", infotexts_json(answer), "styles");
}

/* There are no variation seeds; theirs are then the seed's companions of strength 0. */
static json_t *seeds_part(const struct a1111_answer *answer)
{
    return json_pack("{s:I, s:o, s:I, s:o, s:i, s:i, s:i, s:i, s:i}", "seed",
                     (json_int_t)answer->spec->seed, "all_seeds", seeds_json(answer), "subseed",
                     (json_int_t)answer->spec->seed, "all_subseeds", seeds_json(answer),
                     "subseed_strength", 0, "seed_resize_from_w", -1, "seed_resize_from_h", -1,
                     "index_of_first_image", 0, "batch_size", answer->batch_size);
}

static json_t *sampling_part(const struct a1111_answer *answer)
{
    const struct job_spec *spec = answer->spec;
    json_t *strength = answer->has_init_image ? json_real(spec->strength) : json_null();

    return json_pack("{s:i, s:i, s:s, s:f, s:i, s:o, s:i, s:b}", "width", (int)spec->width,
                     "height", (int)spec->height, "sampler_name", A1111_SAMPLER, "cfg_scale",
                     spec->guidance, "steps", (int)spec->steps, "denoising_strength", strength,
                     "clip_skip", 1, "is_using_inpainting_conditioning", 0);
}

static json_t *server_part(const struct a1111_answer *answer)
{
    char timestamp[16];

    a1111_timestamp(timestamp, answer->created_ms);
    return json_pack("{s:b, s:n, s:s, s:o, s:n, s:n, s:{s:s}, s:s, s:s, s:s}", "restore_faces", 0,
                     "face_restoration_model", "sd_model_name", answer->facts->model,
                     "sd_model_hash", a1111_short_hash(answer->facts), "sd_vae_name", "sd_vae_hash",
                     "extra_generation_params", "Schedule type", A1111_SCHEDULER, "job_timestamp",
                     timestamp, "version", answer->version, "ignored_parameters", answer->ignored);
}

/* Takes `part`, which may be NULL for a failure. */
static bool merge(json_t *object, json_t *part)
{
    bool ok = part && json_object_update(object, part) == 0;

    json_decref(part);
    return ok;
}

json_t *a1111_info(const struct a1111_answer *answer)
{
    json_t *object = json_object();
    char *text = NULL;
    json_t *info;

    if (object && merge(object, prompts_part(answer)) && merge(object, seeds_part(answer)) &&
        merge(object, sampling_part(answer)) && merge(object, server_part(answer)))
        text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    info = text ? json_string(text) : NULL;
    free(text);
    return info;
}

json_t *a1111_response(const struct a1111_answer *answer, json_t *images, json_t *parameters)
{
    return json_pack("{s:o, s:O, s:o}", "images", images, "parameters", parameters, "info",
                     a1111_info(answer));
}
