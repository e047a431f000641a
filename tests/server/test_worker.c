/* The worker, in a process of its own, as the front sees it: pictures come as if each were drawn
 * alone, and whatever happens to one job is none of the others' business. */
#include "support/pictures.h"
#include "support/png_alpha.h"
#include "support/support.h"
#include "support/test_model.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/version.h"
#include "pipeline/pipeline_batch.h"
#include "server/a1111_response.h"
#include "wire/channel.h"
#include "worker/worker.h"

#define SIDE 64
#define PATIENCE_MS 120000 /* nothing here takes as long, under sanitizers either */
#define JOBS_MAX 4

static const char *model;

static int write_model(void **state)
{
    (void)state;
    model = test_model();
    return 0;
}

/* --- Faults of the pipeline, chosen before the worker is started --- */

static struct {
    int step, latent; /* which call fails, from 1, the first is the warm-up's; 0: none does */
    bool for_good;    /* and all after it */
    enum error_code code;
    int places_max;     /* of a batch; 0: any */
    int steps, latents; /* calls so far */
} fault;

static bool strikes(int call, int chosen)
{
    return chosen > 0 && (call == chosen || (call > chosen && fault.for_good));
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
    if (strikes(++fault.steps, fault.step))
        return error_set(err, fault.code, "a step that fails");
    return __real_pipeline_batch_step(batch, err);
}

bool __wrap_pipeline_batch_latent(struct pipeline_batch *batch, int place, float *latent,
                                  struct error *err)
{
    if (strikes(++fault.latents, fault.latent))
        return error_set(err, fault.code, "a latent that fails");
    return __real_pipeline_batch_latent(batch, place, latent, err);
}

bool __wrap_pipeline_batch_open(struct pipeline_batch **out, struct pipeline *pipeline,
                                const struct pipeline_request *like, int places, struct error *err)
{
    if (fault.places_max > 0 && places > fault.places_max)
        return error_set(err, ERROR_NO_MEMORY, "%d places are too many", places);
    return __real_pipeline_batch_open(out, pipeline, like, places, err);
}

static int clear_fault(void **state)
{
    (void)state;
    memset(&fault, 0, sizeof fault);
    return 0;
}

/* --- The front's side --- */

/* What became of a job, whose ticket is its index here. */
struct outcome {
    bool is_done, has_failed;
    int order; /* of its end among the jobs */
    struct done_message done;
    struct failed_message failed;
    int picture_count, preview_count, progress_count;
    struct picture_message picture[JOB_COUNT_MAX];
    unsigned char *bytes[JOB_COUNT_MAX]; /* file, then thumbnail */
    struct image preview;                /* the latest */
    int steps_seen, batch_size_max;
    enum job_phase phase; /* the latest */
};

struct front {
    pid_t pid;
    struct channel *channel;
    struct heartbeat *heartbeat;
    bool is_ready;
    struct worker_facts facts;
    int loading_count, device_count, ended;
    struct estimated_message estimated;
    bool has_estimated;
    struct upscaled_message upscaled;
    unsigned char *upscaled_bytes; /* NULL: none */
    int upscaled_count;
    struct outcome outcome[JOBS_MAX];
};

static struct front *start_worker(int max_batch)
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
        fault.steps = fault.latents = 0; /* of pictures drawn here */
        _exit(worker_run(fds[1], &options));
    }
    close(fds[1]);
    assert_true(channel_create(&front->channel, fds[0], &err));
    return front;
}

/* Its exit code. */
static int end_of(struct front *front)
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

static void send_record(struct front *front, enum message_type type, struct record_writer *record)
{
    assert_true(channel_send(front->channel, type, record, -1));
    record_writer_finish(record);
}

static void send_message(struct front *front, const struct job_message *message)
{
    struct record_writer record = {0};

    job_message_write(&record, message);
    send_record(front, MESSAGE_JOB, &record);
}

static void send_job(struct front *front, uint64_t ticket, const struct job_spec *spec,
                     bool is_watched)
{
    const struct job_message message = {
        .ticket = ticket, .is_watched = is_watched, .attempt = 1, .spec = *spec};

    send_message(front, &message);
}

