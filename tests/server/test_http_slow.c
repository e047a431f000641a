/* The HTTP server and time: clients that are slow, go away, or come in crowds; and its end while
 * they are there. The limits are small, so that nothing here waits long. */
#include "http_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define HEALTH_HEAD "GET /health HTTP/1.1\r\n" HOST
#define HEALTH HEALTH_HEAD "\r\n"
#define EVENTS "GET /events HTTP/1.1\r\n" HOST "\r\n"
#define SLOW "GET /slow HTTP/1.1\r\n" HOST "\r\n"

static void restart(const struct http_limits *limits)
{
    fixture_stop(1);
    fixture_start(limits);
}

/* Sends a byte now and then until the server closes; what it answered. */
static char *trickle(int fd, const char *text)
{
    double begin = seconds_now();
    struct pollfd readable = {.fd = fd, .events = POLLIN};

    while (poll(&readable, 1, 20) == 0) {
        client_send(fd, *text ? text++ : "x", 1);
        assert_true(seconds_now() - begin < 20);
    }
    return client_read_all(fd, NULL);
}

static void slow_headers_are_cut_off(void **state)
{
    struct http_limits limits = fixture_limits();
    char *answer;
    int fd;

    (void)state;
    limits.header_seconds = 0.3;
    restart(&limits);
    answer = trickle(client_connect(), "GET /health HTTP/1.1\r\n" HOST "X-A: ");
    assert_int_equal(answer_status(answer), 408);
    free(answer);
    answer = trickle(client_connect(), "GE"); /* a request line without an end */
    assert_int_equal(answer_status(answer), 408);
    free(answer);
    fd = client_connect(); /* and the second request of a connection */
    client_say(fd, HEALTH);
    free(client_read_answer(fd));
    answer = trickle(fd, "GET /health HTTP/1.1\r\n" HOST "X-A: ");
    assert_int_equal(answer_status(answer), 408);
    free(answer);
    fd = client_connect(); /* or a piece of it, and nothing more */
    client_say(fd, HEALTH);
    free(client_read_answer(fd));
    usleep(100000);
    client_say(fd, "GET /hea");
    answer = client_read_all(fd, NULL);
    assert_int_equal(answer_status(answer), 408);
    free(answer);
    answer = client_ask(""); /* nothing at all */
    assert_string_equal(answer, "");
    free(answer);
}

static void idle_connections_are_closed(void **state)
{
    struct http_limits limits = fixture_limits();
    char *answer;
    int fd;

    (void)state;
    limits.idle_seconds = 0.5;
    limits.header_seconds = 0.1; /* is for those that have begun, which this one has not */
    restart(&limits);
    fd = client_connect();
    client_say(fd, HEALTH);
    free(client_read_answer(fd));
    answer = client_read_all(fd, NULL);
    assert_string_equal(answer, "");
    free(answer);
}

static void slow_bodies_are_cut_off(void **state)
{
    static const char request[] = "POST /size HTTP/1.1\r\n" HOST "Content-Length: 90000\r\n\r\n";
    struct http_limits limits = fixture_limits();
    char *answer;
    int fd;

    (void)state;
    limits.body_grace_seconds = 0.2; /* too few bytes in each second */
    restart(&limits);
    fd = client_connect();
    client_say(fd, request);
    answer = trickle(fd, "b");
    assert_int_equal(answer_status(answer), 408);
    free(answer);

    limits.body_grace_seconds = 100; /* too long in all */
    limits.body_seconds = 0.3;
    restart(&limits);
    fd = client_connect();
    client_say(fd, request);
    answer = trickle(fd, "b");
    assert_int_equal(answer_status(answer), 408);
    free(answer);
}

