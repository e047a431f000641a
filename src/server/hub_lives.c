/* How jobs end, or go back to wait. What a job owes the store is written down first and then paid:
 * while the disk fails it stays owed, and is tried again each second. Memory, events and the log
 * follow the store, never the other way round.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/hub_private.h"
#include "server/log.h"
#include "server/metrics.h"

void hub_leave_worker(struct hub *hub, struct hub_job *job, bool tell)
{
    struct hub_worker *worker = job->worker;

    if (!worker)
        return;
    for (int i = 0; i < HUB_BATCH_MAX; i++) {
        struct hub_slot *slot = &worker->slots[i];

        if (slot->job != job)
            continue;
        pthread_mutex_lock(&hub->lock);
        slot->job = NULL;
        job->worker = NULL;
        pthread_mutex_unlock(&hub->lock);
        if (tell)
            hub_worker_tell(hub, worker, MESSAGE_CANCEL, slot->ticket);
        return;
    }
}

/* --- Memory, after the store --- */

static void end_job(struct hub *hub, struct hub_job *job, enum job_state state, const char *code,
                    char *message, char *result)
{
    pthread_mutex_lock(&hub->lock);
    if (job->state == JOB_QUEUED) {
        hub_queue_remove_locked(&hub->queue, job);
    } else {
        job->owner->running--;
        hub->running--;
    }
    job->state = state;
    job->fence = -1;
    job->finished_ms = hub_wall_ms();
    snprintf(job->error_code, sizeof job->error_code, "%s", code);
    free(job->error_message);
    free(job->result);
    job->error_message = message;
    job->result = result;
    pthread_mutex_unlock(&hub->lock);
}

/* The last thing that is done with a job: it may be freed as the oldest of the recent ones. */
static void announce_end(struct hub *hub, struct hub_job *job, enum hub_event_type type)
{
    hub_publish(hub, type, job, 0);
    pthread_mutex_lock(&hub->lock);
    hub_job_retire_locked(hub, job);
    pthread_mutex_unlock(&hub->lock);
}

static double seconds_between_ms(int64_t from, int64_t to)
{
    return from > 0 && to > from ? 1e-3 * (double)(to - from) : 0;
}

static void become_done(struct hub *hub, struct hub_job *job)
{
    char *result = job->owed_text;
    double seconds;

    job->owed_text = NULL;
    end_job(hub, job, JOB_DONE, "", NULL, result);
    seconds = seconds_between_ms(job->started_ms, job->finished_ms);
    metrics_observe(METRIC_JOB_SECONDS, seconds);
    log_event(LOG_INFO, "job.done", "job=%s owner=%s seconds=%.3f pictures=%d", job->id,
              job->owner_name, seconds, (int)job->picture_count);
    announce_end(hub, job, EVENT_JOB_DONE);
}

static void become_failed(struct hub *hub, struct hub_job *job)
{
    char *message = job->owed_text;

    job->owed_text = NULL;
    end_job(hub, job, JOB_FAILED, fault_names[job->fault], message, NULL);
    metrics_count(METRIC_FAULTS, fault_names[job->fault], 1);
    log_event(LOG_WARNING, "job.failed", "job=%s owner=%s code=%s attempts=%d", job->id,
              job->owner_name, job->error_code, (int)job->attempts);
    announce_end(hub, job, EVENT_JOB_FAILED);
}

static void become_queued(struct hub *hub, struct hub_job *job, bool counts)
{
    pthread_mutex_lock(&hub->lock);
    job->state = JOB_QUEUED;
    job->fence = -1;
    job->phase = JOB_PHASE_WAIT;
    job->step = job->step_count = 0;
    if (!counts && job->attempts > 0)
        job->attempts--;
    hub->running--;
    hub_queue_give_back_locked(&hub->queue, job);
    pthread_mutex_unlock(&hub->lock);
    log_event(LOG_INFO, "job.requeued", "job=%s attempts=%d", job->id, (int)job->attempts);
    hub_publish(hub, EVENT_JOB_QUEUED, job, 0);
}

static void become_cancelled(struct hub *hub, struct hub_job *job)
{
    end_job(hub, job, JOB_CANCELLED, "", NULL, NULL);
    log_event(LOG_INFO, "job.cancelled", "job=%s owner=%s", job->id, job->owner_name);
    announce_end(hub, job, EVENT_JOB_CANCELLED);
}

/* Somebody else changed the row: what it says now is so. */
static bool follow_store(struct hub *hub, struct hub_job *job, struct error *err)
{
    struct store_job row;
    bool found;

    if (!store_get(hub->store, job->id, NULL, &row, &found, err))
        return false;
    log_event(LOG_WARNING, "job.fence_old", "job=%s state=%s", job->id,
              found ? job_state_name(row.state) : "gone");
    if (found && row.state == JOB_QUEUED && job->state == JOB_RUNNING) {
        become_queued(hub, job, true);
    } else if (found && row.state == JOB_CANCELLED) {
        become_cancelled(hub, job);
    } else {
        free(job->owed_text);
        job->owed_text = NULL;
        job->fault = FAULT_LOST;
        become_failed(hub, job);
    }
    if (found)
        store_job_finish(&row);
    return true;
}

