/* What only devices do with weights: groups that visit them, and 8 bits made on the way; and with
 * memory. Run with --device cuda. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/composite.h"
#include "convert/quantise.h"
#include "kernel_check.h"

static void finish(struct kernel_check *check)
{
    struct error err = {0};
    bool ok = check->fast.stream_finish(check->stream, &err);

    kernel_expect(check, ok, "the stream is well: %s", err.message);
}

static struct tensor make_factors(struct kernel_check *check, int64_t count, double size)
{
    struct tensor factors = KERNEL_TENSOR(check, DTYPE_F32, 0, count);

    for (int64_t i = 0; i < count; i++)
        kernel_put(&factors, i, size * (0.5 + fabs(kernel_random_normal(check))));
    return factors;
}

static struct tensor make_bias(struct kernel_check *check, int64_t count, bool has_bias)
{
    return has_bias ? KERNEL_TENSOR(check, DTYPE_F32, 0, count) : (struct tensor){0};
}

/* In the type that these layers take best. */
static struct tensor make_input(struct kernel_check *check, int64_t tokens, int64_t depth,
                                const struct linear *layers, int count)
{
    struct tensor x = KERNEL_TENSOR(check, check->f, 0, 2, tokens, depth);
    struct tensor factors;

    if (check->fast.linear_input(layers, count) != DTYPE_F8_E4M3)
        return x;
    factors = make_factors(check, 2 * tokens, 0.01);
    x = KERNEL_TENSOR(check, DTYPE_F8_E4M3, 0, 2, tokens, depth);
    kernel_randomise(check, &x, 0, 100);
    x.row_scale = factors.data;
    return x;
}

/* --- Groups that visit the device --- */

#define GROUPS 5
#define LAYERS 4 /* of a group: one alone and three side by side */
#define ROUNDS 3

struct group {
    struct linear layers[LAYERS];
    struct tensor x, want[2], got[2];
};

struct visits {
    struct group group[GROUPS];
    struct weight_request requests[2 * GROUPS];
    size_t ends[GROUPS];
    struct streamed_weights *streamed;
};

/* Of every type, and 16 bits that become 8. */
static struct linear make_layer(struct kernel_check *check, int kind, int64_t columns,
                                int64_t depth, bool has_bias)
{
    static const enum dtype dtypes[] = {DTYPE_F8_E4M3, DTYPE_BF16, DTYPE_F16, DTYPE_F16};
    struct linear layer = {.weight = KERNEL_TENSOR(check, dtypes[kind % 4], 0, columns, depth)};

    if (kind % 4 == 0)
        layer.scale = make_factors(check, columns, 1.0 / sqrt((double)depth));
    layer.to_8_bits = kind % 4 == 3;
    layer.bias = make_bias(check, columns, has_bias);
    return layer;
}

static void make_group(struct kernel_check *check, struct visits *visits, int g, int64_t tokens,
                       int64_t columns, int64_t depth)
{
    struct group *group = &visits->group[g];
    struct tensor out;

    for (int i = 0; i < LAYERS; i++)
        group->layers[i] = make_layer(check, g, columns, depth, (g + i) % 3 != 0);
    visits->requests[2 * g] = (struct weight_request){.layers = group->layers, .count = 1};
    visits->requests[2 * g + 1] =
        (struct weight_request){.layers = group->layers + 1, .count = LAYERS - 1};
    visits->ends[g] = 2 * (size_t)g + 2;
    group->x = make_input(check, tokens, depth, group->layers, LAYERS);
    for (int i = 0; i < 2; i++) {
        out = KERNEL_TENSOR(check, check->f, 0, 2, tokens, (i ? LAYERS - 1 : 1) * columns);
        group->want[i] = kernel_like(check, &out);
        group->got[i] = kernel_like(check, &out);
    }
}

static void run_group(struct kernel_check *check, struct group *group, struct tensor out[2])
{
    check->fast.linear(check->stream, &out[0], &group->x, group->layers);
    op_linears(&check->fast, check->stream, &out[1], &group->x, group->layers + 1, LAYERS - 1);
}

/* What held weights give, and then no weights where they came from: whoever reads them from there
 * from now on is found out. */
static void run_held(struct kernel_check *check, struct visits *visits)
{
    struct held_weights *held = NULL;
    struct error err = {0};

    kernel_expect(
        check, check->fast.weights_hold(check->stream, &held, visits->requests, 2 * GROUPS, &err),
        "weights are held: %s", err.message);
    for (int g = 0; g < GROUPS; g++)
        run_group(check, &visits->group[g], visits->group[g].want);
    finish(check);
    check->fast.weights_drop(check->stream, held);
}

