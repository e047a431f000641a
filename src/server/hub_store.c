/* Jobs on their way into the store. All submissions that wait are accepted in one transaction, so
 * that a thousand of them cost one sync; none is answered before it.
 */
#include <math.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/hub_private.h"
#include "server/log.h"
#include "server/metrics.h"

#define FAILED_PROBES_MAX 5
#define RETRY_SECONDS_MAX 3600.0

struct submission {
    struct hub_call call; /* first: a call is cast to it */
    const struct hub_submission *request;
    struct store_new_job job;
    char id[STORE_ID_BYTES];
    struct hub_owner *owner;
    struct hub_job *accepted; /* not in the table yet */
    enum store_accept how;
    struct job_view *out;
    struct hub_view_texts texts;
    struct hub_error *err;
    bool is_refused; /* err says why */
    bool is_open;    /* not answered yet */
};

/* --- The state of the store and its disk --- */

bool hub_note_store(struct hub *hub, bool works, const struct error *err)
{
    if (works)
        hub->failed_probes = 0;
    if (works == hub->store_works)
        return works;
    pthread_mutex_lock(&hub->lock);
    hub->store_works = works;
    pthread_mutex_unlock(&hub->lock);
    if (works) {
        log_event(LOG_INFO, "store.recovered", "waiting=%d", hub->queue.count);
    } else {
        metrics_count(METRIC_FAULTS, fault_names[FAULT_STORAGE], 1);
        log_event(LOG_ERROR, "store.failed", "code=%s message=\"%s\"", error_code_name(err->code),
                  err->message);
    }
    return works;
}

static const char *const disk_names[] = {
    [STORE_DISK_GOOD] = "good",
    [STORE_DISK_FULL] = "full",
    [STORE_DISK_READ_ONLY] = "read_only",
    [STORE_DISK_GONE] = "gone",
};

enum store_disk hub_look_at_disk(struct hub *hub, double now)
{
    enum store_disk disk;

    if (hub->disk_looked_at > 0 && now - hub->disk_looked_at < 1)
        return hub->disk;
    hub->disk_looked_at = now;
    disk = store_look_at_disk(hub->store, hub->options.disk_reserve);
    if (disk != hub->disk)
        log_event(disk == STORE_DISK_GOOD ? LOG_INFO : LOG_ERROR, "store.disk", "state=%s",
                  disk_names[disk]);
    if (disk == STORE_DISK_GONE && store_is_replaced(hub->store))
        atomic_store(&hub->must_restart, true);
    pthread_mutex_lock(&hub->lock);
    hub->disk = disk;
    pthread_mutex_unlock(&hub->lock);
    return disk;
}

/* False: the disk is good. */
static bool fail_disk(enum store_disk disk, struct hub_error *out)
{
    switch (disk) {
    case STORE_DISK_GOOD:
        return false;
    case STORE_DISK_FULL:
        hub_fail(out, 507, reject_names[REJECT_STORAGE_FULL], 60, "the disk has no room left");
        return true;
    case STORE_DISK_READ_ONLY:
        hub_fail(out, 507, reject_names[REJECT_STORAGE], 60,
                 "the folder for pictures cannot be written to");
        return true;
    case STORE_DISK_GONE:
        break;
    }
    hub_fail(out, 507, reject_names[REJECT_STORAGE], 60, "the folder for pictures was taken away");
    return true;
}

void hub_fail_store(struct hub *hub, struct hub_error *out, const struct error *err)
{
    hub->disk_looked_at = 0;
    if (err->code == ERROR_IO && fail_disk(hub_look_at_disk(hub, seconds_now()), out))
        return;
    if (err->code == ERROR_NO_MEMORY)
        hub_fail(out, 503, reject_names[REJECT_NO_MEMORY], 5, "the server is short of memory");
    else
        hub_fail(out, 503, reject_names[REJECT_STORAGE], 5, "the store does not work just now");
}

/* A store that failed is written to once a second, so that it is known when it works again. */
void hub_probe_store(struct hub *hub)
{
    struct error err;
    char when[32];

    if (hub->store_works)
        return;
    snprintf(when, sizeof when, "%lld", (long long)hub_wall_ms());
    if (hub_note_store(hub, store_set_setting(hub->store, "probe", when, &err), &err))
        return;
    if (++hub->failed_probes >= FAILED_PROBES_MAX &&
        hub_look_at_disk(hub, seconds_now()) == STORE_DISK_GOOD)
        atomic_store(&hub->must_restart, true);
}

