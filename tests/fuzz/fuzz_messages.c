/* Messages: any bytes are refused, or read into a struct that is written to the same bytes. The
 * first byte picks the reader. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "wire/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define READ(type)                                                                                 \
    static void check_##type(struct record_reader reader, struct record_writer *again)             \
    {                                                                                              \
        struct type message;                                                                       \
                                                                                                   \
        if (type##_read(&message, reader))                                                         \
            type##_write(again, &message);                                                         \
    }

READ(loading_message)
READ(worker_facts)
READ(progress_message)
READ(preview_message)
READ(picture_message)
READ(done_message)
READ(failed_message)
READ(estimated_message)
READ(device_message)
READ(upscaled_message)
READ(skip_message)

static void check_job_message(struct record_reader reader, struct record_writer *again)
{
    struct job_message message;

    if (!job_message_read(&message, reader))
        return;
    job_message_write(again, &message);
    job_spec_finish(&message.spec);
}

static void check_upscale_message(struct record_reader reader, struct record_writer *again)
{
    struct upscale_message message;

    if (!upscale_message_read(&message, reader))
        return;
    upscale_message_write(again, &message);
    free(message.file.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static void (*const checks[])(struct record_reader, struct record_writer *) = {
        check_job_message,      check_loading_message,  check_worker_facts,
        check_progress_message, check_preview_message,  check_picture_message,
        check_done_message,     check_failed_message,   check_estimated_message,
        check_device_message,   check_upscaled_message, check_upscale_message,
        check_skip_message,
    };
    struct record_writer again = {0};

    if (size == 0)
        return 0;
    checks[bytes[0] % COUNT_OF(checks)](
        (struct record_reader){.at = bytes + 1, .end = bytes + size}, &again);
    if (again.size > 0 &&
        (again.size != size - 1 || memcmp(again.bytes, bytes + 1, again.size) != 0))
        abort();
    record_writer_finish(&again);
    return 0;
}
