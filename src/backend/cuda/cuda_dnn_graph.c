#include "backend/cuda/cuda_dnn_plan.h"

static void graph_fail(struct dnn_graph *graph, cudnnStatus_t status, const char *step)
{
    if (graph->status != CUDNN_STATUS_SUCCESS)
        return;
    graph->status = status;
    graph->failed_step = step;
}

cudnnBackendDescriptor_t dnn_graph_add(struct dnn_graph *graph, cudnnBackendDescriptorType_t type,
                                       const char *step)
{
    cudnnBackendDescriptor_t descriptor = NULL;
    cudnnStatus_t status;

    if (graph->status != CUDNN_STATUS_SUCCESS)
        return NULL;
    if (graph->owned_count == DNN_GRAPH_DESCRIPTORS_MAX) {
        graph_fail(graph, CUDNN_STATUS_INTERNAL_ERROR, step);
        return NULL;
    }
    status = graph->dnn->cudnnBackendCreateDescriptor(type, &descriptor);
    if (status != CUDNN_STATUS_SUCCESS) {
        graph_fail(graph, status, step);
        return NULL;
    }
    graph->owned[graph->owned_count++] = descriptor;
    return descriptor;
}

void dnn_graph_set(struct dnn_graph *graph, cudnnBackendDescriptor_t descriptor,
                   cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                   int64_t count, const void *values, const char *step)
{
    if (graph->status != CUDNN_STATUS_SUCCESS)
        return;
    graph_fail(graph, graph->dnn->cudnnBackendSetAttribute(descriptor, name, type, count, values),
               step);
}

void dnn_graph_link(struct dnn_graph *graph, cudnnBackendDescriptor_t descriptor,
                    cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t linked,
                    const char *step)
{
    dnn_graph_set(graph, descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &linked, step);
}

void dnn_graph_finalise(struct dnn_graph *graph, cudnnBackendDescriptor_t descriptor,
                        const char *step)
{
    if (graph->status != CUDNN_STATUS_SUCCESS)
        return;
    graph_fail(graph, graph->dnn->cudnnBackendFinalize(descriptor), step);
}

cudnnBackendDescriptor_t dnn_graph_tensor(struct dnn_graph *graph, int64_t id, cudnnDataType_t type,
                                          enum dnn_tensor_kind kind,
                                          const struct dnn_layout *layout, const char *step)
{
    cudnnBackendDescriptor_t tensor = dnn_graph_add(graph, CUDNN_BACKEND_TENSOR_DESCRIPTOR, step);
    bool yes = true;

    dnn_graph_set(graph, tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id, step);
    dnn_graph_set(graph, tensor, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type, step);
    dnn_graph_set(graph, tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, layout->dim,
                  step);
    dnn_graph_set(graph, tensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, layout->stride,
                  step);
    dnn_graph_set(graph, tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1,
                  &layout->alignment, step);
    if (kind == DNN_TENSOR_VIRTUAL)
        dnn_graph_set(graph, tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes,
                      step);
    if (kind == DNN_TENSOR_BY_VALUE)
        dnn_graph_set(graph, tensor, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes,
                      step);
    dnn_graph_finalise(graph, tensor, step);
    return tensor;
}

void dnn_graph_close(struct dnn_graph *graph, const cudnnBackendDescriptor_t *operations,
                     int64_t count)
{
    static const char step[] = "the operation graph";
    cudnnBackendDescriptor_t descriptor =
        dnn_graph_add(graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, step);

    dnn_graph_set(graph, descriptor, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                  count, operations, step);
    dnn_graph_set(graph, descriptor, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1,
                  &graph->handle, step);
    dnn_graph_finalise(graph, descriptor, step);
    graph->operations = descriptor;
}

void dnn_graph_finish(struct dnn_graph *graph)
{
    while (graph->owned_count > 0)
        graph->dnn->cudnnBackendDestroyDescriptor(graph->owned[--graph->owned_count]);
}

int64_t dnn_alignment_of(const void *pointer)
{
    uintptr_t bits = (uintptr_t)pointer & 15;

    return bits ? (int64_t)(bits & -bits) : 16;
}

bool dnn_type_of(cudnnDataType_t *out, enum view_type type)
{
    if (type == VIEW_F32)
        *out = CUDNN_DATA_FLOAT;
    else if (type == VIEW_F16)
        *out = CUDNN_DATA_HALF;
    else if (type == VIEW_BF16)
        *out = CUDNN_DATA_BFLOAT16;
    else
        return false;
    return true;
}

bool dnn_layout_of(struct dnn_layout *layout, const struct view *view, const int axes[4])
{
    int64_t stride[4], dense = 1;

    if (view->rank != 4)
        return false;
    for (int axis = 3; axis >= 0; axis--) {
        stride[axis] = view->dim[axis] == 1 ? dense : view->stride[axis];
        if (view->dim[axis] <= 0 || stride[axis] <= 0 || (axis == 3 && stride[axis] != 1))
            return false;
        dense = view->dim[axis] * stride[axis];
    }
    for (int i = 0; i < 4; i++) {
        layout->dim[i] = view->dim[axes[i]];
        layout->stride[i] = stride[axes[i]];
    }
    layout->alignment = dnn_alignment_of(view->data);
    return true;
}
