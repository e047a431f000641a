#include "convert/staging.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "convert/manifest.h"

#define SMALL_FILE_BYTES_MAX ((size_t)64 << 20) /* tokenizers have 5 MB */
#define RECORD_FILE "quantization.json"

const char *staging_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static bool out_of_memory(const char *path, struct error *err)
{
    return error_set(err, ERROR_NO_MEMORY, "'%s'", path);
}

/* --- Before anything is made --- */

/* The folder that the target lies in. The caller frees it; NULL when memory is short. */
static char *parent_of(const char *target)
{
    const char *name = staging_base_name(target);

    if (name == target)
        return strdup(".");
    return strndup(target, name - target > 1 ? (size_t)(name - target - 1) : 1);
}

/* What the target's path will be when it is there, without links. */
static bool real_target(char **out, const char *target, struct error *err)
{
    char *parent, *real;

    *out = realpath(target, NULL);
    if (*out)
        return true;
    parent = parent_of(target);
    if (!parent)
        return out_of_memory(target, err);
    real = realpath(parent, NULL);
    if (!real) {
        error_set(err, ERROR_BAD_REQUEST, "'%s': there is no folder '%s' to write it to", target,
                  parent);
        free(parent);
        return false;
    }
    free(parent);
    *out = file_join(real, staging_base_name(target));
    free(real);
    return *out || out_of_memory(target, err);
}

/* True when `inner` is `outer` or lies below it. Both are real paths. */
static bool is_within(const char *inner, const char *outer)
{
    size_t length = strlen(outer);

    return strncmp(inner, outer, length) == 0 && (inner[length] == '\0' || inner[length] == '/' ||
                                                  (length > 0 && outer[length - 1] == '/'));
}

static bool check_source(const char *target, const char *real, const char *source,
                         struct error *err)
{
    char *real_source = realpath(source, NULL);
    bool ok = true;

    if (!real_source)
        return true; /* whoever opens it will say so */
    if (strcmp(real, real_source) == 0)
        ok = error_set(err, ERROR_BAD_REQUEST,
                       "the output '%s' is the model itself: name another place", target);
    else if (is_within(real, real_source))
        ok = error_set(err, ERROR_BAD_REQUEST,
                       "the output '%s' lies inside the model '%s': name another place", target,
                       source);
    else if (is_within(real_source, real))
        ok = error_set(err, ERROR_BAD_REQUEST,
                       "the output '%s' holds '%s', which is read: name another place", target,
                       source);
    free(real_source);
    return ok;
}

static bool is_empty_folder(const char *path)
{
    DIR *directory = opendir(path);
    bool is_empty = directory != NULL;

    for (struct dirent *entry = directory ? readdir(directory) : NULL; entry && is_empty;
         entry = readdir(directory))
        is_empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    if (directory)
        closedir(directory);
    return is_empty;
}

static bool has_file(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    bool has = path && file_is_regular(path);

    free(path);
    return has;
}

/* Only what an earlier conversion wrote is ever replaced: a folder of anything else would be lost
 * by a slip of the finger. */
static bool check_folder(struct staging *staging, bool replace, struct error *err)
{
    const char *target = staging->target;

    if (!file_is_directory(target))
        return error_set(err, ERROR_BAD_REQUEST,
                         "'%s' is a file: this layout writes a folder, name another place", target);
    if (is_empty_folder(target))
        return true;
    if (!replace)
        return error_set(err, ERROR_BAD_REQUEST, "'%s' is there already: --force replaces it",
                         target);
    if (!has_file(target, MANIFEST_FILE) || !has_file(target, RECORD_FILE))
        return error_set(err, ERROR_BAD_REQUEST,
                         "'%s' is no model that was converted: it is not replaced", target);
    staging->is_replacing = true;
    return true;
}

static bool check_file(struct staging *staging, bool replace, struct error *err)
{
    const char *target = staging->target;

    if (file_is_directory(target))
        return error_set(err, ERROR_BAD_REQUEST,
                         "'%s' is a folder: this layout writes a file, name one in it", target);
    if (!file_is_regular(target))
        return error_set(err, ERROR_BAD_REQUEST, "'%s' is not a regular file", target);
    if (!replace)
        return error_set(err, ERROR_BAD_REQUEST, "'%s' is there already: --force replaces it",
                         target);
    staging->is_replacing = true;
    return true;
}

static char *without_slashes(const char *path)
{
    size_t length = strlen(path);

    while (length > 1 && path[length - 1] == '/')
        length--;
    return strndup(path, length);
}

