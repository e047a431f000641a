/* How busy, hot and full a GPU is, as the driver's monitoring library tells. All of it is optional:
 * what cannot be read is marked so, and nothing here fails. */
#ifndef BACKEND_CUDA_CUDA_NVML_H
#define BACKEND_CUDA_CUDA_NVML_H

#include <stdbool.h>
#include <stdint.h>

struct cuda_libraries;
struct gpu_monitor; /* belongs to one thread at a time */

struct gpu_reading {
    uint64_t memory_used_bytes, memory_total_bytes; /* of all programs; total 0: unknown */
    int utilisation_percent;                        /* -1: unknown */
    int temperature_celsius;                        /* -1: unknown */
    float power_watts;                              /* negative: unknown */
};

/* pci_bus_id as cudaDeviceGetPCIBusId writes it. NULL when there is no NVML, no such device or no
 * memory. Borrows libraries. */
struct gpu_monitor *gpu_monitor_create(const struct cuda_libraries *libraries,
                                       const char *pci_bus_id);
void gpu_monitor_destroy(struct gpu_monitor *monitor); /* NULL is fine */

/* False when nothing could be read; *reading says unknown then. monitor may be NULL. */
bool gpu_monitor_read(struct gpu_monitor *monitor, struct gpu_reading *reading);

#endif
