/* The native API over a hub and an HTTP server that are fakes: lists, waits, events, deleting, the
 * opaque texts, and answers against their own schemas. */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "native_fakes.h"
#include "server/native_private.h"

struct fixture {
    struct hub *hub;
    struct native *native;
    struct http_exchange exchange;
};

static int start(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct error err;

    fixture->hub = fake_hub_create(250);
    assert_true(
        native_create(&fixture->native, &(struct native_options){.hub = fixture->hub}, &err));
    fake_exchange_init(&fixture->exchange);
    *state = fixture;
    return 0;
}

static int stop(void **state)
{
    struct fixture *fixture = *state;

    native_destroy(fixture->native);
    assert_int_equal(fake_hub_subscriptions(fixture->hub), 0);
    fake_exchange_finish(&fixture->exchange);
    fake_hub_destroy(fixture->hub);
    free(fixture);
    return 0;
}

static void next_exchange(struct fixture *fixture)
{
    fake_exchange_finish(&fixture->exchange);
    fake_exchange_init(&fixture->exchange);
}

/* --- Opaque texts --- */

static void a_cursor_reads_back_and_nothing_else_is_one(void **state)
{
    static const int64_t sequences[] = {1, 255, 256, 123456789, INT64_MAX};
    static const char *const wrong[] = {"",
                                        "ag",
                                        "agAAAAAAAAAA",
                                        "ahAAAAAAAAAA==",
                                        "zzzzzzzzzzzz",
                                        "1",
                                        "../../etc",
                                        "agAAAAAAAAABagAAAAAAAAAB",
                                        "agAAAAAA\301AAB"};
    char cursor[NATIVE_CURSOR_BYTES];
    int64_t sequence;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sequences); i++) {
        native_cursor_write(cursor, sequences[i]);
        assert_int_equal(strlen(cursor), 12);
        assert_true(native_cursor_read(&sequence, cursor));
        assert_int_equal(sequence, sequences[i]);
    }
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        assert_false(native_cursor_read(&sequence, wrong[i]));
}

static void an_event_id_of_another_boot_is_not_ours(void **state)
{
    char id[NATIVE_EVENT_ID_BYTES], boot[NATIVE_BOOT_BYTES], other[NATIVE_BOOT_BYTES];
    uint64_t number = 0;

    (void)state;
    native_boot_draw(boot);
    native_boot_draw(other);
    native_event_id_write(id, boot, UINT64_MAX);
    assert_true(native_event_id_read(&number, boot, id));
    assert_true(number == UINT64_MAX);
    assert_false(native_event_id_read(&number, other, id));
    native_event_id_write(id, boot, 0);
    assert_false(native_event_id_read(&number, boot, id));
    assert_false(native_event_id_read(&number, boot, "5"));
    assert_false(native_event_id_read(&number, boot, ""));
    assert_false(native_event_id_read(&number, boot, boot));
}

static void digits_that_do_not_fit_are_no_number(void **state)
{
    uint64_t number;

    (void)state;
    assert_true(native_digits_read(&number, "18446744073709551615"));
    assert_false(native_digits_read(&number, "18446744073709551616"));
    assert_false(native_digits_read(&number, "-1"));
    assert_false(native_digits_read(&number, " 1"));
    assert_false(native_digits_read(&number, "1.5"));
}

/* --- Jobs as JSON --- */

static void progress_of_several_pictures_never_goes_back(void **state)
{
    static const struct {
        enum job_phase phase;
        int step;
    } told[] = {
        {JOB_PHASE_WAIT, 0},    {JOB_PHASE_ENCODE, 0},  {JOB_PHASE_DENOISE, 1},
        {JOB_PHASE_DENOISE, 8}, {JOB_PHASE_DECODE, 8},  {JOB_PHASE_SAVE, 8},
        {JOB_PHASE_ENCODE, 8},  {JOB_PHASE_DENOISE, 9}, {JOB_PHASE_DENOISE, 16},
        {JOB_PHASE_DECODE, 16}, {JOB_PHASE_SAVE, 16},   {JOB_PHASE_DECODE, 16},
    };
    struct job_view job = {.state = JOB_RUNNING, .step_count = 16};
    double last = 0;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(told); i++) {
        job.phase = told[i].phase;
        job.step = told[i].step;
        assert_true(native_job_progress(&job) >= last);
        last = native_job_progress(&job);
        assert_true(last < (job.step < 16 ? 0.9 : 1));
    }
}

