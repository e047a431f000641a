/* The hub's thread: it waits for workers, requests of other threads and the time, and does what
 * they ask for, one after the other. */
#include "server/hub.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <sodium.h>

#include "base/clock.h"
#include "server/hub_private.h"
#include "server/log.h"
#include "server/supervisor.h"

#define TICK_SECONDS 1.0
#define SWEEP_SECONDS 60.0
#define TURN_EVENTS 16

int64_t hub_wall_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void hub_fail(struct hub_error *err, int status, const char *code, int retry_after,
              const char *format, ...)
{
    va_list args;

    *err = (struct hub_error){.status = status, .retry_after = retry_after};
    snprintf(err->code, sizeof err->code, "%s", code);
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
}

void hub_fail_stopping(struct hub_error *err)
{
    hub_fail(err, 503, "draining", 5, "the server is being stopped");
}

/* --- Calls of other threads --- */

void hub_wake(struct hub *hub)
{
    uint64_t one = 1;
    ssize_t written = write(hub->wake_fd, &one, sizeof one);

    (void)written; /* a counter that is full wakes as well */
}

bool hub_ask(struct hub *hub, struct hub_call *call)
{
    struct hub_calls *calls = &hub->calls;

    pthread_cond_init(&call->done, NULL);
    pthread_mutex_lock(&calls->lock);
    if (calls->is_closed) {
        call->was_refused = true;
    } else {
        *(calls->last ? &calls->last->next : &calls->first) = call;
        calls->last = call;
        hub_wake(hub);
        while (!call->is_done)
            pthread_cond_wait(&call->done, &calls->lock);
    }
    pthread_mutex_unlock(&calls->lock);
    pthread_cond_destroy(&call->done);
    return !call->was_refused;
}

void hub_complete(struct hub *hub, struct hub_call *call)
{
    pthread_mutex_lock(&hub->calls.lock);
    call->is_done = true;
    pthread_cond_signal(&call->done);
    pthread_mutex_unlock(&hub->calls.lock);
}

static struct hub_call *take_calls(struct hub *hub)
{
    struct hub_call *calls;

    pthread_mutex_lock(&hub->calls.lock);
    calls = hub->calls.first;
    hub->calls.first = hub->calls.last = NULL;
    pthread_mutex_unlock(&hub->calls.lock);
    return calls;
}

/* Submissions that wait go together, in their order, before everything else. */
static void run_calls(struct hub *hub)
{
    struct hub_call *submissions = NULL, **last_submission = &submissions;
    struct hub_call *others = NULL, **last_other = &others;

    for (struct hub_call *call = take_calls(hub), *next; call; call = next) {
        struct hub_call ***last = call->is_submission ? &last_submission : &last_other;

        next = call->next;
        call->next = NULL;
        **last = call;
        *last = &call->next;
    }
    if (submissions)
        hub_accept_all(hub, submissions);
    for (struct hub_call *call = others, *next; call; call = next) {
        next = call->next; /* the call is gone once it is complete */
        call->run(hub, call);
    }
}

static void refuse_calls(struct hub *hub)
{
    pthread_mutex_lock(&hub->calls.lock);
    hub->calls.is_closed = true;
    for (struct hub_call *call = hub->calls.first, *next; call; call = next) {
        next = call->next;
        call->was_refused = call->is_done = true;
        pthread_cond_signal(&call->done);
    }
    hub->calls.first = hub->calls.last = NULL;
    pthread_mutex_unlock(&hub->calls.lock);
}

/* --- Draining --- */

static void start_drain(struct hub *hub, struct hub_call *call)
{
    if (!hub->is_draining) {
        pthread_mutex_lock(&hub->lock);
        hub->is_draining = true;
        pthread_mutex_unlock(&hub->lock);
        hub->drain_until = seconds_now() + hub->options.grace;
        log_event(LOG_INFO, "drain.started", "running=%d waiting=%d", hub->running,
                  hub->queue.count);
        for (struct hub_worker *worker = hub->workers; worker; worker = worker->next)
            hub_worker_tell(hub, worker, MESSAGE_DRAIN, 0);
        hub_publish(hub, EVENT_WORKER, NULL, 0);
    }
    hub_complete(hub, call);
}

void hub_drain(struct hub *hub)
{
    struct hub_call call = {.run = start_drain};

    if (!hub_ask(hub, &call))
        return; /* stopping is more than draining */
}

bool hub_is_drained(struct hub *hub)
{
    bool is_drained;

    pthread_mutex_lock(&hub->lock);
    is_drained = hub->is_drained;
    pthread_mutex_unlock(&hub->lock);
    return is_drained;
}

static struct hub_job *find_running(struct hub *hub)
{
    for (int b = 0; b < HUB_BUCKETS; b++) {
        for (struct hub_job *job = hub->buckets[b]; job; job = job->next_in_bucket) {
            bool waits_for_disk = job->owed == OWED_FINISH && hub_job_is_held(hub, job);

            if (job->state == JOB_RUNNING && (job->owed == OWED_NOTHING || waits_for_disk))
                return job;
        }
    }
    return NULL;
}

