#include "text/t5_encoder.h"

#include <stdlib.h>
#include <string.h>

#include "backend/composite.h"
#include "backend/recordings.h"

#define LAYERS_MAX 256

struct t5_layer {
    struct tensor norm1;        /* [C] */
    struct linear qkv[3], proj; /* [N D, C], proj [C, N D] */
    struct tensor norm2;        /* [C] */
    struct linear gate_up[2];   /* [F, C] */
    struct linear down;         /* [C, F] */
};

struct t5_encoder {
    const struct backend_ops *ops;
    int64_t width, attention_width, heads, mlp_width, vocabulary, buckets;
    int layer_count, max_distance;
    float epsilon;
    struct tensor token_embedding; /* [V, C] */
    struct tensor relative_bias;   /* [buckets, N], of layer 0, for all layers */
    struct t5_layer *layers;
    struct tensor final_norm;          /* [C] */
    struct streamed_weights *streamed; /* NULL: weights do not stream */
};

struct t5_plan {
    const struct t5_encoder *encoder;
    const struct backend_ops *ops;
    struct tensor x;        /* [B, T, C] */
    struct tensor normed;   /* [B, T, C] */
    struct tensor qkv;      /* [B, T, 3 N D] */
    struct tensor attended; /* [B, T, N D] */
    struct tensor gate_up;  /* [B, T, 2F] */
    struct tensor scale;    /* [B, T] f32: of rows in 8 bits */
    struct tensor bias;     /* [N, T, T] f32 */
    struct recordings recordings;
};

static bool read_shape(struct t5_encoder *encoder, const struct weights *weights, struct error *err)
{
    int64_t dim[TENSOR_MAX_RANK];
    int rank;

    if (!weights_shape(weights, &rank, dim, "token_embedding.weight") || rank != 2)
        return error_set(err, ERROR_BAD_FILE, "T5 in '%s': the token embedding is missing",
                         weights_path(weights));
    encoder->vocabulary = dim[0];
    encoder->width = dim[1];
    if (!weights_shape(weights, &rank, dim, "relative_bias.weight") || rank != 2 || dim[0] < 4 ||
        dim[1] < 1)
        return error_set(err, ERROR_BAD_FILE,
                         "T5 in '%s': the table of relative positions is missing",
                         weights_path(weights));
    encoder->buckets = dim[0];
    encoder->heads = dim[1];
    if (!weights_shape(weights, &rank, dim, "layer.0.q.weight") || rank != 2 ||
        dim[0] % encoder->heads != 0)
        return error_set(err, ERROR_BAD_FILE, "T5 in '%s': layer 0's queries do not fit %lld heads",
                         weights_path(weights), (long long)encoder->heads);
    encoder->attention_width = dim[0];
    if (!weights_shape(weights, &rank, dim, "layer.0.gate.weight") || rank != 2)
        return error_set(err, ERROR_BAD_FILE, "T5 in '%s': layer 0 has no gated MLP",
                         weights_path(weights));
    encoder->mlp_width = dim[0];
    while (encoder->layer_count < LAYERS_MAX &&
           weights_has(weights, "layer.%d.q.weight", encoder->layer_count))
        encoder->layer_count++;

    if (encoder->layer_count < 1)
        return error_set(err, ERROR_BAD_FILE, "T5 in '%s': there are no layers",
                         weights_path(weights));
    encoder->epsilon = (float)weights_config_number(weights, "layer_norm_epsilon", 1e-6);
    encoder->max_distance =
        (int)weights_config_integer(weights, "relative_attention_max_distance", 128);
    if (encoder->max_distance <= encoder->buckets / 4)
        return error_set(err, ERROR_BAD_FILE,
                         "T5 in '%s': relative_attention_max_distance %d is too small",
                         weights_path(weights), encoder->max_distance);
    return true;
}

