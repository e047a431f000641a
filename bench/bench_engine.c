/* bench_engine MODEL [--size WxH] [--t5-tokens N] [--repeat N] [--threads N] [--cpu-level LEVEL]
 *              [--only encode|step|decode]
 *
 * Times the engine's parts on a model of any shape (tools/sd35-make-random-model writes them): the
 * text encoders for two prompts, one transformer step with both guidance halves, one VAE decode.
 * Each is given as a share of the machine's own f32 multiply-add peak, measured before and after
 * it, and alternates with the others, because machines are noisy. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/host_stream.h"
#include "fma_peak.h"
#include "pipeline/pipeline_private.h"

#define REPEATS_MAX 101

/* --- Counting floating-point operations: the op table with its products replaced by counters ---
 */

static double counted;

static void count_linear(struct stream *stream, struct tensor *out, const struct tensor *x,
                         const struct linear *layer)
{
    (void)stream;
    (void)out;
    counted += 2.0 * (double)tensor_count(x) * (double)layer->weight.dim[0];
}

static void count_attention(struct stream *stream, struct tensor *out, const struct tensor *q,
                            const struct tensor *k, const struct tensor *v,
                            const struct attention_options *options)
{
    double pairs = (double)tensor_count(q) * (double)k->dim[1];

    (void)stream;
    (void)out;
    (void)v;
    counted += options->is_causal ? 2.0 * pairs : 4.0 * pairs;
}

static void count_conv2d(struct stream *stream, struct tensor *out, const struct tensor *x,
                         const struct linear *layer, const struct conv_options *options)
{
    const struct tensor *w = &layer->weight;

    (void)stream;
    (void)x;
    (void)options;
    counted += 2.0 * (double)tensor_count(out) * (double)(w->dim[1] * w->dim[2] * w->dim[3]);
}

/* --- Timing the linear layers of a part: the table's linear behind a stopwatch --- */

static void (*plain_linear)(struct stream *stream, struct tensor *out, const struct tensor *x,
                            const struct linear *layer);
static double linear_gflop, linear_seconds;

static void timed_linear(struct stream *stream, struct tensor *out, const struct tensor *x,
                         const struct linear *layer)
{
    double started = seconds_now();

    plain_linear(stream, out, x, layer);
    linear_seconds += seconds_now() - started;
    linear_gflop += 2e-9 * (double)tensor_count(x) * (double)layer->weight.dim[0];
}

/* --- The parts --- */

struct bench {
    struct pipeline *pipeline;
    const struct backend_ops *ops;
    struct stream *stream;
    struct batch_shape shape;
    struct prompt_tokens tokens;
    struct arena arena;
    struct text_stage text;
    struct decode_stage decode;
    struct mmdit_plan *mmdit;
    struct tensor latent, velocity, timesteps, pooled, context;
};

struct part {
    const char *name;
    void (*run)(struct bench *bench);
    double gflop;
    int count;
    double seconds[REPEATS_MAX], peak[REPEATS_MAX];
    double linear_share[REPEATS_MAX]; /* of the peak, while linear layers ran */
};

static void fail(const struct error *err)
{
    fprintf(stderr, "%s\n", err->message);
    exit(error_exit_code(err->code));
}

static void finish(struct bench *bench)
{
    struct error err;

    if (!bench->ops->stream_finish(bench->stream, &err))
        fail(&err);
}

static void run_encode(struct bench *bench)
{
    for (int64_t cond = 0; cond < bench->shape.conds; cond++) {
        struct embedding *embedding;
        struct error err;

        if (!text_stage_run(&bench->text, bench->pipeline, &bench->tokens, &embedding, &err))
            fail(&err);
        embedding_release(embedding);
    }
}

static void run_step(struct bench *bench)
{
    struct mmdit_evaluation evaluation = {.rows = (int32_t[]){0, 1}};

    mmdit_run(bench->mmdit, bench->stream, &bench->velocity, &bench->latent, &evaluation);
    finish(bench);
}

static void run_decode(struct bench *bench)
{
    struct tensor latent = tensor_slice(&bench->latent, 0, 0, 1);

    vae_decode(bench->decode.decode, bench->stream, &bench->decode.rgb, &latent);
    finish(bench);
}

