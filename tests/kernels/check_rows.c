/* What only devices have: rows of 8 bits with a factor each, branches, recordings, weights that are
 * held. Run with --device cuda. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/composite.h"
#include "kernel_check.h"

#define EPSILON 1e-6f
#define E4M3_LARGEST 448.0
#define HEAD_WIDTH 64

static void finish(struct kernel_check *check)
{
    struct error err = {0};
    bool ok = check->fast.stream_finish(check->stream, &err);

    kernel_expect(check, ok, "the stream is well: %s", err.message);
}

static double get(const struct tensor *tensor, int64_t offset)
{
    return (double)dtype_load(tensor->dtype, tensor->data, offset);
}

/* Factors around `size`, none near 0. */
static struct tensor make_factors(struct kernel_check *check, int64_t count, double size)
{
    struct tensor factors = KERNEL_TENSOR(check, DTYPE_F32, 0, count);

    for (int64_t i = 0; i < count; i++)
        kernel_put(&factors, i, size * (0.5 + fabs(kernel_random_normal(check))));
    return factors;
}

/* The memory of f's rows as rows of 8 bits, as op_linear_input makes it. */
static struct tensor rows_over(const struct tensor *f, const struct tensor *factors)
{
    struct tensor view = *f;

    view.dtype = DTYPE_F8_E4M3;
    view.row_scale = factors->data;
    for (int i = 0; i < view.rank - 1; i++)
        view.stride[i] *= (int64_t)dtype_size(f->dtype);
    return view;
}

/* --- Ops that write rows --- */

enum rows_op {
    ROWS_COPY,
    ROWS_GELU_TANH,
    ROWS_GELU_ERF,
    ROWS_GELU_QUICK,
    ROWS_GATED_GELU,
    ROWS_LAYER_NORM,
    ROWS_RMS_NORM,
    ROWS_MODULATED_NORM,
    ROWS_GATED_MODULATED_NORM,
    ROWS_OPS,
};

static const char *const rows_op_names[ROWS_OPS] = {
    "copy",       "gelu tanh", "gelu erf",       "gelu quick",           "gated_gelu",
    "layer_norm", "rms_norm",  "modulated_norm", "gated_modulated_norm",
};

struct operands {
    struct tensor x, y, gate, shift, scale, weight, bias;
};

struct rows_shape {
    int64_t batch, tokens, width;
    int pad;
};

/* Rows of different sizes, every fourth of zeros. */
static struct operands make_operands(struct kernel_check *check, struct rows_shape s)
{
    static const double spreads[] = {1, 1e-3, 30, 0};
    struct operands in = {
        .x = KERNEL_TENSOR(check, check->f, s.pad, s.batch, s.tokens, s.width),
        .y = KERNEL_TENSOR(check, check->f, s.pad, s.batch, s.tokens, s.width),
        .gate = KERNEL_TENSOR(check, check->f, s.pad, s.batch, s.width),
        .shift = KERNEL_TENSOR(check, check->f, s.pad, s.batch, s.width),
        .scale = KERNEL_TENSOR(check, check->f, s.pad, s.batch, s.width),
        .weight = KERNEL_TENSOR(check, DTYPE_F32, 0, s.width),
        .bias = KERNEL_TENSOR(check, DTYPE_F32, 0, s.width),
    };

    for (int64_t r = 0; r < s.batch * s.tokens; r++) {
        int64_t at = tensor_row_offset(&in.x, r);

        for (int64_t c = 0; c < s.width; c++)
            dtype_store(in.x.dtype, in.x.data, at + c,
                        (float)(get(&in.x, at + c) * spreads[r % 4]));
    }
    return in;
}

/* x += gate y; out = modulated_norm(x): one op where the table has it. */
static void run_gated_norm(const struct backend_ops *op, struct stream *stream, struct tensor *out,
                           struct operands *in)
{
    if (op->gated_modulated_norm) {
        op->gated_modulated_norm(stream, out, &in->x, &in->gate, &in->y, &in->shift, &in->scale,
                                 EPSILON);
        return;
    }
    op->gated_add(stream, &in->x, &in->x, &in->gate, &in->y);
    op->modulated_norm(stream, out, &in->x, &in->shift, &in->scale, EPSILON);
}

