/* Starting the front, the scout and the workers. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/machine_limits.h"
#include "base/size.h"
#include "server/log.h"
#include "server/supervisor_private.h"

/* What a worker adds to its score of the kernel's choice whom to kill when memory is short. Half of
 * all memory weighs as much: the worker goes, whatever else has grown. */
#define WORKER_OOM_SCORE 500
#define OOM_SCORE_MAX 1000
#define SCOUT_SECONDS 90.0 /* then it is ended, and workers start without it */

/* In the child: dies with its parent, which may be gone by now, and hears signals again. */
static void become_child(struct supervisor *supervisor)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != supervisor->own_pid)
        _exit(1);
    supervisor_close_fd(&supervisor->signal_fd);
    sigprocmask(SIG_SETMASK, &supervisor->old_mask, NULL);
}

static void note_start(struct supervised *child, pid_t pid)
{
    child->pid = pid;
    child->born_at = seconds_now();
    child->kill_at = 0;
    child->is_orphan = child->is_hung = child->is_killed = false;
}

static void fail_start(struct supervisor *supervisor, struct supervised *child, const char *what)
{
    log_event(LOG_ERROR, "supervisor.failed", "what=%s errno=%d", what, errno);
    child->start_at = seconds_now() + supervisor_scaled(supervisor, 1);
}

static void start_front(struct supervisor *supervisor)
{
    const struct supervisor_options *options = supervisor->options;
    int ends[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
        fail_start(supervisor, &supervisor->front, "socketpair");
        return;
    }
    fflush(NULL); /* or both processes write what is in the buffers */
    pid = fork();
    if (pid == 0) {
        int code;

        become_child(supervisor);
        close(ends[0]);
        code = options->front(options->context, ends[1]);
        fflush(NULL);
        _exit(code);
    }
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        fail_start(supervisor, &supervisor->front, "fork");
        return;
    }
    supervisor->control_fd = ends[0];
    note_start(&supervisor->front, pid);
}

/* The kernel takes the process that draws, which comes again, and not the one that answers. Raising
 * one's own score needs no privilege. */
static void offer_to_oom_killer(void)
{
    static const char path[] = "/proc/self/oom_score_adj";
    char text[16] = "";
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ssize_t size;

    if (fd < 0)
        return;
    size = read(fd, text, sizeof text - 1);
    text[size > 0 ? size : 0] = '\0';
    size = snprintf(text, sizeof text, "%d",
                    (int)min_i64(strtol(text, NULL, 10) + WORKER_OOM_SCORE, OOM_SCORE_MAX));
    if (pwrite(fd, text, (size_t)size, 0) != size)
        log_event(LOG_WARNING, "worker.oom_score", "errno=%d", errno);
    close(fd);
}

static void run_scout(struct supervisor *supervisor, int tell_fd)
{
    const struct supervisor_options *options = supervisor->options;
    int code;

    become_child(supervisor);
    supervisor_close_fd(&supervisor->control_fd);
    code = options->scout(options->context, tell_fd);
    fflush(NULL);
    _exit(code);
}

void supervisor_start_scout(struct supervisor *supervisor)
{
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
        supervisor->worker_count = supervisor->options->worker_count;
        return;
    }
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        close(ends[0]);
        run_scout(supervisor, ends[1]);
    }
    close(ends[1]); /* a fork that failed reads as an end without a word */
    supervisor->scout_fd = ends[0];
    if (pid > 0) {
        note_start(&supervisor->scout, pid);
        supervisor->scout.kill_at = seconds_now() + supervisor_scaled(supervisor, SCOUT_SECONDS);
    }
}

static bool send_arrival(struct supervisor *supervisor, const struct worker_arrived *arrived,
                         const int fds[2])
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct worker_arrived copy = *arrived;
    struct iovec part = {&copy, sizeof copy};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};

    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(&control.header), fds, 2 * sizeof(int));
    return sendmsg(supervisor->control_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) ==
           (ssize_t)sizeof copy;
}

static void run_worker(struct supervisor *supervisor, uint32_t index, int channel_fd,
                       int heartbeat_fd, struct heartbeat *heartbeat)
{
    const struct supervisor_options *options = supervisor->options;
    int code;

    become_child(supervisor);
    supervisor_close_fd(&supervisor->control_fd);
    close(heartbeat_fd);
    offer_to_oom_killer();
    code = options->worker(options->context, index, channel_fd, heartbeat);
    fflush(NULL);
    _exit(code);
}

/* fds: the front's end of the channel and the heartbeat's memory. */
static void fork_worker(struct supervisor *supervisor, uint32_t index, const int fds[2],
                        int worker_fd, struct heartbeat *heartbeat)
{
    struct supervised *worker = &supervisor->workers[index];
    struct worker_arrived arrived = {
        .index = index, .restarts = worker->restarts, .last_end = worker->last_end};
    pid_t pid;

    if (!machine_oom_kills(&worker->oom_kills, NULL))
        worker->oom_kills = MACHINE_UNLIMITED;
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        close(fds[0]);
        run_worker(supervisor, index, worker_fd, fds[1], heartbeat);
    }
    if (pid < 0) {
        fail_start(supervisor, worker, "fork");
        return;
    }
    note_start(worker, pid);
    arrived.pid = pid;
    /* A front that cannot be told is about to die; the worker's channel closes then, too. */
    if (!send_arrival(supervisor, &arrived, fds))
        supervisor_kill(worker);
}

static struct heartbeat *make_heartbeat(int *fd)
{
    void *page;

    *fd = memfd_create("heartbeat", MFD_CLOEXEC);
    if (*fd < 0)
        return NULL;
    if (ftruncate(*fd, sizeof(struct heartbeat)) < 0)
        return NULL;
    page = mmap(NULL, sizeof(struct heartbeat), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    return page == MAP_FAILED ? NULL : page;
}

static void start_worker(struct supervisor *supervisor, uint32_t index)
{
    struct supervised *worker = &supervisor->workers[index];
    struct heartbeat *heartbeat;
    int ends[2] = {-1, -1}, heartbeat_fd = -1;

    heartbeat = make_heartbeat(&heartbeat_fd);
    if (heartbeat && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0)
        fork_worker(supervisor, index, (int[2]){ends[0], heartbeat_fd}, ends[1], heartbeat);
    else
        fail_start(supervisor, worker, "channel");
    if (heartbeat)
        munmap(heartbeat, sizeof *heartbeat);
    supervisor_close_fd(&heartbeat_fd);
    supervisor_close_fd(&ends[0]);
    supervisor_close_fd(&ends[1]);
}

void supervisor_start_due(struct supervisor *supervisor)
{
    double now = seconds_now();

    if (supervisor->is_draining || supervisor->is_over)
        return;
    if (supervisor->front.pid == 0 && now >= supervisor->front.start_at)
        start_front(supervisor);
    for (int i = 0; supervisor_has_front(supervisor) && i < supervisor->worker_count; i++) {
        const struct supervised *worker = &supervisor->workers[i];

        if (worker->pid == 0 && now >= worker->start_at)
            start_worker(supervisor, (uint32_t)i);
    }
}
