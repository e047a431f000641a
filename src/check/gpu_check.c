/* GPUs: what a server's workers would take, and why they cannot where they cannot. */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check/checks.h"
#include "check/gpu_probe.h"

#define NVIDIA_VENDOR "0x10de"
#define DISPLAY_CLASS "0x03"

/* --- What the files of the system tell --- */

struct surroundings {
    bool has_nodes, has_wsl, has_driver, has_card, is_container;
};

static bool is_there(const char *root, const char *path)
{
    char whole[512];

    return (size_t)snprintf(whole, sizeof whole, "%s%s", root, path) < sizeof whole &&
           access(whole, F_OK) == 0;
}

bool check_is_in_container(const char *root)
{
    const char *kubernetes = getenv("KUBERNETES_SERVICE_HOST");

    return is_there(root, "/.dockerenv") || is_there(root, "/run/.containerenv") ||
           (kubernetes && *kubernetes);
}

/* Whether the device's file `name` begins with `beginning`. */
static bool begins_with(const char *root, const char *device, const char *name,
                        const char *beginning)
{
    char path[1024], text[16] = "";
    FILE *file;
    bool is_same;

    if ((size_t)snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s/%s", root, device, name) >=
        sizeof path)
        return false;
    file = fopen(path, "re");
    if (!file)
        return false;
    is_same = fgets(text, sizeof text, file) && strncmp(text, beginning, strlen(beginning)) == 0;
    fclose(file);
    return is_same;
}

/* An NVIDIA display controller on the PCI bus. */
static bool has_card(const char *root)
{
    char path[512];
    struct dirent *entry;
    bool is_found = false;
    DIR *devices;

    snprintf(path, sizeof path, "%s/sys/bus/pci/devices", root);
    devices = opendir(path);
    if (!devices)
        return false;
    while (!is_found && (entry = readdir(devices)))
        is_found = entry->d_name[0] != '.' &&
                   begins_with(root, entry->d_name, "vendor", NVIDIA_VENDOR) &&
                   begins_with(root, entry->d_name, "class", DISPLAY_CLASS);
    closedir(devices);
    return is_found;
}

static struct surroundings look_around(const char *root)
{
    return (struct surroundings){
        .has_nodes = is_there(root, "/dev/nvidiactl"),
        .has_wsl = is_there(root, "/dev/dxg"),
        .has_driver = is_there(root, "/proc/driver/nvidia/version"),
        .has_card = has_card(root),
        .is_container = check_is_in_container(root),
    };
}

/* --- Telling --- */

/* "12.4" for 12040. */
static const char *version_text(char text[16], int version)
{
    snprintf(text, 16, "%d.%d", version / 1000, version % 1000 / 10);
    return text;
}

static void tell_death(struct findings *findings, enum finding_level level,
                       const struct gpu_probe *probe)
{
    const bool is_chinese = findings->language == LANGUAGE_CHINESE;
    char how[64];

    if (probe->end == PROBE_HUNG)
        snprintf(how, sizeof how, is_chinese ? "在 %.0f 秒内没有结束" : "did not end within %.0f s",
                 GPU_PROBE_SECONDS);
    else
        snprintf(how, sizeof how, is_chinese ? "被信号 %d 终止" : "was ended by signal %d",
                 probe->signal);
    findings_add(findings, level, CHECK_GPU_PROBE_DIED, "how", how, NULL);
}

/* The library is there and shows nothing. */
static void tell_hidden(struct findings *findings, enum finding_level level,
                        const struct surroundings *here)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");

    if (visible && (here->has_nodes || here->has_wsl))
        findings_add(findings, level, CHECK_GPU_HIDDEN, "value", visible, NULL);
    else if (here->is_container)
        findings_add(findings, level, CHECK_GPU_NONE_IN_CONTAINER, NULL);
    else
        findings_add(findings, level, CHECK_GPU_NONE, NULL);
}

/* Why the driver's library is not there. */
static void tell_no_library(struct findings *findings, enum finding_level level,
                            const struct surroundings *here)
{
    enum check_row row = CHECK_GPU_NONE;

    if (here->has_nodes)
        row = here->is_container ? CHECK_GPU_TOOLKIT_MISSING : CHECK_GPU_LIBRARY_MISSING;
    else if (here->has_wsl)
        row = CHECK_GPU_WSL;
    else if (here->has_card && !here->has_driver)
        row = CHECK_GPU_DRIVER_MISSING;
    else if (here->is_container)
        row = CHECK_GPU_NONE_IN_CONTAINER;
    findings_add(findings, level, row, NULL);
}

