#include "http_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WAITING_MAX 2048
#define PATIENCE_MS 20000

struct http_server *fixture_server;
int fixture_port;
atomic_int fixture_evil, fixture_gone, fixture_closed, fixture_done, fixture_slow;
atomic_int fixture_answered, fixture_pieces;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct http_exchange *waiting[WAITING_MAX]; /* under lock */
static int waiting_count;                          /* under lock */
struct listener {
    struct http_stream *stream;
    struct listener *next;
};
static struct listener *listeners; /* under lock */

/* --- Handlers --- */

static void reply_ok(struct http_exchange *exchange, void *context)
{
    (void)context;
    http_reply_text(exchange, 200, "text/plain", "ok");
}

static void reply_page(struct http_exchange *exchange, void *context)
{
    (void)context;
    http_reply_static(exchange, "text/html; charset=utf-8", "<p>", 3, "\"v1\"");
}

static void reply_evil(struct http_exchange *exchange, void *context)
{
    fixture_evil++;
    reply_ok(exchange, context);
}

static void reply_json(struct http_exchange *exchange, void *context)
{
    const json_t *body = http_json(exchange);

    (void)context;
    if (body)
        http_reply_json(exchange, 200, json_deep_copy(body));
}

static void reply_parts(struct http_exchange *exchange, void *context)
{
    size_t count;
    const struct http_part *parts = http_multipart(exchange, &count);
    json_t *list;

    (void)context;
    if (!parts)
        return;
    list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:s, s:s?, s:s?, s:i}", "name", parts[i].name,
                                              "filename", parts[i].filename, "type", parts[i].type,
                                              "size", (int)parts[i].size));
    http_reply_json(exchange, 200, list);
}

static void reply_size(struct http_exchange *exchange, void *context)
{
    size_t size;

    (void)context;
    http_body(exchange, &size);
    http_reply_json(exchange, 200, json_pack("{s:i}", "size", (int)size));
}

static void reply_values(struct http_exchange *exchange, void *context)
{
    char *base = http_base_url(exchange);

    (void)context;
    http_reply_json(exchange, 200,
                    json_pack("{s:s?, s:s?, s:s?, s:s, s:s, s:s, s:b}", "id",
                              http_path_value(exchange, "id"), "q", http_query(exchange, "q"),
                              "cookie", http_cookie(exchange, "session"), "path",
                              http_path(exchange), "client", http_client_address(exchange), "base",
                              base, "secure", http_is_secure(exchange)));
    free(base);
}

static void reply_file(struct http_exchange *exchange, void *context)
{
    int fd = open(context, O_RDONLY | O_CLOEXEC);

    http_reply_file(exchange, fd, "image/png", "\"f1\"", "pic\"ture.png");
}

static void count_gone(void *context)
{
    (void)context;
    fixture_gone++;
}

static void keep_waiting(struct http_exchange *exchange, void *context)
{
    (void)context;
    http_on_disconnect(exchange, count_gone, NULL);
    pthread_mutex_lock(&lock);
    waiting[waiting_count++] = exchange;
    pthread_mutex_unlock(&lock);
    fixture_slow++;
}

