/* `sd35 generate`: one request, drawn and saved. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/commands.h"
#include "cli/generate_options.h"
#include "cli/json_output.h"
#include "cli/memory_table.h"
#include "cli/opened_model.h"
#include "cli/picture_files.h"
#include "cli/progress.h"
#include "cli/prompt_text.h"
#include "cli/report.h"
#include "cli/terminal_image.h"
#include "pipeline/pipeline.h"
#include "pipeline/request_record.h"

enum text {
    TEXT_PROMPT,
    TEXT_PROMPT_2,
    TEXT_PROMPT_3,
    TEXT_NEGATIVE_PROMPT,
    TEXT_NEGATIVE_PROMPT_2,
    TEXT_NEGATIVE_PROMPT_3,
    TEXT_COUNT
};

struct generation {
    struct generate_settings settings;
    const atomic_bool *cancel;
    char *texts[TEXT_COUNT]; /* NULL where not given */
    uint64_t seed;
    struct picture_files files;
    struct image init_image, mask;     /* no pixels: not given */
    char *init_image_name, *mask_name; /* clean */
    struct opened_model model;
    struct pipeline_request request;
    struct request_record record;
    struct progress *progress;
    struct pipeline_result result;
    double save_seconds;
};

/* --- Before anything big is opened --- */

static bool read_texts(struct generation *generation, struct error *err)
{
    const struct generate_settings *settings = &generation->settings;
    const struct {
        const char *name, *given;
    } texts[TEXT_COUNT] = {
        [TEXT_PROMPT] = {"--prompt", settings->prompt},
        [TEXT_PROMPT_2] = {"--prompt-2", settings->prompt_2},
        [TEXT_PROMPT_3] = {"--prompt-3", settings->prompt_3},
        [TEXT_NEGATIVE_PROMPT] = {"--negative-prompt", settings->negative_prompt},
        [TEXT_NEGATIVE_PROMPT_2] = {"--negative-prompt-2", settings->negative_prompt_2},
        [TEXT_NEGATIVE_PROMPT_3] = {"--negative-prompt-3", settings->negative_prompt_3},
    };
    const char *reader = NULL; /* of standard input */

    for (int i = 0; i < TEXT_COUNT; i++) {
        if (texts[i].given && strcmp(texts[i].given, "-") == 0) {
            if (reader)
                return error_set(err, ERROR_BAD_REQUEST,
                                 "%s and %s cannot both be read from standard input", reader,
                                 texts[i].name);
            reader = texts[i].name;
        }
        if (!prompt_text_read(&generation->texts[i], texts[i].given, texts[i].name,
                              generation->cancel, err))
            return false;
    }
    return true;
}

static bool choose_seed(struct generation *generation, struct error *err)
{
    uint32_t random;

    generation->seed = generation->settings.seed.value;
    if (generation->settings.seed.is_set)
        return true;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return error_set(err, ERROR_IO, "the system has no random seed: give one with --seed");
    generation->seed = random;
    return true;
}

static bool read_picture(struct image *image, char **name, const char *path, const char *option,
                         struct error *err)
{
    const struct image_limits limits = IMAGE_LIMITS_DEFAULT;
    const char *slash;

    if (!path)
        return true;
    slash = strrchr(path, '/');
    *name = report_clean(slash ? slash + 1 : path);
    if (!*name)
        return error_set(err, ERROR_NO_MEMORY, "%s", option);
    return image_read(image, path, &limits, err) || error_in(err, "%s", option);
}

static bool name_files(struct generation *generation, struct error *err)
{
    const struct generate_settings *settings = &generation->settings;

    if (settings->dry_run)
        return true;
    return picture_files_init(&generation->files, settings->output, generation->seed,
                              settings->batch, err) &&
           picture_files_check(&generation->files, err);
}

static bool gather(struct generation *generation, struct error *err)
{
    const struct generate_settings *settings = &generation->settings;

    return read_texts(generation, err) && choose_seed(generation, err) &&
           name_files(generation, err) &&
           read_picture(&generation->init_image, &generation->init_image_name, settings->init_image,
                        "--init-image", err) &&
           read_picture(&generation->mask, &generation->mask_name, settings->mask, "--mask", err);
}

/* --- The request --- */

static bool open_model(struct generation *generation, struct error *err)
{
    const struct generate_settings *settings = &generation->settings;

    return opened_model_open(&generation->model, &settings->engine, MEMORY_TURNS,
                             settings->images_at_once, err);
}

static int round_side(double side, int side_max)
{
    int rounded = (int)lround(side / PIPELINE_SIDE_STEP) * PIPELINE_SIDE_STEP;

    if (rounded < PIPELINE_SIDE_STEP)
        return PIPELINE_SIDE_STEP;
    return rounded < side_max ? rounded : side_max;
}

