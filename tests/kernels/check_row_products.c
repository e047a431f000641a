/* Products of rows of 8 bits, alone and with more in their epilogue. Run with --device cuda. */
#include <math.h>
#include <stdio.h>

#include "backend/composite.h"
#include "device_check.h"

/* --- Against the reference --- */

static struct tensor decoded_rows(struct kernel_check *check, const struct tensor *rows)
{
    struct tensor plain = kernel_tensor(check, DTYPE_F32, 0, rows->rank, rows->dim);
    int64_t width = rows->dim[rows->rank - 1];

    for (int64_t r = 0; r < tensor_row_count(rows); r++)
        for (int64_t c = 0; c < width; c++)
            ((float *)plain.data)[r * width + c] =
                (float)(device_get(rows, tensor_row_offset(rows, r) + c) *
                        (double)rows->row_scale[r]);
    return plain;
}

/* Columns [begin, begin + count) of a layer. */
static struct linear some_columns(const struct linear *layer, int64_t begin, int64_t count)
{
    struct linear some = *layer;

    some.weight = tensor_slice(&layer->weight, 0, begin, count);
    if (tensor_exists(&layer->scale) && layer->scale.dim[0] > 1)
        some.scale = tensor_slice(&layer->scale, 0, begin, count);
    if (tensor_exists(&layer->bias))
        some.bias = tensor_slice(&layer->bias, 0, begin, count);
    return some;
}

#define WINDOW_COLUMNS 16
#define PRODUCTS_MAX 300000000 /* all columns of a layer, or three windows of them */

static void expect_columns(struct kernel_check *check, const struct tensor *got,
                           const struct tensor *plain, const struct linear *layer, int64_t begin,
                           int64_t count, const char *label)
{
    int64_t depth = layer->weight.dim[1];
    struct linear some = some_columns(layer, begin, count);
    struct tensor want = KERNEL_TENSOR(check, DTYPE_F32, 0, got->dim[0], got->dim[1], count);
    struct tensor part = tensor_slice(got, 2, begin, count);

    check->ref->linear(check->ref_stream, &want, plain, &some);
    /* Tensor cores add products of 8 bits with some 13 bits. */
    kernel_expect_close(check, &part, &want, 2.0 * kernel_tolerance(check->f, depth) + 0x1p-10,
                        "%s, columns from %d", label, (int)begin);
}

static void expect_product(struct kernel_check *check, const struct tensor *got,
                           const struct tensor *plain, const struct linear *layer,
                           const char *label)
{
    int64_t columns = layer->weight.dim[0], depth = layer->weight.dim[1];

    if (got->dim[0] * got->dim[1] * depth * columns <= PRODUCTS_MAX) {
        expect_columns(check, got, plain, layer, 0, columns, label);
        return;
    }
    for (int i = 0; i < 3; i++) {
        int64_t begin = (columns - WINDOW_COLUMNS) * i / 2;

        expect_columns(check, got, plain, layer, begin, WINDOW_COLUMNS, label);
    }
}

#define MARGIN 32 /* columns to the left and to the right of a product */
#define MORE_TOKENS 5

/* Everything around the product, which is MARGIN columns from the left, still has the bits of
 * kernel_like. */
static void expect_margins(struct kernel_check *check, const struct tensor *all, int64_t tokens,
                           int64_t columns, const char *label)
{
    int64_t touched = 0;

    for (int64_t r = 0; r < tensor_row_count(all); r++)
        for (int64_t c = 0; c < all->dim[2]; c++) {
            bool is_inside = r % all->dim[1] < tokens && c >= MARGIN && c < MARGIN + columns;

            if (!is_inside && !isnan(device_get(all, tensor_row_offset(all, r) + c)))
                touched++;
        }
    kernel_expect(check, touched == 0, "%s: %lld elements around the product are as they were",
                  label, (long long)touched);
}

