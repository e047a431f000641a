/* What can be seen of the disk below an open store, without writing to it. */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "store/store_private.h"

#define LEAST_FREE_BYTES (1 << 20) /* less is a full disk, whatever reserve was asked for */
#define LEAST_FREE_FILES 8         /* a picture has two, and is written under other names */

/* The state folder or the database may have been moved away alone. */
static bool is_in_place(int parent_fd, const char *name, int fd)
{
    struct stat named, opened;

    return fstatat(parent_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &opened) == 0 &&
           named.st_dev == opened.st_dev && named.st_ino == opened.st_ino;
}

static bool is_full(const struct store *store, double reserve)
{
    struct statvfs disk;
    double least = reserve > LEAST_FREE_BYTES ? reserve : LEAST_FREE_BYTES;

    if (fstatvfs(store->folder_fd, &disk) != 0)
        return true;
    if (disk.f_files > 0 && disk.f_favail < LEAST_FREE_FILES) /* some have no count: 0 */
        return true;
    return (double)disk.f_bavail * (double)disk.f_frsize < least;
}

enum store_disk store_look_at_disk(const struct store *store, double reserve)
{
    const int written[] = {store->folder_fd, store->state_fd, store->temporary_fd};

    if (!is_in_place(AT_FDCWD, store->folder, store->folder_fd) ||
        !is_in_place(store->folder_fd, STORE_STATE_FOLDER, store->state_fd) ||
        !is_in_place(store->state_fd, STORE_TEMPORARY_FOLDER, store->temporary_fd) ||
        !is_in_place(store->state_fd, STORE_DATABASE_NAME, store->database_fd))
        return STORE_DISK_GONE;
    for (size_t i = 0; i < COUNT_OF(written); i++)
        if (faccessat(written[i], ".", W_OK | X_OK, 0) != 0)
            return STORE_DISK_READ_ONLY;
    return is_full(store, reserve) ? STORE_DISK_FULL : STORE_DISK_GOOD;
}

bool store_is_replaced(const struct store *store)
{
    int folder_fd = open(store->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int database_fd =
        folder_fd < 0
            ? -1
            : store_open_beneath(folder_fd, STORE_STATE_FOLDER "/" STORE_DATABASE_NAME, O_PATH);
    struct stat theirs, ours;
    bool is_replaced = database_fd >= 0 && fstat(database_fd, &theirs) == 0 &&
                       fstat(store->database_fd, &ours) == 0 &&
                       (theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino);

    if (folder_fd >= 0)
        close(folder_fd);
    if (database_fd >= 0)
        close(database_fd);
    return is_replaced;
}
