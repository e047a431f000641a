/* The server: libmicrohttpd's daemon, and its beginning and end. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "server/http_private.h"

#define DAEMON_THREADS 2
#define DAEMON_STACK_BYTES (256 << 10)
/* Of libmicrohttpd, for each connection: holds the whole head of a request. More than 32 KiB, and
 * it maps them instead of taking them from the heap, where streams that outlive their connection
 * would keep the holes between them from going back. Only what is touched is resident: measured, 1
 * KiB of a connection that has said nothing, 5 of one that has begun a head, 17 with 15 KiB of it.
 */
#define CONNECTION_BYTES (48 << 10)
#define PEM_BYTES_MAX (1 << 20)
#define ABANDONED_SECONDS 5.0 /* for answers that were broken off to leave */

const struct http_limits http_default_limits = {
    .header_seconds = HEADER_SECONDS_MAX,
    .body_seconds = BODY_SECONDS_MAX,
    .idle_seconds = IDLE_SECONDS_MAX,
    .stall_seconds = WRITE_STALL_SECONDS_MAX,
    .beat_seconds = STREAM_BEAT_SECONDS,
    .linger_seconds = 2,
    .tick_seconds = 0.5,
    .body_grace_seconds = 10,
    .stream_bytes = STREAM_BYTES_MAX,
    .bodies_bytes = (size_t)512 << 20,
    .body_rate = BODY_BYTES_PER_SECOND_MIN,
    .connections = CONNECTIONS_MAX,
    .connections_per_address = CONNECTIONS_PER_ADDRESS_MAX,
};

/* --- What libmicrohttpd calls --- */

/* The first thing it tells of a request; what comes back is http_on_request's context. */
static void *begin_exchange(void *cls, const char *target, struct MHD_Connection *mhd)
{
    return http_exchange_create(cls, mhd, target);
}

static void end_exchange(void *cls, struct MHD_Connection *mhd, void **context,
                         enum MHD_RequestTerminationCode how)
{
    struct http_server *server = cls;
    struct http_exchange *exchange = *context;

    (void)mhd;
    *context = NULL;
    if (!exchange)
        return;
    if (how != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        http_exchange_gone(exchange);
    pthread_mutex_lock(&server->lock);
    exchange->connection->exchange = NULL;
    http_connection_enter_locked(exchange->connection, CONNECTION_IDLE);
    pthread_mutex_unlock(&server->lock);
    http_exchange_leave(exchange);
    pthread_mutex_lock(&server->lock);
    server->exchange_count--;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
    http_exchange_unref(exchange);
}

static void note_connection(void *cls, struct MHD_Connection *mhd, void **context,
                            enum MHD_ConnectionNotificationCode how)
{
    struct http_server *server = cls;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);

    if (how == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = info ? http_connection_confirm(server, info->connect_fd) : NULL;
    } else if (*context) {
        http_connection_closed(*context);
        *context = NULL;
    }
}

/* --- Beginning --- */

static bool read_pem(char **out, const char *path, const char *option, struct error *err)
{
    unsigned char *bytes;
    size_t size;

    *out = NULL;
    if (!file_read(&bytes, &size, path, PEM_BYTES_MAX, err))
        return error_in(err, "%s", option);
    *out = strndup((const char *)bytes, size); /* ends it, and at a NUL */
    free(bytes);
    return *out || error_set(err, ERROR_NO_MEMORY, "%s", option);
}

static bool start_daemon(struct http_server *server, struct error *err)
{
    const bool has_tls = server->tls_cert != NULL;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_TURBO |
                     MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC | (has_tls ? MHD_USE_TLS : 0u);
    /* Not MHD_OPTION_STRICT_FOR_CLIENT: it answers a missing Host twice, and http_shape.c checks
     * that and more. */
    struct MHD_OptionItem items[] = {
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_BYTES, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX + 1024, NULL},
        {MHD_OPTION_THREAD_POOL_SIZE, DAEMON_THREADS, NULL},
        {MHD_OPTION_THREAD_STACK_SIZE, DAEMON_STACK_BYTES, NULL},
        {has_tls ? MHD_OPTION_HTTPS_MEM_CERT : MHD_OPTION_END, 0, server->tls_cert},
        {has_tls ? MHD_OPTION_HTTPS_MEM_KEY : MHD_OPTION_END, 0, server->tls_key},
        {MHD_OPTION_END, 0, NULL},
    };

    server->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, http_on_request, server, MHD_OPTION_URI_LOG_CALLBACK, begin_exchange,
        server, MHD_OPTION_NOTIFY_COMPLETED, end_exchange, server, MHD_OPTION_NOTIFY_CONNECTION,
        note_connection, server, MHD_OPTION_ARRAY, items, MHD_OPTION_END);
    return server->daemon ||
           error_set(err, has_tls ? ERROR_BAD_FILE : ERROR_BACKEND,
                     has_tls ? "libmicrohttpd does not start: does --tls-key belong to --tls-cert?"
                             : "libmicrohttpd does not start");
}

