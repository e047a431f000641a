/* The hub's table of jobs: those that wait and run, and the latest of those that ended. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/hub_private.h"

static struct hub_job **bucket_of(struct hub *hub, const char *id)
{
    uint32_t hash = 2166136261u;

    for (const char *at = id; *at; at++)
        hash = (hash ^ (unsigned char)*at) * 16777619u;
    return &hub->buckets[hash % HUB_BUCKETS];
}

static bool copy_text(char **out, const char *text)
{
    if (!text)
        return true;
    *out = strdup(text);
    return *out != NULL;
}

static double expiry_of(const struct store_job *row)
{
    if (row->deadline_ms == 0)
        return 0;
    return seconds_now() + 1e-3 * (double)(row->deadline_ms - hub_wall_ms());
}

static bool copy_pictures(struct store_picture **out, const struct store_job *row)
{
    size_t count = row->picture_count > 0 ? (size_t)row->picture_count : 0;

    *out = NULL;
    if (count == 0)
        return true;
    *out = calloc(count, sizeof **out);
    if (!*out)
        return false;
    memcpy(*out, row->pictures, count * sizeof **out);
    return true;
}

struct hub_job *hub_job_create(const struct store_job *row)
{
    struct hub_job *job = calloc(1, sizeof *job);

    if (!job)
        return NULL;
    memcpy(job->id, row->id, sizeof job->id);
    memcpy(job->owner_name, row->owner, sizeof job->owner_name);
    memcpy(job->api, row->api, sizeof job->api);
    memcpy(job->error_code, row->error_code, sizeof job->error_code);
    job->state = row->state;
    job->attempts = row->attempts;
    job->fence = row->state == JOB_RUNNING ? row->fence : -1;
    job->sequence = row->sequence;
    job->created_ms = row->created_ms;
    job->started_ms = row->started_ms;
    job->finished_ms = row->finished_ms;
    job->cost = row->cost > 0 ? row->cost : 1e-6;
    job->expires = expiry_of(row);
    job->queued_at = seconds_now();
    job->picture_count = row->picture_count;
    if (copy_text(&job->parameters, row->parameters) && copy_text(&job->result, row->result) &&
        copy_text(&job->error_message, row->error_message) && copy_pictures(&job->pictures, row))
        return job;
    hub_job_destroy(job);
    return NULL;
}

void hub_job_destroy(struct hub_job *job)
{
    if (!job)
        return;
    free(job->error_message);
    free(job->parameters);
    free(job->result);
    free(job->pictures);
    free(job->owed_text);
    free(job);
}

struct hub_job *hub_job_find_locked(struct hub *hub, const char *id, const char *owner)
{
    for (struct hub_job *job = *bucket_of(hub, id); job; job = job->next_in_bucket) {
        if (strcmp(job->id, id) == 0)
            return !owner || strcmp(job->owner_name, owner) == 0 ? job : NULL;
    }
    return NULL;
}

void hub_job_add_locked(struct hub *hub, struct hub_job *job)
{
    struct hub_job **bucket = bucket_of(hub, job->id);

    job->next_in_bucket = *bucket;
    *bucket = job;
}

static void unlink_from_bucket(struct hub *hub, struct hub_job *job)
{
    struct hub_job **at = bucket_of(hub, job->id);

    while (*at && *at != job)
        at = &(*at)->next_in_bucket;
    if (*at)
        *at = job->next_in_bucket;
}

static void unlink_from_recent(struct hub *hub, struct hub_job *job)
{
    *(job->previous ? &job->previous->next : &hub->recent_first) = job->next;
    *(job->next ? &job->next->previous : &hub->recent_last) = job->previous;
    job->next = job->previous = NULL;
    hub->recent_count--;
}

void hub_job_forget_locked(struct hub *hub, struct hub_job *job)
{
    unlink_from_recent(hub, job);
    unlink_from_bucket(hub, job);
    hub_job_destroy(job);
}

void hub_job_retire_locked(struct hub *hub, struct hub_job *job)
{
    job->owner = NULL;
    job->next = NULL;
    job->previous = hub->recent_last;
    *(hub->recent_last ? &hub->recent_last->next : &hub->recent_first) = job;
    hub->recent_last = job;
    hub->recent_count++;
    if (hub->recent_count > RECENT_JOBS_KEPT)
        hub_job_forget_locked(hub, hub->recent_first);
}

bool hub_job_set_pictures(struct hub *hub, struct hub_job *job, const struct store_job *row)
{
    struct store_picture *pictures, *old;

    if (!copy_pictures(&pictures, row))
        return false;
    pthread_mutex_lock(&hub->lock);
    old = job->pictures;
    job->pictures = pictures;
    job->picture_count = row->picture_count;
    pthread_mutex_unlock(&hub->lock);
    free(old);
    return true;
}

void hub_jobs_destroy(struct hub *hub)
{
    for (int b = 0; b < HUB_BUCKETS; b++) {
        while (hub->buckets[b]) {
            struct hub_job *job = hub->buckets[b];

            hub->buckets[b] = job->next_in_bucket;
            hub_job_destroy(job);
        }
    }
}

/* --- Views --- */

