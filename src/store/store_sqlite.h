/* What the two halves of SQLite's driver share. Private to them. */
#ifndef STORE_STORE_SQLITE_H
#define STORE_STORE_SQLITE_H

#include <sqlite3.h>

#include "store/store_database.h"

#define SQLITE_STATEMENTS_MAX 64

struct database {
    sqlite3 *connection;
    char *path;
    bool is_broken;
    int depth; /* of transactions */
    struct {
        const char *text;
        sqlite3_stmt *prepared;
    } statements[SQLITE_STATEMENTS_MAX];
    int statement_count;
};

/* Fills *err for the code that SQLite just returned, and notes what it means for the connection.
 * Always false. */
bool sqlite_fail(struct database *database, int code, struct error *err);

#endif
