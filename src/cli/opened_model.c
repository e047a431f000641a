#include "cli/opened_model.h"

#include <stdlib.h>

#include "base/clock.h"
#include "cli/report.h"

bool opened_model_open(struct opened_model *out, const struct engine_settings *settings,
                       enum memory_mode usual, int images_at_once, struct error *err)
{
    struct pipeline_options options = engine_pipeline_options(settings, usual);
    double started = seconds_now();

    *out = (struct opened_model){0};
    options.images_at_once = images_at_once;
    if (!engine_find_model(&out->found, settings, err))
        return false;
    options.model = out->found.path;
    options.model_name = out->found.name;
    if (!pipeline_create(&out->pipeline, &options, err))
        return false;
    out->seconds = seconds_now() - started;
    pipeline_info(out->pipeline, &out->info);
    out->name = report_clean(out->info.model_name);
    return out->name || error_set(err, ERROR_NO_MEMORY, "name of the model");
}

void opened_model_close(struct opened_model *model)
{
    pipeline_destroy(model->pipeline);
    found_model_finish(&model->found);
    free(model->name);
    *model = (struct opened_model){0};
}
