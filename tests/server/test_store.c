/* The store's calls, one after the other, in a process that does not die. */
#include "server/store_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/store_private.h"

#define DAY_MS (24 * 60 * 60 * 1000)

static enum job_state state_of(struct store *store, int number)
{
    struct store_job job = fixture_get(store, number);
    enum job_state state = job.state;

    store_job_finish(&job);
    return state;
}

static void a_job_comes_back_as_it_was_accepted(void **state)
{
    const char *folder = fixture_folder();
    struct store *store = fixture_open(folder);
    char id[STORE_ID_BYTES], answer[STORE_ID_BYTES];
    struct error err = {0};
    enum store_accept how;
    struct store_new_job new_job;
    struct store_job job;
    void *init, *mask;
    size_t init_size, mask_size;
    bool found;

    (void)state;
    fixture_id(id, 1);
    new_job = fixture_job(id, "A fox");
    new_job.init_image = (struct store_blob){"init", 4};
    new_job.mask = (struct store_blob){"", 0};
    new_job.deadline_ms = 77;
    fixture_good(store_accept(store, &new_job, &how, answer, &err), &err);
    store_close(store);

    store = fixture_open(folder);
    job = fixture_get(store, 1);
    assert_string_equal(job.id, id);
    assert_string_equal(job.owner, "ada");
    assert_string_equal(job.api, "native");
    assert_string_equal(job.parameters, "{\"steps\":4}");
    assert_int_equal(job.state, JOB_QUEUED);
    assert_int_equal(job.created_ms, 1000);
    assert_int_equal(job.deadline_ms, 77);
    assert_true(job.cost == 1.5);
    assert_int_equal(job.attempts, 0);
    assert_int_equal(job.picture_count, 0);
    assert_null(job.result);
    store_job_finish(&job);
    fixture_good(store_inputs(store, id, &init, &init_size, &mask, &mask_size, &err), &err);
    assert_int_equal(init_size, 4);
    assert_memory_equal(init, "init", 4);
    assert_non_null(mask);
    assert_int_equal(mask_size, 0);
    free(init);
    free(mask);
    fixture_good(store_get(store, id, "bob", &job, &found, &err), &err);
    assert_false(found);
    assert_int_equal(fixture_claim(store, 1), 1);
    fixture_add(store, 1, 1, 0);
    fixture_finish(store, 1, 1, true);
    fixture_good(store_inputs(store, id, &init, &init_size, &mask, &mask_size, &err), &err);
    assert_null(init);
    assert_null(mask);
    store_close(store);
    assert_int_equal(fixture_defects(folder, true), 0);
}