bool hub_must_restart(struct hub *hub)
{
    return atomic_load(&hub->must_restart);
}

/* --- Who may come in --- */

static int retry_seconds(double seconds)
{
    if (seconds < 0)
        return 5; /* nothing is measured yet */
    return (int)fmin(RETRY_SECONDS_MAX, fmax(1.0, ceil(seconds)));
}

/* Loading seldom takes longer than it did so far, twice over. */
static int loading_seconds(const struct hub *hub)
{
    const struct hub_worker *worker = hub->workers;
    double elapsed, fraction;

    if (!worker)
        return 5;
    elapsed = seconds_now() - worker->born_at;
    fraction = fmin(1.0, fmax(0.05, worker->loading.fraction));
    return retry_seconds(fmin(60.0, elapsed / fraction - elapsed));
}

/* Its err is set. */
static bool refuse(struct submission *submission)
{
    submission->is_refused = true;
    return false;
}

/* Beside those that come in at this moment: `entering`, and of this owner `owner_entering`. */
static bool has_room(const struct hub *hub, const struct hub_owner *owner, int entering,
                     int owner_entering, struct hub_error *err)
{
    const struct hub_job *first = hub_queue_first(&hub->queue);

    if (hub->queue.count + entering >= hub->options.max_queue) {
        hub_fail(err, 429, reject_names[REJECT_QUEUE_FULL],
                 retry_seconds(first ? hub_wait_seconds(hub, first) : -1), "%d jobs wait already",
                 hub->options.max_queue);
        return false;
    }
    if (owner && owner->queued + owner_entering >= hub->options.max_queue_per_owner) {
        hub_fail(err, 429, reject_names[REJECT_QUEUE_FULL],
                 retry_seconds(owner->first ? hub_wait_seconds(hub, owner->first) : -1),
                 "%d of your jobs wait already", hub->options.max_queue_per_owner);
        return false;
    }
    return true;
}

static bool admit(struct hub *hub, struct submission *submission, double now)
{
    struct hub_owner *owner;
    double wait;

    if (hub->is_draining) {
        hub_fail(submission->err, 503, reject_names[REJECT_DRAINING], 5,
                 "the server is being stopped");
        return refuse(submission);
    }
    if (!hub->has_facts) {
        hub_fail(submission->err, 503, reject_names[REJECT_MODEL_LOADING], loading_seconds(hub),
                 "the model is still being loaded");
        return refuse(submission);
    }
    if (fail_disk(hub_look_at_disk(hub, now), submission->err))
        return refuse(submission);
    if (hub->held.first) {
        hub_fail(submission->err, 507, reject_names[REJECT_STORAGE], 60,
                 "finished pictures wait to be stored");
        return refuse(submission);
    }
    pthread_mutex_lock(&hub->lock);
    owner = submission->owner = hub_owner_get(&hub->queue, submission->job.owner);
    pthread_mutex_unlock(&hub->lock);
    if (!owner) {
        hub_fail(submission->err, 503, reject_names[REJECT_NO_MEMORY], 5,
                 "the server is short of memory");
        return refuse(submission);
    }
    if (!has_room(hub, owner, hub->queue.entering, owner->entering, submission->err))
        return refuse(submission);
    wait = hub_owner_wait(owner, submission->request->jobs_per_minute, now);
    if (wait > 0) {
        hub_fail(submission->err, 429, reject_names[REJECT_RATE_LIMITED], retry_seconds(wait),
                 "more than %d jobs a minute", (int)submission->request->jobs_per_minute);
        return refuse(submission);
    }
    hub_owner_spend(owner); /* given back when nothing new comes of it */
    owner->entering++;
    hub->queue.entering++;
    return true;
}

/* --- Into the store --- */

