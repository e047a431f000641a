#include "text/clip_encoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/composite.h"
#include "backend/recordings.h"

#define LAYERS_MAX 256

struct clip_layer {
    struct tensor norm1_weight, norm1_bias; /* [C] */
    struct linear qkv[3], proj;             /* [C, C] */
    struct tensor norm2_weight, norm2_bias; /* [C] */
    struct linear mlp_in, mlp_out;          /* [F, C], [C, F] */
};

struct clip_encoder {
    const struct backend_ops *ops;
    int64_t width, mlp_width, heads, vocabulary, pooled_width;
    int layer_count;
    enum gelu_kind activation;
    float epsilon;
    struct tensor token_embedding;    /* [V, C] */
    struct tensor position_embedding; /* [77, C] f32 */
    struct clip_layer *layers;
    struct tensor final_norm_weight, final_norm_bias; /* [C] */
    bool has_projection;
    struct linear projection; /* [P, C] */
};

struct clip_plan {
    const struct clip_encoder *encoder;
    const struct backend_ops *ops;
    int64_t batch;
    struct tensor x;        /* [B, 77, C] */
    struct tensor normed;   /* [B, 77, C] */
    struct tensor qkv;      /* [B, 77, 3C] */
    struct tensor attended; /* [B, 77, C] */
    struct tensor hidden;   /* [B, 77, F] */
    struct tensor summary;  /* [B, C]: the end tokens after the final norm */
    struct tensor scale;    /* [B, 77] f32: of rows in 8 bits */
    struct recordings recordings;
};

static void load_layer(struct clip_layer *layer, struct weight_loader *loader, int i, int64_t c,
                       int64_t f)
{
    weight_loader_vector(loader, &layer->norm1_weight, c, "layer.%d.norm1.weight", i);
    weight_loader_vector(loader, &layer->norm1_bias, c, "layer.%d.norm1.bias", i);
    for (int j = 0; j < 3; j++)
        weight_loader_linear(loader, &layer->qkv[j], c, c, true, "layer.%d.%c", i, "qkv"[j]);
    weight_loader_linear(loader, &layer->proj, c, c, true, "layer.%d.proj", i);
    weight_loader_vector(loader, &layer->norm2_weight, c, "layer.%d.norm2.weight", i);
    weight_loader_vector(loader, &layer->norm2_bias, c, "layer.%d.norm2.bias", i);
    weight_loader_linear(loader, &layer->mlp_in, f, c, true, "layer.%d.mlp_in", i);
    weight_loader_linear(loader, &layer->mlp_out, c, f, true, "layer.%d.mlp_out", i);
}

static bool parse_activation(enum gelu_kind *out, const struct weights *weights, struct error *err)
{
    bool is_l = weights_component(weights) == COMPONENT_CLIP_L;
    const char *name = weights_config_text(weights, "hidden_act", is_l ? "quick_gelu" : "gelu");

    if (strcmp(name, "quick_gelu") == 0)
        *out = GELU_QUICK;
    else if (strcmp(name, "gelu") == 0)
        *out = GELU_ERF;
    else
        return error_set(err, ERROR_BAD_FILE,
                         "%s in '%s': activation '%s' is neither quick_gelu nor gelu",
                         component_name(weights_component(weights)), weights_path(weights), name);
    return true;
}

/* The sizes, all read from the tensors but the number of heads, which only the configuration knows;
 * both released encoders have heads of width 64. */
static bool read_shape(struct clip_encoder *encoder, const struct weights *weights,
                       struct error *err)
{
    const char *what = component_name(weights_component(weights));
    int64_t dim[TENSOR_MAX_RANK];
    int rank;

