/* The supervisor. It must outlive every fault of the others: it allocates nothing, parses nothing
 * and has one thread.
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/kill_point.h"
#include "base/machine_limits.h"
#include "server/log.h"
#include "server/supervisor_private.h"

#define BACK_OFF_MAX 60.0
#define GOOD_LIFE_SECONDS 60.0
#define FRONT_DEATHS_SECONDS 60.0
#define AFTER_GRACE_SECONDS 5.0
#define ORPHAN_SECONDS 30.0 /* for a worker whose front died to end what it does */

double supervisor_scaled(const struct supervisor *supervisor, double seconds)
{
    double scale = supervisor->options->time_scale;

    return scale > 0 ? seconds * scale : seconds;
}

void supervisor_close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void supervisor_kill(struct supervised *child)
{
    if (child->pid <= 0)
        return;
    child->is_killed = true;
    kill(child->pid, SIGKILL);
}

bool supervisor_has_front(const struct supervisor *supervisor)
{
    return supervisor->front.pid != 0 && supervisor->control_fd >= 0;
}

/* --- Ending --- */

static void end_with(struct supervisor *supervisor, int code)
{
    supervisor->is_over = true;
    supervisor->code = code;
}

static void kill_all(struct supervisor *supervisor)
{
    if (supervisor->front.pid > 0)
        kill(supervisor->front.pid, SIGKILL);
    if (supervisor->scout.pid > 0)
        kill(supervisor->scout.pid, SIGKILL);
    for (int i = 0; i < supervisor->worker_count; i++)
        supervisor_kill(&supervisor->workers[i]);
}

static bool all_are_gone(const struct supervisor *supervisor)
{
    if (supervisor->front.pid != 0 || supervisor->scout.pid != 0)
        return false;
    for (int i = 0; i < supervisor->worker_count; i++) {
        if (supervisor->workers[i].pid != 0)
            return false;
    }
    return true;
}

static void wait_for_all(struct supervisor *supervisor)
{
    while (!all_are_gone(supervisor)) {
        pid_t pid = waitpid(-1, NULL, 0);

        if (pid < 0 && errno != EINTR)
            return;
        if (pid == supervisor->front.pid)
            supervisor->front.pid = 0;
        if (pid == supervisor->scout.pid)
            supervisor->scout.pid = 0;
        for (int i = 0; i < supervisor->worker_count; i++) {
            if (pid == supervisor->workers[i].pid)
                supervisor->workers[i].pid = 0;
        }
    }
}

/* --- Being told by the front --- */

static void hear_front(struct supervisor *supervisor)
{
    struct front_says says;

    while (supervisor->control_fd >= 0) {
        ssize_t size = recv(supervisor->control_fd, &says, sizeof says, MSG_DONTWAIT);

        /* It is dying: SIGCHLD comes. Messages that it never read make its end an error. */
        if (size == 0 || (size < 0 && errno == ECONNRESET)) {
            supervisor_close_fd(&supervisor->control_fd);
            return;
        }
        if (size != (ssize_t)sizeof says)
            return;
        if (says.word == FRONT_LISTENS)
            supervisor->has_listened = true;
        if (says.word == FRONT_KILL_WORKER && says.index < (uint32_t)supervisor->worker_count) {
            supervisor->workers[says.index].is_hung = true;
            supervisor_kill(&supervisor->workers[says.index]);
        }
    }
}

/* --- Being told by the scout --- */

static void hear_scout(struct supervisor *supervisor)
{
    unsigned char count = 0;
    ssize_t size;

    if (supervisor->scout_fd < 0)
        return;
    size = read(supervisor->scout_fd, &count, 1);
    if (size < 0)
        return; /* nothing yet */
    supervisor->worker_count = size == 1 && count > 0 && count <= SUPERVISOR_WORKERS_MAX
                                   ? count
                                   : supervisor->options->worker_count;
    supervisor_close_fd(&supervisor->scout_fd);
}

/* --- Deaths --- */

static bool dies_too_often(struct supervisor *supervisor, double now)
{
    double *oldest = &supervisor->front_deaths[supervisor->front_death_count % FRONT_DEATHS_MAX];
    bool is_often;

    is_often = supervisor->front_death_count >= FRONT_DEATHS_MAX - 1;
    *oldest = now;
    supervisor->front_death_count++;
    /* The one after the latest is the fifth back. */
    oldest = &supervisor->front_deaths[supervisor->front_death_count % FRONT_DEATHS_MAX];
    return is_often && now - *oldest < supervisor_scaled(supervisor, FRONT_DEATHS_SECONDS);
}

