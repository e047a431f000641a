/* Supervisor: a few lines that start the front and the workers, start them again with a growing
 * pause when they die, and pass signals on. Holds no state worth losing.
 *
 * Each worker's channel is one end of a socketpair made here; the other end, with the heartbeat's
 * memfd and the worker's pid, goes to the front over its control socket as one message.
 */
#ifndef SERVER_SUPERVISOR_H
#define SERVER_SUPERVISOR_H

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "wire/messages.h"

enum worker_end {
    WORKER_END_UNKNOWN,
    WORKER_EXITED,
    WORKER_KILLED,        /* by a signal, whoever sent it */
    WORKER_HUNG,          /* killed as the front wished */
    WORKER_OUT_OF_MEMORY, /* killed by the kernel, for want of memory */
    WORKER_LEFT_ALONE,    /* its front died */
    WORKER_ENDS
};

/* On the control socket (SOCK_SEQPACKET), supervisor -> front, with two descriptors: the channel
 * and the heartbeat's memfd. */
struct worker_arrived {
    uint32_t index; /* of the device, from 0 */
    int32_t pid;
    uint32_t restarts; /* of this index, so far */
    uint32_t last_end; /* enum worker_end: why there is a restart */
};
/* The same, without descriptors; its channel is closed by then, or about to be. */
struct worker_ended {
    uint32_t index;
    int32_t pid;
    uint32_t end;          /* enum worker_end */
    uint64_t memory_limit; /* bytes that all processes may use together */
};
/* front -> supervisor, without descriptors. */
struct front_says {
    enum front_word { FRONT_LISTENS, FRONT_KILL_WORKER /* it hangs */, FRONT_IS_DRAINED } word;
    uint32_t index;
};

struct supervisor_options {
    int worker_count;
    double grace; /* seconds */
    /* Run in the child; return its exit code. */
    int (*front)(void *context, int control_fd);
    int (*worker)(void *context, uint32_t index, int channel_fd, struct heartbeat *heartbeat);
    /* Runs in a child, too, once, while the front starts; NULL: none. One byte that it writes to
     * `tell_fd` is the number of workers, none of which starts before. worker_count counts when it
     * ends, or is silent for too long, without a word. */
    int (*scout)(void *context, int tell_fd);
    void *context;
    double time_scale; /* of all waits; 0: 1. Tests have less. */
};
#define SUPERVISOR_WORKERS_MAX 64
#define SUPERVISOR_WRONG_USAGE 2 /* code of a worker that no second start would help */

/* Runs until a signal ends it; returns the exit code of the whole. SIGTERM and SIGINT drain: the
 * front stops accepting, running jobs get the grace; a second one stops at once. SIGHUP goes to the
 * front. A front that dies five times a minute ends it all, and so does a worker whose first
 * life ends with SUPERVISOR_WRONG_USAGE. */
int supervisor_run(const struct supervisor_options *options);

#endif