static void what_the_caller_gets_wrong_is_refused(void **state)
{
    struct store *store = fixture_open(fixture_folder());
    char id[STORE_ID_BYTES], answer[STORE_ID_BYTES], long_text[400];
    struct error err = {0};
    enum store_accept how;
    struct store_new_job job;
    struct store_query query = {.limit = 0};

    (void)state;
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    fixture_id(id, 1);
    job = fixture_job("short", "x");
    assert_false(store_accept(store, &job, &how, answer, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    job = fixture_job("../../../../../../../etc/passwd.", "x");
    assert_false(store_accept(store, &job, &how, answer, &err));
    job = fixture_job(id, "x");
    job.owner = long_text;
    assert_false(store_accept(store, &job, &how, answer, &err));
    job = fixture_job(id, "x");
    job.api = long_text;
    assert_false(store_accept(store, &job, &how, answer, &err));
    job = fixture_job(id, "x");
    job.idempotency_key = long_text;
    assert_false(store_accept(store, &job, &how, answer, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    fixture_accept(store, 1);
    job = fixture_job(id, "x");
    assert_false(store_accept(store, &job, &how, answer, &err)); /* the id is taken */
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    assert_false(store_list(store, &query, NULL, NULL, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    assert_false(store_commit(store, &err));
    store_close(store);
}

static enum store_accept accept_key(struct store *store, int number, const char *owner, int hash,
                                    int64_t now_ms, char answer[STORE_ID_BYTES])
{
    char id[STORE_ID_BYTES];
    struct error err = {0};
    enum store_accept how;
    struct store_new_job job;

    fixture_id(id, number);
    job = fixture_job(id, "A fox");
    job.owner = owner;
    job.idempotency_key = "key";
    job.request_hash[0] = (unsigned char)hash;
    job.created_ms = now_ms;
    fixture_good(store_accept(store, &job, &how, answer, &err), &err);
    return how;
}

static void a_key_that_comes_again_makes_no_second_job(void **state)
{
    struct store *store = fixture_open(fixture_folder());
    char first[STORE_ID_BYTES], answer[STORE_ID_BYTES];
    struct store_counts counts;
    struct error err = {0};

    (void)state;
    fixture_id(first, 1);
    assert_int_equal(accept_key(store, 1, "ada", 7, 1000, answer), STORE_ACCEPTED);
    assert_int_equal(accept_key(store, 2, "ada", 7, 1001, answer), STORE_ALREADY);
    assert_string_equal(answer, first);
    assert_int_equal(accept_key(store, 3, "ada", 8, 1002, answer), STORE_CONFLICT);
    assert_string_equal(answer, first);
    assert_int_equal(accept_key(store, 4, "bob", 8, 1003, answer), STORE_ACCEPTED);
    assert_int_equal(accept_key(store, 5, "ada", 7, 999 + DAY_MS, answer), STORE_ALREADY);
    assert_int_equal(accept_key(store, 6, "ada", 8, 1000 + DAY_MS, answer), STORE_ACCEPTED);
    fixture_good(store_count(store, &counts, &err), &err);
    assert_int_equal(counts.queued, 3);
    store_close(store);
}

static void an_old_fence_changes_nothing(void **state)
{
    const char *folder = fixture_folder();
    struct store *store = fixture_open(folder);
    struct store_new_picture picture = fixture_picture(9, 0);
    char id[STORE_ID_BYTES];
    struct error err = {0};
    enum job_state now;
    int64_t old, fence;
    bool kept, claimed;

    (void)state;
    fixture_id(id, 1);
    fixture_accept(store, 1);
    old = fixture_claim(store, 1);
    fixture_good(store_claim(store, id, "other", 1, 1, &fence, &claimed, &err), &err);
    assert_false(claimed);
    fixture_good(store_requeue(store, id, old, &now, &err), &err);
    assert_int_equal(now, JOB_QUEUED);
    fence = fixture_claim(store, 1);
    assert_int_equal(fence, old + 1);
    fixture_good(store_add_picture(store, id, old, &picture, &kept, &err), &err);
    assert_false(kept);
    assert_int_equal(fixture_file_count(folder), 0);
    fixture_finish(store, 1, old, false);
    fixture_good(store_fail(store, id, old, "timeout", "x", 1, &kept, &err), &err);
    assert_false(kept);
    fixture_good(store_fail(store, id, -1, "timeout", "x", 1, &kept, &err), &err);
    assert_false(kept);
    fixture_good(store_put_back(store, id, old, &err), &err);
    fixture_good(store_requeue(store, id, old, &now, &err), &err);
    assert_int_equal(now, JOB_RUNNING);
    fixture_add(store, 1, fence, 0);
    fixture_finish(store, 1, fence, true);
    fixture_finish(store, 1, fence, false); /* once is enough */
    store_close(store);
    assert_int_equal(fixture_defects(folder, true), 0);
}

static void a_second_lost_worker_makes_it_poison(void **state)
{
    const char *folder = fixture_folder();
    struct store *store = fixture_open(folder);
    char id[STORE_ID_BYTES];
    struct error err = {0};
    struct store_job job;
    enum job_state now;

    (void)state;
    fixture_id(id, 1);
    fixture_accept(store, 1);
    fixture_good(store_put_back(store, id, fixture_claim(store, 1), &err), &err);
    fixture_good(store_requeue(store, id, fixture_claim(store, 1), &now, &err), &err);
    assert_int_equal(now, JOB_QUEUED);
    fixture_good(store_requeue(store, id, fixture_claim(store, 1), &now, &err), &err);
    assert_int_equal(now, JOB_FAILED);
    job = fixture_get(store, 1);
    assert_string_equal(job.error_code, "poison");
    assert_non_null(job.error_message);
    store_job_finish(&job);
    fixture_id(id, 99);
    assert_false(store_requeue(store, id, 1, &now, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    store_close(store);
    assert_int_equal(fixture_defects(folder, true), 0);
}

static void opening_again_returns_what_ran(void **state)
{
    const char *folder = fixture_folder();
    struct store *store = fixture_open(folder);

    (void)state;
    fixture_accept(store, 1);
    (void)fixture_claim(store, 1);
    store_close(store);
    store = fixture_open(folder);
    assert_int_equal(state_of(store, 1), JOB_QUEUED);
    (void)fixture_claim(store, 1);
    store_close(store);
    store = fixture_open(folder);
    assert_int_equal(state_of(store, 1), JOB_FAILED);
    store_close(store);
    assert_int_equal(fixture_defects(folder, true), 0);
}

static void terminal_states_stay(void **state)
{
    struct store *store = fixture_open(fixture_folder());
    char id[STORE_ID_BYTES];
    struct error err = {0};
    enum job_state before;
    bool found, kept;

    (void)state;
    fixture_id(id, 1);
    fixture_accept(store, 1);
    fixture_good(store_cancel(store, id, "bob", 5, &before, &found, &err), &err);
    assert_false(found);
    fixture_good(store_cancel(store, id, "ada", 5, &before, &found, &err), &err);
    assert_true(found);
    assert_int_equal(before, JOB_QUEUED);
    fixture_good(store_cancel(store, id, "ada", 5, &before, &found, &err), &err);
    assert_int_equal(before, JOB_CANCELLED);
    fixture_good(store_fail(store, id, -1, "timeout", "x", 1, &kept, &err), &err);
    assert_false(kept);
    fixture_accept(store, 2);
    fixture_id(id, 2);
    fixture_good(store_fail(store, id, -1, "timeout", "x", 1, &kept, &err), &err);
    assert_true(kept);
    assert_int_equal(state_of(store, 2), JOB_FAILED);
    fixture_accept(store, 3);
    (void)fixture_claim(store, 3);
    fixture_id(id, 3);
    fixture_good(store_cancel(store, id, NULL, 5, &before, &found, &err), &err);
    assert_int_equal(before, JOB_RUNNING);
    fixture_finish(store, 3, 1, false);
    store_close(store);
}

static void a_group_is_kept_or_undone_as_a_whole(void **state)
{
    const char *folder = fixture_folder();
    struct store *store = fixture_open(folder);
    char id[STORE_ID_BYTES], answer[STORE_ID_BYTES];
    struct error err = {0};
    struct store_counts counts;
    struct store_new_job twice;
    enum store_accept how;

    (void)state;
    fixture_good(store_begin(store, &err), &err);
    assert_false(store_begin(store, &err));
    fixture_accept(store, 1);
    store_roll_back(store);
    fixture_good(store_begin(store, &err), &err);
    fixture_accept(store, 1);
    fixture_id(id, 1);
    twice = fixture_job(id, "x");
    assert_false(store_accept(store, &twice, &how, answer, &err)); /* only this one is undone */
    fixture_accept(store, 2);
    fixture_good(store_commit(store, &err), &err);
    fixture_good(store_count(store, &counts, &err), &err);
    assert_int_equal(counts.queued, 2);
    store_close(store);

    store = fixture_open(folder);
    fixture_good(store_begin(store, &err), &err);
    fixture_accept(store, 3);
    store_close(store); /* never committed */
    store = fixture_open(folder);
    fixture_good(store_count(store, &counts, &err), &err);
    assert_int_equal(counts.queued, 2);
    store_close(store);
}

static void pictures_are_files_of_their_hash(void **state)
{
    const char *folder = fixture_folder();
    struct store *store;
    struct store_picture picture;
    struct store_new_picture wrong;
    char id[STORE_ID_BYTES], job_id[STORE_ID_BYTES];
    struct error err = {0};
    struct store_job job;
    struct stat st;
    mode_t mask;
    bool found, kept;
    int fd;

    (void)state;
    mask = umask(0777);
    store = fixture_open(folder);
    fixture_accept(store, 1);
    (void)fixture_claim(store, 1);
    fixture_add(store, 1, 1, 0);
    fixture_add(store, 1, 1, 1);
    umask(mask);
    fixture_add(store, 1, 1, 1); /* again */
    assert_int_equal(fixture_file_count(folder), 4);
    wrong = fixture_picture(5, 2);
    fixture_id(id, 1);
    wrong.format = "../x";
    assert_false(store_add_picture(store, id, 1, &wrong, &kept, &err));
    wrong.format = "exe";
    assert_false(store_add_picture(store, id, 1, &wrong, &kept, &err));
    wrong.format = "png";
    wrong.index = STORE_PICTURES_MAX;
    assert_false(store_add_picture(store, id, 1, &wrong, &kept, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    wrong = fixture_picture(77, 1); /* another takes its place, and its files go */
    fixture_good(store_add_picture(store, id, 1, &wrong, &kept, &err), &err);
    assert_int_equal(fixture_file_count(folder), 4);
    fixture_finish(store, 1, 1, true);

    job = fixture_get(store, 1);
    assert_int_equal(job.picture_count, 2);
    assert_int_equal(job.pictures[1].index, 1);
    assert_true(job.pictures[1].seed == UINT64_MAX - 77);
    fd = store_open_file(store, job.pictures[0].path);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, job.pictures[0].bytes);
    assert_int_equal(st.st_mode & 07777, 0600);
    close(fd);
    fixture_good(
        store_find_picture(store, job.pictures[1].id, "ada", &picture, job_id, &found, &err), &err);
    assert_true(found);
    assert_string_equal(job_id, id);
    assert_string_equal(picture.path, job.pictures[1].path);
    fixture_good(
        store_find_picture(store, job.pictures[1].id, "bob", &picture, job_id, &found, &err), &err);
    assert_false(found);
    store_job_finish(&job);
    store_close(store);
    assert_int_equal(fixture_defects(folder, true), 0);
}

static void delete_job(struct store *store, int number, const char *owner, bool wanted)
{
    char id[STORE_ID_BYTES];
    struct error err = {0};
    bool found;

    fixture_id(id, number);
    fixture_good(store_delete(store, id, owner, &found, &err), &err);
    assert_int_equal(found, wanted);
}

static void a_shared_file_goes_with_its_last_job(void **state)
{
    const char *folder = fixture_folder();
    struct store *store = fixture_open(folder);
    struct store_new_picture same = fixture_picture(3, 0);
    char id[STORE_ID_BYTES];
    struct error err = {0};
    bool kept;

    (void)state;
    for (int i = 1; i <= 3; i++) {
        fixture_accept(store, i);
        (void)fixture_claim(store, i);
        fixture_id(id, i);
        fixture_good(store_add_picture(store, id, 1, &same, &kept, &err), &err);
        if (i == 1)
            delete_job(store, i, NULL, false); /* it runs */
        fixture_finish(store, i, 1, true);
    }
    assert_int_equal(fixture_file_count(folder), 2);
    delete_job(store, 1, "bob", false);
    delete_job(store, 1, "ada", true);
    delete_job(store, 1, "ada", false);
    assert_int_equal(fixture_file_count(folder), 2);
    fixture_good(store_begin(store, &err), &err);
    delete_job(store, 2, NULL, true);
    delete_job(store, 3, NULL, true);
    assert_int_equal(fixture_file_count(folder), 2); /* the group may yet be undone */
    store_roll_back(store);
    assert_int_equal(fixture_file_count(folder), 2);
    fixture_good(store_begin(store, &err), &err);
    delete_job(store, 2, NULL, true);
    delete_job(store, 3, NULL, true);
    fixture_good(store_commit(store, &err), &err);
    assert_int_equal(fixture_file_count(folder), 0);
    store_close(store);
    assert_int_equal(fixture_defects(folder, true), 0);
}

static void note_key(void *context, const struct store_key *key)
{
    struct store_key *out = context;

    *out = *key;
}

static void keys_and_settings_are_kept(void **state)
{
    const char *folder = fixture_folder();
    struct store *store = fixture_open(folder);
    struct store_key key = {.name = "ada",
                            .prefix = "sd35_abcdefg",
                            .hash = {1, 2, 3},
                            .scopes = UINT32_MAX,
                            .jobs_per_minute = 5,
                            .created_ms = 9,
                            .expires_ms = 10};
    struct store_key got = {0};
    struct error err = {0};
    char *value;
    int count;

    (void)state;
    fixture_good(store_add_key(store, &key, &err), &err);
    assert_false(store_add_key(store, &key, &err)); /* the same hash */
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    fixture_good(store_get_setting(store, "secret", &value, &err), &err);
    assert_null(value);
    fixture_good(store_set_setting(store, "secret", "one", &err), &err);
    fixture_good(store_set_setting(store, "secret", "two", &err), &err);
    store_close(store);
    store = fixture_open(folder);
    fixture_good(store_get_setting(store, "secret", &value, &err), &err);
    assert_string_equal(value, "two");
    free(value);
    fixture_good(store_each_key(store, note_key, &got, &err), &err);
    assert_memory_equal(&got, &key, sizeof key);
    fixture_good(store_revoke_key(store, "nobody", 11, &count, &err), &err);
    assert_int_equal(count, 0);
    fixture_good(store_revoke_key(store, "sd35_abcdefg", 11, &count, &err), &err);
    assert_int_equal(count, 1);
    fixture_good(store_revoke_key(store, "ada", 12, &count, &err), &err);
    assert_int_equal(count, 0);
    fixture_good(store_each_key(store, note_key, &got, &err), &err);
    assert_int_equal(got.revoked_ms, 11);
    store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_comes_back_as_it_was_accepted),
        cmocka_unit_test(what_the_caller_gets_wrong_is_refused),
        cmocka_unit_test(a_key_that_comes_again_makes_no_second_job),
        cmocka_unit_test(an_old_fence_changes_nothing),
        cmocka_unit_test(a_second_lost_worker_makes_it_poison),
        cmocka_unit_test(opening_again_returns_what_ran),
        cmocka_unit_test(terminal_states_stay),
        cmocka_unit_test(a_group_is_kept_or_undone_as_a_whole),
        cmocka_unit_test(pictures_are_files_of_their_hash),
        cmocka_unit_test(a_shared_file_goes_with_its_last_job),
        cmocka_unit_test(keys_and_settings_are_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
