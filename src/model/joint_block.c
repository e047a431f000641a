#include "model/joint_block.h"

#include <math.h>

#include "backend/composite.h"
#include "base/size.h"

#define NORM_EPSILON 1e-6f

static void load_attention(struct attention_weights *attention, struct weight_loader *loader,
                           int index, const char *side, const char *suffix, int64_t c,
                           bool with_proj)
{
    for (int i = 0; i < 3; i++)
        weight_loader_linear(loader, &attention->qkv[i], c, c, true, "block.%d.%s.%c%s", index,
                             side, "qkv"[i], suffix);
    if (with_proj)
        weight_loader_linear(loader, &attention->proj, c, c, true, "block.%d.%s.proj%s", index,
                             side, suffix);
    attention->has_norm =
        weights_has(loader->weights, "block.%d.%s.k%s_norm.weight", index, side, suffix);
    if (attention->has_norm) {
        weight_loader_vector(loader, &attention->q_norm, HEAD_WIDTH, "block.%d.%s.q%s_norm.weight",
                             index, side, suffix);
        weight_loader_vector(loader, &attention->k_norm, HEAD_WIDTH, "block.%d.%s.k%s_norm.weight",
                             index, side, suffix);
    }
}

static void load_side(struct block_side *side, struct weight_loader *loader, int index,
                      const char *name, int64_t c, bool is_last_context)
{
    side->has_self_attention = weights_has(loader->weights, "block.%d.%s.q2.weight", index, name);
    side->chunk_count = is_last_context ? 2 : side->has_self_attention ? 9 : 6;
    if (is_last_context) {
        weight_loader_linear(loader, &side->shift, c, c, true, "block.%d.%s.shift", index, name);
        weight_loader_linear(loader, &side->scale, c, c, true, "block.%d.%s.scale", index, name);
    } else {
        weight_loader_linear(loader, &side->modulation, side->chunk_count * c, c, true,
                             "block.%d.%s.modulation", index, name);
    }
    load_attention(&side->attention, loader, index, name, "", c, !is_last_context);
    if (side->has_self_attention)
        load_attention(&side->self_attention, loader, index, name, "2", c, true);
    if (!is_last_context) {
        weight_loader_linear(loader, &side->mlp_in, 4 * c, c, true, "block.%d.%s.mlp_in", index,
                             name);
        weight_loader_linear(loader, &side->mlp_out, c, 4 * c, true, "block.%d.%s.mlp_out", index,
                             name);
    }
}

/* The largest |q_norm[i] k_norm[i]|; 0 when a norm is missing. */
static float largest_product(const struct attention_weights *q, const struct attention_weights *k)
{
    const float *a = q->q_norm.data, *b = k->k_norm.data;
    float largest = 0.0f;

    for (int i = 0; i < HEAD_WIDTH && a && b; i++)
        largest = fmaxf(largest, fabsf(a[i] * b[i]));
    return largest;
}

/* A normed query is w * x with |x| = sqrt(64), and so is a key; their product is at most
 * 64 max |w_q w_k| (Cauchy and Schwarz), over 8. Rounding to 16 bits adds less than a percent. */
static float score_limit(const struct attention_weights *a, const struct attention_weights *b)
{
    float largest = fmaxf(fmaxf(largest_product(a, a), largest_product(a, b)),
                          fmaxf(largest_product(b, a), largest_product(b, b)));

    return 1.01f * sqrtf(HEAD_WIDTH) * largest;
}

void joint_block_load(struct joint_block *block, struct weight_loader *loader, int index, int count,
                      int64_t width)
{
    const struct attention_weights *image = &block->image.attention;
    const struct attention_weights *context = &block->context.attention;

    block->width = width;
    block->is_last = index == count - 1;
    load_side(&block->image, loader, index, "image", width, false);
    load_side(&block->context, loader, index, "context", width, block->is_last);
    if (image->has_norm && context->has_norm)
        block->joint_score_limit = score_limit(image, context);
    if (block->image.self_attention.has_norm)
        block->self_score_limit =
            score_limit(&block->image.self_attention, &block->image.self_attention);
}

