#include "cli/engine_options.h"

struct pipeline_options engine_pipeline_options(const struct engine_settings *settings,
                                                enum memory_mode usual)
{
    struct pipeline_options options = {
        .model = settings->model,
        .vae = settings->vae,
        .clip_l = settings->clip_l,
        .clip_g = settings->clip_g,
        .t5 = settings->t5,
        .tokenizers = settings->tokenizers,
        .device = settings->device,
        .precision = settings->precision,
        .cpu_level = settings->cpu_level,
        .threads = settings->threads,
        .turbo = settings->turbo,
        .without_t5 = settings->without_t5,
        .to_8_bits = settings->fp8,
        .memory = usual,
    };

    if (settings->medvram)
        options.memory = MEMORY_TURNS;
    if (settings->lowvram)
        options.memory = MEMORY_STREAMED;
    if (settings->medvram || settings->lowvram)
        options.vae_band_rows = PIPELINE_BAND_ROWS;
    return options;
}

bool engine_find_model(struct found_model *out, const struct engine_settings *settings,
                       struct error *err)
{
    return model_search(out, settings->model, settings->models_dir, err);
}

bool engine_settings_check(const struct engine_settings *settings, struct error *err)
{
    return settings->model ||
           error_set(err, ERROR_BAD_REQUEST, "--model is missing: name the model's folder or file");
}
