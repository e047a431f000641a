#include "base/clock.h"

#include <time.h>

#define PAUSE_NANOSECONDS 20000000

double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

bool pause_until(double moment)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NANOSECONDS};

    if (seconds_now() >= moment)
        return false;
    nanosleep(&pause, NULL);
    return true;
}
