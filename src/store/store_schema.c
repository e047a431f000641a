/* The schema and how it came to be: each version is one script, run in one transaction.
 *
 * A database begins under another name and gets its own when it is complete and synced, so that a
 * file of the right name without a schema is always damage and never taken for a new one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "store/store_private.h"

#define NEW_DATABASE_NAME STORE_DATABASE_NAME ".new"

/* migrations[v] leads from version v to v + 1. Never changed once released.
 *
 * jobs.sequence counts up and is never used twice. done_fence is that of the commit that made the
 * job DONE. requests are idempotency keys. tombstones are files that no row needs any more: written
 * in the transaction that took their rows away, and gone when the file is. */
static const char *const migrations[] = {
    "CREATE TABLE jobs ("
    "  sequence INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  id TEXT NOT NULL UNIQUE,"
    "  owner TEXT NOT NULL,"
    "  api TEXT NOT NULL,"
    "  state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 4),"
    "  attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),"
    "  fence INTEGER NOT NULL DEFAULT 0 CHECK (fence >= 0),"
    "  done_fence INTEGER,"
    "  worker TEXT,"
    "  lease_until_ms INTEGER NOT NULL DEFAULT 0,"
    "  parameters TEXT NOT NULL,"
    "  prompt_folded TEXT NOT NULL,"
    "  cost REAL NOT NULL,"
    "  created_ms INTEGER NOT NULL,"
    "  started_ms INTEGER NOT NULL DEFAULT 0,"
    "  finished_ms INTEGER NOT NULL DEFAULT 0,"
    "  deadline_ms INTEGER NOT NULL DEFAULT 0,"
    "  error_code TEXT,"
    "  error_message TEXT,"
    "  result TEXT"
    ") STRICT;"
    "CREATE INDEX jobs_by_owner ON jobs (owner, sequence);"
    "CREATE INDEX jobs_by_state ON jobs (state, sequence);"
    "CREATE TABLE inputs ("
    "  job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,"
    "  kind INTEGER NOT NULL,"
    "  bytes BLOB NOT NULL,"
    "  PRIMARY KEY (job, kind)"
    ") STRICT;"
    "CREATE TABLE requests ("
    "  owner TEXT NOT NULL,"
    "  idempotency_key TEXT NOT NULL,"
    "  request_hash BLOB NOT NULL,"
    "  job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,"
    "  created_ms INTEGER NOT NULL,"
    "  PRIMARY KEY (owner, idempotency_key)"
    ") STRICT;"
    "CREATE INDEX requests_by_job ON requests (job);"
    "CREATE INDEX requests_by_time ON requests (created_ms);"
    "CREATE TABLE pictures ("
    "  id TEXT NOT NULL PRIMARY KEY,"
    "  job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,"
    "  position INTEGER NOT NULL,"
    "  fence INTEGER NOT NULL,"
    "  width INTEGER NOT NULL,"
    "  height INTEGER NOT NULL,"
    "  seed INTEGER NOT NULL,"
    "  path TEXT NOT NULL,"
    "  thumbnail TEXT,"
    "  format TEXT NOT NULL,"
    "  bytes INTEGER NOT NULL,"
    "  sha256 TEXT NOT NULL,"
    "  is_starred INTEGER NOT NULL DEFAULT 0,"
    "  UNIQUE (job, position)"
    ") STRICT;"
    "CREATE INDEX pictures_by_path ON pictures (path);"
    "CREATE INDEX pictures_by_thumbnail ON pictures (thumbnail);"
    "CREATE TABLE tombstones (path TEXT NOT NULL PRIMARY KEY) STRICT;"
    "CREATE TABLE keys ("
    "  name TEXT NOT NULL,"
    "  prefix TEXT NOT NULL,"
    "  hash BLOB NOT NULL UNIQUE,"
    "  scopes INTEGER NOT NULL,"
    "  jobs_per_minute INTEGER NOT NULL,"
    "  created_ms INTEGER NOT NULL,"
    "  expires_ms INTEGER NOT NULL,"
    "  revoked_ms INTEGER NOT NULL"
    ") STRICT;"
    "CREATE TABLE settings (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT;",
};
#define VERSION ((int64_t)COUNT_OF(migrations))

static void reach_migrate(void)
{
    store_reach("migrate");
}

static bool migrate(struct database *database, int64_t version, struct error *err)
{
    for (; version < VERSION; version++)
        if (!database_migrate(database, migrations[version], version + 1, reach_migrate, err))
            return false;
    return true;
}

static bool check_version(struct database *database, const char *path, int64_t *version,
                          struct error *err)
{
    if (!database_version(database, version, err))
        return false;
    if (*version > VERSION)
        return error_set(err, ERROR_BAD_FILE,
                         "the database '%s' has schema %lld and this program knows %lld: it is "
                         "from a newer version. Start that one, or put back a backup",
                         path, (long long)*version, (long long)VERSION);
    if (*version < 1)
        return error_set(err, ERROR_BAD_FILE,
                         "the database '%s' is damaged: it has no schema. It was left as it is; "
                         "put back a backup",
                         path);
    return true;
}

static char *state_path(const char *folder, const char *name)
{
    char *state = file_join(folder, STORE_STATE_FOLDER);
    char *path = state ? file_join(state, name) : NULL;

    free(state);
    return path;
}

/* What a crash left of an earlier beginning goes, then an empty file comes: SQLite would make it
 * with the umask's mode. */
