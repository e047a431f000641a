/* The supervisor with children that are tiny functions. Each test runs it in a process of its own,
 * and hears of what happens over pipes. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/log.h"
#include "server/supervisor.h"
#include "support/support.h"

/* What a child writes to the test: one of these each time it starts or sees something. */
struct note {
    /* F front started, W worker came to the front, E it ended, T the front got SIGTERM, H SIGHUP */
    char what;
    int32_t pid;
    uint32_t restarts; /* of E: how */
};

static struct scene {
    int notes[2];
    enum front_behaviour {
        FRONT_SERVES,
        FRONT_CRASHES,
        FRONT_CANNOT_START,
        FRONT_IGNORES,
        FRONT_DIES_SLOWLY /* its worker's channel closes first */
    } front;
    bool worker_hangs; /* the front has it killed */
    int worker_code;   /* of a worker that ends at once; -1: it lives until its channel closes */
    enum scout_behaviour {
        SCOUT_NONE,
        SCOUT_SAYS_THREE,
        SCOUT_SAYS_NOTHING, /* and ends */
        SCOUT_HANGS
    } scout;
} scene;

static void note(char what, int32_t pid, uint32_t restarts)
{
    struct note said = {what, pid, restarts};

    if (write(scene.notes[1], &said, sizeof said) != (ssize_t)sizeof said)
        _exit(99);
}

static volatile sig_atomic_t got_term, got_hup;
static void on_signal(int signal)
{
    if (signal == SIGTERM)
        got_term = 1;
    else
        got_hup = 1;
}

static void hear_news(int control_fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    union {
        struct worker_arrived arrived;
        struct worker_ended ended;
    } news;
    const struct worker_arrived *arrived = &news.arrived;
    struct iovec part = {&news, sizeof news};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    struct front_says says = {.word = FRONT_KILL_WORKER};

    ssize_t size = recvmsg(control_fd, &message, MSG_DONTWAIT);

    if (size == (ssize_t)sizeof news.ended)
        note('E', news.ended.pid, news.ended.end);
    if (size != (ssize_t)sizeof news.arrived)
        return;
    if (control.header.cmsg_len != CMSG_LEN(2 * sizeof(int)))
        _exit(98);
    note('W', arrived->pid, arrived->restarts);
    says.index = arrived->index;
    if (scene.worker_hangs)
        (void)!send(control_fd, &says, sizeof says, 0);
    if (scene.front == FRONT_DIES_SLOWLY) {
        close(control_fd);
        close(*(int *)CMSG_DATA(&control.header));
        usleep(100000);
        _exit(42);
    }
}

static int run_front(void *context, int control_fd)
{
    struct front_says listens = {.word = FRONT_LISTENS};
    struct pollfd polled = {.fd = control_fd, .events = POLLIN};
    sigset_t blocked, open;

    (void)context;
    if (scene.front == FRONT_CANNOT_START) {
        note('F', getpid(), 0);
        return 42;
    }
    signal(SIGTERM, on_signal);
    signal(SIGHUP, on_signal);
    sigfillset(&blocked);
    sigprocmask(SIG_SETMASK, &blocked, &open);
    note('F', getpid(), 0);
    if (scene.front != FRONT_DIES_SLOWLY)
        (void)!send(control_fd, &listens, sizeof listens, 0);
    if (scene.front == FRONT_CRASHES)
        raise(SIGKILL);
    for (;;) {
        ppoll(&polled, 1, NULL, &open);
        hear_news(control_fd);
        if (got_hup)
            note('H', getpid(), 0);
        got_hup = 0;
        if (got_term && scene.front == FRONT_IGNORES)
            note('T', getpid(), 0);
        else if (got_term)
            return 0;
        got_term = 0;
    }
}

static int run_worker(void *context, uint32_t index, int channel_fd, struct heartbeat *heartbeat)
{
    char byte;

    (void)context;
    (void)index;
    atomic_fetch_add(&heartbeat->beats, 1);
    if (scene.worker_code >= 0)
        return scene.worker_code;
    while (read(channel_fd, &byte, 1) > 0)
        ;
    return 0;
}

static int run_scout(void *context, int tell_fd)
{
    const char three = 3;

    (void)context;
    note('S', getpid(), 0);
    if (scene.scout == SCOUT_SAYS_THREE && write(tell_fd, &three, 1) != 1)
        _exit(97);
    while (scene.scout == SCOUT_HANGS)
        pause();
    return 0;
}

