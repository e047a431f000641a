/* Plugins: backends in shared objects of their own, so that the program starts without their
 * libraries.
 *
 * backend_NAME.so exports one function, sd35_backend_plugin. It is looked for in $SD35_PLUGIN_DIR,
 * beside the program, and in ../lib/sd35 from there.
 */
#ifndef BACKEND_PLUGIN_LIBRARY_H
#define BACKEND_PLUGIN_LIBRARY_H

#include <stddef.h>

#include "backend/backend.h"

/* Changes whenever a struct that crosses the border does. */
#define BACKEND_PLUGIN_ABI 4

/* What a plugin's driver shows, before any device is opened. */
#define PLUGIN_DEVICES_MAX 64
struct plugin_devices {
    enum plugin_trouble {
        PLUGIN_FINE,       /* with `count` devices, none perhaps */
        PLUGIN_NO_DRIVER,  /* its library is not there */
        PLUGIN_OLD_DRIVER, /* see the versions */
        PLUGIN_BROKEN,     /* the driver is there and does not start */
    } trouble;
    int driver_version, needed_version; /* 1000 * major + 10 * minor; 0: unknown */
    int count;                          /* up to PLUGIN_DEVICES_MAX */
    bool is_usable[PLUGIN_DEVICES_MAX]; /* new enough for this program */
};

struct backend_plugin {
    unsigned abi;    /* BACKEND_PLUGIN_ABI of when it was built */
    size_t ops_size; /* sizeof(struct backend_ops) of then */
    const char *name;
    /* Fills the table for device `index`; ERROR_BACKEND, with a sentence, when there is no such
     * device or it cannot be used. One device a process. */
    bool (*open)(struct backend *backend, int index, const char *precision, struct error *err);
    void (*close)(void);
    /* Looks without opening any. Only trouble beyond the first three kinds has a sentence in *err.
     */
    void (*find_devices)(struct plugin_devices *devices, struct error *err);
    /* Memory that host and device both see, for tests; NULL when it is short. */
    void *(*shared_alloc)(size_t bytes);
    void (*shared_free)(void *memory);
    /* Forgets the copies of weights that ops made, because what lies there has changed. */
    void (*forget_weights)(struct stream *stream);
};

#define BACKEND_PLUGIN_SYMBOL "sd35_backend_plugin"
typedef const struct backend_plugin *backend_plugin_function(void);

/* Loads backend_<name>.so. A missing file and a wrong ABI are two sentences, both ERROR_BACKEND.
 * Close with plugin_library_close. */
MUST_CHECK bool plugin_library_open(struct plugin_library **out, const char *name,
                                    struct error *err);
void plugin_library_close(struct plugin_library *library); /* NULL is fine */
const struct backend_plugin *plugin_library_plugin(const struct plugin_library *library);

#endif
