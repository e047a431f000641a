#include "random_model.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/size.h"
#include "random_files.h"
#include "random_tensors.h"
#include "random_tokenizers.h"
#include "random_values.h"
#include "weights/names.h"
#include "weights/safetensors.h"

#define PARTS_MAX 3
#define BLOCK_ELEMENTS (1u << 20)

bool random_model_preset(struct random_model_options *out, const char *name)
{
    static const struct random_model_options real = {
        .dtype = DTYPE_BF16,
        .seed = 1,
        .position_side = 192,
        .has_qk_norm = true,
        .clip_l = {768, 12, 12, 3072},
        .clip_g = {1280, 32, 20, 5120},
        .t5 = {4096, 24, 64, 10240},
        .clip_vocabulary = 49408,
        .t5_vocabulary = 32128,
        .vae_channels = {128, 256, 512, 512},
        .vae_levels = 4,
        .with_encoders = true,
        .with_t5 = true,
        .outlier_scale = 100.0f,
    };

    *out = real;
    if (strcmp(name, "medium") == 0) {
        out->heads = out->layers = 24;
        out->dual_layers = 13;
        out->position_side = 384;
    } else if (strcmp(name, "large") == 0) {
        out->heads = out->layers = 38;
    } else if (strcmp(name, "sd3-medium") == 0) {
        out->heads = out->layers = 24;
        out->has_qk_norm = false;
    } else if (strcmp(name, "tiny") == 0) {
        out->heads = 2;
        out->layers = 4;
        out->position_side = 24;
        out->clip_l = (struct random_model_encoder){64, 3, 1, 256};
        out->clip_g = (struct random_model_encoder){64, 3, 1, 256};
        out->t5 = (struct random_model_encoder){128, 3, 2, 320};
        out->clip_vocabulary = out->t5_vocabulary = 0;
        memcpy(out->vae_channels, (int[]){32, 32, 64, 64}, 4 * sizeof(int));
    } else {
        return false;
    }
    return true;
}

/* --- one component into a safetensors file --- */

/* A tensor of the file: one of ours, or several that this layout fuses. */
struct stored_tensor {
    char name[SAFETENSORS_NAME_BYTES_MAX + 1];
    const struct random_tensor *part[PARTS_MAX];
    int parts;
    int rank;
    int64_t dim[4];
};

struct stored_list {
    struct stored_tensor *tensor;
    size_t count;
};

static bool is_f8(enum dtype dtype)
{
    return dtype == DTYPE_F8_E4M3 || dtype == DTYPE_F8_E5M2;
}

static enum dtype dtype_of(const struct stored_tensor *stored,
                           const struct random_model_options *options)
{
    if (is_f8(options->dtype) && !stored->part[0]->may_be_f8)
        return DTYPE_BF16;
    return options->dtype;
}

static bool has_scale(const struct stored_tensor *stored,
                      const struct random_model_options *options)
{
    return is_f8(dtype_of(stored, options)) && options->layout != RANDOM_MODEL_SINGLE;
}

/* The shape in the file: fused along the rows, and with the odd dimensions of 1. */
static void set_shape(struct stored_tensor *stored, const struct random_tensor *tensor,
                      const struct names *names, const struct names_target *target)
{
    const int64_t *dim = tensor->dim;

    stored->rank = tensor->rank;
    memcpy(stored->dim, dim, sizeof stored->dim);
    stored->dim[0] *= target->parts;
    if (!target->is_matrix || tensor->rank != 2)
        return;
    if (names->component == COMPONENT_TRANSFORMER) {
        stored->rank = 3;
        memcpy(stored->dim, (int64_t[]){1, dim[0], dim[1]}, 3 * sizeof *dim);
    } else if (names->layout == NAMES_ORIGINAL) {
        stored->rank = 4;
        stored->dim[2] = stored->dim[3] = 1;
    }
}

