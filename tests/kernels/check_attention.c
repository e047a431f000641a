#include <math.h>

#include "kernel_check.h"

#define HEAD_WIDTH 64

struct shape {
    int64_t batch, queries, keys, heads, width;
};

/* q, k, v as the model has them: parts of one tensor [B, T, 3 N D]. */
struct inputs {
    struct tensor q, k, v;
};

static struct tensor part(const struct tensor *fused, int64_t index, int64_t tokens, int64_t heads,
                          int64_t width)
{
    struct tensor third = tensor_slice(fused, 2, index * heads * width, heads * width);

    third = tensor_slice(&third, 1, 0, tokens);
    return tensor_split(&third, 2, width);
}

static struct inputs make_inputs(struct kernel_check *check, struct shape s, double spread)
{
    int64_t tokens = s.queries > s.keys ? s.queries : s.keys;
    struct tensor fused = KERNEL_TENSOR(check, check->f, 5, s.batch, tokens, 3 * s.heads * s.width);

    kernel_randomise(check, &fused, 0, spread);
    return (struct inputs){
        .q = part(&fused, 0, s.queries, s.heads, s.width),
        .k = part(&fused, 1, s.keys, s.heads, s.width),
        .v = part(&fused, 2, s.keys, s.heads, s.width),
    };
}

static void run_fast(struct kernel_check *check, struct tensor *out, const struct inputs *in,
                     const struct attention_options *options)
{
    check->fast.attention(check->stream, out, &in->q, &in->k, &in->v, options);
}

/* A logit is off by its products' roundings, and its exponential by as much relative to itself. */
static double tolerance_for(const struct kernel_check *check, int64_t width, double largest_logit)
{
    if (check->f != DTYPE_F32) /* shares are rounded to 16 bits before they weigh values */
        return 2.0 * kernel_tolerance(check->f, width);
    return kernel_tolerance(DTYPE_F32, width) * (1.0 + largest_logit);
}

static void check_shape(struct kernel_check *check, struct shape s, bool is_causal, bool has_bias)
{
    struct inputs in = make_inputs(check, s, 1.0);
    struct tensor out = KERNEL_TENSOR(check, check->f, 3, s.batch, s.queries, s.heads, s.width);
    struct tensor want = kernel_like(check, &out), got = kernel_like(check, &out);
    struct tensor bias = KERNEL_TENSOR(check, DTYPE_F32, 2, s.heads, s.queries, s.keys);
    struct attention_options options = {
        .scale = 1.0f / sqrtf((float)s.width),
        .is_causal = is_causal,
        .bias = has_bias ? &bias : NULL,
    };

    check->ref->attention(check->ref_stream, &want, &in.q, &in.k, &in.v, &options);
    run_fast(check, &got, &in, &options);
    kernel_expect_close(check, &got, &want, tolerance_for(check, s.width, 6.0),
                        "attention B %d Tq %d Tk %d N %d D %d%s%s", (int)s.batch, (int)s.queries,
                        (int)s.keys, (int)s.heads, (int)s.width, is_causal ? ", causal" : "",
                        has_bias ? ", bias" : "");
    kernel_release(check);
}

static void check_shapes(struct kernel_check *check)
{
    static const struct shape shapes[] = {
        {1, 1, 1, 1, 8},     {2, 2, 2, 3, 16},   {1, 13, 13, 1, 64},   {1, 63, 63, 3, 64},
        {2, 65, 65, 1, 64},  {1, 77, 77, 3, 80}, {1, 333, 333, 1, 64}, {1, 129, 129, 1, 512},
        {1, 14, 300, 1, 40}, {1, 50, 7, 2, 64},  {1, 1, 333, 1, 64},   {1, 65, 65, 1, 130},
        {3, 28, 128, 1, 32}, {1, 15, 257, 1, 1},
    };

    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        for (int kind = 0; kind < 4; kind++) {
            bool is_causal = kind & 1;

            if (!is_causal || shapes[i].queries == shapes[i].keys)
                check_shape(check, shapes[i], is_causal, kind & 2);
        }
}

