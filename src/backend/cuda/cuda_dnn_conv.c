#include <stdio.h>

#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_dnn_plan.h"

/* Names of the tensors in a graph. */
enum { ID_X = 1, ID_FILTER, ID_OUT, ID_BIAS, ID_SUM };

/* Places in the key's tensors. */
enum { AT_X, AT_FILTER, AT_OUT, AT_BIAS };

static cudnnBackendDescriptor_t add_product(struct dnn_graph *graph, const struct dnn_key *key,
                                            cudnnBackendDescriptor_t x,
                                            cudnnBackendDescriptor_t filter,
                                            cudnnBackendDescriptor_t out)
{
    static const char step[] = "the convolution";
    const int64_t dilation[2] = {1, 1}, stride[2] = {key->stride, key->stride}, axes = 2;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION; /* the filter is not turned over */
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    const float alpha = 1, beta = 0;
    cudnnBackendDescriptor_t rule, operation;

    rule = dnn_graph_add(graph, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, step);
    dnn_graph_set(graph, rule, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums,
                  step);
    dnn_graph_set(graph, rule, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1,
                  &mode, step);
    dnn_graph_set(graph, rule, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &axes,
                  step);
    dnn_graph_set(graph, rule, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, axes, dilation,
                  step);
    dnn_graph_set(graph, rule, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, axes,
                  stride, step);
    dnn_graph_set(graph, rule, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, axes,
                  key->pre, step);
    dnn_graph_set(graph, rule, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, axes,
                  key->post, step);
    dnn_graph_finalise(graph, rule, step);

    operation = dnn_graph_add(graph, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, rule,
                   step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, filter, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, out, step);
    dnn_graph_set(graph, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                  CUDNN_TYPE_FLOAT, 1, &alpha, step);
    dnn_graph_set(graph, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT,
                  1, &beta, step);
    dnn_graph_finalise(graph, operation, step);
    return operation;
}

static cudnnBackendDescriptor_t add_bias(struct dnn_graph *graph, cudnnBackendDescriptor_t sum,
                                         cudnnBackendDescriptor_t bias,
                                         cudnnBackendDescriptor_t out)
{
    static const char step[] = "the bias";
    const cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
    const cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t rule, operation;

    rule = dnn_graph_add(graph, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, step);
    dnn_graph_set(graph, rule, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode,
                  step);
    dnn_graph_set(graph, rule, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &precision,
                  step);
    dnn_graph_finalise(graph, rule, step);

    operation = dnn_graph_add(graph, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, rule, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, sum, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, bias, step);
    dnn_graph_link(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, out, step);
    dnn_graph_finalise(graph, operation, step);
    return operation;
}

/* Channels last and dense, in cuDNN's order of axes. */
static void set_dense_layout(struct dnn_layout *layout, int64_t batch, int64_t channels,
                             int64_t height, int64_t width, int64_t alignment)
{
    *layout = (struct dnn_layout){
        .dim = {batch, channels, height, width},
        .stride = {height * width * channels, 1, width * channels, channels},
        .alignment = alignment,
    };
}

static void make_graph(struct dnn_graph *graph, const struct dnn_key *key)
{
    const struct dnn_layout *out_layout = &key->tensor[AT_OUT];
    cudnnDataType_t type = (cudnnDataType_t)key->type, out_type = (cudnnDataType_t)key->out_type;
    cudnnBackendDescriptor_t x, filter, out, bias, sum, operations[2];
    struct dnn_layout sum_layout;

    x = dnn_graph_tensor(graph, ID_X, type, DNN_TENSOR_STORED, &key->tensor[AT_X], "the input");
    filter = dnn_graph_tensor(graph, ID_FILTER, type, DNN_TENSOR_STORED, &key->tensor[AT_FILTER],
                              "the filter");
    out = dnn_graph_tensor(graph, ID_OUT, out_type, DNN_TENSOR_STORED, out_layout, "the output");
    if (!key->has_bias) {
        operations[0] = add_product(graph, key, x, filter, out);
        dnn_graph_close(graph, operations, 1);
        return;
    }
    set_dense_layout(&sum_layout, out_layout->dim[0], out_layout->dim[1], out_layout->dim[2],
                     out_layout->dim[3], 16);
    sum = dnn_graph_tensor(graph, ID_SUM, CUDNN_DATA_FLOAT, DNN_TENSOR_VIRTUAL, &sum_layout,
                           "the sum before the bias");
    bias = dnn_graph_tensor(graph, ID_BIAS, (cudnnDataType_t)key->bias_type, DNN_TENSOR_STORED,
                            &key->tensor[AT_BIAS], "the bias");
    operations[0] = add_product(graph, key, x, filter, sum);
    operations[1] = add_bias(graph, sum, bias, out);
    dnn_graph_close(graph, operations, 2);
}

/* Zeros before and after an axis. Where there are fewer than none, the input is cut: *skip is how
 * many of its elements come before the first one that is seen, *extent how many are seen. */
