/* Messages between front and worker, each a record. A ticket names a job on one channel; the front
 * counts them up.
 */
#ifndef WIRE_MESSAGES_H
#define WIRE_MESSAGES_H

#include <stdatomic.h>

#include "job/job_spec.h"
#include "wire/record.h"

enum message_type {
    /* front -> worker */
    MESSAGE_JOB = 1,  /* struct job_message */
    MESSAGE_CANCEL,   /* u64 ticket */
    MESSAGE_WATCH,    /* u64 ticket, bool: previews are wanted */
    MESSAGE_ESTIMATE, /* u64 ticket, spec without pictures: answered by ESTIMATED, drawn never */
    MESSAGE_DRAIN,    /* nothing: finish what runs, take nothing more, exit 0 */
    MESSAGE_SKIP,     /* struct skip_message: leave the picture out if it is not done, go on */
    MESSAGE_UPSCALE,  /* struct upscale_message: answered by UPSCALED */
    /* worker -> front */
    MESSAGE_LOADING = 64, /* struct loading_message: while it cannot draw yet */
    MESSAGE_READY,        /* struct worker_facts */
    MESSAGE_PROGRESS,     /* struct progress_message */
    MESSAGE_PREVIEW,      /* struct preview_message, with a memfd: a JPEG */
    MESSAGE_PICTURE,      /* struct picture_message, with a memfd: the picture's file, then the
                           * thumbnail's, one after the other */
    MESSAGE_DONE,         /* struct done_message: after the last picture */
    MESSAGE_FAILED,       /* struct failed_message: instead; JOB_FAILURE_CANCELLED also when every
                           * picture was skipped */
    MESSAGE_ESTIMATED,    /* struct estimated_message */
    MESSAGE_DEVICE,       /* struct device_message, about once a second */
    MESSAGE_UPSCALED, /* struct upscaled_message, with a memfd where there is a picture: a PNG */
};

struct job_message {
    uint64_t ticket;
    bool is_watched; /* previews are wanted from the start */
    bool is_frugal;  /* memory was short for it: one picture at a time */
    int32_t attempt; /* 1 at first */
    struct job_spec spec;
    bool is_skipped[JOB_COUNT_MAX]; /* by picture: left out from the start */
};

struct skip_message {
    uint64_t ticket;
    int32_t image; /* 0 to count - 1; a greater one does not matter */
};

struct loading_message {
    char what[64];   /* "opening the model", "loading weights" */
    double fraction; /* 0 to 1 */
};

enum job_phase {
    JOB_PHASE_WAIT,
    JOB_PHASE_ENCODE,
    JOB_PHASE_DENOISE,
    JOB_PHASE_DECODE,
    JOB_PHASE_SAVE
};

struct progress_message {
    uint64_t ticket;
    enum job_phase phase;
    int32_t step, step_count; /* of the denoising of all its pictures */
    int32_t pictures_done;
    double step_seconds; /* of the latest; 0: unknown, or told of another job of its batch */
    int32_t batch_size;  /* pictures that went through the network together */
};

struct preview_message {
    uint64_t ticket;
    int32_t image, step, width, height;
};

struct picture_message {
    uint64_t ticket;
    int32_t image; /* 0 to count - 1 */
    uint64_t seed;
    int32_t width, height;
    uint64_t file_bytes, thumbnail_bytes;
    enum image_format format; /* of the file; thumbnails are JPEGs of at most 256 x 256 */
};

struct done_message {
    uint64_t ticket;
    double encode_seconds, denoise_seconds, decode_seconds, total_seconds;
    int32_t clip_tokens_cut, t5_tokens_cut;
    bool was_short_of_memory, was_repeated;
    int32_t pictures_skipped; /* there is no picture of these */
};

struct failed_message {
    uint64_t ticket;
    enum job_failure {
        JOB_FAILURE_BAD_REQUEST, /* the caller's: message names the field */
        JOB_FAILURE_CANCELLED,
        JOB_FAILURE_NO_MEMORY,
        JOB_FAILURE_NUMERIC, /* not finite, also in 16 bits */
        JOB_FAILURE_BACKEND,
        JOB_FAILURE_INTERNAL,
    } failure;
    char message[512];
};

