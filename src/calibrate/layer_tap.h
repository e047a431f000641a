/* A tap in the op table of a pipeline: sees the activations of every linear layer, and can hand the
 * layer other weights than its own, without the networks knowing.
 *
 * Layers are told apart by where their weights lie. Serves one pipeline on a host, and belongs to
 * the thread that runs it.
 */
#ifndef CALIBRATE_LAYER_TAP_H
#define CALIBRATE_LAYER_TAP_H

#include <stdbool.h>
#include <stddef.h>

#include "backend/backend.h"
#include "base/attributes.h"
#include "base/error.h"
#include "calibrate/fp8_copy.h"
#include "convert/convert_plan.h"

struct tapped_layer {
    const struct plan_layer *layer;
    const void *data;             /* where the pipeline has its weight; NULL: it has none */
    const struct fp8_copy *copy;  /* to compute with instead; NULL: its own; borrowed */
    bool has_fp8_activations;     /* round what goes into it to E4M3 with a factor a row */
    float *channel_max;           /* [K]: the largest magnitude of each channel */
    int64_t rows_seen;            /* activations recorded */
    double *key_sum;              /* [N D]: of the keys that go with this v; NULL for no v */
    int64_t keys_seen, key_heads; /* N */
};

struct layer_tap {
    struct backend_ops ops;      /* those below the tap */
    struct tapped_layer *layers; /* [count], in the plan's order */
    size_t count;
    struct tapped_layer **by_data; /* those with data, sorted by it */
    size_t by_data_count;
    bool is_recording;
    struct tapped_layer *last; /* that ran */
    float *rounded;            /* a copy of activations in FP8; grows */
    size_t rounded_count;

    /* The latents that the transformer is given, of the first sample of each call. */
    float *latents; /* [latent_room, latent_size]; borrowed; NULL: not watched */
    size_t latent_size;
    int latent_room, latent_count;
};

/* Borrows the plan. Free with layer_tap_destroy. */
MUST_CHECK bool layer_tap_create(struct layer_tap **out, const struct convert_plan *plan,
                                 struct error *err);
void layer_tap_destroy(struct layer_tap *tap); /* NULL is fine; after the pipeline */

/* Layer by its name ("transformer.block.0.image.q"); NULL: none. */
struct tapped_layer *layer_tap_find(struct layer_tap *tap, const char *name);

/* Between the networks and their table from now on; every layer's `data` is known by then. */
MUST_CHECK bool layer_tap_attach(struct layer_tap *tap, struct backend_ops *ops,
                                 struct stream *stream, struct error *err);

/* What the recorded activations of a layer were like. */
struct activation_summary {
    float largest;       /* of all */
    float median;        /* of the channels' largest */
    float least;         /* of the channels' largest */
    float static_scale;  /* largest / 448: what E4M3 would be multiplied by */
    int64_t outliers;    /* channels beyond ACTIVATION_OUTLIER times the median */
    int64_t outlier[16]; /* the first of them */
};
#define ACTIVATION_OUTLIER 8.0f
#define ACTIVATION_OUTLIERS_NAMED 16

MUST_CHECK bool layer_tap_summarise(struct activation_summary *out,
                                    const struct tapped_layer *layer, struct error *err);

#endif