static void run_rows_op(const struct backend_ops *op, struct stream *stream, enum rows_op kind,
                        struct tensor *out, struct operands *in)
{
    switch (kind) {
    case ROWS_COPY:
        op->copy(stream, out, &in->x);
        break;
    case ROWS_GELU_TANH:
        op->gelu(stream, out, &in->x, GELU_TANH);
        break;
    case ROWS_GELU_ERF:
        op->gelu(stream, out, &in->x, GELU_ERF);
        break;
    case ROWS_GELU_QUICK:
        op->gelu(stream, out, &in->x, GELU_QUICK);
        break;
    case ROWS_GATED_GELU:
        op->gated_gelu(stream, out, &in->x, &in->y);
        break;
    case ROWS_LAYER_NORM:
        op->layer_norm(stream, out, &in->x, &in->weight, &in->bias, EPSILON);
        break;
    case ROWS_RMS_NORM:
        op->rms_norm(stream, out, &in->x, &in->weight, EPSILON);
        break;
    case ROWS_MODULATED_NORM:
        op->modulated_norm(stream, out, &in->x, &in->shift, &in->scale, EPSILON);
        break;
    case ROWS_GATED_MODULATED_NORM:
        run_gated_norm(op, stream, out, in);
        break;
    case ROWS_OPS:
        break;
    }
}

struct row_size {
    double largest, usual;
};

static struct row_size size_of_row(const struct tensor *want, int64_t row)
{
    int64_t width = want->dim[want->rank - 1], at = tensor_row_offset(want, row);
    struct row_size size = {0};

    for (int64_t c = 0; c < width; c++) {
        double w = get(want, at + c);

        size.largest = fmax(size.largest, fabs(w));
        size.usual += w * w;
    }
    size.usual = sqrt(size.usual / (double)width);
    return size;
}

/* Half of E4M3's step at this size: 3 bits after the first, subnormal below 2^-6. */
static double half_step(double size)
{
    return size < 0x1p-6 ? 0x1p-10 : ldexp(1.0, ilogb(size) - 4);
}

/* The row's factor is its largest magnitude / 448, and each element, which the op may have got
 * wrong by `own` of its size, is the nearest of E4M3. False with the first fault's text. */
static bool row_is_right(const struct tensor *got, const struct tensor *want, int64_t row,
                         double own, char *text, size_t text_size)
{
    int64_t from = tensor_row_offset(got, row), to = tensor_row_offset(want, row);
    struct row_size size = size_of_row(want, row);
    double factor = (double)got->row_scale[row];
    double right = (size.largest > 0 ? size.largest : 1.0) / E4M3_LARGEST;

    if (!(fabs(factor - right) <= 0.01 * right)) {
        snprintf(text, text_size, "row %d has the factor %g, wanted %g", (int)row, factor, right);
        return false;
    }
    for (int64_t c = 0; c < want->dim[want->rank - 1]; c++) {
        double w = get(want, to + c), g = get(got, from + c) * factor;
        double off = own * fmax(fabs(w), size.usual);
        double most = off + half_step((fabs(w) + off) / factor) * factor;

        if (!(fabs(g - w) <= most)) {
            snprintf(text, text_size, "row %d column %d is %g, wanted %g, may be off by %g",
                     (int)row, (int)c, g, w, most);
            return false;
        }
    }
    return true;
}

/* memory: the tensor that `got` lies over, or itself. */
static void expect_rows(struct kernel_check *check, const struct tensor *got,
                        const struct tensor *memory, const struct tensor *factors,
                        const struct tensor *want, double own, const char *label)
{
    char text[160] = "";
    bool ok = true;

    finish(check);
    for (int64_t r = 0; r < tensor_row_count(want) && ok; r++)
        ok = row_is_right(got, want, r, own, text, sizeof text);
    kernel_expect(check, ok, "%s: %s", label, text);
    /* Nothing was written between rows or around them. */
    kernel_expect_equal(check, memory, memory, "%s, around rows", label);
    kernel_expect_equal(check, factors, factors, "%s, around factors", label);
}

/* What `out` may lie over: the input where the op allows it, else memory of its own. */
static bool allows_in_place(enum rows_op kind)
{
    return kind != ROWS_COPY && kind != ROWS_GATED_MODULATED_NORM;
}

