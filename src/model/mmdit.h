/* MM-DiT: the transformer that predicts the velocity (Esser et al. 2024, arXiv:2403.03206).
 *
 * MMDiT (SD3 Medium), MMDiT with q/k norm (SD3.5 Large and Turbo) and MMDiT-X (SD3.5 Medium) differ
 * in what their weights contain, and that is how they are told apart. A model is never changed by
 * use, so any number of plans may run at the same time.
 */
#ifndef MODEL_MMDIT_H
#define MODEL_MMDIT_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "backend/weight_list.h"
#include "base/arena.h"
#include "base/error.h"
#include "weights/weights.h"

struct mmdit;
struct mmdit_plan;

/* Finds and checks every tensor; the first five that are missing or misshapen are named. Borrows
 * `weights` and `ops`. Free with mmdit_destroy. */
MUST_CHECK bool mmdit_create(struct mmdit **out, struct weights *weights,
                             const struct backend_ops *ops, struct error *err);
void mmdit_destroy(struct mmdit *mmdit); /* NULL is fine */

struct mmdit_shape {
    int block_count;
    int self_attention_count; /* blocks with a second, image-only attention: MMDiT-X when > 0 */
    int64_t width;            /* C */
    int64_t context_width;    /* of the text tokens that it takes: 4096 */
    int64_t pooled_width;     /* of the pooled text: 2048 */
    int64_t latent_channels;  /* 16 */
    int64_t patch;            /* side of a patch in the latent: 2 */
    int64_t position_side;    /* of the position table: the most patches a side */
    int64_t chunk_count;      /* modulation vectors of one row, each C wide */
    bool has_qk_norm;
};
const struct mmdit_shape *mmdit_shape(const struct mmdit *mmdit);

/* Appends every linear of the transformer. Groups: each block, then the modulation of each block.
 */
MUST_CHECK bool mmdit_list_weights(const struct mmdit *mmdit, struct weight_list *list,
                                   struct error *err);
/* Its groups visit the device from now on; NULL: they lie there. Borrowed. Plans forget what was
 * recorded before. */
void mmdit_stream(struct mmdit *mmdit, struct streamed_weights *streamed);

/* What a plan is for: latents [batch, 16, height, width], sides multiples of the patch and at most
 * position_side patches. */
struct mmdit_plan_options {
    int64_t batch, height, width;
    int64_t context_tokens; /* of each sample's text */
    int64_t row_count;      /* modulation rows that are kept */
    int64_t rows_at_once;   /* the most that mmdit_modulate makes in one call */
};

/* Places every tensor. The plan lives in both arenas: what evaluations share (modulation, embedded
 * text) in `kept`, the rest in `scratch`, whose memory may serve others between evaluations. They
 * may be one arena. */
MUST_CHECK bool mmdit_plan_create(struct mmdit_plan **out, const struct mmdit *mmdit,
                                  struct arena *kept, struct arena *scratch,
                                  const struct mmdit_plan_options *options, struct error *err);
void mmdit_plan_destroy(struct mmdit_plan *plan); /* NULL is fine */
/* Forgets what devices recorded: before the weights leave the device. */
void mmdit_plan_forget(struct mmdit_plan *plan);

/* Computes rows [first_row, first_row + R) of the modulation of every block from (timestep, pooled
 * text), in one product a linear: it depends on nothing else, so rows are made for many steps
 * before the first of them (model.md, section 10.4).
 *   timesteps [R] f32, 1000 sigma; pooled [R, 2048] f; R up to the plan's rows_at_once */
void mmdit_modulate(struct mmdit_plan *plan, struct stream *stream, int64_t first_row,
                    const struct tensor *timesteps, const struct tensor *pooled);

/* Embeds the text of samples [first_sample, first_sample + B'), which no step changes:
 * context [B', Tc, 4096] f. */
void mmdit_set_context(struct mmdit_plan *plan, struct stream *stream, int64_t first_sample,
                       const struct tensor *context);
/* Samples [to, to + count) get the text of [from, from + count); the two do not overlap. */
void mmdit_copy_context(struct mmdit_plan *plan, struct stream *stream, int64_t to, int64_t from,
                        int64_t count);

/* Called after each block with the residual streams; for tests and for finer progress. */
typedef void (*mmdit_observer)(void *context, int block, const struct tensor *image_tokens,
                               const struct tensor *context_tokens);
void mmdit_observe(struct mmdit_plan *plan, mmdit_observer observer, void *context);

struct mmdit_evaluation {
    const int32_t *rows;  /* on the host, one a sample: its row of mmdit_modulate */
    int64_t first_sample; /* the samples' text is mmdit_set_context's of this one on */
    const int *skips;     /* blocks that are left out (skip-layer guidance) */
    int skip_count;
};

/* velocity = the network's prediction for latent, both [B', 16, H, W] f32, with B' up to the plan's
 * batch. */
void mmdit_run(struct mmdit_plan *plan, struct stream *stream, struct tensor *velocity,
               const struct tensor *latent, const struct mmdit_evaluation *evaluation);

/* The type that most of the transformer is stored in. */
enum dtype mmdit_weight_dtype(const struct mmdit *mmdit);

#endif