/* Logits of +-10000: all but the largest weigh nothing, and nothing overflows. */
static void check_huge_logits(struct kernel_check *check)
{
    struct inputs in = make_inputs(check, (struct shape){1, 65, 333, 2, 64}, 1.0);
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, 1, 65, 2, 64);
    struct tensor want = kernel_like(check, &out), got = kernel_like(check, &out);
    struct tensor bias = KERNEL_TENSOR(check, DTYPE_F32, 0, 2, 65, 333);
    struct attention_options options = {.scale = 0.125f, .bias = &bias};

    for (int64_t i = 0; i < tensor_count(&bias); i++)
        kernel_put(&bias, i, kernel_random_index(check, 2) ? 1e4 : -1e4);
    check->ref->attention(check->ref_stream, &want, &in.q, &in.k, &in.v, &options);
    run_fast(check, &got, &in, &options);
    /* Floats near 10000 are 0.001 apart. */
    kernel_expect_close(check, &got, &want, 5e-3 + kernel_tolerance(check->f, 64),
                        "attention with logits of +-10000");

    options = (struct attention_options){.scale = 1000.0f};
    run_fast(check, &got, &in, &options);
    for (int64_t i = 0; i < tensor_count(&got); i++)
        if (!isfinite(kernel_get(&got, i))) {
            kernel_expect(check, false, "attention with a scale of 1000 stays finite");
            break;
        }
    kernel_release(check);
}

/* A bias of -infinity hides keys, also when it hides all of the first block. */
static void check_hidden_keys(struct kernel_check *check)
{
    struct inputs in = make_inputs(check, (struct shape){1, 20, 300, 1, 64}, 1.0);
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, 1, 20, 1, 64);
    struct tensor want = kernel_like(check, &out), got = kernel_like(check, &out);
    struct tensor bias = KERNEL_TENSOR(check, DTYPE_F32, 0, 1, 20, 300);
    struct attention_options options = {.scale = 0.125f, .bias = &bias};

    for (int64_t i = 0; i < tensor_count(&bias); i++)
        if (i % 300 < 200)
            kernel_put(&bias, i, -INFINITY);
    check->ref->attention(check->ref_stream, &want, &in.q, &in.k, &in.v, &options);
    run_fast(check, &got, &in, &options);
    kernel_expect_close(check, &got, &want, tolerance_for(check, 64, 6.0),
                        "attention with hidden keys");
    kernel_release(check);
}

/* A row's result does not depend on what else is in the batch, nor on how the work was divided. */
static void check_row_is_independent(struct kernel_check *check)
{
    struct inputs in = make_inputs(check, (struct shape){3, 333, 333, 4, 64}, 1.0);
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, 3, 333, 4, 64);
    struct tensor together = kernel_like(check, &out), alone = kernel_like(check, &out);
    struct attention_options options = {.scale = 0.125f};

    run_fast(check, &together, &in, &options);
    for (int64_t b = 0; b < 3; b++)
        for (int64_t n = 0; n < 4; n++)
            for (int64_t first = 0; first < 333; first += 111) {
                struct tensor one = tensor_slice(&alone, 0, b, 1);
                struct inputs part = {
                    tensor_slice(&in.q, 0, b, 1),
                    tensor_slice(&in.k, 0, b, 1),
                    tensor_slice(&in.v, 0, b, 1),
                };

                one = tensor_slice(&one, 2, n, 1);
                one = tensor_slice(&one, 1, first, 111);
                part.q = tensor_slice(&part.q, 2, n, 1);
                part.q = tensor_slice(&part.q, 1, first, 111);
                part.k = tensor_slice(&part.k, 2, n, 1);
                part.v = tensor_slice(&part.v, 2, n, 1);
                run_fast(check, &one, &part, &options);
            }
    kernel_expect_equal(check, &together, &alone, "attention by parts");
    kernel_release(check);
}

/* --- Scores that cannot exceed a limit, of which devices make something --- */

