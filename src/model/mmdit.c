#include "model/mmdit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/composite.h"
#include "backend/recordings.h"
#include "base/size.h"
#include "model/joint_block.h"

#define BLOCKS_MAX 1024 /* against a file that claims millions */
#define NORM_EPSILON 1e-6f
#define TIMESTEP_WIDTH 256 /* sines and cosines that describe a timestep */
#define SKIP_WORDS ((BLOCKS_MAX + 63) / 64)

struct mmdit {
    const struct backend_ops *ops;
    struct mmdit_shape shape;
    struct tensor position_table;            /* [P P, C] */
    struct linear patch_embed;               /* [C, 16 p p] */
    struct linear timestep_in, timestep_out; /* [C, 256], [C, C] */
    struct linear pooled_in, pooled_out;     /* [C, 2048], [C, C] */
    struct linear context_embed;             /* [C, 4096] */
    struct joint_block *blocks;              /* [block_count] */
    struct linear final_shift, final_scale;  /* [C, C] */
    struct linear final;                     /* [p p 16, C] */
    struct streamed_weights *streamed;       /* NULL: weights do not stream */
};

/* What the ops of an evaluation depend on, beside the plan. */
struct recording_key {
    const void *velocity, *latent;
    int64_t count, first_sample;
    uint64_t skips[SKIP_WORDS]; /* a bit for each block */
};
_Static_assert(sizeof(struct recording_key) <= RECORDINGS_KEY_BYTES, "a key fits");

struct mmdit_plan {
    const struct mmdit *mmdit;
    const struct backend_ops *ops;
    int64_t grid_height, grid_width;
    struct joint_block_plan block_plan;
    struct tensor patches;        /* [B, Ti, 16 p p] */
    struct tensor context;        /* [B, Tc, C]: embedded text, the same for all steps */
    struct tensor rows;           /* [B] i32 */
    struct tensor modulation;     /* [R, chunks C]: all blocks, then the final layer */
    struct tensor modulation_now; /* [B, chunks C] */
    struct tensor cond, pooled;   /* [R, C] */
    struct tensor sines;          /* [R, 256] */
    struct recordings recordings;
    mmdit_observer observer;
    void *observer_context;
};

static bool fail_missing(const struct weights *weights, const char *what, struct error *err)
{
    return error_set(err, ERROR_BAD_FILE, "transformer in '%s': %s is missing or misshapen",
                     weights_path(weights), what);
}

/* Everything that distinguishes the variants (model.md, section 1.3). */
static bool read_shape(struct mmdit_shape *shape, const struct weights *weights, struct error *err)
{
    int64_t dim[TENSOR_MAX_RANK];
    int rank;

    if (!weights_shape(weights, &rank, dim, "patch_embed.weight") || rank != 4 ||
        dim[0] % HEAD_WIDTH != 0 || dim[0] < HEAD_WIDTH || dim[1] < 1 || dim[2] < 1 ||
        dim[2] > 16 || dim[2] != dim[3])
        return fail_missing(weights, "the patch embedding", err);
    shape->width = dim[0];
    shape->latent_channels = dim[1];
    shape->patch = dim[2];
    if (!weights_shape(weights, &rank, dim, "position_table") || rank < 2 ||
        dim[rank - 1] != shape->width)
        return fail_missing(weights, "the position table", err);
    shape->position_side = llround(sqrt((double)dim[rank - 2]));
    if (shape->position_side * shape->position_side != dim[rank - 2])
        return error_set(err, ERROR_BAD_FILE,
                         "transformer in '%s': the position table has %lld rows, not a square",
                         weights_path(weights), (long long)dim[rank - 2]);
    if (!weights_shape(weights, &rank, dim, "context_embed.weight") || rank != 2)
        return fail_missing(weights, "the context embedding", err);
    shape->context_width = dim[1];
    if (!weights_shape(weights, &rank, dim, "pooled_embed.in.weight") || rank != 2)
        return fail_missing(weights, "the embedding of the pooled text", err);
    shape->pooled_width = dim[1];
    while (shape->block_count < BLOCKS_MAX &&
           weights_has(weights, "block.%d.image.q.weight", shape->block_count))
        shape->block_count++;
    if (shape->block_count < 1)
        return fail_missing(weights, "block 0", err);
    shape->has_qk_norm = weights_has(weights, "block.0.context.k_norm.weight");
    return true;
}

