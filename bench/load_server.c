/* Loads a server on 127.0.0.1 over HTTP/1.1 and prints what came back.
 *
 *   load_server PORT KEY rate PATH BODY RATE SECONDS         requests when they are due
 *   load_server PORT KEY posts PATH BODY CONNECTIONS SECONDS each connection as fast as it can
 *   load_server PORT KEY streams PATH COUNT SECONDS          event streams that are only held
 *
 * Answers are counted by the first digit of their status, each with its latencies; those of `rate`
 * count from when a request was due, not from when it could be sent. BODY "-" makes a GET. KEY "-"
 * sends none. SIGTERM ends it before its seconds are over. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"

#define RATE_CONNECTIONS 64
#define CONNECTIONS_MAX 20000
#define ANSWER_BYTES_MAX (1 << 16)
#define EVENTS_AT_ONCE 256

struct connection {
    int fd;
    bool is_busy;
    double due; /* when the request was to be sent */
    size_t used;
    char *answer; /* [ANSWER_BYTES_MAX]; NULL: streams keep nothing */
};

struct load {
    const char *request;
    size_t request_bytes;
    int port, epoll;
    struct connection connections[CONNECTIONS_MAX];
    int connection_count;
    struct latencies {
        double *seconds;
        size_t count, capacity;
    } latencies[6];            /* by the first digit of the status */
    struct latencies lateness; /* of sending, after it was due: the machine's own delay */
    long broken_off;
    long long stream_bytes;
};

static volatile sig_atomic_t is_over;

static void end_early(int number)
{
    (void)number;
    is_over = 1;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void open_connection(struct load *load, struct connection *connection)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)load->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    int one = 1;

    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0 ||
        connect(connection->fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("connect");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, connection->fd, &event) != 0)
        fail("epoll");
    connection->used = 0;
    connection->is_busy = false;
}

static void reopen(struct load *load, struct connection *connection)
{
    close(connection->fd);
    open_connection(load, connection);
}

static void send_request(struct load *load, struct connection *connection, double due)
{
    connection->due = due;
    connection->is_busy = true;
    connection->used = 0;
    if (send(connection->fd, load->request, load->request_bytes, MSG_NOSIGNAL) !=
        (ssize_t)load->request_bytes) {
        load->broken_off++;
        reopen(load, connection);
    }
}

static void note_latency(struct latencies *latencies, double seconds)
{
    if (latencies->count == latencies->capacity) {
        latencies->capacity = latencies->capacity ? 2 * latencies->capacity : 4096;
        latencies->seconds =
            reallocarray(latencies->seconds, latencies->capacity, sizeof *latencies->seconds);
        if (!latencies->seconds)
            fail("memory");
    }
    latencies->seconds[latencies->count++] = seconds;
}

/* The bytes that a whole answer has; 0: it is not all there yet. */
static size_t answer_bytes(const struct connection *connection)
{
    const char *end = memmem(connection->answer, connection->used, "\r\n\r\n", 4);
    const char *length = strcasestr(connection->answer, "\r\nContent-Length:");
    size_t head;

    if (!end)
        return 0;
    head = (size_t)(end - connection->answer) + 4;
    if (!length || length > end)
        return head;
    return head + strtoul(length + strlen("\r\nContent-Length:"), NULL, 10);
}

/* False: nothing is there to read now. */
static bool receive(struct load *load, struct connection *connection)
{
    char unused[65536];
    char *to = connection->answer ? connection->answer + connection->used : unused;
    size_t room = connection->answer ? ANSWER_BYTES_MAX - 1 - connection->used : sizeof unused,
           wanted;
    ssize_t got = recv(connection->fd, to, room, 0);

    if (got < 0 && errno == EAGAIN)
        return false;
    if (got <= 0) {
        if (connection->is_busy || !connection->answer)
            load->broken_off++;
        if (connection->answer)
            reopen(load, connection);
        else
            epoll_ctl(load->epoll, EPOLL_CTL_DEL, connection->fd, NULL);
        return false;
    }
    if (!connection->answer) {
        load->stream_bytes += got;
        return true;
    }
    connection->used += (size_t)got;
    connection->answer[connection->used] = '\0';
    wanted = answer_bytes(connection);
    if (wanted == 0 || connection->used < wanted)
        return true;
    note_latency(&load->latencies[(connection->answer[strlen("HTTP/1.1 ")] & 7) % 6],
                 seconds_now() - connection->due);
    connection->is_busy = false;
    if (strcasestr(connection->answer, "\r\nConnection: close"))
        reopen(load, connection);
    return false;
}

static void wait_for_answers(struct load *load, int milliseconds)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = epoll_wait(load->epoll, events, EVENTS_AT_ONCE, milliseconds);

    for (int i = 0; i < count; i++)
        while (receive(load, events[i].data.ptr))
            continue;
}

static struct connection *find_free(struct load *load)
{
    for (int i = 0; i < load->connection_count; i++)
        if (!load->connections[i].is_busy)
            return &load->connections[i];
    return NULL;
}