/* Finds the stored name of every tensor. */
static bool collect(struct stored_list *stored, const struct random_tensors *list,
                    const struct names *names, struct error *err)
{
    stored->tensor = calloc(list->count + 1, sizeof *stored->tensor);
    if (!stored->tensor)
        return error_set(err, ERROR_NO_MEMORY, "%s", component_name(names->component));
    for (size_t i = 0; i < list->count; i++) {
        const struct random_tensor *tensor = &list->tensor[i];
        struct stored_tensor *last = stored->count ? &stored->tensor[stored->count - 1] : NULL;
        struct names_target target;

        if (!names_resolve(&target, names, tensor->name, 0))
            return error_set(err, ERROR_BAD_REQUEST, "this layout has no name for '%s'",
                             tensor->name);
        if (!last || strcmp(last->name, target.stored) != 0) {
            last = &stored->tensor[stored->count++];
            memcpy(last->name, target.stored, sizeof last->name);
            last->parts = target.parts;
            set_shape(last, tensor, names, &target);
        }
        last->part[target.part] = tensor;
    }
    return true;
}

static bool declare_one(struct safetensors_writer *writer, const char *prefix,
                        const struct stored_tensor *stored,
                        const struct random_model_options *options, struct error *err)
{
    char name[SAFETENSORS_NAME_BYTES_MAX * 2];

    snprintf(name, sizeof name, "%s%s", prefix, stored->name);
    if (!safetensors_writer_declare(writer, name, safetensors_from_dtype(dtype_of(stored, options)),
                                    stored->rank, stored->dim, err))
        return false;
    if (!has_scale(stored, options))
        return true;
    snprintf(strrchr(name, '.'), 16, ".scale_weight");
    return safetensors_writer_declare(writer, name, SAFETENSORS_F32,
                                      options->layout == RANDOM_MODEL_DIFFUSERS ? 1 : 0,
                                      stored->dim, err);
}

static float scale_of(const struct random_tensor *tensor, enum dtype dtype)
{
    return tensor->deviation * RANDOM_VALUES_LARGEST / (dtype == DTYPE_F8_E4M3 ? 448.0f : 57344.0f);
}

static int64_t count_of(const struct random_tensor *tensor)
{
    int64_t count = 1;

    for (int i = 0; i < tensor->rank; i++)
        count *= tensor->dim[i];
    return count;
}

/* True for `outliers` rows, evenly spread over the tensor's. Only of q and k, which are normed:
 * elsewhere they would be all that the network sees. */
static bool is_outlier(const struct random_tensor *tensor, int outliers, int64_t row)
{
    int64_t stride = outliers > 0 ? tensor->dim[0] / outliers : 0;

    if (!tensor->may_be_f8 || !(strstr(tensor->name, ".q") || strstr(tensor->name, ".k")))
        return false;
    return stride < 2 || row % stride == stride / 2;
}

/* Enlarges what of the block's values, from number `first` of the tensor on, is in such rows. */
static void enlarge_outliers(unsigned char *block, size_t count, int64_t first,
                             const struct random_tensor *tensor,
                             const struct random_model_options *options, enum dtype dtype)
{
    int64_t columns = tensor->rank == 2 ? tensor->dim[1] : 1, end = first + (int64_t)count;

    if (options->outliers == 0)
        return;
    for (int64_t row = first / columns; row * columns < end; row++) {
        int64_t at = max_i64(row * columns, first) - first;

        if (!is_outlier(tensor, options->outliers, row))
            continue;
        for (; at < min_i64((row + 1) * columns, end) - first; at++)
            dtype_store(dtype, block, at, dtype_load(dtype, block, at) * options->outlier_scale);
    }
}

static bool write_part(struct safetensors_writer *writer, const struct random_tensor *tensor,
                       uint64_t seed, const struct random_model_options *options, enum dtype dtype,
                       float scale, unsigned char *block, struct error *err)
{
    struct random_values values;

    random_values_init(&values, seed, tensor->name, dtype, tensor->mean / scale,
                       tensor->deviation / scale);
    for (int64_t left = count_of(tensor); left > 0;) {
        size_t count = left < BLOCK_ELEMENTS ? (size_t)left : BLOCK_ELEMENTS;

        random_values_fill(&values, block, count);
        enlarge_outliers(block, count, count_of(tensor) - left, tensor, options, dtype);
        if (!safetensors_writer_append(writer, block, count * dtype_size(dtype), err))
            return false;
        left -= (int64_t)count;
    }
    return true;
}

