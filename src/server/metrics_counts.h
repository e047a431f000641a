/* What has been counted so far, for metrics_text alone. */
#ifndef SERVER_METRICS_COUNTS_H
#define SERVER_METRICS_COUNTS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#include "server/metrics.h"

#define METRIC_LABELS_MAX 18
#define METRIC_BOUNDS_MAX 18
#define METRIC_ROUTES_MAX 192
#define METRIC_APIS 6
#define METRIC_CLASSES 6 /* "1xx" to "5xx", then "other" */

struct counter_kind {
    const char *name, *help;
    const char *label;         /* NULL: it has none */
    const char *const *values; /* at most METRIC_LABELS_MAX; "other" is the last */
};

struct histogram_kind {
    const char *name, *help;
    const char *labels;               /* `phase="encode"`, or "" */
    double bounds[METRIC_BOUNDS_MAX]; /* growing; 0 after the last */
};

struct histogram {
    _Atomic uint64_t counts[METRIC_BOUNDS_MAX + 1]; /* of each bucket alone */
    _Atomic double sum;
};

struct route_counts {
    _Atomic uint64_t statuses[METRIC_CLASSES];
    struct histogram seconds;
};

struct metrics_counts {
    _Atomic double counters[METRIC_COUNTERS][METRIC_LABELS_MAX];
    struct histogram histograms[METRIC_HISTOGRAMS];
    const char *routes[METRIC_ROUTES_MAX]; /* the first is "other" */
    size_t route_count;
    struct route_counts requests[METRIC_ROUTES_MAX][METRIC_APIS];
};

extern struct metrics_counts metrics_counts;
extern const struct counter_kind metrics_counter_kinds[METRIC_COUNTERS];
extern const struct histogram_kind metrics_histogram_kinds[METRIC_HISTOGRAMS];
extern const struct histogram_kind metrics_request_kind;
extern const char *const metrics_apis[METRIC_APIS];

/* The gauges of the process itself: memory, descriptors, time. */
void metrics_write_process(FILE *out);

/* What the hub and its store know. */
void metrics_write_hub(FILE *out, struct hub *hub);

/* HELP and TYPE of one family. */
void metrics_write_head(FILE *out, const char *name, const char *type, const char *help);

#endif
