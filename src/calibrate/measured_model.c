#include "calibrate/measured_model.h"

#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_features.h"
#include "pipeline/pipeline_probe.h"

#define LATENT_CHANNELS 16
#define LATENT_FACTOR 8 /* pixels a cell, each way */

/* Where the pipeline has the weight that the plan knows by the same name. */
static void note_weight(void *context, enum component component,
                        const struct weights_tensor *tensor)
{
    struct layer_tap *tap = context;
    struct tapped_layer *layer;
    char name[LAYER_NAME_BYTES];

    if (tensor->use != WEIGHTS_LINEAR)
        return;
    snprintf(name, sizeof name, "%s.%.*s", keep_rule_component(component),
             (int)(strrchr(tensor->name, '.') - tensor->name), tensor->name);
    layer = layer_tap_find(tap, name);
    if (layer)
        layer->data = tensor->view.data;
}

static bool open_pipeline(struct measured_model *model, const struct convert_options *options,
                          struct error *err)
{
    const struct pipeline_options wanted = {
        .model = options->model,
        .vae = options->vae,
        .clip_l = options->clip_l,
        .clip_g = options->clip_g,
        .t5 = options->t5,
        .tokenizers = options->tokenizers,
        .device = "cpu",
        .threads = options->threads,
        .memory = MEMORY_ALL,
    };
    const struct pipeline_probe probe = {.tensor = note_weight, .context = model->tap};

    return pipeline_create_probed(&model->pipeline, &wanted, &probe, err) &&
           layer_tap_attach(model->tap, pipeline_ops(model->pipeline),
                            pipeline_stream(model->pipeline), err);
}

bool measured_model_open(struct measured_model *model, const struct convert_options *options,
                         struct error *err)
{
    const struct model_paths paths = convert_source_paths(options);

    *model = (struct measured_model){.ops = quantise_ops(cpu_features_detect())};
    if (model_files_open(&model->files, &paths, err) &&
        convert_plan_create(&model->plan, model->files, options, model->ops, err) &&
        layer_tap_create(&model->tap, model->plan, err) && open_pipeline(model, options, err))
        return true;
    measured_model_close(model);
    return false;
}

static void free_copies(struct measured_model *model)
{
    for (size_t i = 0; model->copies && i < model->plan->layer_count; i++)
        fp8_copy_finish(&model->copies[i]);
    free(model->copies);
    model->copies = NULL;
}

void measured_model_close(struct measured_model *model)
{
    pipeline_destroy(model->pipeline);
    free_copies(model);
    layer_tap_destroy(model->tap);
    convert_plan_destroy(model->plan);
    model_files_close(model->files);
    *model = (struct measured_model){0};
}

bool measured_model_quantise(struct measured_model *model, enum dtype format,
                             enum fp8_recipe recipe, struct error *err)
{
    const struct convert_plan *plan = model->plan;

    measured_model_use_all(model, false);
    free_copies(model);
    model->copies = calloc(plan->layer_count + 1, sizeof *model->copies);
    if (!model->copies)
        return error_set(err, ERROR_NO_MEMORY, "FP8 copies");
    for (size_t i = 0; i < plan->layer_count; i++) {
        const struct plan_layer *layer = &plan->layers[i];

        if (strncmp(layer->name, "vae.", strlen("vae.")) != 0 &&
            !fp8_copy_init(&model->copies[i], &layer->source->view, format, recipe, model->ops,
                           err))
            return error_in(err, "'%s'", layer->name);
    }
    return true;
}

void measured_model_use(struct measured_model *model, size_t i, bool is_fp8)
{
    bool has_copy = model->copies && model->copies[i].weight.data;

    model->tap->layers[i].copy = is_fp8 && has_copy ? &model->copies[i] : NULL;
    model->tap->layers[i].has_fp8_activations = false;
}

void measured_model_use_all(struct measured_model *model, bool is_fp8)
{
    for (size_t i = 0; i < model->plan->layer_count; i++)
        measured_model_use(model, i, is_fp8);
}

static bool is_modulation(const char *name)
{
    const char *last = strrchr(name, '.');

    return strcmp(last, ".modulation") == 0 || strcmp(last, ".shift") == 0 ||
           strcmp(last, ".scale") == 0;
}

void measured_model_round_activations(struct measured_model *model, bool is_rounded)
{
    for (size_t i = 0; i < model->tap->count; i++) {
        struct tapped_layer *layer = &model->tap->layers[i];
        const char *name = layer->layer->name;

        layer->has_fp8_activations = is_rounded && layer->copy &&
                                     strncmp(name, "transformer.", strlen("transformer.")) == 0 &&
                                     !is_modulation(name);
    }
}

bool measured_model_draw(struct measured_model *model, struct image *out,
                         const struct pipeline_request *request, float *latent,
                         const atomic_bool *cancel, struct error *err)
{
    const struct pipeline_callbacks callbacks = {.cancel = cancel};
    struct pipeline_result result;

    if (!pipeline_run(model->pipeline, request, &callbacks, &result, err))
        return false;
    *out = result.images[0];
    result.images[0] = (struct image){0};
    if (latent)
        memcpy(latent, result.latents,
               (size_t)(request->width / LATENT_FACTOR) *
                   (size_t)(request->height / LATENT_FACTOR) * LATENT_CHANNELS * sizeof *latent);
    pipeline_result_finish(&result);
    return true;
}
