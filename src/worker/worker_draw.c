/* Drawing: steps of the batch, and jobs that draw alone. */
#include <stdlib.h>

#include "base/kill_point.h"
#include "worker/worker_private.h"

/* --- Progress --- */

/* A picture that is drawn alone counts its own steps, and a job those of all its pictures. */
static void tell_alone(struct worker *worker, struct worker_job *job, enum job_phase phase,
                       const struct pipeline_progress *progress)
{
    int step = 0;

    if (progress->phase == PHASE_DENOISE) {
        job->steps_alone = progress->step_count;
        step = progress->step;
    } else if (progress->phase > PHASE_DENOISE) {
        step = job->steps_alone;
    }
    worker_tell_progress(worker, job, phase, job->finished * job->steps_alone + step,
                         worker_picture_count(job) * job->steps_alone);
}

static void tell(void *context, const struct pipeline_progress *progress)
{
    static const struct {
        enum heartbeat_phase beat;
        enum job_phase phase;
    } meaning[] = {
        [PHASE_PLAN] = {HEARTBEAT_ENCODE, JOB_PHASE_ENCODE},
        [PHASE_ENCODE] = {HEARTBEAT_ENCODE, JOB_PHASE_ENCODE},
        [PHASE_IMAGE] = {HEARTBEAT_ENCODE, JOB_PHASE_ENCODE},
        [PHASE_DENOISE] = {HEARTBEAT_STEP, JOB_PHASE_DENOISE},
        [PHASE_DECODE] = {HEARTBEAT_DECODE, JOB_PHASE_DECODE},
        [PHASE_DONE] = {HEARTBEAT_DECODE, JOB_PHASE_SAVE},
    };
    const struct worker_tells *tells = context;
    enum pipeline_phase phase = progress->phase;

    worker_beat(tells->worker, tells->job ? meaning[phase].beat : HEARTBEAT_LOADING);
    if (tells->job)
        tell_alone(tells->worker, tells->job, meaning[phase].phase, progress);
    else
        worker_tell_loading(tells->worker, "loading weights",
                            0.25 + 0.75 * (double)phase / PHASE_DONE);
}

struct pipeline_callbacks worker_callbacks(struct worker_tells *tells)
{
    return (struct pipeline_callbacks){
        .progress = tell, .context = tells, .cancel = inbox_stop(tells->worker->inbox)};
}

static int steps_done(const struct worker *worker, const struct worker_job *job)
{
    int steps = job->finished * pipeline_job_step_count(job->job);

    for (int i = 0; i < job->request.image_count; i++)
        if (job->place_of[i] >= 0)
            steps += pipeline_batch_steps_done(worker->batch, job->place_of[i]);
    return steps;
}

static void tell_phase(struct worker *worker, struct worker_job *job, enum job_phase phase)
{
    int count = pipeline_job_step_count(job->job) * worker_picture_count(job);

    worker_tell_progress(worker, job, phase, steps_done(worker, job), count);
}

static size_t latent_floats(const struct worker_job *job)
{
    return (size_t)16 * (size_t)(job->request.width / 8) * (size_t)(job->request.height / 8);
}

/* Of each picture of the job that is being drawn, at the same moment. */
static void preview(struct worker *worker, struct worker_job *job)
{
    double now = seconds_now();

    if (!job->message.is_watched || now - job->previewed < worker->options->preview_seconds)
        return;
    for (int image = 0; image < job->request.image_count; image++) {
        int place = job->place_of[image];
        struct image small = {0};

        if (place < 0 || pipeline_batch_is_done(worker->batch, place))
            continue;
        job->previewed = now;
        if (pipeline_batch_preview(worker->batch, place, &small, NULL))
            worker_send_preview(worker, job, image, pipeline_batch_steps_done(worker->batch, place),
                                &small);
        image_finish(&small);
    }
}

/* --- A picture that is done --- */

static bool save(struct worker *worker, struct worker_job *job, int image,
                 const struct image *picture, struct error *err)
{
    if (!worker_send_picture(worker, job, image, picture, err))
        return false;
    job->place_of[image] = PICTURE_IS_DONE;
    job->finished++;
    return true;
}

/* Frees its place for others, whatever comes. */
static bool take_latent(struct worker *worker, struct worker_job *job, int image, float *latent,
                        struct error *err)
{
    int place = job->place_of[image];
    bool ok = pipeline_batch_latent(worker->batch, place, latent, err);

    pipeline_batch_leave(worker->batch, place);
    job->place_of[image] = PICTURE_WAITS;
    return ok;
}

static bool finish_picture(struct worker *worker, struct worker_job *job, int image,
                           struct error *err)
{
    int count = pipeline_job_step_count(job->job) * worker_picture_count(job);
    int steps = steps_done(worker, job); /* the picture's own count until it leaves the batch */
    float *latent = malloc(latent_floats(job) * sizeof *latent);
    double began = seconds_now();
    struct image picture = {0};
    bool ok;

