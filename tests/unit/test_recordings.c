/* Recordings: when ops run, when they are recorded and when replayed, on a device that is not
 * there.
 */
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

#include "backend/recordings.h"

/* --- The device --- */

#define OPS 3 /* of everything that is enqueued */

struct recording {
    int key, ops;
};

/* Loads what an op needs when it runs it; what is not loaded cannot be recorded. */
struct stream {
    bool is_loaded[100][OPS]; /* by key and op */
    bool cannot_record, is_cancelled, is_recording, recording_failed;
    int recorded_key, recorded_ops;
    int cancel_at; /* the op at which somebody cancels; -1: none */
    int done[100]; /* ops whose work was done, by key */
    int recording_count, replay_count, live_recordings;
};

static void begin(struct stream *stream)
{
    if (stream->is_cancelled)
        return;
    stream->is_recording = true;
    stream->recording_failed = stream->cannot_record;
    stream->recorded_ops = 0;
    stream->recording_count++;
}

static struct recording *end(struct stream *stream)
{
    struct recording *recording;

    if (!stream->is_recording)
        return NULL;
    stream->is_recording = false;
    if (stream->recording_failed)
        return NULL;
    recording = malloc(sizeof *recording);
    assert_non_null(recording);
    *recording = (struct recording){stream->recorded_key, stream->recorded_ops};
    stream->live_recordings++;
    return recording;
}

static void replay(struct stream *stream, const struct recording *recording)
{
    if (stream->is_cancelled)
        return;
    stream->replay_count++;
    stream->done[recording->key] += recording->ops;
}

static struct stream *device; /* whose recordings are freed */

static void free_recording(struct recording *recording)
{
    if (recording)
        device->live_recordings--;
    free(recording);
}

static const struct backend_ops device_ops = {
    .record_begin = begin,
    .record_end = end,
    .replay = replay,
    .recording_free = free_recording,
};

static void run_op(struct stream *stream, int key, int op)
{
    if (stream->is_recording) {
        stream->recording_failed = stream->recording_failed || !stream->is_loaded[key][op];
        stream->recorded_key = key;
        stream->recorded_ops++;
        return;
    }
    if (op == stream->cancel_at)
        stream->is_cancelled = true;
    if (stream->is_cancelled)
        return;
    stream->is_loaded[key][op] = true;
    stream->done[key]++;
}

/* --- What is enqueued --- */

struct work {
    struct stream *stream;
    int key, enqueued;
};

static void enqueue(void *context)
{
    struct work *work = context;

    work->enqueued++;
    for (int op = 0; op < OPS; op++)
        run_op(work->stream, work->key, op);
}

struct fixture {
    struct stream stream;
    struct recordings recordings;
    struct work work;
};

static struct fixture *start(void)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    f->stream.cancel_at = -1;
    f->work.stream = &f->stream;
    device = &f->stream;
    return f;
}

static void finish(struct fixture *f)
{
    recordings_finish(&f->recordings, &device_ops);
    assert_int_equal(f->stream.live_recordings, 0);
    free(f);
}

static void run_key(struct fixture *f, int key)
{
    f->work.key = key;
    recordings_run(&f->recordings, &device_ops, &f->stream, &key, sizeof key, enqueue, &f->work);
}

/* --- Tests --- */

static void ops_run_once_are_recorded_the_second_time_and_then_replayed(void **state)
{
    struct fixture *f = start();

    (void)state;
    run_key(f, 7);
    assert_int_equal(f->stream.recording_count, 0);
    assert_int_equal(f->stream.done[7], OPS);
    run_key(f, 7);
    assert_int_equal(f->stream.recording_count, 1);
    assert_int_equal(f->stream.replay_count, 1);
    assert_int_equal(f->stream.done[7], 2 * OPS);
    for (int i = 0; i < 10; i++)
        run_key(f, 7);
    assert_int_equal(f->work.enqueued, 2);
    assert_int_equal(f->stream.recording_count, 1);
    assert_int_equal(f->stream.replay_count, 11);
    assert_int_equal(f->stream.done[7], 12 * OPS);
    finish(f);
}

static void hosts_run_ops_every_time(void **state)
{
    static const struct backend_ops host_ops = {.record_begin = NULL};
    struct fixture *f = start();
    int key = 7;

    (void)state;
    f->work.key = key;
    for (int i = 0; i < 5; i++)
        recordings_run(&f->recordings, &host_ops, &f->stream, &key, sizeof key, enqueue, &f->work);
    assert_int_equal(f->work.enqueued, 5);
    assert_int_equal(f->stream.done[7], 5 * OPS);
    recordings_finish(&f->recordings, &host_ops);
    finish(f);
}

static void each_key_has_a_recording_of_its_own(void **state)
{
    struct fixture *f = start();

    (void)state;
    for (int i = 0; i < 4; i++)
        for (int key = 1; key <= RECORDINGS_MAX; key++)
            run_key(f, key);
    assert_int_equal(f->stream.recording_count, RECORDINGS_MAX);
    assert_int_equal(f->stream.live_recordings, RECORDINGS_MAX);
    for (int key = 1; key <= RECORDINGS_MAX; key++)
        assert_int_equal(f->stream.done[key], 4 * OPS);
    finish(f);
}

