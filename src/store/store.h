/* Store: jobs, pictures, keys and sessions that survive a crash. One interface; a driver is SQLite
 * now and may be PostgreSQL later, so leases and fences are in it from the start.
 *
 * Everything is below one folder: pictures in dated folders (2026-11-26/<sha256>.png and
 * .thumb.jpg), the database and the lock in .sd35/. A job is accepted when its row is committed;
 * a picture's file is written to a temporary name, synced, renamed, its folder synced, and then its
 * row is committed. Calls are made by one thread at a time, and each may wait for the disk; only
 * store_open_file may be called by any thread. A `visit` function does not call the store.
 *
 * Failures: ERROR_IO when the disk does (full: the message says so), ERROR_BAD_FILE when the
 * database is damaged or from a newer version, ERROR_NO_MEMORY. After a failed sync the store
 * refuses to write, and is to be opened anew.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"

#define STORE_STATE_FOLDER ".sd35"
#define STORE_DATABASE_NAME "store.sqlite"
#define STORE_LOCK_NAME "lock"

#define STORE_ID_BYTES 33    /* 32 hexadecimal digits: 128 random bits */
#define STORE_OWNER_BYTES 65 /* the name of a user or key */
#define STORE_KEY_BYTES 256  /* of an idempotency key */
#define STORE_ATTEMPTS_MAX 2

enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_DONE, JOB_FAILED, JOB_CANCELLED };
const char *job_state_name(enum job_state state); /* "queued", ... */

struct store;

/* Locks the folder, which exists (a second server on it is ERROR_BAD_REQUEST), brings the schema up
 * to date in one transaction, checks the database, returns running jobs to the queue (a job whose
 * attempts are used up fails as "poison"), and sweeps temporary and orphaned files away. */
MUST_CHECK bool store_open(struct store **out, const char *folder, struct error *err);
void store_close(struct store *store); /* NULL is fine */

/* Between these, calls that write are committed together, or not at all when the commit fails: a
 * thousand accepts cost one sync. Without them each call is its own transaction. A call that fails
 * inside is undone alone, unless the disk failed: then the commit fails. Pictures are files and not
 * part of it: those of a group that is undone stay until the store is opened again. Files of
 * deleted jobs go after the commit. */
MUST_CHECK bool store_begin(struct store *store, struct error *err);
MUST_CHECK bool store_commit(struct store *store, struct error *err);
void store_roll_back(struct store *store);

/* --- Jobs --- */

struct store_blob {
    const void *bytes; /* NULL: none */
    size_t size;
};

struct store_new_job {
    const char *id; /* drawn by the caller */
    const char *owner;
    const char *api;        /* "native", "openai", "a1111": for history */
    const char *parameters; /* JSON text */
    const char *prompt;     /* for searching */
    struct store_blob init_image, mask;
    const char *idempotency_key;    /* NULL: none */
    unsigned char request_hash[32]; /* of the body, for an idempotency key that comes again */
    double cost;
    int64_t created_ms;  /* wall clock */
    int64_t deadline_ms; /* wall clock; 0: none */
};

enum store_accept {
    STORE_ACCEPTED,
    STORE_ALREADY,  /* this key with this body: id is the first one's */
    STORE_CONFLICT, /* this key with another body */
};
/* id: of the job that answers the request. */
MUST_CHECK bool store_accept(struct store *store, const struct store_new_job *job,
                             enum store_accept *how, char id[STORE_ID_BYTES], struct error *err);

struct store_picture {
    char id[STORE_ID_BYTES];
    int32_t index, width, height;
    uint64_t seed;
    char path[160];      /* below the folder */
    char thumbnail[160]; /* "": none */
    char format[8];      /* "png", "jpeg", "webp" */
    int64_t bytes;
    char sha256[65];
    bool is_starred;
};

#define STORE_PICTURES_MAX 16

