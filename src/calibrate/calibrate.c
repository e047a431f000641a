#include "calibrate/calibrate.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "calibrate/calibration_record.h"
#include "calibrate/keep_choice.h"
#include "calibrate/measured_model.h"
#include "calibrate/prompt_list.h"

#define SCAN_SEED 1000 /* of the first; every picture has its own */
#define PAIR_SEED 2000
#define SCAN_SIDE_MIN 128
#define LATENT_CHANNELS 16
#define LATENT_FACTOR 8 /* pixels a cell, each way */

struct work {
    const struct calibrate_options *options;
    const struct calibrate_callbacks *callbacks;
    struct prompt_list prompts;
    struct measured_model model;
    struct image scan[CALIBRATE_SCAN_PICTURES]; /* in 16 bits */
    struct calibration *found;
    int done, total;
    double started;
};

static bool out_of_memory(struct error *err)
{
    return error_set(err, ERROR_NO_MEMORY, "calibration");
}

static void advance(struct work *work, int pictures)
{
    struct calibrate_progress now;

    work->done += pictures;
    now = (struct calibrate_progress){
        .done = work->done, .total = work->total, .seconds = seconds_now() - work->started};
    if (work->callbacks->progress)
        work->callbacks->progress(work->callbacks->context, &now);
}

/* --- Names --- */

void calibration_block_of(char block[LAYER_NAME_BYTES], const char *layer)
{
    const char *dot = strchr(layer, '.'), *index = dot ? strchr(dot + 1, '.') : NULL;
    size_t length = dot ? (size_t)(dot - layer) : strlen(layer);

    if (index && isdigit((unsigned char)index[1]))
        length = (size_t)(index - layer) + 1 + strcspn(index + 1, ".");
    snprintf(block, LAYER_NAME_BYTES, "%.*s", (int)length, layer);
}

static bool list_layers(struct calibration *found, const struct convert_plan *plan,
                        struct error *err)
{
    char block[LAYER_NAME_BYTES];

    found->layers = calloc(plan->layer_count + 1, sizeof *found->layers);
    found->blocks = calloc(plan->layer_count + 1, sizeof *found->blocks);
    if (!found->layers || !found->blocks)
        return out_of_memory(err);
    found->layer_count = plan->layer_count;
    for (size_t i = 0; i < plan->layer_count; i++) {
        struct layer_finding *layer = &found->layers[i];
        size_t known = 0;

        snprintf(layer->name, sizeof layer->name, "%s", plan->layers[i].name);
        layer->is_measured = strncmp(layer->name, "vae.", strlen("vae.")) != 0;
        if (!layer->is_measured)
            continue;
        calibration_block_of(block, layer->name);
        while (known < found->block_count && strcmp(found->blocks[known].name, block) != 0)
            known++;
        if (known == found->block_count)
            snprintf(found->blocks[found->block_count++].name, sizeof block, "%s", block);
    }
    return true;
}

/* --- Small pictures --- */

static int scan_side(int side)
{
    int half = side / 2 - side / 2 % PIPELINE_SIDE_STEP;
    int least = side < SCAN_SIDE_MIN ? side : SCAN_SIDE_MIN;

    return half > least ? half : least;
}

static bool draw_scan(struct work *work, struct image *out, int i, struct error *err)
{
    struct pipeline_request request;
    bool ok;

    pipeline_request_defaults(work->model.pipeline, &request);
    request.prompt = work->prompts.prompt[i];
    request.seed = SCAN_SEED + (uint64_t)i;
    request.width = request.height = work->found->scan_side;
    request.steps = CALIBRATE_SCAN_STEPS;
    ok = measured_model_draw(&work->model, out, &request, NULL, work->callbacks->cancel, err);
    if (ok)
        advance(work, 1);
    return ok;
}

static bool draw_references(struct work *work, struct error *err)
{
    bool ok = true;

    work->model.tap->is_recording = true;
    for (int i = 0; i < work->found->scan_pictures && ok; i++)
        ok = draw_scan(work, &work->scan[i], i, err);
    work->model.tap->is_recording = false;
    return ok;
}

