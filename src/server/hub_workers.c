/* The hub's workers: how they come, over the supervisor's control socket; how they are listened to,
 * watched, and lost. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/hub_private.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/supervisor.h"

/* A worker that has much to say does not push events out of the ring before they are told. */
#define RECORDS_BEFORE_TELLING 64
/* For the supervisor to say why a worker's channel closed. It does at once. */
#define FAREWELL_SECONDS 2.0

/* --- To the supervisor --- */

void hub_say(struct hub *hub, int word, uint32_t index)
{
    struct front_says says = {.word = (enum front_word)word, .index = index};

    if (hub->control_fd < 0)
        return;
    if (send(hub->control_fd, &says, sizeof says, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        log_event(LOG_ERROR, "supervisor.unreachable", "word=%d", word);
}

/* --- Coming --- */

static struct heartbeat *map_heartbeat(int fd)
{
    struct stat status;
    void *page;

    if (fstat(fd, &status) < 0 || status.st_size < (off_t)sizeof(struct heartbeat))
        return NULL;
    page = mmap(NULL, sizeof(struct heartbeat), PROT_READ, MAP_SHARED, fd, 0);
    return page == MAP_FAILED ? NULL : page;
}

static void worker_destroy(struct hub_worker *worker)
{
    if (!worker)
        return;
    if (worker->heartbeat)
        munmap(worker->heartbeat, sizeof *worker->heartbeat);
    channel_destroy(worker->channel);
    free(worker);
}

/* Owns the channel's descriptor, in any case. */
static struct hub_worker *worker_create(const struct worker_arrived *arrived, int channel_fd,
                                        int heartbeat_fd)
{
    struct hub_worker *worker = calloc(1, sizeof *worker);
    struct error err;

    if (!worker) {
        close(channel_fd);
        return NULL;
    }
    worker->index = arrived->index;
    worker->pid = arrived->pid;
    worker->born_at = worker->beat_at = worker->share_at = seconds_now();
    worker->heartbeat = map_heartbeat(heartbeat_fd);
    if (channel_create(&worker->channel, channel_fd, &err) && worker->heartbeat)
        return worker;
    worker_destroy(worker);
    return NULL;
}

static void lose_worker(struct hub *hub, struct hub_worker *worker, const char *why)
{
    if (worker->is_lost)
        return;
    worker->is_lost = true;
    pthread_mutex_lock(&hub->lock);
    worker->is_ready = false;
    pthread_mutex_unlock(&hub->lock);
    log_event(LOG_WARNING, "worker.lost", "worker=%u pid=%d jobs=%d why=%s", worker->index,
              (int)worker->pid, worker->taken, why);
}

void hub_mourn_worker(struct hub *hub, struct hub_worker *worker, const char *why)
{
    if (worker->is_lost)
        return;
    lose_worker(hub, worker, why);
    if (worker->end != WORKER_END_UNKNOWN)
        return;
    worker->lost_at = seconds_now();
    epoll_ctl(hub->epoll_fd, EPOLL_CTL_DEL, channel_fd(worker->channel), NULL);
}

/* From the supervisor, before or after the channel's last words. */
static void hear_end(struct hub *hub, const struct worker_ended *ended)
{
    for (struct hub_worker *worker = hub->workers; worker; worker = worker->next) {
        if (worker->index != ended->index || worker->pid != ended->pid)
            continue;
        worker->end = ended->end;
        worker->memory_limit = ended->memory_limit;
        worker->lost_at = 0;
        log_event(LOG_INFO, "worker.ended", "worker=%u pid=%d how=%s", worker->index,
                  (int)worker->pid, worker_end_name(worker->end));
    }
}

static void welcome(struct hub *hub, const struct worker_arrived *arrived, int fd, int heartbeat_fd)
{
    struct hub_worker *worker = worker_create(arrived, fd, heartbeat_fd);
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = worker};

    close(heartbeat_fd);
    if (!worker ||
        epoll_ctl(hub->epoll_fd, EPOLL_CTL_ADD, channel_fd(worker->channel), &interest) < 0) {
        log_event(LOG_ERROR, "worker.unusable", "worker=%u", arrived->index);
        worker_destroy(worker);
        hub_say(hub, FRONT_KILL_WORKER, arrived->index);
        return;
    }
    for (struct hub_worker *old = hub->workers; old; old = old->next) {
        if (old->index == arrived->index) {
            lose_worker(hub, old, "replaced");
            old->lost_at = 0;
        }
    }
    pthread_mutex_lock(&hub->lock);
    worker->next = hub->workers;
    hub->workers = worker;
    hub->restarts += arrived->restarts > 0;
    pthread_mutex_unlock(&hub->lock);
    if (arrived->restarts > 0)
        metrics_count(METRIC_WORKER_RESTARTS, worker_end_name(arrived->last_end), 1);
    log_event(LOG_INFO, "worker.came", "worker=%u pid=%d restarts=%u", worker->index,
              (int)worker->pid, arrived->restarts);
    if (hub->is_draining)
        hub_worker_tell(hub, worker, MESSAGE_DRAIN, 0);
    hub_publish(hub, EVENT_WORKER, NULL, 0);
}

/* Takes the descriptors out of a message; those that nobody expects are closed. */
static int take_descriptors(struct msghdr *message, int out[2])
{
    int count = 0;

    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        size_t bytes;

        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        bytes = part->cmsg_len - CMSG_LEN(0);
        for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
            int fd;

            memcpy(&fd, CMSG_DATA(part) + at, sizeof fd);
            if (count < 2)
                out[count++] = fd;
            else
                close(fd);
        }
    }
    return count;
}