static bool open_descriptors(struct http_server *server, struct error *err)
{
    server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (server->epoll_fd < 0 || server->wake_fd < 0 || server->spare_fd < 0)
        return error_set_errno(err, errno, "HTTP server");
    if (getrandom(&server->id_seed, sizeof server->id_seed, 0) != (ssize_t)sizeof server->id_seed)
        return error_set_errno(err, errno, "random numbers");
    return true;
}

static void free_server(struct http_server *server)
{
    if (server->epoll_fd >= 0)
        close(server->epoll_fd);
    if (server->wake_fd >= 0)
        close(server->wake_fd);
    if (server->spare_fd >= 0)
        close(server->spare_fd);
    if (server->listen_fd >= 0)
        close(server->listen_fd);
    http_peers_destroy(server->peers);
    free(server->by_fd);
    free(server->tls_cert);
    free(server->tls_key);
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

void http_server_unref(struct http_server *server)
{
    if (atomic_fetch_sub(&server->references, 1) == 1)
        free_server(server);
}

static void stop_parts(struct http_server *server)
{
    if (server->daemon)
        MHD_stop_daemon(server->daemon);
    server->daemon = NULL;
    http_threads_destroy(server->threads);
    server->threads = NULL;
    http_watch_stop(server);
}

bool http_server_start_with(struct http_server **out, const struct http_options *options,
                            const struct http_routes *parts, const struct http_limits *limits,
                            struct error *err)
{
    struct http_server *server = calloc(1, sizeof *server);
    pthread_condattr_t monotonic;

    if (!server)
        return error_set(err, ERROR_NO_MEMORY, "HTTP server");
    server->references = 1;
    server->options = *options;
    server->limits = *limits;
    server->parts = parts;
    server->listen_fd = server->wake_fd = server->epoll_fd = server->spare_fd = -1;
    pthread_mutex_init(&server->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&server->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    signal(SIGPIPE, SIG_IGN);
    if ((options->tls_cert && (!read_pem(&server->tls_cert, options->tls_cert, "--tls-cert", err) ||
                               !read_pem(&server->tls_key, options->tls_key, "--tls-key", err))) ||
        !open_descriptors(server, err) ||
        !http_peers_create(&server->peers, options->trusted_proxies, err) ||
        !http_threads_create(&server->threads, options->threads, err) ||
        !start_daemon(server, err) || !http_listen(server, options->host, options->port, err) ||
        !http_watch_start(server, err)) {
        stop_parts(server);
        http_server_unref(server);
        return false;
    }
    *out = server;
    return true;
}

bool http_server_start(struct http_server **out, const struct http_options *options,
                       const struct http_routes *parts, struct error *err)
{
    return http_server_start_with(out, options, parts, &http_default_limits, err);
}

int http_server_port(const struct http_server *server)
{
    return server->port;
}

const struct http_routes *http_server_routes(const struct http_server *server)
{
    return server->parts;
}

/* --- Ending --- */

static struct timespec seconds_from_now(double seconds)
{
    struct timespec time;
    double whole;

    clock_gettime(CLOCK_MONOTONIC, &time);
    whole = (double)(int64_t)seconds;
    time.tv_sec += (time_t)whole;
    time.tv_nsec += (long)((seconds - whole) * 1e9);
    if (time.tv_nsec >= 1000000000) {
        time.tv_sec++;
        time.tv_nsec -= 1000000000;
    }
    return time;
}

/* Until no exchange is left, or the time is over. */
static void wait_for_exchanges(struct http_server *server, double seconds)
{
    const struct timespec end = seconds_from_now(seconds);
    int failure = 0;

    pthread_mutex_lock(&server->lock);
    while (server->exchange_count > 0 && failure == 0)
        failure = pthread_cond_timedwait(&server->changed, &server->lock, &end);
    pthread_mutex_unlock(&server->lock);
}

static void break_streams(struct http_server *server)
{
    pthread_mutex_lock(&server->lock);
    for (struct http_connection *c = server->connections; c; c = c->next)
        if (c->state == CONNECTION_STREAM)
            http_stream_break(c->stream);
    for (struct http_stream *stream = server->tls_streams; stream;
         stream = http_stream_next_tls(stream))
        http_stream_break(stream);
    pthread_mutex_unlock(&server->lock);
}

/* Those that still sleep are woken, to be told 503: libmicrohttpd aborts over sleeping ones. */
static void abandon_exchanges(struct http_server *server)
{
    struct http_exchange *exchange;

    do {
        exchange = NULL;
        pthread_mutex_lock(&server->lock);
        for (struct http_connection *c = server->connections; c && !exchange; c = c->next)
            if (c->exchange && !c->is_abandoned) {
                c->is_abandoned = true;
                exchange = c->exchange;
                atomic_fetch_add(&exchange->references, 1);
            }
        pthread_mutex_unlock(&server->lock);
        if (exchange) {
            http_exchange_gone(exchange);
            http_exchange_abandon(exchange);
            http_exchange_unref(exchange);
        }
    } while (exchange);
}

void http_server_stop(struct http_server *server, double seconds)
{
    http_watch_stop_accepting(server);
    break_streams(server);
    wait_for_exchanges(server, seconds);
    abandon_exchanges(server);
    wait_for_exchanges(server, ABANDONED_SECONDS);
    stop_parts(server);
    http_server_unref(server);
}
