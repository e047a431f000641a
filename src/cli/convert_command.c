/* `sd35 convert`: a model's weights to FP8. */
#include <stdio.h>
#include <string.h>

#include "base/attributes.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "calibrate/calibrate.h"
#include "calibrate/html_report.h"
#include "cli/byte_progress.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "convert/convert.h"
#include "library/model_search.h"

#define FIELD(name) offsetof(struct convert_settings, name)
#define SHARD_MB_MAX 1000000

struct convert_settings {
    const char *model, *vae, *clip_l, *clip_g, *t5, *tokenizers;
    const char *output, *layout, *format, *keep;
    const char *calibrate; /* NULL: no; "": with the prompts that ship */
    double budget;
    int threads, shard_mb;
    bool force, quiet;
};

static const struct option options[] = {
    {"model-path", 'm', OPTION_TEXT, FIELD(model), "PATH", 0, 0, NULL,
     "Folder in diffusers' layout, a .safetensors file, or a repository in Hugging Face's cache; "
     "F32, F16 or BF16. It is only read.",
     "Source"},
    {"vae", 0, OPTION_TEXT, FIELD(vae), "PATH", 0, 0, NULL, "VAE to take instead of the model's.",
     NULL},
    {"clip-l", 0, OPTION_TEXT, FIELD(clip_l), "PATH", 0, 0, NULL,
     "CLIP-L text encoder to take instead of the model's.", NULL},
    {"clip-g", 0, OPTION_TEXT, FIELD(clip_g), "PATH", 0, 0, NULL,
     "CLIP-G text encoder to take instead of the model's.", NULL},
    {"t5", 0, OPTION_TEXT, FIELD(t5), "PATH", 0, 0, NULL,
     "T5 text encoder to take instead of the model's.", NULL},
    {"tokenizers", 0, OPTION_TEXT, FIELD(tokenizers), "DIR", 0, 0, NULL,
     "Folder with tokenizer, tokenizer_2 and tokenizer_3. Default: beside the model.", NULL},

    {"output-path", 'o', OPTION_TEXT, FIELD(output), "PATH", 0, 0, NULL,
     "Where the converted model will be, once it is complete. Until then it grows in "
     "PATH.part-XXXXXX; "
     "one that a killed conversion left can be deleted.",
     "Result"},
    {"layout", 0, OPTION_CHOICE, FIELD(layout), "NAME", 0, 0, "diffusers|single|comfyui",
     "diffusers (default): a folder. single: one file. comfyui: one file for ComfyUI's "
     "scaled-FP8 loader, with one factor a tensor instead of one a row.",
     NULL},
    {"format", 0, OPTION_CHOICE, FIELD(format), "NAME", 0, 0, "e4m3|e5m2",
     "e4m3 (default), or e5m2, which is coarser and here to compare.", NULL},
    {"keep", 0, OPTION_TEXT, FIELD(keep), "LAYERS", 0, 0, NULL,
     "More layers to keep in 16 bits, separated by commas: 'clip_g', 'transformer.block.0', "
     "'*.mlp_out'. quantization.json has their names.",
     NULL},
    {"shard-size", 0, OPTION_INTEGER, FIELD(shard_mb), "MB", 1, SHARD_MB_MAX, NULL,
     "Largest file of a folder. Default: 5000.", NULL},
    {"force", 'f', OPTION_FLAG, FIELD(force), NULL, 0, 0, NULL,
     "Replace a converted model that is there already.", NULL},

    {"calibrate", 'c', OPTION_OPTIONAL_TEXT, FIELD(calibrate), "[FILE]", 0, 0, NULL,
     "Draw with the model to find the layers that hurt pictures most in FP8, and keep those in 16 "
     "bits instead of the usual ones. FILE: prompts to draw, one a line; without it a set that "
     "ships. Takes as long as some hundred small pictures.",
     "Measuring"},
    {"budget", 0, OPTION_NUMBER, FIELD(budget), "PERCENT", 0, CALIBRATE_BUDGET_MAX, NULL,
     "With --calibrate: how much larger than with all layers in FP8 each part of the model may "
     "become. Default: 3.",
     NULL},

    {"threads", 't', OPTION_INTEGER, FIELD(threads), "N", 0, THREAD_POOL_MAX, NULL,
     "Default: 0, one for each CPU.", "Run"},
    {"quiet", 'q', OPTION_FLAG, FIELD(quiet), NULL, 0, 0, NULL,
     "No progress and no figures: only errors.", NULL},
};

static const struct option_pair dependents[] = {{"budget", "calibrate"}};

static const struct option_table table = {
    .command = "sd35 convert",
    .usage = "--model-path PATH --output-path PATH [options]",
    .summary = "Converts a model's weights to FP8: half the memory at nearly the same picture.",
    .options = options,
    .option_count = COUNT_OF(options),
    .dependents = dependents,
    .dependent_count = COUNT_OF(dependents),
};

static bool check(const struct convert_settings *settings, struct error *err)
{
    if (!settings->model)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--model-path is missing: name the model's folder or file");
    if (!settings->output)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--output-path is missing: name the folder or file to write");
    if (settings->keep && strcmp(settings->layout, "comfyui") == 0)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--keep and --layout comfyui contradict each other: ComfyUI's loader "
                         "makes every linear layer FP8");
    if (settings->calibrate && strcmp(settings->layout, "comfyui") == 0)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--calibrate and --layout comfyui contradict each other: ComfyUI's "
                         "loader makes every linear layer FP8, so there is nothing to choose");
    return true;
}

