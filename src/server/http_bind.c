#include "server/http_bind.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define SOON_SECONDS 2

/* -1 and errno when it fails. */
static int bind_one(const struct addrinfo *address)
{
    int one = 1, zero = 0, number;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (address->ai_family == AF_INET6) /* "::" is IPv4 as well */
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0)
        return fd;
    number = errno;
    close(fd);
    errno = number;
    return -1;
}

bool http_bind(int *fd, const char *host, int port, int *number, struct error *err)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list;
    char service[16];
    int failure, bound = -1;

    *number = 0;
    snprintf(service, sizeof service, "%d", port);
    failure = getaddrinfo(host, service, &hints, &list);
    if (failure != 0)
        return error_set(err, ERROR_BAD_REQUEST, "--host '%s': %s", host, gai_strerror(failure));
    for (const struct addrinfo *at = list; at && bound < 0; at = at->ai_next)
        if ((bound = bind_one(at)) < 0)
            *number = errno;
    freeaddrinfo(list);
    if (bound < 0)
        return error_set_errno(err, *number, "listening on %s, port %d", host, port);
    *fd = bound;
    return true;
}

bool http_bind_soon(int *fd, const char *host, int port, int *number, struct error *err)
{
    double end = seconds_now() + SOON_SECONDS;

    while (!http_bind(fd, host, port, number, err))
        if (*number != EADDRINUSE || !pause_until(end))
            return false;
    return true;
}
