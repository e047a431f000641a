/* Ops that a table may leave out: each runs the table's own where there is one, and what it is
 * composed of where there is none. */
#ifndef BACKEND_COMPOSITE_H
#define BACKEND_COMPOSITE_H

#include "backend/backend.h"

void op_linears(const struct backend_ops *op, struct stream *stream, struct tensor *out,
                const struct tensor *x, const struct linear *layers, int count);
void op_normed_qkv(const struct backend_ops *op, struct stream *stream, struct tensor *out,
                   const struct tensor *x, const struct linear layers[3],
                   const struct tensor *q_norm, const struct tensor *k_norm, float epsilon);
void op_gelu_linear(const struct backend_ops *op, struct stream *stream, struct tensor *out,
                    struct tensor *hidden, const struct tensor *x, const struct linear *layer);

/* What a gated branch of a block adds to the residual stream x: x += gate * layer(input).
 * delta: scratch of x's shape, where the product lies if it has to be made first. */
struct gated_branch {
    struct tensor *x, *delta;
    const struct tensor *gate, *input;
    const struct linear *layer;
};
void op_gated_linear(const struct backend_ops *op, struct stream *stream,
                     const struct gated_branch *branch);
/* The same, then out = modulated_norm(x). */
void op_gated_linear_norm(const struct backend_ops *op, struct stream *stream,
                          const struct gated_branch *branch, struct tensor *out,
                          const struct tensor *shift, const struct tensor *scale, float epsilon);

void op_branch(const struct backend_ops *op, struct stream *stream, int branch);
void op_join(const struct backend_ops *op, struct stream *stream);

/* The memory of `f`, a tensor of the activation type, seen as what linears side by side take best:
 * itself, or f8_e4m3 rows that start where its rows start, with their factors in row_scale. */
struct tensor op_linear_input(const struct backend_ops *op, const struct tensor *f,
                              float *row_scale, const struct linear *layers, int count);
/* x as linears side by side take it best: x itself, or a copy as f8_e4m3 rows over `scratch`. */
struct tensor op_as_linear_input(const struct backend_ops *op, struct stream *stream,
                                 const struct tensor *x, const struct tensor *scratch,
                                 float *row_scale, const struct linear *layers, int count);

#endif
