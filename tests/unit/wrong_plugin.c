/* A plugin of another version, for test_plugin. */
#include "backend/plugin_library.h"

backend_plugin_function sd35_backend_plugin;

const struct backend_plugin *sd35_backend_plugin(void)
{
    static const struct backend_plugin plugin = {
        .abi = BACKEND_PLUGIN_ABI + 1,
        .ops_size = sizeof(struct backend_ops),
        .name = "wrong",
    };

    return &plugin;
}
