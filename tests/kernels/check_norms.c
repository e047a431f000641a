#include <math.h>

#include "kernel_check.h"

#define EPSILON 1e-6f

static const int64_t widths[] = {1, 2, 13, 63, 65, 77, 333, 1536};

/* Rows far from zero: what is left of them after the mean are a few bits. */
struct spot {
    double mean, spread;
};

static const struct spot spots[] = {{0, 1}, {3, 0.5}, {1000, 1}, {-1e5, 10}, {1e5, 0.1}};

/* Rounding x itself moved it by a share of its mean; the reference saw the same x, so only sums
 * and products count. */
static double norm_tolerance(const struct kernel_check *check, int64_t width)
{
    return kernel_tolerance(check->f, width);
}

static void check_layer_norm(struct kernel_check *check, int64_t width, struct spot spot)
{
    struct tensor x = KERNEL_TENSOR(check, check->f, 3, 2, 5, width);
    struct tensor weight = KERNEL_TENSOR(check, DTYPE_F32, 0, width);
    struct tensor bias = KERNEL_TENSOR(check, DTYPE_F32, 0, width);
    struct tensor want = kernel_like(check, &x), got = kernel_like(check, &x), same;

    kernel_randomise(check, &x, spot.mean, spot.spread);
    same = kernel_clone(check, &x);
    check->ref->layer_norm(check->ref_stream, &want, &x, &weight, &bias, EPSILON);
    check->fast.layer_norm(check->stream, &got, &x, &weight, &bias, EPSILON);
    kernel_expect_close(check, &got, &want, norm_tolerance(check, width),
                        "layer_norm width %d mean %g", (int)width, spot.mean);
    check->fast.layer_norm(check->stream, &same, &same, &weight, &bias, EPSILON);
    kernel_expect_equal(check, &same, &got, "layer_norm in place, width %d", (int)width);
    kernel_release(check);
}

static void check_modulated_norm(struct kernel_check *check, int64_t width, struct spot spot)
{
    struct tensor x = KERNEL_TENSOR(check, check->f, 3, 2, 5, width);
    struct tensor modulation = KERNEL_TENSOR(check, check->f, 1, 2, 2 * width);
    struct tensor shift = tensor_slice(&modulation, 1, 0, width);
    struct tensor scale = tensor_slice(&modulation, 1, width, width);
    struct tensor want = kernel_like(check, &x), got = kernel_like(check, &x), same;

    kernel_randomise(check, &x, spot.mean, spot.spread);
    same = kernel_clone(check, &x);
    check->ref->modulated_norm(check->ref_stream, &want, &x, &shift, &scale, EPSILON);
    check->fast.modulated_norm(check->stream, &got, &x, &shift, &scale, EPSILON);
    kernel_expect_close(check, &got, &want, norm_tolerance(check, width),
                        "modulated_norm width %d mean %g", (int)width, spot.mean);
    check->fast.modulated_norm(check->stream, &same, &same, &shift, &scale, EPSILON);
    kernel_expect_equal(check, &same, &got, "modulated_norm in place, width %d", (int)width);
    kernel_release(check);
}

static void check_rms_norm(struct kernel_check *check, int64_t width, struct spot spot)
{
    struct tensor x = KERNEL_TENSOR(check, check->f, 3, 7, width);
    struct tensor weight = KERNEL_TENSOR(check, DTYPE_F32, 0, width);
    struct tensor want = kernel_like(check, &x), got = kernel_like(check, &x);

    kernel_randomise(check, &x, spot.mean, spot.spread);
    check->ref->rms_norm(check->ref_stream, &want, &x, &weight, EPSILON);
    check->fast.rms_norm(check->stream, &got, &x, &weight, EPSILON);
    kernel_expect_close(check, &got, &want, norm_tolerance(check, width),
                        "rms_norm width %d mean %g", (int)width, spot.mean);
    kernel_release(check);
}

