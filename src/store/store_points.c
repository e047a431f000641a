/* Named points that tests watch, or kill the process at. */
#include "base/kill_point.h"
#include "store/store_private.h"

void (*store_point)(const char *name);

void store_reach(const char *name)
{
    kill_point(name);
    if (store_point)
        store_point(name);
}
