#include "weights/names.h"

#include <stdio.h>
#include <string.h>

/* Patterns, canonical and stored:
 *   #  an index; the n-th of the canonical pattern is the n-th of the stored one
 *   ^  in stored patterns: an index counted from the last level of the VAE decoder
 *   +  in stored patterns: an index plus one
 *   *  "weight" or "bias", always at the end
 */
struct stored_name {
    const char *pattern; /* NULL: not in this layout */
    int part, parts;
    bool is_matrix, is_transposed;
};

struct name_row {
    const char *canonical;
    struct stored_name stored[NAMES_LAYOUT_COUNT];
};

#define WHOLE(pattern)                                                                             \
    {                                                                                              \
        pattern, 0, 1, false, false                                                                \
    }
#define HALF(pattern, part)                                                                        \
    {                                                                                              \
        pattern, part, 2, false, false                                                             \
    }
#define THIRD(pattern, part)                                                                       \
    {                                                                                              \
        pattern, part, 3, false, false                                                             \
    }
#define MATRIX(pattern)                                                                            \
    {                                                                                              \
        pattern, 0, 1, true, false                                                                 \
    }
#define TRANSPOSED(pattern)                                                                        \
    {                                                                                              \
        pattern, 0, 1, false, true                                                                 \
    }
#define ABSENT                                                                                     \
    {                                                                                              \
        NULL, 0, 1, false, false                                                                   \
    }

/* clang-format off */

/* `shift` and `scale` of the final layer and of the last block's context lie in one tensor whose
 * halves the two layouts order differently. Nothing but wrong pictures would tell. */
