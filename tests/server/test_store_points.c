/* SD35_KILL_AT, as a build for tests has it: src/store/store_points.c is compiled into this. */
#include "support/support.h"

#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/store_private.h"

/* Whether a child that reaches points is killed at the second "here". */
static bool is_killed(const char *at)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("SD35_KILL_AT", at, 1);
        store_reach("elsewhere");
        store_reach("here");
        store_reach("elsewhere");
        store_reach("here");
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void the_environment_names_where_to_die(void **state)
{
    (void)state;
    assert_true(is_killed("here"));
    assert_true(is_killed("here:1"));
    assert_true(is_killed("here:2"));
    assert_false(is_killed("here:3"));
    assert_false(is_killed("hereafter"));
    assert_false(is_killed("her"));
    assert_false(is_killed(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_environment_names_where_to_die)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
