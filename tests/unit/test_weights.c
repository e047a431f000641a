/* Weights: canonical names over every layout, FP8 scales, and what is wrong with a file, by name.
 */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/model_files.h"
#include "weights/safetensors.h"
#include "weights/shard_index.h"
#include "weights/weights.h"
#include "weights/weights_build.h"

/* --- files put together in memory, then written --- */

#define ITEMS_MAX 256

struct item {
    char name[160];
    enum safetensors_dtype dtype;
    int rank;
    int64_t dim[6];
    unsigned char *data;
    size_t bytes;
};

struct content {
    struct item item[ITEMS_MAX];
    size_t count;
    const char *quantization; /* "_quantization_metadata"; NULL: none */
};

static struct item *put(struct content *content, const char *name, enum safetensors_dtype dtype,
                        int rank, const int64_t *dim, const void *data)
{
    struct item *item = &content->item[content->count++];

    assert_true(content->count <= ITEMS_MAX);
    *item = (struct item){.dtype = dtype, .rank = rank, .bytes = safetensors_dtype_size(dtype)};
    snprintf(item->name, sizeof item->name, "%s", name);
    for (int i = 0; i < rank; i++) {
        item->dim[i] = dim[i];
        item->bytes *= (size_t)dim[i];
    }
    item->data = malloc(item->bytes + 1);
    assert_non_null(item->data);
    memcpy(item->data, data, item->bytes);
    return item;
}

#define PUT(content, name, dtype, data, ...)                                                       \
    put(content, name, dtype, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),           \
        (int64_t[]){__VA_ARGS__}, data)

/* A tensor whose elements are all different, and different from those of all others. */
static struct item *put_f32(struct content *content, const char *name, int rank, const int64_t *dim)
{
    static float next = 1.0f;
    float values[4096];
    int64_t count = 1;

    for (int i = 0; i < rank; i++)
        count *= dim[i];
    assert_true(count <= (int64_t)COUNT_OF(values));
    for (int64_t i = 0; i < count; i++)
        values[i] = next++;
    return put(content, name, SAFETENSORS_F32, rank, dim, values);
}

#define PUT_F32(content, name, ...)                                                                \
    put_f32(content, name, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),              \
            (int64_t[]){__VA_ARGS__})

static const struct item *item_of(const struct content *content, const char *name)
{
    for (size_t i = 0; i < content->count; i++)
        if (strcmp(content->item[i].name, name) == 0)
            return &content->item[i];
    fail_msg("no '%s' in the test's content", name);
    return NULL;
}

static void clear(struct content *content)
{
    for (size_t i = 0; i < content->count; i++)
        free(content->item[i].data);
    content->count = 0;
    content->quantization = NULL;
}

static const char *write_content(const struct content *content, const char *file_name,
                                 const char *prefix)
{
    const char *path = test_path(file_name);
    struct safetensors_writer *writer;
    char name[256];

    assert_true(safetensors_writer_create(&writer, path, NULL));
    if (content->quantization)
        assert_true(safetensors_writer_metadata(writer, "_quantization_metadata",
                                                content->quantization, NULL));
    for (size_t i = 0; i < content->count; i++) {
        const struct item *item = &content->item[i];

        snprintf(name, sizeof name, "%s%s", prefix, item->name);
        assert_true(
            safetensors_writer_declare(writer, name, item->dtype, item->rank, item->dim, NULL));
    }
    for (size_t i = 0; i < content->count; i++)
        assert_true(
            safetensors_writer_append(writer, content->item[i].data, content->item[i].bytes, NULL));
    assert_true(safetensors_writer_commit(writer, NULL));
    return path;
}

static struct weights *try_open(enum component component, const char *path, const char *prefix,
                                struct error *err)
{
    struct safetensors_file *file;
    struct weights *weights;

    assert_true(safetensors_open(&file, path, err));
    assert_true(weights_create(&weights, component, path, err));
    if (!weights_add_file(weights, file, prefix, err) || !weights_finish(weights, err)) {
        weights_destroy(weights);
        weights = NULL;
    }
    safetensors_close(file);
    return weights;
}

static struct weights *open_content(enum component component, const struct content *content)
{
    struct error err = {0};
    struct weights *weights =
        try_open(component, write_content(content, "content.safetensors", ""), "", &err);

    if (!weights)
        fail_msg("%s", err.message);
    return weights;
}

static void expect_values(const struct tensor *tensor, const void *data, const char *what)
{
    if (!tensor_exists(tensor) ||
        memcmp(tensor->data, data, (size_t)tensor_count(tensor) * sizeof(float)) != 0)
        fail_msg("%s: other values", what);
}

/* --- the two layouts of the transformer --- */

enum { WIDTH = 4, HEAD = 2, CONTEXT = 5, POOLED = 3, SIDE = 3, LATENT = 2 };

/* clang-format off */
/* model.md, section 3.4, written down once more, so that an error in the table of weights/names.c
 * has no second chance. '@' stands for ".weight" or ".bias". */
static const struct pair {
    const char *original;
    int rank;
    int64_t dim[4];
    int parts;                /* rows are split among as many tensors of the other layout */
    const char *diffusers[3]; /* in the order of the original's rows */
    bool is_swapped;          /* the other layout has the two halves in one tensor, swapped */
} transformer_pairs[] = {
    {"pos_embed", 3, {1, SIDE * SIDE, WIDTH}, 1, {"pos_embed.pos_embed"}, false},
    {"x_embedder.proj@", 4, {WIDTH, LATENT, 2, 2}, 1, {"pos_embed.proj@"}, false},
    {"t_embedder.mlp.0@", 2, {WIDTH, 8}, 1, {"time_text_embed.timestep_embedder.linear_1@"}, false},
    {"t_embedder.mlp.2@", 2, {WIDTH, WIDTH}, 1, {"time_text_embed.timestep_embedder.linear_2@"}, false},
    {"y_embedder.mlp.0@", 2, {WIDTH, POOLED}, 1, {"time_text_embed.text_embedder.linear_1@"}, false},
    {"y_embedder.mlp.2@", 2, {WIDTH, WIDTH}, 1, {"time_text_embed.text_embedder.linear_2@"}, false},
    {"context_embedder@", 2, {WIDTH, CONTEXT}, 1, {"context_embedder@"}, false},
    {"joint_blocks.0.x_block.adaLN_modulation.1@", 2, {9 * WIDTH, WIDTH}, 1, {"transformer_blocks.0.norm1.linear@"}, false},
    {"joint_blocks.0.x_block.attn.qkv@", 2, {3 * WIDTH, WIDTH}, 3, {"transformer_blocks.0.attn.to_q@", "transformer_blocks.0.attn.to_k@", "transformer_blocks.0.attn.to_v@"}, false},
    {"joint_blocks.0.x_block.attn.proj@", 2, {WIDTH, WIDTH}, 1, {"transformer_blocks.0.attn.to_out.0@"}, false},
    {"joint_blocks.0.x_block.attn.ln_q.weight", 1, {HEAD}, 1, {"transformer_blocks.0.attn.norm_q.weight"}, false},
    {"joint_blocks.0.x_block.attn.ln_k.weight", 1, {HEAD}, 1, {"transformer_blocks.0.attn.norm_k.weight"}, false},
    {"joint_blocks.0.x_block.attn2.qkv@", 2, {3 * WIDTH, WIDTH}, 3, {"transformer_blocks.0.attn2.to_q@", "transformer_blocks.0.attn2.to_k@", "transformer_blocks.0.attn2.to_v@"}, false},
    {"joint_blocks.0.x_block.attn2.proj@", 2, {WIDTH, WIDTH}, 1, {"transformer_blocks.0.attn2.to_out.0@"}, false},
    {"joint_blocks.0.x_block.attn2.ln_q.weight", 1, {HEAD}, 1, {"transformer_blocks.0.attn2.norm_q.weight"}, false},
    {"joint_blocks.0.x_block.attn2.ln_k.weight", 1, {HEAD}, 1, {"transformer_blocks.0.attn2.norm_k.weight"}, false},
    {"joint_blocks.0.x_block.mlp.fc1@", 2, {4 * WIDTH, WIDTH}, 1, {"transformer_blocks.0.ff.net.0.proj@"}, false},
    {"joint_blocks.0.x_block.mlp.fc2@", 2, {WIDTH, 4 * WIDTH}, 1, {"transformer_blocks.0.ff.net.2@"}, false},
    {"joint_blocks.0.context_block.adaLN_modulation.1@", 2, {6 * WIDTH, WIDTH}, 1, {"transformer_blocks.0.norm1_context.linear@"}, false},
    {"joint_blocks.0.context_block.attn.qkv@", 2, {3 * WIDTH, WIDTH}, 3, {"transformer_blocks.0.attn.add_q_proj@", "transformer_blocks.0.attn.add_k_proj@", "transformer_blocks.0.attn.add_v_proj@"}, false},
    {"joint_blocks.0.context_block.attn.proj@", 2, {WIDTH, WIDTH}, 1, {"transformer_blocks.0.attn.to_add_out@"}, false},
    {"joint_blocks.0.context_block.attn.ln_q.weight", 1, {HEAD}, 1, {"transformer_blocks.0.attn.norm_added_q.weight"}, false},
    {"joint_blocks.0.context_block.attn.ln_k.weight", 1, {HEAD}, 1, {"transformer_blocks.0.attn.norm_added_k.weight"}, false},
    {"joint_blocks.0.context_block.mlp.fc1@", 2, {4 * WIDTH, WIDTH}, 1, {"transformer_blocks.0.ff_context.net.0.proj@"}, false},
    {"joint_blocks.0.context_block.mlp.fc2@", 2, {WIDTH, 4 * WIDTH}, 1, {"transformer_blocks.0.ff_context.net.2@"}, false},
    {"joint_blocks.11.x_block.adaLN_modulation.1@", 2, {6 * WIDTH, WIDTH}, 1, {"transformer_blocks.11.norm1.linear@"}, false},
    {"joint_blocks.11.context_block.adaLN_modulation.1@", 2, {2 * WIDTH, WIDTH}, 1, {"transformer_blocks.11.norm1_context.linear@"}, true},
    {"final_layer.adaLN_modulation.1@", 2, {2 * WIDTH, WIDTH}, 1, {"norm_out.linear@"}, true},
    {"final_layer.linear@", 2, {8, WIDTH}, 1, {"proj_out@"}, false},
};