static void spoil_weights(struct visits *visits)
{
    for (int g = 0; g < GROUPS; g++)
        for (int i = 0; i < LAYERS; i++) {
            struct tensor *weight = &visits->group[g].layers[i].weight;

            memset(weight->data, 0, tensor_bytes(weight));
        }
}

static void check_bytes(struct kernel_check *check, const struct visits *visits)
{
    size_t device, host, all = 0, largest = 0;

    for (int g = 0; g < GROUPS; g++) {
        size_t bytes = check->fast.weights_bytes(visits->requests + 2 * g, 2);

        all += bytes;
        largest = bytes > largest ? bytes : largest;
    }
    check->fast.weights_stream_bytes(visits->requests, visits->ends, GROUPS, &device, &host);
    kernel_expect(check, host == all, "the host has %zu bytes of streamed weights, not %zu", all,
                  host);
    kernel_expect(check, device == 2 * largest, "the device has 2 x %zu bytes of them, not %zu",
                  largest, device);
}

/* Groups in some order, each with the one that is announced to be next, right or wrong. */
struct order {
    const char *name;
    int count;
    int group[8], next[8]; /* -1: none */
};

static const struct order orders[] = {
    {"in order", 5, {0, 1, 2, 3, 4}, {1, 2, 3, 4, 0}},
    {"in order, nothing after it", 5, {0, 1, 2, 3, 4}, {1, 2, 3, 4, -1}},
    {"every second", 3, {0, 2, 4}, {2, 4, 0}},
    {"without the third", 4, {0, 1, 3, 4}, {1, 3, 4, 0}},
    {"backwards", 5, {4, 3, 2, 1, 0}, {3, 2, 1, 0, 4}},
    {"not as announced", 6, {3, 1, 4, 0, 2, 1}, {2, 0, 1, 3, 4, 3}},
    {"unannounced", 5, {2, 0, 4, 3, 1}, {-1, -1, -1, -1, -1}},
    {"again and again", 8, {1, 1, 0, 0, 1, 1, 2, 1}, {1, 0, 0, 1, -1, 2, 1, 0}},
};

static void run_order(struct kernel_check *check, struct visits *visits, const struct order *order)
{
    for (int i = 0; i < order->count; i++) {
        struct group *group = &visits->group[order->group[i]];
        size_t next = order->next[i] < 0 ? STREAMED_NONE : (size_t)order->next[i];

        check->fast.weights_enter(check->stream, visits->streamed, (size_t)order->group[i], next);
        run_group(check, group, group->got);
    }
}

static void spoil_results(struct kernel_check *check, struct visits *visits)
{
    finish(check);
    for (int g = 0; g < GROUPS; g++)
        for (int i = 0; i < 2; i++) {
            struct tensor *got = &visits->group[g].got[i];

            memset(got->data, 0xff, tensor_bytes(got));
        }
}

static void expect_order(struct kernel_check *check, struct visits *visits,
                         const struct order *order, const char *how)
{
    finish(check);
    for (int i = 0; i < order->count; i++) {
        struct group *group = &visits->group[order->group[i]];

        for (int part = 0; part < 2; part++)
            kernel_expect_equal(check, &group->got[part], &group->want[part],
                                "group %d of those %s, %s, %d layers", order->group[i], how,
                                order->name, part ? LAYERS - 1 : 1);
    }
    spoil_results(check, visits);
}

static void check_orders(struct kernel_check *check, struct visits *visits)
{
    for (int round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < COUNT_OF(orders); i++) {
            run_order(check, visits, &orders[i]);
            expect_order(check, visits, &orders[i], "that visit");
        }
    /* Without waiting between them. */
    for (size_t i = 0; i < COUNT_OF(orders); i++)
        run_order(check, visits, &orders[i]);
    expect_order(check, visits, &orders[COUNT_OF(orders) - 1], "that visit one after another");
}

static struct recording *record(struct kernel_check *check, struct visits *visits,
                                const struct order *order)
{
    struct recording *recording;

    check->fast.record_begin(check->stream);
    run_order(check, visits, order);
    recording = check->fast.record_end(check->stream);
    finish(check);
    kernel_expect(check, recording, "visits %s are recorded", order->name);
    return recording;
}

