#include "base/machine_limits.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/attributes.h"
#include "base/size.h"

#define GROUP_PATH_BYTES 4096
#define LINE_BYTES 8192 /* of mountinfo, with two paths; a longer line is passed over */

enum group_version { GROUP_V1, GROUP_V2 };

/* --- Reading lines, without allocating --- */

struct line_reader {
    int fd;
    size_t begin, end;
    bool is_over;
    char bytes[LINE_BYTES];
};

static bool open_lines(struct line_reader *reader, const char *path)
{
    *reader = (struct line_reader){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    return reader->fd >= 0;
}

static void close_lines(struct line_reader *reader)
{
    close(reader->fd);
}

/* Moves what is left to the front and reads on; false when nothing comes. */
static bool fill_lines(struct line_reader *reader)
{
    ssize_t got;

    memmove(reader->bytes, reader->bytes + reader->begin, reader->end - reader->begin);
    reader->end -= reader->begin;
    reader->begin = 0;
    do
        got = read(reader->fd, reader->bytes + reader->end, LINE_BYTES - 1 - reader->end);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return false;
    reader->end += (size_t)got;
    return true;
}

/* The next line without its end, NULL after the last. */
static char *next_line(struct line_reader *reader)
{
    bool is_too_long = false;

    while (!reader->is_over) {
        char *line = reader->bytes + reader->begin;
        char *newline = memchr(line, '\n', reader->end - reader->begin);

        if (newline) {
            *newline = '\0';
            reader->begin = (size_t)(newline + 1 - reader->bytes);
            if (!is_too_long)
                return line;
            is_too_long = false;
        } else if (reader->end - reader->begin == LINE_BYTES - 1) {
            is_too_long = true;
            reader->begin = reader->end;
        } else if (!fill_lines(reader)) {
            reader->is_over = true;
            reader->bytes[reader->end] = '\0';
            if (reader->end > reader->begin && !is_too_long)
                return reader->bytes + reader->begin;
        }
    }
    return NULL;
}

/* The number that `text` starts with; MACHINE_UNLIMITED for anything else ("max", "-1", nothing),
 * and for what does not fit. */
static uint64_t number_of(const char *text)
{
    unsigned long long value;

    if (*text < '0' || *text > '9')
        return MACHINE_UNLIMITED;
    errno = 0;
    value = strtoull(text, NULL, 10);
    return errno == 0 ? value : MACHINE_UNLIMITED;
}

/* The first line of a file; "" when there is none. */
static void read_first_line(char out[64], const char *path)
{
    struct line_reader reader;
    const char *line;

    out[0] = '\0';
    if (!open_lines(&reader, path))
        return;
    line = next_line(&reader);
    if (line && strlen(line) < 64)
        strcpy(out, line);
    close_lines(&reader);
}

/* The value of "KEY VALUE" or "KEY: VALUE"; MACHINE_UNLIMITED when there is none. */
static uint64_t read_keyed(const char *path, const char *key)
{
    size_t length = strlen(key);
    uint64_t value = MACHINE_UNLIMITED;
    struct line_reader reader;

    if (!open_lines(&reader, path))
        return value;
    for (const char *line; (line = next_line(&reader));) {
        if (strncmp(line, key, length) == 0 && strchr(": ", line[length]) && line[length]) {
            value = number_of(line + length + strspn(line + length, ": "));
            break;
        }
    }
    close_lines(&reader);
    return value;
}

/* --- Where a group is --- */

struct group {
    enum group_version version;
    size_t mount_length; /* of `path`: the topmost group in sight */
    char path[GROUP_PATH_BYTES];
};

/* Whether a list with commas has the word. */
static bool lists_word(const char *list, const char *word)
{
    size_t length = strlen(word);

    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    }
    return false;
}

/* Our group's path in the hierarchy: "4:memory:/a/b", or "0::/a/b" of version 2. */
static bool find_own_path(char out[GROUP_PATH_BYTES], const char *root, enum group_version version,
                          const char *controller)
{
    char file[GROUP_PATH_BYTES];
    struct line_reader reader;
    bool is_found = false;

    if (snprintf(file, sizeof file, "%s/proc/self/cgroup", root) >= (int)sizeof file ||
        !open_lines(&reader, file))
        return false;
    for (char *line; !is_found && (line = next_line(&reader));) {
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;

        if (!path || path[1] != '/' || strlen(path + 1) >= GROUP_PATH_BYTES)
            continue;
        *path++ = '\0';
        list++;
        is_found = version == GROUP_V2 ? strncmp(line, "0:", 2) == 0 && *list == '\0'
                                       : lists_word(list, controller);
        if (is_found)
            strcpy(out, path);
    }
    close_lines(&reader);
    return is_found;
}

/* mountinfo writes blanks and the like as \040. */
static void decode_octal(char *text)
{
    char *to = text;

    for (const char *at = text; *at; to++) {
        if (at[0] == '\\' && at[1] >= '0' && at[1] <= '3' && at[2] >= '0' && at[2] <= '7' &&
            at[3] >= '0' && at[3] <= '7') {
            *to = (char)((at[1] - '0') * 64 + (at[2] - '0') * 8 + (at[3] - '0'));
            at += 4;
        } else {
            *to = *at++;
        }
    }
    *to = '\0';
}

