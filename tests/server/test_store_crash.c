/* The store in a process that is killed: at each named point, and at any moment. */
#include "server/store_fixture.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/attributes.h"

/* --- Killing at a point --- */

static const char *kill_name;
static int kill_at;

static void kill_here(const char *name)
{
    if (strcmp(name, kill_name) == 0 && --kill_at == 0)
        raise(SIGKILL);
}

#define GROUP 4

/* What a child says once a call has returned: only that may be held against the store. */
struct said {
    char what; /* 'a' accepted, 'd' done, 'r' removed */
    int number;
};

static void say(int pipe_fd, char what, int number)
{
    struct said said = {.what = what, .number = number};

    while (write(pipe_fd, &said, sizeof said) < 0 && errno == EINTR)
        continue;
}

/* One job through its life; every third is deleted afterwards, every second has company in its
 * pictures, and every fourth gets a picture twice. */
static void live_one_life(struct store *store, int number, int pipe_fd)
{
    char id[STORE_ID_BYTES];
    struct error err = {0};
    int64_t fence;
    bool answer;

    fixture_id(id, number);
    fixture_accept(store, number);
    say(pipe_fd, 'a', number);
    fence = fixture_claim(store, number);
    fixture_add(store, number, fence, 0);
    if (number % 2 == 0)
        fixture_add(store, number, fence, 1);
    if (number % 4 == 0) {
        struct store_new_picture other = fixture_picture(number + 100, 1);

        fixture_good(store_add_picture(store, id, fence, &other, &answer, &err), &err);
    }
    fixture_good(store_finish(store, id, fence, NULL, 3000, &answer, &err), &err);
    say(pipe_fd, 'd', number);
    if (number % 3 == 0) {
        fixture_good(store_delete(store, id, NULL, &answer, &err), &err);
        say(pipe_fd, 'r', number);
    }
}

/* Jobs that are accepted together; what is said of them is said after the commit. */
static void accept_group(struct store *store, int first, int pipe_fd)
{
    struct error err = {0};

    fixture_good(store_begin(store, &err), &err);
    for (int i = 0; i < GROUP; i++)
        fixture_accept(store, first + i);
    fixture_good(store_commit(store, &err), &err);
    for (int i = 0; i < GROUP; i++)
        say(pipe_fd, 'a', first + i);
}

/* A group, and jobs from `first` on until killed, or as many as `count`. Never returns. */
static void child(const char *folder, int first, int count, int pipe_fd)
{
    struct store *store;
    struct error err = {0};

    fixture_is_child = true;
    store_point = kill_name ? kill_here : NULL;
    fixture_good(store_open(&store, folder, &err), &err);
    accept_group(store, first + count, pipe_fd);
    for (int i = 0; i < count; i++)
        live_one_life(store, first + i, pipe_fd);
    store_close(store);
    _exit(0);
}

struct ledger {
    struct said heard[4096];
    int heard_count;
};

