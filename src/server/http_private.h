/* What the http_*.c files share; nobody else includes it.
 *
 * Threads: libmicrohttpd's few, which parse and send; the watch (http_watch.c), which accepts,
 * keeps the deadlines, notices who went away and writes the streams of events; the handlers
 * (http_threads.c). Locks, in the order in which they may be taken: server->lock, exchange->lock,
 * stream->lock or source->lock. None is held while a handler, gate, `gone`, `closed` or `done`
 * runs.
 */
#ifndef SERVER_HTTP_PRIVATE_H
#define SERVER_HTTP_PRIVATE_H

#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

#include "server/http.h"
#include "server/limits.h"

/* What tests make small. */
struct http_limits {
    double header_seconds, body_seconds, idle_seconds, stall_seconds, beat_seconds;
    double linger_seconds, tick_seconds, body_grace_seconds;
    size_t stream_bytes, bodies_bytes, body_rate;
    int connections, connections_per_address;
    bool is_loopback_counted; /* by address, as everybody else */
};
extern const struct http_limits http_default_limits;
MUST_CHECK bool http_server_start_with(struct http_server **out, const struct http_options *options,
                                       const struct http_routes *parts,
                                       const struct http_limits *limits, struct error *err);

/* --- Handler threads (http_threads.c) --- */

struct http_task {
    void (*run)(struct http_task *task);
    struct http_task *next;
};
struct http_threads;
MUST_CHECK bool http_threads_create(struct http_threads **out, int count, struct error *err);
/* Runs what is queued, then ends. NULL is fine. */
void http_threads_destroy(struct http_threads *threads);
void http_threads_run(struct http_threads *threads, struct http_task *task);

/* --- Addresses (http_peers.c) --- */

struct http_network {
    unsigned char address[16]; /* IPv4 as ::ffff:a.b.c.d */
    int bits;
};
struct http_peers;
/* Parses the trusted networks. */
MUST_CHECK bool http_peers_create(struct http_peers **out, const char *const *trusted,
                                  struct error *err);
void http_peers_destroy(struct http_peers *peers);
bool http_address_parse(unsigned char address[16], const char *text);
void http_address_of(unsigned char address[16], const struct sockaddr_storage *from);
void http_address_format(char text[INET6_ADDRSTRLEN], const unsigned char address[16]);
bool http_network_parse(struct http_network *network, const char *text);
bool http_peers_trust(const struct http_peers *peers, const unsigned char address[16]);
bool http_address_is_loopback(const unsigned char address[16]);
/* Counts connections by address; false: `limit` are there or memory is short. Under server->lock.
 */
bool http_peers_enter(struct http_peers *peers, const unsigned char address[16], int limit);
void http_peers_leave(struct http_peers *peers, const unsigned char address[16]);

/* --- Connections (http_connections.c; the thread that watches them is http_watch.c) --- */

enum connection_state {
    CONNECTION_HEADERS, /* from the first byte (the first request: from the accept) */
    CONNECTION_BODY,
    CONNECTION_BUSY, /* with the gate, the handler, or being answered */
    CONNECTION_IDLE, /* between requests */
    CONNECTION_STREAM,
    CONNECTION_LINGER, /* answered and half closed: what the client still sends is thrown away */
};

struct http_connection { /* all fields under server->lock, but those fixed at the accept */
    struct http_server *server;
    struct http_connection *next, *previous;
    int fd;     /* what may be acted upon: see is_unconfirmed */
    int number; /* fixed: libmicrohttpd's descriptor, or our own: its place in by_fd */
    unsigned char address[16]; /* fixed */
    bool is_counted;           /* fixed: by address */
    /* Until libmicrohttpd has told that it has the connection, it may close its descriptor without
     * a word when memory is short, and the number may be a file's a moment later. So long `fd` is a
     * copy of our own. */
    bool is_unconfirmed;
    enum connection_state state;
    double since; /* when the state began */
    size_t body_received;
    int unsent;          /* bytes in the kernel's queue */
    double unsent_since; /* since when it has not changed */
    bool is_peer_closed;
    double peer_closed_at; /* of seconds_now(); 0: not */
    bool is_handed_on;     /* a stream of ours goes on with it, and is what counts */
    bool must_linger;
    bool is_abandoned;              /* its exchange was told to end */
    struct http_exchange *exchange; /* NULL: none */
    struct http_stream *stream;     /* of CONNECTION_STREAM */
};

MUST_CHECK bool http_watch_start(struct http_server *server, struct error *err);
void http_watch_stop(struct http_server *server);
/* Once it returns, libmicrohttpd gets no new connection: it may be stopped. */
void http_watch_stop_accepting(struct http_server *server);
/* libmicrohttpd has the connection of this descriptor, and will tell before it closes it. NULL:
 * there is none of ours. */