/* What clients read of it. */
static json_t *job_json(const struct job_view *job)
{
    struct json_writer text = {0};
    json_t *value;
    char *bytes;
    size_t size;

    json_writer_open(&text, NULL, '{');
    native_write_job(&text, job);
    json_writer_close(&text, '}');
    bytes = json_writer_take(&text, &size);
    assert_non_null(bytes);
    value = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, NULL);
    free(bytes);
    return value;
}

static void a_running_job_tells_how_far_it_is(void **state)
{
    struct job_view job = {.state = JOB_RUNNING,
                           .phase = JOB_PHASE_DENOISE,
                           .step = 14,
                           .step_count = 28,
                           .created_ms = 1767225600123,
                           .seconds_left = 2.5};
    json_t *value = job_json(&job);

    (void)state;
    assert_non_null(value);
    assert_string_equal(json_string_value(json_object_get(value, "created_at")),
                        "2026-01-01T00:00:00.123Z");
    assert_float_equal(json_real_value(json_object_get(value, "progress")), 0.48, 0.01);
    assert_string_equal(json_string_value(json_object_get(value, "phase")), "denoise");
    assert_true(json_is_null(json_object_get(value, "position")));
    assert_true(json_is_null(json_object_get(value, "started_at")));
    assert_null(json_object_get(value, "parameters"));
    json_decref(value);
}

static void a_message_that_is_no_utf8_is_told_all_the_same(void **state)
{
    struct job_view job = {
        .state = JOB_FAILED, .error_code = "backend", .error_message = (char[]){"caf\xc3"}};
    json_t *value = job_json(&job);
    json_t *error = json_object_get(value, "error");

    (void)state;
    assert_string_equal(json_string_value(json_object_get(error, "message")), "caf?");
    json_decref(value);
}

static void a_time_has_milliseconds_and_leap_days(void **state)
{
    struct job_view job = {.created_ms = 951782400007, .started_ms = 253402300799999};
    json_t *value = job_json(&job);

    (void)state;
    assert_string_equal(json_string_value(json_object_get(value, "created_at")),
                        "2000-02-29T00:00:00.007Z");
    assert_string_equal(json_string_value(json_object_get(value, "started_at")),
                        "9999-12-31T23:59:59.999Z");
    assert_true(json_is_null(json_object_get(value, "finished_at")));
    json_decref(value);
}

/* --- Lists --- */

/* Reads all pages; returns how many rows there were, each id once. */
static int walk(struct fixture *fixture, void (*list)(struct http_exchange *, void *),
                const char *key, const char *limit, const char *wanted_state)
{
    json_t *seen = json_object();
    char cursor[64] = "";
    int count = 0;

    for (int pages = 0; pages < 300; pages++) {
        json_t *row, *next;
        size_t i;

        next_exchange(fixture);
        fake_set(&fixture->exchange, "limit", limit);
        if (wanted_state)
            fake_set(&fixture->exchange, "state", wanted_state);
        if (cursor[0])
            fake_set(&fixture->exchange, "cursor", cursor);
        list(&fixture->exchange, fixture->native);
        assert_int_equal(fixture->exchange.status, 200);
        json_array_foreach(json_object_get(fixture->exchange.answer, key), i, row)
        {
            const char *id = json_string_value(json_object_get(row, "id"));

            assert_null(json_object_get(seen, id));
            json_object_set_new(seen, id, json_true());
            count++;
        }
        next = json_object_get(fixture->exchange.answer, "next_cursor");
        if (json_is_null(next))
            break;
        snprintf(cursor, sizeof cursor, "%s", json_string_value(next));
    }
    json_decref(seen);
    return count;
}

static void pages_hold_each_job_once(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(walk(fixture, native_list_jobs, "jobs", "7", NULL), 250);
    assert_int_equal(walk(fixture, native_list_jobs, "jobs", "50", NULL), 250);
    assert_int_equal(walk(fixture, native_list_jobs, "jobs", "100", NULL), 250);
    assert_int_equal(walk(fixture, native_list_jobs, "jobs", "3", "failed"), 50);
    assert_int_equal(walk(fixture, native_list_jobs, "jobs", "9", "done"), 200);
    assert_int_equal(walk(fixture, native_list_jobs, "jobs", "9", "queued"), 0);
    assert_int_equal(walk(fixture, native_list_pictures, "images", "5", NULL), 168);
}

