/* The wire: messages survive, damage does not get through, and descriptors stay with their records
 * however the bytes are cut. */
#include "support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/channel.h"
#include "wire/messages.h"

/* --- Messages --- */

static const struct job_message job = {
    .ticket = 0x0123456789abcdef,
    .is_watched = true,
    .is_frugal = true,
    .attempt = 2,
    .spec =
        {
            .prompt = (char *)"a \xf0\x9f\x8d\x8e",
            .prompt_3 = (char *)"",
            .negative_prompt_2 = (char *)"n",
            .width = 64,
            .height = 128,
            .steps = 9,
            .count = 3,
            .t5_tokens = 77,
            .guidance = 4.5,
            .flow_shift = 3,
            .seed = INT64_MAX,
            .skip_layers = {7, 8},
            .skip_layer_count = 2,
            .skip_layer_scale = 2.5,
            .skip_layer_start = 0.01,
            .skip_layer_stop = 0.2,
            .strength = 0.6,
            .format = IMAGE_WEBP,
            .quality = 80,
            .init_image = {(unsigned char *)"file", 4},
            .mask = {(unsigned char *)"", 0},
            .mask_is_alpha = true,
        },
    .is_skipped = {false, true, false},
};
static const struct skip_message skip_it = {7, 2};
static const struct loading_message loading = {"loading weights", 0.5};
static const struct worker_facts facts = {
    "m", "v", "d", "f16", "m.safetensors", "0123456789abcdef", 64, 24, 2, true, false, true, 64, 64,
    4,   77,  1,   3,
};
static const struct progress_message progress = {7, JOB_PHASE_DECODE, 3, 9, 1, 0.25, 2};
static const struct preview_message preview = {7, 1, 3, 64, 128};
static const struct picture_message picture = {7, 2, 12, 64, 128, 1000, 10, IMAGE_JPEG};
static const struct done_message done = {7, 1, 2, 3, 6, 4, 5, true, false, 2};
static const struct failed_message failed = {7, JOB_FAILURE_NUMERIC, "no number"};
static const struct estimated_message estimated = {7, false, 2000, 1000, 1.5, "too large"};
static const struct upscale_message upscale = {
    7, 200, 100, 100, 100, true, {(unsigned char *)"file", 4}};
static const struct upscaled_message upscaled = {7, 1000, ""};
static const struct device_message device = {1, 3, 2, -1, -1, -1, 2};

