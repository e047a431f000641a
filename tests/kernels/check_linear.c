#include <math.h>

#include "kernel_check.h"

struct shape {
    int64_t batch, tokens, depth, columns;
};

enum scale_kind {
    SCALE_NONE,
    SCALE_ONE,
    SCALE_EACH,
    SCALE_KINDS,
};

static const enum dtype weight_types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8_E4M3,
                                          DTYPE_F8_E5M2};

/* [n, k], `offset` bytes from where it would be aligned, as in a model file. */
static struct tensor make_weight(struct kernel_check *check, enum dtype dtype, int64_t n, int64_t k,
                                 int64_t offset)
{
    int64_t bytes = n * k * (int64_t)dtype_size(dtype) + offset;
    struct tensor memory = KERNEL_TENSOR(check, DTYPE_U8, 0, bytes);
    struct tensor weight = TENSOR_OF((char *)memory.data + offset, dtype, n, k);

    kernel_randomise(check, &weight, 0.5, 1.0);
    return weight;
}

static struct linear make_layer(struct kernel_check *check, struct shape s, enum dtype dtype,
                                int64_t offset, enum scale_kind scale, bool has_bias)
{
    struct linear layer = {.weight = make_weight(check, dtype, s.columns, s.depth, offset)};

    if (scale != SCALE_NONE)
        layer.scale = KERNEL_TENSOR(check, DTYPE_F32, 0, scale == SCALE_ONE ? 1 : s.columns);
    if (has_bias)
        layer.bias = KERNEL_TENSOR(check, DTYPE_F32, 0, s.columns);
    return layer;
}

/* The mean keeps sums of a few products away from 0, where nothing but their rounding is left. */
static struct tensor make_input(struct kernel_check *check, struct shape s, int pad)
{
    struct tensor x = KERNEL_TENSOR(check, check->f, pad, s.batch, s.tokens, s.depth);

    kernel_randomise(check, &x, 0.5, 1.0);
    return x;
}

static void check_case(struct kernel_check *check, struct shape s, enum dtype dtype, int64_t offset,
                       enum scale_kind scale, bool has_bias)
{
    struct linear layer = make_layer(check, s, dtype, offset, scale, has_bias);
    struct tensor x = make_input(check, s, 3);
    struct tensor out = KERNEL_TENSOR(check, check->f, 5, s.batch, s.tokens, s.columns);
    struct tensor want = kernel_like(check, &out), got = kernel_like(check, &out);

    check->ref->linear(check->ref_stream, &want, &x, &layer);
    check->fast.linear(check->stream, &got, &x, &layer);
    kernel_expect_close(check, &got, &want, kernel_product_tolerance(check, s.depth),
                        "linear B %d T %d K %d N %d %s+%d, scale %d%s", (int)s.batch, (int)s.tokens,
                        (int)s.depth, (int)s.columns, dtype_name(dtype), (int)offset, (int)scale,
                        has_bias ? ", bias" : "");
    kernel_release(check);
}

/* Every size that is a tile, a vector or a block, and its neighbours, with kinds in turn. */
static void check_sizes(struct kernel_check *check)
{
    static const int64_t rows[] = {1, 2, 3, 5, 6, 7, 13, 14, 15, 16, 31, 32, 33, 63};
    static const int64_t columns[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 100};
    static const int64_t depths[] = {1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 63, 65, 383, 384, 385};
    int64_t kind = 0;

    for (size_t r = 0; r < COUNT_OF(rows); r++)
        for (size_t c = 0; c < COUNT_OF(columns); c++, kind++) {
            struct shape s = {1 + kind % 2, rows[r], depths[(r + c) % COUNT_OF(depths)],
                              columns[c]};

            check_case(check, s, weight_types[kind % 5], kind % 3, (enum scale_kind)(kind % 3),
                       kind % 4 != 0);
        }
}

static void check_types(struct kernel_check *check)
{
    for (size_t t = 0; t < COUNT_OF(weight_types); t++)
        for (int scale = 0; scale < SCALE_KINDS; scale++)
            for (int64_t offset = 0; offset < 2; offset++)
                check_case(check, (struct shape){2, 29, 150, 70}, weight_types[t], offset,
                           (enum scale_kind)scale, scale != SCALE_ONE);
}

