/* What the files of the hub share. Every function here runs on the hub's thread unless it says
 * otherwise.
 *
 * Two locks, never held together, while the disk is waited for, or while calling out:
 *   hub->lock       jobs, queue, workers' facts: written by the hub's thread alone, which therefore
 *                   reads them without it; others read under it. Functions that want it held end in
 *                   _locked.
 *   calls.lock      the requests of other threads
 *   events.lock     subscriptions and the numbers of events
 */
#ifndef SERVER_HUB_PRIVATE_H
#define SERVER_HUB_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "server/hub.h"
#include "server/limits.h"
#include "server/reasons.h"
#include "wire/channel.h"

#define HUB_BUCKETS 4096
#define HUB_BATCH_MAX 64

struct hub_worker;

/* What a job still owes the store: done at once, and again each second while the disk fails. */
enum hub_owed { OWED_NOTHING, OWED_FINISH, OWED_FAIL, OWED_CANCEL, OWED_REQUEUE, OWED_PUT_BACK };

/* A picture in an attempt at its job. One that is left out stays so in the next attempt. */
enum hub_picture { PICTURE_AHEAD, PICTURE_HAS_COME, PICTURE_IS_LEFT_OUT };

struct hub_job {
    struct hub_job *next_in_bucket;
    struct hub_job *next, *previous; /* while queued: of the owner's; when ended: of the recent */
    struct hub_owner *owner;         /* while queued or running */

    char id[STORE_ID_BYTES], owner_name[STORE_OWNER_BYTES], api[16];
    enum job_state state;
    enum job_phase phase;
    int32_t step, step_count, attempts;
    int64_t fence; /* -1 while queued */
    int64_t sequence, created_ms, started_ms, finished_ms;
    double cost;
    double expires; /* of seconds_now(); 0: never */
    char error_code[32];
    char *error_message, *parameters, *result; /* texts; NULL: none */
    struct store_picture *pictures;
    int32_t picture_count;
    enum hub_picture drawing[JOB_COUNT_MAX]; /* the hub's thread alone */

    struct hub_worker *worker; /* while running; NULL: its worker is gone */
    double share_started;      /* hub_worker.share at the start */
    double queued_at;          /* of seconds_now() */
    bool is_watched;           /* the worker makes previews */
    bool was_too_large; /* its worker ran out of memory: it is drawn in as little as can be */

    enum hub_owed owed;
    enum fault fault; /* of FAIL */
    char *owed_text;  /* of FAIL the message, of FINISH the result */
};

struct hub_owner {
    struct hub_owner *next;
    char name[STORE_OWNER_BYTES];
    double used;                  /* virtual time: cost of all that it was given */
    struct hub_job *first, *last; /* that wait, by sequence */
    int queued, running;
    int entering;               /* submissions of this turn that are not committed yet */
    double tokens, refilled_at; /* of jobs_per_minute; refilled_at 0: full */
};

struct hub_queue {
    struct hub_owner *owners;
    double virtual_now; /* `used` of the owner that was served last, before it was */
    int count;
    int entering; /* as an owner's */
};

struct hub_slot {
    uint64_t ticket;     /* 0: free */
    struct hub_job *job; /* NULL: cancelled; the place is free once the worker says so */
};

struct hub_worker {
    struct hub_worker *next;
    uint32_t index;
    int32_t pid;
    struct channel *channel;
    struct heartbeat *heartbeat; /* mapped */
    bool is_lost;                /* freed at the end of the turn */
    double lost_at;              /* 0: or once the supervisor has said why, or soon after this */
    bool is_killed;              /* the supervisor was asked to */
    uint32_t end;                /* enum worker_end, once the supervisor has said it */
    uint64_t memory_limit;       /* with it */
    bool waits_to_send;          /* as epoll knows it */
    bool is_ready;
    struct worker_facts facts;
    struct loading_message loading;
    struct device_message device;
    bool has_device;
    struct hub_slot slots[HUB_BATCH_MAX];
    int taken;              /* slots, those of cancelled jobs too */
    double share, share_at; /* seconds, each divided by the jobs that ran in it */
    uint64_t beats;         /* when last looked at */
    double beat_at, born_at;
};

