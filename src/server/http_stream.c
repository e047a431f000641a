/* Streams of events.
 *
 * A page that is open costs a stream, and there may be thousands. libmicrohttpd keeps its buffers
 * for each connection, tens of KiB; so a stream leaves it: a copy of the socket's descriptor goes
 * on here, while libmicrohttpd closes its own without a word (MHD_USE_TURBO: no shutdown). What
 * remains of an idle stream is a few hundred bytes. Under TLS the session belongs to libmicrohttpd
 * and the stream stays there (http_source.c): measured, 52 KiB for each idle one.
 *
 * The watch thread sends what waits, beats, and is the only one that destroys.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/http_private.h"
#include "server/metrics.h"

#define KERNEL_BYTES 262144 /* what the kernel holds of each stream at most, outside our count */

struct http_stream {
    struct http_server *server;
    void (*closed)(void *context);
    void *context;
    bool is_events, is_chunked, is_head;
    int fd;                                   /* of the connection, which owns it; -1 under TLS */
    struct http_source *source;               /* under TLS */
    struct http_stream *next_tls, **link_tls; /* under server->lock */

    pthread_mutex_t lock;
    char *bytes; /* under lock, as all below */
    size_t from, size, room;
    size_t largest; /* write so far */
    double written_at;
    bool is_ended, is_broken;
};

/* Wakes the watch, which destroys. */
static void hang_up_locked(struct http_stream *stream)
{
    if (stream->fd >= 0)
        shutdown(stream->fd, SHUT_RDWR);
}

static void send_locked(struct http_stream *stream)
{
    while (stream->from < stream->size) {
        ssize_t sent = send(stream->fd, stream->bytes + stream->from, stream->size - stream->from,
                            MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK) {
                stream->is_broken = true;
                hang_up_locked(stream);
            }
            return;
        }
        stream->from += (size_t)sent;
    }
    free(stream->bytes);
    stream->bytes = NULL;
    stream->from = stream->size = stream->room = 0;
    if (stream->is_ended)
        hang_up_locked(stream);
}

static bool append_locked(struct http_stream *stream, const void *bytes, size_t size)
{
    if (size > stream->room - stream->size) {
        size_t room = stream->size - stream->from + size;
        char *more = malloc(room);

        if (!more)
            return false;
        if (stream->bytes)
            memcpy(more, stream->bytes + stream->from, stream->size - stream->from);
        free(stream->bytes);
        stream->bytes = more;
        stream->size -= stream->from;
        stream->from = 0;
        stream->room = room;
    }
    memcpy(stream->bytes + stream->size, bytes, size);
    stream->size += size;
    return true;
}

/* What may wait: STREAM_BYTES_MAX, but always two writes of the largest, or a picture could never
 * be followed by its end. */
static size_t room_locked(struct http_stream *stream, size_t size)
{
    size_t limit = stream->server->limits.stream_bytes;

    if (size > stream->largest)
        stream->largest = size;
    return limit > 2 * stream->largest ? limit : 2 * stream->largest;
}

static bool write_direct_locked(struct http_stream *stream, const void *bytes, size_t size)
{
    char length[24];
    size_t waits = stream->size - stream->from;
    bool is_fine;

    if (waits + size > room_locked(stream, size)) {
        metrics_count(METRIC_EVENTS_DROPPED, "", 1);
        stream->is_broken = true;
        hang_up_locked(stream);
        return false;
    }
    snprintf(length, sizeof length, "%zx\r\n", size);
    is_fine = !stream->is_chunked || append_locked(stream, length, strlen(length));
    is_fine = is_fine && append_locked(stream, bytes, size);
    is_fine = is_fine && (!stream->is_chunked || append_locked(stream, "\r\n", 2));
    if (!is_fine) {
        stream->is_broken = true;
        hang_up_locked(stream);
        return false;
    }
    if (waits == 0)
        send_locked(stream);
    return !stream->is_broken;
}

bool http_stream_write(struct http_stream *stream, const void *bytes, size_t size)
{
    bool is_fine;

    if (!stream)
        return false;
    if (size == 0)
        return true;
    pthread_mutex_lock(&stream->lock);
    is_fine = !stream->is_ended && !stream->is_broken;
    if (is_fine && !stream->is_head) {
        stream->written_at = seconds_now();
        if (stream->source)
            is_fine = http_source_write(stream->source, bytes, size, room_locked(stream, size));
        else
            is_fine = write_direct_locked(stream, bytes, size);
    }
    pthread_mutex_unlock(&stream->lock);
    return is_fine;
}

void http_stream_end(struct http_stream *stream)
{
    if (!stream)
        return;
    pthread_mutex_lock(&stream->lock);
    if (!stream->is_ended && !stream->is_broken) {
        stream->is_ended = true;
        if (stream->source) {
            http_source_end(stream->source, false);
        } else {
            if (stream->is_chunked && !stream->is_head && !append_locked(stream, "0\r\n\r\n", 5))
                stream->is_broken = true;
            send_locked(stream);
        }
    }
    pthread_mutex_unlock(&stream->lock);
}

void http_stream_break(struct http_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    stream->is_broken = true;
    hang_up_locked(stream);
    if (stream->source)
        http_source_end(stream->source, true);
    pthread_mutex_unlock(&stream->lock);
}

void http_stream_detach(struct http_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    stream->is_broken = true;
    stream->fd = -1;
    pthread_mutex_unlock(&stream->lock);
}

void http_stream_flush(struct http_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    if (!stream->is_broken && stream->size > stream->from)
        send_locked(stream);
    pthread_mutex_unlock(&stream->lock);
}

