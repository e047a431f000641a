/* The registry: which table serves which device name. */
#include "backend/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_ops.h"
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

bool backend_open(struct backend **out, const char *device, const char *level, int threads,
                  struct error *err)
{
    struct backend *backend = calloc(1, sizeof *backend);

    if (!backend)
        return error_set(err, ERROR_NO_MEMORY, "backend");
    backend->threads = threads > 0 ? threads : thread_pool_cpu_count();
    if (is_auto(device) || strcmp(device, "cpu") == 0) {
        if (!open_cpu(backend, level, err))
            goto fail;
    } else if (strcmp(device, "ref") == 0) {
        backend->ops = backend_ref_ops;
        backend->threads = 1;
        snprintf(backend->description, sizeof backend->description, "ref, 1 thread");
    } else {
        error_set(err, ERROR_BAD_REQUEST, "device '%s': there are auto, cpu and ref", device);
        goto fail;
    }
    *out = backend;
    return true;

fail:
    backend_close(backend);
    return false;
}

void backend_close(struct backend *backend)
{
    free(backend);
}