#define MESSAGE(name, type)                                                                        \
    static void write_##name(struct record_writer *writer)                                         \
    {                                                                                              \
        type##_write(writer, &(name));                                                             \
    }                                                                                              \
    static bool read_##name(struct record_reader reader, struct record_writer *again)              \
    {                                                                                              \
        struct type message;                                                                       \
                                                                                                   \
        if (!type##_read(&message, reader))                                                        \
            return false;                                                                          \
        type##_write(again, &message);                                                             \
        return true;                                                                               \
    }

MESSAGE(skip_it, skip_message)
MESSAGE(loading, loading_message)
MESSAGE(facts, worker_facts)
MESSAGE(progress, progress_message)
MESSAGE(preview, preview_message)
MESSAGE(picture, picture_message)
MESSAGE(done, done_message)
MESSAGE(failed, failed_message)
MESSAGE(estimated, estimated_message)
MESSAGE(upscaled, upscaled_message)
MESSAGE(device, device_message)

static void write_job(struct record_writer *writer)
{
    job_message_write(writer, &job);
}

static bool read_job(struct record_reader reader, struct record_writer *again)
{
    struct job_message message;

    if (!job_message_read(&message, reader)) {
        assert_null(message.spec.prompt);
        return false;
    }
    job_message_write(again, &message);
    job_spec_finish(&message.spec);
    return true;
}

static void write_upscale(struct record_writer *writer)
{
    upscale_message_write(writer, &upscale);
}

static bool read_upscale(struct record_reader reader, struct record_writer *again)
{
    struct upscale_message message;

    if (!upscale_message_read(&message, reader)) {
        assert_null(message.file.bytes);
        return false;
    }
    upscale_message_write(again, &message);
    free(message.file.bytes);
    return true;
}

static const struct {
    const char *name;
    void (*write)(struct record_writer *writer);
    bool (*read)(struct record_reader reader, struct record_writer *again);
} messages[] = {
    {"job", write_job, read_job},
    {"skip", write_skip_it, read_skip_it},
    {"loading", write_loading, read_loading},
    {"facts", write_facts, read_facts},
    {"progress", write_progress, read_progress},
    {"preview", write_preview, read_preview},
    {"picture", write_picture, read_picture},
    {"done", write_done, read_done},
    {"failed", write_failed, read_failed},
    {"estimated", write_estimated, read_estimated},
    {"device", write_device, read_device},
    {"upscale", write_upscale, read_upscale},
    {"upscaled", write_upscaled, read_upscaled},
};

/* From a copy of exactly this size, so that sanitizers see a read past its end. */
static bool reads(size_t message, const unsigned char *bytes, size_t size,
                  struct record_writer *again)
{
    unsigned char *copy = malloc(size + !size);
    bool ok;

    assert_non_null(copy);
    memcpy(copy, bytes, size);
    ok = messages[message].read((struct record_reader){.at = copy, .end = copy + size}, again);
    free(copy);
    return ok;
}

static void messages_survive_and_cut_ones_do_not(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(messages); i++) {
        struct record_writer record = {0}, again = {0};

        messages[i].write(&record);
        assert_false(record.has_failed);
        for (size_t size = 0; size < record.size; size++)
            if (reads(i, record.bytes, size, &again))
                fail_msg("%s: read from %zu of %zu bytes", messages[i].name, size, record.size);
        assert_int_equal(again.size, 0);
        if (!reads(i, record.bytes, record.size, &again))
            fail_msg("%s: not read", messages[i].name);
        assert_int_equal(again.size, record.size);
        assert_memory_equal(again.bytes, record.bytes, record.size);
        record_put_bool(&record, false);
        assert_false(reads(i, record.bytes, record.size, &again)); /* a byte too many */
        record_writer_finish(&record);
        record_writer_finish(&again);
    }
}

static void a_jobs_values_arrive_where_they_belong(void **state)
{
    struct record_writer record = {0};
    struct job_message message;

    (void)state;
    job_message_write(&record, &job);
    assert_true(job_message_read(
        &message, (struct record_reader){.at = record.bytes, .end = record.bytes + record.size}));
    assert_int_equal(message.spec.width, 64);
    assert_int_equal(message.spec.height, 128);
    assert_int_equal(message.spec.init_image.size, 4);
    assert_non_null(message.spec.mask.bytes);
    assert_true(message.spec.mask_is_alpha);
    assert_false(message.spec.mask_inverted);
    assert_false(message.is_skipped[0]);
    assert_true(message.is_skipped[1]);
    job_spec_finish(&message.spec);
    record_writer_finish(&record);
}

/* Every byte with other values: whatever is accepted is within its ranges, since it is the same
 * when it is written again. */
static void damaged_messages_are_refused_or_whole(void **state)
{
    static const unsigned char values[] = {0, 1, 2, 0x7f, 0x80, 0xff};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(messages); i++) {
        struct record_writer record = {0};

        messages[i].write(&record);
        for (size_t at = 0; at < record.size; at++) {
            unsigned char kept = record.bytes[at];

            for (size_t j = 0; j < COUNT_OF(values); j++) {
                struct record_writer again = {0};

                record.bytes[at] = values[j];
                if (reads(i, record.bytes, record.size, &again)) {
                    assert_int_equal(again.size, record.size);
                    assert_memory_equal(again.bytes, record.bytes, record.size);
                }
                record_writer_finish(&again);
            }
            record.bytes[at] = kept;
        }
        record_writer_finish(&record);
    }
}

