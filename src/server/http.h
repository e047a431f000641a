/* HTTP: requests in, responses out, over libmicrohttpd; the only files that know it are http_*.c.
 *
 * A request that is whole and well-formed, within the limits of server/limits.h, and that the gate
 * let through, becomes an exchange and goes to its route's handler on one of a few threads; a row
 * marked `is_quick` is answered on the connection's own thread and must never wait. A handler may
 * answer later, from any thread: the connection sleeps until then.
 */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"

struct http_server;
struct http_exchange; /* one request and its answer; freed by itself once answered */
struct http_stream;   /* an answer without an end, server-sent events */

enum http_method {
    HTTP_GET,
    HTTP_POST,
    HTTP_DELETE,
    HTTP_PATCH,
    HTTP_PUT,
    HTTP_HEAD,
    HTTP_OPTIONS
};
const char *http_method_name(enum http_method method);

/* Who may. Bits of store_key.scopes. */
enum http_scope {
    SCOPE_PUBLIC = 0, /* nobody is asked: health, login, the page's files */
    SCOPE_GENERATE = 1,
    SCOPE_READ = 2,
    SCOPE_METRICS = 4,
    SCOPE_ADMIN = 8,
};

enum http_error_style { STYLE_NATIVE, STYLE_OPENAI, STYLE_A1111 };

struct http_route {
    enum http_method method;
    const char
        *path; /* "/api/v1/jobs/{id}": {name} is one segment; "{rest*}" at the end, the rest */
    enum http_scope scope;
    enum http_error_style style; /* of the errors that are raised before the handler */
    bool is_quick;
    size_t body_max; /* 0: HTTP_JSON_BYTES_MAX of limits.h */
    void (*handle)(struct http_exchange *exchange, void *context);
    /* For openapi.json. */
    const char *summary;
    const char *tag;                           /* "Jobs", "OpenAI", "AUTOMATIC1111", "Server" */
    json_t *(*request_schema)(void *context);  /* new reference; NULL: no JSON body */
    json_t *(*response_schema)(void *context); /* of 200 or 202; NULL: any */
    const char *response_type;                 /* NULL: "application/json" */
};

/* A part of the program with routes of its own. */
struct http_routes {
    const struct http_route *routes;
    size_t count;
    void *context; /* for the handlers and schemas */
};

/* Who asks, after the gate. */
struct http_identity {
    char name[65]; /* owner of jobs; "local" when there is no login */
    uint32_t scopes;
    int32_t jobs_per_minute; /* 0: no limit */
    bool is_browser;         /* came by a cookie */
};

struct http_gate {
    /* Fills exchange's identity or answers the exchange and returns false. Quick: never waits for
     * a disk; may hand slow work (bcrypt) to its own thread and call http_pass later, returning
     * false now. */
    bool (*check)(void *context, struct http_exchange *exchange, const struct http_route *route);
    void *context;
};

struct http_options {
    const char *host;               /* "0.0.0.0", "::", "127.0.0.1" */
    int port;                       /* 0: any, see http_server_port */
    const char *tls_cert, *tls_key; /* PEM files; NULL: no TLS */
    int threads;                    /* of handlers */
    const struct http_gate *gate;
    /* Called once for each answer, for log and metrics, from any thread. */
    void (*answered)(void *context, struct http_exchange *exchange, int status, size_t bytes,
                     double seconds);
    void *answered_context;
    const char *const *trusted_proxies; /* "10.0.0.0/8", ..., NULL at the end; NULL: none */
};

/* `parts` ends with one whose routes are NULL; borrowed. */
MUST_CHECK bool http_server_start(struct http_server **out, const struct http_options *options,
                                  const struct http_routes *parts, struct error *err);
int http_server_port(const struct http_server *server);
/* No new connections; answers that are under way get until `seconds` from now; then closes. */
void http_server_stop(struct http_server *server, double seconds);

/* --- The request --- */

const struct http_route *
http_route_of(const struct http_exchange *exchange);               /* NULL: none matched */
const char *http_request_id(const struct http_exchange *exchange); /* also sent as X-Request-Id */
enum http_method http_method_of(const struct http_exchange *exchange);
const char *http_path(const struct http_exchange *exchange); /* decoded */
const char *http_path_value(const struct http_exchange *exchange,
                            const char *name);                                   /* NULL: none */