/* --- Paying --- */

static bool pay_finish(struct hub *hub, struct hub_job *job, struct error *err)
{
    bool kept;

    if (!store_finish(hub->store, job->id, job->fence, job->owed_text, hub_wall_ms(), &kept, err))
        return false;
    if (!kept)
        return follow_store(hub, job, err);
    become_done(hub, job);
    return true;
}

static bool pay_fail(struct hub *hub, struct hub_job *job, struct error *err)
{
    bool kept;

    if (!store_fail(hub->store, job->id, job->fence, fault_names[job->fault],
                    job->owed_text ? job->owed_text : "", hub_wall_ms(), &kept, err))
        return false;
    if (!kept)
        return follow_store(hub, job, err);
    become_failed(hub, job);
    return true;
}

static bool pay_cancel(struct hub *hub, struct hub_job *job, struct error *err)
{
    enum job_state before;
    bool found;

    if (!store_cancel(hub->store, job->id, NULL, hub_wall_ms(), &before, &found, err))
        return false;
    if (!found || before != JOB_RUNNING)
        return follow_store(hub, job, err);
    become_cancelled(hub, job);
    return true;
}

static bool pay_requeue(struct hub *hub, struct hub_job *job, struct error *err)
{
    enum job_state state;

    if (!store_requeue(hub->store, job->id, job->fence, &state, err))
        return false;
    if (state == JOB_QUEUED) {
        become_queued(hub, job, true);
    } else if (state == JOB_FAILED) {
        job->fault = FAULT_POISON;
        job->owed_text = strdup("the process that draws died at this job each time");
        become_failed(hub, job);
    } else {
        return follow_store(hub, job, err);
    }
    return true;
}

static bool pay_put_back(struct hub *hub, struct hub_job *job, struct error *err)
{
    if (!store_put_back(hub->store, job->id, job->fence, err))
        return false;
    become_queued(hub, job, false);
    return true;
}

void hub_settle(struct hub *hub, struct hub_job *job)
{
    enum hub_owed owed = job->owed;
    double start = seconds_now();
    struct error err;
    bool works = true;

    if (owed == OWED_FINISH && hub_job_is_held(hub, job))
        return;
    job->owed = OWED_NOTHING;
    switch (owed) {
    case OWED_NOTHING:
        return;
    case OWED_FINISH:
        works = pay_finish(hub, job, &err);
        break;
    case OWED_FAIL:
        works = pay_fail(hub, job, &err);
        break;
    case OWED_CANCEL:
        works = pay_cancel(hub, job, &err);
        break;
    case OWED_REQUEUE:
        works = pay_requeue(hub, job, &err);
        break;
    case OWED_PUT_BACK:
        works = pay_put_back(hub, job, &err);
        break;
    }
    metrics_observe(METRIC_STORE_SECONDS, seconds_now() - start);
    if (!hub_note_store(hub, works, &err))
        job->owed = owed;
}

void hub_owe(struct hub *hub, struct hub_job *job, enum hub_owed owed, char *text)
{
    job->owed = owed;
    free(job->owed_text);
    job->owed_text = text;
    if (owed != OWED_FINISH)
        hub_drop_held(hub, job);
    hub_settle(hub, job);
}

void hub_owe_failure(struct hub *hub, struct hub_job *job, enum fault fault, char *message)
{
    job->fault = fault;
    hub_owe(hub, job, OWED_FAIL, message);
}

void hub_give_up(struct hub *hub, struct hub_job *job, enum fault fault, const char *message)
{
    hub_leave_worker(hub, job, true);
    hub_owe_failure(hub, job, fault, strdup(message));
}

void hub_settle_all(struct hub *hub)
{
    for (int b = 0; b < HUB_BUCKETS; b++) {
        struct hub_job *next;

        for (struct hub_job *job = hub->buckets[b]; job; job = next) {
            next = job->next_in_bucket;
            if (job->owed == OWED_NOTHING)
                continue;
            hub_settle(hub, job);
            /* Retiring it may have freed an older one, which may be `next`: the rest of the
             * bucket comes at the next tick. */
            next = NULL;
        }
    }
}

/* --- Deadlines --- */

static struct hub_job *find_expired(struct hub *hub, double now)
{
    hub->next_expiry = 0;
    for (int b = 0; b < HUB_BUCKETS; b++) {
        for (struct hub_job *job = hub->buckets[b]; job; job = job->next_in_bucket) {
            bool is_live = job->state == JOB_QUEUED || job->state == JOB_RUNNING;

            if (!is_live || job->expires <= 0 || job->owed != OWED_NOTHING)
                continue;
            if (job->expires <= now)
                return job;
            if (hub->next_expiry <= 0 || job->expires < hub->next_expiry)
                hub->next_expiry = job->expires;
        }
    }
    return NULL;
}