static void refuse_progress(struct progress_message message)
{
    struct record_writer record = {0}, again = {0};

    progress_message_write(&record, &message);
    assert_false(read_progress(
        (struct record_reader){.at = record.bytes, .end = record.bytes + record.size}, &again));
    record_writer_finish(&record);
}

static void values_out_of_range_are_refused(void **state)
{
    struct progress_message message = progress;

    (void)state;
    message.phase = (enum job_phase)(JOB_PHASE_SAVE + 1);
    refuse_progress(message);
    message.phase = (enum job_phase) - 1;
    refuse_progress(message);
    message = progress;
    message.step = message.step_count + 1;
    refuse_progress(message);
    message = progress;
    message.pictures_done = JOB_COUNT_MAX + 1;
    refuse_progress(message);
    message = progress;
    message.step_seconds = NAN;
    refuse_progress(message);
    message.step_seconds = -1;
    refuse_progress(message);
}

static void texts_are_utf8_and_fit(void **state)
{
    static const char *const bad[] = {"\x80",  "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "a\xc3", "too long"};
    char to[8];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct record_writer record = {0};
        struct record_reader reader;

        record_put_text(&record, bad[i]);
        reader = (struct record_reader){.at = record.bytes, .end = record.bytes + record.size};
        record_get_text_into(&reader, to, sizeof to);
        assert_false(record_reader_is_done(&reader));
        assert_string_equal(to, "");
        record_writer_finish(&record);
    }
}

/* --- Channels --- */

static void open_pair(struct channel **a, struct channel **b, int bytes)
{
    struct error err;
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    if (bytes > 0)
        for (int i = 0; i < 2; i++)
            assert_int_equal(setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes), 0);
    assert_true(channel_create(a, fds[0], &err));
    assert_true(channel_create(b, fds[1], &err));
}

/* A memfd that holds a number. */
static int numbered_fd(int number)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, &number, sizeof number), sizeof number);
    return fd;
}

static int number_in(int fd)
{
    int number = -1;

    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(pread(fd, &number, sizeof number, 0), sizeof number);
    close(fd);
    return number;
}

/* Records of this length hold their number, and every third one has a descriptor. */
static bool send_numbered(struct channel *channel, int number, size_t size)
{
    struct record_writer record = {0};
    bool ok;

    for (size_t i = 0; i < size; i++)
        record_put_i32(&record, number);
    ok = channel_send(channel, (uint32_t)number, &record,
                      number % 3 == 0 ? numbered_fd(number) : -1);
    record_writer_finish(&record);
    return ok;
}

static void expect_numbered(uint32_t type, struct record_reader *reader, int fd, int number,
                            size_t size)
{
    assert_int_equal(type, number);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(record_get_i32(reader), number);
    assert_true(record_reader_is_done(reader));
    if (number % 3 == 0)
        assert_int_equal(number_in(fd), number);
    else
        assert_int_equal(fd, -1);
}

static void descriptors_stay_with_their_records(void **state)
{
    static const size_t sizes[] = {0, 1, 3, 500, 20000};
    struct channel *a, *b;
    int sent = 0, got = 0;

    (void)state;
    open_pair(&a, &b, 1); /* the least that the system gives */
    while (got < 200) {
        struct record_reader reader;
        enum channel_receive result;
        uint32_t type;
        int fd;

        for (int i = 0; i < 4 && sent < 200; i++, sent++)
            assert_true(send_numbered(a, sent, sizes[(size_t)sent % COUNT_OF(sizes)]));
        assert_true(channel_flush(a));
        while ((result = channel_receive(b, &type, &reader, &fd)) == CHANNEL_RECORD) {
            expect_numbered(type, &reader, fd, got, sizes[(size_t)got % COUNT_OF(sizes)]);
            got++;
        }
        assert_int_equal(result, CHANNEL_NOTHING);
    }
    assert_false(channel_wants_to_send(a));
    channel_destroy(a);
    channel_destroy(b);
}

