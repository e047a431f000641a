/* The worker and a pipeline that fails: what is tried again, alone, and what is the end. */
#include "support/support.h"

#include "server/worker_front.h"

static void a_batch_has_the_places_that_memory_has(void **state)
{
    struct front *front;
    struct job_spec spec = front_spec("a red apple", 3, 1);

    (void)state;
    spec.count = 5;
    front_fault.places_max = 3;
    front = front_start(4);
    front_send_job(front, 0, &spec, false);
    front_listen_until_ended(front, 1);
    assert_int_equal(front->outcome[0].batch_size_max, 2); /* half of 4 */
    for (int i = 0; i < 5; i++)
        front_expect_as_alone(&front->outcome[0], &spec, i, NULL, NULL);
    assert_int_equal(front_end(front), 0);
}

/* One picture and two, drawn together until the fault; they end as each would alone. */
static struct front *draw_in_company(int first_steps, int second_steps)
{
    struct job_spec first = front_spec("a red apple", first_steps, 1);
    struct job_spec second = front_spec("a pear", second_steps, 2);
    struct front *front = front_start(3);

    second.count = 2;
    front_send_job(front, 0, &first, false);
    front_send_job(front, 1, &second, false);
    front_listen_until_ended(front, 2);
    front_expect_as_alone(&front->outcome[0], &first, 0, NULL, NULL);
    front_expect_as_alone(&front->outcome[1], &second, 0, NULL, NULL);
    front_expect_as_alone(&front->outcome[1], &second, 1, NULL, NULL);
    return front;
}

static void what_memory_fails_is_drawn_alone(void **state)
{
    struct front *front;

    (void)state;
    front_fault.step = 4;
    front_fault.code = ERROR_NO_MEMORY;
    front = draw_in_company(4, 6);
    assert_true(front->outcome[0].done.was_short_of_memory);
    assert_int_equal(front_end(front), 0);
}

static void skipping_stops_a_picture_that_is_drawn_alone(void **state)
{
    struct job_spec spec = front_spec("a red apple", 1000, 1);
    struct front *front;

    (void)state;
    spec.count = 2;
    front_fault.step = 2;
    front_fault.code = ERROR_NO_MEMORY;
    front = front_start(2);
    front_send_job(front, 0, &spec, false);
    while (front->outcome[0].steps_seen == 0)
        assert_true(front_listen(front));
    front_send_skip(front, 0, 1);
    front_send_skip(front, 0, 0);
    front_listen_until_ended(front, 1);
    front_expect_cancelled(&front->outcome[0]);
    assert_int_equal(front_end(front), 0);
}

/* The first picture of the second job; the first job and the job's other picture are fine. */
static void what_is_no_number_is_drawn_again(void **state)
{
    struct front *front;

    (void)state;
    front_fault.latent = 3;
    front_fault.code = ERROR_NOT_FINITE;
    front = draw_in_company(3, 4);
    assert_false(front->outcome[0].done.was_repeated);
    assert_true(front->outcome[1].done.was_repeated);
    assert_int_equal(front_end(front), 0);
}

static void what_fails_alone_too_has_failed(void **state)
{
    static const struct {
        enum error_code code;
        enum job_failure failure;
    } ends[] = {{ERROR_NOT_FINITE, JOB_FAILURE_NUMERIC},
                {ERROR_NO_MEMORY, JOB_FAILURE_NO_MEMORY},
                {ERROR_IO, JOB_FAILURE_INTERNAL}};
    struct job_spec spec = front_spec("a red apple", 2, 1);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        struct front *front;

        front_fault.latent = 2;
        front_fault.for_good = true;
        front_fault.code = ends[i].code;
        front = front_start(2);
        front_send_job(front, 0, &spec, false);
        front_listen_until_ended(front, 1);
        assert_true(front->outcome[0].has_failed);
        assert_int_equal(front->outcome[0].failed.failure, ends[i].failure);
        assert_int_equal(front->outcome[0].picture_count, 0);
        assert_int_equal(front_end(front), 0);
    }
}

static void a_lost_device_ends_the_worker(void **state)
{
    struct front *front;
    struct job_spec spec = front_spec("a red apple", 5, 1);

    (void)state;
    front_fault.step = 3;
    front_fault.code = ERROR_BACKEND;
    front = front_start(2);
    front_send_job(front, 0, &spec, false);
    while (front_listen(front))
        ;
    assert_int_equal(front->ended, 0); /* the front gives the job to the next worker */
    assert_int_equal(front_end(front), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_batch_has_the_places_that_memory_has, front_clear_fault),
        cmocka_unit_test_teardown(what_memory_fails_is_drawn_alone, front_clear_fault),
        cmocka_unit_test_teardown(skipping_stops_a_picture_that_is_drawn_alone, front_clear_fault),
        cmocka_unit_test_teardown(what_is_no_number_is_drawn_again, front_clear_fault),
        cmocka_unit_test_teardown(what_fails_alone_too_has_failed, front_clear_fault),
        cmocka_unit_test_teardown(a_lost_device_ends_the_worker, front_clear_fault),
    };

    return cmocka_run_group_tests(tests, front_setup, NULL);
}