/* In the shape of the init image, with its pixels or, if those are more, with the default's. */
static void choose_size(struct generation *generation)
{
    const struct generate_settings *settings = &generation->settings;
    const struct image *image = &generation->init_image;
    struct pipeline_request *request = &generation->request;

    if (image->pixels) {
        double scale =
            sqrt((double)request->width * request->height / image->width / image->height);

        scale = scale < 1 ? scale : 1;
        request->width = round_side(scale * image->width, generation->model.info.side_max);
        request->height = round_side(scale * image->height, generation->model.info.side_max);
    }
    size_settings_apply(&settings->size, request);
}

static void set_texts(struct pipeline_request *request, char *const texts[TEXT_COUNT])
{
    request->prompt = texts[TEXT_PROMPT] ? texts[TEXT_PROMPT] : "";
    request->prompt_2 = texts[TEXT_PROMPT_2];
    request->prompt_3 = texts[TEXT_PROMPT_3];
    request->negative_prompt = texts[TEXT_NEGATIVE_PROMPT];
    request->negative_prompt_2 = texts[TEXT_NEGATIVE_PROMPT_2];
    request->negative_prompt_3 = texts[TEXT_NEGATIVE_PROMPT_3];
}

static void set_number(double *field, double given)
{
    if (given >= 0)
        *field = given;
}

static void set_skip_layers(struct pipeline_request *request,
                            const struct generate_settings *settings)
{
    _Static_assert(OPTION_LIST_MAX <= SKIP_LAYERS_MAX, "a request takes what an option holds");

    request->skip_layer_count = settings->skip_layers.count;
    for (int i = 0; i < settings->skip_layers.count; i++)
        request->skip_layers[i] = settings->skip_layers.values[i];
    set_number(&request->skip_layer_scale, settings->skip_layer_scale);
    set_number(&request->skip_layer_start, settings->skip_layer_start);
    set_number(&request->skip_layer_stop, settings->skip_layer_stop);
}

static void build_request(struct generation *generation)
{
    const struct generate_settings *settings = &generation->settings;
    struct pipeline_request *request = &generation->request;

    pipeline_request_defaults(generation->model.pipeline, request);
    set_texts(request, generation->texts);
    choose_size(generation);
    if (settings->steps > 0)
        request->steps = settings->steps;
    set_number(&request->guidance_scale, settings->guidance);
    request->seed = generation->seed;
    request->image_count = settings->batch;
    set_number(&request->flow_shift, settings->flow_shift);
    if (settings->t5_tokens >= 0)
        request->t5_tokens = settings->t5_tokens;
    request->noise_source = strcmp(settings->rng, "cuda") == 0 ? NOISE_TORCH_CUDA : NOISE_TORCH_CPU;
    set_skip_layers(request, settings);
    request->init_image = generation->init_image.pixels ? &generation->init_image : NULL;
    request->mask = generation->mask.pixels ? &generation->mask : NULL;
    set_number(&request->strength, settings->strength);
    request->as_diffusers = settings->as_diffusers;

    generation->record = (struct request_record){
        .request = request,
        .info = &generation->model.info,
        .model = generation->model.name,
        .init_image = generation->init_image_name,
        .mask = generation->mask_name,
    };
}

/* --- Drawing --- */

static void print_plan(void *context, const struct pipeline_memory *memory)
{
    struct generation *generation = context;
    const struct pipeline_request *request = &generation->request;

    if (generation->settings.quiet)
        return;
    progress_clear(generation->progress);
    fprintf(stderr, "%s, %s weights, on %s\n", generation->model.info.variant,
            generation->model.info.weight_types, generation->model.info.device);
    if (generation->model.info.notice[0])
        fprintf(stderr, "%s\n", generation->model.info.notice);
    fprintf(stderr, "%d x %d, %d steps, guidance %g, seed %" PRIu64 "\n", request->width,
            request->height, request->steps, request->guidance_scale, request->seed);
    memory_table_print(stderr, memory);
}

static void show_progress(void *context, const struct pipeline_progress *now)
{
    struct generation *generation = context;

    progress_update(generation->progress, now);
}

static void warn_of_retries(const struct pipeline_result *result)
{
    if (result->was_short_of_memory)
        report_warning(
            "the GPU has too little memory free: weights took turns on it, the VAE worked "
            "in bands");
    if (result->was_repeated)
        report_warning("FP8 gave no picture: it was drawn again in 16 bits");
}

static void warn_of_cut_tokens(const struct pipeline_result *result)
{
    if (result->t5_tokens_cut > 0)
        report_warning("the prompt is too long: CLIP left out its last %d tokens, T5 its last %d",
                       result->clip_tokens_cut, result->t5_tokens_cut);
    else if (result->clip_tokens_cut > 0)
        report_warning("the prompt is too long for CLIP, which left out its last %d tokens",
                       result->clip_tokens_cut);
}

static bool draw(struct generation *generation, struct error *err)
{
    const struct pipeline_callbacks callbacks = {
        .planned = print_plan,
        .progress = show_progress,
        .context = generation,
        .cancel = generation->cancel,
    };
    bool ok;

    if (!progress_create(&generation->progress, generation->settings.quiet, err))
        return false;
    ok = pipeline_run(generation->model.pipeline, &generation->request, &callbacks,
                      &generation->result, err);
    progress_destroy(generation->progress);
    generation->progress = NULL;
    if (ok)
        warn_of_cut_tokens(&generation->result);
    warn_of_retries(&generation->result);
    return ok;
}