struct estimated_message {
    uint64_t ticket;
    bool fits; /* false: message says why */
    uint64_t peak_bytes, free_bytes;
    double seconds; /* from what was measured; 0: unknown yet */
    char message[512];
};

struct upscale_message {
    uint64_t ticket;
    int32_t width, height;           /* that the picture is resized to */
    int32_t crop_width, crop_height; /* of its middle, which is kept */
    bool by_nearest;                 /* else Lanczos */
    struct job_image file;           /* PNG, JPEG or WebP */
};

struct upscaled_message {
    uint64_t ticket;
    uint64_t file_bytes; /* 0: there is no picture, and message says why; "": memory was short */
    char message[512];
};

struct device_message {
    uint64_t memory_free, memory_total, memory_used_by_us;
    int32_t utilisation_percent, temperature_celsius; /* -1: unknown */
    double power_watts;                               /* -1: unknown */
    int32_t running;                                  /* jobs that are being drawn */
};

/* Each writes into an empty writer, whose has_failed tells. */
void job_message_write(struct record_writer *writer, const struct job_message *message);
void spec_write(struct record_writer *writer, const struct job_spec *spec);
void skip_message_write(struct record_writer *writer, const struct skip_message *message);
void loading_message_write(struct record_writer *writer, const struct loading_message *message);
void worker_facts_write(struct record_writer *writer, const struct worker_facts *facts);
void progress_message_write(struct record_writer *writer, const struct progress_message *message);
void preview_message_write(struct record_writer *writer, const struct preview_message *message);
void picture_message_write(struct record_writer *writer, const struct picture_message *message);
void done_message_write(struct record_writer *writer, const struct done_message *message);
void failed_message_write(struct record_writer *writer, const struct failed_message *message);
void estimated_message_write(struct record_writer *writer, const struct estimated_message *message);
void upscale_message_write(struct record_writer *writer, const struct upscale_message *message);
void upscaled_message_write(struct record_writer *writer, const struct upscaled_message *message);
void device_message_write(struct record_writer *writer, const struct device_message *message);

/* Each reads a whole record; false when it is damaged: too short, too long, an enum or a length out
 * of range. What is owned is freed with job_spec_finish. */
MUST_CHECK bool job_message_read(struct job_message *message, struct record_reader reader);
MUST_CHECK bool spec_read(struct job_spec *spec, struct record_reader *reader);
MUST_CHECK bool skip_message_read(struct skip_message *message, struct record_reader reader);
MUST_CHECK bool loading_message_read(struct loading_message *message, struct record_reader reader);
MUST_CHECK bool worker_facts_read(struct worker_facts *facts, struct record_reader reader);
MUST_CHECK bool progress_message_read(struct progress_message *message,
                                      struct record_reader reader);
MUST_CHECK bool preview_message_read(struct preview_message *message, struct record_reader reader);
MUST_CHECK bool picture_message_read(struct picture_message *message, struct record_reader reader);
MUST_CHECK bool done_message_read(struct done_message *message, struct record_reader reader);
MUST_CHECK bool failed_message_read(struct failed_message *message, struct record_reader reader);
MUST_CHECK bool estimated_message_read(struct estimated_message *message,
                                       struct record_reader reader);
/* The file is freed by the caller. */
MUST_CHECK bool upscale_message_read(struct upscale_message *message, struct record_reader reader);
MUST_CHECK bool upscaled_message_read(struct upscaled_message *message,
                                      struct record_reader reader);
MUST_CHECK bool device_message_read(struct device_message *message, struct record_reader reader);

/* In a page that both processes map: the worker counts up while it is alive. */
struct heartbeat {
    _Atomic uint64_t beats;       /* by a step, a load, an idle second */
    _Atomic uint64_t doing;       /* enum heartbeat_phase */
    _Atomic uint64_t step_micros; /* average of a step, for the watchdog's patience */
};
enum heartbeat_phase {
    HEARTBEAT_LOADING,
    HEARTBEAT_IDLE,
    HEARTBEAT_ENCODE,
    HEARTBEAT_STEP,
    HEARTBEAT_DECODE
};

#endif