    if (!latent)
        return error_set(err, ERROR_NO_MEMORY, "latent");
    tell_phase(worker, job, JOB_PHASE_DECODE);
    worker_beat(worker, HEARTBEAT_DECODE);
    ok = take_latent(worker, job, image, latent, err) &&
         pipeline_batch_decode(worker->batch, job->job, latent, &picture, err);
    if (ok) {
        worker_tell_progress(worker, job, JOB_PHASE_SAVE, steps, count);
        worker_beat(worker, HEARTBEAT_DECODE);
        ok = save(worker, job, image, &picture, err);
    }
    job->decode_seconds += seconds_now() - began;
    image_finish(&picture);
    free(latent);
    return ok;
}

static void finish_pictures(struct worker *worker, struct worker_job *job)
{
    struct error err = {0};

    for (int i = 0; i < job->request.image_count; i++) {
        if (job->place_of[i] < 0 || !pipeline_batch_is_done(worker->batch, job->place_of[i]))
            continue;
        if (!finish_picture(worker, job, i, &err)) {
            (void)worker_job_error(worker, job, &err);
            return;
        }
    }
    if (job->finished == worker_picture_count(job))
        worker_finish_job(worker, job);
}

/* --- Steps --- */

static bool is_in_batch(const struct worker_job *job)
{
    for (int i = 0; i < job->request.image_count; i++)
        if (job->place_of[i] >= 0)
            return true;
    return false;
}

/* Each of them was lost. Nobody joins them before they had their other try. */
static void step_failed(struct worker *worker, const struct error *err)
{
    struct worker_job *next;

    for (struct worker_job *job = worker->jobs; job; job = next) {
        next = job->next;
        if (is_in_batch(job))
            (void)worker_job_error(worker, job, err);
    }
}

#define OF_THE_NEW 0.2

static void learn_step(struct worker *worker, double seconds)
{
    worker->untold_step_seconds = seconds;
    worker->step_seconds = worker->step_seconds > 0
                               ? (1 - OF_THE_NEW) * worker->step_seconds + OF_THE_NEW * seconds
                               : seconds;
}

void worker_step(struct worker *worker)
{
    double began = seconds_now();
    struct worker_job *next;
    struct error err = {0};

    worker->batch_size = worker_running(worker);
    worker_beat(worker, HEARTBEAT_STEP);
    if (!pipeline_batch_step(worker->batch, &err)) {
        step_failed(worker, &err);
        return;
    }
    learn_step(worker, seconds_now() - began);
    worker_beat(worker, HEARTBEAT_STEP);
    for (struct worker_job *job = worker->jobs; job && !worker->is_lost; job = next) {
        next = job->next;
        if (!is_in_batch(job))
            continue;
        kill_point_prompt(job->message.spec.prompt);
        tell_phase(worker, job, JOB_PHASE_DENOISE);
        preview(worker, job);
        finish_pictures(worker, job);
    }
}

/* --- Alone --- */

static bool draw_picture(struct worker *worker, struct worker_job *job, int image,
                         struct error *err)
{
    struct worker_tells tells = {worker, job};
    struct pipeline_callbacks callbacks = worker_callbacks(&tells);
    struct pipeline_request request = job->request;
    struct pipeline_result result;
    bool ok;

    request.seed += (uint64_t)image;
    request.image_count = 1;
    if (!pipeline_run(worker->pipeline, &request, &callbacks, &result, err))
        return false;
    job->encode_seconds += result.encode_seconds;
    job->decode_seconds += result.decode_seconds;
    job->clip_cut = result.clip_tokens_cut;
    job->t5_cut = result.t5_tokens_cut;
    job->was_short_of_memory = job->was_short_of_memory || result.was_short_of_memory;
    job->was_repeated = job->was_repeated || result.was_repeated;
    ok = save(worker, job, image, &result.images[0], err);
    pipeline_result_finish(&result);
    return ok;
}

void worker_draw_alone(struct worker *worker, struct worker_job *job)
{
    struct error err = {0};
    bool ok = true;

    pipeline_job_destroy(job->job);
    job->job = NULL;
    worker->batch = NULL; /* pipeline_run has its own */
    worker->batch_size = 1;
    for (int i = 0; ok && i < job->request.image_count; i++) {
        if (job->place_of[i] != PICTURE_WAITS)
            continue;
        inbox_set_alone(worker->inbox, job->message.ticket, i);
        ok = draw_picture(worker, job, i, &err);
    }
    inbox_set_alone(worker->inbox, job->message.ticket, -1);
    pipeline_batch_close(worker->pipeline);
    pipeline_watch(worker->pipeline, inbox_stop(worker->inbox));
    if (ok)
        worker_finish_job(worker, job);
    else
        (void)worker_job_error(worker, job, &err);
}
