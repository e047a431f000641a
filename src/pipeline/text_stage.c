/* Text: token ids to what the transformer reads (model.md, section 4.3).
 *
 *   context  [CLIP-L | CLIP-G | zeros] for 77 tokens, then T5's tokens
 *   pooled   [CLIP-L | CLIP-G]
 *
 * Prompts are encoded one at a time, so that a prompt's embedding is the same whatever else is
 * asked for, and may be kept.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/composite.h"
#include "base/size.h"
#include "pipeline/pipeline_private.h"

bool text_stage_plan(struct text_stage *stage, const struct pipeline *pipeline,
                     const struct batch_shape *shape, struct arena *work, struct error *err)
{
    const struct mmdit_shape *network = mmdit_shape(pipeline->mmdit);
    enum dtype f = pipeline->backend->ops.activation_dtype;

    *stage = (struct text_stage){0};
    for (int i = 0; i < CLIP_COUNT; i++)
        if (!TENSOR_ALLOC(&stage->clip_ids[i], work, DTYPE_I32, "tokens", err, 1, CLIP_TOKENS))
            return false;
    if (!TENSOR_ALLOC(&stage->t5_ids, work, DTYPE_I32, "tokens", err, 1, shape->t5_tokens) ||
        !TENSOR_ALLOC(&stage->context, work, f, "context", err, 1, CLIP_TOKENS + shape->t5_tokens,
                      network->context_width) ||
        !TENSOR_ALLOC(&stage->pooled, work, f, "pooled text", err, 1, network->pooled_width))
        return false;
    for (int i = 0; i < CLIP_COUNT; i++)
        if (!clip_plan_create(&stage->clip[i], pipeline->clip[i], work, 1, err))
            return false;
    return !pipeline->t5 ||
           t5_plan_create(&stage->t5, pipeline->t5, work, 1, shape->t5_tokens, err);
}

void text_stage_finish(struct text_stage *stage)
{
    for (int i = 0; i < CLIP_COUNT; i++)
        clip_plan_destroy(stage->clip[i]);
    t5_plan_destroy(stage->t5);
}

/* Where the first end token stands; a cut prompt ends with it, so there is one. */
static int64_t end_of(const int32_t *ids, int32_t end)
{
    for (int64_t i = 0; i < CLIP_TOKENS; i++)
        if (ids[i] == end)
            return i;
    return CLIP_TOKENS - 1;
}

static void upload_ids(struct pipeline *pipeline, struct tensor *out, const int32_t *ids)
{
    struct tensor host = TENSOR_OF((void *)(uintptr_t)ids, DTYPE_I32, 1, out->dim[1]);

    pipeline->backend->ops.upload(pipeline->stream, out, &host);
}

static void upload_tokens(struct text_stage *stage, struct pipeline *pipeline,
                          const struct prompt_tokens *tokens)
{
    for (int i = 0; i < CLIP_COUNT; i++)
        upload_ids(pipeline, &stage->clip_ids[i], tokens->clip[i]);
    if (pipeline->t5)
        upload_ids(pipeline, &stage->t5_ids, tokens->t5);
}

static void encode_clip(struct text_stage *stage, struct pipeline *pipeline,
                        const struct prompt_tokens *tokens, enum clip_index which)
{
    const struct clip_encoder *encoder = pipeline->clip[which];
    const int32_t *ids = tokens->clip[which];
    int64_t end = end_of(ids, clip_tokenizer_eos(pipeline->clip_tokenizer[which]));
    int64_t column = 0, pooled_column = 0;
    struct tensor rows = tensor_slice(&stage->context, 1, 0, CLIP_TOKENS);
    struct tensor hidden, pooled;

    for (int i = 0; i < (int)which; i++) {
        column += clip_encoder_width(pipeline->clip[i]);
        pooled_column += clip_encoder_pooled_width(pipeline->clip[i]);
    }
    hidden = tensor_slice(&rows, 2, column, clip_encoder_width(encoder));
    pooled = tensor_slice(&stage->pooled, 1, pooled_column, clip_encoder_pooled_width(encoder));
    clip_encode(stage->clip[which], pipeline->stream, &hidden, &pooled, &stage->clip_ids[which],
                &end);
}

static void encode_t5(struct text_stage *stage, struct pipeline *pipeline,
                      const struct prompt_tokens *tokens)
{
    struct tensor hidden = tensor_slice(&stage->context, 1, CLIP_TOKENS, tokens->t5_count);

    t5_encode(stage->t5, pipeline->stream, &hidden, &stage->t5_ids);
}

/* None of them fills a GPU. Both CLIP encoders go beside T5, and without T5 beside each other;
 * CLIP-G begins before CLIP-L, which has less to do. Where T5's weights come from the host, their
 * way is what takes time, and all go on one branch. */
static void encode(struct text_stage *stage, struct pipeline *pipeline,
                   const struct prompt_tokens *tokens)
{
    const struct backend_ops *ops = &pipeline->backend->ops;
    int beside = pipeline->streamed[COMPONENT_T5] ? 0 : 1;

    op_branch(ops, pipeline->stream, beside); /* from here: it does not wait for what comes */
    op_branch(ops, pipeline->stream, 0);
    if (pipeline->t5) {
        encode_t5(stage, pipeline, tokens);
        op_branch(ops, pipeline->stream, beside);
    }
    encode_clip(stage, pipeline, tokens, CLIP_G);
    op_branch(ops, pipeline->stream, beside);
    encode_clip(stage, pipeline, tokens, CLIP_L);
    op_join(ops, pipeline->stream);
}

static struct embedding *fetch(const struct text_stage *stage, struct pipeline *pipeline)
{
    const struct backend_ops *ops = &pipeline->backend->ops;
    size_t context = tensor_bytes(&stage->context), pooled = tensor_bytes(&stage->pooled);
    size_t first = size_round_up(context, ARENA_ALIGN);
    struct embedding *embedding = malloc(sizeof *embedding + first + pooled);

    if (!embedding)
        return NULL;
    *embedding = (struct embedding){.context = stage->context, .pooled = stage->pooled, .users = 1};
    embedding->context.data = embedding->memory;
    embedding->pooled.data = embedding->memory + first;
    /* The host's pages are taken while the device is still at work; a download waits for them. */
    memset(embedding->memory, 0, first + pooled);
    ops->download(pipeline->stream, &embedding->context, &stage->context);
    ops->download(pipeline->stream, &embedding->pooled, &stage->pooled);
    return embedding;
}

bool text_stage_run(struct text_stage *stage, struct pipeline *pipeline,
                    const struct prompt_tokens *tokens, struct embedding **out, struct error *err)
{
    const struct backend_ops *ops = &pipeline->backend->ops;
    struct embedding *embedding;

    ops->fill(pipeline->stream, &stage->context, 0.0f);
    upload_tokens(stage, pipeline, tokens);
    encode(stage, pipeline, tokens);
    embedding = fetch(stage, pipeline);
    if (!ops->stream_finish(pipeline->stream, err)) {
        embedding_release(embedding);
        return error_in(err, "text encoders");
    }
    if (!embedding)
        return error_set(err, ERROR_NO_MEMORY, "prompt");
    *out = embedding;
    return true;
}