static int code_of(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void front_died(struct supervisor *supervisor, int status)
{
    double now = seconds_now();

    supervisor->front.pid = 0;
    supervisor_close_fd(&supervisor->control_fd);
    if (supervisor->is_draining) {
        supervisor->code = code_of(status);
    } else if (!supervisor->has_listened && WIFEXITED(status)) {
        end_with(supervisor, code_of(status)); /* it could not start, and said why */
        return;
    } else {
        log_event(LOG_ERROR, "front.died", "code=%d", code_of(status));
        if (dies_too_often(supervisor, now)) {
            log_event(LOG_ERROR, "front.dies_too_often", "deaths=%d", FRONT_DEATHS_MAX);
            end_with(supervisor, code_of(status) != 0 ? code_of(status) : 1);
            return;
        }
        supervisor->front.start_at = now;
    }
    /* The workers see their channels close, and end. */
    for (int i = 0; i < supervisor->worker_count; i++) {
        struct supervised *worker = &supervisor->workers[i];

        worker->is_orphan = worker->pid > 0;
        worker->kill_at = now + supervisor_scaled(supervisor, ORPHAN_SECONDS);
    }
}

/* Whether a worker that somebody killed was killed by the kernel: its count has one more than when
 * the worker came, and than the workers that are known to be in it. */
static bool was_out_of_memory(struct supervisor *supervisor, const struct supervised *worker)
{
    uint64_t known = worker->oom_kills, count;

    if (known == MACHINE_UNLIMITED || !machine_oom_kills(&count, NULL))
        return false;
    if (known < supervisor->oom_kills)
        known = supervisor->oom_kills;
    if (count <= known)
        return false;
    supervisor->oom_kills = known + 1;
    return true;
}

static enum worker_end end_of(struct supervisor *supervisor, const struct supervised *worker,
                              int status)
{
    if (worker->is_orphan || !supervisor_has_front(supervisor))
        return WORKER_LEFT_ALONE;
    if (worker->is_hung)
        return WORKER_HUNG;
    if (WIFEXITED(status))
        return WORKER_EXITED;
    if (WTERMSIG(status) == SIGKILL && !worker->is_killed && was_out_of_memory(supervisor, worker))
        return WORKER_OUT_OF_MEMORY;
    return WORKER_KILLED;
}

/* So that the front knows at once what became of the jobs. */
static void tell_end(struct supervisor *supervisor, const struct supervised *worker, pid_t pid)
{
    struct worker_ended ended = {
        .index = (uint32_t)(worker - supervisor->workers), .pid = pid, .end = worker->last_end};
    struct machine_limits limits;

    machine_limits_read(&limits, NULL);
    ended.memory_limit = limits.memory_bytes;
    if (worker->last_end == WORKER_OUT_OF_MEMORY)
        log_event(LOG_ERROR, "worker.out_of_memory", "worker=%u pid=%d limit_mib=%llu", ended.index,
                  (int)pid, (unsigned long long)(ended.memory_limit >> 20));
    if (supervisor_has_front(supervisor) &&
        send(supervisor->control_fd, &ended, sizeof ended, MSG_NOSIGNAL | MSG_DONTWAIT) !=
            (ssize_t)sizeof ended)
        log_event(LOG_WARNING, "front.deaf", "errno=%d", errno);
}

static void worker_died(struct supervisor *supervisor, struct supervised *worker, int status)
{
    double now = seconds_now();
    pid_t pid = worker->pid;

    worker->last_end = end_of(supervisor, worker, status);
    worker->pid = 0;
    worker->restarts++;
    tell_end(supervisor, worker, pid);
    if (worker->is_orphan || !supervisor_has_front(supervisor)) {
        worker->start_at = now;
        return;
    }
    if (worker->restarts == 1 && WIFEXITED(status) &&
        WEXITSTATUS(status) == SUPERVISOR_WRONG_USAGE && !supervisor->is_draining) {
        end_with(supervisor, SUPERVISOR_WRONG_USAGE); /* it said why */
        return;
    }
    if (now - worker->born_at >= supervisor_scaled(supervisor, GOOD_LIFE_SECONDS))
        worker->back_off = 0;
    worker->back_off = worker->back_off > 0 ? fmin(BACK_OFF_MAX, 2 * worker->back_off) : 1;
    worker->start_at = now + supervisor_scaled(supervisor, worker->back_off);
    if (!supervisor->is_draining)
        log_event(LOG_WARNING, "worker.died", "worker=%d code=%d pause=%.0f",
                  (int)(worker - supervisor->workers), code_of(status), worker->back_off);
}

static void reap(struct supervisor *supervisor)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        kill_point_forget();
        hear_front(supervisor); /* a front that is dying takes its workers along */
        if (pid == supervisor->front.pid)
            front_died(supervisor, status);
        if (pid == supervisor->scout.pid)
            supervisor->scout.pid = 0;
        for (int i = 0; i < supervisor->worker_count; i++) {
            if (pid == supervisor->workers[i].pid)
                worker_died(supervisor, &supervisor->workers[i], status);
        }
    }
}