static void clients_that_do_not_read_are_cut_off(void **state)
{
    struct http_limits limits = fixture_limits();

    (void)state;
    limits.stall_seconds = 0.3;
    restart(&limits);
    for (int i = 0; i < 2; i++) {
        int fd = client_connect(), bytes = 4096;

        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
        client_say(fd, i ? EVENTS : "GET /pieces?count=1000 HTTP/1.1\r\n" HOST "\r\n");
        if (i) {
            char *event = calloc(1, 8 << 20);

            while (fixture_streams() == 0)
                usleep(1000);
            fixture_tell(event, 8 << 20);
            free(event);
            wait_for(&fixture_closed, 1);
        } else {
            wait_for(&fixture_done, 1);
        }
        close(fd);
    }
}

static void streams_beat(void **state)
{
    struct http_limits limits = fixture_limits();
    char text[4096];
    size_t length = 0;
    int fd;

    (void)state;
    limits.beat_seconds = 0.1;
    restart(&limits);
    fd = client_connect();
    client_say(fd, EVENTS);
    do {
        ssize_t got = recv(fd, text + length, sizeof text - 1 - length, 0);

        assert_true(got > 0);
        length += (size_t)got;
        text[length] = '\0';
    } while (!strstr(text, "4\r\n: \n\n\r\n4\r\n: \n\n\r\n"));
    close(fd);
    wait_for(&fixture_closed, 1);
}

static void streams_that_are_not_read_are_dropped(void **state)
{
    char event[1024];
    int fds[20], told;
    size_t written = 0;

    (void)state;
    memset(event, 'e', sizeof event);
    for (int i = 0; i < 20; i++) {
        fds[i] = client_connect();
        client_say(fds[i], EVENTS);
    }
    while (fixture_streams() < 20)
        usleep(1000);
    do {
        told = fixture_tell(event, sizeof event);
        written += told > 0 ? sizeof event : 0;
        assert_true(written < 64u << 20);
        if (told == 0) /* the watch is about to close them */
            usleep(1000);
    } while (told > 0 || fixture_streams() > 0);
    wait_for(&fixture_closed, 20);
    for (int i = 0; i < 20; i++)
        close(fds[i]);
}

static void close_hard(int fd)
{
    const struct linger hard = {.l_onoff = 1};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}

static void clients_that_go_away_are_noticed(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        int fd = client_connect();
        double begin;

        client_say(fd, i < 2 ? SLOW : "GET /slow-pooled HTTP/1.1\r\n" HOST "\r\n");
        wait_for(&fixture_slow, i + 1);
        begin = seconds_now();
        if (i % 2)
            close_hard(fd);
        else
            close(fd);
        wait_for(&fixture_gone, i + 1);
        assert_true(seconds_now() - begin < 1);
        fixture_release(); /* into the void */
        wait_for(&fixture_answered, i + 1);
    }
}

static void streams_whose_clients_go_away_are_closed(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++) {
        int fd = client_connect();

        client_say(fd, EVENTS);
        if (i % 3) {
            while (fixture_streams() == 0)
                usleep(500);
        }
        if (i % 2)
            close_hard(fd);
        else
            close(fd);
        if (i % 3) {
            while (fixture_streams() > 0)
                usleep(500);
        }
    }
    while (fixture_streams() > 0)
        usleep(500);
}

static int connections(void)
{
    int count;

    pthread_mutex_lock(&fixture_server->lock);
    count = fixture_server->connection_count;
    pthread_mutex_unlock(&fixture_server->lock);
    return count;
}

/* The end often comes together with the bytes: in one of fifty or so libmicrohttpd does not see it.
 */
static void ends_that_come_with_bytes_are_seen(void **state)
{
    static const char *const requests[] = {"GET / HTTP/1.1\r\nHost: loc",
                                           "POST /size HTTP/1.1\r\n" HOST
                                           "Content-Length: 20\r\n\r\n01234",
                                           "GET /health HTTP/1.1\r\n" HOST "\r\n"};
    struct http_limits limits = http_default_limits;

    (void)state;
    limits.header_seconds = limits.body_seconds = limits.idle_seconds = 1000;
    limits.body_grace_seconds = 1000;
    limits.tick_seconds = 0.05;
    restart(&limits);
    for (int i = 0; i < 1000; i++) {
        int fd = client_connect();

        client_say(fd, requests[i % 3]);
        close(fd);
    }
    while (connections() > 0)
        usleep(1000);
}

