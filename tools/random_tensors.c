#include "random_tensors.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_WIDTH 64
#define LATENT_CHANNELS 16
#define TIMESTEP_WIDTH 256
#define CLIP_TOKENS 77
#define T5_BUCKETS 32

static struct random_tensor *append(struct random_tensors *list)
{
    static struct random_tensor nowhere;

    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 256;
        struct random_tensor *tensor = reallocarray(list->tensor, capacity, sizeof *tensor);

        if (!tensor) {
            list->out_of_memory = true;
            return &nowhere;
        }
        list->tensor = tensor;
        list->capacity = capacity;
    }
    return &list->tensor[list->count++];
}

static void add(struct random_tensors *list, struct random_tensor tensor, const char *name,
                const char *suffix)
{
    struct random_tensor *kept = append(list);

    *kept = tensor;
    snprintf(kept->name, sizeof kept->name, "%s%s", name, suffix);
}

/* What the layers of a network are made of, with values that keep activations near one. */
static void add_vector(struct random_tensors *list, int64_t n, float mean, float deviation,
                       const char *name)
{
    add(list, (struct random_tensor){.rank = 1, .dim = {n}, .mean = mean, .deviation = deviation},
        name, "");
}

static void add_table(struct random_tensors *list, int64_t rows, int64_t columns, float deviation,
                      const char *name)
{
    add(list, (struct random_tensor){.rank = 2, .dim = {rows, columns}, .deviation = deviation},
        name, "");
}

static void add_bias(struct random_tensors *list, int64_t n, const char *name)
{
    add(list, (struct random_tensor){.rank = 1, .dim = {n}, .deviation = 0.1f}, name, ".bias");
}

static void add_norm(struct random_tensors *list, int64_t n, bool with_bias, const char *name)
{
    add(list, (struct random_tensor){.rank = 1, .dim = {n}, .mean = 1.0f, .deviation = 0.2f}, name,
        ".weight");
    if (with_bias)
        add_bias(list, n, name);
}

struct linear_kind {
    bool may_be_f8, has_bias;
};

static const struct linear_kind block_linear = {true, true};
static const struct linear_kind outer_linear = {false, true};
static const struct linear_kind t5_linear = {true, false};

static void add_weight(struct random_tensors *list, int64_t n, int64_t k, bool may_be_f8,
                       const char *name)
{
    add(list,
        (struct random_tensor){
            .rank = 2, .dim = {n, k}, .deviation = 1.0f / sqrtf((float)k), .may_be_f8 = may_be_f8},
        name, ".weight");
}

static void add_linear(struct random_tensors *list, struct linear_kind kind, int64_t n, int64_t k,
                       const char *name)
{
    add_weight(list, n, k, kind.may_be_f8, name);
    if (kind.has_bias)
        add_bias(list, n, name);
}

/* Linears that some layout keeps in one tensor: all weights, then all biases. */
static void add_fused(struct random_tensors *list, struct linear_kind kind, int64_t n, int64_t k,
                      const char *prefix, const char *const *names, size_t count)
{
    char name[80];

    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s%s", prefix, names[i]);
        add_weight(list, n, k, kind.may_be_f8, name);
    }
    for (size_t i = 0; i < count && kind.has_bias; i++) {
        snprintf(name, sizeof name, "%s%s", prefix, names[i]);
        add_bias(list, n, name);
    }
}

static const char *const qkv[] = {"q", "k", "v"};
static const char *const qkv2[] = {"q2", "k2", "v2"};
static const char *const shift_scale[] = {"shift", "scale"};

static void add_conv(struct random_tensors *list, int64_t n, int64_t c, int64_t kernel,
                     const char *name)
{
    add(list,
        (struct random_tensor){.rank = 4,
                               .dim = {n, c, kernel, kernel},
                               .deviation = 1.0f / sqrtf((float)(c * kernel * kernel))},
        name, ".weight");
    add_bias(list, n, name);
}

struct name {
    char text[80];
};

/* By value: the text lives until the end of the statement that it is made in. */
static struct name PRINTF_LIKE(1, 2) name_of(const char *format, ...)
{
    struct name name;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(name.text, sizeof name.text, format, arguments);
    va_end(arguments);
    return name;
}

