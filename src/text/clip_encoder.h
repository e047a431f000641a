/* CLIP text encoder: tokens to hidden states and a pooled vector.
 *
 * A causal pre-norm transformer (Radford et al. 2021, arXiv:2103.00020), as CLIP-L (OpenAI) and
 * CLIP-G (OpenCLIP) have it; the two differ in width and activation only. SD 3 takes the hidden
 * states before the last layer, and the pooled vector after it (Esser et al. 2024,
 * arXiv:2403.03206, appendix B.1). An encoder is never changed by use.
 */
#ifndef TEXT_CLIP_ENCODER_H
#define TEXT_CLIP_ENCODER_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "backend/weight_list.h"
#include "base/arena.h"
#include "base/error.h"
#include "text/clip_tokenizer.h"
#include "weights/weights.h"

struct clip_encoder;
struct clip_plan;

/* Finds and checks the tensors. Borrows `weights` and `ops`. Free with clip_encoder_destroy. */
MUST_CHECK bool clip_encoder_create(struct clip_encoder **out, struct weights *weights,
                                    const struct backend_ops *ops, struct error *err);
void clip_encoder_destroy(struct clip_encoder *encoder); /* NULL is fine */

/* Appends every linear and table. */
MUST_CHECK bool clip_encoder_list_weights(const struct clip_encoder *encoder,
                                          struct weight_list *list, struct error *err);

int64_t clip_encoder_width(const struct clip_encoder *encoder);
int64_t clip_encoder_pooled_width(const struct clip_encoder *encoder);
int64_t clip_encoder_vocabulary(const struct clip_encoder *encoder);

/* Places every tensor that encoding `batch` prompts needs. The plan lives in `scratch`. What
 * devices record of encoding stays in it: backend/recordings.h says until when. */
MUST_CHECK bool clip_plan_create(struct clip_plan **out, const struct clip_encoder *encoder,
                                 struct arena *scratch, int64_t batch, struct error *err);
void clip_plan_destroy(struct clip_plan *plan); /* NULL is fine */
/* Forgets what devices recorded: before the weights leave the device. */
void clip_plan_forget(struct clip_plan *plan);

/* ids [B, 77] i32; eos_positions[b]: where the first end token of prompt b stands, on the host
 *   -> hidden [B, 77, C] f, after the layer before the last, without final norm
 *   -> pooled [B, P] f, projected if the model has a projection
 * Repeated with ids and hidden in the same places, devices replay everything but the pooling. */
void clip_encode(struct clip_plan *plan, struct stream *stream, struct tensor *hidden,
                 struct tensor *pooled, const struct tensor *ids, const int64_t *eos_positions);

#endif