static void requests_may_be_cut_at_every_byte(void **state)
{
    static const char *const requests[] = {
        "POST /size HTTP/1.1\r\n" HOST "Content-Length: 20\r\n\r\n0123456789012345678",
        "POST /size HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r",
        "GET /pieces?count=3 HTTP/1.1\r\n" HOST "\r\n",
    };
    char *answer;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(requests); i++) {
        for (size_t size = 1; size <= strlen(requests[i]); size++) {
            int fd = client_connect();

            client_send(fd, requests[i], size);
            if (size % 2)
                close_hard(fd);
            else
                close(fd);
        }
    }
    answer = client_ask("GET /health HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    assert_int_equal(answer_status(answer), 200);
    free(answer);
}

/* --- Crowds --- */

static void connections_beyond_the_limit_are_told(void **state)
{
    struct http_limits limits = fixture_limits();
    int fds[8];

    (void)state;
    for (int is_per_address = 0; is_per_address < 2; is_per_address++) {
        char *answer;

        limits.connections = is_per_address ? 100 : 8;
        limits.connections_per_address = is_per_address ? 8 : 100;
        limits.is_loopback_counted = true;
        restart(&limits);
        for (int i = 0; i < 8; i++) {
            fds[i] = client_connect();
            client_say(fds[i], HEALTH);
            answer = client_read_answer(fds[i]);
            assert_int_equal(answer_status(answer), 200);
            free(answer);
        }
        answer = client_ask(HEALTH);
        assert_int_equal(answer_status(answer), is_per_address ? 429 : 503);
        assert_true(answer_has(answer, "Retry-After: "));
        free(answer);
        close(fds[0]);
        do { /* until the server has seen that one left */
            int fd = client_connect();

            client_say(fd, HEALTH);
            answer = client_read_answer(fd);
            close(fd);
            fds[0] = answer_status(answer);
            free(answer);
        } while (fds[0] != 200);
        for (int i = 1; i < 8; i++)
            close(fds[i]);
    }
}