static void a_peer_that_goes_is_noticed(void **state)
{
    struct record_writer empty = {0};
    struct record_reader reader;
    struct channel *a, *b;
    uint32_t type;
    int fd;

    (void)state;
    open_pair(&a, &b, 0);
    assert_true(send_numbered(a, 3, 10));
    assert_int_equal(write(channel_fd(a), "half a header", 5), 5);
    channel_destroy(a);
    assert_int_equal(channel_receive(b, &type, &reader, &fd), CHANNEL_RECORD);
    expect_numbered(type, &reader, fd, 3, 10);
    assert_int_equal(channel_receive(b, &type, &reader, &fd), CHANNEL_CLOSED);
    assert_int_equal(channel_receive(b, &type, &reader, &fd), CHANNEL_CLOSED);
    assert_false(channel_send(b, 1, &empty, numbered_fd(1))); /* and no SIGPIPE */
    assert_false(channel_flush(b));
    channel_destroy(b);
}

static void what_waits_is_bounded(void **state)
{
    struct record_writer big = {.size = RECORD_BYTES_MAX};
    struct channel *a, *b;

    (void)state;
    big.bytes = calloc(1, big.size);
    assert_non_null(big.bytes);
    open_pair(&a, &b, 0);
    assert_true(channel_send(a, 1, &big, -1));
    assert_true(channel_send(a, 1, &big, -1));
    assert_false(channel_send(a, 1, &big, -1));
    assert_true(channel_wants_to_send(a));
    big.has_failed = true;
    assert_false(channel_send(a, 1, &big, numbered_fd(1)));
    record_writer_finish(&big);
    channel_destroy(a);
    channel_destroy(b);
}

static void expect_broken(const void *bytes, size_t size)
{
    struct record_reader reader;
    struct channel *a, *b;
    uint32_t type;
    int fd;

    open_pair(&a, &b, 0);
    assert_int_equal(write(channel_fd(a), bytes, size), size);
    assert_int_equal(channel_receive(b, &type, &reader, &fd), CHANNEL_BROKEN);
    assert_int_equal(channel_receive(b, &type, &reader, &fd), CHANNEL_BROKEN);
    channel_destroy(a);
    channel_destroy(b);
}

static void strange_bytes_break_the_channel(void **state)
{
    (void)state;
    expect_broken("\xff\xff\xff\xff\1\0\0\0\0\0\0\0", 12); /* too long */
    expect_broken("\0\0\0\0\1\0\0\0\2\0\0\0", 12);         /* unknown flag */
    expect_broken("\0\0\0\0\1\0\0\0\1\0\0\0", 12);         /* a descriptor that did not come */
}

/* The record whose descriptor could not be received has none; the next one's is not its. */
static void a_lost_descriptor_is_the_records_own(void **state)
{
    struct record_reader reader;
    struct rlimit limit, none;
    struct channel *a, *b;
    uint32_t type;
    int fd;

    (void)state;
    open_pair(&a, &b, 0);
    assert_true(send_numbered(a, 3, 1));
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(channel_receive(b, &type, &reader, &fd), CHANNEL_RECORD);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(type, 3);
    assert_int_equal(fd, -1);
    assert_true(send_numbered(a, 6, 1));
    assert_int_equal(channel_receive(b, &type, &reader, &fd), CHANNEL_RECORD);
    expect_numbered(type, &reader, fd, 6, 1);
    channel_destroy(a);
    channel_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_survive_and_cut_ones_do_not),
        cmocka_unit_test(a_jobs_values_arrive_where_they_belong),
        cmocka_unit_test(damaged_messages_are_refused_or_whole),
        cmocka_unit_test(values_out_of_range_are_refused),
        cmocka_unit_test(texts_are_utf8_and_fit),
        cmocka_unit_test(descriptors_stay_with_their_records),
        cmocka_unit_test(a_peer_that_goes_is_noticed),
        cmocka_unit_test(what_waits_is_bounded),
        cmocka_unit_test(strange_bytes_break_the_channel),
        cmocka_unit_test(a_lost_descriptor_is_the_records_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