void hub_view_locked(const struct hub *hub, const struct hub_job *job, struct job_view *out)
{
    memset(out, 0, offsetof(struct job_view, pictures));
    memcpy(out->id, job->id, sizeof out->id);
    memcpy(out->owner, job->owner_name, sizeof out->owner);
    memcpy(out->api, job->api, sizeof out->api);
    memcpy(out->error_code, job->error_code, sizeof out->error_code);
    out->state = job->state;
    out->phase = job->phase;
    out->step = job->step;
    out->step_count = job->step_count;
    out->wait_seconds = out->seconds_left = -1;
    out->attempts = job->attempts;
    out->sequence = job->sequence;
    out->created_ms = job->created_ms;
    out->started_ms = job->started_ms;
    out->finished_ms = job->finished_ms;
    out->error_message = job->error_message;
    out->picture_count = job->picture_count;
    if (job->picture_count > 0)
        memcpy(out->pictures, job->pictures, (size_t)job->picture_count * sizeof *job->pictures);
    if (job->state == JOB_QUEUED) {
        out->position = hub_queue_place(&hub->queue, job).position;
        out->wait_seconds = hub_wait_seconds(hub, job);
    }
    if (job->state == JOB_QUEUED || job->state == JOB_RUNNING)
        out->seconds_left = hub_seconds_left(hub, job);
}

void hub_view_whole_locked(const struct hub *hub, const struct hub_job *job, struct job_view *out,
                           struct hub_view_texts *texts)
{
    hub_view_locked(hub, job, out);
    out->error_message = job->error_message ? strdup(job->error_message) : NULL;
    texts->parameters = job->parameters ? strdup(job->parameters) : NULL;
    texts->result = job->result ? strdup(job->result) : NULL;
}

void hub_view_parse(struct job_view *out, struct hub_view_texts *texts)
{
    out->parameters = texts->parameters ? json_loads(texts->parameters, 0, NULL) : NULL;
    out->result = texts->result ? json_loads(texts->result, 0, NULL) : NULL;
    free(texts->parameters);
    free(texts->result);
    *texts = (struct hub_view_texts){0};
}

void hub_view_row(const struct store_job *row, struct job_view *out, struct hub_view_texts *texts)
{
    size_t pictures = row->picture_count > 0 ? (size_t)row->picture_count : 0;

    memset(out, 0, offsetof(struct job_view, pictures));
    memcpy(out->id, row->id, sizeof out->id);
    memcpy(out->owner, row->owner, sizeof out->owner);
    memcpy(out->api, row->api, sizeof out->api);
    memcpy(out->error_code, row->error_code, sizeof out->error_code);
    out->state = row->state;
    out->wait_seconds = out->seconds_left = -1;
    out->attempts = row->attempts;
    out->sequence = row->sequence;
    out->created_ms = row->created_ms;
    out->started_ms = row->started_ms;
    out->finished_ms = row->finished_ms;
    out->error_message = row->error_message ? strdup(row->error_message) : NULL;
    out->picture_count = row->picture_count;
    memcpy(out->pictures, row->pictures, pictures * sizeof *row->pictures);
    texts->parameters = row->parameters ? strdup(row->parameters) : NULL;
    texts->result = row->result ? strdup(row->result) : NULL;
}

void job_view_finish(struct job_view *view)
{
    free(view->error_message);
    json_decref(view->parameters);
    json_decref(view->result);
    view->error_message = NULL;
    view->parameters = view->result = NULL;
}

static bool peek(struct hub *hub, const char *id, const char *owner, struct job_view *out,
                 struct hub_view_texts *texts)
{
    struct hub_job *job;

    pthread_mutex_lock(&hub->lock);
    job = hub_job_find_locked(hub, id, owner);
    if (job)
        hub_view_whole_locked(hub, job, out, texts);
    pthread_mutex_unlock(&hub->lock);
    return job != NULL;
}

bool hub_peek(struct hub *hub, const char *id, const char *owner, struct job_view *out)
{
    struct hub_view_texts texts;

    if (!peek(hub, id, owner, out, &texts))
        return false;
    hub_view_parse(out, &texts);
    return true;
}

bool hub_peek_texts(struct hub *hub, const char *id, const char *owner, struct job_view *out,
                    char **parameters, char **result)
{
    struct hub_view_texts texts;

    if (!peek(hub, id, owner, out, &texts))
        return false;
    out->parameters = out->result = NULL;
    *parameters = texts.parameters;
    *result = texts.result;
    return true;
}
