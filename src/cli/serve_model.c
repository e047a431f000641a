#include "cli/serve_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/version.h"
#include "library/kept_fp8.h"
#include "server/log.h"

#define SECONDS_BETWEEN_LINES 10.0
#define BYTES_OF_MEBIBYTE 1048576.0

bool serve_model_find(struct serve_model *model, const struct serve_settings *settings,
                      struct error *err)
{
    *model = (struct serve_model){.settings = settings};
    if (!engine_find_model(&model->found, &settings->engine, err))
        return false;
    if (model->found.origin != MODEL_AT_PATH)
        log_event(LOG_INFO, "model.found", "name=%s origin=\"%s\" path=%s", model->found.name,
                  model_origin_name(model->found.origin), model->found.path);
    return true;
}

void serve_model_finish(struct serve_model *model)
{
    found_model_finish(&model->found);
    free(model->fp8_copy);
    *model = (struct serve_model){0};
}

/* --- FP8 --- */

struct telling {
    const struct worker_preparing *preparing;
    const char *name;
    double logged; /* when a line was written last */
    enum kept_fp8_stage stage;
    bool has_logged;
};

static void log_progress(struct telling *telling, const struct kept_fp8_progress *now)
{
    static const char *const events[] = {
        [KEPT_FP8_WAITING] = "model.waiting", [KEPT_FP8_CONVERTING] = "model.converting"};
    double left = now->fraction > 0 ? now->seconds * (1 - now->fraction) / now->fraction : NAN;

    if (telling->has_logged && telling->stage == now->stage &&
        now->seconds - telling->logged < SECONDS_BETWEEN_LINES)
        return;
    telling->has_logged = true;
    telling->stage = now->stage;
    telling->logged = now->seconds;
    if (isnan(left) || now->stage == KEPT_FP8_WAITING)
        log_event(LOG_INFO, events[now->stage], "name=%s percent=%.0f to=%s", telling->name,
                  100 * now->fraction, now->text);
    else
        log_event(LOG_INFO, events[now->stage], "name=%s percent=%.0f seconds_left=%.0f to=%s",
                  telling->name, 100 * now->fraction, left, now->text);
}

static void tell(void *context, const struct kept_fp8_progress *now)
{
    struct telling *telling = context;

    switch (now->stage) {
    case KEPT_FP8_WAITING:
        telling->preparing->tell(telling->preparing, "waiting for a conversion to FP8",
                                 now->fraction);
        log_progress(telling, now);
        break;
    case KEPT_FP8_CONVERTING:
        telling->preparing->tell(telling->preparing, "converting to FP8", now->fraction);
        log_progress(telling, now);
        break;
    case KEPT_FP8_MADE:
        log_event(LOG_INFO, "model.converted", "name=%s seconds=%.1f path=%s", telling->name,
                  now->seconds, now->text);
        break;
    case KEPT_FP8_FOUND:
        log_event(LOG_INFO, "model.copy_found", "name=%s path=%s", telling->name, now->text);
        break;
    case KEPT_FP8_NOT_THERE:
        log_event(LOG_WARNING, "model.place_unfit", "name=%s reason=\"%s\"", telling->name,
                  now->text);
        break;
    }
}

/* What is stopped, or is no model, is no reason to go on. */
static bool take_copy(struct serve_model *model, struct pipeline_options *pipeline,
                      const struct worker_preparing *preparing, struct error *err)
{
    const struct engine_settings *engine = &model->settings->engine;
    const struct kept_fp8_options wanted = {
        .model = &model->found,
        .separate = {.vae = engine->vae,
                     .clip_l = engine->clip_l,
                     .clip_g = engine->clip_g,
                     .t5 = engine->t5,
                     .tokenizers = engine->tokenizers},
        .models_dir = engine->models_dir,
        .outputs_dir = model->settings->outputs_dir,
        .spare_bytes = (size_t)(model->settings->disk_reserve * BYTES_OF_MEBIBYTE),
        .threads = engine->threads,
        .made_by = PROGRAM_NAME_AND_VERSION,
    };
    struct telling telling = {.preparing = preparing, .name = model->found.name};
    const struct kept_fp8_callbacks callbacks = {
        .tell = tell, .context = &telling, .stop = preparing->stop};

    if (!kept_fp8_open(&model->fp8_copy, &wanted, &callbacks, err)) {
        if (err->code == ERROR_CANCELLED)
            return false;
        log_event(LOG_WARNING, "model.not_converted", "name=%s reason=\"%s\"", model->found.name,
                  err->message);
        *err = (struct error){0};
        return true;
    }
    if (!model->fp8_copy)
        return true;
    pipeline->model = model->fp8_copy;
    pipeline->vae = pipeline->clip_l = pipeline->clip_g = pipeline->t5 = NULL;
    pipeline->tokenizers = NULL;
    pipeline->to_8_bits = false;
    return true;
}

bool serve_model_prepare(void *context, struct pipeline_options *pipeline,
                         const struct worker_preparing *preparing, struct error *err)
{
    struct serve_model *model = context;

    if (!model->settings->engine.fp8 || strcmp(model->settings->keep_fp8, "on") != 0)
        return true;
    return take_copy(model, pipeline, preparing, err);
}
