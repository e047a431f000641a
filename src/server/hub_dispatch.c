/* Jobs from the queue to the workers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/hub_private.h"
#include "server/log.h"
#include "server/metrics.h"

/* The store's lease. One front owns an embedded store, so that nobody else takes over a job whose
 * lease ran out; a driver for several fronts would renew it. */
#define LEASE_MS ((int64_t)24 * 3600 * 1000)

static bool draws_alone(const struct hub_worker *worker)
{
    for (int i = 0; i < HUB_BATCH_MAX; i++) {
        if (worker->slots[i].job && worker->slots[i].job->attempts > 1)
            return true;
    }
    return false;
}

/* The worker with the most free places; NULL: none has one. A job whose worker died is drawn alone
 * the second time, so that one that kills workers takes no other with it. */
static struct hub_worker *choose_worker(const struct hub *hub, const struct hub_job *job)
{
    struct hub_worker *best = NULL;
    int most = 0;

    for (struct hub_worker *worker = hub->workers; worker; worker = worker->next) {
        int at_once = worker->facts.max_batch < hub->options.max_batch ? worker->facts.max_batch
                                                                       : hub->options.max_batch;
        int places = at_once - worker->taken;

        if (!worker->is_ready || worker->is_lost || worker->is_killed || places <= most ||
            draws_alone(worker) || (job->attempts > 0 && worker->taken > 0))
            continue;
        best = worker;
        most = places;
    }
    return best;
}

/* --- The spec, from the store --- */

static bool restore_spec(struct job_spec *spec, const char *parameters,
                         const struct job_image *init_image, const struct job_image *mask,
                         struct job_problem *problem)
{
    json_t *object = parameters ? json_loads(parameters, 0, NULL) : NULL;
    bool is_restored;

    if (!object) {
        *problem = (struct job_problem){.message = "the job's parameters are damaged"};
        return false;
    }
    is_restored = job_spec_restore(spec, object, init_image, mask, problem);
    json_decref(object);
    return is_restored;
}

/* *is_whole false: the row is damaged, and problem says how. False: the store failed. */
static bool load_spec(struct hub *hub, const struct hub_job *job, struct job_spec *spec,
                      bool *is_whole, struct job_problem *problem, struct error *err)
{
    struct job_image init_image = {0}, mask = {0};
    void *init_bytes = NULL, *mask_bytes = NULL;

    if (!store_inputs(hub->store, job->id, &init_bytes, &init_image.size, &mask_bytes, &mask.size,
                      err))
        return false;
    init_image.bytes = init_bytes;
    mask.bytes = mask_bytes;
    *is_whole = restore_spec(spec, job->parameters, &init_image, &mask, problem);
    free(init_bytes);
    free(mask_bytes);
    return true;
}

/* --- Starting --- */

static struct hub_slot *free_slot(struct hub_worker *worker)
{
    for (int i = 0; i < HUB_BATCH_MAX; i++) {
        if (worker->slots[i].ticket == 0)
            return &worker->slots[i];
    }
    return NULL;
}

static void mark_running(struct hub *hub, struct hub_worker *worker, struct hub_job *job,
                         int64_t fence)
{
    struct hub_slot *slot = free_slot(worker);
    double now = seconds_now();

    pthread_mutex_lock(&hub->lock);
    hub_queue_take_locked(&hub->queue, job);
    hub_worker_share(worker, now);
    slot->ticket = ++hub->last_ticket;
    slot->job = job;
    worker->taken++;
    hub->running++;
    job->state = JOB_RUNNING;
    job->phase = JOB_PHASE_WAIT;
    job->step = job->step_count = 0;
    job->attempts++;
    job->fence = fence;
    job->started_ms = hub_wall_ms();
    job->worker = worker;
    job->share_started = worker->share;
    pthread_mutex_unlock(&hub->lock);
    metrics_observe(METRIC_QUEUE_WAIT, now - job->queued_at);
    log_event(LOG_INFO, "job.started", "job=%s owner=%s worker=%u attempt=%d waited=%.3f", job->id,
              job->owner_name, worker->index, (int)job->attempts, now - job->queued_at);
    hub_publish(hub, EVENT_JOB_STARTED, job, 0);
}

/* What has come is drawn anew, what was left out is not. */
static void fill_pictures(struct hub_job *job, bool is_skipped[JOB_COUNT_MAX])
{
    for (int i = 0; i < JOB_COUNT_MAX; i++) {
        is_skipped[i] = job->drawing[i] == PICTURE_IS_LEFT_OUT;
        if (!is_skipped[i])
            job->drawing[i] = PICTURE_AHEAD;
    }
}

static void send_job(struct hub *hub, struct hub_worker *worker, struct hub_job *job,
                     const struct job_spec *spec)
{
    struct record_writer record = {0};
    struct job_message message = {
        .attempt = job->attempts, .is_frugal = job->was_too_large, .spec = *spec};

    job->is_watched = hub_has_watcher(hub, job);
    message.is_watched = job->is_watched;
    fill_pictures(job, message.is_skipped);
    for (int i = 0; i < HUB_BATCH_MAX; i++) {
        if (worker->slots[i].job == job)
            message.ticket = worker->slots[i].ticket;
    }
    job_message_write(&record, &message);
    if (record.has_failed) {
        record_writer_finish(&record);
        hub_free_slot(hub, worker, hub_worker_slot(worker, message.ticket));
        hub_owe_failure(hub, job, FAULT_INTERNAL, strdup("the job is too large to be handed over"));
    } else if (!hub_worker_send(hub, worker, MESSAGE_JOB, &record)) {
        hub_mourn_worker(hub, worker, "deaf"); /* the job goes back with the others */
    }
}

/* False: not now. */
static bool start_job(struct hub *hub, struct hub_worker *worker, struct hub_job *job)
{
    struct job_problem problem = {0};
    struct job_spec spec = {0};
    struct error err;
    char name[32];
    int64_t fence = 0;
    bool is_whole = false, is_claimed = false;

    if (!hub_note_store(hub, load_spec(hub, job, &spec, &is_whole, &problem, &err), &err))
        return false;
    if (!is_whole) {
        hub_owe_failure(hub, job, FAULT_INTERNAL, strdup(problem.message));
        return job->owed == OWED_NOTHING;
    }
    snprintf(name, sizeof name, "worker %u", worker->index);
    if (!hub_note_store(hub,
                        store_claim(hub->store, job->id, name, LEASE_MS, hub_wall_ms(), &fence,
                                    &is_claimed, &err),
                        &err)) {
        job_spec_finish(&spec);
        return false;
    }
    if (is_claimed) {
        mark_running(hub, worker, job, fence);
        send_job(hub, worker, job, &spec);
    } else {
        /* It is not queued in the store: owing it a failure makes memory follow the store. */
        hub_owe_failure(hub, job, FAULT_LOST, NULL);
    }
    job_spec_finish(&spec);
    return true;
}

void hub_dispatch(struct hub *hub, double now)
{
    enum store_disk disk = hub->disk;

    if (hub->is_draining || now < hub->dispatch_after)
        return;
    /* The reserve is for what was accepted. Where nothing can be written at all, a picture would be
     * drawn for nothing. */
    if (disk == STORE_DISK_READ_ONLY || disk == STORE_DISK_GONE || hub->held.first)
        return;
    for (;;) {
        struct hub_job *job = hub_queue_first(&hub->queue);
        struct hub_worker *worker = job ? choose_worker(hub, job) : NULL;

        if (!worker)
            return;
        if (!start_job(hub, worker, job)) {
            hub->dispatch_after = now + 1;
            return;
        }
    }
}