/* Runs a child, kills it after `microseconds` when not 0, and adds what it said. True: killed. */
static bool run_child(struct ledger *ledger, const char *folder, int first, int count,
                      unsigned microseconds)
{
    int ends[2], status;
    struct said said;
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        child(folder, first, count, ends[1]);
    }
    close(ends[1]);
    if (microseconds > 0) {
        usleep(microseconds);
        kill(pid, SIGKILL);
    }
    while (read(ends[0], &said, sizeof said) == (ssize_t)sizeof said) {
        assert_true(ledger->heard_count < (int)COUNT_OF(ledger->heard));
        ledger->heard[ledger->heard_count++] = said;
    }
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status))
        assert_int_equal(WEXITSTATUS(status), 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

/* Each thing that was said is so. */
static void check_ledger(const struct ledger *ledger, struct store *store)
{
    for (int i = 0; i < ledger->heard_count; i++) {
        const struct said *said = &ledger->heard[i];
        char id[STORE_ID_BYTES];
        struct error err = {0};
        struct store_job job;
        bool found;

        fixture_id(id, said->number);
        fixture_good(store_get(store, id, NULL, &job, &found, &err), &err);
        if (said->what == 'r') {
            assert_false(found);
            continue;
        }
        if (!found) { /* only those that were to be deleted may be gone */
            assert_int_equal(said->number % 3, 0);
            continue;
        }
        if (said->what == 'd')
            assert_int_equal(job.state, JOB_DONE);
        assert_true(job.state == JOB_DONE || job.state == JOB_QUEUED || job.state == JOB_FAILED);
        store_job_finish(&job);
    }
}

static void note_number(void *context, const struct store_job *job)
{
    int *numbers = context;

    numbers[++numbers[0]] = (int)strtol(job->id, NULL, 16);
}

/* Queued jobs are done once more, and everything is clean. */
static void finish_the_rest(struct store *store)
{
    static int queued[4096];
    struct error err = {0};

    queued[0] = 0;
    fixture_good(store_each_queued(store, note_number, queued, &err), &err);
    for (int i = 1; i <= queued[0]; i++) {
        int64_t fence = fixture_claim(store, queued[i]);
        char id[STORE_ID_BYTES];
        bool kept;

        fixture_id(id, queued[i]);
        fixture_add(store, queued[i], fence, 0);
        fixture_good(store_finish(store, id, fence, NULL, 4000, &kept, &err), &err);
        assert_true(kept);
    }
}

static void nothing_is_lost_when_killed_at(const char *name, int visits)
{
    static struct ledger ledger;
    const char *folder = fixture_folder();
    int killed = 0;

    memset(&ledger, 0, sizeof ledger);
    kill_name = name;
    for (int i = 0; i < visits; i++) {
        struct store *store;

        kill_at = 1 + i % 7;
        killed += run_child(&ledger, folder, 1 + i * 16, 12, 0);
        store = fixture_open(folder);
        check_ledger(&ledger, store);
        store_close(store);
        assert_int_equal(fixture_defects(folder, true), 0);
    }
    kill_name = NULL;
    struct store *store = fixture_open(folder);

    finish_the_rest(store);
    check_ledger(&ledger, store);
    store_close(store);
    assert_int_equal(fixture_defects(folder, true), 0);
    print_message("%-22s killed %d times of %d, %d calls had been answered\n", name, killed, visits,
                  ledger.heard_count);
    assert_true(killed > visits / 3);
}

static void nothing_is_lost_at_any_point(void **state)
{
    static const char *const names[] = {
        "accept.committed",      "picture.written", "picture.synced",   "picture.renamed",
        "picture.folder_synced", "done.committed",  "delete.tombstone", "delete.unlinked",
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++)
        nothing_is_lost_when_killed_at(names[i], 24);
}

static void a_beginning_that_was_killed_begins_again(void **state)
{
    static struct ledger ledger;

    (void)state;
    memset(&ledger, 0, sizeof ledger);
    for (int i = 0; i < 5; i++) {
        const char *folder = fixture_folder();

        kill_name = "migrate";
        kill_at = 1;
        assert_true(run_child(&ledger, folder, 1, 1, 0));
        assert_int_equal(ledger.heard_count, 0);
        kill_name = NULL;
        store_close(fixture_open(folder));
        assert_int_equal(fixture_defects(folder, true), 0);
    }
}

static void nothing_is_lost_at_any_moment(void **state)
{
    static struct ledger ledger;
    const char *folder = fixture_folder();
    unsigned seed = 12345;
    int killed = 0, calls = 0;

    (void)state;
    memset(&ledger, 0, sizeof ledger);
    /* A child may be killed before it made the database, and then there is none to read. */
    store_close(fixture_open(folder));
    for (int i = 0; i < 200; i++) {
        struct store *store;

        seed = seed * 1103515245u + 12345u;
        killed += run_child(&ledger, folder, 1 + i * 4096, 4000, 500 + (seed >> 8) % 30000);
        if (i % 2 == 0) { /* before recovery, the database at least can be read */
            (void)fixture_defects(folder, false);
        }
        store = fixture_open(folder);
        check_ledger(&ledger, store);
        store_close(store);
        assert_int_equal(fixture_defects(folder, true), 0);
        calls += ledger.heard_count;
        ledger.heard_count = 0;
    }
    print_message("killed %d times at random moments, %d calls had been answered\n", killed, calls);
    assert_true(killed >= 190);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_lost_at_any_point),
        cmocka_unit_test(a_beginning_that_was_killed_begins_again),
        cmocka_unit_test(nothing_is_lost_at_any_moment),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
