/* What workers say. A ticket whose job was cancelled, or ended otherwise, still holds its place but
 * is not listened to. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/kill_point.h"
#include "base/size.h"
#include "server/hub_private.h"
#include "server/log.h"
#include "server/metrics.h"

/* Of a picture with its thumbnail: an uncompressed one of the largest size has 48 MiB. */
#define PICTURE_BYTES_MAX ((size_t)96 << 20)
#define PREVIEW_BYTES_MAX ((size_t)4 << 20)
/* Weight of the latest job in seconds_per_cost. */
#define LATEST_WEIGHT 0.2

/* --- The worker itself --- */

static bool take_loading(struct hub *hub, struct hub_worker *worker, struct record_reader reader)
{
    struct loading_message loading;

    if (!loading_message_read(&loading, reader))
        return false;
    pthread_mutex_lock(&hub->lock);
    worker->loading = loading;
    pthread_mutex_unlock(&hub->lock);
    hub_publish(hub, EVENT_WORKER, NULL, 0);
    return true;
}

static bool take_ready(struct hub *hub, struct hub_worker *worker, struct record_reader reader)
{
    struct worker_facts facts;

    if (!worker_facts_read(&facts, reader))
        return false;
    pthread_mutex_lock(&hub->lock);
    memcpy(facts.model_hash, hub->model_hash, sizeof facts.model_hash);
    worker->facts = hub->facts = facts;
    worker->is_ready = hub->has_facts = true;
    pthread_mutex_unlock(&hub->lock);
    log_event(LOG_INFO, "worker.ready", "worker=%u seconds=%.2f model=%s device=\"%s\"",
              worker->index, seconds_now() - worker->born_at, facts.model, facts.device);
    hub_publish(hub, EVENT_WORKER, NULL, 0);
    return true;
}

static bool take_device(struct hub *hub, struct hub_worker *worker, struct record_reader reader)
{
    struct device_message device;

    if (!device_message_read(&device, reader))
        return false;
    pthread_mutex_lock(&hub->lock);
    worker->device = device;
    worker->has_device = true;
    pthread_mutex_unlock(&hub->lock);
    return true;
}

/* --- Progress --- */

static const char *const phase_points[] = {
    [JOB_PHASE_WAIT] = "front.wait",       [JOB_PHASE_ENCODE] = "front.encode",
    [JOB_PHASE_DENOISE] = "front.denoise", [JOB_PHASE_DECODE] = "front.decode",
    [JOB_PHASE_SAVE] = "front.save",
};

static bool take_progress(struct hub *hub, struct hub_worker *worker, struct record_reader reader)
{
    struct progress_message progress;
    struct hub_slot *slot;
    struct hub_job *job;
    int32_t steps;

    if (!progress_message_read(&progress, reader))
        return false;
    slot = hub_worker_slot(worker, progress.ticket);
    job = slot ? slot->job : NULL;
    if (!job)
        return true;
    kill_point(phase_points[progress.phase]);
    steps = progress.step - job->step;
    pthread_mutex_lock(&hub->lock);
    job->phase = progress.phase;
    job->step = progress.step;
    job->step_count = progress.step_count;
    pthread_mutex_unlock(&hub->lock);
    if (steps > 0)
        metrics_count(METRIC_STEPS, "", steps);
    if (steps > 0 && progress.step_seconds > 0) {
        metrics_observe(METRIC_STEP_SECONDS, progress.step_seconds);
        metrics_observe(METRIC_BATCH_SIZE, progress.batch_size);
    }
    hub_publish(hub, EVENT_JOB_PROGRESS, job, 0);
    return true;
}

/* --- Bytes from a memfd --- */

/* Copies `size` bytes; never mapped, as a file that shrinks under a map kills. */
static unsigned char *read_bytes(int fd, size_t size)
{
    unsigned char *bytes = malloc(size);
    size_t done = 0;

    while (bytes && done < size) {
        ssize_t count = pread(fd, bytes + done, size - done, (off_t)done);

        if (count <= 0) {
            free(bytes);
            return NULL;
        }
        done += (size_t)count;
    }
    return bytes;
}

