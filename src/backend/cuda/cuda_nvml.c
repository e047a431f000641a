#include "backend/cuda/cuda_nvml.h"

#include <stdlib.h>

#include "backend/cuda/cuda_libraries.h"

enum { SENSOR_CHIP = 0 };

struct gpu_monitor {
    const struct nvml_functions *nvml;
    struct nvml_device *device;
};

struct gpu_monitor *gpu_monitor_create(const struct cuda_libraries *libraries,
                                       const char *pci_bus_id)
{
    struct gpu_monitor *monitor;

    if (!libraries->has_nvml)
        return NULL;
    monitor = calloc(1, sizeof *monitor);
    if (!monitor)
        return NULL;
    monitor->nvml = &libraries->nvml;
    if (monitor->nvml->nvmlInit_v2())
        goto no_library;
    if (monitor->nvml->nvmlDeviceGetHandleByPciBusId_v2(pci_bus_id, &monitor->device))
        goto no_device;
    return monitor;

no_device:
    monitor->nvml->nvmlShutdown();
no_library:
    free(monitor);
    return NULL;
}

void gpu_monitor_destroy(struct gpu_monitor *monitor)
{
    if (!monitor)
        return;
    monitor->nvml->nvmlShutdown(); /* NVML counts the calls of nvmlInit */
    free(monitor);
}

bool gpu_monitor_read(struct gpu_monitor *monitor, struct gpu_reading *reading)
{
    const struct nvml_functions *nvml;
    struct nvml_utilisation utilisation;
    struct nvml_memory memory;
    unsigned milliwatts, celsius;
    bool has_any = false;

    *reading = (struct gpu_reading){
        .utilisation_percent = -1, .temperature_celsius = -1, .power_watts = -1};
    if (!monitor)
        return false;
    nvml = monitor->nvml;
    if (!nvml->nvmlDeviceGetMemoryInfo(monitor->device, &memory)) {
        reading->memory_used_bytes = memory.used_bytes;
        reading->memory_total_bytes = memory.total_bytes;
        has_any = true;
    }
    if (!nvml->nvmlDeviceGetUtilizationRates(monitor->device, &utilisation)) {
        reading->utilisation_percent = (int)utilisation.device;
        has_any = true;
    }
    if (!nvml->nvmlDeviceGetTemperature(monitor->device, SENSOR_CHIP, &celsius)) {
        reading->temperature_celsius = (int)celsius;
        has_any = true;
    }
    if (!nvml->nvmlDeviceGetPowerUsage(monitor->device, &milliwatts)) {
        reading->power_watts = (float)milliwatts / 1000;
        has_any = true;
    }
    return has_any;
}