/* What model code asks for, and which rows of the original tensor it must get. */
static const struct asked {
    const char *canonical, *original;
    int64_t first_row, rows;
} transformer_asked[] = {
    {"position_table", "pos_embed", 0, SIDE * SIDE},
    {"timestep_embed.in", "t_embedder.mlp.0@", 0, WIDTH},
    {"timestep_embed.out", "t_embedder.mlp.2@", 0, WIDTH},
    {"pooled_embed.in", "y_embedder.mlp.0@", 0, WIDTH},
    {"pooled_embed.out", "y_embedder.mlp.2@", 0, WIDTH},
    {"context_embed", "context_embedder@", 0, WIDTH},
    {"block.0.image.modulation", "joint_blocks.0.x_block.adaLN_modulation.1@", 0, 9 * WIDTH},
    {"block.0.image.q", "joint_blocks.0.x_block.attn.qkv@", 0, WIDTH},
    {"block.0.image.k", "joint_blocks.0.x_block.attn.qkv@", WIDTH, WIDTH},
    {"block.0.image.v", "joint_blocks.0.x_block.attn.qkv@", 2 * WIDTH, WIDTH},
    {"block.0.image.proj", "joint_blocks.0.x_block.attn.proj@", 0, WIDTH},
    {"block.0.image.q2", "joint_blocks.0.x_block.attn2.qkv@", 0, WIDTH},
    {"block.0.image.k2", "joint_blocks.0.x_block.attn2.qkv@", WIDTH, WIDTH},
    {"block.0.image.v2", "joint_blocks.0.x_block.attn2.qkv@", 2 * WIDTH, WIDTH},
    {"block.0.image.proj2", "joint_blocks.0.x_block.attn2.proj@", 0, WIDTH},
    {"block.0.image.mlp_in", "joint_blocks.0.x_block.mlp.fc1@", 0, 4 * WIDTH},
    {"block.0.image.mlp_out", "joint_blocks.0.x_block.mlp.fc2@", 0, WIDTH},
    {"block.0.context.modulation", "joint_blocks.0.context_block.adaLN_modulation.1@", 0, 6 * WIDTH},
    {"block.0.context.q", "joint_blocks.0.context_block.attn.qkv@", 0, WIDTH},
    {"block.0.context.k", "joint_blocks.0.context_block.attn.qkv@", WIDTH, WIDTH},
    {"block.0.context.v", "joint_blocks.0.context_block.attn.qkv@", 2 * WIDTH, WIDTH},
    {"block.0.context.proj", "joint_blocks.0.context_block.attn.proj@", 0, WIDTH},
    {"block.0.context.mlp_in", "joint_blocks.0.context_block.mlp.fc1@", 0, 4 * WIDTH},
    {"block.0.context.mlp_out", "joint_blocks.0.context_block.mlp.fc2@", 0, WIDTH},
    {"block.11.image.modulation", "joint_blocks.11.x_block.adaLN_modulation.1@", 0, 6 * WIDTH},
    {"block.11.context.shift", "joint_blocks.11.context_block.adaLN_modulation.1@", 0, WIDTH},
    {"block.11.context.scale", "joint_blocks.11.context_block.adaLN_modulation.1@", WIDTH, WIDTH},
    {"final.shift", "final_layer.adaLN_modulation.1@", 0, WIDTH},
    {"final.scale", "final_layer.adaLN_modulation.1@", WIDTH, WIDTH},
    {"final.linear", "final_layer.linear@", 0, 8},
};

static const struct {
    const char *canonical, *original;
} norms_asked[] = {
    {"block.0.image.q_norm.weight", "joint_blocks.0.x_block.attn.ln_q.weight"},
    {"block.0.image.k_norm.weight", "joint_blocks.0.x_block.attn.ln_k.weight"},
    {"block.0.image.q2_norm.weight", "joint_blocks.0.x_block.attn2.ln_q.weight"},
    {"block.0.image.k2_norm.weight", "joint_blocks.0.x_block.attn2.ln_k.weight"},
    {"block.0.context.q_norm.weight", "joint_blocks.0.context_block.attn.ln_q.weight"},
    {"block.0.context.k_norm.weight", "joint_blocks.0.context_block.attn.ln_k.weight"},
};

/* clang-format on */

/* `pattern` with '@' replaced. */
static const char *with_suffix(const char *pattern, const char *suffix)
{
    static char names[2][160];
    static int next;
    char *name = names[next++ % 2];
    const char *at = strchr(pattern, '@');

    if (at)
        snprintf(name, sizeof names[0], "%.*s%s", (int)(at - pattern), pattern, suffix);
    else
        snprintf(name, sizeof names[0], "%s", pattern);
    return name;
}

/* The tensor of one pair in the original layout, and what of it the other layout has. */
static void put_pair(struct content *original, struct content *diffusers, const struct pair *pair,
                     const char *suffix)
{
    bool is_bias = strcmp(suffix, ".bias") == 0;
    int rank = is_bias ? 1 : pair->rank;
    const struct item *whole =
        put_f32(original, with_suffix(pair->original, suffix), rank, pair->dim);
    size_t part = whole->bytes / (size_t)pair->parts;
    unsigned char swapped[4096];
    int64_t dim[4];

    memcpy(dim, whole->dim, sizeof dim);
    dim[0] /= pair->parts;
    if (pair->is_swapped) {
        assert_true(whole->bytes <= sizeof swapped);
        memcpy(swapped, whole->data + whole->bytes / 2, whole->bytes / 2);
        memcpy(swapped + whole->bytes / 2, whole->data, whole->bytes / 2);
        put(diffusers, with_suffix(pair->diffusers[0], suffix), SAFETENSORS_F32, rank, dim,
            swapped);
        return;
    }
    for (int i = 0; i < pair->parts; i++)
        put(diffusers, with_suffix(pair->diffusers[i], suffix), SAFETENSORS_F32, rank, dim,
            whole->data + (size_t)i * part);
}

