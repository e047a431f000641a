/* quantization.json: what a conversion did to each linear layer, and why.
 *
 *   {"version": 1, "made_by": "sd35 0.1.0", "format": "f8_e4m3", "layout": "diffusers",
 *    "factors": "row", "rule": "default",
 *    "source": [{"file": "transformer/x.safetensors", "sha256": "..."}],
 *    "bytes": {"source": N, "converted": N},
 *    "components": {"transformer": {"source": N, "converted": N}, ...},
 *    "layers": [{"layer": "transformer.block.0.image.q", "tensor": "transformer_blocks.0...",
 *                "rows": N, "columns": N, "type": "f8_e4m3", "kept": false, "reason": null,
 *                "error_alone": 0.0259}, ...],
 *    "left_out": ["tensors of the source that no network reads"]}
 *
 * error_alone is ||stored - w|| / ||w|| of the weight when it is FP8, told for kept layers too.
 * "rule" is "calibrated" when a measurement chose the layers; then layers have what was measured of
 * them, and the record has "calibration" (calibrate/calibration_record.h).
 */
#ifndef CONVERT_QUANTIZATION_RECORD_H
#define CONVERT_QUANTIZATION_RECORD_H

#include <jansson.h>

#include "convert/convert_plan.h"

#define QUANTIZATION_RECORD_FILE "quantization.json"

/* `source` is what goes under "source"; it is taken. NULL when memory is short. */
json_t *quantization_record(const struct convert_plan *plan, const struct convert_options *options,
                            json_t *source);

const char *quantization_layout_name(enum convert_layout layout);

#endif
