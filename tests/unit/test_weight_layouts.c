/* Weights: canonical names over every layout of each component, and which of them become FP8. */
#include "support/support.h"

#include <stdio.h>
#include <string.h>

#include "weight_content.h"
#include "weights/weights_build.h"

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
        content_put_f32(original, with_suffix(pair->original, suffix), rank, pair->dim);
    size_t part = whole->bytes / (size_t)pair->parts;
    unsigned char swapped[4096];
    int64_t dim[4];

    memcpy(dim, whole->dim, sizeof dim);
    dim[0] /= pair->parts;
    if (pair->is_swapped) {
        assert_true(whole->bytes <= sizeof swapped);
        memcpy(swapped, whole->data + whole->bytes / 2, whole->bytes / 2);
        memcpy(swapped + whole->bytes / 2, whole->data, whole->bytes / 2);
        content_put(diffusers, with_suffix(pair->diffusers[0], suffix), SAFETENSORS_F32, rank, dim,
                    swapped);
        return;
    }
    for (int i = 0; i < pair->parts; i++)
        content_put(diffusers, with_suffix(pair->diffusers[i], suffix), SAFETENSORS_F32, rank, dim,
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
        const struct item *weight = content_item(original, with_suffix(asked->original, ".weight"));
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
                      content_item(original, with_suffix(asked->original, ".bias"))->data +
                          (size_t)asked->first_row * sizeof(float),
                      asked->canonical);
        assert_int_equal((uintptr_t)layer.bias.data % 64, 0);
    }
    for (size_t i = 0; i < COUNT_OF(norms_asked); i++) {
        weight_loader_vector(&loader, &tensor, HEAD, "%s", norms_asked[i].canonical);
        expect_values(&tensor, content_item(original, norms_asked[i].original)->data,
                      norms_asked[i].canonical);
    }
    weight_loader_conv(&loader, &layer, WIDTH, LATENT, 2, "patch_embed");
    expect_values(&layer.weight, content_item(original, "x_embedder.proj.weight")->data,
                  "patch_embed");
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
    weights = content_open(COMPONENT_TRANSFORMER, &original);
    ask_transformer(weights, &original);
    weights_destroy(weights);
    weights = content_open(COMPONENT_TRANSFORMER, &diffusers);
    ask_transformer(weights, &original);
    weights_destroy(weights);
    content_clear(&original);
    content_clear(&diffusers);
}

static void shapes_are_those_that_a_loader_hands_out(void **state)
{
    static struct content content[2];

    (void)state;
    put_transformers(&content[0], &content[1]);
    for (int layout = 0; layout < 2; layout++) {
        struct weights *weights = content_open(COMPONENT_TRANSFORMER, &content[layout]);
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
        content_clear(&content[layout]);
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
    weights = content_open(COMPONENT_TRANSFORMER, &content);
    assert_true(weights_has(weights, "context_embed.weight"));
    assert_false(weights_shape(weights, &rank, dim, "context_embed.weight"));
    assert_int_equal(rank, 0);
    assert_false(weights_shape(weights, &rank, dim, "position_table"));
    assert_false(weights_shape(weights, &rank, dim, "final.linear.weight"));
    weights_destroy(weights);
    content_clear(&content);
}

static void what_the_rule_turns_to_fp8_is_marked_when_it_was_asked_for(void **state)
{
    static struct content original, diffusers;
    struct weights *weights;

    (void)state;
    put_transformers(&original, &diffusers);
    weights = content_open(COMPONENT_TRANSFORMER, &diffusers);
    assert_false(becomes_8_bits(weights, WIDTH, WIDTH, "block.0.image.q"));
    weights_quantise(weights);
    assert_true(becomes_8_bits(weights, WIDTH, WIDTH, "block.0.image.q"));
    assert_true(becomes_8_bits(weights, 4 * WIDTH, WIDTH, "block.0.context.mlp_in"));
    assert_false(becomes_8_bits(weights, WIDTH, 4 * WIDTH, "block.0.image.mlp_out"));
    assert_false(becomes_8_bits(weights, 8, WIDTH, "final.linear"));
    weights_destroy(weights);
    content_clear(&original);
    content_clear(&diffusers);
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
    item = content_put_f32(a, name, rank_a, dim);
    snprintf(name, sizeof name, "%s%s", name_b, suffix);
    content_put(b, name, SAFETENSORS_F32, rank_b, dim, item->data);
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
    return content_item(content, whole)->data;
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
    weights = content_open(COMPONENT_VAE, &original);
    ask_vae(weights, &original);
    weights_destroy(weights);
    weights = content_open(COMPONENT_VAE, &diffusers);
    ask_vae(weights, &original);
    weights_destroy(weights);
    content_clear(&original);
    content_clear(&diffusers);
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
    weights = content_open(COMPONENT_CLIP_G, &hf);
    ask_clip(weights, &hf);
    weights_destroy(weights);
    weights = content_open(COMPONENT_CLIP_G, &open_clip);
    ask_clip(weights, &hf);
    weights_destroy(weights);
    content_clear(&hf);
    content_clear(&open_clip);
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
        weights = content_open(COMPONENT_T5, &content);
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
        content_clear(&content);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_layouts_of_a_transformer_hand_out_the_same_tensors),
        cmocka_unit_test(shapes_are_those_that_a_loader_hands_out),
        cmocka_unit_test(a_shape_too_large_to_compute_with_is_none),
        cmocka_unit_test(what_the_rule_turns_to_fp8_is_marked_when_it_was_asked_for),
        cmocka_unit_test(both_layouts_of_a_vae_hand_out_the_same_tensors),
        cmocka_unit_test(both_layouts_of_clip_hand_out_the_same_tensors),
        cmocka_unit_test(t5_takes_its_embedding_under_either_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
