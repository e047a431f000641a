/* What the worker tells the front. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/kill_point.h"
#include "image/image_text.h"
#include "worker/worker_private.h"

#define PROGRESS_SECONDS 0.1
#define DEVICE_SECONDS 1.0

void worker_beat(struct worker *worker, enum heartbeat_phase doing)
{
    struct heartbeat *heartbeat = worker->options->heartbeat;

    atomic_store(&heartbeat->doing, doing);
    atomic_store(&heartbeat->step_micros, (uint64_t)(worker->step_seconds * 1e6));
    atomic_fetch_add(&heartbeat->beats, 1);
}

void worker_send(struct worker *worker, enum message_type type, struct record_writer *record,
                 int fd)
{
    if (!channel_send(worker->channel, type, record, fd))
        worker->front_left = true;
    record_writer_finish(record);
}

void worker_fit_text(char *to, size_t size, const char *text)
{
    size_t length = strlen(text);

    if (length >= size) {
        length = size - 1;
        while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80)
            length--;
    }
    memcpy(to, text, length);
    to[length] = '\0';
}

/* --- The worker --- */

void worker_tell_loading(struct worker *worker, const char *what, double fraction)
{
    struct loading_message message = {.fraction = fraction};
    struct record_writer record = {0};

    worker_fit_text(message.what, sizeof message.what, what);
    loading_message_write(&record, &message);
    worker_send(worker, MESSAGE_LOADING, &record, -1);
}

/* The last part of the path, whatever bytes it has. */
static void fit_file_name(char *to, size_t size, const char *path)
{
    size_t length = strlen(path), start;
    char *text;

    while (length > 1 && path[length - 1] == '/')
        length--;
    start = length;
    while (start > 0 && path[start - 1] != '/')
        start--;
    if (!image_text_from_utf8(&text, (const unsigned char *)path + start, length - start, NULL))
        return;
    worker_fit_text(to, size, text);
    free(text);
}

static void fill_facts(struct worker *worker)
{
    const struct pipeline_info *info = &worker->info;
    struct worker_facts *facts = &worker->facts;
    struct pipeline_request defaults;

    pipeline_request_defaults(worker->pipeline, &defaults);
    *facts = (struct worker_facts){
        .side_max = info->side_max,
        .layer_count = info->layer_count,
        .max_batch = worker->max_batch,
        .is_turbo = info->is_turbo,
        .has_t5 = info->has_t5,
        .has_encoder = info->has_encoder,
        .width = defaults.width,
        .height = defaults.height,
        .steps = defaults.steps,
        .t5_tokens = defaults.t5_tokens,
        .guidance = defaults.guidance_scale,
        .flow_shift = defaults.flow_shift,
    };
    worker_fit_text(facts->model, sizeof facts->model, worker->model_name);
    fit_file_name(facts->model_file, sizeof facts->model_file, worker->options->pipeline.model);
    worker_fit_text(facts->variant, sizeof facts->variant, info->variant);
    worker_fit_text(facts->device, sizeof facts->device, info->device);
    worker_fit_text(facts->weight_types, sizeof facts->weight_types, info->weight_types);
}

void worker_tell_ready(struct worker *worker)
{
    struct record_writer record = {0};

    fill_facts(worker);
    worker_facts_write(&record, &worker->facts);
    worker_send(worker, MESSAGE_READY, &record, -1);
}

static int running_jobs(const struct worker *worker)
{
    int count = 0;

    for (const struct worker_job *job = worker->jobs; job; job = job->next)
        count += job->started > 0;
    return count;
}

void worker_tell_device(struct worker *worker)
{
    struct pipeline_device_state state;
    struct record_writer record = {0};
    struct device_message message;
    double now = seconds_now();

    if (now - worker->device_told < DEVICE_SECONDS)
        return;
    worker->device_told = now;
    pipeline_device_state(worker->pipeline, &state);
    message = (struct device_message){
        .memory_free = state.free_bytes,
        .memory_total = state.total_bytes,
        .memory_used_by_us = state.used_bytes,
        .utilisation_percent = state.utilisation_percent,
        .temperature_celsius = state.temperature_celsius,
        .power_watts = state.power_watts,
        .running = running_jobs(worker),
    };
    device_message_write(&record, &message);
    worker_send(worker, MESSAGE_DEVICE, &record, -1);
}

