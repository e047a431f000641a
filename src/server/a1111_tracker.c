#include "server/a1111_tracker.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/picture_text.h"

#define WATCHES_MAX 32
#define TASK_BYTES 128

/* Somebody asked for a job's previews. */
struct watch {
    struct hub *hub;
    struct hub_subscription *subscription;
    char job[JOB_ID_BYTES], owner[STORE_OWNER_BYTES];
    uint64_t used; /* under the tracker's watching */
    pthread_mutex_t lock;
    unsigned char *bytes; /* under lock; NULL: none yet */
    size_t size;          /* under lock */
    int number;           /* under lock */
};

struct task {
    char name[TASK_BYTES], owner[STORE_OWNER_BYTES], job[JOB_ID_BYTES];
};

struct a1111_tracker {
    struct hub *hub;
    struct hub_subscription *subscription;
    pthread_mutex_t lock;
    struct a1111_job *jobs;             /* under lock: that have not ended */
    size_t job_count, job_room;         /* under lock */
    struct task *tasks;                 /* under lock: [A1111_TASKS_KEPT] */
    size_t next_task;                   /* under lock */
    pthread_mutex_t watching;           /* one request at a time; never taken on the hub's thread */
    struct watch *watches[WATCHES_MAX]; /* under watching */
    uint64_t uses;                      /* under watching */
};

/* --- Following --- */

static struct a1111_job *find_locked(struct a1111_tracker *tracker, const char *id)
{
    for (size_t i = 0; i < tracker->job_count; i++)
        if (strcmp(tracker->jobs[i].id, id) == 0)
            return &tracker->jobs[i];
    return NULL;
}

/* A new one at the end; NULL: memory is short, and the job is shown from a later event on. */
static struct a1111_job *add_locked(struct a1111_tracker *tracker)
{
    if (tracker->job_count == tracker->job_room) {
        size_t room = tracker->job_room ? 2 * tracker->job_room : 16;
        struct a1111_job *jobs = reallocarray(tracker->jobs, room, sizeof *jobs);

        if (!jobs)
            return NULL;
        tracker->jobs = jobs;
        tracker->job_room = room;
    }
    return &tracker->jobs[tracker->job_count++];
}

static void note_locked(struct a1111_tracker *tracker, const struct job_view *view)
{
    struct a1111_job *job = find_locked(tracker, view->id);

    if (view->state != JOB_QUEUED && view->state != JOB_RUNNING) {
        if (job)
            *job = tracker->jobs[--tracker->job_count];
        return;
    }
    if (!job)
        job = add_locked(tracker);
    if (!job)
        return;
    *job = (struct a1111_job){
        .is_running = view->state == JOB_RUNNING,
        .sequence = view->sequence,
        .created_ms = view->created_ms,
        .started_ms = view->started_ms,
        .step = view->step,
        .step_count = view->step_count,
        .position = view->position,
        .seconds_left = view->seconds_left,
    };
    snprintf(job->id, sizeof job->id, "%s", view->id);
    snprintf(job->owner, sizeof job->owner, "%s", view->owner);
}

static void tell(void *context, const struct hub_event *event)
{
    struct a1111_tracker *tracker = context;

    if (!event->job)
        return;
    pthread_mutex_lock(&tracker->lock);
    note_locked(tracker, event->job);
    pthread_mutex_unlock(&tracker->lock);
}

bool a1111_tracker_create(struct a1111_tracker **out, struct hub *hub, struct error *err)
{
    const struct hub_interest everything = {0};
    struct a1111_tracker *tracker = calloc(1, sizeof *tracker);

    if (!tracker)
        return error_set(err, ERROR_NO_MEMORY, "tracker of jobs");
    tracker->hub = hub;
    pthread_mutex_init(&tracker->lock, NULL);
    pthread_mutex_init(&tracker->watching, NULL);
    tracker->tasks = calloc(A1111_TASKS_KEPT, sizeof *tracker->tasks);
    if (!tracker->tasks) {
        error_set(err, ERROR_NO_MEMORY, "tracker of jobs");
        goto fail;
    }
    if (!hub_subscribe(hub, &tracker->subscription, &everything, tell, tracker, err))
        goto fail;
    *out = tracker;
    return true;

fail:
    a1111_tracker_destroy(tracker);
    return error_in(err, "tracker of jobs");
}

/* --- Asking --- */

/* Running ones first, then by age. */
static bool is_before(const struct a1111_job *a, const struct a1111_job *b)
{
    if (a->is_running != b->is_running)
        return a->is_running;
    return a->sequence < b->sequence;
}

bool a1111_tracker_current(struct a1111_tracker *tracker, const char *owner, struct a1111_job *out)
{
    const struct a1111_job *best = NULL;

    pthread_mutex_lock(&tracker->lock);
    for (size_t i = 0; i < tracker->job_count; i++)
        if (strcmp(tracker->jobs[i].owner, owner) == 0 &&
            (!best || is_before(&tracker->jobs[i], best)))
            best = &tracker->jobs[i];
    if (best)
        *out = *best;
    pthread_mutex_unlock(&tracker->lock);
    return best != NULL;
}

bool a1111_tracker_find(struct a1111_tracker *tracker, const char *owner, const char *id,
                        struct a1111_job *out)
{
    const struct a1111_job *job;

    pthread_mutex_lock(&tracker->lock);
    job = find_locked(tracker, id);
    if (job && strcmp(job->owner, owner) != 0)
        job = NULL;
    if (job)
        *out = *job;
    pthread_mutex_unlock(&tracker->lock);
    return job != NULL;
}

