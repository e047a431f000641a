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
#define BACKEND_PLUGIN_ABI 3

struct backend_plugin {
    unsigned abi;    /* BACKEND_PLUGIN_ABI of when it was built */
    size_t ops_size; /* sizeof(struct backend_ops) of then */
    const char *name;
    /* Fills the table for device `index`; ERROR_BACKEND, with a sentence, when there is no such
     * device or it cannot be used. One device a process. */
    bool (*open)(struct backend *backend, int index, const char *precision, struct error *err);
    void (*close)(void);
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
