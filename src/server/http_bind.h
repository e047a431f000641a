/* The address that a server listens on, taken. */
#ifndef SERVER_HTTP_BIND_H
#define SERVER_HTTP_BIND_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"

/* A socket bound to the first address of `host` that can be had; nobody can connect before
 * listen(). Fails with ERROR_BAD_REQUEST and *number 0 when the host is unknown, else with ERROR_IO
 * and *number = errno. */
MUST_CHECK bool http_bind(int *fd, const char *host, int port, int *number, struct error *err);

/* The same for who starts now: a server that was killed a moment ago may not be wholly gone, and
 * its port is waited for, two seconds at most. */
MUST_CHECK bool http_bind_soon(int *fd, const char *host, int port, int *number, struct error *err);

#endif
