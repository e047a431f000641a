#include "server/worker_front.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pipeline/pipeline_batch.h"
#include "support/support.h"
#include "support/test_model.h"
#include "wire/channel.h"
#include "worker/worker.h"

#define PATIENCE_MS 120000 /* nothing here takes as long, under sanitizers either */

static const char *model;

int front_setup(void **state)
{
    (void)state;
    model = test_model();
    return 0;
}

/* --- Faults --- */

struct pipeline_fault front_fault;

static bool strikes(int call, int chosen)
{
    return chosen > 0 && (call == chosen || (call > chosen && front_fault.for_good));
}

bool __real_pipeline_batch_step(struct pipeline_batch *batch, struct error *err);
bool __real_pipeline_batch_latent(struct pipeline_batch *batch, int place, float *latent,
                                  struct error *err);
bool __real_pipeline_batch_open(struct pipeline_batch **out, struct pipeline *pipeline,
                                const struct pipeline_request *like, int places, struct error *err);
bool __wrap_pipeline_batch_step(struct pipeline_batch *batch, struct error *err);
bool __wrap_pipeline_batch_latent(struct pipeline_batch *batch, int place, float *latent,
                                  struct error *err);
bool __wrap_pipeline_batch_open(struct pipeline_batch **out, struct pipeline *pipeline,
                                const struct pipeline_request *like, int places, struct error *err);

bool __wrap_pipeline_batch_step(struct pipeline_batch *batch, struct error *err)
{
    if (strikes(++front_fault.steps, front_fault.step))
        return error_set(err, front_fault.code, "a step that fails");
    return __real_pipeline_batch_step(batch, err);
}

bool __wrap_pipeline_batch_latent(struct pipeline_batch *batch, int place, float *latent,
                                  struct error *err)
{
    if (strikes(++front_fault.latents, front_fault.latent))
        return error_set(err, front_fault.code, "a latent that fails");
    return __real_pipeline_batch_latent(batch, place, latent, err);
}

bool __wrap_pipeline_batch_open(struct pipeline_batch **out, struct pipeline *pipeline,
                                const struct pipeline_request *like, int places, struct error *err)
{
    if (front_fault.places_max > 0 && places > front_fault.places_max)
        return error_set(err, ERROR_NO_MEMORY, "%d places are too many", places);
    return __real_pipeline_batch_open(out, pipeline, like, places, err);
}

int front_clear_fault(void **state)
{
    (void)state;
    memset(&front_fault, 0, sizeof front_fault);
    return 0;
}

/* --- The front --- */

struct front *front_start(int max_batch)
{
    struct front *front = calloc(1, sizeof *front);
    struct worker_options options = {
        .pipeline = {.model = model, .device = "cpu", .memory = MEMORY_ALL},
        .max_batch = max_batch,
        .preview_seconds = 0.0,
    };
    struct error err;
    int fds[2];