static bool create_empty(struct store *store, struct error *err)
{
    static const char *const leftovers[] = {NEW_DATABASE_NAME, NEW_DATABASE_NAME "-wal",
                                            NEW_DATABASE_NAME "-shm", NEW_DATABASE_NAME "-journal"};
    int fd;

    for (size_t i = 0; i < COUNT_OF(leftovers); i++)
        if (unlinkat(store->state_fd, leftovers[i], 0) != 0 && errno != ENOENT)
            return error_set_errno(err, errno, "removing '%s'", leftovers[i]);
    fd = openat(store->state_fd, NEW_DATABASE_NAME,
                O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || fchmod(fd, 0600) != 0) {
        error_set_errno(err, errno, "making the database in '%s'", store->folder);
        if (fd >= 0)
            close(fd);
        return false;
    }
    close(fd);
    return true;
}

static bool create_database(struct store *store, const char *path, struct error *err)
{
    struct database *database;

    if (!create_empty(store, err) || !database_open(&database, path, DATABASE_CREATE, err))
        return false;
    if (!migrate(database, 0, err)) {
        database_close(database);
        return false;
    }
    database_close(database); /* moves the WAL into the file and syncs it */
    /* All of it must lie in the file that gets the name. */
    if (faccessat(store->state_fd, NEW_DATABASE_NAME "-wal", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return error_set(err, ERROR_IO, "making the database '%s': the disk does not take it",
                         path);
    if (renameat(store->state_fd, NEW_DATABASE_NAME, store->state_fd, STORE_DATABASE_NAME) != 0 ||
        fsync(store->state_fd) != 0)
        return error_set_errno(err, errno, "making the database '%s'", path);
    return true;
}

static bool refuse_file(void *context, const char *path, struct error *err)
{
    const struct store *store = context;

    return error_set(err, ERROR_BAD_FILE,
                     "'%s' has pictures ('%s') and no database. Put a backup of '%s/%s' back, or "
                     "move the dated folders away",
                     store->folder, path, store->folder, STORE_STATE_FOLDER);
}

/* A new database would take every picture for an orphan. */
static bool check_really_new(struct store *store, struct error *err)
{
    if (faccessat(store->state_fd, STORE_DATABASE_NAME "-wal", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return error_set(err, ERROR_BAD_FILE,
                         "'%s/%s' has '%s-wal' and not the database that it belongs to. Put back "
                         "a backup, or move it away",
                         store->folder, STORE_STATE_FOLDER, STORE_DATABASE_NAME);
    return store_each_file(store->folder_fd, refuse_file, store, err);
}

struct damage {
    int count;
    char first[256];
};

static void note_damage(void *context, const char *sentence)
{
    struct damage *damage = context;

    if (damage->count++ == 0) {
        strncpy(damage->first, sentence, sizeof damage->first - 1);
        damage->first[sizeof damage->first - 1] = '\0';
    }
}

static bool check_structure(struct database *database, const char *path, struct error *err)
{
    struct damage damage = {0};

    if (!database_check(database, false, note_damage, &damage, err))
        return false;
    return damage.count == 0 ||
           error_set(err, ERROR_BAD_FILE,
                     "the database '%s' is damaged (%s). It was left as it is. Move it and the "
                     "files beside it away and put back a backup of them, or save what can be read "
                     "with sqlite3's .recover",
                     path, damage.first);
}

static bool open_existing(struct store *store, const char *path, struct error *err)
{
    int64_t version;

    return database_open(&store->database, path, DATABASE_WRITE, err) &&
           check_version(store->database, path, &version, err) &&
           check_structure(store->database, path, err) && migrate(store->database, version, err);
}

bool store_schema_open(struct store *store, struct error *err)
{
    char *path = state_path(store->folder, STORE_DATABASE_NAME);
    char *new_path = state_path(store->folder, NEW_DATABASE_NAME);
    struct stat st;
    bool is_good = false;

    if (!path || !new_path) {
        error_set(err, ERROR_NO_MEMORY, "opening the store");
        goto done;
    }
    if (fstatat(store->state_fd, STORE_DATABASE_NAME, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno != ENOENT) {
            error_set_errno(err, errno, "the database '%s'", path);
            goto done;
        }
        if (!check_really_new(store, err) || !create_database(store, new_path, err))
            goto done;
    } else if (!S_ISREG(st.st_mode)) {
        error_set(err, ERROR_BAD_FILE, "the database '%s' is not a regular file", path);
        goto done;
    }
    is_good = open_existing(store, path, err);

done:
    free(path);
    free(new_path);
    return is_good;
}

bool store_schema_read(struct database **out, const char *folder, struct error *err)
{
    char *path = state_path(folder, STORE_DATABASE_NAME);
    struct database *database = NULL;
    int64_t version;

    if (!path)
        return error_set(err, ERROR_NO_MEMORY, "opening the store");
    if (!database_open(&database, path, DATABASE_READ, err) ||
        !check_version(database, path, &version, err))
        goto fail;
    if (version < VERSION) {
        error_set(err, ERROR_BAD_FILE,
                  "the database '%s' has schema %lld and this program checks %lld: start the "
                  "server once, which brings it up to date",
                  path, (long long)version, (long long)VERSION);
        goto fail;
    }
    free(path);
    *out = database;
    return true;

fail:
    database_close(database);
    free(path);
    return false;
}
