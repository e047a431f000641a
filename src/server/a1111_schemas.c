#include "server/a1111_schemas.h"

#include <stdbool.h>
#include <string.h>

#include "base/attributes.h"

/* A member that is always there. The last of a list has no name. */
struct member {
    const char *name;
    const char *type;            /* "string|null" */
    const struct member *inside; /* of an object, or of an array's objects; NULL: anything */
};

static json_t *object_schema(const struct member *members);

static json_t *types_json(const char *types)
{
    json_t *list = json_array();

    while (list && *types) {
        size_t length = strcspn(types, "|");

        json_array_append_new(list, json_stringn(types, length));
        types += length + (types[length] == '|');
    }
    return list;
}

static json_t *array_schema(const struct member *members)
{
    return json_pack("{s:s, s:o}", "type", "array", "items", object_schema(members));
}

static json_t *member_schema(const struct member *member)
{
    if (member->inside)
        return strcmp(member->type, "array") == 0 ? array_schema(member->inside)
                                                  : object_schema(member->inside);
    return json_pack("{s:o}", "type", types_json(member->type));
}

static json_t *object_schema(const struct member *members)
{
    json_t *properties = json_object(), *required = json_array();

    for (; members->name; members++)
        if (json_object_set_new(properties, members->name, member_schema(members)) != 0 ||
            json_array_append_new(required, json_string(members->name)) != 0) {
            json_decref(properties);
            properties = NULL;
        }
    return json_pack("{s:s, s:o, s:o}", "type", "object", "required", required, "properties",
                     properties);
}

#define OBJECT_SCHEMA(function, members)                                                           \
    json_t *function(void *context)                                                                \
    {                                                                                              \
        (void)context;                                                                             \
        return object_schema(members);                                                             \
    }
#define ARRAY_SCHEMA(function, members)                                                            \
    json_t *function(void *context)                                                                \
    {                                                                                              \
        (void)context;                                                                             \
        return array_schema(members);                                                              \
    }
#define TEXT(name)                                                                                 \
    {                                                                                              \
        name, "string", NULL                                                                       \
    }
#define TEXT_OR_NULL(name)                                                                         \
    {                                                                                              \
        name, "string|null", NULL                                                                  \
    }
#define INTEGER(name)                                                                              \
    {                                                                                              \
        name, "integer", NULL                                                                      \
    }
#define NUMBER(name)                                                                               \
    {                                                                                              \
        name, "number", NULL                                                                       \
    }
#define FLAG(name)                                                                                 \
    {                                                                                              \
        name, "boolean", NULL                                                                      \
    }
#define ARRAY(name)                                                                                \
    {                                                                                              \
        name, "array", NULL                                                                        \
    }
#define OBJECT(name)                                                                               \
    {                                                                                              \
        name, "object", NULL                                                                       \
    }
#define END                                                                                        \
    {                                                                                              \
        NULL, NULL, NULL                                                                           \
    }

/* --- Pictures --- */

static const struct member drawn[] = {ARRAY("images"), OBJECT("parameters"), TEXT("info"), END};
OBJECT_SCHEMA(a1111_drawn_schema, drawn)

static const struct member info[] = {
    TEXT("prompt"),
    ARRAY("all_prompts"),
    TEXT("negative_prompt"),
    ARRAY("all_negative_prompts"),
    INTEGER("seed"),
    ARRAY("all_seeds"),
    INTEGER("subseed"),
    ARRAY("all_subseeds"),
    NUMBER("subseed_strength"),
    INTEGER("width"),
    INTEGER("height"),
    TEXT("sampler_name"),
    NUMBER("cfg_scale"),
    INTEGER("steps"),
    INTEGER("batch_size"),
    FLAG("restore_faces"),
    TEXT_OR_NULL("face_restoration_model"),
    TEXT("sd_model_name"),
    TEXT("sd_model_hash"),
    TEXT_OR_NULL("sd_vae_name"),
    TEXT_OR_NULL("sd_vae_hash"),
    INTEGER("seed_resize_from_w"),
    INTEGER("seed_resize_from_h"),
    {"denoising_strength", "number|null", NULL},
    OBJECT("extra_generation_params"),
    INTEGER("index_of_first_image"),
    ARRAY("infotexts"),
    ARRAY("styles"),
    TEXT("job_timestamp"),
    INTEGER("clip_skip"),
    FLAG("is_using_inpainting_conditioning"),
    TEXT("version"),
    TEXT("ignored_parameters"),
    END,
};
OBJECT_SCHEMA(a1111_info_schema, info)

