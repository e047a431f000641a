/* API keys, of which only hashes are kept, and the server's own small values. */
#include <string.h>

#include "store/store_private.h"

bool store_add_key(struct store *store, const struct store_key *key, struct error *err)
{
    bool is_good;

    if (!store_write_begin(store, err))
        return false;
    is_good =
        database_run(store->database,
                     "INSERT INTO keys (name, prefix, hash, scopes, jobs_per_minute, "
                     "created_ms, expires_ms, revoked_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, "
                     "?7, ?8)",
                     VALUES(value_text(key->name), value_text(key->prefix),
                            value_blob(key->hash, sizeof key->hash), value_integer(key->scopes),
                            value_integer(key->jobs_per_minute), value_integer(key->created_ms),
                            value_integer(key->expires_ms), value_integer(key->revoked_ms)),
                     NULL, err);
    return store_write_end(store, is_good, err) || error_in(err, "adding a key");
}

bool store_revoke_key(struct store *store, const char *name_or_prefix, int64_t now_ms, int *count,
                      struct error *err)
{
    int64_t changes = 0;
    bool is_good;

    if (!store_write_begin(store, err))
        return false;
    is_good =
        database_run(store->database,
                     "UPDATE keys SET revoked_ms = ?2 WHERE (name = ?1 OR prefix = ?1) AND "
                     "revoked_ms = 0",
                     VALUES(value_text(name_or_prefix), value_integer(now_ms)), &changes, err);
    *count = (int)changes;
    return store_write_end(store, is_good, err);
}

static bool read_key(struct store_key *out, const struct rows *rows, struct error *err)
{
    size_t size;
    const void *hash = rows_blob(rows, 2, &size);
    int64_t scopes = rows_integer(rows, 3), jobs = rows_integer(rows, 4);

    memset(out, 0, sizeof *out);
    if (!hash || size != sizeof out->hash || scopes < 0 || scopes > UINT32_MAX || jobs < 0 ||
        jobs > INT32_MAX)
        return error_set(err, ERROR_BAD_FILE, "the store's database is damaged: a key is none");
    memcpy(out->hash, hash, sizeof out->hash);
    out->scopes = (uint32_t)scopes;
    out->jobs_per_minute = (int32_t)jobs;
    out->created_ms = rows_integer(rows, 5);
    out->expires_ms = rows_integer(rows, 6);
    out->revoked_ms = rows_integer(rows, 7);
    return rows_copy(rows, 0, out->name, sizeof out->name, err) &&
           rows_copy(rows, 1, out->prefix, sizeof out->prefix, err);
}

bool store_each_key(struct store *store, void (*visit)(void *context, const struct store_key *key),
                    void *context, struct error *err)
{
    struct rows rows;
    bool has_row = false, is_good = true;

    if (!rows_start(&rows, store->database,
                    "SELECT name, prefix, hash, scopes, jobs_per_minute, created_ms, expires_ms, "
                    "revoked_ms FROM keys ORDER BY created_ms, prefix",
                    NO_VALUES, err))
        return false;
    while (is_good && (is_good = rows_next(&rows, &has_row, err)) && has_row) {
        struct store_key key;

        is_good = read_key(&key, &rows, err);
        if (is_good)
            visit(context, &key);
    }
    rows_end(&rows);
    return is_good;
}

bool store_get_setting(struct store *store, const char *name, char **value, struct error *err)
{
    struct rows rows;
    bool has_row = false, is_good;

    *value = NULL;
    if (!rows_start(&rows, store->database, "SELECT value FROM settings WHERE name = ?1",
                    VALUES(value_text(name)), err))
        return false;
    is_good = rows_next(&rows, &has_row, err) && (!has_row || rows_copy_text(&rows, 0, value, err));
    rows_end(&rows);
    return is_good;
}

bool store_set_setting(struct store *store, const char *name, const char *value, struct error *err)
{
    bool is_good;

    if (!store_write_begin(store, err))
        return false;
    is_good = database_run(store->database,
                           "INSERT INTO settings (name, value) VALUES (?1, ?2) ON CONFLICT (name) "
                           "DO UPDATE SET value = excluded.value",
                           VALUES(value_text(name), value_text(value)), NULL, err);
    return store_write_end(store, is_good, err);
}