static bool plan_padding(int64_t *pre, int64_t *post, int64_t *skip, int64_t *extent, int64_t in,
                         int64_t out, int64_t kernel, int64_t stride, int64_t pad)
{
    *pre = pad > 0 ? pad : 0;
    *skip = pad < 0 ? -pad : 0;
    *extent = in - *skip;
    *post = (out - 1) * stride + kernel - *pre - *extent;
    if (*post < 0) {
        *extent += *post;
        *post = 0;
    }
    return *extent > 0;
}

static void add_tensor(struct dnn_call *call, int64_t id, const void *pointer)
{
    call->id[call->count] = id;
    call->pointer[call->count] = (void *)(uintptr_t)pointer; /* cuDNN knows which it only reads */
    call->count++;
}

/* Everything but the bias. */
static bool fill_call(struct dnn_call *call, const struct dnn_conv *conv, struct error *err)
{
    static const int channels_second[4] = {0, 3, 1, 2};
    const struct view *x = &conv->x, *out = &conv->out;
    struct dnn_key *key = &call->key;
    struct dnn_layout *x_layout = &key->tensor[AT_X];
    cudnnDataType_t type, out_type;
    int64_t skip[2], extent[2];
    const char *data;

    snprintf(call->text, sizeof call->text,
             "a %lldx%lld convolution of stride %d from [%lld, %lld, %lld, %lld] to [%lld, %lld, "
             "%lld, %lld]",
             (long long)conv->kernel_height, (long long)conv->kernel_width, conv->stride,
             (long long)x->dim[0], (long long)x->dim[1], (long long)x->dim[2], (long long)x->dim[3],
             (long long)out->dim[0], (long long)out->dim[1], (long long)out->dim[2],
             (long long)out->dim[3]);
    if (!dnn_type_of(&type, x->type) || type == CUDNN_DATA_FLOAT ||
        !dnn_type_of(&out_type, out->type) || (out_type != type && out_type != CUDNN_DATA_FLOAT))
        return error_set(err, ERROR_BACKEND, "cuDNN: %s: not of types that are taken", call->text);
    if (!dnn_layout_of(x_layout, x, channels_second) ||
        !dnn_layout_of(&key->tensor[AT_OUT], out, channels_second))
        return error_set(err, ERROR_BACKEND, "cuDNN: %s: strides that are not taken", call->text);
    if (x->dim[0] != out->dim[0] || conv->kernel_height < 1 || conv->kernel_width < 1 ||
        conv->stride < 1 ||
        !plan_padding(&key->pre[0], &key->post[0], &skip[0], &extent[0], x->dim[1], out->dim[1],
                      conv->kernel_height, conv->stride, conv->pad_top) ||
        !plan_padding(&key->pre[1], &key->post[1], &skip[1], &extent[1], x->dim[2], out->dim[2],
                      conv->kernel_width, conv->stride, conv->pad_left))
        return error_set(err, ERROR_BACKEND, "cuDNN: %s: shapes that do not agree", call->text);

    data = (const char *)x->data + 2 * (skip[0] * x->stride[1] + skip[1] * x->stride[2]);
    x_layout->dim[2] = extent[0];
    x_layout->dim[3] = extent[1];
    x_layout->alignment = dnn_alignment_of(data);
    set_dense_layout(&key->tensor[AT_FILTER], out->dim[3], x->dim[3], conv->kernel_height,
                     conv->kernel_width, dnn_alignment_of(conv->filter));
    key->op = DNN_CONV;
    key->type = type;
    key->out_type = out_type;
    key->stride = conv->stride;
    call->make_graph = make_graph;
    add_tensor(call, ID_X, data);
    add_tensor(call, ID_FILTER, conv->filter);
    add_tensor(call, ID_OUT, out->data);
    return true;
}

bool dnn_conv(struct dnn *dnn, cudaStream_t stream, void *workspace, size_t workspace_bytes,
              const struct dnn_conv *conv, struct error *err)
{
    struct dnn_call call = {.workspace = workspace,
                            .key.workspace_bytes = (int64_t)workspace_bytes};
    struct dnn_layout *bias_layout = &call.key.tensor[AT_BIAS];
    cudnnDataType_t bias_type;
    bool is_unsupported;

    if (conv->bias_is_left)
        *conv->bias_is_left = false;
    if (!fill_call(&call, conv, err))
        return false;
    if (!conv->bias)
        return dnn_run(dnn, stream, &call, &is_unsupported, err);

    if (!dnn_type_of(&bias_type, conv->bias_type) ||
        (bias_type != CUDNN_DATA_FLOAT && conv->bias_type != conv->x.type))
        return error_set(err, ERROR_BACKEND, "cuDNN: %s: a bias of a type that is not taken",
                         call.text);
    set_dense_layout(bias_layout, 1, conv->out.dim[3], 1, 1, dnn_alignment_of(conv->bias));
    call.key.has_bias = true;
    call.key.bias_type = bias_type;
    add_tensor(&call, ID_BIAS, conv->bias);
    if (dnn_run(dnn, stream, &call, &is_unsupported, err))
        return true;
    if (!is_unsupported || !conv->bias_is_left)
        return false;

    *bias_layout = (struct dnn_layout){0};
    call.key.has_bias = call.key.bias_type = 0;
    call.count--;
    if (!dnn_run(dnn, stream, &call, &is_unsupported, err))
        return false;
    *conv->bias_is_left = true;
    return true;
}
