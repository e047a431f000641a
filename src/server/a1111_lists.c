#include "server/a1111_lists.h"

#include <string.h>
#include <sys/sysinfo.h>

#include "base/attributes.h"
#include "server/a1111_response.h"
#include "server/a1111_samplers.h"

static json_t *models(const struct hub_state *state)
{
    const struct worker_facts *facts = &state->facts;
    bool is_known = *facts->model_hash != '\0';

    if (!state->has_facts)
        return json_array();
    return json_pack("[{s:o, s:s, s:o, s:o, s:s, s:n}]", "title", a1111_model_title(facts),
                     "model_name", facts->model, "hash",
                     is_known ? a1111_short_hash(facts) : json_null(), "sha256",
                     is_known ? json_string(facts->model_hash) : json_null(), "filename",
                     *facts->model_file ? facts->model_file : facts->model, "config");
}

static json_t *samplers(const struct hub_state *state)
{
    (void)state;
    return a1111_samplers_json();
}

static json_t *schedulers(const struct hub_state *state)
{
    (void)state;
    return a1111_schedulers_json();
}

static json_t *upscalers(const struct hub_state *state)
{
    (void)state;
    return json_pack("[{s:s, s:n, s:n, s:n, s:i}, {s:s, s:n, s:n, s:n, s:i}, {s:s, s:n, s:n, s:n, "
                     "s:i}]",
                     "name", "None", "model_name", "model_path", "model_url", "scale", 4, "name",
                     "Lanczos", "model_name", "model_path", "model_url", "scale", 4, "name",
                     "Nearest", "model_name", "model_path", "model_url", "scale", 4);
}

static json_t *latent_modes(const struct hub_state *state)
{
    (void)state;
    return json_pack("[{s:s}]", "name", "Latent");
}

static json_t *nothing(const struct hub_state *state)
{
    (void)state;
    return json_array();
}

static json_t *embeddings(const struct hub_state *state)
{
    (void)state;
    return json_pack("{s:{}, s:{}}", "loaded", "skipped");
}

static json_t *scripts(const struct hub_state *state)
{
    (void)state;
    return json_pack("{s:[], s:[]}", "txt2img", "img2img");
}

/* Nothing that says how the server is protected. */
static json_t *flags(const struct hub_state *state)
{
    (void)state;
    return json_pack("{s:b, s:b, s:n, s:n, s:n, s:n, s:b, s:b}", "api", 1, "nowebui", 0, "api_auth",
                     "gradio_auth", "gradio_auth_path", "ckpt", "medvram", 0, "lowvram", 0);
}

static json_t *device_memory(const struct hub_state *state)
{
    const struct device_message *device = &state->device;
    json_int_t total = (json_int_t)device->memory_total, unused = (json_int_t)device->memory_free;
    json_int_t ours = (json_int_t)device->memory_used_by_us;

    if (!state->has_device)
        return json_pack("{s:s}", "error", "unavailable");
    return json_pack("{s:{s:I, s:I, s:I}, s:{s:I, s:I}, s:{s:I, s:I}, s:{s:I, s:I}, s:{s:I, s:I}, "
                     "s:{s:i, s:i}}",
                     "system", "free", unused, "used", total - unused, "total", total, "active",
                     "current", ours, "peak", ours, "allocated", "current", ours, "peak", ours,
                     "reserved", "current", ours, "peak", ours, "inactive", "current",
                     (json_int_t)0, "peak", (json_int_t)0, "events", "retries", 0, "oom", 0);
}

static json_t *memory(const struct hub_state *state)
{
    struct sysinfo system;
    json_int_t unit, total, unused;

    if (sysinfo(&system) != 0)
        memset(&system, 0, sizeof system);
    unit = system.mem_unit;
    total = (json_int_t)system.totalram * unit;
    unused = (json_int_t)system.freeram * unit;
    return json_pack("{s:{s:I, s:I, s:I}, s:o}", "ram", "free", unused, "used", total - unused,
                     "total", total, "cuda", device_memory(state));
}

static const struct {
    const char *name;
    json_t *(*make)(const struct hub_state *state);
} lists[] = {
    {"cmd-flags", flags},       {"embeddings", embeddings},
    {"extensions", nothing},    {"face-restorers", nothing},
    {"hypernetworks", nothing}, {"latent-upscale-modes", latent_modes},
    {"loras", nothing},         {"memory", memory},
    {"prompt-styles", nothing}, {"realesrgan-models", nothing},
    {"samplers", samplers},     {"schedulers", schedulers},
    {"script-info", nothing},   {"scripts", scripts},
    {"sd-models", models},      {"sd-modules", nothing},
    {"sd-vae", nothing},        {"upscalers", upscalers},
};

json_t *a1111_list(const char *name, const struct hub_state *state)
{
    for (size_t i = 0; i < COUNT_OF(lists); i++)
        if (strcmp(lists[i].name, name) == 0)
            return lists[i].make(state);
    return NULL;
}
