#include "server/metrics.h"

#include <math.h>
#include <string.h>

#include "server/metrics_counts.h"
#include "server/reasons.h"

#define NO_LABEL ((const char *const[]){"other"})

#define SECONDS_BOUNDS                                                                             \
    {                                                                                              \
        .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600                    \
    }

_Static_assert(REJECT_REASONS < METRIC_LABELS_MAX && FAULTS < METRIC_LABELS_MAX,
               "each label has its place");

struct metrics_counts metrics_counts = {.routes = {"other"}, .route_count = 1};

const char *const metrics_apis[METRIC_APIS] = {"native", "openai", "a1111",
                                               "server", "page",   "other"};

const struct counter_kind metrics_counter_kinds[METRIC_COUNTERS] = {
    [METRIC_REJECTS] = {"sd35_rejects_total", "Requests for pictures that were turned away.",
                        "reason", reject_names},
    [METRIC_FAULTS] = {"sd35_faults_total", "What went wrong, by class.", "class", fault_names},
    [METRIC_PICTURES] = {"sd35_pictures_total", "Pictures that were stored.", NULL, NO_LABEL},
    [METRIC_STEPS] = {"sd35_steps_total", "Denoising steps, of each picture.", NULL, NO_LABEL},
    [METRIC_PREVIEWS] = {"sd35_previews_total", "Live previews that were made.", NULL, NO_LABEL},
    [METRIC_WORKER_RESTARTS] = {"sd35_worker_restarts_total", "Workers that were started again.",
                                "reason",
                                (const char *const[]){"exit", "signal", "hang", "out_of_memory",
                                                      "front", "other"}},
    [METRIC_AUTH_FAILURES] = {"sd35_auth_failures_total", "Requests that the gate refused.",
                              "reason",
                              (const char *const[]){"none", "key", "expired", "revoked", "password",
                                                    "session", "proxy", "scope", "host", "origin",
                                                    "query", "malformed", "attempts", "busy",
                                                    "other"}},
    [METRIC_EVENTS_DROPPED] = {"sd35_events_dropped_total",
                               "Streams of events that were given up: the client read too slowly.",
                               NULL, NO_LABEL},
};

const struct histogram_kind metrics_histogram_kinds[METRIC_HISTOGRAMS] = {
    [METRIC_QUEUE_WAIT] = {"sd35_queue_wait_seconds", "From accepted to started.", "",
                           SECONDS_BOUNDS},
    [METRIC_JOB_SECONDS] = {"sd35_job_seconds", "From started to done.", "", SECONDS_BOUNDS},
    [METRIC_ENCODE_SECONDS] = {"sd35_phase_seconds", "Of a job's phases.", "phase=\"encode\"",
                               SECONDS_BOUNDS},
    [METRIC_DENOISE_SECONDS] = {"sd35_phase_seconds", "", "phase=\"denoise\"", SECONDS_BOUNDS},
    [METRIC_DECODE_SECONDS] = {"sd35_phase_seconds", "", "phase=\"decode\"", SECONDS_BOUNDS},
    [METRIC_STEP_SECONDS] = {"sd35_step_seconds", "One denoising step of a batch.", "",
                             SECONDS_BOUNDS},
    [METRIC_BATCH_SIZE] = {"sd35_batch_size",
                           "Pictures that went through the network together.",
                           "",
                           {1, 2, 3, 4, 6, 8, 12, 16, 24, 32}},
    [METRIC_STORE_SECONDS] = {"sd35_store_seconds",
                              "A transaction of the store.",
                              "",
                              {.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5}},
};

const struct histogram_kind metrics_request_kind = {"sd35_request_duration_seconds",
                                                    "From the whole request to the whole answer.",
                                                    "", SECONDS_BOUNDS};

static void add(_Atomic double *total, double amount)
{
    double seen = atomic_load_explicit(total, memory_order_relaxed);

    while (!atomic_compare_exchange_weak_explicit(total, &seen, seen + amount, memory_order_relaxed,
                                                  memory_order_relaxed))
        ;
}

static size_t label_index(const struct counter_kind *kind, const char *label)
{
    size_t i = 0;

    for (; strcmp(kind->values[i], "other") != 0; i++)
        if (label && strcmp(kind->values[i], label) == 0)
            break;
    return i;
}

void metrics_count(enum metric_counter counter, const char *label, double amount)
{
    /* A counter only grows. */
    if ((size_t)counter >= METRIC_COUNTERS || !(amount > 0) || isinf(amount))
        return;
    add(&metrics_counts.counters[counter][label_index(&metrics_counter_kinds[counter], label)],
        amount);
}

static void observe(struct histogram *histogram, const double bounds[METRIC_BOUNDS_MAX],
                    double value)
{
    size_t i = 0;

    if (!isfinite(value))
        return;
    while (i < METRIC_BOUNDS_MAX && bounds[i] > 0 && value > bounds[i])
        i++;
    if (i == METRIC_BOUNDS_MAX || bounds[i] == 0)
        i = METRIC_BOUNDS_MAX;
    atomic_fetch_add_explicit(&histogram->counts[i], 1, memory_order_relaxed);
    add(&histogram->sum, value);
}

void metrics_observe(enum metric_histogram histogram, double value)
{
    if ((size_t)histogram < METRIC_HISTOGRAMS)
        observe(&metrics_counts.histograms[histogram], metrics_histogram_kinds[histogram].bounds,
                value);
}

/* The place of a path among the known ones; 0 for all others. */
static size_t route_index(const char *route)
{
    for (size_t i = 1; route && i < metrics_counts.route_count; i++)
        if (metrics_counts.routes[i] == route || strcmp(metrics_counts.routes[i], route) == 0)
            return i;
    return 0;
}

void metrics_know_routes(const struct http_routes *parts)
{
    for (; parts->routes; parts++)
        for (size_t i = 0; i < parts->count; i++)
            if (route_index(parts->routes[i].path) == 0 &&
                metrics_counts.route_count < METRIC_ROUTES_MAX)
                metrics_counts.routes[metrics_counts.route_count++] = parts->routes[i].path;
}

void metrics_request(const char *api, const char *route, int status, double seconds)
{
    size_t api_index = 0;
    struct route_counts *counts;
    int class = status / 100 - 1;

    while (api_index < METRIC_APIS - 1 && (!api || strcmp(metrics_apis[api_index], api) != 0))
        api_index++;
    if (class < 0 || class >= METRIC_CLASSES - 1)
        class = METRIC_CLASSES - 1;
    counts = &metrics_counts.requests[route_index(route)][api_index];
    atomic_fetch_add_explicit(&counts->statuses[class], 1, memory_order_relaxed);
    observe(&counts->seconds, metrics_request_kind.bounds, seconds);
}