/* A request of another thread; it lies on that thread's stack until `is_done`. */
struct hub_call {
    struct hub_call *next;
    void (*run)(struct hub *hub, struct hub_call *call); /* ends with hub_complete, now or later */
    bool is_submission;                                  /* run is NULL: see hub_store.c */
    bool was_refused;                                    /* the hub is stopping; valid once done */
    bool is_done;                                        /* under calls.lock */
    pthread_cond_t done;
};

struct hub_calls {
    pthread_mutex_t lock;
    struct hub_call *first, *last; /* under lock */
    bool is_closed;                /* under lock */
};

struct kept_event {
    uint64_t number;
    enum hub_event_type type;
    int32_t image;
    unsigned char *snapshot;      /* a job_view up to its last picture, then the texts of error and
                                     result; NULL: no job */
    size_t view_bytes, result_at; /* result_at 0: none */
};

struct hub_subscription {
    struct hub_subscription *next, *previous;
    char owner[STORE_OWNER_BYTES], job[STORE_ID_BYTES]; /* "": any */
    bool wants_previews;
    uint64_t seen; /* the last number that it was told */
    bool is_busy;  /* `tell` runs */
    void (*tell)(void *context, const struct hub_event *event);
    void *context;
};

struct hub_events {
    pthread_mutex_t lock;
    pthread_cond_t not_busy;
    struct hub_subscription *first; /* under lock */
    uint64_t last_number;           /* under lock */
    uint64_t first_number;          /* before the first one of this life; fixed */
    bool have_watchers_changed;     /* under lock */
    struct kept_event *ring;        /* [EVENTS_KEPT], the hub's thread alone */
    struct job_view telling;        /* the hub's thread alone */
};

/* The watchdog's patience in seconds; tests have less. */
struct hub_patience {
    double least, unmeasured;
};

/* Finished pictures that the disk did not take. */
struct hub_held {
    struct held_picture *first; /* the oldest */
    size_t bytes, bytes_max;
    int count; /* under hub->lock */
    double seconds_max;
    double pause, next_try; /* while there is one */
};

struct hub {
    struct hub_options options; /* fixed; folder is a copy */
    struct store *store;        /* the hub's thread alone, but for store_open_file */
    int control_fd, epoll_fd, wake_fd, timer_fd;
    pthread_t thread;
    bool has_thread;
    atomic_bool is_stopping;
    struct hub_calls calls;
    struct hub_events events;

    pthread_mutex_t lock;
    struct hub_job *buckets[HUB_BUCKETS];       /* under lock */
    struct hub_job *recent_first, *recent_last; /* oldest first; under lock */
    int recent_count;                           /* under lock */
    struct hub_queue queue;                     /* under lock */
    struct hub_worker *workers;                 /* under lock */
    int running, restarts;                      /* under lock */
    bool is_draining, is_drained;               /* under lock */
    bool store_works;                           /* under lock */
    enum store_disk disk;                       /* under lock */
    bool has_facts;                             /* under lock */
    struct worker_facts facts;                  /* under lock */
    char model_hash[65];                        /* under lock; "": unknown yet */
    double seconds_per_cost;                    /* under lock */
    struct hub_patience patience;               /* under lock */

    struct hub_held held;
    double drain_until, dispatch_after, next_tick, next_expiry, disk_looked_at, swept_at;
    int failed_probes;
    atomic_bool must_restart;
    uint64_t last_ticket;
    struct hub_question *questions; /* that wait for a worker's answer */
};

/* --- hub.c --- */

int64_t hub_wall_ms(void);
/* Any thread: gives the call to the hub's thread and waits for its end. False: the hub is stopping.
 */
MUST_CHECK bool hub_ask(struct hub *hub, struct hub_call *call);
void hub_complete(struct hub *hub, struct hub_call *call);
void hub_wake(struct hub *hub); /* any thread */
void hub_fail(struct hub_error *err, int status, const char *code, int retry_after,
              const char *format, ...) PRINTF_LIKE(5, 6);