/* With what is in FP8 now. */
static bool scan(struct work *work, struct picture_error *out, struct error *err)
{
    int count = work->found->scan_pictures;

    *out = (struct picture_error){0};
    for (int i = 0; i < count; i++) {
        struct picture_error error = {0};
        struct image image;
        bool ok;

        if (!draw_scan(work, &image, i, err))
            return false;
        ok = picture_error_measure(&error, &work->scan[i], &image, err);
        image_finish(&image);
        if (!ok)
            return false;
        out->ssim += error.ssim / count;
        out->delta_e += error.delta_e / count;
    }
    return true;
}

static bool scan_layers(struct work *work, struct error *err)
{
    struct calibration *found = work->found;

    for (size_t i = 0; i < found->layer_count; i++) {
        bool ok;

        if (!found->layers[i].is_measured)
            continue;
        measured_model_use(&work->model, i, true);
        ok = scan(work, &found->layers[i].alone, err);
        measured_model_use(&work->model, i, false);
        if (!ok)
            return false;
    }
    return true;
}

static bool scan_blocks(struct work *work, struct error *err)
{
    struct calibration *found = work->found;
    char block[LAYER_NAME_BYTES];

    for (size_t b = 0; b < found->block_count; b++) {
        for (size_t i = 0; i < found->layer_count; i++) {
            calibration_block_of(block, found->layers[i].name);
            measured_model_use(&work->model, i, strcmp(block, found->blocks[b].name) == 0);
        }
        if (!scan(work, &found->blocks[b].alone, err))
            return false;
    }
    measured_model_use_all(&work->model, false);
    return true;
}

/* --- The choice --- */

static size_t fp8_bytes(const struct plan_tensor *tensor)
{
    return (size_t)(tensor->rows * tensor->columns) + (size_t)tensor->rows * sizeof(float);
}

static bool is_linear(const struct plan_tensor *tensor)
{
    return tensor->layer[0] && tensor->component != COMPONENT_VAE;
}

static size_t index_of(const struct work *work, const struct plan_layer *layer)
{
    return (size_t)(layer - work->model.plan->layers);
}

static bool is_asked_for(const struct work *work, const struct plan_tensor *tensor)
{
    for (int part = 0; part < tensor->parts; part++)
        if (keep_rule_matches(work->options->convert->keep, tensor->layer[part]->name))
            return true;
    return false;
}

static double harm_of(const struct work *work, const struct plan_tensor *tensor)
{
    double harm = 0.0;

    for (int part = 0; part < tensor->parts; part++)
        harm += picture_error_harm(&work->found->layers[index_of(work, tensor->layer[part])].alone);
    return harm;
}

/* Tensors of one component are kept or not, each with all layers in it. What --keep asks for is
 * beside the budget. */
static bool choose_in(struct work *work, enum component component, struct keep_unit *units,
                      struct error *err)
{
    const struct convert_plan *plan = work->model.plan;
    size_t all_fp8 = 0;

    for (size_t i = 0; i < plan->tensor_count; i++) {
        const struct plan_tensor *tensor = &plan->tensors[i];

        units[i] = (struct keep_unit){0};
        if (tensor->component != component)
            continue;
        all_fp8 += is_linear(tensor) ? fp8_bytes(tensor) : tensor->bytes;
        if (!is_linear(tensor) || is_asked_for(work, tensor))
            continue;
        units[i].harm = harm_of(work, tensor);
        units[i].bytes = 2 * (size_t)(tensor->rows * tensor->columns) - fp8_bytes(tensor);
    }
    if (!keep_choose(units, plan->tensor_count,
                     (size_t)((double)all_fp8 * work->options->budget / 100.0), err))
        return false;
    for (size_t i = 0; i < plan->tensor_count; i++)
        for (int part = 0; part < plan->tensors[i].parts && plan->tensors[i].component == component;
             part++)
            if (is_linear(&plan->tensors[i]))
                work->found->layers[index_of(work, plan->tensors[i].layer[part])].is_kept =
                    units[i].is_kept || is_asked_for(work, &plan->tensors[i]);
    return true;
}

static bool choose(struct work *work, struct error *err)
{
    struct keep_unit *units = calloc(work->model.plan->tensor_count + 1, sizeof *units);
    bool ok = true;

    if (!units)
        return out_of_memory(err);
    for (int c = 0; c < COMPONENT_COUNT && ok; c++)
        if (c != COMPONENT_VAE)
            ok = choose_in(work, (enum component)c, units, err);
    free(units);
    return ok;
}