json_t *a1111_tracker_waiting(struct a1111_tracker *tracker, const char *owner)
{
    json_t *array = json_array();

    pthread_mutex_lock(&tracker->lock);
    for (size_t i = 0; array && i < tracker->job_count; i++)
        if (!tracker->jobs[i].is_running && strcmp(tracker->jobs[i].owner, owner) == 0)
            json_array_append_new(array, json_sprintf("task(%s)", tracker->jobs[i].id));
    pthread_mutex_unlock(&tracker->lock);
    return array;
}

void a1111_tracker_name_task(struct a1111_tracker *tracker, const char *owner, const char *task,
                             const char *id)
{
    struct task *to;

    pthread_mutex_lock(&tracker->lock);
    to = &tracker->tasks[tracker->next_task++ % A1111_TASKS_KEPT];
    snprintf(to->name, sizeof to->name, "%s", task);
    snprintf(to->owner, sizeof to->owner, "%s", owner);
    snprintf(to->job, sizeof to->job, "%s", id);
    pthread_mutex_unlock(&tracker->lock);
}

bool a1111_tracker_task(struct a1111_tracker *tracker, const char *owner, const char *task,
                        char id[JOB_ID_BYTES])
{
    bool found = false;

    pthread_mutex_lock(&tracker->lock);
    for (size_t back = 1; *task && !found && back <= A1111_TASKS_KEPT; back++) {
        size_t at = (tracker->next_task + A1111_TASKS_KEPT - back) % A1111_TASKS_KEPT;

        found = strcmp(tracker->tasks[at].name, task) == 0 &&
                strcmp(tracker->tasks[at].owner, owner) == 0;
        if (found)
            snprintf(id, JOB_ID_BYTES, "%s", tracker->tasks[at].job);
    }
    pthread_mutex_unlock(&tracker->lock);
    return found;
}

/* --- Previews --- */

static void keep_preview(void *context, const struct hub_event *event)
{
    struct watch *watch = context;
    unsigned char *bytes;

    if (event->type != EVENT_JOB_PREVIEW || event->size == 0)
        return;
    bytes = malloc(event->size);
    if (!bytes)
        return;
    memcpy(bytes, event->bytes, event->size);
    pthread_mutex_lock(&watch->lock);
    free(watch->bytes);
    watch->bytes = bytes;
    watch->size = event->size;
    watch->number++;
    pthread_mutex_unlock(&watch->lock);
}

static void watch_destroy(struct watch *watch)
{
    if (!watch)
        return;
    if (watch->subscription)
        hub_unsubscribe(watch->hub, watch->subscription);
    pthread_mutex_destroy(&watch->lock);
    free(watch->bytes);
    free(watch);
}

/* NULL: the hub does not take it, or memory is short. */
static struct watch *watch_create(struct hub *hub, const char *owner, const char *id)
{
    struct watch *watch = calloc(1, sizeof *watch);
    struct hub_interest interest = {.wants_previews = true};

    if (!watch)
        return NULL;
    watch->hub = hub;
    pthread_mutex_init(&watch->lock, NULL);
    snprintf(watch->job, sizeof watch->job, "%s", id);
    snprintf(watch->owner, sizeof watch->owner, "%s", owner);
    interest.job = watch->job;
    interest.owner = watch->owner;
    if (hub_subscribe(hub, &watch->subscription, &interest, keep_preview, watch, NULL))
        return watch;
    watch_destroy(watch);
    return NULL;
}

/* The owner's watch of this job, which takes the place of their earlier one, of an empty place, or
 * of the one that was not used for longest. */
static struct watch *watch_for(struct a1111_tracker *tracker, const char *owner, const char *id)
{
    struct watch **place = &tracker->watches[0];

    for (size_t i = 0; i < WATCHES_MAX; i++) {
        struct watch **at = &tracker->watches[i];

        if (*at && strcmp((*at)->owner, owner) == 0) {
            place = at;
            break;
        }
        if (*place && (!*at || (*at)->used < (*place)->used))
            place = at;
    }
    if (!*place || strcmp((*place)->owner, owner) != 0 || strcmp((*place)->job, id) != 0) {
        watch_destroy(*place);
        *place = watch_create(tracker->hub, owner, id);
    }
    if (*place)
        (*place)->used = ++tracker->uses;
    return *place;
}

json_t *a1111_tracker_preview(struct a1111_tracker *tracker, const char *owner, const char *id,
                              int *number)
{
    struct watch *watch;
    json_t *text = NULL;

    *number = 0;
    pthread_mutex_lock(&tracker->watching);
    watch = watch_for(tracker, owner, id);
    if (watch) {
        pthread_mutex_lock(&watch->lock);
        if (watch->bytes)
            text = picture_text_json(watch->bytes, watch->size);
        *number = watch->number;
        pthread_mutex_unlock(&watch->lock);
    }
    pthread_mutex_unlock(&tracker->watching);
    return text;
}

void a1111_tracker_destroy(struct a1111_tracker *tracker)
{
    if (!tracker)
        return;
    for (size_t i = 0; i < WATCHES_MAX; i++)
        watch_destroy(tracker->watches[i]);
    if (tracker->subscription)
        hub_unsubscribe(tracker->hub, tracker->subscription);
    free(tracker->tasks);
    free(tracker->jobs);
    pthread_mutex_destroy(&tracker->watching);
    pthread_mutex_destroy(&tracker->lock);
    free(tracker);
}
