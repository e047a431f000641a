/* The worker's life: opening, serving, ending. */
#include "worker/worker.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "image/image_text.h"
#include "worker/worker_private.h"

#define EXIT_DEVICE_LOST 3
#define IDLE_MS 200
#define WARM_UP_SIDE 64
#define TELL_SECONDS 0.25 /* between what preparing tells */
#define PROMPTS_KEPT 16

/* --- Opening --- */

static struct pipeline_request smallest_request(const struct worker *worker)
{
    struct pipeline_request request;

    pipeline_request_defaults(worker->pipeline, &request);
    request.width = request.height = WARM_UP_SIDE;
    request.steps = 1;
    return request;
}

/* A small picture: loads all weights, and finds out whether the device can draw before anybody
 * relies on it. */
static bool warm_up(struct worker *worker, struct error *err)
{
    struct worker_tells tells = {.worker = worker};
    struct pipeline_callbacks callbacks = worker_callbacks(&tells);
    struct pipeline_request request = smallest_request(worker);
    struct pipeline_result result;

    if (!pipeline_run(worker->pipeline, &request, &callbacks, &result, err))
        return error_in(err, "first picture");
    pipeline_result_finish(&result);
    return true;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* On a host: a limit that no picture fits into does not get better by trying again. */
static bool check_memory(struct worker *worker, struct error *err)
{
    struct pipeline_request request = smallest_request(worker);
    struct pipeline_memory memory;

    if (!pipeline_batch_estimate(worker->pipeline, &request, 1, &memory, err))
        return false;
    if (memory.firm <= memory.firm_limit)
        return true;
    return error_set(err, ERROR_BAD_REQUEST,
                     "the smallest picture needs %zu MiB of memory beside the weights, and the "
                     "limit is %zu MiB",
                     memory.firm >> 20, memory.firm_limit >> 20);
}

/* On a host: as many pictures of the usual size at once as its memory has room for, which is said,
 * as is a model that does not stay in it. */
static void fit_memory(struct worker *worker)
{
    int wanted = worker->options->max_batch, places = wanted;
    struct pipeline_memory memory, all;
    struct pipeline_request request;

    worker->max_batch = wanted;
    pipeline_request_defaults(worker->pipeline, &request);
    if (!pipeline_batch_estimate(worker->pipeline, &request, wanted, &all, NULL))
        return;
    memory = all;
    while (memory.firm > memory.firm_limit && places > 1) {
        places /= 2;
        if (!pipeline_batch_estimate(worker->pipeline, &request, places, &memory, NULL))
            return;
    }
    worker->max_batch = places;
    if (places < wanted)
        fprintf(stderr,
                "worker: %d pictures at once need %zu MiB of memory beside the weights, and the "
                "limit is %zu MiB: at most %d are drawn at once\n",
                wanted, all.firm >> 20, all.firm_limit >> 20, places);
    if (memory.firm_limit > 0 &&
        larger(memory.weights_text, memory.weights_transformer) + memory.firm > memory.firm_limit)
        fprintf(stderr,
                "worker: weights of %zu MiB have no room in the %zu MiB of memory: they are read "
                "from the disk again and again, which is slow\n",
                larger(memory.weights_text, memory.weights_transformer) >> 20,
                memory.firm_limit >> 20);
}

struct preparing {
    struct worker_preparing public; /* first */
    struct worker *worker;
    double told;
};

static void tell_preparing(const struct worker_preparing *preparing, const char *what,
                           double fraction)
{
    struct preparing *own = (struct preparing *)preparing;
    double now = seconds_now();

    worker_beat(own->worker, HEARTBEAT_LOADING);
    if (now - own->told < TELL_SECONDS)
        return;
    own->told = now;
    worker_tell_loading(own->worker, what, fraction);
}

static bool prepare(struct worker *worker, struct pipeline_options *options, struct error *err)
{
    struct preparing preparing = {
        .public = {.tell = tell_preparing, .stop = inbox_stop(worker->inbox)},
        .worker = worker,
    };

    return !worker->options->prepare || worker->options->prepare(worker->options->prepare_context,
                                                                 options, &preparing.public, err);
}

static bool open_worker(struct worker *worker, int channel_fd, struct error *err)
{
    struct pipeline_options options = worker->options->pipeline;

    if (options.prompts_kept == 0)
        options.prompts_kept = PROMPTS_KEPT;
    if (!channel_create(&worker->channel, channel_fd, err) ||
        !inbox_create(&worker->inbox, worker->channel, err))
        return false;
    worker_beat(worker, HEARTBEAT_LOADING);
    if (!prepare(worker, &options, err))
        return false;
    worker_tell_loading(worker, "opening the model", 0.0);
    worker_beat(worker, HEARTBEAT_LOADING);
    if (!pipeline_create(&worker->pipeline, &options, err))
        return false;
    pipeline_info(worker->pipeline, &worker->info);
    if (worker->info.notice[0])
        fprintf(stderr, "worker: %s\n", worker->info.notice);
    if (!image_text_from_utf8(&worker->model_name, (const unsigned char *)worker->info.model_name,
                              strlen(worker->info.model_name), err))
        return false;
    if (!check_memory(worker, err))
        return false;
    fit_memory(worker);
    worker_tell_loading(worker, "loading weights", 0.25);
    return warm_up(worker, err);
}

static void close_worker(struct worker *worker)
{
    worker_free_jobs(worker);
    if (worker->pipeline)
        pipeline_batch_close(worker->pipeline);
    pipeline_destroy(worker->pipeline);
    free(worker->model_name);
    inbox_destroy(worker->inbox);
    channel_destroy(worker->channel);
}

/* --- Serving --- */

static void take_messages(struct worker *worker)
{
    struct inbox_message *message;

    while ((message = inbox_take(worker->inbox))) {
        switch (message->type) {
        case MESSAGE_JOB:
            /* After a drain the front keeps its jobs, and gives them to the next worker. */
            if (!worker->is_draining)
                worker_take_job(worker, &message->job);
            break;
        case MESSAGE_WATCH:
            worker_watch(worker, message->job.ticket, message->job.is_watched);
            break;
        case MESSAGE_ESTIMATE:
            worker_answer_estimate(worker, &message->job);
            break;
        case MESSAGE_UPSCALE:
            worker_answer_upscale(worker, &message->upscale);
            break;
        case MESSAGE_DRAIN:
            worker->is_draining = true;
            break;
        default:
            break;
        }
        inbox_message_destroy(message);
    }
}

/* Until something comes, can be sent, or it is time to beat. */
static void idle(struct worker *worker)
{
    struct pollfd fds[] = {{.fd = inbox_fd(worker->inbox), .events = POLLIN},
                           {.fd = channel_fd(worker->channel), .events = POLLOUT}};

    worker_beat(worker, HEARTBEAT_IDLE);
    (void)poll(fds, channel_wants_to_send(worker->channel) ? 2 : 1, IDLE_MS);
}

static bool goes_on(struct worker *worker)
{
    return !worker->is_lost && !worker->front_left && inbox_state(worker->inbox) == INBOX_OPEN &&
           !(worker->is_draining && !worker->jobs);
}

static void serve(struct worker *worker)
{
    while (goes_on(worker)) {
        take_messages(worker);
        worker_drop_cancelled(worker);
        worker_drop_skipped(worker);
        worker_admit(worker);
        if (worker_running(worker) > 0)
            worker_step(worker);
        else if (!worker->jobs && !worker->is_draining)
            idle(worker);
        worker_tell_device(worker);
        worker->front_left = worker->front_left || !channel_flush(worker->channel);
    }
}

/* What was answered reaches the front, as long as it is there. */
static void send_rest(struct worker *worker)
{
    struct pollfd fd = {.fd = channel_fd(worker->channel), .events = POLLOUT};

    while (channel_flush(worker->channel) && channel_wants_to_send(worker->channel)) {
        worker_beat(worker, HEARTBEAT_IDLE);
        if (poll(&fd, 1, IDLE_MS) < 0 && errno != EINTR)
            return;
    }
}

int worker_run(int channel_fd, const struct worker_options *options)
{
    struct worker worker = {.options = options};
    struct error err = {0};
    int code;

    if (open_worker(&worker, channel_fd, &err)) {
        pipeline_watch(worker.pipeline, inbox_stop(worker.inbox));
        worker_tell_ready(&worker);
        serve(&worker);
        send_rest(&worker);
    }
    if (worker.inbox && inbox_state(worker.inbox) == INBOX_BROKEN)
        error_set(&err, ERROR_IO, "the front sent what is no message");
    else if (err.code == ERROR_CANCELLED) /* while it opened, as the front is gone */
        err = (struct error){0};
    if (err.code != ERROR_NONE)
        fprintf(stderr, "worker: %s\n", err.message);
    code = err.code == ERROR_NONE ? 0 : error_exit_code(err.code);
    if (worker.is_lost || err.code == ERROR_BACKEND)
        code = EXIT_DEVICE_LOST;
    close_worker(&worker);
    return code;
}
