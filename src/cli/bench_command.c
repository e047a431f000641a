/* `sd35 bench`: how long a model takes for a picture, and how much memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/version.h"
#include "cli/bench_flops.h"
#include "cli/bench_options.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/json_output.h"
#include "cli/opened_model.h"
#include "cli/progress.h"
#include "cli/prompt_text.h"
#include "cli/report.h"
#include "pipeline/pipeline.h"

/* The first has the modulation of all steps before it, and devices record the second. */
#define STEPS_LEFT_OUT 2

/* Seconds of one thing, once for each time it was done. */
struct series {
    double *seconds;
    size_t count;
};

struct bench {
    struct bench_settings settings;
    const atomic_bool *cancel;
    char *prompt, *negative_prompt; /* NULL where not given */
    json_t *before_json;
    struct bench_report before; /* if before_json */
    struct file_writer *writer; /* of --json-file; NULL: no file */
    struct opened_model model;
    struct pipeline_request request;
    struct progress *progress;

    int run;                               /* the first is 0 */
    double runs_started, step_ended;       /* the latter since its phase began */
    struct series series[BENCH_ROW_COUNT]; /* of the rows that are measured again and again */
    struct bench_report report;
};

/* --- Before anything big is opened --- */

static bool writes_to_output(const struct bench *bench)
{
    return bench->settings.json && strcmp(bench->settings.json, "-") == 0;
}

static bool gather(struct bench *bench, struct error *err)
{
    const struct bench_settings *settings = &bench->settings;

    return prompt_text_read(&bench->prompt, settings->prompt, "--prompt", bench->cancel, err) &&
           prompt_text_read(&bench->negative_prompt, settings->negative_prompt, "--negative-prompt",
                            bench->cancel, err) &&
           (!settings->compare ||
            bench_report_read(&bench->before, &bench->before_json, settings->compare, err)) &&
           (!settings->json || writes_to_output(bench) ||
            file_writer_create(&bench->writer, settings->json, err));
}

static bool open_model(struct bench *bench, struct error *err)
{
    const struct bench_settings *settings = &bench->settings;

    if (!opened_model_open(&bench->model, &settings->engine, MEMORY_ALL, settings->batch, err))
        return false;
    bench->report.figures[BENCH_OPEN].median = bench->model.seconds;
    return true;
}

static void build_request(struct bench *bench)
{
    const struct bench_settings *settings = &bench->settings;
    struct pipeline_request *request = &bench->request;

    pipeline_request_defaults(bench->model.pipeline, request);
    request->prompt = bench->prompt;
    request->negative_prompt = bench->negative_prompt;
    size_settings_apply(&settings->size, request);
    if (settings->steps > 0)
        request->steps = settings->steps;
    if (settings->guidance >= 0)
        request->guidance_scale = settings->guidance;
    request->seed = settings->seed.value;
    request->image_count = settings->batch;
}

/* --- Measuring --- */

static bool make_series(struct bench *bench, struct error *err)
{
    for (int row = BENCH_ENCODE; row <= BENCH_TOTAL; row++) {
        int each = row == BENCH_STEP ? bench->request.steps : 1;

        bench->series[row].seconds =
            calloc((size_t)bench->settings.runs * (size_t)each, sizeof(double));
        if (!bench->series[row].seconds)
            return error_set(err, ERROR_NO_MEMORY, "measured seconds");
    }
    return true;
}

static void add(struct bench *bench, enum bench_row row, double seconds)
{
    struct series *series = &bench->series[row];

    if (bench->run >= bench->settings.warmup)
        series->seconds[series->count++] = seconds;
}

static void note_step(struct bench *bench, const struct pipeline_progress *now)
{
    /* Of few steps the last. */
    int left_out = now->step_count > STEPS_LEFT_OUT ? STEPS_LEFT_OUT : now->step_count - 1;

    if (now->step > left_out)
        add(bench, BENCH_STEP, now->phase_seconds - bench->step_ended);
    bench->step_ended = now->phase_seconds;
}

