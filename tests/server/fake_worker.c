#include "server/fake_worker.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/support.h"

void fake_worker_come(struct fake_worker *worker, int control_fd, uint32_t index, uint32_t restarts)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct worker_arrived arrived = {.index = index, .pid = 1, .restarts = restarts};
    struct iovec part = {&arrived, sizeof arrived};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    int ends[2], memory = memfd_create("heartbeat", MFD_CLOEXEC);
    struct error err;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    assert_int_equal(ftruncate(memory, sizeof *worker->heartbeat), 0);
    worker->heartbeat =
        mmap(NULL, sizeof *worker->heartbeat, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(&control.header), (int[2]){ends[0], memory}, 2 * sizeof(int));
    assert_int_equal(sendmsg(control_fd, &message, 0), sizeof arrived);
    close(ends[0]);
    close(memory);
    worker->control_fd = control_fd;
    worker->index = index;
    assert_true(channel_create(&worker->channel, ends[1], &err));
}

static void say(struct fake_worker *worker, uint32_t type, struct record_writer *record, int fd)
{
    assert_false(record->has_failed);
    assert_true(channel_send(worker->channel, type, record, fd));
    record_writer_finish(record);
    while (channel_wants_to_send(worker->channel)) {
        struct pollfd polled = {.fd = channel_fd(worker->channel), .events = POLLOUT};

        assert_int_equal(poll(&polled, 1, 60000), 1);
        assert_true(channel_flush(worker->channel));
    }
}

void fake_worker_ready(struct fake_worker *worker)
{
    struct worker_facts facts = {.model = "demo",
                                 .variant = "Demo",
                                 .device = "none",
                                 .side_max = 1024,
                                 .layer_count = 24,
                                 .max_batch = 2,
                                 .width = 64,
                                 .height = 64,
                                 .steps = 4,
                                 .t5_tokens = 77,
                                 .guidance = 4,
                                 .flow_shift = 3};
    struct record_writer record = {0};

    atomic_store(&worker->heartbeat->doing, HEARTBEAT_IDLE);
    worker_facts_write(&record, &facts);
    say(worker, MESSAGE_READY, &record, -1);
}

void fake_worker_end(struct fake_worker *worker, enum worker_end end, uint64_t memory_limit)
{
    struct worker_ended ended = {
        .index = worker->index, .pid = 1, .end = end, .memory_limit = memory_limit};

    channel_destroy(worker->channel);
    munmap(worker->heartbeat, sizeof *worker->heartbeat);
    (void)send(worker->control_fd, &ended, sizeof ended, MSG_NOSIGNAL); /* if there is a hub */
    *worker = (struct fake_worker){0};
}

void fake_worker_die(struct fake_worker *worker)
{
    fake_worker_end(worker, WORKER_EXITED, 0);
}

static struct record_reader wait_for(struct fake_worker *worker, uint32_t type)
{
    for (;;) {
        struct pollfd polled = {.fd = channel_fd(worker->channel), .events = POLLIN};
        struct record_reader reader;
        uint32_t got;
        int fd;

        switch (channel_receive(worker->channel, &got, &reader, &fd)) {
        case CHANNEL_RECORD:
            if (got == type)
                return reader;
            break;
        case CHANNEL_NOTHING:
            assert_int_equal(poll(&polled, 1, 60000), 1);
            break;
        case CHANNEL_CLOSED:
        case CHANNEL_BROKEN:
            fail_msg("the hub closed the channel");
        }
    }
}

uint64_t fake_worker_expect(struct fake_worker *worker, uint32_t type)
{
    struct record_reader reader = wait_for(worker, type);

    return type == MESSAGE_DRAIN ? 0 : record_get_u64(&reader);
}

struct skip_message fake_worker_skip(struct fake_worker *worker)
{
    struct skip_message message;

    assert_true(skip_message_read(&message, wait_for(worker, MESSAGE_SKIP)));
    return message;
}

struct job_message fake_worker_take(struct fake_worker *worker)
{
    struct job_message message;

    assert_true(job_message_read(&message, wait_for(worker, MESSAGE_JOB)));
    return message;
}

void fake_worker_progress(struct fake_worker *worker, uint64_t ticket, int step, int step_count)
{
    struct progress_message progress = {.ticket = ticket,
                                        .phase = JOB_PHASE_DENOISE,
                                        .step = step,
                                        .step_count = step_count,
                                        .step_seconds = 0.1,
                                        .batch_size = 1};
    struct record_writer record = {0};

    progress_message_write(&record, &progress);
    say(worker, MESSAGE_PROGRESS, &record, -1);
}

static int memory_with(const char *text)
{
    int fd = memfd_create("bytes", MFD_CLOEXEC);

    assert_int_equal(write(fd, text, strlen(text)), (int)strlen(text));
    return fd;
}

void fake_worker_picture(struct fake_worker *worker, uint64_t ticket, int image)
{
    struct picture_message picture = {.ticket = ticket,
                                      .image = image,
                                      .seed = 7,
                                      .width = 64,
                                      .height = 64,
                                      .format = IMAGE_PNG};
    struct record_writer record = {0};
    char file[64];

    snprintf(file, sizeof file, "picture %d of %llu, small", image, (unsigned long long)ticket);
    picture.thumbnail_bytes = strlen("small");
    picture.file_bytes = strlen(file) - picture.thumbnail_bytes;
    picture_message_write(&record, &picture);
    say(worker, MESSAGE_PICTURE, &record, memory_with(file));
}

void fake_worker_preview(struct fake_worker *worker, uint64_t ticket)
{
    struct preview_message preview = {.ticket = ticket, .step = 1, .width = 8, .height = 8};
    struct record_writer record = {0};

    preview_message_write(&record, &preview);
    say(worker, MESSAGE_PREVIEW, &record, memory_with("jpeg"));
}

void fake_worker_done(struct fake_worker *worker, uint64_t ticket)
{
    struct done_message done = {.ticket = ticket, .total_seconds = 1};
    struct record_writer record = {0};

    done_message_write(&record, &done);
    say(worker, MESSAGE_DONE, &record, -1);
}

void fake_worker_failed(struct fake_worker *worker, uint64_t ticket, enum job_failure failure)
{
    struct failed_message failed = {.ticket = ticket, .failure = failure, .message = "no luck"};
    struct record_writer record = {0};

    failed_message_write(&record, &failed);
    say(worker, MESSAGE_FAILED, &record, -1);
}

void fake_worker_estimated(struct fake_worker *worker, uint64_t ticket)
{
    struct estimated_message estimated = {.ticket = ticket, .fits = true, .peak_bytes = 12345};
    struct record_writer record = {0};

    estimated_message_write(&record, &estimated);
    say(worker, MESSAGE_ESTIMATED, &record, -1);
}
