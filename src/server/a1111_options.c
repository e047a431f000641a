#include "server/a1111_options.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "server/a1111_response.h"

#define SETTING "options.a1111"
#define TEXT_BYTES_MAX 256

struct a1111_options {
    struct hub *hub;
    pthread_mutex_t lock;
    json_t *stored; /* under lock: an object of what was changed */
};

/* What there is, with its default; the model's entries are added where they are known. */
static json_t *defaults(void)
{
    return json_pack("{s:s, s:i, s:b, s:s, s:i, s:i, s:b, s:i, s:b, s:s, s:s}", "sd_vae",
                     "Automatic", "CLIP_stop_at_last_layers", 1, "samples_save", 1,
                     "samples_format", "png", "jpeg_quality", 90, "show_progress_every_n_steps", 1,
                     "live_previews_enable", 1, "live_preview_refresh_period", 250, "grid_save", 0,
                     "outdir_txt2img_samples", "", "outdir_img2img_samples", "");
}

static bool has_type_of(const json_t *value, const json_t *example)
{
    if (json_is_boolean(example))
        return json_is_boolean(value);
    if (json_is_integer(example))
        return json_is_integer(value);
    return json_is_string(value) && json_string_length(value) <= TEXT_BYTES_MAX;
}

json_t *a1111_options_merged(const json_t *stored, const json_t *changes)
{
    json_t *merged = json_object(), *known = defaults();
    const char *name;
    json_t *example;
    bool ok = merged && known && json_object_update(merged, (json_t *)stored) == 0;

    json_object_foreach(known, name, example)
    {
        json_t *value = json_object_get(changes, name);

        if (ok && value && has_type_of(value, example))
            ok = json_object_set(merged, name, value) == 0;
    }
    json_decref(known);
    if (ok)
        return merged;
    json_decref(merged);
    return NULL;
}

/* --- In the store --- */

static bool load(void *context, struct store *store, struct error *err)
{
    struct a1111_options *options = context;
    json_t *kept, *nothing = json_object();
    char *text = NULL;

    if (!store_get_setting(store, SETTING, &text, err)) {
        json_decref(nothing);
        return false;
    }
    /* What is damaged counts as nothing: it is only settings. */
    kept = text ? json_loads(text, 0, NULL) : NULL;
    options->stored = a1111_options_merged(nothing, kept);
    free(text);
    json_decref(kept);
    json_decref(nothing);
    return options->stored || error_set(err, ERROR_NO_MEMORY, "options");
}

bool a1111_options_create(struct a1111_options **out, struct hub *hub, struct error *err)
{
    struct a1111_options *options = calloc(1, sizeof *options);

    if (!options)
        return error_set(err, ERROR_NO_MEMORY, "options");
    options->hub = hub;
    pthread_mutex_init(&options->lock, NULL);
    if (!hub_with_store(hub, load, options, err)) {
        a1111_options_destroy(options);
        return error_in(err, "options");
    }
    *out = options;
    return true;
}

void a1111_options_destroy(struct a1111_options *options)
{
    if (!options)
        return;
    json_decref(options->stored);
    pthread_mutex_destroy(&options->lock);
    free(options);
}

struct change {
    struct a1111_options *options;
    const json_t *changes;
};

/* On the hub's thread, so that changes come one after the other. */
static bool keep(void *context, struct store *store, struct error *err)
{
    const struct change *change = context;
    struct a1111_options *options = change->options;
    json_t *merged, *before;
    char *text;
    bool ok;

    pthread_mutex_lock(&options->lock);
    merged = a1111_options_merged(options->stored, change->changes);
    pthread_mutex_unlock(&options->lock);
    text = merged ? json_dumps(merged, JSON_COMPACT) : NULL;
    if (!text) {
        json_decref(merged);
        return error_set(err, ERROR_NO_MEMORY, "options");
    }
    ok = store_set_setting(store, SETTING, text, err);
    free(text);
    if (!ok) {
        json_decref(merged);
        return false;
    }
    pthread_mutex_lock(&options->lock);
    before = options->stored;
    options->stored = merged;
    pthread_mutex_unlock(&options->lock);
    json_decref(before);
    return true;
}

bool a1111_options_change(struct a1111_options *options, const json_t *changes, struct error *err)
{
    struct change change = {.options = options, .changes = changes};

    return hub_with_store(options->hub, keep, &change, err) || error_in(err, "options");
}

json_t *a1111_options_json(struct a1111_options *options, const struct worker_facts *facts)
{
    json_t *all = defaults();
    bool ok;

    pthread_mutex_lock(&options->lock);
    ok = all && json_object_update(all, options->stored) == 0;
    pthread_mutex_unlock(&options->lock);
    ok = ok &&
         json_object_set_new(all, "sd_model_checkpoint",
                             facts ? a1111_model_title(facts) : json_string("")) == 0 &&
         json_object_set_new(all, "sd_checkpoint_hash",
                             json_string(facts ? facts->model_hash : "")) == 0;
    if (ok)
        return all;
    json_decref(all);
    return NULL;
}

static const char *type_of(const json_t *example)
{
    return json_is_boolean(example) ? "boolean" : json_is_integer(example) ? "integer" : "string";
}

/* Another type is let go, so any is taken. */
json_t *a1111_options_schema(void)
{
    json_t *known = defaults(), *properties = json_object(), *example;
    bool ok = known && properties;
    const char *name;

    ok = ok && json_object_set_new(known, "sd_model_checkpoint", json_string("")) == 0 &&
         json_object_set_new(known, "sd_checkpoint_hash", json_string("")) == 0;
    json_object_foreach(known, name, example) ok =
        ok &&
        json_object_set_new(properties, name, json_pack("{s:s}", "type", type_of(example))) == 0;
    json_decref(known);
    if (ok)
        return json_pack("{s:s, s:b, s:o}", "type", "object", "additionalProperties", 1,
                         "properties", properties);
    json_decref(properties);
    return NULL;
}