struct http_connection *http_connection_confirm(struct http_server *server, int fd);
/* libmicrohttpd has closed its descriptor without a word: the connection is ours to end. */
bool http_connection_is_dropped(const struct http_connection *connection);
void http_connection_end_dropped_locked(struct http_connection *connection); /* by a 503 */
void http_connection_enter_locked(struct http_connection *connection, enum connection_state state);
/* Forgets it; lingers on a copy of its descriptor when it must. */
void http_connection_closed(struct http_connection *connection);
/* A connection of our own over `fd`, which it owns; NULL: memory or descriptors are short, and fd
 * is closed. */
struct http_connection *http_connection_add_locked(struct http_server *server, int fd,
                                                   const unsigned char address[16], bool is_counted,
                                                   enum connection_state state);
/* A connection that libmicrohttpd is about to get; NULL: the same, and fd is the caller's still. */
struct http_connection *http_connection_accept_locked(struct http_server *server, int fd,
                                                      const unsigned char address[16],
                                                      bool is_counted);
/* Under server->lock: the connection's socket goes on in an entry of its own; this one counts no
 * more against the limits. */
void http_connection_hand_on_locked(struct http_connection *connection);
void http_connection_remove_locked(struct http_connection *connection);
uint64_t http_bytes_received(int fd);
double http_seconds_since_receipt(int fd); /* of the last bytes, to about 10 ms */

/* Accepts what waits (http_accept.c). */
MUST_CHECK bool http_listen(struct http_server *server, const char *host, int port,
                            struct error *err);
void http_accept_all(struct http_server *server);
/* The text of an answer that the watch sends by itself. */
const char *http_short_answer(int status);

/* --- Requests --- */

struct http_field {
    const char *name, *value;
};

#define PATH_VALUES_MAX 8

enum http_phase {
    PHASE_NEW,
    PHASE_REFUSED, /* answered without asking the gate */
    PHASE_GATE,    /* asked; http_pass or an answer comes later */
    PHASE_PASSED,  /* the gate said yes */
    PHASE_BODY,
    PHASE_HANDLER,
};

struct http_exchange {
    struct http_task task; /* first: what the handler threads queue */
    struct http_server *server;
    struct http_connection *connection; /* dead once is_abandoned */
    struct MHD_Connection *mhd;         /* dead once is_abandoned */
    atomic_int references;              /* libmicrohttpd's, the handler's, the watch's */
    char request_id[17];
    unsigned char address[16]; /* of the peer */
    bool is_counted;
    double started;

    /* The request; fixed once the handler runs. */
    char *target;                                                     /* as it came */
    void (*continued)(struct http_exchange *exchange, void *context); /* http_continue_on_thread */
    void *continued_context;
    uintptr_t where; /* of the target in libmicrohttpd's buffer: http_shape.c */
    enum http_method method;
    bool is_method_known, is_head, is_http_1_0, is_chunked, must_close;
    char *text; /* names and values of the headers */
    struct http_field *headers;
    size_t header_count;
    char *path;
    char *query_text;
    struct http_field *query;
    size_t query_count;
    struct http_field path_values[PATH_VALUES_MAX];
    size_t path_value_count;
    char *path_text;
    const struct http_route *route;
    void *route_context;
    char client[INET6_ADDRSTRLEN], peer[INET6_ADDRSTRLEN];
    bool is_trusted_peer;
    char *cookie;
    struct http_identity identity;

    char *body;
    size_t body_size, body_room, body_limit;
    size_t body_calls; /* of libmicrohttpd: at least one for each chunk */
    json_t *json;
    struct http_part *parts;
    size_t part_count;
    char *part_text;

    pthread_mutex_t lock;
    pthread_cond_t gone_done;
    enum http_phase phase; /* under lock, as all below */
    bool is_suspended;
    bool is_answered;
    bool must_end;     /* the server stops: it may not wait for an answer any more */
    bool is_abandoned; /* nobody waits for its answer */
    bool is_taken;     /* the answer goes over a socket of our own */
    bool is_gone, gone_runs;
    pthread_t gone_thread;
    void (*gone)(void *context);
    void *gone_context;
    int status;
    size_t bytes;
    struct MHD_Response *response;
    struct http_source *source;
    struct http_field *added; /* headers of the answer, before it */
    size_t added_count;
};

struct http_exchange *http_exchange_create(struct http_server *server, struct MHD_Connection *mhd,
                                           const char *target);
void http_exchange_unref(struct http_exchange *exchange);
/* The client went away. */
void http_exchange_gone(struct http_exchange *exchange);
/* 503, whatever its handler does later. */
void http_exchange_abandon(struct http_exchange *exchange);
/* libmicrohttpd has forgotten the request: what comes later goes nowhere. */
void http_exchange_leave(struct http_exchange *exchange);
/* Takes `response`; NULL: the answer goes another way. False when it was abandoned. */
bool http_exchange_answer(struct http_exchange *exchange, int status, size_t bytes,
                          struct MHD_Response *response);
void http_exchange_report(struct http_exchange *exchange, size_t bytes);
enum MHD_Result http_on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **context);

/* Checks the shape of a request as it came, byte for byte (http_shape.c). 0: fine; otherwise the
 * status, and *why. Copies the headers. */
