#include <math.h>

#include "kernel_check.h"

static const enum dtype float_types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8_E4M3,
                                         DTYPE_F8_E5M2};
static const int64_t widths[] = {1, 2, 13, 63, 65, 77, 333, 768};

static struct tensor make_ids(struct kernel_check *check, int64_t tokens, int64_t vocabulary)
{
    struct tensor ids = KERNEL_TENSOR(check, DTYPE_I32, 0, tokens);

    for (int64_t t = 0; t < tokens; t++)
        kernel_put(&ids, t, (double)kernel_random_index(check, vocabulary));
    return ids;
}

static void check_embedding_rows(struct kernel_check *check, enum dtype dtype, int64_t width)
{
    struct tensor table = KERNEL_TENSOR(check, dtype, 3, 50, width);
    struct tensor ids = make_ids(check, 77, 50);
    struct tensor want = KERNEL_TENSOR(check, check->f, 2, 77, width);
    struct tensor got = kernel_like(check, &want);

    kernel_put(&table, width / 2, NAN);
    kernel_put(&ids, 5, 0);
    check->ref->embedding_rows(check->ref_stream, &want, &table, &ids);
    check->fast.embedding_rows(check->stream, &got, &table, &ids);
    kernel_expect_equal(check, &got, &want, "embedding_rows %s width %d", dtype_name(dtype),
                        (int)width);
    kernel_expect(check, kernel_get(&got, 5 * width + width / 2) == 0.0,
                  "embedding_rows %s turns NaN into 0", dtype_name(dtype));
    kernel_release(check);
}

static void check_bad_id(struct kernel_check *check)
{
    static const double bad[] = {-1, 50, 2147483520.0};

    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct tensor table = KERNEL_TENSOR(check, DTYPE_F32, 0, 50, 16);
        struct tensor ids = make_ids(check, 7, 50);
        struct tensor out = KERNEL_TENSOR(check, check->f, 0, 7, 16);
        struct error err;

        kernel_put(&ids, 6, bad[i]);
        check->fast.embedding_rows(check->stream, &out, &table, &ids);
        kernel_expect(check, !check->fast.stream_finish(check->stream, &err),
                      "embedding_rows refuses id %g", bad[i]);
        kernel_release(check);
    }
}

static void check_position_embedding(struct kernel_check *check, enum dtype dtype, int64_t width,
                                     int64_t height, int64_t columns)
{
    struct tensor table = KERNEL_TENSOR(check, dtype, 3, 12 * 12, width);
    struct tensor x = KERNEL_TENSOR(check, check->f, 2, 2, height * columns, width);
    struct tensor want = kernel_like(check, &x), got = kernel_like(check, &x);

    check->ref->position_embedding(check->ref_stream, &want, &x, &table, height, columns);
    check->fast.position_embedding(check->stream, &got, &x, &table, height, columns);
    kernel_expect_equal(check, &got, &want, "position_embedding %s width %d grid %d x %d",
                        dtype_name(dtype), (int)width, (int)height, (int)columns);
    check->fast.position_embedding(check->stream, &x, &x, &table, height, columns);
    kernel_expect_equal(check, &x, &want, "position_embedding in place");
    kernel_release(check);
}

static void check_patches(struct kernel_check *check, int64_t channels, int64_t height,
                          int64_t width, int patch)
{
    int64_t tokens = height / patch * (width / patch), size = channels * patch * patch;
    struct tensor picture = KERNEL_TENSOR(check, DTYPE_F32, 3, 2, channels, height, width);
    struct tensor want = KERNEL_TENSOR(check, check->f, 2, 2, tokens, size);
    struct tensor got = kernel_like(check, &want);
    struct tensor want_picture = kernel_like(check, &picture);
    struct tensor got_picture = kernel_like(check, &picture);

    check->ref->patchify(check->ref_stream, &want, &picture, patch);
    check->fast.patchify(check->stream, &got, &picture, patch);
    kernel_expect_equal(check, &got, &want, "patchify [2, %d, %d, %d] by %d", (int)channels,
                        (int)height, (int)width, patch);
    check->ref->unpatchify(check->ref_stream, &want_picture, &want, patch);
    check->fast.unpatchify(check->stream, &got_picture, &want, patch);
    kernel_expect_equal(check, &got_picture, &want_picture, "unpatchify [2, %d, %d, %d] by %d",
                        (int)channels, (int)height, (int)width, patch);
    kernel_release(check);
}