/* Within a transaction: the row, and what memory will hold once it is committed. */
static bool accept_one(struct hub *hub, struct submission *submission, struct error *err)
{
    struct store_job row;
    bool found;

    if (!store_accept(hub->store, &submission->job, &submission->how, submission->id, err))
        return false;
    if (submission->how != STORE_ACCEPTED)
        return true;
    if (!store_get(hub->store, submission->id, NULL, &row, &found, err))
        return false;
    if (!found)
        return error_set(err, ERROR_BAD_FILE, "job %s is not there once accepted", submission->id);
    submission->accepted = hub_job_create(&row);
    store_job_finish(&row);
    if (!submission->accepted)
        return error_set(err, ERROR_NO_MEMORY, "a job");
    return true;
}

static bool accept_group(struct hub *hub, struct hub_call *calls, struct error *err)
{
    double start = seconds_now();

    if (!store_begin(hub->store, err))
        return false;
    for (struct hub_call *call = calls; call; call = call->next) {
        struct submission *submission = (struct submission *)call;

        if (submission->is_refused)
            continue;
        if (!accept_one(hub, submission, err)) {
            store_roll_back(hub->store);
            return false;
        }
    }
    if (!store_commit(hub->store, err))
        return false;
    metrics_observe(METRIC_STORE_SECONDS, seconds_now() - start);
    return true;
}

/* A request that comes again gets its job, however full the house is. */
static void look_for_earlier(struct hub *hub, struct submission *submission)
{
    struct error err;

    if (!submission->job.idempotency_key || !store_begin(hub->store, &err))
        return;
    if (store_accept(hub->store, &submission->job, &submission->how, submission->id, &err) &&
        submission->how != STORE_ACCEPTED)
        submission->is_refused = false;
    store_roll_back(hub->store);
}

static void enter(struct hub *hub, struct submission *submission)
{
    struct hub_job *job = submission->accepted;

    pthread_mutex_lock(&hub->lock);
    hub_job_add_locked(hub, job);
    hub_queue_add_locked(&hub->queue, submission->owner, job);
    pthread_mutex_unlock(&hub->lock);
    if (job->expires > 0 && (hub->next_expiry <= 0 || job->expires < hub->next_expiry))
        hub->next_expiry = job->expires;
    log_event(LOG_INFO, "job.accepted", "job=%s owner=%s api=%s cost=%.3f waiting=%d", job->id,
              job->owner_name, job->api, job->cost, hub->queue.count);
    hub_publish(hub, EVENT_JOB_QUEUED, job, 0);
}

static void answer(struct hub *hub, struct submission *submission)
{
    if (!submission->is_refused && submission->how == STORE_CONFLICT) {
        hub_fail(submission->err, 409, reject_names[REJECT_IDEMPOTENCY_CONFLICT], 0,
                 "this Idempotency-Key came with another request before");
        refuse(submission);
    }
    if (submission->is_refused)
        metrics_count(METRIC_REJECTS, submission->err->code, 1);
    else if (!hub_look(hub, submission->id, submission->job.owner, submission->out,
                       &submission->texts, submission->err))
        submission->is_refused = true;
}

static void leave_door(struct hub *hub, struct submission *submission)
{
    if (!submission->is_open)
        return;
    submission->is_open = false;
    submission->owner->entering--;
    hub->queue.entering--;
    if (submission->is_refused || submission->how != STORE_ACCEPTED)
        submission->owner->tokens += 1;
}

static void refuse_group(struct hub *hub, struct hub_call *calls, const struct error *err)
{
    for (struct hub_call *call = calls; call; call = call->next) {
        struct submission *submission = (struct submission *)call;

        hub_job_destroy(submission->accepted);
        submission->accepted = NULL;
        if (submission->is_refused)
            continue;
        hub_fail_store(hub, submission->err, err);
        refuse(submission);
    }
}

void hub_accept_all(struct hub *hub, struct hub_call *calls)
{
    struct error err;
    int admitted = 0;

    for (struct hub_call *call = calls; call; call = call->next) {
        struct submission *submission = (struct submission *)call;

        submission->is_open = admit(hub, submission, seconds_now());
        admitted += submission->is_open;
    }
    if (admitted > 0 && !hub_note_store(hub, accept_group(hub, calls, &err), &err))
        refuse_group(hub, calls, &err);
    for (struct hub_call *call = calls, *next; call; call = next) {
        struct submission *submission = (struct submission *)call;

        next = call->next; /* the call is gone once it is complete */
        if (submission->accepted)
            enter(hub, submission);
        else if (submission->is_refused && !submission->is_open)
            look_for_earlier(hub, submission);
        leave_door(hub, submission);
        answer(hub, submission);
        hub_complete(hub, call);
    }
}

