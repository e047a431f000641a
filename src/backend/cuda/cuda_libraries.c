#include "backend/cuda/cuda_libraries.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A function's name, and where its pointer goes in the table. */
struct symbol {
    const char *name;
    size_t offset;
};

struct library {
    const char *files[2]; /* what to look for, best first; NULL: no second choice */
    const char *package;  /* how to get it */
    const struct symbol *symbols;
    size_t symbol_count;
};

#define BLAS_SYMBOL(name) {#name, offsetof(struct blas_functions, name)},
#define DNN_SYMBOL(name) {#name, offsetof(struct dnn_functions, name)},
#define NVML_SYMBOL(name, arguments) {#name, offsetof(struct nvml_functions, name)},

static const struct symbol blas_symbols[] = {CUDA_BLAS_FUNCTIONS(BLAS_SYMBOL)};
static const struct symbol dnn_symbols[] = {CUDA_DNN_FUNCTIONS(DNN_SYMBOL)};
static const struct symbol nvml_symbols[] = {CUDA_NVML_FUNCTIONS(NVML_SYMBOL)};

static const struct library blas_library = {
    .files = {"libcublasLt.so.13", "libcublasLt.so.12"},
    .package = "install cuBLAS 13 (libcublas-13-0)",
    .symbols = blas_symbols,
    .symbol_count = COUNT_OF(blas_symbols),
};

static const struct library dnn_library = {
    .files = {"libcudnn.so.9"},
    .package = "install cuDNN 9 (libcudnn9-cuda-13)",
    .symbols = dnn_symbols,
    .symbol_count = COUNT_OF(dnn_symbols),
};

static const struct library nvml_library = {
    .files = {"libnvidia-ml.so.1"},
    .package = "it comes with the driver (libnvidia-ml1)",
    .symbols = nvml_symbols,
    .symbol_count = COUNT_OF(nvml_symbols),
};

/* The name of the first symbol that the library lacks, or NULL when the table is full. */
static const char *fill_table(void *table, void *handle, const struct library *library)
{
    for (size_t i = 0; i < library->symbol_count; i++) {
        const struct symbol *symbol = &library->symbols[i];
        void *address = dlsym(handle, symbol->name);

        if (!address)
            return symbol->name;
        /* POSIX lets object pointers hold functions; ISO C has no cast for it. */
        memcpy((char *)table + symbol->offset, &address, sizeof address);
    }
    return NULL;
}

/* The handle, or NULL. *lacking becomes the symbol for which a library was turned down, and
 * *lacking_file that library's name. */
static void *open_at(void *table, const struct library *library, const char *file, const char *path,
                     const char **lacking, const char **lacking_file)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *symbol;

    if (!handle)
        return NULL;
    symbol = fill_table(table, handle, library);
    if (!symbol)
        return handle;
    *lacking = symbol;
    *lacking_file = file;
    dlclose(handle);
    return NULL;
}

static void *open_anywhere(void *table, const struct library *library, struct error *err)
{
    const char *lacking = NULL, *lacking_file = NULL, *home = getenv("CUDA_HOME");
    char home_folder[4096] = "";

    if (home && *home)
        snprintf(home_folder, sizeof home_folder, "%s/lib64/", home);
    for (size_t i = 0; i < COUNT_OF(library->files) && library->files[i]; i++) {
        const char *file = library->files[i];
        const char *folders[] = {"", home_folder, "/usr/local/cuda/lib64/",
                                 "/usr/lib/x86_64-linux-gnu/"};

        for (size_t f = 0; f < COUNT_OF(folders); f++) {
            char path[sizeof home_folder + 64];
            void *handle;

            if (f > 0 && !*folders[f])
                continue;
            snprintf(path, sizeof path, "%s%s", folders[f], file);
            handle = open_at(table, library, file, path, &lacking, &lacking_file);
            if (handle)
                return handle;
        }
    }
    if (lacking)
        error_set(err, ERROR_BACKEND, "%s has no %s, so it is too old or broken: %s", lacking_file,
                  lacking, library->package);
    else
        error_set(err, ERROR_BACKEND, "%s was not found: %s", library->files[0], library->package);
    return NULL;
}

static void note_missing(struct cuda_libraries *libraries, const struct error *cause,
                         const char *cost)
{
    size_t used = strlen(libraries->missing);

    snprintf(libraries->missing + used, sizeof libraries->missing - used, "%s%.250s (%s)",
             used ? "; " : "", cause->message, cost);
}

bool cuda_libraries_open(struct cuda_libraries *libraries, struct error *err)
{
    struct error cause = {0};

    memset(libraries, 0, sizeof *libraries);
    libraries->blas_library = open_anywhere(&libraries->blas, &blas_library, err);
    if (!libraries->blas_library)
        return false;

    libraries->dnn_library = open_anywhere(&libraries->dnn, &dnn_library, &cause);
    libraries->has_dnn = libraries->dnn_library;
    if (!libraries->has_dnn)
        note_missing(libraries, &cause, "without it, pictures are decoded more slowly");

    libraries->nvml_library = open_anywhere(&libraries->nvml, &nvml_library, &cause);
    libraries->has_nvml = libraries->nvml_library;
    if (!libraries->has_nvml)
        note_missing(libraries, &cause, "without it, load, power and temperature are not shown");
    return true;
}

void cuda_libraries_close(struct cuda_libraries *libraries)
{
    if (!libraries)
        return;
    if (libraries->nvml_library)
        dlclose(libraries->nvml_library);
    if (libraries->dnn_library)
        dlclose(libraries->dnn_library);
    if (libraries->blas_library)
        dlclose(libraries->blas_library);
    memset(libraries, 0, sizeof *libraries);
}
