/* The little that the store wants of a database: statements with values, rows, transactions. This
 * is the seam for a second driver; store_sqlite.c and store_sqlite_rows.c are the first. Statements
 * are written with ?1, ?2,
 * ... in SQL that PostgreSQL has, too, and are known by the address of their text: each is prepared
 * once and kept.
 *
 * One thread at a time. Failures: ERROR_IO, ERROR_NO_MEMORY, ERROR_BAD_FILE for a database that is
 * damaged, ERROR_BAD_REQUEST for a broken constraint.
 */
#ifndef STORE_STORE_DATABASE_H
#define STORE_STORE_DATABASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"

struct database;

enum database_mode {
    DATABASE_CREATE, /* an empty file becomes a database */
    DATABASE_WRITE,  /* for this process alone */
    DATABASE_READ,   /* changes nothing, not even what a crash left behind */
};

/* On a file that is there. `path` has no symbolic link in it. */
MUST_CHECK bool database_open(struct database **out, const char *path, enum database_mode mode,
                              struct error *err);
void database_close(struct database *database); /* NULL is fine; rolls back */

/* A sync has failed: what is on the disk is not known any more. */
bool database_is_broken(const struct database *database);

/* The number that the schema keeps of itself. */
MUST_CHECK bool database_version(struct database *database, int64_t *version, struct error *err);
/* Runs a script of statements without values, all of them in one transaction that also sets the
 * version. `before_commit` may be NULL. */
MUST_CHECK bool database_migrate(struct database *database, const char *script, int64_t version,
                                 void (*before_commit)(void), struct error *err);

/* Calls `defect` for each thing wrong with the structure, 100 at most. `is_thorough`: indexes
 * against tables, too. */
MUST_CHECK bool database_check(struct database *database, bool is_thorough,
                               void (*defect)(void *context, const char *sentence), void *context,
                               struct error *err);

/* A transaction, or, inside one, a part of it that can be undone alone. A failure of the disk ends
 * all of them: database_depth is then 0. */
MUST_CHECK bool database_begin(struct database *database, struct error *err);
MUST_CHECK bool database_commit(struct database *database, struct error *err);
void database_roll_back(struct database *database);
int database_depth(const struct database *database);

/* --- Values and statements --- */

struct value {
    enum { VALUE_NULL, VALUE_INTEGER, VALUE_REAL, VALUE_TEXT, VALUE_BLOB } kind;
    int64_t integer;
    double real;
    const void *bytes; /* borrowed for the call */
    size_t size;
};
struct value value_integer(int64_t integer);
struct value value_real(double real);
struct value value_text(const char *text);               /* NULL becomes NULL */
struct value value_blob(const void *bytes, size_t size); /* NULL becomes NULL */

/* The two arguments `values, count` of the calls below. */
#define VALUES(...)                                                                                \
    (const struct value[]){__VA_ARGS__}, (int)COUNT_OF(((const struct value[]){__VA_ARGS__}))
#define NO_VALUES NULL, 0

/* A statement without rows. *changes, when not NULL: how many rows it changed. */
MUST_CHECK bool database_run(struct database *database, const char *statement,
                             const struct value *values, int count, int64_t *changes,
                             struct error *err);

/* The rows of a statement. Until rows_end the same statement cannot be run. What rows_text and
 * rows_blob return lives until the next row. */
struct rows {
    struct database *database;
    void *statement;
};
MUST_CHECK bool rows_start(struct rows *rows, struct database *database, const char *statement,
                           const struct value *values, int count, struct error *err);
MUST_CHECK bool rows_next(struct rows *rows, bool *has_row, struct error *err);
void rows_end(struct rows *rows);

int64_t rows_integer(const struct rows *rows, int column);
double rows_real(const struct rows *rows, int column);
const char *rows_text(const struct rows *rows, int column); /* NULL for NULL */
const void *rows_blob(const struct rows *rows, int column, size_t *size);
/* Into a buffer; "" for NULL. ERROR_BAD_FILE when it is too long: we never wrote that. */
MUST_CHECK bool rows_copy(const struct rows *rows, int column, char *out, size_t size,
                          struct error *err);
/* *out NULL for NULL; the caller frees it. */
MUST_CHECK bool rows_copy_text(const struct rows *rows, int column, char **out, struct error *err);

/* The number in the first row's first column; *has_row false: there is no row. */
MUST_CHECK bool database_number(struct database *database, const char *statement,
                                const struct value *values, int count, int64_t *number,
                                bool *has_row, struct error *err);

#endif
