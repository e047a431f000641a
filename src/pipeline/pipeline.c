#include "pipeline/pipeline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/size.h"
#include "pipeline/pipeline_private.h"
#include "pipeline/pipeline_probe.h"

#define BAND_ROWS_DEFAULT 32
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

/* Bytes that are resident right now. */
static size_t resident_bytes(void)
{
    char line[128], *second = line; /* "pages_in_all pages_resident ..." */
    size_t resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");

    if (!file)
        return 0;
    if (fgets(line, sizeof line, file)) {
        (void)strtoul(line, &second, 10);
        resident = strtoul(second, NULL, 10);
    }
    fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
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
                                .tokenizers = options->tokenizers};
    const struct backend_options backend_options = {.device = options->device,
                                                    .cpu_level = options->cpu_level,
                                                    .precision = options->precision,
                                                    .threads = options->threads};
    struct stream_options stream_options = {.threads = options->threads};
    struct pipeline *pipeline = calloc(1, sizeof *pipeline);
    size_t total;

    if (!pipeline)
        return error_set(err, ERROR_NO_MEMORY, "pipeline");
    pipeline->keep_weights = options->keep_weights;
    pipeline->images_at_once = options->images_at_once > 0 ? options->images_at_once : 1;
    if (!backend_open(&pipeline->backend, &backend_options, err) ||
        !model_files_open(&pipeline->files, &paths, err))
        goto fail;
    if (options->vae_band_rows > 0)
        pipeline->vae_band_rows = options->vae_band_rows;
    else if (options->vae_band_rows == 0 && !pipeline->backend->ops.weights_hold)
        pipeline->vae_band_rows = BAND_ROWS_DEFAULT;
    if (!open_watched(pipeline, options, probe, err)) {
        error_in(err, "loading '%s'", options->model);
        goto fail;
    }
    if (!pipeline->backend->ops.stream_create(&pipeline->stream, &pipeline->backend->ops,
                                              &stream_options, err))
        goto fail;
    pipeline->is_turbo = options->turbo || pipeline->files->is_turbo;
    name_variant(pipeline);
    /* Now, because a later run would find the weights of an earlier one resident. */
    if (pipeline->backend->ops.memory_info)
        pipeline->backend->ops.memory_info(&pipeline->device_free, &total);
    else
        pipeline->base_bytes = resident_bytes();
    *out = pipeline;
    return true;

fail:
    pipeline_destroy(pipeline);
    return false;
}

static void drop_plan(struct pipeline *pipeline)
{
    mmdit_plan_destroy(pipeline->kept.plan);
    pipeline->kept = (struct kept_plan){0};
}

static void drop_block(struct pipeline *pipeline)
{
    drop_plan(pipeline);
    if (pipeline->block)
        pipeline->backend->ops.memory_free(pipeline->block, pipeline->block_bytes);
    pipeline->block = NULL;
}

/* The device's copies of all components. */
static void drop_weights(struct pipeline *pipeline)
{
    for (int i = 0; i < COMPONENT_COUNT; i++) {
        if (pipeline->held[i])
            pipeline->backend->ops.weights_drop(pipeline->stream, pipeline->held[i]);
        pipeline->held[i] = NULL;
    }
}