static void show_progress(const struct bench *bench, const struct pipeline_progress *from)
{
    int runs = bench->settings.warmup + bench->settings.runs, steps = bench->request.steps;
    bool is_first = bench->run == 0;
    struct progress_now now = {
        .phase = is_first ? "first picture" : "further pictures",
        .unit = " steps",
        .step = is_first ? 0 : (bench->run - 1) * steps,
        .step_count = is_first ? steps : (runs - 1) * steps,
        .seconds = seconds_now() - bench->runs_started,
    };

    if (from->phase == PHASE_DENOISE)
        now.step += from->step;
    else if (from->phase > PHASE_DENOISE)
        now.step += steps;
    progress_show(bench->progress, &now);
}

static void note_progress(void *context, const struct pipeline_progress *now)
{
    struct bench *bench = context;

    if (now->phase == PHASE_DENOISE)
        note_step(bench, now);
    show_progress(bench, now);
}

/* Once the request is known to be possible. */
static void print_notice(void *context, const struct pipeline_memory *memory)
{
    const struct bench *bench = context;

    (void)memory;
    if (bench->run > 0 || bench->settings.quiet || !bench->model.info.notice[0])
        return;
    progress_clear(bench->progress);
    fprintf(stderr, "%s\n", bench->model.info.notice);
}

static bool run_once(struct bench *bench, struct error *err)
{
    const struct pipeline_callbacks callbacks = {
        .planned = print_notice,
        .progress = note_progress,
        .context = bench,
        .cancel = bench->cancel,
    };
    struct bench_figure *figures = bench->report.figures;
    struct pipeline_result result;

    if (bench->run <= 1)
        bench->runs_started = seconds_now();
    if (!pipeline_run(bench->model.pipeline, &bench->request, &callbacks, &result, err))
        return false;
    if (bench->run == 0)
        figures[BENCH_FIRST].median = result.total_seconds;
    figures[BENCH_MEMORY_PLAN].median = (double)result.memory.peak;
    figures[BENCH_MEMORY_DEVICE].median = (double)result.memory.device_peak;
    add(bench, BENCH_ENCODE, result.encode_seconds);
    add(bench, BENCH_DENOISE, result.denoise_seconds);
    add(bench, BENCH_DECODE, result.decode_seconds);
    add(bench, BENCH_TOTAL, result.total_seconds);
    pipeline_result_finish(&result);
    return true;
}

static bool run_all(struct bench *bench, struct error *err)
{
    bool ok = true;

    if (!progress_create(&bench->progress, bench->settings.quiet, err))
        return false;
    while (ok && bench->run < bench->settings.warmup + bench->settings.runs) {
        ok = run_once(bench, err);
        bench->run++;
    }
    progress_destroy(bench->progress);
    return ok;
}

/* --- Telling --- */

static int compare_seconds(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;

    return (difference > 0) - (difference < 0);
}

static struct bench_figure summarise(struct series *series)
{
    double *seconds = series->seconds;
    size_t count = series->count;

    qsort(seconds, count, sizeof *seconds, compare_seconds);
    return (struct bench_figure){
        .median = (seconds[(count - 1) / 2] + seconds[count / 2]) / 2,
        .min = seconds[0],
        .max = seconds[count - 1],
    };
}

/* The most that was resident since the program began; 0 where the system does not tell. */
static double host_peak_bytes(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    char line[256];
    size_t kibibytes = 0;

    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "VmHWM:", strlen("VmHWM:")) == 0)
            kibibytes = strtoul(line + strlen("VmHWM:"), NULL, 10);
    if (file)
        fclose(file);
    return (double)kibibytes * 1024;
}

