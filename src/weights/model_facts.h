/* What a network needs to know about itself and tensors cannot tell: widths of heads and groups,
 * activations, epsilons, what the VAE's latents are scaled by. A diffusers folder keeps it in
 * config.json files; files that stand alone can carry it as JSON text in their metadata:
 *
 *   {"name": "stable-diffusion-3.5-large-turbo", "flow_shift": 3.0,
 *    "configs": {"transformer": {...}, "vae": {...}, "text_encoder": {...}, ...}}
 *
 * Everything in it is optional. `name` is what the model was called before it was converted.
 */
#ifndef WEIGHTS_MODEL_FACTS_H
#define WEIGHTS_MODEL_FACTS_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"
#include "weights/safetensors.h"

#define MODEL_FACTS_KEY "sd35.facts"

/* The facts of the first of these files that has any; *out is NULL when none has. Fails when they
 * are not as above. Free with json_decref. */
MUST_CHECK bool model_facts_read(json_t **out, struct safetensors_file *const *files, size_t count,
                                 struct error *err);

/* The configuration under this name; NULL: none. A new reference. */
json_t *model_facts_config(const json_t *facts, const char *name);

#endif
