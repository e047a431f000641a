/* Lists, searches and counts of the store, also of a hundred thousand jobs. */
#include "server/store_fixture.h"

#include <string.h>

#include "base/clock.h"

struct listing {
    char ids[16][STORE_ID_BYTES];
    int64_t last;
    int count;
};

static void note_job(void *context, const struct store_job *job)
{
    struct listing *listing = context;

    if (listing->count < 16)
        memcpy(listing->ids[listing->count], job->id, STORE_ID_BYTES);
    listing->count++;
    listing->last = job->sequence;
}

static int list(struct store *store, struct store_query query, struct listing *listing)
{
    struct error err = {0};

    *listing = (struct listing){0};
    fixture_good(store_list(store, &query, note_job, listing, &err), &err);
    return listing->count;
}

static void accept_prompt(struct store *store, int number, const char *owner, const char *prompt)
{
    char id[STORE_ID_BYTES], answer[STORE_ID_BYTES];
    struct error err = {0};
    enum store_accept how;
    struct store_new_job job;

    fixture_id(id, number);
    job = fixture_job(id, prompt);
    job.owner = owner;
    fixture_good(store_accept(store, &job, &how, answer, &err), &err);
}

static void searching_finds_all_words_in_any_case(void **state)
{
    struct store *store = fixture_open(fixture_folder());
    struct listing listing;

    (void)state;
    accept_prompt(store, 1, "ada", "A RED Fox in Straße");
    accept_prompt(store, 2, "ada", "一只红色的狐狸在雪地里");
    accept_prompt(store, 3, "ada", "ÉCLAIR ＡＢＣ　100% done_");
    accept_prompt(store, 4, "ada", "broken \xff\xfe UTF eight");
    assert_int_equal(list(store, (struct store_query){.search = "fox red", .limit = 9}, &listing),
                     1);
    assert_int_equal(list(store, (struct store_query){.search = "fox blue", .limit = 9}, &listing),
                     0);
    assert_int_equal(list(store, (struct store_query){.search = "STRASSE", .limit = 9}, &listing),
                     1);
    assert_int_equal(
        list(store, (struct store_query){.search = "狐狸　红色", .limit = 9}, &listing), 1);
    assert_int_equal(
        list(store, (struct store_query){.search = "éclair abc", .limit = 9}, &listing), 1);
    assert_int_equal(list(store, (struct store_query){.search = "100%", .limit = 9}, &listing), 1);
    assert_int_equal(list(store, (struct store_query){.search = "_", .limit = 9}, &listing), 1);
    assert_int_equal(
        list(store, (struct store_query){.search = "BROKEN utf", .limit = 9}, &listing), 1);
    assert_int_equal(list(store, (struct store_query){.search = "  ", .limit = 9}, &listing), 4);
    assert_int_equal(list(store, (struct store_query){.search = "'; DROP", .limit = 9}, &listing),
                     0);
    store_close(store);
}

static void lists_are_paged_and_filtered(void **state)
{
    struct store *store = fixture_open(fixture_folder());
    struct listing listing;
    struct store_job job;
    struct error err = {0};
    bool found;

    (void)state;
    for (int i = 1; i <= 7; i++)
        accept_prompt(store, i, i % 2 ? "ada" : "bob", "x");
    assert_int_equal(list(store, (struct store_query){.limit = 3}, &listing), 3);
    assert_string_equal(listing.ids[0], "00000000000000000000000000000007");
    assert_int_equal(
        list(store, (struct store_query){.limit = 9, .before = listing.last}, &listing), 4);
    assert_string_equal(listing.ids[3], "00000000000000000000000000000001");
    assert_int_equal(list(store, (struct store_query){.limit = 9, .owner = "bob"}, &listing), 3);
    (void)fixture_claim(store, 4);
    fixture_add(store, 4, 1, 0);
    fixture_finish(store, 4, 1, true);
    assert_int_equal(list(store, (struct store_query){.limit = 9, .done_only = true}, &listing), 1);
    assert_int_equal(list(store, (struct store_query){.limit = 9, .starred_only = true}, &listing),
                     0);
    job = fixture_get(store, 4);
    fixture_good(store_star(store, job.pictures[0].id, "ada", true, &found, &err), &err);
    assert_false(found);
    fixture_good(store_star(store, job.pictures[0].id, "bob", true, &found, &err), &err);
    assert_true(found);
    store_job_finish(&job);
    assert_int_equal(list(store, (struct store_query){.limit = 9, .starred_only = true}, &listing),
                     1);
    listing = (struct listing){0};
    fixture_good(store_each_queued(store, note_job, &listing, &err), &err);
    assert_int_equal(listing.count, 6);
    assert_string_equal(listing.ids[0], "00000000000000000000000000000001");
    store_close(store);
}

