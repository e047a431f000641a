/* Joint block: one MM-DiT layer. Text and image tokens attend to each other, each through its own
 * weights (Esser et al. 2024, arXiv:2403.03206, figure 2b).
 *
 * Two variations are read from the weights: q/k norm (SD 3.5), and a second attention among the
 * image tokens alone (MMDiT-X, SD 3.5 Medium). In the last block the context side ends at the
 * attention.
 */
#ifndef MODEL_JOINT_BLOCK_H
#define MODEL_JOINT_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "backend/weight_list.h"
#include "base/arena.h"
#include "base/error.h"
#include "weights/weights.h"

#define HEAD_WIDTH 64 /* in every released SD 3 model */

/* The linears around one attention. */
struct attention_weights {
    struct linear qkv[3], proj;   /* [C, C]; proj has no data on the last context side */
    bool has_norm;                /* RMS norm of q and k, per head */
    struct tensor q_norm, k_norm; /* [64] */
};

struct block_side {
    /* [n C, C], n chunks in the order of enum modulation_chunk. In the last block's context side
     * `modulation` has no data, and shift and scale [C, C] stand alone. */
    struct linear modulation, shift, scale;
    int chunk_count;
    struct attention_weights attention;
    bool has_self_attention;
    struct attention_weights self_attention; /* image side of MMDiT-X */
    struct linear mlp_in, mlp_out; /* [4C, C], [C, 4C]; no data on the last context side */
};

/* The chunks of a side's modulation, in the checkpoint's order. The last context side has the first
 * two only. */
enum modulation_chunk {
    SHIFT_ATTENTION,
    SCALE_ATTENTION,
    GATE_ATTENTION,
    SHIFT_MLP,
    SCALE_MLP,
    GATE_MLP,
    SHIFT_SELF,
    SCALE_SELF,
    GATE_SELF,
};

struct joint_block {
    struct block_side image, context;
    int64_t width;
    bool is_last;
    /* No product of a normed query and a normed key, scaled, is larger; 0 without norms. */
    float joint_score_limit, self_score_limit;
};

/* Appends the linears of joint_block_run, those together that are used together, or those of
 * joint_block_modulate. */
MUST_CHECK bool joint_block_list_weights(const struct joint_block *block, struct weight_list *list,
                                         struct error *err);
MUST_CHECK bool joint_block_list_modulation(const struct joint_block *block,
                                            struct weight_list *list, struct error *err);

/* Asks the loader for block `index` of `count`; problems stay with the loader. */
void joint_block_load(struct joint_block *block, struct weight_loader *loader, int index, int count,
                      int64_t width);

/* Chunks of both sides together. */
int joint_block_chunk_count(const struct joint_block *block);

/* What blocks work on: one for all blocks of a plan. */
struct joint_block_plan {
    const struct backend_ops *ops;
    int64_t batch, image_tokens, context_tokens, width;
    struct tensor image;   /* [B, Ti, C]: the residual streams */
    struct tensor context; /* [B, Tc, C] */

    /* What linears take, in f or, over the same memory, in 8 bits with factors of its rows. */
    struct tensor image_normed, context_normed;           /* [B, T, C] */
    struct tensor self_normed;                            /* [B, Ti, C]; rank 0 without MMDiT-X */
    struct tensor image_scale, context_scale, self_scale; /* [B, T] f32 */
    struct tensor image_hidden_scale, context_hidden_scale;

    struct tensor qkv; /* [B, Tc + Ti, 3C]: context tokens first */
    /* [B, T, 4C]; the image's lies over its part of qkv, which the attention is through with */
    struct tensor image_hidden, context_hidden;

    struct tensor attended; /* [B, Tc + Ti, C] */
};

MUST_CHECK bool joint_block_plan_init(struct joint_block_plan *plan, const struct backend_ops *ops,
                                      struct arena *scratch, int64_t batch, int64_t image_tokens,
                                      int64_t context_tokens, int64_t width,
                                      bool with_self_attention, struct error *err);

/* The plan for the first `batch` samples only: a view. */
struct joint_block_plan joint_block_plan_part(const struct joint_block_plan *plan, int64_t batch);

/* out [R, joint_block_chunk_count * C]: the modulation of every row of cond_silu [R, C] f, which is
 * silu(cond): image side first. */
void joint_block_modulate(const struct joint_block *block, const struct backend_ops *op,
                          struct stream *stream, struct tensor *out,
                          const struct tensor *cond_silu);

/* Moves plan->image and plan->context through the block. modulation [B, chunks * C] f: this block's
 * rows for the samples of the batch, as joint_block_modulate leaves them. The two sides are branches
 * of the stream that only an attention joins: before anything but a block looks at the context, the
 * caller does. */
void joint_block_run(const struct joint_block *block, struct joint_block_plan *plan,
                     struct stream *stream, const struct tensor *modulation);

#endif