static void put_back_all(struct hub *hub)
{
    struct hub_job *job;

    while ((job = find_running(hub)) != NULL) {
        hub_leave_worker(hub, job, true);
        hub_owe(hub, job, OWED_PUT_BACK, NULL);
    }
}

static void advance_drain(struct hub *hub, double now)
{
    if (!hub->is_draining || hub->is_drained)
        return;
    if (now >= hub->drain_until)
        put_back_all(hub);
    if (hub->running > 0)
        return;
    pthread_mutex_lock(&hub->lock);
    hub->is_drained = true;
    pthread_mutex_unlock(&hub->lock);
    log_event(LOG_INFO, "drain.done", "waiting=%d", hub->queue.count);
    hub_say(hub, FRONT_IS_DRAINED, 0);
}

/* --- The time --- */

static void tick(struct hub *hub, double now)
{
    if (hub->next_expiry > 0 && now >= hub->next_expiry)
        hub_expire(hub, now);
    hub_questions_give_up(hub, NULL, now);
    hub_retry_held(hub, now);
    advance_drain(hub, now);
    if (now < hub->next_tick)
        return;
    hub->next_tick = now + TICK_SECONDS;
    hub_watch_beats(hub, now);
    hub_probe_store(hub);
    hub_settle_all(hub);
    hub_look_at_disk(hub, now);
    if (now - hub->swept_at >= SWEEP_SECONDS) {
        hub->swept_at = now;
        pthread_mutex_lock(&hub->lock);
        hub_queue_sweep_locked(&hub->queue, now);
        pthread_mutex_unlock(&hub->lock);
    }
}

static void set_timer(struct hub *hub)
{
    double when = fmin(hub->next_tick, fmin(hub_questions_next(hub), hub_held_next(hub)));
    struct itimerspec time = {0};

    if (hub->next_expiry > 0)
        when = fmin(when, hub->next_expiry);
    if (hub->is_draining && !hub->is_drained && seconds_now() < hub->drain_until)
        when = fmin(when, hub->drain_until);
    when = fmax(when, 1e-3);
    time.it_value.tv_sec = (time_t)when;
    time.it_value.tv_nsec = (long)(1e9 * (when - floor(when)));
    timerfd_settime(hub->timer_fd, TFD_TIMER_ABSTIME, &time, NULL);
}

/* --- The thread --- */

static void clear(int fd)
{
    uint64_t count;
    ssize_t size = read(fd, &count, sizeof count);

    (void)size;
}

static void handle(struct hub *hub, const struct epoll_event *event)
{
    struct hub_worker *worker = event->data.ptr;

    if (event->data.ptr == &hub->wake_fd) {
        clear(hub->wake_fd);
    } else if (event->data.ptr == &hub->timer_fd) {
        clear(hub->timer_fd);
    } else if (event->data.ptr == &hub->control_fd) {
        hub_control_readable(hub);
    } else {
        if ((event->events & EPOLLOUT) && !channel_flush(worker->channel))
            hub_mourn_worker(hub, worker, "deaf");
        hub_worker_readable(hub, worker);
        hub_worker_sent(hub, worker);
    }
}

static void finish_turn(struct hub *hub)
{
    double now = seconds_now();

    run_calls(hub);
    tick(hub, now);
    hub_reap_workers(hub);
    hub_update_watchers(hub);
    hub_dispatch(hub, now);
    hub_reap_workers(hub);
    advance_drain(hub, now);
    hub_tell_all(hub);
}

static void *hub_main(void *context)
{
    struct hub *hub = context;

    while (!atomic_load(&hub->is_stopping)) {
        struct epoll_event events[TURN_EVENTS];
        int count;

        set_timer(hub);
        count = epoll_wait(hub->epoll_fd, events, TURN_EVENTS, -1);
        for (int i = 0; i < count; i++)
            handle(hub, &events[i]);
        finish_turn(hub);
    }
    run_calls(hub);
    refuse_calls(hub);
    hub_questions_give_up(hub, NULL, INFINITY);
    put_back_all(hub);
    hub_tell_all(hub);
    return NULL;
}

/* --- Making and ending --- */

static bool watch(struct hub *hub, int fd, void *tag, struct error *err)
{
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = tag};

    if (epoll_ctl(hub->epoll_fd, EPOLL_CTL_ADD, fd, &interest) < 0)
        return error_set_errno(err, errno, "epoll");
    return true;
}

static bool open_descriptors(struct hub *hub, struct error *err)
{
    hub->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    hub->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    hub->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (hub->epoll_fd < 0 || hub->wake_fd < 0 || hub->timer_fd < 0)
        return error_set_errno(err, errno, "descriptors for the hub");
    return watch(hub, hub->wake_fd, &hub->wake_fd, err) &&
           watch(hub, hub->timer_fd, &hub->timer_fd, err) &&
           (hub->control_fd < 0 || watch(hub, hub->control_fd, &hub->control_fd, err));
}

static struct hub *hub_allocate(const struct hub_options *options, int control_fd)
{
    struct hub *hub = calloc(1, sizeof *hub);
    char *folder = strdup(options->folder);