void hub_fail_stopping(struct hub_error *err);
/* Tests only; before workers come. */
void hub_set_patience(struct hub *hub, double least, double unmeasured);
/* Before pictures come. */
void hub_set_held_limits(struct hub *hub, double seconds, size_t bytes);

/* --- hub_jobs.c --- */

struct hub_job *hub_job_create(const struct store_job *row); /* NULL: memory is short */
void hub_job_destroy(struct hub_job *job);
struct hub_job *hub_job_find_locked(struct hub *hub, const char *id, const char *owner);
void hub_job_add_locked(struct hub *hub, struct hub_job *job);
/* Among those that ended; the oldest of them are freed. */
void hub_job_retire_locked(struct hub *hub, struct hub_job *job);
void hub_job_forget_locked(struct hub *hub, struct hub_job *job); /* and frees it */
/* The pictures of the row instead of those it had. False: memory is short. */
MUST_CHECK bool hub_job_set_pictures(struct hub *hub, struct hub_job *job,
                                     const struct store_job *row);
void hub_jobs_destroy(struct hub *hub);

/* Without texts. Shares error_message with the job. */
void hub_view_locked(const struct hub *hub, const struct hub_job *job, struct job_view *out);
/* A view's own copies of the texts, not parsed yet. */
struct hub_view_texts {
    char *parameters, *result;
};
void hub_view_whole_locked(const struct hub *hub, const struct hub_job *job, struct job_view *out,
                           struct hub_view_texts *texts);
void hub_view_parse(struct job_view *out, struct hub_view_texts *texts); /* any thread */
void hub_view_row(const struct store_job *row, struct job_view *out, struct hub_view_texts *texts);

/* --- hub_queue.c --- */

struct hub_owner *hub_owner_find(const struct hub_queue *queue, const char *name);
struct hub_owner *hub_owner_get(struct hub_queue *queue, const char *name); /* NULL: no memory */
void hub_queue_add_locked(struct hub_queue *queue, struct hub_owner *owner, struct hub_job *job);
void hub_queue_remove_locked(struct hub_queue *queue, struct hub_job *job);
struct hub_job *hub_queue_first(const struct hub_queue *queue);
void hub_queue_take_locked(struct hub_queue *queue, struct hub_job *job);      /* it runs */
void hub_queue_give_back_locked(struct hub_queue *queue, struct hub_job *job); /* it waits again */
struct hub_place {
    int position;      /* from 1 */
    double cost_ahead; /* of those that wait before it */
};
struct hub_place hub_queue_place(const struct hub_queue *queue, const struct hub_job *job);
double hub_wait_seconds(const struct hub *hub, const struct hub_job *job); /* -1: unknown */
double hub_seconds_left(const struct hub *hub, const struct hub_job *job); /* -1: unknown */
/* Takes a token of the owner's jobs a minute; else returns the seconds until there is one. */
double hub_owner_wait(struct hub_owner *owner, int32_t jobs_per_minute, double now);
void hub_owner_spend(struct hub_owner *owner);
void hub_queue_sweep_locked(struct hub_queue *queue, double now);
void hub_queue_destroy(struct hub_queue *queue);

/* --- hub_lives.c: how jobs end --- */

/* Sets what the job owes and settles it; takes `text`, NULL is fine. */
void hub_owe(struct hub *hub, struct hub_job *job, enum hub_owed owed, char *text);
void hub_owe_failure(struct hub *hub, struct hub_job *job, enum fault fault, char *message);
/* Pays what the job owes, if that can be; the job may be gone after this. */
void hub_settle(struct hub *hub, struct hub_job *job);
void hub_settle_all(struct hub *hub);
/* The job fails; its place stays taken until the worker heard of it. */
void hub_give_up(struct hub *hub, struct hub_job *job, enum fault fault, const char *message);
void hub_expire(struct hub *hub, double now);
/* Tells the worker to stop drawing it; its place stays taken until the worker answers. */
void hub_leave_worker(struct hub *hub, struct hub_job *job, bool tell);

/* --- hub_held.c --- */

/* Stores a finished picture of a running job, now or later; takes the bytes. */
void hub_keep_picture(struct hub *hub, struct hub_job *job, const struct picture_message *picture,
                      unsigned char *bytes, size_t size);
