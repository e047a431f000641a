/* Metrics and health: the text's grammar, what counts, and that nobody outside makes a series. */
#include "support/support.h"

#include <math.h>
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/auth_rules.h"
#include "server/health.h"
#include "server/metrics.h"
#include "server/reasons.h"
#include "server/supervisor.h"

/* --- A hub without threads, and an exchange that keeps its answer --- */

struct hub {
    struct hub_state state;
    int store_calls;
    bool store_fails;
};

struct http_exchange {
    int status;
    char *text;
    json_t *body;
    bool has_retry_after;
};

void hub_state(struct hub *hub, struct hub_state *out)
{
    *out = hub->state;
}

bool hub_with_store(struct hub *hub,
                    bool (*use)(void *context, struct store *store, struct error *err),
                    void *context, struct error *err)
{
    hub->store_calls++;
    if (hub->store_fails)
        return error_set(err, ERROR_IO, "the disk failed");
    return use(context, NULL, err);
}

bool store_count(struct store *store, struct store_counts *out, struct error *err)
{
    (void)store;
    (void)err;
    *out = (struct store_counts){.done = 12, .pictures = 15, .disk_free_bytes = 1LL << 40};
    return true;
}

void http_reply_bytes(struct http_exchange *exchange, int status, const char *type,
                      const void *bytes, size_t size)
{
    (void)type;
    exchange->status = status;
    exchange->text = strndup(bytes, size);
}

void http_reply_json(struct http_exchange *exchange, int status, json_t *body)
{
    exchange->status = status;
    exchange->body = body;
}

void http_reply_error(struct http_exchange *exchange, int status, const char *code,
                      const char *field, int retry_after, const char *format, ...)
{
    (void)code;
    (void)field;
    (void)retry_after;
    (void)format;
    exchange->status = status;
}

void http_add_header(struct http_exchange *exchange, const char *name, const char *value)
{
    (void)value;
    exchange->has_retry_after |= strcmp(name, "Retry-After") == 0;
}

static const struct http_route known[] = {{.path = "/api/v1/jobs"},
                                          {.path = "/api/v1/jobs/{id}"},
                                          {.path = "/odd\"path\\"},
                                          {.path = "/api/v1/jobs"}};
static const struct http_routes parts[] = {{known, COUNT_OF(known), NULL}, {NULL, 0, NULL}};

static struct hub ready_hub = {.state = {.is_ready = true,
                                         .store_works = true,
                                         .workers = 2,
                                         .workers_ready = 1,
                                         .queued = 3,
                                         .running = 2,
                                         .restarts = 4,
                                         .has_device = true,
                                         .device = {.memory_free = 1000,
                                                    .memory_total = 4000,
                                                    .memory_used_by_us = 2500,
                                                    .utilisation_percent = 87,
                                                    .temperature_celsius = 61,
                                                    .power_watts = 412.5}}};

/* The value of a series, or NAN. */
static double value_of(const char *text, const char *series)
{
    size_t length = strlen(series);

    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, series, length) == 0 && line[length] == ' ')
            return strtod(line + length + 1, NULL);
        if (!*line)
            break;
    }
    return (double)NAN;
}

static double value_now(struct hub *hub, const char *series)
{
    size_t size;
    char *text = metrics_text(hub, &size);
    double value;

    assert_non_null(text);
    value = value_of(text, series);
    free(text);
    return value;
}

static int series_count(void)
{
    size_t size;
    char *text = metrics_text(&ready_hub, &size);
    int count = 0;

    assert_non_null(text);
    for (const char *at = text; *at; at++)
        count += at[0] == '\n' && at[1] != '#' && at[1] != '\0';
    free(text);
    return count;
}

static void test_every_line_has_the_grammar(void **state)
{
    regex_t comment, sample;
    size_t size;
    char *text, *next;

    (void)state;
    metrics_request("native", "/api/v1/jobs", 202, 0.02);
    metrics_request("native", "/odd\"path\\", 200, 0.02);
    assert_int_equal(regcomp(&comment, "^# (HELP|TYPE) [a-z_0-9]+ .+$", REG_EXTENDED), 0);
    assert_int_equal(regcomp(&sample,
                             "^[a-z_][a-z_0-9]*(\\{[a-z_]+=\"([^\"\\]|\\\\[\"\\n])*\""
                             "(,[a-z_]+=\"([^\"\\]|\\\\[\"\\n])*\")*\\})? -?[0-9.e+-]+$",
                             REG_EXTENDED),
                     0);
    text = metrics_text(&ready_hub, &size);
    assert_non_null(text);
    assert_int_equal(strlen(text), size);
    for (char *line = text; *line; line = next) {
        next = strchr(line, '\n');
        assert_non_null(next);
        *next++ = '\0';
        if (regexec(line[0] == '#' ? &comment : &sample, line, 0, NULL, 0) != 0)
            fail_msg("no line of the format: %s", line);
    }
    free(text);
    regfree(&comment);
    regfree(&sample);
}

