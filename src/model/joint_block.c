#include "model/joint_block.h"

#include <math.h>

#include "base/size.h"

#define NORM_EPSILON 1e-6f

static void load_attention(struct attention_weights *attention, struct weight_loader *loader,
                           int index, const char *side, const char *suffix, int64_t c,
                           bool with_proj)
{
    weight_loader_linear(loader, &attention->q, c, c, true, "block.%d.%s.q%s", index, side, suffix);
    weight_loader_linear(loader, &attention->k, c, c, true, "block.%d.%s.k%s", index, side, suffix);
    weight_loader_linear(loader, &attention->v, c, c, true, "block.%d.%s.v%s", index, side, suffix);
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

void joint_block_load(struct joint_block *block, struct weight_loader *loader, int index, int count,
                      int64_t width)
{
    block->width = width;
    block->is_last = index == count - 1;
    load_side(&block->image, loader, index, "image", width, false);
    load_side(&block->context, loader, index, "context", width, block->is_last);
}

int joint_block_chunk_count(const struct joint_block *block)
{
    return block->image.chunk_count + block->context.chunk_count;
}

bool joint_block_plan_init(struct joint_block_plan *plan, const struct backend_ops *ops,
                           struct arena *scratch, int64_t batch, int64_t image_tokens,
                           int64_t context_tokens, int64_t width, bool with_self_attention,
                           struct error *err)
{
    enum dtype f = ops->activation_dtype;
    int64_t tokens = image_tokens + context_tokens;
    int64_t hidden_tokens = max_i64(image_tokens, context_tokens);
    struct tensor shared;

    *plan = (struct joint_block_plan){.ops = ops,
                                      .batch = batch,
                                      .image_tokens = image_tokens,
                                      .context_tokens = context_tokens,
                                      .width = width};
    if (!TENSOR_ALLOC(&plan->image, scratch, f, "image tokens", err, batch, image_tokens, width) ||
        !TENSOR_ALLOC(&plan->context, scratch, f, "context tokens", err, batch, context_tokens,
                      width) ||
        !TENSOR_ALLOC(&plan->normed, scratch, f, "norm", err, batch, tokens, width) ||
        !TENSOR_ALLOC(&plan->attended, scratch, f, "attention", err, batch, tokens, width) ||
        (with_self_attention &&
         !TENSOR_ALLOC(&plan->self_normed, scratch, f, "norm", err, batch, image_tokens, width)) ||
        !TENSOR_ALLOC(&shared, scratch, f, "q, k, v and MLP", err, batch,
                      max_i64(3 * tokens, 4 * hidden_tokens), width))
        return false;
    plan->qkv = TENSOR_OF(shared.data, f, batch, tokens, 3 * width);
    plan->hidden = TENSOR_OF(shared.data, f, batch, hidden_tokens, 4 * width);
    return true;
}

static void keep_samples(struct tensor *tensor, int64_t batch)
{
    if (tensor_exists(tensor))
        *tensor = tensor_slice(tensor, 0, 0, batch);
}

struct joint_block_plan joint_block_plan_part(const struct joint_block_plan *plan, int64_t batch)
{
    struct joint_block_plan part = *plan;

    part.batch = batch;
    keep_samples(&part.image, batch);
    keep_samples(&part.context, batch);
    keep_samples(&part.normed, batch);
    keep_samples(&part.self_normed, batch);
    keep_samples(&part.qkv, batch);
    keep_samples(&part.attended, batch);
    keep_samples(&part.hidden, batch);
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
    struct tensor attended;   /* [B, T, C] */
    struct tensor qkv;        /* [B, T, 3C] */
    struct tensor hidden;     /* [B, T, 4C] */
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
        .normed = tensor_slice(&plan->normed, 1, tc, ti),
        .attended = tensor_slice(&plan->attended, 1, tc, ti),
        .qkv = tensor_slice(&plan->qkv, 1, tc, ti),
        .hidden = tensor_slice(&plan->hidden, 1, 0, ti),
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
        .normed = tensor_slice(&plan->normed, 1, 0, tc),
        .attended = tensor_slice(&plan->attended, 1, 0, tc),
        .qkv = tensor_slice(&plan->qkv, 1, 0, tc),
        .hidden = tensor_slice(&plan->hidden, 1, 0, tc),
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
    int64_t c = qkv->dim[2] / 3;
    struct tensor q = tensor_slice(qkv, 2, 0, c);
    struct tensor k = tensor_slice(qkv, 2, c, c);
    struct tensor v = tensor_slice(qkv, 2, 2 * c, c);

    op->linear(stream, &q, normed, &weights->q);
    op->linear(stream, &k, normed, &weights->k);
    op->linear(stream, &v, normed, &weights->v);
    if (weights->has_norm) {
        struct tensor q_heads = heads_of(qkv, 0);
        struct tensor k_heads = heads_of(qkv, 1);

        op->rms_norm(stream, &q_heads, &q_heads, &weights->q_norm, NORM_EPSILON);
        op->rms_norm(stream, &k_heads, &k_heads, &weights->k_norm, NORM_EPSILON);
    }
}

/* Modulated norm of the residual stream, then q, k, v. */
static void project(struct side_run *side, const struct backend_ops *op, struct stream *stream)
{
    struct tensor shift = chunk(side, SHIFT_ATTENTION);
    struct tensor scale = chunk(side, SCALE_ATTENTION);

    op->modulated_norm(stream, &side->normed, &side->x, &shift, &scale, NORM_EPSILON);
    make_qkv(&side->weights->attention, op, stream, &side->qkv, &side->normed);
}

static void attend(const struct backend_ops *op, struct stream *stream, struct tensor *attended,
                   const struct tensor *qkv)
{
    struct attention_options options = {.scale = 1.0f / sqrtf(HEAD_WIDTH)};
    struct tensor out = tensor_split(attended, 2, HEAD_WIDTH);
    struct tensor q = heads_of(qkv, 0);
    struct tensor k = heads_of(qkv, 1);
    struct tensor v = heads_of(qkv, 2);

    op->attention(stream, &out, &q, &k, &v, &options);
}

/* x += gate * proj(attended) */
static void absorb_attention(struct side_run *side, const struct linear *proj,
                             enum modulation_chunk gate_chunk, const struct backend_ops *op,
                             struct stream *stream)
{
    struct tensor gate = chunk(side, gate_chunk);

    op->linear(stream, &side->normed, &side->attended, proj);
    op->gated_add(stream, &side->x, &side->x, &gate, &side->normed);
}

/* x += gate * mlp_out(gelu(mlp_in(modulated norm of x))) */
static void run_mlp(struct side_run *side, const struct backend_ops *op, struct stream *stream)
{
    struct tensor shift = chunk(side, SHIFT_MLP);
    struct tensor scale = chunk(side, SCALE_MLP);
    struct tensor gate = chunk(side, GATE_MLP);

    op->modulated_norm(stream, &side->normed, &side->x, &shift, &scale, NORM_EPSILON);
    op->linear(stream, &side->hidden, &side->normed, &side->weights->mlp_in);
    op->gelu(stream, &side->hidden, &side->hidden, GELU_TANH);
    op->linear(stream, &side->normed, &side->hidden, &side->weights->mlp_out);
    op->gated_add(stream, &side->x, &side->x, &gate, &side->normed);
}

void joint_block_run(const struct joint_block *block, struct joint_block_plan *plan,
                     struct stream *stream, const struct tensor *modulation)
{
    const struct backend_ops *op = plan->ops;
    struct side_run image = image_side(block, plan, modulation);
    struct side_run context = context_side(block, plan, modulation);

    /* The second attention sees the image as it entered the block, not what the first one made. */
    if (image.weights->has_self_attention) {
        struct tensor shift = chunk(&image, SHIFT_SELF);
        struct tensor scale = chunk(&image, SCALE_SELF);

        op->modulated_norm(stream, &plan->self_normed, &image.x, &shift, &scale, NORM_EPSILON);
    }

    project(&context, op, stream);
    project(&image, op, stream);
    attend(op, stream, &plan->attended, &plan->qkv);
    absorb_attention(&image, &image.weights->attention.proj, GATE_ATTENTION, op, stream);
    if (!block->is_last)
        absorb_attention(&context, &context.weights->attention.proj, GATE_ATTENTION, op, stream);

    if (image.weights->has_self_attention) {
        make_qkv(&image.weights->self_attention, op, stream, &image.qkv, &plan->self_normed);
        attend(op, stream, &image.attended, &image.qkv);
        absorb_attention(&image, &image.weights->self_attention.proj, GATE_SELF, op, stream);
    }

    run_mlp(&image, op, stream);
    if (!block->is_last)
        run_mlp(&context, op, stream);
}
