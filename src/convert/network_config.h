/* The configuration files of a diffusers folder, for models that come without: made from what the
 * tensors tell, and where they cannot from what all released models have.
 */
#ifndef CONVERT_NETWORK_CONFIG_H
#define CONVERT_NETWORK_CONFIG_H

#include <jansson.h>

#include "convert/model_tensors.h"
#include "weights/weights.h"

/* The component's config.json: what it was opened with, or one made for it. A new reference; NULL
 * when memory is short. */
json_t *network_config(const struct weights *weights, const struct model_tensors *tensors);

json_t *network_scheduler_config(double flow_shift);

/* model_index.json: `source`, which may be NULL, with every component and tokenizer entered as it
 * `has` it. */
json_t *network_model_index(const json_t *source, const bool has[COMPONENT_COUNT],
                            const bool has_tokenizer[COMPONENT_COUNT]);

#endif
