/* Job waiter: answers requests when their job has ended, on one thread of its own, so that no
 * handler's thread is held meanwhile. For the APIs whose calls are synchronous.
 *
 * A wait goes through: job_wait_create, then the request's disconnection may be tied to
 * job_wait_gone, then job_wait_start once the job's id is known, or job_wait_discard when there is
 * none. After a start, `ended` is called exactly once, and the wait is freed when it returned.
 */
#ifndef SERVER_JOB_WAITER_H
#define SERVER_JOB_WAITER_H

#include "server/hub.h"

struct job_waiter;
struct job_wait;

MUST_CHECK bool job_waiter_create(struct job_waiter **out, struct hub *hub, struct error *err);
/* No more waits: those that wait are told that the server stops, later starts fail. While the HTTP
 * server still runs, so that they get an answer. Waits for what the thread does. */
void job_waiter_stop(struct job_waiter *waiter);
/* When no handler runs any more and the hub still lives. NULL is fine. */
void job_waiter_destroy(struct job_waiter *waiter);

struct job_wait_callbacks {
    /* On the hub's thread, not for the events that end the job; must not wait. NULL: none. */
    void (*event)(void *context, const struct hub_event *event);
    /* On the waiter's thread; may read files. `view` is borrowed, whole, of a job that is done,
     * failed or cancelled; NULL: `problem` says why there is none. */
    void (*ended)(void *context, const struct job_view *view, const struct hub_error *problem);
    void *context;
};

/* `keeps_job`: the job goes on when the client is gone. NULL when memory is short. Any thread. */
struct job_wait *job_wait_create(struct job_waiter *waiter,
                                 const struct job_wait_callbacks *callbacks, bool keeps_job);
/* False, with nothing called and the wait still the caller's: the waiter stops, or the hub does not
 * take the subscription. `owner` as for hub_load. */
MUST_CHECK bool job_wait_start(struct job_wait *wait, const char *job, const char *owner,
                               bool wants_previews, struct error *err);
void job_wait_discard(struct job_wait *wait);
/* The client is gone: cancels the job, unless it is kept. Any thread, also before the start, but
 * not after `ended` returned; never waits. `wait` is a struct job_wait. */
void job_wait_gone(void *wait);

#endif
