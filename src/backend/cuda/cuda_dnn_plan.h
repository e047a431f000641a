/* What the convolutions and the attention of cuda_dnn.h share: plans, kept by shape.
 *
 * An op fills a call: a key that describes its graph completely, the function that makes the graph
 * from the key, and the addresses. dnn_run finds or makes the plan and executes it.
 */
#ifndef BACKEND_CUDA_CUDA_DNN_PLAN_H
#define BACKEND_CUDA_CUDA_DNN_PLAN_H

#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_libraries.h"

enum { DNN_TENSORS_MAX = 5, DNN_GRAPH_DESCRIPTORS_MAX = 12, DNN_CALL_TEXT_BYTES = 192 };

enum dnn_op { DNN_CONV, DNN_ATTENTION };

/* One tensor as cuDNN sees it. int64_t only: keys are compared byte by byte. */
struct dnn_layout {
    int64_t dim[4], stride[4]; /* in elements */
    int64_t alignment;         /* bytes */
};

struct dnn_key {
    int64_t op;
    int64_t type, out_type; /* cudnnDataType_t */
    int64_t has_bias, bias_type;
    int64_t workspace_bytes;
    int64_t stride, pre[2], post[2]; /* of convolutions; zeros before and after height and width */
    struct dnn_layout tensor[4];     /* in the op's order */
};

/* Descriptors of a graph under construction. After the first failure nothing more happens. */
struct dnn_graph {
    const struct dnn_functions *dnn;
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t owned[DNN_GRAPH_DESCRIPTORS_MAX]; /* in the order of their making */
    int owned_count;
    cudnnBackendDescriptor_t operations; /* the operation graph: the last one owned */
    cudnnStatus_t status;                /* of the first failure */
    const char *failed_step;
};

/* What a plan runs on. The ids are those that the graph gave its tensors. */
struct dnn_call {
    struct dnn_key key;
    void (*make_graph)(struct dnn_graph *graph, const struct dnn_key *key);
    int64_t id[DNN_TENSORS_MAX];
    void *pointer[DNN_TENSORS_MAX];
    int count;
    void *workspace;
    char text[DNN_CALL_TEXT_BYTES]; /* the op and its shape, for messages */
};

/* Enqueues the call. *is_unsupported: no engine takes this graph; only with false. */
MUST_CHECK bool dnn_run(struct dnn *dnn, cudaStream_t stream, const struct dnn_call *call,
                        bool *is_unsupported, struct error *err);

size_t dnn_version(const struct dnn *dnn);

/* For make_graph: each returns NULL, or does nothing, after a failure. `step` says what is made. */
cudnnBackendDescriptor_t dnn_graph_add(struct dnn_graph *graph, cudnnBackendDescriptorType_t type,
                                       const char *step);
void dnn_graph_set(struct dnn_graph *graph, cudnnBackendDescriptor_t descriptor,
                   cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                   int64_t count, const void *values, const char *step);
void dnn_graph_link(struct dnn_graph *graph, cudnnBackendDescriptor_t descriptor,
                    cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t linked,
                    const char *step);
void dnn_graph_finalise(struct dnn_graph *graph, cudnnBackendDescriptor_t descriptor,
                        const char *step);

enum dnn_tensor_kind { DNN_TENSOR_STORED, DNN_TENSOR_VIRTUAL, DNN_TENSOR_BY_VALUE };

/* A finalised tensor. */
cudnnBackendDescriptor_t dnn_graph_tensor(struct dnn_graph *graph, int64_t id, cudnnDataType_t type,
                                          enum dnn_tensor_kind kind,
                                          const struct dnn_layout *layout, const char *step);
/* The operations, at the end. */
void dnn_graph_close(struct dnn_graph *graph, const cudnnBackendDescriptor_t *operations,
                     int64_t count);
void dnn_graph_finish(struct dnn_graph *graph); /* destroys the descriptors, latest first */

/* The view's axes in the order `axes`; strides of axes of one element become what a dense tensor
 * has. False when the last axis is not contiguous or another stride is not positive. */
bool dnn_layout_of(struct dnn_layout *layout, const struct view *view, const int axes[4]);
int64_t dnn_alignment_of(const void *pointer); /* bytes, at most 16 */
bool dnn_type_of(cudnnDataType_t *out, enum view_type type);

#endif