bool t5_encoder_create(struct t5_encoder **out, struct weights *weights,
                       const struct backend_ops *ops, struct error *err)
{
    struct t5_encoder *encoder = calloc(1, sizeof *encoder);
    struct weight_loader loader;
    int64_t c, a, f;

    if (!encoder)
        return error_set(err, ERROR_NO_MEMORY, "T5 encoder");
    encoder->ops = ops;
    if (!read_shape(encoder, weights, err))
        goto fail;
    encoder->layers = calloc((size_t)encoder->layer_count, sizeof *encoder->layers);
    if (!encoder->layers) {
        error_set(err, ERROR_NO_MEMORY, "T5 encoder");
        goto fail;
    }
    c = encoder->width;
    a = encoder->attention_width;
    f = encoder->mlp_width;

    weight_loader_init(&loader, weights);
    weight_loader_table(&loader, &encoder->token_embedding, encoder->vocabulary, c,
                        "token_embedding.weight");
    weight_loader_table(&loader, &encoder->relative_bias, encoder->buckets, encoder->heads,
                        "relative_bias.weight");
    for (int i = 0; i < encoder->layer_count; i++) {
        struct t5_layer *layer = &encoder->layers[i];

        weight_loader_vector(&loader, &layer->norm1, c, "layer.%d.norm1.weight", i);
        for (int j = 0; j < 3; j++)
            weight_loader_linear(&loader, &layer->qkv[j], a, c, false, "layer.%d.%c", i, "qkv"[j]);
        weight_loader_linear(&loader, &layer->proj, c, a, false, "layer.%d.proj", i);
        weight_loader_vector(&loader, &layer->norm2, c, "layer.%d.norm2.weight", i);
        weight_loader_linear(&loader, &layer->gate_up[0], f, c, false, "layer.%d.gate", i);
        weight_loader_linear(&loader, &layer->gate_up[1], f, c, false, "layer.%d.up", i);
        weight_loader_linear(&loader, &layer->down, c, f, false, "layer.%d.down", i);
    }
    weight_loader_vector(&loader, &encoder->final_norm, c, "final_norm.weight");
    if (!weight_loader_finish(&loader, err))
        goto fail;

    *out = encoder;
    return true;

fail:
    t5_encoder_destroy(encoder);
    return false;
}

void t5_encoder_destroy(struct t5_encoder *encoder)
{
    if (!encoder)
        return;
    free(encoder->layers);
    free(encoder);
}

bool t5_encoder_list_weights(const struct t5_encoder *encoder, struct weight_list *list,
                             struct error *err)
{
    for (int i = 0; i < encoder->layer_count; i++) {
        const struct t5_layer *layer = &encoder->layers[i];

        if (!weight_list_add(list, layer->qkv, 3, false, err) ||
            !weight_list_add(list, &layer->proj, 1, false, err) ||
            !weight_list_add(list, layer->gate_up, 2, false, err) ||
            !weight_list_add(list, &layer->down, 1, false, err) ||
            !weight_list_end_group(list, err))
            return false;
    }
    return weight_list_add_table(list, &encoder->token_embedding, err) &&
           weight_list_add_table(list, &encoder->relative_bias, err);
}

void t5_encoder_stream(struct t5_encoder *encoder, struct streamed_weights *streamed)
{
    encoder->streamed = streamed;
}

int64_t t5_encoder_width(const struct t5_encoder *encoder)
{
    return encoder->width;
}

int64_t t5_encoder_vocabulary(const struct t5_encoder *encoder)
{
    return encoder->vocabulary;
}

bool t5_plan_create(struct t5_plan **out, const struct t5_encoder *encoder, struct arena *scratch,
                    int64_t batch, int64_t tokens, struct error *err)
{
    enum dtype f = encoder->ops->activation_dtype;
    int64_t c = encoder->width, a = encoder->attention_width, m = encoder->mlp_width;
    struct t5_plan *plan = calloc(1, sizeof *plan);

    if (!plan)
        return error_set(err, ERROR_NO_MEMORY, "T5 encoder");
    *plan = (struct t5_plan){.encoder = encoder, .ops = encoder->ops};
    if (!TENSOR_ALLOC(&plan->x, scratch, f, "T5 hidden states", err, batch, tokens, c) ||
        !TENSOR_ALLOC(&plan->normed, scratch, f, "T5 norm", err, batch, tokens, c) ||
        !TENSOR_ALLOC(&plan->qkv, scratch, f, "T5 attention", err, batch, tokens, 3 * a) ||
        !TENSOR_ALLOC(&plan->attended, scratch, f, "T5 attention", err, batch, tokens, a) ||
        !TENSOR_ALLOC(&plan->gate_up, scratch, f, "T5 MLP", err, batch, tokens, 2 * m) ||
        !TENSOR_ALLOC(&plan->scale, scratch, DTYPE_F32, "T5 MLP", err, batch, tokens) ||
        !TENSOR_ALLOC(&plan->bias, scratch, DTYPE_F32, "T5 positions", err, encoder->heads, tokens,
                      tokens)) {
        t5_plan_destroy(plan);
        return false;
    }
    *out = plan;
    return true;
}