static const struct member png_info[] = {TEXT("info"), OBJECT("items"), OBJECT("parameters"), END};
OBJECT_SCHEMA(a1111_png_info_schema, png_info)

static const struct member extra_single[] = {TEXT("html_info"), TEXT("image"), END};
OBJECT_SCHEMA(a1111_extra_single_schema, extra_single)

static const struct member extra_batch[] = {TEXT("html_info"), ARRAY("images"), END};
OBJECT_SCHEMA(a1111_extra_batch_schema, extra_batch)

/* --- Progress --- */

static const struct member state[] = {
    FLAG("skipped"),
    FLAG("interrupted"),
    FLAG("stopping_generation"),
    TEXT("job"),
    INTEGER("job_count"),
    TEXT("job_timestamp"),
    INTEGER("job_no"),
    INTEGER("sampling_step"),
    INTEGER("sampling_steps"),
    END,
};
static const struct member progress[] = {
    NUMBER("progress"),
    NUMBER("eta_relative"),
    {"state", "object", state},
    TEXT_OR_NULL("current_image"),
    TEXT_OR_NULL("textinfo"),
    TEXT_OR_NULL("current_task"),
    END,
};
OBJECT_SCHEMA(a1111_progress_schema, progress)

static const struct member task[] = {
    FLAG("active"),
    FLAG("queued"),
    FLAG("completed"),
    NUMBER("progress"),
    NUMBER("eta"),
    TEXT_OR_NULL("live_preview"),
    INTEGER("id_live_preview"),
    TEXT_OR_NULL("textinfo"),
    END,
};
OBJECT_SCHEMA(a1111_task_schema, task)

static const struct member pending[] = {INTEGER("size"), ARRAY("tasks"), END};
OBJECT_SCHEMA(a1111_pending_schema, pending)

json_t *a1111_nothing_schema(void *context)
{
    (void)context;
    return json_pack("{s:s}", "type", "null");
}

static const struct member empty[] = {END};
OBJECT_SCHEMA(a1111_empty_schema, empty)

/* --- Lists --- */

static const struct member model[] = {
    TEXT("title"),
    TEXT("model_name"),
    TEXT_OR_NULL("hash"),
    TEXT_OR_NULL("sha256"),
    TEXT("filename"),
    TEXT_OR_NULL("config"),
    END,
};
ARRAY_SCHEMA(a1111_models_schema, model)

static const struct member sampler[] = {TEXT("name"), ARRAY("aliases"), OBJECT("options"), END};
ARRAY_SCHEMA(a1111_samplers_schema, sampler)

static const struct member scheduler[] = {
    TEXT("name"),
    TEXT("label"),
    {"aliases", "array|null", NULL},
    NUMBER("default_rho"),
    FLAG("need_inner_model"),
    END,
};
ARRAY_SCHEMA(a1111_schedulers_schema, scheduler)

static const struct member upscaler[] = {
    TEXT("name"),
    TEXT_OR_NULL("model_name"),
    TEXT_OR_NULL("model_path"),
    TEXT_OR_NULL("model_url"),
    NUMBER("scale"),
    END,
};
ARRAY_SCHEMA(a1111_upscalers_schema, upscaler)

static const struct member named[] = {TEXT("name"), END};
ARRAY_SCHEMA(a1111_names_schema, named)

json_t *a1111_list_schema(void *context)
{
    (void)context;
    return json_pack("{s:s}", "type", "array");
}

static const struct member embeddings[] = {OBJECT("loaded"), OBJECT("skipped"), END};
OBJECT_SCHEMA(a1111_embeddings_schema, embeddings)

static const struct member scripts[] = {ARRAY("txt2img"), ARRAY("img2img"), END};
OBJECT_SCHEMA(a1111_scripts_schema, scripts)

static const struct member flags[] = {
    FLAG("api"),
    FLAG("nowebui"),
    TEXT_OR_NULL("api_auth"),
    TEXT_OR_NULL("gradio_auth"),
    TEXT_OR_NULL("gradio_auth_path"),
    TEXT_OR_NULL("ckpt"),
    FLAG("medvram"),
    FLAG("lowvram"),
    END,
};
OBJECT_SCHEMA(a1111_flags_schema, flags)

static const struct member ram[] = {INTEGER("free"), INTEGER("used"), INTEGER("total"), END};
static const struct member memory[] = {{"ram", "object", ram}, OBJECT("cuda"), END};
OBJECT_SCHEMA(a1111_memory_schema, memory)
