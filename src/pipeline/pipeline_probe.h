/* A pipeline seen from within, for who measures a model: which tensors its networks were handed,
 * and the op table that they run on. Nobody who only wants pictures needs this.
 */
#ifndef PIPELINE_PIPELINE_PROBE_H
#define PIPELINE_PIPELINE_PROBE_H

#include "backend/backend.h"
#include "pipeline/pipeline.h"
#include "weights/weights.h"

/* `tensor` is called for each tensor while the pipeline is created; its view is what ops are given,
 * except for vectors, which are copied. */
struct pipeline_probe {
    void (*tensor)(void *context, enum component component, const struct weights_tensor *tensor);
    void *context;
};

/* As pipeline_create. Borrows `probe` until it returns; NULL: nobody watches. */
MUST_CHECK bool pipeline_create_probed(struct pipeline **out,
                                       const struct pipeline_options *options,
                                       const struct pipeline_probe *probe, struct error *err);

/* The table of all of the pipeline's networks: functions that are replaced here are called from
 * then on, with the stream below. */
struct backend_ops *pipeline_ops(struct pipeline *pipeline);
struct stream *pipeline_stream(struct pipeline *pipeline);

#endif
