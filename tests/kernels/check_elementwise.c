#include <math.h>
#include <stdio.h>

#include "kernel_check.h"

/* What the vector exponentials, tanh and erf may be off by, where results are about 1. */
#define FUNCTION_ERROR 1e-6

struct shape {
    int64_t batch, tokens, width;
    int pad;
};

static const struct shape shapes[] = {
    {1, 1, 1, 0},  {1, 2, 13, 0},   {2, 3, 63, 5},    {2, 5, 65, 0},
    {3, 7, 77, 1}, {1, 333, 16, 3}, {2, 33, 1536, 0}, {1, 1, 70001, 0},
};

static struct tensor make(struct kernel_check *check, struct shape s)
{
    return KERNEL_TENSOR(check, check->f, s.pad, s.batch, s.tokens, s.width);
}

/* --- Arithmetic --- */

static void check_sums(struct kernel_check *check, struct shape s)
{
    struct tensor x = make(check, s), y = make(check, s), mask = make(check, s);
    struct tensor gate = KERNEL_TENSOR(check, check->f, 2, s.batch, s.width);
    struct tensor want = kernel_like(check, &x), got = kernel_like(check, &x);
    double tolerance = kernel_tolerance(check->f, 2);
    int width = (int)s.width;

    check->ref->add(check->ref_stream, &want, &x, &y);
    check->fast.add(check->stream, &got, &x, &y);
    kernel_expect_equal(check, &got, &want, "add width %d", width);

    check->ref->scale_add(check->ref_stream, &want, 0.3f, &x, -1.7f, &y);
    check->fast.scale_add(check->stream, &got, 0.3f, &x, -1.7f, &y);
    kernel_expect_close(check, &got, &want, tolerance, "scale_add width %d", width);

    check->ref->gated_add(check->ref_stream, &want, &x, &gate, &y);
    check->fast.gated_add(check->stream, &got, &x, &gate, &y);
    kernel_expect_close(check, &got, &want, tolerance, "gated_add width %d", width);

    mask.stride[1] = 0;
    check->ref->mask_blend(check->ref_stream, &want, &mask, &x, &y);
    check->fast.mask_blend(check->stream, &got, &mask, &x, &y);
    kernel_expect_close(check, &got, &want, tolerance, "mask_blend width %d", width);

    check->ref->gated_add(check->ref_stream, &want, &x, &gate, &y);
    check->fast.gated_add(check->stream, &x, &x, &gate, &y);
    kernel_expect_close(check, &x, &want, tolerance, "gated_add in place, width %d", width);
    kernel_release(check);
}

static void check_functions(struct kernel_check *check, struct shape s)
{
    static const enum gelu_kind kinds[] = {GELU_TANH, GELU_ERF, GELU_QUICK};
    struct tensor x = make(check, s), up = make(check, s);
    struct tensor want = kernel_like(check, &x), got = kernel_like(check, &x);

    kernel_randomise(check, &x, 0, 4);
    kernel_put(&x, 0, 2.5); /* so that results of about 1 are among them */
    check->ref->silu(check->ref_stream, &want, &x);
    check->fast.silu(check->stream, &got, &x);
    kernel_expect_close(check, &got, &want, kernel_function_tolerance(check, FUNCTION_ERROR),
                        "silu width %d", (int)s.width);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        check->ref->gelu(check->ref_stream, &want, &x, kinds[i]);
        check->fast.gelu(check->stream, &got, &x, kinds[i]);
        kernel_expect_close(check, &got, &want, kernel_function_tolerance(check, FUNCTION_ERROR),
                            "gelu kind %d width %d", (int)kinds[i], (int)s.width);
    }
    kernel_put(&up, 0, 1.0);
    check->ref->gated_gelu(check->ref_stream, &want, &x, &up);
    check->fast.gated_gelu(check->stream, &got, &x, &up);
    kernel_expect_close(check, &got, &want, kernel_function_tolerance(check, FUNCTION_ERROR),
                        "gated_gelu width %d", (int)s.width);
    kernel_release(check);
}