static bool check_target(struct staging *staging, bool replace, const char *const *sources,
                         size_t source_count, struct error *err)
{
    const char *name = staging_base_name(staging->target);
    struct stat st;
    char *real;
    bool ok = true;

    if (strcmp(name, "") == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return error_set(err, ERROR_BAD_REQUEST, "'%s' names no place for the output",
                         staging->target);
    if (!real_target(&real, staging->target, err))
        return false;
    for (size_t i = 0; i < source_count && ok; i++)
        ok = check_source(staging->target, real, sources[i], err);
    free(real);
    if (!ok || lstat(staging->target, &st) != 0)
        return ok;
    return staging->is_folder ? check_folder(staging, replace, err)
                              : check_file(staging, replace, err);
}

bool staging_init(struct staging *staging, const char *target, bool is_folder, bool replace,
                  const char *const *sources, size_t source_count, const char *made_by,
                  struct error *err)
{
    *staging = (struct staging){.is_folder = is_folder, .target = without_slashes(target)};
    staging->manifest = manifest_create(made_by);
    if (staging->target && staging->manifest)
        return check_target(staging, replace, sources, source_count, err);
    return out_of_memory(target, err);
}

/* --- The folder --- */

static bool check_space(const char *parent, size_t bytes, size_t spare, struct error *err)
{
    struct statvfs st;
    size_t free_bytes;
    char besides[64] = "";

    if (statvfs(parent, &st) != 0)
        return error_set_errno(err, errno, "asking for the free space of '%s'", parent);
    free_bytes = (size_t)st.f_bavail * st.f_frsize;
    if (free_bytes >= bytes && free_bytes - bytes >= spare)
        return true;
    if (spare > 0)
        snprintf(besides, sizeof besides, ", of which %.2f GB are to stay so", (double)spare / 1e9);
    return error_set(err, ERROR_IO,
                     "the disk of '%s' is too full: the converted model takes %.2f GB, %.2f GB are "
                     "free%s",
                     parent, (double)bytes / 1e9, (double)free_bytes / 1e9, besides);
}

bool staging_open(struct staging *staging, size_t bytes, size_t spare, struct error *err)
{
    char *parent = parent_of(staging->target);
    mode_t mask;
    bool ok;

    if (!parent)
        return out_of_memory(staging->target, err);
    ok = check_space(parent, bytes, spare, err);
    free(parent);
    if (!ok)
        return false;
    if (asprintf(&staging->folder, "%s.part-XXXXXX", staging->target) < 0) {
        staging->folder = NULL;
        return out_of_memory(staging->target, err);
    }
    if (!mkdtemp(staging->folder)) {
        error_set_errno(err, errno, "writing '%s'", staging->target);
        free(staging->folder);
        staging->folder = NULL;
        return false;
    }
    mask = umask(0);
    umask(mask);
    (void)chmod(staging->folder, 0777 & ~mask);
    return true;
}

static bool make_folder(const char *path, struct error *err)
{
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return error_set_errno(err, errno, "making '%s'", path);
    return true;
}

bool staging_path(char **out, const struct staging *staging, const char *name, struct error *err)
{
    char *path = file_join(staging->folder, name), *slash;
    bool ok = true;

    if (!path)
        return out_of_memory(name, err);
    slash = strrchr(path, '/');
    if (strchr(name, '/')) {
        *slash = '\0';
        ok = make_folder(path, err);
        *slash = '/';
    }
    if (!ok) {
        free(path);
        return false;
    }
    *out = path;
    return true;
}

/* --- Small files --- */

bool staging_write_bytes(struct staging *staging, const char *name, const void *bytes, size_t size,
                         struct error *err)
{
    char *path;
    bool ok;

    if (!staging_path(&path, staging, name, err))
        return false;
    ok = file_write(path, bytes, size, err) &&
         manifest_add_file(staging->manifest, name, bytes, size, err);
    free(path);
    return ok;
}

/* In the fewest digits that read back the same. NULL when memory is short. */
static char *format_json(const json_t *json)
{
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_t *again = text ? json_loads(text, 0, NULL) : NULL;

    if (text && !json_equal(json, again)) {
        free(text);
        text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    }
    json_decref(again);
    return text;
}

bool staging_write_json(struct staging *staging, const char *name, json_t *json, struct error *err)
{
    char *text = json ? format_json(json) : NULL;
    bool ok = text ? staging_write_bytes(staging, name, text, strlen(text), err)
                   : out_of_memory(name, err);

    json_decref(json);
    free(text);
    return ok;
}

bool staging_copy_file(struct staging *staging, const char *name, const char *from,
                       struct error *err)
{
    unsigned char *bytes;
    size_t size;
    bool ok;

    if (!file_read(&bytes, &size, from, SMALL_FILE_BYTES_MAX, err))
        return false;
    ok = staging_write_bytes(staging, name, bytes, size, err);
    free(bytes);
    return ok;
}

static bool copy_entry(struct staging *staging, const char *folder_name, const char *folder,
                       const char *entry, struct error *err)
{
    char *from = file_join(folder, entry), *name = file_join(folder_name, entry);
    bool ok = from && name;

    if (!ok)
        out_of_memory(entry, err);
    else if (file_is_regular(from))
        ok = staging_copy_file(staging, name, from, err);
    free(from);
    free(name);
    return ok;
}

bool staging_copy_folder(struct staging *staging, const char *name, const char *from,
                         struct error *err)
{
    DIR *directory = opendir(from);
    bool ok = true;

    if (!directory)
        return error_set_errno(err, errno, "opening '%s'", from);
    for (struct dirent *entry = readdir(directory); entry && ok; entry = readdir(directory))
        if (entry->d_name[0] != '.')
            ok = copy_entry(staging, name, from, entry->d_name, err);
    closedir(directory);
    return ok;
}

/* --- The end --- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    (void)remove(path); /* what cannot be removed stays; the rest goes */
    return 0;
}

