/* Kept FP8: the converted copy of a 16-bit model that a server makes on its first start and finds
 * on the next. It lies beside the model in the folder of models, MODELS_DIR/.sd35/NAME-fp8, where
 * that can be written, else in OUTPUTS/.sd35/models/NAME-fp8, and says which files it was made of:
 * where those have changed it is made again.
 *
 * Any number of processes may ask at a time: a lock lets one convert, and the others wait for it.
 */
#ifndef LIBRARY_KEPT_FP8_H
#define LIBRARY_KEPT_FP8_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "library/model_search.h"
#include "weights/model_files.h"

struct kept_fp8_options {
    const struct found_model *model;
    struct model_paths separate; /* files that take the place of the model's; `model` is not read */
    const char *models_dir;      /* NULL: none */
    const char *outputs_dir;
    size_t spare_bytes;  /* of a disk that stay free */
    int threads;         /* 0: one for each CPU */
    const char *made_by; /* "sd35 0.1.0" */
};

enum kept_fp8_stage {
    KEPT_FP8_WAITING,    /* for another process, which converts */
    KEPT_FP8_CONVERTING, /* this one does */
    KEPT_FP8_MADE,       /* it has */
    KEPT_FP8_FOUND,      /* there was one */
    KEPT_FP8_NOT_THERE,  /* this place cannot have it, for the reason in `text` */
};
struct kept_fp8_progress {
    enum kept_fp8_stage stage;
    const char *text; /* where the copy is or will be */
    double fraction;  /* 0 to 1 */
    double seconds;   /* since it began */
};

struct kept_fp8_callbacks {
    void (*tell)(void *context, const struct kept_fp8_progress *now); /* several times a second */
    void *context;
    const atomic_bool *stop; /* NULL: cannot be stopped */
};

/* *out: the path of the copy; NULL when the model needs none, because its weights are FP8. Fails
 * when no copy can be had, with ERROR_CANCELLED when it was stopped. The caller frees *out. */
MUST_CHECK bool kept_fp8_open(char **out, const struct kept_fp8_options *options,
                              const struct kept_fp8_callbacks *callbacks, struct error *err);

#endif