static void check_rows_op(struct kernel_check *check, enum rows_op kind, struct rows_shape s,
                          bool lies_over_f)
{
    struct operands in = make_operands(check, s);
    struct tensor factors = make_factors(check, s.batch * s.tokens, 1.0);
    struct tensor want = KERNEL_TENSOR(check, DTYPE_F32, 0, s.batch, s.tokens, s.width);
    struct tensor out, memory, got_factors = kernel_like(check, &factors);
    struct tensor sum = kernel_like(check, &in.x);
    double own = kind == ROWS_COPY ? 0x1p-20 : kernel_function_tolerance(check, 1e-5);
    char label[96];

    snprintf(label, sizeof label, "%s [%d, %d, %d] pad %d%s", rows_op_names[kind], (int)s.batch,
             (int)s.tokens, (int)s.width, s.pad, lies_over_f ? ", over f" : "");
    if (lies_over_f) {
        memory = allows_in_place(kind) ? in.x : kernel_like(check, &in.x);
        out = rows_over(&memory, &got_factors);
    } else {
        memory = KERNEL_TENSOR(check, DTYPE_F8_E4M3, s.pad, s.batch, s.tokens, s.width);
        memory = out = kernel_like(check, &memory);
        out.row_scale = got_factors.data;
    }
    if (kind == ROWS_GATED_MODULATED_NORM) /* what is normed is the sum after its rounding */
        check->ref->gated_add(check->ref_stream, &sum, &in.x, &in.gate, &in.y);
    else
        run_rows_op(check->ref, check->ref_stream, kind, &want, &in);
    run_rows_op(&check->fast, check->stream, kind, &out, &in);
    if (kind == ROWS_GATED_MODULATED_NORM) {
        kernel_expect_close(check, &in.x, &sum, kernel_tolerance(check->f, 2), "%s, the sum",
                            label);
        run_rows_op(check->ref, check->ref_stream, ROWS_MODULATED_NORM, &want, &in);
    }
    expect_rows(check, &out, &memory, &got_factors, &want, own, label);
    kernel_release(check);
}

#define ROWS_ELEMENTS_MAX 820000 /* so that the reference is done in minutes */

static void check_rows_ops(struct kernel_check *check)
{
    static const int64_t widths[] = {16, 64, 192, 1536, 2432, 4096, 9728, 10240, 16400};
    static const int64_t batches[] = {1, 3, 1, 3}, tokens[] = {1, 1, 77, 111};
    static const int pads[] = {0, 16, 3};

    for (size_t w = 0; w < COUNT_OF(widths); w++)
        for (size_t r = 0; r < COUNT_OF(batches); r++)
            for (int kind = 0; kind < ROWS_OPS; kind++) {
                size_t turn = w + r + (size_t)kind;
                struct rows_shape s = {batches[r], tokens[r], widths[w], pads[turn % 3]};

                if (s.batch * s.tokens * s.width > ROWS_ELEMENTS_MAX)
                    continue;
                check_rows_op(check, (enum rows_op)kind, s, false);
                s.pad = pads[(turn + 1) % 2];
                check_rows_op(check, (enum rows_op)kind, s, true);
            }
}

/* In place where neither widths nor strides are what vectors want. */
static void check_odd_rows_in_place(struct kernel_check *check)
{
    static const int64_t widths[] = {1, 13, 333, 2431};

    for (size_t w = 0; w < COUNT_OF(widths); w++)
        for (int kind = 0; kind < ROWS_OPS; kind++)
            check_rows_op(check, (enum rows_op)kind, (struct rows_shape){2, 5, widths[w], 3}, true);
}

/* --- Products of rows --- */

struct product_shape {
    int64_t batch, tokens, depth, columns;
};

static struct linear make_layer(struct kernel_check *check, enum dtype dtype, int64_t columns,
                                int64_t depth, bool scales_rows, bool has_bias)
{
    struct linear layer = {.weight = KERNEL_TENSOR(check, dtype, 0, columns, depth)};

    if (dtype == DTYPE_F8_E4M3)
        layer.scale = make_factors(check, scales_rows ? columns : 1, 1.0 / sqrt((double)depth));
    if (has_bias)
        layer.bias = KERNEL_TENSOR(check, DTYPE_F32, 0, columns);
    return layer;
}

static bool multiplies_rows(const struct kernel_check *check)
{
    struct linear layer = {.weight = TENSOR_OF(NULL, DTYPE_F8_E4M3, 16, 16)};

    return check->fast.linear_input && check->fast.linear_input(&layer, 1) == DTYPE_F8_E4M3;
}

/* Rows with factors, `pad` bytes apart. */
static struct tensor make_rows(struct kernel_check *check, struct product_shape s, int pad)
{
    struct tensor rows = KERNEL_TENSOR(check, DTYPE_F8_E4M3, pad, s.batch, s.tokens, s.depth);
    struct tensor factors = make_factors(check, s.batch * s.tokens, 0.01);

    kernel_randomise(check, &rows, 0, 100);
    rows.row_scale = factors.data;
    return rows;
}

static struct tensor decoded_rows(struct kernel_check *check, const struct tensor *rows)
{
    struct tensor plain = kernel_tensor(check, DTYPE_F32, 0, rows->rank, rows->dim);
    int64_t width = rows->dim[rows->rank - 1];

    for (int64_t r = 0; r < tensor_row_count(rows); r++)
        for (int64_t c = 0; c < width; c++)
            ((float *)plain.data)[r * width + c] =
                (float)(get(rows, tensor_row_offset(rows, r) + c) * (double)rows->row_scale[r]);
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

