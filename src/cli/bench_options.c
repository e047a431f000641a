#include "cli/bench_options.h"

#include <string.h>

#include "pipeline/pipeline.h"

#define FIELD(name) offsetof(struct bench_settings, name)
#define RUNS_MAX 1000

static const struct option options[] = {
    ENGINE_MODEL_OPTIONS(struct bench_settings),

    {"prompt", 'p', OPTION_TEXT, FIELD(prompt), "TEXT", 0, 0, NULL,
     "What to draw; the time does not depend on it. '-' reads standard input, '@FILE' a file. "
     "Default: a short one.",
     "Picture"},
    {"negative-prompt", 'n', OPTION_TEXT, FIELD(negative_prompt), "TEXT", 0, 0, NULL,
     "What to keep away from. Unused where guidance is off.", NULL},
    SIZE_OPTIONS(struct bench_settings, "Pixels, multiples of 16. Default: the model's own."),
    {"steps", 's', OPTION_INTEGER, FIELD(steps), "N", 1, PIPELINE_STEPS_MAX, NULL,
     "Denoising steps. Default: 28 for Large, 40 for Medium, 4 for Turbo.", NULL},
    {"guidance", 'g', OPTION_NUMBER, FIELD(guidance), "X", 0, 100, NULL,
     "Above 1 each step computes twice as much. Default: 4.5 for Large, 5 for Medium, 1 for "
     "Turbo.",
     NULL},
    {"batch", 'b', OPTION_INTEGER, FIELD(batch), "N", 1, PIPELINE_IMAGES_MAX, NULL,
     "Pictures that are drawn together. Default: 1.", NULL},
    {"seed", 'S', OPTION_SEED, FIELD(seed), "N", 0, 0, NULL, "Of the first picture. Default: 0.",
     NULL},

    ENGINE_MACHINE_OPTIONS(struct bench_settings),

    {"runs", 'r', OPTION_INTEGER, FIELD(runs), "N", 1, RUNS_MAX, NULL,
     "Runs that are timed. Default: 3.", "Measuring"},
    {"warmup", 0, OPTION_INTEGER, FIELD(warmup), "N", 0, RUNS_MAX, NULL,
     "Runs before these; the first of all loads the weights. Default: 1.", NULL},
    {"json-file", 0, OPTION_TEXT, FIELD(json), "FILE", 0, 0, NULL,
     "Write the figures there as one JSON object; '-' is standard output, and the table then goes "
     "to standard error.",
     NULL},
    {"compare", 0, OPTION_TEXT, FIELD(compare), "FILE", 0, 0, NULL,
     "What --json-file wrote before: its figures and the ratios to them stand in the table as "
     "well.",
     NULL},
    {"quiet", 'q', OPTION_FLAG, FIELD(quiet), NULL, 0, 0, NULL,
     "No progress, and no table beside JSON on standard output.", NULL},
};

static const struct option_pair conflicts[] = {SIZE_CONFLICTS, ENGINE_CONFLICTS};

const struct option_table bench_option_table = {
    .command = "sd35 bench",
    .usage = "--model PATH [options]",
    .summary = "Draws pictures again and again, saves none, and tells seconds, memory and speed.",
    .options = options,
    .option_count = COUNT_OF(options),
    .conflicts = conflicts,
    .conflict_count = COUNT_OF(conflicts),
};

_Static_assert(COUNT_OF(options) <= OPTIONS_MAX, "options_parse has room for them");

static const struct bench_settings unset = {
    .prompt = "a red fox in the snow, looking at the camera",
    .guidance = -1,
    .batch = 1,
    .runs = 3,
    .warmup = 1,
};

static bool is_standard_input(const char *text)
{
    return text && strcmp(text, "-") == 0;
}

bool bench_settings_parse(struct bench_settings *settings, bool *wants_help, int argc,
                          char *const *argv, struct error *err)
{
    *settings = unset;
    if (!options_parse(settings, wants_help, &bench_option_table, argc, argv, err))
        return false;
    if (*wants_help)
        return true;
    if (!engine_settings_check(&settings->engine, err))
        return false;
    if (is_standard_input(settings->prompt) && is_standard_input(settings->negative_prompt))
        return error_set(err, ERROR_BAD_REQUEST,
                         "--prompt and --negative-prompt cannot both be read from standard input");
    return true;
}
