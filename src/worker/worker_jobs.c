/* The jobs in hand: who waits, who may join, who is answered. */
#include <stdlib.h>
#include <string.h>

#include "worker/worker_private.h"

struct pipeline_request worker_request(const struct job_spec *spec)
{
    struct pipeline_request request = {
        .prompt = spec->prompt,
        .prompt_2 = spec->prompt_2,
        .prompt_3 = spec->prompt_3,
        .negative_prompt = spec->negative_prompt,
        .negative_prompt_2 = spec->negative_prompt_2,
        .negative_prompt_3 = spec->negative_prompt_3,
        .width = spec->width,
        .height = spec->height,
        .steps = spec->steps,
        .guidance_scale = spec->guidance,
        .seed = spec->seed,
        .image_count = spec->count,
        .flow_shift = spec->flow_shift,
        .t5_tokens = spec->t5_tokens,
        .noise_source = NOISE_TORCH_CPU,
        .skip_layer_count = spec->skip_layer_count,
        .skip_layer_scale = spec->skip_layer_scale,
        .skip_layer_start = spec->skip_layer_start,
        .skip_layer_stop = spec->skip_layer_stop,
        .strength = spec->strength,
    };

    for (int i = 0; i < spec->skip_layer_count; i++)
        request.skip_layers[i] = spec->skip_layers[i];
    return request;
}

void worker_take_job(struct worker *worker, struct job_message *message)
{
    struct worker_job *job = calloc(1, sizeof *job), **last = &worker->jobs;

    if (!job) {
        worker_tell_failed(worker, message->ticket, JOB_FAILURE_NO_MEMORY, "memory is short");
        inbox_forget(worker->inbox, message->ticket);
        return;
    }
    job->message = *message;
    message->spec = (struct job_spec){0};
    job->request = worker_request(&job->message.spec);
    job->draws_alone = job->was_short_of_memory = message->is_frugal;
    for (int i = 0; i < job->request.image_count; i++) {
        job->place_of[i] = message->is_skipped[i] ? PICTURE_IS_SKIPPED : PICTURE_WAITS;
        job->skipped += message->is_skipped[i];
    }
    while (*last)
        last = &(*last)->next;
    *last = job;
}

void worker_watch(struct worker *worker, uint64_t ticket, bool is_watched)
{
    for (struct worker_job *job = worker->jobs; job; job = job->next)
        if (job->message.ticket == ticket)
            job->message.is_watched = is_watched;
}

/* --- The end of a job --- */

static void leave_batch(struct worker *worker, struct worker_job *job)
{
    for (int i = 0; i < job->request.image_count; i++)
        if (job->place_of[i] >= 0) {
            pipeline_batch_leave(worker->batch, job->place_of[i]);
            job->place_of[i] = PICTURE_WAITS;
        }
}

static void free_job(struct worker *worker, struct worker_job *job)
{
    struct worker_job **at = &worker->jobs;

    while (*at && *at != job)
        at = &(*at)->next;
    if (*at)
        *at = job->next;
    leave_batch(worker, job);
    inbox_forget(worker->inbox, job->message.ticket);
    pipeline_job_destroy(job->job);
    image_finish(&job->init_image);
    image_finish(&job->mask);
    job_spec_finish(&job->message.spec);
    free(job);
}

void worker_free_jobs(struct worker *worker)
{
    while (worker->jobs)
        free_job(worker, worker->jobs);
}

/* What a unit of work takes, as jobs go. */
#define OF_THE_NEW 0.2

static void learn_cost(struct worker *worker, const struct worker_job *job)
{
    double cost = job_spec_cost(&job->message.spec);
    double seconds = (seconds_now() - job->started) / cost;

    worker->seconds_per_cost =
        worker->seconds_per_cost > 0
            ? (1 - OF_THE_NEW) * worker->seconds_per_cost + OF_THE_NEW * seconds
            : seconds;
}

/* What was skipped took part of its time: such a job teaches nothing. */
void worker_finish_job(struct worker *worker, struct worker_job *job)
{
    if (job->finished == 0) {
        worker_fail_job(worker, job, JOB_FAILURE_CANCELLED, "every picture was skipped");
        return;
    }
    if (job->skipped == 0)
        learn_cost(worker, job);
    worker_tell_done(worker, job);
    free_job(worker, job);
}

