/* What the supervisor_*.c files share; nobody else includes it. */
#ifndef SERVER_SUPERVISOR_PRIVATE_H
#define SERVER_SUPERVISOR_PRIVATE_H

#include <signal.h>
#include <stdbool.h>

#include "server/supervisor.h"

#define FRONT_DEATHS_MAX 5

struct supervised {
    pid_t pid;       /* 0: not running */
    double born_at;  /* of seconds_now() */
    double start_at; /* when not running */
    double kill_at;  /* 0: not */
    double back_off; /* the last pause; 0: none yet */
    uint32_t restarts;
    bool is_orphan;     /* its front died: not its fault */
    bool is_hung;       /* and was killed for it */
    bool is_killed;     /* by us */
    uint64_t oom_kills; /* the kernel's count when it was born */
    enum worker_end last_end;
};

struct supervisor {
    const struct supervisor_options *options;
    pid_t own_pid;
    sigset_t old_mask;
    int signal_fd, control_fd; /* our end; -1: no front */
    int scout_fd;              /* -1: it has said what it knows */
    struct supervised front, scout, workers[SUPERVISOR_WORKERS_MAX];
    int worker_count;                      /* 0 until the scout has said it */
    double front_deaths[FRONT_DEATHS_MAX]; /* a ring */
    int front_death_count;
    uint64_t oom_kills; /* of the kernel's count, those that are known to be workers */
    bool has_listened;  /* a front did, once */
    bool is_draining, is_over;
    int code;
    double drain_until;
};

/* Seconds of the options' scale. */
double supervisor_scaled(const struct supervisor *supervisor, double seconds);
void supervisor_kill(struct supervised *child); /* which may not run */
void supervisor_close_fd(int *fd);              /* it becomes -1, and may be so */
/* A front that has closed its end is dying, though it may not be dead yet. */
bool supervisor_has_front(const struct supervisor *supervisor);
/* Once, after the front, which is not to wait for it. */
void supervisor_start_scout(struct supervisor *supervisor);
/* Starts whatever is not running and should be by now (supervisor_start.c). */
void supervisor_start_due(struct supervisor *supervisor);

#endif