            if (!is_inside && !isnan(get(all, tensor_row_offset(all, r) + c)))
                touched++;
        }
    kernel_expect(check, touched == 0, "%s: %lld elements around the product are as they were",
                  label, (long long)touched);
}

/* Layers side by side into a part of a wider buffer, whose samples may be further apart. */
static void check_product(struct kernel_check *check, struct product_shape s, int count,
                          bool scales_rows, bool has_bias, bool is_uneven)
{
    struct tensor x = make_rows(check, s, scales_rows ? (int)s.depth : 0);
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
        layers[i] = make_layer(check, DTYPE_F8_E4M3, s.columns, s.depth, scales_rows ^ (i == 1),
                               has_bias ^ (i == 2));
    if (count == 1)
        check->fast.linear(check->stream, &out, &x, layers);
    else
        op_linears(&check->fast, check->stream, &out, &x, layers, count);
    finish(check);
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
    struct tensor x = make_rows(check, s, 0);
    struct tensor like = KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens + MORE_TOKENS,
                                       3 * s.columns + 2 * MARGIN);
    struct tensor all_got = kernel_like(check, &like), all_want = kernel_like(check, &like);
    struct tensor got = tensor_slice(&all_got, 1, 0, s.tokens);
    struct tensor want = tensor_slice(&all_want, 1, 0, s.tokens);
    struct tensor q_norm = make_factors(check, HEAD_WIDTH, 1.0);
    struct tensor k_norm = make_factors(check, HEAD_WIDTH, 1.0);
    struct linear layers[3];
    char label[96];

    snprintf(label, sizeof label, "normed_qkv B %d T %d C %d", (int)s.batch, (int)s.tokens,
             (int)s.columns);
    got = tensor_slice(&got, 2, MARGIN, 3 * s.columns);
    want = tensor_slice(&want, 2, MARGIN, 3 * s.columns);
    for (int i = 0; i < 3; i++)
        layers[i] = make_layer(check, DTYPE_F8_E4M3, s.columns, s.depth, true, i != 1);
    op_normed_qkv(&check->fast, check->stream, &got, &x, layers, &q_norm, &k_norm, EPSILON);
    op_normed_qkv(&composed, check->stream, &want, &x, layers, &q_norm, &k_norm, EPSILON);
    finish(check);
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
    struct tensor x = make_rows(check, s, 0);
    struct linear layer = make_layer(check, DTYPE_F8_E4M3, s.columns, s.depth, true, true);
    struct tensor hidden = KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens, s.columns);
    struct tensor product = kernel_like(check, &hidden);
    struct tensor factors = KERNEL_TENSOR(check, DTYPE_F32, 0, s.batch * s.tokens);
    struct tensor out = rows_over(&hidden, &factors);
    int64_t wrong = 0;

    op_gelu_linear(&check->fast, check->stream, &out, &hidden, &x, &layer);
    check->fast.linear(check->stream, &product, &x, &layer);
    finish(check);
    for (int64_t r = 0; r < s.batch * s.tokens; r++)
        for (int64_t c = 0; c < s.columns; c++) {
            double v = get(&product, tensor_row_offset(&product, r) + c);
            double want = 0.5 * v * (1.0 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
            double factor = (double)out.row_scale[r];
            double got = get(&out, tensor_row_offset(&out, r) + c) * factor;

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
    struct tensor input = make_rows(check, s, 0);
    struct linear layer = make_layer(check, DTYPE_F8_E4M3, s.columns, s.depth, true, true);
    struct tensor got = KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens, s.columns);
    struct tensor want = kernel_clone(check, &got), delta = kernel_like(check, &got);
    struct tensor gate = KERNEL_TENSOR(check, check->f, 3, s.batch, s.columns);
    struct gated_branch branch = {
        .x = &got, .delta = &delta, .gate = &gate, .input = &input, .layer = &layer};

    op_gated_linear(&check->fast, check->stream, &branch);
    branch.x = &want;
    op_gated_linear(&composed, check->stream, &branch);
    finish(check);
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
    static const struct product_shape shapes[] = {
        {2, 77, 192, 192}, {1, 1024, 192, 192}, {2, 1031, 384, 320}, {2, 1024, 1536, 1536}};

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
    struct tensor x = make_rows(check, s, 0);
    struct tensor like = KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens, 3 * s.columns);
    struct tensor together = kernel_like(check, &like), apart = kernel_like(check, &like);
    struct linear layers[3];

    for (int i = 0; i < 3; i++)
        layers[i] = make_layer(check, DTYPE_F8_E4M3, s.columns, s.depth, i != 1, i != 2);
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
    struct linear layer = make_layer(check, weight_type, s.columns, s.depth, true, true);
    struct tensor x = with_rows ? make_rows(check, s, (int)s.depth)
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

/* --- A chain of ops, as in a block of the transformer --- */

