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

#include "store/store_database.h"

#define APPLICATION_ID 0x73643335 /* "sd35" */
#define STATEMENTS_MAX 64
#define CHECKPOINT_PAGES 1000

struct database {
    sqlite3 *connection;
    char *path;
    bool is_broken;
    int depth; /* of transactions */
    struct {
        const char *text;
        sqlite3_stmt *prepared;
    } statements[STATEMENTS_MAX];
    int statement_count;
};

/* Fills *err for what SQLite just returned. */
static bool fail(struct database *database, int code, struct error *err)
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

    return code == SQLITE_OK || fail(database, code, err);
}

/* After each commit. SQLite ignores what a checkpoint of its own says. */
static int checkpoint(void *context, sqlite3 *connection, const char *name, int pages)
{
    struct database *database = context;
    int code;

    if (pages < CHECKPOINT_PAGES)
        return SQLITE_OK;
    code = sqlite3_wal_checkpoint_v2(connection, name, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
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
        fail(database, code, err);
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
        fail(database, code, err);
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

struct value value_integer(int64_t integer)
{
    return (struct value){.kind = VALUE_INTEGER, .integer = integer};
}

struct value value_real(double real)
{
    return (struct value){.kind = VALUE_REAL, .real = real};
}

struct value value_text(const char *text)
{
    if (!text)
        return (struct value){.kind = VALUE_NULL};
    return (struct value){.kind = VALUE_TEXT, .bytes = text, .size = strlen(text)};
}

struct value value_blob(const void *bytes, size_t size)
{
    if (!bytes)
        return (struct value){.kind = VALUE_NULL};
    return (struct value){.kind = VALUE_BLOB, .bytes = bytes, .size = size};
}

static int bind(sqlite3_stmt *statement, int at, const struct value *value)
{
    switch (value->kind) {
    case VALUE_INTEGER:
        return sqlite3_bind_int64(statement, at, value->integer);
    case VALUE_REAL:
        return sqlite3_bind_double(statement, at, value->real);
    case VALUE_TEXT:
        return sqlite3_bind_text64(statement, at, value->bytes, value->size, SQLITE_STATIC,
                                   SQLITE_UTF8);
    case VALUE_BLOB:
        return sqlite3_bind_blob64(statement, at, value->bytes, value->size, SQLITE_STATIC);
    default:
        return sqlite3_bind_null(statement, at);
    }
}

/* The statement of this text, prepared now or before. */
static bool find_statement(struct database *database, const char *text, sqlite3_stmt **out,
                           struct error *err)
{
    sqlite3_stmt *prepared = NULL;
    int code;

    for (int i = 0; i < database->statement_count; i++)
        if (database->statements[i].text == text) {
            *out = database->statements[i].prepared;
            return true;
        }
    if (database->statement_count == STATEMENTS_MAX)
        return error_set(err, ERROR_NO_MEMORY, "the database keeps %d statements and no more",
                         STATEMENTS_MAX);
    code = sqlite3_prepare_v3(database->connection, text, -1, SQLITE_PREPARE_PERSISTENT, &prepared,
                              NULL);
    if (code != SQLITE_OK)
        return fail(database, code, err);
    database->statements[database->statement_count].text = text;
    database->statements[database->statement_count++].prepared = prepared;
    *out = prepared;
    return true;
}

bool rows_start(struct rows *rows, struct database *database, const char *statement,
                const struct value *values, int count, struct error *err)
{
    sqlite3_stmt *prepared = NULL;

    if (!find_statement(database, statement, &prepared, err))
        return false;
    *rows = (struct rows){.database = database, .statement = prepared};
    for (int i = 0; i < count; i++) {
        int code = bind(prepared, i + 1, &values[i]);

        if (code != SQLITE_OK) {
            fail(database, code, err);
            rows_end(rows);
            return false;
        }
    }
    return true;
}

bool rows_next(struct rows *rows, bool *has_row, struct error *err)
{
    int code = sqlite3_step(rows->statement);

    *has_row = code == SQLITE_ROW;
    return code == SQLITE_ROW || code == SQLITE_DONE || fail(rows->database, code, err);
}

void rows_end(struct rows *rows)
{
    sqlite3_reset(rows->statement);
    sqlite3_clear_bindings(rows->statement); /* the values were borrowed */
}

bool database_run(struct database *database, const char *statement, const struct value *values,
                  int count, int64_t *changes, struct error *err)
{
    struct rows rows;
    bool has_row, is_good;

    if (!rows_start(&rows, database, statement, values, count, err))
        return false;
    is_good = rows_next(&rows, &has_row, err);
    rows_end(&rows);
    if (is_good && changes)
        *changes = sqlite3_changes64(database->connection);
    return is_good;
}

bool database_number(struct database *database, const char *statement, const struct value *values,
                     int count, int64_t *number, bool *has_row, struct error *err)
{
    struct rows rows;
    bool is_good;

    if (!rows_start(&rows, database, statement, values, count, err))
        return false;
    is_good = rows_next(&rows, has_row, err);
    if (is_good && *has_row) {
        bool has_more;

        *number = rows_integer(&rows, 0);
        is_good = rows_next(&rows, &has_more, err); /* a statement that RETURNs is to end, too */
    }
    rows_end(&rows);
    return is_good;
}

int64_t rows_integer(const struct rows *rows, int column)
{
    return sqlite3_column_int64(rows->statement, column);
}

double rows_real(const struct rows *rows, int column)
{
    return sqlite3_column_double(rows->statement, column);
}

const char *rows_text(const struct rows *rows, int column)
{
    return (const char *)sqlite3_column_text(rows->statement, column);
}

const void *rows_blob(const struct rows *rows, int column, size_t *size)
{
    const void *bytes = sqlite3_column_blob(rows->statement, column);

    *size = (size_t)sqlite3_column_bytes(rows->statement, column);
    return bytes;
}

/* NULL is a value, and also what SQLite says when memory is short. */
static bool read_text(const struct rows *rows, int column, const char **out, struct error *err)
{
    bool is_null = sqlite3_column_type(rows->statement, column) == SQLITE_NULL;

    *out = rows_text(rows, column);
    return is_null || *out || error_set(err, ERROR_NO_MEMORY, "a text of the database");
}

bool rows_copy(const struct rows *rows, int column, char *out, size_t size, struct error *err)
{
    const char *text;
    size_t length;

    if (!read_text(rows, column, &text, err))
        return false;
    length = text ? strlen(text) : 0;
    if (length >= size)
        return error_set(err, ERROR_BAD_FILE,
                         "the database '%s' is damaged: a text of column %s has %zu bytes, where "
                         "%zu are the most",
                         rows->database->path, sqlite3_column_name(rows->statement, column), length,
                         size - 1);
    memcpy(out, text ? text : "", length + 1);
    return true;
}

bool rows_copy_text(const struct rows *rows, int column, char **out, struct error *err)
{
    const char *text;

    *out = NULL;
    if (!read_text(rows, column, &text, err))
        return false;
    if (!text)
        return true;
    *out = strdup(text);
    return *out || error_set(err, ERROR_NO_MEMORY, "a text of %zu bytes", strlen(text));
}
