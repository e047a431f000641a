/* The order of a device's work: branches, recordings, weights that are held, streams that fail. Run
 * with --device cuda. */
#include <string.h>

#include "backend/composite.h"
#include "device_check.h"

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
        .projection = device_layer(check, DTYPE_F8_E4M3, c, c, true, true),
    };

    for (int i = 0; i < 3; i++)
        chain.layers[i] = device_layer(check, DTYPE_F8_E4M3, c, c, true, true);
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
        device_gated_norm(op, stream, &result,
                          &(struct gated_norm){.x = chain->x,
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
    device_finish(check);
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

    device_finish(check);
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
        device_finish(check);
        expect_results(check, &a, &want_a, "branch 0");
        expect_results(check, &b, &want_b, "branch 1");
    }
    /* kernel_check makes every launch wait; only a recording's branches run at the same time. */
    check->fast.record_begin(check->stream);
    run_on_branches(check, &a, &b);
    recording = check->fast.record_end(check->stream);
    device_finish(check);
    kernel_expect(check, recording, "branches are recorded");
    for (int i = 0; i < REPETITIONS && recording; i++) {
        spoil_results(check, &a);
        spoil_results(check, &b);
        check->fast.replay(check->stream, recording);
        device_finish(check);
        expect_results(check, &a, &want_a, "branch 0, replayed");
        expect_results(check, &b, &want_b, "branch 1, replayed");
    }
    check->fast.recording_free(recording);
    kernel_release(check);
}

static void run_on_branch(struct kernel_check *check, int branch, struct chain *chain)
{
    check->fast.branch(check->stream, branch);
    run_chain(check, chain);
}

static struct recording *record_on_branch(struct kernel_check *check, int branch,
                                          struct chain *chain)
{
    struct recording *recording;

    check->fast.branch(check->stream, branch);
    check->fast.record_begin(check->stream);
    run_chain(check, chain);
    recording = check->fast.record_end(check->stream);
    kernel_expect(check, recording, "branch %d alone is recorded", branch);
    return recording;
}

/* A recording for each branch, which run at the same time. */
static void check_recorded_branches(struct kernel_check *check)
{
    struct chain a = make_chain(check, 2, 333, 384), b = make_chain(check, 1, 429, 192);
    struct recording *recordings[2];
    struct results want_a, want_b;

    run_on_branch(check, 0, &a);
    run_on_branch(check, 1, &b);
    want_a = take_results(check, &a);
    want_b = take_results(check, &b);
    recordings[1] = record_on_branch(check, 1, &b);
    recordings[0] = record_on_branch(check, 0, &a); /* with branch 1 on its way */
    for (int i = 0; i < REPETITIONS && recordings[0] && recordings[1]; i++) {
        spoil_results(check, &a);
        spoil_results(check, &b);
        for (int branch = 1; branch >= 0; branch--) {
            check->fast.branch(check->stream, branch);
            check->fast.replay(check->stream, recordings[branch]);
        }
        device_finish(check);
        expect_results(check, &a, &want_a, "branch 0, of two recordings");
        expect_results(check, &b, &want_b, "branch 1, of two recordings");
    }
    check->fast.replay(check->stream, recordings[1]);
    kernel_expect(check, !check->fast.stream_finish(check->stream, NULL),
                  "a recording of branch 1 is not replayed on branch 0");
    check->fast.recording_free(recordings[0]);
    check->fast.recording_free(recordings[1]);
    kernel_release(check);
}

/* Branch 1 cannot take others into its recording. */
static void check_recording_of_others(struct kernel_check *check)
{
    struct chain a = make_chain(check, 2, 77, 384), b = make_chain(check, 1, 77, 192);
    struct recording *recording;

    run_on_branch(check, 0, &a);
    run_on_branch(check, 1, &b);
    check->fast.record_begin(check->stream);
    run_on_branch(check, 0, &a);
    run_on_branch(check, 1, &b);
    recording = check->fast.record_end(check->stream);
    kernel_expect(check, !recording, "a recording of branch 1 that goes to branch 0 is none");
    device_finish(check);
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
    device_finish(check);
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
        device_finish(check);
        expect_results(check, &chain, &want, "replayed with other input");
    }
    check->fast.recording_free(recording);
    kernel_release(check);
}

/* What was never met before cannot be recorded, and leaves the stream usable. */
static void check_recording_of_new(struct kernel_check *check)
{
    struct linear layer = device_layer(check, DTYPE_BF16, 80, 48, false, true);
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
    device_finish(check);
    kernel_release(check);
}

/* --- Held weights --- */

static void run_held(struct kernel_check *check, const struct weight_request *requests,
                     const struct tensor *x, struct tensor out[2])
{
    check->fast.linear(check->stream, &out[0], x, requests[0].layers);
    op_linears(&check->fast, check->stream, &out[1], x, requests[1].layers, requests[1].count);
    device_finish(check);
}

static void check_held_weights(struct kernel_check *check, enum dtype dtype, int64_t depth,
                               int64_t columns)
{
    struct linear single = device_layer(check, dtype, columns, depth, true, true), layers[3];
    struct weight_request requests[2] = {{.layers = &single, .count = 1},
                                         {.layers = layers, .count = 3}};
    struct tensor x = dtype == DTYPE_F8_E4M3 && device_multiplies_rows(check)
                          ? device_rows(check, (struct product_shape){2, 77, depth, columns}, 0)
                          : KERNEL_TENSOR(check, check->f, 0, 2, 77, depth);
    struct tensor one = KERNEL_TENSOR(check, check->f, 0, 2, 77, columns);
    struct tensor three = KERNEL_TENSOR(check, check->f, 0, 2, 77, 3 * columns);
    struct tensor want[2] = {kernel_like(check, &one), kernel_like(check, &three)};
    struct held_weights *held = NULL;
    struct error err = {0};
    size_t element = dtype == DTYPE_F8_E4M3 ? 1 : dtype_size(check->f);

    for (int i = 0; i < 3; i++)
        layers[i] = device_layer(check, dtype, columns, depth, i != 1, i != 2);
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

/* --- Streams that failed or were cancelled --- */

static void check_failures(struct kernel_check *check)
{
    enum dtype other = check->f == DTYPE_F16 ? DTYPE_F32 : DTYPE_F16;
    struct linear layer = device_layer(check, DTYPE_BF16, 64, 64, false, true);
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
    device_finish(check);
    check->ref->add(check->ref_stream, &untouched, &x, &x);
    kernel_expect_equal(check, &out, &untouched, "the stream works again");
    check->fast.stream_watch(check->stream, NULL);
    check->fast.linear(check->stream, &out, &x, &layer);
    device_finish(check);
    kernel_release(check);
}

static void check_streams(struct kernel_check *check)
{
    if (!check->plugin)
        return;
    check_failures(check);
    check_branches(check);
    check_recorded_branches(check);
    check_recording_of_others(check);
    check_recording(check, 2, 333, 384);
    check_recording(check, 1, 1024, 1536);
    check_recording_of_new(check);
    check_held_weights(check, DTYPE_F8_E4M3, 192, 64);
    check_held_weights(check, DTYPE_F8_E4M3, 1536, 1536);
    check_held_weights(check, DTYPE_BF16, 200, 72);
}

int main(int argc, char **argv)
{
    return device_check_main(argc, argv, check_streams, "branches, recordings and held weights");
}