struct mount {
    char *root, *point, *type, *options; /* in the line */
};

/* "31 23 0:28 ROOT POINT rw,... shared:1 - TYPE SOURCE OPTIONS" */
static bool parse_mount(struct mount *mount, char *line)
{
    char *save, *field = strtok_r(line, " ", &save);

    for (int i = 0; field && i < 3; i++)
        field = strtok_r(NULL, " ", &save);
    mount->root = field;
    mount->point = strtok_r(NULL, " ", &save);
    do
        field = strtok_r(NULL, " ", &save);
    while (field && strcmp(field, "-") != 0);
    if (!mount->root || !mount->point || !field)
        return false;
    mount->type = strtok_r(NULL, " ", &save);
    field = strtok_r(NULL, " ", &save);
    mount->options = strtok_r(NULL, " ", &save);
    if (!mount->type || !field || !mount->options)
        return false;
    decode_octal(mount->root);
    decode_octal(mount->point);
    return true;
}

static bool is_wanted_mount(const struct mount *mount, enum group_version version,
                            const char *controller)
{
    if (version == GROUP_V2)
        return strcmp(mount->type, "cgroup2") == 0;
    return strcmp(mount->type, "cgroup") == 0 && lists_word(mount->options, controller);
}

/* The part of our path below what is mounted. A container sees its own group as the mount's root,
 * whatever /proc/self/cgroup calls it; a path that leads elsewhere is that, too. */
static const char *below_mount(const char *path, const char *mount_root)
{
    size_t length = strcmp(mount_root, "/") == 0 ? 0 : strlen(mount_root);

    if (strstr(path, "/..") || strncmp(path, mount_root, length) != 0 ||
        (path[length] != '/' && path[length] != '\0'))
        return NULL;
    return strcmp(path + length, "/") == 0 ? path + length + 1 : path + length;
}

static bool set_group(struct group *group, const char *root, const char *point, const char *below)
{
    int length;

    /* Room for the longest file name. */
    if (strlen(root) + strlen(point) + strlen(below) + 64 > sizeof group->path)
        return false;
    length = snprintf(group->path, sizeof group->path, "%s%s", root, point);
    group->mount_length = (size_t)length;
    strcpy(group->path + length, below);
    if (access(group->path, F_OK) != 0)
        group->path[length] = '\0'; /* not in sight */
    return true;
}

static bool find_group(struct group *group, const char *root, enum group_version version,
                       const char *controller)
{
    char path[GROUP_PATH_BYTES];
    bool is_found = false, is_exact = false;
    struct line_reader reader;

    group->version = version;
    if (!find_own_path(path, root, version, controller) ||
        snprintf(group->path, sizeof group->path, "%s/proc/self/mountinfo", root) >=
            (int)sizeof group->path ||
        !open_lines(&reader, group->path))
        return false;
    for (char *line; !is_exact && (line = next_line(&reader));) {
        struct mount mount;
        const char *below;

        if (!parse_mount(&mount, line) || !is_wanted_mount(&mount, version, controller))
            continue;
        below = below_mount(path, mount.root);
        if (is_found && !below)
            continue;
        is_exact = below != NULL;
        is_found |= set_group(group, root, mount.point, below ? below : "");
    }
    close_lines(&reader);
    return is_found;
}

/* To the parent; false when there is none in sight. */
static bool leave_group(struct group *group)
{
    char *slash = strrchr(group->path + group->mount_length, '/');

    if (!slash)
        return false;
    *slash = '\0';
    return true;
}

/* The path of one of the group's files; it may lie in a buffer of the size of the group's. */
static void name_file(char out[GROUP_PATH_BYTES + 64], const struct group *group, const char *name)
{
    snprintf(out, GROUP_PATH_BYTES + 64, "%s/%s", group->path, name);
}

static uint64_t read_number(const struct group *group, const char *name)
{
    char path[GROUP_PATH_BYTES + 64], line[64];

    name_file(path, group, name);
    read_first_line(line, path);
    return number_of(line);
}

/* --- Limits --- */

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void note_memory(struct machine_limits *limits, const struct group *group)
{
    char path[GROUP_PATH_BYTES + 64];
    uint64_t limit;

    if (group->version == GROUP_V2) {
        limit = read_number(group, "memory.max");
    } else {
        limit = read_number(group, "memory.limit_in_bytes");
        /* What groups out of sight leave, too. */
        name_file(path, group, "memory.stat");
        limit = min_u64(limit, read_keyed(path, "hierarchical_memory_limit"));
    }
    if (limit > 0)
        limits->memory_group = min_u64(limits->memory_group, limit);
}

