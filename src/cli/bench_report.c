#include "cli/bench_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/report.h"

#define FILE_BYTES_MAX 65536

static const struct row {
    const char *label, *unit;
    int decimals;
    double scale;            /* from the figure to the unit */
    const char *group, *key; /* in JSON; group NULL: the outermost object */
    bool is_repeated;
} rows[BENCH_ROW_COUNT] = {
    [BENCH_OPEN] = {"open", "s", 4, 1, "seconds", "open", false},
    [BENCH_FIRST] = {"first picture", "s", 4, 1, "seconds", "first", false},
    [BENCH_ENCODE] = {"encode", "s", 4, 1, "seconds", "encode", true},
    [BENCH_STEP] = {"step", "s", 4, 1, "seconds", "step", true},
    [BENCH_DENOISE] = {"denoise", "s", 4, 1, "seconds", "denoise", true},
    [BENCH_DECODE] = {"decode", "s", 4, 1, "seconds", "decode", true},
    [BENCH_TOTAL] = {"total", "s", 4, 1, "seconds", "total", true},
    [BENCH_SPEED] = {"speed of a step", "TFLOP/s", 4, 1, NULL, "tflops", false},
    [BENCH_PICTURES] = {"pictures", "a minute", 2, 1, NULL, "pictures_per_minute", false},
    [BENCH_MEMORY_PLAN] = {"memory, planned", "MiB", 1, 0x1p-20, "memory", "planned_peak_bytes",
                           false},
    [BENCH_MEMORY_HOST] = {"memory, host", "MiB", 1, 0x1p-20, "memory", "host_peak_bytes", false},
    [BENCH_MEMORY_DEVICE] = {"memory, device", "MiB", 1, 0x1p-20, "memory", "device_peak_bytes",
                             false},
};

/* --- JSON --- */

static json_t *number_json(double value)
{
    return json_real(round(value * 1e6) / 1e6);
}

static json_t *figure_json(const struct row *row, const struct bench_figure *figure)
{
    if (figure->median <= 0)
        return json_null();
    if (row->group && strcmp(row->group, "memory") == 0)
        return json_integer((json_int_t)figure->median);
    if (!row->is_repeated)
        return number_json(figure->median);
    return json_pack("{s:o, s:o, s:o}", "median", number_json(figure->median), "min",
                     number_json(figure->min), "max", number_json(figure->max));
}

static bool add_figures(json_t *json, const struct bench_report *report)
{
    for (int i = 0; i < BENCH_ROW_COUNT; i++) {
        json_t *group = rows[i].group ? json_object_get(json, rows[i].group) : json;

        if (json_object_set_new(group, rows[i].key, figure_json(&rows[i], &report->figures[i])) !=
            0)
            return false;
    }
    return true;
}

json_t *bench_report_json(const struct bench_report *report)
{
    json_t *json = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:I, s:I, s:{}, s:o, s:{}}", "version",
        report->version, "model", report->model, "variant", report->variant, "weights",
        report->weights, "device", report->device, "width", report->width, "height", report->height,
        "steps", report->steps, "guidance", report->guidance, "batch", report->batch, "runs",
        report->runs, "seconds", "tflop_per_step", number_json(report->tflop_per_step), "memory");

    if (json && add_figures(json, report))
        return json;
    json_decref(json);
    return NULL;
}

/* --- Reading --- */

static bool read_number(double *out, const json_t *json, const char *key, struct error *err)
{
    const json_t *number = json_object_get(json, key);

    *out = json_number_value(number);
    if (!json_is_number(number) || *out < 0)
        return error_set(err, ERROR_BAD_FILE, "'%s' is missing or no number of 0 or more", key);
    return true;
}

static bool read_figure(struct bench_figure *figure, const struct row *row, const json_t *root,
                        struct error *err)
{
    const json_t *group = row->group ? json_object_get(root, row->group) : root;
    const json_t *spread = json_object_get(group, row->key);

    if (json_is_null(spread))
        return true;
    if (!row->is_repeated)
        return read_number(&figure->median, group, row->key, err);
    return (read_number(&figure->median, spread, "median", err) &&
            read_number(&figure->min, spread, "min", err) &&
            read_number(&figure->max, spread, "max", err)) ||
           error_in(err, "'%s'", row->key);
}

static bool read_text(const char **out, const json_t *json, const char *key, struct error *err)
{
    *out = json_string_value(json_object_get(json, key));
    return *out || error_set(err, ERROR_BAD_FILE, "'%s' is missing or not a text", key);
}

static bool read_integer(json_int_t *out, const json_t *json, const char *key, struct error *err)
{
    *out = json_integer_value(json_object_get(json, key)); /* 0 for what is none */
    return *out > 0 || error_set(err, ERROR_BAD_FILE, "'%s' is missing or no integer above 0", key);
}

