/* Only in sd35-mortal. */
#include "base/kill_point.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* SIGKILL from a timer. */
static void die_after(long micros)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    struct itimerspec when = {.it_value = {micros / 1000000, micros % 1000000 * 1000}};
    timer_t timer;

    if (micros <= 0 || timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
        timer_settime(timer, 0, &when, NULL) != 0)
        raise(SIGKILL);
}

void kill_point(const char *name)
{
    static atomic_long visits;
    const char *wanted = getenv("SD35_KILL_AT");
    size_t length = strlen(name);
    long at = 1, micros = 0;
    char *rest;

    if (!wanted || strncmp(wanted, name, length) != 0)
        return;
    rest = (char *)wanted + length;
    if (*rest == ':')
        at = strtol(rest + 1, &rest, 10);
    if (*rest == '+')
        micros = strtol(rest + 1, &rest, 10);
    if (*rest == '\0' && atomic_fetch_add(&visits, 1) + 1 == at)
        die_after(micros);
}

void kill_point_prompt(const char *prompt)
{
    const char *deadly = getenv("SD35_WORKER_DIES_AT");

    if (deadly && prompt && strcmp(deadly, prompt) == 0)
        raise(SIGKILL);
}

void kill_point_forget(void)
{
    unsetenv("SD35_KILL_AT");
}
