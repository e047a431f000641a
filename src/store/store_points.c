/* Named points that tests kill the process at. */
#include "store/store_private.h"

#ifdef SD35_KILL_POINTS
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#endif

void (*store_point)(const char *name);

#ifdef SD35_KILL_POINTS

/* SD35_KILL_AT=point[:n] */
static void kill_when_asked(const char *name)
{
    static long visits;
    const char *wanted = getenv("SD35_KILL_AT");
    size_t length = strlen(name);
    long at = 1;

    if (!wanted || strncmp(wanted, name, length) != 0)
        return;
    if (wanted[length] == ':')
        at = strtol(wanted + length + 1, NULL, 10);
    else if (wanted[length] != '\0')
        return;
    if (++visits == at)
        raise(SIGKILL);
}

#endif

void store_reach(const char *name)
{
#ifdef SD35_KILL_POINTS
    kill_when_asked(name);
#endif
    if (store_point)
        store_point(name);
}