static bool size_of(int fd, size_t max, size_t *size)
{
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0 || status.st_size <= 0 || (size_t)status.st_size > max)
        return false;
    *size = (size_t)status.st_size;
    return true;
}

static bool take_preview(struct hub *hub, struct hub_worker *worker, struct record_reader reader,
                         int fd)
{
    struct preview_message preview;
    const struct hub_slot *slot;
    unsigned char *bytes;
    size_t size;

    if (!preview_message_read(&preview, reader) || !size_of(fd, PREVIEW_BYTES_MAX, &size))
        return false;
    slot = hub_worker_slot(worker, preview.ticket);
    if (!slot || !slot->job)
        return true;
    bytes = read_bytes(fd, size);
    if (bytes) /* memory is short otherwise: one preview less */
        hub_publish_preview(hub, slot->job, bytes, size, preview.image, preview.step);
    free(bytes);
    return true;
}

/* --- Pictures --- */

static bool check_picture(const struct picture_message *picture, int fd, size_t *size)
{
    size_t sum;

    if (picture->image < 0 || picture->image >= STORE_PICTURES_MAX || picture->width <= 0 ||
        picture->height <= 0 || picture->file_bytes == 0)
        return false;
    if (picture->file_bytes > PICTURE_BYTES_MAX || picture->thumbnail_bytes > PICTURE_BYTES_MAX ||
        !size_add(&sum, (size_t)picture->file_bytes, (size_t)picture->thumbnail_bytes))
        return false;
    return size_of(fd, PICTURE_BYTES_MAX, size) && *size == sum;
}

static bool take_picture(struct hub *hub, struct hub_worker *worker, struct record_reader reader,
                         int fd)
{
    struct picture_message picture;
    const struct hub_slot *slot;
    unsigned char *bytes;
    size_t size;

    if (!picture_message_read(&picture, reader) || !check_picture(&picture, fd, &size))
        return false;
    slot = hub_worker_slot(worker, picture.ticket);
    if (!slot || !slot->job)
        return true;
    slot->job->drawing[picture.image] = PICTURE_HAS_COME; /* also if its skip crossed it */
    bytes = read_bytes(fd, size);
    if (bytes)
        hub_keep_picture(hub, slot->job, &picture, bytes, size);
    else
        hub_give_up(hub, slot->job, FAULT_NO_MEMORY, "the server was short of memory");
    return true;
}

/* --- Ends --- */

/* NULL when memory is short: the result is then left out. */
static char *result_text(const struct done_message *done)
{
    json_t *object =
        json_pack("{s:f, s:f, s:f, s:f, s:i, s:i, s:b, s:b, s:i}", "encode_seconds",
                  done->encode_seconds, "denoise_seconds", done->denoise_seconds, "decode_seconds",
                  done->decode_seconds, "total_seconds", done->total_seconds, "clip_tokens_cut",
                  (int)done->clip_tokens_cut, "t5_tokens_cut", (int)done->t5_tokens_cut,
                  "was_short_of_memory", (int)done->was_short_of_memory, "was_repeated",
                  (int)done->was_repeated, "pictures_skipped", (int)done->pictures_skipped);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

    json_decref(object);
    return text;
}

/* The share of the worker's time that the job had, for each unit of its cost. */
static void measure(struct hub *hub, struct hub_worker *worker, const struct hub_job *job)
{
    double latest;

    pthread_mutex_lock(&hub->lock);
    hub_worker_share(worker, seconds_now());
    latest = (worker->share - job->share_started) / job->cost;
    if (hub->seconds_per_cost <= 0)
        hub->seconds_per_cost = latest;
    else
        hub->seconds_per_cost += LATEST_WEIGHT * (latest - hub->seconds_per_cost);
    pthread_mutex_unlock(&hub->lock);
}

