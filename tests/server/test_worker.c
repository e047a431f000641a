/* The worker, in a process of its own, as the front sees it: pictures come as if each were drawn
 * alone, and whatever happens to one job is none of the others' business. */
#include "support/support.h"

#include <string.h>

#include "server/worker_front.h"

static void a_job_gives_its_picture(void **state)
{
    struct front *front = front_start(2);
    const struct job_spec spec = front_spec("a red apple", 4, 7);
    const struct outcome *outcome = &front->outcome[0];
    char *infotext, *json;
    struct image thumbnail;

    (void)state;
    front_send_job(front, 0, &spec, false);
    front_listen_until_ended(front, 1);
    assert_true(front->is_ready && front->loading_count > 0 && front->device_count > 0);
    assert_int_equal(front->facts.max_batch, 2);
    assert_true(front->facts.side_max >= SIDE && front->facts.has_encoder);
    assert_true(atomic_load(&front->heartbeat->beats) > 4);
    assert_true(atomic_load(&front->heartbeat->step_micros) > 0);
    assert_int_equal(outcome->picture_count, 1);
    assert_int_equal(outcome->preview_count, 0); /* nobody watches */
    assert_int_equal(outcome->steps_seen, 4);
    assert_true(outcome->done.total_seconds > 0);
    front_expect_as_alone(outcome, &spec, 0, NULL, NULL);
    assert_true(image_metadata_read(&infotext, &json, outcome->bytes[0],
                                    (size_t)outcome->picture[0].file_bytes, NULL));
    assert_memory_equal(infotext, "a red apple\nNegative prompt: blurry\nSteps: 4, ", 46);
    assert_non_null(strstr(infotext, "Seed: 7,"));
    assert_non_null(strstr(json, "\"guidance_scale\": 4.5"));
    free(infotext);
    free(json);
    assert_true(image_decode(&thumbnail, outcome->bytes[0] + outcome->picture[0].file_bytes,
                             (size_t)outcome->picture[0].thumbnail_bytes, &IMAGE_LIMITS_DEFAULT,
                             "thumbnail", NULL));
    assert_int_equal(thumbnail.width, SIDE);
    image_finish(&thumbnail);
    assert_int_equal(front_end(front), 0);
}

/* They are there before the worker is ready, so it finds them together. */
static void jobs_of_one_shape_are_drawn_together(void **state)
{
    struct front *front = front_start(3);
    struct job_spec first = front_spec("a red apple", 6, 1), second = front_spec("two pears", 9, 2);

    (void)state;
    second.guidance = 7.0;
    second.count = 2;
    front_send_job(front, 0, &first, false);
    front_send_job(front, 1, &second, false);
    front_listen_until_ended(front, 2);
    assert_int_equal(front->outcome[0].batch_size_max, 3);
    assert_int_equal(front->outcome[0].order, 0);
    front_expect_as_alone(&front->outcome[0], &first, 0, NULL, NULL);
    front_expect_as_alone(&front->outcome[1], &second, 0, NULL, NULL);
    front_expect_as_alone(&front->outcome[1], &second, 1, NULL, NULL);
    assert_int_equal(front->outcome[1].steps_seen, 18);
    assert_int_equal(front_end(front), 0);
}

static void pictures_join_as_places_get_free(void **state)
{
    struct front *front = front_start(2);
    struct job_spec spec = front_spec("a red apple", 3, 1);

    (void)state;
    spec.count = 3;
    front_send_job(front, 0, &spec, false);
    front_listen_until_ended(front, 1);
    assert_int_equal(front->outcome[0].picture_count, 3);
    assert_int_equal(front->outcome[0].batch_size_max, 2);
    for (int i = 0; i < 3; i++)
        front_expect_as_alone(&front->outcome[0], &spec, i, NULL, NULL);
    assert_int_equal(front_end(front), 0);
}

/* The third could join the first at once, and would be done first. */
static void another_shape_is_not_overtaken(void **state)
{
    struct front *front = front_start(2);
    struct job_spec first = front_spec("a red apple", 8, 1), wide = front_spec("a pear", 2, 2);
    struct job_spec third = front_spec("a bird", 1, 3);

    (void)state;
    wide.width = 2 * SIDE;
    front_send_job(front, 0, &first, false);
    front_send_job(front, 1, &wide, false);
    front_send_job(front, 2, &third, false);
    front_listen_until_ended(front, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(front->outcome[i].order, i);
        assert_int_equal(front->outcome[i].batch_size_max, 1);
    }
    front_expect_as_alone(&front->outcome[1], &wide, 0, NULL, NULL);
    assert_int_equal(front_end(front), 0);
}

