/* The store with each allocation failing in turn, its own and SQLite's. */
#include "server/store_fixture.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/failing_memory.h"

static sqlite3_mem_methods usual;

static void *sqlite_malloc(int size)
{
    return may_allocate() ? usual.xMalloc(size) : NULL;
}

static void *sqlite_realloc(void *memory, int size)
{
    return may_allocate() ? usual.xRealloc(memory, size) : NULL;
}

static void ignore_job(void *context, const struct store_job *job)
{
    (void)context;
    (void)job;
}

static void ignore_defect(void *context, const char *sentence)
{
    (void)context;
    (void)sentence;
}

/* Jobs and what is done with them. */
static bool use_jobs(struct store *store, struct error *err)
{
    struct store_new_picture picture = fixture_picture(1, 0);
    struct store_query query = {.search = "FOX", .owner = "ada", .limit = 10};
    char id[STORE_ID_BYTES], answer[STORE_ID_BYTES];
    enum store_accept how;
    struct store_new_job job;
    struct store_job got;
    void *init = NULL, *mask = NULL;
    size_t init_size, mask_size;
    int64_t fence;
    bool found, is_good;

    fixture_id(id, 1);
    job = fixture_job(id, "A fox");
    job.init_image = (struct store_blob){"init", 4};
    job.idempotency_key = "key";
    is_good = store_begin(store, err);
    if (!is_good)
        return false;
    if (!store_accept(store, &job, &how, answer, err)) {
        store_roll_back(store);
        return false;
    }
    is_good = store_commit(store, err) &&
              store_inputs(store, id, &init, &init_size, &mask, &mask_size, err);
    free(init);
    free(mask);
    if (!is_good || !store_claim(store, id, "worker", 1, 1, &fence, &found, err) ||
        !store_add_picture(store, id, fence, &picture, &found, err) ||
        !store_finish(store, id, fence, "{}", 1, &found, err) ||
        !store_list(store, &query, ignore_job, NULL, err) ||
        !store_get(store, id, NULL, &got, &found, err))
        return false;
    store_job_finish(&got);
    return store_delete(store, id, NULL, &found, err);
}

static bool live(const char *folder, struct error *err)
{
    struct store *store = NULL;
    int64_t checked;
    bool is_good;

    if (!store_open(&store, folder, err))
        return false;
    is_good = use_jobs(store, err);
    store_close(store);
    return is_good && store_verify(folder, ignore_defect, NULL, &checked, err);
}

static void memory_that_is_short_is_said_and_loses_nothing(void **state)
{
    int refused = 0;
    long at = 0;

    (void)state;
    for (;;) {
        const char *folder = fixture_folder();
        struct error err = {0};
        bool is_good, is_enough;

        allocations_left = at;
        is_good = live(folder, &err);
        is_enough = allocations_left > 0;
        allocations_left = -1;
        if (!is_good && err.code != ERROR_NO_MEMORY)
            fail_msg("allocation %ld: %s", at, err.message);
        refused += !is_good;
        store_close(fixture_open(folder));
        assert_int_equal(fixture_defects(folder, true), 0);
        if (is_enough) {
            assert_true(is_good);
            break;
        }
        at += 1 + at / 200; /* later ones repeat the earlier ones' kinds */
    }
    print_message("%ld allocations, %d of those that failed ended a call\n", at, refused);
    assert_true(refused > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_that_is_short_is_said_and_loses_nothing),
    };
    sqlite3_mem_methods failing;

    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &usual);
    failing = usual;
    failing.xMalloc = sqlite_malloc;
    failing.xRealloc = sqlite_realloc;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &failing);
    (void)fixture_picture(1, 0); /* encoded before memory is short */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
