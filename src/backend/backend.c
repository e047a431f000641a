/* The registry: which table serves which device name. */
#include "backend/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cpu/cpu_ops.h"
#include "backend/plugin_library.h"
#include "base/thread_pool.h"

static bool is_auto(const char *name)
{
    return !name || strcmp(name, "auto") == 0;
}

/* "auto, avx2, avx512": the levels that this machine has, into `names`. */
static const char *list_levels(char *names, size_t size, unsigned features)
{
    size_t used = (size_t)snprintf(names, size, "auto");

    for (int i = 0; i < cpu_level_count && used < size; i++)
        if ((cpu_levels[i].features & ~features) == 0)
            used += (size_t)snprintf(names + used, size - used, ", %s", cpu_levels[i].name);
    return names;
}

static bool open_cpu(struct backend *backend, const char *level_name, struct error *err)
{
    char names[256];
    unsigned features = cpu_features_detect();
    const struct cpu_level *level = cpu_level_find(level_name, features);

    if (!level && !is_auto(level_name))
        return error_set(err, ERROR_BAD_REQUEST, "CPU level '%s': this machine and program have %s",
                         level_name, list_levels(names, sizeof names, features));
    backend_cpu_ops_of(&backend->ops, level);
    snprintf(backend->description, sizeof backend->description, "%s, %d thread%s",
             backend->ops.name, backend->threads, backend->threads == 1 ? "" : "s");
    return true;
}

static void open_ref(struct backend *backend)
{
    backend->ops = backend_ref_ops;
    backend->threads = 1;
    snprintf(backend->description, sizeof backend->description, "ref, 1 thread");
}

bool backend_cuda_index(int *index, const char *device)
{
    char *end;
    long value;

    *index = 0;
    if (strcmp(device, "cuda") == 0)
        return true;
    if (strncmp(device, "cuda:", 5) != 0 || device[5] < '0' || device[5] > '9')
        return false;
    value = strtol(device + 5, &end, 10);
    *index = value < 1024 ? (int)value : 1024;
    return *end == '\0';
}

static bool open_cuda(struct backend *backend, int index, const char *precision, struct error *err)
{
    return plugin_library_open(&backend->plugin, "cuda", err) &&
           plugin_library_plugin(backend->plugin)->open(backend, index, precision, err);
}

/* Whether there is something to say when it cannot be used. */
static bool has_nvidia_device(void)
{
    return access("/dev/nvidiactl", F_OK) == 0 || access("/dev/dxg", F_OK) == 0;
}

/* A GPU if there is one that works, else the CPU. */
static bool open_best(struct backend *backend, const struct backend_options *options,
                      struct error *err)
{
    struct error why;

    if (is_auto(options->cpu_level) && open_cuda(backend, 0, options->precision, &why))
        return true;
    if (is_auto(options->cpu_level) && has_nvidia_device())
        snprintf(backend->notice, sizeof backend->notice, "the GPU is left out: %.480s",
                 why.message);
    plugin_library_close(backend->plugin);
    backend->plugin = NULL;
    return open_cpu(backend, options->cpu_level, err);
}

static bool open_device(struct backend *backend, const struct backend_options *options,
                        struct error *err)
{
    int index;

    if (is_auto(options->device))
        return open_best(backend, options, err);
    if (strcmp(options->device, "cpu") == 0)
        return open_cpu(backend, options->cpu_level, err);
    if (backend_cuda_index(&index, options->device))
        return open_cuda(backend, index, options->precision, err);
    if (strcmp(options->device, "ref") != 0)
        return error_set(err, ERROR_BAD_REQUEST,
                         "device '%.64s': there are auto, cpu, cuda, cuda:N and ref",
                         options->device);
    open_ref(backend);
    return true;
}

bool backend_open(struct backend **out, const struct backend_options *options, struct error *err)
{
    struct backend *backend = calloc(1, sizeof *backend);

    if (!backend)
        return error_set(err, ERROR_NO_MEMORY, "backend");
    backend->threads = options->threads > 0 ? options->threads : thread_pool_cpu_count();
    if (!open_device(backend, options, err)) {
        plugin_library_close(backend->plugin);
        free(backend);
        return false;
    }
    *out = backend;
    return true;
}

void backend_close(struct backend *backend)
{
    if (!backend)
        return;
    if (backend->plugin) {
        plugin_library_plugin(backend->plugin)->close();
        plugin_library_close(backend->plugin);
    }
    free(backend);
}
