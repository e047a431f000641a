/* Text encoders and the transformer do the same ops again and again, which devices record and
 * replay: every result has the bytes of ops that ran one by one. Hosts get a recorder for it.
 *
 * usage: check_replays [--device NAME] [--model PATH]
 */
#include "support/support.h"
#include "support/test_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host_recorder.h"
#include "pipeline/pipeline_private.h"

#define BATCH 2
#define T5_LENGTH 80
#define PROMPTS 6
#define MEMORY_BYTES ((size_t)256 << 20)

enum encoder { T5 = CLIP_COUNT, ENCODERS }; /* after enum clip_index */

static const char *device, *model;
static bool is_host;

/* --- What the device is asked for --- */

static int replays, attentions, cancel_at;
static atomic_bool cancel;
static struct backend_ops own_ops; /* as they were before these stood in for them */

static void counting_replay(struct stream *stream, const struct recording *recording)
{
    replays++;
    own_ops.replay(stream, recording);
}

/* Somebody cancels when an attention is met. */
static void cancelling_attention(struct stream *stream, struct tensor *out, const struct tensor *q,
                                 const struct tensor *k, const struct tensor *v,
                                 const struct attention_options *options)
{
    own_ops.attention(stream, out, q, k, v, options);
    if (++attentions == cancel_at)
        atomic_store(&cancel, true);
}

/* --- Encoding --- */

struct fixture {
    struct pipeline *pipeline;
    struct backend_ops *ops;
    enum encoder encoder;
    void *memory;
    struct clip_plan *clip;
    struct t5_plan *t5;
    struct tensor ids;            /* [B, T] i32 */
    struct tensor hidden, pooled; /* [B, T, C], [B, P]; T5 has no pooled */
};

static struct pipeline *open_pipeline(void)
{
    struct pipeline *pipeline;
    struct error err;

    if (!pipeline_create(&pipeline,
                         &(struct pipeline_options){
                             .model = model, .device = device, .threads = 2, .memory = MEMORY_ALL},
                         &err))
        fail_msg("%s", err.message);
    is_host = !pipeline->backend->ops.record_begin;
    if (is_host)
        host_recorder_install(&pipeline->backend->ops);
    own_ops = pipeline->backend->ops;
    pipeline->backend->ops.replay = counting_replay;
    pipeline->backend->ops.attention = cancelling_attention;
    attentions = cancel_at = replays = 0;
    atomic_store(&cancel, false);
    return pipeline;
}

static void start(struct fixture *f, struct pipeline *pipeline, enum encoder which)
{
    int64_t width, pooled_width = 1, tokens = which == T5 ? T5_LENGTH : CLIP_TOKENS;
    enum dtype type = pipeline->backend->ops.activation_dtype;
    struct arena arena;
    struct error err;

    *f = (struct fixture){.pipeline = pipeline, .ops = &pipeline->backend->ops, .encoder = which};
    f->memory = f->ops->memory_alloc(MEMORY_BYTES);
    assert_non_null(f->memory);
    arena_init(&arena, f->memory, MEMORY_BYTES);
    if (which == T5) {
        width = t5_encoder_width(pipeline->t5);
        assert_true(t5_plan_create(&f->t5, pipeline->t5, &arena, BATCH, tokens, &err));
    } else {
        width = clip_encoder_width(pipeline->clip[which]);
        pooled_width = clip_encoder_pooled_width(pipeline->clip[which]);
        assert_true(clip_plan_create(&f->clip, pipeline->clip[which], &arena, BATCH, &err));
    }
    assert_true(TENSOR_ALLOC(&f->ids, &arena, DTYPE_I32, "ids", &err, BATCH, tokens));
    assert_true(TENSOR_ALLOC(&f->hidden, &arena, type, "hidden", &err, BATCH, tokens, width));
    assert_true(TENSOR_ALLOC(&f->pooled, &arena, type, "pooled", &err, BATCH, pooled_width));
}

static void finish(struct fixture *f)
{
    clip_plan_destroy(f->clip);
    t5_plan_destroy(f->t5);
    f->ops->memory_free(f->memory, MEMORY_BYTES);
}

/* Other ids, and other end tokens, for each number. */
static void encode(struct fixture *f, int number)
{
    static int32_t ids[BATCH * T5_LENGTH];
    const struct pipeline *p = f->pipeline;
    int64_t tokens = f->ids.dim[1], eos[BATCH];
    int64_t vocabulary = f->encoder == T5 ? t5_encoder_vocabulary(p->t5)
                                          : clip_encoder_vocabulary(p->clip[f->encoder]);
    struct tensor host = TENSOR_OF(ids, DTYPE_I32, BATCH, tokens);

    for (int64_t i = 0; i < BATCH * tokens; i++)
        ids[i] = (int32_t)((i * 31 + number * 17) % vocabulary);
    for (int64_t b = 0; b < BATCH; b++)
        eos[b] = (b * 40 + number * 7) % CLIP_TOKENS;
    f->ops->upload(p->stream, &f->ids, &host);
    if (f->encoder == T5)
        t5_encode(f->t5, p->stream, &f->hidden, &f->ids);
    else
        clip_encode(f->clip, p->stream, &f->hidden, &f->pooled, &f->ids, eos);
}

struct bytes {
    char *hidden, *pooled;
};

static char *download(struct fixture *f, const struct tensor *x)
{
    struct tensor host = *x;

    host.data = calloc(1, tensor_bytes(x));
    assert_non_null(host.data);
    f->ops->download(f->pipeline->stream, &host, x);
    return host.data;
}

static struct bytes fetch(struct fixture *f)
{
    struct bytes bytes = {download(f, &f->hidden), download(f, &f->pooled)};
    struct error err;

