/* The oracle: what must be true of a folder at rest, whatever happened to the process before. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "image/image.h"
#include "store/store_private.h"

struct verification {
    struct store store; /* only what reading needs */
    void (*defect)(void *context, const char *sentence);
    void *context;
    int64_t checked;
};

static void report(struct verification *verification, const char *format, ...) PRINTF_LIKE(2, 3);
static void report(struct verification *verification, const char *format, ...)
{
    char sentence[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    verification->defect(verification->context, sentence);
}

static void report_structure(void *context, const char *sentence)
{
    report(context, "the database is damaged: %s", sentence);
}

/* --- Rows (I3, I4, I5, I7) --- */

#define TEXT_OF_VALUE(value) #value
#define TEXT_OF(macro) TEXT_OF_VALUE(macro)

static const struct {
    const char *statement; /* the ids, or names, of what is wrong */
    const char *sentence;  /* of one */
} rules[] = {
    {"SELECT id FROM jobs WHERE attempts < 0 OR attempts > " TEXT_OF(
         STORE_ATTEMPTS_MAX) " OR "
                             "fence < attempts",
     "I5: job %s has an impossible count of attempts"},
    {"SELECT id FROM jobs WHERE state IN (1, 2) AND (attempts < 1 OR started_ms = 0)",
     "I5: job %s runs or ran, and was never claimed"},
    {"SELECT id FROM jobs WHERE (state = 2) <> (done_fence IS NOT NULL)",
     "I4: job %s is done and was never finished, or the other way round"},
    {"SELECT id FROM jobs WHERE state = 2 AND done_fence <> fence",
     "I7: job %s was claimed again after it was done"},
    {"SELECT jobs.id FROM jobs JOIN pictures ON job = sequence WHERE pictures.fence > jobs.fence "
     "OR pictures.fence < 1",
     "I7: job %s has a picture of a claim that never was"},
    {"SELECT id FROM jobs WHERE state = 2 AND NOT EXISTS (SELECT 1 FROM pictures WHERE job = "
     "sequence)",
     "I2: job %s is done and has no picture"},
    {"SELECT id FROM jobs WHERE (state >= 2) <> (finished_ms <> 0)",
     "I4: job %s has ended without a time, or has one without having ended"},
    {"SELECT id FROM jobs WHERE state = 3 AND coalesce(error_code, '') = ''",
     "I4: job %s has failed without a code"},
    {"SELECT id FROM jobs WHERE state >= 2 AND EXISTS (SELECT 1 FROM inputs WHERE job = sequence)",
     "I8: job %s has ended and its inputs are kept"},
    {"SELECT idempotency_key FROM requests GROUP BY owner, idempotency_key HAVING count(*) > 1",
     "I3: the key '%s' has more than one job"},
    {"SELECT requests.idempotency_key FROM requests JOIN jobs ON job = sequence WHERE "
     "requests.owner <> jobs.owner",
     "I3: the key '%s' leads to somebody else's job"},
    {"SELECT DISTINCT CAST(job AS TEXT) FROM (SELECT job FROM pictures UNION ALL SELECT job FROM "
     "inputs UNION ALL SELECT job FROM requests) AS parts WHERE NOT EXISTS (SELECT 1 FROM jobs "
     "WHERE sequence = job)",
     "I6: rows belong to job number %s, which is not there"},
    {"SELECT path FROM tombstones", "I6: the file %s was to be removed"},
};

static bool check_rules(struct verification *verification, struct error *err)
{
    for (size_t i = 0; i < COUNT_OF(rules); i++) {
        bool has_row = false, is_good = true;
        struct rows rows;

        if (!rows_start(&rows, verification->store.database, rules[i].statement, NO_VALUES, err))
            return false;
        while (is_good && (is_good = rows_next(&rows, &has_row, err)) && has_row) {
            const char *name = rows_text(&rows, 0);
            char sentence[256];
            const char *place = strstr(rules[i].sentence, "%s");

            snprintf(sentence, sizeof sentence, "%.*s%s%s", (int)(place - rules[i].sentence),
                     rules[i].sentence, name ? name : "?", place + 2);
            report(verification, "%s", sentence);
        }
        rows_end(&rows);
        if (!is_good)
            return false;
    }
    return true;
}

/* A member of a JSON text of the database, 0 where there is none. False: the text is no JSON, or
 * memory is short. */
static bool read_member(int64_t *out, const char *text, const char *name)
{
    json_t *object = text ? json_loads(text, 0, NULL) : NULL;
    bool ok = !text || object;

    *out = json_integer_value(json_object_get(object, name));
    json_decref(object);
    return ok;
}

/* Pictures are there as many as were asked for, but for those that are said to be skipped. */
static bool check_counts(struct verification *verification, struct error *err)
{
    bool has_row = false, is_good = true;
    struct rows rows;

    if (!rows_start(&rows, verification->store.database,
                    "SELECT id, parameters, result, (SELECT count(*) FROM pictures WHERE job = "
                    "sequence) FROM jobs WHERE state = 2",
                    NO_VALUES, err))
        return false;
    while (is_good && (is_good = rows_next(&rows, &has_row, err)) && has_row) {
        const char *id = rows_text(&rows, 0);
        int64_t found = rows_integer(&rows, 3), wanted, skipped;

        if (read_member(&wanted, rows_text(&rows, 1), "count") &&
            read_member(&skipped, rows_text(&rows, 2), "pictures_skipped") &&
            found < wanted - skipped)
            report(verification, "I2: job %s is done with %lld pictures of %lld, and %lld skipped",
                   id ? id : "?", (long long)found, (long long)wanted, (long long)skipped);
    }
    rows_end(&rows);
    return is_good;
}

/* --- Files (I2, I6) --- */

/* All of a file below the folder; NULL where that cannot be had. */
static unsigned char *read_file(struct verification *verification, const char *path, size_t *size)
{
    int fd = store_open_file(&verification->store, path);
    unsigned char *bytes = NULL;
    struct stat st;
    size_t done = 0;

    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0)
        bytes = malloc((size_t)st.st_size + 1);
    while (bytes && done < (size_t)st.st_size) {
        ssize_t got = read(fd, bytes + done, (size_t)st.st_size - done);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    close(fd);
    *size = done;
    return bytes;
}

static bool read_size(const unsigned char *bytes, size_t size, int *width, int *height,
                      const char *path, struct error *err)
{
    struct image_limits limits = {.bytes_max = SIZE_MAX,
                                  .pixels_max = (size_t)IMAGE_SIDE_MAX * IMAGE_SIDE_MAX};
    struct image_header header;

    if (!image_header_read(&header, bytes, size, &limits, path, err))
        return false;
    *width = header.width;
    *height = header.height;
    return true;
}

static void check_picture(struct verification *verification, const struct store_picture *picture)
{
    char hash[STORE_HASH_TEXT_BYTES];
    struct error err = {0};
    unsigned char *bytes;
    size_t size = 0;
    int width, height;

    bytes = read_file(verification, picture->path, &size);
    if (!bytes) {
        report(verification, "I2: the file '%s' of picture %s is not there", picture->path,
               picture->id);
        return;
    }
    store_hash_text(hash, bytes, size);
    if ((int64_t)size != picture->bytes)
        report(verification, "I2: the file '%s' has %zu bytes, not %lld", picture->path, size,
               (long long)picture->bytes);
    else if (strcmp(hash, picture->sha256) != 0)
        report(verification, "I2: the file '%s' has other bytes than were written", picture->path);
    else if (!strstr(picture->path, hash))
        report(verification, "I2: the file '%s' is not named after its content", picture->path);
    else if (!read_size(bytes, size, &width, &height, picture->path, &err))
        report(verification, "I2: %s", err.message);
    else if (width != picture->width || height != picture->height)
        report(verification, "I2: the picture '%s' is %d x %d, not %d x %d", picture->path, width,
               height, (int)picture->width, (int)picture->height);
    free(bytes);
}

static void check_thumbnail(struct verification *verification, const struct store_picture *picture)
{
    struct error err = {0};
    unsigned char *bytes;
    size_t size = 0;
    int width, height;

    if (!picture->thumbnail[0])
        return;
    bytes = read_file(verification, picture->thumbnail, &size);
    if (!bytes)
        report(verification, "I2: the thumbnail '%s' is not there", picture->thumbnail);
    else if (!read_size(bytes, size, &width, &height, picture->thumbnail, &err))
        report(verification, "I2: %s", err.message);
    free(bytes);
}

static bool check_pictures(struct verification *verification, struct error *err)
{
    bool has_row = false, is_good = true;
    struct rows rows;

    if (!rows_start(&rows, verification->store.database,
                    "SELECT " STORE_PICTURE_COLUMNS " FROM pictures", NO_VALUES, err))
        return false;
    while (is_good && (is_good = rows_next(&rows, &has_row, err)) && has_row) {
        struct store_picture picture;

        is_good = store_row_picture(&picture, &rows, err);
        if (!is_good)
            break;
        check_picture(verification, &picture);
        check_thumbnail(verification, &picture);
        verification->checked++;
    }
    rows_end(&rows);
    return is_good;
}

static bool check_file(void *context, const char *path, struct error *err)
{
    struct verification *verification = context;
    int64_t number;
    bool has_row;

    if (!database_number(verification->store.database,
                         "SELECT 1 WHERE EXISTS (SELECT 1 FROM pictures WHERE path = ?1) OR "
                         "EXISTS (SELECT 1 FROM pictures WHERE thumbnail = ?1)",
                         VALUES(value_text(path)), &number, &has_row, err))
        return false;
    if (!has_row)
        report(verification, "I6: the file '%s' belongs to no picture", path);
    verification->checked++;
    return true;
}

static bool check_temporary_files(struct verification *verification, struct error *err)
{
    DIR *list = store_list_folder(verification->store.temporary_fd);
    struct dirent *entry;

    if (!list)
        return error_set_errno(err, errno, "listing the temporary files");
    while ((entry = readdir(list)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            report(verification, "I8: the temporary file '%s' is left", entry->d_name);
    closedir(list);
    return true;
}

/* --- The folder --- */

static bool open_folders(struct verification *verification, const char *folder, struct error *err)
{
    struct store *store = &verification->store;

    store->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->folder_fd < 0)
        return error_set_errno(err, errno, "opening the store's folder '%s'", folder);
    store->state_fd =
        store_open_beneath(store->folder_fd, STORE_STATE_FOLDER, O_RDONLY | O_DIRECTORY);
    if (store->state_fd >= 0)
        store->temporary_fd =
            store_open_beneath(store->state_fd, STORE_TEMPORARY_FOLDER, O_RDONLY | O_DIRECTORY);
    if (store->temporary_fd < 0)
        return error_set_errno(err, errno, "'%s' is no folder of a store", folder);
    store->lock_fd = store_open_beneath(store->state_fd, STORE_LOCK_NAME, O_RDONLY | O_NONBLOCK);
    if (store->lock_fd < 0)
        return error_set_errno(err, errno, "the lock of '%s'", folder);
    if (flock(store->lock_fd, LOCK_SH | LOCK_NB) != 0)
        return error_set(err, ERROR_BAD_REQUEST,
                         "a server works on '%s': stop it before checking what it keeps", folder);
    return true;
}

static bool check_all(struct verification *verification, struct error *err)
{
    struct database *database = verification->store.database;
    int64_t jobs = 0;
    bool has_row;

    if (!database_check(database, true, report_structure, verification, err) ||
        !check_rules(verification, err) || !check_counts(verification, err) ||
        !check_pictures(verification, err) ||
        !store_each_file(verification->store.folder_fd, check_file, verification, err) ||
        !check_temporary_files(verification, err) ||
        !database_number(database, "SELECT count(*) FROM jobs", NO_VALUES, &jobs, &has_row, err))
        return false;
    verification->checked += jobs;
    return true;
}

bool store_verify(const char *folder, void (*defect)(void *context, const char *sentence),
                  void *context, int64_t *checked, struct error *err)
{
    struct verification verification = {
        .store =
            {.folder_fd = -1, .state_fd = -1, .temporary_fd = -1, .lock_fd = -1, .database_fd = -1},
        .defect = defect,
        .context = context,
    };
    char *real = realpath(folder, NULL);
    bool is_good;

    if (!real)
        return error_set_errno(err, errno, "opening the store's folder '%s'", folder);
    is_good = open_folders(&verification, real, err) &&
              store_schema_read(&verification.store.database, real, err) &&
              check_all(&verification, err);
    *checked = verification.checked;
    store_close_folders(&verification.store);
    free(real);
    return is_good;
}
