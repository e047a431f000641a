#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool file_is_directory(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool file_is_regular(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

char *file_join(const char *directory, const char *name)
{
    size_t length = strlen(directory);
    char *path;

    if (asprintf(&path, "%s%s%s", directory, length && directory[length - 1] == '/' ? "" : "/",
                 name) < 0)
        return NULL;
    return path;
}

/* Reads exactly `size` bytes, or as many as there are; -1 with errno on failure. */
static ssize_t read_fully(int fd, unsigned char *bytes, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t got = read(fd, bytes + done, size - done);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

bool file_read(unsigned char **out, size_t *out_size, const char *path, size_t limit,
               struct error *err)
{
    unsigned char *bytes = NULL;
    struct stat st;
    ssize_t got;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not make us wait */

    if (fd < 0)
        return error_set_errno(err, errno, "opening '%s'", path);
    if (fstat(fd, &st) != 0) {
        error_set_errno(err, errno, "reading '%s'", path);
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        error_set(err, ERROR_BAD_FILE, "'%s' is not a regular file", path);
        goto fail;
    }
    if ((uintmax_t)st.st_size > limit) {
        error_set(err, ERROR_BAD_FILE, "'%s' has %jd bytes, more than the %zu allowed", path,
                  (intmax_t)st.st_size, limit);
        goto fail;
    }
    bytes = malloc((size_t)st.st_size + 1);
    if (!bytes) {
        error_set(err, ERROR_NO_MEMORY, "reading '%s': %jd bytes", path, (intmax_t)st.st_size);
        goto fail;
    }
    got = read_fully(fd, bytes, (size_t)st.st_size);
    if (got < 0) {
        error_set_errno(err, errno, "reading '%s'", path);
        goto fail;
    }
    bytes[got] = '\0';
    close(fd);
    *out = bytes;
    *out_size = (size_t)got;
    return true;

fail:
    free(bytes);
    close(fd);
    return false;
}

struct file_writer {
    int fd;
    char *path;
    char *temporary_path; /* NULL once renamed */
};

/* The rename is only durable once the directory is synced too. Some file systems refuse to sync a
 * directory; the file itself is already safe then. */
static void sync_directory_of(const char *path)
{
    char *copy = strdup(path);
    int fd;

    if (!copy)
        return;
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(copy);
}

bool file_writer_create(struct file_writer **out, const char *path, struct error *err)
{
    struct file_writer *writer = calloc(1, sizeof *writer);
    struct stat st;
    mode_t mask;

    if (!writer)
        return error_set(err, ERROR_NO_MEMORY, "writing '%s'", path);
    writer->fd = -1;
    writer->path = strdup(path);
    if (!writer->path || asprintf(&writer->temporary_path, "%s.XXXXXX.part", path) < 0) {
        writer->temporary_path = NULL;
        error_set(err, ERROR_NO_MEMORY, "writing '%s'", path);
        goto fail;
    }
    /* Renaming over /dev/null would take it away from everybody. */
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        error_set(err, ERROR_IO, "writing '%s': it is %s", path,
                  S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
        free(writer->temporary_path);
        writer->temporary_path = NULL;
        goto fail;
    }
    writer->fd = mkostemps(writer->temporary_path, (int)strlen(".part"), O_CLOEXEC);
    if (writer->fd < 0) {
        error_set_errno(err, errno, "writing '%s'", path);
        free(writer->temporary_path);
        writer->temporary_path = NULL;
        goto fail;
    }
    mask = umask(0);
    umask(mask);
    (void)fchmod(writer->fd, 0666 & ~mask); /* mkstemp makes it private; others expect the umask */
    *out = writer;
    return true;

fail:
    file_writer_abandon(writer);
    return false;
}

bool file_writer_append(struct file_writer *writer, const void *bytes, size_t size,
                        struct error *err)
{
    const unsigned char *at = bytes;

    while (size > 0) {
        ssize_t put = write(writer->fd, at, size);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return error_set_errno(err, errno, "writing '%s'", writer->path);
        at += put;
        size -= (size_t)put;
    }
    return true;
}

bool file_writer_put(struct file_writer *writer, size_t offset, const void *bytes, size_t size,
                     struct error *err)
{
    const unsigned char *at = bytes;

    while (size > 0) {
        ssize_t put = pwrite(writer->fd, at, size, (off_t)offset);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return error_set_errno(err, errno, "writing '%s'", writer->path);
        at += put;
        offset += (size_t)put;
        size -= (size_t)put;
    }
    return true;
}

bool file_writer_reserve(struct file_writer *writer, size_t size, struct error *err)
{
    int result;

    if (size == 0)
        return true;
    do
        result = fallocate(writer->fd, 0, 0, (off_t)size);
    while (result != 0 && errno == EINTR);
    if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
        result = ftruncate(writer->fd, (off_t)size);
    if (result != 0)
        return error_set_errno(err, errno, "making room for the %zu bytes of '%s'", size,
                               writer->path);
    return true;
}

bool file_writer_keep_private(struct file_writer *writer, struct error *err)
{
    if (fchmod(writer->fd, 0600) != 0)
        return error_set_errno(err, errno, "writing '%s'", writer->path);
    return true;
}

bool file_writer_commit(struct file_writer *writer, struct error *err)
{
    int fd = writer->fd;

    writer->fd = -1;
    if (fsync(fd) != 0) {
        error_set_errno(err, errno, "writing '%s'", writer->path);
        close(fd);
        goto fail;
    }
    if (close(fd) != 0) {
        error_set_errno(err, errno, "writing '%s'", writer->path);
        goto fail;
    }
    if (rename(writer->temporary_path, writer->path) != 0) {
        error_set_errno(err, errno, "renaming to '%s'", writer->path);
        goto fail;
    }
    free(writer->temporary_path);
    writer->temporary_path = NULL;
    sync_directory_of(writer->path);
    file_writer_abandon(writer);
    return true;

fail:
    file_writer_abandon(writer);
    return false;
}

void file_writer_abandon(struct file_writer *writer)
{
    if (!writer)
        return;
    if (writer->fd >= 0)
        close(writer->fd);
    if (writer->temporary_path)
        unlink(writer->temporary_path);
    free(writer->temporary_path);
    free(writer->path);
    free(writer);
}

bool file_write(const char *path, const void *bytes, size_t size, struct error *err)
{
    struct file_writer *writer;

    if (!file_writer_create(&writer, path, err))
        return false;
    if (!file_writer_append(writer, bytes, size, err)) {
        file_writer_abandon(writer);
        return false;
    }
    return file_writer_commit(writer, err);
}