struct chain {
    struct tensor source, x, attended, projected, normed, normed_factors;
    struct tensor scratch, factors, qkv;
    struct tensor shift, scale, gate;
    struct linear layers[3], projection;
};

static struct chain make_chain(struct kernel_check *check, int64_t b, int64_t t, int64_t c)
{
    struct chain chain = {
        .source = KERNEL_TENSOR(check, check->f, 0, b, t, c),
        .x = KERNEL_TENSOR(check, check->f, 0, b, t, c),
        .attended = KERNEL_TENSOR(check, check->f, 0, b, t, c),
        .projected = KERNEL_TENSOR(check, check->f, 0, b, t, c),
        .normed = KERNEL_TENSOR(check, check->f, 0, b, t, c),
        .normed_factors = KERNEL_TENSOR(check, DTYPE_F32, 0, b * t),
        .scratch = KERNEL_TENSOR(check, check->f, 0, b, t, c),
        .factors = KERNEL_TENSOR(check, DTYPE_F32, 0, b * t),
        .qkv = KERNEL_TENSOR(check, check->f, 0, b, t, 3 * c),
        .shift = KERNEL_TENSOR(check, check->f, 0, b, c),
        .scale = KERNEL_TENSOR(check, check->f, 0, b, c),
        .gate = KERNEL_TENSOR(check, check->f, 0, b, c),
        .projection = make_layer(check, DTYPE_F8_E4M3, c, c, true, true),
    };

    for (int i = 0; i < 3; i++)
        chain.layers[i] = make_layer(check, DTYPE_F8_E4M3, c, c, true, true);
    return chain;
}

static void attend(struct kernel_check *check, const struct chain *chain)
{
    struct attention_options options = {.scale = 0.125f};
    struct tensor out = tensor_split(&chain->attended, 2, HEAD_WIDTH);
    struct tensor part[3];

    for (int i = 0; i < 3; i++) {
        int64_t width = chain->x.dim[2];

        part[i] = tensor_slice(&chain->qkv, 2, i * width, width);
        part[i] = tensor_split(&part[i], 2, HEAD_WIDTH);
    }
    check->fast.attention(check->stream, &out, &part[0], &part[1], &part[2], &options);
}

/* The last norm's output, seen as what it is. */
static struct tensor chain_result(struct kernel_check *check, const struct chain *chain,
                                  const struct tensor *normed, const struct tensor *factors)
{
    return op_linear_input(&check->fast, normed, factors->data, chain->layers, 3);
}

#define CHAIN_STEPS 6

static void run_step(struct kernel_check *check, struct chain *chain, int step)
{
    const struct backend_ops *op = &check->fast;
    struct stream *stream = check->stream;
    struct tensor rows =
        op_linear_input(op, &chain->scratch, chain->factors.data, chain->layers, 3);
    struct tensor result = chain_result(check, chain, &chain->normed, &chain->normed_factors);

    switch (step) {
    case 0:
        op->copy(stream, &chain->x, &chain->source);
        break;
    case 1:
        op->modulated_norm(stream, &rows, &chain->x, &chain->shift, &chain->scale, EPSILON);
        break;
    case 2:
        op_linears(op, stream, &chain->qkv, &rows, chain->layers, 3);
        break;
    case 3:
        attend(check, chain);
        break;
    case 4:
        rows = op_as_linear_input(op, stream, &chain->attended, &chain->scratch,
                                  chain->factors.data, &chain->projection, 1);
        op->linear(stream, &chain->projected, &rows, &chain->projection);
        break;
    case 5:
        run_gated_norm(op, stream, &result,
                       &(struct operands){.x = chain->x,
                                          .gate = chain->gate,
                                          .y = chain->projected,
                                          .shift = chain->shift,
                                          .scale = chain->scale});
        break;
    default:
        break;
    }
}

static void run_chain(struct kernel_check *check, struct chain *chain)
{
    for (int step = 0; step < CHAIN_STEPS; step++)
        run_step(check, chain, step);
}

/* Step by step on two branches; branch 1 starts beside branch 0, not after it. */
static void run_on_branches(struct kernel_check *check, struct chain *a, struct chain *b)
{
    for (int step = 0; step < CHAIN_STEPS; step++) {
        op_branch(&check->fast, check->stream, 1);
        run_step(check, b, step);
        op_branch(&check->fast, check->stream, 0);
        run_step(check, a, step);
    }
    op_join(&check->fast, check->stream);
}

struct results {
    struct tensor x, normed, factors;
};

static struct results take_results(struct kernel_check *check, const struct chain *chain)
{
    finish(check);
    return (struct results){
        .x = kernel_clone(check, &chain->x),
        .normed = kernel_clone(check, &chain->normed),
        .factors = kernel_clone(check, &chain->normed_factors),
    };
}