static bool list_attention(const struct attention_weights *attention, struct weight_list *list,
                           struct error *err)
{
    return weight_list_add(list, attention->qkv, 3, false, err) &&
           weight_list_add(list, &attention->proj, 1, false, err);
}

static bool list_modulation(const struct block_side *side, struct weight_list *list,
                            struct error *err)
{
    return weight_list_add(list, &side->modulation, 1, false, err) &&
           weight_list_add(list, &side->shift, 1, false, err) &&
           weight_list_add(list, &side->scale, 1, false, err);
}

static bool list_side(const struct block_side *side, struct weight_list *list, struct error *err)
{
    return list_attention(&side->attention, list, err) &&
           list_attention(&side->self_attention, list, err) &&
           weight_list_add(list, &side->mlp_in, 1, false, err) &&
           weight_list_add(list, &side->mlp_out, 1, false, err);
}

bool joint_block_list_weights(const struct joint_block *block, struct weight_list *list,
                              struct error *err)
{
    return list_side(&block->image, list, err) && list_side(&block->context, list, err);
}

bool joint_block_list_modulation(const struct joint_block *block, struct weight_list *list,
                                 struct error *err)
{
    return list_modulation(&block->image, list, err) && list_modulation(&block->context, list, err);
}

int joint_block_chunk_count(const struct joint_block *block)
{
    return block->image.chunk_count + block->context.chunk_count;
}

/* `columns` wide rows of every sample, over the memory of its rows of another width. */
static struct tensor rows_over(const struct tensor *rows, int64_t columns)
{
    struct tensor over = *rows;

    over.dim[2] = over.stride[1] = columns;
    return over;
}

/* What a sample has for q, k, v of both sides, and then for the image's MLP: q, k, v of its context
 * stay out of that, because the context runs ahead into the next block. */
static bool place_shared(struct joint_block_plan *plan, struct arena *scratch, struct error *err)
{
    int64_t b = plan->batch, ti = plan->image_tokens, tc = plan->context_tokens, c = plan->width;
    struct tensor shared, hidden;

    if (!TENSOR_ALLOC(&shared, scratch, plan->ops->activation_dtype, "q, k, v and MLP", err, b,
                      3 * tc + 4 * ti, c))
        return false;
    hidden = tensor_slice(&shared, 1, 3 * tc, 4 * ti);
    hidden.dim[1] = ti;
    plan->image_hidden = rows_over(&hidden, 4 * c);
    shared.dim[1] = tc + ti;
    plan->qkv = rows_over(&shared, 3 * c);
    return true;
}

bool joint_block_plan_init(struct joint_block_plan *plan, const struct backend_ops *ops,
                           struct arena *scratch, int64_t batch, int64_t image_tokens,
                           int64_t context_tokens, int64_t width, bool with_self_attention,
                           struct error *err)
{
    enum dtype f = ops->activation_dtype;
    int64_t b = batch, ti = image_tokens, tc = context_tokens, c = width;

    *plan = (struct joint_block_plan){
        .ops = ops, .batch = b, .image_tokens = ti, .context_tokens = tc, .width = c};
    return TENSOR_ALLOC(&plan->image, scratch, f, "image tokens", err, b, ti, c) &&
           TENSOR_ALLOC(&plan->context, scratch, f, "context tokens", err, b, tc, c) &&
           TENSOR_ALLOC(&plan->image_normed, scratch, f, "norm", err, b, ti, c) &&
           TENSOR_ALLOC(&plan->image_scale, scratch, DTYPE_F32, "norm", err, b, ti) &&
           TENSOR_ALLOC(&plan->context_normed, scratch, f, "norm", err, b, tc, c) &&
           TENSOR_ALLOC(&plan->context_scale, scratch, DTYPE_F32, "norm", err, b, tc) &&
           TENSOR_ALLOC(&plan->context_hidden, scratch, f, "MLP", err, b, tc, 4 * c) &&
           TENSOR_ALLOC(&plan->image_hidden_scale, scratch, DTYPE_F32, "MLP", err, b, ti) &&
           TENSOR_ALLOC(&plan->context_hidden_scale, scratch, DTYPE_F32, "MLP", err, b, tc) &&
           TENSOR_ALLOC(&plan->attended, scratch, f, "attention", err, b, tc + ti, c) &&
           (!with_self_attention ||
            (TENSOR_ALLOC(&plan->self_normed, scratch, f, "norm", err, b, ti, c) &&
             TENSOR_ALLOC(&plan->self_scale, scratch, DTYPE_F32, "norm", err, b, ti))) &&
           place_shared(plan, scratch, err);
}

