/* Conversion of a model to FP8.
 *
 * Linear weights of the transformer and the text encoders become FP8 with factors; all else stays
 * in, or becomes, 16 bits (keep_rule.h says what and why). The source is only read. The target
 * appears under its name when it is complete, and nothing that looks like it does before.
 */
#ifndef CONVERT_CONVERT_H
#define CONVERT_CONVERT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"
#include "tensor/dtype.h"

enum convert_layout {
    CONVERT_DIFFUSERS, /* a folder; a factor for each row */
    CONVERT_SINGLE,    /* a file with the original names; the same factors */
    CONVERT_COMFYUI,   /* such a file as ComfyUI's scaled-FP8 loader takes it: a factor for each
                          tensor, and all of the transformer's and T5's linears in FP8, because that
                          loader makes them so with or without factors */
};

struct convert_plan;

/* What a measurement found, and decides instead of the fixed rule. */
struct convert_choice {
    bool (*keeps)(void *context, const char *layer);          /* in 16 bits */
    json_t *(*layer_facts)(void *context, const char *layer); /* for its entry of the record; an
                                                                 object of the caller's, or NULL */
    json_t *(*facts)(void *context); /* for the record as a whole; the same */
    void *context;
};

/* Makes report.html when all layers are converted: an owned text of *size bytes. */
struct convert_reporter {
    bool (*write)(void *context, char **out, size_t *size, const struct convert_plan *plan,
                  struct error *err);
    void *context;
};

struct convert_options {
    /* What to convert, as for drawing (weights/model_files.h); all but `model` may be NULL. */
    const char *model, *vae, *clip_l, *clip_g, *t5, *tokenizers;
    const char *output;
    enum convert_layout layout;
    enum dtype format;   /* DTYPE_F8_E4M3 or DTYPE_F8_E5M2 */
    const char *keep;    /* further layers to keep in 16 bits (keep_rule.h); NULL: none */
    bool replace;        /* a converted model that is there already */
    int threads;         /* 0: one for each CPU */
    size_t shard_bytes;  /* a folder's files are split at this size */
    size_t spare_bytes;  /* of the target's disk that stay free */
    const char *made_by; /* "sd35 0.1.0" */
    const struct convert_choice *choice;     /* NULL: the fixed rule; not for CONVERT_COMFYUI */
    const struct convert_reporter *reporter; /* NULL: no report */
    /* NULL, or what the caller wants to know of a folder again: its file CONVERT_ORIGIN_FILE. */
    const json_t *origin;
};

#define CONVERT_ORIGIN_FILE "origin.json"
#define CONVERT_SHARD_BYTES ((size_t)5000 * 1000 * 1000)

struct convert_progress {
    const char *phase; /* "convert", "hash", "check", ... */
    size_t done_bytes, total_bytes;
    double seconds; /* since the phase began */
};

struct convert_callbacks {
    void (*progress)(void *context, const struct convert_progress *now); /* may be NULL */
    void *context;
    const atomic_bool *cancel; /* NULL: cannot be cancelled */
};

struct convert_summary {
    size_t source_bytes, bytes; /* of tensors */
    size_t layers, layers_kept;
    double mean_error; /* of the layers that became FP8 */
    double seconds;
};

/* Finds what is wrong with source and target without writing anything. */
MUST_CHECK bool convert_check(const struct convert_options *options, struct error *err);

MUST_CHECK bool convert_model(const struct convert_options *options,
                              const struct convert_callbacks *callbacks,
                              struct convert_summary *summary, struct error *err);

#endif