/* The functions where they are flat, steep, and far beyond any activation. */
static void check_function_ends(struct kernel_check *check)
{
    static const float ends[] = {0.0f,  -0.0f,  1e-30f, -1e-30f, 1e-4f, 20.0f, -20.0f,
                                 89.0f, -89.0f, 300.0f, -300.0f, 1e4f,  -1e4f};
    struct tensor x = KERNEL_TENSOR(check, check->f, 0, COUNT_OF(ends));
    struct tensor want = kernel_like(check, &x), got = kernel_like(check, &x);

    for (int64_t i = 0; i < x.dim[0]; i++)
        kernel_put(&x, i, (double)ends[i]);
    check->ref->silu(check->ref_stream, &want, &x);
    check->fast.silu(check->stream, &got, &x);
    kernel_expect_close(check, &got, &want, kernel_function_tolerance(check, 1e-9),
                        "silu of extremes");
    for (int kind = GELU_TANH; kind <= GELU_QUICK; kind++) {
        check->ref->gelu(check->ref_stream, &want, &x, (enum gelu_kind)kind);
        check->fast.gelu(check->stream, &got, &x, (enum gelu_kind)kind);
        kernel_expect_close(check, &got, &want, kernel_function_tolerance(check, 1e-9),
                            "gelu kind %d of extremes", kind);
    }
    kernel_put(&x, 3, NAN);
    check->fast.silu(check->stream, &got, &x);
    kernel_expect(check, isnan(kernel_get(&got, 3)), "silu keeps NaN");
    check->fast.gelu(check->stream, &got, &x, GELU_TANH);
    kernel_expect(check, isnan(kernel_get(&got, 3)), "gelu keeps NaN");
    kernel_release(check);
}

/* --- Copies --- */

static void expect_copy(struct kernel_check *check, enum dtype to, const struct tensor *out_view,
                        const struct tensor *x, const char *what)
{
    struct tensor shape = *out_view, want, got;

    shape.dtype = to;
    want = kernel_like(check, &shape);
    got = kernel_like(check, &shape);
    check->ref->copy(check->ref_stream, &want, x);
    check->fast.copy(check->stream, &got, x);
    kernel_expect_equal(check, &got, &want, "copy %s to %s, %s", dtype_name(x->dtype),
                        dtype_name(to), what);
}

static void check_conversions(struct kernel_check *check)
{
    for (int from = 0; from < DTYPE_COUNT; from++)
        for (int to = 0; to < DTYPE_COUNT; to++)
            for (int64_t width = 1; width < 80; width += 13) {
                struct tensor x = KERNEL_TENSOR(check, (enum dtype)from, 3, 3, 4, width);

                expect_copy(check, (enum dtype)to, &x, &x, "row by row");
                kernel_release(check);
            }
}

/* Every bit pattern of the small types: infinities, NaN and the smallest numbers too. */
static void check_all_values(struct kernel_check *check)
{
    static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16, DTYPE_F8_E4M3, DTYPE_F8_E5M2};

    for (size_t t = 0; t < COUNT_OF(types); t++) {
        size_t size = dtype_size(types[t]);
        struct tensor x = KERNEL_TENSOR(check, types[t], 0, size == 1 ? 256 : 65536);

        for (uint32_t bits = 0; bits < (uint32_t)x.dim[0]; bits++) {
            ((unsigned char *)x.data)[bits * size] = (unsigned char)bits;
            if (size == 2)
                ((unsigned char *)x.data)[bits * size + 1] = (unsigned char)(bits >> 8);
        }
        expect_copy(check, DTYPE_F32, &x, &x, "every value");
        kernel_release(check);
    }
}