static const struct name_row transformer_rows[] = {
    {"position_table", {MATRIX("pos_embed"), MATRIX("pos_embed.pos_embed")}},
    {"patch_embed.*", {WHOLE("x_embedder.proj.*"), WHOLE("pos_embed.proj.*")}},
    {"timestep_embed.in.*", {WHOLE("t_embedder.mlp.0.*"), WHOLE("time_text_embed.timestep_embedder.linear_1.*")}},
    {"timestep_embed.out.*", {WHOLE("t_embedder.mlp.2.*"), WHOLE("time_text_embed.timestep_embedder.linear_2.*")}},
    {"pooled_embed.in.*", {WHOLE("y_embedder.mlp.0.*"), WHOLE("time_text_embed.text_embedder.linear_1.*")}},
    {"pooled_embed.out.*", {WHOLE("y_embedder.mlp.2.*"), WHOLE("time_text_embed.text_embedder.linear_2.*")}},
    {"context_embed.*", {WHOLE("context_embedder.*"), WHOLE("context_embedder.*")}},

    {"block.#.image.modulation.*", {WHOLE("joint_blocks.#.x_block.adaLN_modulation.1.*"), WHOLE("transformer_blocks.#.norm1.linear.*")}},
    {"block.#.image.q.*", {THIRD("joint_blocks.#.x_block.attn.qkv.*", 0), WHOLE("transformer_blocks.#.attn.to_q.*")}},
    {"block.#.image.k.*", {THIRD("joint_blocks.#.x_block.attn.qkv.*", 1), WHOLE("transformer_blocks.#.attn.to_k.*")}},
    {"block.#.image.v.*", {THIRD("joint_blocks.#.x_block.attn.qkv.*", 2), WHOLE("transformer_blocks.#.attn.to_v.*")}},
    {"block.#.image.q_norm.*", {WHOLE("joint_blocks.#.x_block.attn.ln_q.*"), WHOLE("transformer_blocks.#.attn.norm_q.*")}},
    {"block.#.image.k_norm.*", {WHOLE("joint_blocks.#.x_block.attn.ln_k.*"), WHOLE("transformer_blocks.#.attn.norm_k.*")}},
    {"block.#.image.proj.*", {WHOLE("joint_blocks.#.x_block.attn.proj.*"), WHOLE("transformer_blocks.#.attn.to_out.0.*")}},
    {"block.#.image.q2.*", {THIRD("joint_blocks.#.x_block.attn2.qkv.*", 0), WHOLE("transformer_blocks.#.attn2.to_q.*")}},
    {"block.#.image.k2.*", {THIRD("joint_blocks.#.x_block.attn2.qkv.*", 1), WHOLE("transformer_blocks.#.attn2.to_k.*")}},
    {"block.#.image.v2.*", {THIRD("joint_blocks.#.x_block.attn2.qkv.*", 2), WHOLE("transformer_blocks.#.attn2.to_v.*")}},
    {"block.#.image.q2_norm.*", {WHOLE("joint_blocks.#.x_block.attn2.ln_q.*"), WHOLE("transformer_blocks.#.attn2.norm_q.*")}},
    {"block.#.image.k2_norm.*", {WHOLE("joint_blocks.#.x_block.attn2.ln_k.*"), WHOLE("transformer_blocks.#.attn2.norm_k.*")}},
    {"block.#.image.proj2.*", {WHOLE("joint_blocks.#.x_block.attn2.proj.*"), WHOLE("transformer_blocks.#.attn2.to_out.0.*")}},
    {"block.#.image.mlp_in.*", {WHOLE("joint_blocks.#.x_block.mlp.fc1.*"), WHOLE("transformer_blocks.#.ff.net.0.proj.*")}},
    {"block.#.image.mlp_out.*", {WHOLE("joint_blocks.#.x_block.mlp.fc2.*"), WHOLE("transformer_blocks.#.ff.net.2.*")}},

    {"block.#.context.modulation.*", {WHOLE("joint_blocks.#.context_block.adaLN_modulation.1.*"), WHOLE("transformer_blocks.#.norm1_context.linear.*")}},
    {"block.#.context.shift.*", {HALF("joint_blocks.#.context_block.adaLN_modulation.1.*", 0), HALF("transformer_blocks.#.norm1_context.linear.*", 1)}},
    {"block.#.context.scale.*", {HALF("joint_blocks.#.context_block.adaLN_modulation.1.*", 1), HALF("transformer_blocks.#.norm1_context.linear.*", 0)}},
    {"block.#.context.q.*", {THIRD("joint_blocks.#.context_block.attn.qkv.*", 0), WHOLE("transformer_blocks.#.attn.add_q_proj.*")}},
    {"block.#.context.k.*", {THIRD("joint_blocks.#.context_block.attn.qkv.*", 1), WHOLE("transformer_blocks.#.attn.add_k_proj.*")}},
    {"block.#.context.v.*", {THIRD("joint_blocks.#.context_block.attn.qkv.*", 2), WHOLE("transformer_blocks.#.attn.add_v_proj.*")}},
    {"block.#.context.q_norm.*", {WHOLE("joint_blocks.#.context_block.attn.ln_q.*"), WHOLE("transformer_blocks.#.attn.norm_added_q.*")}},
    {"block.#.context.k_norm.*", {WHOLE("joint_blocks.#.context_block.attn.ln_k.*"), WHOLE("transformer_blocks.#.attn.norm_added_k.*")}},
    {"block.#.context.proj.*", {WHOLE("joint_blocks.#.context_block.attn.proj.*"), WHOLE("transformer_blocks.#.attn.to_add_out.*")}},
    {"block.#.context.mlp_in.*", {WHOLE("joint_blocks.#.context_block.mlp.fc1.*"), WHOLE("transformer_blocks.#.ff_context.net.0.proj.*")}},
    {"block.#.context.mlp_out.*", {WHOLE("joint_blocks.#.context_block.mlp.fc2.*"), WHOLE("transformer_blocks.#.ff_context.net.2.*")}},

    {"final.shift.*", {HALF("final_layer.adaLN_modulation.1.*", 0), HALF("norm_out.linear.*", 1)}},
    {"final.scale.*", {HALF("final_layer.adaLN_modulation.1.*", 1), HALF("norm_out.linear.*", 0)}},
    {"final.linear.*", {WHOLE("final_layer.linear.*"), WHOLE("proj_out.*")}},
};

