/* The store on a disk that loses power: whatever was answered before is there afterwards. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/disk_recorder.h"
#include "server/store_fixture.h"

#define CRASHES 2000
#define SESSIONS 3
#define JOBS 6 /* of a session */

/* What a client was told, and when: from then on it holds. */
struct told {
    char what; /* 'a' accepted, 'd' done, 'x' asked to be deleted, 'r' removed */
    int number, position;
};

static struct told told[1024];
static int told_count;

static void tell(char what, int number)
{
    assert_true(told_count < (int)COUNT_OF(told));
    told[told_count++] = (struct told){.what = what, .number = number, .position = disk_position()};
}

static void live_one_life(struct store *store, int number)
{
    char id[STORE_ID_BYTES];
    struct error err = {0};
    int64_t fence;
    bool found;

    fixture_id(id, number);
    fixture_accept(store, number);
    tell('a', number);
    fence = fixture_claim(store, number);
    fixture_add(store, number, fence, 0);
    if (number % 2 == 0)
        fixture_add(store, number, fence, 1);
    fixture_finish(store, number, fence, true);
    tell('d', number);
    if (number % 3 != 0)
        return;
    tell('x', number);
    fixture_good(store_delete(store, id, NULL, &found, &err), &err);
    tell('r', number);
}

static void accept_together(struct store *store, int first)
{
    struct error err = {0};

    fixture_good(store_begin(store, &err), &err);
    for (int i = 0; i < 3; i++)
        fixture_accept(store, first + i);
    fixture_good(store_commit(store, &err), &err);
    for (int i = 0; i < 3; i++)
        tell('a', first + i);
}

/* Begins with an empty folder; between sessions the WAL goes into the database and is made anew. */
static void record_sessions(void)
{
    const char *folder = fixture_folder();

    disk_record(folder);
    for (int session = 0; session < SESSIONS; session++) {
        struct store *store = fixture_open(folder);

        accept_together(store, 1000 * session + 500);
        for (int i = 0; i < JOBS; i++)
            live_one_life(store, 1000 * session + 1 + i);
        store_close(store);
    }
    disk_stop();
}

static bool was_told(char what, int number, int position)
{
    for (int i = 0; i < told_count; i++)
        if (told[i].what == what && told[i].number == number && told[i].position <= position)
            return true;
    return false;
}

/* The job as it was told last. */
static void check_job(struct store *store, int number, int position)
{
    char id[STORE_ID_BYTES];
    struct error err = {0};
    struct store_job job;
    bool found;

    fixture_id(id, number);
    fixture_good(store_get(store, id, NULL, &job, &found, &err), &err);
    if (!found) {
        if (!was_told('x', number, position))
            fail_msg("job %d is lost", number);
        return;
    }
    if (was_told('r', number, position))
        fail_msg("job %d is back", number);
    if (was_told('d', number, position)) {
        assert_int_equal(job.state, JOB_DONE);
        assert_int_equal(job.picture_count, number % 2 == 0 ? 2 : 1);
    }
    store_job_finish(&job);
}

static void crash_at(const char *folder, int position, uint64_t *random)
{
    struct store *store;

    disk_empty(folder);
    disk_crash(folder, position, random);
    store = fixture_open(folder);
    for (int i = 0; i < told_count && told[i].position <= position; i++)
        if (told[i].what == 'a')
            check_job(store, told[i].number, position);
    store_close(store);
    assert_int_equal(fixture_defects(folder, true), 0); /* I1 to I8, and each picture's bytes */
}

/* In memory, where the system lets us: 50 files are made for each crash. */
static const char *crash_folder(void)
{
    static char path[] = "/dev/shm/sd35-power-XXXXXX";

    return mkdtemp(path) ? path : fixture_folder();
}

static void what_was_answered_survives_any_loss_of_power(void **state)
{
    const char *given = getenv("SD35_TEST_SEED"), *folder = crash_folder();
    uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    uint64_t random = seed;

    (void)state;
    record_sessions();
    print_message("seed %llu (SD35_TEST_SEED), %d operations, %d answers\n",
                  (unsigned long long)seed, disk_position(), told_count);
    for (int i = 0; i < CRASHES; i++)
        crash_at(folder, (int)((int64_t)disk_position() * (i + 1) / CRASHES), &random);
    disk_empty(folder);
    (void)rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_answered_survives_any_loss_of_power),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