static void keep_samples(struct tensor *tensor, int64_t batch)
{
    if (tensor_exists(tensor))
        *tensor = tensor_slice(tensor, 0, 0, batch);
}

struct joint_block_plan joint_block_plan_part(const struct joint_block_plan *plan, int64_t batch)
{
    struct joint_block_plan part = *plan;
    struct tensor *tensors[] = {
        &part.image,
        &part.context,
        &part.image_normed,
        &part.image_scale,
        &part.context_normed,
        &part.context_scale,
        &part.self_normed,
        &part.self_scale,
        &part.image_hidden_scale,
        &part.context_hidden_scale,
        &part.attended,
        &part.qkv,
        &part.image_hidden,
        &part.context_hidden,
        NULL,
    };

    part.batch = batch;
    for (int i = 0; tensors[i]; i++)
        keep_samples(tensors[i], batch);
    return part;
}

static void modulate_side(const struct block_side *side, const struct backend_ops *op,
                          struct stream *stream, struct tensor *out, const struct tensor *cond_silu)
{
    int64_t c = cond_silu->dim[1];

    if (tensor_exists(&side->modulation.weight)) {
        op->linear(stream, out, cond_silu, &side->modulation);
    } else {
        struct tensor shift = tensor_slice(out, 1, SHIFT_ATTENTION * c, c);
        struct tensor scale = tensor_slice(out, 1, SCALE_ATTENTION * c, c);

        op->linear(stream, &shift, cond_silu, &side->shift);
        op->linear(stream, &scale, cond_silu, &side->scale);
    }
}

void joint_block_modulate(const struct joint_block *block, const struct backend_ops *op,
                          struct stream *stream, struct tensor *out, const struct tensor *cond_silu)
{
    int64_t image_columns = block->image.chunk_count * block->width;
    int64_t context_columns = block->context.chunk_count * block->width;
    struct tensor image = tensor_slice(out, 1, 0, image_columns);
    struct tensor context = tensor_slice(out, 1, image_columns, context_columns);

    modulate_side(&block->image, op, stream, &image, cond_silu);
    modulate_side(&block->context, op, stream, &context, cond_silu);
}

/* A side of the block on its way through one run: its weights, its tokens, and its part of what the
 * two sides share. */
struct side_run {
    const struct block_side *weights;
    struct tensor x;          /* [B, T, C]: residual stream */
    struct tensor normed;     /* [B, T, C] */
    float *row_scale;         /* [B, T]: of normed in 8 bits */
    float *hidden_scale;      /* [B, T]: of hidden in 8 bits */
    struct tensor attended;   /* [B, T, C] */
    struct tensor qkv;        /* [B, T, 3C] */
    struct tensor hidden;     /* [B, T, 4C] */
    struct tensor delta;      /* [B, T, C], where hidden lies: what will be added to x */
    struct tensor modulation; /* [B, chunks * C] */
};

static struct tensor chunk(const struct side_run *side, enum modulation_chunk which)
{
    int64_t c = side->x.dim[2];

    return tensor_slice(&side->modulation, 1, which * c, c);
}

