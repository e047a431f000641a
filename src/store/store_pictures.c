/* Pictures: the file first, its row after it, and away the other way round. Files are named after
 * their content, so two jobs may share one; it goes with the last row that names it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/store_private.h"

/* --- Adding --- */

/* *sequence of the job where it is running with this fence. */
static bool find_running(struct store *store, const char *id, int64_t fence, int64_t *sequence,
                         bool *found, struct error *err)
{
    return database_number(store->database,
                           "SELECT sequence FROM jobs WHERE id = ?1 AND state = 1 AND fence = ?2",
                           VALUES(value_text(id), value_integer(fence)), sequence, found, err);
}

static bool name_files(struct store_picture *out, const struct store_new_picture *picture,
                       struct error *err)
{
    time_t now = (time_t)(store_now_ms() / 1000);
    struct tm day;

    if (picture->index < 0 || picture->index >= STORE_PICTURES_MAX || picture->width < 1 ||
        picture->height < 1 || !picture->file.bytes ||
        strlen(picture->format) >= sizeof out->format)
        return error_set(err, ERROR_BAD_REQUEST,
                         "picture %d of %d x %d pixels as '%s' is none that the store takes",
                         (int)picture->index, (int)picture->width, (int)picture->height,
                         picture->format);
    gmtime_r(&now, &day);
    store_random_id(out->id);
    store_hash_text(out->sha256, picture->file.bytes, picture->file.size);
    if (strftime(out->path, sizeof out->path, "%Y-%m-%d/", &day) == 0)
        return error_set(err, ERROR_IO, "the clock gives no date");
    memcpy(out->thumbnail, out->path, sizeof out->thumbnail);
    snprintf(out->path + strlen(out->path), sizeof out->path - strlen(out->path), "%s.%s",
             out->sha256, picture->format);
    if (!store_is_file_path(out->path))
        return error_set(err, ERROR_BAD_REQUEST, "'%s' is no format that the store takes",
                         picture->format);
    if (picture->thumbnail.bytes)
        snprintf(out->thumbnail + strlen(out->thumbnail),
                 sizeof out->thumbnail - strlen(out->thumbnail), "%s.thumb.jpg", out->sha256);
    else
        out->thumbnail[0] = '\0';
    return true;
}

/* The files of a picture become tombstones. */
static bool bury(struct store *store, const char *statement, const struct value *values, int count,
                 struct error *err)
{
    int64_t changes = 0;

    if (!database_run(store->database, statement, values, count, &changes, err))
        return false;
    if (changes > 0)
        store->has_tombstones = true;
    return true;
}

static bool insert_picture(struct store *store, int64_t job, int64_t fence,
                           const struct store_picture *named,
                           const struct store_new_picture *picture, struct error *err)
{
    struct value place[] = {value_integer(job), value_integer(picture->index)};
    const char *thumbnail = named->thumbnail[0] ? named->thumbnail : NULL;

    return bury(store,
                "INSERT INTO tombstones (path) SELECT path FROM pictures WHERE job = ?1 AND "
                "position = ?2 UNION SELECT thumbnail FROM pictures WHERE job = ?1 AND position = "
                "?2 AND thumbnail IS NOT NULL ON CONFLICT DO NOTHING",
                place, COUNT_OF(place), err) &&
           database_run(store->database, "DELETE FROM pictures WHERE job = ?1 AND position = ?2",
                        place, COUNT_OF(place), NULL, err) &&
           database_run(
               store->database,
               "INSERT INTO pictures (id, job, position, fence, width, height, seed, "
               "path, thumbnail, format, bytes, sha256) VALUES (?1, ?2, ?3, ?4, ?5, ?6, "
               "?7, ?8, ?9, ?10, ?11, ?12)",
               VALUES(value_text(named->id), value_integer(job), value_integer(picture->index),
                      value_integer(fence), value_integer(picture->width),
                      value_integer(picture->height), value_integer((int64_t)picture->seed),
                      value_text(named->path), value_text(thumbnail), value_text(picture->format),
                      value_integer((int64_t)picture->file.size), value_text(named->sha256)),
               NULL, err);
}

static bool is_referenced(struct store *store, const char *path, bool *answer, struct error *err)
{
    int64_t number;

    return database_number(store->database,
                           "SELECT 1 WHERE EXISTS (SELECT 1 FROM pictures WHERE path = ?1) OR "
                           "EXISTS (SELECT 1 FROM pictures WHERE thumbnail = ?1)",
                           VALUES(value_text(path)), &number, answer, err);
}

static bool remove_unreferenced(void *context, const char *path, struct error *err)
{
    struct store *store = context;
    bool has_row;

    return is_referenced(store, path, &has_row, err) &&
           (has_row || store_remove_file(store, path, err));
}

