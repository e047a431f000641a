/* Ten thousand idle streams of events: what they cost. The clients are another process, because
 * each side needs a descriptor for each. Skipped loudly where the limit of descriptors is small. */
#include "http_fixture.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define STREAMS 10000
#define RESIDENT_BYTES_MAX ((size_t)64 << 20)

static size_t resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    size_t total = 0, resident = 0;

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%zu %zu", &total, &resident), 2);
    fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* Opens them all, each as a connection that asked for something else before, as a page does. */
static _Noreturn void be_clients(int port_pipe)
{
    static const char requests[] =
        "GET /health HTTP/1.1\r\n" HOST "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0)\r\n"
        "Accept: text/event-stream\r\nCookie: session=0123456789abcdef"
        "\r\n\r\nGET /events HTTP/1.1\r\n" HOST "\r\n";

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(port_pipe, &fixture_port, sizeof fixture_port) != sizeof fixture_port)
        _exit(1);
    for (int i = 0; i < STREAMS; i++)
        client_say(client_connect(), requests);
    for (;;)
        pause();
}

static bool has_descriptors(void)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= STREAMS + 500;
}

static void ten_thousand_idle_streams_stay_below_64_mib(void **state)
{
    struct http_limits limits = http_default_limits;
    size_t before, resident;
    int port_pipe[2];
    pid_t clients;

    (void)state;
    if (!has_descriptors()) {
        print_message("SKIPPED: %d streams need more descriptors than `ulimit -n` allows\n",
                      STREAMS);
        skip();
    }
    assert_int_equal(pipe(port_pipe), 0);
    clients = fork();
    assert_true(clients >= 0);
    if (clients == 0)
        be_clients(port_pipe[0]);
    limits.beat_seconds = 1; /* each of them beats several times */
    fixture_start(&limits);
    before = resident_bytes();
    assert_int_equal(write(port_pipe[1], &fixture_port, sizeof fixture_port),
                     (ssize_t)sizeof fixture_port);
    for (int i = 0; fixture_streams() < STREAMS; i++) {
        assert_true(i < 6000);
        usleep(10000);
    }
    assert_int_equal(fixture_tell("data: {}\n\n", 10), STREAMS);
    usleep(2500000);
    resident = resident_bytes();
    print_message("%d idle streams: %.1f MiB resident, %.1f before; %.0f bytes each\n", STREAMS,
                  (double)resident / 1048576, (double)before / 1048576,
                  (double)(resident - before) / STREAMS);
    assert_int_equal(fixture_streams(), STREAMS);
    assert_true(resident < RESIDENT_BYTES_MAX);
    kill(clients, SIGKILL);
    waitpid(clients, NULL, 0);
    wait_for(&fixture_closed, STREAMS);
    fixture_stop(1);
    close(port_pipe[0]);
    close(port_pipe[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_thousand_idle_streams_stay_below_64_mib),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
