#include "cli/generate_options.h"

#include <inttypes.h>
#include <limits.h>

#include "pipeline/pipeline.h"

#define FIELD(name) offsetof(struct generate_settings, name)

/* Ranges that depend on the model are the pipeline's to check. */
#define NUMBER_MAX 1e6

static const struct option options[] = {
    ENGINE_MODEL_OPTIONS(struct generate_settings),

    {"prompt", 'p', OPTION_TEXT, FIELD(prompt), "TEXT", 0, 0, NULL,
     "What to draw. '-' reads standard input, '@FILE' a file; '@@' begins a text with '@'.",
     "Picture"},
    {"negative-prompt", 'n', OPTION_TEXT, FIELD(negative_prompt), "TEXT", 0, 0, NULL,
     "What to keep away from. Unused where guidance is off.", NULL},
    {"prompt-2", 0, OPTION_TEXT, FIELD(prompt_2), "TEXT", 0, 0, NULL, "Another text for CLIP-G.",
     NULL},
    {"prompt-3", 0, OPTION_TEXT, FIELD(prompt_3), "TEXT", 0, 0, NULL, "Another text for T5.", NULL},
    {"negative-prompt-2", 0, OPTION_TEXT, FIELD(negative_prompt_2), "TEXT", 0, 0, NULL,
     "Another negative text for CLIP-G.", NULL},
    {"negative-prompt-3", 0, OPTION_TEXT, FIELD(negative_prompt_3), "TEXT", 0, 0, NULL,
     "Another negative text for T5.", NULL},
    SIZE_OPTIONS(
        struct generate_settings,
        "Pixels, multiples of 16. Default: the model's own, in the shape of an init image."),
    {"steps", 's', OPTION_INTEGER, FIELD(steps), "N", 1, PIPELINE_STEPS_MAX, NULL,
     "Denoising steps. Default: 28 for Large, 40 for Medium, 4 for Turbo.", NULL},
    {"guidance", 'g', OPTION_NUMBER, FIELD(guidance), "X", 0, 100, NULL,
     "How closely to follow the prompt; 1 is off. Default: 4.5 for Large, 5 for Medium, 1 for "
     "Turbo.",
     NULL},
    {"seed", 'S', OPTION_SEED, FIELD(seed), "N", 0, 0, NULL,
     "The same seed draws the same picture. Default: -1, a random one.", NULL},
    {"batch", 'b', OPTION_INTEGER, FIELD(batch), "N", 1, PIPELINE_IMAGES_MAX, NULL,
     "Pictures to draw, with the seeds that follow each other. Default: 1.", NULL},
    {"rng", 0, OPTION_CHOICE, FIELD(rng), "cpu|cuda", 0, 0, "cpu|cuda",
     "Whose noise the seed means: PyTorch's on the CPU (default) or on a GPU.", NULL},
    {"flow-shift", 0, OPTION_NUMBER, FIELD(flow_shift), "X", 0, NUMBER_MAX, NULL,
     "Shift of the noise schedule. Default: the model's, 3 in all released ones.", NULL},
    {"t5-tokens", 0, OPTION_INTEGER, FIELD(t5_tokens), "N", 0, INT_MAX, NULL,
     "Tokens of the prompt that T5 reads, 77 to 512. Default: 256, or what its tokenizer was made "
     "for.",
     NULL},
    {"skip-layers", 0, OPTION_LIST, FIELD(skip_layers), "N,N,...", 0, INT_MAX, NULL,
     "Skip-layer guidance: the blocks to skip. 7,8,9 suits Medium.", NULL},
    {"skip-layer-scale", 0, OPTION_NUMBER, FIELD(skip_layer_scale), "X", 0, 100, NULL,
     "Its strength. Default: 2.5.", NULL},
    {"skip-layer-start", 0, OPTION_NUMBER, FIELD(skip_layer_start), "X", 0, 1, NULL,
     "Share of the steps after which it begins. Default: 0.01.", NULL},
    {"skip-layer-stop", 0, OPTION_NUMBER, FIELD(skip_layer_stop), "X", 0, 1, NULL,
     "Share of the steps after which it ends. Default: 0.2.", NULL},

    {"init-image", 'i', OPTION_TEXT, FIELD(init_image), "FILE", 0, 0, NULL,
     "PNG, JPEG or WebP to start from.", "Image to image"},
    {"mask", 0, OPTION_TEXT, FIELD(mask), "FILE", 0, 0, NULL,
     "PNG, JPEG or WebP: white is painted anew, black kept.", NULL},
    {"strength", 0, OPTION_NUMBER, FIELD(strength), "X", 0, 1, NULL,
     "How much of the init image to give up, 0 to 1. Default: 0.6.", NULL},
    {"as-diffusers", 0, OPTION_FLAG, FIELD(as_diffusers), NULL, 0, 0, NULL,
     "Encode init images as diffusers' pipelines do, to compare with them.", NULL},

    ENGINE_MACHINE_OPTIONS(struct generate_settings),
    {"images-at-once", 0, OPTION_INTEGER, FIELD(images_at_once), "N", 0, PIPELINE_IMAGES_MAX, NULL,
     "Pictures of a batch that are drawn together: more memory. Default: 1.", NULL},

    {"output", 'o', OPTION_TEXT, FIELD(output), "FILE", 0, 0, NULL,
     ".png, .jpg or .webp; -1, -2, ... is put before the dot in a batch. Default: "
     "sd35-<seed>.png.",
     "Result"},
    {"quality", 0, OPTION_INTEGER, FIELD(quality), "N", 1, 100, NULL,
     "Of JPEG and WebP, 1 to 100. Default: 90.", NULL},
    {"show", 0, OPTION_CHOICE, FIELD(show), "HOW", 0, 0, "auto|kitty|iterm|iterm2|sixel|none",
     "Show the picture in the terminal: auto (default), kitty, iterm, sixel or none.", NULL},
    {"json", 0, OPTION_FLAG, FIELD(json), NULL, 0, 0, NULL,
     "Print the result, or the error, as one JSON object.", NULL},
    {"quiet", 'q', OPTION_FLAG, FIELD(quiet), NULL, 0, 0, NULL,
     "No progress and no memory plan: only warnings, errors and the files' names.", NULL},
    {"dry-run", 0, OPTION_FLAG, FIELD(dry_run), NULL, 0, 0, NULL,
     "Print the memory that this picture takes, and draw nothing.", NULL},
};