static void put_transformers(struct content *original, struct content *diffusers)
{
    for (size_t i = 0; i < COUNT_OF(transformer_pairs); i++) {
        put_pair(original, diffusers, &transformer_pairs[i], ".weight");
        if (strchr(transformer_pairs[i].original, '@'))
            put_pair(original, diffusers, &transformer_pairs[i], ".bias");
    }
}

static int64_t columns_of(const struct item *item)
{
    return item->rank == 3 ? item->dim[2] : item->dim[1];
}

static void ask_transformer(struct weights *weights, const struct content *original)
{
    struct weight_loader loader;
    struct error err = {0};
    struct linear layer;
    struct tensor tensor;

    weight_loader_init(&loader, weights);
    for (size_t i = 0; i < COUNT_OF(transformer_asked); i++) {
        const struct asked *asked = &transformer_asked[i];
        const struct item *weight = item_of(original, with_suffix(asked->original, ".weight"));
        int64_t columns = columns_of(weight);

        if (weight->rank == 3) {
            weight_loader_table(&loader, &tensor, asked->rows, columns, "%s", asked->canonical);
            expect_values(&tensor, weight->data, asked->canonical);
            continue;
        }
        weight_loader_linear(&loader, &layer, asked->rows, columns, true, "%s", asked->canonical);
        expect_values(&layer.weight,
                      weight->data + (size_t)(asked->first_row * columns) * sizeof(float),
                      asked->canonical);
        expect_values(&layer.bias,
                      item_of(original, with_suffix(asked->original, ".bias"))->data +
                          (size_t)asked->first_row * sizeof(float),
                      asked->canonical);
        assert_int_equal((uintptr_t)layer.bias.data % 64, 0);
    }
    for (size_t i = 0; i < COUNT_OF(norms_asked); i++) {
        weight_loader_vector(&loader, &tensor, HEAD, "%s", norms_asked[i].canonical);
        expect_values(&tensor, item_of(original, norms_asked[i].original)->data,
                      norms_asked[i].canonical);
    }
    weight_loader_conv(&loader, &layer, WIDTH, LATENT, 2, "patch_embed");
    expect_values(&layer.weight, item_of(original, "x_embedder.proj.weight")->data, "patch_embed");
    assert_int_equal(layer.weight.rank, 4);
    if (!weight_loader_finish(&loader, &err))
        fail_msg("%s", err.message);
}

static void both_layouts_of_a_transformer_hand_out_the_same_tensors(void **state)
{
    static struct content original, diffusers;
    struct weights *weights;

    (void)state;
    put_transformers(&original, &diffusers);
    weights = open_content(COMPONENT_TRANSFORMER, &original);
    ask_transformer(weights, &original);
    weights_destroy(weights);
    weights = open_content(COMPONENT_TRANSFORMER, &diffusers);
    ask_transformer(weights, &original);
    weights_destroy(weights);
    clear(&original);
    clear(&diffusers);
}

static void shapes_are_those_that_a_loader_hands_out(void **state)
{
    static struct content content[2];

    (void)state;
    put_transformers(&content[0], &content[1]);
    for (int layout = 0; layout < 2; layout++) {
        struct weights *weights = open_content(COMPONENT_TRANSFORMER, &content[layout]);
        int64_t dim[TENSOR_MAX_RANK];
        int rank;

        assert_true(weights_shape(weights, &rank, dim, "position_table"));
        assert_int_equal(rank, 2);
        assert_int_equal(dim[0], SIDE * SIDE);
        assert_true(weights_shape(weights, &rank, dim, "block.%d.image.k2.weight", 0));
        assert_int_equal(rank, 2);
        assert_int_equal(dim[0], WIDTH);
        assert_true(weights_shape(weights, &rank, dim, "final.scale.bias"));
        assert_int_equal(rank, 1);
        assert_int_equal(dim[0], WIDTH);
        assert_true(weights_shape(weights, &rank, dim, "patch_embed.weight"));
        assert_int_equal(rank, 4);
        assert_true(weights_has(weights, "block.%d.image.q2.weight", 0));
        assert_false(weights_has(weights, "block.%d.image.q2.weight", 11));
        assert_false(weights_has(weights, "block.0.image.q2"));
        assert_false(weights_has(weights, "block.00.image.q2.weight"));
        assert_false(weights_has(weights, "block.99999999999.image.q2.weight"));
        assert_false(weights_shape(weights, &rank, dim, "no.such.name"));
        assert_int_equal(rank, 0);
        weights_destroy(weights);
        clear(&content[layout]);
    }
}

static void a_shape_too_large_to_compute_with_is_none(void **state)
{
    static struct content content;
    struct weights *weights;
    int64_t dim[TENSOR_MAX_RANK];
    int rank = 3;

    (void)state;
    PUT(&content, "context_embedder.weight", SAFETENSORS_F32, "", (int64_t)1 << 60, 0);
    PUT(&content, "pos_embed", SAFETENSORS_F32, "", 1, 0, 4);
    PUT_F32(&content, "final_layer.linear.weight", 1, 2, 1, 2, 1, 2);
    weights = open_content(COMPONENT_TRANSFORMER, &content);
    assert_true(weights_has(weights, "context_embed.weight"));
    assert_false(weights_shape(weights, &rank, dim, "context_embed.weight"));
    assert_int_equal(rank, 0);
    assert_false(weights_shape(weights, &rank, dim, "position_table"));
    assert_false(weights_shape(weights, &rank, dim, "final.linear.weight"));
    weights_destroy(weights);
    clear(&content);
}

/* --- the VAE --- */

/* clang-format off */
static const struct {
    const char *canonical, *original, *diffusers;
    int64_t dim[4];
} vae_names[] = {
    {"encoder.conv_in", "encoder.conv_in", "encoder.conv_in", {2, 3, 3, 3}},
    {"encoder.down.1.block.0.conv1", "encoder.down.1.block.0.conv1", "encoder.down_blocks.1.resnets.0.conv1", {2, 2, 3, 3}},
    {"encoder.down.1.block.0.conv2", "encoder.down.1.block.0.conv2", "encoder.down_blocks.1.resnets.0.conv2", {2, 2, 3, 3}},
    {"encoder.down.1.block.0.shortcut", "encoder.down.1.block.0.nin_shortcut", "encoder.down_blocks.1.resnets.0.conv_shortcut", {2, 2, 1, 1}},
    {"encoder.down.0.downsample", "encoder.down.0.downsample.conv", "encoder.down_blocks.0.downsamplers.0.conv", {2, 2, 3, 3}},
    {"encoder.mid.block.0.conv1", "encoder.mid.block_1.conv1", "encoder.mid_block.resnets.0.conv1", {2, 2, 3, 3}},
    {"encoder.mid.block.1.conv1", "encoder.mid.block_2.conv1", "encoder.mid_block.resnets.1.conv1", {2, 2, 3, 3}},
    {"encoder.conv_out", "encoder.conv_out", "encoder.conv_out", {4, 2, 3, 3}},
    {"decoder.conv_in", "decoder.conv_in", "decoder.conv_in", {2, 2, 3, 3}},
    {"decoder.mid.block.1.conv2", "decoder.mid.block_2.conv2", "decoder.mid_block.resnets.1.conv2", {2, 2, 3, 3}},
    {"decoder.up.0.block.2.conv1", "decoder.up.2.block.2.conv1", "decoder.up_blocks.0.resnets.2.conv1", {2, 2, 3, 3}},
    {"decoder.up.0.block.0.conv1", "decoder.up.2.block.0.conv1", "decoder.up_blocks.0.resnets.0.conv1", {2, 2, 3, 3}},
    {"decoder.up.1.block.0.conv1", "decoder.up.1.block.0.conv1", "decoder.up_blocks.1.resnets.0.conv1", {2, 2, 3, 3}},
    {"decoder.up.2.block.0.conv1", "decoder.up.0.block.0.conv1", "decoder.up_blocks.2.resnets.0.conv1", {2, 2, 3, 3}},
    {"decoder.up.2.block.0.shortcut", "decoder.up.0.block.0.nin_shortcut", "decoder.up_blocks.2.resnets.0.conv_shortcut", {2, 2, 1, 1}},
    {"decoder.up.0.upsample", "decoder.up.2.upsample.conv", "decoder.up_blocks.0.upsamplers.0.conv", {2, 2, 3, 3}},
    {"decoder.up.1.upsample", "decoder.up.1.upsample.conv", "decoder.up_blocks.1.upsamplers.0.conv", {2, 2, 3, 3}},
    {"decoder.conv_out", "decoder.conv_out", "decoder.conv_out", {3, 2, 3, 3}},
};

