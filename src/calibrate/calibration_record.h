/* What a calibration found, for quantization.json.
 *
 * A layer gets "ssim_alone" and "delta_e_alone", the pictures' with this layer alone in FP8, and
 *   "activations": {"largest": X, "channel_median": X, "channel_least": X, "static_scale": X,
 *                   "outlier_channels": N, "outliers": [k, ...]}
 * with the largest magnitude of all and of each input channel, the factor that E4M3 would have, and
 * the channels beyond 8 times the median, up to 16 of them by number.
 *
 * The record as a whole gets
 *   "calibration": {"budget_percent": X, "prompts": [...], "seconds": X,
 *     "scan": {"side": N, "steps": N, "pictures": N, "ssim_together": X, "delta_e_together": X},
 *     "together": {"side": N, "steps": N, "pictures": N, "ssim": X, "ssim_worst": X,
 *                  "delta_e": X, "step_error": [X, ...]},
 *     "blocks": [{"block": "transformer.block.0", "ssim_alone": X, "delta_e_alone": X}, ...],
 *     "key_means": [{"layer": "transformer.block.0.image.k", "mean": [[64 values], ...]}, ...]}
 * with the mean of each head's keys after their norm, of both sides where they share an attention.
 */
#ifndef CALIBRATE_CALIBRATION_RECORD_H
#define CALIBRATE_CALIBRATION_RECORD_H

#include "base/attributes.h"
#include "base/error.h"
#include "calibrate/calibrate.h"
#include "calibrate/prompt_list.h"

/* Fills the facts of the calibration and of its layers. */
MUST_CHECK bool calibration_record_make(struct calibration *calibration,
                                        const struct layer_tap *tap,
                                        const struct prompt_list *prompts, struct error *err);

#endif