/* Every part at once in one arena, so that they can alternate. */
static bool plan(struct bench *bench, struct arena *arena, struct error *err)
{
    const struct mmdit_shape *network = mmdit_shape(bench->pipeline->mmdit);
    const struct batch_shape *shape = &bench->shape;
    int64_t c = shape->channels, h = shape->height, w = shape->width;
    const struct mmdit_plan_options options = {.batch = 2,
                                               .height = h,
                                               .width = w,
                                               .context_tokens = CLIP_TOKENS + shape->t5_tokens,
                                               .row_count = 2,
                                               .rows_at_once = 2};

    return TENSOR_ALLOC(&bench->context, arena, DTYPE_F32, "context", err, 2,
                        options.context_tokens, network->context_width) &&
           TENSOR_ALLOC(&bench->pooled, arena, DTYPE_F32, "pooled", err, 2,
                        network->pooled_width) &&
           TENSOR_ALLOC(&bench->latent, arena, DTYPE_F32, "latent", err, 2, c, h, w) &&
           TENSOR_ALLOC(&bench->velocity, arena, DTYPE_F32, "velocity", err, 2, c, h, w) &&
           TENSOR_ALLOC(&bench->timesteps, arena, DTYPE_F32, "timesteps", err, 2) &&
           text_stage_plan(&bench->text, bench->pipeline, shape, arena, err) &&
           decode_stage_plan(&bench->decode, bench->pipeline, shape, arena, err) &&
           mmdit_plan_create(&bench->mmdit, bench->pipeline->mmdit, arena, arena, &options, err);
}

static void drop_plans(struct bench *bench)
{
    text_stage_finish(&bench->text);
    decode_stage_finish(&bench->decode);
    mmdit_plan_destroy(bench->mmdit);
}

static void set_up(struct bench *bench)
{
    static const char *const texts[] = {"a photo of a cat", "a photo of a cat", "a photo of a cat"};
    struct mt19937 generator;
    struct arena counting;
    struct error err;

    bench->ops = &bench->pipeline->backend->ops;
    bench->stream = bench->pipeline->stream;
    if (!prompt_tokenize(&bench->tokens, bench->pipeline, texts, (int)bench->shape.t5_tokens, &err))
        fail(&err);
    arena_init(&counting, NULL, 0);
    if (!plan(bench, &counting, &err))
        fail(&err);
    drop_plans(bench);
    arena_init(&bench->arena, bench->ops->memory_alloc(counting.peak), counting.peak);
    if (!bench->arena.base || !plan(bench, &bench->arena, &err))
        fail(&err);

    mt19937_seed(&generator, 1);
    torch_cpu_normal(bench->latent.data, (size_t)tensor_count(&bench->latent), &generator);
    torch_cpu_normal(bench->context.data, (size_t)tensor_count(&bench->context), &generator);
    torch_cpu_normal(bench->pooled.data, (size_t)tensor_count(&bench->pooled), &generator);
    bench->ops->fill(bench->stream, &bench->timesteps, 875.0f);
    mmdit_modulate(bench->mmdit, bench->stream, 0, &bench->timesteps, &bench->pooled);
    mmdit_set_context(bench->mmdit, bench->stream, 0, &bench->context);
    finish(bench);
}

/* --- Measuring --- */

static void count_operations(struct bench *bench, struct part *part)
{
    struct backend_ops *ops = &bench->pipeline->backend->ops;
    struct backend_ops saved = *ops;

    ops->linear = count_linear;
    ops->attention = count_attention;
    ops->conv2d = count_conv2d;
    counted = 0.0;
    part->run(bench);
    part->gflop = counted * 1e-9;
    *ops = saved;
}