/* q inside [B, T, 3 N D], each head by itself and in place: k and v have to stay. */
static void check_rms_norm_of_heads(struct kernel_check *check)
{
    struct tensor want = KERNEL_TENSOR(check, check->f, 2, 2, 333, 3 * 6 * 64);
    struct tensor got = kernel_clone(check, &want);
    struct tensor weight = KERNEL_TENSOR(check, DTYPE_F32, 0, 64);
    struct tensor want_q = tensor_slice(&want, 2, 0, 6 * 64);
    struct tensor got_q = tensor_slice(&got, 2, 0, 6 * 64);

    want_q = tensor_split(&want_q, 2, 64);
    got_q = tensor_split(&got_q, 2, 64);
    check->ref->rms_norm(check->ref_stream, &want_q, &want_q, &weight, EPSILON);
    check->fast.rms_norm(check->stream, &got_q, &got_q, &weight, EPSILON);
    kernel_expect_close(check, &got, &want, norm_tolerance(check, 64),
                        "rms_norm of heads in place");
    kernel_release(check);
}

static void check_group_norm(struct kernel_check *check, int64_t height, int64_t width,
                             int64_t channels, int64_t groups, int pad, struct spot spot)
{
    struct tensor x = KERNEL_TENSOR(check, check->f, pad, 2, height, width, channels);
    struct tensor weight = KERNEL_TENSOR(check, DTYPE_F32, 0, channels);
    struct tensor bias = KERNEL_TENSOR(check, DTYPE_F32, 0, channels);
    struct tensor want_stats = KERNEL_TENSOR(check, DTYPE_F32, 0, 2, groups, 2);
    struct tensor got_stats = kernel_like(check, &want_stats);
    struct tensor want = kernel_like(check, &x), got = kernel_like(check, &x), same;

    kernel_randomise(check, &x, spot.mean, spot.spread);
    check->ref->group_stats(check->ref_stream, &want_stats, &x, EPSILON);
    check->fast.group_stats(check->stream, &got_stats, &x, EPSILON);
    /* A mean counts against the spread around it: that far off it moves no float. */
    for (int64_t i = 0; i < tensor_count(&want_stats); i++) {
        double g = kernel_get(&got_stats, i), w = kernel_get(&want_stats, i);

        kernel_expect(check, fabs(g - w) <= 0x1p-22 * (fabs(w) + (i % 2 ? 0 : spot.spread)),
                      "group_stats [2, %d, %d, %d] / %d mean %g: element %d is %.9g, wanted %.9g",
                      (int)height, (int)width, (int)channels, (int)groups, spot.mean, (int)i, g, w);
    }
    for (int with_silu = 0; with_silu < 2; with_silu++) {
        check->ref->group_norm(check->ref_stream, &want, &x, &want_stats, &weight, &bias,
                               with_silu);
        check->fast.group_norm(check->stream, &got, &x, &want_stats, &weight, &bias, with_silu);
        kernel_expect_close(check, &got, &want, kernel_tolerance(check->f, 4),
                            "group_norm [2, %d, %d, %d] / %d mean %g%s", (int)height, (int)width,
                            (int)channels, (int)groups, spot.mean, with_silu ? ", silu" : "");
    }
    same = kernel_clone(check, &x);
    check->fast.group_norm(check->stream, &same, &same, &want_stats, &weight, &bias, true);
    kernel_expect_equal(check, &same, &got, "group_norm in place");
    kernel_release(check);
}

/* The sums are put together in one order, however many threads make them. */
static void check_stats_for_thread_counts(struct kernel_check *check)
{
    struct tensor x = KERNEL_TENSOR(check, check->f, 0, 1, 77, 65, 64);
    struct tensor want = KERNEL_TENSOR(check, DTYPE_F32, 0, 1, 32, 2);
    struct tensor got = kernel_like(check, &want);
    struct stream_options alone = {.threads = 1};
    struct stream *stream;

    if (!check->fast.stream_create(&stream, &check->fast, &alone, NULL)) {
        kernel_expect(check, false, "a stream with one thread");
        return;
    }
    check->fast.group_stats(stream, &want, &x, EPSILON);
    check->fast.group_stats(check->stream, &got, &x, EPSILON);
    kernel_expect_equal(check, &got, &want, "group_stats with one thread and many");
    check->fast.stream_destroy(stream);
    kernel_release(check);
}

static void check_norms(struct kernel_check *check)
{
    for (size_t s = 0; s < COUNT_OF(spots); s++) {
        for (size_t w = 0; w < COUNT_OF(widths); w++) {
            check_layer_norm(check, widths[w], spots[s]);
            check_modulated_norm(check, widths[w], spots[s]);
            check_rms_norm(check, widths[w], spots[s]);
        }
        check_group_norm(check, 1, 1, 32, 32, 0, spots[s]);
        check_group_norm(check, 5, 7, 24, 3, 4, spots[s]);
        check_group_norm(check, 37, 41, 128, 32, 0, spots[s]);
        check_group_norm(check, 13, 6, 512, 32, 8, spots[s]);
        check_group_norm(check, 3, 3, 2, 1, 0, spots[s]);
    }
    check_rms_norm_of_heads(check);
    check_stats_for_thread_counts(check);
}

