/* One request's way: shape, route, gate, body, handler, answer. libmicrohttpd calls http_on_request
 * again and again, on one thread at a time; in between, the connection sleeps whenever the gate or
 * the handler owes an answer. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "server/http_private.h"

static void make_request_id(struct http_exchange *exchange)
{
    struct http_server *server = exchange->server;
    /* A bijection of the counter (SplitMix64, Steele et al. 2014): no id comes twice. */
    uint64_t x = server->id_seed + atomic_fetch_add(&server->id_next, 1) * 0x9e3779b97f4a7c15u;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    for (int i = 0; i < 16; i++)
        exchange->request_id[i] = "0123456789abcdef"[x >> (60 - 4 * i) & 15];
}

struct http_exchange *http_exchange_create(struct http_server *server, struct MHD_Connection *mhd,
                                           const char *target)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct http_exchange *exchange;

    if (!info || !info->socket_context)
        return NULL;
    exchange = calloc(1, sizeof *exchange);
    if (!exchange)
        return NULL;
    exchange->server = server;
    exchange->mhd = mhd;
    exchange->connection = info->socket_context;
    atomic_fetch_add(&server->references, 1);
    exchange->references = 2; /* libmicrohttpd's, and that of whoever owes the answer */
    memcpy(exchange->address, exchange->connection->address, sizeof exchange->address);
    exchange->is_counted = exchange->connection->is_counted;
    exchange->started = seconds_now();
    exchange->where = (uintptr_t)target;
    exchange->target = strdup(target);
    if (!exchange->target) {
        atomic_fetch_sub(&server->references, 1);
        free(exchange);
        return NULL;
    }
    pthread_mutex_init(&exchange->lock, NULL);
    pthread_cond_init(&exchange->gone_done, NULL);
    make_request_id(exchange);
    pthread_mutex_lock(&server->lock);
    server->exchange_count++;
    exchange->connection->exchange = exchange;
    http_connection_enter_locked(exchange->connection, CONNECTION_HEADERS);
    pthread_mutex_unlock(&server->lock);
    return exchange;
}

void http_exchange_unref(struct http_exchange *exchange)
{
    if (atomic_fetch_sub(&exchange->references, 1) > 1)
        return;
    if (exchange->response)
        MHD_destroy_response(exchange->response);
    if (exchange->source)
        http_source_unref(exchange->source);
    for (size_t i = 0; i < exchange->added_count; i++) {
        free((char *)exchange->added[i].name);
        free((char *)exchange->added[i].value);
    }
    free(exchange->added);
    json_decref(exchange->json);
    free(exchange->parts);
    free(exchange->part_text);
    atomic_fetch_sub(&exchange->server->bodies_bytes, exchange->body_room);
    free(exchange->body);
    free(exchange->cookie);
    free(exchange->path_text);
    free(exchange->query);
    free(exchange->query_text);
    free(exchange->path);
    free(exchange->headers);
    free(exchange->text);
    free(exchange->target);
    pthread_cond_destroy(&exchange->gone_done);
    pthread_mutex_destroy(&exchange->lock);
    http_server_unref(exchange->server);
    free(exchange);
}

void http_exchange_report(struct http_exchange *exchange, size_t bytes)
{
    const struct http_options *options = &exchange->server->options;

    if (options->answered)
        options->answered(options->answered_context, exchange, exchange->status, bytes,
                          seconds_now() - exchange->started);
}

/* --- The client goes away --- */

static void run_gone_locked(struct http_exchange *exchange)
{
    void (*gone)(void *context) = exchange->gone;

    if (!gone || exchange->gone_runs || exchange->is_answered)
        return;
    exchange->gone = NULL;
    exchange->gone_runs = true;
    exchange->gone_thread = pthread_self();
    pthread_mutex_unlock(&exchange->lock);
    gone(exchange->gone_context);
    pthread_mutex_lock(&exchange->lock);
    exchange->gone_runs = false;
    pthread_cond_broadcast(&exchange->gone_done);
}

