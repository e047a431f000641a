/* Rows of the database into the structs of store.h. The database is a file: what it says is
 * checked.
 */
#include <stdlib.h>
#include <string.h>

#include "store/store_private.h"

void store_job_finish(struct store_job *job)
{
    free(job->parameters);
    free(job->error_message);
    free(job->result);
    memset(job, 0, sizeof *job);
}

static bool check_range(int64_t value, int64_t least, int64_t most, const char *what,
                        struct error *err)
{
    return (value >= least && value <= most) ||
           error_set(err, ERROR_BAD_FILE, "the store's database is damaged: %s is %lld", what,
                     (long long)value);
}

bool store_row_picture(struct store_picture *out, const struct rows *rows, struct error *err)
{
    int64_t position = rows_integer(rows, 1), width = rows_integer(rows, 2),
            height = rows_integer(rows, 3);

    memset(out, 0, sizeof *out);
    if (!check_range(position, 0, STORE_PICTURES_MAX - 1, "a picture's index", err) ||
        !check_range(width, 1, INT32_MAX, "a picture's width", err) ||
        !check_range(height, 1, INT32_MAX, "a picture's height", err))
        return false;
    out->index = (int32_t)position;
    out->width = (int32_t)width;
    out->height = (int32_t)height;
    out->seed = (uint64_t)rows_integer(rows, 4);
    out->bytes = rows_integer(rows, 8);
    out->is_starred = rows_integer(rows, 10) != 0;
    return rows_copy(rows, 0, out->id, sizeof out->id, err) &&
           rows_copy(rows, 5, out->path, sizeof out->path, err) &&
           rows_copy(rows, 6, out->thumbnail, sizeof out->thumbnail, err) &&
           rows_copy(rows, 7, out->format, sizeof out->format, err) &&
           rows_copy(rows, 9, out->sha256, sizeof out->sha256, err);
}

static bool read_pictures(struct store_job *job, struct store *store, struct error *err)
{
    struct rows rows;
    bool has_row = false, is_good = true;

    if (!rows_start(&rows, store->database,
                    "SELECT " STORE_PICTURE_COLUMNS
                    " FROM pictures WHERE job = ?1 ORDER BY position",
                    VALUES(value_integer(job->sequence)), err))
        return false;
    while (is_good && (is_good = rows_next(&rows, &has_row, err)) && has_row) {
        is_good =
            check_range(job->picture_count, 0, STORE_PICTURES_MAX - 1, "a job's picture", err) &&
            store_row_picture(&job->pictures[job->picture_count], &rows, err);
        if (is_good)
            job->picture_count++;
    }
    rows_end(&rows);
    return is_good;
}

static bool read_job(struct store_job *out, const struct rows *rows, struct error *err)
{
    int64_t state = rows_integer(rows, 4), attempts = rows_integer(rows, 5);

    if (!check_range(state, JOB_QUEUED, JOB_CANCELLED, "a job's state", err) ||
        !check_range(attempts, 0, INT32_MAX, "a job's attempts", err))
        return false;
    out->sequence = rows_integer(rows, 0);
    out->state = (enum job_state)state;
    out->attempts = (int32_t)attempts;
    out->fence = rows_integer(rows, 6);
    out->cost = rows_real(rows, 8);
    out->created_ms = rows_integer(rows, 9);
    out->started_ms = rows_integer(rows, 10);
    out->finished_ms = rows_integer(rows, 11);
    out->deadline_ms = rows_integer(rows, 12);
    return rows_copy(rows, 1, out->id, sizeof out->id, err) &&
           rows_copy(rows, 2, out->owner, sizeof out->owner, err) &&
           rows_copy(rows, 3, out->api, sizeof out->api, err) &&
           rows_copy_text(rows, 7, &out->parameters, err) &&
           rows_copy(rows, 13, out->error_code, sizeof out->error_code, err) &&
           rows_copy_text(rows, 14, &out->error_message, err) &&
           rows_copy_text(rows, 15, &out->result, err);
}

bool store_row_job(struct store_job *out, struct store *store, const struct rows *rows,
                   struct error *err)
{
    memset(out, 0, sizeof *out);
    if (read_job(out, rows, err) && read_pictures(out, store, err))
        return true;
    store_job_finish(out);
    return false;
}