static const struct {
    const char *canonical, *original, *diffusers;
} vae_attention[] = {
    {"encoder.mid.attention.q", "encoder.mid.attn_1.q", "encoder.mid_block.attentions.0.to_q"},
    {"encoder.mid.attention.k", "encoder.mid.attn_1.k", "encoder.mid_block.attentions.0.to_k"},
    {"encoder.mid.attention.v", "encoder.mid.attn_1.v", "encoder.mid_block.attentions.0.to_v"},
    {"encoder.mid.attention.proj", "encoder.mid.attn_1.proj_out", "encoder.mid_block.attentions.0.to_out.0"},
    {"decoder.mid.attention.proj", "decoder.mid.attn_1.proj_out", "decoder.mid_block.attentions.0.to_out.0"},
};

static const struct {
    const char *canonical, *original, *diffusers;
} vae_norms[] = {
    {"encoder.down.0.block.1.norm2", "encoder.down.0.block.1.norm2", "encoder.down_blocks.0.resnets.1.norm2"},
    {"encoder.mid.attention.norm", "encoder.mid.attn_1.norm", "encoder.mid_block.attentions.0.group_norm"},
    {"encoder.norm_out", "encoder.norm_out", "encoder.conv_norm_out"},
    {"decoder.up.0.block.1.norm1", "decoder.up.2.block.1.norm1", "decoder.up_blocks.0.resnets.1.norm1"},
    {"decoder.norm_out", "decoder.norm_out", "decoder.conv_norm_out"},
};

/* clang-format on */

static void put_same(struct content *a, const char *name_a, struct content *b, const char *name_b,
                     const char *suffix, int rank_a, int rank_b, const int64_t *dim)
{
    char name[160];
    const struct item *item;

    snprintf(name, sizeof name, "%s%s", name_a, suffix);
    item = put_f32(a, name, rank_a, dim);
    snprintf(name, sizeof name, "%s%s", name_b, suffix);
    put(b, name, SAFETENSORS_F32, rank_b, dim, item->data);
}

static void put_vaes(struct content *original, struct content *diffusers)
{
    const int64_t flat[] = {2, 2, 1, 1};

    for (size_t i = 0; i < COUNT_OF(vae_names); i++) {
        put_same(original, vae_names[i].original, diffusers, vae_names[i].diffusers, ".weight", 4,
                 4, vae_names[i].dim);
        put_same(original, vae_names[i].original, diffusers, vae_names[i].diffusers, ".bias", 1, 1,
                 vae_names[i].dim);
    }
    for (size_t i = 0; i < COUNT_OF(vae_attention); i++) {
        put_same(original, vae_attention[i].original, diffusers, vae_attention[i].diffusers,
                 ".weight", 4, 2, flat);
        put_same(original, vae_attention[i].original, diffusers, vae_attention[i].diffusers,
                 ".bias", 1, 1, flat);
    }
    for (size_t i = 0; i < COUNT_OF(vae_norms); i++)
        put_same(original, vae_norms[i].original, diffusers, vae_norms[i].diffusers, ".weight", 1,
                 1, flat);
}

static const void *data_of(const struct content *content, const char *name, const char *suffix)
{
    char whole[160];

    snprintf(whole, sizeof whole, "%s%s", name, suffix);
    return item_of(content, whole)->data;
}

static void ask_vae(struct weights *weights, const struct content *original)
{
    struct weight_loader loader;
    struct error err = {0};
    struct linear layer;
    struct tensor tensor;

    weight_loader_init(&loader, weights);
    for (size_t i = 0; i < COUNT_OF(vae_names); i++) {
        const int64_t *dim = vae_names[i].dim;

        weight_loader_conv(&loader, &layer, dim[0], dim[1], dim[2], "%s", vae_names[i].canonical);
        expect_values(&layer.weight, data_of(original, vae_names[i].original, ".weight"),
                      vae_names[i].canonical);
        assert_int_equal(layer.weight.rank, 4);
    }
    for (size_t i = 0; i < COUNT_OF(vae_attention); i++) {
        int64_t dim[TENSOR_MAX_RANK];
        int rank;

        weight_loader_linear(&loader, &layer, 2, 2, true, "%s", vae_attention[i].canonical);
        expect_values(&layer.weight, data_of(original, vae_attention[i].original, ".weight"),
                      vae_attention[i].canonical);
        assert_int_equal(layer.weight.rank, 2);
        assert_true(weights_shape(weights, &rank, dim, "%s.weight", vae_attention[i].canonical));
        assert_int_equal(rank, 2);
        weight_loader_conv(&loader, &layer, 2, 2, 1, "%s", vae_attention[i].canonical);
        assert_int_equal(layer.weight.rank, 4);
    }
    for (size_t i = 0; i < COUNT_OF(vae_norms); i++) {
        weight_loader_vector(&loader, &tensor, 2, "%s.weight", vae_norms[i].canonical);
        expect_values(&tensor, data_of(original, vae_norms[i].original, ".weight"),
                      vae_norms[i].canonical);
    }
    assert_false(weights_has(weights, "decoder.up.3.block.0.conv1.weight"));
    if (!weight_loader_finish(&loader, &err))
        fail_msg("%s", err.message);
}

static void both_layouts_of_a_vae_hand_out_the_same_tensors(void **state)
{
    static struct content original, diffusers;
    struct weights *weights;

    (void)state;
    put_vaes(&original, &diffusers);
    weights = open_content(COMPONENT_VAE, &original);
    ask_vae(weights, &original);
    weights_destroy(weights);
    weights = open_content(COMPONENT_VAE, &diffusers);
    ask_vae(weights, &original);
    weights_destroy(weights);
    clear(&original);
    clear(&diffusers);
}

/* --- text encoders --- */