#define RESNET(canonical, original, diffusers)                                                     \
    {canonical ".norm1.*", {WHOLE(original ".norm1.*"), WHOLE(diffusers ".norm1.*")}},             \
    {canonical ".conv1.*", {WHOLE(original ".conv1.*"), WHOLE(diffusers ".conv1.*")}},             \
    {canonical ".norm2.*", {WHOLE(original ".norm2.*"), WHOLE(diffusers ".norm2.*")}},             \
    {canonical ".conv2.*", {WHOLE(original ".conv2.*"), WHOLE(diffusers ".conv2.*")}},             \
    {canonical ".shortcut.*", {WHOLE(original ".nin_shortcut.*"), WHOLE(diffusers ".conv_shortcut.*")}}

#define MID_AND_ENDS(half)                                                                         \
    {half ".conv_in.*", {WHOLE(half ".conv_in.*"), WHOLE(half ".conv_in.*")}},                     \
    RESNET(half ".mid.block.#", half ".mid.block_+", half ".mid_block.resnets.#"),                 \
    {half ".mid.attention.norm.*", {WHOLE(half ".mid.attn_1.norm.*"), WHOLE(half ".mid_block.attentions.0.group_norm.*")}}, \
    {half ".mid.attention.q.*", {MATRIX(half ".mid.attn_1.q.*"), MATRIX(half ".mid_block.attentions.0.to_q.*")}}, \
    {half ".mid.attention.k.*", {MATRIX(half ".mid.attn_1.k.*"), MATRIX(half ".mid_block.attentions.0.to_k.*")}}, \
    {half ".mid.attention.v.*", {MATRIX(half ".mid.attn_1.v.*"), MATRIX(half ".mid_block.attentions.0.to_v.*")}}, \
    {half ".mid.attention.proj.*", {MATRIX(half ".mid.attn_1.proj_out.*"), MATRIX(half ".mid_block.attentions.0.to_out.0.*")}}, \
    {half ".norm_out.*", {WHOLE(half ".norm_out.*"), WHOLE(half ".conv_norm_out.*")}},             \
    {half ".conv_out.*", {WHOLE(half ".conv_out.*"), WHOLE(half ".conv_out.*")}}

/* Our decoder level 0 runs first; so does diffusers', while the original's last one does. */
static const struct name_row vae_rows[] = {
    MID_AND_ENDS("encoder"),
    RESNET("encoder.down.#.block.#", "encoder.down.#.block.#", "encoder.down_blocks.#.resnets.#"),
    {"encoder.down.#.downsample.*", {WHOLE("encoder.down.#.downsample.conv.*"), WHOLE("encoder.down_blocks.#.downsamplers.0.conv.*")}},
    MID_AND_ENDS("decoder"),
    RESNET("decoder.up.#.block.#", "decoder.up.^.block.#", "decoder.up_blocks.#.resnets.#"),
    {"decoder.up.#.upsample.*", {WHOLE("decoder.up.^.upsample.conv.*"), WHOLE("decoder.up_blocks.#.upsamplers.0.conv.*")}},
};

static const struct name_row clip_rows[] = {
    {"token_embedding.weight", {WHOLE("text_model.embeddings.token_embedding.weight"), WHOLE("token_embedding.weight")}},
    {"position_embedding.weight", {WHOLE("text_model.embeddings.position_embedding.weight"), WHOLE("positional_embedding")}},
    {"layer.#.norm1.*", {WHOLE("text_model.encoder.layers.#.layer_norm1.*"), WHOLE("transformer.resblocks.#.ln_1.*")}},
    {"layer.#.q.*", {WHOLE("text_model.encoder.layers.#.self_attn.q_proj.*"), THIRD("transformer.resblocks.#.attn.in_proj_*", 0)}},
    {"layer.#.k.*", {WHOLE("text_model.encoder.layers.#.self_attn.k_proj.*"), THIRD("transformer.resblocks.#.attn.in_proj_*", 1)}},
    {"layer.#.v.*", {WHOLE("text_model.encoder.layers.#.self_attn.v_proj.*"), THIRD("transformer.resblocks.#.attn.in_proj_*", 2)}},
    {"layer.#.proj.*", {WHOLE("text_model.encoder.layers.#.self_attn.out_proj.*"), WHOLE("transformer.resblocks.#.attn.out_proj.*")}},
    {"layer.#.norm2.*", {WHOLE("text_model.encoder.layers.#.layer_norm2.*"), WHOLE("transformer.resblocks.#.ln_2.*")}},
    {"layer.#.mlp_in.*", {WHOLE("text_model.encoder.layers.#.mlp.fc1.*"), WHOLE("transformer.resblocks.#.mlp.c_fc.*")}},
    {"layer.#.mlp_out.*", {WHOLE("text_model.encoder.layers.#.mlp.fc2.*"), WHOLE("transformer.resblocks.#.mlp.c_proj.*")}},
    {"final_norm.*", {WHOLE("text_model.final_layer_norm.*"), WHOLE("ln_final.*")}},
    {"text_projection.weight", {WHOLE("text_projection.weight"), TRANSPOSED("text_projection")}},
};