static void send_skip(struct front *front, uint64_t ticket, int image)
{
    const struct skip_message message = {.ticket = ticket, .image = image};
    struct record_writer record = {0};

    skip_message_write(&record, &message);
    send_record(front, MESSAGE_SKIP, &record);
}

static void send_ticket(struct front *front, enum message_type type, uint64_t ticket)
{
    struct record_writer record = {0};

    record_put_u64(&record, ticket);
    if (type == MESSAGE_WATCH)
        record_put_bool(&record, true);
    send_record(front, type, &record);
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

/* Takes the next message. False: the worker closed its end. */
static bool listen_once(struct front *front)
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

static void listen_until_ended(struct front *front, int count)
{
    while (front->ended < count)
        assert_true(listen_once(front));
}

/* --- Specs, and what they look like alone --- */

static struct job_spec spec_of(const char *prompt, int steps, uint64_t seed)
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
    clear_fault(NULL);
    request.strength = spec->strength;
    if (!pipeline_run(pipeline, &request, NULL, &result, &err))
        fail_msg("%s", err.message);
    *out = result.images[0];
    result.images[0] = (struct image){0};
    pipeline_result_finish(&result);
    pipeline_destroy(pipeline);
}

static void expect_as_alone(const struct outcome *outcome, const struct job_spec *spec, int image,
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

/* --- Tests --- */

static void a_job_gives_its_picture(void **state)
{
    struct front *front = start_worker(2);
    const struct job_spec spec = spec_of("a red apple", 4, 7);
    const struct outcome *outcome = &front->outcome[0];
    char *infotext, *json;
    struct image thumbnail;

    (void)state;
    send_job(front, 0, &spec, false);
    listen_until_ended(front, 1);
    assert_true(front->is_ready && front->loading_count > 0 && front->device_count > 0);
    assert_int_equal(front->facts.max_batch, 2);
    assert_true(front->facts.side_max >= SIDE && front->facts.has_encoder);
    assert_true(atomic_load(&front->heartbeat->beats) > 4);
    assert_true(atomic_load(&front->heartbeat->step_micros) > 0);
    assert_int_equal(outcome->picture_count, 1);
    assert_int_equal(outcome->preview_count, 0); /* nobody watches */
    assert_int_equal(outcome->steps_seen, 4);
    assert_true(outcome->done.total_seconds > 0);
    expect_as_alone(outcome, &spec, 0, NULL, NULL);
    assert_true(image_metadata_read(&infotext, &json, outcome->bytes[0],
                                    (size_t)outcome->picture[0].file_bytes, NULL));
    assert_memory_equal(infotext, "a red apple\nNegative prompt: blurry\nSteps: 4, ", 46);
    assert_non_null(strstr(infotext, "Seed: 7,"));
    assert_non_null(strstr(json, "\"guidance_scale\": 4.5"));
    free(infotext);
    free(json);
    assert_true(image_decode(&thumbnail, outcome->bytes[0] + outcome->picture[0].file_bytes,
                             (size_t)outcome->picture[0].thumbnail_bytes, &IMAGE_LIMITS_DEFAULT,
                             "thumbnail", NULL));
    assert_int_equal(thumbnail.width, SIDE);
    image_finish(&thumbnail);
    assert_int_equal(end_of(front), 0);
}

/* They are there before the worker is ready, so it finds them together. */
static void jobs_of_one_shape_are_drawn_together(void **state)
{
    struct front *front = start_worker(3);
    struct job_spec first = spec_of("a red apple", 6, 1), second = spec_of("two pears", 9, 2);

    (void)state;
    second.guidance = 7.0;
    second.count = 2;
    send_job(front, 0, &first, false);
    send_job(front, 1, &second, false);
    listen_until_ended(front, 2);
    assert_int_equal(front->outcome[0].batch_size_max, 3);
    assert_int_equal(front->outcome[0].order, 0);
    expect_as_alone(&front->outcome[0], &first, 0, NULL, NULL);
    expect_as_alone(&front->outcome[1], &second, 0, NULL, NULL);
    expect_as_alone(&front->outcome[1], &second, 1, NULL, NULL);
    assert_int_equal(front->outcome[1].steps_seen, 18);
    assert_int_equal(end_of(front), 0);
}

static void pictures_join_as_places_get_free(void **state)
{
    struct front *front = start_worker(2);
    struct job_spec spec = spec_of("a red apple", 3, 1);

    (void)state;
    spec.count = 3;
    send_job(front, 0, &spec, false);
    listen_until_ended(front, 1);
    assert_int_equal(front->outcome[0].picture_count, 3);
    assert_int_equal(front->outcome[0].batch_size_max, 2);
    for (int i = 0; i < 3; i++)
        expect_as_alone(&front->outcome[0], &spec, i, NULL, NULL);
    assert_int_equal(end_of(front), 0);
}

/* The third could join the first at once, and would be done first. */
static void another_shape_is_not_overtaken(void **state)
{
    struct front *front = start_worker(2);
    struct job_spec first = spec_of("a red apple", 8, 1), wide = spec_of("a pear", 2, 2);
    struct job_spec third = spec_of("a bird", 1, 3);

    (void)state;
    wide.width = 2 * SIDE;
    send_job(front, 0, &first, false);
    send_job(front, 1, &wide, false);
    send_job(front, 2, &third, false);
    listen_until_ended(front, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(front->outcome[i].order, i);
        assert_int_equal(front->outcome[i].batch_size_max, 1);
    }
    expect_as_alone(&front->outcome[1], &wide, 0, NULL, NULL);
    assert_int_equal(end_of(front), 0);
}

static void expect_cancelled(const struct outcome *outcome)
{
    assert_true(outcome->has_failed);
    assert_int_equal(outcome->failed.failure, JOB_FAILURE_CANCELLED);
    assert_int_equal(outcome->picture_count, 0);
}

static void cancelled_jobs_leave(void **state)
{
    struct front *front = start_worker(2);
    struct job_spec endless = spec_of("a red apple", 1000, 1), wide = spec_of("a pear", 1000, 2);
    struct job_spec shorter = spec_of("a bird", 3, 3);

    (void)state;
    wide.width = 2 * SIDE;
    send_job(front, 0, &endless, false);
    send_job(front, 1, &wide, false);
    while (front->outcome[0].steps_seen == 0)
        assert_true(listen_once(front));
    send_ticket(front, MESSAGE_CANCEL, 1); /* waits */
    listen_until_ended(front, 1);
    expect_cancelled(&front->outcome[1]);
    assert_int_equal(front->outcome[1].progress_count, 0);
    send_ticket(front, MESSAGE_CANCEL, 0); /* runs, and stops within its step */
    send_ticket(front, MESSAGE_CANCEL, 3); /* nobody's */
    send_job(front, 2, &shorter, false);
    listen_until_ended(front, 3);
    expect_cancelled(&front->outcome[0]);
    expect_as_alone(&front->outcome[2], &shorter, 0, NULL, NULL);
    assert_int_equal(end_of(front), 0);
}

/* It is done, and has all its pictures but one. */
static void expect_without(const struct outcome *outcome, const struct job_spec *spec, int left_out)
{
    assert_true(outcome->is_done);
    assert_int_equal(outcome->done.pictures_skipped, 1);
    assert_int_equal(outcome->picture_count, spec->count - 1);
    assert_null(outcome->bytes[left_out]);
    for (int i = 0; i < spec->count; i++)
        if (i != left_out)
            expect_as_alone(outcome, spec, i, NULL, NULL);
}

static void skipped_pictures_are_left_out_and_the_others_go_on(void **state)
{
    struct front *front = start_worker(2);
    struct job_spec three = spec_of("a red apple", 1000, 1), single = spec_of("a pear", 1000, 2);
    struct job_spec shorter = spec_of("a bird", 30, 3);

    (void)state;
    three.count = 3;
    send_job(front, 0, &three, false);
    while (front->outcome[0].steps_seen == 0)
        assert_true(listen_once(front));
    for (int i = 0; i < 3; i++) /* two that are drawn, and one that waits for a place */
        send_skip(front, 0, i);
    send_skip(front, 0, 3); /* there is none */
    send_skip(front, 3, 0); /* nobody's */
    listen_until_ended(front, 1);
    expect_cancelled(&front->outcome[0]);
    send_job(front, 1, &single, false);
    send_skip(front, 1, 0);
    listen_until_ended(front, 2);
    expect_cancelled(&front->outcome[1]);
    shorter.count = 3;
    send_job(front, 2, &shorter, false);
    send_skip(front, 2, 1);
    listen_until_ended(front, 3);
    expect_without(&front->outcome[2], &shorter, 1);
    assert_int_equal(end_of(front), 0);
}

static void what_was_skipped_before_is_left_out_from_the_start(void **state)
{
    struct front *front = start_worker(2);
    struct job_spec spec = spec_of("a bird", 3, 3);
    struct job_message message = {.ticket = 0, .attempt = 2};

    (void)state;
    spec.count = 3;
    message.spec = spec;
    message.is_skipped[1] = true;
    send_message(front, &message);
    listen_until_ended(front, 1);
    expect_without(&front->outcome[0], &spec, 1);
    message.ticket = 1;
    for (int i = 0; i < 3; i++)
        message.is_skipped[i] = true;
    send_message(front, &message);
    listen_until_ended(front, 2);
    expect_cancelled(&front->outcome[1]);
    assert_int_equal(front->outcome[1].progress_count, 0);
    assert_int_equal(end_of(front), 0);
}

static void what_is_done_is_not_skipped(void **state)
{
    struct front *front = start_worker(1);
    struct job_spec spec = spec_of("a bird", 30, 3);

    (void)state;
    spec.count = 2;
    send_job(front, 0, &spec, false);
    while (front->outcome[0].picture_count == 0)
        assert_true(listen_once(front));
    send_skip(front, 0, 0);
    listen_until_ended(front, 1);
    assert_int_equal(front->outcome[0].done.pictures_skipped, 0);
    for (int i = 0; i < 2; i++)
        expect_as_alone(&front->outcome[0], &spec, i, NULL, NULL);
    assert_int_equal(end_of(front), 0);
}

static void skipping_stops_a_picture_that_is_drawn_alone(void **state)
{
    struct job_spec spec = spec_of("a red apple", 1000, 1);
    struct front *front;

    (void)state;
    spec.count = 2;
    fault.step = 2;
    fault.code = ERROR_NO_MEMORY;
    front = start_worker(2);
    send_job(front, 0, &spec, false);
    while (front->outcome[0].steps_seen == 0)
        assert_true(listen_once(front));
    send_skip(front, 0, 1);
    send_skip(front, 0, 0);
    listen_until_ended(front, 1);
    expect_cancelled(&front->outcome[0]);
    assert_int_equal(end_of(front), 0);
}

static void estimate(struct front *front, const struct job_spec *spec)
{
    struct record_writer record = {0};

    record_put_u64(&record, 9);
    spec_write(&record, spec);
    front->has_estimated = false;
    send_record(front, MESSAGE_ESTIMATE, &record);
    while (!front->has_estimated)
        assert_true(listen_once(front));
    assert_int_equal(front->estimated.ticket, 9);
}

static void estimates_draw_nothing(void **state)
{
    struct front *front = start_worker(2);
    struct job_spec spec = spec_of("a red apple", 2, 1);

    (void)state;
    estimate(front, &spec);
    assert_true(front->estimated.fits);
    assert_true(front->estimated.peak_bytes > 1 << 20);
    assert_true(front->estimated.seconds == 0.0);
    assert_string_equal(front->estimated.message, "");
    send_job(front, 0, &spec, false);
    listen_until_ended(front, 1);
    estimate(front, &spec);
    assert_true(front->estimated.seconds > 0.0);
    spec.width = 16384;
    estimate(front, &spec);
    assert_false(front->estimated.fits);
    assert_non_null(strstr(front->estimated.message, "width"));
    assert_int_equal(end_of(front), 0);
}

static struct job_image file_of(const struct image *picture)
{
    struct job_image file;

    assert_true(image_encode(&file.bytes, &file.size, picture, IMAGE_PNG, 90, NULL, NULL));
    return file;
}

static void pictures_of_requests_are_decoded_here(void **state)
{
    struct front *front = start_worker(2);
    struct image init = test_soft_picture(SIDE, SIDE), mask = test_soft_picture(SIDE, SIDE);
    struct job_spec good = spec_of("a red apple", 4, 1), bad = good;

    (void)state;
    good.init_image = bad.init_image = file_of(&init);
    good.mask = file_of(&mask);
    bad.init_image.size /= 2; /* its header is whole */
    send_job(front, 0, &bad, false);
    send_job(front, 1, &good, false);
    listen_until_ended(front, 2);
    assert_true(front->outcome[0].has_failed);
    assert_int_equal(front->outcome[0].failed.failure, JOB_FAILURE_BAD_REQUEST);
    assert_non_null(strstr(front->outcome[0].failed.message, "init_image"));
    expect_as_alone(&front->outcome[1], &good, 0, &init, &mask);
    free(good.init_image.bytes);
    free(good.mask.bytes);
    image_finish(&init);
    image_finish(&mask);
    assert_int_equal(end_of(front), 0);
}

/* White all over; in its alpha the upper half is opaque. */
static struct job_image half_opaque(void)
{
    static unsigned char rows[SIDE * SIDE * 4];
    const struct test_png png = {.width = SIDE,
                                 .height = SIDE,
                                 .depth = 8,
                                 .colour = PNG_COLOR_TYPE_RGB_ALPHA,
                                 .rows = rows,
                                 .row_bytes = (size_t)SIDE * 4};
    struct job_image file;

    memset(rows, 255, sizeof rows);
    for (size_t i = sizeof rows / 2; i < sizeof rows; i += 4)
        rows[i + 3] = 0;
    file.bytes = test_write_png(&file.size, &png);
    return file;
}

/* One half of it is white. */
static struct image half_white(bool is_upper)
{
    struct image mask;
    size_t half = (size_t)SIDE * SIDE * 3 / 2;

    assert_true(image_init(&mask, SIDE, SIDE, NULL));
    memset(mask.pixels + (is_upper ? 0 : half), 255, half);
    return mask;
}

static void masks_say_what_is_repainted(void **state)
{
    static const struct {
        bool is_alpha, is_inverted, repaints_upper;
    } cases[] = {
        {false, false, true}, {false, true, false}, {true, false, false}, {true, true, true}};
    struct image halves[] = {half_white(false), half_white(true)};
    struct image init = test_soft_picture(SIDE, SIDE);
    struct job_image init_file = file_of(&init), grey = file_of(&halves[1]), alpha = half_opaque();
    struct front *front = start_worker(4);
    struct job_spec spec = spec_of("a red apple", 4, 1);

    (void)state;
    spec.init_image = init_file;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        spec.mask = cases[i].is_alpha ? alpha : grey;
        spec.mask_is_alpha = cases[i].is_alpha;
        spec.mask_inverted = cases[i].is_inverted;
        send_job(front, i, &spec, false);
    }
    listen_until_ended(front, (int)COUNT_OF(cases));
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        expect_as_alone(&front->outcome[i], &spec, 0, &init, &halves[cases[i].repaints_upper]);
    free(init_file.bytes);
    free(grey.bytes);
    free(alpha.bytes);
    image_finish(&halves[0]);
    image_finish(&halves[1]);
    image_finish(&init);
    assert_int_equal(end_of(front), 0);
}

