/* The model that --model means, opened by commands that draw themselves. */
#ifndef CLI_OPENED_MODEL_H
#define CLI_OPENED_MODEL_H

#include "cli/engine_options.h"

struct opened_model {
    struct found_model found;
    struct pipeline *pipeline;
    struct pipeline_info info;
    char *name;     /* clean */
    double seconds; /* that opening took */
};

/* `usual` as in engine_pipeline_options. Closed in any case. */
MUST_CHECK bool opened_model_open(struct opened_model *out, const struct engine_settings *settings,
                                  enum memory_mode usual, int images_at_once, struct error *err);
void opened_model_close(struct opened_model *model); /* zeroed or half open is fine */

#endif