static struct side_run image_side(const struct joint_block *block, struct joint_block_plan *plan,
                                  const struct tensor *modulation)
{
    int64_t tc = plan->context_tokens, ti = plan->image_tokens;
    int64_t columns = block->image.chunk_count * block->width;

    return (struct side_run){
        .weights = &block->image,
        .x = plan->image,
        .normed = plan->image_normed,
        .row_scale = plan->image_scale.data,
        .hidden_scale = plan->image_hidden_scale.data,
        .attended = tensor_slice(&plan->attended, 1, tc, ti),
        .qkv = tensor_slice(&plan->qkv, 1, tc, ti),
        .hidden = plan->image_hidden,
        .delta = rows_over(&plan->image_hidden, block->width),
        .modulation = tensor_slice(modulation, 1, 0, columns),
    };
}

static struct side_run context_side(const struct joint_block *block, struct joint_block_plan *plan,
                                    const struct tensor *modulation)
{
    int64_t tc = plan->context_tokens;
    int64_t before = block->image.chunk_count * block->width;
    int64_t columns = block->context.chunk_count * block->width;

    return (struct side_run){
        .weights = &block->context,
        .x = plan->context,
        .normed = plan->context_normed,
        .row_scale = plan->context_scale.data,
        .hidden_scale = plan->context_hidden_scale.data,
        .attended = tensor_slice(&plan->attended, 1, 0, tc),
        .qkv = tensor_slice(&plan->qkv, 1, 0, tc),
        .hidden = plan->context_hidden,
        .delta = TENSOR_OF(plan->context_hidden.data, plan->context.dtype, plan->batch, tc,
                           block->width),
        .modulation = tensor_slice(modulation, 1, before, columns),
    };
}

/* Part 0, 1, 2 of a fused qkv [B, T, 3C] is q, k, v; seen as heads [B, T, N, 64]. */
static struct tensor heads_of(const struct tensor *qkv, int part)
{
    int64_t c = qkv->dim[2] / 3;
    struct tensor columns = tensor_slice(qkv, 2, part * c, c);

    return tensor_split(&columns, 2, HEAD_WIDTH);
}

/* qkv = the linears of `normed`, q and k normed per head */
static void make_qkv(const struct attention_weights *weights, const struct backend_ops *op,
                     struct stream *stream, struct tensor *qkv, const struct tensor *normed)
{
    if (weights->has_norm)
        op_normed_qkv(op, stream, qkv, normed, weights->qkv, &weights->q_norm, &weights->k_norm,
                      NORM_EPSILON);
    else
        op_linears(op, stream, qkv, normed, weights->qkv, 3);
}

/* Modulated norm of the residual stream, then q, k, v. */
static void project(struct side_run *side, const struct backend_ops *op, struct stream *stream)
{
    const struct attention_weights *weights = &side->weights->attention;
    struct tensor shift = chunk(side, SHIFT_ATTENTION);
    struct tensor scale = chunk(side, SCALE_ATTENTION);
    struct tensor normed = op_linear_input(op, &side->normed, side->row_scale, weights->qkv, 3);

    op->modulated_norm(stream, &normed, &side->x, &shift, &scale, NORM_EPSILON);
    make_qkv(weights, op, stream, &side->qkv, &normed);
}

static void attend(const struct backend_ops *op, struct stream *stream, struct tensor *attended,
                   const struct tensor *qkv, float score_limit)
{
    struct attention_options options = {.scale = 1.0f / sqrtf(HEAD_WIDTH),
                                        .score_limit = score_limit};
    struct tensor out = tensor_split(attended, 2, HEAD_WIDTH);
    struct tensor q = heads_of(qkv, 0);
    struct tensor k = heads_of(qkv, 1);
    struct tensor v = heads_of(qkv, 2);

    op->attention(stream, &out, &q, &k, &v, &options);
}

/* The attention's way back into the residual stream. `attended` becomes what proj takes best. */
static struct gated_branch attention_branch(struct side_run *side, struct tensor *attended,
                                            const struct tensor *gate, const struct linear *proj,
                                            const struct backend_ops *op, struct stream *stream)
{
    *attended =
        op_as_linear_input(op, stream, &side->attended, &side->normed, side->row_scale, proj, 1);
    return (struct gated_branch){
        .x = &side->x, .delta = &side->delta, .gate = gate, .input = attended, .layer = proj};
}