/* Layers side by side into a part of a wider buffer, whose samples may be further apart. */
static void check_product(struct kernel_check *check, struct product_shape s, int count,
                          bool scales_rows, bool has_bias, bool is_uneven)
{
    struct tensor x = device_rows(check, s, scales_rows ? (int)s.depth : 0);
    struct tensor plain = decoded_rows(check, &x);
    struct tensor like =
        KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens + (is_uneven ? MORE_TOKENS : 0),
                      count * s.columns + 2 * MARGIN);
    struct tensor all = kernel_like(check, &like);
    struct tensor out = tensor_slice(&all, 1, 0, s.tokens);
    struct linear layers[3];
    char label[128];

    snprintf(label, sizeof label, "%d linears of rows B %d T %d K %d N %d%s%s%s", count,
             (int)s.batch, (int)s.tokens, (int)s.depth, (int)s.columns,
             scales_rows ? ", scaled by rows" : "", has_bias ? ", bias" : "",
             is_uneven ? ", uneven" : "");
    out = tensor_slice(&out, 2, MARGIN, count * s.columns);
    for (int i = 0; i < count; i++) /* of different kinds, when there are several */
        layers[i] = device_layer(check, DTYPE_F8_E4M3, s.columns, s.depth, scales_rows ^ (i == 1),
                                 has_bias ^ (i == 2));
    if (count == 1)
        check->fast.linear(check->stream, &out, &x, layers);
    else
        op_linears(&check->fast, check->stream, &out, &x, layers, count);
    device_finish(check);
    for (int i = 0; i < count; i++) {
        struct tensor part = tensor_slice(&out, 2, i * s.columns, s.columns);

        expect_product(check, &part, &plain, &layers[i], label);
    }
    expect_margins(check, &all, s.tokens, count * s.columns, label);
    kernel_release(check);
}

static void check_products(struct kernel_check *check)
{
    static const struct product_shape shapes[] = {
        {1, 1, 16, 16},      {2, 16, 48, 80},       {3, 77, 176, 208},    {3, 1, 64, 2432},
        {1, 333, 1536, 16},  {2, 16, 2432, 336},    {1, 77, 1536, 1536},  {2, 333, 1536, 4608},
        {3, 1000, 64, 1536}, {2, 1, 2432, 7296},    {3, 333, 2432, 2432}, {1, 1000, 2432, 7296},
        {3, 77, 2432, 7296}, {2, 1000, 1536, 6144},
    };

    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        struct product_shape s = shapes[i];
        bool is_small = s.batch * s.tokens * s.depth * s.columns <= PRODUCTS_MAX / 8;

        for (size_t kind = 0; kind < 4; kind++)
            if (is_small || kind == i % 4)
                check_product(check, s, 1, kind & 1, kind & 2, (i + kind) % 3 == 0);
    }
    check_product(check, (struct product_shape){2, 77, 192, 48}, 3, true, true, true);
    check_product(check, (struct product_shape){3, 16, 64, 16}, 3, false, false, false);
    check_product(check, (struct product_shape){2, 333, 1536, 1536}, 3, true, true, false);
}

/* --- Products with more in their epilogue, against what they are composed of --- */

/* The table without the fused ops: each is composed then. */
static struct backend_ops composed_ops(const struct kernel_check *check)
{
    struct backend_ops ops = check->fast;

    ops.normed_qkv = NULL;
    ops.gelu_linear = NULL;
    ops.gated_linear = NULL;
    ops.gated_modulated_norm = NULL;
    return ops;
}

