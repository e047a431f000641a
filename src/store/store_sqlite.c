/* The driver for SQLite: one connection, WAL, a sync for every commit.
 *
 * The connection is the only one there is (locking_mode=EXCLUSIVE keeps the index of the WAL in our
 * memory), nothing is mapped, and checkpoints are ours, so that a sync that fails inside one is
 * seen: SQLite's own would forget it.
 */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/kill_point.h"
#include "store/store_sqlite.h"

#define APPLICATION_ID 0x73643335 /* "sd35" */
#ifdef SD35_KILL_POINTS
#define CHECKPOINT_PAGES 50 /* often, as tests die in them */
#else
#define CHECKPOINT_PAGES 1000
#endif

bool sqlite_fail(struct database *database, int code, struct error *err)
{
    const char *message =
        database->connection ? sqlite3_errmsg(database->connection) : sqlite3_errstr(code);
    int extended = database->connection ? sqlite3_extended_errcode(database->connection) : code;

    if (database->connection && sqlite3_get_autocommit(database->connection))
        database->depth = 0;
    if (extended == SQLITE_IOERR_FSYNC || extended == SQLITE_IOERR_DIR_FSYNC)
        database->is_broken = true;
    switch (code & 0xff) {
    case SQLITE_NOMEM:
        return error_set(err, ERROR_NO_MEMORY, "the database '%s'", database->path);
    case SQLITE_FULL:
        return error_set(err, ERROR_IO, "the disk is full: make room where '%s' lies",
                         database->path);
    case SQLITE_CONSTRAINT:
    case SQLITE_TOOBIG:
        return error_set(err, ERROR_BAD_REQUEST, "the database '%s' refuses: %s", database->path,
                         message);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return error_set(err, ERROR_BAD_REQUEST,
                         "the database '%s' is in use by another program: stop that first",
                         database->path);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_ERROR:
    case SQLITE_SCHEMA:
    case SQLITE_MISMATCH:
        return error_set(err, ERROR_BAD_FILE,
                         "the database '%s' is damaged (%s). It was left as it is. Move it and the "
                         "files beside it away and put back a backup of them, or save what can be "
                         "read with sqlite3's .recover",
                         database->path, message);
    default:
        return error_set(err, ERROR_IO, "the database '%s': %s (SQLite says %d, the system %s)",
                         database->path, message, extended,
                         database->connection ? strerror(sqlite3_system_errno(database->connection))
                                              : "nothing");
    }
}

static bool run_script(struct database *database, const char *script, struct error *err)
{
    int code = sqlite3_exec(database->connection, script, NULL, NULL, NULL);

    return code == SQLITE_OK || sqlite_fail(database, code, err);
}

/* After each commit. SQLite ignores what a checkpoint of its own says. */
static int checkpoint(void *context, sqlite3 *connection, const char *name, int pages)
{
    struct database *database = context;
    int code;

    if (pages < CHECKPOINT_PAGES)
        return SQLITE_OK;
    kill_point("checkpoint.begun");
    code = sqlite3_wal_checkpoint_v2(connection, name, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    kill_point("checkpoint.done");
    /* A full disk may come right; pages that a sync has lost do not. */
    if (code == SQLITE_IOERR_FSYNC)
        database->is_broken = true;
    return SQLITE_OK;
}

/* Runs a pragma that answers with a word. */
static bool has_text(struct database *database, const char *wanted, const char *pragma,
                     struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(database->connection, pragma, -1, &statement, NULL);
    const unsigned char *got;

    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code != SQLITE_ROW) {
        sqlite_fail(database, code, err);
        sqlite3_finalize(statement);
        return false;
    }
    got = sqlite3_column_text(statement, 0);
    code = got && strcmp((const char *)got, wanted) == 0 ? SQLITE_OK : SQLITE_ERROR;
    if (code != SQLITE_OK)
        error_set(err, ERROR_IO, "the database '%s': '%s' gave '%s', not '%s'", database->path,
                  pragma, got ? (const char *)got : "nothing", wanted);
    sqlite3_finalize(statement);
    return code == SQLITE_OK;
}

static bool prepare_connection(struct database *database, enum database_mode mode,
                               struct error *err)
{
    sqlite3 *connection = database->connection;
    char application[64];