static void a_mask_without_alpha_is_refused_where_it_needs_one(void **state)
{
    struct front *front = start_worker(1);
    struct image picture = test_soft_picture(SIDE, SIDE);
    struct job_image file = file_of(&picture);
    struct job_spec spec = spec_of("a red apple", 4, 1);

    (void)state;
    spec.init_image = spec.mask = file;
    spec.mask_is_alpha = true;
    send_job(front, 0, &spec, false);
    listen_until_ended(front, 1);
    assert_true(front->outcome[0].has_failed);
    assert_int_equal(front->outcome[0].failed.failure, JOB_FAILURE_BAD_REQUEST);
    assert_string_equal(front->outcome[0].failed.message, "'mask' has no alpha channel");
    free(file.bytes);
    image_finish(&picture);
    assert_int_equal(end_of(front), 0);
}

/* --- What A1111's clients are told --- */

/* Of the answer that the front makes once the spec's pictures are gone. */
static void expect_infotexts(const struct front *front, const struct job_spec *spec,
                             const struct outcome *outcome)
{
    const uint64_t seeds[] = {spec->seed, spec->seed + 1};
    struct worker_facts facts = front->facts; /* the hash is the front's to know */
    const struct a1111_answer answer = {.spec = spec,
                                        .has_init_image = spec->init_image.bytes != NULL,
                                        .facts = &facts,
                                        .seeds = seeds,
                                        .picture_count = 2,
                                        .batch_size = 2,
                                        .ignored = "",
                                        .version = PROGRAM_NAME_AND_VERSION};
    json_t *text, *info;

    text = a1111_info(&answer);
    info = json_loads(json_string_value(text), 0, NULL);
    assert_non_null(info);
    for (size_t i = 0; i < COUNT_OF(seeds); i++) {
        const json_t *told = json_array_get(json_object_get(info, "infotexts"), i);
        char *infotext, *json;

        assert_true(image_metadata_read(&infotext, &json, outcome->bytes[i],
                                        (size_t)outcome->picture[i].file_bytes, NULL));
        assert_non_null(infotext);
        assert_string_equal(json_string_value(told), infotext);
        assert_non_null(json);
        free(infotext);
        free(json);
    }
    json_decref(info);
    json_decref(text);
}

