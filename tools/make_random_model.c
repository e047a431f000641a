/* sd35-make-random-model: writes a model of random weights. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random_model.h"

static const char usage[] =
    "usage: sd35-make-random-model --output PATH [options]\n"
    "\n"
    "Writes a model with random weights: right in every shape, and its pictures are noise.\n"
    "\n"
    "  --output PATH        folder (diffusers) or file (the other layouts) to write\n"
    "  --preset NAME        tiny (default), medium, large or sd3-medium\n"
    "  --layout NAME        diffusers (default), single or comfy-fp8\n"
    "  --dtype NAME         f32, f16, bf16 (default), f8_e4m3 or f8_e5m2\n"
    "  --seed N             the same seed gives the same weights in every layout (default 1)\n"
    "  --layers N           joint blocks\n"
    "  --heads N            attention heads; the width is 64 times that\n"
    "  --dual-layers N      first blocks that have a second attention, as SD3.5 Medium's\n"
    "  --position-side N    side of the position table, in patches of 16 pixels\n"
    "  --clip-layers N      layers of each CLIP text encoder\n"
    "  --t5-layers N        layers of the T5 text encoder\n"
    "  --t5-width N         width of the T5 text encoder, and of the text tokens\n"
    "  --vae-channels A,B,C,D\n"
    "                       the VAE's channels from full resolution downwards, multiples of 32\n"
    "  --outliers N         rows of each block's q and k with larger weights than the others\n"
    "  --outlier-scale N    how much larger they are (default 100)\n"
    "  --without-t5         leave out the T5 text encoder\n"
    "  --without-encoders   leave out all text encoders and their tokenizers\n"
    "  --help               this text\n";

enum option_id {
    OPTION_OUTPUT = 256,
    OPTION_PRESET,
    OPTION_LAYOUT,
    OPTION_DTYPE,
    OPTION_SEED,
    OPTION_LAYERS,
    OPTION_HEADS,
    OPTION_DUAL_LAYERS,
    OPTION_POSITION_SIDE,
    OPTION_CLIP_LAYERS,
    OPTION_T5_LAYERS,
    OPTION_T5_WIDTH,
    OPTION_VAE_CHANNELS,
    OPTION_OUTLIERS,
    OPTION_OUTLIER_SCALE,
    OPTION_WITHOUT_T5,
    OPTION_WITHOUT_ENCODERS,
    OPTION_HELP,
};

static const struct option long_options[] = {
    {"output", required_argument, NULL, OPTION_OUTPUT},
    {"preset", required_argument, NULL, OPTION_PRESET},
    {"layout", required_argument, NULL, OPTION_LAYOUT},
    {"dtype", required_argument, NULL, OPTION_DTYPE},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"layers", required_argument, NULL, OPTION_LAYERS},
    {"heads", required_argument, NULL, OPTION_HEADS},
    {"dual-layers", required_argument, NULL, OPTION_DUAL_LAYERS},
    {"position-side", required_argument, NULL, OPTION_POSITION_SIDE},
    {"clip-layers", required_argument, NULL, OPTION_CLIP_LAYERS},
    {"t5-layers", required_argument, NULL, OPTION_T5_LAYERS},
    {"t5-width", required_argument, NULL, OPTION_T5_WIDTH},
    {"vae-channels", required_argument, NULL, OPTION_VAE_CHANNELS},
    {"outliers", required_argument, NULL, OPTION_OUTLIERS},
    {"outlier-scale", required_argument, NULL, OPTION_OUTLIER_SCALE},
    {"without-t5", no_argument, NULL, OPTION_WITHOUT_T5},
    {"without-encoders", no_argument, NULL, OPTION_WITHOUT_ENCODERS},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0},
};

static bool parse_number(int *out, const char *text, struct error *err)
{
    char *end;
    long value;

    errno = 0;
    value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < 0 || value > INT_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "'%s' is not a whole number of at least 0", text);
    *out = (int)value;
    return true;
}

static bool parse_seed(uint64_t *out, const char *text, struct error *err)
{
    char *end;

    errno = 0;
    *out = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-')
        return error_set(err, ERROR_BAD_REQUEST, "'%s' is not a seed", text);
    return true;
}

static bool parse_channels(struct random_model_options *options, const char *text,
                           struct error *err)
{
    char copy[128];
    char *rest = NULL;

    options->vae_levels = 0;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *item = strtok_r(copy, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
        if (options->vae_levels == RANDOM_MODEL_VAE_LEVELS_MAX)
            return error_set(err, ERROR_BAD_REQUEST, "'%s' has more than %d levels", text,
                             RANDOM_MODEL_VAE_LEVELS_MAX);
        if (!parse_number(&options->vae_channels[options->vae_levels++], item, err))
            return false;
    }
    if (options->vae_levels == 0)
        return error_set(err, ERROR_BAD_REQUEST, "'%s' names no channels", text);
    return true;
}

static bool parse_layout(enum random_model_layout *out, const char *text, struct error *err)
{
    static const char *const names[] = {"diffusers", "single", "comfy-fp8"};

    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum random_model_layout)i;
            return true;
        }
    }
    return error_set(err, ERROR_BAD_REQUEST, "'%s' is not a layout", text);
}

static bool parse_dtype(enum dtype *out, const char *text, struct error *err)
{
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(text, dtype_name((enum dtype)i)) == 0) {
            *out = (enum dtype)i;
            return true;
        }
    }
    return error_set(err, ERROR_BAD_REQUEST, "'%s' is not a type", text);
}

static bool parse_scale(float *out, const char *text, struct error *err)
{
    int number;

    if (!parse_number(&number, text, err))
        return false;
    *out = (float)number;
    return true;
}

static bool apply(struct random_model_options *options, int option, const char *text,
                  struct error *err)
{
    switch (option) {
    case OPTION_OUTPUT:
        options->output = text;
        return true;
    case OPTION_LAYOUT:
        return parse_layout(&options->layout, text, err);
    case OPTION_DTYPE:
        return parse_dtype(&options->dtype, text, err);
    case OPTION_SEED:
        return parse_seed(&options->seed, text, err);
    case OPTION_LAYERS:
        return parse_number(&options->layers, text, err);
    case OPTION_HEADS:
        return parse_number(&options->heads, text, err);
    case OPTION_DUAL_LAYERS:
        return parse_number(&options->dual_layers, text, err);
    case OPTION_POSITION_SIDE:
        return parse_number(&options->position_side, text, err);
    case OPTION_CLIP_LAYERS:
        if (!parse_number(&options->clip_l.layers, text, err))
            return false;
        options->clip_g.layers = options->clip_l.layers;
        return true;
    case OPTION_T5_LAYERS:
        return parse_number(&options->t5.layers, text, err);
    case OPTION_T5_WIDTH:
        return parse_number(&options->t5.width, text, err);
    case OPTION_VAE_CHANNELS:
        return parse_channels(options, text, err);
    case OPTION_OUTLIERS:
        return parse_number(&options->outliers, text, err);
    case OPTION_OUTLIER_SCALE:
        return parse_scale(&options->outlier_scale, text, err);
    case OPTION_WITHOUT_T5:
        options->with_t5 = false;
        return true;
    case OPTION_WITHOUT_ENCODERS:
        options->with_encoders = false;
        return true;
    default:
        return error_set(err, ERROR_BAD_REQUEST, "see --help");
    }
}

/* The preset comes first, wherever it stands: the other options change it. */
static bool find_preset(struct random_model_options *options, int argc, char **argv,
                        struct error *err)
{
    const char *name = "tiny";
    int option;