static void check_orders(struct kernel_check *check)
{
    static const int orders[][4] = {{0, 1, 2, 3}, {0, 2, 3, 1}, {0, 3, 1, 2}, {3, 2, 1, 0},
                                    {1, 0, 2, 3}, {0, 1, 3, 2}, {2, 3, 0, 1}};
    static const int64_t sizes[][4] = {
        {2, 3, 65, 33}, {1, 70, 13, 77}, {2, 1, 63, 5}, {1, 16, 32, 1}, {2, 300, 3, 67}};

    for (size_t s = 0; s < COUNT_OF(sizes); s++)
        for (size_t o = 0; o < COUNT_OF(orders); o++)
            for (int pad = 0; pad <= 3; pad += 3) {
                struct tensor x = kernel_tensor(check, DTYPE_F32, pad, 4, sizes[s]);
                struct tensor view = tensor_permute(&x, orders[o]);
                struct tensor out =
                    kernel_tensor(check, DTYPE_F32, pad, 4, (const int64_t *)view.dim);
                struct tensor back = kernel_like(check, &x);
                struct tensor back_view = tensor_permute(&back, orders[o]);
                char what[64];

                snprintf(what, sizeof what, "order %d %d %d %d of size %d", orders[o][0],
                         orders[o][1], orders[o][2], orders[o][3], (int)s);
                expect_copy(check, DTYPE_F32, &out, &view, what);
                expect_copy(check, DTYPE_BF16, &out, &view, what);
                check->fast.copy(check->stream, &out, &view);
                check->fast.copy(check->stream, &back_view, &out);
                kernel_expect_equal(check, &back, &x, "copy back, %s", what);
                kernel_release(check);
            }
}

static void check_repeats_and_steps(struct kernel_check *check)
{
    struct tensor x = KERNEL_TENSOR(check, DTYPE_F32, 0, 4, 66, 10);
    struct tensor out = KERNEL_TENSOR(check, DTYPE_F32, 2, 4, 66, 10);
    struct tensor view = x, every_second = x;

    view.stride[1] = 0;
    expect_copy(check, DTYPE_F32, &out, &view, "repeating rows");
    view.stride[2] = 0;
    expect_copy(check, DTYPE_F32, &out, &view, "repeating elements");
    every_second.dim[2] = 5;
    every_second.stride[2] = 2;
    out = KERNEL_TENSOR(check, DTYPE_F32, 2, 4, 66, 5);
    expect_copy(check, DTYPE_F32, &out, &every_second, "every second element");
    kernel_release(check);
}

static void check_fill(struct kernel_check *check, enum dtype dtype)
{
    struct tensor want = KERNEL_TENSOR(check, dtype, 3, 3, 5, 77);
    struct tensor got = kernel_like(check, &want);

    check->ref->fill(check->ref_stream, &want, 2.5f);
    check->fast.fill(check->stream, &got, 2.5f);
    kernel_expect_equal(check, &got, &want, "fill %s", dtype_name(dtype));
    kernel_release(check);
}

/* --- Pictures --- */

static void check_pictures(struct kernel_check *check)
{
    struct tensor x = KERNEL_TENSOR(check, check->f, 1, 2, 33, 77, 3);
    struct tensor bytes = KERNEL_TENSOR(check, DTYPE_U8, 1, 2, 33, 77, 3);
    struct tensor want = kernel_like(check, &x), got = kernel_like(check, &x);
    struct tensor want_bytes = kernel_like(check, &bytes), got_bytes = kernel_like(check, &bytes);

    kernel_put(&x, 0, -1.0);
    kernel_put(&x, 1, 1.0);
    kernel_put(&x, 2, INFINITY);
    kernel_put(&x, 3, NAN);
    check->ref->rgb_to_bytes(check->ref_stream, &want_bytes, &x);
    check->fast.rgb_to_bytes(check->stream, &got_bytes, &x);
    for (int64_t i = 0; i < tensor_count(&x); i++) {
        double exact = 127.5 * (kernel_get(&x, i) + 1.0);
        /* Where a value lies between two bytes, either will do. */
        bool is_tie = fabs(exact - floor(exact) - 0.5) < 1e-4;
        double off = fabs(kernel_get(&got_bytes, i) - kernel_get(&want_bytes, i));

        if (is_tie && off == 1.0)
            kernel_put(&got_bytes, i, kernel_get(&want_bytes, i));
    }
    kernel_expect_equal(check, &got_bytes, &want_bytes, "rgb_to_bytes");

    check->ref->bytes_to_rgb(check->ref_stream, &want, &bytes);
    check->fast.bytes_to_rgb(check->stream, &got, &bytes);
    kernel_expect_close(check, &got, &want, kernel_tolerance(check->f, 2), "bytes_to_rgb");
    check->fast.rgb_to_bytes(check->stream, &got_bytes, &got);
    kernel_expect_equal(check, &got_bytes, &bytes, "bytes to rgb and back");
    kernel_release(check);
}