static void infotexts_are_those_of_the_files(void **state)
{
    struct image init = test_soft_picture(SIDE, SIDE);
    struct job_image file = file_of(&init);
    struct front *front = start_worker(2);
    struct job_spec plain = spec_of("a \xf0\x9f\x8d\x8e, red\nand \"round\"", 2, 41), full = plain;

    (void)state;
    plain.count = full.count = 2;
    full.init_image = file;
    full.strength = 0.7;
    full.guidance = 1.1;
    full.skip_layers[0] = 1;
    full.skip_layer_count = 1;
    full.format = IMAGE_JPEG;
    send_job(front, 0, &plain, false);
    send_job(front, 1, &full, false);
    listen_until_ended(front, 2);
    for (int i = 0; i < 2; i++)
        if (!front->outcome[i].is_done)
            fail_msg("%s", front->outcome[i].failed.message);
    expect_infotexts(front, &plain, &front->outcome[0]);
    expect_infotexts(front, &full, &front->outcome[1]);
    free(file.bytes);
    image_finish(&init);
    assert_int_equal(end_of(front), 0);
}

static void previews_are_for_those_who_watch(void **state)
{
    struct front *front = start_worker(2);
    struct job_spec spec = spec_of("a red apple", 5, 1), endless = spec_of("a pear", 1000, 2);

    (void)state;
    spec.count = 2; /* drawn together: both are shown */
    send_job(front, 0, &spec, true);
    listen_until_ended(front, 1);
    assert_int_equal(front->outcome[0].preview_count, 8); /* after the last step they are done */
    assert_int_equal(front->outcome[0].preview.width, SIDE / 2);
    send_job(front, 1, &endless, false);
    while (front->outcome[1].steps_seen == 0)
        assert_true(listen_once(front));
    assert_int_equal(front->outcome[1].preview_count, 0);
    send_ticket(front, MESSAGE_WATCH, 1);
    while (front->outcome[1].preview_count == 0)
        assert_true(listen_once(front));
    assert_int_equal(end_of(front), 0); /* gone in the middle of it */
}