static pid_t start(double grace, double time_scale)
{
    struct supervisor_options options = {.worker_count = 1,
                                         .grace = grace,
                                         .front = run_front,
                                         .worker = run_worker,
                                         .scout = scene.scout ? run_scout : NULL,
                                         .time_scale = time_scale};
    pid_t pid;

    assert_int_equal(pipe(scene.notes), 0);
    pid = fork();
    if (pid == 0) {
        log_setup(&(struct log_options){.level = LOG_WARNING, .process = "supervisor"});
        _exit(supervisor_run(&options));
    }
    close(scene.notes[1]);
    return pid;
}

static struct note expect(char what)
{
    struct note said = {0};

    do {
        struct pollfd polled = {.fd = scene.notes[0], .events = POLLIN};

        assert_int_equal(poll(&polled, 1, 60000), 1);
        assert_int_equal(read(scene.notes[0], &said, sizeof said), sizeof said);
    } while (said.what != what);
    return said;
}

/* The pipe ends when the last child that has it is gone. */
static int finish(pid_t pid)
{
    struct note said;
    int status;

    while (read(scene.notes[0], &said, sizeof said) > 0)
        ;
    close(scene.notes[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_drain_ends_in_order(void **state)
{
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = -1};
    pid = start(30, 0);
    expect('W');
    kill(pid, SIGHUP);
    expect('H');
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid), 0);
}

static void a_second_signal_ends_at_once(void **state)
{
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = -1, .front = FRONT_IGNORES};
    pid = start(3600, 0);
    expect('W');
    kill(pid, SIGTERM);
    expect('T');
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid), 128 + SIGTERM);
}

static void a_front_that_does_not_drain_is_killed(void **state)
{
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = -1, .front = FRONT_IGNORES};
    pid = start(0.01, 0.001);
    expect('W');
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid), 1);
}

static void workers_that_die_come_again(void **state)
{
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = 3};
    pid = start(30, 0.001);
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(expect('W').restarts, i);
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid), 0);
}

static void the_front_is_told_how_workers_end(void **state)
{
    struct note came, ended;
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = 3};
    pid = start(30, 0.001);
    came = expect('W');
    ended = expect('E');
    assert_int_equal(ended.pid, came.pid);
    assert_int_equal(ended.restarts, WORKER_EXITED);
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid), 0);
    scene = (struct scene){.worker_code = -1};
    pid = start(30, 0.001);
    came = expect('W');
    kill(came.pid, SIGKILL);
    ended = expect('E');
    assert_int_equal(ended.pid, came.pid);
    assert_int_equal(ended.restarts, WORKER_KILLED);
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid), 0);
}

static int oom_score(pid_t pid)
{
    char path[64], text[16] = "";
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/oom_score_adj", (int)pid);
    file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    return atoi(text);
}

static void the_kernel_finds_workers_first(void **state)
{
    struct note front, worker;
    int own = oom_score(getpid());
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = -1};
    pid = start(30, 0);
    front = expect('F');
    worker = expect('W');
    while (oom_score(worker.pid) == own && own < 1000) /* it is being born */
        usleep(1000);
    assert_int_equal(oom_score(worker.pid), own + 500 > 1000 ? 1000 : own + 500);
    assert_int_equal(oom_score(front.pid), own);
    assert_int_equal(oom_score(pid), own);
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid), 0);
}

static void a_worker_that_is_told_nonsense_ends_it(void **state)
{
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = SUPERVISOR_WRONG_USAGE};
    pid = start(30, 0.001);
    assert_int_equal(finish(pid), SUPERVISOR_WRONG_USAGE);
}

static void a_worker_that_hangs_is_killed_when_the_front_says_so(void **state)
{
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = -1, .worker_hangs = true};
    pid = start(30, 0.001);
    assert_int_equal(expect('W').restarts, 0);
    assert_int_equal(expect('E').restarts, WORKER_HUNG);
    assert_int_equal(expect('W').restarts, 1);
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid), 0);
}

static void a_front_that_dies_comes_again_with_new_workers(void **state)
{
    struct note first, worker;
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = -1};
    pid = start(30, 0);
    first = expect('F');
    worker = expect('W');
    kill(first.pid, SIGKILL);
    assert_int_not_equal(expect('F').pid, first.pid);
    assert_int_not_equal(expect('W').pid, worker.pid);
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid), 0);
}