const char *http_query(const struct http_exchange *exchange, const char *name);  /* NULL: none */
const char *http_header(const struct http_exchange *exchange, const char *name); /* NULL: none */
int http_header_count(const struct http_exchange *exchange, const char *name);
const char *http_cookie(const struct http_exchange *exchange, const char *name);
const char *
http_client_address(const struct http_exchange *exchange); /* behind trusted proxies too */
/* Of the connection itself: the proxy's where there is one. */
const char *http_peer_address(const struct http_exchange *exchange);
bool http_is_secure(const struct http_exchange *exchange); /* TLS, or a trusted proxy says so */
/* "https://host" as the client sees it, for absolute links. To be freed; NULL: memory is short. */
char *http_base_url(const struct http_exchange *exchange);
const void *http_body(const struct http_exchange *exchange, size_t *size);
/* The body as JSON, parsed once with the limits of limits.h; NULL: answered with an error already.
 * Borrowed. An empty body is an empty object. */
const json_t *http_json(struct http_exchange *exchange);

struct http_part {
    const char *name, *filename, *type; /* filename and type NULL: a plain field */
    const void *bytes;
    size_t size;
};
/* The parts of a multipart/form-data body; NULL: answered with an error already. Borrowed. */
const struct http_part *http_multipart(struct http_exchange *exchange, size_t *count);

struct http_identity *http_identity_of(struct http_exchange *exchange);

/* --- The answer: exactly one of these for each exchange --- */

/* Added to the answer; before it. */
void http_add_header(struct http_exchange *exchange, const char *name, const char *value);
/* Steals `body`. */
void http_reply_json(struct http_exchange *exchange, int status, json_t *body);
void http_reply_text(struct http_exchange *exchange, int status, const char *type,
                     const char *text);
/* Copies the bytes. */
void http_reply_bytes(struct http_exchange *exchange, int status, const char *type,
                      const void *bytes, size_t size);
/* Steals the bytes, which are malloc's. */
void http_reply_buffer(struct http_exchange *exchange, int status, const char *type, char *bytes,
                       size_t size);
/* Bytes that live as long as the program. `etag` NULL: none; answers 304 by itself. */
void http_reply_static(struct http_exchange *exchange, const char *type, const void *bytes,
                       size_t size, const char *etag);
/* Sends a file and owns `fd`. Answers ranges and If-None-Match by itself. */
void http_reply_file(struct http_exchange *exchange, int fd, const char *type, const char *etag,
                     const char *download_name);
/* Bytes that a function makes piece by piece on a handler thread: large downloads. `read` returns
 * how many it wrote, 0 at the end, -1 to break the connection off. `done` is called in any case. */
void http_reply_pieces(struct http_exchange *exchange, const char *type, const char *download_name,
                       ssize_t (*read)(void *context, char *to, size_t room),
                       void (*done)(void *context), void *context);

/* An error in the style of the route, with the request's id; code is a fixed word of ours
 * ("queue_full"), field "" or the field that is wrong. retry_after seconds, 0: no such header. */
void http_reply_error(struct http_exchange *exchange, int status, const char *code,
                      const char *field, int retry_after, const char *format, ...)
    PRINTF_LIKE(6, 7);

/* Turns the answer into a stream of events. The exchange, and what was read of it, may be gone once
 * this returned. `closed` is called once, from any thread, when the
 * client is gone or the stream ended; the handle is dead after it returned. That may be before this
 * call returned: whoever keeps the handle in `context` holds a lock meanwhile that `closed` takes.
 * NULL: no memory or descriptors; answered with an error, and `closed` is never called. */
struct http_stream *http_start_stream(struct http_exchange *exchange, const char *type,
                                      void (*closed)(void *context), void *context);
/* Never waits. False when the client reads too slowly (more than STREAM_BYTES_MAX and more than
 * two of the largest writes wait): it is dropped, and `closed` follows. */
bool http_stream_write(struct http_stream *stream, const void *bytes, size_t size);
void http_stream_end(struct http_stream *stream);
/* Whether the client of an exchange that is not answered yet is still there, as far as is known.
 * The exchange is to be answered all the same; once the answer's call returned, `gone` does not run
 * any more. So do not answer while you hold a lock that `gone` takes. */
void http_on_disconnect(struct http_exchange *exchange, void (*gone)(void *context), void *context);

/* For a quick handler that finds it has to wait: goes on with `handler` on a handler thread, at
 * once (the rest of the quick handler runs beside it). */
void http_continue_on_thread(struct http_exchange *exchange,
                             void (*handler)(struct http_exchange *exchange, void *context),
                             void *context);

/* For a gate that decides later: goes on to the handler. */
void http_pass(struct http_exchange *exchange);

/* Every route of the server, for openapi.json and the tests. */
const struct http_routes *http_server_routes(const struct http_server *server);

#endif
