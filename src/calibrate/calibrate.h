/* Calibration: which layers of a model to keep in 16 bits, found by looking at its pictures.
 *
 * For each linear layer, and for each block, small pictures are drawn with nothing but that in FP8,
 * and compared with those of the 16-bit model (picture_error.h); then the layers that hurt most for
 * each byte are kept, as long as each component stays within the budget. At last whole pictures are
 * drawn with all that became FP8. On the way, what goes into each layer is recorded.
 *
 * The price: a whole picture for each layer would take days for a large model. So single layers are
 * judged by CALIBRATE_SCAN_PICTURES pictures of CALIBRATE_SCAN_STEPS steps at half the model's
 * side: every noise level counts, errors add up over the steps as they do in long runs, and the
 * ranking is all that is needed of the numbers. Weights are replaced in memory (layer_tap.h); no
 * file is written.
 */
#ifndef CALIBRATE_CALIBRATE_H
#define CALIBRATE_CALIBRATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"
#include "calibrate/layer_tap.h"
#include "calibrate/picture_error.h"
#include "convert/convert.h"
#include "image/image.h"
#include "weights/keep_rule.h"

#define CALIBRATE_SCAN_PICTURES 2
#define CALIBRATE_SCAN_STEPS 4
#define CALIBRATE_PAIRS 3 /* whole pictures with and without FP8 */
#define CALIBRATE_BUDGET_DEFAULT 3.0
#define CALIBRATE_BUDGET_MAX 100.0

struct calibrate_options {
    const struct convert_options
        *convert;        /* as it will be converted; its choice is not looked at */
    const char *prompts; /* a file (prompt_list.h); NULL or "": the set that ships */
    double budget;       /* percent above the size with every layer in FP8 */
};

struct calibrate_progress {
    int done, total; /* in small pictures; a whole one counts as several */
    double seconds;
};

struct calibrate_callbacks {
    void (*progress)(void *context, const struct calibrate_progress *now); /* may be NULL */
    void *context;
    const atomic_bool *cancel; /* NULL: cannot be cancelled */
};

struct layer_finding {
    char name[LAYER_NAME_BYTES];
    struct picture_error alone; /* all other layers in 16 bits */
    bool is_measured;           /* the VAE's are not */
    bool is_kept;
    bool has_activations; /* some prompt came through it */
    struct activation_summary activations;
    json_t *facts; /* for the record */
};

struct block_finding {
    char name[LAYER_NAME_BYTES];
    struct picture_error alone;
};

struct picture_pair {
    char *prompt;
    uint64_t seed;
    struct image before, after; /* 16 bits, FP8 */
    struct picture_error error;
};

struct calibration {
    double budget;
    int scan_side, scan_pictures, side, steps;
    struct layer_finding *layers; /* in the plan's order */
    size_t layer_count;
    struct block_finding *blocks;
    size_t block_count;
    struct picture_error scan_together; /* of the small pictures, with all that becomes FP8 */
    struct picture_pair pairs[CALIBRATE_PAIRS];
    int pair_count;
    double
        *step_error; /* [steps]: ||latent - latent'|| / ||latent|| after each step, mean of pairs */
    double seconds;
    json_t *facts; /* for the record */
};

/* Fails as drawing does, and with ERROR_BAD_REQUEST for prompts that cannot be read. Free with
 * calibration_destroy. */
MUST_CHECK bool calibrate_model(struct calibration **out, const struct calibrate_options *options,
                                const struct calibrate_callbacks *callbacks, struct error *err);
void calibration_destroy(struct calibration *calibration); /* NULL is fine */

/* For convert_options: decides as the calibration found. Borrows it. */
struct convert_choice calibration_choice(struct calibration *calibration);

/* Mean over the pairs. */
struct picture_error calibration_together(const struct calibration *calibration);

/* "transformer.block.3" for "transformer.block.3.image.q", "t5.layer.0" for "t5.layer.0.up",
 * "transformer" for "transformer.context_embed". */
void calibration_block_of(char block[LAYER_NAME_BYTES], const char *layer);

#endif