static void a_front_that_dies_five_times_ends_it_all(void **state)
{
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = -1, .front = FRONT_CRASHES};
    pid = start(30, 0);
    for (int i = 0; i < 5; i++)
        expect('F');
    assert_int_equal(finish(pid), 128 + SIGKILL);
}

static void a_front_that_cannot_start_ends_it_with_its_code(void **state)
{
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = -1, .front = FRONT_CANNOT_START};
    pid = start(30, 0);
    expect('F');
    assert_int_equal(finish(pid), 42);
}

/* The worker is dead before its front is, and it is not its fault: nothing is said about it and no
 * other one comes. */
static void a_worker_that_dies_with_its_front_is_no_fault(void **state)
{
    struct note said;
    char line[200];
    int workers = 0, status, log[2], saved = dup(STDERR_FILENO);
    ssize_t logged;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe2(log, O_NONBLOCK), 0);
    dup2(log[1], STDERR_FILENO);
    scene = (struct scene){.worker_code = -1, .front = FRONT_DIES_SLOWLY};
    pid = start(30, 0.001);
    dup2(saved, STDERR_FILENO);
    close(saved);
    while (read(scene.notes[0], &said, sizeof said) > 0)
        workers += said.what == 'W';
    close(scene.notes[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 42);
    assert_int_equal(workers, 1);
    logged = read(log[0], line, sizeof line - 1);
    line[logged > 0 ? logged : 0] = '\0';
    assert_string_equal(line, "");
    close(log[0]);
    close(log[1]);
}

static void children_die_with_the_supervisor(void **state)
{
    struct note said;
    pid_t pid;
    int status;

    (void)state;
    scene = (struct scene){.worker_code = -1};
    pid = start(30, 0);
    expect('W');
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    while (read(scene.notes[0], &said, sizeof said) > 0)
        ; /* ends only when all children are gone */
    close(scene.notes[0]);
}

static void a_scout_says_how_many_workers_there_are(void **state)
{
    pid_t pid, workers[3];

    (void)state;
    scene = (struct scene){.worker_code = -1, .scout = SCOUT_SAYS_THREE};
    pid = start(30, 0);
    for (int i = 0; i < 3; i++)
        workers[i] = expect('W').pid;
    assert_true(workers[0] != workers[1] && workers[1] != workers[2]);
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid), 0);
}

static void workers_come_without_a_word_of_the_scout(void **state)
{
    static const enum scout_behaviour behaviours[] = {SCOUT_SAYS_NOTHING, SCOUT_HANGS};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(behaviours); i++) {
        pid_t pid;

        scene = (struct scene){.worker_code = -1, .scout = behaviours[i]};
        pid = start(30, 0.001);
        expect('W');
        kill(pid, SIGTERM);
        assert_int_equal(finish(pid), 0);
    }
}

/* Neither is the front kept waiting nor the end. */
static void a_scout_that_hangs_holds_nobody_up(void **state)
{
    pid_t pid;

    (void)state;
    scene = (struct scene){.worker_code = -1, .scout = SCOUT_HANGS};
    pid = start(30, 0);
    /* In any order. */
    for (int seen = 0; seen != ('F' ^ 'S');) {
        struct note said;

        assert_int_equal(read(scene.notes[0], &said, sizeof said), sizeof said);
        seen ^= said.what;
    }
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_drain_ends_in_order),
        cmocka_unit_test(a_second_signal_ends_at_once),
        cmocka_unit_test(a_front_that_does_not_drain_is_killed),
        cmocka_unit_test(workers_that_die_come_again),
        cmocka_unit_test(the_front_is_told_how_workers_end),
        cmocka_unit_test(the_kernel_finds_workers_first),
        cmocka_unit_test(a_worker_that_is_told_nonsense_ends_it),
        cmocka_unit_test(a_worker_that_hangs_is_killed_when_the_front_says_so),
        cmocka_unit_test(a_front_that_dies_comes_again_with_new_workers),
        cmocka_unit_test(a_front_that_dies_five_times_ends_it_all),
        cmocka_unit_test(a_front_that_cannot_start_ends_it_with_its_code),
        cmocka_unit_test(a_worker_that_dies_with_its_front_is_no_fault),
        cmocka_unit_test(children_die_with_the_supervisor),
        cmocka_unit_test(a_scout_says_how_many_workers_there_are),
        cmocka_unit_test(workers_come_without_a_word_of_the_scout),
        cmocka_unit_test(a_scout_that_hangs_holds_nobody_up),
    };

    return cmocka_run_group_tests_name("supervisor", tests, NULL, NULL);
}
