/* What the checks of that share which only devices have: rows of 8 bits with a factor each, and
 * layers that multiply them. */
#ifndef TESTS_KERNELS_DEVICE_CHECK_H
#define TESTS_KERNELS_DEVICE_CHECK_H

#include "kernel_check.h"

#define EPSILON 1e-6f
#define HEAD_WIDTH 64

/* kernel_check_main for a device. Without --device there is nothing to check: SKIPPED, as `what`
 * are a device's. */
int device_check_main(int argc, char **argv, kernel_check_function run, const char *what);

/* The stream has done its work, and well. */
void device_finish(struct kernel_check *check);
double device_get(const struct tensor *tensor, int64_t offset);

/* Factors around `size`, none near 0. */
struct tensor device_factors(struct kernel_check *check, int64_t count, double size);
/* The memory of f's rows as rows of 8 bits, as op_linear_input makes it. */
struct tensor device_rows_over(const struct tensor *f, const struct tensor *factors);

struct product_shape {
    int64_t batch, tokens, depth, columns;
};
struct linear device_layer(struct kernel_check *check, enum dtype dtype, int64_t columns,
                           int64_t depth, bool scales_rows, bool has_bias);
bool device_multiplies_rows(const struct kernel_check *check);
/* Rows with factors, `pad` bytes apart. */
struct tensor device_rows(struct kernel_check *check, struct product_shape s, int pad);

struct gated_norm {
    struct tensor x, gate, y, shift, scale;
};
/* x += gate y; out = modulated_norm(x): one op where the table has it. */
void device_gated_norm(const struct backend_ops *op, struct stream *stream, struct tensor *out,
                       struct gated_norm *in);

#endif
