/* The states of a job. Each step is one UPDATE that names the state and fence that it starts from,
 * so that a worker that was thought dead changes nothing, and terminal states never change.
 */
#include <string.h>

#include "store/store_private.h"

bool store_get(struct store *store, const char *id, const char *owner, struct store_job *out,
               bool *found, struct error *err)
{
    struct rows rows;
    bool is_good;

    if (!rows_start(&rows, store->database,
                    "SELECT " STORE_JOB_COLUMNS
                    " FROM jobs WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)",
                    VALUES(value_text(id), value_text(owner)), err))
        return false;
    is_good = rows_next(&rows, found, err) && (!*found || store_row_job(out, store, &rows, err));
    rows_end(&rows);
    return is_good;
}

/* Runs one UPDATE of one job and, where it `ends` the job, forgets its inputs. */
static bool change(struct store *store, const char *id, bool ends, bool *changed,
                   const char *statement, const struct value *values, int count, struct error *err)
{
    int64_t changes = 0;
    bool is_good;

    if (!store_write_begin(store, err))
        return false;
    is_good = database_run(store->database, statement, values, count, &changes, err);
    *changed = changes > 0;
    if (is_good && *changed && ends)
        is_good = database_run(store->database,
                               "DELETE FROM inputs WHERE job = (SELECT sequence FROM jobs WHERE "
                               "id = ?1)",
                               VALUES(value_text(id)), NULL, err);
    return store_write_end(store, is_good, err);
}

bool store_claim(struct store *store, const char *id, const char *worker, int64_t lease_ms,
                 int64_t now_ms, int64_t *fence, bool *claimed, struct error *err)
{
    bool is_good;

    if (!store_write_begin(store, err))
        return false;
    *claimed = false;
    is_good = database_number(store->database,
                              "UPDATE jobs SET state = 1, attempts = attempts + 1, fence = fence + "
                              "1, worker = ?2, lease_until_ms = ?3, started_ms = ?4 WHERE id = ?1 "
                              "AND state = 0 RETURNING fence",
                              VALUES(value_text(id), value_text(worker),
                                     value_integer(now_ms + lease_ms), value_integer(now_ms)),
                              fence, claimed, err);
    if (!store_write_end(store, is_good, err))
        return false;
    if (*claimed)
        store_reach("claim.committed");
    return true;
}

/* The state of a job that is known to be there. */
static bool read_state(struct store *store, const char *id, const char *owner,
                       enum job_state *state, bool *found, struct error *err)
{
    int64_t number = 0;

    if (!database_number(store->database,
                         "SELECT state FROM jobs WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)",
                         VALUES(value_text(id), value_text(owner)), &number, found, err))
        return false;
    if (number < JOB_QUEUED || number > JOB_CANCELLED)
        return error_set(err, ERROR_BAD_FILE,
                         "the store's database is damaged: a job's state is "
                         "%lld",
                         (long long)number);
    *state = (enum job_state)number;
    return true;
}

bool store_requeue(struct store *store, const char *id, int64_t fence, enum job_state *state,
                   struct error *err)
{
    bool changed, found;

    if (!change(store, id, true, &changed,
                "UPDATE jobs SET state = 3, error_code = 'poison', error_message = 'the worker "
                "was lost each time that it worked on this', finished_ms = ?4, worker = NULL "
                "WHERE id = ?1 AND state = 1 AND fence = ?2 AND attempts >= ?3",
                VALUES(value_text(id), value_integer(fence), value_integer(STORE_ATTEMPTS_MAX),
                       value_integer(store_now_ms())),
                err) ||
        (!changed && !change(store, id, false, &changed,
                             "UPDATE jobs SET state = 0, worker = NULL WHERE id = ?1 AND state = "
                             "1 AND fence = ?2",
                             VALUES(value_text(id), value_integer(fence)), err)) ||
        !read_state(store, id, NULL, state, &found, err))
        return false;
    return found || error_set(err, ERROR_BAD_REQUEST, "there is no job '%s'", id);
}

bool store_put_back(struct store *store, const char *id, int64_t fence, struct error *err)
{
    bool changed;

    return change(store, id, false, &changed,
                  "UPDATE jobs SET state = 0, attempts = attempts - 1, worker = NULL WHERE id = ?1 "
                  "AND state = 1 AND fence = ?2",
                  VALUES(value_text(id), value_integer(fence)), err);
}

bool store_finish(struct store *store, const char *id, int64_t fence, const char *result,
                  int64_t now_ms, bool *kept, struct error *err)
{
    if (!change(
            store, id, true, kept,
            "UPDATE jobs SET state = 2, done_fence = fence, result = ?3, finished_ms = ?4 "
            "WHERE id = ?1 AND state = 1 AND fence = ?2",
            VALUES(value_text(id), value_integer(fence), value_text(result), value_integer(now_ms)),
            err))
        return false;
    if (!*kept)
        return true;
    if (store->is_group)
        store->has_finished = true;
    else
        store_reach("done.committed");
    return true;
}

bool store_fail(struct store *store, const char *id, int64_t fence, const char *code,
                const char *message, int64_t now_ms, bool *kept, struct error *err)
{
    if (strlen(code) >= sizeof((struct store_job *)0)->error_code)
        return error_set(err, ERROR_BAD_REQUEST, "the code of a failure is too long: '%s'", code);
    return change(store, id, true, kept,
                  "UPDATE jobs SET state = 3, error_code = ?3, error_message = ?4, finished_ms = "
                  "?5 WHERE id = ?1 AND ((state = 1 AND fence = ?2) OR (state = 0 AND ?2 = -1))",
                  VALUES(value_text(id), value_integer(fence), value_text(code),
                         value_text(message), value_integer(now_ms)),
                  err);
}

bool store_cancel(struct store *store, const char *id, const char *owner, int64_t now_ms,
                  enum job_state *state, bool *found, struct error *err)
{
    bool changed;

    if (!read_state(store, id, owner, state, found, err))
        return false;
    if (!*found || *state >= JOB_DONE)
        return true;
    if (!change(store, id, true, &changed,
                "UPDATE jobs SET state = 4, finished_ms = ?2, worker = NULL WHERE id = ?1 AND "
                "state < 2",
                VALUES(value_text(id), value_integer(now_ms)), err))
        return false;
    if (!store->is_group)
        store_reach("cancel.committed");
    return true;
}

bool store_each_queued(struct store *store,
                       void (*visit)(void *context, const struct store_job *job), void *context,
                       struct error *err)
{
    struct rows rows;
    bool has_row = false, is_good = true;

    if (!rows_start(&rows, store->database,
                    "SELECT " STORE_JOB_COLUMNS " FROM jobs WHERE state = 0 ORDER BY sequence",
                    NO_VALUES, err))
        return false;
    while (is_good && (is_good = rows_next(&rows, &has_row, err)) && has_row) {
        struct store_job job;

        is_good = store_row_job(&job, store, &rows, err);
        if (!is_good)
            break;
        visit(context, &job);
        store_job_finish(&job);
    }
    rows_end(&rows);
    return is_good;
}