void worker_fail_job(struct worker *worker, struct worker_job *job, enum job_failure failure,
                     const char *message)
{
    worker_tell_failed(worker, job->message.ticket, failure, message);
    free_job(worker, job);
}

void worker_drop_cancelled(struct worker *worker)
{
    struct worker_job *next;

    for (struct worker_job *job = worker->jobs; job; job = next) {
        next = job->next;
        if (inbox_is_cancelled(worker->inbox, job->message.ticket))
            worker_fail_job(worker, job, JOB_FAILURE_CANCELLED, "cancelled");
    }
}

int worker_picture_count(const struct worker_job *job)
{
    return job->request.image_count - job->skipped;
}

/* Unless it is done, which the front did not know yet. */
static void skip_picture(struct worker *worker, struct worker_job *job, int image)
{
    if (image >= job->request.image_count || job->place_of[image] < PICTURE_WAITS)
        return;
    if (job->place_of[image] >= 0)
        pipeline_batch_leave(worker->batch, job->place_of[image]);
    job->place_of[image] = PICTURE_IS_SKIPPED;
    job->skipped++;
}

void worker_drop_skipped(struct worker *worker)
{
    struct worker_job *next;
    int image;

    for (struct worker_job *job = worker->jobs; job; job = next) {
        next = job->next;
        while (inbox_take_skip(worker->inbox, job->message.ticket, &image))
            skip_picture(worker, job, image);
        if (job->finished == worker_picture_count(job))
            worker_finish_job(worker, job);
    }
}

/* Alone it is tried again, in less memory or in more bits; then there is nothing left to try. */
static bool try_alone(struct worker *worker, struct worker_job *job, enum job_failure failure,
                      const struct error *err)
{
    if (job->draws_alone) {
        worker_fail_job(worker, job, failure, err->message);
        return false;
    }
    leave_batch(worker, job);
    job->draws_alone = true;
    job->was_short_of_memory = failure == JOB_FAILURE_NO_MEMORY;
    job->was_repeated = failure == JOB_FAILURE_NUMERIC;
    return true;
}

bool worker_job_error(struct worker *worker, struct worker_job *job, const struct error *err)
{
    switch (err->code) {
    case ERROR_CANCELLED: /* dropped, or its picture is, before it goes on; or the front is gone */
        leave_batch(worker, job);
        return true;
    case ERROR_BACKEND: /* without an answer: another worker draws it */
        worker->is_lost = true;
        return true;
    case ERROR_NO_MEMORY:
        return try_alone(worker, job, JOB_FAILURE_NO_MEMORY, err);
    case ERROR_NOT_FINITE:
        return try_alone(worker, job, JOB_FAILURE_NUMERIC, err);
    case ERROR_BAD_REQUEST:
        worker_fail_job(worker, job, JOB_FAILURE_BAD_REQUEST, err->message);
        return false;
    case ERROR_NONE:
    case ERROR_BAD_FILE:
    case ERROR_IO:
        break;
    }
    worker_fail_job(worker, job, JOB_FAILURE_INTERNAL, err->message);
    return false;
}

/* --- The beginning of a job --- */

/* Does nothing where there is no file, and where an earlier try got this far. */
static bool decode_file(struct image *out, const struct job_image *file, bool takes_alpha,
                        const char *name, struct error *err)
{
    const struct image_limits limits = {.bytes_max = JOB_IMAGE_BYTES_MAX,
                                        .pixels_max = JOB_IMAGE_PIXELS_MAX};

    if (!file->bytes || out->pixels)
        return true;
    if (takes_alpha ? image_decode_alpha(out, file->bytes, file->size, &limits, name, err)
                    : image_decode(out, file->bytes, file->size, &limits, name, err))
        return true;
    if (err->code == ERROR_BAD_FILE)
        err->code = ERROR_BAD_REQUEST;
    return false;
}

static void invert(struct image *image)
{
    size_t bytes = (size_t)image->width * (size_t)image->height * 3;

    for (size_t i = 0; i < bytes; i++)
        image->pixels[i] = (unsigned char)(255 - image->pixels[i]);
}

