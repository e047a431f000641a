#include "pipeline/pipeline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/size.h"
#include "pipeline/pipeline_private.h"
#include "pipeline/pipeline_probe.h"

#define SAMPLE_SIZE_DEFAULT 128 /* latent cells: 1024 pixels, every released model's */

/* --- Opening a model --- */

static const enum component clip_components[CLIP_COUNT] = {COMPONENT_CLIP_L, COMPONENT_CLIP_G};
static const char *const clip_pads[CLIP_COUNT] = {"<|endoftext|>", "!"};

static bool fail_missing(const struct pipeline_options *options, enum component component,
                         struct error *err)
{
    return error_set(err, ERROR_BAD_FILE, "model '%s' has no %s", options->model,
                     component_name(component));
}

static bool fail_tokenizer(const struct pipeline_options *options, enum component component,
                           struct error *err)
{
    return error_set(err, ERROR_BAD_FILE,
                     "model '%s' has no tokenizer for %s: name the folder that holds them",
                     options->model, component_name(component));
}

static bool check_vocabulary(const char *what, int64_t tokenizer, int64_t encoder,
                             struct error *err)
{
    if (tokenizer <= encoder)
        return true;
    return error_set(err, ERROR_BAD_FILE,
                     "%s: the tokenizer has %lld tokens, the encoder's embedding only %lld", what,
                     (long long)tokenizer, (long long)encoder);
}

static bool open_clip(struct pipeline *pipeline, const struct pipeline_options *options, int i,
                      struct error *err)
{
    enum component component = clip_components[i];
    const struct model_files *files = pipeline->files;

    if (!files->component[component])
        return fail_missing(options, component, err);
    if (!files->tokenizer_directory[component])
        return fail_tokenizer(options, component, err);
    return clip_encoder_create(&pipeline->clip[i], files->component[component],
                               &pipeline->backend->ops, err) &&
           clip_tokenizer_create(&pipeline->clip_tokenizer[i],
                                 files->tokenizer_directory[component], clip_pads[i], err) &&
           check_vocabulary(component_name(component),
                            clip_tokenizer_vocabulary_size(pipeline->clip_tokenizer[i]),
                            clip_encoder_vocabulary(pipeline->clip[i]), err);
}

static bool open_t5(struct pipeline *pipeline, const struct pipeline_options *options,
                    struct error *err)
{
    const struct model_files *files = pipeline->files;

    if (options->without_t5 || !files->component[COMPONENT_T5])
        return true;
    if (!files->tokenizer_directory[COMPONENT_T5])
        return fail_tokenizer(options, COMPONENT_T5, err);
    return t5_encoder_create(&pipeline->t5, files->component[COMPONENT_T5], &pipeline->backend->ops,
                             err) &&
           t5_tokenizer_create(&pipeline->t5_tokenizer, files->tokenizer_directory[COMPONENT_T5],
                               err) &&
           check_vocabulary("T5", t5_tokenizer_vocabulary_size(pipeline->t5_tokenizer),
                            t5_encoder_vocabulary(pipeline->t5), err);
}

/* The encoders' widths must add up to what the transformer reads. */
static bool check_widths(const struct pipeline *pipeline, struct error *err)
{
    const struct mmdit_shape *shape = mmdit_shape(pipeline->mmdit);
    int64_t clip = 0, pooled = 0;

    for (int i = 0; i < CLIP_COUNT; i++) {
        clip += clip_encoder_width(pipeline->clip[i]);
        pooled += clip_encoder_pooled_width(pipeline->clip[i]);
    }
    if (pooled != shape->pooled_width)
        return error_set(err, ERROR_BAD_FILE,
                         "the CLIP encoders' pooled vectors have %lld values together, the "
                         "transformer takes %lld",
                         (long long)pooled, (long long)shape->pooled_width);
    if (clip > shape->context_width)
        return error_set(err, ERROR_BAD_FILE,
                         "the CLIP encoders' tokens have %lld values together, the transformer "
                         "takes %lld",
                         (long long)clip, (long long)shape->context_width);
    if (pipeline->t5 && t5_encoder_width(pipeline->t5) != shape->context_width)
        return error_set(
            err, ERROR_BAD_FILE, "T5's tokens have %lld values, the transformer takes %lld",
            (long long)t5_encoder_width(pipeline->t5), (long long)shape->context_width);
    return true;
}