static void forget_listener(void *context)
{
    struct listener *listener = context;

    pthread_mutex_lock(&lock);
    for (struct listener **at = &listeners; *at; at = &(*at)->next) {
        if (*at == listener) {
            *at = listener->next;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    free(listener);
    fixture_closed++;
}

static void start_events(struct http_exchange *exchange, void *context)
{
    struct listener *listener = calloc(1, sizeof *listener);
    struct http_stream *stream;

    (void)context;
    pthread_mutex_lock(&lock);
    stream = http_start_stream(exchange, "text/event-stream", forget_listener, listener);
    if (stream) {
        listener->stream = stream;
        listener->next = listeners;
        listeners = listener;
    }
    pthread_mutex_unlock(&lock);
    if (!stream)
        free(listener);
}

static ssize_t make_piece(void *context, char *to, size_t room)
{
    int *left = context;

    if (*left == 0)
        return 0;
    if (*left < 0)
        return -1;
    --*left;
    memset(to, 'x', room);
    return (ssize_t)room;
}

static void end_pieces(void *context)
{
    free(context);
    fixture_done++;
}

static void reply_pieces(struct http_exchange *exchange, void *context)
{
    int *left = malloc(sizeof *left);
    const char *count = http_query(exchange, "count");

    (void)context;
    *left = count ? atoi(count) : 3;
    fixture_pieces++;
    http_reply_pieces(exchange, "application/zip", "all.zip", make_piece, end_pieces, left);
}

static void reply_bad_field(struct http_exchange *exchange, void *context)
{
    (void)context;
    http_reply_error(exchange, 422, "bad_value", "steps", 0, "steps must be %d to %d", 1, 100);
}

static const struct http_route routes[] = {
    {.method = HTTP_GET, .path = "/health", .handle = reply_ok, .is_quick = true},
    {.method = HTTP_GET, .path = "/evil", .handle = reply_evil, .is_quick = true},
    {.method = HTTP_GET, .path = "/pooled", .handle = reply_ok},
    {.method = HTTP_GET, .path = "/page", .handle = reply_page, .is_quick = true},
    {.method = HTTP_POST, .path = "/json", .handle = reply_json},
    {.method = HTTP_POST, .path = "/parts", .handle = reply_parts},
    {.method = HTTP_POST, .path = "/size", .handle = reply_size, .body_max = 100000},
    {.method = HTTP_GET, .path = "/items/{id}", .handle = reply_values, .is_quick = true},
    {.method = HTTP_DELETE, .path = "/items/{id}", .handle = reply_ok},
    {.method = HTTP_GET, .path = "/slow", .handle = keep_waiting, .is_quick = true},
    {.method = HTTP_GET, .path = "/slow-pooled", .handle = keep_waiting},
    {.method = HTTP_GET, .path = "/events", .handle = start_events, .is_quick = true},
    {.method = HTTP_GET, .path = "/events-pooled", .handle = start_events},
    {.method = HTTP_GET, .path = "/pieces", .handle = reply_pieces},
    {.method = HTTP_POST, .path = "/api/bad", .handle = reply_bad_field},
    {.method = HTTP_POST, .path = "/v1/bad", .handle = reply_bad_field, .style = STYLE_OPENAI},
    {.method = HTTP_POST, .path = "/sdapi/bad", .handle = reply_bad_field, .style = STYLE_A1111},
};
static const struct http_route file_routes[] = {
    {.method = HTTP_GET, .path = "/file", .handle = reply_file}};
static struct http_routes parts[] = {
    {routes, COUNT_OF(routes), NULL}, {file_routes, 1, NULL}, {NULL, 0, NULL}};

static void count_answer(void *context, struct http_exchange *exchange, int status, size_t bytes,
                         double seconds)
{
    (void)context;
    (void)exchange;
    (void)status;
    (void)bytes;
    (void)seconds;
    fixture_answered++;
}

/* --- The server --- */

struct http_limits fixture_limits(void)
{
    struct http_limits limits = http_default_limits;

    limits.tick_seconds = 0.02;
    return limits;
}

void fixture_start_with(const struct http_options *options, const struct http_limits *limits)
{
    struct error err = {0};

    fixture_evil = fixture_gone = fixture_closed = fixture_done = fixture_slow = 0;
    fixture_answered = fixture_pieces = 0;
    if (!parts[1].context)
        parts[1].context = (void *)test_write_file("file", "0123456789", 10);
    if (!http_server_start_with(&fixture_server, options, parts, limits, &err))
        fail_msg("%s", err.message);
    fixture_port = http_server_port(fixture_server);
}

void fixture_start(const struct http_limits *limits)
{
    const struct http_options options = {
        .host = "127.0.0.1", .threads = 4, .answered = count_answer};

    fixture_start_with(&options, limits);
}

void fixture_stop(double seconds)
{
    http_server_stop(fixture_server, seconds);
    fixture_server = NULL;
}

void fixture_release(void)
{
    for (;;) {
        struct http_exchange *exchange = NULL;

        pthread_mutex_lock(&lock);
        if (waiting_count > 0)
            exchange = waiting[--waiting_count];
        pthread_mutex_unlock(&lock);
        if (!exchange)
            return;
        http_reply_text(exchange, 200, "text/plain", "late");
    }
}

int fixture_setup(void **state)
{
    const struct http_limits limits = fixture_limits();

    (void)state;
    fixture_start(&limits);
    return 0;
}

int fixture_teardown(void **state)
{
    (void)state;
    fixture_release();
    if (fixture_server)
        fixture_stop(1);
    return 0;
}

int fixture_tell(const void *bytes, size_t size)
{
    int count = 0;

    pthread_mutex_lock(&lock);
    for (struct listener *listener = listeners; listener; listener = listener->next)
        count += http_stream_write(listener->stream, bytes, size);
    pthread_mutex_unlock(&lock);
    return count;
}

int fixture_streams(void)
{
    int count = 0;

    pthread_mutex_lock(&lock);
    for (struct listener *listener = listeners; listener; listener = listener->next)
        count++;
    pthread_mutex_unlock(&lock);
    return count;
}

void fixture_end_streams(void)
{
    pthread_mutex_lock(&lock);
    for (struct listener *listener = listeners; listener; listener = listener->next)
        http_stream_end(listener->stream);
    pthread_mutex_unlock(&lock);
}

/* --- The client --- */

int client_connect(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)fixture_port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail_msg("connect: %s", strerror(errno));
    return fd;
}

void client_send(int fd, const void *bytes, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);

        if (sent <= 0)
            return; /* the server may close early: what it answered counts */
        bytes = (const char *)bytes + sent;
        size -= (size_t)sent;
    }
}