static void running_out_of_descriptors_is_survived(void **state)
{
    int fds[64], spare[2048], count = 0;
    struct rlimit before, small;
    char *answer;

    (void)state;
    getrlimit(RLIMIT_NOFILE, &before);
    small = before;
    for (int i = 0; i < 64; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(fds[i] >= 0);
    }
    small.rlim_cur = 256;
    setrlimit(RLIMIT_NOFILE, &small);
    while (count < 2048 && (spare[count] = open("/dev/null", O_RDONLY)) >= 0)
        count++;
    for (int i = 0; i < 64; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_port = htons((uint16_t)fixture_port),
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

        assert_int_equal(connect(fds[i], (struct sockaddr *)&address, sizeof address), 0);
        client_say(fds[i], HEALTH);
    }
    answer = client_read_answer(fds[63]);
    assert_true(*answer == '\0' || answer_status(answer) == 503);
    free(answer);
    while (count > 0)
        close(spare[--count]);
    for (int i = 0; i < 64; i++)
        close(fds[i]);
    setrlimit(RLIMIT_NOFILE, &before);
    answer = client_ask("GET /health HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    assert_int_equal(answer_status(answer), 200);
    free(answer);
}

/* --- The end --- */

static void *release(void *unused)
{
    (void)unused;
    fixture_release();
    return NULL;
}

static void the_end_waits_for_answers_under_way(void **state)
{
    int fd = client_connect();
    pthread_t thread;
    char *answer;

    (void)state;
    client_say(fd, SLOW);
    wait_for(&fixture_slow, 1);
    pthread_create(&thread, NULL, release, NULL);
    fixture_stop(10);
    pthread_join(thread, NULL);
    answer = client_read_all(fd, NULL);
    assert_string_equal(answer_body(answer), "late");
    free(answer);
}

/* Asks again and again on many connections, until the server is gone. */
static void *keep_asking(void *argument)
{
    enum { COUNT = 32 };
    static const char request[] = HEALTH_HEAD "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\n";
    const atomic_bool *is_over = argument;
    int fds[COUNT];
    char unused[4096];

    for (int i = 0; i < COUNT; i++)
        fds[i] = client_connect();
    while (!atomic_load(is_over)) {
        for (int i = 0; i < COUNT; i++) {
            (void)send(fds[i], request, strlen(request), MSG_NOSIGNAL | MSG_DONTWAIT);
            (void)recv(fds[i], unused, sizeof unused, MSG_DONTWAIT);
        }
    }
    for (int i = 0; i < COUNT; i++)
        close(fds[i]);
    return NULL;
}

/* libmicrohttpd drops what it is given once it is told to stop, and asks for it again. */
static void requests_may_come_while_it_stops(void **state)
{
    const struct http_limits limits = fixture_limits();

    (void)state;
    for (int i = 0; i < 20; i++) {
        atomic_bool is_over = false;
        pthread_t thread;

        pthread_create(&thread, NULL, keep_asking, &is_over);
        wait_for(&fixture_answered, 100);
        fixture_stop(1);
        atomic_store(&is_over, true);
        pthread_join(thread, NULL);
        fixture_start(&limits);
    }
}

static void the_end_does_not_wait_for_ever(void **state)
{
    enum { COUNT = 30 };
    int waiting[COUNT], streams[COUNT], pieces[COUNT], idle, half;
    char *answer;
    double begin;

    (void)state;
    idle = client_connect();
    client_say(idle, HEALTH);
    free(client_read_answer(idle));
    half = client_connect();
    client_say(half, "POST /size HTTP/1.1\r\n" HOST "Content-Length: 9\r\n\r\nabc");
    for (int i = 0; i < COUNT; i++) {
        waiting[i] = client_connect();
        client_say(waiting[i], i % 2 ? SLOW : "GET /slow-pooled HTTP/1.1\r\n" HOST "\r\n");
        streams[i] = client_connect();
        client_say(streams[i], EVENTS);
        pieces[i] = client_connect();
        client_say(pieces[i], "GET /pieces?count=1000 HTTP/1.1\r\n" HOST "\r\n");
    }
    wait_for(&fixture_slow, COUNT);
    wait_for(&fixture_pieces, COUNT);
    while (fixture_streams() < COUNT)
        usleep(1000);
    begin = seconds_now();
    fixture_stop(0.1);
    assert_true(seconds_now() - begin < 8);
    assert_int_equal(fixture_closed, COUNT);
    assert_int_equal(fixture_done, COUNT);
    assert_int_equal(fixture_gone, COUNT);
    for (int i = 0; i < COUNT; i++) {
        answer = client_read_all(waiting[i], NULL);
        assert_int_equal(answer_status(answer), 503);
        free(answer);
        free(client_read_all(streams[i], NULL));
        free(client_read_all(pieces[i], NULL));
    }
    answer = client_read_all(idle, NULL);
    assert_string_equal(answer, "");
    free(answer);
    free(client_read_all(half, NULL));
    fixture_release(); /* their answers come too late, and do no harm */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(slow_headers_are_cut_off),
        TEST(idle_connections_are_closed),
        TEST(slow_bodies_are_cut_off),
        TEST(clients_that_do_not_read_are_cut_off),
        TEST(streams_beat),
        TEST(streams_that_are_not_read_are_dropped),
        TEST(clients_that_go_away_are_noticed),
        TEST(streams_whose_clients_go_away_are_closed),
        TEST(ends_that_come_with_bytes_are_seen),
        TEST(requests_may_be_cut_at_every_byte),
        TEST(connections_beyond_the_limit_are_told),
        TEST(running_out_of_descriptors_is_survived),
        TEST(the_end_waits_for_answers_under_way),
        TEST(requests_may_come_while_it_stops),
        TEST(the_end_does_not_wait_for_ever),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