static void the_last_full_page_has_no_cursor(void **state)
{
    struct fixture *fixture = *state;

    fake_hub_destroy(fixture->hub);
    fixture->hub = fake_hub_create(50);
    fixture->native->options.hub = fixture->hub;
    native_list_jobs(&fixture->exchange, fixture->native);
    assert_int_equal(json_array_size(json_object_get(fixture->exchange.answer, "jobs")), 50);
    assert_true(json_is_null(json_object_get(fixture->exchange.answer, "next_cursor")));
}

static void wrong_queries_are_refused_by_name(void **state)
{
    static const struct {
        const char *name, *value;
    } rows[] = {{"limit", "0"},  {"limit", "101"}, {"limit", "x"},   {"cursor", ""},
                {"cursor", "x"}, {"state", "new"}, {"starred", "2"}, {"all", "yes"}};
    struct fixture *fixture = *state;

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        next_exchange(fixture);
        fake_set(&fixture->exchange, rows[i].name, rows[i].value);
        native_list_jobs(&fixture->exchange, fixture->native);
        assert_int_equal(fixture->exchange.status, 422);
        assert_string_equal(fixture->exchange.field, rows[i].name);
    }
}

static void only_an_administrator_sees_everybodys(void **state)
{
    struct fixture *fixture = *state;

    snprintf(fixture->exchange.identity.name, sizeof fixture->exchange.identity.name, "bob");
    fixture->exchange.id = fake_hub_job(fixture->hub, 0)->id;
    fake_set(&fixture->exchange, "all", "1");
    native_get_job(&fixture->exchange, fixture->native);
    assert_int_equal(fixture->exchange.status, 404);
    fixture->exchange.identity.scopes |= SCOPE_ADMIN;
    native_get_job(&fixture->exchange, fixture->native);
    assert_int_equal(fixture->exchange.status, 200);
}

/* --- Waiting --- */

static struct job_view *wait_for_first(struct fixture *fixture)
{
    struct job_view *job = fake_hub_job(fixture->hub, 0);

    job->state = JOB_RUNNING;
    fixture->exchange.id = job->id;
    fake_set(&fixture->exchange, "wait", "60");
    native_get_job(&fixture->exchange, fixture->native);
    return job;
}

static void a_wait_is_answered_by_the_end_of_the_job(void **state)
{
    struct fixture *fixture = *state;
    struct job_view *job = wait_for_first(fixture);

    assert_int_equal(fake_hub_subscriptions(fixture->hub), 1);
    fake_hub_tell(fixture->hub, EVENT_JOB_PROGRESS, 1, 0);
    pthread_mutex_lock(&fixture->exchange.lock);
    assert_int_equal(fixture->exchange.answers, 0);
    pthread_mutex_unlock(&fixture->exchange.lock);
    job->state = JOB_DONE;
    fake_hub_tell(fixture->hub, EVENT_JOB_DONE, 2, 0);
    fake_hub_tell(fixture->hub, EVENT_JOB_DELETED, 3, 0);
    fake_await(&fixture->exchange);
    assert_int_equal(fixture->exchange.status, 200);
    assert_string_equal(json_string_value(json_object_get(fixture->exchange.answer, "state")),
                        "done");
}

static void a_wait_whose_client_left_is_answered_at_once(void **state)
{
    struct fixture *fixture = *state;

    wait_for_first(fixture);
    fixture->exchange.gone(fixture->exchange.gone_context);
    fake_await(&fixture->exchange);
    assert_int_equal(fixture->exchange.answers, 1);
}

static void hanging_up_answers_all_that_wait(void **state)
{
    struct fixture *fixture = *state;

    wait_for_first(fixture);
    native_hang_up(fixture->native);
    fake_await(&fixture->exchange);
    assert_string_equal(json_string_value(json_object_get(fixture->exchange.answer, "state")),
                        "running");
}

static int64_t polled_step(struct fixture *fixture)
{
    next_exchange(fixture);
    fixture->exchange.id = fake_hub_job(fixture->hub, 0)->id;
    native_get_job(&fixture->exchange, fixture->native);
    assert_int_equal(fixture->exchange.status, 200);
    return json_integer_value(json_object_get(fixture->exchange.answer, "step"));
}

