/* The model that a server draws with: found when it starts, in FP8 where that is asked for. */
#ifndef CLI_SERVE_MODEL_H
#define CLI_SERVE_MODEL_H

#include "base/attributes.h"
#include "base/error.h"
#include "cli/serve_options.h"
#include "library/model_search.h"
#include "worker/worker.h"

struct serve_model {
    const struct serve_settings *settings; /* borrowed */
    struct found_model found;
    char *fp8_copy; /* in a worker that has prepared one */
};

/* Says in the log what was taken where nobody named one. Free with serve_model_finish. */
MUST_CHECK bool serve_model_find(struct serve_model *model, const struct serve_settings *settings,
                                 struct error *err);
void serve_model_finish(struct serve_model *model);

/* worker_options' prepare: `context` is the struct serve_model. */
MUST_CHECK bool serve_model_prepare(void *context, struct pipeline_options *pipeline,
                                    const struct worker_preparing *preparing, struct error *err);

#endif