/* Kernel checks make every launch wait; only in a recording do copies overlap products. */
static void check_recordings(struct kernel_check *check, struct visits *visits)
{
    struct recording *recordings[COUNT_OF(orders)];

    for (size_t i = 0; i < COUNT_OF(orders); i++) {
        if (i % 2) /* begun while a group is entered and the next one on its way */
            run_order(check, visits, &orders[(3 * i + 1) % COUNT_OF(orders)]);
        recordings[i] = record(check, visits, &orders[i]);
    }
    spoil_results(check, visits);
    for (size_t i = 0; i < COUNT_OF(orders) * COUNT_OF(orders); i++) {
        const struct order *before = &orders[i % COUNT_OF(orders)];
        size_t chosen = i / COUNT_OF(orders);

        if (!recordings[chosen])
            continue;
        if (i % 3 == 0)
            run_order(check, visits, before);
        else if (i % 3 == 1 && recordings[i % COUNT_OF(orders)])
            check->fast.replay(check->stream, recordings[i % COUNT_OF(orders)]);
        check->fast.replay(check->stream, recordings[chosen]);
        check->fast.replay(check->stream, recordings[chosen]);
        expect_order(check, visits, &orders[chosen], "that were recorded");
        run_order(check, visits, before);
        expect_order(check, visits, before, "after a replay");
    }
    for (size_t i = 0; i < COUNT_OF(orders); i++)
        check->fast.recording_free(recordings[i]);
}

/* A recording that uses what it did not enter does not come about, and nothing else comes of it. */
static void check_recording_without_entering(struct kernel_check *check, struct visits *visits)
{
    struct recording *recording;

    run_order(check, visits, &orders[0]);
    check->fast.record_begin(check->stream);
    check->fast.weights_enter(check->stream, visits->streamed, 0, 1);
    run_group(check, &visits->group[0], visits->group[0].got);
    run_group(check, &visits->group[4], visits->group[4].got);
    recording = check->fast.record_end(check->stream);
    kernel_expect(check, !recording, "a group that was not entered is not recorded");
    check->fast.recording_free(recording);
    run_order(check, visits, &orders[1]);
    expect_order(check, visits, &orders[1], "after a recording that failed");
}

/* What is no longer streamed is read from where it came from. */
static void check_end(struct kernel_check *check, struct visits *visits)
{
    struct group *group = &visits->group[0];
    struct error err = {0};

    check->fast.weights_enter(check->stream, visits->streamed, 0, 1);
    check->fast.weights_unstream(check->stream, visits->streamed);
    run_group(check, group, group->got);
    finish(check);
    kernel_expect(check, kernel_get(&group->got[1], 0) != kernel_get(&group->want[1], 0),
                  "weights that are streamed no more are not found");
    check->fast.weights_unstream(check->stream, NULL);
    kernel_expect(check,
                  check->fast.weights_stream(check->stream, &visits->streamed, NULL, NULL, 0, &err),
                  "no groups can be streamed: %s", err.message);
    check->fast.weights_enter(check->stream, visits->streamed, 0, 1);
    kernel_expect(check, !check->fast.stream_finish(check->stream, &err),
                  "but none of them be entered");
    check->fast.weights_unstream(check->stream, visits->streamed);
}

static void check_streamed(struct kernel_check *check, int64_t tokens, int64_t size)
{
    static const int64_t columns[GROUPS] = {1, 3, 2, 4, 1}, depths[GROUPS] = {3, 2, 1, 4, 2};
    struct visits visits = {0};
    struct error err = {0};
    bool ok;

    for (int g = 0; g < GROUPS; g++)
        make_group(check, &visits, g, tokens, columns[g] * size, depths[g] * size);
    run_held(check, &visits);
    check_bytes(check, &visits);
    ok = check->fast.weights_stream(check->stream, &visits.streamed, visits.requests, visits.ends,
                                    GROUPS, &err);
    kernel_expect(check, ok, "weights are streamed: %s", err.message);
    if (ok) {
        spoil_weights(&visits);
        check_orders(check, &visits);
        check_recordings(check, &visits);
        check_recording_without_entering(check, &visits);
        check_end(check, &visits);
    }
    kernel_release(check);
}

/* --- 8 bits made on the way --- */