static const struct name_row t5_rows[] = {
    {"token_embedding.weight", {WHOLE("shared.weight"), ABSENT}},
    {"token_embedding.weight", {WHOLE("encoder.embed_tokens.weight"), ABSENT}},
    {"relative_bias.weight", {WHOLE("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"), ABSENT}},
    {"layer.#.norm1.weight", {WHOLE("encoder.block.#.layer.0.layer_norm.weight"), ABSENT}},
    {"layer.#.q.weight", {WHOLE("encoder.block.#.layer.0.SelfAttention.q.weight"), ABSENT}},
    {"layer.#.k.weight", {WHOLE("encoder.block.#.layer.0.SelfAttention.k.weight"), ABSENT}},
    {"layer.#.v.weight", {WHOLE("encoder.block.#.layer.0.SelfAttention.v.weight"), ABSENT}},
    {"layer.#.proj.weight", {WHOLE("encoder.block.#.layer.0.SelfAttention.o.weight"), ABSENT}},
    {"layer.#.norm2.weight", {WHOLE("encoder.block.#.layer.1.layer_norm.weight"), ABSENT}},
    {"layer.#.gate.weight", {WHOLE("encoder.block.#.layer.1.DenseReluDense.wi_0.weight"), ABSENT}},
    {"layer.#.up.weight", {WHOLE("encoder.block.#.layer.1.DenseReluDense.wi_1.weight"), ABSENT}},
    {"layer.#.down.weight", {WHOLE("encoder.block.#.layer.1.DenseReluDense.wo.weight"), ABSENT}},
    {"final_norm.weight", {WHOLE("encoder.final_layer_norm.weight"), ABSENT}},
};

static const struct {
    const struct name_row *rows;
    size_t count;
    const char *prefixes[3];
} tables[COMPONENT_COUNT] = {
    [COMPONENT_TRANSFORMER] = {transformer_rows, COUNT_OF(transformer_rows), {"model.diffusion_model.", "diffusion_model.", NULL}},
    [COMPONENT_VAE] = {vae_rows, COUNT_OF(vae_rows), {"first_stage_model.", NULL, NULL}},
    [COMPONENT_CLIP_L] = {clip_rows, COUNT_OF(clip_rows), {"text_encoders.clip_l.transformer.", NULL, NULL}},
    [COMPONENT_CLIP_G] = {clip_rows, COUNT_OF(clip_rows), {"text_encoders.clip_g.transformer.", NULL, NULL}},
    [COMPONENT_T5] = {t5_rows, COUNT_OF(t5_rows), {"text_encoders.t5xxl.transformer.", NULL, NULL}},
};

/* clang-format on */

#define INDICES_MAX 2
#define INDEX_MAX 9999
#define UP_LEVELS_MAX 16

/* What the placeholders of a canonical pattern stood for. */
struct captures {
    int index[INDICES_MAX];
    int index_count;
    const char *suffix;
};

