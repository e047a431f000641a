/* Which linear layers stay in 16 bits when nothing was measured.
 *
 * Layers are called by component and canonical name: "transformer.block.0.image.q",
 * "clip_g.text_projection". The rule keeps what every picture passes through once, and the most
 * sensitive layers of the first and the last block: with the position table they are 4 % of Large,
 * which leaves its file at 52 % of the size in 16 bits.
 */
#ifndef WEIGHTS_KEEP_RULE_H
#define WEIGHTS_KEEP_RULE_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "weights/weights.h"

#define LAYER_NAME_BYTES 128

/* "transformer", "vae", "clip_l", ... */
const char *keep_rule_component(enum component component);

/* Why the layer stays in 16 bits, in a few words that live forever; NULL: it becomes FP8. `name` is
 * canonical, without ".weight"; the transformer has `block_count` blocks. */
const char *keep_rule_reason(enum component component, const char *name, int block_count);

/* True when one of the patterns, separated by commas, is the layer's full name, a beginning of it
 * that ends before a dot ("clip_g", "transformer.block.0"), or matches it as a shell would
 * ("*.mlp_out"). `patterns` may be NULL. */
bool keep_rule_matches(const char *patterns, const char *layer);

#endif
