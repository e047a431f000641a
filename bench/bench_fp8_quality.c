/* How close pictures stay to those of the 16-bit model under different recipes of FP8 weights.
 *
 * usage: bench_fp8_quality MODEL [--prompts FILE] [--record QUANTIZATION_JSON] [--steps N]
 *                          [--seeds N] [--recipes NAME,...]
 * Draws every prompt with its own seed, once in 16 bits and once for each recipe, and prints a
 * table of SSIM and colour difference. --record: a calibrated conversion's quantization.json, for
 * the recipe "calibrated". --seeds: pictures of each prompt. Weights are replaced in memory.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "calibrate/measured_model.h"
#include "calibrate/picture_error.h"
#include "calibrate/prompt_list.h"

#define SEED 3000
#define SSIM_LOW 0.9

enum kept { KEEP_NOTHING, KEEP_BY_RULE, KEEP_BY_RECORD };

static const struct recipe {
    const char *name;
    enum fp8_recipe factors;
    enum dtype format;
    enum kept kept;
    bool rounds_activations;
} recipes[] = {
    {"default", FP8_ROWS, DTYPE_F8_E4M3, KEEP_BY_RULE, false},
    {"calibrated", FP8_ROWS, DTYPE_F8_E4M3, KEEP_BY_RECORD, false},
    {"all", FP8_ROWS, DTYPE_F8_E4M3, KEEP_NOTHING, false},
    {"tensor", FP8_TENSOR, DTYPE_F8_E4M3, KEEP_NOTHING, false},
    {"cast", FP8_CAST, DTYPE_F8_E4M3, KEEP_NOTHING, false},
    {"e5m2", FP8_ROWS, DTYPE_F8_E5M2, KEEP_BY_RULE, false},
    {"activations", FP8_ROWS, DTYPE_F8_E4M3, KEEP_BY_RULE, true},
    {"calibrated-activations", FP8_ROWS, DTYPE_F8_E4M3, KEEP_BY_RECORD, true},
};

struct settings {
    const char *model, *prompts, *record, *recipes;
    int steps, seeds;
};

struct bench {
    struct settings settings;
    struct measured_model model;
    struct prompt_list prompts;
    json_t *record;
    struct image *references; /* [pictures] */
    int pictures;
};

static void die(const struct error *err)
{
    fprintf(stderr, "bench_fp8_quality: %s\n", err->message);
    exit(1);
}

static void draw(struct bench *bench, struct image *out, int i)
{
    struct pipeline_request request;
    struct error err;

    pipeline_request_defaults(bench->model.pipeline, &request);
    request.prompt = bench->prompts.prompt[i % bench->prompts.count];
    request.seed = SEED + (uint64_t)i;
    if (bench->settings.steps > 0)
        request.steps = bench->settings.steps;
    if (!measured_model_draw(&bench->model, out, &request, NULL, NULL, &err))
        die(&err);
}

static bool is_kept_by_record(const json_t *record, const char *name)
{
    const json_t *layers = json_object_get(record, "layers");

    for (size_t i = 0; i < json_array_size(layers); i++) {
        const json_t *layer = json_array_get(layers, i);

        if (strcmp(json_string_value(json_object_get(layer, "layer")), name) == 0)
            return json_is_true(json_object_get(layer, "kept"));
    }
    return false;
}

static void use(struct bench *bench, const struct recipe *recipe)
{
    const struct convert_plan *plan = bench->model.plan;
    struct error err;

    if (!measured_model_quantise(&bench->model, recipe->format, recipe->factors, &err))
        die(&err);
    for (size_t i = 0; i < plan->layer_count; i++) {
        bool is_kept = recipe->kept == KEEP_BY_RULE ? plan->layers[i].reason != NULL
                       : recipe->kept == KEEP_BY_RECORD
                           ? is_kept_by_record(bench->record, plan->layers[i].name)
                           : false;

        measured_model_use(&bench->model, i, !is_kept);
    }
    measured_model_round_activations(&bench->model, recipe->rounds_activations);
}

