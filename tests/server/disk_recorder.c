#include "server/disk_recorder.h"

#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/support.h"

#define NODES_MAX 1024
#define OPERATIONS_MAX 200000
#define NAMES_MAX 256 /* of a folder, over all time */
#define SECTOR 512

/* --- What is recorded --- */

enum kind { WRITE, CUT, NAME, UNNAME, SYNC };

struct operation {
    enum kind kind;
    int node;       /* the file; of names the folder */
    int64_t offset; /* of CUT the size */
    size_t size;
    unsigned char *bytes; /* of WRITE */
    char name[80];
    int named;    /* of NAME: the node */
    bool is_over; /* durable, so that the base has it */
};

struct node {
    ino_t inode; /* while it has a name; 0: gone */
    bool is_folder, is_new_sqlite_file;
    /* What is durable: */
    unsigned char *bytes;
    size_t size;
    struct entry {
        char name[80];
        int node; /* -1: not there */
    } * entries;  /* of a folder: [NAMES_MAX] */
    int entry_count;
};

static struct node *nodes;
static struct operation *operations;
static int node_count, operation_count, base_position, pending_first;
static bool is_recording;

static struct operation *note(enum kind kind, int node)
{
    struct operation *operation = &operations[operation_count++];

    assert_true(operation_count < OPERATIONS_MAX);
    *operation = (struct operation){.kind = kind, .node = node};
    return operation;
}

static int node_of(ino_t inode)
{
    for (int i = node_count - 1; i >= 0; i--)
        if (nodes[i].inode == inode)
            return i;
    return -1;
}

static int node_of_fd(int fd)
{
    struct stat status;

    return is_recording && fstat(fd, &status) == 0 ? node_of(status.st_ino) : -1;
}

static int node_of_path(const char *path)
{
    struct stat status;

    return is_recording && stat(path, &status) == 0 ? node_of(status.st_ino) : -1;
}

/* A name that was made just now, of something that is known or new. */
static int note_name(int folder, const char *name, const struct stat *status)
{
    int node = node_of(status->st_ino);
    struct operation *operation;

    if (node < 0) {
        assert_true(node_count < NODES_MAX);
        node = node_count++;
        nodes[node] = (struct node){.inode = status->st_ino, .is_folder = S_ISDIR(status->st_mode)};
    }
    operation = note(NAME, folder);
    operation->named = node;
    snprintf(operation->name, sizeof operation->name, "%s", name);
    return node;
}

static void note_unname(int folder, const char *name)
{
    struct operation *operation = note(UNNAME, folder);

    snprintf(operation->name, sizeof operation->name, "%s", name);
}

static void note_write(int node, int64_t offset, const void *bytes, size_t size)
{
    struct operation *operation = note(WRITE, node);

    operation->offset = offset;
    operation->size = size;
    operation->bytes = malloc(size);
    assert_non_null(operation->bytes);
    memcpy(operation->bytes, bytes, size);
}

void disk_record(const char *folder)
{
    struct stat status;

    nodes = calloc(NODES_MAX, sizeof *nodes);
    operations = calloc(OPERATIONS_MAX, sizeof *operations);
    assert_true(nodes && operations);
    assert_int_equal(stat(folder, &status), 0);
    nodes[node_count++] = (struct node){.inode = status.st_ino, .is_folder = true};
    is_recording = true;
}

void disk_stop(void)
{
    is_recording = false;
}

int disk_position(void)
{
    return operation_count;
}

/* --- The store's own calls --- */

int __real_openat(int fd, const char *path, int flags, ...);
int __wrap_openat(int fd, const char *path, int flags, ...);
ssize_t __real_write(int fd, const void *bytes, size_t size);
ssize_t __wrap_write(int fd, const void *bytes, size_t size);
int __wrap_fsync(int fd);
int __real_mkdirat(int fd, const char *path, mode_t mode);
int __wrap_mkdirat(int fd, const char *path, mode_t mode);
int __real_renameat(int from_fd, const char *from, int to_fd, const char *to);
int __wrap_renameat(int from_fd, const char *from, int to_fd, const char *to);
int __real_unlinkat(int fd, const char *path, int flags);
int __wrap_unlinkat(int fd, const char *path, int flags);

