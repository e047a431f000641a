/* Connections: ours beside libmicrohttpd's, so that deadlines can be kept and partings noticed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/http_private.h"

/* Streams and lingering sockets are ours; the others are libmicrohttpd's to close. */
static bool owns_descriptor(enum connection_state state)
{
    return state == CONNECTION_STREAM || state == CONNECTION_LINGER;
}

uint64_t http_bytes_received(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof info;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
        return 0;
    return info.tcpi_bytes_received;
}

void http_connection_enter_locked(struct http_connection *connection, enum connection_state state)
{
    connection->state = state;
    connection->since = seconds_now();
    connection->body_received = 0;
    connection->unsent = 0;
    if (state == CONNECTION_IDLE)
        connection->received_at_idle = http_bytes_received(connection->fd);
}

struct http_connection *http_connection_of(struct http_server *server, int fd)
{
    struct http_connection *connection = NULL;

    pthread_mutex_lock(&server->lock);
    if (fd >= 0 && (size_t)fd < server->fd_count)
        connection = server->by_fd[fd];
    pthread_mutex_unlock(&server->lock);
    return connection;
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

struct http_connection *http_connection_add_locked(struct http_server *server, int fd,
                                                   const unsigned char address[16], bool is_counted,
                                                   enum connection_state state)
{
    struct http_connection *connection = calloc(1, sizeof *connection);

    /* libmicrohttpd may close a descriptor without a word when its memory is short. */
    if ((size_t)fd < server->fd_count && server->by_fd[fd])
        http_connection_remove_locked(server->by_fd[fd]);
    if (!connection || !make_room_for(server, fd) ||
        (is_counted && !http_peers_enter(server->peers, address, INT32_MAX))) {
        free(connection);
        close(fd);
        return NULL;
    }
    *connection = (struct http_connection){
        .server = server, .next = server->connections, .fd = fd, .is_counted = is_counted};
    memcpy(connection->address, address, sizeof connection->address);
    http_connection_enter_locked(connection, state);
    if (connection->next)
        connection->next->previous = connection;
    server->connections = connection;
    server->by_fd[fd] = connection;
    server->connection_count++;
    if (watch_descriptor(server, fd, state))
        return connection;
    if (!owns_descriptor(state))
        close(fd);
    http_connection_remove_locked(connection);
    return NULL;
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
    server->by_fd[connection->fd] = NULL;
    server->connection_count--;
    if (connection->is_counted)
        http_peers_leave(server->peers, connection->address);
    epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
    if (owns_descriptor(connection->state))
        close(connection->fd);
    pthread_cond_broadcast(&server->changed);
    free(connection);
}

void http_connection_forget(struct http_server *server, int fd)
{
    pthread_mutex_lock(&server->lock);
    if (server->by_fd[fd])
        http_connection_remove_locked(server->by_fd[fd]);
    pthread_mutex_unlock(&server->lock);
}

void http_connection_closed(struct http_connection *connection)
{
    struct http_server *server = connection->server;
    int copy = -1;

    pthread_mutex_lock(&server->lock);
    /* A socket that is closed with unread bytes resets the connection, and the answer is lost. */
    if (connection->must_linger && !connection->is_peer_closed && !atomic_load(&server->watch_ends))
        copy = fcntl(connection->fd, F_DUPFD_CLOEXEC, 3);
    if (copy >= 0) {
        shutdown(copy, SHUT_WR);
        (void)http_connection_add_locked(server, copy, connection->address, connection->is_counted,
                                         CONNECTION_LINGER);
    }
    http_connection_remove_locked(connection);
    pthread_mutex_unlock(&server->lock);
}