static void draining_finishes_what_came_before(void **state)
{
    struct front *front = start_worker(1);
    struct job_spec spec = spec_of("a red apple", 3, 1);
    struct record_writer record = {0};

    (void)state;
    send_job(front, 0, &spec, false);
    send_job(front, 1, &spec, false);
    send_record(front, MESSAGE_DRAIN, &record);
    send_job(front, 2, &spec, false); /* not taken: the front still has it */
    while (listen_once(front))
        ;
    assert_true(front->outcome[0].is_done && front->outcome[1].is_done);
    assert_int_equal(front->ended, 2);
    assert_int_equal(end_of(front), 0);
}

static void a_front_that_goes_ends_it(void **state)
{
    struct front *front = start_worker(1);
    struct job_spec spec = spec_of("a red apple", 1000, 1);

    (void)state;
    send_job(front, 0, &spec, false);
    while (front->outcome[0].steps_seen == 0)
        assert_true(listen_once(front));
    assert_int_equal(end_of(front), 0);
    front = start_worker(1); /* while it opens */
    assert_int_equal(end_of(front), 0);
}

static void strange_messages_end_it(void **state)
{
    struct front *front = start_worker(1);
    struct record_writer record = {0};

    (void)state;
    send_record(front, MESSAGE_JOB, &record); /* empty */
    while (listen_once(front))
        ;
    assert_int_equal(end_of(front), error_exit_code(ERROR_IO));
}

