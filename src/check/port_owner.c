/* Listening sockets are in /proc/net/tcp with their inodes, and descriptors of processes are links
 * to "socket:[inode]". */
#include "check/port_owner.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATE_LISTEN 0x0a
#define INODES_MAX 16

struct inodes {
    unsigned long long item[INODES_MAX];
    size_t count;
};

/* The fields of "0: 0100007F:1EB4 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0
 * 12345 ...": local address and port, the other's, state, queues, timer, retransmissions, user,
 * timeouts, inode. */
enum { FIELD_NUMBER, FIELD_LOCAL, FIELD_OTHER, FIELD_STATE, FIELD_INODE = 9, FIELD_COUNT };

static bool split_line(char *fields[FIELD_COUNT], char *line)
{
    char *rest, *field = strtok_r(line, " \n", &rest);
    int count = 0;

    for (; field && count < FIELD_COUNT; field = strtok_r(NULL, " \n", &rest))
        fields[count++] = field;
    return count == FIELD_COUNT;
}

/* 0: the line is of no listener on this port. */
static unsigned long long inode_of_listener(char *line, int port)
{
    char *fields[FIELD_COUNT], *colon;

    if (!split_line(fields, line))
        return 0;
    colon = strrchr(fields[FIELD_LOCAL], ':');
    if (!colon || strtol(colon + 1, NULL, 16) != port ||
        strtol(fields[FIELD_STATE], NULL, 16) != STATE_LISTEN)
        return 0;
    return strtoull(fields[FIELD_INODE], NULL, 10);
}

static void read_inodes(struct inodes *inodes, const char *path, int port)
{
    FILE *file = fopen(path, "re");
    char line[512];

    if (!file)
        return;
    while (inodes->count < INODES_MAX && fgets(line, sizeof line, file)) {
        unsigned long long inode = inode_of_listener(line, port);

        if (inode != 0)
            inodes->item[inodes->count++] = inode;
    }
    fclose(file);
}

static bool is_one_of(const struct inodes *inodes, const char *link)
{
    static const char start[] = "socket:[";
    unsigned long long inode;

    if (strncmp(link, start, sizeof start - 1) != 0)
        return false;
    inode = strtoull(link + sizeof start - 1, NULL, 10);
    for (size_t i = 0; i < inodes->count; i++)
        if (inodes->item[i] == inode)
            return true;
    return false;
}

static bool holds(const char *pid, const struct inodes *inodes)
{
    char path[300], link[64];
    struct dirent *entry;
    bool is_found = false;
    DIR *folder;

    snprintf(path, sizeof path, "/proc/%.20s/fd", pid);
    folder = opendir(path);
    if (!folder)
        return false;
    while (!is_found && (entry = readdir(folder))) {
        ssize_t length;

        snprintf(path, sizeof path, "/proc/%.20s/fd/%.20s", pid, entry->d_name);
        length = readlink(path, link, sizeof link - 1);
        link[length > 0 ? length : 0] = '\0';
        is_found = is_one_of(inodes, link);
    }
    closedir(folder);
    return is_found;
}

static void name_process(char owner[PORT_OWNER_BYTES], const char *pid)
{
    char path[64], name[32] = "?";
    FILE *file;

    snprintf(path, sizeof path, "/proc/%.20s/comm", pid);
    file = fopen(path, "re");
    if (file && fgets(name, sizeof name, file))
        name[strcspn(name, "\n")] = '\0';
    if (file)
        fclose(file);
    snprintf(owner, PORT_OWNER_BYTES, "%s (pid %.20s)", name, pid);
}

bool port_owner(char owner[PORT_OWNER_BYTES], int port)
{
    struct inodes inodes = {.count = 0};
    struct dirent *entry;
    bool is_found = false;
    DIR *processes;

    read_inodes(&inodes, "/proc/net/tcp", port);
    read_inodes(&inodes, "/proc/net/tcp6", port);
    processes = inodes.count > 0 ? opendir("/proc") : NULL;
    if (!processes)
        return false;
    while (!is_found && (entry = readdir(processes))) {
        is_found = isdigit((unsigned char)entry->d_name[0]) && holds(entry->d_name, &inodes);
        if (is_found)
            name_process(owner, entry->d_name);
    }
    closedir(processes);
    return is_found;
}