    if (!hub || !folder) {
        free(hub);
        free(folder);
        return NULL;
    }
    hub->options = *options;
    hub->options.folder = folder;
    hub->options.max_batch = options->max_batch < 1               ? 1
                             : options->max_batch > HUB_BATCH_MAX ? HUB_BATCH_MAX
                                                                  : options->max_batch;
    hub->control_fd = control_fd;
    hub->epoll_fd = hub->wake_fd = hub->timer_fd = -1;
    hub->store_works = true;
    hub->patience = (struct hub_patience){.least = 10, .unmeasured = 300};
    hub_set_held_limits(hub, HELD_SECONDS_MAX, HELD_PICTURE_BYTES_MAX);
    pthread_mutex_init(&hub->lock, NULL);
    pthread_mutex_init(&hub->calls.lock, NULL);
    return hub;
}

bool hub_create(struct hub **out, const struct hub_options *options, int control_fd,
                struct error *err)
{
    struct hub *hub;
    int failure;

    if (sodium_init() < 0)
        return error_set(err, ERROR_IO, "the system has no random numbers");
    hub = hub_allocate(options, control_fd);
    if (!hub)
        return error_set(err, ERROR_NO_MEMORY, "the hub");
    if (!hub_events_init(&hub->events, err) || !open_descriptors(hub, err) ||
        !store_open(&hub->store, hub->options.folder, err) || !hub_load_queue(hub, err))
        goto fail;
    hub->next_expiry = 1; /* long ago: looks for the first one */
    failure = pthread_create(&hub->thread, NULL, hub_main, hub);
    if (failure) {
        error_set_errno(err, failure, "the hub's thread");
        goto fail;
    }
    hub->has_thread = true;
    *out = hub;
    return true;

fail:
    hub_destroy(hub);
    return error_in(err, "hub");
}

static void close_one(int fd)
{
    if (fd >= 0)
        close(fd);
}

void hub_destroy(struct hub *hub)
{
    if (!hub)
        return;
    if (hub->has_thread) {
        atomic_store(&hub->is_stopping, true);
        hub_wake(hub);
        pthread_join(hub->thread, NULL);
    }
    hub_workers_destroy(hub);
    hub_drop_held(hub, NULL);
    hub_jobs_destroy(hub);
    hub_queue_destroy(&hub->queue);
    hub_events_finish(&hub->events);
    store_close(hub->store);
    close_one(hub->epoll_fd);
    close_one(hub->wake_fd);
    close_one(hub->timer_fd);
    pthread_mutex_destroy(&hub->lock);
    pthread_mutex_destroy(&hub->calls.lock);
    free((char *)hub->options.folder);
    free(hub);
}

struct setting_hash {
    struct hub_call call;
    const char *hash;
};

static void set_model_hash(struct hub *hub, struct hub_call *call)
{
    const char *hash = ((struct setting_hash *)call)->hash;

    pthread_mutex_lock(&hub->lock);
    snprintf(hub->model_hash, sizeof hub->model_hash, "%s", hash);
    memcpy(hub->facts.model_hash, hub->model_hash, sizeof hub->facts.model_hash);
    pthread_mutex_unlock(&hub->lock);
    hub_complete(hub, call);
}

void hub_set_model_hash(struct hub *hub, const char *hash)
{
    struct setting_hash setting = {.call.run = set_model_hash, .hash = hash};

    if (!hub_ask(hub, &setting.call))
        return; /* nobody asks for it any more */
}

void hub_set_patience(struct hub *hub, double least, double unmeasured)
{
    pthread_mutex_lock(&hub->lock);
    hub->patience = (struct hub_patience){least, unmeasured};
    pthread_mutex_unlock(&hub->lock);
}

void hub_set_held_limits(struct hub *hub, double seconds, size_t bytes)
{
    hub->held.seconds_max = seconds;
    hub->held.bytes_max = bytes;
}

/* --- The whole --- */

void hub_state(struct hub *hub, struct hub_state *out)
{
    *out = (struct hub_state){0};
    pthread_mutex_lock(&hub->lock);
    out->store_works = hub->store_works;
    out->disk = hub->disk;
    out->pictures_held = hub->held.count;
    out->is_draining = hub->is_draining;
    out->has_facts = hub->has_facts;
    out->facts = hub->facts;
    out->queued = hub->queue.count;
    out->running = hub->running;
    out->restarts = hub->restarts;
    out->seconds_per_cost = hub->seconds_per_cost;
    for (const struct hub_worker *worker = hub->workers; worker; worker = worker->next) {
        out->workers++;
        out->workers_ready += worker->is_ready;
        if (!worker->is_ready)
            out->loading = worker->loading;
        if (worker->has_device) {
            out->device = worker->device;
            out->has_device = true;
        }
    }
    pthread_mutex_unlock(&hub->lock);
    out->is_ready = out->workers_ready > 0 && out->store_works && out->disk == STORE_DISK_GOOD &&
                    out->pictures_held == 0 && !out->is_draining;
}