static void a_poll_tells_what_is_true_by_then(void **state)
{
    struct fixture *fixture = *state;
    struct job_view *job = fake_hub_job(fixture->hub, 0);

    job->state = JOB_RUNNING;
    for (int32_t step = 1; step <= 3; step++) {
        job->step = step;
        assert_int_equal(polled_step(fixture), step);
    }
    job->state = JOB_DONE;
    assert_int_equal(polled_step(fixture), 0);
    assert_string_equal(json_string_value(json_object_get(fixture->exchange.answer, "state")),
                        "done");
}

static void memory_that_is_short_makes_no_half_answer(void **state)
{
    struct fixture *fixture = *state;
    struct json_writer text = {.has_failed = true};

    native_reply_text(&fixture->exchange, 200, &text);
    assert_int_equal(fixture->exchange.status, 503);
    assert_string_equal(fixture->exchange.code, "out_of_memory");
}

static void a_job_that_is_over_is_not_waited_for(void **state)
{
    struct fixture *fixture = *state;

    fake_hub_hide(fixture->hub, true);
    fixture->exchange.id = fake_hub_job(fixture->hub, 0)->id;
    fake_set(&fixture->exchange, "wait", "60");
    native_get_job(&fixture->exchange, fixture->native);
    fake_await(&fixture->exchange);
    assert_int_equal(fixture->exchange.status, 200);
}

/* --- Making --- */

static void a_dry_run_tells_and_makes_nothing(void **state)
{
    struct fixture *fixture = *state;

    fixture->exchange.body = "{\"prompt\": \"a fox\", \"dry_run\": true, \"timeout\": 5}";
    native_post_job(&fixture->exchange, fixture->native);
    assert_int_equal(fixture->exchange.status, 200);
    assert_true(json_is_true(json_object_get(fixture->exchange.answer, "fits")));
    assert_int_equal(json_integer_value(json_object_get(fixture->exchange.answer, "memory_bytes")),
                     5);
    assert_string_equal(fixture->exchange.location, "");
}

static void wrong_fields_are_refused_by_name(void **state)
{
    static const struct {
        const char *body, *field;
    } rows[] = {
        {"{\"prompt\":\"a\",\"timeout\":0}", "timeout"},
        {"{\"prompt\":\"a\",\"timeout\":\"5\"}", "timeout"},
        {"{\"prompt\":\"a\",\"timeout\":1e9}", "timeout"},
        {"{\"prompt\":\"a\",\"dry_run\":1}", "dry_run"},
        {"{\"prompt\":\"a\",\"width\":63}", "width"},
        {"{\"prompt\":\"a\",\"image_url\":\"file:///etc/passwd\"}", "image_url"},
        {"{}", "prompt"},
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        next_exchange(fixture);
        fixture->exchange.body = rows[i].body;
        native_post_job(&fixture->exchange, fixture->native);
        assert_int_equal(fixture->exchange.status, 422);
        assert_string_equal(fixture->exchange.field, rows[i].field);
    }
}

static void a_new_job_is_accepted_and_named(void **state)
{
    struct fixture *fixture = *state;
    struct job_view *job = fake_hub_job(fixture->hub, 0);

    job->state = JOB_QUEUED;
    fixture->exchange.body = "{\"prompt\": \"a fox\"}";
    native_post_job(&fixture->exchange, fixture->native);
    assert_int_equal(fixture->exchange.status, 202);
    assert_string_equal(fixture->exchange.location + strlen("/api/v1/jobs/"), job->id);
    next_exchange(fixture);
    fixture->exchange.body = "{\"prompt\": \"a fox\"}";
    fake_set(&fixture->exchange, "Idempotency-Key", "k");
    native_post_job(&fixture->exchange, fixture->native);
    assert_int_equal(fixture->exchange.status, 200);
}

/* --- Events --- */