static void use_choice(struct work *work)
{
    for (size_t i = 0; i < work->found->layer_count; i++)
        measured_model_use(&work->model, i, !work->found->layers[i].is_kept);
}

/* --- Whole pictures --- */

/* One picture, and its latents after each step. */
static bool draw_whole(struct work *work, struct image *out, float *latents,
                       const struct pipeline_request *request, int weight, struct error *err)
{
    struct layer_tap *tap = work->model.tap;
    size_t size = tap->latent_size;
    bool ok;

    /* The transformer is given what the step before it left: the last one's comes by itself. */
    tap->latents = latents;
    tap->latent_room = request->steps;
    tap->latent_count = 0;
    ok = measured_model_draw(&work->model, out, request, latents + (size_t)request->steps * size,
                             work->callbacks->cancel, err);
    tap->latents = NULL;
    if (ok)
        advance(work, weight);
    return ok;
}

static double relative_error(const float *got, const float *want, size_t count)
{
    double difference = 0.0, size = 0.0;

    for (size_t i = 0; i < count; i++) {
        difference += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        size += (double)want[i] * (double)want[i];
    }
    return size > 0.0 ? sqrt(difference / size) : 0.0;
}

static bool draw_pair(struct work *work, int i, float *before, float *after, int weight,
                      struct error *err)
{
    struct calibration *found = work->found;
    struct picture_pair *pair = &found->pairs[i];
    size_t size = work->model.tap->latent_size;
    struct pipeline_request request;
    bool ok;

    pair->prompt = strdup(work->prompts.prompt[i]);
    pair->seed = PAIR_SEED + (uint64_t)i;
    if (!pair->prompt)
        return out_of_memory(err);
    pipeline_request_defaults(work->model.pipeline, &request);
    request.prompt = pair->prompt;
    request.seed = pair->seed;
    measured_model_use_all(&work->model, false);
    work->model.tap->is_recording = true;
    ok = draw_whole(work, &pair->before, before, &request, weight, err);
    work->model.tap->is_recording = false;
    use_choice(work);
    if (!ok || !draw_whole(work, &pair->after, after, &request, weight, err) ||
        !picture_error_measure(&pair->error, &pair->before, &pair->after, err))
        return false;
    for (int step = 0; step < found->steps; step++)
        found->step_error[step] += relative_error(after + (size_t)(step + 1) * size,
                                                  before + (size_t)(step + 1) * size, size) /
                                   found->pair_count;
    return true;
}

static bool draw_pairs(struct work *work, int weight, struct error *err)
{
    struct calibration *found = work->found;
    struct layer_tap *tap = work->model.tap;
    size_t cells = (size_t)(found->side / LATENT_FACTOR) * (size_t)(found->side / LATENT_FACTOR);
    float *before, *after;
    bool ok;

    tap->latent_size = cells * LATENT_CHANNELS;
    before = calloc((size_t)found->steps + 1, tap->latent_size * sizeof *before);
    after = calloc((size_t)found->steps + 1, tap->latent_size * sizeof *after);
    found->step_error = calloc((size_t)found->steps, sizeof *found->step_error);
    ok = before && after && found->step_error;
    if (!ok)
        out_of_memory(err);
    for (int i = 0; i < found->pair_count && ok; i++)
        ok = draw_pair(work, i, before, after, weight, err);
    free(before);
    free(after);
    return ok;
}

/* --- All of it --- */

static bool summarise_activations(struct work *work, struct error *err)
{
    for (size_t i = 0; i < work->found->layer_count; i++) {
        const struct tapped_layer *seen = &work->model.tap->layers[i];
        struct layer_finding *layer = &work->found->layers[i];

        layer->has_activations = layer->is_measured && seen->rows_seen > 0;
        if (layer->has_activations && !layer_tap_summarise(&layer->activations, seen, err))
            return false;
    }
    return true;
}

