/* The parts of the worker. All of it belongs to the thread that draws. */
#ifndef WORKER_WORKER_PRIVATE_H
#define WORKER_WORKER_PRIVATE_H

#include "base/clock.h"
#include "pipeline/pipeline_batch.h"
#include "worker/inbox.h"
#include "worker/worker.h"

/* Where a picture of a job is, if not at a place of the batch. */
#define PICTURE_WAITS (-1)
#define PICTURE_IS_DONE (-2)
#define PICTURE_IS_SKIPPED (-3)

/* A job in hand. */
struct worker_job {
    struct worker_job *next;
    struct job_message message;
    struct image init_image, mask; /* decoded; empty until it is prepared, and without */
    bool is_prepared;
    struct pipeline_request request; /* borrows the spec's texts and the pictures above */
    struct pipeline_job *job;        /* NULL until it runs */
    int place_of[JOB_COUNT_MAX];     /* by picture */
    int finished, skipped;           /* pictures */
    int steps_alone;                 /* of each that is drawn alone; 0: not known yet */
    bool draws_alone;                /* the batch could not draw what is left of it */
    bool was_short_of_memory, was_repeated;
    enum job_phase phase; /* as last told */
    double told, previewed;
    double started, encoded; /* moments; 0: not yet */
    double encode_seconds, decode_seconds;
    int clip_cut, t5_cut;
};

struct worker {
    const struct worker_options *options;
    struct channel *channel; /* for sending */
    struct inbox *inbox;
    struct pipeline *pipeline;
    struct pipeline_info info;
    int max_batch;             /* the option, or what there is memory for */
    char *model_name;          /* UTF-8 */
    struct worker_facts facts; /* as told when it got ready */
    struct pipeline_batch *batch;
    struct worker_job *jobs;               /* in the order in which they came */
    bool is_draining, is_lost, front_left; /* is_lost: the device failed for good */
    double device_told;
    double step_seconds, seconds_per_cost; /* averages; 0: unknown */
    double untold_step_seconds;            /* of the latest step; 0: was told */
    int batch_size;                        /* of it */
};

/* --- worker_jobs.c --- */

void worker_take_job(struct worker *worker, struct job_message *message); /* takes the spec */
void worker_watch(struct worker *worker, uint64_t ticket, bool is_watched);
void worker_drop_cancelled(struct worker *worker);
/* Leaves pictures out, and ends jobs that have none left to draw. */
void worker_drop_skipped(struct worker *worker);
/* Lets jobs start and join as shapes and places allow. */
void worker_admit(struct worker *worker);
int worker_running(const struct worker *worker);        /* pictures in the batch */
int worker_picture_count(const struct worker_job *job); /* without those that are skipped */
/* Answered and freed: with done, or as cancelled where nothing was drawn. */
void worker_finish_job(struct worker *worker, struct worker_job *job);
/* Answered and freed. */
void worker_fail_job(struct worker *worker, struct worker_job *job, enum job_failure failure,
                     const char *message);
/* What an error means for a job: another try, alone, or its end; or the worker's. True while the
 * job is still in hand. */
bool worker_job_error(struct worker *worker, struct worker_job *job, const struct error *err);
void worker_free_jobs(struct worker *worker); /* without an answer */

/* --- worker_draw.c --- */

/* One step, and what became of its pictures. */
void worker_step(struct worker *worker);
/* The pictures that the job still lacks, by pipeline_run, up to one that is skipped; the batch is
 * gone then. */
void worker_draw_alone(struct worker *worker, struct worker_job *job);
/* Callbacks that beat and tell progress; `tells` lives as long as they are used. */
struct worker_tells {
    struct worker *worker;
    struct worker_job *job; /* NULL: nobody's */
};
struct pipeline_callbacks worker_callbacks(struct worker_tells *tells);

/* --- worker_output.c --- */

/* Encodes the picture and its thumbnail and sends them. */
MUST_CHECK bool worker_send_picture(struct worker *worker, const struct worker_job *job, int image,
                                    const struct image *picture, struct error *err);
/* `small` as pipeline_batch_preview makes it. What fails is left out. */
void worker_send_preview(struct worker *worker, const struct worker_job *job, int image, int step,
                         const struct image *small);

/* A PNG, NULL: none, and why; "": memory is short. */
void worker_send_upscaled(struct worker *worker, uint64_t ticket, const unsigned char *bytes,
                          size_t size, const char *why);

/* --- worker_upscale.c --- */

void worker_answer_upscale(struct worker *worker, const struct upscale_message *message);

/* --- worker_tell.c --- */

/* All of these notice when the front left. */
void worker_send(struct worker *worker, enum message_type type, struct record_writer *record,
                 int fd); /* takes what the writer holds and fd */
void worker_tell_loading(struct worker *worker, const char *what, double fraction);
void worker_tell_ready(struct worker *worker); /* fills its facts */
void worker_tell_progress(struct worker *worker, struct worker_job *job, enum job_phase phase,
                          int step, int step_count);
void worker_tell_done(struct worker *worker, const struct worker_job *job);
void worker_tell_failed(struct worker *worker, uint64_t ticket, enum job_failure failure,
                        const char *message);
void worker_tell_device(struct worker *worker); /* at most once a second */
void worker_answer_estimate(struct worker *worker, const struct job_message *message);
/* As much as fits, ending with a whole character; `text` is UTF-8. */
void worker_fit_text(char *to, size_t size, const char *text);
void worker_beat(struct worker *worker, enum heartbeat_phase doing);

/* The request of a spec, whose texts it borrows, without its pictures. */
struct pipeline_request worker_request(const struct job_spec *spec);

#endif