void http_exchange_gone(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    exchange->is_gone = true;
    if (exchange->source)
        http_source_end(exchange->source, true);
    run_gone_locked(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

void http_on_disconnect(struct http_exchange *exchange, void (*gone)(void *context), void *context)
{
    atomic_fetch_add(&exchange->references, 1);
    pthread_mutex_lock(&exchange->lock);
    exchange->gone = gone;
    exchange->gone_context = context;
    if (exchange->is_gone)
        run_gone_locked(exchange);
    pthread_mutex_unlock(&exchange->lock);
    http_exchange_unref(exchange);
}

/* --- The answer --- */

static void resume_locked(struct http_exchange *exchange)
{
    if (!exchange->is_suspended)
        return;
    exchange->is_suspended = false;
    MHD_resume_connection(exchange->mhd);
}

bool http_exchange_answer(struct http_exchange *exchange, int status, size_t bytes,
                          struct MHD_Response *response)
{
    bool is_first;

    pthread_mutex_lock(&exchange->lock);
    while (exchange->gone_runs && !pthread_equal(exchange->gone_thread, pthread_self()))
        pthread_cond_wait(&exchange->gone_done, &exchange->lock);
    exchange->gone = NULL;
    is_first = !exchange->is_answered && !exchange->is_abandoned;
    if (is_first) {
        exchange->is_answered = true;
        exchange->status = status;
        exchange->bytes = bytes;
        exchange->response = response;
        resume_locked(exchange);
    }
    pthread_mutex_unlock(&exchange->lock);
    if (!is_first && response)
        MHD_destroy_response(response);
    http_exchange_unref(exchange);
    return is_first;
}

void http_exchange_abandon(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    exchange->must_end = true; /* if it is not asleep yet, it never will be */
    if (!exchange->is_answered && exchange->is_suspended) {
        exchange->is_abandoned = true;
        resume_locked(exchange);
    }
    pthread_mutex_unlock(&exchange->lock);
}

void http_exchange_leave(struct http_exchange *exchange)
{
    bool is_answered, is_owed;

    pthread_mutex_lock(&exchange->lock);
    is_answered = exchange->is_answered;
    is_owed = exchange->phase == PHASE_GATE || exchange->phase == PHASE_HANDLER;
    exchange->is_abandoned = true;
    exchange->is_suspended = false;
    if (!is_answered)
        exchange->status = 499; /* as others log it: the client closed the request */
    if (exchange->source)
        exchange->bytes = http_source_sent(exchange->source);
    pthread_mutex_unlock(&exchange->lock);
    http_exchange_report(exchange, exchange->bytes);
    if (!is_answered && !is_owed)
        http_exchange_unref(exchange);
}

void http_pass(struct http_exchange *exchange)
{
    bool is_too_late;

    pthread_mutex_lock(&exchange->lock);
    is_too_late = exchange->phase == PHASE_GATE && exchange->is_abandoned;
    if (exchange->phase == PHASE_GATE && !is_too_late) {
        exchange->phase = PHASE_PASSED;
        resume_locked(exchange);
    }
    pthread_mutex_unlock(&exchange->lock);
    if (is_too_late)
        http_exchange_unref(exchange); /* the phase stays: http_exchange_leave left this to us */
}

static void run_continued(struct http_task *task)
{
    struct http_exchange *exchange = (struct http_exchange *)task;

    exchange->continued(exchange, exchange->continued_context);
}

void http_continue_on_thread(struct http_exchange *exchange,
                             void (*handler)(struct http_exchange *exchange, void *context),
                             void *context)
{
    exchange->continued = handler;
    exchange->continued_context = context;
    exchange->task.run = run_continued;
    http_threads_run(exchange->server->threads, &exchange->task);
}

/* An answer where libmicrohttpd takes none, in the middle of a body; then the connection ends. */
static enum MHD_Result break_off(struct http_exchange *exchange, int status)
{
    struct http_server *server = exchange->server;
    const char *text = http_short_answer(status);

    if (!server->options.tls_cert)
        (void)send(exchange->connection->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
    pthread_mutex_lock(&server->lock);
    exchange->connection->must_linger = true;
    pthread_mutex_unlock(&server->lock);
    return MHD_NO;
}

static enum MHD_Result send_answer(struct http_exchange *exchange)
{
    struct http_server *server = exchange->server;
    struct MHD_Response *response;
    enum MHD_Result result;

    if (exchange->is_taken)
        return MHD_NO; /* the stream has a copy of the descriptor: http_stream.c */
    if (exchange->is_abandoned)
        return break_off(exchange, 503);
    response = exchange->response;
    exchange->response = NULL;
    if (!response)
        return break_off(exchange, 503);
    if (exchange->must_close) {
        pthread_mutex_lock(&server->lock);
        exchange->connection->must_linger = true;
        pthread_mutex_unlock(&server->lock);
    }
    result = MHD_queue_response(exchange->mhd, (unsigned)exchange->status, response);
    MHD_destroy_response(response);
    return result;
}

/* Sends the answer if there is one; otherwise sleeps until there is. */
static enum MHD_Result send_or_wait(struct http_exchange *exchange)
{
    bool is_ready;

    pthread_mutex_lock(&exchange->lock);
    if (!exchange->is_answered && exchange->must_end)
        exchange->is_abandoned = true;
    is_ready = exchange->is_answered || exchange->is_abandoned;
    if (!is_ready && !exchange->is_suspended) {
        exchange->is_suspended = true;
        MHD_suspend_connection(exchange->mhd);
    }
    pthread_mutex_unlock(&exchange->lock);
    return is_ready ? send_answer(exchange) : MHD_YES;
}

/* --- The phases --- */

static void read_method(struct http_exchange *exchange, const char *method)
{
    for (int i = 0; i <= HTTP_OPTIONS; i++) {
        if (strcmp(method, http_method_name((enum http_method)i)) == 0) {
            exchange->method = (enum http_method)i;
            exchange->is_method_known = true;
        }
    }
    exchange->is_head = exchange->is_method_known && exchange->method == HTTP_HEAD;
}

/* False: answered, and the connection must not be used for another request. */
static bool check_request(struct http_exchange *exchange, const char *method, const char *version)
{
    const char *why = "", *length;
    int status;

    read_method(exchange, method);
    exchange->must_close = true; /* unless all of this goes well */
    status = http_check_shape(exchange, method, version, &why);
    if (status != 0) {
        http_address_format(exchange->client, exchange->address);
        http_reply_error(exchange, status, "bad_request", "", 0, "%s", why);
        return false;
    }
    length = http_header(exchange, "Content-Length");
    /* Until a body is read, and after one whose framing we did not see ourselves, no second request
     * is read from this connection. */
    exchange->must_close = exchange->is_chunked || (length && length[strspn(length, "0")]);
    if (!http_read_request(exchange) || !http_find_route(exchange))
        return false;
    exchange->body_limit =
        exchange->route->body_max ? exchange->route->body_max : HTTP_JSON_BYTES_MAX;
    if (length && (strlen(length) > 18 || strtoull(length, NULL, 10) > exchange->body_limit)) {
        http_reply_error(exchange, 413, "request_too_large", "", 0,
                         "the body may have %zu bytes here", exchange->body_limit);
        return false;
    }
    if (atomic_load(&exchange->server->is_stopping)) {
        exchange->must_close = true;
        http_reply_error(exchange, 503, "stopping", "", 5, "the server is stopping");
        return false;
    }
    return true;
}

static enum MHD_Result after_gate(struct http_exchange *exchange)
{
    struct http_server *server = exchange->server;
    bool has_passed;

    pthread_mutex_lock(&exchange->lock);
    has_passed = exchange->phase == PHASE_PASSED && !exchange->is_answered;
    if (has_passed)
        exchange->phase = PHASE_BODY;
    pthread_mutex_unlock(&exchange->lock);
    if (!has_passed)
        return send_or_wait(exchange);
    pthread_mutex_lock(&server->lock);
    http_connection_enter_locked(exchange->connection, CONNECTION_BODY);
    pthread_mutex_unlock(&server->lock);
    return MHD_YES;
}

static void enter_busy(struct http_exchange *exchange)
{
    struct http_server *server = exchange->server;
    bool is_gone;

    pthread_mutex_lock(&server->lock);
    http_connection_enter_locked(exchange->connection, CONNECTION_BUSY);
    is_gone = exchange->connection->is_peer_closed;
    pthread_mutex_unlock(&server->lock);
    pthread_mutex_lock(&exchange->lock);
    exchange->is_gone |= is_gone;
    pthread_mutex_unlock(&exchange->lock);
}

static enum MHD_Result start_request(struct http_exchange *exchange, const char *method,
                                     const char *version)
{
    const struct http_gate *gate = exchange->server->options.gate;

    enter_busy(exchange);
    if (!check_request(exchange, method, version)) {
        /* libmicrohttpd forgets the answer when it is being stopped, and asks again. */
        pthread_mutex_lock(&exchange->lock);
        exchange->phase = PHASE_REFUSED;
        pthread_mutex_unlock(&exchange->lock);
        return send_or_wait(exchange);
    }
    pthread_mutex_lock(&exchange->lock);
    exchange->phase = PHASE_GATE;
    pthread_mutex_unlock(&exchange->lock);
    if (!gate || gate->check(gate->context, exchange, exchange->route)) {
        pthread_mutex_lock(&exchange->lock);
        exchange->phase = PHASE_PASSED;
        pthread_mutex_unlock(&exchange->lock);
    }
    return after_gate(exchange);
}

/* 0, or the status of the failure. */
static int take_body(struct http_exchange *exchange, const char *bytes, size_t size)
{
    struct http_server *server = exchange->server;
    size_t wanted = exchange->body_size + size;

    if (wanted > exchange->body_limit)
        return 413;
    /* A client that sends one byte in each chunk costs us a call for each. */
    if (exchange->is_chunked && ++exchange->body_calls > 4096 + wanted / 256)
        return 400;
    if (wanted > exchange->body_room) {
        size_t room = exchange->body_room ? exchange->body_room * 2 : 4096;
        char *more;

        while (room < wanted)
            room *= 2;
        if (atomic_load(&server->bodies_bytes) + room - exchange->body_room >
            server->limits.bodies_bytes)
            return 503;
        more = realloc(exchange->body, room + 1);
        if (!more)
            return 503;
        atomic_fetch_add(&server->bodies_bytes, room - exchange->body_room);
        exchange->body = more;
        exchange->body_room = room;
    }
    memcpy(exchange->body + exchange->body_size, bytes, size);
    exchange->body_size = wanted;
    exchange->body[wanted] = '\0';
    pthread_mutex_lock(&server->lock);
    exchange->connection->body_received = wanted;
    pthread_mutex_unlock(&server->lock);
    return 0;
}

static void run_handler(struct http_task *task)
{
    struct http_exchange *exchange = (struct http_exchange *)task;

    exchange->route->handle(exchange, exchange->route_context);
}

static enum MHD_Result start_handler(struct http_exchange *exchange)
{
    bool must_end;

    enter_busy(exchange);
    exchange->must_close = exchange->is_chunked;
    pthread_mutex_lock(&exchange->lock);
    must_end = exchange->must_end;
    if (!must_end)
        exchange->phase = PHASE_HANDLER;
    if (!must_end && !exchange->route->is_quick) {
        exchange->is_suspended = true;
        MHD_suspend_connection(exchange->mhd);
        exchange->task.run = run_handler;
    }
    pthread_mutex_unlock(&exchange->lock);
    if (must_end)
        return break_off(exchange, 503);
    if (!exchange->route->is_quick) {
        http_threads_run(exchange->server->threads, &exchange->task);
        return MHD_YES;
    }
    run_handler(&exchange->task);
    return send_or_wait(exchange);
}

enum MHD_Result http_on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **context)
{
    struct http_exchange *exchange = *context;
    enum http_phase phase;
    int status;

    (void)cls;
    (void)mhd;
    (void)url;
    if (!exchange)
        return MHD_NO; /* memory was short */
    pthread_mutex_lock(&exchange->lock);
    phase = exchange->phase;
    pthread_mutex_unlock(&exchange->lock);
    switch (phase) {
    case PHASE_NEW:
        return start_request(exchange, method, version);
    case PHASE_GATE:
    case PHASE_PASSED:
        return after_gate(exchange);
    case PHASE_BODY:
        if (*upload_size == 0)
            return start_handler(exchange);
        status = take_body(exchange, upload, *upload_size);
        *upload_size = 0;
        return status == 0 ? MHD_YES : break_off(exchange, status);
    case PHASE_REFUSED:
    case PHASE_HANDLER:
        break;
    }
    return send_or_wait(exchange);
}