/* Into a part of a longer sequence, as the joint attention takes it. */
static void check_normed_qkv(struct kernel_check *check, struct product_shape s)
{
    struct backend_ops composed = composed_ops(check);
    struct tensor x = device_rows(check, s, 0);
    struct tensor like = KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens + MORE_TOKENS,
                                       3 * s.columns + 2 * MARGIN);
    struct tensor all_got = kernel_like(check, &like), all_want = kernel_like(check, &like);
    struct tensor got = tensor_slice(&all_got, 1, 0, s.tokens);
    struct tensor want = tensor_slice(&all_want, 1, 0, s.tokens);
    struct tensor q_norm = device_factors(check, HEAD_WIDTH, 1.0);
    struct tensor k_norm = device_factors(check, HEAD_WIDTH, 1.0);
    struct linear layers[3];
    char label[96];

    snprintf(label, sizeof label, "normed_qkv B %d T %d C %d", (int)s.batch, (int)s.tokens,
             (int)s.columns);
    got = tensor_slice(&got, 2, MARGIN, 3 * s.columns);
    want = tensor_slice(&want, 2, MARGIN, 3 * s.columns);
    for (int i = 0; i < 3; i++)
        layers[i] = device_layer(check, DTYPE_F8_E4M3, s.columns, s.depth, true, i != 1);
    op_normed_qkv(&check->fast, check->stream, &got, &x, layers, &q_norm, &k_norm, EPSILON);
    op_normed_qkv(&composed, check->stream, &want, &x, layers, &q_norm, &k_norm, EPSILON);
    device_finish(check);
    /* What is composed rounds to f before the norm, too. */
    kernel_expect_close(check, &got, &want, 2.0 * kernel_tolerance(check->f, s.depth), "%s", label);
    expect_margins(check, &all_got, s.tokens, 3 * s.columns, label);
    kernel_release(check);
}

/* The product in f is within a rounding of what the epilogue sees; gelu's slope is below 1.13, and
 * below 0.13 in magnitude left of 0. */
static double gelu_tolerance(double product, double want, double factor)
{
    return 0x1p-4 * fabs(want) + 0x1p-10 * factor +
           0x1p-7 * fabs(product) * (product > 0.0 ? 1.2 : 0.2) + 0x1p-10;
}

static void check_gelu_linear(struct kernel_check *check, struct product_shape s)
{
    struct tensor x = device_rows(check, s, 0);
    struct linear layer = device_layer(check, DTYPE_F8_E4M3, s.columns, s.depth, true, true);
    struct tensor hidden = KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens, s.columns);
    struct tensor product = kernel_like(check, &hidden);
    struct tensor factors = KERNEL_TENSOR(check, DTYPE_F32, 0, s.batch * s.tokens);
    struct tensor out = device_rows_over(&hidden, &factors);
    int64_t wrong = 0;

    op_gelu_linear(&check->fast, check->stream, &out, &hidden, &x, &layer);
    check->fast.linear(check->stream, &product, &x, &layer);
    device_finish(check);
    for (int64_t r = 0; r < s.batch * s.tokens; r++)
        for (int64_t c = 0; c < s.columns; c++) {
            double v = device_get(&product, tensor_row_offset(&product, r) + c);
            double want = 0.5 * v * (1.0 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
            double factor = (double)out.row_scale[r];
            double got = device_get(&out, tensor_row_offset(&out, r) + c) * factor;

            if (!(fabs(got - want) <= gelu_tolerance(v, want, factor)))
                wrong++;
        }
    kernel_expect(check, wrong == 0, "gelu_linear B %d T %d K %d N %d: %lld of %lld are off",
                  (int)s.batch, (int)s.tokens, (int)s.depth, (int)s.columns, (long long)wrong,
                  (long long)tensor_count(&out));
    kernel_release(check);
}

static void check_gated_linear(struct kernel_check *check, struct product_shape s)
{
    struct backend_ops composed = composed_ops(check);
    struct tensor input = device_rows(check, s, 0);
    struct linear layer = device_layer(check, DTYPE_F8_E4M3, s.columns, s.depth, true, true);
    struct tensor got = KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens, s.columns);
    struct tensor want = kernel_clone(check, &got), delta = kernel_like(check, &got);
    struct tensor gate = KERNEL_TENSOR(check, check->f, 3, s.batch, s.columns);
    struct gated_branch branch = {
        .x = &got, .delta = &delta, .gate = &gate, .input = &input, .layer = &layer};

    op_gated_linear(&check->fast, check->stream, &branch);
    branch.x = &want;
    op_gated_linear(&composed, check->stream, &branch);
    device_finish(check);
    /* What is composed rounds the product to f, which may be several times what is left of the sum.
     */
    kernel_expect_close(check, &got, &want, 4.0 * kernel_tolerance(check->f, s.depth),
                        "gated_linear B %d T %d K %d N %d", (int)s.batch, (int)s.tokens,
                        (int)s.depth, (int)s.columns);
    kernel_release(check);
}