/* Reads a decimal number without needless zeros; NULL when there is none. */
static const char *read_index(int *out, const char *text)
{
    int value = 0;

    if (*text < '0' || *text > '9' || (text[0] == '0' && text[1] >= '0' && text[1] <= '9'))
        return NULL;
    for (; *text >= '0' && *text <= '9'; text++) {
        value = 10 * value + (*text - '0');
        if (value > INDEX_MAX)
            return NULL;
    }
    *out = value;
    return text;
}

static bool match(struct captures *captures, const char *pattern, const char *name)
{
    captures->index_count = 0;
    captures->suffix = "";
    for (; *pattern; pattern++) {
        if (*pattern == '#') {
            name = read_index(&captures->index[captures->index_count++], name);
            if (!name)
                return false;
        } else if (*pattern == '*') {
            captures->suffix = name;
            return strcmp(name, "weight") == 0 || strcmp(name, "bias") == 0;
        } else if (*pattern != *name++) {
            return false;
        }
    }
    return *name == '\0';
}

/* False when the stored name would count levels below 0, or more indices than there are. */
static bool expand(char *out, size_t size, const char *pattern, const struct captures *captures,
                   int up_levels)
{
    const int *index = captures->index;
    size_t used = 0;

    for (; *pattern && used + 1 < size; pattern++) {
        int value;

        if (*pattern == '*') {
            snprintf(out + used, size - used, "%s", captures->suffix);
            break;
        }
        if (*pattern != '#' && *pattern != '^' && *pattern != '+') {
            out[used++] = *pattern;
            out[used] = '\0';
            continue;
        }
        if (index == captures->index + INDICES_MAX)
            return false;
        value = *index++;
        if (*pattern == '^')
            value = up_levels - 1 - value;
        if (*pattern == '+')
            value++;
        if (value < 0)
            return false;
        used += (size_t)snprintf(out + used, size - used, "%d", value);
    }
    return true;
}

bool names_resolve(struct names_target *out, const struct names *names, const char *canonical,
                   int alternative)
{
    const struct name_row *rows = tables[names->component].rows;
    struct captures captures = {0};

    for (size_t i = 0; i < tables[names->component].count; i++) {
        const struct stored_name *stored = &rows[i].stored[names->layout];

        if (!stored->pattern || !match(&captures, rows[i].canonical, canonical) ||
            alternative-- > 0)
            continue;
        *out = (struct names_target){.part = stored->part,
                                     .parts = stored->parts,
                                     .is_matrix = stored->is_matrix,
                                     .is_transposed = stored->is_transposed};
        return expand(out->stored, sizeof out->stored, stored->pattern, &captures,
                      names->up_levels);
    }
    return false;
}

/* How many rows of the table have a tensor with index 0. */
static int count_known(enum component component, enum names_layout layout,
                       bool (*has)(const void *context, const char *stored), const void *context)
{
    const struct captures first = {.index = {0, 0}, .suffix = "weight"};
    char stored[SAFETENSORS_NAME_BYTES_MAX + 1];
    int count = 0;

    for (size_t i = 0; i < tables[component].count; i++) {
        const char *pattern = tables[component].rows[i].stored[layout].pattern;

        if (pattern && expand(stored, sizeof stored, pattern, &first, 1) && has(context, stored))
            count++;
    }
    return count;
}

static int count_up_levels(bool (*has)(const void *context, const char *stored),
                           const void *context)
{
    char stored[64];

    for (int level = UP_LEVELS_MAX - 1; level >= 0; level--) {
        snprintf(stored, sizeof stored, "decoder.up.%d.block.0.conv1.weight", level);
        if (has(context, stored))
            return level + 1;
    }
    return 0;
}

int names_detect(struct names *out, enum component component,
                 bool (*has)(const void *context, const char *stored), const void *context)
{
    int original = count_known(component, NAMES_ORIGINAL, has, context);
    int other = count_known(component, NAMES_OTHER, has, context);

    *out = (struct names){.component = component,
                          .layout = other > original ? NAMES_OTHER : NAMES_ORIGINAL};
    if (component == COMPONENT_VAE)
        out->up_levels = count_up_levels(has, context);
    return other > original ? other : original;
}

const char *names_prefix(enum component component, int i)
{
    return tables[component].prefixes[i];
}
