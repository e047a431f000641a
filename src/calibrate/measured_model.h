/* A model opened to be measured: the plan of its conversion, a pipeline that draws with it, a tap
 * in between, and its linear weights in FP8 to put in place of its own.
 */
#ifndef CALIBRATE_MEASURED_MODEL_H
#define CALIBRATE_MEASURED_MODEL_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "calibrate/fp8_copy.h"
#include "calibrate/layer_tap.h"
#include "convert/convert.h"
#include "convert/convert_plan.h"
#include "image/image.h"
#include "pipeline/pipeline.h"
#include "weights/model_files.h"

struct measured_model {
    struct model_files *files;
    struct convert_plan *plan;
    struct pipeline *pipeline;
    struct layer_tap *tap;
    struct fp8_copy *copies; /* of the plan's layers; the VAE has none */
    const struct quantise_ops *ops;
};

/* What the pipeline draws from and what the plan is made of is `options`'s. Borrows what they point
 * to. Free with measured_model_close. */
MUST_CHECK bool measured_model_open(struct measured_model *model,
                                    const struct convert_options *options, struct error *err);
void measured_model_close(struct measured_model *model);

/* Makes the copies anew, of all layers but the VAE's. They take half the model's size. */
MUST_CHECK bool measured_model_quantise(struct measured_model *model, enum dtype format,
                                        enum fp8_recipe recipe, struct error *err);

/* Layer i computes with its copy, or with its own weights again. */
void measured_model_use(struct measured_model *model, size_t i, bool is_fp8);
void measured_model_use_all(struct measured_model *model, bool is_fp8); /* that have a copy */

/* As the GPU will: activations of the transformer's FP8 layers in FP8 too, but never what goes into
 * modulation. After measured_model_use. */
void measured_model_round_activations(struct measured_model *model, bool is_rounded);

/* One picture of the request. Free with image_finish. latents, NULL or room for the picture's
 * [16, h, w] as it leaves the last step. */
MUST_CHECK bool measured_model_draw(struct measured_model *model, struct image *out,
                                    const struct pipeline_request *request, float *latent,
                                    const atomic_bool *cancel, struct error *err);

#endif