static void a_batch_has_the_places_that_memory_has(void **state)
{
    struct front *front;
    struct job_spec spec = spec_of("a red apple", 3, 1);

    (void)state;
    spec.count = 5;
    fault.places_max = 3;
    front = start_worker(4);
    send_job(front, 0, &spec, false);
    listen_until_ended(front, 1);
    assert_int_equal(front->outcome[0].batch_size_max, 2); /* half of 4 */
    for (int i = 0; i < 5; i++)
        expect_as_alone(&front->outcome[0], &spec, i, NULL, NULL);
    assert_int_equal(end_of(front), 0);
}

static void what_memory_fails_is_drawn_alone(void **state)
{
    struct front *front;
    struct job_spec first = spec_of("a red apple", 4, 1), second = spec_of("a pear", 6, 2);

    (void)state;
    second.count = 2;
    fault.step = 4;
    fault.code = ERROR_NO_MEMORY;
    front = start_worker(3);
    send_job(front, 0, &first, false);
    send_job(front, 1, &second, false);
    listen_until_ended(front, 2);
    assert_true(front->outcome[0].done.was_short_of_memory);
    expect_as_alone(&front->outcome[0], &first, 0, NULL, NULL);
    expect_as_alone(&front->outcome[1], &second, 0, NULL, NULL);
    expect_as_alone(&front->outcome[1], &second, 1, NULL, NULL);
    assert_int_equal(end_of(front), 0);
}