static bool read_report(struct bench_report *report, const json_t *root, struct error *err)
{
    if (!read_text(&report->version, root, "version", err) ||
        !read_text(&report->model, root, "model", err) ||
        !read_text(&report->variant, root, "variant", err) ||
        !read_text(&report->weights, root, "weights", err) ||
        !read_text(&report->device, root, "device", err) ||
        !read_integer(&report->width, root, "width", err) ||
        !read_integer(&report->height, root, "height", err) ||
        !read_integer(&report->steps, root, "steps", err) ||
        !read_number(&report->guidance, root, "guidance", err) ||
        !read_integer(&report->batch, root, "batch", err) ||
        !read_integer(&report->runs, root, "runs", err) ||
        !read_number(&report->tflop_per_step, root, "tflop_per_step", err))
        return false;
    for (int i = 0; i < BENCH_ROW_COUNT; i++)
        if (!read_figure(&report->figures[i], &rows[i], root, err))
            return false;
    return true;
}

bool bench_report_read(struct bench_report *out, json_t **root, const char *path, struct error *err)
{
    unsigned char *bytes;
    json_error_t why;
    size_t size;

    if (!file_read(&bytes, &size, path, FILE_BYTES_MAX, err))
        return false;
    *root = json_loadb((const char *)bytes, size, JSON_REJECT_DUPLICATES, &why);
    free(bytes);
    if (!*root)
        return error_set(err, ERROR_BAD_FILE, "'%s' is not JSON: %s (line %d)", path, why.text,
                         why.line);
    *out = (struct bench_report){0};
    return read_report(out, *root, err) ||
           error_in(err, "'%s' is not what sd35 bench --json-file wrote", path);
}

/* --- The table --- */

static void print_clean(FILE *out, const char *text)
{
    char *clean = report_clean(text);

    fputs(clean ? clean : "?", out);
    free(clean);
}

static void print_title(FILE *out, const struct bench_report *report)
{
    print_clean(out, report->model);
    fputs(": ", out);
    print_clean(out, report->variant);
    fputs(", ", out);
    print_clean(out, report->weights);
    fputs(" weights, on ", out);
    print_clean(out, report->device);
    fprintf(out,
            "\n%lld x %lld, %lld step%s of %.4g TFLOP, guidance %g, %lld at once, median of %lld\n",
            (long long)report->width, (long long)report->height, (long long)report->steps,
            report->steps == 1 ? "" : "s", report->tflop_per_step, report->guidance,
            (long long)report->batch, (long long)report->runs);
}

static void print_cell(FILE *out, const struct row *row, double figure)
{
    if (figure > 0)
        fprintf(out, " %11.*f", row->decimals, figure * row->scale);
    else
        fprintf(out, " %11s", "");
}

static void print_row(FILE *out, const struct row *row, const struct bench_figure *now,
                      const struct bench_figure *before)
{
    fprintf(out, "%-16s", row->label);
    if (before)
        print_cell(out, row, before->median);
    print_cell(out, row, now->median);
    if (before && before->median > 0 && now->median > 0)
        fprintf(out, " %11.3f", now->median / before->median);
    else if (before)
        fprintf(out, " %11s", "");
    print_cell(out, row, now->min);
    print_cell(out, row, now->max);
    fprintf(out, "  %s\n", row->unit);
}

void bench_report_print(FILE *out, const struct bench_report *report,
                        const struct bench_report *before)
{
    if (before) {
        fputs("before: ", out);
        print_title(out, before);
        fputs("now: ", out);
    }
    print_title(out, report);
    if (before)
        fprintf(out, "%-16s %11s %11s %11s", "", "before", "now", "now/before");
    else
        fprintf(out, "%-16s %11s", "", "median");
    fprintf(out, " %11s %11s\n", "least", "most");
    for (int i = 0; i < BENCH_ROW_COUNT; i++)
        if (report->figures[i].median > 0 || (before && before->figures[i].median > 0))
            print_row(out, &rows[i], &report->figures[i], before ? &before->figures[i] : NULL);
}

static void warn_of_number(const char *what, double now, double before)
{
    if (now < before || now > before)
        report_warning("%s is %g now and was %g before", what, now, before);
}

void bench_report_warn(const struct bench_report *report, const struct bench_report *before)
{
    if (strcmp(report->model, before->model) != 0)
        report_warning("the model is '%.200s' now and was '%.200s' before", report->model,
                       before->model);
    warn_of_number("the width", (double)report->width, (double)before->width);
    warn_of_number("the height", (double)report->height, (double)before->height);
    warn_of_number("the number of steps", (double)report->steps, (double)before->steps);
    warn_of_number("the guidance", report->guidance, before->guidance);
    warn_of_number("the batch", (double)report->batch, (double)before->batch);
}
