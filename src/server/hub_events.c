/* The hub's events: a ring of the latest, and those who want to hear them. */
#include <stdlib.h>
#include <string.h>

#include "server/hub_private.h"
#include "server/metrics.h"

const char *hub_event_name(enum hub_event_type type)
{
    switch (type) {
    case EVENT_JOB_QUEUED:
        return "job.queued";
    case EVENT_JOB_STARTED:
        return "job.started";
    case EVENT_JOB_PROGRESS:
        return "job.progress";
    case EVENT_JOB_PREVIEW:
        return "job.preview";
    case EVENT_PICTURE:
        return "job.picture";
    case EVENT_JOB_DONE:
        return "job.done";
    case EVENT_JOB_FAILED:
        return "job.failed";
    case EVENT_JOB_CANCELLED:
        return "job.cancelled";
    case EVENT_JOB_DELETED:
        return "job.deleted";
    case EVENT_STAR:
        return "job.starred";
    case EVENT_WORKER:
        return "worker";
    case EVENT_GAP:
        return "gap";
    }
    return "";
}

bool hub_events_init(struct hub_events *events, struct error *err)
{
    events->ring = calloc(EVENTS_KEPT, sizeof *events->ring);
    if (!events->ring)
        return error_set(err, ERROR_NO_MEMORY, "the ring of events");
    /* Numbers of an earlier life of the front are smaller than all of this one, so that who comes
     * with one of them is told of the gap. Below 2^53 they are exact in a browser, too. */
    events->first_number = (uint64_t)hub_wall_ms() * 1000;
    events->last_number = events->first_number;
    pthread_mutex_init(&events->lock, NULL);
    pthread_cond_init(&events->not_busy, NULL);
    return true;
}

void hub_events_finish(struct hub_events *events)
{
    if (!events->ring)
        return;
    for (int i = 0; i < EVENTS_KEPT; i++)
        free(events->ring[i].snapshot);
    free(events->ring);
    while (events->first) {
        struct hub_subscription *subscription = events->first;

        events->first = subscription->next;
        free(subscription);
    }
    pthread_mutex_destroy(&events->lock);
    pthread_cond_destroy(&events->not_busy);
}

/* --- Keeping --- */

static size_t text_bytes(const char *text)
{
    return text ? strlen(text) + 1 : 0;
}

/* False: there is no memory for it. */
static bool keep_snapshot(struct kept_event *event, const struct job_view *view, const char *result)
{
    size_t view_bytes = offsetof(struct job_view, pictures) +
                        (size_t)view->picture_count * sizeof view->pictures[0];
    size_t error = text_bytes(view->error_message);

    event->snapshot = malloc(view_bytes + error + text_bytes(result));
    if (!event->snapshot)
        return false;
    memcpy(event->snapshot, view, view_bytes);
    if (error > 0)
        memcpy(event->snapshot + view_bytes, view->error_message, error);
    if (result)
        memcpy(event->snapshot + view_bytes + error, result, text_bytes(result));
    event->view_bytes = view_bytes;
    event->result_at = result ? view_bytes + error : 0;
    return true;
}

static void take_view(struct hub *hub, const struct hub_job *job)
{
    pthread_mutex_lock(&hub->lock);
    hub_view_locked(hub, job, &hub->events.telling);
    pthread_mutex_unlock(&hub->lock);
}

void hub_publish(struct hub *hub, enum hub_event_type type, const struct hub_job *job,
                 int32_t image)
{
    struct hub_events *events = &hub->events;
    struct kept_event event = {.type = type, .image = image};
    unsigned char *old;

    if (job) {
        take_view(hub, job);
        if (!keep_snapshot(&event, &events->telling, job->result))
            event.type = EVENT_GAP; /* what happened can only be seen by looking */
    }
    pthread_mutex_lock(&events->lock);
    event.number = ++events->last_number;
    old = events->ring[event.number % EVENTS_KEPT].snapshot;
    events->ring[event.number % EVENTS_KEPT] = event;
    pthread_mutex_unlock(&events->lock);
    free(old);
}

/* --- Telling --- */

static bool matches(const struct hub_subscription *subscription, const struct job_view *job)
{
    if (!job)
        return true;
    return (!subscription->owner[0] || strcmp(subscription->owner, job->owner) == 0) &&
           (!subscription->job[0] || strcmp(subscription->job, job->id) == 0);
}

/* Calls out without the lock; the subscription stays, as it is busy. */
static void tell_locked(struct hub_events *events, struct hub_subscription *subscription,
                        const struct hub_event *event)
{
    subscription->is_busy = true;
    pthread_mutex_unlock(&events->lock);
    subscription->tell(subscription->context, event);
    pthread_mutex_lock(&events->lock);
    subscription->is_busy = false;
    pthread_cond_broadcast(&events->not_busy);
}

