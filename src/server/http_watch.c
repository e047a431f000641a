/* The watch: one thread that accepts, keeps the deadlines, notices who went away and writes what
 * waits for streams. libmicrohttpd knows only idle time, and nothing of connections that sleep. */
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/http_private.h"

#define EVENTS_AT_ONCE 128
#define WATCH_STACK_BYTES (256 << 10)
#define RECEIPT_SECONDS 0.02 /* the kernel tells when bytes came in ticks of its own, and ms */

/* What is to be done once the lock is free again: none of it may be called under it. */
struct chore {
    struct http_exchange *gone;    /* a reference */
    struct http_stream *destroyed; /* its connection is gone already */
};

/* --- Partings --- */

static void do_chore(const struct chore *chore)
{
    if (chore->gone) {
        http_exchange_gone(chore->gone);
        http_exchange_unref(chore->gone);
    }
    if (chore->destroyed)
        http_stream_destroy(chore->destroyed);
}

static void end_stream_locked(struct http_connection *connection, struct chore *chore)
{
    chore->destroyed = connection->stream;
    http_stream_detach(connection->stream); /* before its descriptor means something else */
    http_connection_remove_locked(connection);
}

static void note_parting_locked(struct http_connection *connection, struct chore *chore)
{
    if (connection->state == CONNECTION_STREAM) {
        end_stream_locked(connection, chore);
        return;
    }
    connection->is_peer_closed = true;
    if (connection->peer_closed_at <= 0)
        connection->peer_closed_at = seconds_now();
    if (connection->state == CONNECTION_LINGER) {
        http_connection_remove_locked(connection);
        return;
    }
    if (connection->exchange && connection->state == CONNECTION_BUSY) {
        chore->gone = connection->exchange;
        atomic_fetch_add(&chore->gone->references, 1);
    }
}

/* Throws away what a client still sends after its answer. */
static void drain(int fd)
{
    char unused[4096];

    while (recv(fd, unused, sizeof unused, MSG_DONTWAIT) > 0)
        continue;
}