/* True when there is nothing to tell: the driver shows devices. */
static bool tell_trouble(struct findings *findings, enum finding_level level,
                         const struct gpu_probe *probe, const struct surroundings *here)
{
    const struct plugin_devices *devices = &probe->devices;
    const bool has_signs = here->has_nodes || here->has_wsl || here->has_driver || here->has_card;
    char found[16], needed[16];

    if (probe->end == PROBE_DIED || probe->end == PROBE_HUNG)
        tell_death(findings, level, probe);
    else if (probe->end == PROBE_HAS_NO_PLUGIN && (has_signs || level == FINDING_FAIL))
        findings_add(findings, level, CHECK_GPU_BACKEND_MISSING, "message", probe->text, NULL);
    else if (probe->end == PROBE_HAS_NO_PLUGIN)
        findings_add(findings, level, CHECK_GPU_NONE, NULL);
    else if (devices->trouble == PLUGIN_OLD_DRIVER)
        findings_add(findings, level, CHECK_GPU_DRIVER_OLD, "found",
                     version_text(found, devices->driver_version), "needed",
                     version_text(needed, devices->needed_version), NULL);
    else if (devices->trouble == PLUGIN_BROKEN)
        findings_add(findings, level, CHECK_GPU_FAILED, "message", probe->text, NULL);
    else if (devices->trouble == PLUGIN_NO_DRIVER)
        tell_no_library(findings, level, here);
    else if (devices->count == 0)
        tell_hidden(findings, level, here);
    else
        return true;
    return false;
}

/* One GPU that the driver shows. True when it can be used. */
static bool tell_gpu(struct findings *findings, enum finding_level level,
                     const struct gpu_check *check, const struct plugin_devices *devices, int index)
{
    struct gpu_probe probe;
    char number[16];

    snprintf(number, sizeof number, "%d", index);
    if (!devices->is_usable[index]) {
        findings_add(findings, level, CHECK_GPU_TOO_OLD, "index", number, NULL);
        return false;
    }
    if (!check->opens)
        return true;
    gpu_probe(&probe, index, check->precision, GPU_PROBE_SECONDS);
    if (probe.end != PROBE_ANSWERED)
        tell_death(findings, level, &probe);
    else if (probe.is_open)
        findings_add(findings, FINDING_OK, CHECK_GPU_OPENED, "index", number, "name", probe.text,
                     NULL);
    else
        findings_add(findings, level, CHECK_GPU_FAILED, "message", probe.text, NULL);
    return probe.end == PROBE_ANSWERED && probe.is_open;
}

/* --- What was asked for --- */

static void check_all(struct findings *findings, const struct gpu_check *check,
                      const struct gpu_probe *probe, const struct surroundings *here,
                      struct gpu_list *list)
{
    char count[16];

    if (!tell_trouble(findings, FINDING_NOTE, probe, here))
        return;
    for (int i = 0; i < probe->devices.count; i++)
        if (tell_gpu(findings, FINDING_NOTE, check, &probe->devices, i))
            list->index[list->count++] = i;
    snprintf(count, sizeof count, "%d", list->count);
    if (list->count > 0 && !check->opens)
        findings_add(findings, FINDING_OK, CHECK_GPU_FOUND, "count", count, NULL);
}

/* False when there is trouble that is the same for all GPUs. */
static bool check_one(struct findings *findings, const struct gpu_check *check,
                      const struct gpu_probe *probe, const struct surroundings *here, int index)
{
    char number[16], count[16];

    if (!tell_trouble(findings, FINDING_FAIL, probe, here))
        return false;
    snprintf(number, sizeof number, "%d", index);
    snprintf(count, sizeof count, "%d", probe->devices.count);
    if (index >= probe->devices.count)
        findings_add(findings, FINDING_FAIL, CHECK_GPU_NO_SUCH, "index", number, "count", count,
                     NULL);
    else if (tell_gpu(findings, FINDING_FAIL, check, &probe->devices, index) && !check->opens)
        findings_add(findings, FINDING_OK, CHECK_GPU_OPENED, "index", number, "name", "CUDA", NULL);
    return true;
}

static bool is_auto(const char *name)
{
    return !name || strcmp(name, "auto") == 0;
}

void check_device_names(struct findings *findings, const char *const *devices)
{
    for (int index; *devices; devices++)
        if (!is_auto(*devices) && strcmp(*devices, "cpu") != 0 && strcmp(*devices, "ref") != 0 &&
            !backend_cuda_index(&index, *devices))
            findings_add(findings, FINDING_FAIL, CHECK_DEVICE_UNKNOWN, "device", *devices, NULL);
}

void check_gpus(struct findings *findings, const struct gpu_check *check, struct gpu_list *list,
                bool *draws_on_cpu)
{
    static const char *const none[] = {"auto", NULL};
    const char *const *devices = check->devices && check->devices[0] ? check->devices : none;
    const struct surroundings here = look_around(check->root);
    struct gpu_probe probe;
    bool is_probed = false, is_told = false;

    *list = (struct gpu_list){0};
    *draws_on_cpu = false;
    check_device_names(findings, devices);
    for (int index; *devices; devices++) {
        const bool wants_any = is_auto(*devices) && is_auto(check->cpu_level);
        const bool wants_one = backend_cuda_index(&index, *devices);
        const bool wants_cpu = is_auto(*devices) || strcmp(*devices, "cpu") == 0;

        if ((wants_any || wants_one) && !is_probed) {
            gpu_probe(&probe, -1, NULL, GPU_PROBE_SECONDS);
            is_probed = true;
        }
        if (wants_any)
            check_all(findings, check, &probe, &here, list);
        else if (wants_one)
            is_told = is_told || !check_one(findings, check, &probe, &here, index);
        else if (wants_cpu || strcmp(*devices, "ref") == 0)
            findings_add(findings, FINDING_OK, CHECK_GPU_NOT_ASKED, NULL);
        *draws_on_cpu |= wants_cpu && list->count == 0;
    }
}