static bool read_news(struct hub *hub)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    union {
        struct worker_arrived arrived;
        struct worker_ended ended;
    } news;
    struct iovec part = {&news, sizeof news};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t size = recvmsg(hub->control_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int fds[2], count;

    if (size == 0) /* the supervisor is gone: we die with it, by its death signal */
        epoll_ctl(hub->epoll_fd, EPOLL_CTL_DEL, hub->control_fd, NULL);
    if (size <= 0)
        return false;
    count = take_descriptors(&message, fds);
    if (size == sizeof news.arrived && count == 2) {
        welcome(hub, &news.arrived, fds[0], fds[1]);
        return true;
    }
    if (size == sizeof news.ended && count == 0) {
        hear_end(hub, &news.ended);
        return true;
    }
    for (int i = 0; i < count; i++)
        close(fds[i]);
    log_event(LOG_ERROR, "supervisor.unclear", "bytes=%zd descriptors=%d", size, count);
    return true;
}

void hub_control_readable(struct hub *hub)
{
    while (read_news(hub))
        ;
}

/* --- Listening and speaking --- */

void hub_worker_readable(struct hub *hub, struct hub_worker *worker)
{
    for (int count = 1; !worker->is_lost; count++) {
        struct record_reader reader;
        uint32_t type;
        int fd = -1;

        switch (channel_receive(worker->channel, &type, &reader, &fd)) {
        case CHANNEL_NOTHING:
            return;
        case CHANNEL_CLOSED:
            hub_mourn_worker(hub, worker, "closed");
            return;
        case CHANNEL_BROKEN:
            lose_worker(hub, worker, "broken");
            return;
        case CHANNEL_RECORD:
            if (!hub_take_message(hub, worker, type, reader, fd))
                lose_worker(hub, worker, "unclear");
            if (fd >= 0)
                close(fd);
        }
        if (count % RECORDS_BEFORE_TELLING == 0)
            hub_tell_all(hub);
    }
}

void hub_worker_sent(struct hub *hub, struct hub_worker *worker)
{
    bool waits = channel_wants_to_send(worker->channel);
    struct epoll_event interest = {.events = EPOLLIN | (waits ? (uint32_t)EPOLLOUT : 0u),
                                   .data.ptr = worker};

    if (waits == worker->waits_to_send)
        return;
    worker->waits_to_send = waits;
    epoll_ctl(hub->epoll_fd, EPOLL_CTL_MOD, channel_fd(worker->channel), &interest);
}

