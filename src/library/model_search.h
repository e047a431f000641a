/* Model search: which model is meant, by a path, by a name, or by nothing at all.
 *
 * A name stands for what lies under it in the folder of models, for a repository of Hugging Face's
 * cache (hugging_face_cache.h), whole ("stabilityai/stable-diffusion-3.5-medium") or its last part,
 * or for a model that was installed with the program ("demo"). Without a name it is the one model
 * of the first of these places that has any. Nothing is ever downloaded, and nothing is written.
 */
#ifndef LIBRARY_MODEL_SEARCH_H
#define LIBRARY_MODEL_SEARCH_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"

enum model_origin {
    MODEL_AT_PATH,       /* named by a path, and nobody has looked into it yet */
    MODEL_IN_MODELS_DIR, /* the folder of models, or what lies in it */
    MODEL_IN_CACHE,
    MODEL_BUILT_IN, /* installed with the program */
};
const char *model_origin_name(enum model_origin origin); /* "path", "models folder", ... */

struct found_model {
    char *path; /* diffusers folder or file */
    char *name; /* what to call it: never a hash */
    enum model_origin origin;
};

/* `wanted` and `models_dir` may be NULL. Fails with ERROR_BAD_REQUEST when there is nothing or more
 * than one to choose from, and with ERROR_BAD_FILE when there is something that is no whole model;
 * the message names it, and what to do. Free with found_model_finish. */
MUST_CHECK bool model_search(struct found_model *out, const char *wanted, const char *models_dir,
                             struct error *err);
void found_model_finish(struct found_model *model);

#endif
