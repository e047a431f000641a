/* An engine of cuDNN with its settings: what a plan runs, in numbers that outlive the process.
 *
 * The numbers mean the same as long as graph, GPU and version of cuDNN do.
 */
#ifndef BACKEND_CUDA_CUDA_DNN_ENGINE_H
#define BACKEND_CUDA_CUDA_DNN_ENGINE_H

#include <stdint.h>

#include "backend/cuda/cuda_libraries.h"

enum { DNN_KNOBS_MAX = 64 };

/* A setting: cuDNN's kind of it, and its value. */
struct dnn_knob {
    int64_t type, value;
};

struct dnn_engine {
    int64_t number; /* per kind of graph */
    int64_t knob_count;
    struct dnn_knob knob[DNN_KNOBS_MAX];
};

/* What a finalised configuration says. False when cuDNN does not tell, or has more knobs. */
MUST_CHECK bool dnn_engine_of(struct dnn_engine *out, const struct dnn_functions *dnn,
                              cudnnBackendDescriptor_t config);
/* The finalised configuration of that engine for a graph, as a heuristic gives them; NULL when
 * cuDNN refuses any of it. The caller destroys it. */
cudnnBackendDescriptor_t dnn_engine_config(const struct dnn_engine *engine,
                                           const struct dnn_functions *dnn,
                                           cudnnBackendDescriptor_t operations);
/* False when the engine's notes say that its results may differ from run to run or have fewer bits;
 * an engine without notes may be used. */
bool dnn_engine_is_welcome(const struct dnn_functions *dnn, cudnnBackendDescriptor_t config);

/* How many bytes of the struct are used, and an engine from such bytes; false when they are none.
 */
size_t dnn_engine_bytes(const struct dnn_engine *engine);
MUST_CHECK bool dnn_engine_from(struct dnn_engine *out, const void *bytes, size_t size);

#endif
