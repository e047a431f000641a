/* The order in which jobs are drawn: start-time fair queueing over owners (Goyal, Vin and Cheng
 * 1996). Each owner has a virtual time that grows by the cost of what it was given; the one that is
 * furthest behind is next. Who was away starts at the time of those who were not, so that absence
 * saves nothing up.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/hub_private.h"

struct hub_owner *hub_owner_find(const struct hub_queue *queue, const char *name)
{
    struct hub_owner *owner = queue->owners;

    while (owner && strcmp(owner->name, name) != 0)
        owner = owner->next;
    return owner;
}

struct hub_owner *hub_owner_get(struct hub_queue *queue, const char *name)
{
    struct hub_owner *owner = hub_owner_find(queue, name);

    if (owner)
        return owner;
    owner = calloc(1, sizeof *owner);
    if (!owner)
        return NULL;
    memcpy(owner->name, name, strnlen(name, sizeof owner->name - 1));
    owner->next = queue->owners;
    queue->owners = owner;
    return owner;
}

/* In the order of sequence: a job that comes back stands where it stood. */
static void insert(struct hub_owner *owner, struct hub_job *job)
{
    struct hub_job *before = owner->last;

    while (before && before->sequence > job->sequence)
        before = before->previous;
    job->previous = before;
    job->next = before ? before->next : owner->first;
    *(job->next ? &job->next->previous : &owner->last) = job;
    *(before ? &before->next : &owner->first) = job;
    owner->queued++;
}

void hub_queue_add_locked(struct hub_queue *queue, struct hub_owner *owner, struct hub_job *job)
{
    if (owner->queued == 0)
        owner->used = fmax(owner->used, queue->virtual_now);
    job->owner = owner;
    insert(owner, job);
    queue->count++;
}

void hub_queue_remove_locked(struct hub_queue *queue, struct hub_job *job)
{
    struct hub_owner *owner = job->owner;

    *(job->previous ? &job->previous->next : &owner->first) = job->next;
    *(job->next ? &job->next->previous : &owner->last) = job->previous;
    job->next = job->previous = NULL;
    owner->queued--;
    queue->count--;
}

struct hub_job *hub_queue_first(const struct hub_queue *queue)
{
    const struct hub_owner *best = NULL;

    for (const struct hub_owner *owner = queue->owners; owner; owner = owner->next) {
        if (!owner->first)
            continue;
        if (!best || owner->used < best->used ||
            (owner->used == best->used && owner->first->sequence < best->first->sequence))
            best = owner;
    }
    return best ? best->first : NULL;
}

void hub_queue_take_locked(struct hub_queue *queue, struct hub_job *job)
{
    struct hub_owner *owner = job->owner;

    hub_queue_remove_locked(queue, job);
    queue->virtual_now = fmax(queue->virtual_now, owner->used);
    owner->used += job->cost;
    owner->running++;
}

void hub_queue_give_back_locked(struct hub_queue *queue, struct hub_job *job)
{
    job->owner->running--;
    job->owner->used -= job->cost;
    insert(job->owner, job);
    queue->count++;
}

struct hub_place hub_queue_place(const struct hub_queue *queue, const struct hub_job *job)
{
    struct hub_place place = {.position = 1};
    double start = job->owner->used;

    for (const struct hub_job *at = job->previous; at; at = at->previous)
        start += at->cost;
    for (const struct hub_owner *owner = queue->owners; owner; owner = owner->next) {
        double other = owner->used;

        for (const struct hub_job *at = owner->first; at && at != job; at = at->next) {
            if (other > start || (other == start && at->sequence > job->sequence))
                break;
            place.position++;
            place.cost_ahead += at->cost;
            other += at->cost;
        }
    }
    return place;
}

/* --- Expected times --- */

/* The part of a running job's cost that is still to be drawn. */
static double cost_left(const struct hub_job *job)
{
    if (job->step_count <= 0)
        return job->cost;
    return job->cost * fmax(0.0, 1.0 - (double)job->step / job->step_count);
}

double hub_wait_seconds(const struct hub *hub, const struct hub_job *job)
{
    double cost = 0;
    int places = 0, workers = 0;

    for (const struct hub_worker *worker = hub->workers; worker; worker = worker->next) {
        if (!worker->is_ready)
            continue;
        workers++;
        places += hub->options.max_batch - worker->taken;
        for (int i = 0; i < hub->options.max_batch; i++) {
            if (worker->slots[i].job)
                cost += cost_left(worker->slots[i].job);
        }
    }
    if (workers == 0 || hub->seconds_per_cost <= 0)
        return -1;
    if (places > 0 && hub_queue_place(&hub->queue, job).position <= places)
        return 0;
    cost += hub_queue_place(&hub->queue, job).cost_ahead;
    return cost * hub->seconds_per_cost / workers;
}

/* While nothing has been measured, a job goes on as it began. */
static double own_seconds_left(const struct hub_job *job)
{
    double elapsed = 1e-3 * (double)(hub_wall_ms() - job->started_ms);

    if (job->state != JOB_RUNNING || job->started_ms <= 0 || job->step <= 0 || elapsed < 0)
        return -1;
    return elapsed * (job->step_count - job->step) / job->step;
}

double hub_seconds_left(const struct hub *hub, const struct hub_job *job)
{
    double wait;

    if (hub->seconds_per_cost <= 0)
        return own_seconds_left(job);
    if (job->state == JOB_RUNNING)
        return cost_left(job) * hub->seconds_per_cost * (job->worker ? job->worker->taken : 1);
    wait = hub_wait_seconds(hub, job);
    return wait < 0 ? -1 : wait + job->cost * hub->seconds_per_cost;
}

/* --- Jobs a minute --- */

double hub_owner_wait(struct hub_owner *owner, int32_t jobs_per_minute, double now)
{
    double limit = jobs_per_minute, rate = limit / 60;

    if (jobs_per_minute <= 0)
        return 0;
    if (owner->refilled_at <= 0)
        owner->tokens = limit;
    else
        owner->tokens = fmin(limit, owner->tokens + rate * (now - owner->refilled_at));
    owner->refilled_at = now;
    return owner->tokens >= 1 ? 0 : (1 - owner->tokens) / rate;
}

void hub_owner_spend(struct hub_owner *owner)
{
    owner->tokens -= 1;
}

/* An owner without jobs, debts and spent tokens is as good as a new one. */
void hub_queue_sweep_locked(struct hub_queue *queue, double now)
{
    if (queue->count == 0) {
        for (const struct hub_owner *owner = queue->owners; owner; owner = owner->next)
            queue->virtual_now = fmax(queue->virtual_now, owner->used);
    }
    for (struct hub_owner **at = &queue->owners; *at;) {
        struct hub_owner *owner = *at;

        if (owner->queued > 0 || owner->running > 0 || owner->used > queue->virtual_now ||
            (owner->refilled_at > 0 && now < owner->refilled_at + 60)) {
            at = &owner->next;
            continue;
        }
        *at = owner->next;
        free(owner);
    }
}

void hub_queue_destroy(struct hub_queue *queue)
{
    while (queue->owners) {
        struct hub_owner *owner = queue->owners;

        queue->owners = owner->next;
        free(owner);
    }
}
