/* Pictures on their way into the store. One that cannot be written is held in memory and tried
 * again, with a growing pause; meanwhile nothing is accepted and nothing more is drawn. The disk is
 * one for all, so that the oldest picture speaks for the others. A job whose picture could not be
 * stored in time fails as "storage".
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/hub_private.h"
#include "server/log.h"
#include "server/metrics.h"

#define FIRST_PAUSE_SECONDS 0.25

struct held_picture {
    struct held_picture *next;
    struct hub_job *job; /* that is running */
    struct picture_message picture;
    unsigned char *bytes;
    size_t size;
    double until; /* of seconds_now() */
};

/* --- One picture --- */

static bool keep_picture(struct hub *hub, struct hub_job *job,
                         const struct picture_message *picture, const unsigned char *bytes,
                         bool *kept, struct error *err)
{
    struct store_new_picture new_picture = {
        .index = picture->image,
        .width = picture->width,
        .height = picture->height,
        .seed = picture->seed,
        .format = image_format_name(picture->format),
        .file = {bytes, (size_t)picture->file_bytes},
        .thumbnail = {bytes + picture->file_bytes, (size_t)picture->thumbnail_bytes},
    };
    struct store_job row;
    bool found = false, is_set;

    if (picture->thumbnail_bytes == 0)
        new_picture.thumbnail.bytes = NULL;
    if (!store_add_picture(hub->store, job->id, job->fence, &new_picture, kept, err))
        return false;
    if (!*kept)
        return true;
    if (!store_get(hub->store, job->id, NULL, &row, &found, err))
        return false;
    is_set = found && hub_job_set_pictures(hub, job, &row);
    if (found)
        store_job_finish(&row);
    return is_set || error_set(err, ERROR_NO_MEMORY, "a job's pictures");
}

enum outcome { IS_STORED, JOB_HAS_FAILED, TRY_LATER };

static enum outcome store_picture_of(struct hub *hub, struct hub_job *job,
                                     const struct picture_message *picture,
                                     const unsigned char *bytes)
{
    double start = seconds_now();
    struct error err;
    bool kept = false;

    if (!hub_note_store(hub, keep_picture(hub, job, picture, bytes, &kept, &err), &err)) {
        if (err.code == ERROR_IO || err.code == ERROR_NO_MEMORY)
            return TRY_LATER;
        hub_give_up(hub, job, FAULT_STORAGE, "the picture could not be stored");
        return JOB_HAS_FAILED;
    }
    metrics_observe(METRIC_STORE_SECONDS, seconds_now() - start);
    if (!kept) {
        hub_give_up(hub, job, FAULT_LOST, "somebody else took the job over");
        return JOB_HAS_FAILED;
    }
    metrics_count(METRIC_PICTURES, "", 1);
    hub_publish(hub, EVENT_PICTURE, job, picture->image);
    return IS_STORED;
}

/* --- Those that wait --- */

static void count_held(struct hub *hub, int more)
{
    pthread_mutex_lock(&hub->lock);
    hub->held.count += more;
    pthread_mutex_unlock(&hub->lock);
}

static void drop(struct hub *hub, struct held_picture **at)
{
    struct held_picture *held = *at;

    *at = held->next;
    hub->held.bytes -= held->size;
    count_held(hub, -1);
    free(held->bytes);
    free(held);
}

/* Takes the bytes when it returns true. */
static bool hold(struct hub *hub, struct hub_job *job, const struct picture_message *picture,
                 unsigned char *bytes, size_t size)
{
    struct held_picture **end = &hub->held.first;
    struct held_picture *held;
    double now = seconds_now();

    if (size > hub->held.bytes_max - hub->held.bytes)
        return false;
    held = malloc(sizeof *held);
    if (!held)
        return false;
    *held = (struct held_picture){.job = job,
                                  .picture = *picture,
                                  .bytes = bytes,
                                  .size = size,
                                  .until = now + hub->held.seconds_max};
    if (!hub->held.first) {
        hub->held.pause = FIRST_PAUSE_SECONDS;
        hub->held.next_try = now + hub->held.pause;
    }
    while (*end)
        end = &(*end)->next;
    *end = held;
    hub->held.bytes += size;
    count_held(hub, 1);
    log_event(LOG_WARNING, "picture.held", "job=%s picture=%d bytes=%zu held=%d", job->id,
              (int)picture->image, size, hub->held.count);
    return true;
}

void hub_keep_picture(struct hub *hub, struct hub_job *job, const struct picture_message *picture,
                      unsigned char *bytes, size_t size)
{
    if (!hub->held.first && store_picture_of(hub, job, picture, bytes) != TRY_LATER) {
        free(bytes);
    } else if (!hold(hub, job, picture, bytes, size)) {
        hub_give_up(hub, job, FAULT_STORAGE,
                    "the picture could not be stored, and no more can be held");
        free(bytes);
    }
}

bool hub_job_is_held(const struct hub *hub, const struct hub_job *job)
{
    const struct held_picture *held = hub->held.first;

    while (held && held->job != job)
        held = held->next;
    return held != NULL;
}

void hub_drop_held(struct hub *hub, const struct hub_job *job)
{
    for (struct held_picture **at = &hub->held.first; *at;) {
        if (!job || (*at)->job == job)
            drop(hub, at);
        else
            at = &(*at)->next;
    }
}

static void give_up_late(struct hub *hub, double now)
{
    while (hub->held.first && now >= hub->held.first->until)
        hub_give_up(hub, hub->held.first->job, FAULT_STORAGE,
                    "the picture could not be stored in time");
}

/* The first of them is stored: the end of its job may have waited for that. */
static void let_go(struct hub *hub)
{
    struct hub_job *job = hub->held.first->job;

    log_event(LOG_INFO, "picture.stored", "job=%s held=%d", job->id, hub->held.count - 1);
    drop(hub, &hub->held.first);
    if (!hub_job_is_held(hub, job))
        hub_settle(hub, job);
}

void hub_retry_held(struct hub *hub, double now)
{
    enum outcome outcome = IS_STORED;

    if (now < hub_held_next(hub))
        return;
    while (hub->held.first && outcome != TRY_LATER) {
        struct held_picture *held = hub->held.first;

        outcome = store_picture_of(hub, held->job, &held->picture, held->bytes);
        if (outcome == IS_STORED) /* a job that has failed dropped its pictures itself */
            let_go(hub);
    }
    give_up_late(hub, now);
    hub->held.pause = fmin(HELD_PAUSE_SECONDS_MAX, 2 * hub->held.pause);
    hub->held.next_try = seconds_now() + hub->held.pause;
}

double hub_held_next(const struct hub *hub)
{
    if (!hub->held.first)
        return INFINITY;
    return fmin(hub->held.next_try, hub->held.first->until);
}