void t5_plan_forget(struct t5_plan *plan)
{
    recordings_finish(&plan->recordings, plan->ops);
}

void t5_plan_destroy(struct t5_plan *plan)
{
    if (!plan)
        return;
    t5_plan_forget(plan);
    free(plan);
}

/* h += proj(attention(norm1(h)));  h += down(gelu(gate(norm2(h))) * up(norm2(h))) */
static void run_layer(struct t5_plan *plan, struct stream *stream, const struct t5_layer *layer)
{
    const struct backend_ops *op = plan->ops;
    const struct t5_encoder *encoder = plan->encoder;
    int64_t a = encoder->attention_width, m = encoder->mlp_width, head_width = a / encoder->heads;
    float *row_scale = plan->scale.data;
    struct tensor q = tensor_slice(&plan->qkv, 2, 0, a);
    struct tensor k = tensor_slice(&plan->qkv, 2, a, a);
    struct tensor v = tensor_slice(&plan->qkv, 2, 2 * a, a);
    struct tensor q_heads = tensor_split(&q, 2, head_width);
    struct tensor k_heads = tensor_split(&k, 2, head_width);
    struct tensor v_heads = tensor_split(&v, 2, head_width);
    struct tensor attended = tensor_split(&plan->attended, 2, head_width);
    struct tensor gate = tensor_slice(&plan->gate_up, 2, 0, m);
    struct tensor up = tensor_slice(&plan->gate_up, 2, m, m);
    struct attention_options unscaled = {.scale = 1.0f, .bias = &plan->bias};
    struct tensor input = op_linear_input(op, &plan->normed, row_scale, layer->qkv, 3);

    op->rms_norm(stream, &input, &plan->x, &layer->norm1, encoder->epsilon);
    op_linears(op, stream, &plan->qkv, &input, layer->qkv, 3);
    op->attention(stream, &attended, &q_heads, &k_heads, &v_heads, &unscaled);
    input = op_as_linear_input(op, stream, &plan->attended, &plan->attended, row_scale,
                               &layer->proj, 1);
    op->linear(stream, &plan->normed, &input, &layer->proj);
    op->add(stream, &plan->x, &plan->x, &plan->normed);

    input = op_linear_input(op, &plan->normed, row_scale, layer->gate_up, 2);
    op->rms_norm(stream, &input, &plan->x, &layer->norm2, encoder->epsilon);
    op_linears(op, stream, &plan->gate_up, &input, layer->gate_up, 2);
    input = op_linear_input(op, &gate, row_scale, &layer->down, 1);
    op->gated_gelu(stream, &input, &gate, &up);
    op->linear(stream, &plan->normed, &input, &layer->down);
    op->add(stream, &plan->x, &plan->x, &plan->normed);
}

/* The arguments of t5_encode. */
struct call {
    struct t5_plan *plan;
    struct stream *stream;
    struct tensor *hidden;
    const struct tensor *ids;
};

/* What the ops of encoding depend on, beside the plan. */
struct call_key {
    const void *hidden, *ids;
    int64_t hidden_stride[2];
};

static void enqueue(void *context)
{
    const struct call *call = context;
    struct t5_plan *plan = call->plan;
    struct stream *stream = call->stream;
    const struct backend_ops *op = plan->ops;
    const struct t5_encoder *encoder = plan->encoder;
    int64_t rows = plan->x.dim[0] * plan->x.dim[1];
    struct tensor flat = TENSOR_RESHAPE(&plan->x, rows, encoder->width);
    struct tensor flat_ids = TENSOR_RESHAPE(call->ids, rows);

    op->embedding_rows(stream, &flat, &encoder->token_embedding, &flat_ids);
    op->relative_bias(stream, &plan->bias, &encoder->relative_bias, encoder->max_distance);
    for (int i = 0; i < encoder->layer_count; i++) {
        if (encoder->streamed)
            op->weights_enter(stream, encoder->streamed, (size_t)i,
                              (size_t)((i + 1) % encoder->layer_count));
        run_layer(plan, stream, &encoder->layers[i]);
    }
    op->rms_norm(stream, call->hidden, &plan->x, &encoder->final_norm, encoder->epsilon);
}

void t5_encode(struct t5_plan *plan, struct stream *stream, struct tensor *hidden,
               const struct tensor *ids)
{
    struct call call = {plan, stream, hidden, ids};
    struct call_key key = {hidden->data, ids->data, {hidden->stride[0], hidden->stride[1]}};

    recordings_run(&plan->recordings, plan->ops, stream, &key, sizeof key, enqueue, &call);
}