static bool open_vae(struct pipeline *pipeline, const struct pipeline_options *options,
                     struct error *err)
{
    struct weights *weights = pipeline->files->component[COMPONENT_VAE];

    if (!weights)
        return fail_missing(options, COMPONENT_VAE, err);
    latent_colours_read(&pipeline->colours, weights_config(weights));
    if (!vae_decoder_create(&pipeline->vae_decoder, weights, &pipeline->backend->ops, err))
        return false;
    return !weights_has(weights, "encoder.conv_in.weight") ||
           vae_encoder_create(&pipeline->vae_encoder, weights, &pipeline->backend->ops, err);
}

/* Read from the tensors; only the distilled Turbo cannot be told from them (model.md, 1.3). */
static void name_variant(struct pipeline *pipeline)
{
    const struct mmdit_shape *shape = mmdit_shape(pipeline->mmdit);
    const char *name = "MMDiT";

    if (shape->block_count == 38)
        name = pipeline->is_turbo ? "SD3.5 Large Turbo" : "SD3.5 Large";
    else if (shape->block_count == 24 && shape->self_attention_count > 0)
        name = "SD3.5 Medium";
    else if (shape->block_count == 24 && !shape->has_qk_norm)
        name = "SD3 Medium";
    else if (shape->self_attention_count > 0)
        name = "MMDiT-X";
    snprintf(pipeline->variant, sizeof pipeline->variant, "%s", name);
    snprintf(pipeline->weight_types, sizeof pipeline->weight_types, "%s",
             dtype_name(mmdit_weight_dtype(pipeline->mmdit)));
}

static bool open_models(struct pipeline *pipeline, const struct pipeline_options *options,
                        struct error *err)
{
    struct weights *transformer = pipeline->files->component[COMPONENT_TRANSFORMER];

    if (!transformer)
        return fail_missing(options, COMPONENT_TRANSFORMER, err);
    if (!mmdit_create(&pipeline->mmdit, transformer, &pipeline->backend->ops, err))
        return false;
    for (int i = 0; i < CLIP_COUNT; i++)
        if (!open_clip(pipeline, options, i, err))
            return false;
    return open_t5(pipeline, options, err) && open_vae(pipeline, options, err) &&
           check_widths(pipeline, err);
}

/* Of one component: observers are not told which it is. */
struct probed {
    const struct pipeline_probe *probe;
    enum component component;
    struct weights_observer observer;
};

static void tell_probe(void *context, const struct weights_tensor *tensor)
{
    const struct probed *probed = context;

    probed->probe->tensor(probed->probe->context, probed->component, tensor);
}

/* open_models, with somebody watching; `probe` may be NULL. */
static bool open_watched(struct pipeline *pipeline, const struct pipeline_options *options,
                         const struct pipeline_probe *probe, struct error *err)
{
    struct probed probed[COMPONENT_COUNT];
    struct weights **component = pipeline->files->component;
    bool ok;

    for (int c = 0; c < COMPONENT_COUNT && probe; c++) {
        probed[c] = (struct probed){.probe = probe, .component = (enum component)c};
        probed[c].observer = (struct weights_observer){.tensor = tell_probe, .context = &probed[c]};
        if (component[c])
            weights_observe(component[c], &probed[c].observer);
    }
    ok = open_models(pipeline, options, err);
    for (int c = 0; c < COMPONENT_COUNT && probe; c++)
        if (component[c])
            weights_observe(component[c], NULL);
    return ok;
}