static void counts_add_up(void **state)
{
    struct store *store = fixture_open(fixture_folder());
    struct store_counts counts;
    struct error err = {0};

    (void)state;
    for (int i = 1; i <= 3; i++)
        fixture_accept(store, i);
    (void)fixture_claim(store, 1);
    (void)fixture_claim(store, 2);
    fixture_add(store, 1, 1, 0);
    fixture_add(store, 1, 1, 1);
    fixture_finish(store, 1, 1, true);
    fixture_good(store_count(store, &counts, &err), &err);
    assert_int_equal(counts.queued, 1);
    assert_int_equal(counts.running, 1);
    assert_int_equal(counts.done, 1);
    assert_int_equal(counts.pictures, 2);
    assert_int_equal(counts.picture_bytes,
                     fixture_picture(1, 0).file.size + fixture_picture(2, 0).file.size);
    assert_true(counts.database_bytes > 0);
    assert_true(counts.disk_free_bytes > 0);
    store_close(store);
}

static void a_long_history_stays_quick(void **state)
{
    const char *folder = fixture_folder();
    struct store *store = fixture_open(folder);
    const int count = 100000;
    struct listing listing;
    struct store_counts counts;
    struct error err = {0};
    double start = seconds_now();

    (void)state;
    for (int i = 0; i < count; i++) {
        if (i % 1000 == 0)
            fixture_good(store_begin(store, &err), &err);
        accept_prompt(store, i + 1, i % 100 ? "ada" : "bob", i == 5 ? "a needle" : "A fox in snow");
        if (i % 1000 == 999)
            fixture_good(store_commit(store, &err), &err);
    }
    print_message("%d accepts in groups of 1000: %.2f s\n", count, seconds_now() - start);
    store_close(store);
    start = seconds_now();
    store = fixture_open(folder);
    print_message("open: %.3f s\n", seconds_now() - start);
    start = seconds_now();
    assert_int_equal(list(store, (struct store_query){.limit = 50}, &listing), 50);
    print_message("newest 50: %.2f ms\n", 1e3 * (seconds_now() - start));
    start = seconds_now();
    assert_int_equal(list(store,
                          (struct store_query){.limit = 50, .owner = "bob", .before = count / 2},
                          &listing),
                     50);
    print_message("50 of one owner, from the middle: %.2f ms\n", 1e3 * (seconds_now() - start));
    start = seconds_now();
    assert_int_equal(list(store, (struct store_query){.limit = 50, .search = "needle"}, &listing),
                     1);
    print_message("search through all: %.2f ms\n", 1e3 * (seconds_now() - start));
    start = seconds_now();
    fixture_good(store_count(store, &counts, &err), &err);
    assert_int_equal(counts.queued, count);
    print_message("counts: %.2f ms, database %.1f MB\n", 1e3 * (seconds_now() - start),
                  (double)counts.database_bytes / 1e6);
    store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(searching_finds_all_words_in_any_case),
        cmocka_unit_test(lists_are_paged_and_filtered),
        cmocka_unit_test(counts_add_up),
        cmocka_unit_test(a_long_history_stays_quick),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