static void put_clips(struct content *hf, struct content *open_clip)
{
    static const char *const qkv[] = {"q_proj", "k_proj", "v_proj"};
    static const struct {
        const char *hf, *open_clip;
        int rank;
        int64_t dim[2];
    } pairs[] = {
        {"text_model.embeddings.token_embedding.weight", "token_embedding.weight", 2, {7, 2}},
        {"text_model.embeddings.position_embedding.weight", "positional_embedding", 2, {5, 2}},
        {"text_model.encoder.layers.0.layer_norm1.weight",
         "transformer.resblocks.0.ln_1.weight",
         1,
         {2}},
        {"text_model.encoder.layers.0.layer_norm1.bias",
         "transformer.resblocks.0.ln_1.bias",
         1,
         {2}},
        {"text_model.encoder.layers.0.layer_norm2.weight",
         "transformer.resblocks.0.ln_2.weight",
         1,
         {2}},
        {"text_model.encoder.layers.0.self_attn.out_proj.weight",
         "transformer.resblocks.0.attn.out_proj.weight",
         2,
         {2, 2}},
        {"text_model.encoder.layers.0.self_attn.out_proj.bias",
         "transformer.resblocks.0.attn.out_proj.bias",
         1,
         {2}},
        {"text_model.encoder.layers.0.mlp.fc1.weight",
         "transformer.resblocks.0.mlp.c_fc.weight",
         2,
         {3, 2}},
        {"text_model.encoder.layers.0.mlp.fc2.weight",
         "transformer.resblocks.0.mlp.c_proj.weight",
         2,
         {2, 3}},
        {"text_model.final_layer_norm.weight", "ln_final.weight", 1, {2}},
    };
    float weight[12], bias[6], projection[4], turned[4];
    char name[128];

    for (size_t i = 0; i < COUNT_OF(pairs); i++)
        put_same(hf, pairs[i].hf, open_clip, pairs[i].open_clip, "", pairs[i].rank, pairs[i].rank,
                 pairs[i].dim);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "text_model.encoder.layers.0.self_attn.%s.weight", qkv[i]);
        memcpy(weight + (ptrdiff_t)4 * i, PUT_F32(hf, name, 2, 2)->data, 4 * sizeof(float));
        snprintf(name, sizeof name, "text_model.encoder.layers.0.self_attn.%s.bias", qkv[i]);
        memcpy(bias + (ptrdiff_t)2 * i, PUT_F32(hf, name, 2)->data, 2 * sizeof(float));
    }
    PUT(open_clip, "transformer.resblocks.0.attn.in_proj_weight", SAFETENSORS_F32, weight, 6, 2);
    PUT(open_clip, "transformer.resblocks.0.attn.in_proj_bias", SAFETENSORS_F32, bias, 6);
    memcpy(projection, PUT_F32(hf, "text_projection.weight", 2, 2)->data, sizeof projection);
    for (int i = 0; i < 4; i++)
        turned[i % 2 * 2 + i / 2] = projection[i];
    PUT(open_clip, "text_projection", SAFETENSORS_F32, turned, 2, 2);
    /* Things that files have and nobody needs. */
    PUT(hf, "text_model.embeddings.position_ids", SAFETENSORS_I64, ((int64_t[]){0, 1, 2, 3, 4}), 1,
        5);
    PUT(open_clip, "logit_scale", SAFETENSORS_F32, (float[]){100.0f}, 1);
}

static void ask_clip(struct weights *weights, const struct content *hf)
{
    static const char *const layers[][2] = {
        {"layer.0.q", "text_model.encoder.layers.0.self_attn.q_proj"},
        {"layer.0.k", "text_model.encoder.layers.0.self_attn.k_proj"},
        {"layer.0.v", "text_model.encoder.layers.0.self_attn.v_proj"},
        {"layer.0.proj", "text_model.encoder.layers.0.self_attn.out_proj"},
    };
    struct weight_loader loader;
    struct error err = {0};
    struct linear layer;
    struct tensor tensor;

    weight_loader_init(&loader, weights);
    for (size_t i = 0; i < COUNT_OF(layers); i++) {
        weight_loader_linear(&loader, &layer, 2, 2, true, "%s", layers[i][0]);
        expect_values(&layer.weight, data_of(hf, layers[i][1], ".weight"), layers[i][0]);
        expect_values(&layer.bias, data_of(hf, layers[i][1], ".bias"), layers[i][0]);
    }
    weight_loader_linear(&loader, &layer, 3, 2, false, "layer.0.mlp_in");
    expect_values(&layer.weight, data_of(hf, "text_model.encoder.layers.0.mlp.fc1", ".weight"),
                  "mlp_in");
    weight_loader_linear(&loader, &layer, 2, 3, false, "layer.0.mlp_out");
    expect_values(&layer.weight, data_of(hf, "text_model.encoder.layers.0.mlp.fc2", ".weight"),
                  "mlp_out");
    weight_loader_linear(&loader, &layer, 2, 2, false, "text_projection");
    expect_values(&layer.weight, data_of(hf, "text_projection", ".weight"), "text_projection");
    weight_loader_table(&loader, &tensor, 7, 2, "token_embedding.weight");
    weight_loader_table(&loader, &tensor, 5, 2, "position_embedding.weight");
    expect_values(&tensor, data_of(hf, "text_model.embeddings.position_embedding", ".weight"),
                  "position_embedding");
    weight_loader_vector(&loader, &tensor, 2, "layer.%d.norm1.bias", 0);
    expect_values(&tensor, data_of(hf, "text_model.encoder.layers.0.layer_norm1", ".bias"),
                  "norm1");
    weight_loader_vector(&loader, &tensor, 2, "layer.0.norm2.weight");
    weight_loader_vector(&loader, &tensor, 2, "final_norm.weight");
    expect_values(&tensor, data_of(hf, "text_model.final_layer_norm", ".weight"), "final_norm");
    if (!weight_loader_finish(&loader, &err))
        fail_msg("%s", err.message);
}

static void both_layouts_of_clip_hand_out_the_same_tensors(void **state)
{
    static struct content hf, open_clip;
    struct weights *weights;

    (void)state;
    put_clips(&hf, &open_clip);
    weights = open_content(COMPONENT_CLIP_G, &hf);
    ask_clip(weights, &hf);
    weights_destroy(weights);
    weights = open_content(COMPONENT_CLIP_G, &open_clip);
    ask_clip(weights, &hf);
    weights_destroy(weights);
    clear(&hf);
    clear(&open_clip);
}

static void t5_takes_its_embedding_under_either_name(void **state)
{
    static const char *const names[] = {"shared.weight", "encoder.embed_tokens.weight"};
    static struct content content;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct weight_loader loader;
        struct weights *weights;
        struct tensor table;
        struct linear layer;

        PUT_F32(&content, names[i], 9, 4);
        PUT_F32(&content, "encoder.block.3.layer.1.DenseReluDense.wi_0.weight", 6, 4);
        PUT_F32(&content, "encoder.block.3.layer.1.DenseReluDense.wi_1.weight", 6, 4);
        PUT_F32(&content, "encoder.block.3.layer.1.DenseReluDense.wo.weight", 4, 6);
        PUT_F32(&content, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 8,
                2);
        weights = open_content(COMPONENT_T5, &content);
        weight_loader_init(&loader, weights);
        weight_loader_table(&loader, &table, 9, 4, "token_embedding.weight");
        expect_values(&table, content.item[0].data, names[i]);
        weight_loader_linear(&loader, &layer, 6, 4, false, "layer.3.gate");
        expect_values(&layer.weight, content.item[1].data, "gate");
        weight_loader_linear(&loader, &layer, 6, 4, false, "layer.3.up");
        expect_values(&layer.weight, content.item[2].data, "up");
        weight_loader_linear(&loader, &layer, 4, 6, false, "layer.3.down");
        expect_values(&layer.weight, content.item[3].data, "down");
        assert_false(tensor_exists(&layer.bias));
        weight_loader_table(&loader, &table, 8, 2, "relative_bias.weight");
        expect_values(&table, content.item[4].data, "relative_bias");
        assert_true(weight_loader_finish(&loader, NULL));
        weights_destroy(weights);
        clear(&content);
    }
}

/* --- what is wrong --- */