static void a_key_that_begins_like_another_is_not_that_one(void **state)
{
    unsigned char key[RECORDINGS_KEY_BYTES] = {0};
    struct fixture *f = start();

    (void)state;
    for (size_t bytes = 1; bytes <= sizeof key; bytes *= 2)
        recordings_run(&f->recordings, &device_ops, &f->stream, key, bytes, enqueue, &f->work);
    key[sizeof key - 1] = 1; /* the last byte counts */
    recordings_run(&f->recordings, &device_ops, &f->stream, key, sizeof key, enqueue, &f->work);
    assert_int_equal(f->stream.recording_count, 0);
    recordings_run(&f->recordings, &device_ops, &f->stream, key, sizeof key, enqueue, &f->work);
    assert_int_equal(f->stream.recording_count, 1);
    finish(f);
}

static void what_cannot_be_recorded_runs_and_is_tried_ever_more_rarely(void **state)
{
    struct fixture *f = start();

    (void)state;
    f->stream.cannot_record = true;
    for (int i = 0; i < 100; i++)
        run_key(f, 7);
    assert_int_equal(f->stream.done[7], 100 * OPS);
    assert_int_equal(f->stream.recording_count, 7); /* after 1, 2, 4, .. 64 */
    assert_int_equal(f->stream.replay_count, 0);
    finish(f);
}

/* What the cancelled run left unloaded is met while recording, which is no error. */
static void a_first_run_that_was_cancelled_half_way_is_made_up_for(void **state)
{
    (void)state;
    for (int cancelled_at = 0; cancelled_at < OPS; cancelled_at++) {
        struct fixture *f = start();

        f->stream.cancel_at = cancelled_at;
        run_key(f, 7);
        assert_int_equal(f->stream.done[7], cancelled_at);
        f->stream.cancel_at = -1;
        f->stream.is_cancelled = false;
        f->stream.done[7] = 0;
        for (int i = 1; i <= 4; i++) {
            run_key(f, 7);
            assert_int_equal(f->stream.done[7], i * OPS);
        }
        assert_int_equal(f->stream.recording_count, 2);
        assert_int_equal(f->stream.replay_count, 3);
        finish(f);
    }
}

static void cancelling_when_it_is_recorded_does_not_end_recording_for_good(void **state)
{
    struct fixture *f = start();

    (void)state;
    run_key(f, 7);
    f->stream.is_cancelled = true;
    run_key(f, 7);
    assert_int_equal(f->stream.done[7], OPS);
    f->stream.is_cancelled = false;
    run_key(f, 7);
    assert_int_equal(f->stream.recording_count, 1);
    assert_int_equal(f->stream.replay_count, 1);
    assert_int_equal(f->stream.done[7], 2 * OPS);
    finish(f);
}

static void the_key_that_was_not_used_for_longest_makes_room(void **state)
{
    struct fixture *f = start();

    (void)state;
    for (int i = 0; i < 2; i++)
        for (int key = 1; key <= RECORDINGS_MAX; key++)
            run_key(f, key);
    run_key(f, 1);  /* so 2 is the oldest */
    run_key(f, 50); /* takes its place */
    assert_int_equal(f->stream.live_recordings, RECORDINGS_MAX - 1);
    run_key(f, 50);
    assert_int_equal(f->stream.live_recordings, RECORDINGS_MAX);
    f->work.enqueued = 0;
    for (int key = 3; key <= RECORDINGS_MAX; key++)
        run_key(f, key);
    run_key(f, 1);
    run_key(f, 50);
    assert_int_equal(f->work.enqueued, 0); /* all of these were kept */
    run_key(f, 2);
    assert_int_equal(f->work.enqueued, 1);
    assert_int_equal(f->stream.live_recordings, RECORDINGS_MAX - 1);
    finish(f);
}

static void recordings_finish_frees_all_and_leaves_an_empty_one(void **state)
{
    struct fixture *f = start();

    (void)state;
    for (int i = 0; i < 2; i++)
        for (int key = 1; key <= 3; key++)
            run_key(f, key);
    assert_int_equal(f->stream.live_recordings, 3);
    recordings_finish(&f->recordings, &device_ops);
    assert_int_equal(f->stream.live_recordings, 0);
    f->stream.recording_count = f->stream.replay_count = 0;
    run_key(f, 1);
    assert_int_equal(f->stream.recording_count, 0);
    run_key(f, 1);
    assert_int_equal(f->stream.recording_count, 1);
    assert_int_equal(f->stream.replay_count, 1);
    finish(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ops_run_once_are_recorded_the_second_time_and_then_replayed),
        cmocka_unit_test(hosts_run_ops_every_time),
        cmocka_unit_test(each_key_has_a_recording_of_its_own),
        cmocka_unit_test(a_key_that_begins_like_another_is_not_that_one),
        cmocka_unit_test(what_cannot_be_recorded_runs_and_is_tried_ever_more_rarely),
        cmocka_unit_test(a_first_run_that_was_cancelled_half_way_is_made_up_for),
        cmocka_unit_test(cancelling_when_it_is_recorded_does_not_end_recording_for_good),
        cmocka_unit_test(the_key_that_was_not_used_for_longest_makes_room),
        cmocka_unit_test(recordings_finish_frees_all_and_leaves_an_empty_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
