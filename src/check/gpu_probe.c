#include "check/gpu_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

/* --- In the child --- */

static void ask_plugin(struct gpu_probe *probe, int open, const char *precision)
{
    struct plugin_library *library;
    struct error err = {0};
    struct backend backend = {0};

    if (!plugin_library_open(&library, "cuda", &err)) {
        probe->end = PROBE_HAS_NO_PLUGIN;
        snprintf(probe->text, sizeof probe->text, "%.500s", err.message);
        return;
    }
    plugin_library_plugin(library)->find_devices(&probe->devices, &err);
    if (open >= 0 && probe->devices.trouble == PLUGIN_FINE) {
        backend.plugin = library;
        probe->is_open = plugin_library_plugin(library)->open(&backend, open, precision, &err);
    }
    snprintf(probe->text, sizeof probe->text, "%.500s",
             probe->is_open ? backend.description : err.message);
}

/* _exit, because the end of a driver's threads is none of our business. */
static void run_child(int fd, pid_t parent, int open, const char *precision)
{
    struct gpu_probe probe = {.end = PROBE_ANSWERED};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    signal(SIGPIPE, SIG_DFL);
    ask_plugin(&probe, open, precision);
    _exit(write(fd, &probe, sizeof probe) == (ssize_t)sizeof probe ? 0 : 1);
}

/* --- In the parent --- */

/* False when the child was silent for too long. */
static bool hear_child(struct gpu_probe *probe, size_t *size, int fd, double seconds_max)
{
    const double end = seconds_now() + seconds_max;

    for (;;) {
        struct pollfd polled = {.fd = fd, .events = POLLIN};
        double left = end - seconds_now();
        ssize_t got;

        if (left <= 0)
            return false;
        if (poll(&polled, 1, (int)ceil(1e3 * left)) <= 0)
            continue; /* the time is over, or a signal came */
        got = read(fd, (char *)probe + *size, sizeof *probe - *size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return true;
        *size += (size_t)got;
    }
}

static int wait_for(pid_t pid)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

void gpu_probe(struct gpu_probe *probe, int open, const char *precision, double seconds_max)
{
    const pid_t parent = getpid();
    size_t size = 0;
    int ends[2], status;
    bool has_ended;
    pid_t pid;

    *probe = (struct gpu_probe){.end = PROBE_DIED};
    if (pipe2(ends, O_CLOEXEC) != 0)
        return;
    fflush(NULL); /* or both processes write what is in the buffers */
    pid = fork();
    if (pid == 0) {
        close(ends[0]);
        run_child(ends[1], parent, open, precision);
    }
    close(ends[1]);
    if (pid > 0) {
        has_ended = hear_child(probe, &size, ends[0], seconds_max);
        if (!has_ended)
            kill(pid, SIGKILL);
        status = wait_for(pid);
        if (size != sizeof *probe)
            *probe = (struct gpu_probe){.end = has_ended ? PROBE_DIED : PROBE_HUNG,
                                        .signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0};
    }
    close(ends[0]);
}
