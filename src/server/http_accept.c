/* Accepting: whom we take, and what the others are told. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/http_bind.h"
#include "server/http_private.h"

#define NAP_MS 10
#define BACKLOG 4096
#define ACCEPTS_AT_ONCE 256 /* then the deadlines have their turn */
#define REFUSED_AT_ONCE 256 /* connections beyond the limit that are being told so */

#define SHORT_ANSWER(status, headers, code, message)                                               \
    "HTTP/1.1 " status "\r\nContent-Type: application/json\r\nConnection: close\r\n"               \
    "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"                               \
    "Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n" headers        \
    "\r\n{\"error\":{\"code\":\"" code "\",\"message\":\"" message "\"}}"
#define LATER "Retry-After: 1\r\n"

const char *http_short_answer(int status)
{
    switch (status) {
    case 400:
        return SHORT_ANSWER("400 Bad Request", "", "bad_request",
                            "the body came in too many pieces");
    case 408:
        return SHORT_ANSWER("408 Request Timeout", "", "timeout", "the request came too slowly");
    case 413:
        return SHORT_ANSWER("413 Content Too Large", "", "request_too_large",
                            "the body is too large");
    case 429:
        return SHORT_ANSWER("429 Too Many Requests", LATER, "too_many_connections",
                            "this address has too many connections");
    default:
        return SHORT_ANSWER("503 Service Unavailable", LATER, "busy",
                            "the server has too much to do");
    }
}

static int port_of(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in ipv4;
        struct sockaddr_in6 ipv6;
    } address = {0};
    socklen_t size = sizeof address;

    if (getsockname(fd, &address.any, &size) != 0)
        return 0;
    return ntohs(address.any.sa_family == AF_INET6 ? address.ipv6.sin6_port
                                                   : address.ipv4.sin_port);
}

bool http_listen(struct http_server *server, const char *host, int port, struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN};
    int number;

    if (!http_bind_soon(&server->listen_fd, host, port, &number, err))
        return false;
    event.data.fd = server->listen_fd;
    if (listen(server->listen_fd, BACKLOG) != 0 ||
        epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, server->listen_fd, &event) != 0)
        return error_set_errno(err, errno, "listening on %s, port %d", host, port);
    server->port = port_of(server->listen_fd);
    return true;
}

/* What the client has sent already would turn a close into a reset, which eats the answer: so the
 * socket lingers, while there are not too many of its kind. */
static void refuse(struct http_server *server, int fd, const unsigned char address[16], int status)
{
    const char *text = http_short_answer(status);

    if (!server->options.tls_cert)
        (void)send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    pthread_mutex_lock(&server->lock);
    if (server->connection_count < server->limits.connections + REFUSED_AT_ONCE)
        (void)http_connection_add_locked(server, fd, address, false, CONNECTION_LINGER);
    else
        close(fd);
    pthread_mutex_unlock(&server->lock);
}

/* The spare descriptor lets one more in, to be told why it cannot stay. It is needed again at once,
 * so this one does not linger. False: it is lost for now. */
static bool refuse_without_descriptors(struct http_server *server)
{
    const char *text = http_short_answer(503);
    char unused[4096];
    int fd;

    if (server->spare_fd >= 0)
        close(server->spare_fd);
    fd = accept4(server->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        if (!server->options.tls_cert)
            (void)send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)!recv(fd, unused, sizeof unused, MSG_DONTWAIT);
        close(fd);
    }
    server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (server->spare_fd >= 0)
        return true;
    (void)poll(NULL, 0, NAP_MS); /* somebody else took it: do not spin until there are more */
    return false;
}

/* 0, or the status of the refusal. */
static int check_room_locked(struct http_server *server, const unsigned char address[16],
                             bool is_counted)
{
    if (server->connection_count >= server->limits.connections)
        return 503;
    if (is_counted &&
        !http_peers_enter(server->peers, address, server->limits.connections_per_address))
        return 429;
    return 0;
}

/* In libmicrohttpd's hands, or refused. */
static void hand_over(struct http_server *server, struct http_connection *connection, int fd,
                      const struct sockaddr_storage *from, socklen_t size)
{
    if (MHD_add_connection(server->daemon, fd, (const struct sockaddr *)from, size) == MHD_YES)
        return;
    /* It has closed fd, so the copy is the last: nobody else knows the connection. */
    pthread_mutex_lock(&server->lock);
    http_connection_end_dropped_locked(connection);
    pthread_mutex_unlock(&server->lock);
}

static void take(struct http_server *server, int fd, const struct sockaddr_storage *from,
                 socklen_t size)
{
    struct http_connection *connection = NULL;
    unsigned char address[16];
    int one = 1, status;
    bool is_counted;

    http_address_of(address, from);
    is_counted = !http_peers_trust(server->peers, address) &&
                 (server->limits.is_loopback_counted || !http_address_is_loopback(address));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    pthread_mutex_lock(&server->lock);
    status = check_room_locked(server, address, is_counted);
    if (status == 0) {
        connection = http_connection_accept_locked(server, fd, address, is_counted);
        if (is_counted) /* the connection counts itself */
            http_peers_leave(server->peers, address);
    }
    pthread_mutex_unlock(&server->lock);
    if (connection)
        hand_over(server, connection, fd, from, size);
    else
        refuse(server, fd, address, status ? status : 503);
}

void http_accept_all(struct http_server *server)
{
    for (int i = 0; i < ACCEPTS_AT_ONCE && !atomic_load(&server->is_stopping); i++) {
        struct sockaddr_storage from;
        socklen_t size = sizeof from;
        int fd = accept4(server->listen_fd, (struct sockaddr *)&from, &size,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0)
            take(server, fd, &from, size);
        else if (errno == EMFILE || errno == ENFILE ? !refuse_without_descriptors(server)
                                                    : errno != EINTR && errno != ECONNABORTED)
            return;
    }
}