/* A row. Free with store_job_finish. */
struct store_job {
    char id[STORE_ID_BYTES], owner[STORE_OWNER_BYTES], api[16];
    enum job_state state;
    int32_t attempts;
    int64_t fence;
    int64_t sequence; /* counts up with each accept: the order of the queue and of the history */
    char *parameters;
    double cost;
    int64_t created_ms, started_ms, finished_ms, deadline_ms;
    char error_code[32]; /* of FAILED: "out_of_memory", "poison", "timeout", ... */
    char *error_message; /* NULL: none */
    char *result;        /* JSON text of seconds and notes, NULL: none */
    int32_t picture_count;
    struct store_picture pictures[STORE_PICTURES_MAX];
};
void store_job_finish(struct store_job *job);

/* *found false: there is none of this id (and owner, when not NULL). */
MUST_CHECK bool store_get(struct store *store, const char *id, const char *owner,
                          struct store_job *out, bool *found, struct error *err);
/* The pictures that came with a job: copies, freed by the caller. */
MUST_CHECK bool store_inputs(struct store *store, const char *id, void **init_image,
                             size_t *init_size, void **mask, size_t *mask_size, struct error *err);

/* QUEUED -> RUNNING with attempts + 1, fence + 1 and a lease. *claimed false: it is not queued any
 * more. */
MUST_CHECK bool store_claim(struct store *store, const char *id, const char *worker,
                            int64_t lease_ms, int64_t now_ms, int64_t *fence, bool *claimed,
                            struct error *err);
/* RUNNING -> QUEUED: its worker was lost; or, with its attempts used up, FAILED "poison". The new
 * state, or the one that it is in when the fence is old. */
MUST_CHECK bool store_requeue(struct store *store, const char *id, int64_t fence,
                              enum job_state *state, struct error *err);
/* RUNNING -> QUEUED without counting the attempt: the server is stopped in an orderly way. */
MUST_CHECK bool store_put_back(struct store *store, const char *id, int64_t fence,
                               struct error *err);

struct store_new_picture {
    int32_t index, width, height;
    uint64_t seed;
    const char *format; /* "png": also the file's ending */
    struct store_blob file, thumbnail;
};
/* Writes the files and the row. A picture of this index that is there already is replaced. *kept
 * false: the fence is old, nothing is left behind. */
MUST_CHECK bool store_add_picture(struct store *store, const char *id, int64_t fence,
                                  const struct store_new_picture *picture, bool *kept,
                                  struct error *err);
/* RUNNING -> DONE. `result` JSON text or NULL. *kept false: the fence is old. Inputs are forgotten.
 */
MUST_CHECK bool store_finish(struct store *store, const char *id, int64_t fence, const char *result,
                             int64_t now_ms, bool *kept, struct error *err);
/* RUNNING (of this fence) or QUEUED (fence -1) -> FAILED. */
MUST_CHECK bool store_fail(struct store *store, const char *id, int64_t fence, const char *code,
                           const char *message, int64_t now_ms, bool *kept, struct error *err);
/* QUEUED or RUNNING -> CANCELLED, whatever the fence. *state is the one it had; terminal ones stay.
 * Pictures that it has stay, too. *found false: none of this id and owner. */
MUST_CHECK bool store_cancel(struct store *store, const char *id, const char *owner, int64_t now_ms,
                             enum job_state *state, bool *found, struct error *err);

/* Calls `visit` for each queued job in the order of the queue, with its row, borrowed. */
MUST_CHECK bool store_each_queued(struct store *store,
                                  void (*visit)(void *context, const struct store_job *job),
                                  void *context, struct error *err);

/* --- History --- */

struct store_query {
    const char *owner;  /* NULL: everybody's */
    const char *search; /* words that the prompt has, NULL: any */
    bool starred_only, done_only;
    int64_t before; /* sequence: older than this; 0: from the newest */
    int32_t limit;  /* 1 to 200 */
};
/* Newest first; visit gets borrowed rows. */
MUST_CHECK bool store_list(struct store *store, const struct store_query *query,
                           void (*visit)(void *context, const struct store_job *job), void *context,
                           struct error *err);