/* So that a chain that does not run is seen. */
static void spoil_results(struct kernel_check *check, struct chain *chain)
{
    struct tensor *results[] = {&chain->x, &chain->normed, &chain->normed_factors, &chain->attended,
                                &chain->projected};

    finish(check);
    for (size_t i = 0; i < COUNT_OF(results); i++)
        kernel_randomise(check, results[i], 0, 1);
}

/* The same bits, whatever the rows lie over. */
static bool rows_are_same(const struct tensor *a, const struct tensor *b)
{
    size_t element = dtype_size(a->dtype), bytes = (size_t)a->dim[a->rank - 1] * element;

    for (int64_t r = 0; r < tensor_row_count(a); r++)
        if (memcmp((char *)a->data + (size_t)tensor_row_offset(a, r) * element,
                   (char *)b->data + (size_t)tensor_row_offset(b, r) * element, bytes) != 0)
            return false;
    return true;
}

static void expect_results(struct kernel_check *check, const struct chain *chain,
                           const struct results *want, const char *label)
{
    struct tensor got_rows = chain_result(check, chain, &chain->normed, &chain->normed_factors);
    struct tensor want_rows = chain_result(check, chain, &want->normed, &want->factors);

    kernel_expect_equal(check, &chain->x, &want->x, "%s, the sum", label);
    kernel_expect(check, rows_are_same(&got_rows, &want_rows), "%s: the norm is the same", label);
    kernel_expect_equal(check, &chain->normed, &chain->normed, "%s, around the norm", label);
    if (got_rows.row_scale)
        kernel_expect_equal(check, &chain->normed_factors, &want->factors, "%s, the factors",
                            label);
}

#define REPETITIONS 20

static void check_branches(struct kernel_check *check)
{
    struct chain a = make_chain(check, 2, 333, 384), b = make_chain(check, 1, 429, 192);
    struct results want_a, want_b;
    struct recording *recording;

    run_chain(check, &a);
    run_chain(check, &b);
    want_a = take_results(check, &a);
    want_b = take_results(check, &b);
    for (int i = 0; i < REPETITIONS; i++) {
        spoil_results(check, &a);
        spoil_results(check, &b);
        run_on_branches(check, &a, &b);
        finish(check);
        expect_results(check, &a, &want_a, "branch 0");
        expect_results(check, &b, &want_b, "branch 1");
    }
    /* kernel_check makes every launch wait; only a recording's branches run at the same time. */
    check->fast.record_begin(check->stream);
    run_on_branches(check, &a, &b);
    recording = check->fast.record_end(check->stream);
    finish(check);
    kernel_expect(check, recording, "branches are recorded");
    for (int i = 0; i < REPETITIONS && recording; i++) {
        spoil_results(check, &a);
        spoil_results(check, &b);
        check->fast.replay(check->stream, recording);
        finish(check);
        expect_results(check, &a, &want_a, "branch 0, replayed");
        expect_results(check, &b, &want_b, "branch 1, replayed");
    }
    check->fast.recording_free(recording);
    kernel_release(check);
}

static void check_recording(struct kernel_check *check, int64_t b, int64_t t, int64_t c)
{
    struct chain chain = make_chain(check, b, t, c);
    struct results before;
    struct recording *recording;

    run_chain(check, &chain);
    before = take_results(check, &chain);
    spoil_results(check, &chain);
    before.x = kernel_clone(check, &chain.x);
    check->fast.record_begin(check->stream);
    run_chain(check, &chain);
    recording = check->fast.record_end(check->stream);
    finish(check);
    kernel_expect(check, recording, "a chain is recorded");
    kernel_expect_equal(check, &chain.x, &before.x, "recording runs nothing");
    for (int i = 0; i < 4 && recording; i++) {
        struct results want;

        kernel_randomise(check, &chain.source, 0.1 * i, 1 + i);
        kernel_randomise(check, &chain.shift, 0, 1);
        run_chain(check, &chain);
        want = take_results(check, &chain);
        spoil_results(check, &chain);
        check->fast.replay(check->stream, recording);
        finish(check);
        expect_results(check, &chain, &want, "replayed with other input");
    }
    check->fast.recording_free(recording);
    kernel_release(check);
}

/* What was never met before cannot be recorded, and leaves the stream usable. */
static void check_recording_of_new(struct kernel_check *check)
{
    struct linear layer = make_layer(check, DTYPE_BF16, 80, 48, false, true);
    struct tensor x = KERNEL_TENSOR(check, check->f, 0, 1, 21, 48);
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, 1, 21, 80);
    struct recording *recording;
    struct error err = {0};

    check->fast.record_begin(check->stream);
    check->fast.linear(check->stream, &out, &x, &layer);
    recording = check->fast.record_end(check->stream);
    kernel_expect(check, !recording, "weights that nothing used before are not recorded");
    kernel_expect(check, check->fast.stream_finish(check->stream, &err),
                  "which is no failure of the stream");
    check->fast.recording_free(recording);
    check->fast.linear(check->stream, &out, &x, &layer);
    finish(check);
    kernel_release(check);
}

