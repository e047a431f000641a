/* load_server PORT KEY polls PATH RATE SECONDS      requests at a fixed rate, whatever the answers
 * do load_server PORT KEY posts PATH BODY CONNECTIONS SECONDS   each connection one after the other
 * load_server PORT KEY streams PATH COUNT SECONDS   event streams that are only held
 *
 * Loads a server on 127.0.0.1 over HTTP/1.1 and prints what came back: answers by status, and their
 * latencies. Those of polls count from when a request was due, not from when it could be sent. KEY
 * "-" sends none. */
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

#define POLL_CONNECTIONS 32
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
    double *latencies;
    size_t latency_count, latency_capacity;
    long statuses[6]; /* by their first digit; 0: broken off */
    long long stream_bytes;
};

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
        load->statuses[0]++;
        reopen(load, connection);
    }
}

static void note_latency(struct load *load, double seconds)
{
    if (load->latency_count == load->latency_capacity) {
        load->latency_capacity = load->latency_capacity ? 2 * load->latency_capacity : 4096;
        load->latencies =
            reallocarray(load->latencies, load->latency_capacity, sizeof *load->latencies);
        if (!load->latencies)
            fail("memory");
    }
    load->latencies[load->latency_count++] = seconds;
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
            load->statuses[0]++;
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
    if (connection->used > strlen("HTTP/1.1 2"))
        load->statuses[(connection->answer[9] - '0') % 6]++;
    note_latency(load, seconds_now() - connection->due);
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

static void poll_at_rate(struct load *load, double rate, double seconds)
{
    double started = seconds_now(), next = started;

    open_all(load, POLL_CONNECTIONS, true);
    while (seconds_now() < started + seconds) {
        struct connection *connection;

        while (next <= seconds_now() && (connection = find_free(load))) {
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
    while (seconds_now() < started + seconds) {
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
    while (seconds_now() < started + seconds)
        wait_for_answers(load, 100);
    printf("%lld bytes came, %ld streams were broken off\n", load->stream_bytes, load->statuses[0]);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void print_answers(struct load *load, double seconds)
{
    size_t n = load->latency_count;

    printf("%zu answers, %.0f a second; 2xx %ld, 4xx %ld, 5xx %ld, broken off %ld\n", n,
           (double)n / seconds, load->statuses[2], load->statuses[4], load->statuses[5],
           load->statuses[0]);
    if (n == 0)
        return;
    qsort(load->latencies, n, sizeof *load->latencies, ascending);
    printf("latency in ms: median %.2f, p99 %.2f, p99.9 %.2f, most %.2f\n",
           1e3 * load->latencies[n / 2], 1e3 * load->latencies[n * 99 / 100],
           1e3 * load->latencies[n * 999 / 1000], 1e3 * load->latencies[n - 1]);
}

static char *make_request(const char *method, const char *path, const char *key, const char *body)
{
    char *request;

    if (asprintf(&request,
                 "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s%s%sContent-Type: application/json\r\n"
                 "Content-Length: %zu\r\n\r\n%s",
                 method, path, key[0] == '-' ? "" : "Authorization: Bearer ",
                 key[0] == '-' ? "" : key, key[0] == '-' ? "" : "\r\n", strlen(body), body) < 0)
        fail("memory");
    return request;
}

int main(int argc, char **argv)
{
    static struct load load;
    struct rlimit files;
    const char *mode = argc > 3 ? argv[3] : "";

    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    load.port = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0;
    if (strcmp(mode, "polls") == 0 && argc == 7) {
        load.request = make_request("GET", argv[4], argv[2], "");
        load.request_bytes = strlen(load.request);
        poll_at_rate(&load, strtod(argv[5], NULL), strtod(argv[6], NULL));
        print_answers(&load, strtod(argv[6], NULL));
    } else if (strcmp(mode, "posts") == 0 && argc == 8) {
        load.request = make_request("POST", argv[4], argv[2], argv[5]);
        load.request_bytes = strlen(load.request);
        post_all_the_time(&load, (int)strtol(argv[6], NULL, 10), strtod(argv[7], NULL));
        print_answers(&load, strtod(argv[7], NULL));
    } else if (strcmp(mode, "streams") == 0 && argc == 7) {
        load.request = make_request("GET", argv[4], argv[2], "");
        load.request_bytes = strlen(load.request);
        hold_streams(&load, (int)strtol(argv[5], NULL, 10), strtod(argv[6], NULL));
    } else {
        fprintf(stderr, "usage: load_server PORT KEY polls PATH RATE SECONDS\n"
                        "       load_server PORT KEY posts PATH BODY CONNECTIONS SECONDS\n"
                        "       load_server PORT KEY streams PATH COUNT SECONDS\n");
        return 2;
    }
    return 0;
}