    opterr = 0;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
        if (option == OPTION_PRESET)
            name = optarg;
    opterr = 1;
    optind = 0;
    if (!random_model_preset(options, name))
        return error_set(err, ERROR_BAD_REQUEST, "'%s' is not a preset", name);
    return true;
}

static bool parse(struct random_model_options *options, int argc, char **argv, struct error *err)
{
    bool has_dtype = false;
    int option;

    if (!find_preset(options, argc, argv, err))
        return false;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (option == OPTION_HELP) {
            fputs(usage, stdout);
            exit(0);
        }
        has_dtype = has_dtype || option == OPTION_DTYPE;
        if (option != OPTION_PRESET && !apply(options, option, optarg, err))
            return false;
    }
    if (options->layout == RANDOM_MODEL_COMFY_FP8 && !has_dtype)
        options->dtype = DTYPE_F8_E4M3;
    if (optind < argc)
        return error_set(err, ERROR_BAD_REQUEST, "'%s' is not an option", argv[optind]);
    if (!options->output)
        return error_set(err, ERROR_BAD_REQUEST, "--output is missing; see --help");
    return true;
}

int main(int argc, char **argv)
{
    struct random_model_options options;
    struct error err;

    if (!parse(&options, argc, argv, &err) || !random_model_write(&options, &err)) {
        fprintf(stderr, "sd35-make-random-model: %s\n", err.message);
        return error_exit_code(err.code);
    }
    return 0;
}