static void check_timesteps_and_bias(struct kernel_check *check)
{
    struct tensor timesteps = KERNEL_TENSOR(check, DTYPE_F32, 0, 3);
    struct tensor want = KERNEL_TENSOR(check, check->f, 0, 3, 256);
    struct tensor got = kernel_like(check, &want);
    struct tensor table = KERNEL_TENSOR(check, DTYPE_F16, 0, 32, 5);
    struct tensor want_bias = KERNEL_TENSOR(check, DTYPE_F32, 1, 5, 77, 77);
    struct tensor got_bias = kernel_like(check, &want_bias);

    kernel_randomise(check, &timesteps, 500, 200);
    check->ref->timestep_embedding(check->ref_stream, &want, &timesteps);
    check->fast.timestep_embedding(check->stream, &got, &timesteps);
    kernel_expect_close(check, &got, &want, kernel_tolerance(check->f, 1), "timestep_embedding");
    check->ref->relative_bias(check->ref_stream, &want_bias, &table, 128);
    check->fast.relative_bias(check->stream, &got_bias, &table, 128);
    kernel_expect_equal(check, &got_bias, &want_bias, "relative_bias");
    kernel_release(check);
}

static void check_embeddings(struct kernel_check *check)
{
    for (size_t t = 0; t < COUNT_OF(float_types); t++)
        for (size_t w = 0; w < COUNT_OF(widths); w++) {
            check_embedding_rows(check, float_types[t], widths[w]);
            check_position_embedding(check, float_types[t], widths[w], 12, 12);
            check_position_embedding(check, float_types[t], widths[w], 3, 7);
        }
    check_bad_id(check);
    check_patches(check, 16, 2, 2, 2);
    check_patches(check, 16, 64, 48, 2);
    check_patches(check, 3, 6, 10, 2);
    check_patches(check, 1, 9, 6, 3);
    check_patches(check, 5, 7, 13, 1);
    check_timesteps_and_bias(check);
}

struct bench_case {
    struct tensor out, x, table;
};

static void run_position_embedding(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.position_embedding(check->stream, &c->out, &c->x, &c->table, 64, 64);
}

static void run_patchify(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.patchify(check->stream, &c->out, &c->x, 2);
}

static void run_unpatchify(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.unpatchify(check->stream, &c->out, &c->x, 2);
}

static void run_timestep_embedding(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.timestep_embedding(check->stream, &c->out, &c->x);
}

static void run_relative_bias(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.relative_bias(check->stream, &c->out, &c->table, 128);
}

static void bench_embeddings(struct kernel_check *check)
{
    struct tensor latent = KERNEL_TENSOR(check, DTYPE_F32, 0, 2, 16, 128, 128);
    struct tensor tokens = KERNEL_TENSOR(check, check->f, 0, 2, 4096, 64);
    struct bench_case positions = {
        .out = KERNEL_TENSOR(check, check->f, 0, 2, 4096, 1536),
        .x = KERNEL_TENSOR(check, check->f, 0, 2, 4096, 1536),
        .table = KERNEL_TENSOR(check, DTYPE_F16, 0, 192 * 192, 1536),
    };
    struct bench_case patchify = {.out = tokens, .x = latent};
    struct bench_case unpatchify = {.out = latent, .x = tokens};
    struct bench_case timesteps = {
        .out = KERNEL_TENSOR(check, check->f, 0, 2, 256),
        .x = KERNEL_TENSOR(check, DTYPE_F32, 0, 2),
    };
    struct bench_case bias = {
        .out = KERNEL_TENSOR(check, DTYPE_F32, 0, 64, 512, 512),
        .table = KERNEL_TENSOR(check, DTYPE_F16, 0, 32, 64),
    };

    kernel_bench(check, 0, 8.0 * 2 * 4096 * 1536, run_position_embedding, &positions,
                 "position_embedding [2, 4096, 1536]");
    kernel_bench(check, 0, 8.0 * 2 * 16 * 128 * 128, run_patchify, &patchify,
                 "patchify [2, 16, 128, 128]");
    kernel_bench(check, 0, 8.0 * 2 * 16 * 128 * 128, run_unpatchify, &unpatchify,
                 "unpatchify [2, 16, 128, 128]");
    kernel_bench(check, 0, 0, run_timestep_embedding, &timesteps, "timestep_embedding [2, 256]");
    kernel_bench(check, 0, 4.0 * 64 * 512 * 512, run_relative_bias, &bias,
                 "relative_bias [64, 512, 512]");
    kernel_release(check);
}

int main(int argc, char **argv)
{
    return kernel_check_main(argc, argv, check_embeddings, bench_embeddings);
}