bool hub_job_is_held(const struct hub *hub, const struct hub_job *job);
/* Forgets the job's pictures that are not stored; NULL: all. */
void hub_drop_held(struct hub *hub, const struct hub_job *job);
void hub_retry_held(struct hub *hub, double now);
double hub_held_next(const struct hub *hub); /* when something is to be tried or given up */

/* --- hub_store.c --- */

void hub_accept_all(struct hub *hub, struct hub_call *submissions);
MUST_CHECK bool hub_load_queue(struct hub *hub, struct error *err);
/* Remembers whether the store works, and says it in the log once. Returns `works`. */
bool hub_note_store(struct hub *hub, bool works, const struct error *err);
void hub_fail_store(struct hub *hub, struct hub_error *out, const struct error *err);
/* Looks at most once a second. */
enum store_disk hub_look_at_disk(struct hub *hub, double now);
void hub_probe_store(struct hub *hub);

/* --- hub_history.c --- */

/* From memory or the store. */
MUST_CHECK bool hub_look(struct hub *hub, const char *id, const char *owner, struct job_view *out,
                         struct hub_view_texts *texts, struct hub_error *err);

/* --- hub_workers.c --- */

void hub_control_readable(struct hub *hub);
void hub_worker_readable(struct hub *hub, struct hub_worker *worker);
MUST_CHECK bool hub_worker_send(struct hub *hub, struct hub_worker *worker, uint32_t type,
                                struct record_writer *record);
/* Asks epoll to say when more can be sent, where something waits. */
void hub_worker_sent(struct hub *hub, struct hub_worker *worker);
void hub_worker_tell(struct hub *hub, struct hub_worker *worker, uint32_t type, uint64_t ticket);
void hub_worker_skip(struct hub *hub, struct hub_worker *worker, const struct hub_job *job,
                     int32_t image);
void hub_worker_share(struct hub_worker *worker, double now); /* before slots change */
struct hub_slot *hub_worker_slot(struct hub_worker *worker, uint64_t ticket);
void hub_free_slot(struct hub *hub, struct hub_worker *worker, struct hub_slot *slot);
/* Its end of the channel is gone. What its jobs are told depends on why, which the supervisor is
 * about to say; they stay with it until then. */
void hub_mourn_worker(struct hub *hub, struct hub_worker *worker, const char *why);
void hub_reap_workers(struct hub *hub);
void hub_watch_beats(struct hub *hub, double now);
void hub_update_watchers(struct hub *hub);
void hub_say(struct hub *hub, int word, uint32_t index); /* enum front_word */
void hub_workers_destroy(struct hub *hub);

/* --- hub_dispatch.c --- */

void hub_dispatch(struct hub *hub, double now);

/* --- hub_messages.c --- */

/* One record of a worker. False: damaged. */
MUST_CHECK bool hub_take_message(struct hub *hub, struct hub_worker *worker, uint32_t type,
                                 struct record_reader reader, int fd);

/* --- hub_questions.c --- */

void hub_estimate_answer(struct hub *hub, const struct estimated_message *message);
/* Takes the bytes; NULL: there are none. */
void hub_upscale_answer(struct hub *hub, const struct upscaled_message *message,
                        unsigned char *bytes);
/* Ends those whose worker is gone (`worker` not NULL) or whose time is up. */
void hub_questions_give_up(struct hub *hub, const struct hub_worker *worker, double now);

double hub_questions_next(const struct hub *hub); /* when the first one's time is up */

/* --- hub_events.c --- */

MUST_CHECK bool hub_events_init(struct hub_events *events, struct error *err);
void hub_events_finish(struct hub_events *events);
void hub_publish(struct hub *hub, enum hub_event_type type, const struct hub_job *job,
                 int32_t image);
void hub_publish_preview(struct hub *hub, const struct hub_job *job, const void *bytes, size_t size,
                         int32_t image, int32_t step);
void hub_tell_all(struct hub *hub);
bool hub_has_watcher(struct hub *hub, const struct hub_job *job);
bool hub_watchers_changed(struct hub *hub);

#endif