static void tell_kept_locked(struct hub_events *events, struct hub_subscription *subscription,
                             const struct kept_event *kept)
{
    struct hub_event event = {.number = kept->number, .type = kept->type, .image = kept->image};

    if (kept->snapshot) {
        struct job_view *view = &events->telling;

        memcpy(view, kept->snapshot, kept->view_bytes);
        if (view->error_message)
            view->error_message = (char *)kept->snapshot + kept->view_bytes;
        event.job = view;
    }
    if (!matches(subscription, event.job))
        return;
    if (kept->result_at > 0)
        events->telling.result =
            json_loads((const char *)kept->snapshot + kept->result_at, 0, NULL);
    tell_locked(events, subscription, &event);
    json_decref(events->telling.result);
    events->telling.result = NULL;
}

static void tell_gap_locked(struct hub_events *events, struct hub_subscription *subscription)
{
    struct hub_event event = {.number = events->last_number, .type = EVENT_GAP};

    subscription->seen = events->last_number;
    tell_locked(events, subscription, &event);
}

/* Everything that it has not heard of yet. */
static void catch_up_locked(struct hub_events *events, struct hub_subscription *subscription)
{
    while (subscription->seen != events->last_number) {
        const struct kept_event *kept;
        uint64_t next = subscription->seen + 1;

        kept = &events->ring[next % EVENTS_KEPT];
        if (subscription->seen < events->first_number || subscription->seen > events->last_number ||
            kept->number != next) {
            tell_gap_locked(events, subscription);
            continue;
        }
        subscription->seen = next;
        tell_kept_locked(events, subscription, kept);
    }
}

void hub_tell_all(struct hub *hub)
{
    struct hub_events *events = &hub->events;

    pthread_mutex_lock(&events->lock);
    for (struct hub_subscription *at = events->first; at; at = at->next)
        catch_up_locked(events, at);
    pthread_mutex_unlock(&events->lock);
}

void hub_publish_preview(struct hub *hub, const struct hub_job *job, const void *bytes, size_t size,
                         int32_t image, int32_t step)
{
    struct hub_events *events = &hub->events;
    struct hub_event event = {.type = EVENT_JOB_PREVIEW,
                              .job = &events->telling,
                              .bytes = bytes,
                              .size = size,
                              .image = image,
                              .step = step};

    hub_tell_all(hub); /* what came before is told before */
    take_view(hub, job);
    metrics_count(METRIC_PREVIEWS, "", 1);
    pthread_mutex_lock(&events->lock);
    for (struct hub_subscription *at = events->first; at; at = at->next) {
        if (at->wants_previews && matches(at, event.job))
            tell_locked(events, at, &event);
    }
    pthread_mutex_unlock(&events->lock);
}

/* --- Who listens --- */

bool hub_subscribe(struct hub *hub, struct hub_subscription **out,
                   const struct hub_interest *interest,
                   void (*tell)(void *context, const struct hub_event *event), void *context,
                   struct error *err)
{
    struct hub_events *events = &hub->events;
    struct hub_subscription *subscription = calloc(1, sizeof *subscription);

    if (!subscription)
        return error_set(err, ERROR_NO_MEMORY, "a subscription");
    if (interest->owner)
        memcpy(subscription->owner, interest->owner,
               strnlen(interest->owner, sizeof subscription->owner - 1));
    if (interest->job)
        memcpy(subscription->job, interest->job,
               strnlen(interest->job, sizeof subscription->job - 1));
    subscription->wants_previews = interest->wants_previews;
    subscription->tell = tell;
    subscription->context = context;

    pthread_mutex_lock(&events->lock);
    subscription->seen = interest->after ? interest->after : events->last_number;
    subscription->next = events->first;
    if (events->first)
        events->first->previous = subscription;
    events->first = subscription;
    events->have_watchers_changed |= interest->wants_previews;
    pthread_mutex_unlock(&events->lock);
    hub_wake(hub);
    *out = subscription;
    return true;
}

void hub_unsubscribe(struct hub *hub, struct hub_subscription *subscription)
{
    struct hub_events *events = &hub->events;

    if (!subscription)
        return;
    pthread_mutex_lock(&events->lock);
    while (subscription->is_busy)
        pthread_cond_wait(&events->not_busy, &events->lock);
    *(subscription->previous ? &subscription->previous->next : &events->first) = subscription->next;
    if (subscription->next)
        subscription->next->previous = subscription->previous;
    events->have_watchers_changed |= subscription->wants_previews;
    pthread_mutex_unlock(&events->lock);
    if (subscription->wants_previews)
        hub_wake(hub);
    free(subscription);
}

bool hub_watchers_changed(struct hub *hub)
{
    bool has_changed;

    pthread_mutex_lock(&hub->events.lock);
    has_changed = hub->events.have_watchers_changed;
    hub->events.have_watchers_changed = false;
    pthread_mutex_unlock(&hub->events.lock);
    return has_changed;
}

bool hub_has_watcher(struct hub *hub, const struct hub_job *job)
{
    struct hub_events *events = &hub->events;
    bool has_watcher = false;

    pthread_mutex_lock(&events->lock);
    for (const struct hub_subscription *at = events->first; at && !has_watcher; at = at->next)
        has_watcher = at->wants_previews &&
                      (!at->owner[0] || strcmp(at->owner, job->owner_name) == 0) &&
                      (!at->job[0] || strcmp(at->job, job->id) == 0);
    pthread_mutex_unlock(&events->lock);
    return has_watcher;
}