    assert_non_null(front);
    front->heartbeat = mmap(NULL, sizeof *front->heartbeat, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(front->heartbeat != MAP_FAILED);
    options.heartbeat = front->heartbeat;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    front->pid = fork();
    assert_true(front->pid >= 0);
    if (front->pid == 0) {
        close(fds[0]);
        front_fault.steps = front_fault.latents = 0; /* of pictures drawn here */
        _exit(worker_run(fds[1], &options));
    }
    close(fds[1]);
    assert_true(channel_create(&front->channel, fds[0], &err));
    return front;
}

int front_end(struct front *front)
{
    int status;

    channel_destroy(front->channel);
    front->channel = NULL;
    assert_int_equal(waitpid(front->pid, &status, 0), front->pid);
    if (!WIFEXITED(status))
        fail_msg("the worker died of signal %d", WTERMSIG(status));
    for (int i = 0; i < JOBS_MAX; i++) {
        for (int j = 0; j < JOB_COUNT_MAX; j++)
            free(front->outcome[i].bytes[j]);
        image_finish(&front->outcome[i].preview);
    }
    munmap(front->heartbeat, sizeof *front->heartbeat);
    free(front);
    return WEXITSTATUS(status);
}

void front_send_record(struct front *front, enum message_type type, struct record_writer *record)
{
    assert_true(channel_send(front->channel, type, record, -1));
    record_writer_finish(record);
}

void front_send_message(struct front *front, const struct job_message *message)
{
    struct record_writer record = {0};

    job_message_write(&record, message);
    front_send_record(front, MESSAGE_JOB, &record);
}

void front_send_job(struct front *front, uint64_t ticket, const struct job_spec *spec,
                    bool is_watched)
{
    const struct job_message message = {
        .ticket = ticket, .is_watched = is_watched, .attempt = 1, .spec = *spec};

    front_send_message(front, &message);
}

void front_send_skip(struct front *front, uint64_t ticket, int image)
{
    const struct skip_message message = {.ticket = ticket, .image = image};
    struct record_writer record = {0};

    skip_message_write(&record, &message);
    front_send_record(front, MESSAGE_SKIP, &record);
}

void front_send_ticket(struct front *front, enum message_type type, uint64_t ticket)
{
    struct record_writer record = {0};

    record_put_u64(&record, ticket);
    if (type == MESSAGE_WATCH)
        record_put_bool(&record, true);
    front_send_record(front, type, &record);
}

static struct outcome *outcome_of(struct front *front, uint64_t ticket)
{
    assert_true(ticket < JOBS_MAX);
    return &front->outcome[ticket];
}

static unsigned char *read_shared(int fd, size_t size)
{
    unsigned char *bytes = malloc(size + 1);

    assert_non_null(bytes);
    assert_true(fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE);
    assert_int_equal(pread(fd, bytes, size + 1, 0), size); /* and not a byte more */
    close(fd);
    return bytes;
}

static void take_picture(struct front *front, struct record_reader reader, int fd)
{
    struct picture_message message;
    struct outcome *outcome;

    assert_true(picture_message_read(&message, reader));
    outcome = outcome_of(front, message.ticket);
    assert_null(outcome->bytes[message.image]);
    outcome->picture[message.image] = message;
    outcome->bytes[message.image] =
        read_shared(fd, (size_t)(message.file_bytes + message.thumbnail_bytes));
    outcome->picture_count++;
}

static void take_preview(struct front *front, struct record_reader reader, int fd)
{
    struct preview_message message;
    struct outcome *outcome;
    off_t size = lseek(fd, 0, SEEK_END);
    unsigned char *bytes = read_shared(fd, (size_t)size);

    assert_true(preview_message_read(&message, reader));
    outcome = outcome_of(front, message.ticket);
    outcome->preview_count++;
    image_finish(&outcome->preview);
    assert_true(image_decode(&outcome->preview, bytes, (size_t)size, &IMAGE_LIMITS_DEFAULT,
                             "preview", NULL));
    assert_int_equal(outcome->preview.width, message.width);
    assert_int_equal(outcome->preview.height, message.height);
    free(bytes);
}

static void take_progress(struct front *front, struct record_reader reader)
{
    struct progress_message message;
    struct outcome *outcome;

    assert_true(progress_message_read(&message, reader));
    outcome = outcome_of(front, message.ticket);
    outcome->progress_count++;
    outcome->phase = message.phase;
    if (message.step > 0)
        outcome->steps_seen = message.step;
    if (message.batch_size > outcome->batch_size_max)
        outcome->batch_size_max = message.batch_size;
}

static void take_end(struct front *front, uint32_t type, struct record_reader reader)
{
    struct done_message done;
    struct failed_message failed;
    struct outcome *outcome;

    if (type == MESSAGE_DONE) {
        assert_true(done_message_read(&done, reader));
        outcome = outcome_of(front, done.ticket);
        outcome->done = done;
        if (done.pictures_skipped == 0) /* else that may have been the last thing */
            assert_int_equal(outcome->phase, JOB_PHASE_SAVE);
        outcome->is_done = true;
    } else {
        assert_true(failed_message_read(&failed, reader));
        outcome = outcome_of(front, failed.ticket);
        outcome->failed = failed;
        outcome->has_failed = true;
    }
    outcome->order = front->ended++;
}

static void take(struct front *front, uint32_t type, struct record_reader reader, int fd)
{
    struct loading_message loading;
    struct device_message device;

    switch (type) {
    case MESSAGE_LOADING:
        assert_true(loading_message_read(&loading, reader));
        assert_false(front->is_ready);
        front->loading_count++;
        break;
    case MESSAGE_READY:
        assert_true(worker_facts_read(&front->facts, reader));
        front->is_ready = true;
        break;
    case MESSAGE_PROGRESS:
        take_progress(front, reader);
        break;
    case MESSAGE_PREVIEW:
        take_preview(front, reader, fd);
        break;
    case MESSAGE_PICTURE:
        take_picture(front, reader, fd);
        break;
    case MESSAGE_DONE:
    case MESSAGE_FAILED:
        take_end(front, type, reader);
        break;
    case MESSAGE_ESTIMATED:
        assert_true(estimated_message_read(&front->estimated, reader));
        front->has_estimated = true;
        break;
    case MESSAGE_UPSCALED:
        assert_true(upscaled_message_read(&front->upscaled, reader));
        front->upscaled_count++;
        if (front->upscaled.file_bytes > 0)
            front->upscaled_bytes = read_shared(fd, (size_t)front->upscaled.file_bytes);
        break;
    case MESSAGE_DEVICE:
        assert_true(device_message_read(&device, reader));
        assert_true(device.memory_total >= device.memory_free && device.memory_used_by_us > 0);
        front->device_count++;
        break;
    default:
        fail_msg("message %u", type);
    }
}

bool front_listen(struct front *front)
{
    struct pollfd poll_fd = {.fd = channel_fd(front->channel), .events = POLLIN};
    struct record_reader reader;
    uint32_t type;
    int fd;

    for (;;) {
        switch (channel_receive(front->channel, &type, &reader, &fd)) {
        case CHANNEL_RECORD:
            take(front, type, reader, fd);
            return true;
        case CHANNEL_CLOSED:
            return false;
        case CHANNEL_BROKEN:
            fail_msg("the channel is broken");
            return false;
        case CHANNEL_NOTHING:
            if (poll(&poll_fd, 1, PATIENCE_MS) == 0)
                fail_msg("the worker says nothing");
        }
    }
}

void front_listen_until_ended(struct front *front, int count)
{
    while (front->ended < count)
        assert_true(front_listen(front));
}

/* --- Specs, and what they look like alone --- */

struct job_spec front_spec(const char *prompt, int steps, uint64_t seed)
{
    return (struct job_spec){
        .prompt = (char *)(uintptr_t)prompt,
        .negative_prompt = (char *)(uintptr_t) "blurry",
        .width = SIDE,
        .height = SIDE,
        .steps = steps,
        .count = 1,
        .t5_tokens = 77,
        .guidance = 4.5,
        .flow_shift = 3.0,
        .seed = seed,
        .skip_layer_scale = 2.5,
        .skip_layer_start = 0.01,
        .skip_layer_stop = 0.2,
        .strength = 0.6,
        .format = IMAGE_PNG,
        .quality = 90,
    };
}

static void draw_alone(struct image *out, const struct job_spec *spec, int image,
                       const struct image *init, const struct image *mask)
{
    const struct pipeline_options options = {.model = model, .device = "cpu"};
    struct pipeline_request request;
    struct pipeline_result result;
    struct pipeline *pipeline;
    struct error err;

    if (!pipeline_create(&pipeline, &options, &err))
        fail_msg("%s", err.message);
    pipeline_request_defaults(pipeline, &request);
    request.prompt = spec->prompt;
    request.negative_prompt = spec->negative_prompt;
    request.width = spec->width;
    request.height = spec->height;
    request.steps = spec->steps;
    request.guidance_scale = spec->guidance;
    request.flow_shift = spec->flow_shift;
    request.t5_tokens = spec->t5_tokens;
    request.seed = spec->seed + (uint64_t)image;
    request.init_image = init;
    request.mask = mask;
    front_clear_fault(NULL);
    request.strength = spec->strength;
    if (!pipeline_run(pipeline, &request, NULL, &result, &err))
        fail_msg("%s", err.message);
    *out = result.images[0];
    result.images[0] = (struct image){0};
    pipeline_result_finish(&result);
    pipeline_destroy(pipeline);
}

void front_expect_as_alone(const struct outcome *outcome, const struct job_spec *spec, int image,
                           const struct image *init, const struct image *mask)
{
    const struct picture_message *message = &outcome->picture[image];
    struct image picture, alone;
    struct error err;

    assert_true(outcome->is_done);
    assert_non_null(outcome->bytes[image]);
    assert_true(message->seed == spec->seed + (uint64_t)image);
    assert_int_equal(message->format, IMAGE_PNG);
    if (!image_decode(&picture, outcome->bytes[image], (size_t)message->file_bytes,
                      &IMAGE_LIMITS_DEFAULT, "picture", &err))
        fail_msg("%s", err.message);
    assert_int_equal(picture.width, spec->width);
    assert_int_equal(picture.height, spec->height);
    draw_alone(&alone, spec, image, init, mask);
    assert_memory_equal(picture.pixels, alone.pixels,
                        (size_t)3 * (size_t)spec->width * (size_t)spec->height);
    image_finish(&picture);
    image_finish(&alone);
}

void front_expect_cancelled(const struct outcome *outcome)
{
    assert_true(outcome->has_failed);
    assert_int_equal(outcome->failed.failure, JOB_FAILURE_CANCELLED);
    assert_int_equal(outcome->picture_count, 0);
}