static void measure(struct bench *bench, const struct recipe *recipe)
{
    double ssim = 0.0, colour = 0.0, worst = 1.0, started = seconds_now();
    int low = 0;

    use(bench, recipe);
    for (int i = 0; i < bench->pictures; i++) {
        struct picture_error error;
        struct image image;
        struct error err;

        draw(bench, &image, i);
        if (!picture_error_measure(&error, &bench->references[i], &image, &err))
            die(&err);
        image_finish(&image);
        ssim += error.ssim / bench->pictures;
        colour += error.delta_e / bench->pictures;
        worst = error.ssim < worst ? error.ssim : worst;
        low += error.ssim < SSIM_LOW;
    }
    printf("%-24s %8.4f %8.4f %8d %8.3f %8.0f\n", recipe->name, ssim, worst, low, colour,
           seconds_now() - started);
    fflush(stdout);
}

static bool is_wanted(const struct bench *bench, const struct recipe *recipe)
{
    const char *at = bench->settings.recipes;
    size_t length = strlen(recipe->name), word;

    if (recipe->kept == KEEP_BY_RECORD && !bench->record)
        return false;
    for (; at && *at; at += word + (at[word] == ',')) {
        word = strcspn(at, ",");
        if (word == length && strncmp(at, recipe->name, word) == 0)
            return true;
    }
    return !bench->settings.recipes;
}

static void open_all(struct bench *bench)
{
    const struct convert_options options = {
        .model = bench->settings.model,
        .format = DTYPE_F8_E4M3,
        .shard_bytes = CONVERT_SHARD_BYTES,
    };
    struct error err;

    if (!prompt_list_read(&bench->prompts, bench->settings.prompts, &err) ||
        !measured_model_open(&bench->model, &options, &err))
        die(&err);
    if (bench->settings.record) {
        bench->record = json_load_file(bench->settings.record, 0, NULL);
        if (!bench->record) {
            error_set(&err, ERROR_BAD_FILE, "'%s' is no JSON", bench->settings.record);
            die(&err);
        }
    }
    bench->pictures = bench->prompts.count * bench->settings.seeds;
    bench->references = calloc((size_t)bench->pictures, sizeof *bench->references);
    if (!bench->references) {
        error_set(&err, ERROR_NO_MEMORY, "pictures");
        die(&err);
    }
}

static void read_settings(struct settings *settings, int argc, char **argv)
{
    *settings = (struct settings){.model = argc > 1 ? argv[1] : NULL, .seeds = 1};
    for (int i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--prompts") == 0)
            settings->prompts = argv[i + 1];
        else if (strcmp(argv[i], "--record") == 0)
            settings->record = argv[i + 1];
        else if (strcmp(argv[i], "--recipes") == 0)
            settings->recipes = argv[i + 1];
        else if (strcmp(argv[i], "--steps") == 0)
            settings->steps = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--seeds") == 0)
            settings->seeds = atoi(argv[i + 1]);
        else
            settings->model = NULL;
    }
    if (settings->model && argc % 2 == 0 && settings->seeds > 0)
        return;
    fprintf(stderr, "usage: bench_fp8_quality MODEL [--prompts FILE] [--record FILE] [--steps N] "
                    "[--seeds N] [--recipes NAME,...]\n");
    exit(2);
}

int main(int argc, char **argv)
{
    struct bench bench = {0};

    read_settings(&bench.settings, argc, argv);
    open_all(&bench);
    for (int i = 0; i < bench.pictures; i++)
        draw(&bench, &bench.references[i], i);
    printf("%d pictures\n%-24s %8s %8s %8s %8s %8s\n", bench.pictures, "recipe", "SSIM", "worst",
           "< 0.9", "colour", "seconds");
    for (size_t i = 0; i < COUNT_OF(recipes); i++)
        if (is_wanted(&bench, &recipes[i]))
            measure(&bench, &recipes[i]);
    for (int i = 0; i < bench.pictures; i++)
        image_finish(&bench.references[i]);
    free(bench.references);
    json_decref(bench.record);
    measured_model_close(&bench.model);
    prompt_list_finish(&bench.prompts);
    return 0;
}
