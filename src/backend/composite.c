#include "backend/composite.h"

void op_linears(const struct backend_ops *op, struct stream *stream, struct tensor *out,
                const struct tensor *x, const struct linear *layers, int count)
{
    int last = out->rank - 1;
    int64_t column = 0;

    if (op->linears) {
        op->linears(stream, out, x, layers, count);
        return;
    }
    for (int i = 0; i < count; i++) {
        int64_t columns = layers[i].weight.dim[0];
        struct tensor part = tensor_slice(out, last, column, columns);

        op->linear(stream, &part, x, &layers[i]);
        column += columns;
    }
}

void op_normed_qkv(const struct backend_ops *op, struct stream *stream, struct tensor *out,
                   const struct tensor *x, const struct linear layers[3],
                   const struct tensor *q_norm, const struct tensor *k_norm, float epsilon)
{
    int last = out->rank - 1;
    int64_t columns = out->dim[last] / 3;
    const struct tensor *norms[] = {q_norm, k_norm};

    if (op->normed_qkv) {
        op->normed_qkv(stream, out, x, layers, q_norm, k_norm, epsilon);
        return;
    }
    op_linears(op, stream, out, x, layers, 3);
    for (int i = 0; i < 2; i++) {
        struct tensor part = tensor_slice(out, last, i * columns, columns);
        struct tensor heads = tensor_split(&part, last, norms[i]->dim[0]);

        op->rms_norm(stream, &heads, &heads, norms[i], epsilon);
    }
}

void op_gelu_linear(const struct backend_ops *op, struct stream *stream, struct tensor *out,
                    struct tensor *hidden, const struct tensor *x, const struct linear *layer)
{
    if (op->gelu_linear) {
        op->gelu_linear(stream, out, hidden, x, layer);
        return;
    }
    op->linear(stream, hidden, x, layer);
    op->gelu(stream, out, hidden, GELU_TANH);
}

static bool takes_gated(const struct backend_ops *op, const struct gated_branch *branch)
{
    return op->gated_linear && branch->input->dtype == DTYPE_F8_E4M3;
}

void op_gated_linear(const struct backend_ops *op, struct stream *stream,
                     const struct gated_branch *branch)
{
    if (takes_gated(op, branch)) {
        op->gated_linear(stream, branch->x, branch->gate, branch->input, branch->layer);
        return;
    }
    op->linear(stream, branch->delta, branch->input, branch->layer);
    op->gated_add(stream, branch->x, branch->x, branch->gate, branch->delta);
}

void op_gated_linear_norm(const struct backend_ops *op, struct stream *stream,
                          const struct gated_branch *branch, struct tensor *out,
                          const struct tensor *shift, const struct tensor *scale, float epsilon)
{
    if (op->gated_modulated_norm && !takes_gated(op, branch)) {
        op->linear(stream, branch->delta, branch->input, branch->layer);
        op->gated_modulated_norm(stream, out, branch->x, branch->gate, branch->delta, shift, scale,
                                 epsilon);
        return;
    }
    op_gated_linear(op, stream, branch);
    op->modulated_norm(stream, out, branch->x, shift, scale, epsilon);
}

void op_branch(const struct backend_ops *op, struct stream *stream, int branch)
{
    if (op->branch)
        op->branch(stream, branch);
}

void op_join(const struct backend_ops *op, struct stream *stream)
{
    if (op->join)
        op->join(stream);
}

struct tensor op_linear_input(const struct backend_ops *op, const struct tensor *f,
                              float *row_scale, const struct linear *layers, int count)
{
    enum dtype dtype = op->linear_input ? op->linear_input(layers, count) : f->dtype;
    struct tensor view = *f;
    int64_t ratio;

    if (dtype == f->dtype)
        return view;
    ratio = (int64_t)(dtype_size(f->dtype) / dtype_size(dtype));
    view.dtype = dtype;
    view.row_scale = row_scale;
    for (int i = 0; i < view.rank - 1; i++)
        view.stride[i] *= ratio;
    return view;
}

struct tensor op_as_linear_input(const struct backend_ops *op, struct stream *stream,
                                 const struct tensor *x, const struct tensor *scratch,
                                 float *row_scale, const struct linear *layers, int count)
{
    struct tensor view = op_linear_input(op, scratch, row_scale, layers, count);

    if (view.dtype == x->dtype)
        return *x;
    op->copy(stream, &view, x);
    return view;
}