static void cancelled_jobs_leave(void **state)
{
    struct front *front = front_start(2);
    struct job_spec endless = front_spec("a red apple", 1000, 1),
                    wide = front_spec("a pear", 1000, 2);
    struct job_spec shorter = front_spec("a bird", 3, 3);

    (void)state;
    wide.width = 2 * SIDE;
    front_send_job(front, 0, &endless, false);
    front_send_job(front, 1, &wide, false);
    while (front->outcome[0].steps_seen == 0)
        assert_true(front_listen(front));
    front_send_ticket(front, MESSAGE_CANCEL, 1); /* waits */
    front_listen_until_ended(front, 1);
    front_expect_cancelled(&front->outcome[1]);
    assert_int_equal(front->outcome[1].progress_count, 0);
    front_send_ticket(front, MESSAGE_CANCEL, 0); /* runs, and stops within its step */
    front_send_ticket(front, MESSAGE_CANCEL, 3); /* nobody's */
    front_send_job(front, 2, &shorter, false);
    front_listen_until_ended(front, 3);
    front_expect_cancelled(&front->outcome[0]);
    front_expect_as_alone(&front->outcome[2], &shorter, 0, NULL, NULL);
    assert_int_equal(front_end(front), 0);
}

/* It is done, and has all its pictures but one. */
static void expect_without(const struct outcome *outcome, const struct job_spec *spec, int left_out)
{
    assert_true(outcome->is_done);
    assert_int_equal(outcome->done.pictures_skipped, 1);
    assert_int_equal(outcome->picture_count, spec->count - 1);
    assert_null(outcome->bytes[left_out]);
    for (int i = 0; i < spec->count; i++)
        if (i != left_out)
            front_expect_as_alone(outcome, spec, i, NULL, NULL);
}

static void skipped_pictures_are_left_out_and_the_others_go_on(void **state)
{
    struct front *front = front_start(2);
    struct job_spec three = front_spec("a red apple", 1000, 1),
                    single = front_spec("a pear", 1000, 2);
    struct job_spec shorter = front_spec("a bird", 30, 3);

    (void)state;
    three.count = 3;
    front_send_job(front, 0, &three, false);
    while (front->outcome[0].steps_seen == 0)
        assert_true(front_listen(front));
    for (int i = 0; i < 3; i++) /* two that are drawn, and one that waits for a place */
        front_send_skip(front, 0, i);
    front_send_skip(front, 0, 3); /* there is none */
    front_send_skip(front, 3, 0); /* nobody's */
    front_listen_until_ended(front, 1);
    front_expect_cancelled(&front->outcome[0]);
    front_send_job(front, 1, &single, false);
    front_send_skip(front, 1, 0);
    front_listen_until_ended(front, 2);
    front_expect_cancelled(&front->outcome[1]);
    shorter.count = 3;
    front_send_job(front, 2, &shorter, false);
    front_send_skip(front, 2, 1);
    front_listen_until_ended(front, 3);
    expect_without(&front->outcome[2], &shorter, 1);
    assert_int_equal(front_end(front), 0);
}

static void what_was_skipped_before_is_left_out_from_the_start(void **state)
{
    struct front *front = front_start(2);
    struct job_spec spec = front_spec("a bird", 3, 3);
    struct job_message message = {.ticket = 0, .attempt = 2};

    (void)state;
    spec.count = 3;
    message.spec = spec;
    message.is_skipped[1] = true;
    front_send_message(front, &message);
    front_listen_until_ended(front, 1);
    expect_without(&front->outcome[0], &spec, 1);
    message.ticket = 1;
    for (int i = 0; i < 3; i++)
        message.is_skipped[i] = true;
    front_send_message(front, &message);
    front_listen_until_ended(front, 2);
    front_expect_cancelled(&front->outcome[1]);
    assert_int_equal(front->outcome[1].progress_count, 0);
    assert_int_equal(front_end(front), 0);
}

static void what_is_done_is_not_skipped(void **state)
{
    struct front *front = front_start(1);
    struct job_spec spec = front_spec("a bird", 8, 3);

    (void)state;
    spec.count = 2;
    front_send_job(front, 0, &spec, false);
    while (front->outcome[0].picture_count == 0)
        assert_true(front_listen(front));
    front_send_skip(front, 0, 0);
    front_listen_until_ended(front, 1);
    assert_int_equal(front->outcome[0].done.pictures_skipped, 0);
    for (int i = 0; i < 2; i++)
        front_expect_as_alone(&front->outcome[0], &spec, i, NULL, NULL);
    assert_int_equal(front_end(front), 0);
}

