/* Files below the folder: opened without ever following a link, written so that a name is only ever
 * on a whole file.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/store_private.h"

static const char digits[] = "0123456789abcdef";

static void write_hexadecimal(char *out, const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * size] = '\0';
}

void store_random_id(char id[STORE_ID_BYTES])
{
    unsigned char bytes[(STORE_ID_BYTES - 1) / 2];
    size_t done = 0;

    while (done < sizeof bytes) {
        ssize_t got = getrandom(bytes + done, sizeof bytes - done, 0);

        if (got > 0) /* only a signal comes between */
            done += (size_t)got;
    }
    write_hexadecimal(id, bytes, sizeof bytes);
}

void store_hash_text(char out[STORE_HASH_TEXT_BYTES], const void *bytes, size_t size)
{
    struct sha256_ctx state;
    unsigned char digest[SHA256_DIGEST_SIZE];

    sha256_init(&state);
    sha256_update(&state, size, bytes);
    sha256_digest(&state, sizeof digest, digest);
    write_hexadecimal(out, digest, sizeof digest);
}

/* --- Names --- */

static bool has_shape(const char *name, const char *shape)
{
    for (; *shape; name++, shape++)
        if (*shape == '0' ? *name < '0' || *name > '9' : *name != *shape)
            return false;
    return *name == '\0';
}

bool store_is_day_name(const char *name)
{
    return has_shape(name, "0000-00-00");
}

bool store_is_file_name(const char *name)
{
    static const char *const endings[] = {".png", ".jpeg", ".webp", ".thumb.jpg"};
    size_t length = strspn(name, digits);

    if (length != STORE_HASH_TEXT_BYTES - 1)
        return false;
    for (size_t i = 0; i < COUNT_OF(endings); i++)
        if (strcmp(name + length, endings[i]) == 0)
            return true;
    return false;
}

#define DAY_LENGTH 10

bool store_is_file_path(const char *path)
{
    char day[DAY_LENGTH + 1];

    if (strnlen(path, STORE_PATH_BYTES) <= DAY_LENGTH || path[DAY_LENGTH] != '/')
        return false;
    memcpy(day, path, DAY_LENGTH);
    day[DAY_LENGTH] = '\0';
    return store_is_day_name(day) && store_is_file_name(path + DAY_LENGTH + 1);
}

/* --- Opening --- */

int store_open_by_segments(int folder_fd, const char *path, int flags)
{
    int at = dup(folder_fd);

    while (at >= 0) {
        size_t length = strcspn(path, "/");
        bool is_last = path[length] == '\0';
        char segment[256];
        int next;

        if (length == 0 || length >= sizeof segment || strncmp(path, "..", length) == 0) {
            close(at);
            errno = length >= sizeof segment ? ENAMETOOLONG : EXDEV;
            return -1;
        }
        memcpy(segment, path, length);
        segment[length] = '\0';
        next = openat(at, segment,
                      (is_last ? flags : O_RDONLY | O_DIRECTORY) | O_NOFOLLOW | O_CLOEXEC);
        close(at);
        if (is_last)
            return next;
        at = next;
        path += length + 1;
    }
    return -1;
}

int store_open_beneath(int folder_fd, const char *path, int flags)
{
    struct open_how how = {.flags = (unsigned)(flags | O_NOFOLLOW | O_CLOEXEC),
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    int fd = (int)syscall(SYS_openat2, folder_fd, path, &how, sizeof how);

    /* Filters for system calls from before openat2 answer with EPERM. */
    if (fd < 0 && (errno == ENOSYS || errno == EPERM))
        fd = store_open_by_segments(folder_fd, path, flags);
    return fd;
}

/* --- Writing --- */

/* What a full disk says, and everything else. */
static bool fail_writing(const struct store *store, int number, const char *path, struct error *err)
{
    if (number == ENOSPC || number == EDQUOT || number == EFBIG)
        return error_set(err, ERROR_IO, "the disk is full: make room where '%s' lies",
                         store->folder);
    return error_set_errno(err, number, "writing '%s' below '%s'", path, store->folder);
}

/* After a sync that failed the kernel may have dropped what it could not write, and a second one
 * would lie. Some file systems do not sync folders and say so. */
static bool sync_or_break(struct store *store, int fd, bool is_folder, const char *path,
                          struct error *err)
{
    if (fsync(fd) == 0 || (is_folder && errno == EINVAL))
        return true;
    store->is_broken = true;
    return fail_writing(store, errno, path, err);
}

int store_make_folder(struct store *store, int parent_fd, const char *name, struct error *err)
{
    bool is_new = mkdirat(parent_fd, name, 0700) == 0;
    int fd;

    if (!is_new && errno != EEXIST) {
        fail_writing(store, errno, name, err);
        return -1;
    }
    if (is_new && (fchmodat(parent_fd, name, 0700, 0) != 0 ||
                   !sync_or_break(store, parent_fd, true, name, err))) {
        if (!store->is_broken)
            fail_writing(store, errno, name, err);
        return -1;
    }
    fd = store_open_beneath(parent_fd, name, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        error_set_errno(err, errno, "opening the folder '%s' below '%s'", name, store->folder);
    return fd;
}

static bool write_fully(int fd, const unsigned char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t wrote = write(fd, bytes, size);

        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0) {
            errno = wrote == 0 ? ENOSPC : errno;
            return false;
        }
        bytes += wrote;
        size -= (size_t)wrote;
    }
    return true;
}