void client_say(int fd, const char *text)
{
    client_send(fd, text, strlen(text));
}

/* 0 at the end; fails when nothing comes for long. */
static size_t read_some(int fd, char *to, size_t room)
{
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    ssize_t size;

    if (poll(&readable, 1, PATIENCE_MS) != 1)
        fail_msg("the server neither answers nor closes");
    size = recv(fd, to, room, 0);
    return size > 0 ? (size_t)size : 0;
}

char *client_read_all(int fd, size_t *size)
{
    char *text = malloc(ANSWER_BYTES_MAX + 1);
    size_t length = 0, got;

    assert_non_null(text);
    while (length < ANSWER_BYTES_MAX &&
           (got = read_some(fd, text + length, ANSWER_BYTES_MAX - length)) > 0)
        length += got;
    text[length] = '\0';
    close(fd);
    if (size)
        *size = length;
    return text;
}

char *client_read_answer(int fd)
{
    char *text = malloc(ANSWER_BYTES_MAX + 1), *end = NULL;
    size_t length = 0, wanted = 0;

    assert_non_null(text);
    text[0] = '\0';
    while (!end) {
        assert_true(length < 65536);
        if (read_some(fd, text + length, 1) == 0)
            return text;
        text[++length] = '\0';
        end = strstr(text, "\r\n\r\n");
    }
    end = strcasestr(text, "\r\nContent-Length:");
    wanted = length + (end ? strtoull(end + 17, NULL, 10) : 0);
    while (length < wanted) {
        size_t got = read_some(fd, text + length, wanted - length);

        if (got == 0)
            break;
        length += got;
    }
    text[length] = '\0';
    return text;
}

char *client_ask(const char *request)
{
    int fd = client_connect();

    client_say(fd, request);
    return client_read_all(fd, NULL);
}

int answer_status(const char *answer)
{
    return strncmp(answer, "HTTP/1.1 ", 9) == 0 ? atoi(answer + 9) : 0;
}

bool answer_has(const char *answer, const char *text)
{
    return strcasestr(answer, text) != NULL;
}

const char *answer_body(const char *answer)
{
    const char *end = strstr(answer, "\r\n\r\n");

    return end ? end + 4 : "";
}

void wait_for(atomic_int *value, int wanted)
{
    const struct timespec moment = {.tv_nsec = 1000000};

    for (int i = 0; i < PATIENCE_MS; i++) {
        if (atomic_load(value) >= wanted)
            return;
        nanosleep(&moment, NULL);
    }
    fail_msg("waited for %d, have %d", wanted, atomic_load(value));
}