static void a_stream_begins_and_goes_on_after_what_was_seen(void **state)
{
    struct fixture *fixture = *state;
    char id[NATIVE_EVENT_ID_BYTES];

    native_event_id_write(id, fixture->native->boot, 41);
    fake_set(&fixture->exchange, "Last-Event-ID", id);
    native_get_events(&fixture->exchange, fixture->native);
    assert_int_equal(fake_hub_after(fixture->hub), 41);
    assert_string_equal(fixture->exchange.type, "text/event-stream");
    assert_false(fake_streamed(&fixture->exchange, "event: gap"));
    fake_hub_tell(fixture->hub, EVENT_JOB_DONE, 42, 0);
    native_event_id_write(id, fixture->native->boot, 42);
    assert_true(fake_streamed(&fixture->exchange, id));
    assert_true(fake_streamed(&fixture->exchange, "\nevent: job.done\ndata: {\"id\":"));
    assert_false(fake_streamed(&fixture->exchange, "parameters"));
    assert_false(fake_streamed(&fixture->exchange, "\"image\":0"));
    fake_hub_tell(fixture->hub, EVENT_STAR, 43, 3);
    assert_true(fake_streamed(&fixture->exchange, "\nevent: job.starred\ndata: {\"id\":"));
    assert_true(fake_streamed(&fixture->exchange, "\"image\":0"));
    fixture->exchange.closed(fixture->exchange.closed_context);
}

static void an_id_of_another_boot_gives_a_gap(void **state)
{
    struct fixture *fixture = *state;

    fake_set(&fixture->exchange, "last_event_id", "0123456789abcdef-7");
    native_get_events(&fixture->exchange, fixture->native);
    assert_int_equal(fake_hub_after(fixture->hub), 0);
    assert_true(fake_streamed(&fixture->exchange, "event: gap\ndata: {}\n\n"));
    fixture->exchange.closed(fixture->exchange.closed_context);
}

static void a_preview_has_no_number_and_is_base64(void **state)
{
    struct fixture *fixture = *state;

    native_get_events(&fixture->exchange, fixture->native);
    fake_hub_tell(fixture->hub, EVENT_JOB_PREVIEW, 0, 0);
    assert_true(fake_streamed(&fixture->exchange, "\n\nevent: job.preview\ndata: {\"job\":"));
    assert_true(fake_streamed(&fixture->exchange, "\"jpeg\":\"/9hqcGVn\"}"));
    fixture->exchange.closed(fixture->exchange.closed_context);
    /* Nothing is written to a stream that is closed. */
    free(fixture->exchange.stream);
    fixture->exchange.stream = NULL;
    fake_hub_tell(fixture->hub, EVENT_JOB_DONE, 5, 0);
    assert_null(fixture->exchange.stream);
}

/* --- Pictures --- */

static void one_picture_of_several_is_not_deleted_alone(void **state)
{
    struct fixture *fixture = *state;
    const struct job_view *job = fake_hub_job(fixture->hub, 3);
    char body[256];

    fixture->exchange.id = job->pictures[0].id;
    native_delete_picture(&fixture->exchange, fixture->native);
    assert_int_equal(fixture->exchange.status, 409);
    assert_string_equal(fixture->exchange.code, "has_siblings");
    next_exchange(fixture);
    snprintf(body, sizeof body, "{\"ids\": [\"%s\", \"%s\", \"%s\", \"%s\"]}", job->pictures[0].id,
             fake_hub_job(fixture->hub, 6)->pictures[0].id, job->pictures[1].id,
             "ffffffffffffffffffffffffffffffff");
    fixture->exchange.body = body;
    native_delete_pictures(&fixture->exchange, fixture->native);
    assert_int_equal(fixture->exchange.status, 200);
    assert_int_equal(json_array_size(json_object_get(fixture->exchange.answer, "deleted")), 2);
    assert_int_equal(json_array_size(json_object_get(fixture->exchange.answer, "kept")), 2);
    assert_int_equal(fake_hub_deleted(fixture->hub), 1);
}

static void lists_of_ids_are_checked(void **state)
{
    static const char *const bodies[] = {
        "{}",
        "{\"ids\": []}",
        "{\"ids\": \"a\"}",
        "{\"ids\": [1]}",
        "{\"ids\": [\"../a\"]}",
        "{\"ids\": [\"00000000000000000000000000000000\"], \"more\": 1}"};
    struct fixture *fixture = *state;

    for (size_t i = 0; i < COUNT_OF(bodies); i++) {
        next_exchange(fixture);
        fixture->exchange.body = bodies[i];
        native_zip_pictures(&fixture->exchange, fixture->native);
        assert_int_equal(fixture->exchange.status, 422);
    }
}

