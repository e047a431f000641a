#include <stdio.h>

#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_dnn_plan.h"

/* Names of the tensors in a graph. */
enum { ID_Q = 1, ID_K, ID_V, ID_OUT, ID_SCALE };

/* Places in the key's tensors. */
enum { AT_Q, AT_K, AT_V, AT_OUT };

enum {
    ONE_NODE_VERSION = 91301, /* cuDNN 9.13.1 */
    HEAD_WIDTH_MAX = 128,
};

/* View axes B, T, N, D in cuDNN's order B, N, T, D. */
static const int heads_second[4] = {0, 2, 1, 3};

static void make_graph(struct dnn_graph *graph, const struct dnn_key *key)
{
    static const struct dnn_layout scalar = {
        .dim = {1, 1, 1, 1}, .stride = {1, 1, 1, 1}, .alignment = sizeof(float)};
    static const char step[] = "the attention";
    cudnnDataType_t type = (cudnnDataType_t)key->type;
    cudnnBackendDescriptor_t q, k, v, out, scale, operation;

    q = dnn_graph_tensor(graph, ID_Q, type, DNN_TENSOR_STORED, &key->tensor[AT_Q], "q");
    k = dnn_graph_tensor(graph, ID_K, type, DNN_TENSOR_STORED, &key->tensor[AT_K], "k");
    v = dnn_graph_tensor(graph, ID_V, type, DNN_TENSOR_STORED, &key->tensor[AT_V], "v");
    out = dnn_graph_tensor(graph, ID_OUT, type, DNN_TENSOR_STORED, &key->tensor[AT_OUT],
                           "the output");
    scale = dnn_graph_tensor(graph, ID_SCALE, CUDNN_DATA_FLOAT, DNN_TENSOR_BY_VALUE, &scalar,
                             "the scale");

    operation = dnn_graph_add(graph, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, q, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, k, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, v, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, out, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, scale, step);
    dnn_graph_finalise(graph, operation, step);
    dnn_graph_close(graph, &operation, 1);
}

/* One tensor with the type of q, in layout and alignment as cuDNN's kernels want it. */
static bool view_fits(const struct view *view, enum view_type type)
{
    struct dnn_layout layout;

    if (view->type != type || !dnn_layout_of(&layout, view, heads_second) || layout.alignment != 16)
        return false;
    for (int i = 0; i < 3; i++) /* of two bytes each */
        if (layout.dim[i] > 1 && layout.stride[i] % 8 != 0)
            return false;
    return true;
}

static bool same_shape(const struct view *a, const struct view *b)
{
    for (int i = 0; i < 4; i++)
        if (a->dim[i] != b->dim[i])
            return false;
    return true;
}

bool dnn_attention_fits(const struct dnn *dnn, const struct view *out, const struct view *q,
                        const struct view *k, const struct view *v)
{
    if (dnn_version(dnn) < ONE_NODE_VERSION)
        return false;
    if (q->type != VIEW_BF16 && q->type != VIEW_F16)
        return false;
    if (!view_fits(q, q->type) || !view_fits(k, q->type) || !view_fits(v, q->type) ||
        !view_fits(out, q->type))
        return false;
    return same_shape(out, q) && same_shape(k, v) && q->dim[0] == k->dim[0] &&
           q->dim[2] == k->dim[2] && q->dim[3] == k->dim[3] && q->dim[3] % 8 == 0 &&
           q->dim[3] <= HEAD_WIDTH_MAX;
}

static void add_tensor(struct dnn_call *call, int64_t id, void *pointer)
{
    call->id[call->count] = id;
    call->pointer[call->count] = pointer;
    call->count++;
}

bool dnn_attention(struct dnn *dnn, cudaStream_t stream, void *workspace, size_t workspace_bytes,
                   const struct view *out, const struct view *q, const struct view *k,
                   const struct view *v, float scale, struct error *err)
{
    struct dnn_call call = {.workspace = workspace,
                            .make_graph = make_graph,
                            .key.op = DNN_ATTENTION,
                            .key.workspace_bytes = (int64_t)workspace_bytes};
    struct dnn_layout *tensor = call.key.tensor;
    cudnnDataType_t type;
    bool is_unsupported;

    snprintf(call.text, sizeof call.text,
             "an attention of %lld queries to %lld keys, batch %lld, %lld heads of %lld",
             (long long)q->dim[1], (long long)k->dim[1], (long long)q->dim[0], (long long)q->dim[2],
             (long long)q->dim[3]);
    if (!dnn_attention_fits(dnn, out, q, k, v) || !dnn_type_of(&type, q->type) ||
        !dnn_layout_of(&tensor[AT_Q], q, heads_second) ||
        !dnn_layout_of(&tensor[AT_K], k, heads_second) ||
        !dnn_layout_of(&tensor[AT_V], v, heads_second) ||
        !dnn_layout_of(&tensor[AT_OUT], out, heads_second))
        return error_set(err, ERROR_BACKEND,
                         "cuDNN: %s: not of a type, layout or version that is taken", call.text);
    call.key.type = call.key.out_type = type;
    add_tensor(&call, ID_Q, q->data);
    add_tensor(&call, ID_K, k->data);
    add_tensor(&call, ID_V, v->data);
    add_tensor(&call, ID_OUT, out->data);
    add_tensor(&call, ID_SCALE, &scale); /* read while the work is enqueued */
    return dnn_run(dnn, stream, &call, &is_unsupported, err);
}