static const struct option_pair conflicts[] = {
    SIZE_CONFLICTS,
    ENGINE_CONFLICTS,
    {"without-t5", "t5-tokens"},
    {"json", "show"}, /* both on standard output */
};

static const struct option_pair dependents[] = {
    {"mask", "init-image"},
    {"strength", "init-image"},
    {"as-diffusers", "init-image"},
    {"skip-layer-scale", "skip-layers"},
    {"skip-layer-start", "skip-layers"},
    {"skip-layer-stop", "skip-layers"},
};

const struct option_table generate_option_table = {
    .command = "sd35 generate",
    .usage = "--model PATH --prompt TEXT [options]",
    .summary = "Draws pictures from a text.",
    .options = options,
    .option_count = COUNT_OF(options),
    .conflicts = conflicts,
    .conflict_count = COUNT_OF(conflicts),
    .dependents = dependents,
    .dependent_count = COUNT_OF(dependents),
};

_Static_assert(COUNT_OF(options) <= OPTIONS_MAX, "options_parse has room for them");

static const struct generate_settings unset = {
    .guidance = -1,
    .flow_shift = -1,
    .t5_tokens = -1,
    .skip_layer_scale = -1,
    .skip_layer_start = -1,
    .skip_layer_stop = -1,
    .strength = -1,
    .batch = 1,
    .rng = "cpu",
    .quality = 90,
    .show = "auto",
};

bool generate_settings_parse(struct generate_settings *settings, bool *wants_help, int argc,
                             char *const *argv, struct error *err)
{
    *settings = unset;
    if (!options_parse(settings, wants_help, &generate_option_table, argc, argv, err))
        return false;
    if (*wants_help)
        return true;
    if (!engine_settings_check(&settings->engine, err))
        return false;
    if (!settings->prompt && !settings->dry_run)
        return error_set(err, ERROR_BAD_REQUEST, "--prompt is missing: say what to draw");
    if (settings->seed.value > (uint64_t)(INT64_MAX - settings->batch))
        return error_set(err, ERROR_BAD_REQUEST, "--seed: the batch's last seed is above %" PRId64,
                         INT64_MAX);
    return true;
}
