/* The history: lists of jobs from the newest, and how much there is of everything. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "store/store_private.h"

#define LIMIT_MAX 200

#define FILTERED                                                                                   \
    " FROM jobs WHERE sequence < ?1 AND (?2 = 0 OR state = 2) AND (?3 = 0 OR EXISTS (SELECT 1 "    \
    "FROM pictures WHERE job = sequence AND is_starred <> 0))"
#define NEWEST_FIRST " ORDER BY sequence DESC"

/* Two, since an index serves either of them and not "owner, or everybody". */
static const char *const list_all =
    "SELECT " STORE_JOB_COLUMNS ", prompt_folded" FILTERED NEWEST_FIRST;
static const char *const list_owner =
    "SELECT " STORE_JOB_COLUMNS ", prompt_folded" FILTERED " AND owner = ?4" NEWEST_FIRST;

static bool start_list(struct rows *rows, struct store *store, const struct store_query *query,
                       struct error *err)
{
    struct value values[] = {value_integer(query->before > 0 ? query->before : INT64_MAX),
                             value_integer(query->done_only), value_integer(query->starred_only),
                             value_text(query->owner)};
    int count = (int)COUNT_OF(values);

    return query->owner ? rows_start(rows, store->database, list_owner, values, count, err)
                        : rows_start(rows, store->database, list_all, values, count - 1, err);
}

bool store_list(struct store *store, const struct store_query *query,
                void (*visit)(void *context, const struct store_job *job), void *context,
                struct error *err)
{
    char *search = NULL;
    bool has_row = false, is_good;
    struct rows rows;
    int32_t left = query->limit;

    if (query->limit < 1 || query->limit > LIMIT_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "a list has 1 to %d jobs, not %d", LIMIT_MAX,
                         (int)query->limit);
    if (query->search && !store_fold(&search, query->search, err))
        return false;
    is_good = start_list(&rows, store, query, err);
    if (!is_good)
        goto done;
    while (left > 0 && (is_good = rows_next(&rows, &has_row, err)) && has_row) {
        const char *prompt = search ? rows_text(&rows, STORE_JOB_COLUMN_COUNT) : NULL;
        struct store_job job;

        if (search && !prompt) {
            is_good = error_set(err, ERROR_NO_MEMORY, "searching the history");
            break;
        }
        if (search && !store_has_words(prompt, search))
            continue;
        is_good = store_row_job(&job, store, &rows, err);
        if (!is_good)
            break;
        visit(context, &job);
        store_job_finish(&job);
        left--;
    }
    rows_end(&rows);

done:
    free(search);
    return is_good;
}

static bool count_states(struct store *store, struct store_counts *out, struct error *err)
{
    struct rows rows;
    bool has_row = false, is_good = true;

    if (!rows_start(&rows, store->database, "SELECT state, count(*) FROM jobs GROUP BY state",
                    NO_VALUES, err))
        return false;
    while (is_good && (is_good = rows_next(&rows, &has_row, err)) && has_row) {
        int64_t count = rows_integer(&rows, 1);

        switch (rows_integer(&rows, 0)) {
        case JOB_QUEUED:
            out->queued = count;
            break;
        case JOB_RUNNING:
            out->running = count;
            break;
        case JOB_DONE:
            out->done = count;
            break;
        case JOB_FAILED:
            out->failed = count;
            break;
        case JOB_CANCELLED:
            out->cancelled = count;
            break;
        default:
            break;
        }
    }
    rows_end(&rows);
    return is_good;
}

static bool count_pictures(struct store *store, struct store_counts *out, struct error *err)
{
    struct rows rows;
    bool has_row = false, is_good;

    if (!rows_start(&rows, store->database,
                    "SELECT count(*), coalesce(sum(bytes), 0) FROM pictures", NO_VALUES, err))
        return false;
    is_good = rows_next(&rows, &has_row, err);
    if (is_good && has_row) {
        out->pictures = rows_integer(&rows, 0);
        out->picture_bytes = rows_integer(&rows, 1);
    }
    rows_end(&rows);
    return is_good;
}

bool store_count(struct store *store, struct store_counts *out, struct error *err)
{
    static const char *const files[] = {STORE_DATABASE_NAME, STORE_DATABASE_NAME "-wal"};
    struct statvfs disk;
    struct stat st;

    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < COUNT_OF(files); i++)
        if (fstatat(store->state_fd, files[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
            out->database_bytes += st.st_size;
    if (fstatvfs(store->folder_fd, &disk) == 0)
        out->disk_free_bytes = (int64_t)(disk.f_bavail * disk.f_frsize);
    return count_states(store, out, err) && count_pictures(store, out, err);
}