static void check_fused(struct kernel_check *check)
{
    /* Short and long: only the long ones are one kernel. */
    static const struct product_shape shapes[] = {{2, 77, 192, 192},
                                                  {1, 1024, 192, 192},
                                                  {2, 1031, 384, 320},
                                                  {5, 1031, 384, 320},
                                                  {2, 1024, 1536, 1536}};

    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        struct product_shape wide = shapes[i];

        check_normed_qkv(check, shapes[i]);
        check_gated_linear(check, shapes[i]);
        wide.columns *= 2;
        check_gelu_linear(check, wide);
    }
}

static void check_side_by_side(struct kernel_check *check, struct product_shape s)
{
    struct tensor x = device_rows(check, s, 0);
    struct tensor like = KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens, 3 * s.columns);
    struct tensor together = kernel_like(check, &like), apart = kernel_like(check, &like);
    struct linear layers[3];

    for (int i = 0; i < 3; i++)
        layers[i] = device_layer(check, DTYPE_F8_E4M3, s.columns, s.depth, i != 1, i != 2);
    op_linears(&check->fast, check->stream, &together, &x, layers, 3);
    for (int i = 0; i < 3; i++) {
        struct tensor part = tensor_slice(&apart, 2, i * s.columns, s.columns);

        check->fast.linear(check->stream, &part, &x, &layers[i]);
    }
    kernel_expect_equal(check, &together, &apart, "linears of rows one by one, B %d T %d K %d N %d",
                        (int)s.batch, (int)s.tokens, (int)s.depth, (int)s.columns);
    kernel_release(check);
}

/* A sample gives the same bits in any company. */
static void check_sample_alone(struct kernel_check *check, struct product_shape s, bool with_rows)
{
    enum dtype weight_type = with_rows ? DTYPE_F8_E4M3 : DTYPE_BF16;
    struct linear layer = device_layer(check, weight_type, s.columns, s.depth, true, true);
    struct tensor x = with_rows ? device_rows(check, s, (int)s.depth)
                                : KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens, s.depth);
    struct tensor like = KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens, s.columns);
    struct tensor together = kernel_like(check, &like), alone = kernel_like(check, &like);

    check->fast.linear(check->stream, &together, &x, &layer);
    for (int64_t b = 0; b < s.batch; b++) {
        struct tensor one_x = tensor_slice(&x, 0, b, 1), one = tensor_slice(&alone, 0, b, 1);

        check->fast.linear(check->stream, &one, &one_x, &layer);
    }
    kernel_expect_equal(check, &together, &alone, "a sample alone, %s, B %d T %d K %d N %d",
                        dtype_name(x.dtype), (int)s.batch, (int)s.tokens, (int)s.depth,
                        (int)s.columns);
    kernel_release(check);
}

static void check_samples_alone(struct kernel_check *check, bool with_rows)
{
    static const int64_t batches[] = {2, 4}, tokens[] = {333, 1024};

    for (size_t b = 0; b < COUNT_OF(batches); b++)
        for (size_t t = 0; t < COUNT_OF(tokens); t++) {
            check_sample_alone(check, (struct product_shape){batches[b], tokens[t], 1536, 1536},
                               with_rows);
            check_sample_alone(check, (struct product_shape){batches[b], tokens[t], 2432, 4864},
                               with_rows);
        }
}

static void check_row_products(struct kernel_check *check)
{
    if (!check->plugin)
        return;
    if (device_multiplies_rows(check)) {
        check_products(check);
        check_fused(check);
        check_side_by_side(check, (struct product_shape){2, 77, 192, 64});
        check_side_by_side(check, (struct product_shape){2, 333, 1536, 1536});
        check_side_by_side(check, (struct product_shape){1, 1024, 2432, 2432});
        check_samples_alone(check, true);
    }
    check_samples_alone(check, false);
}

int main(int argc, char **argv)
{
    return device_check_main(argc, argv, check_row_products, "products of rows of 8 bits");
}
