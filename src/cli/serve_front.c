#include "cli/serve_front.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/version.h"
#include "check/health_client.h"
#include "cli/report.h"
#include "server/a1111_api.h"
#include "server/auth.h"
#include "server/health.h"
#include "server/http.h"
#include "server/hub.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/model_hash.h"
#include "server/native_api.h"
#include "server/openai_api.h"
#include "server/openapi.h"
#include "server/page.h"
#include "server/supervisor.h"

#define HANDLER_THREADS 8
#define MEBIBYTE 1048576.0
#define STOP_SECONDS 2.0 /* for answers that are under way, once the jobs are done */

enum part {
    PART_PAGE,
    PART_HEALTH,
    PART_METRICS,
    PART_LOGIN,
    PART_NATIVE,
    PART_OPENAI,
    PART_A1111,
    PART_OPENAPI,
    PART_COUNT,
};

struct front {
    const struct serve_settings *settings;
    const char *model; /* where it lies; borrowed */
    struct serve_list proxies, hosts;
    struct hub *hub;
    struct auth *auth;
    struct native *native;
    struct openai *openai;
    struct a1111 *a1111;
    struct openapi *openapi;
    const struct openapi_parameter *parameters[2];
    struct http_routes parts[PART_COUNT + 1]; /* ends with one whose routes are NULL */
    struct http_gate gate;
    struct http_server *server;
    struct model_hash *model_hash;
};

static struct job_limits limits_of(const struct serve_settings *settings)
{
    return (struct job_limits){.pixels_max = (int64_t)settings->max_pixels,
                               .steps_max = settings->max_steps,
                               .count_max = settings->max_count};
}

static bool is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &v6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&v6);
    return strcmp(host, "localhost") == 0;
}

/* --- Making the parts --- */

static bool create_hub(struct front *front, int control_fd, struct error *err)
{
    const struct serve_settings *settings = front->settings;
    const struct hub_options options = {
        .folder = settings->outputs_dir,
        .max_queue = settings->max_queue,
        .max_queue_per_owner = settings->max_queue_per_user,
        .max_batch = settings->max_batch,
        .request_timeout = settings->request_timeout,
        .disk_reserve = settings->disk_reserve * MEBIBYTE,
        .grace = settings->grace,
        .limits = limits_of(settings),
    };

    return hub_create(&front->hub, &options, control_fd, err);
}

static bool create_auth(struct front *front, struct error *err)
{
    const struct serve_settings *settings = front->settings;
    const struct auth_options options = {
        .mode = strcmp(settings->auth, "off") == 0 ? AUTH_OFF : AUTH_ON,
        .api_auth = settings->api_auth,
        .htpasswd = settings->htpasswd,
        .proxy_header = settings->proxy_header,
        .trusted_proxies = front->proxies.items,
        .allowed_hosts = settings->allowed_hosts ? front->hosts.items : NULL,
        .is_loopback = is_loopback(settings->host),
    };

    if (!auth_create(&front->auth, &options, front->hub, err))
        return false;
    front->gate = auth_gate(front->auth);
    return true;
}

/* The front knows the model by its path alone. */
static bool start_hash(struct front *front, struct error *err)
{
    return model_hash_start(&front->model_hash, front->hub, front->model, err);
}

static bool create_apis(struct front *front, struct error *err)
{
    const struct native_options native = {.hub = front->hub,
                                          .auth = front->auth,
                                          .limits = limits_of(front->settings),
                                          .max_queue = front->settings->max_queue,
                                          .request_timeout = front->settings->request_timeout};
    const struct openai_options openai = {
        .hub = front->hub, .auth = front->auth, .limits = limits_of(front->settings)};
    const struct a1111_api_options a1111 = {.hub = front->hub,
                                            .limits = limits_of(front->settings),
                                            .version = PROGRAM_NAME_AND_VERSION};
    const struct openapi_options openapi = {
        .version = SD35_VERSION, .parts = front->parts, .parameters = front->parameters};

    front->parameters[0] = native_parameters();
    return native_create(&front->native, &native, err) &&
           openai_create(&front->openai, &openai, err) &&
           a1111_create(&front->a1111, &a1111, err) &&
           openapi_create(&front->openapi, &openapi, err);
}