/* --- Saving --- */

static bool encode(unsigned char **out, size_t *out_size, const struct generation *generation,
                   int i, struct error *err)
{
    uint64_t seed = generation->result.seeds[i];
    char *infotext = NULL, *json = NULL;
    struct image_metadata metadata;
    bool ok;

    ok = request_record_infotext(&infotext, &generation->record, seed, err) &&
         json_output_format(&json, request_record_json(&generation->record, seed), err);
    metadata = (struct image_metadata){.infotext = infotext, .json = json};
    ok = ok && image_encode(out, out_size, &generation->result.images[i], generation->files.format,
                            generation->settings.quality, &metadata, err);
    free(infotext);
    free(json);
    return ok;
}

static bool save(const struct generation *generation, int i, struct error *err)
{
    unsigned char *bytes;
    size_t size;
    bool ok;

    if (atomic_load(generation->cancel))
        return error_set(err, ERROR_CANCELLED, "cancelled after saving %d of %d pictures", i,
                         generation->result.image_count);
    if (!encode(&bytes, &size, generation, i, err))
        return error_in(err, "'%s'", generation->files.paths[i]);
    ok = file_write(generation->files.paths[i], bytes, size, err);
    free(bytes);
    return ok;
}

static bool save_all(struct generation *generation, struct error *err)
{
    double started = seconds_now();

    for (int i = 0; i < generation->result.image_count; i++)
        if (!save(generation, i, err))
            return false;
    generation->save_seconds = seconds_now() - started;
    return true;
}

/* --- Telling --- */

static enum terminal_graphics choose_graphics(const struct generate_settings *settings)
{
    const char *name = strcmp(settings->show, "iterm") == 0 ? "iterm2" : settings->show;
    enum terminal_graphics graphics;

    if (terminal_graphics_parse(&graphics, name))
        return graphics;
    return settings->quiet ? TERMINAL_GRAPHICS_NONE : terminal_graphics_detect(STDOUT_FILENO);
}

static void print_files(const struct generation *generation)
{
    enum terminal_graphics graphics = choose_graphics(&generation->settings);
    struct error err;

    for (int i = 0; i < generation->files.count; i++) {
        puts(generation->files.paths[i]);
        fflush(stdout);
        if (!terminal_image_show(STDOUT_FILENO, graphics, &generation->result.images[i], &err))
            report_warning("%s", err.message);
    }
    if (!generation->settings.quiet)
        fprintf(stderr, "done in %.1f s\n",
                generation->model.seconds + generation->result.total_seconds +
                    generation->save_seconds);
}

static bool tell_result(const struct generation *generation, struct error *err)
{
    const struct json_result result = {
        .record = &generation->record,
        .result = &generation->result,
        .paths = generation->files.paths,
        .load_seconds = generation->model.seconds,
        .save_seconds = generation->save_seconds,
    };

    if (generation->settings.json)
        return json_output_result(&result, err);
    print_files(generation);
    return true;
}

static bool tell_plan(struct generation *generation, struct error *err)
{
    struct pipeline_memory memory;

    if (!pipeline_estimate(generation->model.pipeline, &generation->request, &memory, err))
        return false;
    if (generation->settings.json)
        return json_output_plan(&generation->record, &memory, err);
    memory_table_print(stdout, &memory);
    return true;
}

/* --- All of it --- */

static bool generate(struct generation *generation, struct error *err)
{
    if (!gather(generation, err) || !open_model(generation, err))
        return false;
    build_request(generation);
    if (generation->settings.dry_run)
        return tell_plan(generation, err);
    return draw(generation, err) && save_all(generation, err) && tell_result(generation, err);
}

static void finish(struct generation *generation)
{
    pipeline_result_finish(&generation->result);
    opened_model_close(&generation->model);
    image_finish(&generation->init_image);
    image_finish(&generation->mask);
    picture_files_finish(&generation->files);
    free(generation->init_image_name);
    free(generation->mask_name);
    for (int i = 0; i < TEXT_COUNT; i++)
        free(generation->texts[i]);
}

/* Options that cannot be read still say how to answer. */
static bool asks_for_json(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--json") == 0)
            return true;
    return false;
}

static int fail(const struct error *err, bool as_json)
{
    report_error(err);
    if (as_json)
        json_output_error(err);
    return error_exit_code(err->code);
}

int generate_command(int argc, char **argv, const atomic_bool *cancel)
{
    struct generation generation = {.cancel = cancel};
    struct error err = {0};
    bool wants_help, ok;

    if (!generate_settings_parse(&generation.settings, &wants_help, argc, argv, &err))
        return fail(&err, generation.settings.json || asks_for_json(argc, argv));
    if (wants_help) {
        options_print_help(stdout, &generate_option_table);
        return 0;
    }
    ok = generate(&generation, &err);
    finish(&generation);
    return ok ? 0 : fail(&err, generation.settings.json);
}
