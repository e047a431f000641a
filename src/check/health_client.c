#include "check/health_client.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gnutls/gnutls.h>
#include <jansson.h>

#include "base/file.h"
#include "store/store.h"

#define ADDRESS_FILE "%s/" STORE_STATE_FOLDER "/address"
#define ANSWER_BYTES_MAX 65536
/* The Host that every server answers to. */
#define REQUEST                                                                                    \
    "GET /health/ready HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"                \
    "Connection: close\r\n\r\n"

/* --- The address --- */

struct health_address health_address_of(const char *host, int port, bool has_tls)
{
    struct health_address address = {.port = port, .has_tls = has_tls};

    if (strcmp(host, "0.0.0.0") == 0)
        host = "127.0.0.1";
    else if (strcmp(host, "::") == 0)
        host = "::1";
    snprintf(address.host, sizeof address.host, "%s", host);
    return address;
}

static bool address_path(char **path, const char *outputs, struct error *err)
{
    return asprintf(path, ADDRESS_FILE, outputs) >= 0 ||
           error_set(err, ERROR_NO_MEMORY, "path of the address");
}

bool health_address_write(const struct health_address *address, const char *outputs,
                          struct error *err)
{
    const bool is_v6 = strchr(address->host, ':') != NULL;
    char text[HEALTH_ADDRESS_BYTES];
    char *path;
    bool is_good;

    if (!address_path(&path, outputs, err))
        return false;
    snprintf(text, sizeof text, "%s://%s%s%s:%d\n", address->has_tls ? "https" : "http",
             is_v6 ? "[" : "", address->host, is_v6 ? "]" : "", address->port);
    is_good = file_write(path, text, strlen(text), err);
    free(path);
    return is_good;
}

void health_address_remove(const char *outputs)
{
    char *path;

    if (!address_path(&path, outputs, NULL))
        return;
    unlink(path);
    free(path);
}

/* "https://[::1]:7860" */
static bool parse_address(struct health_address *address, const char *text)
{
    const char *at = text;
    char *end;
    size_t length;
    long port;
    bool is_v6;

    *address = (struct health_address){.has_tls = strncmp(text, "https://", 8) == 0};
    if (!address->has_tls && strncmp(text, "http://", 7) != 0)
        return false;
    at += address->has_tls ? 8 : 7;
    is_v6 = *at == '[';
    at += is_v6;
    length = strcspn(at, is_v6 ? "]" : ":");
    if (length == 0 || length >= sizeof address->host || at[length] == '\0')
        return false;
    memcpy(address->host, at, length);
    at += length + is_v6;
    if (*at != ':' || at[1] < '0' || at[1] > '9')
        return false;
    port = strtol(at + 1, &end, 10);
    address->port = (int)port;
    return port > 0 && port <= 65535 && (*end == '\0' || strcmp(end, "\n") == 0);
}

bool health_address_read(struct health_address *address, const char *outputs, struct error *err)
{
    unsigned char *text = NULL;
    size_t size;
    char *path;
    bool is_good;

    if (!address_path(&path, outputs, err))
        return false;
    if (access(path, F_OK) != 0 && errno == ENOENT)
        is_good =
            error_set(err, ERROR_IO, "no server runs on '%s': there is no '%s'", outputs, path);
    else
        is_good = file_read(&text, &size, path, HEALTH_ADDRESS_BYTES, err) &&
                  (parse_address(address, (const char *)text) ||
                   error_set(err, ERROR_BAD_FILE, "'%s' holds no address", path));
    free(text);
    free(path);
    return is_good;
}

/* --- The question --- */

static bool open_socket(int *fd, const struct health_address *address, struct error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list;
    char service[16];
    int failure, number = 0;

    snprintf(service, sizeof service, "%d", address->port);
    failure = getaddrinfo(address->host, service, &hints, &list);
    if (failure != 0)
        return error_set(err, ERROR_IO, "'%s': %s", address->host, gai_strerror(failure));
    *fd = -1;
    for (const struct addrinfo *at = list; at && *fd < 0; at = at->ai_next) {
        *fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (*fd >= 0 && connect(*fd, at->ai_addr, at->ai_addrlen) == 0)
            break;
        number = errno;
        if (*fd >= 0)
            close(*fd);
        *fd = -1;
    }
    freeaddrinfo(list);
    return *fd >= 0 ||
           error_set_errno(err, number, "connecting to %s, port %d", address->host, address->port);
}

