#include "convert/quantization_record.h"

#include <math.h>
#include <string.h>

#define VERSION 1
#define ERROR_DIGITS 1e6 /* six places are more than anybody compares */

const char *quantization_layout_name(enum convert_layout layout)
{
    static const char *const names[] = {
        [CONVERT_DIFFUSERS] = "diffusers",
        [CONVERT_SINGLE] = "single",
        [CONVERT_COMFYUI] = "comfyui",
    };

    return names[layout];
}

static json_t *layer_json(const struct plan_layer *layer, const struct convert_choice *choice)
{
    const struct tensor *view = &layer->source->view;
    json_t *error = isnan(layer->error)
                        ? json_null()
                        : json_real(round(layer->error * ERROR_DIGITS) / ERROR_DIGITS);
    json_t *entry, *facts = choice ? choice->layer_facts(choice->context, layer->name) : NULL;

    entry = json_pack("{s:s, s:s, s:I, s:I, s:s, s:b, s:s?, s:o}", "layer", layer->name, "tensor",
                      layer->tensor, "rows", (json_int_t)view->dim[0], "columns",
                      (json_int_t)view->dim[1], "type", dtype_name(layer->dtype), "kept",
                      layer->reason != NULL, "reason", layer->reason, "error_alone", error);
    if (entry && facts)
        json_object_update(entry, facts);
    return entry;
}

static json_t *layers_json(const struct convert_plan *plan, const struct convert_choice *choice)
{
    json_t *layers = json_array();

    for (size_t i = 0; layers && i < plan->layer_count; i++)
        if (json_array_append_new(layers, layer_json(&plan->layers[i], choice)) != 0) {
            json_decref(layers);
            return NULL;
        }
    return layers;
}

static json_t *components_json(const struct convert_plan *plan)
{
    json_t *components = json_object();

    for (int c = 0; c < COMPONENT_COUNT; c++)
        if (plan->component_bytes[c] > 0)
            json_object_set_new(components, keep_rule_component((enum component)c),
                                json_pack("{s:I, s:I}", "source",
                                          (json_int_t)plan->component_source_bytes[c], "converted",
                                          (json_int_t)plan->component_bytes[c]));
    return components;
}

static bool is_read(const struct model_tensors *list, const struct safetensors_entry *entry)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->tensor[i].entry == entry)
            return true;
    return false;
}

static json_t *left_out_json(const struct convert_plan *plan)
{
    json_t *names = json_array();

    for (int c = 0; c < COMPONENT_COUNT; c++) {
        const struct weights *weights = plan->files->component[c];
        size_t count = weights ? weights_stored_count(weights) : 0;

        for (size_t i = 0; i < count; i++) {
            const struct safetensors_file *file;
            const struct safetensors_entry *entry = weights_stored_at(weights, i, &file);

            if (!is_read(&plan->list[c], entry))
                json_array_append_new(names, json_string(entry->name));
        }
    }
    return names;
}

json_t *quantization_record(const struct convert_plan *plan, const struct convert_options *options,
                            json_t *source)
{
    const struct convert_choice *choice = options->choice;
    json_t *record, *facts = choice ? choice->facts(choice->context) : NULL;

    record = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:o, s:{s:I, s:I}, s:o, s:o, s:o}",
                       "version", VERSION, "made_by", options->made_by, "format",
                       dtype_name(plan->format), "layout", quantization_layout_name(plan->layout),
                       "factors", plan->layout == CONVERT_COMFYUI ? "tensor" : "row", "rule",
                       choice ? "calibrated" : "default", "source", source, "bytes", "source",
                       (json_int_t)plan->source_bytes, "converted", (json_int_t)plan->bytes,
                       "components", components_json(plan), "layers", layers_json(plan, choice),
                       "left_out", left_out_json(plan));
    if (record && facts)
        json_object_set(record, "calibration", facts);
    return record;
}
