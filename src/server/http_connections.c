/* Connections: ours beside libmicrohttpd's, so that deadlines can be kept and partings noticed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/http_private.h"

/* Streams and lingering sockets are ours; the others are libmicrohttpd's to close, once it has
 * told that it has them. */
static bool owns_descriptor(const struct http_connection *connection)
{
    return connection->state == CONNECTION_STREAM || connection->state == CONNECTION_LINGER ||
           connection->is_unconfirmed;
}

static struct tcp_info info_of(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;

    (void)getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
    return info;
}

uint64_t http_bytes_received(int fd)
{
    return info_of(fd).tcpi_bytes_received;
}

double http_seconds_since_receipt(int fd)
{
    return 1e-3 * info_of(fd).tcpi_last_data_recv;
}

void http_connection_enter_locked(struct http_connection *connection, enum connection_state state)
{
    connection->state = state;
    connection->since = seconds_now();
    connection->body_received = 0;
    connection->unsent = 0;
}

struct http_connection *http_connection_confirm(struct http_server *server, int fd)
{
    struct http_connection *connection = NULL;

    pthread_mutex_lock(&server->lock);
    if (fd >= 0 && (size_t)fd < server->fd_count)
        connection = server->by_fd[fd];
    if (connection && connection->is_unconfirmed) {
        close(connection->fd);
        connection->fd = fd;
        connection->is_unconfirmed = false;
    }
    pthread_mutex_unlock(&server->lock);
    return connection;
}

bool http_connection_is_dropped(const struct http_connection *connection)
{
    struct stat theirs, ours;

    if (!connection->is_unconfirmed || fstat(connection->fd, &ours) != 0)
        return false;
    return fstat(connection->number, &theirs) != 0 || theirs.st_ino != ours.st_ino ||
           theirs.st_dev != ours.st_dev;
}

static bool make_room_for(struct http_server *server, int fd)
{
    size_t count = server->fd_count ? server->fd_count : 256;
    struct http_connection **grown;

    if ((size_t)fd < server->fd_count)
        return true;
    while (count <= (size_t)fd)
        count *= 2;
    /* NOLINTBEGIN(bugprone-sizeof-expression): a table of pointers. */
    grown = reallocarray(server->by_fd, count, sizeof *grown);
    if (!grown)
        return false;
    memset(grown + server->fd_count, 0, (count - server->fd_count) * sizeof *grown);
    /* NOLINTEND(bugprone-sizeof-expression) */
    server->by_fd = grown;
    server->fd_count = count;
    return true;
}

/* Edges only: one event when the peer closes, and for streams one when there is room again. */
static bool watch_descriptor(struct http_server *server, int fd, enum connection_state state)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.fd = fd};

    if (state == CONNECTION_STREAM)
        event.events |= EPOLLOUT;
    if (state == CONNECTION_LINGER)
        event.events |= EPOLLIN;
    return epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static struct http_connection *create_connection(struct http_server *server, int fd,
                                                 const unsigned char address[16], bool is_counted)
{
    struct http_connection *connection = calloc(1, sizeof *connection);

    if (!connection || !make_room_for(server, fd) ||
        (is_counted && !http_peers_enter(server->peers, address, INT32_MAX))) {
        free(connection);
        return NULL;
    }
    *connection = (struct http_connection){.server = server,
                                           .next = server->connections,
                                           .fd = fd,
                                           .number = fd,
                                           .is_counted = is_counted};
    memcpy(connection->address, address, sizeof connection->address);
    return connection;
}

/* An entry that is there under this number is of a connection that libmicrohttpd dropped: nobody
 * asks for it by its number any more, and the watch removes it soon. */
static void enter_table_locked(struct http_connection *connection)
{
    struct http_server *server = connection->server;

    if (connection->next)
        connection->next->previous = connection;
    server->connections = connection;
    server->by_fd[connection->number] = connection;
    server->connection_count++;
}

struct http_connection *http_connection_add_locked(struct http_server *server, int fd,
                                                   const unsigned char address[16], bool is_counted,
                                                   enum connection_state state)
{
    struct http_connection *connection = create_connection(server, fd, address, is_counted);

    if (!connection) {
        close(fd);
        return NULL;
    }
    http_connection_enter_locked(connection, state);
    enter_table_locked(connection);
    if (watch_descriptor(server, fd, state))
        return connection;
    http_connection_remove_locked(connection);
    return NULL;
}

struct http_connection *http_connection_accept_locked(struct http_server *server, int fd,
                                                      const unsigned char address[16],
                                                      bool is_counted)
{
    struct http_connection *connection;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    connection = copy >= 0 ? create_connection(server, fd, address, is_counted) : NULL;
    if (!connection) {
        if (copy >= 0)
            close(copy);
        return NULL;
    }
    connection->fd = copy;
    connection->is_unconfirmed = true;
    http_connection_enter_locked(connection, CONNECTION_HEADERS);
    enter_table_locked(connection);
    if (watch_descriptor(server, fd, CONNECTION_HEADERS))
        return connection;
    http_connection_remove_locked(connection);
    return NULL;
}

static void uncount_locked(struct http_connection *connection)
{
    if (connection->is_handed_on)
        return;
    connection->server->connection_count--;
    if (connection->is_counted)
        http_peers_leave(connection->server->peers, connection->address);
}

void http_connection_hand_on_locked(struct http_connection *connection)
{
    uncount_locked(connection);
    connection->is_handed_on = true;
}

void http_connection_remove_locked(struct http_connection *connection)
{
    struct http_server *server = connection->server;

    if (connection->previous)
        connection->previous->next = connection->next;
    else
        server->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    if (server->by_fd[connection->number] == connection)
        server->by_fd[connection->number] = NULL;
    uncount_locked(connection);
    /* Nothing to undo where the number is another's: the kernel forgets a socket with its last
     * descriptor. */
    if (!http_connection_is_dropped(connection))
        epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, connection->number, NULL);
    if (owns_descriptor(connection))
        close(connection->fd);
    pthread_cond_broadcast(&server->changed);
    free(connection);
}

static void close_locked(struct http_connection *connection)
{
    struct http_server *server = connection->server;
    int copy = -1;

    /* A socket that is closed with unread bytes resets the connection, and the answer is lost. */
    if (connection->must_linger && !connection->is_peer_closed && !atomic_load(&server->watch_ends))
        copy = fcntl(connection->fd, F_DUPFD_CLOEXEC, 3);
    if (copy >= 0) {
        shutdown(copy, SHUT_WR);
        (void)http_connection_add_locked(server, copy, connection->address, connection->is_counted,
                                         CONNECTION_LINGER);
    }
    http_connection_remove_locked(connection);
}

void http_connection_closed(struct http_connection *connection)
{
    struct http_server *server = connection->server;

    pthread_mutex_lock(&server->lock);
    close_locked(connection);
    pthread_mutex_unlock(&server->lock);
}

void http_connection_end_dropped_locked(struct http_connection *connection)
{
    const char *text = http_short_answer(503);

    if (!connection->server->options.tls_cert)
        (void)send(connection->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
    connection->must_linger = true;
    close_locked(connection);
}