static void the_first_five_missing_or_misshapen_tensors_are_named(void **state)
{
    static struct content content;
    struct weight_loader loader;
    struct error err = {0};
    struct weights *weights;
    struct linear layer;
    struct tensor tensor;

    (void)state;
    PUT_F32(&content, "joint_blocks.0.x_block.attn.qkv.weight", 12, 5);
    PUT_F32(&content, "joint_blocks.0.x_block.attn.qkv.bias", 12);
    PUT_F32(&content, "final_layer.linear.weight", 8, 4);
    PUT_F32(&content, "final_layer.linear.bias", 9);
    weights = open_content(COMPONENT_TRANSFORMER, &content);
    weight_loader_init(&loader, weights);
    weight_loader_linear(&loader, &layer, 4, 4, true, "block.0.image.q");
    assert_false(tensor_exists(&layer.weight));
    assert_true(tensor_exists(&layer.bias));
    weight_loader_linear(&loader, &layer, 4, 4, true, "block.0.image.k"); /* the same tensor */
    weight_loader_linear(&loader, &layer, 8, 4, true, "final.linear");
    assert_true(tensor_exists(&layer.weight));
    assert_false(tensor_exists(&layer.bias));
    weight_loader_vector(&loader, &tensor, 2, "block.7.context.k_norm.weight");
    weight_loader_table(&loader, &tensor, 9, 4, "position_table");
    weight_loader_linear(&loader, &layer, 4, 4, true, "block.1.image.proj");
    assert_int_equal(loader.problem_count, 6);
    assert_false(weight_loader_finish(&loader, &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_non_null(strstr(err.message, "content.safetensors': 6 of its tensors are missing or "
                                        "have the wrong shape: "
                                        "'joint_blocks.0.x_block.attn.qkv.weight' is [12, 5], not "
                                        "[12, 4]; 'final_layer.linear.bias' is [9], not [8]; "
                                        "'joint_blocks.7.context_block.attn.ln_k.weight' is "
                                        "missing; 'pos_embed' is missing; "
                                        "'joint_blocks.1.x_block.attn.proj.weight' is missing; "
                                        "and 1 more"));
    assert_int_equal(strncmp(err.message, "transformer in '", 16), 0);
    weights_destroy(weights);
    clear(&content);
}

static void a_type_that_nothing_computes_with_matters_only_where_it_is_needed(void **state)
{
    static struct content content;
    struct weight_loader loader;
    struct error err = {0};
    struct weights *weights;
    struct linear layer;

    (void)state;
    PUT_F32(&content, "final_layer.linear.weight", 2, 2);
    PUT_F32(&content, "final_layer.linear.bias", 2);
    PUT(&content, "context_embedder.weight", SAFETENSORS_F64, ((double[]){1, 2, 3, 4}), 2, 2);
    PUT_F32(&content, "context_embedder.bias", 2);
    weights = open_content(COMPONENT_TRANSFORMER, &content);
    weight_loader_init(&loader, weights);
    weight_loader_linear(&loader, &layer, 2, 2, true, "final.linear");
    assert_true(weight_loader_finish(&loader, &err));
    weight_loader_linear(&loader, &layer, 2, 2, true, "context_embed");
    assert_false(tensor_exists(&layer.weight));
    assert_false(weight_loader_finish(&loader, &err));
    assert_non_null(strstr(err.message, "1 of its tensors cannot be used: 'context_embedder.weight'"
                                        " has the type F64"));
    weights_destroy(weights);
    clear(&content);
}

static void an_adapter_or_a_stranger_is_no_component(void **state)
{
    static struct content content;
    struct error err = {0};

    (void)state;
    PUT_F32(&content, "joint_blocks.0.x_block.attn.proj.weight", 2, 2);
    PUT_F32(&content, "joint_blocks.0.x_block.attn.proj.lora_A.weight", 2, 2);
    assert_null(try_open(COMPONENT_TRANSFORMER, write_content(&content, "lora", ""), "", &err));
    assert_non_null(strstr(err.message, "adapter (LoRA)"));
    clear(&content);
    PUT_F32(&content, "model.layers.0.mlp.weight", 2, 2);
    assert_null(try_open(COMPONENT_T5, write_content(&content, "stranger", ""), "", &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_non_null(strstr(err.message, "holds no tensor of a T5; its first is 'model.layers.0"));
    clear(&content);
}

static void a_tensor_in_two_files_is_an_error(void **state)
{
    static struct content content;
    struct safetensors_file *file;
    struct weights *weights;
    struct error err = {0};

    (void)state;
    PUT_F32(&content, "pos_embed", 1, 4, 2);
    assert_true(safetensors_open(&file, write_content(&content, "twice", ""), &err));
    assert_true(weights_create(&weights, COMPONENT_TRANSFORMER, "twice", &err));
    assert_true(weights_add_file(weights, file, "", &err));
    assert_true(weights_add_file(weights, file, "", &err));
    assert_false(weights_finish(weights, &err));
    assert_non_null(strstr(err.message, "tensor 'pos_embed' is there twice"));
    weights_destroy(weights);
    safetensors_close(file);
    clear(&content);
}

static void a_prefix_is_stripped_and_other_components_left_out(void **state)
{
    static struct content content;
    struct weights *weights;
    struct error err = {0};
    const char *path;

    (void)state;
    PUT_F32(&content, "model.diffusion_model.pos_embed", 1, 4, 2);
    PUT_F32(&content, "first_stage_model.decoder.conv_in.weight", 1, 1, 3, 3);
    PUT_F32(&content, "encoder.conv_in.weight", 1, 1, 3, 3);
    path = write_content(&content, "prefix", "");
    weights = try_open(COMPONENT_TRANSFORMER, path, "model.diffusion_model.", &err);
    assert_true(weights_has(weights, "position_table"));
    assert_int_equal(weights_stored_bytes(weights), 4 * 2 * sizeof(float));
    weights_destroy(weights);
    weights = try_open(COMPONENT_VAE, path, "", &err);
    assert_true(weights_has(weights, "encoder.conv_in.weight"));
    assert_false(weights_has(weights, "decoder.conv_in.weight"));
    assert_int_equal(weights_stored_bytes(weights), 9 * sizeof(float));
    weights_destroy(weights);
    clear(&content);
}

/* --- FP8 --- */

#define QKV "joint_blocks.0.x_block.attn.qkv"
#define F8_ROWS 6
#define F8_PART 2

static void put_f8(struct content *content, enum safetensors_dtype dtype)
{
    unsigned char values[F8_ROWS * 4];

    for (size_t i = 0; i < sizeof values; i++)
        values[i] = (unsigned char)i;
    PUT(content, QKV ".weight", dtype, values, F8_ROWS, 4);
    PUT_F32(content, QKV ".bias", F8_ROWS);
}

/* Loads k, the second third; the problem text when that fails, else "". */
static const char *load_f8(struct linear *layer, struct weights **weights,
                           const struct content *content)
{
    static struct error err;
    struct weight_loader loader;

    *weights = open_content(COMPONENT_TRANSFORMER, content);
    weight_loader_init(&loader, *weights);
    weight_loader_linear(&loader, layer, F8_PART, 4, true, "block.0.image.k");
    if (weight_loader_finish(&loader, &err))
        return "";
    assert_false(tensor_exists(&layer->weight));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    return err.message;
}

static void every_form_of_an_fp8_scale_is_understood(void **state)
{
    static const struct {
        const char *suffix;
        int rank;
        int64_t dim[2];
    } forms[] = {
        {"", 0, {0}},
        {".scale_weight", 0, {0}},
        {".scale_weight", 1, {1}},
        {".scale_weight", 2, {1, 1}},
        {".scale_weight", 1, {F8_ROWS}},
        {".scale_weight", 2, {F8_ROWS, 1}},
        {".weight_scale", 0, {0}},
        {".weight_scale", 1, {F8_ROWS}},
        {".weight_scale", 2, {F8_ROWS, 1}},
    };
    const float scales[F8_ROWS] = {0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f};
    static struct content content;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        struct weights *weights;
        struct linear layer;
        char name[64];
        const char *problem;

        put_f8(&content, i % 2 ? SAFETENSORS_F8_E5M2 : SAFETENSORS_F8_E4M3);
        snprintf(name, sizeof name, QKV "%s", forms[i].suffix);
        if (*forms[i].suffix)
            put(&content, name, SAFETENSORS_F32, forms[i].rank, forms[i].dim, scales);
        problem = load_f8(&layer, &weights, &content);
        assert_string_equal(problem, "");
        assert_int_equal(layer.weight.dtype, i % 2 ? DTYPE_F8_E5M2 : DTYPE_F8_E4M3);
        assert_int_equal(*(unsigned char *)layer.weight.data, 4 * F8_PART);
        if (!*forms[i].suffix) {
            assert_false(tensor_exists(&layer.scale));
        } else if (forms[i].rank > 0 && forms[i].dim[0] == F8_ROWS) {
            assert_int_equal(layer.scale.dim[0], F8_PART);
            expect_values(&layer.scale, scales + F8_PART, name);
        } else {
            assert_int_equal(layer.scale.dim[0], 1);
            expect_values(&layer.scale, scales, name);
        }
        assert_int_equal(layer.scale.rank, *forms[i].suffix ? 1 : 0);
        weights_destroy(weights);
        clear(&content);
    }
}

/* --- becoming FP8 --- */

static bool becomes_8_bits(struct weights *weights, int64_t n, int64_t k, const char *name)
{
    struct weight_loader loader;
    struct linear layer;

    weight_loader_init(&loader, weights);
    weight_loader_linear(&loader, &layer, n, k, false, "%s", name);
    assert_true(weight_loader_finish(&loader, NULL));
    return layer.to_8_bits;
}

static void what_the_rule_turns_to_fp8_is_marked_when_it_was_asked_for(void **state)
{
    static struct content original, diffusers;
    struct weights *weights;

    (void)state;
    put_transformers(&original, &diffusers);
    weights = open_content(COMPONENT_TRANSFORMER, &diffusers);
    assert_false(becomes_8_bits(weights, WIDTH, WIDTH, "block.0.image.q"));
    weights_quantise(weights);
    assert_true(becomes_8_bits(weights, WIDTH, WIDTH, "block.0.image.q"));
    assert_true(becomes_8_bits(weights, 4 * WIDTH, WIDTH, "block.0.context.mlp_in"));
    assert_false(becomes_8_bits(weights, WIDTH, 4 * WIDTH, "block.0.image.mlp_out"));
    assert_false(becomes_8_bits(weights, 8, WIDTH, "final.linear"));
    weights_destroy(weights);
    clear(&original);
    clear(&diffusers);
}

static void a_component_with_fp8_is_marked_nowhere(void **state)
{
    static struct content content;
    struct weights *weights;

    (void)state;
    put_f8(&content, SAFETENSORS_F8_E4M3);
    PUT_F32(&content, "joint_blocks.0.x_block.mlp.fc1.weight", 16, 4);
    weights = open_content(COMPONENT_TRANSFORMER, &content);
    weights_quantise(weights);
    assert_false(becomes_8_bits(weights, 16, 4, "block.0.image.mlp_in"));
    weights_destroy(weights);
    clear(&content);
}

static void an_fp8_scale_that_makes_no_sense_is_refused(void **state)
{
    static const struct {
        float value;
        enum safetensors_dtype dtype;
        int64_t rows;
        const char *problem;
    } cases[] = {
        {0.0f, SAFETENSORS_F32, 1, "no positive, finite number"},
        {-1.0f, SAFETENSORS_F32, 1, "no positive, finite number"},
        {NAN, SAFETENSORS_F32, 1, "no positive, finite number"},
        {INFINITY, SAFETENSORS_F32, 1, "no positive, finite number"},
        {1e38f, SAFETENSORS_F32, 1, "no positive, finite number"},
        {1.0f, SAFETENSORS_F32, 3, "attn.qkv.scale_weight' is [3], not [6]"},
        {1.0f, SAFETENSORS_F16, 1, "is a scale, but not F32"},
        {1.0f, SAFETENSORS_I32, 1, "is a scale, but not F32"},
    };
    static struct content content;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        float values[F8_ROWS];
        struct weights *weights;
        struct linear layer;
        const char *problem;

        for (int j = 0; j < F8_ROWS; j++)
            values[j] = cases[i].value;
        put_f8(&content, SAFETENSORS_F8_E4M3);
        PUT(&content, QKV ".scale_weight", cases[i].dtype, values, cases[i].rows);
        problem = load_f8(&layer, &weights, &content);
        if (!strstr(problem, cases[i].problem))
            fail_msg("case %zu: '%s'", i, problem);
        weights_destroy(weights);
        clear(&content);
    }
}

static void one_bad_scale_among_the_rows_is_refused(void **state)
{
    const float scales[F8_ROWS] = {1, 1, 1, 1, 1, 0};
    static struct content content;
    struct weights *weights;
    struct linear layer;

    (void)state;
    put_f8(&content, SAFETENSORS_F8_E4M3);
    PUT(&content, QKV ".scale_weight", SAFETENSORS_F32, scales, F8_ROWS);
    assert_non_null(strstr(load_f8(&layer, &weights, &content), "no positive, finite number"));
    weights_destroy(weights);
    clear(&content);
}

static void a_scale_beside_a_weight_that_is_not_fp8_is_refused(void **state)
{
    static struct content content;
    struct weights *weights;
    struct linear layer;

    (void)state;
    PUT_F32(&content, QKV ".weight", F8_ROWS, 4);
    PUT_F32(&content, QKV ".bias", F8_ROWS);
    PUT(&content, QKV ".scale_weight", SAFETENSORS_F32, (float[]){0.5f}, 1);
    assert_non_null(strstr(load_f8(&layer, &weights, &content), "has a scale, but is not FP8"));
    weights_destroy(weights);
    clear(&content);
}

static void what_comfyui_says_about_a_layer_is_believed_or_refused_by_name(void **state)
{
    static const struct {
        const char *beside, *metadata; /* JSON text; NULL: none */
        const char *problem;           /* NULL: fine */
    } cases[] = {
        {"{\"format\":\"float8_e4m3fn\"}", NULL, NULL},
        {"{\"format\":\"float8_e4m3fn\",\"full_precision_matrix_mult\":true}", NULL, NULL},
        {"{\"format\":\"float8_e5m2\"}", NULL, "quantised as 'float8_e5m2' in type F8_E4M3"},
        {"{\"format\":\"nvfp4\"}", NULL, "quantised as 'nvfp4'"},
        {"{\"format\":3}", NULL, "quantised as '?'"},
        {"{}", NULL, "quantised as '?'"},
        {"not json", NULL, "comfy_quant' is not JSON text"},
        {NULL, "{\"layers\":{\"" QKV "\":{\"format\":\"float8_e4m3fn\"}}}", NULL},
        {NULL, "{\"layers\":{\"" QKV "\":{\"format\":\"mxfp8\"}}}", "quantised as 'mxfp8'"},
        {NULL, "{\"layers\":{\"other\":{\"format\":\"mxfp8\"}}}", NULL},
        {NULL, "{\"layers\":3}", NULL},
    };
    static struct content content;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct weights *weights;
        struct linear layer;
        const char *problem;

        put_f8(&content, SAFETENSORS_F8_E4M3);
        PUT(&content, QKV ".weight_scale", SAFETENSORS_F32, (float[]){0.5f}, 1);
        if (cases[i].beside)
            PUT(&content, QKV ".comfy_quant", SAFETENSORS_U8, cases[i].beside,
                (int64_t)strlen(cases[i].beside));
        content.quantization = cases[i].metadata;
        problem = load_f8(&layer, &weights, &content);
        if (cases[i].problem ? !strstr(problem, cases[i].problem) : *problem)
            fail_msg("case %zu: '%s'", i, problem);
        weights_destroy(weights);
        clear(&content);
    }
}

static void packed_four_bit_weights_are_refused_by_the_name_of_their_format(void **state)
{
    static const char format[] = "{\"format\":\"nvfp4\"}";
    static struct content content;
    struct weights *weights;
    struct linear layer;

    (void)state;
    PUT(&content, QKV ".weight", SAFETENSORS_U8, (unsigned char[F8_ROWS * 2]){0}, F8_ROWS, 2);
    PUT_F32(&content, QKV ".bias", F8_ROWS);
    PUT(&content, QKV ".comfy_quant", SAFETENSORS_U8, format, (int64_t)sizeof format - 1);
    assert_non_null(
        strstr(load_f8(&layer, &weights, &content), "is quantised as 'nvfp4' in type U8"));
    weights_destroy(weights);
    clear(&content);
}

static void vectors_of_every_float_type_become_f32(void **state)
{
    static struct content content;
    const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8_E4M3, DTYPE_F8_E5M2};
    const float values[2] = {0.5f, -3.0f};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        unsigned char stored[8];
        struct weight_loader loader;
        struct weights *weights;
        struct tensor tensor;

        for (int j = 0; j < 2; j++)
            dtype_store(types[i], stored, j, values[j]);
        PUT(&content, "encoder.final_layer_norm.weight", safetensors_from_dtype(types[i]), stored,
            2);
        weights = open_content(COMPONENT_T5, &content);
        weight_loader_init(&loader, weights);
        weight_loader_vector(&loader, &tensor, 2, "final_norm.weight");
        assert_true(weight_loader_finish(&loader, NULL));
        assert_int_equal(tensor.dtype, DTYPE_F32);
        expect_values(&tensor, values, dtype_name(types[i]));
        assert_int_equal(weights_loaded_bytes(weights), 2 * dtype_size(types[i]));
        weights_release_pages(weights);
        weights_destroy(weights);
        clear(&content);
    }
}

