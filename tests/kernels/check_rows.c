/* Rows of 8 bits with a factor each, which only devices write. Run with --device cuda. */
#include <math.h>
#include <stdio.h>

#include "device_check.h"

#define E4M3_LARGEST 448.0

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
    struct gated_norm gated; /* whose x and y serve the others too */
    struct tensor weight, bias;
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
        .gated.x = KERNEL_TENSOR(check, check->f, s.pad, s.batch, s.tokens, s.width),
        .gated.y = KERNEL_TENSOR(check, check->f, s.pad, s.batch, s.tokens, s.width),
        .gated.gate = KERNEL_TENSOR(check, check->f, s.pad, s.batch, s.width),
        .gated.shift = KERNEL_TENSOR(check, check->f, s.pad, s.batch, s.width),
        .gated.scale = KERNEL_TENSOR(check, check->f, s.pad, s.batch, s.width),
        .weight = KERNEL_TENSOR(check, DTYPE_F32, 0, s.width),
        .bias = KERNEL_TENSOR(check, DTYPE_F32, 0, s.width),
    };

    for (int64_t r = 0; r < s.batch * s.tokens; r++) {
        int64_t at = tensor_row_offset(&in.gated.x, r);

        for (int64_t c = 0; c < s.width; c++)
            dtype_store(in.gated.x.dtype, in.gated.x.data, at + c,
                        (float)(device_get(&in.gated.x, at + c) * spreads[r % 4]));
    }
    return in;
}

static void run_rows_op(const struct backend_ops *op, struct stream *stream, enum rows_op kind,
                        struct tensor *out, struct operands *in)
{
    switch (kind) {
    case ROWS_COPY:
        op->copy(stream, out, &in->gated.x);
        break;
    case ROWS_GELU_TANH:
        op->gelu(stream, out, &in->gated.x, GELU_TANH);
        break;
    case ROWS_GELU_ERF:
        op->gelu(stream, out, &in->gated.x, GELU_ERF);
        break;
    case ROWS_GELU_QUICK:
        op->gelu(stream, out, &in->gated.x, GELU_QUICK);
        break;
    case ROWS_GATED_GELU:
        op->gated_gelu(stream, out, &in->gated.x, &in->gated.y);
        break;
    case ROWS_LAYER_NORM:
        op->layer_norm(stream, out, &in->gated.x, &in->weight, &in->bias, EPSILON);
        break;
    case ROWS_RMS_NORM:
        op->rms_norm(stream, out, &in->gated.x, &in->weight, EPSILON);
        break;
    case ROWS_MODULATED_NORM:
        op->modulated_norm(stream, out, &in->gated.x, &in->gated.shift, &in->gated.scale, EPSILON);
        break;
    case ROWS_GATED_MODULATED_NORM:
        device_gated_norm(op, stream, out, &in->gated);
        break;
    case ROWS_OPS:
        break;
    }
}

#define TINY 1e-35 /* in F32 the inverse of the factor of smaller ones would be infinite */

struct row_size {
    double largest, usual;
};

static struct row_size size_of_row(const struct tensor *want, int64_t row)
{
    int64_t width = want->dim[want->rank - 1], at = tensor_row_offset(want, row);
    struct row_size size = {0};

    for (int64_t c = 0; c < width; c++) {
        double w = device_get(want, at + c);

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

static bool factor_is(double factor, double largest)
{
    return fabs(factor - largest / E4M3_LARGEST) <= 0.01 * largest / E4M3_LARGEST;
}

/* backend.h: 1 / 448 for zeros; numbers below TINY may count as it, or as zeros. */
static bool factor_is_right(double factor, double largest)
{
    if (largest == 0)
        return factor_is(factor, 1.0);
    return factor_is(factor, largest) ||
           (largest < TINY && (factor_is(factor, TINY) || factor_is(factor, 1.0)));
}

/* The row's factor is its largest magnitude / 448, and each element, which the op may have got
 * wrong by `own` of its size, is the nearest of E4M3. False with the first fault's text. */
static bool row_is_right(const struct tensor *got, const struct tensor *want, int64_t row,
                         double own, char *text, size_t text_size)
{
    int64_t from = tensor_row_offset(got, row), to = tensor_row_offset(want, row);
    struct row_size size = size_of_row(want, row);
    double factor = (double)got->row_scale[row];

    if (!factor_is_right(factor, size.largest)) {
        snprintf(text, text_size, "row %d has the factor %g, wanted %g", (int)row, factor,
                 size.largest / E4M3_LARGEST);
        return false;
    }
    for (int64_t c = 0; c < want->dim[want->rank - 1]; c++) {
        double w = device_get(want, to + c), g = device_get(got, from + c) * factor;
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

    device_finish(check);
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
    struct tensor factors = device_factors(check, s.batch * s.tokens, 1.0);
    struct tensor want = KERNEL_TENSOR(check, DTYPE_F32, 0, s.batch, s.tokens, s.width);
    struct tensor out, memory, got_factors = kernel_like(check, &factors);
    struct tensor sum = kernel_like(check, &in.gated.x);
    double own = kind == ROWS_COPY ? 0x1p-20 : kernel_function_tolerance(check, 1e-5);
    char label[96];

    snprintf(label, sizeof label, "%s [%d, %d, %d] pad %d%s", rows_op_names[kind], (int)s.batch,
             (int)s.tokens, (int)s.width, s.pad, lies_over_f ? ", over f" : "");
    if (lies_over_f) {
        memory = allows_in_place(kind) ? in.gated.x : kernel_like(check, &in.gated.x);
        out = device_rows_over(&memory, &got_factors);
    } else {
        memory = KERNEL_TENSOR(check, DTYPE_F8_E4M3, s.pad, s.batch, s.tokens, s.width);
        memory = out = kernel_like(check, &memory);
        out.row_scale = got_factors.data;
    }
    if (kind == ROWS_GATED_MODULATED_NORM) /* what is normed is the sum after its rounding */
        check->ref->gated_add(check->ref_stream, &sum, &in.gated.x, &in.gated.gate, &in.gated.y);
    else
        run_rows_op(check->ref, check->ref_stream, kind, &want, &in);
    run_rows_op(&check->fast, check->stream, kind, &out, &in);
    if (kind == ROWS_GATED_MODULATED_NORM) {
        kernel_expect_close(check, &in.gated.x, &sum, kernel_tolerance(check->f, 2), "%s, the sum",
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

static void check_rows(struct kernel_check *check)
{
    if (!check->plugin)
        return;
    check_rows_ops(check);
    check_odd_rows_in_place(check);
}

int main(int argc, char **argv)
{
    return device_check_main(argc, argv, check_rows, "rows of 8 bits");
}