static void remove_tree(const char *folder)
{
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void sync_folder(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return;
    (void)fsync(fd); /* some file systems refuse */
    close(fd);
}

static bool fail_rename(const struct staging *staging, struct error *err)
{
    return error_set_errno(err, errno, "renaming to '%s'", staging->target);
}

/* Both are there all the time, where the file system can exchange them. Leaves the old one in
 * staging->folder. */
static bool exchange_folders(struct staging *staging, struct error *err)
{
    char *aside;
    bool ok;

    if (renameat2(AT_FDCWD, staging->folder, AT_FDCWD, staging->target, RENAME_EXCHANGE) == 0)
        return true;
    if (errno != EINVAL && errno != ENOSYS)
        return fail_rename(staging, err);
    if (asprintf(&aside, "%s.old", staging->folder) < 0)
        return out_of_memory(staging->target, err);
    ok = rename(staging->target, aside) == 0;
    if (ok && rename(staging->folder, staging->target) != 0) {
        ok = fail_rename(staging, err);
        (void)rename(aside, staging->target);
    } else if (ok) {
        (void)rename(aside, staging->folder);
    } else {
        fail_rename(staging, err);
    }
    free(aside);
    return ok;
}

static bool commit_folder(struct staging *staging, struct error *err)
{
    if (staging->is_replacing) {
        if (!exchange_folders(staging, err))
            return false;
        remove_tree(staging->folder);
    } else if (rename(staging->folder, staging->target) != 0) {
        return fail_rename(staging, err);
    }
    free(staging->folder);
    staging->folder = NULL;
    return true;
}

/* Moves one entry of the folder to where it belongs. Folders that are there already stay. */
static bool move_entry(const struct staging *staging, const char *parent, const char *name,
                       struct error *err)
{
    char *from = file_join(staging->folder, name), *to = file_join(parent, name);
    bool ok = from && to;

    if (!ok)
        out_of_memory(name, err);
    else if (!(file_is_directory(from) && file_is_directory(to)) && rename(from, to) != 0)
        ok = error_set_errno(err, errno, "renaming to '%s'", to);
    free(from);
    free(to);
    return ok;
}

/* The model itself last. */
static bool commit_file(struct staging *staging, const char *parent, struct error *err)
{
    const char *model = staging_base_name(staging->target);
    DIR *directory = opendir(staging->folder);
    bool ok = true;

    if (!directory)
        return error_set_errno(err, errno, "opening '%s'", staging->folder);
    for (struct dirent *entry = readdir(directory); entry && ok; entry = readdir(directory))
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, model) != 0)
            ok = move_entry(staging, parent, entry->d_name, err);
    closedir(directory);
    return ok && move_entry(staging, parent, model, err);
}

static bool write_manifest(struct staging *staging, struct error *err)
{
    char *beside = staging->is_folder
                       ? strdup(MANIFEST_FILE)
                       : manifest_path_beside(staging_base_name(staging->target), MANIFEST_FILE);
    bool ok = beside ? staging_write_json(staging, beside, json_deep_copy(staging->manifest), err)
                     : out_of_memory(staging->target, err);

    free(beside);
    return ok;
}

bool staging_commit(struct staging *staging, const char *last_name, json_t *last, struct error *err)
{
    char *text = last ? format_json(last) : NULL, *parent = parent_of(staging->target);
    bool ok = parent && (!staging->is_folder || text);

    json_decref(last);
    if (!ok)
        out_of_memory(staging->target, err);
    else if (staging->is_folder)
        ok = manifest_add_file(staging->manifest, last_name, text, strlen(text), err) &&
             write_manifest(staging, err) &&
             staging_write_bytes(staging, last_name, text, strlen(text), err) &&
             commit_folder(staging, err);
    else
        ok = write_manifest(staging, err) && commit_file(staging, parent, err);
    if (ok)
        sync_folder(parent);
    free(parent);
    free(text);
    return ok;
}

void staging_sweep(const char *target)
{
    char *parent = parent_of(target), *start = NULL;
    DIR *directory = parent ? opendir(parent) : NULL;

    if (directory && asprintf(&start, "%s.part-", staging_base_name(target)) < 0)
        start = NULL;
    for (struct dirent *entry = start ? readdir(directory) : NULL; entry;
         entry = readdir(directory)) {
        char *path = strncmp(entry->d_name, start, strlen(start)) == 0
                         ? file_join(parent, entry->d_name)
                         : NULL;

        if (path)
            remove_tree(path);
        free(path);
    }
    if (directory)
        closedir(directory);
    free(start);
    free(parent);
}

void staging_finish(struct staging *staging)
{
    if (staging->folder)
        remove_tree(staging->folder);
    free(staging->folder);
    free(staging->target);
    json_decref(staging->manifest);
    *staging = (struct staging){0};
}