static enum convert_layout parse_layout(const char *name)
{
    if (strcmp(name, "single") == 0)
        return CONVERT_SINGLE;
    return strcmp(name, "comfyui") == 0 ? CONVERT_COMFYUI : CONVERT_DIFFUSERS;
}

static void print_summary(const struct convert_settings *settings,
                          const struct convert_summary *summary)
{
    double source = (double)summary->source_bytes, bytes = (double)summary->bytes;

    fprintf(stderr, "%.2f GB became %.2f GB (%.1f %%)\n", source / 1e9, bytes / 1e9,
            100 * bytes / source);
    fprintf(stderr, "%zu of %zu linear layers in FP8, their weights %.2f %% off on average\n",
            summary->layers - summary->layers_kept, summary->layers, 100 * summary->mean_error);
    fprintf(stderr, "done in %.1f s (%.0f MB/s): %s\n", summary->seconds,
            source / 1e6 / summary->seconds, settings->output);
}

static void show_calibrating(void *context, const struct calibrate_progress *now)
{
    const struct progress_now shown = {
        .phase = "calibrate",
        .unit = " pictures",
        .ended = NULL,
        .step = now->done,
        .step_count = now->total,
        .seconds = now->seconds,
    };

    progress_show(context, &shown);
}

static void print_calibration(const struct calibration *calibration)
{
    struct picture_error mean = calibration_together(calibration);
    size_t kept = 0;

    for (size_t i = 0; i < calibration->layer_count; i++)
        kept += calibration->layers[i].is_kept;
    fprintf(stderr,
            "calibrated in %.0f s: %zu layers kept, pictures with SSIM %.4f and a colour "
            "difference of %.2f\n",
            calibration->seconds, kept, mean.ssim, mean.delta_e);
}

/* Whatever is wrong with the target is found before the long part. */
static bool calibrate(struct calibration **out, const struct convert_settings *settings,
                      const struct convert_options *wanted, struct progress *progress,
                      const atomic_bool *cancel, struct error *err)
{
    const struct calibrate_options measured = {
        .convert = wanted, .prompts = settings->calibrate, .budget = settings->budget};
    const struct calibrate_callbacks callbacks = {
        .progress = show_calibrating, .context = progress, .cancel = cancel};

    if (!convert_check(wanted, err) || !calibrate_model(out, &measured, &callbacks, err))
        return false;
    progress_clear(progress);
    if (!settings->quiet)
        print_calibration(*out);
    return true;
}

/* Calibrates if that is asked for, and converts. */
static bool convert_measured(struct convert_options *wanted,
                             const struct convert_settings *settings, struct progress *progress,
                             const struct convert_callbacks *callbacks,
                             struct convert_summary *summary, struct error *err)
{
    struct calibration *calibration = NULL;
    struct html_report report = {.model = settings->model, .made_by = wanted->made_by};
    struct convert_reporter reporter = html_reporter(&report);
    struct convert_choice choice;
    bool ok;

    if (settings->calibrate) {
        if (!calibrate(&calibration, settings, wanted, progress, callbacks->cancel, err))
            return false;
        choice = calibration_choice(calibration);
        wanted->choice = &choice;
        report.calibration = calibration;
    }
    wanted->reporter = &reporter;
    ok = convert_model(wanted, callbacks, summary, err);
    calibration_destroy(calibration);
    return ok;
}

/* `model` is where the model was found. */
static bool convert(const struct convert_settings *settings, const char *model,
                    const atomic_bool *cancel, struct error *err)
{
    struct convert_options wanted = {
        .model = model,
        .vae = settings->vae,
        .clip_l = settings->clip_l,
        .clip_g = settings->clip_g,
        .t5 = settings->t5,
        .tokenizers = settings->tokenizers,
        .output = settings->output,
        .layout = parse_layout(settings->layout),
        .format = strcmp(settings->format, "e5m2") == 0 ? DTYPE_F8_E5M2 : DTYPE_F8_E4M3,
        .keep = settings->keep,
        .replace = settings->force,
        .threads = settings->threads,
        .shard_bytes = (size_t)settings->shard_mb * 1000 * 1000,
        .made_by = PROGRAM_NAME_AND_VERSION,
    };
    struct convert_callbacks callbacks = {.progress = byte_progress_show, .cancel = cancel};
    struct convert_summary summary;
    struct progress *progress;
    bool ok;

    if (!progress_create(&progress, settings->quiet, err))
        return false;
    callbacks.context = progress;
    ok = convert_measured(&wanted, settings, progress, &callbacks, &summary, err);
    progress_destroy(progress);
    if (ok && !settings->quiet)
        print_summary(settings, &summary);
    return ok;
}

int convert_command(int argc, char **argv, const atomic_bool *cancel)
{
    struct convert_settings settings = {.layout = "diffusers",
                                        .format = "e4m3",
                                        .shard_mb = (int)(CONVERT_SHARD_BYTES / 1000000),
                                        .budget = CALIBRATE_BUDGET_DEFAULT};
    struct found_model found = {0};
    struct error err = {0};
    bool wants_help, ok;

    if (!options_parse(&settings, &wants_help, &table, argc, argv, &err))
        goto fail;
    if (wants_help) {
        options_print_help(stdout, &table);
        return 0;
    }
    ok = check(&settings, &err) && model_search(&found, settings.model, NULL, &err) &&
         convert(&settings, found.path, cancel, &err);
    found_model_finish(&found);
    if (!ok)
        goto fail;
    return 0;

fail:
    report_error(&err);
    return error_exit_code(err.code);
}