/* --- Held weights --- */

static void run_held(struct kernel_check *check, const struct weight_request *requests,
                     const struct tensor *x, struct tensor out[2])
{
    check->fast.linear(check->stream, &out[0], x, requests[0].layers);
    op_linears(&check->fast, check->stream, &out[1], x, requests[1].layers, requests[1].count);
    finish(check);
}

static void check_held_weights(struct kernel_check *check, enum dtype dtype, int64_t depth,
                               int64_t columns)
{
    struct linear single = make_layer(check, dtype, columns, depth, true, true), layers[3];
    struct weight_request requests[2] = {{.layers = &single, .count = 1},
                                         {.layers = layers, .count = 3}};
    struct tensor x = dtype == DTYPE_F8_E4M3 && multiplies_rows(check)
                          ? make_rows(check, (struct product_shape){2, 77, depth, columns}, 0)
                          : KERNEL_TENSOR(check, check->f, 0, 2, 77, depth);
    struct tensor one = KERNEL_TENSOR(check, check->f, 0, 2, 77, columns);
    struct tensor three = KERNEL_TENSOR(check, check->f, 0, 2, 77, 3 * columns);
    struct tensor want[2] = {kernel_like(check, &one), kernel_like(check, &three)};
    struct held_weights *held = NULL;
    struct error err = {0};
    size_t element = dtype == DTYPE_F8_E4M3 ? 1 : dtype_size(check->f);

    for (int i = 0; i < 3; i++)
        layers[i] = make_layer(check, dtype, columns, depth, i != 1, i != 2);
    kernel_expect(check,
                  check->fast.weights_bytes(requests, 2) >= 4 * (size_t)(columns * depth) * element,
                  "held weights of %s take their bytes", dtype_name(dtype));
    run_held(check, requests, &x, want);
    for (int turn = 0; turn < 2; turn++) {
        struct tensor with[2] = {kernel_like(check, &one), kernel_like(check, &three)};
        struct tensor without[2] = {kernel_like(check, &one), kernel_like(check, &three)};

        /* Copies that ops made would serve on. */
        check->plugin->forget_weights(check->stream);
        kernel_expect(check,
                      check->fast.weights_hold(check->stream, &held, requests, 2, &err) && held,
                      "weights of %s are held: %s", dtype_name(dtype), err.message);
        run_held(check, requests, &x, with);
        check->fast.weights_drop(check->stream, held);
        held = NULL;
        run_held(check, requests, &x, without);
        for (int i = 0; i < 2; i++) {
            kernel_expect_equal(check, &with[i], &want[i], "held weights of %s, %d layers",
                                dtype_name(dtype), requests[i].count);
            kernel_expect_equal(check, &without[i], &want[i], "dropped weights of %s, %d layers",
                                dtype_name(dtype), requests[i].count);
        }
    }
    kernel_release(check);
}

/* --- Attention --- */

static struct tensor attention_part(const struct tensor *fused, int64_t index)
{
    int64_t width = fused->dim[2] / 3;
    struct tensor third = tensor_slice(fused, 2, index * width, width);

    return tensor_split(&third, 2, HEAD_WIDTH);
}

/* RMS-normed queries and keys, and what their scores cannot exceed: joint_block.c. */
static float norm_part(struct kernel_check *check, struct tensor *q, struct tensor *k,
                       double spread)
{
    struct tensor q_weight = KERNEL_TENSOR(check, DTYPE_F32, 0, HEAD_WIDTH);
    struct tensor k_weight = KERNEL_TENSOR(check, DTYPE_F32, 0, HEAD_WIDTH);
    double largest = 0.0;

    kernel_randomise(check, &q_weight, 1.0, spread);
    kernel_randomise(check, &k_weight, 1.0, spread);
    check->ref->rms_norm(check->ref_stream, q, q, &q_weight, EPSILON);
    check->ref->rms_norm(check->ref_stream, k, k, &k_weight, EPSILON);
    for (int64_t i = 0; i < HEAD_WIDTH; i++)
        largest = fmax(largest, fabs(kernel_get(&q_weight, i) * kernel_get(&k_weight, i)));
    return (float)(1.01 * sqrt(HEAD_WIDTH) * largest);
}

/* With a small spread the bound is small enough to do without a running maximum; with a large one
 * it is not. */
