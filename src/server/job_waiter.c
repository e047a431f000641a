#include "server/job_waiter.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One request that waits. */
struct job_wait {
    struct job_waiter *waiter;
    struct job_wait_callbacks callbacks;
    bool keeps_job;                                            /* fixed at create */
    char job[JOB_ID_BYTES];                                    /* fixed at start */
    char owner[STORE_OWNER_BYTES];                             /* fixed at start */
    bool has_owner;                                            /* fixed at start */
    struct hub_subscription *subscription;                     /* fixed at start */
    bool is_started, has_ended, is_gone, is_cancelled, is_due; /* under the waiter's lock */
    struct job_wait *previous, *next;                          /* under the waiter's lock */
    struct job_wait *next_due;                                 /* under the waiter's lock */
};

struct job_waiter {
    struct hub *hub;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock;
    pthread_cond_t is_due;
    struct job_wait *started;              /* under lock: all that were started */
    struct job_wait *due_first, *due_last; /* under lock: for the thread to look at */
    bool stops;                            /* under lock */
};

static void make_due_locked(struct job_wait *wait)
{
    struct job_waiter *waiter = wait->waiter;

    if (wait->is_due || !wait->is_started)
        return;
    wait->is_due = true;
    wait->next_due = NULL;
    if (waiter->due_last)
        waiter->due_last->next_due = wait;
    else
        waiter->due_first = wait;
    waiter->due_last = wait;
    pthread_cond_signal(&waiter->is_due);
}

static struct job_wait *take_due_locked(struct job_waiter *waiter)
{
    struct job_wait *wait = waiter->due_first;

    if (!wait)
        return NULL;
    waiter->due_first = wait->next_due;
    if (!waiter->due_first)
        waiter->due_last = NULL;
    wait->is_due = false;
    return wait;
}

/* Takes the wait out of both lists. */
static void forget_locked(struct job_wait *wait)
{
    struct job_waiter *waiter = wait->waiter;
    struct job_wait *before = NULL;

    if (wait->is_due) {
        for (struct job_wait *at = waiter->due_first; at != wait; at = at->next_due)
            before = at;
        if (before)
            before->next_due = wait->next_due;
        else
            waiter->due_first = wait->next_due;
        if (waiter->due_last == wait)
            waiter->due_last = before;
    }
    if (wait->previous)
        wait->previous->next = wait->next;
    else
        waiter->started = wait->next;
    if (wait->next)
        wait->next->previous = wait->previous;
}

static const char *owner_of(const struct job_wait *wait)
{
    return wait->has_owner ? wait->owner : NULL;
}

static bool is_terminal(enum job_state state)
{
    return state == JOB_DONE || state == JOB_FAILED || state == JOB_CANCELLED;
}

/* --- The thread --- */

/* Tells the end and frees the wait. `view` NULL: `problem`. */
static void end(struct job_wait *wait, const struct job_view *view, const struct hub_error *problem)
{
    struct job_waiter *waiter = wait->waiter;

    hub_unsubscribe(waiter->hub, wait->subscription);
    wait->callbacks.ended(wait->callbacks.context, view, problem);
    pthread_mutex_lock(&waiter->lock);
    forget_locked(wait);
    pthread_mutex_unlock(&waiter->lock);
    free(wait);
}

static void end_as_it_is(struct job_wait *wait)
{
    struct hub_error problem = {0};
    struct job_view view = {0};

    if (!hub_load(wait->waiter->hub, wait->job, owner_of(wait), &view, &problem)) {
        end(wait, NULL, &problem);
        return;
    }
    end(wait, &view, NULL);
    job_view_finish(&view);
}

/* Cancels the job of somebody who is gone. True: it has ended, by this or before. */
static bool cancel(struct job_wait *wait)
{
    struct hub_error problem = {0};
    struct job_view view = {0};
    bool has_ended;

    if (!hub_cancel(wait->waiter->hub, wait->job, owner_of(wait), &view, &problem))
        return problem.status == 404;
    has_ended = is_terminal(view.state);
    job_view_finish(&view);
    return has_ended;
}

/* Looks at a wait that something happened to. */
static void look_at(struct job_wait *wait, bool has_ended, bool is_to_cancel)
{
    if (has_ended || (is_to_cancel && cancel(wait)))
        end_as_it_is(wait);
}

static void *run(void *context)
{
    struct job_waiter *waiter = context;

    pthread_mutex_lock(&waiter->lock);
    while (!waiter->stops) {
        struct job_wait *wait = take_due_locked(waiter);
        bool has_ended, is_to_cancel;

        if (!wait) {
            pthread_cond_wait(&waiter->is_due, &waiter->lock);
            continue;
        }
        has_ended = wait->has_ended;
        is_to_cancel = wait->is_gone && !wait->keeps_job && !wait->is_cancelled;
        wait->is_cancelled |= is_to_cancel;
        pthread_mutex_unlock(&waiter->lock);
        look_at(wait, has_ended, is_to_cancel);
        pthread_mutex_lock(&waiter->lock);
    }
    pthread_mutex_unlock(&waiter->lock);
    return NULL;
}

