/* What this process may use of the machine: what the kernel says it has, and what the control
 * groups around the process (a container's --memory, --cpus, --pids-limit) leave of it.
 *
 * Groups of version 1, version 2 and both side by side are read, from the process's own up to the
 * topmost that is in sight; the smallest limit counts. What cannot be read or makes no sense is no
 * limit. Nothing is allocated and nothing can fail, so that a supervisor can ask, too.
 */
#ifndef BASE_MACHINE_LIMITS_H
#define BASE_MACHINE_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

#define MACHINE_UNLIMITED UINT64_MAX

struct machine_limits {
    int cpus;               /* at least 1: of the affinity mask, and of the quota, rounded up */
    double cpu_quota;       /* CPUs' worth of time; 0: none */
    uint64_t memory_bytes;  /* the smaller of the two below */
    uint64_t memory_total;  /* of the machine */
    uint64_t memory_group;  /* of the groups; MACHINE_UNLIMITED: none */
    uint64_t swap_bytes;    /* of the machine; a group may be allowed less */
    uint64_t process_count; /* processes and threads of the group; MACHINE_UNLIMITED: no limit */
    uint64_t process_used;  /* of these, now; 0: unknown */
    uint64_t shm_bytes;     /* size of /dev/shm; MACHINE_UNLIMITED: there is none */
};

/* root: the folder that has proc/, sys/ and dev/, for tests; NULL: the machine's own. */
void machine_limits_read(struct machine_limits *limits, const char *root);

/* How many processes of this group the kernel has killed for want of memory, ever. Where groups do
 * not tell, those of the whole machine; false where neither does. */
bool machine_oom_kills(uint64_t *count, const char *root);

#endif