/* --- Jobs --- */

static const char *const phase_points[] = {
    [JOB_PHASE_WAIT] = "worker.wait",       [JOB_PHASE_ENCODE] = "worker.encode",
    [JOB_PHASE_DENOISE] = "worker.denoise", [JOB_PHASE_DECODE] = "worker.decode",
    [JOB_PHASE_SAVE] = "worker.save",
};

void worker_tell_progress(struct worker *worker, struct worker_job *job, enum job_phase phase,
                          int step, int step_count)
{
    struct progress_message message = {
        .ticket = job->message.ticket,
        .phase = phase,
        .step = step,
        .step_count = step_count,
        .pictures_done = job->finished,
        .step_seconds = worker->untold_step_seconds,
        .batch_size = worker->batch_size,
    };
    struct record_writer record = {0};
    double now = seconds_now();

    kill_point(phase_points[phase]);
    if (phase == job->phase && now - job->told < PROGRESS_SECONDS && step < step_count)
        return;
    job->phase = phase;
    job->told = now;
    worker->untold_step_seconds = 0;
    progress_message_write(&record, &message);
    worker_send(worker, MESSAGE_PROGRESS, &record, -1);
}

void worker_tell_done(struct worker *worker, const struct worker_job *job)
{
    double total = seconds_now() - job->started;
    struct done_message message = {
        .ticket = job->message.ticket,
        .encode_seconds = job->encode_seconds,
        .denoise_seconds = fmax(0.0, total - job->encode_seconds - job->decode_seconds),
        .decode_seconds = job->decode_seconds,
        .total_seconds = total,
        .clip_tokens_cut = job->clip_cut,
        .t5_tokens_cut = job->t5_cut,
        .was_short_of_memory = job->was_short_of_memory,
        .was_repeated = job->was_repeated,
        .pictures_skipped = job->skipped,
    };
    struct record_writer record = {0};

    done_message_write(&record, &message);
    worker_send(worker, MESSAGE_DONE, &record, -1);
}

void worker_tell_failed(struct worker *worker, uint64_t ticket, enum job_failure failure,
                        const char *text)
{
    struct failed_message message = {.ticket = ticket, .failure = failure};
    struct record_writer record = {0};

    worker_fit_text(message.message, sizeof message.message, text);
    failed_message_write(&record, &message);
    worker_send(worker, MESSAGE_FAILED, &record, -1);
}

/* --- Estimates --- */

/* Without memory limits that the system tells, everything fits. Weights that a host reads from
 * files need not. */
static void judge(struct estimated_message *answer, const struct pipeline_memory *memory,
                  const struct pipeline_device_state *state)
{
    char text[sizeof answer->message];
    size_t needed = memory->firm_limit > 0 ? memory->firm : memory->peak;
    size_t available = state->free_bytes + state->used_bytes;

    answer->fits = state->total_bytes == 0 || available == 0 || needed <= available;
    if (answer->fits)
        return;
    snprintf(text, sizeof text, "needs %zu MiB, and %zu MiB can be had", needed >> 20,
             available >> 20);
    worker_fit_text(answer->message, sizeof answer->message, text);
}

void worker_answer_estimate(struct worker *worker, const struct job_message *message)
{
    const struct job_spec *spec = &message->spec;
    struct pipeline_request request = worker_request(spec);
    int places =
        spec->count < worker->options->max_batch ? spec->count : worker->options->max_batch;
    struct estimated_message answer = {.ticket = message->ticket};
    struct pipeline_device_state state;
    struct record_writer record = {0};
    struct pipeline_memory memory;
    struct error err;

    pipeline_device_state(worker->pipeline, &state);
    answer.free_bytes = state.free_bytes;
    answer.seconds = worker->seconds_per_cost * job_spec_cost(spec);
    if (pipeline_batch_estimate(worker->pipeline, &request, places, &memory, &err)) {
        answer.peak_bytes = memory.peak;
        judge(&answer, &memory, &state);
    } else {
        worker_fit_text(answer.message, sizeof answer.message, err.message);
    }
    estimated_message_write(&record, &answer);
    worker_send(worker, MESSAGE_ESTIMATED, &record, -1);
}
