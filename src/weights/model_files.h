/* Model files: what lies at the paths that a user gave, sorted into components.
 *
 * Four kinds of source, told apart by content, never by file name (architecture.md, section 6):
 * a diffusers folder; a single file in the original layout (transformer, VAE, perhaps text encoders
 * under prefixes); separate files for text encoders or the VAE; and FP8 files as ComfyUI writes
 * them. Everything in them is hostile until checked. Only headers are read here: a model of any
 * size opens in milliseconds.
 */
#ifndef WEIGHTS_MODEL_FILES_H
#define WEIGHTS_MODEL_FILES_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "weights/weights.h"

/* Where to look. Each may be NULL. The separate files win over what `model` contains. */
struct model_paths {
    const char *model;      /* diffusers folder or safetensors file; required */
    const char *vae;        /* safetensors file */
    const char *clip_l;     /* safetensors file */
    const char *clip_g;     /* safetensors file */
    const char *t5;         /* safetensors file, or a sharded index .json */
    const char *tokenizers; /* folder with tokenizer, tokenizer_2, tokenizer_3; default: beside */
    const char *name;       /* what to call the model; NULL: model_files_name of `model` */
};

struct model_files {
    char *name;                                 /* what the model is called */
    struct weights *component[COMPONENT_COUNT]; /* NULL: not there; owned */
    char *tokenizer_directory[COMPONENT_COUNT]; /* for the text encoders; NULL: not there */
    double flow_shift;                          /* from the scheduler's configuration; else 3 */
    bool is_turbo; /* "turbo" stands in its name, or in that of what it was converted from: tensors
                      cannot tell */
};

/* Where a diffusers folder keeps a component. */
struct model_place {
    const char *folder;
    const char *file;      /* name of the weights without variant and extension */
    const char *tokenizer; /* NULL: none */
};
const struct model_place *model_files_place(enum component component);

/* The last part of a model's path without extension; of a snapshot in Hugging Face's cache, whose
 * last part is a hash, the name of its repository. The caller frees it; NULL when memory is short.
 */
char *model_files_name(const char *path);

/* Fails with ERROR_BAD_FILE (naming file, tensor and cause), ERROR_IO, or ERROR_BAD_REQUEST when
 * nothing is there. A missing component is no failure here: whoever needs it says so. Free with
 * model_files_close. */
MUST_CHECK bool model_files_open(struct model_files **out, const struct model_paths *paths,
                                 struct error *err);
void model_files_close(struct model_files *files); /* NULL is fine */

#endif