static void add_side(struct random_tensors *list, const struct random_model_options *options,
                     int block, const char *side, bool has_second_attention, bool is_last_context)
{
    int64_t c = (int64_t)options->heads * HEAD_WIDTH;
    char prefix[48];

    snprintf(prefix, sizeof prefix, "block.%d.%s.", block, side);
    if (is_last_context)
        add_fused(list, block_linear, c, c, prefix, shift_scale, 2);
    else
        add_linear(list, block_linear, (has_second_attention ? 9 : 6) * c, c,
                   name_of("%smodulation", prefix).text);
    add_fused(list, block_linear, c, c, prefix, qkv, 3);
    if (options->has_qk_norm) {
        add_norm(list, HEAD_WIDTH, false, name_of("%sq_norm", prefix).text);
        add_norm(list, HEAD_WIDTH, false, name_of("%sk_norm", prefix).text);
    }
    if (has_second_attention) {
        add_fused(list, block_linear, c, c, prefix, qkv2, 3);
        add_norm(list, HEAD_WIDTH, false, name_of("%sq2_norm", prefix).text);
        add_norm(list, HEAD_WIDTH, false, name_of("%sk2_norm", prefix).text);
        add_linear(list, block_linear, c, c, name_of("%sproj2", prefix).text);
    }
    if (is_last_context)
        return;
    add_linear(list, block_linear, c, c, name_of("%sproj", prefix).text);
    add_linear(list, block_linear, 4 * c, c, name_of("%smlp_in", prefix).text);
    add_linear(list, block_linear, c, 4 * c, name_of("%smlp_out", prefix).text);
}

static void list_transformer(struct random_tensors *list,
                             const struct random_model_options *options)
{
    int64_t c = (int64_t)options->heads * HEAD_WIDTH, side = options->position_side;
    int64_t pooled = options->clip_l.width + options->clip_g.width;

    add_table(list, side * side, c, 0.5f, "position_table");
    add_conv(list, c, LATENT_CHANNELS, 2, "patch_embed");
    add_linear(list, outer_linear, c, TIMESTEP_WIDTH, "timestep_embed.in");
    add_linear(list, outer_linear, c, c, "timestep_embed.out");
    add_linear(list, outer_linear, c, pooled, "pooled_embed.in");
    add_linear(list, outer_linear, c, c, "pooled_embed.out");
    add_linear(list, outer_linear, c, options->t5.width, "context_embed");
    for (int i = 0; i < options->layers; i++) {
        add_side(list, options, i, "image", i < options->dual_layers, false);
        add_side(list, options, i, "context", false, i == options->layers - 1);
    }
    add_fused(list, outer_linear, c, c, "final.", shift_scale, 2);
    add_linear(list, outer_linear, 4L * LATENT_CHANNELS, c, "final.linear");
}

static void add_resnet(struct random_tensors *list, int64_t in, int64_t out, const char *name)
{
    add_norm(list, in, true, name_of("%s.norm1", name).text);
    add_conv(list, out, in, 3, name_of("%s.conv1", name).text);
    add_norm(list, out, true, name_of("%s.norm2", name).text);
    add_conv(list, out, out, 3, name_of("%s.conv2", name).text);
    if (in != out)
        add_conv(list, out, in, 1, name_of("%s.shortcut", name).text);
}

static void add_middle(struct random_tensors *list, int64_t c, const char *half)
{
    static const char *const linears[] = {"q", "k", "v", "proj"};

    add_resnet(list, c, c, name_of("%s.mid.block.0", half).text);
    add_norm(list, c, true, name_of("%s.mid.attention.norm", half).text);
    for (size_t i = 0; i < COUNT_OF(linears); i++)
        add_linear(list, outer_linear, c, c, name_of("%s.mid.attention.%s", half, linears[i]).text);
    add_resnet(list, c, c, name_of("%s.mid.block.1", half).text);
}