/* The tool of those who made the format, where it is installed. */
static void test_promtool_agrees(void **state)
{
    size_t size;
    char *text, command[512];

    (void)state;
    if (system("command -v promtool >/dev/null 2>&1") != 0) {
        print_message("SKIPPED: %s needs promtool\n", __func__);
        return;
    }
    text = metrics_text(&ready_hub, &size);
    assert_non_null(text);
    snprintf(command, sizeof command, "promtool check metrics < '%s'",
             test_write_file("metrics.txt", text, size));
    assert_int_equal(system(command), 0);
    free(text);
}

static void test_counting(void **state)
{
    double before = value_now(NULL, "sd35_rejects_total{reason=\"queue_full\"}");
    double others = value_now(NULL, "sd35_rejects_total{reason=\"other\"}");

    (void)state;
    metrics_count(METRIC_REJECTS, "queue_full", 1);
    metrics_count(METRIC_REJECTS, "queue_full", 2);
    metrics_count(METRIC_REJECTS, "queue_full", -5);
    metrics_count(METRIC_REJECTS, "queue_full", (double)NAN);
    metrics_count(METRIC_REJECTS, "no such reason", 1);
    metrics_count(METRIC_REJECTS, NULL, 1);
    assert_true(value_now(NULL, "sd35_rejects_total{reason=\"queue_full\"}") == before + 3);
    assert_true(value_now(NULL, "sd35_rejects_total{reason=\"other\"}") == others + 2);
    metrics_count(METRIC_PICTURES, "", 4);
    assert_true(value_now(NULL, "sd35_pictures_total") == 4);
    metrics_count(METRIC_WORKER_RESTARTS, "hang", 1);
    assert_true(value_now(NULL, "sd35_worker_restarts_total{reason=\"hang\"}") == 1);
    assert_true(value_now(&ready_hub, "sd35_worker_restarts_total{reason=\"hang\"}") == 1);
    assert_true(value_now(&ready_hub, "sd35_worker_restarts_total{reason=\"other\"}") == 3);
}

static void expect_own_label(enum metric_counter counter, const char *series, const char *label)
{
    char own[128], other[128];
    double before, others;

    assert_non_null(label);
    snprintf(own, sizeof own, series, label);
    snprintf(other, sizeof other, series, "other");
    before = value_now(NULL, own);
    others = value_now(NULL, other);
    metrics_count(counter, label, 1);
    if (!(value_now(NULL, own) == before + 1 && value_now(NULL, other) == others))
        fail_msg("%s does not count what it is named after", own);
}

/* All that the server counts by: "other" is for what nobody thought of. */
static void test_every_reason_has_its_own_label(void **state)
{
    (void)state;
    for (int i = 0; i < REJECT_REASONS; i++)
        expect_own_label(METRIC_REJECTS, "sd35_rejects_total{reason=\"%s\"}", reject_names[i]);
    for (int i = 0; i < FAULTS; i++)
        expect_own_label(METRIC_FAULTS, "sd35_faults_total{class=\"%s\"}", fault_names[i]);
    for (int i = WORKER_END_UNKNOWN + 1; i < WORKER_ENDS; i++)
        expect_own_label(METRIC_WORKER_RESTARTS, "sd35_worker_restarts_total{reason=\"%s\"}",
                         worker_end_name((uint32_t)i));
    assert_string_equal(worker_end_name(WORKER_END_UNKNOWN), "other");
    assert_string_equal(worker_end_name(WORKER_ENDS), "other");
    for (int i = AUTH_PASSES + 1; i < AUTH_VERDICTS; i++)
        expect_own_label(METRIC_AUTH_FAILURES, "sd35_auth_failures_total{reason=\"%s\"}",
                         auth_answer((enum auth_verdict)i)->reason);
}