/* The event may be of an earlier connection with this descriptor: only what is true now counts. */
static bool has_hung_up(int fd)
{
    struct pollfd now = {.fd = fd, .events = POLLRDHUP};

    return poll(&now, 1, 0) == 1 && (now.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void handle_event(struct http_server *server, const struct epoll_event *event)
{
    struct http_connection *connection;
    struct http_stream *stream = NULL;
    struct chore chore = {0};
    int fd = event->data.fd;

    pthread_mutex_lock(&server->lock);
    connection = fd >= 0 && (size_t)fd < server->fd_count ? server->by_fd[fd] : NULL;
    if (connection) {
        if (connection->state == CONNECTION_LINGER)
            drain(connection->fd);
        if ((event->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) && has_hung_up(connection->fd))
            note_parting_locked(connection, &chore);
        else if (connection->state == CONNECTION_STREAM)
            stream = connection->stream; /* the watch alone destroys it */
    }
    pthread_mutex_unlock(&server->lock);
    do_chore(&chore);
    if (stream)
        http_stream_flush(stream);
}

/* --- Deadlines --- */

static void cut_off(struct http_connection *connection, int status)
{
    const char *text = http_short_answer(status);

    if (status != 0 && !connection->server->options.tls_cert)
        (void)send(connection->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(connection->fd, SHUT_RDWR);
}

/* True when nothing that waits in the kernel has left for too long. */
static bool has_stalled(struct http_connection *connection, double now)
{
    int unsent = 0;

    if (ioctl(connection->fd, SIOCOUTQ, &unsent) != 0)
        unsent = 0;
    if (unsent != connection->unsent || unsent == 0) {
        connection->unsent = unsent;
        connection->unsent_since = now;
        return false;
    }
    return now - connection->unsent_since > connection->server->limits.stall_seconds;
}

static bool body_is_too_slow(const struct http_connection *connection, double elapsed)
{
    const struct http_limits *limits = &connection->server->limits;
    double wanted = (elapsed - limits->body_grace_seconds) * (double)limits->body_rate;

    return elapsed > limits->body_seconds || (double)connection->body_received < wanted;
}

/* The first bytes of the next request: libmicrohttpd does not tell. Asked here, twice a second, and
 * not with each answer; bytes that come right behind one are noticed with those that follow. */
static bool has_begun_again(const struct http_connection *connection, double idle_seconds)
{
    return http_seconds_since_receipt(connection->fd) < idle_seconds - RECEIPT_SECONDS;
}

/* libmicrohttpd misses an end that comes together with bytes: one read takes the bytes, and the
 * edge of both is used up. Nothing more comes, so what is not whole by now never will be. */
static bool has_missed_end(const struct http_connection *connection, double now)
{
    int unread = 0;

    return connection->is_peer_closed &&
           now - connection->peer_closed_at > connection->server->limits.tick_seconds &&
           ioctl(connection->fd, SIOCINQ, &unread) == 0 && unread == 0;
}

static void check_deadline_locked(struct http_connection *connection, double now)
{
    const struct http_limits *limits = &connection->server->limits;
    double elapsed = now - connection->since;

    switch (connection->state) {
    case CONNECTION_HEADERS:
        if (has_missed_end(connection, now))
            cut_off(connection, 0);
        else if (elapsed > limits->header_seconds)
            cut_off(connection, http_bytes_received(connection->fd) > 0 ? 408 : 0);
        break;
    case CONNECTION_BODY:
        if (has_missed_end(connection, now))
            cut_off(connection, 0);
        else if (body_is_too_slow(connection, elapsed))
            cut_off(connection, 408);
        break;
    case CONNECTION_IDLE:
        if (elapsed > limits->idle_seconds || has_missed_end(connection, now))
            cut_off(connection, 0);
        else if (has_begun_again(connection, elapsed))
            http_connection_enter_locked(connection, CONNECTION_HEADERS);
        break;
    case CONNECTION_BUSY:
    case CONNECTION_STREAM:
        if (has_stalled(connection, now))
            cut_off(connection, 0);
        break;
    case CONNECTION_LINGER:
        if (elapsed > limits->linger_seconds)
            cut_off(connection, 0); /* its event removes it */
        break;
    }
}

static void beat_streams(struct http_server *server, double now)
{
    struct http_connection *connection;

    pthread_mutex_lock(&server->lock);
    for (connection = server->connections; connection; connection = connection->next)
        if (connection->state == CONNECTION_STREAM)
            http_stream_beat(connection->stream, now);
    for (struct http_stream *stream = server->tls_streams; stream;
         stream = http_stream_next_tls(stream))
        http_stream_beat(stream, now);
    pthread_mutex_unlock(&server->lock);
}

static void check_deadlines(struct http_server *server)
{
    struct http_connection *connection, *next;
    double now = seconds_now();

    pthread_mutex_lock(&server->lock);
    for (connection = server->connections; connection; connection = next) {
        next = connection->next;
        if (http_connection_is_dropped(connection))
            http_connection_end_dropped_locked(connection);
        else
            check_deadline_locked(connection, now);
    }
    pthread_mutex_unlock(&server->lock);
    beat_streams(server, now);
}

/* --- The thread --- */

static void stop_listening(struct http_server *server)
{
    if (server->listen_fd < 0)
        return;
    close(server->listen_fd);
    server->listen_fd = -1;
    pthread_mutex_lock(&server->lock);
    server->is_accepting = false;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

static void *watch(void *argument)
{
    struct http_server *server = argument;
    int tick = (int)(1e3 * server->limits.tick_seconds);
    double checked = seconds_now();
    struct epoll_event events[EVENTS_AT_ONCE];

    while (!atomic_load(&server->watch_ends)) {
        int count = epoll_wait(server->epoll_fd, events, EVENTS_AT_ONCE, tick);

        for (int i = 0; i < count; i++) {
            uint64_t unused;

            if (events[i].data.fd == server->listen_fd)
                http_accept_all(server);
            else if (events[i].data.fd == server->wake_fd)
                (void)!read(server->wake_fd, &unused, sizeof unused);
            else
                handle_event(server, &events[i]);
        }
        if (atomic_load(&server->is_stopping))
            stop_listening(server);
        if (seconds_now() - checked >= server->limits.tick_seconds) {
            check_deadlines(server);
            checked = seconds_now();
        }
    }
    stop_listening(server);
    return NULL;
}

static void wake(struct http_server *server)
{
    uint64_t one = 1;

    (void)!write(server->wake_fd, &one, sizeof one);
}

bool http_watch_start(struct http_server *server, struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = server->wake_fd};
    pthread_attr_t attributes;
    int failure;

    if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, server->wake_fd, &event) != 0)
        return error_set_errno(err, errno, "watching connections");
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, WATCH_STACK_BYTES);
    server->is_accepting = true;
    failure = pthread_create(&server->watch, &attributes, watch, server);
    pthread_attr_destroy(&attributes);
    if (failure != 0)
        return error_set_errno(err, failure, "watching connections");
    server->has_watch = true;
    return true;
}

void http_watch_stop_accepting(struct http_server *server)
{
    atomic_store(&server->is_stopping, true);
    wake(server);
    pthread_mutex_lock(&server->lock);
    while (server->is_accepting)
        pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
}

/* The streams and lingering sockets that are left go with it. */
void http_watch_stop(struct http_server *server)
{
    atomic_store(&server->watch_ends, true);
    if (server->has_watch) {
        wake(server);
        pthread_join(server->watch, NULL);
        server->has_watch = false;
    }
    for (;;) {
        struct http_connection *connection;
        struct chore chore = {0};

        pthread_mutex_lock(&server->lock);
        connection = server->connections;
        if (connection && connection->state == CONNECTION_STREAM)
            end_stream_locked(connection, &chore);
        else if (connection)
            http_connection_remove_locked(connection);
        pthread_mutex_unlock(&server->lock);
        if (!connection)
            return;
        do_chore(&chore);
    }
}