    if (!weights_shape(weights, &rank, dim, "token_embedding.weight") || rank != 2)
        return error_set(err, ERROR_BAD_FILE, "%s in '%s': the token embedding is missing", what,
                         weights_path(weights));
    encoder->vocabulary = dim[0];
    encoder->width = dim[1];
    if (!weights_shape(weights, &rank, dim, "layer.0.mlp_in.weight") || rank != 2)
        return error_set(err, ERROR_BAD_FILE, "%s in '%s': layer 0 has no MLP", what,
                         weights_path(weights));
    encoder->mlp_width = dim[0];
    while (encoder->layer_count < LAYERS_MAX &&
           weights_has(weights, "layer.%d.q.weight", encoder->layer_count))
        encoder->layer_count++;
    if (encoder->layer_count < 2)
        return error_set(err, ERROR_BAD_FILE, "%s in '%s': %d layers, at least 2 are needed", what,
                         weights_path(weights), encoder->layer_count);

    encoder->heads = weights_config_integer(weights, "num_attention_heads", encoder->width / 64);
    if (encoder->heads < 1 || encoder->width % encoder->heads != 0)
        return error_set(err, ERROR_BAD_FILE, "%s in '%s': %lld heads do not divide width %lld",
                         what, weights_path(weights), (long long)encoder->heads,
                         (long long)encoder->width);
    encoder->epsilon = (float)weights_config_number(weights, "layer_norm_eps", 1e-5);
    encoder->pooled_width = encoder->width;
    encoder->has_projection =
        weights_shape(weights, &rank, dim, "text_projection.weight") && rank == 2;
    if (encoder->has_projection)
        encoder->pooled_width = dim[0];
    return true;
}

bool clip_encoder_create(struct clip_encoder **out, struct weights *weights,
                         const struct backend_ops *ops, struct error *err)
{
    struct clip_encoder *encoder = calloc(1, sizeof *encoder);
    struct weight_loader loader;

    if (!encoder)
        return error_set(err, ERROR_NO_MEMORY, "CLIP encoder");
    encoder->ops = ops;
    if (!read_shape(encoder, weights, err) || !parse_activation(&encoder->activation, weights, err))
        goto fail;
    encoder->layers = calloc((size_t)encoder->layer_count, sizeof *encoder->layers);
    if (!encoder->layers) {
        error_set(err, ERROR_NO_MEMORY, "CLIP encoder");
        goto fail;
    }

    weight_loader_init(&loader, weights);
    weight_loader_table(&loader, &encoder->token_embedding, encoder->vocabulary, encoder->width,
                        "token_embedding.weight");
    weight_loader_table(&loader, &encoder->position_embedding, CLIP_TOKENS, encoder->width,
                        "position_embedding.weight");
    for (int i = 0; i < encoder->layer_count; i++)
        load_layer(&encoder->layers[i], &loader, i, encoder->width, encoder->mlp_width);
    weight_loader_vector(&loader, &encoder->final_norm_weight, encoder->width, "final_norm.weight");
    weight_loader_vector(&loader, &encoder->final_norm_bias, encoder->width, "final_norm.bias");
    if (encoder->has_projection)
        weight_loader_linear(&loader, &encoder->projection, encoder->pooled_width, encoder->width,
                             false, "text_projection");
    if (!weight_loader_finish(&loader, err))
        goto fail;

    *out = encoder;
    return true;

fail:
    clip_encoder_destroy(encoder);
    return false;
}

void clip_encoder_destroy(struct clip_encoder *encoder)
{
    if (!encoder)
        return;
    free(encoder->layers);
    free(encoder);
}

bool clip_encoder_list_weights(const struct clip_encoder *encoder, struct weight_list *list,
                               struct error *err)
{
    for (int i = 0; i < encoder->layer_count; i++) {
        const struct clip_layer *layer = &encoder->layers[i];

        if (!weight_list_add(list, layer->qkv, 3, false, err) ||
            !weight_list_add(list, &layer->proj, 1, false, err) ||
            !weight_list_add(list, &layer->mlp_in, 1, false, err) ||
            !weight_list_add(list, &layer->mlp_out, 1, false, err))
            return false;
    }
    return weight_list_add(list, &encoder->projection, 1, false, err) &&
           weight_list_add_table(list, &encoder->token_embedding, err) &&
           weight_list_add_table(list, &encoder->position_embedding, err);
}

int64_t clip_encoder_width(const struct clip_encoder *encoder)
{
    return encoder->width;
}

