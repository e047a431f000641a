/* Connections that libmicrohttpd drops without a word, for it has no memory for them: the number of
 * their descriptor soon means something else, which must not feel it. */
#include "http_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HEALTH "GET /health HTTP/1.1\r\n" HOST "\r\n"
#define TRIES 50

static atomic_bool pools_fail;
/* glibc's own, whose names are reserved. */
void *real_malloc(size_t size) __asm__("__libc_malloc");
void *real_calloc(size_t count, size_t size) __asm__("__libc_calloc");

/* What libmicrohttpd takes for each connection, and nobody else while a test says so. */
static bool has_failed(size_t size)
{
    if (!pools_fail || size <= 32 << 10 || size > 64 << 10)
        return false;
    errno = ENOMEM;
    return true;
}

/* These three are libmicrohttpd's, too: it tries to map, then to allocate. */
void *malloc(size_t size)
{
    return has_failed(size) ? NULL : real_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return has_failed(count * size) ? NULL : real_calloc(count, size);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    if ((flags & MAP_ANONYMOUS) && has_failed(size))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}

static int start(void **state)
{
    struct http_limits limits = fixture_limits();

    (void)state;
    limits.tick_seconds = 0.2; /* to be there before the watch is */
    limits.linger_seconds = 60;
    fixture_start(&limits);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    pools_fail = false;
    fixture_stop(1);
    return 0;
}

static struct http_connection *find_dropped_locked(void)
{
    struct http_connection *c = fixture_server->connections;

    while (c && !http_connection_is_dropped(c))
        c = c->next;
    return c;
}

/* Returns under server->lock; *client is the other side. */
static struct http_connection *drop_one(int *client)
{
    for (int tries = 0; tries < TRIES; tries++) {
        pools_fail = true;
        *client = client_connect();
        for (int i = 0; i < 1000; i++) {
            struct http_connection *dropped;

            pthread_mutex_lock(&fixture_server->lock);
            dropped = find_dropped_locked();
            pools_fail = !dropped;
            if (dropped)
                return dropped;
            pthread_mutex_unlock(&fixture_server->lock);
            usleep(1000);
        }
        close(*client); /* the watch was quicker */
    }
    fail_msg("libmicrohttpd drops no connection");
    return NULL;
}

/* A pair of sockets, one of which has this number, which was closed. */
static void take_number(int pair[2], int number)
{
    int made[2];

    assert_int_equal(fcntl(number, F_GETFD), -1);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, made), 0);
    if (made[0] != number) {
        assert_int_equal(dup2(made[0], number), number);
        close(made[0]);
        if (made[1] == number)
            fail_msg("both ends are one");
    }
    pair[0] = number;
    pair[1] = made[1];
}

static void wait_until_none_is_dropped(void)
{
    struct http_connection *dropped;
    int i = 0;

    do {
        usleep(10000);
        pthread_mutex_lock(&fixture_server->lock);
        dropped = find_dropped_locked();
        pthread_mutex_unlock(&fixture_server->lock);
    } while (dropped && i++ < 1000);
    assert_null(dropped);
}

static void expect_that_it_carries(const int pair[2])
{
    char byte = 'x';

    for (int i = 0; i < 2; i++) {
        assert_int_equal(send(pair[i], &byte, 1, MSG_NOSIGNAL), 1);
        assert_int_equal(recv(pair[1 - i], &byte, 1, MSG_DONTWAIT), 1);
    }
    assert_int_equal(recv(pair[0], &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(recv(pair[1], &byte, 1, MSG_DONTWAIT), -1);
}

static void somebody_elses_socket_with_the_number_lives_on(void **state)
{
    struct http_connection *dropped;
    int client, pair[2];
    char *answer;

    (void)state;
    dropped = drop_one(&client);
    take_number(pair, dropped->number);
    pthread_mutex_unlock(&fixture_server->lock);
    answer = client_read_all(client, NULL); /* told by the watch, which shuts it */
    assert_int_equal(answer_status(answer), 503);
    free(answer);
    wait_until_none_is_dropped();
    expect_that_it_carries(pair);
    close(pair[0]);
    close(pair[1]);
    answer = client_ask(HEALTH "GET /health HTTP/1.0\r\n" HOST "\r\n");
    assert_int_equal(answer_status(answer), 200);
    free(answer);
}

static void a_stream_of_ours_with_the_number_lives_on(void **state)
{
    static const unsigned char address[16] = {0};
    struct http_connection *dropped, *ours;
    int client, pair[2];

    (void)state;
    dropped = drop_one(&client);
    take_number(pair, dropped->number);
    /* Lingering sockets are kept as streams are, and need no more than a socket. */
    ours = http_connection_add_locked(fixture_server, pair[0], address, false, CONNECTION_LINGER);
    assert_non_null(ours);
    pthread_mutex_unlock(&fixture_server->lock);
    wait_until_none_is_dropped();
    pthread_mutex_lock(&fixture_server->lock);
    assert_ptr_equal(fixture_server->by_fd[pair[0]], ours);
    assert_int_equal(fcntl(pair[0], F_GETFD), FD_CLOEXEC);
    http_connection_remove_locked(ours); /* closes it */
    assert_null(fixture_server->by_fd[pair[0]]);
    pthread_mutex_unlock(&fixture_server->lock);
    close(pair[1]);
    close(client);
}

static void a_new_connection_with_the_number_is_served(void **state)
{
    int clients[8];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(clients); i++) {
        char *answer;
        int fd;

        (void)drop_one(&clients[i]);
        pthread_mutex_unlock(&fixture_server->lock);
        fd = client_connect();
        client_say(fd, HEALTH);
        answer = client_read_answer(fd);
        assert_int_equal(answer_status(answer), 200);
        free(answer);
        close(fd);
    }
    wait_until_none_is_dropped();
    for (size_t i = 0; i < COUNT_OF(clients); i++)
        close(clients[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(somebody_elses_socket_with_the_number_lives_on, start,
                                        stop),
        cmocka_unit_test_setup_teardown(a_stream_of_ours_with_the_number_lives_on, start, stop),
        cmocka_unit_test_setup_teardown(a_new_connection_with_the_number_is_served, start, stop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
