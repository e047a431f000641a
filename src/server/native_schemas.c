/* What the native API takes and gives, as JSON Schema. The shapes are those of native_json.c,
 * native_facts.c and native_bulk.c; tests/server/test_native.c compares them with real answers. */
#include <string.h>

#include "server/native_private.h"

/* One member of an answer. `type`: JSON Schema's, or "time" for RFC 3339, or "any"; with "?" in
 * front it may be null. */
struct member {
    const char *name, *type, *about;
};

static bool put(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static json_t *member_schema(const struct member *member)
{
    bool may_be_null = member->type[0] == '?';
    const char *type = member->type + (may_be_null ? 1 : 0);
    bool is_time = strcmp(type, "time") == 0;
    json_t *schema = json_object();

    if (strcmp(type, "any") != 0) {
        const char *name = is_time ? "string" : type;

        put(schema, "type", may_be_null ? json_pack("[s, s]", name, "null") : json_string(name));
    }
    if (is_time)
        put(schema, "format", json_string("date-time"));
    if (member->about)
        put(schema, "description", json_string(member->about));
    return schema;
}

/* All members are required: answers always have all of theirs. */
static json_t *schema_of(const struct member *members, size_t count)
{
    json_t *properties = json_object(), *required = json_array();

    for (size_t i = 0; i < count; i++) {
        put(properties, members[i].name, member_schema(&members[i]));
        json_array_append_new(required, json_string(members[i].name));
    }
    return json_pack("{s:s, s:o, s:o}", "type", "object", "required", required, "properties",
                     properties);
}

/* Replaces what a member is: steals `schema`. */
static void refine(json_t *object, const char *name, json_t *schema)
{
    put(json_object_get(object, "properties"), name, schema);
}

static json_t *list_of(json_t *items)
{
    return json_pack("{s:s, s:o}", "type", "array", "items", items);
}

static json_t *or_null(json_t *schema)
{
    return json_pack("{s:[o, {s:s}]}", "anyOf", schema, "type", "null");
}

static json_t *id_schema(void)
{
    return json_pack("{s:s, s:s}", "type", "string", "pattern", "^[0-9a-f]{32}$");
}

static const struct member picture_members[] = {
    {"id", "string", NULL},
    {"index", "integer", "within its job, from 0"},
    {"seed", "integer", "that draws this picture alone"},
    {"width", "integer", NULL},
    {"height", "integer", NULL},
    {"format", "string", "png, jpeg or webp"},
    {"bytes", "integer", "of the file"},
    {"starred", "boolean", NULL},
    {"url", "string", "of the file"},
    {"thumbnail_url", "string", "a JPEG of at most 256 pixels a side"},
};

static json_t *picture_schema(void)
{
    return schema_of(picture_members, COUNT_OF(picture_members));
}

static json_t *listed_picture_schema(void)
{
    json_t *schema = picture_schema();
    json_t *required = json_object_get(schema, "required");

    refine(schema, "job", id_schema());
    refine(schema, "created_at", member_schema(&(struct member){NULL, "?time", NULL}));
    refine(schema, "prompt", member_schema(&(struct member){NULL, "?string", NULL}));
    for (size_t i = 0; i < 3; i++)
        json_array_append_new(required,
                              json_string((const char *const[]){"job", "created_at", "prompt"}[i]));
    return schema;
}

static const struct member job_members[] = {
    {"id", "string", NULL},
    {"state", "string", NULL},
    {"api", "string", "that it came by: native, openai or a1111"},
    {"phase", "?string", "while it runs: wait, encode, denoise, decode or save"},
    {"step", "?integer", "while it runs"},
    {"steps", "?integer", "while it runs: of all its pictures"},
    {"progress", "number", "0 to 1"},
    {"position", "?integer", "while it is queued, from 1"},
    {"wait_seconds", "?number", "while it is queued: until it starts, as far as is known"},
    {"seconds_left", "?number", "until it is done, as far as is known"},
    {"attempts", "integer", "how often it was started"},
    {"created_at", "?time", NULL},
    {"started_at", "?time", NULL},
    {"finished_at", "?time", NULL},
    {"error", "any", "of a failed job"},
    {"result", "any", "seconds by phase, and what there is to know of the way it was drawn"},
    {"images", "array", NULL},
};

json_t *native_job_schema(void *context)
{
    json_t *schema = schema_of(job_members, COUNT_OF(job_members)), *states = json_array();
    static const struct member error_members[] = {{"code", "string", NULL},
                                                  {"message", "string", NULL}};

    (void)context;
    for (int state = JOB_QUEUED; state <= JOB_CANCELLED; state++)
        json_array_append_new(states, json_string(job_state_name((enum job_state)state)));
    refine(schema, "id", id_schema());
    refine(schema, "state", json_pack("{s:s, s:o}", "type", "string", "enum", states));
    refine(schema, "error", or_null(schema_of(error_members, COUNT_OF(error_members))));
    refine(schema, "result", json_pack("{s:[s, s]}", "type", "object", "null"));
    refine(schema, "images", list_of(picture_schema()));
    refine(schema, "parameters",
           json_pack("{s:s, s:s}", "type", "object", "description",
                     "the request with all that it left out; not in events"));
    return schema;
}

static json_t *page_schema(const char *key, json_t *items)
{
    return json_pack("{s:s, s:[s, s], s:{s:o, s:{s:[s, s], s:s}}}", "type", "object", "required",
                     key, "next_cursor", "properties", key, list_of(items), "next_cursor", "type",
                     "string", "null", "description", "for ?cursor=; null: there is no more");
}

json_t *native_jobs_schema(void *context)
{
    return page_schema("jobs", native_job_schema(context));
}

json_t *native_pictures_schema(void *context)
{
    (void)context;
    return page_schema("images", listed_picture_schema());
}

json_t *native_job_request_schema(void *context)
{
    struct native *native = context;
    struct hub_state state;
    json_t *schema;

    hub_state(native->options.hub, &state);
    schema = job_spec_schema(state.has_facts ? &state.facts : NULL, &native->options.limits);
    refine(schema, "timeout",
           json_pack("{s:s, s:i, s:i, s:s}", "type", "number", "exclusiveMinimum", 0, "maximum",
                     NATIVE_TIMEOUT_SECONDS_MAX, "description",
                     "seconds after which the job fails, however far it is"));
    refine(schema, "dry_run",
           json_pack("{s:s, s:b, s:s}", "type", "boolean", "default", 0, "description",
                     "answer with the memory and the time that it would take; draw nothing"));
    return schema;
}

json_t *native_job_or_estimate_schema(void *context)
{
    static const struct member members[] = {
        {"fits", "boolean", NULL},
        {"memory_bytes", "integer", "of the device, at the peak"},
        {"memory_free_bytes", "integer", "of the device, now"},
        {"seconds", "?number", "without waiting; null until one like it was measured"},
        {"reason", "?string", "why it does not fit"},
    };

    return json_pack("{s:[o, o]}", "anyOf", native_job_schema(context),
                     schema_of(members, COUNT_OF(members)));
}

json_t *native_metadata_schema(void *context)
{
    static const struct member members[] = {
        {"image", "object", NULL},
        {"job", "string", NULL},
        {"created_at", "?time", NULL},
        {"sha256", "string", "of the file"},
        {"parameters", "any", "what the job was asked for"},
        {"result", "any", NULL},
        {"infotext", "?string", "the file's text for readers of AUTOMATIC1111's"},
    };
    json_t *schema = schema_of(members, COUNT_OF(members));

    (void)context;
    refine(schema, "image", picture_schema());
    return schema;
}

json_t *native_star_schema(void *context)
{
    (void)context;
    return json_pack("{s:s, s:b, s:[s], s:{s:{s:s}}}", "type", "object", "additionalProperties", 0,
                     "required", "starred", "properties", "starred", "type", "boolean");
}

json_t *native_starred_schema(void *context)
{
    static const struct member members[] = {{"id", "string", NULL}, {"starred", "boolean", NULL}};

    (void)context;
    return schema_of(members, COUNT_OF(members));
}

json_t *native_events_schema(void *context)
{
    (void)context;
    return json_pack(
        "{s:s, s:s}", "type", "string", "description",
        "`job.queued`, `job.started`, `job.progress`, `job.picture` (one is stored), `job.done`, "
        "`job.failed`, `job.cancelled`, `job.deleted` and `job.starred` (a picture got its star or "
        "lost it) have the job as their data, without its parameters; `job.picture` and "
        "`job.starred` also the picture's index as `image`. `job.preview`: {job, image, jpeg "
        "(base64)}, without an id. `worker`: one came, is ready or went. A stream without a past "
        "begins with `ready`; `gap` says that what came since the last event that was seen is "
        "not known any more, as after a restart: load what you show anew.");
}

json_t *native_ids_schema(void *context)
{
    (void)context;
    return json_pack("{s:s, s:b, s:[s], s:{s:{s:s, s:i, s:i, s:o}}}", "type", "object",
                     "additionalProperties", 0, "required", "ids", "properties", "ids", "type",
                     "array", "minItems", 1, "maxItems", NATIVE_BULK_MAX, "items", id_schema());
}

json_t *native_deleted_schema(void *context)
{
    static const struct member members[] = {{"id", "string", NULL}, {"deleted", "boolean", NULL}};

    (void)context;
    return schema_of(members, COUNT_OF(members));
}

json_t *native_deleted_list_schema(void *context)
{
    static const struct member members[] = {{"deleted", "array", "ids"}, {"kept", "array", NULL}};
    static const struct member kept[] = {
        {"id", "string", NULL}, {"code", "string", NULL}, {"message", "string", NULL}};
    json_t *schema = schema_of(members, COUNT_OF(members));

    (void)context;
    refine(schema, "deleted", list_of(id_schema()));
    refine(schema, "kept", list_of(schema_of(kept, COUNT_OF(kept))));
    return schema;
}

json_t *native_count_schema(void *context)
{
    static const struct member members[] = {{"cancelled", "integer", "how many jobs"}};

    (void)context;
    return schema_of(members, COUNT_OF(members));
}

json_t *native_model_schema(void *context)
{
    static const struct member members[] = {
        {"model", "string", NULL},
        {"variant", "string", NULL},
        {"device", "string", NULL},
        {"weight_types", "string", NULL},
        {"hash", "string", "first digits of the model's SHA-256, or empty"},
        {"is_turbo", "boolean", NULL},
        {"has_t5", "boolean", NULL},
        {"takes_images", "boolean", "init_image and mask may be sent"},
        {"layer_count", "integer", NULL},
        {"max_batch", "integer", NULL},
        {"defaults", "object", "what stands for fields that a request leaves out"},
        {"limits", "object", NULL},
        {"samplers", "array", NULL},
        {"formats", "array", NULL},
    };

    (void)context;
    return schema_of(members, COUNT_OF(members));
}

json_t *native_device_schema(void *context)
{
    static const struct member members[] = {
        {"name", "?string", NULL},
        {"is_ready", "boolean", "jobs are taken and drawn"},
        {"is_draining", "boolean", NULL},
        {"workers", "integer", NULL},
        {"workers_ready", "integer", NULL},
        {"restarts", "integer", "of workers"},
        {"store_works", "boolean", NULL},
        {"disk_has_reserve", "boolean", NULL},
        {"loading", "?object", "what a worker does that cannot draw yet, and how far it is"},
        {"device", "?object", "memory, utilisation, temperature and power"},
    };

    (void)context;
    return schema_of(members, COUNT_OF(members));
}

json_t *native_queue_schema(void *context)
{
    static const struct member members[] = {
        {"queued", "integer", NULL},
        {"running", "integer", NULL},
        {"max_queue", "?integer", NULL},
        {"is_accepting", "boolean", NULL},
        {"seconds_per_cost", "?number", "measured, of steps times megapixels"},
    };

    (void)context;
    return schema_of(members, COUNT_OF(members));
}