    sqlite3_extended_result_codes(connection, 1);
    sqlite3_db_config(connection, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(connection, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    if (mode == DATABASE_READ)
        sqlite3_db_config(connection, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    if (!run_script(database,
                    "PRAGMA locking_mode = EXCLUSIVE; PRAGMA mmap_size = 0;"
                    "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
                    "PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;"
                    "PRAGMA journal_size_limit = 67108864;",
                    err))
        return false;
    snprintf(application, sizeof application, "PRAGMA application_id = %d", APPLICATION_ID);
    if (mode == DATABASE_CREATE && !run_script(database, application, err))
        return false;
    if (mode == DATABASE_READ)
        return run_script(database, "PRAGMA query_only = ON", err);
    if (!has_text(database, "wal", "PRAGMA journal_mode = WAL", err))
        return false;
    sqlite3_wal_hook(connection, checkpoint, database);
    return true;
}

/* For DATABASE_READ: a database without a WAL is opened as one that never changes, which creates
 * nothing. With one, SQLite has to be able to lock, so it opens for writing and then writes
 * nothing. */
static int connect_read_only(struct database *database)
{
    char *wal = sqlite3_mprintf("%s-wal", database->path);
    char *escaped = NULL, *uri = NULL;
    int code = SQLITE_NOMEM;
    FILE *file;
    bool has_wal;

    if (!wal)
        return SQLITE_NOMEM;
    file = fopen(wal, "rbe");
    has_wal = file && fgetc(file) != EOF;
    if (file)
        fclose(file);
    sqlite3_free(wal);
    if (has_wal)
        return sqlite3_open_v2(database->path, &database->connection,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_NOMUTEX,
                               NULL);
    /* Only these three mean something in the path of a URI. */
    escaped = malloc(3 * strlen(database->path) + 1);
    if (escaped) {
        char *to = escaped;

        for (const char *from = database->path; *from; from++)
            if (*from == '%' || *from == '?' || *from == '#')
                to += sprintf(to, "%%%02X", (unsigned)*from);
            else
                *to++ = *from;
        *to = '\0';
        uri = sqlite3_mprintf("file://%s?immutable=1", escaped);
    }
    if (uri)
        code = sqlite3_open_v2(uri, &database->connection,
                               SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOFOLLOW |
                                   SQLITE_OPEN_NOMUTEX,
                               NULL);
    sqlite3_free(uri);
    free(escaped);
    return code;
}

static bool check_application(struct database *database, struct error *err)
{
    int64_t id = 0;
    bool has_row;

    if (!database_number(database, "PRAGMA application_id", NO_VALUES, &id, &has_row, err))
        return false;
    if (!has_row || id != APPLICATION_ID)
        return error_set(err, ERROR_BAD_FILE,
                         "the database '%s' is damaged, or not one of ours: its application is "
                         "%#llx, not %#x. It was left as it is; put back a backup",
                         database->path, (unsigned long long)id, (unsigned)APPLICATION_ID);
    return true;
}

bool database_open(struct database **out, const char *path, enum database_mode mode,
                   struct error *err)
{
    struct database *database = calloc(1, sizeof *database);
    int code;

    if (!database || !(database->path = strdup(path))) {
        free(database);
        return error_set(err, ERROR_NO_MEMORY, "the database '%s'", path);
    }
    if (mode == DATABASE_READ)
        code = connect_read_only(database);
    else
        code = sqlite3_open_v2(path, &database->connection,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_NOMUTEX,
                               NULL);
    if (code != SQLITE_OK) {
        sqlite_fail(database, code, err);
        goto fail;
    }
    if (!prepare_connection(database, mode, err) || !check_application(database, err))
        goto fail;
    *out = database;
    return true;

fail:
    database_close(database);
    return false;
}

void database_close(struct database *database)
{
    if (!database)
        return;
    for (int i = 0; i < database->statement_count; i++)
        sqlite3_finalize(database->statements[i].prepared);
    sqlite3_close(database->connection);
    free(database->path);
    free(database);
}

bool database_is_broken(const struct database *database)
{
    return database->is_broken;
}

bool database_version(struct database *database, int64_t *version, struct error *err)
{
    bool has_row;

    *version = 0;
    return database_number(database, "PRAGMA user_version", NO_VALUES, version, &has_row, err);
}

bool database_migrate(struct database *database, const char *script, int64_t version,
                      void (*before_commit)(void), struct error *err)
{
    char set_version[64];

    snprintf(set_version, sizeof set_version, "PRAGMA user_version = %lld", (long long)version);
    if (!database_begin(database, err))
        return false;
    if (!run_script(database, script, err) || !run_script(database, set_version, err)) {
        database_roll_back(database);
        return error_in(err, "bringing the schema to version %lld", (long long)version);
    }
    if (before_commit)
        before_commit();
    return database_commit(database, err);
}

bool database_check(struct database *database, bool is_thorough,
                    void (*defect)(void *context, const char *sentence), void *context,
                    struct error *err)
{
    struct rows rows;
    bool has_row;

    if (!rows_start(&rows, database, is_thorough ? "PRAGMA integrity_check" : "PRAGMA quick_check",
                    NO_VALUES, err))
        return false;
    for (;;) {
        const char *text;

        if (!rows_next(&rows, &has_row, err)) {
            rows_end(&rows);
            return false;
        }
        if (!has_row)
            break;
        text = rows_text(&rows, 0);
        if (!text || strcmp(text, "ok") != 0)
            defect(context, text ? text : "it cannot be checked");
    }
    rows_end(&rows);
    return true;
}

bool database_begin(struct database *database, struct error *err)
{
    if (!run_script(database, database->depth == 0 ? "BEGIN IMMEDIATE" : "SAVEPOINT part", err))
        return false;
    database->depth++;
    return true;
}

bool database_commit(struct database *database, struct error *err)
{
    if (!run_script(database, database->depth == 1 ? "COMMIT" : "RELEASE part", err)) {
        database_roll_back(database);
        return false;
    }
    database->depth--;
    return true;
}

void database_roll_back(struct database *database)
{
    /* A disk that fails may have ended the transaction already. */
    if (sqlite3_get_autocommit(database->connection))
        database->depth = 0;
    if (database->depth == 0)
        return;
    (void)run_script(database, database->depth == 1 ? "ROLLBACK" : "ROLLBACK TO part; RELEASE part",
                     NULL);
    if (database->depth > 0)
        database->depth--;
}

int database_depth(const struct database *database)
{
    return database->depth;
}