/* FP8 at load, and what there is to say. */
static void quantise(struct pipeline *pipeline, const struct pipeline_options *options)
{
    struct weights **component = pipeline->files->component;

    snprintf(pipeline->notice, sizeof pipeline->notice, "%s", pipeline->backend->notice);
    if (!options->to_8_bits)
        return;
    if (!pipeline->backend->ops.weights_hold) {
        snprintf(pipeline->notice, sizeof pipeline->notice,
                 "%s%sFP8 while loading needs a GPU; "
                 "for this device, 'sd35 convert' makes an FP8 model",
                 pipeline->backend->notice, pipeline->backend->notice[0] ? "; " : "");
        return;
    }
    for (int c = 0; c < COMPONENT_COUNT; c++)
        if (component[c] && c != COMPONENT_VAE)
            weights_quantise(component[c]);
}

bool pipeline_create(struct pipeline **out, const struct pipeline_options *options,
                     struct error *err)
{
    return pipeline_create_probed(out, options, NULL, err);
}

bool pipeline_create_probed(struct pipeline **out, const struct pipeline_options *options,
                            const struct pipeline_probe *probe, struct error *err)
{
    struct model_paths paths = {.model = options->model,
                                .vae = options->vae,
                                .clip_l = options->clip_l,
                                .clip_g = options->clip_g,
                                .t5 = options->t5,
                                .tokenizers = options->tokenizers,
                                .name = options->model_name};
    const struct backend_options backend_options = {.device = options->device,
                                                    .cpu_level = options->cpu_level,
                                                    .precision = options->precision,
                                                    .threads = options->threads};
    struct stream_options stream_options = {.threads = options->threads};
    struct pipeline *pipeline = calloc(1, sizeof *pipeline);
    size_t total;

    if (!pipeline)
        return error_set(err, ERROR_NO_MEMORY, "pipeline");
    pipeline->memory = options->memory;
    pipeline->images_at_once = options->images_at_once > 0 ? options->images_at_once : 1;
    if (!prompt_store_create(&pipeline->prompts, options->prompts_kept, err) ||
        !backend_open(&pipeline->backend, &backend_options, err) ||
        !model_files_open(&pipeline->files, &paths, err))
        goto fail;
    if (options->vae_band_rows > 0)
        pipeline->vae_band_rows = options->vae_band_rows;
    else if (options->vae_band_rows == 0 && !pipeline->backend->ops.weights_hold)
        pipeline->vae_band_rows = PIPELINE_BAND_ROWS;
    quantise(pipeline, options);
    if (!open_watched(pipeline, options, probe, err)) {
        error_in(err, "loading '%s'", options->model);
        goto fail;
    }
    if (!pipeline->backend->ops.stream_create(&pipeline->stream, &pipeline->backend->ops,
                                              &stream_options, err))
        goto fail;
    pipeline->is_turbo = options->turbo || pipeline->files->is_turbo;
    name_variant(pipeline);
    machine_limits_read(&pipeline->machine, NULL);
    /* Now, because a later run would find the weights of an earlier one resident. */
    if (pipeline->backend->ops.memory_info)
        pipeline->backend->ops.memory_info(&pipeline->device_free, &total);
    else
        pipeline->base_bytes = host_resident_bytes(&pipeline->base_firm_bytes);
    *out = pipeline;
    return true;

fail:
    pipeline_destroy(pipeline);
    return false;
}

void pipeline_destroy(struct pipeline *pipeline)
{
    if (!pipeline)
        return;
    if (pipeline->stream) {
        pipeline_batch_close(pipeline);
        weights_drop(pipeline);
        pipeline->backend->ops.stream_destroy(pipeline->stream);
    }
    prompt_store_destroy(pipeline->prompts);
    vae_encoder_destroy(pipeline->vae_encoder);
    vae_decoder_destroy(pipeline->vae_decoder);
    mmdit_destroy(pipeline->mmdit);
    t5_encoder_destroy(pipeline->t5);
    t5_tokenizer_destroy(pipeline->t5_tokenizer);
    for (int i = 0; i < CLIP_COUNT; i++) {
        clip_encoder_destroy(pipeline->clip[i]);
        clip_tokenizer_destroy(pipeline->clip_tokenizer[i]);
    }
    model_files_close(pipeline->files);
    backend_close(pipeline->backend);
    free(pipeline);
}