int __wrap_openat(int fd, const char *path, int flags, ...)
{
    int folder = (flags & O_CREAT) ? node_of_fd(fd) : -1;
    struct stat status;
    bool is_there;
    va_list args;
    mode_t mode;
    int opened;

    va_start(args, flags);
    mode = (flags & O_CREAT) ? (mode_t)va_arg(args, int) : 0;
    va_end(args);
    is_there = folder >= 0 && fstatat(fd, path, &status, AT_SYMLINK_NOFOLLOW) == 0;
    opened = __real_openat(fd, path, flags, mode);
    if (opened >= 0 && folder >= 0 && !is_there && fstat(opened, &status) == 0)
        note_name(folder, path, &status);
    return opened;
}

ssize_t __wrap_write(int fd, const void *bytes, size_t size)
{
    int node = node_of_fd(fd);
    off_t at = node >= 0 ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t wrote = __real_write(fd, bytes, size);

    if (node >= 0 && wrote > 0)
        note_write(node, at, bytes, (size_t)wrote);
    return wrote;
}

int __wrap_fsync(int fd)
{
    int node = node_of_fd(fd);

    if (node >= 0)
        note(SYNC, node);
    return 0;
}

int __wrap_mkdirat(int fd, const char *path, mode_t mode)
{
    int result = __real_mkdirat(fd, path, mode), folder = node_of_fd(fd);
    struct stat status;

    if (result == 0 && folder >= 0 && fstatat(fd, path, &status, 0) == 0)
        note_name(folder, path, &status);
    return result;
}

/* The new name and the end of the old one may survive without each other. */
int __wrap_renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    int result = __real_renameat(from_fd, from, to_fd, to);
    int from_node = node_of_fd(from_fd), to_node = node_of_fd(to_fd);
    struct stat status;

    if (result == 0 && from_node >= 0 && fstatat(to_fd, to, &status, 0) == 0) {
        note_name(to_node, to, &status);
        note_unname(from_node, from);
    }
    return result;
}

int __wrap_unlinkat(int fd, const char *path, int flags)
{
    int folder = node_of_fd(fd), node = -1, result;
    struct stat status;

    if (folder >= 0 && fstatat(fd, path, &status, AT_SYMLINK_NOFOLLOW) == 0)
        node = node_of(status.st_ino);
    result = __real_unlinkat(fd, path, flags);
    if (result == 0 && node >= 0) {
        note_unname(folder, path);
        nodes[node].inode = 0; /* the number may be used again */
    }
    return result;
}

/* --- SQLite's calls --- */

struct shim_file {
    sqlite3_file base;
    int node;
    char path[PATH_MAX];
    sqlite3_file *real; /* behind this struct */
};

static sqlite3_vfs shim;

static sqlite3_vfs *real_vfs(void)
{
    return shim.pAppData;
}

static struct shim_file *of(sqlite3_file *file)
{
    return (struct shim_file *)file;
}

static int folder_of_path(const char *path)
{
    char copy[PATH_MAX];

    snprintf(copy, sizeof copy, "%s", path);
    return node_of_path(dirname(copy));
}

static int shim_close(sqlite3_file *file)
{
    sqlite3_file *real = of(file)->real;

    return real->pMethods ? real->pMethods->xClose(real) : SQLITE_OK;
}

static int shim_read(sqlite3_file *file, void *bytes, int size, sqlite3_int64 offset)
{
    return of(file)->real->pMethods->xRead(of(file)->real, bytes, size, offset);
}

static int shim_write(sqlite3_file *file, const void *bytes, int size, sqlite3_int64 offset)
{
    int code = of(file)->real->pMethods->xWrite(of(file)->real, bytes, size, offset);

    if (code == SQLITE_OK && is_recording && of(file)->node >= 0)
        note_write(of(file)->node, offset, bytes, (size_t)size);
    return code;
}

static int shim_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    int code = of(file)->real->pMethods->xTruncate(of(file)->real, size);

    if (code == SQLITE_OK && is_recording && of(file)->node >= 0)
        note(CUT, of(file)->node)->offset = size;
    return code;
}

/* SQLite syncs the folder of a journal or a WAL that it made when it syncs that the first time
 * (UNIXFILE_DIRSYNC in its os_unix.c). */
static int shim_sync(sqlite3_file *file, int flags)
{
    int node = of(file)->node;

    (void)flags;
    if (!is_recording || node < 0)
        return SQLITE_OK;
    note(SYNC, node);
    if (nodes[node].is_new_sqlite_file) {
        nodes[node].is_new_sqlite_file = false;
        note(SYNC, folder_of_path(of(file)->path));
    }
    return SQLITE_OK;
}

static int shim_size(sqlite3_file *file, sqlite3_int64 *size)
{
    return of(file)->real->pMethods->xFileSize(of(file)->real, size);
}

static int shim_lock(sqlite3_file *file, int lock)
{
    return of(file)->real->pMethods->xLock(of(file)->real, lock);
}

