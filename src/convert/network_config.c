#include "convert/network_config.h"

#include <math.h>

#include "weights/model_files.h"

#define HEAD_WIDTH 64

/* The size of one of the tensor's dimensions; 0 where there is no such tensor. */
static int64_t dim_of(const struct model_tensor *tensor, int axis)
{
    return tensor && axis < tensor->view.rank ? tensor->view.dim[axis] : 0;
}

/* How many indices, from 0 on, have a tensor "<before>INDEX<after>". */
static int count_of(const struct model_tensors *tensors, const char *before, const char *after)
{
    int count = 0;

    while (model_tensors_find(tensors, "%s%d%s", before, count, after))
        count++;
    return count;
}

static json_t *transformer_config(const struct model_tensors *tensors)
{
    int blocks = count_of(tensors, "block.", ".image.q.weight");
    int64_t width = dim_of(model_tensors_find(tensors, "final.linear.weight"), 1);
    int64_t rows = dim_of(model_tensors_find(tensors, "position_table"), 0);
    bool has_norm = model_tensors_find(tensors, "block.0.context.k_norm.weight") != NULL;
    json_t *dual = json_array();

    for (int i = 0; i < blocks; i++)
        if (model_tensors_find(tensors, "block.%d.image.q2.weight", i))
            json_array_append_new(dual, json_integer(i));
    return json_pack(
        "{s:s, s:i, s:i, s:I, s:I, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:s?, s:o}", "_class_name",
        "SD3Transformer2DModel", "sample_size", 128, "patch_size",
        (int)dim_of(model_tensors_find(tensors, "patch_embed.weight"), 2), "in_channels",
        (json_int_t)dim_of(model_tensors_find(tensors, "patch_embed.weight"), 1), "out_channels",
        (json_int_t)dim_of(model_tensors_find(tensors, "patch_embed.weight"), 1), "num_layers",
        blocks, "attention_head_dim", HEAD_WIDTH, "num_attention_heads",
        (json_int_t)(width / HEAD_WIDTH), "joint_attention_dim",
        (json_int_t)dim_of(model_tensors_find(tensors, "context_embed.weight"), 1),
        "caption_projection_dim", (json_int_t)width, "pooled_projection_dim",
        (json_int_t)dim_of(model_tensors_find(tensors, "pooled_embed.in.weight"), 1),
        "pos_embed_max_size", (json_int_t)llround(sqrt((double)rows)), "qk_norm",
        has_norm ? "rms_norm" : NULL, "dual_attention_layers", dual);
}

static json_t *vae_config(const struct model_tensors *tensors)
{
    int levels = count_of(tensors, "decoder.up.", ".block.0.conv1.weight");
    json_t *channels = json_array(), *down = json_array(), *up = json_array();

    for (int i = levels - 1; i >= 0; i--) {
        const struct model_tensor *conv =
            model_tensors_find(tensors, "decoder.up.%d.block.0.conv1.weight", i);

        json_array_append_new(channels, json_integer(dim_of(conv, 0)));
        json_array_append_new(down, json_string("DownEncoderBlock2D"));
        json_array_append_new(up, json_string("UpDecoderBlock2D"));
    }
    return json_pack(
        "{s:s, s:i, s:i, s:o, s:o, s:o, s:i, s:s, s:I, s:i, s:i, s:f, s:f, s:b, s:b, s:b}",
        "_class_name", "AutoencoderKL", "in_channels", 3, "out_channels", 3, "block_out_channels",
        channels, "down_block_types", down, "up_block_types", up, "layers_per_block",
        count_of(tensors, "decoder.up.0.block.", ".conv1.weight") - 1, "act_fn", "silu",
        "latent_channels",
        (json_int_t)dim_of(model_tensors_find(tensors, "decoder.conv_in.weight"), 1),
        "norm_num_groups", 32, "sample_size", 1024, "scaling_factor", 1.5305, "shift_factor",
        0.0609, "use_quant_conv", 0, "use_post_quant_conv", 0, "force_upcast", 1);
}

static json_t *clip_config(const struct model_tensors *tensors, enum component component)
{
    const struct model_tensor *table = model_tensors_find(tensors, "token_embedding.weight");
    const struct model_tensor *projection = model_tensors_find(tensors, "text_projection.weight");
    int64_t width = dim_of(table, 1);

    return json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:i, s:I, s:i, s:I, s:s, s:f, s:i, s:i, s:i}", "architectures",
        "CLIPTextModelWithProjection", "model_type", "clip_text_model", "vocab_size",
        (json_int_t)dim_of(table, 0), "hidden_size", (json_int_t)width, "intermediate_size",
        (json_int_t)dim_of(model_tensors_find(tensors, "layer.0.mlp_in.weight"), 0),
        "num_hidden_layers", count_of(tensors, "layer.", ".q.weight"), "num_attention_heads",
        (json_int_t)(width / HEAD_WIDTH), "max_position_embeddings",
        (int)dim_of(model_tensors_find(tensors, "position_embedding.weight"), 0), "projection_dim",
        (json_int_t)(projection ? dim_of(projection, 0) : width), "hidden_act",
        component == COMPONENT_CLIP_L ? "quick_gelu" : "gelu", "layer_norm_eps", 1e-5,
        "bos_token_id", 0, "eos_token_id", 2, "pad_token_id", 1);
}

