#include "server/a1111_progress.h"

#include "server/a1111_response.h"

#define SHARE_LEAST 0.01

double a1111_progress_share(const struct a1111_progress *progress)
{
    const struct a1111_job *job = progress->job;
    double share = SHARE_LEAST;

    if (!job && !progress->loading)
        return 0;
    if (job && job->is_running && job->step_count > 0)
        share += (double)job->step / job->step_count;
    return share < 1 ? share : 1;
}

/* The seconds that are left: the hub's, or what was needed so far, drawn on. */
static double seconds_left(const struct a1111_progress *progress)
{
    const struct a1111_job *job = progress->job;
    double elapsed, share = a1111_progress_share(progress);

    if (!job)
        return 0;
    if (job->seconds_left >= 0)
        return job->seconds_left;
    elapsed = job->is_running ? (double)(progress->now_ms - job->started_ms) / 1000 : 0;
    return elapsed > 0 ? elapsed / share - elapsed : 0;
}

static json_t *queue_text(const struct a1111_job *job)
{
    return job->position > 0 ? json_sprintf("In queue: %d", job->position)
                             : json_string("Waiting...");
}

static json_t *text_of(const struct a1111_progress *progress)
{
    if (progress->loading)
        return json_string(progress->loading->what);
    if (progress->job && !progress->job->is_running)
        return queue_text(progress->job);
    return json_null();
}

/* Clients take no jobs and no progress for "ready", so a model that loads counts as a job. */
static json_t *state_json(const struct a1111_progress *progress)
{
    const struct a1111_job *job = progress->job;
    char timestamp[16] = "0";
    const char *name = job ? "task" : progress->loading ? "load" : "";

    if (job)
        a1111_timestamp(timestamp, job->created_ms);
    return json_pack("{s:b, s:b, s:b, s:s, s:i, s:s, s:i, s:i, s:i}", "skipped", 0, "interrupted",
                     0, "stopping_generation", 0, "job", name, "job_count",
                     job || progress->loading ? 1 : 0, "job_timestamp", timestamp, "job_no", 0,
                     "sampling_step", job ? job->step : 0, "sampling_steps",
                     job ? job->step_count : 0);
}

json_t *a1111_progress_json(const struct a1111_progress *progress, json_t *image)
{
    json_t *task = progress->job ? json_sprintf("task(%s)", progress->job->id) : json_null();

    return json_pack("{s:f, s:f, s:o, s:o, s:o, s:o}", "progress", a1111_progress_share(progress),
                     "eta_relative", seconds_left(progress), "state", state_json(progress),
                     "current_image", image ? image : json_null(), "textinfo", text_of(progress),
                     "current_task", task);
}

json_t *a1111_task_json(const struct a1111_progress *progress, bool is_known, json_t *image,
                        int number)
{
    const struct a1111_job *job = progress->job;
    json_t *text = job ? text_of(progress) : is_known ? json_null() : json_string("Waiting...");

    return json_pack("{s:b, s:b, s:b, s:f, s:f, s:o, s:i, s:o}", "active", job && job->is_running,
                     "queued", job && !job->is_running, "completed", is_known && !job, "progress",
                     a1111_progress_share(progress), "eta", seconds_left(progress), "live_preview",
                     image ? image : json_null(), "id_live_preview", number, "textinfo", text);
}