static bool write_one(struct safetensors_writer *writer, const struct stored_tensor *stored,
                      uint64_t seed, const struct random_model_options *options,
                      unsigned char *block, struct error *err)
{
    enum dtype dtype = dtype_of(stored, options);
    bool is_scaled = has_scale(stored, options);
    float scale = is_scaled ? scale_of(stored->part[0], dtype) : 1.0f;
    int64_t rows = options->layout == RANDOM_MODEL_DIFFUSERS ? stored->dim[0] : 1;

    for (int i = 0; i < stored->parts; i++)
        if (!write_part(writer, stored->part[i], seed, options, dtype, scale, block, err))
            return false;
    for (int64_t i = 0; i < rows && is_scaled; i++)
        if (!safetensors_writer_append(writer, &scale, sizeof scale, err))
            return false;
    return true;
}

/* A component on its way into a file that may hold others. */
struct component_job {
    enum component component;
    const char *prefix;
    struct random_tensors list;
    struct stored_list stored;
};

static void finish_job(struct component_job *job)
{
    random_tensors_finish(&job->list);
    free(job->stored.tensor);
}

static bool has_marker(const struct component_job *job, const struct random_model_options *options)
{
    return options->layout == RANDOM_MODEL_COMFY_FP8 &&
           (job->component == COMPONENT_TRANSFORMER || job->component == COMPONENT_T5);
}

static bool plan_job(struct component_job *job, struct safetensors_writer *writer,
                     const struct random_model_options *options, struct error *err)
{
    const struct names names = {
        .component = job->component,
        .layout = options->layout == RANDOM_MODEL_DIFFUSERS && job->component <= COMPONENT_VAE
                      ? NAMES_OTHER
                      : NAMES_ORIGINAL,
        .up_levels = options->vae_levels,
    };
    char marker[64];

    random_tensors_list(&job->list, job->component, options);
    if (job->list.out_of_memory)
        return error_set(err, ERROR_NO_MEMORY, "%s", component_name(job->component));
    if (!collect(&job->stored, &job->list, &names, err))
        return false;
    for (size_t i = 0; i < job->stored.count; i++)
        if (!declare_one(writer, job->prefix, &job->stored.tensor[i], options, err))
            return false;
    if (!has_marker(job, options))
        return true;
    snprintf(marker, sizeof marker, "%sscaled_fp8", job->prefix);
    return safetensors_writer_declare(writer, marker, safetensors_from_dtype(options->dtype), 1,
                                      (int64_t[]){1}, err);
}

static bool run_job(const struct component_job *job, struct safetensors_writer *writer,
                    const struct random_model_options *options, unsigned char *block,
                    struct error *err)
{
    /* Components must not share values where they share names. */
    uint64_t seed = options->seed * 31 + (uint64_t)job->component;

    for (size_t i = 0; i < job->stored.count; i++)
        if (!write_one(writer, &job->stored.tensor[i], seed, options, block, err))
            return false;
    return !has_marker(job, options) || safetensors_writer_append(writer, "", 1, err);
}

static bool write_file(const char *path, struct component_job *jobs, size_t count,
                       const struct random_model_options *options, struct error *err)
{
    unsigned char *block = malloc(BLOCK_ELEMENTS * 4);
    struct safetensors_writer *writer;
    bool is_good;

    if (!block)
        return error_set(err, ERROR_NO_MEMORY, "writing '%s'", path);
    if (!safetensors_writer_create(&writer, path, err)) {
        free(block);
        return false;
    }
    is_good = safetensors_writer_metadata(writer, "format", "pt", err);
    for (size_t i = 0; i < count && is_good; i++)
        is_good = plan_job(&jobs[i], writer, options, err);
    for (size_t i = 0; i < count && is_good; i++)
        is_good = run_job(&jobs[i], writer, options, block, err);
    for (size_t i = 0; i < count; i++)
        finish_job(&jobs[i]);
    free(block);
    if (!is_good) {
        safetensors_writer_abandon(writer);
        return false;
    }
    return safetensors_writer_commit(writer, err);
}