/* --- For everybody --- */

bool job_waiter_create(struct job_waiter **out, struct hub *hub, struct error *err)
{
    struct job_waiter *waiter = calloc(1, sizeof *waiter);
    int failure;

    if (!waiter)
        return error_set(err, ERROR_NO_MEMORY, "job waiter");
    waiter->hub = hub;
    pthread_mutex_init(&waiter->lock, NULL);
    pthread_cond_init(&waiter->is_due, NULL);
    failure = pthread_create(&waiter->thread, NULL, run, waiter);
    if (failure) {
        job_waiter_destroy(waiter);
        return error_set_errno(err, failure, "job waiter: cannot start its thread");
    }
    waiter->has_thread = true;
    *out = waiter;
    return true;
}

static struct job_wait *first_started(struct job_waiter *waiter)
{
    struct job_wait *wait;

    pthread_mutex_lock(&waiter->lock);
    wait = waiter->started;
    pthread_mutex_unlock(&waiter->lock);
    return wait;
}

void job_waiter_stop(struct job_waiter *waiter)
{
    const struct hub_error stopping = {
        .status = 503, .code = "draining", .message = "The server is stopping.", .retry_after = 5};

    pthread_mutex_lock(&waiter->lock);
    waiter->stops = true;
    pthread_cond_signal(&waiter->is_due);
    pthread_mutex_unlock(&waiter->lock);
    if (waiter->has_thread)
        pthread_join(waiter->thread, NULL);
    waiter->has_thread = false;
    for (struct job_wait *wait; (wait = first_started(waiter));)
        end(wait, NULL, &stopping);
}

void job_waiter_destroy(struct job_waiter *waiter)
{
    if (!waiter)
        return;
    job_waiter_stop(waiter);
    pthread_cond_destroy(&waiter->is_due);
    pthread_mutex_destroy(&waiter->lock);
    free(waiter);
}

struct job_wait *job_wait_create(struct job_waiter *waiter,
                                 const struct job_wait_callbacks *callbacks, bool keeps_job)
{
    struct job_wait *wait = calloc(1, sizeof *wait);

    if (!wait)
        return NULL;
    wait->waiter = waiter;
    wait->callbacks = *callbacks;
    wait->keeps_job = keeps_job;
    return wait;
}

void job_wait_discard(struct job_wait *wait)
{
    free(wait);
}

static void set_ended(struct job_wait *wait)
{
    pthread_mutex_lock(&wait->waiter->lock);
    wait->has_ended = true;
    make_due_locked(wait);
    pthread_mutex_unlock(&wait->waiter->lock);
}

static void tell(void *context, const struct hub_event *event)
{
    struct job_wait *wait = context;

    switch (event->type) {
    case EVENT_JOB_DONE:
    case EVENT_JOB_FAILED:
    case EVENT_JOB_CANCELLED:
    case EVENT_JOB_DELETED:
        set_ended(wait);
        break;
    default:
        if (wait->callbacks.event)
            wait->callbacks.event(wait->callbacks.context, event);
    }
}

/* Whether the job ended before anybody listened. One that memory does not know any more, has. */
static bool ended_already(const struct job_wait *wait)
{
    struct job_view view = {0};
    bool has_ended;

    if (!hub_peek(wait->waiter->hub, wait->job, owner_of(wait), &view))
        return true;
    has_ended = is_terminal(view.state);
    job_view_finish(&view);
    return has_ended;
}

bool job_wait_start(struct job_wait *wait, const char *job, const char *owner, bool wants_previews,
                    struct error *err)
{
    struct job_waiter *waiter = wait->waiter;
    struct hub_interest interest = {.job = wait->job, .wants_previews = wants_previews};
    bool has_ended;

    snprintf(wait->job, sizeof wait->job, "%s", job);
    snprintf(wait->owner, sizeof wait->owner, "%s", owner ? owner : "");
    wait->has_owner = owner != NULL;
    interest.owner = owner_of(wait);
    if (!hub_subscribe(waiter->hub, &wait->subscription, &interest, tell, wait, err))
        return false;
    has_ended = ended_already(wait);

    /* From here on the thread may end and free it. */
    pthread_mutex_lock(&waiter->lock);
    if (waiter->stops) {
        pthread_mutex_unlock(&waiter->lock);
        hub_unsubscribe(waiter->hub, wait->subscription);
        return error_set(err, ERROR_CANCELLED, "The server is stopping.");
    }
    wait->is_started = true;
    wait->next = waiter->started;
    if (wait->next)
        wait->next->previous = wait;
    waiter->started = wait;
    wait->has_ended |= has_ended;
    if (wait->has_ended || wait->is_gone)
        make_due_locked(wait);
    pthread_mutex_unlock(&waiter->lock);
    return true;
}

void job_wait_gone(void *context)
{
    struct job_wait *wait = context;

    pthread_mutex_lock(&wait->waiter->lock);
    wait->is_gone = true;
    make_due_locked(wait);
    pthread_mutex_unlock(&wait->waiter->lock);
}
