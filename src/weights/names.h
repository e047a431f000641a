/* What checkpoints call the tensors that model code asks for: the one place that knows.
 *
 * Canonical names are ours ("block.7.image.q.weight"). Each component is stored in one of two
 * layouts: transformer and VAE as the original files name them or as diffusers does, text encoders
 * as Hugging Face's transformers names them or (CLIP) as OpenCLIP does (model.md, sections 3.1 to
 * 3.4). A stored tensor may hold several canonical ones as equal groups of rows.
 */
#ifndef WEIGHTS_NAMES_H
#define WEIGHTS_NAMES_H

#include <stdbool.h>

#include "weights/safetensors.h"
#include "weights/weights.h"

enum names_layout {
    NAMES_ORIGINAL, /* text encoders: transformers' names */
    NAMES_OTHER,    /* diffusers, OpenCLIP */
    NAMES_LAYOUT_COUNT,
};

struct names {
    enum component component;
    enum names_layout layout;
    int up_levels; /* of the VAE decoder: the original layout counts them from the end */
};

struct names_target {
    char stored[SAFETENSORS_NAME_BYTES_MAX + 1];
    int part, parts;    /* rows [part / parts, (part + 1) / parts) of the stored tensor */
    bool is_matrix;     /* stored with dimensions of 1 around its two */
    bool is_transposed; /* [k, n] where we want [n, k] */
};

/* How a canonical name, suffix included, is stored. A name may have alternatives: they are number
 * 0, 1, ... in order of preference. False when there is no such alternative. */
bool names_resolve(struct names_target *out, const struct names *names, const char *canonical,
                   int alternative);

/* Finds out which layout the tensors are in, asking `has` about stored names. The result says how
 * many rows of the table were recognised: 0 means that this is no such component. */
int names_detect(struct names *out, enum component component,
                 bool (*has)(const void *context, const char *stored), const void *context);

/* Prefixes under which files that hold several components keep this one: the i-th, or NULL. The
 * bare form, without a prefix, is not among them. */
const char *names_prefix(enum component component, int i);

#endif
