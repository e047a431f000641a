/* Hub: the front's jobs. One thread owns the store and the workers' channels; everybody else talks
 * to it through these calls, which any thread may make.
 *
 * Scheduling: fair over owners (the one that used least, by cost, is next; within an owner in
 * order), each worker gets up to max_batch jobs at once, of which those of equal shape are drawn
 * together.
 */
#ifndef SERVER_HUB_H
#define SERVER_HUB_H

#include <jansson.h>

#include "job/job_spec.h"
#include "store/store.h"
#include "wire/messages.h"

struct hub;

struct hub_options {
    const char *folder; /* of the store */
    int max_queue;      /* jobs that wait, over all owners */
    int max_queue_per_owner;
    int max_batch;          /* jobs at once on a worker */
    double request_timeout; /* seconds from accept to the end; 0: none */
    double disk_reserve;    /* bytes that stay free: below, nothing is accepted (507) */
    double grace;           /* seconds for running jobs after hub_drain */
    struct job_limits limits;
};

/* Opens the store and starts the thread. `control_fd`: from the supervisor, see
 * server/supervisor.h; -1: no workers will come (tests). */
MUST_CHECK bool hub_create(struct hub **out, const struct hub_options *options, int control_fd,
                           struct error *err);
/* No new jobs; running ones get the grace, queued ones stay in the store. */
void hub_drain(struct hub *hub);
bool hub_is_drained(struct hub *hub);
void hub_destroy(struct hub *hub); /* waits for the thread; what still runs is put back */

/* A problem, in the words of our error vocabulary. */
struct hub_error {
    int status;    /* HTTP's: 404, 409, 413, 422, 429, 503, 504, 507 */
    char code[32]; /* "queue_full", "not_found", "idempotency_conflict", "draining", ... */
    char field[64];
    char message[512];
    int retry_after; /* seconds; 0: does not apply */
};

/* A job as seen from outside. Free with job_view_finish. */
struct job_view {
    char id[JOB_ID_BYTES], owner[STORE_OWNER_BYTES], api[16];
    enum job_state state;
    enum job_phase phase;     /* while running */
    int32_t step, step_count; /* while running */
    int32_t position;         /* while queued, from 1 */
    double wait_seconds;      /* while queued: until it starts, expected; -1: unknown */
    double seconds_left;      /* while running or queued: until it is done; -1: unknown */
    int32_t attempts;
    int64_t sequence, created_ms, started_ms, finished_ms;
    char error_code[32];
    char *error_message; /* NULL: none */
    json_t *parameters;  /* the spec's JSON form; NULL in views that ask for less */
    json_t *result;      /* NULL: none */
    int32_t picture_count;
    struct store_picture pictures[STORE_PICTURES_MAX];
};
void job_view_finish(struct job_view *view);

struct hub_submission {
    const struct job_spec *spec; /* copied */
    const char *owner, *api;
    const char *idempotency_key; /* NULL: none */
    const void *body;            /* that the key stands for */
    size_t body_size;
    double timeout;          /* seconds; 0: the server's */
    int32_t jobs_per_minute; /* of the owner's key; 0: no limit */
};
/* Returns when the job is committed: a few milliseconds, so never on a connection's thread. */
MUST_CHECK bool hub_submit(struct hub *hub, const struct hub_submission *submission,
                           struct job_view *out, bool *is_new, struct hub_error *err);

/* From memory: what waits, runs, or ended lately. Never waits for the disk; false: ask
 * hub_load. owner NULL: anybody's. */
bool hub_peek(struct hub *hub, const char *id, const char *owner, struct job_view *out);
/* The same without parsing: out's parameters and result stay NULL, and their JSON texts are the
 * caller's to free; NULL: none. For those who only pass them on, a thousand times a second. */
bool hub_peek_texts(struct hub *hub, const char *id, const char *owner, struct job_view *out,
                    char **parameters, char **result);
/* From memory or the store. */
MUST_CHECK bool hub_load(struct hub *hub, const char *id, const char *owner, struct job_view *out,
                         struct hub_error *err);
MUST_CHECK bool hub_cancel(struct hub *hub, const char *id, const char *owner, struct job_view *out,
                           struct hub_error *err);
/* Leaves out the picture of a running job that is being drawn, the first that is not done; the job
 * goes on with its next one, is done with what it has after the last, and cancelled if that is
 * nothing. A job that does not run is left alone. What was skipped stays so when the worker dies
 * and another one draws the job; a new front draws it whole. */
void hub_skip(struct hub *hub, const char *id, const char *owner);
/* All that the owner has queued or running; NULL: everybody's. Returns how many. */
int hub_cancel_all(struct hub *hub, const char *owner);

