#include "weights/model_facts.h"

#include <math.h>
#include <string.h>

#include "weights/json_text.h"

static bool check(const json_t *facts, struct error *err)
{
    const json_t *name = json_object_get(facts, "name");
    const json_t *shift = json_object_get(facts, "flow_shift");
    json_t *configs = json_object_get(facts, "configs"), *config;
    const char *key;

    if (name && !json_is_string(name))
        return error_set(err, ERROR_BAD_FILE, "the name is not a string");
    if (shift && !(json_number_value(shift) > 0.0 && isfinite(json_number_value(shift))))
        return error_set(err, ERROR_BAD_FILE, "flow_shift is not above 0");
    if (configs && !json_is_object(configs))
        return error_set(err, ERROR_BAD_FILE, "configs is not an object");
    json_object_foreach(configs, key, config)
    {
        if (!json_is_object(config))
            return error_set(err, ERROR_BAD_FILE, "the configuration '%.64s' is not an object",
                             key);
    }
    return true;
}

bool model_facts_read(json_t **out, struct safetensors_file *const *files, size_t count,
                      struct error *err)
{
    *out = NULL;
    for (size_t i = 0; i < count; i++) {
        const char *text = safetensors_metadata(files[i], MODEL_FACTS_KEY);

        if (!text)
            continue;
        *out = json_text_parse(text, strlen(text), JSON_TEXT_DEPTH_MAX, err);
        if (*out && check(*out, err))
            return true;
        json_decref(*out);
        *out = NULL;
        return error_in(err, "'%s': " MODEL_FACTS_KEY, safetensors_path(files[i]));
    }
    return true;
}

json_t *model_facts_config(const json_t *facts, const char *name)
{
    return json_incref(json_object_get(json_object_get(facts, "configs"), name));
}