void hub_expire(struct hub *hub, double now)
{
    struct hub_job *job;

    while ((job = find_expired(hub, now)) != NULL) {
        hub_give_up(hub, job, FAULT_TIMEOUT, "it was not done in time");
    }
}

/* --- Cancelling --- */

struct cancelling {
    struct hub_call call;
    const char *id, *owner;
    struct job_view *out; /* NULL: all of the owner's */
    struct hub_view_texts texts;
    struct hub_error *err;
    bool is_found;
    int count;
};

/* After the store's commit. */
static void stop_job(struct hub *hub, struct hub_job *job)
{
    hub_leave_worker(hub, job, true);
    job->owed = OWED_NOTHING;
    hub_drop_held(hub, job);
    become_cancelled(hub, job);
}

static void cancel_one(struct hub *hub, struct hub_call *call)
{
    struct cancelling *cancelling = (struct cancelling *)call;
    struct hub_job *job = hub_job_find_locked(hub, cancelling->id, cancelling->owner);
    enum job_state before;
    struct error err;
    bool found;

    if (!hub_note_store(hub,
                        store_cancel(hub->store, cancelling->id, cancelling->owner, hub_wall_ms(),
                                     &before, &found, &err),
                        &err)) {
        hub_fail_store(hub, cancelling->err, &err);
    } else if (!found) {
        hub_fail(cancelling->err, 404, "not_found", 0, "there is no such job");
    } else {
        if (job && (before == JOB_QUEUED || before == JOB_RUNNING))
            stop_job(hub, job);
        cancelling->is_found = hub_look(hub, cancelling->id, cancelling->owner, cancelling->out,
                                        &cancelling->texts, cancelling->err);
    }
    hub_complete(hub, call);
}

bool hub_cancel(struct hub *hub, const char *id, const char *owner, struct job_view *out,
                struct hub_error *err)
{
    struct cancelling cancelling = {
        .call.run = cancel_one, .id = id, .owner = owner, .out = out, .err = err};

    if (!hub_ask(hub, &cancelling.call)) {
        hub_fail_stopping(err);
        return false;
    }
    if (!cancelling.is_found)
        return false;
    hub_view_parse(out, &cancelling.texts);
    return true;
}

/* The first that has not come: the one that is shown while it is drawn. */
static int32_t first_ahead(const struct hub_job *job)
{
    int32_t image = 0;

    while (image < JOB_COUNT_MAX && job->drawing[image] != PICTURE_AHEAD)
        image++;
    return image;
}

static void skip_one(struct hub *hub, struct hub_call *call)
{
    struct cancelling *cancelling = (struct cancelling *)call;
    struct hub_job *job = hub_job_find_locked(hub, cancelling->id, cancelling->owner);
    struct hub_worker *worker = job ? job->worker : NULL;
    int32_t image = worker ? first_ahead(job) : JOB_COUNT_MAX;

    if (image < JOB_COUNT_MAX) {
        job->drawing[image] = PICTURE_IS_LEFT_OUT;
        hub_worker_skip(hub, worker, job, image);
    }
    hub_complete(hub, call);
}

void hub_skip(struct hub *hub, const char *id, const char *owner)
{
    struct cancelling cancelling = {.call.run = skip_one, .id = id, .owner = owner};

    if (!hub_ask(hub, &cancelling.call))
        return; /* stopping is more than skipping */
}

static struct hub_job *find_live(struct hub *hub, const char *owner, int64_t after)
{
    struct hub_job *found = NULL;

    for (int b = 0; b < HUB_BUCKETS; b++) {
        for (struct hub_job *job = hub->buckets[b]; job; job = job->next_in_bucket) {
            if (job->state != JOB_QUEUED && job->state != JOB_RUNNING)
                continue;
            if (job->sequence <= after || (owner && strcmp(job->owner_name, owner) != 0))
                continue;
            if (!found || job->sequence < found->sequence)
                found = job;
        }
    }
    return found;
}

/* One commit for all; memory follows when it is made. */
static void cancel_all(struct hub *hub, struct hub_call *call)
{
    struct cancelling *cancelling = (struct cancelling *)call;
    const char *owner = cancelling->owner;
    struct hub_job *job;
    struct error err;
    int64_t last = 0;
    bool works = store_begin(hub->store, &err);

    while (works && (job = find_live(hub, owner, last)) != NULL) {
        enum job_state before;
        bool found;

        last = job->sequence;
        works = store_cancel(hub->store, job->id, NULL, hub_wall_ms(), &before, &found, &err);
        if (!works)
            store_roll_back(hub->store);
    }
    works = works && store_commit(hub->store, &err);
    if (hub_note_store(hub, works, &err)) {
        while ((job = find_live(hub, owner, 0)) != NULL && job->sequence <= last) {
            stop_job(hub, job);
            cancelling->count++;
        }
    }
    hub_complete(hub, call);
}

int hub_cancel_all(struct hub *hub, const char *owner)
{
    struct cancelling cancelling = {.call.run = cancel_all, .owner = owner};

    if (!hub_ask(hub, &cancelling.call))
        return 0;
    return cancelling.count;
}