/* --- a diffusers folder --- */

static json_t *transformer_config(const struct random_model_options *options)
{
    json_t *dual = json_array();

    for (int i = 0; i < options->dual_layers; i++)
        json_array_append_new(dual, json_integer(i));
    return json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s?, s:o}", "_class_name",
        "SD3Transformer2DModel", "sample_size", 128, "patch_size", 2, "in_channels", 16,
        "out_channels", 16, "num_layers", options->layers, "attention_head_dim", 64,
        "num_attention_heads", options->heads, "joint_attention_dim", options->t5.width,
        "caption_projection_dim", 64 * options->heads, "pooled_projection_dim",
        options->clip_l.width + options->clip_g.width, "pos_embed_max_size", options->position_side,
        "qk_norm", options->has_qk_norm ? "rms_norm" : NULL, "dual_attention_layers", dual);
}

static json_t *vae_config(const struct random_model_options *options)
{
    json_t *channels = json_array(), *down = json_array(), *up = json_array();

    for (int i = 0; i < options->vae_levels; i++) {
        json_array_append_new(channels, json_integer(options->vae_channels[i]));
        json_array_append_new(down, json_string("DownEncoderBlock2D"));
        json_array_append_new(up, json_string("UpDecoderBlock2D"));
    }
    return json_pack(
        "{s:s, s:i, s:i, s:o, s:o, s:o, s:i, s:s, s:i, s:i, s:i, s:f, s:f, s:b, s:b, s:b}",
        "_class_name", "AutoencoderKL", "in_channels", 3, "out_channels", 3, "block_out_channels",
        channels, "down_block_types", down, "up_block_types", up, "layers_per_block", 2, "act_fn",
        "silu", "latent_channels", 16, "norm_num_groups", 32, "sample_size", 1024, "scaling_factor",
        1.5305, "shift_factor", 0.0609, "use_quant_conv", 0, "use_post_quant_conv", 0,
        "force_upcast", 1);
}

static json_t *clip_config(const struct random_model_encoder *clip, int vocabulary,
                           const char *activation)
{
    return json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:i, s:i, s:i}",
                     "architectures", "CLIPTextModelWithProjection", "model_type",
                     "clip_text_model", "vocab_size", vocabulary, "hidden_size", clip->width,
                     "intermediate_size", clip->mlp_width, "num_hidden_layers", clip->layers,
                     "num_attention_heads", clip->heads, "max_position_embeddings", 77,
                     "projection_dim", clip->width, "hidden_act", activation, "layer_norm_eps",
                     1e-5, "bos_token_id", 0, "eos_token_id", 2, "pad_token_id", 1);
}

static json_t *t5_config(const struct random_model_options *options)
{
    const struct random_model_encoder *t5 = &options->t5;

    return json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:s, s:b, s:i, s:i, s:f, "
                     "s:i, s:i}",
                     "architectures", "T5EncoderModel", "model_type", "t5", "vocab_size",
                     options->t5_vocabulary, "d_model", t5->width, "d_kv", 64, "d_ff",
                     t5->mlp_width, "num_layers", t5->layers, "num_heads", t5->heads,
                     "feed_forward_proj", "gated-gelu", "dense_act_fn", "gelu_new", "is_gated_act",
                     1, "relative_attention_num_buckets", 32, "relative_attention_max_distance",
                     128, "layer_norm_epsilon", 1e-6, "pad_token_id", 0, "eos_token_id", 1);
}

