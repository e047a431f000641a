/* What the native API tells of the server: the model, the device, the queue. All from memory. */
#include "server/native_private.h"

/* The only rule of the sampler; a list, as clients expect to choose. */
static const char *const samplers[] = {"euler"};

static json_t *names_json(const char *const *names, size_t count)
{
    json_t *list = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_string(names[i]));
    return list;
}

static json_t *formats_json(void)
{
    json_t *list = json_array();

    for (int i = 0; i < IMAGE_FORMAT_COUNT; i++)
        json_array_append_new(list, json_string(image_format_name((enum image_format)i)));
    return list;
}

/* 0 stands for "no limit". */
static json_t *limit_json(int64_t limit)
{
    return limit > 0 ? json_integer((json_int_t)limit) : json_null();
}

static json_t *limits_json(const struct native *native, const struct worker_facts *facts)
{
    const struct job_limits *limits = &native->options.limits;

    return json_pack(
        "{s:i, s:i, s:o, s:i, s:i, s:i, s:i, s:o}", "side_max", (int)facts->side_max, "side_step",
        JOB_SIDE_STEP, "pixels_max", limit_json(limits->pixels_max), "steps_max",
        limits->steps_max > 0 ? (int)limits->steps_max : JOB_STEPS_MAX, "count_max",
        limits->count_max > 0 ? (int)limits->count_max : JOB_COUNT_MAX, "prompt_bytes_max",
        JOB_PROMPT_BYTES_MAX, "image_bytes_max", JOB_IMAGE_BYTES_MAX, "timeout_seconds",
        native->options.request_timeout > 0 ? json_real(native->options.request_timeout)
                                            : json_null());
}

static json_t *defaults_json(const struct worker_facts *facts)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:f, s:f}", "width", (int)facts->width, "height",
                     (int)facts->height, "steps", (int)facts->steps, "t5_tokens",
                     (int)facts->t5_tokens, "guidance_scale", facts->guidance, "flow_shift",
                     facts->flow_shift);
}

void native_get_model(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    const struct worker_facts *facts;
    struct hub_state state;

    hub_state(native->options.hub, &state);
    facts = &state.facts;
    if (!state.has_facts) {
        http_reply_error(exchange, 503, "model_loading", "", 5, "the model is being loaded");
        return;
    }
    native_reply(
        exchange, 200,
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:b, s:b, s:b, s:i, s:i, s:o, s:o, s:o, s:o}", "model",
                  json_any_string(facts->model), "variant", json_any_string(facts->variant),
                  "device", json_any_string(facts->device), "weight_types",
                  json_any_string(facts->weight_types), "hash", json_any_string(facts->model_hash),
                  "is_turbo", facts->is_turbo, "has_t5", facts->has_t5, "takes_images",
                  facts->has_encoder, "layer_count", (int)facts->layer_count, "max_batch",
                  (int)facts->max_batch, "defaults", defaults_json(facts), "limits",
                  limits_json(native, facts), "samplers", names_json(samplers, COUNT_OF(samplers)),
                  "formats", formats_json()));
}

static json_t *device_json(const struct hub_state *state)
{
    const struct device_message *device = &state->device;

    if (!state->has_device)
        return json_null();
    return json_pack(
        "{s:I, s:I, s:I, s:o, s:o, s:o, s:i}", "memory_total_bytes",
        (json_int_t)device->memory_total, "memory_free_bytes", (json_int_t)device->memory_free,
        "memory_used_bytes", (json_int_t)device->memory_used_by_us, "utilisation_percent",
        device->utilisation_percent >= 0 ? json_integer(device->utilisation_percent) : json_null(),
        "temperature_celsius",
        device->temperature_celsius >= 0 ? json_integer(device->temperature_celsius) : json_null(),
        "power_watts", native_seconds(device->power_watts), "running", (int)device->running);
}

static json_t *loading_json(const struct hub_state *state)
{
    if (state->workers_ready > 0 || state->loading.what[0] == '\0')
        return json_null();
    return json_pack("{s:o, s:f}", "what", json_any_string(state->loading.what), "fraction",
                     state->loading.fraction);
}

void native_get_device(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    struct hub_state state;

    hub_state(native->options.hub, &state);
    native_reply(exchange, 200,
                 json_pack("{s:o, s:b, s:b, s:i, s:i, s:i, s:b, s:b, s:o, s:o}", "name",
                           state.has_facts ? json_any_string(state.facts.device) : json_null(),
                           "is_ready", state.is_ready, "is_draining", state.is_draining, "workers",
                           state.workers, "workers_ready", state.workers_ready, "restarts",
                           state.restarts, "store_works", state.store_works, "disk_has_reserve",
                           state.disk != STORE_DISK_FULL, "loading", loading_json(&state), "device",
                           device_json(&state)));
}

void native_get_queue(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    struct hub_state state;

    hub_state(native->options.hub, &state);
    native_reply(
        exchange, 200,
        json_pack("{s:i, s:i, s:o, s:b, s:o}", "queued", state.queued, "running", state.running,
                  "max_queue", limit_json(native->options.max_queue), "is_accepting",
                  !state.is_draining && state.store_works && state.disk == STORE_DISK_GOOD &&
                      state.pictures_held == 0,
                  "seconds_per_cost",
                  state.seconds_per_cost > 0 ? json_real(state.seconds_per_cost) : json_null()));
}