static double count_step_flops(const struct bench *bench)
{
    const struct pipeline_request *request = &bench->request;
    const struct step_shape shape = {
        .layers = bench->model.info.layer_count,
        .self_attentions = bench->model.info.self_attention_count,
        .width = bench->model.info.width,
        .image_tokens =
            (int64_t)(request->width / PIPELINE_SIDE_STEP) * (request->height / PIPELINE_SIDE_STEP),
        .context_tokens = bench->model.info.clip_tokens + request->t5_tokens,
        .samples = (int64_t)request->image_count * (request->guidance_scale > 1 ? 2 : 1),
    };

    return bench_step_flops(&shape);
}

static void fill_report(struct bench *bench)
{
    const struct pipeline_request *request = &bench->request;
    struct bench_report *report = &bench->report;
    struct bench_figure *figures = report->figures;

    report->version = PROGRAM_NAME_AND_VERSION;
    report->model = bench->model.name;
    report->variant = bench->model.info.variant;
    report->weights = bench->model.info.weight_types;
    report->device = bench->model.info.device;
    report->width = request->width;
    report->height = request->height;
    report->steps = request->steps;
    report->batch = request->image_count;
    report->runs = bench->settings.runs;
    report->guidance = request->guidance_scale;
    report->tflop_per_step = count_step_flops(bench) * 1e-12;
    for (int row = BENCH_ENCODE; row <= BENCH_TOTAL; row++)
        figures[row] = summarise(&bench->series[row]);
    figures[BENCH_SPEED].median = report->tflop_per_step / figures[BENCH_STEP].median;
    figures[BENCH_PICTURES].median = 60 * request->image_count / figures[BENCH_TOTAL].median;
    figures[BENCH_MEMORY_HOST].median = host_peak_bytes();
}

static void print_table(const struct bench *bench)
{
    const struct bench_report *before = bench->before_json ? &bench->before : NULL;

    if (before)
        bench_report_warn(&bench->report, before);
    if (!writes_to_output(bench))
        bench_report_print(stdout, &bench->report, before);
    else if (!bench->settings.quiet)
        bench_report_print(stderr, &bench->report, before);
}

static bool write_json(struct bench *bench, struct error *err)
{
    struct file_writer *writer = bench->writer;
    char *text;
    bool ok = true;

    if (!bench->settings.json)
        return true;
    if (!json_output_format(&text, bench_report_json(&bench->report), err))
        return false;
    if (writer) {
        ok = file_writer_append(writer, text, strlen(text), err) &&
             file_writer_append(writer, "\n", 1, err);
        if (ok) {
            bench->writer = NULL;
            ok = file_writer_commit(writer, err);
        }
    } else {
        puts(text); /* main looks at ferror(stdout) */
    }
    free(text);
    return ok;
}

/* --- All of it --- */

static bool measure(struct bench *bench, struct error *err)
{
    if (!gather(bench, err) || !open_model(bench, err))
        return false;
    build_request(bench);
    if (!make_series(bench, err) || !run_all(bench, err))
        return false;
    fill_report(bench);
    print_table(bench);
    return write_json(bench, err);
}

static void finish(struct bench *bench)
{
    opened_model_close(&bench->model);
    file_writer_abandon(bench->writer);
    json_decref(bench->before_json);
    for (int i = 0; i < BENCH_ROW_COUNT; i++)
        free(bench->series[i].seconds);
    free(bench->prompt);
    free(bench->negative_prompt);
}

static int fail(const struct bench *bench, const struct error *err)
{
    report_error(err);
    if (writes_to_output(bench))
        json_output_error(err);
    return error_exit_code(err->code);
}

int bench_command(int argc, char **argv, const atomic_bool *cancel)
{
    struct bench bench = {.cancel = cancel};
    struct error err = {0};
    bool wants_help, ok;

    if (!bench_settings_parse(&bench.settings, &wants_help, argc, argv, &err))
        return fail(&bench, &err);
    if (wants_help) {
        options_print_help(stdout, &bench_option_table);
        return 0;
    }
    ok = measure(&bench, &err);
    finish(&bench);
    return ok ? 0 : fail(&bench, &err);
}
