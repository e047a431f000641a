/* The CUDA plugin, asked in a process of its own: no CUDA state, no driver's thread and no crash of
 * it reaches the process that asks. */
#ifndef CHECK_GPU_PROBE_H
#define CHECK_GPU_PROBE_H

#include <stdbool.h>

#include "backend/plugin_library.h"

struct gpu_probe {
    enum probe_end {
        PROBE_ANSWERED,
        PROBE_HAS_NO_PLUGIN, /* see the message */
        PROBE_DIED,          /* by this signal, or with signal 0 */
        PROBE_HUNG,
    } end;
    int signal;
    struct plugin_devices devices;
    bool is_open;   /* the device that was to be opened */
    char text[512]; /* its description, or why it is not open; or why there is no plugin */
};

#define GPU_PROBE_SECONDS 60.0

/* `open` >= 0 opens that device as well, with that precision (NULL: auto). */
void gpu_probe(struct gpu_probe *probe, int open, const char *precision, double seconds_max);

#endif