static void list_parts(struct front *front)
{
    front->parts[PART_PAGE] = page_routes();
    front->parts[PART_HEALTH] = health_routes(front->hub);
    front->parts[PART_METRICS] = metrics_routes(front->hub);
    front->parts[PART_LOGIN] = auth_routes(front->auth);
    front->parts[PART_NATIVE] = native_routes(front->native);
    front->parts[PART_OPENAI] = openai_routes(front->openai);
    front->parts[PART_A1111] = a1111_routes(front->a1111);
    front->parts[PART_OPENAPI] = openapi_routes(front->openapi);
}

/* The metrics' word for the API that a route belongs to. */
static const char *api_of(const struct http_route *route)
{
    if (route->style == STYLE_OPENAI)
        return "openai";
    if (route->style == STYLE_A1111)
        return "a1111";
    if (strncmp(route->path, "/api/v1/", 8) == 0 || strncmp(route->path, "/files/", 7) == 0)
        return "native";
    return strcmp(route->path, "/") == 0 || strncmp(route->path, "/static/", 8) == 0 ? "page"
                                                                                     : "server";
}

/* That the model is being loaded, or that there is no such thing, is no mistake of ours. */
static enum log_level level_of_answer(const struct http_route *route, int status)
{
    bool is_expected = status < 500 || status == 501 || status == 503;

    if (!is_expected)
        return LOG_ERROR;
    if (route && route->is_quick)
        return LOG_DEBUG;
    return status >= 500 ? LOG_WARNING : LOG_INFO;
}

/* One line a request, and its part of the metrics. */
static void note_answer(void *context, struct http_exchange *exchange, int status, size_t bytes,
                        double seconds)
{
    const struct http_route *route = http_route_of(exchange);
    const char *path = route ? route->path : "";

    (void)context;
    metrics_request(route ? api_of(route) : "", path, status, seconds);
    log_event(level_of_answer(route, status), "request",
              "request=%s method=%s route=%s status=%d bytes=%zu seconds=%.4f",
              http_request_id(exchange), http_method_name(http_method_of(exchange)),
              *path ? path : "-", status, bytes, seconds);
}

static bool start_server(struct front *front, struct error *err)
{
    const struct serve_settings *settings = front->settings;
    const struct http_options options = {
        .host = settings->host,
        .port = settings->port,
        .tls_cert = settings->tls_cert,
        .tls_key = settings->tls_key,
        .threads = HANDLER_THREADS,
        .gate = &front->gate,
        .answered = note_answer,
        .answered_context = front,
        .trusted_proxies = front->proxies.items,
    };

    return http_server_start(&front->server, &options, front->parts, err);
}

/* --- What a person who started it wants to see --- */

static const char *host_to_show(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 ? "localhost" : host;
}

/* The key is told once: it is hashed where it is kept. */
static bool tell_address(struct front *front, struct error *err)
{
    const struct serve_settings *settings = front->settings;
    const char *scheme = settings->tls_cert ? "https" : "http";
    const char *host = host_to_show(settings->host);
    const char *open = strchr(host, ':') ? "[" : "", *close = *open ? "]" : "";
    int port = http_server_port(front->server);
    char *path, *key = NULL;

    if (asprintf(&path, "%s/.sd35/first-key", settings->outputs_dir) < 0)
        return error_set(err, ERROR_NO_MEMORY, "path of the first key");
    if (!auth_first_key(front->auth, path, &key, err)) {
        free(path);
        return false;
    }
    fprintf(stderr, "sd35: serving at %s://%s%s%s:%d/\n", scheme, open, host, close, port);
    if (key)
        fprintf(stderr,
                "sd35: nobody has a key yet, so one was made: %s\n"
                "sd35: it is kept in %s; log in by opening %s://%s%s%s:%d/#key=%s\n",
                key, path, scheme, open, host, close, port, key);
    free(key);
    free(path);
    return true;
}