/* --- Signals --- */

static void drain(struct supervisor *supervisor, int signal)
{
    if (supervisor->is_draining) {
        end_with(supervisor, 128 + signal);
        return;
    }
    supervisor->is_draining = true;
    supervisor->drain_until = seconds_now() + supervisor->options->grace +
                              supervisor_scaled(supervisor, AFTER_GRACE_SECONDS);
    if (supervisor->front.pid > 0)
        kill(supervisor->front.pid, SIGTERM);
    if (supervisor->scout.pid > 0)
        kill(supervisor->scout.pid, SIGKILL);
}

static void take_signals(struct supervisor *supervisor)
{
    struct signalfd_siginfo info;

    while (read(supervisor->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            continue; /* several deaths may come as one: always reaped, see below */
        if (info.ssi_signo != SIGHUP)
            drain(supervisor, (int)info.ssi_signo);
        else if (supervisor->front.pid > 0)
            kill(supervisor->front.pid, SIGHUP);
    }
    reap(supervisor);
}

/* --- The loop --- */

static void kill_if_overdue(struct supervised *child, double now)
{
    if (child->pid == 0 || child->kill_at <= 0 || now < child->kill_at)
        return;
    child->kill_at = 0;
    supervisor_kill(child);
}

static void kill_overdue(struct supervisor *supervisor, double now)
{
    kill_if_overdue(&supervisor->scout, now);
    for (int i = 0; i < supervisor->worker_count; i++)
        kill_if_overdue(&supervisor->workers[i], now);
    if (!supervisor->is_draining || supervisor->is_over)
        return;
    if (all_are_gone(supervisor))
        end_with(supervisor, supervisor->code);
    else if (now >= supervisor->drain_until)
        end_with(supervisor, 1);
}

static double earlier(double a, double b)
{
    return b > 0 ? fmin(a, b) : a;
}

/* Milliseconds until something is due; -1: nothing is. */
static int time_left(const struct supervisor *supervisor, double now)
{
    double due = INFINITY;

    if (supervisor->is_draining)
        due = supervisor->drain_until;
    else if (supervisor->front.pid == 0)
        due = fmin(due, supervisor->front.start_at);
    if (supervisor->scout.pid != 0)
        due = earlier(due, supervisor->scout.kill_at);
    for (int i = 0; i < supervisor->worker_count; i++) {
        const struct supervised *worker = &supervisor->workers[i];

        if (worker->pid != 0)
            due = earlier(due, worker->kill_at);
        else if (!supervisor->is_draining && supervisor_has_front(supervisor))
            due = fmin(due, worker->start_at);
    }
    if (isinf(due))
        return -1;
    return (int)fmin(60000, fmax(0, ceil(1e3 * (due - now))));
}

static bool open_signals(struct supervisor *supervisor)
{
    sigset_t mask;

    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGHUP);
    sigaddset(&mask, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &mask, &supervisor->old_mask) < 0)
        return false;
    supervisor->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    return supervisor->signal_fd >= 0;
}

int supervisor_run(const struct supervisor_options *options)
{
    struct supervisor supervisor = {.options = options,
                                    .own_pid = getpid(),
                                    .signal_fd = -1,
                                    .control_fd = -1,
                                    .scout_fd = -1,
                                    .worker_count = options->scout ? 0 : options->worker_count};

    if (options->worker_count > SUPERVISOR_WORKERS_MAX || !open_signals(&supervisor)) {
        log_event(LOG_ERROR, "supervisor.failed", "what=start errno=%d", errno);
        return 1;
    }
    supervisor_start_due(&supervisor);
    if (options->scout)
        supervisor_start_scout(&supervisor);
    while (!supervisor.is_over) {
        struct pollfd polled[3];

        supervisor_start_due(&supervisor);
        polled[0] = (struct pollfd){.fd = supervisor.signal_fd, .events = POLLIN};
        polled[1] = (struct pollfd){.fd = supervisor.control_fd, .events = POLLIN};
        polled[2] = (struct pollfd){.fd = supervisor.scout_fd, .events = POLLIN};
        poll(polled, 3, time_left(&supervisor, seconds_now()));
        hear_front(&supervisor); /* first: its last words count */
        hear_scout(&supervisor);
        take_signals(&supervisor);
        kill_overdue(&supervisor, seconds_now());
    }
    kill_all(&supervisor);
    wait_for_all(&supervisor);
    supervisor_close_fd(&supervisor.control_fd);
    supervisor_close_fd(&supervisor.scout_fd);
    supervisor_close_fd(&supervisor.signal_fd);
    sigprocmask(SIG_SETMASK, &supervisor.old_mask, NULL);
    return supervisor.code;
}