/* --- The caller's side --- */

static void draw_id(char id[STORE_ID_BYTES])
{
    unsigned char bytes[(STORE_ID_BYTES - 1) / 2];

    randombytes_buf(bytes, sizeof bytes);
    sodium_bin2hex(id, STORE_ID_BYTES, bytes, sizeof bytes);
}

static void fill_job(struct store_new_job *job, const struct hub *hub,
                     const struct hub_submission *request, const char *id, const char *parameters)
{
    double timeout = hub->options.request_timeout;

    if (request->timeout > 0)
        timeout = timeout > 0 ? fmin(timeout, request->timeout) : request->timeout;
    *job = (struct store_new_job){
        .id = id,
        .owner = request->owner,
        .api = request->api,
        .parameters = parameters,
        .prompt = request->spec->prompt ? request->spec->prompt : "",
        .init_image = {request->spec->init_image.bytes, request->spec->init_image.size},
        .mask = {request->spec->mask.bytes, request->spec->mask.size},
        .idempotency_key = request->idempotency_key,
        .cost = job_spec_cost(request->spec),
        .created_ms = hub_wall_ms(),
    };
    if (timeout > 0)
        job->deadline_ms = job->created_ms + (int64_t)(1e3 * fmin(timeout, 1e9));
    crypto_hash_sha256(job->request_hash, request->body ? request->body : "",
                       request->body ? request->body_size : 0);
}

static char *parameters_of(const struct job_spec *spec)
{
    json_t *object = job_spec_json(spec);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

    json_decref(object);
    return text;
}

/* What is full says so at once: the hub's thread may be waiting for the disk. One with a key may
 * have its job already, which only the store knows. */
static bool is_full(struct hub *hub, const struct hub_submission *request, struct hub_error *err)
{
    bool is_full;

    if (request->idempotency_key)
        return false;
    pthread_mutex_lock(&hub->lock);
    is_full =
        !hub->is_draining && !has_room(hub, hub_owner_find(&hub->queue, request->owner), 0, 0, err);
    pthread_mutex_unlock(&hub->lock);
    if (is_full)
        metrics_count(METRIC_REJECTS, err->code, 1);
    return is_full;
}

bool hub_submit(struct hub *hub, const struct hub_submission *request, struct job_view *out,
                bool *is_new, struct hub_error *err)
{
    struct submission submission = {.request = request, .out = out, .err = err};
    char id[STORE_ID_BYTES];
    char *parameters;

    if (is_full(hub, request, err))
        return false;
    parameters = parameters_of(request->spec);
    if (!parameters) {
        hub_fail(err, 503, reject_names[REJECT_NO_MEMORY], 5, "the server is short of memory");
        return false;
    }
    draw_id(id);
    fill_job(&submission.job, hub, request, id, parameters);
    submission.call.is_submission = true;
    if (!hub_ask(hub, &submission.call)) {
        hub_fail_stopping(err);
        submission.is_refused = true;
    }
    free(parameters);
    if (submission.is_refused)
        return false;
    hub_view_parse(out, &submission.texts);
    *is_new = submission.how == STORE_ACCEPTED;
    return true;
}

/* --- At the start --- */

struct loading {
    struct hub *hub;
    bool has_failed;
};

static void load_job(void *context, const struct store_job *row)
{
    struct loading *loading = context;
    struct hub *hub = loading->hub;
    struct hub_owner *owner = hub_owner_get(&hub->queue, row->owner);
    struct hub_job *job = owner ? hub_job_create(row) : NULL;

    if (!job) {
        loading->has_failed = true;
        return;
    }
    hub_job_add_locked(hub, job);
    hub_queue_add_locked(&hub->queue, owner, job);
}

/* Before the thread runs, so that no lock is needed. */
bool hub_load_queue(struct hub *hub, struct error *err)
{
    struct loading loading = {.hub = hub};

    if (!store_each_queued(hub->store, load_job, &loading, err))
        return false;
    if (loading.has_failed)
        return error_set(err, ERROR_NO_MEMORY, "the queue");
    if (hub->queue.count > 0)
        log_event(LOG_INFO, "queue.loaded", "waiting=%d", hub->queue.count);
    return true;
}