bool hub_worker_send(struct hub *hub, struct hub_worker *worker, uint32_t type,
                     struct record_writer *record)
{
    bool is_sent =
        !record->has_failed && !worker->is_lost && channel_send(worker->channel, type, record, -1);

    if (is_sent)
        hub_worker_sent(hub, worker);
    record_writer_finish(record);
    return is_sent;
}

void hub_worker_tell(struct hub *hub, struct hub_worker *worker, uint32_t type, uint64_t ticket)
{
    struct record_writer record = {0};

    if (type != MESSAGE_DRAIN)
        record_put_u64(&record, ticket);
    if (!hub_worker_send(hub, worker, type, &record))
        hub_mourn_worker(hub, worker, "deaf");
}

void hub_worker_skip(struct hub *hub, struct hub_worker *worker, const struct hub_job *job,
                     int32_t image)
{
    for (int i = 0; i < HUB_BATCH_MAX; i++) {
        struct skip_message skip = {.ticket = worker->slots[i].ticket, .image = image};
        struct record_writer record = {0};

        if (worker->slots[i].job != job)
            continue;
        skip_message_write(&record, &skip);
        if (!hub_worker_send(hub, worker, MESSAGE_SKIP, &record))
            hub_mourn_worker(hub, worker, "deaf");
        return;
    }
}

/* --- Places --- */

void hub_worker_share(struct hub_worker *worker, double now)
{
    if (worker->taken > 0)
        worker->share += (now - worker->share_at) / worker->taken;
    worker->share_at = now;
}

struct hub_slot *hub_worker_slot(struct hub_worker *worker, uint64_t ticket)
{
    for (int i = 0; ticket != 0 && i < HUB_BATCH_MAX; i++) {
        if (worker->slots[i].ticket == ticket)
            return &worker->slots[i];
    }
    return NULL;
}

void hub_free_slot(struct hub *hub, struct hub_worker *worker, struct hub_slot *slot)
{
    pthread_mutex_lock(&hub->lock);
    hub_worker_share(worker, seconds_now());
    if (slot->job)
        slot->job->worker = NULL;
    *slot = (struct hub_slot){0};
    worker->taken--;
    pthread_mutex_unlock(&hub->lock);
}

/* --- Previews are made while somebody looks --- */

static void update_watch(struct hub *hub, struct hub_worker *worker, const struct hub_slot *slot)
{
    struct record_writer record = {0};
    bool is_watched = hub_has_watcher(hub, slot->job);

    if (is_watched == slot->job->is_watched)
        return;
    slot->job->is_watched = is_watched;
    record_put_u64(&record, slot->ticket);
    record_put_bool(&record, is_watched);
    if (!hub_worker_send(hub, worker, MESSAGE_WATCH, &record))
        hub_mourn_worker(hub, worker, "deaf");
}

void hub_update_watchers(struct hub *hub)
{
    if (!hub_watchers_changed(hub))
        return;
    for (struct hub_worker *worker = hub->workers; worker; worker = worker->next) {
        for (int i = 0; i < HUB_BATCH_MAX && !worker->is_lost; i++) {
            if (worker->slots[i].job)
                update_watch(hub, worker, &worker->slots[i]);
        }
    }
}

/* --- Hanging --- */

/* How long a worker may go without a beat. A kill that was not called for costs two jobs an attempt
 * each, a late one only time: so what is not measured yet (loading, encoding, decoding, the first
 * step, all of which a CPU may take minutes for) has minutes, and a step has at least ten seconds,
 * eight of the average ones, and as long as everything that runs is expected to take. */