static void load(struct mmdit *mmdit, struct weight_loader *loader)
{
    const struct mmdit_shape *shape = &mmdit->shape;
    int64_t c = shape->width, in = shape->latent_channels;
    int64_t patch_width = in * shape->patch * shape->patch;

    weight_loader_table(loader, &mmdit->position_table, shape->position_side * shape->position_side,
                        c, "position_table");
    weight_loader_conv(loader, &mmdit->patch_embed, c, in, shape->patch, "patch_embed");
    weight_loader_linear(loader, &mmdit->timestep_in, c, TIMESTEP_WIDTH, true, "timestep_embed.in");
    weight_loader_linear(loader, &mmdit->timestep_out, c, c, true, "timestep_embed.out");
    weight_loader_linear(loader, &mmdit->pooled_in, c, shape->pooled_width, true,
                         "pooled_embed.in");
    weight_loader_linear(loader, &mmdit->pooled_out, c, c, true, "pooled_embed.out");
    weight_loader_linear(loader, &mmdit->context_embed, c, shape->context_width, true,
                         "context_embed");
    for (int i = 0; i < shape->block_count; i++)
        joint_block_load(&mmdit->blocks[i], loader, i, shape->block_count, c);
    weight_loader_linear(loader, &mmdit->final_shift, c, c, true, "final.shift");
    weight_loader_linear(loader, &mmdit->final_scale, c, c, true, "final.scale");
    weight_loader_linear(loader, &mmdit->final, patch_width, c, true, "final.linear");
}

/* A convolution whose stride is its kernel is a linear of patches: [C, 16, p, p] -> [C, 16 p p]. */
static void flatten_patch_embed(struct mmdit *mmdit)
{
    struct tensor *weight = &mmdit->patch_embed.weight;

    *weight =
        TENSOR_RESHAPE(weight, weight->dim[0], weight->dim[1] * weight->dim[2] * weight->dim[3]);
}

bool mmdit_create(struct mmdit **out, struct weights *weights, const struct backend_ops *ops,
                  struct error *err)
{
    struct mmdit *mmdit = calloc(1, sizeof *mmdit);
    struct weight_loader loader;

    if (!mmdit)
        return error_set(err, ERROR_NO_MEMORY, "transformer");
    mmdit->ops = ops;
    if (!read_shape(&mmdit->shape, weights, err))
        goto fail;
    mmdit->blocks = calloc((size_t)mmdit->shape.block_count, sizeof *mmdit->blocks);
    if (!mmdit->blocks) {
        error_set(err, ERROR_NO_MEMORY, "transformer");
        goto fail;
    }
    weight_loader_init(&loader, weights);
    load(mmdit, &loader);
    if (!weight_loader_finish(&loader, err))
        goto fail;
    flatten_patch_embed(mmdit);

    mmdit->shape.chunk_count = 2; /* the final layer's */
    for (int i = 0; i < mmdit->shape.block_count; i++) {
        mmdit->shape.chunk_count += joint_block_chunk_count(&mmdit->blocks[i]);
        mmdit->shape.self_attention_count += mmdit->blocks[i].image.has_self_attention;
    }
    *out = mmdit;
    return true;

fail:
    mmdit_destroy(mmdit);
    return false;
}

void mmdit_destroy(struct mmdit *mmdit)
{
    if (!mmdit)
        return;
    free(mmdit->blocks);
    free(mmdit);
}

bool mmdit_list_weights(const struct mmdit *mmdit, struct weight_list *list, struct error *err)
{
    const struct linear *first[] = {&mmdit->timestep_in,
                                    &mmdit->timestep_out,
                                    &mmdit->pooled_in,
                                    &mmdit->pooled_out,
                                    &mmdit->context_embed,
                                    &mmdit->patch_embed,
                                    NULL};
    const struct linear *last[] = {&mmdit->final_shift, &mmdit->final_scale, &mmdit->final, NULL};

    for (int i = 0; i < mmdit->shape.block_count; i++)
        if (!joint_block_list_weights(&mmdit->blocks[i], list, err) ||
            !weight_list_end_group(list, err))
            return false;
    for (int i = 0; i < mmdit->shape.block_count; i++)
        if (!joint_block_list_modulation(&mmdit->blocks[i], list, err) ||
            !weight_list_end_group(list, err))
            return false;
    return weight_list_add_each(list, first, err) && weight_list_add_each(list, last, err);
}

void mmdit_stream(struct mmdit *mmdit, struct streamed_weights *streamed)
{
    mmdit->streamed = streamed;
}

const struct mmdit_shape *mmdit_shape(const struct mmdit *mmdit)
{
    return &mmdit->shape;
}