static void check_attention(struct kernel_check *check, int64_t tokens, double spread)
{
    struct tensor fused = KERNEL_TENSOR(check, check->f, 0, 2, tokens, 3 * 3 * HEAD_WIDTH);
    struct tensor q = attention_part(&fused, 0), k = attention_part(&fused, 1);
    struct tensor v = attention_part(&fused, 2);
    struct tensor like = KERNEL_TENSOR(check, check->f, 0, 2, tokens, 3, HEAD_WIDTH);
    struct tensor want = kernel_like(check, &like);
    float limits[2] = {norm_part(check, &q, &k, spread), 0.0f};

    for (size_t i = 0; i < COUNT_OF(limits); i++) {
        struct attention_options options = {.scale = 0.125f, .score_limit = limits[i]};
        struct tensor got = kernel_like(check, &like);

        if (i == 0)
            check->ref->attention(check->ref_stream, &want, &q, &k, &v, &options);
        check->fast.attention(check->stream, &got, &q, &k, &v, &options);
        kernel_expect_close(check, &got, &want,
                            check->f == DTYPE_F32 ? kernel_tolerance(check->f, HEAD_WIDTH) * 60
                                                  : 2.0 * kernel_tolerance(check->f, HEAD_WIDTH),
                            "attention [2, %d, 3, 64] with scores up to %g", (int)tokens,
                            (double)limits[i]);
    }
    kernel_release(check);
}

/* --- Streams that failed or were cancelled --- */

static void check_failures(struct kernel_check *check)
{
    enum dtype other = check->f == DTYPE_F16 ? DTYPE_F32 : DTYPE_F16;
    struct linear layer = make_layer(check, DTYPE_BF16, 64, 64, false, true);
    struct tensor wrong = KERNEL_TENSOR(check, other, 0, 1, 16, 64);
    struct tensor x = KERNEL_TENSOR(check, check->f, 0, 1, 16, 64);
    struct tensor out = kernel_like(check, &x), untouched = kernel_like(check, &x);
    struct error err = {0};
    atomic_bool cancel = true;

    check->fast.linear(check->stream, &out, &wrong, &layer);
    check->fast.add(check->stream, &out, &x, &x); /* skipped */
    kernel_expect(check, !check->fast.stream_finish(check->stream, &err),
                  "an op that cannot be done fails the stream");
    kernel_expect(check, err.code == ERROR_BACKEND && err.message[0], "with a sentence");
    kernel_expect_equal(check, &out, &untouched, "a failed stream skips what follows");
    check->fast.stream_watch(check->stream, &cancel);
    check->fast.add(check->stream, &out, &x, &x);
    kernel_expect(check,
                  !check->fast.stream_finish(check->stream, &err) && err.code == ERROR_CANCELLED,
                  "a cancelled stream says so");
    atomic_store(&cancel, false);
    kernel_expect_equal(check, &out, &untouched, "a cancelled stream skips ops");
    check->fast.add(check->stream, &out, &x, &x);
    finish(check);
    check->ref->add(check->ref_stream, &untouched, &x, &x);
    kernel_expect_equal(check, &out, &untouched, "the stream works again");
    check->fast.stream_watch(check->stream, NULL);
    check->fast.linear(check->stream, &out, &x, &layer);
    finish(check);
    kernel_release(check);
}

static void check_rows(struct kernel_check *check)
{
    if (!check->plugin)
        return;
    check_failures(check);
    check_rows_ops(check);
    check_odd_rows_in_place(check);
    if (multiplies_rows(check)) {
        check_products(check);
        check_fused(check);
        check_side_by_side(check, (struct product_shape){2, 77, 192, 64});
        check_side_by_side(check, (struct product_shape){2, 333, 1536, 1536});
        check_side_by_side(check, (struct product_shape){1, 1024, 2432, 2432});
        check_samples_alone(check, true);
    }
    check_samples_alone(check, false);
    check_branches(check);
    check_recording(check, 2, 333, 384);
    check_recording(check, 1, 1024, 1536);
    check_recording_of_new(check);
    check_held_weights(check, DTYPE_F8_E4M3, 192, 64);
    check_held_weights(check, DTYPE_F8_E4M3, 1536, 1536);
    check_held_weights(check, DTYPE_BF16, 200, 72);
    check_attention(check, 429, 0.2);
    check_attention(check, 429, 3.0);
    check_attention(check, 77, 0.2);
}

int main(int argc, char **argv)
{
    bool has_device = false;

    for (int i = 1; i < argc; i++)
        has_device = has_device || strcmp(argv[i], "--device") == 0;
    if (!has_device) {
        printf("SKIPPED: rows of 8 bits and recordings are a device's\n");
        return 0;
    }
    return kernel_check_main(argc, argv, check_rows, check_rows);
}