/* Larger than any block, run or task. */
static void check_large(struct kernel_check *check)
{
    check_case(check, (struct shape){2, 333, 1100, 321}, DTYPE_F16, 0, SCALE_NONE, true);
    check_case(check, (struct shape){1, 20, 12000, 40}, DTYPE_F8_E4M3, 1, SCALE_EACH, false);
    check_case(check, (struct shape){2, 1, 1536, 700}, DTYPE_BF16, 1, SCALE_ONE, true);
}

/* More packed rows than the scratch holds at a time: 16 MiB are 1023 rows of 4000. */
static void check_phases(struct kernel_check *check)
{
    check_case(check, (struct shape){2, 560, 4000, 3}, DTYPE_F16, 0, SCALE_NONE, true);
}

/* The third of a fused buffer, and rows that are taken from every second token. */
static void check_views(struct kernel_check *check)
{
    struct shape s = {2, 40, 48, 24};
    struct linear layer = make_layer(check, s, DTYPE_F16, 0, SCALE_NONE, true);
    struct tensor all_x = KERNEL_TENSOR(check, check->f, 0, 2, 80, 48);
    struct tensor all_out = KERNEL_TENSOR(check, check->f, 0, 2, 40, 72);
    struct tensor all_want = kernel_clone(check, &all_out), all_got = kernel_clone(check, &all_out);
    struct tensor x = tensor_split(&all_x, 1, 2);
    struct tensor want = tensor_slice(&all_want, 2, 24, 24);
    struct tensor got = tensor_slice(&all_got, 2, 24, 24);

    x = tensor_slice(&x, 2, 1, 1);
    want = tensor_split(&want, 1, 1);
    got = tensor_split(&got, 1, 1);
    check->ref->linear(check->ref_stream, &want, &x, &layer);
    check->fast.linear(check->stream, &got, &x, &layer);
    kernel_expect_close(check, &all_got, &all_want, kernel_product_tolerance(check, 48),
                        "linear between views");
    kernel_release(check);
}

/* Infinities and NaN of a row stay in that row. */
static void check_not_finite(struct kernel_check *check)
{
    struct shape s = {1, 29, 130, 40};
    struct linear layer = make_layer(check, s, DTYPE_F16, 0, SCALE_NONE, true);
    struct tensor x = make_input(check, s, 0);
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, 1, 29, 40);
    struct tensor want = kernel_like(check, &out), got = kernel_like(check, &out);

    kernel_put(&x, 13 * 130 + 7, (double)INFINITY);
    kernel_put(&x, 15 * 130 + 9, (double)NAN);
    check->ref->linear(check->ref_stream, &want, &x, &layer);
    check->fast.linear(check->stream, &got, &x, &layer);
    for (int64_t i = 0; i < 29 * 40; i++)
        if (isfinite(kernel_get(&want, i)) != isfinite(kernel_get(&got, i))) {
            kernel_expect(check, false, "linear keeps infinity and NaN in their rows");
            break;
        }
    kernel_release(check);
}

/* FP8 is decoded in registers: the result is that of weights that were decoded before. */
static void check_fp8_equals_decoded(struct kernel_check *check)
{
    static const enum dtype types[] = {DTYPE_F8_E4M3, DTYPE_F8_E5M2};
    struct shape s = {2, 37, 260, 75};

    for (size_t t = 0; t < COUNT_OF(types); t++) {
        struct linear layer = make_layer(check, s, types[t], 1, SCALE_EACH, true);
        struct linear decoded = layer;
        struct tensor x = make_input(check, s, 0);
        struct tensor out = KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens, s.columns);
        struct tensor want = kernel_like(check, &out), got = kernel_like(check, &out);

        decoded.weight = KERNEL_TENSOR(check, DTYPE_F32, 0, s.columns, s.depth);
        decoded.scale = (struct tensor){0};
        for (int64_t i = 0; i < s.columns * s.depth; i++)
            kernel_put(&decoded.weight, i,
                       kernel_get(&layer.weight, i) * kernel_get(&layer.scale, i / s.depth));
        check->fast.linear(check->stream, &got, &x, &layer);
        check->fast.linear(check->stream, &want, &x, &decoded);
        kernel_expect_close(check, &got, &want, kernel_product_tolerance(check, s.depth),
                            "linear of %s as if it were decoded", dtype_name(types[t]));
        kernel_release(check);
    }
}

