#include "server/native_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "image/image.h"

/* Shares of a job's progress that have no steps to count. */
#define PROGRESS_ENCODED 0.03
#define PROGRESS_DENOISED 0.93

json_t *native_text(const char *text)
{
    json_t *value;
    char *ascii;

    if (!text)
        return json_null();
    value = json_string(text);
    if (value)
        return value;
    ascii = strdup(text);
    if (!ascii)
        return NULL;
    for (char *at = ascii; *at; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    value = json_string(ascii);
    free(ascii);
    return value;
}

json_t *native_time(int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm parts;
    char date[32], whole[48];

    if (ms <= 0 || !gmtime_r(&seconds, &parts) ||
        strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &parts) == 0)
        return json_null();
    snprintf(whole, sizeof whole, "%s.%03dZ", date, (int)(ms % 1000));
    return json_string(whole);
}

json_t *native_seconds(double seconds)
{
    return isfinite(seconds) && seconds >= 0 ? json_real(seconds) : json_null();
}

bool native_job_is_over(enum job_state state)
{
    return state == JOB_DONE || state == JOB_FAILED || state == JOB_CANCELLED;
}

static const char *phase_name(enum job_phase phase)
{
    switch (phase) {
    case JOB_PHASE_WAIT:
        return "wait";
    case JOB_PHASE_ENCODE:
        return "encode";
    case JOB_PHASE_DENOISE:
        return "denoise";
    case JOB_PHASE_DECODE:
        return "decode";
    case JOB_PHASE_SAVE:
        return "save";
    }
    return "wait";
}

/* Steps count, not phases: of several pictures one is saved while others are still to be drawn or
 * decoded, and progress never goes back. */
double native_job_progress(const struct job_view *job)
{
    double part = job->step_count > 0 ? (double)job->step / job->step_count : 0;

    if (job->state == JOB_DONE)
        return 1;
    if (job->state != JOB_RUNNING || (part <= 0 && job->phase < JOB_PHASE_DENOISE))
        return 0;
    return PROGRESS_ENCODED + fmin(fmax(part, 0), 1) * (PROGRESS_DENOISED - PROGRESS_ENCODED);
}

static enum image_format picture_format(const struct store_picture *picture)
{
    for (int format = 0; format < IMAGE_FORMAT_COUNT; format++)
        if (strcmp(picture->format, image_format_name((enum image_format)format)) == 0)
            return (enum image_format)format;
    return IMAGE_PNG;
}

const char *native_media_type(const struct store_picture *picture)
{
    return image_format_media_type(picture_format(picture));
}

void native_file_name(const struct store_picture *picture, char name[NATIVE_FILE_NAME_BYTES])
{
    snprintf(name, NATIVE_FILE_NAME_BYTES, "sd35-%" PRIu64 "-%s.%s", picture->seed, picture->id,
             image_format_name(picture_format(picture)));
}

json_t *native_picture_json(const struct store_picture *picture)
{
    char url[64], thumbnail_url[80];

    snprintf(url, sizeof url, "/api/v1/images/%s", picture->id);
    snprintf(thumbnail_url, sizeof thumbnail_url, "%s/thumbnail", url);
    return json_pack("{s:s, s:i, s:I, s:i, s:i, s:s, s:I, s:b, s:s, s:s}", "id", picture->id,
                     "index", (int)picture->index, "seed", (json_int_t)picture->seed, "width",
                     (int)picture->width, "height", (int)picture->height, "format",
                     image_format_name(picture_format(picture)), "bytes",
                     (json_int_t)picture->bytes, "starred", picture->is_starred, "url", url,
                     "thumbnail_url", thumbnail_url);
}

json_t *native_listed_picture_json(const struct store_picture *picture, const struct job_view *job)
{
    const char *prompt = json_string_value(json_object_get(job->parameters, "prompt"));
    json_t *value = native_picture_json(picture);

    if (value && (json_object_set_new(value, "job", native_text(job->id)) != 0 ||
                  json_object_set_new(value, "created_at", native_time(job->created_ms)) != 0 ||
                  json_object_set_new(value, "prompt", native_text(prompt)) != 0)) {
        json_decref(value);
        return NULL;
    }
    return value;
}

static json_t *pictures_json(const struct job_view *job)
{
    json_t *list = json_array();

    for (int32_t i = 0; list && i < job->picture_count && i < STORE_PICTURES_MAX; i++)
        if (json_array_append_new(list, native_picture_json(&job->pictures[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static json_t *error_json(const struct job_view *job)
{
    if (job->error_code[0] == '\0')
        return json_null();
    return json_pack("{s:o, s:o}", "code", native_text(job->error_code), "message",
                     native_text(job->error_message ? job->error_message : ""));
}

/* What changes while the job waits and runs; null where it does not apply. */
static json_t *live_json(const struct job_view *job)
{
    bool is_queued = job->state == JOB_QUEUED, is_running = job->state == JOB_RUNNING;

    return json_pack("{s:o, s:o, s:o, s:f, s:o, s:o, s:o}", "phase",
                     is_running ? json_string(phase_name(job->phase)) : json_null(), "step",
                     is_running ? json_integer(job->step) : json_null(), "steps",
                     is_running ? json_integer(job->step_count) : json_null(), "progress",
                     native_job_progress(job), "position",
                     is_queued && job->position > 0 ? json_integer(job->position) : json_null(),
                     "wait_seconds", is_queued ? native_seconds(job->wait_seconds) : json_null(),
                     "seconds_left",
                     is_queued || is_running ? native_seconds(job->seconds_left) : json_null());
}

json_t *native_job_json(const struct job_view *job, bool with_parameters)
{
    json_t *live = live_json(job);
    json_t *value =
        json_pack("{s:o, s:s, s:o, s:i, s:o, s:o, s:o, s:o, s:O?, s:o}", "id", native_text(job->id),
                  "state", job_state_name(job->state), "api", native_text(job->api), "attempts",
                  (int)job->attempts, "created_at", native_time(job->created_ms), "started_at",
                  native_time(job->started_ms), "finished_at", native_time(job->finished_ms),
                  "error", error_json(job), "result", job->result, "images", pictures_json(job));

    if (!value || !live || json_object_update(value, live) != 0 ||
        (with_parameters && job->parameters &&
         json_object_set(value, "parameters", job->parameters) != 0)) {
        json_decref(value);
        value = NULL;
    }
    json_decref(live);
    return value;
}