/* Sends the request; the answer as a text with a NUL, in `answer`. */
static bool talk_plainly(int fd, char *answer, struct error *err)
{
    size_t size = 0;
    ssize_t got;

    if (send(fd, REQUEST, strlen(REQUEST), MSG_NOSIGNAL) != (ssize_t)strlen(REQUEST))
        return error_set_errno(err, errno, "sending the request");
    while (size < ANSWER_BYTES_MAX &&
           (got = recv(fd, answer + size, ANSWER_BYTES_MAX - size, 0)) > 0)
        size += (size_t)got;
    answer[size] = '\0';
    return true;
}

static bool fail_tls(struct error *err, ssize_t status)
{
    return error_set(err, ERROR_IO, "TLS: %s", gnutls_strerror((int)status));
}

static bool talk_in_session(gnutls_session_t session, char *answer, struct error *err)
{
    size_t size = 0;
    ssize_t status;

    do
        status = gnutls_handshake(session);
    while (status < 0 && !gnutls_error_is_fatal((int)status));
    if (status == GNUTLS_E_SUCCESS)
        status = gnutls_record_send(session, REQUEST, strlen(REQUEST));
    if (status < 0)
        return fail_tls(err, status);
    while (size < ANSWER_BYTES_MAX &&
           (status = gnutls_record_recv(session, answer + size, ANSWER_BYTES_MAX - size)) > 0)
        size += (size_t)status;
    answer[size] = '\0';
    return true;
}

static bool talk_tls(int fd, char *answer, struct error *err)
{
    gnutls_certificate_credentials_t credentials = NULL;
    gnutls_session_t session = NULL;
    int status = gnutls_certificate_allocate_credentials(&credentials);
    bool is_good = false;

    if (status == GNUTLS_E_SUCCESS)
        status = gnutls_init(&session, GNUTLS_CLIENT);
    if (status == GNUTLS_E_SUCCESS)
        status = gnutls_set_default_priority(session);
    if (status == GNUTLS_E_SUCCESS)
        status = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    if (status == GNUTLS_E_SUCCESS) {
        gnutls_transport_set_int(session, fd);
        is_good = talk_in_session(session, answer, err);
    } else {
        (void)fail_tls(err, status);
    }
    if (session)
        gnutls_deinit(session);
    if (credentials)
        gnutls_certificate_free_credentials(credentials);
    return is_good;
}

/* From the answer's body: "ready", or why not. */
static bool read_state(const char *body, struct error *err)
{
    json_t *json = json_loads(body, 0, NULL);
    const char *status = json_string_value(json_object_get(json, "status"));
    const json_t *missing = json_object_get(json, "missing");
    const json_t *loading = json_object_get(json, "loading");
    const char *what = json_string_value(json_object_get(loading, "what"));
    char list[256] = "";
    size_t used = 0;

    for (size_t i = 0; i < json_array_size(missing) && used < sizeof list; i++) {
        const char *part = json_string_value(json_array_get(missing, i));

        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "",
                                 part ? part : "?");
    }
    if (status && strcmp(status, "ready") == 0) {
        json_decref(json);
        return true;
    }
    if (!status)
        error_set(err, ERROR_BACKEND, "what answers there is no sd35 server");
    else if (what && *what)
        error_set(err, ERROR_BACKEND, "not ready: %s, %s, %.0f %%", status, what,
                  100 * json_number_value(json_object_get(loading, "fraction")));
    else
        error_set(err, ERROR_BACKEND, "not ready: %s; missing: %s", status, list);
    json_decref(json);
    return false;
}

static bool read_answer(const char *answer, struct error *err)
{
    static const char start[] = "HTTP/1.1 ";
    const char *body = strstr(answer, "\r\n\r\n");
    long status;

    if (strncmp(answer, start, sizeof start - 1) != 0 || !body)
        return error_set(err, ERROR_BACKEND,
                         *answer ? "what answers there is no HTTP server"
                                 : "the server closed without an answer");
    status = strtol(answer + sizeof start - 1, NULL, 10);
    if (status != 200 && status != 503)
        return error_set(err, ERROR_BACKEND, "the server answers with status %ld", status);
    return read_state(body + 4, err);
}

bool health_ask(const struct health_address *address, struct error *err)
{
    char *answer = malloc(ANSWER_BYTES_MAX + 1);
    bool is_good;
    int fd;

    if (!answer)
        return error_set(err, ERROR_NO_MEMORY, "answer");
    if (!open_socket(&fd, address, err)) {
        free(answer);
        return false;
    }
    is_good = (address->has_tls ? talk_tls(fd, answer, err) : talk_plainly(fd, answer, err)) &&
              read_answer(answer, err);
    close(fd);
    free(answer);
    return is_good;
}