static double patience_of(const struct hub *hub, const struct hub_worker *worker)
{
    double step = 1e-6 * (double)atomic_load(&worker->heartbeat->step_micros);
    double expected = 0;

    for (int i = 0; i < HUB_BATCH_MAX; i++) {
        if (worker->slots[i].job)
            expected += hub->seconds_per_cost * worker->slots[i].job->cost;
    }
    switch ((enum heartbeat_phase)atomic_load(&worker->heartbeat->doing)) {
    case HEARTBEAT_STEP:
        if (step <= 0)
            break;
        return fmax(hub->patience.least, fmax(8 * step, expected));
    case HEARTBEAT_IDLE:
        return fmax(hub->patience.least, expected);
    case HEARTBEAT_LOADING:
    case HEARTBEAT_ENCODE:
    case HEARTBEAT_DECODE:
        break;
    }
    return fmax(hub->patience.unmeasured, expected);
}

void hub_watch_beats(struct hub *hub, double now)
{
    for (struct hub_worker *worker = hub->workers; worker; worker = worker->next) {
        uint64_t beats = atomic_load(&worker->heartbeat->beats);

        if (beats != worker->beats) {
            worker->beats = beats;
            worker->beat_at = now;
        }
        if (worker->is_killed || now - worker->beat_at <= patience_of(hub, worker))
            continue;
        worker->is_killed = true;
        metrics_count(METRIC_FAULTS, fault_names[FAULT_WORKER_HUNG], 1);
        log_event(LOG_ERROR, "worker.hangs", "worker=%u pid=%d silent_seconds=%.1f", worker->index,
                  (int)worker->pid, now - worker->beat_at);
        hub_say(hub, FRONT_KILL_WORKER, worker->index);
    }
}

/* --- Going --- */

/* A job whose worker was killed for want of memory has one more try, in as little as can be. */
static void return_job(struct hub *hub, const struct hub_worker *worker, struct hub_job *job)
{
    char *text = NULL;

    if (worker->end != WORKER_OUT_OF_MEMORY || job->attempts < STORE_ATTEMPTS_MAX) {
        job->was_too_large = worker->end == WORKER_OUT_OF_MEMORY;
        hub_owe(hub, job, OWED_REQUEUE, NULL);
        return;
    }
    if (asprintf(&text,
                 "the process that draws needed more memory than it may have: the limit of the "
                 "server is %llu MiB",
                 (unsigned long long)(worker->memory_limit >> 20)) < 0)
        text = NULL;
    hub_owe_failure(hub, job, FAULT_OUT_OF_MEMORY, text);
}

static void return_jobs(struct hub *hub, struct hub_worker *worker)
{
    for (int i = 0; i < HUB_BATCH_MAX; i++) {
        struct hub_job *job = worker->slots[i].job;

        if (worker->slots[i].ticket == 0)
            continue;
        hub_free_slot(hub, worker, &worker->slots[i]);
        if (job && job->owed == OWED_NOTHING)
            return_job(hub, worker, job);
    }
}

static void part_with(struct hub *hub, struct hub_worker *worker)
{
    bool is_orderly = hub->is_draining && worker->taken == 0;

    hub_questions_give_up(hub, worker, seconds_now());
    pthread_mutex_lock(&hub->lock);
    for (struct hub_worker **at = &hub->workers; *at; at = &(*at)->next) {
        if (*at == worker) {
            *at = worker->next;
            break;
        }
    }
    pthread_mutex_unlock(&hub->lock);
    if (!is_orderly)
        metrics_count(METRIC_FAULTS, fault_names[FAULT_WORKER_LOST], 1);
    return_jobs(hub, worker);
    worker_destroy(worker);
    hub_publish(hub, EVENT_WORKER, NULL, 0);
}

void hub_reap_workers(struct hub *hub)
{
    double now = seconds_now();

    for (struct hub_worker *worker = hub->workers, *next; worker; worker = next) {
        next = worker->next;
        if (worker->is_lost && (worker->lost_at <= 0 || now - worker->lost_at >= FAREWELL_SECONDS))
            part_with(hub, worker);
    }
}

void hub_workers_destroy(struct hub *hub)
{
    while (hub->workers) {
        struct hub_worker *worker = hub->workers;

        hub->workers = worker->next;
        worker_destroy(worker);
    }
}