/* Newest first; visit gets borrowed views. */
MUST_CHECK bool hub_list(struct hub *hub, const struct store_query *query,
                         void (*visit)(void *context, const struct job_view *job), void *context,
                         struct hub_error *err);
MUST_CHECK bool hub_find_picture(struct hub *hub, const char *picture_id, const char *owner,
                                 struct store_picture *out, char job_id[STORE_ID_BYTES],
                                 struct hub_error *err);
/* The file of a picture or its thumbnail, to read; -1: gone. Any thread, does not go by the hub. */
int hub_open_file(struct hub *hub, const char *path);
MUST_CHECK bool hub_star(struct hub *hub, const char *picture_id, const char *owner, bool starred,
                         struct hub_error *err);
MUST_CHECK bool hub_delete(struct hub *hub, const char *id, const char *owner,
                           struct hub_error *err);
/* From now on part of the facts, and of what workers write into pictures. */
void hub_set_model_hash(struct hub *hub, const char *hash);
/* Runs on the hub's thread with the store, and returns then: for keys and settings. */
MUST_CHECK bool hub_with_store(struct hub *hub,
                               bool (*use)(void *context, struct store *store, struct error *err),
                               void *context, struct error *err);
/* What a request would take. Waits for a worker's answer, a second at most. */
MUST_CHECK bool hub_estimate(struct hub *hub, const struct job_spec *spec,
                             struct estimated_message *out, struct hub_error *err);
/* A worker decodes a picture and enlarges it; the ticket is the hub's. Waits for a minute at most.
 * The caller frees *out, a PNG. Fails with 422 for a picture that does not decode. */
MUST_CHECK bool hub_upscale(struct hub *hub, const struct upscale_message *picture,
                            unsigned char **out, size_t *size, struct hub_error *err);

/* --- Being told --- */

enum hub_event_type {
    EVENT_JOB_QUEUED,
    EVENT_JOB_STARTED,
    EVENT_JOB_PROGRESS,
    EVENT_JOB_PREVIEW, /* bytes: a JPEG */
    EVENT_PICTURE,     /* a picture of the job is stored */
    EVENT_JOB_DONE,
    EVENT_JOB_FAILED,
    EVENT_JOB_CANCELLED,
    EVENT_JOB_DELETED,
    EVENT_STAR,   /* a picture of the job got its star or lost it */
    EVENT_WORKER, /* came, is ready, went */
    EVENT_GAP,    /* the past that was asked for is gone: load everything anew */
};
const char *hub_event_name(enum hub_event_type type); /* "job.queued", ... */

struct hub_event {
    uint64_t number; /* counts up over the life of the front; 0 for previews, which are not kept */
    enum hub_event_type type;
    const struct job_view *job; /* NULL: not about one */
    const void *bytes;          /* of a preview */
    size_t size;
    int32_t image; /* of a preview, picture or star */
    int32_t step;  /* of a preview: steps that its picture has behind it */
};

struct hub_subscription;
struct hub_interest {
    const char *owner; /* NULL: everybody's */
    const char *job;   /* NULL: all */
    bool wants_previews;
    uint64_t after; /* number of the last event that was seen; 0: from now on */
};
/* `tell` is called on the hub's thread, in order, and must not wait nor call the hub back but for
 * hub_peek; the past first. */
MUST_CHECK bool hub_subscribe(struct hub *hub, struct hub_subscription **out,
                              const struct hub_interest *interest,
                              void (*tell)(void *context, const struct hub_event *event),
                              void *context, struct error *err);
/* `tell` is not called any more once this returned. Not from `tell`. */
void hub_unsubscribe(struct hub *hub, struct hub_subscription *subscription);

/* --- The whole --- */

struct hub_state {
    bool is_ready; /* a worker can draw, the store takes jobs, the disk is good, nothing is held */
    bool store_works, is_draining;
    enum store_disk disk;
    int pictures_held; /* finished ones that the disk does not take */
    int workers, workers_ready;
    struct loading_message loading; /* of a worker that is not ready */
    bool has_facts;
    struct worker_facts facts; /* of the first ready worker, or the last one known */
    struct device_message device;
    bool has_device;
    int queued, running;
    int restarts;            /* of workers */
    double seconds_per_cost; /* measured; 0: unknown */
};
void hub_state(struct hub *hub, struct hub_state *out); /* never waits */
/* The store refused to write several times over though the disk has room, as it does for good once
 * a sync failed: only a new process, which reads everything anew, gets on. Never waits. */
bool hub_must_restart(struct hub *hub);

#endif