void http_stream_beat(struct http_stream *stream, double now)
{
    bool is_due;

    pthread_mutex_lock(&stream->lock);
    is_due = stream->is_events && !stream->is_ended && !stream->is_broken &&
             now - stream->written_at >= stream->server->limits.beat_seconds;
    pthread_mutex_unlock(&stream->lock);
    if (is_due)
        http_stream_write(stream, ": \n\n", 4);
}

void http_stream_destroy(struct http_stream *stream)
{
    if (stream->closed)
        stream->closed(stream->context);
    /* Whoever wrote while `closed` ran has left by now, or is about to. */
    pthread_mutex_lock(&stream->lock);
    pthread_mutex_unlock(&stream->lock);
    if (stream->source)
        http_source_unref(stream->source);
    free(stream->bytes);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}

/* --- Its begin --- */

static struct http_stream *create_stream(struct http_exchange *exchange, const char *type,
                                         void (*closed)(void *context), void *context)
{
    struct http_stream *stream = calloc(1, sizeof *stream);

    if (!stream)
        return NULL;
    stream->server = exchange->server;
    stream->closed = closed;
    stream->context = context;
    stream->is_events = strncasecmp(type, "text/event-stream", 17) == 0;
    stream->is_chunked = !exchange->is_http_1_0;
    stream->is_head = stream->is_ended = exchange->is_head;
    stream->written_at = seconds_now();
    stream->fd = -1;
    pthread_mutex_init(&stream->lock, NULL);
    return stream;
}

static int copy_descriptor(struct http_exchange *exchange)
{
    int fd = -1;
    int bytes = KERNEL_BYTES;

    pthread_mutex_lock(&exchange->lock);
    if (!exchange->is_abandoned)
        fd = fcntl(exchange->connection->fd, F_DUPFD_CLOEXEC, 3);
    pthread_mutex_unlock(&exchange->lock);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    return fd;
}

/* Else a rush of new streams would count twice until libmicrohttpd has closed its side of each. */
static void hand_on_locked(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    if (!exchange->is_abandoned)
        http_connection_hand_on_locked(exchange->connection);
    pthread_mutex_unlock(&exchange->lock);
}

/* From here on the watch may find the client gone and destroy the stream. */
static bool start_direct(struct http_stream *stream, struct http_exchange *exchange,
                         const char *type)
{
    struct http_server *server = exchange->server;
    struct http_connection *connection = NULL;
    size_t size;
    char *head = http_head_text(exchange, 200, type, &size);
    int fd = head ? copy_descriptor(exchange) : -1;

    if (fd >= 0) {
        stream->fd = fd;
        stream->bytes = head;
        stream->size = stream->room = size;
        pthread_mutex_lock(&server->lock);
        if (!atomic_load(&server->is_stopping))
            connection = http_connection_add_locked(server, fd, exchange->address,
                                                    exchange->is_counted, CONNECTION_STREAM);
        else
            close(fd);
        if (connection) {
            connection->stream = stream;
            hand_on_locked(exchange);
        }
        pthread_mutex_unlock(&server->lock);
    }
    if (!connection) {
        if (fd < 0)
            free(head);
        return false;
    }
    return true;
}

struct http_stream *http_stream_next_tls(const struct http_stream *stream)
{
    return stream->next_tls;
}

/* libmicrohttpd is through with a stream under TLS. */
static void release_tls_stream(void *context)
{
    struct http_stream *stream = context;
    struct http_server *server = stream->server;

    pthread_mutex_lock(&server->lock);
    *stream->link_tls = stream->next_tls;
    if (stream->next_tls)
        stream->next_tls->link_tls = stream->link_tls;
    pthread_mutex_unlock(&server->lock);
    http_stream_destroy(stream);
}

static bool start_in_source(struct http_stream *stream, struct http_exchange *exchange,
                            const char *type, struct MHD_Response **response)
{
    struct http_server *server = exchange->server;

    stream->source = http_source_create(exchange);
    if (!stream->source)
        return false;
    *response = http_source_response(stream->source);
    if (!*response) {
        http_source_unref(stream->source);
        return false;
    }
    stream->source->released = release_tls_stream;
    stream->source->released_context = stream;
    exchange->must_close = true;
    http_response_headers(exchange, *response, type);
    atomic_fetch_add(&stream->source->references, 1);
    exchange->source = stream->source;
    pthread_mutex_lock(&server->lock);
    stream->next_tls = server->tls_streams;
    stream->link_tls = &server->tls_streams;
    if (stream->next_tls)
        stream->next_tls->link_tls = &stream->next_tls;
    server->tls_streams = stream;
    pthread_mutex_unlock(&server->lock);
    return true;
}

static struct http_stream *fail_to_start(struct http_exchange *exchange, struct http_stream *stream)
{
    if (stream) {
        free(stream->bytes);
        pthread_mutex_destroy(&stream->lock);
        free(stream);
    }
    http_reply_error(exchange, 503, "out_of_memory", "", 1, "memory or descriptors are short");
    return NULL;
}

struct http_stream *http_start_stream(struct http_exchange *exchange, const char *type,
                                      void (*closed)(void *context), void *context)
{
    struct http_stream *stream = create_stream(exchange, type, closed, context);
    struct MHD_Response *response = NULL;
    bool is_tls = exchange->server->options.tls_cert != NULL;

    if (!stream)
        return fail_to_start(exchange, NULL);
    http_add_header(exchange, "X-Accel-Buffering", "no"); /* nginx passes events on at once */
    if (!(is_tls ? start_in_source(stream, exchange, type, &response)
                 : start_direct(stream, exchange, type)))
        return fail_to_start(exchange, stream);
    exchange->is_taken = !is_tls;
    http_exchange_answer(exchange, 200, 0, response);
    return stream;
}