static bool check_sides(const struct mmdit_shape *shape, int64_t height, int64_t width,
                        struct error *err)
{
    if (height >= shape->patch && width >= shape->patch && height % shape->patch == 0 &&
        width % shape->patch == 0 && height / shape->patch <= shape->position_side &&
        width / shape->patch <= shape->position_side)
        return true;
    return error_set(err, ERROR_BAD_REQUEST,
                     "latent of %lld x %lld: sides must be multiples of %lld up to %lld",
                     (long long)width, (long long)height, (long long)shape->patch,
                     (long long)(shape->patch * shape->position_side));
}

static bool place(struct mmdit_plan *plan, struct arena *kept, struct arena *scratch,
                  const struct mmdit_plan_options *options, struct error *err)
{
    const struct mmdit_shape *shape = &plan->mmdit->shape;
    enum dtype f = plan->ops->activation_dtype;
    int64_t c = shape->width, tokens = plan->grid_height * plan->grid_width;
    int64_t patch_width = shape->latent_channels * shape->patch * shape->patch;
    int64_t batch = options->batch, context_tokens = options->context_tokens;
    int64_t columns = shape->chunk_count * c, rows = options->rows_at_once;

    return TENSOR_ALLOC(&plan->modulation, kept, f, "modulation", err, options->row_count,
                        columns) &&
           TENSOR_ALLOC(&plan->context, kept, f, "context", err, batch, context_tokens, c) &&
           TENSOR_ALLOC(&plan->modulation_now, scratch, f, "modulation", err, batch, columns) &&
           TENSOR_ALLOC(&plan->cond, scratch, f, "conditioning", err, rows, c) &&
           TENSOR_ALLOC(&plan->pooled, scratch, f, "conditioning", err, rows, c) &&
           TENSOR_ALLOC(&plan->sines, scratch, f, "timesteps", err, rows, TIMESTEP_WIDTH) &&
           TENSOR_ALLOC(&plan->rows, scratch, DTYPE_I32, "rows", err, batch) &&
           TENSOR_ALLOC(&plan->patches, scratch, f, "patches", err, batch, tokens, patch_width) &&
           joint_block_plan_init(&plan->block_plan, plan->ops, scratch, batch, tokens,
                                 context_tokens, c, shape->self_attention_count > 0, err);
}

bool mmdit_plan_create(struct mmdit_plan **out, const struct mmdit *mmdit, struct arena *kept,
                       struct arena *scratch, const struct mmdit_plan_options *options,
                       struct error *err)
{
    struct mmdit_plan *plan;

    if (!check_sides(&mmdit->shape, options->height, options->width, err))
        return false;
    plan = calloc(1, sizeof *plan);
    if (!plan)
        return error_set(err, ERROR_NO_MEMORY, "transformer");
    plan->mmdit = mmdit;
    plan->ops = mmdit->ops;
    plan->grid_height = options->height / mmdit->shape.patch;
    plan->grid_width = options->width / mmdit->shape.patch;
    if (!place(plan, kept, scratch, options, err)) {
        mmdit_plan_destroy(plan);
        return error_in(err, "transformer");
    }
    *out = plan;
    return true;
}

void mmdit_plan_forget(struct mmdit_plan *plan)
{
    recordings_finish(&plan->recordings, plan->ops);
}

void mmdit_plan_destroy(struct mmdit_plan *plan)
{
    if (!plan)
        return;
    mmdit_plan_forget(plan);
    free(plan);
}

/* Where weights stream: the group that is used from here on, and the one after it. */
static void enter_group(const struct mmdit_plan *plan, struct stream *stream, int group, int next)
{
    struct streamed_weights *streamed = plan->mmdit->streamed;

    if (streamed)
        plan->ops->weights_enter(stream, streamed, (size_t)group, (size_t)next);
}

/* cond = timestep embedding + pooled text embedding, [R, C] (model.md, section 2.1) */
static void make_cond(struct mmdit_plan *plan, struct stream *stream, struct tensor *cond,
                      struct tensor *scratch, const struct tensor *table,
                      const struct tensor *timesteps, const struct tensor *pooled)
{
    const struct backend_ops *op = plan->ops;
    const struct mmdit *mmdit = plan->mmdit;
    struct tensor sines = tensor_slice(&plan->sines, 0, 0, timesteps->dim[0]);
    /* The first linear of both writes where modulation will stand later. */
    struct tensor hidden = tensor_slice(table, 1, 0, mmdit->shape.width);

    op->timestep_embedding(stream, &sines, timesteps);
    op->linear(stream, &hidden, &sines, &mmdit->timestep_in);
    op->silu(stream, &hidden, &hidden);
    op->linear(stream, cond, &hidden, &mmdit->timestep_out);

    op->linear(stream, &hidden, pooled, &mmdit->pooled_in);
    op->silu(stream, &hidden, &hidden);
    op->linear(stream, scratch, &hidden, &mmdit->pooled_out);
    op->add(stream, cond, cond, scratch);
}