/* RMS-normed queries and keys, and what their scores cannot exceed: joint_block.c. */
static float norm_part(struct kernel_check *check, struct tensor *q, struct tensor *k,
                       double spread)
{
    struct tensor q_weight = KERNEL_TENSOR(check, DTYPE_F32, 0, HEAD_WIDTH);
    struct tensor k_weight = KERNEL_TENSOR(check, DTYPE_F32, 0, HEAD_WIDTH);
    double largest = 0.0;

    kernel_randomise(check, &q_weight, 1.0, spread);
    kernel_randomise(check, &k_weight, 1.0, spread);
    check->ref->rms_norm(check->ref_stream, q, q, &q_weight, 1e-6f);
    check->ref->rms_norm(check->ref_stream, k, k, &k_weight, 1e-6f);
    for (int64_t i = 0; i < HEAD_WIDTH; i++)
        largest = fmax(largest, fabs(kernel_get(&q_weight, i) * kernel_get(&k_weight, i)));
    return (float)(1.01 * sqrt(HEAD_WIDTH) * largest);
}

/* With a small spread the bound is small enough to do without a running maximum; with a large one
 * it is not. */
static void check_score_limit(struct kernel_check *check, int64_t tokens, double spread)
{
    struct tensor fused = KERNEL_TENSOR(check, check->f, 0, 2, tokens, 3 * 3 * HEAD_WIDTH);
    struct inputs in = {part(&fused, 0, tokens, 3, HEAD_WIDTH),
                        part(&fused, 1, tokens, 3, HEAD_WIDTH),
                        part(&fused, 2, tokens, 3, HEAD_WIDTH)};
    struct tensor like = KERNEL_TENSOR(check, check->f, 0, 2, tokens, 3, HEAD_WIDTH);
    struct tensor want = kernel_like(check, &like);
    float limits[2] = {norm_part(check, &in.q, &in.k, spread), 0.0f};

    for (size_t i = 0; i < COUNT_OF(limits); i++) {
        struct attention_options options = {.scale = 0.125f, .score_limit = limits[i]};
        struct tensor got = kernel_like(check, &like);

        if (i == 0)
            check->ref->attention(check->ref_stream, &want, &in.q, &in.k, &in.v, &options);
        run_fast(check, &got, &in, &options);
        kernel_expect_close(check, &got, &want,
                            check->f == DTYPE_F32 ? kernel_tolerance(check->f, HEAD_WIDTH) * 60
                                                  : 2.0 * kernel_tolerance(check->f, HEAD_WIDTH),
                            "attention [2, %d, 3, 64] with scores up to %g", (int)tokens,
                            (double)limits[i]);
    }
    kernel_release(check);
}

static void check_attention(struct kernel_check *check)
{
    check_shapes(check);
    check_huge_logits(check);
    check_hidden_keys(check);
    check_row_is_independent(check);
    if (check->plugin) {
        check_score_limit(check, 429, 0.2);
        check_score_limit(check, 429, 3.0);
        check_score_limit(check, 77, 0.2);
    }
}

struct bench_case {
    struct inputs in;
    struct tensor out;
    struct attention_options options;
};

static void run_case(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    run_fast(check, &c->out, &c->in, &c->options);
}

static void bench_attention(struct kernel_check *check)
{
    static const struct shape shapes[] = {
        {2, 1357, 1357, 24, 64}, {2, 1024, 1024, 24, 64}, {2, 4429, 4429, 38, 64},
        {1, 512, 512, 64, 64},   {1, 4096, 4096, 1, 512}, {2, 77, 77, 12, 64},
    };

    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        struct shape s = shapes[i];
        struct bench_case c = {
            .in = make_inputs(check, s, 1.0),
            .out = KERNEL_TENSOR(check, check->f, 0, s.batch, s.queries, s.heads, s.width),
            .options = {.scale = 1.0f / sqrtf((float)s.width)},
        };
        double flops = 4.0 * (double)(s.batch * s.heads * s.queries * s.keys * s.width);

        kernel_bench(check, flops, 0, run_case, &c, "attention [%d, %d, %d, %d]", (int)s.batch,
                     (int)s.queries, (int)s.heads, (int)s.width);
        kernel_release(check);
    }
}

int main(int argc, char **argv)
{
    return kernel_check_main(argc, argv, check_attention, bench_attention);
}
