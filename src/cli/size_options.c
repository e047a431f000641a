#include "cli/size_options.h"

void size_settings_apply(const struct size_settings *settings, struct pipeline_request *request)
{
    if (settings->both.width > 0) {
        request->width = settings->both.width;
        request->height = settings->both.height;
    }
    if (settings->width > 0)
        request->width = settings->width;
    if (settings->height > 0)
        request->height = settings->height;
}