static void estimate(struct front *front, const struct job_spec *spec)
{
    struct record_writer record = {0};

    record_put_u64(&record, 9);
    spec_write(&record, spec);
    front->has_estimated = false;
    front_send_record(front, MESSAGE_ESTIMATE, &record);
    while (!front->has_estimated)
        assert_true(front_listen(front));
    assert_int_equal(front->estimated.ticket, 9);
}

static void estimates_draw_nothing(void **state)
{
    struct front *front = front_start(2);
    struct job_spec spec = front_spec("a red apple", 2, 1);

    (void)state;
    estimate(front, &spec);
    assert_true(front->estimated.fits);
    assert_true(front->estimated.peak_bytes > 1 << 20);
    assert_true(front->estimated.seconds == 0.0);
    assert_string_equal(front->estimated.message, "");
    front_send_job(front, 0, &spec, false);
    front_listen_until_ended(front, 1);
    estimate(front, &spec);
    assert_true(front->estimated.seconds > 0.0);
    spec.width = 16384;
    estimate(front, &spec);
    assert_false(front->estimated.fits);
    assert_non_null(strstr(front->estimated.message, "width"));
    assert_int_equal(front_end(front), 0);
}

static void previews_are_for_those_who_watch(void **state)
{
    struct front *front = front_start(2);
    struct job_spec spec = front_spec("a red apple", 5, 1), endless = front_spec("a pear", 1000, 2);

    (void)state;
    spec.count = 2; /* drawn together: both are shown */
    front_send_job(front, 0, &spec, true);
    front_listen_until_ended(front, 1);
    assert_int_equal(front->outcome[0].preview_count, 8); /* after the last step they are done */
    assert_int_equal(front->outcome[0].preview.width, SIDE / 2);
    front_send_job(front, 1, &endless, false);
    while (front->outcome[1].steps_seen == 0)
        assert_true(front_listen(front));
    assert_int_equal(front->outcome[1].preview_count, 0);
    front_send_ticket(front, MESSAGE_WATCH, 1);
    while (front->outcome[1].preview_count == 0)
        assert_true(front_listen(front));
    assert_int_equal(front_end(front), 0); /* gone in the middle of it */
}

static void draining_finishes_what_came_before(void **state)
{
    struct front *front = front_start(1);
    struct job_spec spec = front_spec("a red apple", 3, 1);
    struct record_writer record = {0};

    (void)state;
    front_send_job(front, 0, &spec, false);
    front_send_job(front, 1, &spec, false);
    front_send_record(front, MESSAGE_DRAIN, &record);
    front_send_job(front, 2, &spec, false); /* not taken: the front still has it */
    while (front_listen(front))
        ;
    assert_true(front->outcome[0].is_done && front->outcome[1].is_done);
    assert_int_equal(front->ended, 2);
    assert_int_equal(front_end(front), 0);
}

static void a_front_that_goes_ends_it(void **state)
{
    struct front *front = front_start(1);
    struct job_spec spec = front_spec("a red apple", 1000, 1);

    (void)state;
    front_send_job(front, 0, &spec, false);
    while (front->outcome[0].steps_seen == 0)
        assert_true(front_listen(front));
    assert_int_equal(front_end(front), 0);
    front = front_start(1); /* while it opens */
    assert_int_equal(front_end(front), 0);
}

static void strange_messages_end_it(void **state)
{
    struct front *front = front_start(1);
    struct record_writer record = {0};

    (void)state;
    front_send_record(front, MESSAGE_JOB, &record); /* empty */
    while (front_listen(front))
        ;
    assert_int_equal(front_end(front), error_exit_code(ERROR_IO));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_gives_its_picture),
        cmocka_unit_test(jobs_of_one_shape_are_drawn_together),
        cmocka_unit_test(pictures_join_as_places_get_free),
        cmocka_unit_test(another_shape_is_not_overtaken),
        cmocka_unit_test(cancelled_jobs_leave),
        cmocka_unit_test(skipped_pictures_are_left_out_and_the_others_go_on),
        cmocka_unit_test(what_was_skipped_before_is_left_out_from_the_start),
        cmocka_unit_test(what_is_done_is_not_skipped),
        cmocka_unit_test(estimates_draw_nothing),
        cmocka_unit_test(previews_are_for_those_who_watch),
        cmocka_unit_test(draining_finishes_what_came_before),
        cmocka_unit_test(a_front_that_goes_ends_it),
        cmocka_unit_test(strange_messages_end_it),
    };

    return cmocka_run_group_tests(tests, front_setup, NULL);
}
