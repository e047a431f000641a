#include "calibrate/calibration_record.h"

#include <math.h>
#include <string.h>

#define DIGITS 6     /* that anybody compares */
#define KEY_DIGITS 5 /* there are many */

/* To so many significant digits. */
static json_t *number(double value, int digits)
{
    double unit;

    if (value == 0.0 || !isfinite(value))
        return json_real(0.0);
    unit = pow(10.0, digits - 1 - floor(log10(fabs(value))));
    return json_real(round(value * unit) / unit);
}

static json_t *outliers_json(const struct activation_summary *activations)
{
    json_t *list = json_array();

    for (int64_t i = 0; i < activations->outliers && i < ACTIVATION_OUTLIERS_NAMED; i++)
        json_array_append_new(list, json_integer(activations->outlier[i]));
    return list;
}

static json_t *activations_json(const struct layer_finding *layer)
{
    const struct activation_summary *seen = &layer->activations;

    return json_pack("{s:o, s:o, s:o, s:o, s:I, s:o}", "largest",
                     number((double)seen->largest, DIGITS), "channel_median",
                     number((double)seen->median, DIGITS), "channel_least",
                     number((double)seen->least, DIGITS), "static_scale",
                     number((double)seen->static_scale, DIGITS), "outlier_channels",
                     (json_int_t)seen->outliers, "outliers", outliers_json(seen));
}

static bool add_layer_facts(struct layer_finding *layer)
{
    layer->facts = json_object();
    if (!layer->facts)
        return false;
    if (layer->is_measured) {
        json_object_set_new(layer->facts, "ssim_alone", number(layer->alone.ssim, DIGITS));
        json_object_set_new(layer->facts, "delta_e_alone", number(layer->alone.delta_e, DIGITS));
    }
    if (layer->has_activations)
        json_object_set_new(layer->facts, "activations", activations_json(layer));
    return true;
}

static json_t *blocks_json(const struct calibration *calibration)
{
    json_t *blocks = json_array();

    for (size_t i = 0; i < calibration->block_count; i++) {
        const struct block_finding *block = &calibration->blocks[i];

        json_array_append_new(blocks,
                              json_pack("{s:s, s:o, s:o}", "block", block->name, "ssim_alone",
                                        number(block->alone.ssim, DIGITS), "delta_e_alone",
                                        number(block->alone.delta_e, DIGITS)));
    }
    return blocks;
}

static json_t *heads_json(const struct tapped_layer *layer)
{
    int64_t width = layer->layer->source->view.dim[0] / layer->key_heads;
    json_t *heads = json_array();

    for (int64_t n = 0; n < layer->key_heads; n++) {
        json_t *mean = json_array();

        for (int64_t d = 0; d < width; d++)
            json_array_append_new(
                mean, number(layer->key_sum[n * width + d] / (double)layer->keys_seen, KEY_DIGITS));
        json_array_append_new(heads, mean);
    }
    return heads;
}

/* Recorded with the layer that makes v, told of the one that makes k. */
static json_t *key_means_json(const struct layer_tap *tap)
{
    json_t *list = json_array();
    char name[LAYER_NAME_BYTES];

    for (size_t i = 0; i < tap->count; i++) {
        const struct tapped_layer *layer = &tap->layers[i];

        if (layer->keys_seen == 0)
            continue;
        snprintf(name, sizeof name, "%s", layer->layer->name);
        *(strrchr(name, '.') + 1) = 'k';
        json_array_append_new(list,
                              json_pack("{s:s, s:o}", "layer", name, "mean", heads_json(layer)));
    }
    return list;
}

static json_t *together_json(const struct calibration *calibration)
{
    struct picture_error mean = calibration_together(calibration);
    json_t *steps = json_array();
    double worst = 1.0;

    for (int i = 0; i < calibration->steps; i++)
        json_array_append_new(steps, number(calibration->step_error[i], DIGITS));
    for (int i = 0; i < calibration->pair_count; i++)
        worst = fmin(worst, calibration->pairs[i].error.ssim);
    return json_pack("{s:i, s:i, s:i, s:o, s:o, s:o, s:o}", "side", calibration->side, "steps",
                     calibration->steps, "pictures", calibration->pair_count, "ssim",
                     number(mean.ssim, DIGITS), "ssim_worst", number(worst, DIGITS), "delta_e",
                     number(mean.delta_e, DIGITS), "step_error", steps);
}

static json_t *prompts_json(const struct prompt_list *prompts)
{
    json_t *list = json_array();

    for (int i = 0; i < prompts->count; i++)
        json_array_append_new(list, json_string(prompts->prompt[i]));
    return list;
}

bool calibration_record_make(struct calibration *calibration, const struct layer_tap *tap,
                             const struct prompt_list *prompts, struct error *err)
{
    const struct picture_error *scan = &calibration->scan_together;
    bool ok = true;

    for (size_t i = 0; i < calibration->layer_count && ok; i++)
        ok = add_layer_facts(&calibration->layers[i]);
    calibration->facts =
        json_pack("{s:f, s:o, s:o, s:{s:i, s:i, s:i, s:o, s:o}, s:o, s:o, s:o}", "budget_percent",
                  calibration->budget, "prompts", prompts_json(prompts), "seconds",
                  number(calibration->seconds, 3), "scan", "side", calibration->scan_side, "steps",
                  CALIBRATE_SCAN_STEPS, "pictures", calibration->scan_pictures, "ssim_together",
                  number(scan->ssim, DIGITS), "delta_e_together", number(scan->delta_e, DIGITS),
                  "together", together_json(calibration), "blocks", blocks_json(calibration),
                  "key_means", key_means_json(tap));
    return (ok && calibration->facts) ||
           error_set(err, ERROR_NO_MEMORY, "record of the calibration");
}