static json_t *component_config(enum component component,
                                const struct random_model_options *options)
{
    switch (component) {
    case COMPONENT_TRANSFORMER:
        return transformer_config(options);
    case COMPONENT_VAE:
        return vae_config(options);
    case COMPONENT_CLIP_L:
        return clip_config(&options->clip_l, options->clip_vocabulary, "quick_gelu");
    case COMPONENT_CLIP_G:
        return clip_config(&options->clip_g, options->clip_vocabulary, "gelu");
    case COMPONENT_T5:
        return t5_config(options);
    case COMPONENT_COUNT:
        break;
    }
    return NULL;
}

static bool is_wanted(enum component component, const struct random_model_options *options)
{
    if (component == COMPONENT_TRANSFORMER || component == COMPONENT_VAE)
        return true;
    return options->with_encoders && (component != COMPONENT_T5 || options->with_t5);
}

static const struct {
    const char *folder, *file, *library, *class_name;
    const char *tokenizer, *tokenizer_class;
} places[COMPONENT_COUNT] = {
    [COMPONENT_TRANSFORMER] = {"transformer", "diffusion_pytorch_model.safetensors", "diffusers",
                               "SD3Transformer2DModel", NULL, NULL},
    [COMPONENT_VAE] = {"vae", "diffusion_pytorch_model.safetensors", "diffusers", "AutoencoderKL",
                       NULL, NULL},
    [COMPONENT_CLIP_L] = {"text_encoder", "model.safetensors", "transformers",
                          "CLIPTextModelWithProjection", "tokenizer", "CLIPTokenizer"},
    [COMPONENT_CLIP_G] = {"text_encoder_2", "model.safetensors", "transformers",
                          "CLIPTextModelWithProjection", "tokenizer_2", "CLIPTokenizer"},
    [COMPONENT_T5] = {"text_encoder_3", "model.safetensors", "transformers", "T5EncoderModel",
                      "tokenizer_3", "T5TokenizerFast"},
};

static json_t *model_index(const struct random_model_options *options)
{
    json_t *index = json_pack("{s:s, s:[s,s]}", "_class_name", "StableDiffusion3Pipeline",
                              "scheduler", "diffusers", "FlowMatchEulerDiscreteScheduler");

    for (int c = 0; c < COMPONENT_COUNT; c++) {
        bool is_there = is_wanted((enum component)c, options);

        json_object_set_new(index, places[c].folder,
                            json_pack("[s?, s?]", is_there ? places[c].library : NULL,
                                      is_there ? places[c].class_name : NULL));
        if (places[c].tokenizer)
            json_object_set_new(index, places[c].tokenizer,
                                json_pack("[s?, s?]", is_there ? "transformers" : NULL,
                                          is_there ? places[c].tokenizer_class : NULL));
    }
    return index;
}

static bool write_scheduler(const char *parent, struct error *err)
{
    char *folder = file_join(parent, "scheduler");
    bool is_good;

    if (!folder)
        return error_set(err, ERROR_NO_MEMORY, "'%s'", parent);
    is_good = random_make_folder(folder, err) &&
              random_write_json(folder, "scheduler_config.json",
                                json_pack("{s:s, s:i, s:f, s:b}", "_class_name",
                                          "FlowMatchEulerDiscreteScheduler", "num_train_timesteps",
                                          1000, "shift", 3.0, "use_dynamic_shifting", 0),
                                err);
    free(folder);
    return is_good;
}

static bool write_component_folder(enum component component,
                                   const struct random_model_options *options, struct error *err)
{
    struct component_job job = {.component = component, .prefix = ""};
    char *folder = file_join(options->output, places[component].folder);
    char *path = folder ? file_join(folder, places[component].file) : NULL;
    bool is_good;

    if (path)
        is_good =
            random_make_folder(folder, err) &&
            random_write_json(folder, "config.json", component_config(component, options), err) &&
            write_file(path, &job, 1, options, err);
    else
        is_good = error_set(err, ERROR_NO_MEMORY, "'%s'", options->output);
    free(path);
    free(folder);
    return is_good;
}

