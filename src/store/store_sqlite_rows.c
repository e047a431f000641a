/* The driver for SQLite: statements that stay prepared, their values and their rows. */
#include <string.h>

#include "store/store_sqlite.h"

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
    if (database->statement_count == SQLITE_STATEMENTS_MAX)
        return error_set(err, ERROR_NO_MEMORY, "the database keeps %d statements and no more",
                         SQLITE_STATEMENTS_MAX);
    code = sqlite3_prepare_v3(database->connection, text, -1, SQLITE_PREPARE_PERSISTENT, &prepared,
                              NULL);
    if (code != SQLITE_OK)
        return sqlite_fail(database, code, err);
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
            sqlite_fail(database, code, err);
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
    return code == SQLITE_ROW || code == SQLITE_DONE || sqlite_fail(rows->database, code, err);
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