struct backend_ops *pipeline_ops(struct pipeline *pipeline)
{
    return &pipeline->backend->ops;
}

struct stream *pipeline_stream(struct pipeline *pipeline)
{
    return pipeline->stream;
}

void pipeline_info(const struct pipeline *pipeline, struct pipeline_info *info)
{
    const struct mmdit_shape *shape = mmdit_shape(pipeline->mmdit);

    *info = (struct pipeline_info){
        .model_name = pipeline->files->name,
        .variant = pipeline->variant,
        .device = pipeline->backend->description,
        .notice = pipeline->notice,
        .weight_types = pipeline->weight_types,
        .side_max = (int)min_i64(shape->position_side * shape->patch * VAE_FACTOR, IMAGE_SIDE_MAX),
        .is_turbo = pipeline->is_turbo,
        .has_t5 = pipeline->t5 != NULL,
        .has_encoder = pipeline->vae_encoder != NULL,
        .layer_count = shape->block_count,
        .self_attention_count = shape->self_attention_count,
        .width = (int)shape->width,
        .clip_tokens = CLIP_TOKENS,
    };
    info->side_max -= info->side_max % PIPELINE_SIDE_STEP;
}

/* What each model is best drawn with (model.md, section 7.9). */
static const struct preset {
    const char *variant;
    int steps;
    double guidance_scale;
} presets[] = {
    {"SD3.5 Large Turbo", 4, 1.0}, {"SD3.5 Large", 28, 4.5}, {"SD3.5 Medium", 40, 5.0},
    {"SD3 Medium", 28, 5.0},       {NULL, 28, 5.0},
};

/* The side of the pictures that the transformer was trained on: "sample_size" latent cells. */
static int native_side(const struct pipeline *pipeline, int side_max)
{
    const struct weights *weights = pipeline->files->component[COMPONENT_TRANSFORMER];
    int64_t cells = weights_config_integer(weights, "sample_size", SAMPLE_SIZE_DEFAULT);

    if (cells < PIPELINE_SIDE_STEP / VAE_FACTOR || cells > side_max / VAE_FACTOR)
        return side_max < SAMPLE_SIZE_DEFAULT * VAE_FACTOR ? side_max
                                                           : SAMPLE_SIZE_DEFAULT * VAE_FACTOR;
    return (int)cells * VAE_FACTOR / PIPELINE_SIDE_STEP * PIPELINE_SIDE_STEP;
}

/* What the text encoder was trained with, where its tokenizer says less than usual. */
static int native_t5_tokens(const struct pipeline *pipeline)
{
    int length_max = pipeline->t5 ? t5_tokenizer_length_max(pipeline->t5_tokenizer) : 0;

    if (length_max == 0 || length_max > T5_TOKENS_DEFAULT)
        return T5_TOKENS_DEFAULT;
    return length_max < T5_TOKENS_MIN ? T5_TOKENS_MIN : length_max;
}

void pipeline_request_defaults(const struct pipeline *pipeline, struct pipeline_request *request)
{
    const struct preset *preset = presets;
    struct pipeline_info info;
    int side;

    pipeline_info(pipeline, &info);
    while (preset->variant && strcmp(preset->variant, info.variant) != 0)
        preset++;
    side = native_side(pipeline, info.side_max);
    *request = (struct pipeline_request){
        .prompt = "",
        .width = side,
        .height = side,
        .steps = pipeline->is_turbo ? presets[0].steps : preset->steps,
        .guidance_scale = pipeline->is_turbo ? presets[0].guidance_scale : preset->guidance_scale,
        .image_count = 1,
        .flow_shift = pipeline->files->flow_shift,
        .t5_tokens = native_t5_tokens(pipeline),
        .noise_source = NOISE_TORCH_CPU,
        .skip_layer_scale = 2.5,
        .skip_layer_start = 0.01,
        .skip_layer_stop = 0.2,
        .strength = 0.6,
    };
}