static void test_histograms(void **state)
{
    (void)state;
    metrics_observe(METRIC_BATCH_SIZE, 1);
    metrics_observe(METRIC_BATCH_SIZE, 2);
    metrics_observe(METRIC_BATCH_SIZE, 2.5);
    metrics_observe(METRIC_BATCH_SIZE, 1000);
    metrics_observe(METRIC_BATCH_SIZE, (double)INFINITY);
    assert_true(value_now(NULL, "sd35_batch_size_bucket{le=\"1\"}") == 1);
    assert_true(value_now(NULL, "sd35_batch_size_bucket{le=\"2\"}") == 2);
    assert_true(value_now(NULL, "sd35_batch_size_bucket{le=\"3\"}") == 3);
    assert_true(value_now(NULL, "sd35_batch_size_bucket{le=\"32\"}") == 3);
    assert_true(value_now(NULL, "sd35_batch_size_bucket{le=\"+Inf\"}") == 4);
    assert_true(value_now(NULL, "sd35_batch_size_count") == 4);
    assert_true(value_now(NULL, "sd35_batch_size_sum") == 1005.5);
    metrics_observe(METRIC_DECODE_SECONDS, 600);
    assert_true(value_now(NULL, "sd35_phase_seconds_bucket{phase=\"decode\",le=\"300\"}") == 0);
    assert_true(value_now(NULL, "sd35_phase_seconds_bucket{phase=\"decode\",le=\"600\"}") == 1);
}

/* Ten thousand requests with names of their own add one series for each class at most. */
static void test_nobody_outside_makes_series(void **state)
{
    int before;

    (void)state;
    metrics_request("x", "y", 299, 1);
    before = series_count();
    for (int i = 0; i < 10000; i++) {
        char text[64];

        snprintf(text, sizeof text, "/%d\"} 1\nevil_metric %d", i, i);
        metrics_request(text, text, i, 0.5);
        metrics_count(METRIC_REJECTS, text, 1);
        metrics_count(METRIC_AUTH_FAILURES, text, 1);
        metrics_count(METRIC_PICTURES, text, 1);
    }
    assert_int_equal(series_count(), before);
    metrics_request("native", "/api/v1/jobs/{id}", 404, 0.5);
    assert_true(series_count() > before);
    assert_true(value_now(NULL, "sd35_requests_total{api=\"native\",route=\"/api/v1/jobs/{id}\","
                                "code=\"4xx\"}") == 1);
}

static void test_gauges_of_the_hub(void **state)
{
    static struct hub hub; /* lives on: its counts are kept under its address */

    (void)state;
    hub.state = ready_hub.state;
    assert_true(value_now(&hub, "sd35_jobs{state=\"queued\"}") == 3);
    assert_true(value_now(&hub, "sd35_workers{state=\"not_ready\"}") == 1);
    assert_true(value_now(&hub, "sd35_device_memory_bytes{kind=\"ours\"}") == 2500);
    assert_true(value_now(&hub, "sd35_device_utilization_ratio") == 0.87);
    assert_true(value_now(&hub, "sd35_device_power_watts") == 412.5);
    assert_true(value_now(&hub, "sd35_store_jobs{state=\"done\"}") == 12);
    assert_true(value_now(&hub, "process_resident_memory_bytes") > 100000);
    assert_true(value_now(&hub, "process_open_fds") >= 3);
    assert_true(value_now(&hub, "sd35_uptime_seconds") >= 0);
    assert_true(value_now(&hub, "sd35_uptime_seconds") < 3600);
    assert_int_equal(hub.store_calls, 1); /* ten scrapes */
    hub.state.device.power_watts = -1;
    hub.state.device.utilisation_percent = -1;
    assert_true(isnan(value_now(&hub, "sd35_device_power_watts")));
    assert_true(isnan(value_now(&hub, "sd35_device_utilization_ratio")));
}

static void test_a_store_that_fails_leaves_the_rest(void **state)
{
    static struct hub hub = {.store_fails = true};

    (void)state;
    hub.state = ready_hub.state;
    assert_true(value_now(&hub, "sd35_jobs{state=\"queued\"}") == 3);
    assert_true(isnan(value_now(&hub, "sd35_store_pictures")));
}