    if (!f->ops->stream_finish(f->pipeline->stream, &err))
        fail_msg("%s", err.message);
    return bytes;
}

static void free_bytes(struct bytes *bytes)
{
    free(bytes->hidden);
    free(bytes->pooled);
}

static void expect_same(const struct fixture *f, int number, const char *what, const char *got,
                        const char *want, size_t bytes)
{
    static const char *const names[ENCODERS] = {"CLIP-L", "CLIP-G", "T5"};
    size_t at = 0;

    while (at < bytes && got[at] == want[at])
        at++;
    if (at < bytes)
        fail_msg("%s, prompt %d: %s differs from byte %zu of %zu on", names[f->encoder], number,
                 what, at, bytes);
}

/* Encodes in f; what comes out is what a new plan makes of it. */
static void expect_same_as_new(struct fixture *f, int number)
{
    struct fixture fresh;
    struct bytes got, want;

    encode(f, number);
    got = fetch(f);
    start(&fresh, f->pipeline, f->encoder);
    encode(&fresh, number);
    want = fetch(&fresh);
    expect_same(f, number, "hidden", got.hidden, want.hidden, tensor_bytes(&f->hidden));
    if (f->encoder != T5)
        expect_same(f, number, "pooled", got.pooled, want.pooled, tensor_bytes(&f->pooled));
    finish(&fresh);
    free_bytes(&got);
    free_bytes(&want);
}

/* --- Tests --- */

static void prompts_encoded_in_one_plan_equal_those_of_new_plans(void **state)
{
    struct pipeline *pipeline = open_pipeline();

    (void)state;
    for (int which = 0; which < ENCODERS; which++) {
        struct fixture f;

        start(&f, pipeline, (enum encoder)which);
        replays = 0;
        for (int number = 0; number < PROMPTS; number++)
            expect_same_as_new(&f, number);
        assert_int_equal(replays, PROMPTS - 1);
        finish(&f);
    }
    pipeline_destroy(pipeline);
}

/* What it did not load is loaded later, and no error then. */
static void a_plan_whose_first_use_was_cancelled_can_be_used(void **state)
{
    (void)state;
    for (int which = 0; which < ENCODERS; which++) {
        struct pipeline *pipeline = open_pipeline();
        struct error err;
        struct fixture f;

        start(&f, pipeline, (enum encoder)which);
        cancel_at = 1;
        f.ops->stream_watch(pipeline->stream, &cancel);
        encode(&f, 0);
        assert_false(f.ops->stream_finish(pipeline->stream, &err));
        assert_int_equal(err.code, ERROR_CANCELLED);
        f.ops->stream_watch(pipeline->stream, NULL);
        for (int number = 1; number < PROMPTS; number++)
            expect_same_as_new(&f, number);
        /* On a device the second use finds what is missing, and the third is recorded. */
        assert_int_equal(replays, is_host ? PROMPTS - 1 : PROMPTS - 2);
        finish(&f);
        pipeline_destroy(pipeline);
    }
}

/* Latents of two pictures, one after the other, that skip different layers; for the caller to free.
 */
static float *draw(struct pipeline *pipeline, size_t *count)
{
    static const char *const prompts[] = {"two red apples", "a blue pear"};
    struct pipeline_request request;
    struct error err;
    size_t one;
    float *latents;

    pipeline_request_defaults(pipeline, &request);
    request.width = request.height = 64;
    request.steps = 6;
    request.t5_tokens = T5_LENGTH;
    request.skip_layer_count = 1;
    request.skip_layer_stop = 1.0;
    one = 16 * 8 * 8;
    *count = COUNT_OF(prompts) * one;
    latents = calloc(*count, sizeof *latents);
    assert_non_null(latents);
    for (size_t i = 0; i < COUNT_OF(prompts); i++) {
        struct pipeline_result result;

        request.prompt = prompts[i];
        request.skip_layers[0] = (int)i;
        if (!pipeline_run(pipeline, &request, NULL, &result, &err))
            fail_msg("%s", err.message);
        memcpy(latents + i * one, result.latents, one * sizeof *latents);
        pipeline_result_finish(&result);
    }
    return latents;
}

/* On hosts: a device chooses its attention by timing it. */
static void pictures_drawn_by_replays_equal_those_of_ops_one_by_one(void **state)
{
    struct pipeline *pipeline = open_pipeline();
    float *want, *got;
    size_t count;

    (void)state;
    if (!is_host) {
        pipeline_destroy(pipeline);
        skip();
    }
    got = draw(pipeline, &count);
    /* All but the first of the 2 x 6 evaluations with all blocks, of the 5 without block 0 and the
     * 5 without block 1, and of the 4 prompts in each encoder. */
    assert_int_equal(replays, 11 + 4 + 4 + 3 * ENCODERS);
    pipeline_destroy(pipeline);

    pipeline = open_pipeline();
    host_recorder_remove(&pipeline->backend->ops);
    want = draw(pipeline, &count);
    assert_memory_equal(got, want, count * sizeof *got);
    pipeline_destroy(pipeline);
    free(got);
    free(want);
}

static int write_model(void **state)
{
    (void)state;
    if (!model)
        model = test_model();
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_encoded_in_one_plan_equal_those_of_new_plans),
        cmocka_unit_test(a_plan_whose_first_use_was_cancelled_can_be_used),
        cmocka_unit_test(pictures_drawn_by_replays_equal_those_of_ops_one_by_one),
    };

    device = "cpu";
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--device") == 0)
            device = argv[i + 1];
        else if (strcmp(argv[i], "--model") == 0)
            model = argv[i + 1];
    }
    return cmocka_run_group_tests(tests, write_model, NULL);
}