void mmdit_modulate(struct mmdit_plan *plan, struct stream *stream, int64_t first_row,
                    const struct tensor *timesteps, const struct tensor *pooled)
{
    const struct backend_ops *op = plan->ops;
    const struct mmdit *mmdit = plan->mmdit;
    int64_t c = mmdit->shape.width, rows = timesteps->dim[0], column = 0;
    struct tensor cond = tensor_slice(&plan->cond, 0, 0, rows);
    struct tensor scratch = tensor_slice(&plan->pooled, 0, 0, rows);
    struct tensor table = tensor_slice(&plan->modulation, 0, first_row, rows);
    struct tensor shift, scale;

    make_cond(plan, stream, &cond, &scratch, &table, timesteps, pooled);
    op->silu(stream, &cond, &cond); /* every modulation takes silu(cond) */
    for (int i = 0; i < mmdit->shape.block_count; i++) {
        int64_t columns = joint_block_chunk_count(&mmdit->blocks[i]) * c;
        struct tensor out = tensor_slice(&table, 1, column, columns);
        bool is_last = i + 1 == mmdit->shape.block_count;

        enter_group(plan, stream, mmdit->shape.block_count + i,
                    is_last ? 0 : mmdit->shape.block_count + i + 1);
        joint_block_modulate(&mmdit->blocks[i], op, stream, &out, &cond);
        column += columns;
    }
    shift = tensor_slice(&table, 1, column, c);
    scale = tensor_slice(&table, 1, column + c, c);
    op->linear(stream, &shift, &cond, &mmdit->final_shift);
    op->linear(stream, &scale, &cond, &mmdit->final_scale);
}

void mmdit_set_context(struct mmdit_plan *plan, struct stream *stream, int64_t first_sample,
                       const struct tensor *context)
{
    struct tensor embedded = tensor_slice(&plan->context, 0, first_sample, context->dim[0]);

    plan->ops->linear(stream, &embedded, context, &plan->mmdit->context_embed);
}

void mmdit_copy_context(struct mmdit_plan *plan, struct stream *stream, int64_t to, int64_t from,
                        int64_t count)
{
    struct tensor target = tensor_slice(&plan->context, 0, to, count);
    struct tensor source = tensor_slice(&plan->context, 0, from, count);

    plan->ops->copy(stream, &target, &source);
}

void mmdit_observe(struct mmdit_plan *plan, mmdit_observer observer, void *context)
{
    plan->observer = observer;
    plan->observer_context = context;
}

static bool contains(const int *list, int count, int value)
{
    for (int i = 0; i < count; i++)
        if (list[i] == value)
            return true;
    return false;
}

/* The plan's tensors for the first `count` samples. */
struct part {
    struct joint_block_plan blocks;
    struct tensor patches, rows, modulation;
};

static struct part part_of(const struct mmdit_plan *plan, int64_t count)
{
    return (struct part){
        .blocks = joint_block_plan_part(&plan->block_plan, count),
        .patches = tensor_slice(&plan->patches, 0, 0, count),
        .rows = tensor_slice(&plan->rows, 0, 0, count),
        .modulation = tensor_slice(&plan->modulation_now, 0, 0, count),
    };
}

/* The next block that is not left out, at or after `block`; the first one after the last. The step
 * after this one begins there. */
static int next_block(const struct mmdit_plan *plan, const struct mmdit_evaluation *evaluation,
                      int block)
{
    int count = plan->mmdit->shape.block_count;

    for (int i = 0; i < count; i++)
        if (!contains(evaluation->skips, evaluation->skip_count, (block + i) % count))
            return (block + i) % count;
    return 0;
}

