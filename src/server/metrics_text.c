/* Prometheus' text format, version 0.0.4. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "server/metrics_counts.h"

void metrics_write_head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void write_counter(FILE *out, const struct counter_kind *kind, const _Atomic double *values)
{
    metrics_write_head(out, kind->name, "counter", kind->help);
    for (size_t i = 0;; i++) {
        if (kind->label)
            fprintf(out, "%s{%s=\"%s\"} %.17g\n", kind->name, kind->label, kind->values[i],
                    atomic_load_explicit(&values[i], memory_order_relaxed));
        else
            fprintf(out, "%s %.17g\n", kind->name,
                    atomic_load_explicit(&values[i], memory_order_relaxed));
        if (strcmp(kind->values[i], "other") == 0)
            return;
    }
}

/* A histogram's lines. Each bucket is read once, and the count is their sum, so that a scrape
 * between two steps of an observation is consistent. */
static void write_histogram(FILE *out, const struct histogram_kind *kind, const char *labels,
                            const struct histogram *histogram)
{
    const char *comma = *labels ? "," : "";
    uint64_t total = 0;

    for (size_t i = 0; i < METRIC_BOUNDS_MAX && kind->bounds[i] > 0; i++) {
        total += atomic_load_explicit(&histogram->counts[i], memory_order_relaxed);
        fprintf(out, "%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", kind->name, labels, comma,
                kind->bounds[i], total);
    }
    total += atomic_load_explicit(&histogram->counts[METRIC_BOUNDS_MAX], memory_order_relaxed);
    fprintf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", kind->name, labels, comma, total);
    fprintf(out, "%s_sum%s%s%s %.17g\n", kind->name, *labels ? "{" : "", labels, *labels ? "}" : "",
            atomic_load_explicit(&histogram->sum, memory_order_relaxed));
    fprintf(out, "%s_count%s%s%s %" PRIu64 "\n", kind->name, *labels ? "{" : "", labels,
            *labels ? "}" : "", total);
}

/* Paths come from our own tables; quotes in them would still not end the label. */
static void write_route_labels(char *to, size_t size, size_t api, const char *route)
{
    size_t used = (size_t)snprintf(to, size, "api=\"%s\",route=\"", metrics_apis[api]);

    for (; *route && used + 4 < size; route++) {
        if (*route == '"' || *route == '\\')
            to[used++] = '\\';
        to[used++] = *route;
    }
    snprintf(to + used, size - used, "\"");
}

static bool was_asked(const struct route_counts *counts)
{
    for (size_t i = 0; i < METRIC_CLASSES; i++)
        if (atomic_load_explicit(&counts->statuses[i], memory_order_relaxed) > 0)
            return true;
    return false;
}

/* The lines of every route that somebody asked for: all classes of each, once it is there. */
static void each_route(FILE *out, void (*write)(FILE *out, const char *labels,
                                                const struct route_counts *counts))
{
    for (size_t i = 0; i < metrics_counts.route_count; i++) {
        for (size_t api = 0; api < METRIC_APIS; api++) {
            char labels[192];

            if (!was_asked(&metrics_counts.requests[i][api]))
                continue;
            write_route_labels(labels, sizeof labels, api, metrics_counts.routes[i]);
            write(out, labels, &metrics_counts.requests[i][api]);
        }
    }
}

static void write_statuses(FILE *out, const char *labels, const struct route_counts *counts)
{
    static const char *const classes[METRIC_CLASSES] = {"1xx", "2xx", "3xx", "4xx", "5xx", "other"};

    for (size_t i = 0; i < METRIC_CLASSES; i++)
        fprintf(out, "sd35_requests_total{%s,code=\"%s\"} %" PRIu64 "\n", labels, classes[i],
                atomic_load_explicit(&counts->statuses[i], memory_order_relaxed));
}

static void write_latency(FILE *out, const char *labels, const struct route_counts *counts)
{
    write_histogram(out, &metrics_request_kind, labels, &counts->seconds);
}

static void write_counts(FILE *out, bool with_restarts)
{
    const struct histogram_kind *kinds = metrics_histogram_kinds;

    for (size_t i = 0; i < METRIC_COUNTERS; i++)
        if (i != METRIC_WORKER_RESTARTS || with_restarts)
            write_counter(out, &metrics_counter_kinds[i], metrics_counts.counters[i]);
    for (size_t i = 0; i < METRIC_HISTOGRAMS; i++) {
        if (i == 0 || strcmp(kinds[i].name, kinds[i - 1].name) != 0)
            metrics_write_head(out, kinds[i].name, "histogram", kinds[i].help);
        write_histogram(out, &kinds[i], kinds[i].labels, &metrics_counts.histograms[i]);
    }
    metrics_write_head(out, "sd35_requests_total", "counter",
                       "Requests that were answered, by route and class of status.");
    each_route(out, write_statuses);
    metrics_write_head(out, metrics_request_kind.name, "histogram", metrics_request_kind.help);
    each_route(out, write_latency);
}

char *metrics_text(struct hub *hub, size_t *size)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, size);

    if (!out)
        return NULL;
    write_counts(out, hub == NULL); /* metrics_write_hub knows them better */
    metrics_write_process(out);
    if (hub)
        metrics_write_hub(out, hub);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static void handle_metrics(struct http_exchange *exchange, void *context)
{
    size_t size;
    char *text = metrics_text(context, &size);

    if (!text) {
        http_reply_error(exchange, 503, "no_memory", "", 1, "memory is short");
        return;
    }
    http_reply_bytes(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", text, size);
    free(text);
}

struct http_routes metrics_routes(struct hub *hub)
{
    static const struct http_route routes[] = {
        {.method = HTTP_GET,
         .path = "/metrics",
         .scope = SCOPE_METRICS,
         .style = STYLE_NATIVE,
         .handle = handle_metrics,
         .summary = "Everything that is counted, as Prometheus reads it",
         .tag = "Server",
         .response_type = "text/plain"},
    };

    return (struct http_routes){routes, COUNT_OF(routes), hub};
}