/* --- configuration --- */

static void configuration_values_fall_back_where_they_are_absent_or_of_another_kind(void **state)
{
    static struct content content;
    struct weights *weights;
    json_t *config = json_pack("{s:i, s:f, s:s, s:n, s:[i]}", "heads", 24, "scale", 1.5305, "name",
                               "gelu", "nothing", "list", 1);

    (void)state;
    PUT_F32(&content, "pos_embed", 1, 4, 2);
    weights = open_content(COMPONENT_TRANSFORMER, &content);
    assert_int_equal(weights_config_integer(weights, "heads", 7), 7);
    weights_set_config(weights, config);
    assert_int_equal(weights_config_integer(weights, "heads", 7), 24);
    assert_int_equal(weights_config_integer(weights, "scale", 7), 7);
    assert_int_equal(weights_config_integer(weights, "nothing", 7), 7);
    assert_int_equal(weights_config_integer(weights, "list", 7), 7);
    assert_true(weights_config_number(weights, "scale", 2) == 1.5305);
    assert_true(weights_config_number(weights, "heads", 2) == 24);
    assert_true(weights_config_number(weights, "name", 2) == 2);
    assert_string_equal(weights_config_text(weights, "name", "relu"), "gelu");
    assert_string_equal(weights_config_text(weights, "heads", "relu"), "relu");
    assert_null(weights_config_text(weights, "absent", NULL));
    assert_int_equal(weights_component(weights), COMPONENT_TRANSFORMER);
    weights_destroy(weights);
    clear(&content);
}

