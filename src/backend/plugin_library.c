#include "backend/plugin_library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/program.h"

#define PATH_BYTES PROGRAM_PATH_BYTES

struct plugin_library {
    void *handle;
    const struct backend_plugin *plugin;
};

/* Where plugins may lie, best first: "%s/backend_NAME.so" of each is tried. */
static bool find_file(char path[PATH_BYTES], const char *name)
{
    const char *asked = getenv("SD35_PLUGIN_DIR");
    char program[PATH_BYTES];
    /* Beside the program, installed, and where the build leaves both. */
    static const char *const folders[] = {"", "/../lib/sd35", "/../backend/cuda"};

    if (asked && *asked) { /* nothing else then: who names a folder means it */
        return (size_t)snprintf(path, PATH_BYTES, "%s/backend_%s.so", asked, name) < PATH_BYTES &&
               access(path, R_OK) == 0;
    }
    program_folder(program);
    for (size_t i = 0; i < COUNT_OF(folders); i++) {
        int length = snprintf(path, PATH_BYTES, "%s%s/backend_%s.so", program, folders[i], name);

        if (length > 0 && length < PATH_BYTES && access(path, R_OK) == 0)
            return true;
    }
    return false;
}

static bool check_plugin(const struct backend_plugin *plugin, const char *path, struct error *err)
{
    if (plugin->abi == BACKEND_PLUGIN_ABI && plugin->ops_size == sizeof(struct backend_ops))
        return true;
    return error_set(err, ERROR_BACKEND,
                     "'%s' was built for another version of this program (ABI %u, not %u)", path,
                     plugin->abi, BACKEND_PLUGIN_ABI);
}

bool plugin_library_open(struct plugin_library **out, const char *name, struct error *err)
{
    struct plugin_library *library = calloc(1, sizeof *library);
    backend_plugin_function *function;
    char path[PATH_BYTES];

    if (!library)
        return error_set(err, ERROR_NO_MEMORY, "plugin");
    if (!find_file(path, name)) {
        error_set(err, ERROR_BACKEND,
                  "backend_%s.so is not installed: this program was built without it", name);
        goto fail;
    }
    library->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library->handle) {
        error_set(err, ERROR_BACKEND, "loading '%s': %s", path, dlerror());
        goto fail;
    }
    *(void **)&function = dlsym(library->handle, BACKEND_PLUGIN_SYMBOL);
    if (!function) {
        error_set(err, ERROR_BACKEND, "'%s' is no backend of this program", path);
        goto fail;
    }
    library->plugin = function();
    if (!check_plugin(library->plugin, path, err))
        goto fail;
    *out = library;
    return true;

fail:
    plugin_library_close(library);
    return false;
}

/* The shared object stays mapped: its driver's threads may outlive the last call. */
void plugin_library_close(struct plugin_library *library)
{
    free(library);
}

const struct backend_plugin *plugin_library_plugin(const struct plugin_library *library)
{
    return library->plugin;
}