/* Sizes and counts; returns how many small pictures a whole one counts as. */
static int set_sizes(struct work *work)
{
    struct calibration *found = work->found;
    struct pipeline_request request;
    int64_t small, whole;
    int weight, measured = 0;

    pipeline_request_defaults(work->model.pipeline, &request);
    found->side = request.width;
    found->steps = request.steps;
    found->scan_side = scan_side(request.width);
    found->scan_pictures = work->prompts.count < CALIBRATE_SCAN_PICTURES ? work->prompts.count
                                                                         : CALIBRATE_SCAN_PICTURES;
    found->pair_count =
        work->prompts.count < CALIBRATE_PAIRS ? work->prompts.count : CALIBRATE_PAIRS;
    small = (int64_t)found->scan_side * found->scan_side * CALIBRATE_SCAN_STEPS;
    whole = (int64_t)found->side * found->side * found->steps;
    weight = (int)((whole + small - 1) / small);
    for (size_t i = 0; i < found->layer_count; i++)
        measured += found->layers[i].is_measured;
    work->total = found->scan_pictures * (measured + (int)found->block_count + 2) +
                  2 * weight * found->pair_count;
    return weight;
}

static bool run(struct work *work, struct error *err)
{
    const struct calibrate_options *options = work->options;
    struct calibration *found = work->found;
    int weight;

    if (!prompt_list_read(&work->prompts, options->prompts, err) ||
        !measured_model_open(&work->model, options->convert, err) ||
        !list_layers(found, work->model.plan, err))
        return false;
    weight = set_sizes(work);
    advance(work, 0);
    if (!measured_model_quantise(&work->model, options->convert->format, FP8_ROWS, err) ||
        !draw_references(work, err) || !scan_layers(work, err) || !scan_blocks(work, err) ||
        !choose(work, err))
        return false;
    use_choice(work);
    if (!scan(work, &found->scan_together, err) || !draw_pairs(work, weight, err) ||
        !summarise_activations(work, err))
        return false;
    found->seconds = seconds_now() - work->started;
    return calibration_record_make(found, work->model.tap, &work->prompts, err);
}

bool calibrate_model(struct calibration **out, const struct calibrate_options *options,
                     const struct calibrate_callbacks *callbacks, struct error *err)
{
    struct work work = {.options = options, .callbacks = callbacks, .started = seconds_now()};
    bool ok;

    work.found = calloc(1, sizeof *work.found);
    if (!work.found)
        return out_of_memory(err);
    work.found->budget = options->budget;
    ok = run(&work, err);
    for (int i = 0; i < CALIBRATE_SCAN_PICTURES; i++)
        image_finish(&work.scan[i]);
    measured_model_close(&work.model);
    prompt_list_finish(&work.prompts);
    if (!ok) {
        calibration_destroy(work.found);
        return false;
    }
    *out = work.found;
    return true;
}

void calibration_destroy(struct calibration *calibration)
{
    if (!calibration)
        return;
    for (size_t i = 0; calibration->layers && i < calibration->layer_count; i++)
        json_decref(calibration->layers[i].facts);
    for (int i = 0; i < CALIBRATE_PAIRS; i++) {
        free(calibration->pairs[i].prompt);
        image_finish(&calibration->pairs[i].before);
        image_finish(&calibration->pairs[i].after);
    }
    json_decref(calibration->facts);
    free(calibration->layers);
    free(calibration->blocks);
    free(calibration->step_error);
    free(calibration);
}

struct picture_error calibration_together(const struct calibration *calibration)
{
    struct picture_error mean = {0};

    for (int i = 0; i < calibration->pair_count; i++) {
        mean.ssim += calibration->pairs[i].error.ssim / calibration->pair_count;
        mean.delta_e += calibration->pairs[i].error.delta_e / calibration->pair_count;
    }
    return mean;
}

/* --- Deciding for a conversion --- */

static const struct layer_finding *find_layer(const struct calibration *calibration,
                                              const char *name)
{
    for (size_t i = 0; i < calibration->layer_count; i++)
        if (strcmp(calibration->layers[i].name, name) == 0)
            return &calibration->layers[i];
    return NULL;
}

static bool keeps(void *context, const char *layer)
{
    const struct layer_finding *found = find_layer(context, layer);

    return found && found->is_kept;
}

static json_t *layer_facts(void *context, const char *layer)
{
    const struct layer_finding *found = find_layer(context, layer);

    return found ? found->facts : NULL;
}

static json_t *facts(void *context)
{
    const struct calibration *calibration = context;

    return calibration->facts;
}

struct convert_choice calibration_choice(struct calibration *calibration)
{
    return (struct convert_choice){
        .keeps = keeps, .layer_facts = layer_facts, .facts = facts, .context = calibration};
}