/* --- shards --- */

static void write_shard(const char *name, const char *tensor)
{
    static struct content content;

    PUT_F32(&content, tensor, 2);
    write_content(&content, name, "");
    clear(&content);
}

static bool open_index(const char *text, struct error *err)
{
    const char *path = test_write_file("model.safetensors.index.json", text, strlen(text));
    struct safetensors_file **files;
    size_t count;

    if (!shard_index_open(&files, &count, path, err))
        return false;
    for (size_t i = 0; i < count; i++)
        safetensors_close(files[i]);
    free(files);
    return true;
}

static void a_bad_shard_index_is_refused(void **state)
{
    static const struct {
        const char *index, *problem; /* NULL: fine */
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}", NULL},
        {"{\"metadata\":{\"total_size\":-3},\"weight_map\":{\"a\":\"s1.safetensors\"}}", NULL},
        {"{\"weight_map\":{\"a\":\"/etc/s1.safetensors\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"../s1.safetensors\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"x/s1.safetensors\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"x\\\\s1.safetensors\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\".safetensors\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"s1.bin\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\\n\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":3}}", "is not a string"},
        {"{\"weight_map\":{\"\":\"s1.safetensors\"}}", "empty or too long"},
        {"{\"weight_map\":{}}", "\"weight_map\" is empty"},
        {"{\"weight_map\":[]}", "no object \"weight_map\""},
        {"{}", "no object \"weight_map\""},
        {"[]", "not an object"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"a\":\"s1.safetensors\"}}", "not valid"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\"}", "not valid"},
        {"{\"weight_map\":{\"a\":\"s3.safetensors\"}}", "s3.safetensors'"},
        {"{\"weight_map\":{\"z\":\"s1.safetensors\"}}", "'z' is not in 's1.safetensors'"},
        {"{\"weight_map\":{\"b\":\"s1.safetensors\",\"a\":\"s2.safetensors\"}}", "is not in"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\","
         "\"c\":\"not-there.safetensors\"}}",
         "not-there.safetensors'"},
    };

    (void)state;
    write_shard("s1.safetensors", "a");
    write_shard("s2.safetensors", "b");
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct error err = {0};
        bool is_open = open_index(cases[i].index, &err);

        if (is_open != !cases[i].problem ||
            (cases[i].problem && !strstr(err.message, cases[i].problem)))
            fail_msg("case %zu: '%s'", i, err.message);
    }
}

static void a_tensor_in_two_shards_is_an_error(void **state)
{
    struct error err = {0};

    (void)state;
    write_shard("t1.safetensors", "a");
    {
        static struct content content;

        PUT_F32(&content, "a", 2);
        PUT_F32(&content, "b", 2);
        write_content(&content, "t2.safetensors", "");
        clear(&content);
    }
    assert_false(
        open_index("{\"weight_map\":{\"a\":\"t1.safetensors\",\"b\":\"t2.safetensors\"}}", &err));
    assert_non_null(
        strstr(err.message, "tensor 'a' is in both 't1.safetensors' and 't2.safetensors'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_layouts_of_a_transformer_hand_out_the_same_tensors),
        cmocka_unit_test(shapes_are_those_that_a_loader_hands_out),
        cmocka_unit_test(a_shape_too_large_to_compute_with_is_none),
        cmocka_unit_test(both_layouts_of_a_vae_hand_out_the_same_tensors),
        cmocka_unit_test(both_layouts_of_clip_hand_out_the_same_tensors),
        cmocka_unit_test(t5_takes_its_embedding_under_either_name),
        cmocka_unit_test(the_first_five_missing_or_misshapen_tensors_are_named),
        cmocka_unit_test(a_type_that_nothing_computes_with_matters_only_where_it_is_needed),
        cmocka_unit_test(an_adapter_or_a_stranger_is_no_component),
        cmocka_unit_test(a_tensor_in_two_files_is_an_error),
        cmocka_unit_test(a_prefix_is_stripped_and_other_components_left_out),
        cmocka_unit_test(every_form_of_an_fp8_scale_is_understood),
        cmocka_unit_test(what_the_rule_turns_to_fp8_is_marked_when_it_was_asked_for),
        cmocka_unit_test(a_component_with_fp8_is_marked_nowhere),
        cmocka_unit_test(an_fp8_scale_that_makes_no_sense_is_refused),
        cmocka_unit_test(one_bad_scale_among_the_rows_is_refused),
        cmocka_unit_test(a_scale_beside_a_weight_that_is_not_fp8_is_refused),
        cmocka_unit_test(what_comfyui_says_about_a_layer_is_believed_or_refused_by_name),
        cmocka_unit_test(packed_four_bit_weights_are_refused_by_the_name_of_their_format),
        cmocka_unit_test(vectors_of_every_float_type_become_f32),
        cmocka_unit_test(configuration_values_fall_back_where_they_are_absent_or_of_another_kind),
        cmocka_unit_test(a_bad_shard_index_is_refused),
        cmocka_unit_test(a_tensor_in_two_shards_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
