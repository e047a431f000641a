/* How large a picture is to be, the same for commands that draw: --size, or --width and --height.
 */
#ifndef CLI_SIZE_OPTIONS_H
#define CLI_SIZE_OPTIONS_H

#include "cli/options.h"
#include "image/image.h"
#include "pipeline/pipeline.h"

/* 0: not given. */
struct size_settings {
    struct option_size both;
    int width, height;
};

/* Rows of the option table of a struct `type` with a member `size`. */
#define SIZE_FIELD(type, name) offsetof(type, size) + offsetof(struct size_settings, name)
#define SIZE_SIDE(type, name, letter, field)                                                       \
    {                                                                                              \
        name, letter, OPTION_INTEGER, SIZE_FIELD(type, field), "N", 1, IMAGE_SIDE_MAX, NULL,       \
            "Pixels, a multiple of 16.", NULL                                                      \
    }
#define SIZE_OPTIONS(type, help)                                                                   \
    {"size", 0, OPTION_SIZE, SIZE_FIELD(type, both), "WxH", 1, IMAGE_SIDE_MAX, NULL, help, NULL},  \
        SIZE_SIDE(type, "width", 'W', width), SIZE_SIDE(type, "height", 'H', height)

#define SIZE_CONFLICTS                                                                             \
    {"size", "width"},                                                                             \
    {                                                                                              \
        "size", "height"                                                                           \
    }

/* What was given, over what the request has. */
void size_settings_apply(const struct size_settings *settings, struct pipeline_request *request);

#endif