/* x += gate * proj(attended), and then
 * x += gate * mlp_out(gelu(mlp_in(modulated norm of x))) */
static void finish_side(struct side_run *side, const struct linear *proj,
                        enum modulation_chunk attention_gate, const struct backend_ops *op,
                        struct stream *stream)
{
    const struct linear *mlp_in = &side->weights->mlp_in, *mlp_out = &side->weights->mlp_out;
    struct tensor proj_gate = chunk(side, attention_gate), mlp_gate = chunk(side, GATE_MLP);
    struct tensor shift = chunk(side, SHIFT_MLP), scale = chunk(side, SCALE_MLP), attended;
    struct gated_branch attention = attention_branch(side, &attended, &proj_gate, proj, op, stream);
    struct tensor normed = op_linear_input(op, &side->normed, side->row_scale, mlp_in, 1);
    struct tensor hidden = op_linear_input(op, &side->hidden, side->hidden_scale, mlp_out, 1);
    struct gated_branch mlp = {.x = &side->x,
                               .delta = &side->normed,
                               .gate = &mlp_gate,
                               .input = &hidden,
                               .layer = mlp_out};

    op_gated_linear_norm(op, stream, &attention, &normed, &shift, &scale, NORM_EPSILON);
    op_gelu_linear(op, stream, &hidden, &side->hidden, &normed, mlp_in);
    op_gated_linear(op, stream, &mlp);
}

/* MMDiT-X: the image tokens attend to themselves. They do so as they entered the block
 * (self_normed), not as the first attention leaves them. */
static void run_self_attention(struct side_run *side, struct joint_block_plan *plan,
                               const struct tensor *self_normed, float score_limit,
                               struct stream *stream)
{
    const struct backend_ops *op = plan->ops;
    struct tensor gate = chunk(side, GATE_ATTENTION), attended;
    struct gated_branch attention =
        attention_branch(side, &attended, &gate, &side->weights->attention.proj, op, stream);
    struct tensor qkv = rows_over(&side->hidden, 3 * plan->width);

    op_gated_linear(op, stream, &attention);
    make_qkv(&side->weights->self_attention, op, stream, &qkv, self_normed);
    attend(op, stream, &side->attended, &qkv, score_limit);
}

void joint_block_run(const struct joint_block *block, struct joint_block_plan *plan,
                     struct stream *stream, const struct tensor *modulation)
{
    const struct backend_ops *op = plan->ops;
    struct side_run image = image_side(block, plan, modulation);
    struct side_run context = context_side(block, plan, modulation);
    bool has_self_attention = image.weights->has_self_attention;
    struct tensor self_normed = {0};

    op_branch(op, stream, 1);
    project(&context, op, stream);
    op_branch(op, stream, 0);
    if (has_self_attention) {
        struct tensor shift = chunk(&image, SHIFT_SELF);
        struct tensor scale = chunk(&image, SCALE_SELF);

        self_normed = op_linear_input(op, &plan->self_normed, plan->self_scale.data,
                                      image.weights->self_attention.qkv, 3);
        op->modulated_norm(stream, &self_normed, &image.x, &shift, &scale, NORM_EPSILON);
    }
    project(&image, op, stream);
    op_join(op, stream);

    attend(op, stream, &plan->attended, &plan->qkv, block->joint_score_limit);

    if (!block->is_last) {
        op_branch(op, stream, 1);
        finish_side(&context, &context.weights->attention.proj, GATE_ATTENTION, op, stream);
    }
    op_branch(op, stream, 0);
    if (has_self_attention) {
        run_self_attention(&image, plan, &self_normed, block->self_score_limit, stream);
        finish_side(&image, &image.weights->self_attention.proj, GATE_SELF, op, stream);
    } else {
        finish_side(&image, &image.weights->attention.proj, GATE_ATTENTION, op, stream);
    }
}