static void a_signed_link_has_to_be_ours(void **state)
{
    struct fixture *fixture = *state;

    fixture->exchange.id = fake_hub_job(fixture->hub, 0)->pictures[0].id;
    fake_set(&fixture->exchange, "expires", "1");
    fake_set(&fixture->exchange, "signature", "bad");
    native_get_signed_file(&fixture->exchange, fixture->native);
    assert_int_equal(fixture->exchange.status, 403);
    fake_set(&fixture->exchange, "signature", "good");
    native_get_signed_file(&fixture->exchange, fixture->native);
    assert_int_equal(fixture->exchange.status, 410); /* the fake has no files */
}

/* --- Answers against their schemas --- */

/* Required members are there, and no others than the schema knows. */
static void expect_fits(const json_t *schema, const json_t *value)
{
    const json_t *properties = json_object_get(schema, "properties"), *name, *member;
    const char *key;
    size_t i;

    assert_true(json_is_object(properties) && json_is_object(value));
    json_array_foreach(json_object_get(schema, "required"), i, name)
        assert_non_null(json_object_get(value, json_string_value(name)));
    json_object_foreach((json_t *)value, key, member)
        assert_non_null(json_object_get(properties, key));
}

static void answers_are_what_their_schemas_say(void **state)
{
    static const struct {
        void (*handle)(struct http_exchange *exchange, void *context);
        json_t *(*schema)(void *context);
    } rows[] = {
        {native_get_model, native_model_schema}, {native_get_device, native_device_schema},
        {native_get_queue, native_queue_schema}, {native_get_job, native_job_schema},
        {native_list_jobs, native_jobs_schema},  {native_list_pictures, native_pictures_schema}};
    struct fixture *fixture = *state;

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        json_t *schema = rows[i].schema(fixture->native);

        next_exchange(fixture);
        fixture->exchange.id = fake_hub_job(fixture->hub, 0)->id;
        rows[i].handle(&fixture->exchange, fixture->native);
        assert_int_equal(fixture->exchange.status, 200);
        expect_fits(schema, fixture->exchange.answer);
        json_decref(schema);
    }
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cursor_reads_back_and_nothing_else_is_one),
        cmocka_unit_test(an_event_id_of_another_boot_is_not_ours),
        cmocka_unit_test(digits_that_do_not_fit_are_no_number),
        cmocka_unit_test(progress_of_several_pictures_never_goes_back),
        cmocka_unit_test(a_running_job_tells_how_far_it_is),
        cmocka_unit_test(a_message_that_is_no_utf8_is_told_all_the_same),
        cmocka_unit_test(a_time_has_milliseconds_and_leap_days),
        WITH_FIXTURE(pages_hold_each_job_once),
        WITH_FIXTURE(the_last_full_page_has_no_cursor),
        WITH_FIXTURE(wrong_queries_are_refused_by_name),
        WITH_FIXTURE(only_an_administrator_sees_everybodys),
        WITH_FIXTURE(a_wait_is_answered_by_the_end_of_the_job),
        WITH_FIXTURE(a_wait_whose_client_left_is_answered_at_once),
        WITH_FIXTURE(hanging_up_answers_all_that_wait),
        WITH_FIXTURE(a_job_that_is_over_is_not_waited_for),
        WITH_FIXTURE(a_poll_tells_what_is_true_by_then),
        WITH_FIXTURE(memory_that_is_short_makes_no_half_answer),
        WITH_FIXTURE(a_dry_run_tells_and_makes_nothing),
        WITH_FIXTURE(wrong_fields_are_refused_by_name),
        WITH_FIXTURE(a_new_job_is_accepted_and_named),
        WITH_FIXTURE(a_stream_begins_and_goes_on_after_what_was_seen),
        WITH_FIXTURE(an_id_of_another_boot_gives_a_gap),
        WITH_FIXTURE(a_preview_has_no_number_and_is_base64),
        WITH_FIXTURE(one_picture_of_several_is_not_deleted_alone),
        WITH_FIXTURE(lists_of_ids_are_checked),
        WITH_FIXTURE(a_signed_link_has_to_be_ours),
        WITH_FIXTURE(answers_are_what_their_schemas_say),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
