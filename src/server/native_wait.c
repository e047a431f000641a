/* Waiting for the end of a job without a thread: a subscription and a moment, whichever is first.
 *
 * The hub's thread, the connection and the clock only hurry the wait; the chores' thread alone ends
 * the subscription, answers and frees.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "server/native_private.h"

struct end_wait {
    struct chore chore; /* first: chore.run gets it */
    struct native *native;
    struct http_exchange *exchange;
    struct hub_subscription *subscription;
    char id[JOB_ID_BYTES];
    char owner[STORE_OWNER_BYTES];
    bool is_anybodys;
    int status_early;
};

static void answer(struct http_exchange *exchange, struct hub *hub, const char *id,
                   const char *owner, int status_early)
{
    struct job_view job;
    struct hub_error problem;

    if (!hub_peek(hub, id, owner, &job) && !hub_load(hub, id, owner, &job, &problem)) {
        native_reply_hub_error(exchange, &problem);
        return;
    }
    native_reply_job(exchange, native_job_is_over(job.state) ? 200 : status_early, &job);
    job_view_finish(&job);
}

static void finish_wait(struct chore *chore)
{
    struct end_wait *wait = (struct end_wait *)chore;

    hub_unsubscribe(wait->native->options.hub, wait->subscription);
    answer(wait->exchange, wait->native->options.hub, wait->id,
           wait->is_anybodys ? NULL : wait->owner, wait->status_early);
    free(wait);
}

static void be_told(void *context, const struct hub_event *event)
{
    struct end_wait *wait = context;

    switch (event->type) {
    case EVENT_JOB_DONE:
    case EVENT_JOB_FAILED:
    case EVENT_JOB_CANCELLED:
    case EVENT_JOB_DELETED:
    case EVENT_GAP:
        chores_hurry(wait->native->chores, &wait->chore);
        break;
    default:
        break;
    }
}

static void be_left(void *context)
{
    struct end_wait *wait = context;

    chores_hurry(wait->native->chores, &wait->chore);
}

/* It may have ended before the subscription began. */
static bool is_over(struct end_wait *wait)
{
    struct job_view job;
    struct hub_error problem;
    bool result;

    if (!hub_load(wait->native->options.hub, wait->id, wait->is_anybodys ? NULL : wait->owner, &job,
                  &problem))
        return true; /* finish_wait says why */
    result = native_job_is_over(job.state);
    job_view_finish(&job);
    return result;
}

void native_answer_when_over(struct native *native, struct http_exchange *exchange, const char *id,
                             const char *owner, double seconds, int status_early)
{
    struct hub *hub = native->options.hub;
    struct end_wait *wait = seconds > 0 ? calloc(1, sizeof *wait) : NULL;
    struct hub_interest interest = {.owner = owner, .job = id};
    struct error err;

    if (!wait) {
        answer(exchange, hub, id, owner, status_early);
        return;
    }
    *wait = (struct end_wait){.chore.run = finish_wait,
                              .native = native,
                              .exchange = exchange,
                              .is_anybodys = !owner,
                              .status_early = status_early};
    snprintf(wait->id, sizeof wait->id, "%s", id);
    snprintf(wait->owner, sizeof wait->owner, "%s", owner ? owner : "");
    if (!hub_subscribe(hub, &wait->subscription, &interest, be_told, wait, &err)) {
        free(wait);
        answer(exchange, hub, id, owner, status_early);
        return;
    }
    http_on_disconnect(exchange, be_left, wait);
    if (is_over(wait))
        seconds = 0;
    /* From here on the wait may be answered and gone. */
    chores_add(native->chores, &wait->chore, seconds_now() + seconds);
}