static json_t *t5_config(const struct model_tensors *tensors)
{
    const struct model_tensor *table = model_tensors_find(tensors, "token_embedding.weight");
    const struct model_tensor *bias = model_tensors_find(tensors, "relative_bias.weight");
    int64_t inner = dim_of(model_tensors_find(tensors, "layer.0.q.weight"), 0);
    int64_t heads = dim_of(bias, 1);

    return json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:i, s:I, s:s, s:s, s:b, s:I, s:i, s:f, s:i, s:i}",
        "architectures", "T5EncoderModel", "model_type", "t5", "vocab_size",
        (json_int_t)dim_of(table, 0), "d_model", (json_int_t)dim_of(table, 1), "d_kv",
        (json_int_t)(heads ? inner / heads : 0), "d_ff",
        (json_int_t)dim_of(model_tensors_find(tensors, "layer.0.gate.weight"), 0), "num_layers",
        count_of(tensors, "layer.", ".q.weight"), "num_heads", (json_int_t)heads,
        "feed_forward_proj", "gated-gelu", "dense_act_fn", "gelu_new", "is_gated_act", 1,
        "relative_attention_num_buckets", (json_int_t)dim_of(bias, 0),
        "relative_attention_max_distance", 128, "layer_norm_epsilon", 1e-6, "pad_token_id", 0,
        "eos_token_id", 1);
}

json_t *network_config(const struct weights *weights, const struct model_tensors *tensors)
{
    if (weights_config(weights))
        return json_deep_copy(weights_config(weights));
    switch (weights_component(weights)) {
    case COMPONENT_TRANSFORMER:
        return transformer_config(tensors);
    case COMPONENT_VAE:
        return vae_config(tensors);
    case COMPONENT_CLIP_L:
    case COMPONENT_CLIP_G:
        return clip_config(tensors, weights_component(weights));
    case COMPONENT_T5:
        return t5_config(tensors);
    case COMPONENT_COUNT:
        break;
    }
    return NULL;
}

json_t *network_scheduler_config(double flow_shift)
{
    return json_pack("{s:s, s:i, s:f, s:b}", "_class_name", "FlowMatchEulerDiscreteScheduler",
                     "num_train_timesteps", 1000, "shift", flow_shift, "use_dynamic_shifting", 0);
}

static void enter(json_t *index, const char *key, const char *library, const char *class_name,
                  bool is_there)
{
    const json_t *entry = json_object_get(index, key);

    /* What the source says about a part that is there is better than a guess. */
    if (is_there && json_is_string(json_array_get(entry, 1)))
        return;
    json_object_set_new(
        index, key, json_pack("[s?, s?]", is_there ? library : NULL, is_there ? class_name : NULL));
}

json_t *network_model_index(const json_t *source, const bool has[COMPONENT_COUNT],
                            const bool has_tokenizer[COMPONENT_COUNT])
{
    static const struct {
        const char *library, *class_name, *tokenizer_class;
    } classes[COMPONENT_COUNT] = {
        [COMPONENT_TRANSFORMER] = {"diffusers", "SD3Transformer2DModel", NULL},
        [COMPONENT_VAE] = {"diffusers", "AutoencoderKL", NULL},
        [COMPONENT_CLIP_L] = {"transformers", "CLIPTextModelWithProjection", "CLIPTokenizer"},
        [COMPONENT_CLIP_G] = {"transformers", "CLIPTextModelWithProjection", "CLIPTokenizer"},
        [COMPONENT_T5] = {"transformers", "T5EncoderModel", "T5TokenizerFast"},
    };
    json_t *index = source ? json_deep_copy(source)
                           : json_pack("{s:s}", "_class_name", "StableDiffusion3Pipeline");

    if (!index)
        return NULL;
    enter(index, "scheduler", "diffusers", "FlowMatchEulerDiscreteScheduler", true);
    for (int c = 0; c < COMPONENT_COUNT; c++) {
        const struct model_place *place = model_files_place((enum component)c);

        enter(index, place->folder, classes[c].library, classes[c].class_name, has[c]);
        if (place->tokenizer)
            enter(index, place->tokenizer, "transformers", classes[c].tokenizer_class,
                  has_tokenizer[c]);
    }
    return index;
}
