/* What `sd35 bench` found: printed as a table, written as JSON, and read again to compare with. */
#ifndef CLI_BENCH_REPORT_H
#define CLI_BENCH_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/attributes.h"
#include "base/error.h"

/* The rows of the table. Seconds, unless they say otherwise. */
enum bench_row {
    BENCH_OPEN,   /* the model's files opened and checked */
    BENCH_FIRST,  /* the first run: weights are loaded */
    BENCH_ENCODE, /* these five are measured again and again */
    BENCH_STEP,
    BENCH_DENOISE,
    BENCH_DECODE,
    BENCH_TOTAL,
    BENCH_SPEED,         /* TFLOP/s of a step */
    BENCH_PICTURES,      /* a minute */
    BENCH_MEMORY_PLAN,   /* bytes: the most that was planned with */
    BENCH_MEMORY_HOST,   /* bytes: the most that was resident */
    BENCH_MEMORY_DEVICE, /* bytes */
    BENCH_ROW_COUNT
};

struct bench_figure {
    double median;   /* 0: not known */
    double min, max; /* of what is measured again and again */
};

struct bench_report {
    const char *version, *model, *variant, *weights, *device; /* borrowed */
    json_int_t width, height, steps, batch, runs;
    double guidance, tflop_per_step;
    struct bench_figure figures[BENCH_ROW_COUNT];
};

/* NULL when memory is short. */
json_t *bench_report_json(const struct bench_report *report);

/* Reads what bench_report_json became. The texts live as long as *root, which the caller drops with
 * json_decref. Fails with ERROR_BAD_FILE, naming file and field, on anything else. */
MUST_CHECK bool bench_report_read(struct bench_report *out, json_t **root, const char *path,
                                  struct error *err);

/* `before`: what to compare with; NULL: nothing. Its texts may hold anything. */
void bench_report_print(FILE *out, const struct bench_report *report,
                        const struct bench_report *before);

/* Warns of each setting in which the two are not the same. */
void bench_report_warn(const struct bench_report *report, const struct bench_report *before);

#endif