static int shim_unlock(sqlite3_file *file, int lock)
{
    return of(file)->real->pMethods->xUnlock(of(file)->real, lock);
}

static int shim_check_lock(sqlite3_file *file, int *out)
{
    return of(file)->real->pMethods->xCheckReservedLock(of(file)->real, out);
}

static int shim_control(sqlite3_file *file, int what, void *argument)
{
    return of(file)->real->pMethods->xFileControl(of(file)->real, what, argument);
}

static int shim_sector(sqlite3_file *file)
{
    return of(file)->real->pMethods->xSectorSize(of(file)->real);
}

static int shim_traits(sqlite3_file *file)
{
    return of(file)->real->pMethods->xDeviceCharacteristics(of(file)->real);
}

/* Version 1, without shared memory: the store has its database for itself. */
static const sqlite3_io_methods shim_methods = {1,
                                                shim_close,
                                                shim_read,
                                                shim_write,
                                                shim_truncate,
                                                shim_sync,
                                                shim_size,
                                                shim_lock,
                                                shim_unlock,
                                                shim_check_lock,
                                                shim_control,
                                                shim_sector,
                                                shim_traits,
                                                NULL,
                                                NULL,
                                                NULL,
                                                NULL,
                                                NULL,
                                                NULL};

static int shim_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags,
                     int *out_flags)
{
    struct shim_file *mine = of(file);
    bool is_there = path && access(path, F_OK) == 0;
    struct stat status;
    int code;

    (void)vfs;
    *mine = (struct shim_file){.node = -1, .real = (sqlite3_file *)(mine + 1)};
    memset(mine->real, 0, (size_t)real_vfs()->szOsFile);
    code = real_vfs()->xOpen(real_vfs(), path, mine->real, flags, out_flags);
    mine->base.pMethods = code == SQLITE_OK ? &shim_methods : NULL;
    if (code != SQLITE_OK || !path || !is_recording)
        return code;
    snprintf(mine->path, sizeof mine->path, "%s", path);
    if (!is_there && folder_of_path(path) >= 0 && stat(path, &status) == 0) {
        mine->node = note_name(folder_of_path(path), strrchr(path, '/') + 1, &status);
        nodes[mine->node].is_new_sqlite_file = (flags & SQLITE_OPEN_MAIN_DB) == 0;
    } else {
        mine->node = node_of_path(path);
    }
    return code;
}

static int shim_delete(sqlite3_vfs *vfs, const char *path, int sync_folder)
{
    int folder = is_recording ? folder_of_path(path) : -1, node = node_of_path(path);
    int code = real_vfs()->xDelete(real_vfs(), path, 0);

    (void)vfs;
    if (code == SQLITE_OK && folder >= 0 && node >= 0) {
        note_unname(folder, strrchr(path, '/') + 1);
        nodes[node].inode = 0;
        if (sync_folder)
            note(SYNC, folder);
    }
    return code;
}

__attribute__((constructor)) static void come_before_sqlite(void)
{
    sqlite3_vfs *real = sqlite3_vfs_find(NULL);

    shim = *real;
    shim.zName = "recorder";
    shim.pAppData = real;
    shim.pNext = NULL;
    shim.szOsFile = (int)sizeof(struct shim_file) + real->szOsFile;
    shim.xOpen = shim_open;
    shim.xDelete = shim_delete;
    sqlite3_vfs_register(&shim, 1);
}

/* --- The disk --- */

uint32_t disk_random(uint64_t *random, uint32_t below)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(((*random >> 32) * below) >> 32);
}

static void resize(struct node *node, size_t size)
{
    if (size > node->size) {
        node->bytes = realloc(node->bytes, size);
        assert_non_null(node->bytes);
        memset(node->bytes + node->size, 0, size - node->size);
    }
    node->size = size;
}

static void set_entry(struct node *folder, const char *name, int node)
{
    int i = 0;

    if (!folder->entries)
        folder->entries = calloc(NAMES_MAX, sizeof *folder->entries);
    assert_non_null(folder->entries);

    while (i < folder->entry_count && strcmp(folder->entries[i].name, name) != 0)
        i++;
    if (i == folder->entry_count) {
        assert_true(folder->entry_count < NAMES_MAX);
        snprintf(folder->entries[folder->entry_count++].name, sizeof folder->entries[0].name, "%s",
                 name);
    }
    folder->entries[i].node = node;
}

