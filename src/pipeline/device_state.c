/* How full the memory is, the device's or the host's, and how the device is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pipeline/pipeline_private.h"

size_t host_resident_bytes(size_t *firm)
{
    char line[128], *next = line; /* "pages_in_all pages_resident pages_of_files ..." */
    size_t page = (size_t)sysconf(_SC_PAGESIZE), resident = 0, of_files = 0;
    FILE *file = fopen("/proc/self/statm", "re");

    *firm = 0;
    if (!file)
        return 0;
    if (fgets(line, sizeof line, file)) {
        (void)strtoul(line, &next, 10);
        resident = strtoul(next, &next, 10);
        of_files = strtoul(next, NULL, 10);
    }
    fclose(file);
    if (of_files < resident)
        *firm = (resident - of_files) * page;
    return resident * page;
}

/* What can be had without swapping; 0: unknown. */
static size_t host_available_bytes(void)
{
    static const char key[] = "MemAvailable:";
    FILE *file = fopen("/proc/meminfo", "re");
    size_t available = 0;
    char line[256];

    if (!file)
        return 0;
    while (available == 0 && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0)
            available = (size_t)strtoull(line + strlen(key), NULL, 10) << 10;
    fclose(file);
    return available;
}

void pipeline_device_state(const struct pipeline *pipeline, struct pipeline_device_state *state)
{
    const struct backend_ops *ops = &pipeline->backend->ops;

    struct device_health health = {-1, -1, -1.0};
    size_t firm;

    if (ops->device_health)
        ops->device_health(&health);
    *state = (struct pipeline_device_state){
        .utilisation_percent = health.utilisation_percent,
        .temperature_celsius = health.temperature_celsius,
        .power_watts = health.power_watts,
    };
    if (ops->memory_info) {
        ops->memory_info(&state->free_bytes, &state->total_bytes);
        /* By what was taken: other processes take and give, too. */
        state->used_bytes = ops->scratch_bytes(pipeline->stream) + weights_device_bytes(pipeline);
        if (pipeline->batch)
            state->used_bytes += pipeline->batch->block_bytes;
        return;
    }
    state->used_bytes = host_resident_bytes(&firm);
    state->total_bytes = pipeline->machine.memory_bytes == MACHINE_UNLIMITED
                             ? 0
                             : (size_t)pipeline->machine.memory_bytes;
    state->free_bytes = host_available_bytes();
    /* A container sees the free memory of the whole machine. */
    if (state->total_bytes > state->used_bytes &&
        state->free_bytes > state->total_bytes - state->used_bytes)
        state->free_bytes = state->total_bytes - state->used_bytes;
}
