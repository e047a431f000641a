#include "server/native_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "image/image.h"

/* Shares of a job's progress that have no steps to count. */
#define PROGRESS_ENCODED 0.03
#define PROGRESS_DENOISED 0.93

json_t *native_seconds(double seconds)
{
    return isfinite(seconds) && seconds >= 0 ? json_real(seconds) : json_null();
}

static void write_seconds(struct json_writer *out, const char *key, double seconds)
{
    json_writer_real(out, key, seconds >= 0 ? seconds : NAN);
}

static void write_digits(char *to, int value, int count)
{
    for (; count-- > 0; value /= 10)
        to[count] = (char)('0' + value % 10);
}

/* Digit by digit: strftime and printf take ten times as long. */
void native_write_time(struct json_writer *out, const char *key, int64_t ms)
{
    char text[] = "yyyy-mm-ddThh:mm:ss.fffZ";
    time_t seconds = (time_t)(ms / 1000);
    struct tm parts;

    if (ms <= 0 || !gmtime_r(&seconds, &parts) || parts.tm_year > 9999 - 1900) {
        json_writer_raw(out, key, NULL);
        return;
    }
    write_digits(text, parts.tm_year + 1900, 4);
    write_digits(text + 5, parts.tm_mon + 1, 2);
    write_digits(text + 8, parts.tm_mday, 2);
    write_digits(text + 11, parts.tm_hour, 2);
    write_digits(text + 14, parts.tm_min, 2);
    write_digits(text + 17, parts.tm_sec, 2);
    write_digits(text + 20, (int)(ms % 1000), 3);
    json_writer_string(out, key, text);
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

void native_write_picture(struct json_writer *out, const struct store_picture *picture)
{
    char url[80];
    char *end = stpcpy(stpcpy(url, "/api/v1/images/"), picture->id);

    json_writer_string(out, "id", picture->id);
    json_writer_integer(out, "index", picture->index);
    json_writer_integer(out, "seed", (int64_t)picture->seed);
    json_writer_integer(out, "width", picture->width);
    json_writer_integer(out, "height", picture->height);
    json_writer_string(out, "format", image_format_name(picture_format(picture)));
    json_writer_integer(out, "bytes", (int64_t)picture->bytes);
    json_writer_boolean(out, "starred", picture->is_starred);
    json_writer_string(out, "url", url);
    memcpy(end, "/thumbnail", sizeof "/thumbnail");
    json_writer_string(out, "thumbnail_url", url);
}

void native_write_listed_picture(struct json_writer *out, const struct store_picture *picture,
                                 const struct job_view *job)
{
    native_write_picture(out, picture);
    json_writer_string(out, "job", job->id);
    native_write_time(out, "created_at", job->created_ms);
    json_writer_string(out, "prompt",
                       json_string_value(json_object_get(job->parameters, "prompt")));
}

static void write_pictures(struct json_writer *out, const struct job_view *job)
{
    json_writer_open(out, "images", '[');
    for (int32_t i = 0; i < job->picture_count && i < STORE_PICTURES_MAX; i++) {
        json_writer_open(out, NULL, '{');
        native_write_picture(out, &job->pictures[i]);
        json_writer_close(out, '}');
    }
    json_writer_close(out, ']');
}

static void write_error(struct json_writer *out, const struct job_view *job)
{
    if (job->error_code[0] == '\0') {
        json_writer_raw(out, "error", NULL);
        return;
    }
    json_writer_open(out, "error", '{');
    json_writer_string(out, "code", job->error_code);
    json_writer_string(out, "message", job->error_message ? job->error_message : "");
    json_writer_close(out, '}');
}

static void write_count(struct json_writer *out, const char *key, bool applies, int32_t count)
{
    if (applies)
        json_writer_integer(out, key, count);
    else
        json_writer_raw(out, key, NULL);
}

/* What changes while the job waits and runs; null where it does not apply. */
static void write_progress(struct json_writer *out, const struct job_view *job)
{
    bool is_queued = job->state == JOB_QUEUED, is_running = job->state == JOB_RUNNING;

    json_writer_string(out, "phase", is_running ? phase_name(job->phase) : NULL);
    write_count(out, "step", is_running, job->step);
    write_count(out, "steps", is_running, job->step_count);
    json_writer_real(out, "progress", native_job_progress(job));
    write_count(out, "position", is_queued && job->position > 0, job->position);
    write_seconds(out, "wait_seconds", is_queued ? job->wait_seconds : -1);
    write_seconds(out, "seconds_left", is_queued || is_running ? job->seconds_left : -1);
}

void native_write_job(struct json_writer *out, const struct job_view *job)
{
    json_writer_string(out, "id", job->id);
    json_writer_string(out, "state", job_state_name(job->state));
    json_writer_string(out, "api", job->api);
    json_writer_integer(out, "attempts", job->attempts);
    native_write_time(out, "created_at", job->created_ms);
    native_write_time(out, "started_at", job->started_ms);
    native_write_time(out, "finished_at", job->finished_ms);
    write_error(out, job);
    write_pictures(out, job);
    write_progress(out, job);
}

void native_write_whole_job(struct json_writer *out, const struct job_view *job)
{
    native_write_job(out, job);
    json_writer_value(out, "result", job->result);
    if (job->parameters)
        json_writer_value(out, "parameters", job->parameters);
}