/* By the picture's id. */
MUST_CHECK bool store_find_picture(struct store *store, const char *picture_id, const char *owner,
                                   struct store_picture *out, char job_id[STORE_ID_BYTES],
                                   bool *found, struct error *err);
MUST_CHECK bool store_star(struct store *store, const char *picture_id, const char *owner,
                           bool starred, bool *found, struct error *err);
/* A terminal job with its pictures: tombstone, files, rows. *found false for other states, too. */
MUST_CHECK bool store_delete(struct store *store, const char *id, const char *owner, bool *found,
                             struct error *err);
/* Opens a picture's file below the folder for reading; never follows a link or leaves it. -1: gone.
 */
int store_open_file(const struct store *store, const char *path);

/* --- Keys and sessions --- */

struct store_key {
    char name[STORE_OWNER_BYTES]; /* owner of what is done with it */
    char prefix[13];              /* of the key itself, to tell keys apart */
    unsigned char hash[32];       /* SHA-256 of the whole key */
    uint32_t scopes;              /* bits, see server/auth.h */
    int32_t jobs_per_minute;      /* 0: no limit of its own */
    int64_t created_ms, expires_ms /* 0: never */, revoked_ms /* 0: not */;
};
MUST_CHECK bool store_add_key(struct store *store, const struct store_key *key, struct error *err);
MUST_CHECK bool store_revoke_key(struct store *store, const char *name_or_prefix, int64_t now_ms,
                                 int *count, struct error *err);
MUST_CHECK bool store_each_key(struct store *store,
                               void (*visit)(void *context, const struct store_key *key),
                               void *context, struct error *err);
/* A small value of the server's own ("secret", "options.a1111"), or NULL: there is none. Freed by
 * the caller. */
MUST_CHECK bool store_get_setting(struct store *store, const char *name, char **value,
                                  struct error *err);
MUST_CHECK bool store_set_setting(struct store *store, const char *name, const char *value,
                                  struct error *err);

struct store_counts {
    int64_t queued, running, done, failed, cancelled, pictures, picture_bytes, database_bytes;
    int64_t disk_free_bytes;
};
MUST_CHECK bool store_count(struct store *store, struct store_counts *out, struct error *err);

/* --- The disk --- */

enum store_disk {
    STORE_DISK_GOOD,
    STORE_DISK_FULL,      /* less is free than the reserve, or there is no room for files */
    STORE_DISK_READ_ONLY, /* its folders cannot be written to */
    STORE_DISK_GONE,      /* the folder or what belongs to the store in it was taken away */
};
/* Looks and does not write: what else may be wrong with a disk is seen when a write fails. The
 * store itself stays open, and works again when the disk does. */
enum store_disk store_look_at_disk(const struct store *store, double reserve);
/* Another store lies where this one was: a disk that was taken away and came back. Only opening it
 * anew gets on. */
bool store_is_replaced(const struct store *store);

/* --- Checking: the oracle of the tests --- */

/* Opens the folder without changing it and checks I1-I8 of what can be seen at rest: done jobs have
 * their files with the right length and hash, which decode to the asked size by their headers, and
 * as many as were asked for but for "pictures_skipped" of their result; one key one job; attempts and fences; no file without a row; no temporary file. `defect` gets a
 * sentence for each. Returns false when it could not be checked at all. */
MUST_CHECK bool store_verify(const char *folder,
                             void (*defect)(void *context, const char *sentence), void *context,
                             int64_t *checked, struct error *err);

/* For tests: called at named points ("accept.committed", "picture.written", "picture.synced",
 * "picture.renamed", "picture.folder_synced", "done.committed", "delete.tombstone",
 * "delete.unlinked", "migrate", "accept.begun", "claim.committed",
 * "picture.committed", "cancel.committed"). NULL: nobody. They are kill points as well, see
 * base/kill_point.h. */
extern void (*store_point)(const char *name);

#endif