static void *count_much(void *context)
{
    for (int i = 0; i < 20000; i++) {
        metrics_count(METRIC_STEPS, "", 1);
        metrics_observe(METRIC_STEP_SECONDS, 0.25);
        metrics_request("openai", "/api/v1/jobs", 200, 0.25);
        if (i % 5000 == 0)
            value_now(context, "sd35_steps_total");
    }
    return NULL;
}

static void test_threads_lose_nothing(void **state)
{
    pthread_t threads[4];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_much, NULL), 0);
    for (size_t i = 0; i < COUNT_OF(threads); i++)
        pthread_join(threads[i], NULL);
    assert_true(value_now(NULL, "sd35_steps_total") == 80000);
    assert_true(value_now(NULL, "sd35_step_seconds_count") == 80000);
    assert_true(value_now(NULL, "sd35_step_seconds_sum") == 20000);
    assert_true(value_now(NULL, "sd35_requests_total{api=\"openai\",route=\"/api/v1/jobs\","
                                "code=\"2xx\"}") == 80000);
}

static struct http_exchange ask(struct http_routes routes, const char *path)
{
    struct http_exchange exchange = {0};

    for (size_t i = 0; i < routes.count; i++)
        if (strcmp(routes.routes[i].path, path) == 0)
            routes.routes[i].handle(&exchange, routes.context);
    assert_true(exchange.status != 0);
    return exchange;
}

static void test_health_names_what_ails_the_disk(void **state)
{
    static const struct {
        enum store_disk disk;
        int held;
        const char *word;
    } cases[] = {{STORE_DISK_FULL, 0, "disk_reserve"},
                 {STORE_DISK_READ_ONLY, 0, "writable_outputs"},
                 {STORE_DISK_GONE, 0, "outputs_folder"},
                 {STORE_DISK_GOOD, 1, "stored_pictures"}};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct hub hub = ready_hub;
        struct http_exchange answer;
        const json_t *missing;

        hub.state.is_ready = false;
        hub.state.disk = cases[i].disk;
        hub.state.pictures_held = cases[i].held;
        answer = ask(health_routes(&hub), "/health/ready");
        assert_int_equal(answer.status, 503);
        missing = json_object_get(answer.body, "missing");
        assert_int_equal(json_array_size(missing), 1);
        assert_string_equal(json_string_value(json_array_get(missing, 0)), cases[i].word);
        json_decref(answer.body);
    }
}

static void test_health(void **state)
{
    struct hub hub = ready_hub;
    struct http_exchange answer = ask(health_routes(&hub), "/health/ready");

    (void)state;
    assert_int_equal(answer.status, 200);
    assert_int_equal(json_array_size(json_object_get(answer.body, "missing")), 0);
    json_decref(answer.body);

    hub.state = (struct hub_state){
        .workers = 1, .disk = STORE_DISK_FULL, .loading = {"loading weights", 0.25}};
    answer = ask(health_routes(&hub), "/readyz");
    assert_int_equal(answer.status, 503);
    assert_true(answer.has_retry_after);
    assert_int_equal(json_array_size(json_object_get(answer.body, "missing")), 3);
    assert_string_equal(json_string_value(json_object_get(answer.body, "status")), "loading");
    assert_true(json_real_value(
                    json_object_get(json_object_get(answer.body, "loading"), "fraction")) == 0.25);
    json_decref(answer.body);
    answer = ask(health_routes(&hub), "/healthz");
    assert_int_equal(answer.status, 200);
    json_decref(answer.body);

    answer = ask(metrics_routes(&hub), "/metrics");
    assert_int_equal(answer.status, 200);
    assert_true(value_of(answer.text, "sd35_loading_ratio") == 0.25);
    free(answer.text);
}

static int know_routes(void **state)
{
    (void)state;
    metrics_know_routes(parts);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_line_has_the_grammar),
        cmocka_unit_test(test_promtool_agrees),
        cmocka_unit_test(test_counting),
        cmocka_unit_test(test_every_reason_has_its_own_label),
        cmocka_unit_test(test_histograms),
        cmocka_unit_test(test_nobody_outside_makes_series),
        cmocka_unit_test(test_gauges_of_the_hub),
        cmocka_unit_test(test_a_store_that_fails_leaves_the_rest),
        cmocka_unit_test(test_threads_lose_nothing),
        cmocka_unit_test(test_health),
        cmocka_unit_test(test_health_names_what_ails_the_disk),
    };

    return cmocka_run_group_tests(tests, know_routes, NULL);
}