/* Rows as they occur and as they should not: of zeros, with an outlier, tiny ones, of one value. */
static struct tensor make_weight(struct kernel_check *check, enum dtype dtype, int64_t columns,
                                 int64_t depth)
{
    static const double spreads[] = {0.02, 1.0, 0.0, 1e-6, 300.0, 1e-42, 0.02};
    struct tensor weight = KERNEL_TENSOR(check, dtype, 0, columns, depth);

    for (int64_t n = 0; n < columns; n++) {
        for (int64_t k = 0; k < depth; k++)
            kernel_put(&weight, n * depth + k,
                       kernel_random_normal(check) * spreads[n % (int64_t)COUNT_OF(spreads)]);
        if (n % 3 == 1)
            kernel_put(&weight, n * depth + kernel_random_index(check, depth), 50.0);
        if (n % 11 == 5)
            for (int64_t k = 0; k < depth; k++)
                kernel_put(&weight, n * depth + k, k % 2 ? 0.1 : -0.1);
    }
    return weight;
}

/* The layer as `sd35 convert` leaves it. */
static struct linear converted(struct kernel_check *check, const struct linear *layer)
{
    const struct quantise_ops *ops = quantise_ops(cpu_features_detect());
    int64_t columns = layer->weight.dim[0], depth = layer->weight.dim[1];
    struct tensor row = KERNEL_TENSOR(check, DTYPE_F32, 0, depth);
    struct linear out = {
        .weight = KERNEL_TENSOR(check, DTYPE_F8_E4M3, 0, columns, depth),
        .scale = KERNEL_TENSOR(check, DTYPE_F32, 0, columns),
        .bias = layer->bias,
    };
    double unused;

    for (int64_t n = 0; n < columns; n++) {
        const char *from = layer->weight.data;
        float *scale = (float *)out.scale.data + n;

        ops->decode(row.data, from + (size_t)(n * depth) * dtype_size(layer->weight.dtype),
                    layer->weight.dtype, depth);
        *scale = quantise_row_scale(ops, row.data, depth, DTYPE_F8_E4M3,
                                    ops->largest(row.data, depth), &unused);
        ops->encode((uint8_t *)out.weight.data + n * depth, row.data, depth, DTYPE_F8_E4M3, *scale);
    }
    return out;
}

/* Each token picks one column of the weights: nothing is added up, so that any other code or factor
 * shows. */
static struct tensor make_picks(struct kernel_check *check, int64_t depth)
{
    struct tensor x = KERNEL_TENSOR(check, check->f, 0, 1, depth, depth);

    for (int64_t i = 0; i < depth * depth; i++)
        kernel_put(&x, i, i / depth == i % depth ? 1.0 : 0.0);
    return x;
}

#define PICKED_DEPTH_MAX 2600

static void check_to_8_bits(struct kernel_check *check, enum dtype dtype, int64_t columns,
                            int64_t depth, int count, bool has_bias)
{
    struct linear layers[3], want_layers[3];
    struct tensor x, out, got, want;

    for (int i = 0; i < count; i++) {
        layers[i] = (struct linear){.weight = make_weight(check, dtype, columns, depth),
                                    .bias = make_bias(check, columns, has_bias ^ (i == 1)),
                                    .to_8_bits = true};
        want_layers[i] = converted(check, &layers[i]);
    }
    kernel_expect(check,
                  check->fast.linear_input(layers, count) ==
                      check->fast.linear_input(want_layers, count),
                  "layers that become 8 bits take what those of 8 bits take");
    for (int turn = 0; turn < 2; turn++) {
        if (turn == 0 && depth > PICKED_DEPTH_MAX)
            continue;
        x = turn == 0 ? make_picks(check, depth) : make_input(check, 16, depth, layers, count);
        out = KERNEL_TENSOR(check, check->f, 0, x.dim[0], x.dim[1], count * columns);
        got = kernel_like(check, &out);
        want = kernel_like(check, &out);
        op_linears(&check->fast, check->stream, &got, &x, layers, count);
        op_linears(&check->fast, check->stream, &want, &x, want_layers, count);
        kernel_expect_equal(check, &got, &want, "%d layers [%d, %d] of %s as 8 bits%s%s", count,
                            (int)columns, (int)depth, dtype_name(dtype), has_bias ? ", bias" : "",
                            turn == 0 ? ", element by element" : "");
    }
    kernel_release(check);
}