static bool take_done(struct hub *hub, struct hub_worker *worker, struct record_reader reader)
{
    struct done_message done;
    struct hub_slot *slot;
    struct hub_job *job;
    char *result;

    if (!done_message_read(&done, reader))
        return false;
    slot = hub_worker_slot(worker, done.ticket);
    if (!slot)
        return true;
    job = slot->job;
    if (job && done.pictures_skipped == 0) /* those took some of its time */
        measure(hub, worker, job);
    hub_free_slot(hub, worker, slot);
    if (!job)
        return true;
    metrics_observe(METRIC_ENCODE_SECONDS, done.encode_seconds);
    metrics_observe(METRIC_DENOISE_SECONDS, done.denoise_seconds);
    metrics_observe(METRIC_DECODE_SECONDS, done.decode_seconds);
    result = result_text(&done);
    if (!result && done.pictures_skipped > 0) /* nothing would say why there are so few */
        hub_owe_failure(hub, job, FAULT_NO_MEMORY, NULL);
    else
        hub_owe(hub, job, OWED_FINISH, result);
    return true;
}

static enum fault fault_of(enum job_failure failure)
{
    switch (failure) {
    case JOB_FAILURE_BAD_REQUEST:
        return FAULT_BAD_REQUEST;
    case JOB_FAILURE_NO_MEMORY:
        return FAULT_OUT_OF_MEMORY;
    case JOB_FAILURE_NUMERIC:
        return FAULT_NUMERIC;
    case JOB_FAILURE_BACKEND:
        return FAULT_BACKEND;
    case JOB_FAILURE_CANCELLED: /* none: see below */
    case JOB_FAILURE_INTERNAL:
        break;
    }
    return FAULT_INTERNAL;
}

static bool take_failed(struct hub *hub, struct hub_worker *worker, struct record_reader reader)
{
    struct failed_message failed;
    struct hub_slot *slot;
    struct hub_job *job;

    if (!failed_message_read(&failed, reader))
        return false;
    slot = hub_worker_slot(worker, failed.ticket);
    if (!slot)
        return true;
    job = slot->job;
    hub_free_slot(hub, worker, slot);
    if (job && failed.failure == JOB_FAILURE_CANCELLED) /* without us: all of it was skipped */
        hub_owe(hub, job, OWED_CANCEL, NULL);
    else if (job)
        hub_owe_failure(hub, job, fault_of(failed.failure), strdup(failed.message));
    return true;
}

static bool take_estimated(struct hub *hub, struct record_reader reader)
{
    struct estimated_message estimated;

    if (!estimated_message_read(&estimated, reader))
        return false;
    hub_estimate_answer(hub, &estimated);
    return true;
}

static bool take_upscaled(struct hub *hub, struct record_reader reader, int fd)
{
    struct upscaled_message upscaled;
    unsigned char *bytes = NULL;
    size_t size;

    if (!upscaled_message_read(&upscaled, reader))
        return false;
    if (upscaled.file_bytes > 0) {
        if (!size_of(fd, PICTURE_BYTES_MAX, &size) || size != upscaled.file_bytes)
            return false;
        bytes = read_bytes(fd, size); /* NULL: memory is short */
    }
    hub_upscale_answer(hub, &upscaled, bytes);
    return true;
}

bool hub_take_message(struct hub *hub, struct hub_worker *worker, uint32_t type,
                      struct record_reader reader, int fd)
{
    switch (type) {
    case MESSAGE_LOADING:
        return take_loading(hub, worker, reader);
    case MESSAGE_READY:
        return take_ready(hub, worker, reader);
    case MESSAGE_PROGRESS:
        return take_progress(hub, worker, reader);
    case MESSAGE_PREVIEW:
        return take_preview(hub, worker, reader, fd);
    case MESSAGE_PICTURE:
        return take_picture(hub, worker, reader, fd);
    case MESSAGE_DONE:
        return take_done(hub, worker, reader);
    case MESSAGE_FAILED:
        return take_failed(hub, worker, reader);
    case MESSAGE_ESTIMATED:
        return take_estimated(hub, reader);
    case MESSAGE_UPSCALED:
        return take_upscaled(hub, reader, fd);
    case MESSAGE_DEVICE:
        return take_device(hub, worker, reader);
    default:
        return false;
    }
}
