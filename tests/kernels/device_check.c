#include "device_check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

int device_check_main(int argc, char **argv, kernel_check_function run, const char *what)
{
    bool has_device = false;

    for (int i = 1; i < argc; i++)
        has_device = has_device || strcmp(argv[i], "--device") == 0;
    if (!has_device) {
        printf("SKIPPED: %s are a device's\n", what);
        return 0;
    }
    return kernel_check_main(argc, argv, run, run);
}

void device_finish(struct kernel_check *check)
{
    struct error err = {0};
    bool ok = check->fast.stream_finish(check->stream, &err);

    kernel_expect(check, ok, "the stream is well: %s", err.message);
}

double device_get(const struct tensor *tensor, int64_t offset)
{
    return (double)dtype_load(tensor->dtype, tensor->data, offset);
}

struct tensor device_factors(struct kernel_check *check, int64_t count, double size)
{
    struct tensor factors = KERNEL_TENSOR(check, DTYPE_F32, 0, count);

    for (int64_t i = 0; i < count; i++)
        kernel_put(&factors, i, size * (0.5 + fabs(kernel_random_normal(check))));
    return factors;
}

struct tensor device_rows_over(const struct tensor *f, const struct tensor *factors)
{
    struct tensor view = *f;

    view.dtype = DTYPE_F8_E4M3;
    view.row_scale = factors->data;
    for (int i = 0; i < view.rank - 1; i++)
        view.stride[i] *= (int64_t)dtype_size(f->dtype);
    return view;
}

struct linear device_layer(struct kernel_check *check, enum dtype dtype, int64_t columns,
                           int64_t depth, bool scales_rows, bool has_bias)
{
    struct linear layer = {.weight = KERNEL_TENSOR(check, dtype, 0, columns, depth)};

    if (dtype == DTYPE_F8_E4M3)
        layer.scale = device_factors(check, scales_rows ? columns : 1, 1.0 / sqrt((double)depth));
    if (has_bias)
        layer.bias = KERNEL_TENSOR(check, DTYPE_F32, 0, columns);
    return layer;
}

bool device_multiplies_rows(const struct kernel_check *check)
{
    struct linear layer = {.weight = TENSOR_OF(NULL, DTYPE_F8_E4M3, 16, 16)};

    return check->fast.linear_input && check->fast.linear_input(&layer, 1) == DTYPE_F8_E4M3;
}

struct tensor device_rows(struct kernel_check *check, struct product_shape s, int pad)
{
    struct tensor rows = KERNEL_TENSOR(check, DTYPE_F8_E4M3, pad, s.batch, s.tokens, s.depth);
    struct tensor factors = device_factors(check, s.batch * s.tokens, 0.01);

    kernel_randomise(check, &rows, 0, 100);
    rows.row_scale = factors.data;
    return rows;
}

void device_gated_norm(const struct backend_ops *op, struct stream *stream, struct tensor *out,
                       struct gated_norm *in)
{
    if (op->gated_modulated_norm) {
        op->gated_modulated_norm(stream, out, &in->x, &in->gate, &in->y, &in->shift, &in->scale,
                                 EPSILON);
        return;
    }
    op->gated_add(stream, &in->x, &in->x, &in->gate, &in->y);
    op->modulated_norm(stream, out, &in->x, &in->shift, &in->scale, EPSILON);
}