int64_t clip_encoder_pooled_width(const struct clip_encoder *encoder)
{
    return encoder->pooled_width;
}

int64_t clip_encoder_vocabulary(const struct clip_encoder *encoder)
{
    return encoder->vocabulary;
}

bool clip_plan_create(struct clip_plan **out, const struct clip_encoder *encoder,
                      struct arena *scratch, int64_t batch, struct error *err)
{
    enum dtype f = encoder->ops->activation_dtype;
    int64_t c = encoder->width;
    struct clip_plan *plan = calloc(1, sizeof *plan);

    if (!plan)
        return error_set(err, ERROR_NO_MEMORY, "CLIP encoder");
    *plan = (struct clip_plan){.encoder = encoder, .ops = encoder->ops, .batch = batch};
    if (!TENSOR_ALLOC(&plan->x, scratch, f, "CLIP hidden states", err, batch, CLIP_TOKENS, c) ||
        !TENSOR_ALLOC(&plan->normed, scratch, f, "CLIP norm", err, batch, CLIP_TOKENS, c) ||
        !TENSOR_ALLOC(&plan->qkv, scratch, f, "CLIP attention", err, batch, CLIP_TOKENS, 3 * c) ||
        !TENSOR_ALLOC(&plan->attended, scratch, f, "CLIP attention", err, batch, CLIP_TOKENS, c) ||
        !TENSOR_ALLOC(&plan->hidden, scratch, f, "CLIP MLP", err, batch, CLIP_TOKENS,
                      encoder->mlp_width) ||
        !TENSOR_ALLOC(&plan->summary, scratch, f, "CLIP summary", err, batch, c) ||
        !TENSOR_ALLOC(&plan->scale, scratch, DTYPE_F32, "CLIP MLP", err, batch, CLIP_TOKENS)) {
        clip_plan_destroy(plan);
        return false;
    }
    *out = plan;
    return true;
}

void clip_plan_forget(struct clip_plan *plan)
{
    recordings_finish(&plan->recordings, plan->ops);
}

void clip_plan_destroy(struct clip_plan *plan)
{
    if (!plan)
        return;
    clip_plan_forget(plan);
    free(plan);
}

/* The arguments of encoding that its layers take. */
struct call {
    struct clip_plan *plan;
    struct stream *stream;
    struct tensor *hidden;
    const struct tensor *ids;
};

/* What the ops of the layers depend on, beside the plan. */
struct layers_key {
    const void *hidden, *ids;
    int64_t hidden_stride[2];
};

/* x = tokens + positions */
static void embed(struct clip_plan *plan, struct stream *stream, const struct tensor *ids)
{
    const struct backend_ops *op = plan->ops;
    const struct clip_encoder *encoder = plan->encoder;
    int64_t rows = plan->batch * CLIP_TOKENS, c = encoder->width;
    struct tensor flat = TENSOR_RESHAPE(&plan->x, rows, c);
    struct tensor flat_ids = TENSOR_RESHAPE(ids, rows);
    struct tensor positions = encoder->position_embedding;

    op->embedding_rows(stream, &flat, &encoder->token_embedding, &flat_ids);
    for (int64_t b = 0; b < plan->batch; b++) {
        struct tensor x = tensor_slice(&flat, 0, b * CLIP_TOKENS, CLIP_TOKENS);
        struct tensor wanted = tensor_slice(&plan->normed, 0, b, 1);
        struct tensor converted = TENSOR_RESHAPE(&wanted, CLIP_TOKENS, c);

        op->copy(stream, &converted, &positions); /* from the stored type */
        op->add(stream, &x, &x, &converted);
    }
}