static bool prepare(struct worker_job *job, struct error *err)
{
    const struct job_spec *spec = &job->message.spec;

    if (job->is_prepared)
        return true;
    if (!decode_file(&job->init_image, &spec->init_image, false, "init_image", err) ||
        !decode_file(&job->mask, &spec->mask, spec->mask_is_alpha, "mask", err))
        return false;
    /* The pipeline repaints what is white; of an alpha that is 255, and means to keep it. */
    if (job->mask.pixels && spec->mask_is_alpha != spec->mask_inverted)
        invert(&job->mask);
    job->request.init_image = job->init_image.pixels ? &job->init_image : NULL;
    job->request.mask = job->mask.pixels ? &job->mask : NULL;
    job->is_prepared = true;
    return true;
}

/* Encodes its texts and picture. */
static bool start(struct worker *worker, struct worker_job *job, struct error *err)
{
    struct worker_tells tells = {worker, job};
    struct pipeline_callbacks callbacks = worker_callbacks(&tells);
    double began = seconds_now();

    if (job->job)
        return true;
    if (!pipeline_job_create(&job->job, worker->batch, &job->request, &callbacks, err)) {
        job->job = NULL;
        return false;
    }
    job->encode_seconds += seconds_now() - began;
    pipeline_job_tokens_cut(job->job, &job->clip_cut, &job->t5_cut);
    return true;
}

static bool join(struct worker *worker, struct worker_job *job, struct error *err)
{
    for (int i = 0; i < job->request.image_count; i++)
        if (job->place_of[i] == PICTURE_WAITS && pipeline_batch_free_places(worker->batch) > 0 &&
            !pipeline_batch_join(worker->batch, job->job, i, &job->place_of[i], err)) {
            job->place_of[i] = PICTURE_WAITS;
            return false;
        }
    return true;
}

int worker_running(const struct worker *worker)
{
    int count = 0;

    for (const struct worker_job *job = worker->jobs; job; job = job->next)
        for (int i = 0; i < job->request.image_count; i++)
            count += job->place_of[i] >= 0;
    return count;
}

/* A batch that fits, with as many places as there is memory for. */
static bool open_batch(struct worker *worker, const struct worker_job *job, struct error *err)
{
    if (worker->batch && pipeline_batch_fits(worker->batch, &job->request))
        return true;
    worker->batch = NULL;
    for (int places = worker->options->max_batch; places > 0; places /= 2) {
        if (pipeline_batch_open(&worker->batch, worker->pipeline, &job->request, places, err))
            return true;
        worker->batch = NULL;
        if (err->code != ERROR_NO_MEMORY)
            return false;
    }
    return false;
}

static bool has_waiting_pictures(const struct worker_job *job)
{
    for (int i = 0; i < job->request.image_count; i++)
        if (job->place_of[i] == PICTURE_WAITS)
            return true;
    return false;
}

static void set_running(struct worker *worker, struct worker_job *job)
{
    if (job->started == 0)
        job->started = seconds_now();
    inbox_set_running(worker->inbox, job->message.ticket);
}

/* False: nothing newer may join either. */
static bool admit(struct worker *worker, struct worker_job *job)
{
    bool is_empty = worker_running(worker) == 0;
    struct error err = {0};

    if (!has_waiting_pictures(job))
        return true;
    if (!prepare(job, &err)) {
        (void)worker_job_error(worker, job, &err);
        return true;
    }
    if (job->draws_alone) {
        if (!is_empty)
            return false;
        set_running(worker, job);
        worker_draw_alone(worker, job);
        return true;
    }
    if (!is_empty && (!pipeline_batch_fits(worker->batch, &job->request) ||
                      pipeline_batch_free_places(worker->batch) == 0))
        return false;
    set_running(worker, job);
    if (open_batch(worker, job, &err) && start(worker, job, &err) && join(worker, job, &err))
        return true;
    (void)worker_job_error(worker, job, &err);
    return err.code == ERROR_BAD_REQUEST;
}

void worker_admit(struct worker *worker)
{
    struct worker_job *next;

    for (struct worker_job *job = worker->jobs; job && !worker->is_lost; job = next) {
        next = job->next;
        if (!admit(worker, job))
            return;
    }
}
