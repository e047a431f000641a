/* The front's side of a worker in a process of its own, for tests. */
#ifndef TESTS_SERVER_WORKER_FRONT_H
#define TESTS_SERVER_WORKER_FRONT_H

#include <sys/types.h>

#include "image/image.h"
#include "wire/messages.h"

#define SIDE 64
#define JOBS_MAX 4

/* --- Faults of the pipeline, chosen before the worker is started --- */

struct pipeline_fault {
    int step, latent; /* which call fails, from 1, the first is the warm-up's; 0: none does */
    bool for_good;    /* and all after it */
    enum error_code code;
    int places_max;     /* of a batch; 0: any */
    int steps, latents; /* calls so far */
};
extern struct pipeline_fault front_fault;
int front_clear_fault(void **state); /* a test's setup or teardown */

/* --- The front --- */

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

/* A group's setup: the model of all workers. */
int front_setup(void **state);
struct front *front_start(int max_batch);
int front_end(struct front *front); /* the worker's exit code */

void front_send_record(struct front *front, enum message_type type, struct record_writer *record);
void front_send_message(struct front *front, const struct job_message *message);
void front_send_job(struct front *front, uint64_t ticket, const struct job_spec *spec,
                    bool is_watched);
void front_send_skip(struct front *front, uint64_t ticket, int image);
void front_send_ticket(struct front *front, enum message_type type, uint64_t ticket);

/* Takes the next message. False: the worker closed its end. */
bool front_listen(struct front *front);
void front_listen_until_ended(struct front *front, int count);

/* --- Specs, and what they look like alone --- */

struct job_spec front_spec(const char *prompt, int steps, uint64_t seed);
void front_expect_as_alone(const struct outcome *outcome, const struct job_spec *spec, int image,
                           const struct image *init, const struct image *mask);
void front_expect_cancelled(const struct outcome *outcome);

#endif