static void note_cpu(struct machine_limits *limits, const struct group *group)
{
    uint64_t quota, period;
    double cpus;

    if (group->version == GROUP_V2) {
        char path[GROUP_PATH_BYTES + 64], line[64];
        const char *second;

        name_file(path, group, "cpu.max");
        read_first_line(line, path);
        second = strchr(line, ' ');
        quota = number_of(line);
        period = second ? number_of(second + 1) : MACHINE_UNLIMITED;
    } else {
        quota = read_number(group, "cpu.cfs_quota_us");
        period = read_number(group, "cpu.cfs_period_us");
    }
    if (quota == 0 || quota == MACHINE_UNLIMITED || period == 0 || period == MACHINE_UNLIMITED)
        return;
    cpus = (double)quota / (double)period;
    if (limits->cpu_quota == 0 || cpus < limits->cpu_quota)
        limits->cpu_quota = cpus;
}

static void note_processes(struct machine_limits *limits, const struct group *group)
{
    uint64_t limit = read_number(group, "pids.max"), used = read_number(group, "pids.current");

    if (limit == 0 || limit >= limits->process_count)
        return;
    limits->process_count = limit;
    limits->process_used = used == MACHINE_UNLIMITED ? 0 : used;
}

static void note_groups(struct machine_limits *limits, const char *root, const char *controller,
                        void (*note)(struct machine_limits *, const struct group *))
{
    for (enum group_version version = GROUP_V1; version <= GROUP_V2; version++) {
        struct group group;

        if (!find_group(&group, root, version, controller))
            continue;
        do
            note(limits, &group);
        while (leave_group(&group));
    }
}

/* Bytes; MACHINE_UNLIMITED: the table does not say. */
static uint64_t read_meminfo(const char *root, const char *key)
{
    char path[GROUP_PATH_BYTES];
    uint64_t kibibytes = MACHINE_UNLIMITED;

    if (snprintf(path, sizeof path, "%s/proc/meminfo", root) < (int)sizeof path)
        kibibytes = read_keyed(path, key);
    return kibibytes <= MACHINE_UNLIMITED / 1024 ? kibibytes * 1024 : MACHINE_UNLIMITED;
}

static void note_machine_memory(struct machine_limits *limits, const char *root)
{
    uint64_t total = read_meminfo(root, "MemTotal"), swap = read_meminfo(root, "SwapTotal");

    limits->memory_total = total > 0 ? total : MACHINE_UNLIMITED;
    limits->swap_bytes = swap < MACHINE_UNLIMITED ? swap : 0;
}

static void note_shm(struct machine_limits *limits, const char *root)
{
    char path[GROUP_PATH_BYTES];
    struct statvfs volume;

    limits->shm_bytes = MACHINE_UNLIMITED;
    if (snprintf(path, sizeof path, "%s/dev/shm", root) < (int)sizeof path &&
        statvfs(path, &volume) == 0 &&
        __builtin_mul_overflow((uint64_t)volume.f_blocks, (uint64_t)volume.f_frsize,
                               &limits->shm_bytes))
        limits->shm_bytes = MACHINE_UNLIMITED;
}

/* The affinity mask's; a machine with more CPUs than the mask has room for is asked otherwise. */
static int allowed_cpus(void)
{
    cpu_set_t set;
    long online;

    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return (int)max_i64(1, CPU_COUNT(&set));
    online = sysconf(_SC_NPROCESSORS_ONLN);
    return (int)max_i64(1, min_i64(online, INT_MAX));
}

void machine_limits_read(struct machine_limits *limits, const char *root)
{
    *limits = (struct machine_limits){.cpus = allowed_cpus(),
                                      .memory_group = MACHINE_UNLIMITED,
                                      .process_count = MACHINE_UNLIMITED};
    if (!root)
        root = "";
    note_machine_memory(limits, root);
    note_groups(limits, root, "memory", note_memory);
    note_groups(limits, root, "cpu", note_cpu);
    note_groups(limits, root, "pids", note_processes);
    note_shm(limits, root);
    if (limits->memory_group >= limits->memory_total)
        limits->memory_group = MACHINE_UNLIMITED; /* as version 1 writes "none" */
    limits->memory_bytes = min_u64(limits->memory_total, limits->memory_group);
    if (limits->cpu_quota > 0 && limits->cpu_quota < limits->cpus)
        limits->cpus = (int)max_i64(1, (int64_t)ceil(limits->cpu_quota));
}

bool machine_oom_kills(uint64_t *count, const char *root)
{
    char path[GROUP_PATH_BYTES + 64];
    struct group group;

    if (!root)
        root = "";
    *count = MACHINE_UNLIMITED;
    if (find_group(&group, root, GROUP_V1, "memory")) {
        name_file(path, &group, "memory.oom_control");
        *count = read_keyed(path, "oom_kill");
    }
    if (*count == MACHINE_UNLIMITED && find_group(&group, root, GROUP_V2, "memory")) {
        name_file(path, &group, "memory.events");
        *count = read_keyed(path, "oom_kill");
    }
    if (*count == MACHINE_UNLIMITED &&
        snprintf(path, sizeof path, "%s/proc/vmstat", root) < (int)sizeof path)
        *count = read_keyed(path, "oom_kill");
    return *count != MACHINE_UNLIMITED;
}