struct bench_case {
    struct tensor x, out, weight, bias, shift, scale, stats;
};

static void run_layer_norm(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.layer_norm(check->stream, &c->out, &c->x, &c->weight, &c->bias, EPSILON);
}

static void run_modulated_norm(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.modulated_norm(check->stream, &c->out, &c->x, &c->shift, &c->scale, EPSILON);
}

static void run_rms_norm(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.rms_norm(check->stream, &c->x, &c->x, &c->weight, EPSILON);
}

static void run_group_stats(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.group_stats(check->stream, &c->stats, &c->x, EPSILON);
}

static void run_group_norm(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.group_norm(check->stream, &c->out, &c->x, &c->stats, &c->weight, &c->bias, true);
}

static void bench_rows(struct kernel_check *check, int64_t batch, int64_t tokens, int64_t width)
{
    struct bench_case c = {
        .x = KERNEL_TENSOR(check, check->f, 0, batch, tokens, width),
        .out = KERNEL_TENSOR(check, check->f, 0, batch, tokens, width),
        .weight = KERNEL_TENSOR(check, DTYPE_F32, 0, width),
        .bias = KERNEL_TENSOR(check, DTYPE_F32, 0, width),
        .shift = KERNEL_TENSOR(check, check->f, 0, batch, width),
        .scale = KERNEL_TENSOR(check, check->f, 0, batch, width),
    };
    double bytes = 8.0 * (double)(batch * tokens * width);

    kernel_bench(check, 0, bytes, run_layer_norm, &c, "layer_norm [%d, %d, %d]", (int)batch,
                 (int)tokens, (int)width);
    kernel_bench(check, 0, bytes, run_modulated_norm, &c, "modulated_norm [%d, %d, %d]", (int)batch,
                 (int)tokens, (int)width);
    kernel_bench(check, 0, bytes, run_rms_norm, &c, "rms_norm [%d, %d, %d]", (int)batch,
                 (int)tokens, (int)width);
    kernel_release(check);
}

static void bench_heads(struct kernel_check *check)
{
    struct tensor qkv = KERNEL_TENSOR(check, check->f, 0, 2, 1357, 3 * 24 * 64);
    struct tensor q = tensor_slice(&qkv, 2, 0, 24 * 64);
    struct bench_case c = {
        .x = tensor_split(&q, 2, 64),
        .weight = KERNEL_TENSOR(check, DTYPE_F32, 0, 64),
    };

    kernel_bench(check, 0, 8.0 * 2 * 1357 * 24 * 64, run_rms_norm, &c,
                 "rms_norm of q in [2, 1357, 3 x 24 x 64]");
    kernel_release(check);
}

static void bench_picture(struct kernel_check *check, int64_t side, int64_t channels)
{
    struct bench_case c = {
        .x = KERNEL_TENSOR(check, check->f, 0, 1, side, side, channels),
        .out = KERNEL_TENSOR(check, check->f, 0, 1, side, side, channels),
        .weight = KERNEL_TENSOR(check, DTYPE_F32, 0, channels),
        .bias = KERNEL_TENSOR(check, DTYPE_F32, 0, channels),
        .stats = KERNEL_TENSOR(check, DTYPE_F32, 0, 1, 32, 2),
    };
    double bytes = 4.0 * (double)(side * side * channels);

    kernel_bench(check, 0, bytes, run_group_stats, &c, "group_stats [1, %d, %d, %d]", (int)side,
                 (int)side, (int)channels);
    kernel_bench(check, 0, 2 * bytes, run_group_norm, &c, "group_norm, silu [1, %d, %d, %d]",
                 (int)side, (int)side, (int)channels);
    kernel_release(check);
}

static void bench_norms(struct kernel_check *check)
{
    bench_rows(check, 2, 1024, 1536);
    bench_rows(check, 2, 4096, 2432);
    bench_heads(check);
    bench_picture(check, 64, 512);
    bench_picture(check, 512, 128);
}

int main(int argc, char **argv)
{
    return kernel_check_main(argc, argv, check_norms, bench_norms);
}