void pipeline_destroy(struct pipeline *pipeline)
{
    if (!pipeline)
        return;
    if (pipeline->stream) {
        drop_block(pipeline);
        drop_weights(pipeline);
        pipeline->backend->ops.stream_destroy(pipeline->stream);
    }
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
        .notice = pipeline->backend->notice,
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

const char *pipeline_phase_name(enum pipeline_phase phase)
{
    static const char *const names[] = {"plan", "encode", "image", "denoise", "decode", "done"};

    return names[phase];
}

/* --- Memory --- */

/* Places what outlives a stage. */
static bool place_kept(struct run *run, struct arena *arena, struct error *err)
{
    const struct mmdit_shape *shape = mmdit_shape(run->pipeline->mmdit);
    enum dtype f = run->ops->activation_dtype;
    int64_t n = run->images, c = run->channels, h = run->height, w = run->width;

    return TENSOR_ALLOC(&run->context, arena, f, "context", err, run->conds, run->context_tokens,
                        shape->context_width) &&
           TENSOR_ALLOC(&run->pooled, arena, f, "pooled text", err, run->conds,
                        shape->pooled_width) &&
           TENSOR_ALLOC(&run->latents, arena, DTYPE_F32, "latents", err, n, c, h, w) &&
           (!run->has_mask ||
            (TENSOR_ALLOC(&run->noise, arena, DTYPE_F32, "noise", err, n, c, h, w) &&
             TENSOR_ALLOC(&run->mask, arena, DTYPE_F32, "mask", err, 1, 1, h, w))) &&
           (!run->has_init ||
            TENSOR_ALLOC(&run->clean, arena, DTYPE_F32, "init latents", err, n, c, h, w));
}

/* Bytes of work memory by stage; all stages use the same block, one after the other. */
struct work_bytes {
    size_t kept, text, image, denoise, decode, largest;
};

static bool measure(struct run *run, struct work_bytes *bytes, struct error *err)
{
    struct text_stage text = {0};
    struct image_stage image = {0};
    struct denoise_stage denoise = {0};
    struct decode_stage decode = {0};
    struct arena arena;
    bool ok;

    arena_init(&arena, NULL, 0);
    ok = place_kept(run, &arena, err);
    bytes->kept = arena.peak;

    arena_init(&arena, NULL, 0);
    ok = ok && text_stage_plan(&text, run, &arena, err);
    bytes->text = arena.peak;
    text_stage_finish(&text);

    arena_init(&arena, NULL, 0);
    ok = ok && image_stage_plan(&image, run, &arena, err);
    bytes->image = arena.peak;
    image_stage_finish(&image);

    arena_init(&arena, NULL, 0);
    ok = ok && denoise_stage_plan(&denoise, run, &arena, err);
    bytes->denoise = arena.peak;
    denoise_stage_finish(&denoise);

    arena_init(&arena, NULL, 0);
    ok = ok && decode_stage_plan(&decode, run, &arena, err);
    bytes->decode = arena.peak;
    decode_stage_finish(&decode);

    bytes->largest = bytes->text;
    if (bytes->image > bytes->largest)
        bytes->largest = bytes->image;
    if (bytes->denoise > bytes->largest)
        bytes->largest = bytes->denoise;
    if (bytes->decode > bytes->largest)
        bytes->largest = bytes->decode;
    return ok;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static bool list_weights(const struct run *run, enum component component, struct weight_list *list,
                         struct error *err)
{
    const struct pipeline *pipeline = run->pipeline;

    switch (component) {
    case COMPONENT_TRANSFORMER:
        return mmdit_list_weights(pipeline->mmdit, list, err);
    case COMPONENT_VAE:
        return vae_decoder_list_weights(pipeline->vae_decoder, list, err) &&
               (!run->has_init || vae_encoder_list_weights(pipeline->vae_encoder, list, err));
    case COMPONENT_CLIP_L:
        return clip_encoder_list_weights(pipeline->clip[0], list, err);
    case COMPONENT_CLIP_G:
        return clip_encoder_list_weights(pipeline->clip[1], list, err);
    case COMPONENT_T5:
        return !pipeline->t5 || t5_encoder_list_weights(pipeline->t5, list, err);
    case COMPONENT_COUNT:
        break;
    }
    return true;
}

static size_t weight_bytes(const struct run *run, enum component component)
{
    struct weight_list list = {0};
    size_t bytes = 0;

    if (!run->ops->weights_bytes)
        return weights_loaded_bytes(run->pipeline->files->component[component]);
    if (list_weights(run, component, &list, NULL))
        bytes = run->ops->weights_bytes(list.requests, list.count);
    weight_list_finish(&list);
    return bytes;
}

/* What will be resident: the weights of each phase as stored, and the pages that it writes. Pages
 * of the work block stay resident once touched, whichever phase touched them. */
static void estimate(const struct run *run, const struct work_bytes *bytes,
                     struct pipeline_memory *memory)
{
    struct pipeline *pipeline = run->pipeline;
    const struct mmdit_shape *shape = mmdit_shape(pipeline->mmdit);
    size_t text_work = bytes->text, image_work = larger(text_work, bytes->image);
    size_t denoise_work = larger(image_work, bytes->denoise);
    size_t row =
        (size_t)shape->chunk_count * (size_t)shape->width * dtype_size(run->ops->activation_dtype);
    size_t text_peak, denoise_peak, decode_peak;

    *memory = (struct pipeline_memory){
        .weights_transformer = weight_bytes(run, COMPONENT_TRANSFORMER),
        .weights_vae = weight_bytes(run, COMPONENT_VAE),
        .work_text = bytes->text,
        .work_transformer = bytes->denoise,
        .work_vae = larger(bytes->image, bytes->decode),
        .modulation = (size_t)(run->schedule->count - run->first_step) * (size_t)run->conds * row,
        .base = pipeline->base_bytes + bytes->kept + run->ops->scratch_bytes(run->stream),
    };
    for (int i = 0; i < CLIP_COUNT; i++)
        memory->weights_text += weight_bytes(run, clip_components[i]);
    if (pipeline->t5)
        memory->weights_text += weight_bytes(run, COMPONENT_T5);

    if (run->ops->memory_info) /* taken as one block from the start */
        text_work = denoise_work = bytes->largest;
    text_peak = memory->weights_text + text_work;
    denoise_peak = memory->weights_transformer + denoise_work;
    decode_peak = memory->weights_vae + larger(denoise_work, bytes->decode);
    if (pipeline->keep_weights) {
        denoise_peak += memory->weights_text + (run->has_init ? memory->weights_vae : 0);
        decode_peak += memory->weights_text + memory->weights_transformer;
    }
    memory->peak = memory->base + larger(text_peak, larger(denoise_peak, decode_peak));
}

/* --- Running --- */

/* Brings a component's weights to the device; hosts read them where they are. */
static bool hold(const struct run *run, enum component component, struct error *err)
{
    struct held_weights **held = &run->pipeline->held[component];
    struct weight_list list = {0};
    bool ok;

    if (!run->ops->weights_hold || *held)
        return true;
    ok = list_weights(run, component, &list, err) &&
         run->ops->weights_hold(run->stream, held, list.requests, list.count, err);
    weight_list_finish(&list);
    return ok || error_in(err, "%s", component_name(component));
}

static void release(const struct run *run, enum component component)
{
    const struct weights *weights = run->pipeline->files->component[component];
    struct held_weights **held = &run->pipeline->held[component];

    if (run->pipeline->keep_weights)
        return;
    if (*held)
        run->ops->weights_drop(run->stream, *held);
    *held = NULL;
    if (weights)
        weights_release_pages(weights);
}

static bool run_text(struct run *run, struct arena *work, struct error *err)
{
    struct text_stage stage = {0};
    bool ok = hold(run, COMPONENT_CLIP_L, err) && hold(run, COMPONENT_CLIP_G, err) &&
              hold(run, COMPONENT_T5, err) && text_stage_plan(&stage, run, work, err) &&
              text_stage_run(&stage, run, err);

    text_stage_finish(&stage);
    for (int i = 0; i < CLIP_COUNT; i++)
        release(run, clip_components[i]);
    release(run, COMPONENT_T5);
    return ok;
}

static bool run_image(struct run *run, struct arena *work, struct error *err)
{
    struct image_stage stage = {0};
    bool ok = (!run->has_init || hold(run, COMPONENT_VAE, err)) &&
              image_stage_plan(&stage, run, work, err) && image_stage_run(&stage, run, err);

    image_stage_finish(&stage);
    release(run, COMPONENT_VAE);
    return ok;
}

static bool run_denoise(struct run *run, struct arena *work, struct error *err)
{
    struct denoise_stage stage = {0};
    bool ok = hold(run, COMPONENT_TRANSFORMER, err) && denoise_stage_plan(&stage, run, work, err) &&
              denoise_stage_run(&stage, err);

    denoise_stage_finish(&stage);
    release(run, COMPONENT_TRANSFORMER);
    return ok;
}

static bool run_decode(struct run *run, struct arena *work, struct image *images, struct error *err)
{
    struct decode_stage stage = {0};
    bool ok = hold(run, COMPONENT_VAE, err) && decode_stage_plan(&stage, run, work, err) &&
              decode_stage_run(&stage, run, images, err);

    decode_stage_finish(&stage);
    release(run, COMPONENT_VAE);
    return ok;
}

/* Latents to the host; never a black picture: what is not a number is an error. */
static bool fetch_latents(struct run *run, float *latents, struct error *err)
{
    struct tensor host = run->latents;

    host.data = latents;
    run->ops->download(run->stream, &host, &run->latents);
    if (!run->ops->stream_finish(run->stream, err))
        return false;
    for (int64_t i = 0; i < tensor_count(&host); i++)
        if (!isfinite(latents[i]))
            return error_set(err, ERROR_NOT_FINITE,
                             "the network's result is not finite: the weights may be damaged");
    return true;
}

static bool result_init(struct pipeline_result *result, const struct run *run, struct error *err)
{
    size_t count = (size_t)run->images;

    *result = (struct pipeline_result){.image_count = (int)run->images};
    result->images = calloc(count, sizeof *result->images);
    result->seeds = calloc(count, sizeof *result->seeds);
    result->latents = malloc(tensor_bytes(&run->latents));
    if (!result->images || !result->seeds || !result->latents)
        return error_set(err, ERROR_NO_MEMORY, "result");
    for (size_t i = 0; i < count; i++)
        result->seeds[i] = run->request->seed + i;
    result->clip_tokens_cut = run->tokens.clip_cut;
    result->t5_tokens_cut = run->tokens.t5_cut;
    return true;
}

/* All phases, on memory that is already there. */
static bool run_phases(struct run *run, void *block, const struct work_bytes *bytes,
                       struct pipeline_result *result, struct error *err)
{
    struct arena kept, work;
    double encoded, denoised;
    void *shared = (char *)block + bytes->kept;

    arena_init(&kept, block, bytes->kept);
    if (!place_kept(run, &kept, err) || !result_init(result, run, err))
        return false;
    arena_init(&work, shared, bytes->largest);
    if (!run_text(run, &work, err))
        return false;
    arena_init(&work, shared, bytes->largest);
    if (!run_image(run, &work, err))
        return false;
    encoded = seconds_now();
    arena_init(&work, shared, bytes->largest);
    if (!run_denoise(run, &work, err) || !fetch_latents(run, result->latents, err))
        return false;
    denoised = seconds_now();
    arena_init(&work, shared, bytes->largest);
    if (!run_decode(run, &work, result->images, err))
        return false;
    result->total_seconds = seconds_now() - run->started;
    result->encode_seconds = encoded - run->started;
    result->denoise_seconds = denoised - encoded;
    result->decode_seconds = seconds_now() - denoised;
    run_report(run, PHASE_DONE, 1, 1);
    return true;
}

/* Work memory: that of the latest run where devices keep it, if it is of this size. */
static void *take_block(struct pipeline *pipeline, size_t bytes)
{
    const struct backend_ops *ops = &pipeline->backend->ops;

    if (pipeline->block && pipeline->block_bytes == bytes)
        return pipeline->block;
    drop_block(pipeline);
    if (!pipeline->keep_weights || !ops->record_begin)
        return ops->memory_alloc(bytes);
    pipeline->block = ops->memory_alloc(bytes);
    pipeline->block_bytes = bytes;
    return pipeline->block;
}

/* All phases; where 8 bits give no number, once more in 16. */
static bool run_in_block(struct run *run, void *block, const struct work_bytes *bytes,
                         struct pipeline_result *result, struct error *err)
{
    struct pipeline *pipeline = run->pipeline;
    bool ok = run_phases(run, block, bytes, result, err);

    if (ok || !run->ops->avoid_8_bits || err->code != ERROR_NOT_FINITE)
        return ok;
    pipeline_result_finish(result);
    run->ops->avoid_8_bits(run->stream, true);
    drop_plan(pipeline); /* what it recorded is in 8 bits */
    ok = run_phases(run, block, bytes, result, err);
    drop_plan(pipeline);
    run->ops->avoid_8_bits(run->stream, false);
    result->was_repeated = ok;
    return ok;
}

/* Plans, tells the plan, and runs in the memory that it takes. */
static bool plan_and_run(struct run *run, struct pipeline_result *result, struct error *err)
{
    const struct pipeline_callbacks *callbacks = run->callbacks;
    struct pipeline *pipeline = run->pipeline;
    struct pipeline_memory memory;
    struct work_bytes bytes;
    void *block;
    bool ok;

    if (!measure(run, &bytes, err))
        return false;
    estimate(run, &bytes, &memory);
    if (callbacks && callbacks->planned)
        callbacks->planned(callbacks->context, &memory);
    block = take_block(pipeline, bytes.kept + bytes.largest);
    if (!block)
        return error_set(
            err, ERROR_NO_MEMORY, "a picture of %d x %d needs %zu MiB of working memory",
            run->request->width, run->request->height, (bytes.kept + bytes.largest) >> 20);
    ok = run_in_block(run, block, &bytes, result, err);
    if (block != pipeline->block)
        run->ops->memory_free(block, bytes.kept + bytes.largest);
    result->memory = memory;
    if (run->device_least_free > 0 && run->device_least_free < pipeline->device_free)
        result->memory.device_peak =
            pipeline->device_free - run->device_least_free + run->ops->scratch_bytes(run->stream);
    return ok;
}

/* One memory mode down, for good: phases take turns on the device and the VAE works in bands. False
 * on hosts, and when it is so already. */
static bool make_room(struct pipeline *pipeline)
{
    if (!pipeline->backend->ops.weights_hold ||
        (!pipeline->keep_weights && pipeline->vae_band_rows > 0))
        return false;
    drop_block(pipeline);
    drop_weights(pipeline);
    pipeline->keep_weights = false;
    if (pipeline->vae_band_rows == 0)
        pipeline->vae_band_rows = BAND_ROWS_DEFAULT;
    return true;
}

bool pipeline_run(struct pipeline *pipeline, const struct pipeline_request *request,
                  const struct pipeline_callbacks *callbacks, struct pipeline_result *result,
                  struct error *err)
{
    struct error unused;
    struct run run;
    bool ok = false;

    *result = (struct pipeline_result){0};
    if (!err)
        err = &unused;
    if (!run_init(&run, pipeline, request, callbacks, err))
        return false;
    run.ops->stream_watch(run.stream, callbacks ? callbacks->cancel : NULL);
    run_begin_phase(&run, PHASE_PLAN, 1);
    if (run_tokenize(&run, err)) {
        ok = plan_and_run(&run, result, err);
        if (!ok && err->code == ERROR_NO_MEMORY && make_room(pipeline)) {
            pipeline_result_finish(result);
            ok = plan_and_run(&run, result, err);
            result->was_short_of_memory = ok;
        }
    }
    run.ops->stream_watch(run.stream, NULL);
    run_finish(&run);
    if (!ok)
        pipeline_result_finish(result);
    return ok;
}

void pipeline_result_finish(struct pipeline_result *result)
{
    for (int i = 0; result->images && i < result->image_count; i++)
        image_finish(&result->images[i]);
    free(result->images);
    free(result->latents);
    free(result->seeds);
    *result = (struct pipeline_result){0};
}

bool pipeline_estimate(struct pipeline *pipeline, const struct pipeline_request *request,
                       struct pipeline_memory *memory, struct error *err)
{
    struct work_bytes bytes;
    struct run run;
    bool ok;

    if (!run_init(&run, pipeline, request, NULL, err))
        return false;
    ok = measure(&run, &bytes, err);
    if (ok)
        estimate(&run, &bytes, memory);
    run_finish(&run);
    return ok;
}