/* Layers side by side that do not all become 8 bits: none does, and each is what it is alone. */
static void check_mixed(struct kernel_check *check)
{
    struct linear layers[2], plain[2];
    struct tensor x = KERNEL_TENSOR(check, check->f, 0, 2, 16, 192);
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, 2, 16, 128);
    struct tensor got = kernel_like(check, &out), want = kernel_like(check, &out);

    for (int i = 0; i < 2; i++) {
        layers[i] =
            (struct linear){.weight = make_weight(check, DTYPE_BF16, 64, 192), .to_8_bits = i == 0};
        plain[i] = layers[i];
        plain[i].to_8_bits = false;
    }
    op_linears(&check->fast, check->stream, &got, &x, layers, 2);
    op_linears(&check->fast, check->stream, &want, &x, plain, 2);
    kernel_expect_equal(check, &got, &want, "layers of which one becomes 8 bits");
    kernel_release(check);
}

/* Weights that are no numbers give no numbers. */
static void check_not_finite(struct kernel_check *check)
{
    struct linear layer = {.weight = make_weight(check, DTYPE_BF16, 64, 192), .to_8_bits = true};
    struct tensor x = KERNEL_TENSOR(check, check->f, 0, 1, 16, 192);
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, 1, 16, 64);

    kernel_put(&layer.weight, 3 * 192 + 100, (double)INFINITY);
    kernel_put(&layer.weight, 7 * 192 + 5, (double)NAN);
    check->fast.linear(check->stream, &out, &x, &layer);
    finish(check);
    for (int64_t n = 0; n < 64; n++)
        kernel_expect(check, isfinite(kernel_get(&out, n)) == (n != 3 && n != 7),
                      "column %d of weights that are not finite", (int)n);
    kernel_release(check);
}

static void check_8_bits(struct kernel_check *check)
{
    static const enum dtype dtypes[] = {DTYPE_F16, DTYPE_BF16, DTYPE_F32};
    static const int64_t depths[] = {1, 7, 16, 130, 511, 512, 520, 1029, 2432, 4096, 4100, 10240};

    for (size_t t = 0; t < COUNT_OF(dtypes); t++) {
        for (size_t d = 0; d < COUNT_OF(depths); d++)
            check_to_8_bits(check, dtypes[t], d % 2 ? 33 : 48, depths[d], d % 3 == 2 ? 3 : 1,
                            d % 2 == 0);
        /* More than goes to the device in one piece. */
        check_to_8_bits(check, dtypes[t], 3700, 2432, 1, true);
    }
    check_mixed(check);
    check_not_finite(check);
}

/* --- Memory --- */

#define BLOCK_BYTES ((size_t)1 << 30)
#define WORDS 1024

/* What goes into memory that was just taken stays there: its clearing is over by then. At the end
 * of a large block, which is cleared last. */
static void check_new_memory(struct kernel_check *check)
{
    static int32_t words[WORDS], back[WORDS];
    const struct backend_ops *op = &check->fast;
    char *block = op->memory_alloc(BLOCK_BYTES);
    struct tensor host = TENSOR_OF(words, DTYPE_I32, WORDS);
    struct tensor got = TENSOR_OF(back, DTYPE_I32, WORDS);
    struct tensor end;

    if (!block) {
        printf("SKIPPED: no room for a block of %zu MiB\n", BLOCK_BYTES >> 20);
        return;
    }
    for (int i = 0; i < WORDS; i++)
        words[i] = i + 1;
    end = TENSOR_OF(block + BLOCK_BYTES - sizeof words, DTYPE_I32, WORDS);
    op->upload(check->stream, &end, &host);
    finish(check);
    op->memory_free(op->memory_alloc(BLOCK_BYTES), BLOCK_BYTES); /* waits for all clearing */
    op->download(check->stream, &got, &end);
    finish(check);
    kernel_expect(check, memcmp(words, back, sizeof words) == 0,
                  "an upload into memory that was just taken");
    op->memory_free(block, BLOCK_BYTES);
}

static void check_weights(struct kernel_check *check)
{
    if (!check->plugin)
        return;
    check_new_memory(check);
    check_8_bits(check);
    check_streamed(check, 77, 16);
    check_streamed(check, 77, 48);
    check_streamed(check, 24, 512);
}

int main(int argc, char **argv)
{
    bool has_device = false;

    for (int i = 1; i < argc; i++)
        has_device = has_device || strcmp(argv[i], "--device") == 0;
    if (!has_device) {
        printf("SKIPPED: weights that visit and become 8 bits are a device's\n");
        return 0;
    }
    return kernel_check_main(argc, argv, check_weights, check_weights);
}