static void run_blocks(struct mmdit_plan *plan, struct stream *stream, struct part *part,
                       const struct mmdit_evaluation *evaluation)
{
    const struct mmdit *mmdit = plan->mmdit;
    int64_t column = 0;

    for (int i = 0; i < mmdit->shape.block_count; i++) {
        const struct joint_block *block = &mmdit->blocks[i];
        int64_t columns = joint_block_chunk_count(block) * mmdit->shape.width;
        struct tensor modulation = tensor_slice(&part->modulation, 1, column, columns);

        column += columns;
        if (contains(evaluation->skips, evaluation->skip_count, i))
            continue;
        enter_group(plan, stream, i, next_block(plan, evaluation, i + 1));
        joint_block_run(block, &part->blocks, stream, &modulation);
        if (plan->observer) {
            op_join(plan->ops, stream);
            plan->observer(plan->observer_context, i, &part->blocks.image, &part->blocks.context);
        }
    }
    op_join(plan->ops, stream);
}

/* Modulated norm, the last linear, and patches back into a latent. */
static void run_final_layer(struct mmdit_plan *plan, struct stream *stream, struct part *part,
                            struct tensor *velocity)
{
    const struct backend_ops *op = plan->ops;
    const struct mmdit *mmdit = plan->mmdit;
    int64_t c = mmdit->shape.width, column = (mmdit->shape.chunk_count - 2) * c;
    struct tensor shift = tensor_slice(&part->modulation, 1, column, c);
    struct tensor scale = tensor_slice(&part->modulation, 1, column + c, c);
    struct tensor *image = &part->blocks.image;

    op->modulated_norm(stream, image, image, &shift, &scale, NORM_EPSILON);
    op->linear(stream, &part->patches, image, &mmdit->final);
    op->unpatchify(stream, velocity, &part->patches, (int)mmdit->shape.patch);
}

/* The arguments of mmdit_run. */
struct call {
    struct mmdit_plan *plan;
    struct stream *stream;
    struct tensor *velocity;
    const struct tensor *latent;
    const struct mmdit_evaluation *evaluation;
};

/* Everything but the rows' numbers, which are the only thing that steps change. */
static void enqueue(void *call_context)
{
    const struct call *call = call_context;
    struct mmdit_plan *plan = call->plan;
    struct stream *stream = call->stream;
    const struct backend_ops *op = plan->ops;
    const struct mmdit *mmdit = plan->mmdit;
    int64_t count = call->latent->dim[0];
    struct part part = part_of(plan, count);
    struct tensor context = tensor_slice(&plan->context, 0, call->evaluation->first_sample, count);
    struct tensor *image = &part.blocks.image;

    op->embedding_rows(stream, &part.modulation, &plan->modulation, &part.rows);

    op->patchify(stream, &part.patches, call->latent, (int)mmdit->shape.patch);
    op->linear(stream, image, &part.patches, &mmdit->patch_embed);
    op->position_embedding(stream, image, image, &mmdit->position_table, plan->grid_height,
                           plan->grid_width);
    op->copy(stream, &part.blocks.context, &context);

    run_blocks(plan, stream, &part, call->evaluation);
    run_final_layer(plan, stream, &part, call->velocity);
}

static struct recording_key key_of(const struct tensor *velocity, const struct tensor *latent,
                                   const struct mmdit_evaluation *evaluation)
{
    struct recording_key key;

    memset(&key, 0, sizeof key); /* keys are compared as bytes */
    key.velocity = velocity->data;
    key.latent = latent->data;
    key.count = latent->dim[0];
    key.first_sample = evaluation->first_sample;
    for (int i = 0; i < evaluation->skip_count; i++)
        key.skips[evaluation->skips[i] / 64] |= UINT64_C(1) << evaluation->skips[i] % 64;
    return key;
}

void mmdit_run(struct mmdit_plan *plan, struct stream *stream, struct tensor *velocity,
               const struct tensor *latent, const struct mmdit_evaluation *evaluation)
{
    struct call call = {plan, stream, velocity, latent, evaluation};
    struct recording_key key = key_of(velocity, latent, evaluation);
    struct tensor rows = tensor_slice(&plan->rows, 0, 0, latent->dim[0]);
    struct tensor host_rows =
        TENSOR_OF((void *)(uintptr_t)evaluation->rows, DTYPE_I32, latent->dim[0]);

    plan->ops->upload(stream, &rows, &host_rows);
    if (plan->observer) /* sees every block, so none is replayed */
        enqueue(&call);
    else
        recordings_run(&plan->recordings, plan->ops, stream, &key, sizeof key, enqueue, &call);
}

enum dtype mmdit_weight_dtype(const struct mmdit *mmdit)
{
    return linear_held_dtype(&mmdit->blocks[0].image.mlp_in);
}