static void check_elementwise(struct kernel_check *check)
{
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        check_sums(check, shapes[s]);
        check_functions(check, shapes[s]);
    }
    check_function_ends(check);
    check_conversions(check);
    check_all_values(check);
    check_orders(check);
    check_repeats_and_steps(check);
    for (int dtype = 0; dtype < DTYPE_COUNT; dtype++)
        check_fill(check, (enum dtype)dtype);
    check_pictures(check);
}

/* --- Timing --- */

struct bench_case {
    struct tensor out, x, y, gate;
};

static void run_gated_add(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.gated_add(check->stream, &c->out, &c->x, &c->gate, &c->y);
}

static void run_gelu(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.gelu(check->stream, &c->out, &c->x, GELU_TANH);
}

static void run_gated_gelu(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.gated_gelu(check->stream, &c->out, &c->x, &c->y);
}

static void run_copy(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.copy(check->stream, &c->out, &c->x);
}

static void run_scale_add(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.scale_add(check->stream, &c->out, 0.5f, &c->x, 0.5f, &c->y);
}

static void bench_rows(struct kernel_check *check, int64_t batch, int64_t tokens, int64_t width)
{
    struct bench_case c = {
        .out = KERNEL_TENSOR(check, check->f, 0, batch, tokens, width),
        .x = KERNEL_TENSOR(check, check->f, 0, batch, tokens, width),
        .y = KERNEL_TENSOR(check, check->f, 0, batch, tokens, width),
        .gate = KERNEL_TENSOR(check, check->f, 0, batch, width),
    };
    double bytes = 4.0 * (double)(batch * tokens * width);

    kernel_bench(check, 0, 3 * bytes, run_gated_add, &c, "gated_add [%d, %d, %d]", (int)batch,
                 (int)tokens, (int)width);
    kernel_bench(check, 0, 2 * bytes, run_gelu, &c, "gelu tanh [%d, %d, %d]", (int)batch,
                 (int)tokens, (int)width);
    kernel_bench(check, 0, 3 * bytes, run_gated_gelu, &c, "gated_gelu [%d, %d, %d]", (int)batch,
                 (int)tokens, (int)width);
    kernel_bench(check, 0, 2 * bytes, run_copy, &c, "copy [%d, %d, %d]", (int)batch, (int)tokens,
                 (int)width);
    kernel_bench(check, 0, 3 * bytes, run_scale_add, &c, "scale_add [%d, %d, %d]", (int)batch,
                 (int)tokens, (int)width);
    kernel_release(check);
}

static void bench_transpose(struct kernel_check *check, int64_t channels, int64_t side)
{
    static const int channels_last[] = {0, 2, 3, 1};
    struct tensor planes = KERNEL_TENSOR(check, DTYPE_F32, 0, 1, channels, side, side);
    struct bench_case c = {
        .out = KERNEL_TENSOR(check, DTYPE_F32, 0, 1, side, side, channels),
        .x = tensor_permute(&planes, channels_last),
    };

    kernel_bench(check, 0, 8.0 * (double)(side * side * channels), run_copy, &c,
                 "copy [1, %d, %d, %d], channels to last", (int)channels, (int)side, (int)side);
    kernel_release(check);
}

static void bench_conversion(struct kernel_check *check, enum dtype dtype)
{
    struct bench_case c = {
        .out = KERNEL_TENSOR(check, check->f, 0, 1536, 6144),
        .x = KERNEL_TENSOR(check, dtype, 0, 1536, 6144),
    };

    kernel_bench(check, 0, 1536.0 * 6144.0 * (4.0 + (double)dtype_size(dtype)), run_copy, &c,
                 "copy %s to f32 [1536, 6144]", dtype_name(dtype));
    kernel_release(check);
}

static void bench_elementwise(struct kernel_check *check)
{
    bench_rows(check, 2, 1024, 1536);
    bench_rows(check, 2, 1024, 6144);
    bench_transpose(check, 16, 128);
    bench_transpose(check, 512, 128);
    bench_transpose(check, 3, 1024);
    for (int dtype = DTYPE_F16; dtype <= DTYPE_F8_E5M2; dtype++)
        bench_conversion(check, (enum dtype)dtype);
}

int main(int argc, char **argv)
{
    return kernel_check_main(argc, argv, check_elementwise, bench_elementwise);
}