static void put(struct node *node, const struct operation *operation, size_t from, size_t to)
{
    if ((size_t)operation->offset + to > node->size)
        resize(node, (size_t)operation->offset + to);
    memcpy(node->bytes + operation->offset + from, operation->bytes + from, to - from);
}

static void apply(struct node *node, const struct operation *operation)
{
    switch (operation->kind) {
    case WRITE:
        put(node, operation, 0, operation->size);
        return;
    case CUT:
        resize(node, (size_t)operation->offset);
        return;
    case NAME:
        set_entry(node, operation->name, operation->named);
        return;
    case UNNAME:
        set_entry(node, operation->name, -1);
        return;
    case SYNC:
        return;
    }
}

/* Whole, not at all, or some of its sectors. */
static void maybe_apply(struct node *node, const struct operation *operation, uint64_t *random)
{
    uint32_t fate = disk_random(random, 3);

    if (fate == 0)
        return;
    if (fate == 1 || operation->kind != WRITE) {
        apply(node, operation);
        return;
    }
    for (size_t at = 0; at < operation->size; at += SECTOR) {
        size_t end = at + SECTOR < operation->size ? at + SECTOR : operation->size;

        if (disk_random(random, 2) == 0)
            put(node, operation, at, end);
    }
}

/* What is durable after so many operations. */
static void advance_base(int position)
{
    assert_true(position >= base_position);
    for (; base_position < position; base_position++) {
        const struct operation *sync = &operations[base_position];

        if (sync->kind != SYNC)
            continue;
        for (int i = pending_first; i < base_position; i++) {
            struct operation *operation = &operations[i];

            if (operation->is_over || operation->node != sync->node)
                continue;
            apply(&nodes[operation->node], operation);
            operation->is_over = true;
        }
    }
    while (pending_first < position &&
           (operations[pending_first].is_over || operations[pending_first].kind == SYNC))
        pending_first++;
}

static void make(const struct node *state, int node, int folder_fd, const char *name)
{
    const struct node *made = &state[node];
    size_t done = 0;
    int fd;

    if (!made->is_folder) {
        fd = openat(folder_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        while (done < made->size) {
            ssize_t wrote = write(fd, made->bytes + done, made->size - done);

            assert_true(wrote > 0);
            done += (size_t)wrote;
        }
        close(fd);
        return;
    }
    assert_true(strcmp(name, ".") == 0 || mkdirat(folder_fd, name, 0700) == 0);
    fd = openat(folder_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (int i = 0; i < made->entry_count; i++)
        if (made->entries[i].node >= 0)
            make(state, made->entries[i].node, fd, made->entries[i].name);
    close(fd);
}

static void copy_content(struct node *node)
{
    unsigned char *bytes = node->bytes;
    struct entry *entries = node->entries;

    if (bytes) {
        node->bytes = malloc(node->size + 1);
        assert_non_null(node->bytes);
        memcpy(node->bytes, bytes, node->size);
    }
    if (entries) {
        node->entries = malloc(NAMES_MAX * sizeof *entries);
        assert_non_null(node->entries);
        memcpy(node->entries, entries, NAMES_MAX * sizeof *entries);
    }
}

void disk_crash(const char *target, int position, uint64_t *random)
{
    struct node *state = malloc((size_t)node_count * sizeof *state);
    bool *is_copied = calloc((size_t)node_count, sizeof *is_copied);
    int fd = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    assert_true(state && is_copied && fd >= 0);
    advance_base(position);
    memcpy(state, nodes, (size_t)node_count * sizeof *state);
    for (int i = pending_first; i < position; i++) {
        const struct operation *operation = &operations[i];
        struct node *node = &state[operation->node];

        if (operation->is_over || operation->kind == SYNC)
            continue;
        if (!is_copied[operation->node])
            copy_content(node);
        is_copied[operation->node] = true;
        maybe_apply(node, operation, random);
    }
    make(state, 0, fd, ".");
    close(fd);
    for (int i = 0; i < node_count; i++)
        if (is_copied[i]) {
            free(state[i].bytes);
            free(state[i].entries);
        }
    free(state);
    free(is_copied);
}

static void empty_fd(int fd)
{
    DIR *list = fdopendir(fd);
    struct dirent *entry;

    assert_non_null(list);
    while ((entry = readdir(list))) {
        int below;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(list), entry->d_name, 0) == 0)
            continue;
        below = openat(dirfd(list), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(below >= 0);
        empty_fd(below);
        assert_int_equal(unlinkat(dirfd(list), entry->d_name, AT_REMOVEDIR), 0);
    }
    closedir(list);
}

void disk_empty(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    assert_true(fd >= 0);
    empty_fd(fd);
}