static void list_vae(struct random_tensors *list, const struct random_model_options *options)
{
    const int *channels = options->vae_channels;
    int top = options->vae_levels - 1, width = channels[0];

    add_conv(list, width, 3, 3, "encoder.conv_in");
    for (int level = 0; level <= top; level++) {
        for (int block = 0; block < 2; block++, width = channels[level])
            add_resnet(list, width, channels[level],
                       name_of("encoder.down.%d.block.%d", level, block).text);
        if (level < top)
            add_conv(list, width, width, 3, name_of("encoder.down.%d.downsample", level).text);
    }
    add_middle(list, width, "encoder");
    add_norm(list, width, true, "encoder.norm_out");
    add_conv(list, 2L * LATENT_CHANNELS, width, 3, "encoder.conv_out");

    add_conv(list, width, LATENT_CHANNELS, 3, "decoder.conv_in");
    add_middle(list, width, "decoder");
    for (int level = 0; level <= top; level++) {
        for (int block = 0; block < 3; block++, width = channels[top - level])
            add_resnet(list, width, channels[top - level],
                       name_of("decoder.up.%d.block.%d", level, block).text);
        if (level < top)
            add_conv(list, width, width, 3, name_of("decoder.up.%d.upsample", level).text);
    }
    add_norm(list, width, true, "decoder.norm_out");
    add_conv(list, 3, width, 3, "decoder.conv_out");
}

static void list_clip(struct random_tensors *list, const struct random_model_encoder *clip,
                      int vocabulary)
{
    int64_t c = clip->width;
    char prefix[32];

    add_table(list, vocabulary, c, 1.0f, "token_embedding.weight");
    add_table(list, CLIP_TOKENS, c, 0.3f, "position_embedding.weight");
    for (int i = 0; i < clip->layers; i++) {
        snprintf(prefix, sizeof prefix, "layer.%d.", i);
        add_norm(list, c, true, name_of("%snorm1", prefix).text);
        add_fused(list, outer_linear, c, c, prefix, qkv, 3);
        add_linear(list, outer_linear, c, c, name_of("%sproj", prefix).text);
        add_norm(list, c, true, name_of("%snorm2", prefix).text);
        add_linear(list, outer_linear, clip->mlp_width, c, name_of("%smlp_in", prefix).text);
        add_linear(list, outer_linear, c, clip->mlp_width, name_of("%smlp_out", prefix).text);
    }
    add_norm(list, c, true, "final_norm");
    add_weight(list, c, c, false, "text_projection");
}

static void list_t5(struct random_tensors *list, const struct random_model_options *options)
{
    const struct random_model_encoder *t5 = &options->t5;
    int64_t c = t5->width, inner = (int64_t)t5->heads * HEAD_WIDTH;

    add_table(list, options->t5_vocabulary, c, 1.0f, "token_embedding.weight");
    add_table(list, T5_BUCKETS, t5->heads, 1.0f, "relative_bias.weight");
    for (int i = 0; i < t5->layers; i++) {
        add_vector(list, c, 1.0f, 0.2f, name_of("layer.%d.norm1.weight", i).text);
        for (size_t j = 0; j < COUNT_OF(qkv); j++)
            add_linear(list, t5_linear, inner, c, name_of("layer.%d.%s", i, qkv[j]).text);
        add_linear(list, t5_linear, c, inner, name_of("layer.%d.proj", i).text);
        add_vector(list, c, 1.0f, 0.2f, name_of("layer.%d.norm2.weight", i).text);
        add_linear(list, t5_linear, t5->mlp_width, c, name_of("layer.%d.gate", i).text);
        add_linear(list, t5_linear, t5->mlp_width, c, name_of("layer.%d.up", i).text);
        add_linear(list, t5_linear, c, t5->mlp_width, name_of("layer.%d.down", i).text);
    }
    add_vector(list, c, 1.0f, 0.2f, "final_norm.weight");
}

void random_tensors_list(struct random_tensors *list, enum component component,
                         const struct random_model_options *options)
{
    switch (component) {
    case COMPONENT_TRANSFORMER:
        list_transformer(list, options);
        break;
    case COMPONENT_VAE:
        list_vae(list, options);
        break;
    case COMPONENT_CLIP_L:
        list_clip(list, &options->clip_l, options->clip_vocabulary);
        break;
    case COMPONENT_CLIP_G:
        list_clip(list, &options->clip_g, options->clip_vocabulary);
        break;
    case COMPONENT_T5:
        list_t5(list, options);
        break;
    case COMPONENT_COUNT:
        break;
    }
}

void random_tensors_finish(struct random_tensors *list)
{
    free(list->tensor);
    *list = (struct random_tensors){0};
}