static void open_all(struct load *load, int count, bool keeps_answers)
{
    load->connection_count = count;
    for (int i = 0; i < count; i++) {
        if (keeps_answers && !(load->connections[i].answer = malloc(ANSWER_BYTES_MAX)))
            fail("memory");
        open_connection(load, &load->connections[i]);
    }
}

static void send_at_rate(struct load *load, double rate, double seconds)
{
    double started = seconds_now(), next = started;

    open_all(load, RATE_CONNECTIONS, true);
    while (!is_over && seconds_now() < started + seconds) {
        struct connection *connection;

        while (next <= seconds_now() && (connection = find_free(load))) {
            note_latency(&load->lateness, seconds_now() - next);
            send_request(load, connection, next);
            next += 1.0 / rate;
        }
        wait_for_answers(load, 1);
    }
}

static void post_all_the_time(struct load *load, int connections, double seconds)
{
    double started = seconds_now();

    open_all(load, connections, true);
    while (!is_over && seconds_now() < started + seconds) {
        struct connection *connection;

        while ((connection = find_free(load)))
            send_request(load, connection, seconds_now());
        wait_for_answers(load, 10);
    }
}

static void hold_streams(struct load *load, int count, double seconds)
{
    double started;

    for (int i = 0; i < count; i++) {
        open_connection(load, &load->connections[i]);
        load->connection_count++;
        send_request(load, &load->connections[i], seconds_now());
        wait_for_answers(load, 0);
    }
    started = seconds_now();
    printf("%d streams are open\n", count);
    fflush(stdout);
    while (!is_over && seconds_now() < started + seconds)
        wait_for_answers(load, 100);
    printf("%lld bytes came, %ld streams were broken off\n", load->stream_bytes, load->broken_off);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void print_latencies(const char *name, struct latencies *latencies)
{
    size_t n = latencies->count;

    if (n == 0)
        return;
    qsort(latencies->seconds, n, sizeof *latencies->seconds, ascending);
    printf("%s %zu, ms: median %.2f, p99 %.2f, p99.9 %.2f, most %.2f\n", name, n,
           1e3 * latencies->seconds[n / 2], 1e3 * latencies->seconds[n * 99 / 100],
           1e3 * latencies->seconds[n * 999 / 1000], 1e3 * latencies->seconds[n - 1]);
}

static void print_answers(struct load *load, double seconds)
{
    size_t total = 0;

    for (int i = 0; i < 6; i++)
        total += load->latencies[i].count;
    printf("%zu answers, %.0f a second; broken off %ld\n", total, (double)total / seconds,
           load->broken_off);
    for (int i = 0; i < 6; i++) {
        char name[] = {(char)('0' + i), 'x', 'x', '\0'};

        print_latencies(name, &load->latencies[i]);
    }
    print_latencies("sent late", &load->lateness);
}

/* `body` NULL: a GET. */
static void make_request(struct load *load, const char *path, const char *key, const char *body)
{
    const bool has_key = strcmp(key, "-") != 0;
    char *request;

    if (asprintf(&request,
                 "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s%s%sContent-Type: application/json\r\n"
                 "Content-Length: %zu\r\n\r\n%s",
                 body ? "POST" : "GET", path, has_key ? "Authorization: Bearer " : "",
                 has_key ? key : "", has_key ? "\r\n" : "", body ? strlen(body) : 0,
                 body ? body : "") < 0)
        fail("memory");
    load->request = request;
    load->request_bytes = strlen(request);
}

static void prepare(void)
{
    const struct sigaction action = {.sa_handler = end_early};
    struct rlimit files;

    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &action, NULL);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

int main(int argc, char **argv)
{
    static struct load load;
    const char *mode = argc > 3 ? argv[3] : "";
    double started = seconds_now();

    prepare();
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    load.port = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0;
    if (strcmp(mode, "rate") == 0 && argc == 8) {
        make_request(&load, argv[4], argv[2], strcmp(argv[5], "-") == 0 ? NULL : argv[5]);
        send_at_rate(&load, strtod(argv[6], NULL), strtod(argv[7], NULL));
        print_answers(&load, seconds_now() - started);
    } else if (strcmp(mode, "posts") == 0 && argc == 8) {
        make_request(&load, argv[4], argv[2], argv[5]);
        post_all_the_time(&load, (int)strtol(argv[6], NULL, 10), strtod(argv[7], NULL));
        print_answers(&load, seconds_now() - started);
    } else if (strcmp(mode, "streams") == 0 && argc == 7) {
        make_request(&load, argv[4], argv[2], NULL);
        hold_streams(&load, (int)strtol(argv[5], NULL, 10), strtod(argv[6], NULL));
    } else {
        fprintf(stderr, "usage: load_server PORT KEY rate PATH BODY RATE SECONDS\n"
                        "       load_server PORT KEY posts PATH BODY CONNECTIONS SECONDS\n"
                        "       load_server PORT KEY streams PATH COUNT SECONDS\n");
        return 2;
    }
    return 0;
}