bool store_add_picture(struct store *store, const char *id, int64_t fence,
                       const struct store_new_picture *picture, bool *kept, struct error *err)
{
    struct store_picture named = {0};
    int64_t job;
    bool is_good;

    if (!name_files(&named, picture, err) || !store_write_begin(store, err))
        return false;
    /* The lock on the database is held while the files are written: the fence stays what it is. */
    is_good = find_running(store, id, fence, &job, kept, err);
    if (is_good && *kept) {
        is_good = (!picture->thumbnail.bytes ||
                   store_write_file(store, named.thumbnail, &picture->thumbnail, err)) &&
                  store_write_file(store, named.path, &picture->file, err) &&
                  insert_picture(store, job, fence, &named, picture, err);
    }
    if (store_write_end(store, is_good, err)) {
        store_reach("picture.committed");
        return true;
    }
    /* What cannot be removed now is swept when the store is opened. After a sync that failed the
     * row may be on the disk nevertheless, and in a group a row that is deleted may come back: the
     * file then stays for the next opening to judge. */
    if (!store->is_group && !store->is_broken && !database_is_broken(store->database)) {
        (void)remove_unreferenced(store, named.path, NULL);
        if (named.thumbnail[0])
            (void)remove_unreferenced(store, named.thumbnail, NULL);
    }
    return error_in(err, "keeping a picture");
}

/* --- Finding --- */

bool store_find_picture(struct store *store, const char *picture_id, const char *owner,
                        struct store_picture *out, char job_id[STORE_ID_BYTES], bool *found,
                        struct error *err)
{
    struct rows rows;
    bool is_good;

    if (!rows_start(&rows, store->database,
                    "SELECT " STORE_PICTURE_COLUMNS ", (SELECT jobs.id FROM jobs WHERE sequence = "
                    "pictures.job) FROM pictures WHERE id = ?1 AND (?2 IS NULL OR EXISTS (SELECT "
                    "1 FROM jobs WHERE sequence = pictures.job AND owner = ?2))",
                    VALUES(value_text(picture_id), value_text(owner)), err))
        return false;
    is_good =
        rows_next(&rows, found, err) &&
        (!*found || (store_row_picture(out, &rows, err) &&
                     rows_copy(&rows, STORE_PICTURE_COLUMN_COUNT, job_id, STORE_ID_BYTES, err)));
    rows_end(&rows);
    return is_good;
}

bool store_star(struct store *store, const char *picture_id, const char *owner, bool starred,
                bool *found, struct error *err)
{
    int64_t changes = 0;
    bool is_good;

    if (!store_write_begin(store, err))
        return false;
    is_good = database_run(
        store->database,
        "UPDATE pictures SET is_starred = ?3 WHERE id = ?1 AND (?2 IS NULL OR "
        "EXISTS (SELECT 1 FROM jobs WHERE sequence = pictures.job AND owner = "
        "?2))",
        VALUES(value_text(picture_id), value_text(owner), value_integer(starred)), &changes, err);
    *found = changes > 0;
    return store_write_end(store, is_good, err);
}

int store_open_file(const struct store *store, const char *path)
{
    struct stat st;
    int fd;

    if (!store_is_file_path(path))
        return -1;
    fd = store_open_beneath(store->folder_fd, path, O_RDONLY | O_NONBLOCK);
    if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))) {
        close(fd);
        return -1;
    }
    return fd;
}

/* --- Removing --- */

bool store_delete(struct store *store, const char *id, const char *owner, bool *found,
                  struct error *err)
{
    struct database *database = store->database;
    int64_t job = 0;
    bool is_good;

    *found = false;
    if (!store_write_begin(store, err))
        return false;
    is_good = database_number(database,
                              "SELECT sequence FROM jobs WHERE id = ?1 AND state >= 2 AND (?2 IS "
                              "NULL OR owner = ?2)",
                              VALUES(value_text(id), value_text(owner)), &job, found, err);
    if (is_good && *found)
        is_good = bury(store,
                       "INSERT INTO tombstones (path) SELECT path FROM pictures WHERE job = ?1 "
                       "UNION SELECT thumbnail FROM pictures WHERE job = ?1 AND thumbnail IS NOT "
                       "NULL ON CONFLICT DO NOTHING",
                       VALUES(value_integer(job)), err) &&
                  database_run(database, "DELETE FROM jobs WHERE sequence = ?1",
                               VALUES(value_integer(job)), NULL, err);
    return store_write_end(store, is_good, err);
}

bool store_purge(struct store *store, struct error *err)
{
    struct rows rows;
    bool has_row = false, is_good = true;

    if (!rows_start(&rows, store->database, "SELECT path FROM tombstones", NO_VALUES, err))
        return false;
    while (is_good && (is_good = rows_next(&rows, &has_row, err)) && has_row) {
        char path[STORE_PATH_BYTES];

        is_good =
            rows_copy(&rows, 0, path, sizeof path, err) && remove_unreferenced(store, path, err);
    }
    rows_end(&rows);
    if (!is_good)
        return false;
    if (store->has_tombstones)
        store_reach("delete.unlinked");
    if (!database_begin(store->database, err))
        return false;
    if (!database_run(store->database, "DELETE FROM tombstones", NO_VALUES, NULL, err)) {
        database_roll_back(store->database);
        return false;
    }
    return database_commit(store->database, err);
}

bool store_sweep(struct store *store, struct error *err)
{
    return store_each_file(store->folder_fd, remove_unreferenced, store, err) ||
           error_in(err, "looking for pictures that no job has");
}