/* Sends, and waits for the answer. */
static void upscale(struct front *front, const struct upscale_message *message)
{
    int before = front->upscaled_count;
    struct record_writer record = {0};

    upscale_message_write(&record, message);
    send_record(front, MESSAGE_UPSCALE, &record);
    while (front->upscaled_count == before)
        assert_true(listen_once(front));
    assert_int_equal(front->upscaled.ticket, message->ticket);
}

static void pictures_are_enlarged_with_their_texts(void **state)
{
    struct front *front = start_worker(1);
    struct image image = test_soft_picture(40, 30), larger, wanted, back;
    const struct image_metadata texts = {.infotext = "a\nSteps: 1, Seed: 2, Size: 40x30"};
    struct upscale_message message = {7, 80, 60, 60, 60, false, {0}};
    char *infotext, *json;
    struct error err;

    (void)state;
    assert_true(
        image_encode(&message.file.bytes, &message.file.size, &image, IMAGE_PNG, 90, &texts, &err));
    upscale(front, &message);
    assert_non_null(front->upscaled_bytes);
    assert_true(image_decode(&back, front->upscaled_bytes, (size_t)front->upscaled.file_bytes,
                             &IMAGE_LIMITS_DEFAULT, "answer", &err));
    assert_true(image_resize(&larger, &image, 80, 60, &err));
    assert_true(image_crop(&wanted, &larger, 60, 60, &err));
    assert_int_equal(back.width, 60);
    assert_int_equal(back.height, 60);
    assert_memory_equal(back.pixels, wanted.pixels, 60 * 60 * 3);
    assert_true(image_metadata_read(&infotext, &json, front->upscaled_bytes,
                                    (size_t)front->upscaled.file_bytes, &err));
    assert_string_equal(infotext, texts.infotext);
    free(infotext);
    free(json);
    free(front->upscaled_bytes);
    front->upscaled_bytes = NULL;
    message.file.size -= 20;
    upscale(front, &message);
    assert_null(front->upscaled_bytes);
    assert_non_null(strstr(front->upscaled.message, "image"));
    free(message.file.bytes);
    image_finish(&image);
    image_finish(&larger);
    image_finish(&wanted);
    image_finish(&back);
    assert_int_equal(end_of(front), 0);
}

