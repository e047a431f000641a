/* The folder of pictures, history and queue: whether a server could write there. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "check/checks.h"
#include "store/store.h"

#define MEBIBYTE 1048576.0
#define GIBIBYTE 1073741824.0
#define PROBE_BYTES 4096

struct outputs {
    struct findings *findings;
    const char *folder; /* as given */
    const char *real;   /* absolute, for commands */
    bool is_container;
};

/* "-e PUID=... -e PGID=..." where the image honours them, as it does that sets them. */
static const char *user_option(char text[64], const struct stat *owner)
{
    snprintf(text, 64, getenv("PUID") ? "-e PUID=%u -e PGID=%u" : "--user %u:%u",
             (unsigned)owner->st_uid, (unsigned)owner->st_gid);
    return text;
}

static void tell_denied(const struct outputs *outputs, const char *path)
{
    struct stat st = {0};
    char user[32], owner[32], mode[16], option[64];

    (void)!stat(path, &st);
    snprintf(user, sizeof user, "%u:%u", (unsigned)geteuid(), (unsigned)getegid());
    snprintf(owner, sizeof owner, "%u:%u", (unsigned)st.st_uid, (unsigned)st.st_gid);
    snprintf(mode, sizeof mode, "%04o", (unsigned)st.st_mode & 07777u);
    findings_add(outputs->findings, FINDING_FAIL,
                 outputs->is_container ? CHECK_OUTPUTS_NOT_WRITABLE_IN_CONTAINER
                                       : CHECK_OUTPUTS_NOT_WRITABLE,
                 "path", path, "user", user, "owner", owner, "mode", mode, "folder", outputs->real,
                 "option", user_option(option, &st), NULL);
}

static double free_bytes(const char *folder)
{
    struct statvfs disk;

    return statvfs(folder, &disk) == 0 ? (double)disk.f_bavail * (double)disk.f_frsize : 0;
}

static void tell_room(const struct outputs *outputs, enum finding_level level, double reserve)
{
    char mib[32], kept[32];

    snprintf(mib, sizeof mib, "%.0f", free_bytes(outputs->folder) / MEBIBYTE);
    snprintf(kept, sizeof kept, "%.0f", reserve / MEBIBYTE);
    findings_add(outputs->findings, level, CHECK_OUTPUTS_FULL, "folder", outputs->real, "mib", mib,
                 "reserve", kept, NULL);
}

static void tell_failure(const struct outputs *outputs, const char *path, int number,
                         double reserve)
{
    if (number == EACCES || number == EPERM)
        tell_denied(outputs, path);
    else if (number == EROFS)
        findings_add(outputs->findings, FINDING_FAIL, CHECK_OUTPUTS_READ_ONLY, "path", path,
                     "folder", outputs->real, NULL);
    else if (number == ENOSPC || number == EDQUOT)
        tell_room(outputs, FINDING_FAIL, reserve);
    else
        findings_add(outputs->findings, FINDING_FAIL, CHECK_OUTPUTS_FAILED, "folder", outputs->real,
                     "message", strerror(number), NULL);
}

/* As a picture is kept: written, synced, renamed. 0, or errno of what failed. */
static int write_probe(const char *folder, bool syncs)
{
    static const char bytes[PROBE_BYTES];
    char *path = NULL, *renamed = NULL;
    int fd = -1, number = ENOMEM;

    if (asprintf(&path, "%s/.sd35-check-XXXXXX", folder) < 0)
        return ENOMEM;
    errno = 0;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0 && asprintf(&renamed, "%s.renamed", path) > 0 &&
        write(fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes && (!syncs || fsync(fd) == 0) &&
        rename(path, renamed) == 0)
        number = 0;
    else
        number = errno ? errno : EIO; /* a short write is a full disk, which the next one says */
    if (fd >= 0) {
        close(fd);
        unlink(number == 0 ? renamed : path);
    }
    free(path);
    free(renamed);
    return number;
}

/* What an earlier start left there, by another user perhaps. False, and told, when it is not
 * ours. */
static bool check_state(const struct outputs *outputs)
{
    static const char *const names[] = {"", "/" STORE_LOCK_NAME, "/" STORE_DATABASE_NAME};

    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char path[4096];

        if ((size_t)snprintf(path, sizeof path, "%s/" STORE_STATE_FOLDER "%s", outputs->folder,
                             names[i]) >= sizeof path)
            return true;
        if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0 || errno == ENOENT)
            continue;
        tell_failure(outputs, path, errno, 0);
        return false;
    }
    return true;
}

/* A server's lock is exclusive: one that is shared for a moment shows it, and harms nobody. */
static bool is_in_use(const char *folder)
{
    char path[4096];
    bool is_locked;
    int fd;

    snprintf(path, sizeof path, "%s/" STORE_STATE_FOLDER "/" STORE_LOCK_NAME, folder);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return false;
    is_locked = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return is_locked;
}

static void check_inside(const struct outputs *outputs, double reserve, bool syncs)
{
    double room = free_bytes(outputs->folder);
    int number = write_probe(outputs->folder, syncs);
    char gib[32];

    if (number != 0) {
        tell_failure(outputs, outputs->folder, number, reserve);
        return;
    }
    if (!check_state(outputs))
        return;
    if (is_in_use(outputs->folder)) {
        findings_add(outputs->findings, FINDING_FAIL, CHECK_OUTPUTS_IN_USE, "folder", outputs->real,
                     NULL);
        return;
    }
    snprintf(gib, sizeof gib, "%.1f", room / GIBIBYTE);
    if (room < reserve)
        tell_room(outputs, FINDING_NOTE, reserve);
    else
        findings_add(outputs->findings, FINDING_OK, CHECK_OUTPUTS_WRITABLE, "folder", outputs->real,
                     "gib", gib, NULL);
}

/* The folder that the missing one would be made in; freed by the caller. */
static char *parent_of(const char *folder)
{
    size_t length = strlen(folder);

    while (length > 1 && folder[length - 1] == '/')
        length--;
    while (length > 0 && folder[length - 1] != '/')
        length--;
    while (length > 1 && folder[length - 1] == '/')
        length--;
    return length == 0 ? strdup(".") : strndup(folder, length);
}

static void tell_not_made(const struct outputs *outputs, int number)
{
    char *parent = parent_of(outputs->folder);

    if (parent && (number == EACCES || number == EPERM || number == EROFS))
        tell_failure(outputs, parent, number, 0);
    else
        findings_add(outputs->findings, FINDING_FAIL, CHECK_OUTPUTS_NO_FOLDER, "folder",
                     outputs->folder, "message", strerror(number), NULL);
    free(parent);
}

void check_outputs(struct findings *findings, const char *root, const char *folder,
                   double reserve_bytes, bool syncs)
{
    struct outputs outputs = {
        .findings = findings, .folder = folder, .is_container = check_is_in_container(root)};
    bool is_new = mkdir(folder, 0755) == 0;
    int number = is_new ? 0 : errno;
    char *real = realpath(folder, NULL);
    struct stat st;

    outputs.real = real ? real : folder;
    if (!is_new && number == EEXIST && stat(folder, &st) == 0 && !S_ISDIR(st.st_mode))
        tell_not_made(&outputs, ENOTDIR);
    else if (!is_new && stat(folder, &st) != 0)
        tell_not_made(&outputs, number == EEXIST ? errno : number);
    else
        check_inside(&outputs, reserve_bytes, syncs);
    if (is_new)
        rmdir(folder);
    free(real);
}