/* For `sd35 check --health`, in a container whose health check knows neither port nor options. */
static void note_address(struct front *front)
{
    const struct serve_settings *settings = front->settings;
    const struct health_address address = health_address_of(
        settings->host, http_server_port(front->server), settings->tls_cert != NULL);
    struct error err;

    if (!health_address_write(&address, settings->outputs_dir, &err))
        log_event(LOG_WARNING, "address.unknown", "why=%s", err.message);
}

/* --- Running --- */

static bool start(struct front *front, int control_fd, struct error *err)
{
    const struct serve_settings *settings = front->settings;

    if (!serve_list_split(&front->proxies, "--trusted-proxy", settings->trusted_proxy, err) ||
        !serve_list_split(&front->hosts, "--allowed-hosts", settings->allowed_hosts, err) ||
        !create_hub(front, control_fd, err) || !create_auth(front, err) ||
        !create_apis(front, err) || !start_hash(front, err))
        return false;
    list_parts(front);
    metrics_know_routes(front->parts);
    if (!start_server(front, err))
        return false;
    note_address(front);
    return tell_address(front, err);
}

/* From now on a front that ends is started again. */
static void tell_supervisor(int control_fd)
{
    const struct front_says says = {.word = FRONT_LISTENS};

    (void)send(control_fd, &says, sizeof says, MSG_NOSIGNAL);
}

/* Waits for a signal that ends it; SIGHUP reads passwords and keys again. False when only another
 * front gets on. */
static bool wait_for_the_end(struct front *front, const sigset_t *signals)
{
    const struct timespec pause = {.tv_sec = 1};

    for (;;) {
        int signal = sigtimedwait(signals, NULL, &pause);

        if (signal == SIGHUP) {
            log_event(LOG_INFO, "reload", "what=users");
            auth_reload(front->auth);
        } else if (signal > 0) {
            return true;
        }
        if (hub_must_restart(front->hub)) {
            log_event(LOG_ERROR, "front.restarts", "why=store");
            return false;
        }
    }
}

/* Running jobs get their grace; a second signal ends it at once. */
static void drain(struct front *front, const sigset_t *signals)
{
    const struct timespec pause = {.tv_nsec = 50000000};

    log_event(LOG_INFO, "drain", "grace=%.0f", front->settings->grace);
    hub_drain(front->hub);
    while (!hub_is_drained(front->hub))
        if (sigtimedwait(signals, NULL, &pause) > 0)
            return;
}

static void stop(struct front *front)
{
    if (front->native)
        native_hang_up(front->native);
    if (front->openai)
        openai_stop(front->openai);
    if (front->a1111)
        a1111_stop(front->a1111);
    if (front->server) {
        http_server_stop(front->server, STOP_SECONDS);
        health_address_remove(front->settings->outputs_dir);
    }
    model_hash_stop(front->model_hash);
    openapi_destroy(front->openapi);
    a1111_destroy(front->a1111);
    openai_destroy(front->openai);
    native_destroy(front->native);
    auth_destroy(front->auth);
    if (front->hub)
        hub_destroy(front->hub);
    serve_list_finish(&front->hosts);
    serve_list_finish(&front->proxies);
}

int serve_front(const struct serve_settings *settings, const char *model, int control_fd)
{
    struct front front = {.settings = settings, .model = model};
    struct error err;
    sigset_t signals;
    bool ok;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* in all threads */
    ok = start(&front, control_fd, &err);
    if (ok) {
        tell_supervisor(control_fd);
        ok = wait_for_the_end(&front, &signals);
        if (ok)
            drain(&front, &signals);
        else
            error_set(&err, ERROR_IO, "the store takes no more writes");
    }
    if (!ok) {
        report_error(&err);
        shutdown(control_fd, SHUT_RDWR); /* the workers end with us: it is no fault of theirs */
    }
    stop(&front);
    close(control_fd);
    return ok ? 0 : error_exit_code(err.code);
}