/* The temporary file `name` with all of the content, synced. */
static bool write_temporary(struct store *store, const char *name, const char *path,
                            const struct store_blob *content, struct error *err)
{
    bool is_good = false;
    int fd = openat(store->temporary_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                    0600);

    if (fd < 0)
        return fail_writing(store, errno, path, err);
    if (fchmod(fd, 0600) != 0 || !write_fully(fd, content->bytes, content->size)) {
        fail_writing(store, errno, path, err);
        goto done;
    }
    store_reach("picture.written");
    is_good = sync_or_break(store, fd, false, path, err);
    if (is_good)
        store_reach("picture.synced");

done:
    if (close(fd) != 0 && is_good)
        is_good = fail_writing(store, errno, path, err);
    return is_good;
}

bool store_write_file(struct store *store, const char *path, const struct store_blob *content,
                      struct error *err)
{
    char temporary[STORE_ID_BYTES], day[DAY_LENGTH + 1];
    bool is_good = false;
    int day_fd;

    memcpy(day, path, DAY_LENGTH);
    day[DAY_LENGTH] = '\0';
    day_fd = store_make_folder(store, store->folder_fd, day, err);
    if (day_fd < 0)
        return false;
    store_random_id(temporary);
    if (!write_temporary(store, temporary, path, content, err))
        goto done;
    if (renameat(store->temporary_fd, temporary, day_fd, path + DAY_LENGTH + 1) != 0) {
        fail_writing(store, errno, path, err);
        goto done;
    }
    store_reach("picture.renamed");
    is_good = sync_or_break(store, day_fd, true, path, err);
    if (is_good)
        store_reach("picture.folder_synced");

done:
    if (!is_good)
        (void)unlinkat(store->temporary_fd, temporary, 0); /* not there after the rename */
    close(day_fd);
    return is_good;
}

/* --- Removing --- */

bool store_remove_file(struct store *store, const char *path, struct error *err)
{
    char day[DAY_LENGTH + 1];
    bool is_good;
    int day_fd;

    if (!store_is_file_path(path))
        return error_set(err, ERROR_BAD_FILE, "the database names a file '%s' that is not ours",
                         path);
    memcpy(day, path, DAY_LENGTH);
    day[DAY_LENGTH] = '\0';
    day_fd = store_open_beneath(store->folder_fd, day, O_RDONLY | O_DIRECTORY);
    if (day_fd < 0)
        return errno == ENOENT ||
               error_set_errno(err, errno, "removing '%s' below '%s'", path, store->folder);
    if (unlinkat(day_fd, path + DAY_LENGTH + 1, 0) != 0)
        is_good = errno == ENOENT ||
                  error_set_errno(err, errno, "removing '%s' below '%s'", path, store->folder);
    else
        is_good = sync_or_break(store, day_fd, true, path, err);
    close(day_fd);
    return is_good;
}

/* A stream of the folder's own: reading moves a position. */
DIR *store_list_folder(int fd)
{
    int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = own >= 0 ? fdopendir(own) : NULL;

    if (!list && own >= 0)
        close(own);
    return list;
}

static bool each_file_of_day(int folder_fd, const char *day,
                             bool (*visit)(void *context, const char *path, struct error *err),
                             void *context, struct error *err)
{
    int day_fd = store_open_beneath(folder_fd, day, O_RDONLY | O_DIRECTORY);
    DIR *list = day_fd >= 0 ? store_list_folder(day_fd) : NULL;
    char path[STORE_PATH_BYTES];
    bool is_good = true;
    struct dirent *entry;

    if (day_fd >= 0)
        close(day_fd);
    if (!list) /* a file or a link of somebody's is no folder of ours */
        return errno == ENOTDIR || errno == ELOOP ||
               error_set_errno(err, errno, "listing the folder '%s'", day);
    while (is_good && (errno = 0, entry = readdir(list))) {
        if (!store_is_file_name(entry->d_name))
            continue;
        memcpy(path, day, DAY_LENGTH);
        path[DAY_LENGTH] = '/';
        memcpy(path + DAY_LENGTH + 1, entry->d_name, strlen(entry->d_name) + 1);
        is_good = visit(context, path, err);
    }
    if (is_good && errno != 0)
        is_good = error_set_errno(err, errno, "listing the folder '%s'", day);
    closedir(list);
    return is_good;
}

bool store_each_file(int folder_fd,
                     bool (*visit)(void *context, const char *path, struct error *err),
                     void *context, struct error *err)
{
    DIR *list = store_list_folder(folder_fd);
    bool is_good = true;
    struct dirent *entry;

    if (!list)
        return error_set_errno(err, errno, "listing the store's folder");
    while (is_good && (errno = 0, entry = readdir(list)))
        if (store_is_day_name(entry->d_name))
            is_good = each_file_of_day(folder_fd, entry->d_name, visit, context, err);
    if (is_good && errno != 0)
        is_good = error_set_errno(err, errno, "listing the store's folder");
    closedir(list);
    return is_good;
}

bool store_clear_temporary(struct store *store, struct error *err)
{
    DIR *list = store_list_folder(store->temporary_fd);
    bool is_good = true;
    struct dirent *entry;

    if (!list)
        return error_set_errno(err, errno, "listing the temporary files of '%s'", store->folder);
    while (is_good && (errno = 0, entry = readdir(list))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(store->temporary_fd, entry->d_name, 0) != 0 && errno != EISDIR)
            is_good = error_set_errno(err, errno, "removing the temporary file '%s' of '%s'",
                                      entry->d_name, store->folder);
    }
    closedir(list);
    return is_good;
}