static bool write_folder(const struct random_model_options *options, struct error *err)
{
    if (!random_make_folder(options->output, err) ||
        !random_write_json(options->output, "model_index.json", model_index(options), err) ||
        !write_scheduler(options->output, err))
        return false;
    for (int c = 0; c < COMPONENT_COUNT; c++)
        if (is_wanted((enum component)c, options) &&
            !write_component_folder((enum component)c, options, err))
            return false;
    return !options->with_encoders ||
           random_tokenizers_write(options->output, options->clip_vocabulary, options->with_t5,
                                   err);
}

static bool write_single(const struct random_model_options *options, struct error *err)
{
    struct component_job jobs[COMPONENT_COUNT];
    size_t count = 0;
    bool is_good;
    char *path;

    for (int c = 0; c < COMPONENT_COUNT; c++)
        if (is_wanted((enum component)c, options))
            jobs[count++] = (struct component_job){.component = (enum component)c,
                                                   .prefix = names_prefix((enum component)c, 0)};
    if (!write_file(options->output, jobs, count, options, err))
        return false;
    if (!options->with_encoders)
        return true;
    path = strdup(options->output);
    is_good = path ? random_tokenizers_write(dirname(path), options->clip_vocabulary,
                                             options->with_t5, err)
                   : error_set(err, ERROR_NO_MEMORY, "'%s'", options->output);
    free(path);
    return is_good;
}

static bool check_encoder(const struct random_model_encoder *encoder)
{
    return encoder->width > 0 && encoder->width <= 1 << 16 && encoder->layers >= 2 &&
           encoder->layers <= 256 && encoder->heads > 0 && encoder->heads <= 1024 &&
           encoder->mlp_width > 0 && encoder->mlp_width <= 1 << 18;
}

static bool check_options(const struct random_model_options *options, struct error *err)
{
    if (options->heads < 1 || options->heads > 256 || options->layers < 1 ||
        options->layers > 512 || options->dual_layers < 0 ||
        options->dual_layers > options->layers || options->position_side < 1 ||
        options->position_side > 1024)
        return error_set(err, ERROR_BAD_REQUEST, "the transformer's size makes no sense");
    if (!check_encoder(&options->clip_l) || !check_encoder(&options->clip_g) ||
        !check_encoder(&options->t5) ||
        options->clip_l.width + options->clip_g.width > options->t5.width)
        return error_set(err, ERROR_BAD_REQUEST,
                         "the text encoders' sizes make no sense: the two CLIP widths together "
                         "may not pass T5's");
    for (int i = 0; i < options->vae_levels; i++)
        if (options->vae_channels[i] % 32 != 0 || options->vae_channels[i] < 32 ||
            options->vae_channels[i] > 4096)
            return error_set(err, ERROR_BAD_REQUEST,
                             "the VAE's channels are multiples of 32 up to 4096");
    if (options->dtype == DTYPE_I32 || options->dtype == DTYPE_U8 ||
        (options->layout == RANDOM_MODEL_COMFY_FP8 && !is_f8(options->dtype)))
        return error_set(err, ERROR_BAD_REQUEST, "this layout has no weights of type %s",
                         dtype_name(options->dtype));
    if (options->outliers > 0 && is_f8(options->dtype))
        return error_set(err, ERROR_BAD_REQUEST, "outliers need weights of 16 or 32 bits");
    if (options->clip_vocabulary < random_tokenizers_clip_size() ||
        options->t5_vocabulary < random_tokenizers_t5_size())
        return error_set(err, ERROR_BAD_REQUEST, "the vocabulary is too small");
    return true;
}

bool random_model_write(const struct random_model_options *options, struct error *err)
{
    struct random_model_options complete = *options;

    if (!complete.clip_vocabulary)
        complete.clip_vocabulary = random_tokenizers_clip_size();
    if (!complete.t5_vocabulary)
        complete.t5_vocabulary = random_tokenizers_t5_size();
    if (!check_options(&complete, err))
        return false;
    return complete.layout == RANDOM_MODEL_DIFFUSERS ? write_folder(&complete, err)
                                                     : write_single(&complete, err);
}
