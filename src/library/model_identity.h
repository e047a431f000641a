/* Model identity: which files a model is made of and what they were like, cheaply told, so that a
 * copy can be told from one of something else. Their paths are no part of it: a folder of models
 * may be mounted anywhere.
 *
 *   {"version": 1, "files": {"transformer/diffusion_pytorch_model.safetensors":
 *                                {"bytes": N, "changed": nanoseconds since 1970}, ...}}
 */
#ifndef LIBRARY_MODEL_IDENTITY_H
#define LIBRARY_MODEL_IDENTITY_H

#include <stdbool.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"
#include "weights/model_files.h"

/* `model` is the path that `files` were opened from. Free with json_decref. */
MUST_CHECK bool model_identity(json_t **out, const struct model_files *files, const char *model,
                               struct error *err);

#endif
