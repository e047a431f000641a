/* Waits for jobs over a hub that the test plays: ends before, during and after the start, clients
 * that leave, a server that stops. */
#include "support/support.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "server/job_waiter.h"

/* The hub: one job, one listener. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static enum job_state job_state;
static int cancels, ends;
static enum job_state ended_as;
static int ended_status;
static void (*listener)(void *context, const struct hub_event *event);
static void *listener_context;

static void fill(struct job_view *view)
{
    *view = (struct job_view){.id = "j", .state = job_state};
}

bool hub_subscribe(struct hub *hub, struct hub_subscription **out,
                   const struct hub_interest *interest,
                   void (*tell)(void *context, const struct hub_event *event), void *context,
                   struct error *err)
{
    (void)hub;
    (void)err;
    assert_string_equal(interest->job, "j");
    pthread_mutex_lock(&lock);
    listener = tell;
    listener_context = context;
    pthread_mutex_unlock(&lock);
    *out = NULL;
    return true;
}

void hub_unsubscribe(struct hub *hub, struct hub_subscription *subscription)
{
    (void)hub;
    (void)subscription;
    pthread_mutex_lock(&lock);
    listener = NULL;
    pthread_mutex_unlock(&lock);
}

bool hub_peek(struct hub *hub, const char *id, const char *owner, struct job_view *out)
{
    (void)hub;
    (void)id;
    (void)owner;
    pthread_mutex_lock(&lock);
    fill(out);
    pthread_mutex_unlock(&lock);
    return true;
}

bool hub_load(struct hub *hub, const char *id, const char *owner, struct job_view *out,
              struct hub_error *err)
{
    (void)err;
    return hub_peek(hub, id, owner, out);
}

bool hub_cancel(struct hub *hub, const char *id, const char *owner, struct job_view *out,
                struct hub_error *err)
{
    pthread_mutex_lock(&lock);
    cancels++;
    job_state = JOB_CANCELLED;
    pthread_mutex_unlock(&lock);
    return hub_load(hub, id, owner, out, err);
}

void job_view_finish(struct job_view *view)
{
    (void)view;
}

static void tell(enum hub_event_type type, enum job_state state)
{
    const struct hub_event event = {.type = type};

    pthread_mutex_lock(&lock);
    job_state = state;
    if (listener)
        listener(listener_context, &event);
    pthread_mutex_unlock(&lock);
}

/* --- The waits --- */

static void ended(void *context, const struct job_view *view, const struct hub_error *problem)
{
    (void)context;
    pthread_mutex_lock(&lock);
    ends++;
    ended_as = view ? view->state : JOB_QUEUED;
    ended_status = problem ? problem->status : 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_for_end(void)
{
    pthread_mutex_lock(&lock);
    while (ends == 0)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static struct job_waiter *waiter;

static struct job_wait *begin(enum job_state state, bool keeps_job)
{
    const struct job_wait_callbacks callbacks = {.ended = ended};
    struct job_wait *wait;

    job_state = state;
    cancels = ends = 0;
    assert_true(job_waiter_create(&waiter, NULL, NULL));
    wait = job_wait_create(waiter, &callbacks, keeps_job);
    assert_non_null(wait);
    return wait;
}

static void expect_end(enum job_state state, int cancelled)
{
    wait_for_end();
    job_waiter_destroy(waiter);
    assert_int_equal(ends, 1);
    assert_int_equal(ended_as, state);
    assert_int_equal(cancels, cancelled);
}

static void a_job_that_ends_later_ends_its_wait(void **state)
{
    struct job_wait *wait = begin(JOB_RUNNING, false);

    (void)state;
    assert_true(job_wait_start(wait, "j", "me", false, NULL));
    tell(EVENT_JOB_PROGRESS, JOB_RUNNING);
    tell(EVENT_STAR, JOB_RUNNING);
    tell(EVENT_JOB_DONE, JOB_DONE);
    expect_end(JOB_DONE, 0);
}

static void a_job_that_ended_before_ends_its_wait_at_once(void **state)
{
    struct job_wait *wait = begin(JOB_FAILED, false);

    (void)state;
    assert_true(job_wait_start(wait, "j", "me", false, NULL));
    expect_end(JOB_FAILED, 0);
}

static void a_client_that_leaves_takes_its_job_with_it(void **state)
{
    struct job_wait *wait = begin(JOB_RUNNING, false);

    (void)state;
    assert_true(job_wait_start(wait, "j", "me", false, NULL));
    job_wait_gone(wait);
    expect_end(JOB_CANCELLED, 1);
}

static void a_client_that_left_before_the_start_does_too(void **state)
{
    struct job_wait *wait = begin(JOB_QUEUED, false);

    (void)state;
    job_wait_gone(wait);
    assert_true(job_wait_start(wait, "j", "me", false, NULL));
    expect_end(JOB_CANCELLED, 1);
}

static void a_job_that_is_kept_goes_on(void **state)
{
    struct job_wait *wait = begin(JOB_RUNNING, true);

    (void)state;
    assert_true(job_wait_start(wait, "j", "me", false, NULL));
    job_wait_gone(wait);
    tell(EVENT_JOB_DONE, JOB_DONE);
    expect_end(JOB_DONE, 0);
}

static void those_that_wait_are_told_that_the_server_stops(void **state)
{
    struct job_wait *wait = begin(JOB_RUNNING, false);
    const struct job_wait_callbacks callbacks = {.ended = ended};
    struct error err;

    (void)state;
    assert_true(job_wait_start(wait, "j", "me", false, NULL));
    job_waiter_stop(waiter);
    assert_int_equal(ended_status, 503);
    wait = job_wait_create(waiter, &callbacks, false);
    assert_false(job_wait_start(wait, "j", "me", false, &err));
    job_wait_discard(wait);
    expect_end(JOB_QUEUED, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_that_ends_later_ends_its_wait),
        cmocka_unit_test(a_job_that_ended_before_ends_its_wait_at_once),
        cmocka_unit_test(a_client_that_leaves_takes_its_job_with_it),
        cmocka_unit_test(a_client_that_left_before_the_start_does_too),
        cmocka_unit_test(a_job_that_is_kept_goes_on),
        cmocka_unit_test(those_that_wait_are_told_that_the_server_stops),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
