/* Text: token ids to what the transformer reads (model.md, section 4.3).
 *
 *   context  [CLIP-L | CLIP-G | zeros] for 77 tokens, then T5's tokens
 *   pooled   [CLIP-L | CLIP-G]
 */
#include "pipeline/pipeline_private.h"

bool text_stage_plan(struct text_stage *stage, struct run *run, struct arena *work,
                     struct error *err)
{
    struct pipeline *pipeline = run->pipeline;
    int64_t t5_tokens = run->request->t5_tokens;
    size_t most = 0, mark;

    *stage = (struct text_stage){0};
    for (int i = 0; i < CLIP_COUNT; i++)
        if (!TENSOR_ALLOC(&stage->clip_ids[i], work, DTYPE_I32, "tokens", err, run->conds,
                          CLIP_TOKENS))
            return false;
    if (!TENSOR_ALLOC(&stage->t5_ids, work, DTYPE_I32, "tokens", err, run->conds, t5_tokens))
        return false;
    /* The encoders run one after the other and share their memory. */
    mark = arena_mark(work);
    for (int i = 0; i < CLIP_COUNT; i++) {
        if (!clip_plan_create(&stage->clip[i], pipeline->clip[i], work, run->conds, err))
            return false;
        most = work->used > most ? work->used : most;
        arena_release(work, mark);
    }
    if (pipeline->t5 && !t5_plan_create(&stage->t5, pipeline->t5, work, run->conds, t5_tokens, err))
        return false;
    if (work->used < most)
        work->used = most;
    return true;
}

void text_stage_finish(struct text_stage *stage)
{
    for (int i = 0; i < CLIP_COUNT; i++)
        clip_plan_destroy(stage->clip[i]);
    t5_plan_destroy(stage->t5);
}

static void encode_clip(struct text_stage *stage, struct run *run, int which, int64_t column,
                        int64_t pooled_column)
{
    const struct clip_encoder *encoder = run->pipeline->clip[which];
    struct tensor rows = tensor_slice(&run->context, 1, 0, CLIP_TOKENS);
    struct tensor hidden = tensor_slice(&rows, 2, column, clip_encoder_width(encoder));
    struct tensor pooled =
        tensor_slice(&run->pooled, 1, pooled_column, clip_encoder_pooled_width(encoder));
    struct tensor ids = TENSOR_OF(run->tokens.clip[which], DTYPE_I32, run->conds, CLIP_TOKENS);

    run->ops->upload(run->stream, &stage->clip_ids[which], &ids);
    clip_encode(stage->clip[which], run->stream, &hidden, &pooled, &stage->clip_ids[which],
                run->tokens.clip_eos[which]);
}

static void encode_t5(struct text_stage *stage, struct run *run)
{
    struct tensor hidden = tensor_slice(&run->context, 1, CLIP_TOKENS, run->request->t5_tokens);

    for (int64_t cond = 0; cond < run->conds; cond++) {
        struct tensor host = TENSOR_OF(run->tokens.t5[cond], DTYPE_I32, 1, run->request->t5_tokens);
        struct tensor ids = tensor_slice(&stage->t5_ids, 0, cond, 1);

        run->ops->upload(run->stream, &ids, &host);
    }
    t5_encode(stage->t5, run->stream, &hidden, &stage->t5_ids);
}

bool text_stage_run(struct text_stage *stage, struct run *run, struct error *err)
{
    struct pipeline *pipeline = run->pipeline;
    int64_t column = 0, pooled_column = 0;
    int steps = CLIP_COUNT + (pipeline->t5 != NULL), done = 0;

    run_begin_phase(run, PHASE_ENCODE, steps);
    run->ops->fill(run->stream, &run->context, 0.0f);
    for (int i = 0; i < CLIP_COUNT; i++) {
        encode_clip(stage, run, i, column, pooled_column);
        column += clip_encoder_width(pipeline->clip[i]);
        pooled_column += clip_encoder_pooled_width(pipeline->clip[i]);
        if (!run->ops->stream_finish(run->stream, err))
            return error_in(err, "text encoders");
        run_report(run, PHASE_ENCODE, ++done, steps);
    }
    if (pipeline->t5) {
        encode_t5(stage, run);
        if (!run->ops->stream_finish(run->stream, err))
            return error_in(err, "text encoders");
        run_report(run, PHASE_ENCODE, ++done, steps);
    }
    return true;
}
