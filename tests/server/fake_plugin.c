/* A CUDA plugin without CUDA, for tests of what is done with GPUs and without them: its devices
 * draw on the CPU. $FAKE_GPUS says what there is:
 *
 *   3           that many GPUs             none        a driver and no GPU
 *   3,old       a fourth that is too old   no_driver   no library of the driver
 *   11040       a driver for CUDA 11.4     broken, crash, hang
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cpu/cpu_ops.h"
#include "backend/plugin_library.h"

#define NEEDED_VERSION 13000
#define VERSION_LEAST 1000 /* greater numbers are a driver's */

static void find_devices(struct plugin_devices *devices, struct error *err)
{
    const char *gpus = getenv("FAKE_GPUS") ? getenv("FAKE_GPUS") : "none";
    const int number = atoi(gpus);

    *devices =
        (struct plugin_devices){.driver_version = NEEDED_VERSION, .needed_version = NEEDED_VERSION};
    if (strcmp(gpus, "crash") == 0)
        raise(SIGKILL);
    if (strcmp(gpus, "hang") == 0)
        pause();
    if (strcmp(gpus, "no_driver") == 0) {
        devices->trouble = PLUGIN_NO_DRIVER;
    } else if (strcmp(gpus, "broken") == 0) {
        devices->trouble = PLUGIN_BROKEN;
        (void)error_set(err, ERROR_BACKEND, "CUDA does not start: fake");
    } else if (number >= VERSION_LEAST) {
        devices->trouble = PLUGIN_OLD_DRIVER;
        devices->driver_version = number;
    } else {
        devices->count = number + (strstr(gpus, ",old") != NULL);
        for (int i = 0; i < devices->count && i < PLUGIN_DEVICES_MAX; i++)
            devices->is_usable[i] = i < number;
    }
}

static bool open_device(struct backend *backend, int index, const char *precision,
                        struct error *err)
{
    struct plugin_devices devices;

    (void)precision;
    find_devices(&devices, err);
    if (index >= devices.count || !devices.is_usable[index])
        return error_set(err, ERROR_BACKEND, "there is no GPU %d: fake", index);
    backend_cpu_ops(&backend->ops, cpu_features_detect());
    snprintf(backend->description, sizeof backend->description, "fake GPU %d", index);
    return true;
}

static void close_device(void)
{
}

backend_plugin_function sd35_backend_plugin;

__attribute__((visibility("default"))) const struct backend_plugin *sd35_backend_plugin(void)
{
    static const struct backend_plugin plugin = {
        .abi = BACKEND_PLUGIN_ABI,
        .ops_size = sizeof(struct backend_ops),
        .name = "fake",
        .open = open_device,
        .close = close_device,
        .find_devices = find_devices,
    };

    return &plugin;
}