/* A row's result does not depend on what else is in the batch. */
static void check_row_is_independent(struct kernel_check *check)
{
    struct shape s = {1, 700, 900, 130};
    struct linear layer = make_layer(check, s, DTYPE_F8_E4M3, 0, SCALE_EACH, true);
    struct tensor x = make_input(check, s, 0);
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, 1, 700, 130);
    struct tensor together = kernel_like(check, &out), apart = kernel_like(check, &out);
    static const int64_t counts[] = {1, 2, 13, 14, 15, 55, 600};
    int64_t row = 0;

    check->fast.linear(check->stream, &together, &x, &layer);
    for (size_t i = 0; i < COUNT_OF(counts); row += counts[i], i++) {
        struct tensor some = tensor_slice(&apart, 1, row, counts[i]);
        struct tensor some_x = tensor_slice(&x, 1, row, counts[i]);

        check->fast.linear(check->stream, &some, &some_x, &layer);
    }
    kernel_expect_equal(check, &together, &apart, "linear by parts");
    kernel_release(check);
}

/* What linear cannot do is a failure of the stream and nothing worse. */
static void check_unsupported(struct kernel_check *check)
{
    struct shape s = {1, 2, 8, 4};
    struct linear layer = make_layer(check, s, DTYPE_F16, 0, SCALE_NONE, false);
    enum dtype other = check->f == DTYPE_F16 ? DTYPE_F32 : DTYPE_F16;
    struct tensor x = KERNEL_TENSOR(check, other, 0, 1, 2, 8);
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, 1, 2, 4);
    struct error err = {0};

    check->fast.linear(check->stream, &out, &x, &layer);
    kernel_expect(check, !check->fast.stream_finish(check->stream, &err),
                  "linear of f16 activations fails the stream");
    kernel_expect(check, err.code == ERROR_BACKEND, "linear of f16 is the backend's failure");
    kernel_release(check);
}

static void check_linear(struct kernel_check *check)
{
    check_sizes(check);
    check_types(check);
    check_large(check);
    check_phases(check);
    check_views(check);
    check_not_finite(check);
    check_fp8_equals_decoded(check);
    check_row_is_independent(check);
    check_unsupported(check);
}

struct bench_case {
    struct linear layer;
    struct tensor x, out;
};

static void run_case(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.linear(check->stream, &c->out, &c->x, &c->layer);
}

static void bench_shape(struct kernel_check *check, struct shape s, enum dtype dtype,
                        int64_t out_columns)
{
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, s.batch, s.tokens, out_columns);
    struct bench_case c = {
        .layer = make_layer(check, s, dtype, 0, SCALE_NONE, true),
        .x = make_input(check, s, 0),
        .out = tensor_slice(&out, 2, 0, s.columns),
    };
    double weights = (double)(s.depth * s.columns);

    kernel_bench(check, 2.0 * (double)(s.batch * s.tokens) * weights,
                 weights * (double)dtype_size(dtype), run_case, &c, "linear %dx%d K %d N %d %s",
                 (int)s.batch, (int)s.tokens, (int)s.depth, (int)s.columns, dtype_name(dtype));
    kernel_release(check);
}

/* Medium's blocks at 512 x 512 and its text side, CLIP, T5, and modulation. */
static void bench_linear(struct kernel_check *check)
{
    static const struct shape shapes[] = {
        {2, 1024, 1536, 1536}, {2, 333, 1536, 1536}, {2, 1024, 1536, 6144}, {2, 1024, 6144, 1536},
        {2, 333, 1536, 6144},  {2, 333, 6144, 1536}, {2, 77, 768, 3072},    {2, 77, 1280, 5120},
        {1, 1, 1536, 9216},    {1, 2, 1536, 9216},   {1, 56, 1536, 9216},
    };

    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        bench_shape(check, shapes[i], DTYPE_F16, shapes[i].columns);
    bench_shape(check, (struct shape){2, 1024, 1536, 1536}, DTYPE_F16, 4608);
    bench_shape(check, (struct shape){2, 1024, 1536, 1536}, DTYPE_F8_E4M3, 1536);
    bench_shape(check, (struct shape){2, 256, 4096, 4096}, DTYPE_F16, 4096);
    bench_shape(check, (struct shape){2, 256, 4096, 10240}, DTYPE_F8_E4M3, 10240);
    bench_shape(check, (struct shape){2, 256, 10240, 4096}, DTYPE_F8_E4M3, 4096);
}

int main(int argc, char **argv)
{
    return kernel_check_main(argc, argv, check_linear, bench_linear);
}
