/* Opening a store: the lock, the database, and the recovery of what a crash left. */
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "store/store_private.h"

#define LOCK_SECONDS 2

const char *job_state_name(enum job_state state)
{
    static const char *const names[] = {
        [JOB_QUEUED] = "queued", [JOB_RUNNING] = "running",     [JOB_DONE] = "done",
        [JOB_FAILED] = "failed", [JOB_CANCELLED] = "cancelled",
    };

    return (size_t)state < COUNT_OF(names) ? names[state] : "unknown";
}

int64_t store_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- Transactions --- */

static bool check_writable(const struct store *store, struct error *err)
{
    if (store->is_broken || database_is_broken(store->database))
        return error_set(err, ERROR_IO,
                         "'%s' takes no more writes: the disk failed to keep one. Look at the "
                         "disk, then start the server again",
                         store->folder);
    return true;
}

bool store_write_begin(struct store *store, struct error *err)
{
    if (!check_writable(store, err))
        return false;
    if (store->is_group && database_depth(store->database) == 0)
        return error_set(err, ERROR_IO, "an earlier write of this group has failed");
    return database_begin(store->database, err);
}

/* After the outermost commit: files that are not needed any more. What cannot be removed now is
 * removed later; the rows are gone either way. */
static void finish_commit(struct store *store)
{
    if (!store->has_tombstones)
        return;
    store_reach("delete.tombstone");
    if (store_purge(store, NULL))
        store->has_tombstones = false;
}

bool store_write_end(struct store *store, bool is_good, struct error *err)
{
    if (!is_good) {
        database_roll_back(store->database);
        return false;
    }
    if (!database_commit(store->database, err))
        return false;
    if (!store->is_group)
        finish_commit(store);
    return true;
}

bool store_begin(struct store *store, struct error *err)
{
    if (store->is_group)
        return error_set(err, ERROR_BAD_REQUEST, "a group of writes is begun inside another");
    if (!check_writable(store, err) || !database_begin(store->database, err))
        return false;
    store->is_group = true;
    store->has_accepted = store->has_finished = false;
    return true;
}

bool store_commit(struct store *store, struct error *err)
{
    if (!store->is_group)
        return error_set(err, ERROR_BAD_REQUEST, "there is no group of writes to commit");
    store->is_group = false;
    if (database_depth(store->database) == 0)
        return error_set(err, ERROR_IO, "an earlier write of this group has failed");
    if (!database_commit(store->database, err))
        return false;
    if (store->has_accepted)
        store_reach("accept.committed");
    if (store->has_finished)
        store_reach("done.committed");
    finish_commit(store);
    return true;
}

void store_roll_back(struct store *store)
{
    store->is_group = false;
    database_roll_back(store->database);
}

/* --- Recovery --- */

static const char *const forget_ended_inputs =
    "DELETE FROM inputs WHERE job IN (SELECT sequence FROM jobs WHERE state >= 2)";

/* Nobody runs anything now. */
static bool recover_jobs(struct store *store, struct error *err)
{
    struct database *database = store->database;
    bool is_good;

    if (!store_write_begin(store, err))
        return false;
    is_good = database_run(database,
                           "UPDATE jobs SET state = 3, error_code = 'poison', error_message = "
                           "'the server was lost each time that it worked on this', finished_ms "
                           "= ?1, worker = NULL WHERE state = 1 AND attempts >= ?2",
                           VALUES(value_integer(store_now_ms()), value_integer(STORE_ATTEMPTS_MAX)),
                           NULL, err) &&
              database_run(database, "UPDATE jobs SET state = 0, worker = NULL WHERE state = 1",
                           NO_VALUES, NULL, err) &&
              database_run(database, forget_ended_inputs, NO_VALUES, NULL, err);
    return store_write_end(store, is_good, err);
}

/* A server that was killed a moment ago may not be wholly gone: its lock is waited for. */
static bool lock_folder(struct store *store, struct error *err)
{
    double end = seconds_now() + LOCK_SECONDS;

    while (flock(store->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            return error_set_errno(err, errno, "locking '%s'", store->folder);
        if (!pause_until(end))
            return error_set(err, ERROR_BAD_REQUEST,
                             "another server works on '%s': stop it, or give this one a folder of "
                             "its own",
                             store->folder);
    }
    return true;
}

static bool open_folders(struct store *store, struct error *err)
{
    struct stat st;

    store->folder_fd = open(store->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->folder_fd < 0)
        return error_set_errno(err, errno, "opening the store's folder '%s'", store->folder);
    store->state_fd = store_make_folder(store, store->folder_fd, STORE_STATE_FOLDER, err);
    if (store->state_fd < 0)
        return false;
    store->lock_fd = openat(store->state_fd, STORE_LOCK_NAME,
                            O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (store->lock_fd < 0 || fstat(store->lock_fd, &st) != 0 || fchmod(store->lock_fd, 0600) != 0)
        return error_set_errno(err, errno, "the lock of '%s'", store->folder);
    if (!lock_folder(store, err))
        return false;
    store->temporary_fd = store_make_folder(store, store->state_fd, STORE_TEMPORARY_FOLDER, err);
    return store->temporary_fd >= 0;
}

/* Closing a descriptor of the database that can be read would end SQLite's locks on it. */
static bool remember_database(struct store *store, struct error *err)
{
    store->database_fd =
        openat(store->state_fd, STORE_DATABASE_NAME, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return store->database_fd >= 0 ||
           error_set_errno(err, errno, "the database of '%s'", store->folder);
}

bool store_open(struct store **out, const char *folder, struct error *err)
{
    struct store *store = calloc(1, sizeof *store);

    if (!store)
        return error_set(err, ERROR_NO_MEMORY, "opening the store");
    store->folder_fd = store->state_fd = store->temporary_fd = store->lock_fd = -1;
    store->database_fd = -1;
    store->folder = realpath(folder, NULL);
    if (!store->folder) {
        error_set_errno(err, errno, "opening the store's folder '%s'", folder);
        goto fail;
    }
    if (!open_folders(store, err) || !store_schema_open(store, err) ||
        !remember_database(store, err) || !recover_jobs(store, err) ||
        !store_clear_temporary(store, err) || !store_purge(store, err) || !store_sweep(store, err))
        goto fail;
    *out = store;
    return true;

fail:
    store_close(store);
    return false;
}

void store_close_folders(struct store *store)
{
    /* The lock is the last: it lets others in. */
    int folders[] = {store->temporary_fd, store->database_fd, store->state_fd, store->folder_fd,
                     store->lock_fd};

    database_close(store->database);
    for (size_t i = 0; i < COUNT_OF(folders); i++)
        if (folders[i] >= 0)
            close(folders[i]);
}

void store_close(struct store *store)
{
    if (!store)
        return;
    store_close_folders(store);
    free(store->folder);
    free(store);
}