/* h += proj(attention(norm1(h)));  h += mlp_out(act(mlp_in(norm2(h)))) */
static void run_layer(struct clip_plan *plan, struct stream *stream, const struct clip_layer *layer)
{
    const struct backend_ops *op = plan->ops;
    const struct clip_encoder *encoder = plan->encoder;
    int64_t c = encoder->width, head_width = c / encoder->heads;
    struct tensor q = tensor_slice(&plan->qkv, 2, 0, c);
    struct tensor k = tensor_slice(&plan->qkv, 2, c, c);
    struct tensor v = tensor_slice(&plan->qkv, 2, 2 * c, c);
    struct tensor q_heads = tensor_split(&q, 2, head_width);
    struct tensor k_heads = tensor_split(&k, 2, head_width);
    struct tensor v_heads = tensor_split(&v, 2, head_width);
    struct tensor attended = tensor_split(&plan->attended, 2, head_width);
    struct attention_options causal = {.scale = 1.0f / sqrtf((float)head_width), .is_causal = true};
    float *row_scale = plan->scale.data;
    struct tensor input = op_linear_input(op, &plan->normed, row_scale, layer->qkv, 3);

    op->layer_norm(stream, &input, &plan->x, &layer->norm1_weight, &layer->norm1_bias,
                   encoder->epsilon);
    op_linears(op, stream, &plan->qkv, &input, layer->qkv, 3);
    op->attention(stream, &attended, &q_heads, &k_heads, &v_heads, &causal);
    input = op_as_linear_input(op, stream, &plan->attended, &plan->attended, row_scale,
                               &layer->proj, 1);
    op->linear(stream, &plan->normed, &input, &layer->proj);
    op->add(stream, &plan->x, &plan->x, &plan->normed);

    input = op_linear_input(op, &plan->normed, row_scale, &layer->mlp_in, 1);
    op->layer_norm(stream, &input, &plan->x, &layer->norm2_weight, &layer->norm2_bias,
                   encoder->epsilon);
    op->linear(stream, &plan->hidden, &input, &layer->mlp_in);
    input = op_linear_input(op, &plan->hidden, row_scale, &layer->mlp_out, 1);
    op->gelu(stream, &input, &plan->hidden, encoder->activation);
    op->linear(stream, &plan->normed, &input, &layer->mlp_out);
    op->add(stream, &plan->x, &plan->x, &plan->normed);
}

/* From the ids to hidden, and on to x after the last layer. */
static void enqueue_layers(void *context)
{
    const struct call *call = context;
    struct clip_plan *plan = call->plan;
    const struct clip_encoder *encoder = plan->encoder;
    int last = encoder->layer_count - 1;

    embed(plan, call->stream, call->ids);
    for (int i = 0; i < last; i++)
        run_layer(plan, call->stream, &encoder->layers[i]);
    plan->ops->copy(call->stream, call->hidden, &plan->x);
    run_layer(plan, call->stream, &encoder->layers[last]);
}

/* Where the end tokens stand is different for every prompt, so this is never recorded. */
static void summarise(struct clip_plan *plan, struct stream *stream, struct tensor *pooled,
                      const int64_t *eos_positions)
{
    const struct backend_ops *op = plan->ops;
    const struct clip_encoder *encoder = plan->encoder;

    for (int64_t b = 0; b < plan->batch; b++) {
        struct tensor prompt = tensor_slice(&plan->x, 0, b, 1);
        struct tensor end = tensor_slice(&prompt, 1, eos_positions[b], 1);
        struct tensor row = tensor_slice(&plan->summary, 0, b, 1);
        struct tensor end_row = TENSOR_RESHAPE(&end, 1, encoder->width);

        op->layer_norm(stream, &row, &end_row, &encoder->final_norm_weight,
                       &encoder->final_norm_bias, encoder->epsilon);
    }
    if (encoder->has_projection)
        op->linear(stream, pooled, &plan->summary, &encoder->projection);
    else
        op->copy(stream, pooled, &plan->summary);
}

void clip_encode(struct clip_plan *plan, struct stream *stream, struct tensor *hidden,
                 struct tensor *pooled, const struct tensor *ids, const int64_t *eos_positions)
{
    struct call call = {plan, stream, hidden, ids};
    struct layers_key key = {hidden->data, ids->data, {hidden->stride[0], hidden->stride[1]}};

    recordings_run(&plan->recordings, plan->ops, stream, &key, sizeof key, enqueue_layers, &call);
    summarise(plan, stream, pooled, eos_positions);
}