/* The first picture of the second job; the first job and the job's other picture are fine. */
static void what_is_no_number_is_drawn_again(void **state)
{
    struct front *front;
    struct job_spec first = spec_of("a red apple", 3, 1), second = spec_of("a pear", 4, 2);

    (void)state;
    second.count = 2;
    fault.latent = 3;
    fault.code = ERROR_NOT_FINITE;
    front = start_worker(3);
    send_job(front, 0, &first, false);
    send_job(front, 1, &second, false);
    listen_until_ended(front, 2);
    assert_false(front->outcome[0].done.was_repeated);
    assert_true(front->outcome[1].done.was_repeated);
    expect_as_alone(&front->outcome[0], &first, 0, NULL, NULL);
    expect_as_alone(&front->outcome[1], &second, 0, NULL, NULL);
    expect_as_alone(&front->outcome[1], &second, 1, NULL, NULL);
    assert_int_equal(end_of(front), 0);
}

static void what_fails_alone_too_has_failed(void **state)
{
    static const struct {
        enum error_code code;
        enum job_failure failure;
    } ends[] = {{ERROR_NOT_FINITE, JOB_FAILURE_NUMERIC},
                {ERROR_NO_MEMORY, JOB_FAILURE_NO_MEMORY},
                {ERROR_IO, JOB_FAILURE_INTERNAL}};
    struct job_spec spec = spec_of("a red apple", 2, 1);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        struct front *front;

        fault.latent = 2;
        fault.for_good = true;
        fault.code = ends[i].code;
        front = start_worker(2);
        send_job(front, 0, &spec, false);
        listen_until_ended(front, 1);
        assert_true(front->outcome[0].has_failed);
        assert_int_equal(front->outcome[0].failed.failure, ends[i].failure);
        assert_int_equal(front->outcome[0].picture_count, 0);
        assert_int_equal(end_of(front), 0);
    }
}

static void a_lost_device_ends_the_worker(void **state)
{
    struct front *front;
    struct job_spec spec = spec_of("a red apple", 5, 1);

    (void)state;
    fault.step = 3;
    fault.code = ERROR_BACKEND;
    front = start_worker(2);
    send_job(front, 0, &spec, false);
    while (listen_once(front))
        ;
    assert_int_equal(front->ended, 0); /* the front gives the job to the next worker */
    assert_int_equal(end_of(front), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_gives_its_picture),
        cmocka_unit_test(jobs_of_one_shape_are_drawn_together),
        cmocka_unit_test(pictures_join_as_places_get_free),
        cmocka_unit_test(another_shape_is_not_overtaken),
        cmocka_unit_test(cancelled_jobs_leave),
        cmocka_unit_test(skipped_pictures_are_left_out_and_the_others_go_on),
        cmocka_unit_test(what_was_skipped_before_is_left_out_from_the_start),
        cmocka_unit_test(what_is_done_is_not_skipped),
        cmocka_unit_test(pictures_are_enlarged_with_their_texts),
        cmocka_unit_test_setup(skipping_stops_a_picture_that_is_drawn_alone, clear_fault),
        cmocka_unit_test(estimates_draw_nothing),
        cmocka_unit_test(pictures_of_requests_are_decoded_here),
        cmocka_unit_test(masks_say_what_is_repainted),
        cmocka_unit_test(a_mask_without_alpha_is_refused_where_it_needs_one),
        cmocka_unit_test(infotexts_are_those_of_the_files),
        cmocka_unit_test(previews_are_for_those_who_watch),
        cmocka_unit_test(draining_finishes_what_came_before),
        cmocka_unit_test(a_front_that_goes_ends_it),
        cmocka_unit_test(strange_messages_end_it),
        cmocka_unit_test_teardown(a_batch_has_the_places_that_memory_has, clear_fault),
        cmocka_unit_test_teardown(what_memory_fails_is_drawn_alone, clear_fault),
        cmocka_unit_test_teardown(what_is_no_number_is_drawn_again, clear_fault),
        cmocka_unit_test_teardown(what_fails_alone_too_has_failed, clear_fault),
        cmocka_unit_test_teardown(a_lost_device_ends_the_worker, clear_fault),
    };

    return cmocka_run_group_tests(tests, write_model, NULL);
}