int http_check_shape(struct http_exchange *exchange, const char *method, const char *version,
                     const char **why);
/* Fills what the accessors find. False: answered. */
bool http_read_request(struct http_exchange *exchange);
/* Finds the route; otherwise answers. False: answered. */
bool http_find_route(struct http_exchange *exchange);
/* Whether `pattern` matches the path as it came. Fills values (at most `room`) with decoded text in
 * `text`, which has room for strlen(path) + 1 bytes for each. -1: no; otherwise how many. */
int http_match_path(const char *pattern, const char *path, struct http_field *values, int room,
                    char *text);

/* Decodes %XX (http_target.c); false: broken, or something that has no place in a path or query:
 * NUL, control bytes, no UTF-8, and '/' unless allow_slash. `out` has room for strlen + 1. */
bool http_decode(char *out, const char *text, size_t size, bool is_query, bool allow_slash);
bool http_text_is_utf8(const char *text, size_t size);
/* Splits and decodes "a=1&b=2". *text and *fields are the caller's to free. */
bool http_query_parse(struct http_field **fields, size_t *count, char **text, const char *query);

/* Checks what jansson does not: how deep, how many (http_json.c). NULL: fine. */
const char *http_json_scan(const char *text, size_t size);

/* http_multipart.c. `bytes` is borrowed, also by the parts. NULL: fine; otherwise what is wrong. */
const char *http_multipart_parse(struct http_part **parts, size_t *count, char **text,
                                 const char *type, const char *bytes, size_t size);

/* Whether two names of headers are the same one. */
bool http_same_name(const char *a, const char *b);
/* Headers that every answer has. */
void http_response_headers(struct http_exchange *exchange, struct MHD_Response *response,
                           const char *type);
/* The same as text, for answers over a socket of our own. */
char *http_head_text(struct http_exchange *exchange, int status, const char *type, size_t *size);
bool http_has_added(const struct http_exchange *exchange, const char *name);
/* http_file.c. */
bool http_etag_matches(const char *list, const char *etag); /* list NULL: no */
/* 200: all of it; 206: *length bytes from *from; 416. */
int http_range_parse(const char *range, uint64_t size, uint64_t *from, uint64_t *length);
void http_add_download(struct http_exchange *exchange, const char *name);
enum http_error_style http_style_of(const struct http_exchange *exchange);
const char *http_reason(int status);

/* --- Answers that come piece by piece through libmicrohttpd (http_source.c) --- */

struct http_source {
    struct http_task task; /* first: fills the buffer */
    struct http_server *server;
    struct MHD_Connection *mhd;
    atomic_int references; /* libmicrohttpd's, the filling task's or the stream's */
    ssize_t (*read)(void *context, char *to, size_t room); /* NULL: a stream */
    void (*done)(void *context);
    void *context;
    void (*released)(void *context); /* when libmicrohttpd is through; NULL: nobody asks */
    void *released_context;

    pthread_mutex_t lock;
    char *bytes; /* under lock, as all below */
    size_t from, size, room, sent;
    bool is_suspended, is_filling, is_ended, is_broken;
};
struct http_source *http_source_create(struct http_exchange *exchange);
void http_source_unref(struct http_source *source);
struct MHD_Response *http_source_response(struct http_source *source);
/* False: more than `limit` would wait. */
bool http_source_write(struct http_source *source, const void *bytes, size_t size, size_t limit);
size_t http_source_sent(struct http_source *source); /* bytes so far */
void http_source_end(struct http_source *source, bool is_broken);

/* --- Streams (http_stream.c); called by the watch alone --- */

void http_stream_beat(struct http_stream *stream, double now);
void http_stream_flush(struct http_stream *stream);
void http_stream_destroy(struct http_stream *stream); /* calls closed */
void http_stream_break(struct http_stream *stream);
void http_stream_detach(struct http_stream *stream); /* nothing is written any more */
/* The next of those under TLS; under server->lock. */
struct http_stream *http_stream_next_tls(const struct http_stream *stream);

/* --- The server --- */

void http_server_unref(struct http_server *server);

struct http_server {
    atomic_int references; /* http_server_stop's, and one of each exchange */
    struct http_options options;
    struct http_limits limits;
    const struct http_routes *parts;
    struct MHD_Daemon *daemon;
    struct http_threads *threads;
    struct http_peers *peers;
    char *tls_cert, *tls_key;
    int port;
    uint64_t id_seed;
    atomic_uint_fast64_t id_next;
    atomic_size_t bodies_bytes;
    int spare_fd; /* given up to refuse somebody when descriptors run out; the watch's alone */

    pthread_t watch;
    bool has_watch;
    int listen_fd, wake_fd, epoll_fd;
    atomic_bool is_stopping, watch_ends;

    pthread_mutex_t lock;
    pthread_cond_t changed;         /* an exchange or a connection ended */
    struct http_connection **by_fd; /* under lock, as all below */
    struct http_connection *connections;
    size_t fd_count;
    int connection_count;
    int exchange_count;
    bool is_accepting;
    struct http_stream *tls_streams;
};

#endif
