/* Metrics: counters, gauges and histograms with labels from fixed sets, as Prometheus reads them.
 * Counting takes no lock. Any thread.
 */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "base/attributes.h"
#include "server/http.h"
#include "server/hub.h"

enum metric_counter {
    METRIC_REJECTS,
    METRIC_FAULTS,
    METRIC_PICTURES,
    METRIC_STEPS,
    METRIC_PREVIEWS,
    METRIC_WORKER_RESTARTS,
    METRIC_AUTH_FAILURES,
    METRIC_EVENTS_DROPPED,
    METRIC_COUNTERS
};
enum metric_histogram {
    METRIC_QUEUE_WAIT,
    METRIC_JOB_SECONDS,
    METRIC_ENCODE_SECONDS,
    METRIC_DENOISE_SECONDS,
    METRIC_DECODE_SECONDS,
    METRIC_STEP_SECONDS,
    METRIC_BATCH_SIZE,
    METRIC_STORE_SECONDS,
    METRIC_HISTOGRAMS
};

/* `label`: one of the counter's fixed set (of a reject or a fault its name in reasons.h), "" where
 * it has none; an unknown one counts as "other". */
void metrics_count(enum metric_counter counter, const char *label, double amount);
void metrics_observe(enum metric_histogram histogram, double value);
/* The routes that requests are counted by: all parts of the server, the last with routes NULL.
 * Borrowed for good; once, before the first request. */
void metrics_know_routes(const struct http_routes *parts);
/* A request: by route and status class, with its latency. api: "native", "openai", "a1111",
 * "server" or "page"; route: the path of one of the known routes. Any other counts as "other". */
void metrics_request(const char *api, const char *route, int status, double seconds);
/* The text of /metrics; freed by the caller. NULL: memory is short. */
char *metrics_text(struct hub *hub, size_t *size);
struct http_routes metrics_routes(struct hub *hub); /* GET /metrics */

#endif