static void measure(struct bench *bench, struct part *part)
{
    const char *name = bench->ops->name;
    double before = fma_peak(bench->stream, name), started = seconds_now();

    linear_gflop = linear_seconds = 0.0;
    part->run(bench);
    part->seconds[part->count] = seconds_now() - started;
    part->peak[part->count] = (before + fma_peak(bench->stream, name)) / 2.0;
    part->linear_share[part->count] =
        100.0 * linear_gflop / linear_seconds / part->peak[part->count];
    part->count++;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void print_part(struct part *part)
{
    double share[REPEATS_MAX];

    for (int i = 0; i < part->count; i++)
        share[i] = 100.0 * part->gflop / part->seconds[i] / part->peak[i];
    qsort(part->seconds, (size_t)part->count, sizeof *part->seconds, ascending);
    qsort(part->peak, (size_t)part->count, sizeof *part->peak, ascending);
    qsort(share, (size_t)part->count, sizeof *share, ascending);
    printf("%-8s %9.1f GFLOP  %8.3f s (%.3f to %.3f)  %7.1f GFLOP/s  %5.1f %% of the peak "
           "(%.1f to %.1f), which is %.1f GFLOP/s\n",
           part->name, part->gflop, part->seconds[part->count / 2], part->seconds[0],
           part->seconds[part->count - 1], part->gflop / part->seconds[part->count / 2],
           share[part->count / 2], share[0], share[part->count - 1], part->peak[part->count / 2]);
    qsort(part->linear_share, (size_t)part->count, sizeof *part->linear_share, ascending);
    printf("%-8s linear layers alone: %.1f %% of the peak (%.1f to %.1f)\n", "",
           part->linear_share[part->count / 2], part->linear_share[0],
           part->linear_share[part->count - 1]);
}

static int usage(void)
{
    fprintf(stderr, "usage: bench_engine MODEL [--size WxH] [--t5-tokens N] [--repeat N] "
                    "[--threads N] [--cpu-level LEVEL] [--only encode|step|decode]\n");
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"size", required_argument, NULL, 's'},
                                          {"t5-tokens", required_argument, NULL, '5'},
                                          {"repeat", required_argument, NULL, 'r'},
                                          {"threads", required_argument, NULL, 'n'},
                                          {"cpu-level", required_argument, NULL, 'l'},
                                          {"only", required_argument, NULL, 'o'},
                                          {NULL, 0, NULL, 0}};
    static struct part parts[] = {
        {.name = "encode", .run = run_encode},
        {.name = "step", .run = run_step},
        {.name = "decode", .run = run_decode},
    };
    struct pipeline_options options = {.memory = MEMORY_ALL};
    int width = 512, height = 512, t5_tokens = 256, repeats = 7, option;
    const char *only = NULL;
    struct bench bench = {0};
    struct error err;

    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (option == 's' && sscanf(optarg, "%dx%d", &width, &height) != 2)
            return usage();
        else if (option == '5')
            t5_tokens = (int)strtol(optarg, NULL, 10);
        else if (option == 'r')
            repeats = (int)strtol(optarg, NULL, 10);
        else if (option == 'n')
            options.threads = (int)strtol(optarg, NULL, 10);
        else if (option == 'l')
            options.cpu_level = optarg;
        else if (option == 'o')
            only = optarg;
        else if (option == '?')
            return usage();
    }
    if (optind != argc - 1 || repeats < 1 || repeats > REPEATS_MAX)
        return usage();
    options.model = argv[optind];
    if (!pipeline_create(&bench.pipeline, &options, &err))
        fail(&err);
    bench.shape =
        (struct batch_shape){.places = 1,
                             .conds = 2,
                             .channels = mmdit_shape(bench.pipeline->mmdit)->latent_channels,
                             .height = height / VAE_FACTOR,
                             .width = width / VAE_FACTOR,
                             .t5_tokens = t5_tokens};
    set_up(&bench);
    printf("%s, %dx%d, %d T5 tokens, two guidance halves, %s\n", options.model, width, height,
           t5_tokens, bench.pipeline->backend->description);

    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        count_operations(&bench, &parts[i]);
        if (!only || strcmp(only, parts[i].name) == 0)
            parts[i].run(&bench); /* the first run reads the weights from disk */
    }
    plain_linear = bench.pipeline->backend->ops.linear;
    bench.pipeline->backend->ops.linear = timed_linear;
    for (int r = 0; r < repeats; r++)
        for (size_t i = 0; i < COUNT_OF(parts); i++)
            if (!only || strcmp(only, parts[i].name) == 0)
                measure(&bench, &parts[i]);
    for (size_t i = 0; i < COUNT_OF(parts); i++)
        if (parts[i].count > 0)
            print_part(&parts[i]);

    drop_plans(&bench);
    bench.ops->memory_free(bench.arena.base, bench.arena.size);
    pipeline_destroy(bench.pipeline);
    return 0;
}
