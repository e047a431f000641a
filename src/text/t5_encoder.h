/* T5 v1.1 encoder: tokens to hidden states.
 *
 * Raffel et al. 2020 (arXiv:1910.10683) with the gated MLP of Shazeer 2020 (arXiv:2002.05202). No
 * biases, no scaling of the attention's products, positions only through one bias shared by all
 * layers. Padding takes part in attention, as in every reference for SD 3. Activations exceed the
 * range of f16. An encoder is never changed by use.
 */
#ifndef TEXT_T5_ENCODER_H
#define TEXT_T5_ENCODER_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "backend/weight_list.h"
#include "base/arena.h"
#include "base/error.h"
#include "weights/weights.h"

struct t5_encoder;
struct t5_plan;

/* Finds and checks the tensors. Borrows `weights` and `ops`. Free with t5_encoder_destroy. */
MUST_CHECK bool t5_encoder_create(struct t5_encoder **out, struct weights *weights,
                                  const struct backend_ops *ops, struct error *err);
void t5_encoder_destroy(struct t5_encoder *encoder); /* NULL is fine */

/* Appends every linear and table. Each layer is a group. */
MUST_CHECK bool t5_encoder_list_weights(const struct t5_encoder *encoder, struct weight_list *list,
                                        struct error *err);
/* Its groups visit the device from now on; NULL: they lie there. Borrowed. Plans forget what was
 * recorded before. */
void t5_encoder_stream(struct t5_encoder *encoder, struct streamed_weights *streamed);

int64_t t5_encoder_width(const struct t5_encoder *encoder);
int64_t t5_encoder_vocabulary(const struct t5_encoder *encoder);

/* Places every tensor that encoding `batch` prompts of `tokens` tokens needs. What devices record
 * of encoding stays in the plan: backend/recordings.h says until when. */
MUST_CHECK bool t5_plan_create(struct t5_plan **out, const struct t5_encoder *encoder,
                               struct arena *scratch, int64_t batch, int64_t tokens,
                               struct error *err);
void t5_plan_destroy(struct t5_plan *plan); /* NULL is fine */
/* Forgets what devices recorded: before the weights leave the device. */
void t5_plan_forget(struct t5_plan *plan);

/* ids [B, T] i32 -> hidden [B, T, C] f, after the final norm. Repeated with both in the same
 * places, it is replayed by devices. */
void t5_encode(struct t5_plan *plan, struct stream *stream, struct tensor *hidden,
               const struct tensor *ids);

#endif
