/* Arenas, checked sizes, errors, files and the thread pool. */
#include "support/support.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/size.h"
#include "base/thread_pool.h"

/* --- Sizes --- */

static void size_mul_and_add_report_overflow_and_leave_the_result_alone(void **state)
{
    size_t out = 7;

    (void)state;
    assert_true(size_mul(&out, SIZE_MAX / 3, 3));
    assert_int_equal(out, SIZE_MAX);
    out = 7;
    assert_false(size_mul(&out, SIZE_MAX / 3 + 1, 3));
    assert_false(size_mul(&out, SIZE_MAX, SIZE_MAX));
    assert_false(size_add(&out, SIZE_MAX, 1));
    assert_int_equal(out, 7);
    assert_true(size_add(&out, SIZE_MAX - 1, 1));
    assert_int_equal(out, SIZE_MAX);
    assert_true(size_mul(&out, SIZE_MAX, 0));
    assert_int_equal(out, 0);
}

static void size_round_up_gives_the_next_multiple(void **state)
{
    (void)state;
    assert_int_equal(size_round_up(0, 64), 0);
    assert_int_equal(size_round_up(1, 64), 64);
    assert_int_equal(size_round_up(64, 64), 64);
    assert_int_equal(size_round_up(65, 64), 128);
    assert_int_equal(ceil_div_i64(0, 4), 0);
    assert_int_equal(ceil_div_i64(1, 4), 1);
    assert_int_equal(ceil_div_i64(8, 4), 2);
}

/* --- Arenas --- */

static _Alignas(ARENA_ALIGN) unsigned char block[1024];

static void arena_alloc_gives_aligned_memory_that_does_not_overlap(void **state)
{
    struct arena arena;
    void *first, *second, *third;

    (void)state;
    arena_init(&arena, block, sizeof block);
    assert_true(arena_alloc(&first, &arena, 1, 1));
    assert_true(arena_alloc(&second, &arena, 3, 40));
    assert_true(arena_alloc(&third, &arena, 1, 64));
    assert_ptr_equal(first, block);
    assert_ptr_equal(second, block + 64);
    assert_ptr_equal(third, block + 192);
    assert_int_equal(arena.used, 256);
}

static void arena_alloc_uses_the_last_byte_and_then_fails(void **state)
{
    struct arena arena;
    void *memory, *untouched = block + 5;

    (void)state;
    arena_init(&arena, block, sizeof block);
    assert_true(arena_alloc(&memory, &arena, sizeof block, 1));
    assert_false(arena_alloc(&untouched, &arena, 1, 1));
    assert_ptr_equal(untouched, block + 5);
    assert_int_equal(arena.used, sizeof block);
}

static void arena_alloc_fails_when_the_size_overflows(void **state)
{
    struct arena arena;
    void *memory;

    (void)state;
    arena_init(&arena, block, sizeof block);
    assert_true(arena_alloc(&memory, &arena, 64, 1));
    assert_false(arena_alloc(&memory, &arena, SIZE_MAX / 2 + 1, 2)); /* 0 if it wrapped */
    assert_false(arena_alloc(&memory, &arena, SIZE_MAX, 1));         /* rounding up wraps */
    assert_false(arena_alloc(&memory, &arena, SIZE_MAX - 63, 1));    /* the end wraps */
    assert_int_equal(arena.used, 64);

    arena_init(&arena, NULL, 0);
    assert_false(arena_alloc(&memory, &arena, SIZE_MAX / 2 + 1, 2));
    assert_false(arena_alloc(&memory, &arena, SIZE_MAX - 63, 1));
}

static void arena_release_frees_what_came_after_the_mark_and_keeps_the_peak(void **state)
{
    struct arena arena;
    void *kept, *dropped, *again;
    size_t mark;

    (void)state;
    arena_init(&arena, block, sizeof block);
    assert_true(arena_alloc(&kept, &arena, 100, 1));
    mark = arena_mark(&arena);
    assert_true(arena_alloc(&dropped, &arena, 500, 1));
    arena_release(&arena, mark);
    assert_true(arena_alloc(&again, &arena, 10, 1));
    assert_ptr_equal(again, dropped);
    assert_int_equal(arena.used, 192);
    assert_int_equal(arena.peak, 640);
}

static void a_counting_arena_needs_as_much_as_the_real_one(void **state)
{
    static const size_t sizes[] = {1, 64, 65, 0, 300};
    struct arena counting, real;
    void *memory;

    (void)state;
    arena_init(&counting, NULL, 0);
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        assert_true(arena_alloc(&memory, &counting, sizes[i], 1));
    arena_init(&real, block, counting.peak);
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        assert_true(arena_alloc(&memory, &real, sizes[i], 1));
    assert_int_equal(real.used, counting.used);
    assert_false(arena_alloc(&memory, &real, 1, 1));
}

/* --- Errors --- */

static void error_set_returns_false_and_keeps_code_and_message(void **state)
{
    struct error err;

    (void)state;
    assert_false(error_set(&err, ERROR_BAD_FILE, "'%s' has %d bytes", "a.bin", 3));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_string_equal(err.message, "'a.bin' has 3 bytes");
}

static void error_functions_accept_that_nobody_wants_to_know(void **state)
{
    (void)state;
    assert_false(error_set(NULL, ERROR_IO, "lost"));
    assert_false(error_set_errno(NULL, ENOENT, "lost"));
    assert_false(error_in(NULL, "lost"));
}

static void error_in_puts_the_context_before_the_message(void **state)
{
    struct error err;

    (void)state;
    error_set(&err, ERROR_BAD_FILE, "'w' is missing");
    assert_false(error_in(&err, "VAE %s", "decoder"));
    assert_false(error_in(&err, "loading %d", 3));
    assert_string_equal(err.message, "loading 3: VAE decoder: 'w' is missing");
    assert_int_equal(err.code, ERROR_BAD_FILE);
}

static void error_set_errno_explains_the_number_and_tells_memory_apart(void **state)
{
    struct error err;

    (void)state;
    assert_false(error_set_errno(&err, ENOENT, "opening '%s'", "x"));
    assert_int_equal(err.code, ERROR_IO);
    assert_string_equal(err.message, "opening 'x': No such file or directory");
    assert_false(error_set_errno(&err, ENOMEM, "mapping"));
    assert_int_equal(err.code, ERROR_NO_MEMORY);
}

/* A message of `length` letters, for lengths around the limit. */
static void set_long(struct error *err, int length)
{
    char text[3 * ERROR_MESSAGE_BYTES];

    memset(text, 'm', sizeof text);
    error_set(err, ERROR_IO, "%.*s", length, text);
}

static void error_messages_are_cut_at_the_limit_and_still_end(void **state)
{
    struct {
        struct error err;
        char guard[16];
    } box;
    char context[2 * ERROR_MESSAGE_BYTES];

    (void)state;
    memset(box.guard, 'g', sizeof box.guard);
    memset(context, 'c', sizeof context);
    for (int length = ERROR_MESSAGE_BYTES - 4; length < ERROR_MESSAGE_BYTES + 4; length++) {
        int kept = length < ERROR_MESSAGE_BYTES ? length : ERROR_MESSAGE_BYTES - 1;

        set_long(&box.err, length);
        assert_int_equal(strlen(box.err.message), kept);
        error_in(&box.err, "in");
        assert_int_equal(strlen(box.err.message),
                         kept + 4 < ERROR_MESSAGE_BYTES ? kept + 4 : ERROR_MESSAGE_BYTES - 1);
        assert_memory_equal(box.err.message, "in: mmm", 7);
        error_set(&box.err, ERROR_IO, "end");
        error_in(&box.err, "%.*s", length, context);
        assert_in_range(strlen(box.err.message), ERROR_MESSAGE_BYTES - 4, ERROR_MESSAGE_BYTES - 1);
        set_long(&box.err, length);
        error_set_errno(&box.err, ENOENT, "%.*s", length, context);
        assert_in_range(strlen(box.err.message), ERROR_MESSAGE_BYTES - 4, ERROR_MESSAGE_BYTES - 1);
    }
    for (size_t i = 0; i < sizeof box.guard; i++)
        assert_int_equal(box.guard[i], 'g');
}

static void error_codes_have_names_and_exit_codes_of_their_own(void **state)
{
    (void)state;
    assert_int_equal(error_exit_code(ERROR_NONE), 0);
    for (unsigned a = ERROR_NONE; a <= ERROR_IO; a++)
        for (unsigned b = ERROR_NONE; b < a; b++) {
            assert_int_not_equal(error_exit_code(a), error_exit_code(b));
            assert_string_not_equal(error_code_name(a), error_code_name(b));
        }
}

/* --- Files --- */

static int entry_count(const char *directory)
{
    int count = 0;
    struct dirent *entry;
    DIR *listing = opendir(directory);

    assert_non_null(listing);
    while ((entry = readdir(listing)))
        count += entry->d_name[0] != '.';
    closedir(listing);
    return count;
}

/* A new, empty directory below the test's. */
static const char *new_directory(const char *name)
{
    const char *path = test_path(name);

    assert_int_equal(mkdir(path, 0700), 0);
    return path;
}

static void expect_content(const char *path, const char *want)
{
    unsigned char *bytes;
    size_t size;
    struct error err;

    if (!file_read(&bytes, &size, path, 1000, &err))
        fail_msg("%s", err.message);
    assert_int_equal(size, strlen(want));
    assert_string_equal((const char *)bytes, want);
    free(bytes);
}

static void expect_read_fails(const char *path, size_t limit, enum error_code code)
{
    unsigned char *bytes = NULL;
    size_t size = 9;
    struct error err;

    assert_false(file_read(&bytes, &size, path, limit, &err));
    assert_int_equal(err.code, code);
    assert_non_null(strstr(err.message, path));
    assert_null(bytes);
    assert_int_equal(size, 9);
}

static void file_read_returns_every_byte_and_a_nul(void **state)
{
    static const char content[] = "a\0b\n";
    const char *path = test_write_file("plain", content, 4);
    unsigned char *bytes;
    size_t size;
    struct error err;

    (void)state;
    assert_true(file_read(&bytes, &size, path, 4, &err));
    assert_int_equal(size, 4);
    assert_memory_equal(bytes, content, 5);
    free(bytes);
    expect_content(test_write_file("empty", "", 0), "");
}

static void file_read_refuses_what_is_too_large_missing_or_no_regular_file(void **state)
{
    const char *fifo = test_path("fifo");

    (void)state;
    expect_read_fails(test_write_file("five", "12345", 5), 4, ERROR_BAD_FILE);
    expect_read_fails(test_path("nowhere"), 100, ERROR_IO);
    expect_read_fails(test_directory(), 100000, ERROR_BAD_FILE);
    expect_read_fails("/dev/zero", 100, ERROR_BAD_FILE);
    /* Opening a FIFO that nobody writes to would wait for ever. */
    assert_int_equal(mkfifo(fifo, 0600), 0);
    expect_read_fails(fifo, 100, ERROR_BAD_FILE);
}

static void file_writer_shows_the_file_only_when_it_is_committed(void **state)
{
    const char *directory = new_directory("commit");
    char *path = file_join(directory, "out");
    struct file_writer *writer;
    struct error err;

    (void)state;
    assert_true(file_writer_create(&writer, path, &err));
    assert_true(file_writer_append(writer, "one ", 4, &err));
    assert_true(file_writer_append(writer, "", 0, &err));
    assert_true(file_writer_append(writer, "two", 3, &err));
    assert_false(file_is_regular(path));
    assert_true(file_writer_commit(writer, &err));
    expect_content(path, "one two");
    assert_int_equal(entry_count(directory), 1);
    free(path);
}

static void file_writer_puts_bytes_anywhere_into_the_room_it_reserved(void **state)
{
    const char *path = test_path("put");
    struct file_writer *writer;
    struct error err = {0};
    unsigned char *bytes;
    size_t size;

    (void)state;
    assert_true(file_writer_create(&writer, path, &err));
    assert_true(file_writer_reserve(writer, 6, &err));
    assert_true(file_writer_put(writer, 4, "56", 2, &err));
    assert_true(file_writer_put(writer, 0, "12", 2, &err));
    assert_true(file_writer_commit(writer, &err));
    assert_true(file_read(&bytes, &size, path, 100, &err));
    assert_int_equal(size, 6);
    assert_memory_equal(bytes,
                        "12\0\0"
                        "56",
                        6);
    free(bytes);
}

static void file_writer_keeps_the_old_file_until_the_commit(void **state)
{
    const char *directory = new_directory("replace");
    char *path = file_join(directory, "out");
    struct file_writer *writer;
    struct error err;

    (void)state;
    assert_true(file_write(path, "old", 3, &err));
    assert_true(file_writer_create(&writer, path, &err));
    assert_true(file_writer_append(writer, "newer", 5, &err));
    expect_content(path, "old");
    assert_true(file_writer_commit(writer, &err));
    expect_content(path, "newer");
    assert_int_equal(entry_count(directory), 1);
    free(path);
}

static void file_writer_abandon_leaves_nothing_behind(void **state)
{
    const char *directory = new_directory("abandon");
    char *path = file_join(directory, "out");
    struct file_writer *writer;
    struct error err;

    (void)state;
    assert_true(file_writer_create(&writer, path, &err));
    assert_true(file_writer_append(writer, "half", 4, &err));
    assert_int_equal(entry_count(directory), 1);
    file_writer_abandon(writer);
    assert_int_equal(entry_count(directory), 0);
    file_writer_abandon(NULL);
    free(path);
}

static void file_writer_gives_the_file_the_mode_that_the_umask_asks_for(void **state)
{
    const char *path = test_path("mode");
    struct error err;
    struct stat st;
    mode_t before = umask(027);

    (void)state;
    assert_true(file_write(path, "x", 1, &err));
    umask(before);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
}

static void expect_create_fails(const char *path)
{
    struct file_writer *writer = NULL;
    struct error err;

    assert_false(file_writer_create(&writer, path, &err));
    assert_null(writer);
    assert_int_equal(err.code, ERROR_IO);
    assert_non_null(strstr(err.message, path));
}

static void file_writer_create_fails_where_nothing_can_be_written(void **state)
{
    struct stat st;

    (void)state;
    expect_create_fails(test_path("no/such/directory"));
    expect_create_fails("/proc/sd35-test"); /* not even root may */
    test_write_file("in-the-way", "x", 1);
    expect_create_fails(test_path("in-the-way/out"));
    expect_create_fails(new_directory("taken"));
    /* A device is not to be renamed over. */
    expect_create_fails("/dev/full");
    assert_int_equal(stat("/dev/full", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
}

/* As a full disk, but within reach of a test: the system refuses to let files grow. */
static void file_write_on_a_full_disk_fails_and_leaves_the_old_file(void **state)
{
    const char *directory = new_directory("full");
    char *path = file_join(directory, "out");
    static char large[20000];
    struct rlimit before, small;
    struct error err = {.code = ERROR_NONE};
    bool ok;

    (void)state;
    assert_true(file_write(path, "old", 3, &err));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    ok = file_write(path, large, sizeof large, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_false(ok);
    assert_int_equal(err.code, ERROR_IO);
    assert_non_null(strstr(err.message, path));
    expect_content(path, "old");
    assert_int_equal(entry_count(directory), 1);
    free(path);
}

static void file_writer_commit_that_cannot_rename_fails_and_leaves_nothing(void **state)
{
    const char *directory = new_directory("rename");
    char *path = file_join(directory, "out");
    struct file_writer *writer;
    struct error err;

    (void)state;
    assert_true(file_writer_create(&writer, path, &err));
    assert_true(file_writer_append(writer, "x", 1, &err));
    assert_int_equal(mkdir(path, 0700), 0); /* somebody was faster */
    assert_false(file_writer_commit(writer, &err));
    assert_int_equal(err.code, ERROR_IO);
    assert_int_equal(entry_count(directory), 1);
    assert_true(file_is_directory(path));
    free(path);
}

static void file_join_puts_exactly_one_slash(void **state)
{
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {".", "b/c", "./b/c"}};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char *path = file_join(cases[i][0], cases[i][1]);

        assert_string_equal(path, cases[i][2]);
        free(path);
    }
}

/* --- Threads --- */

#define THREADS_TESTED 8
#define RUNS 100
#define BARRIER_ROUNDS 5

struct visit {
    struct thread_pool *pool;
    int size;
    atomic_int visits[THREADS_TESTED];
    atomic_int mistakes;
    int slots[THREADS_TESTED];
    int64_t item_count;
    atomic_int items[1000];
};

static void visit_task(void *context, int thread_index, int thread_count)
{
    struct visit *visit = context;

    if (thread_count != visit->size || thread_index < 0 || thread_index >= thread_count)
        atomic_fetch_add(&visit->mistakes, 1);
    else
        atomic_fetch_add(&visit->visits[thread_index], 1);
}

/* Every thread writes its slot, then reads all of them, over and over: without the barriers
 * somebody reads an old or a too new number. */
static void barrier_task(void *context, int thread_index, int thread_count)
{
    struct visit *visit = context;

    for (int round = 1; round <= BARRIER_ROUNDS; round++) {
        visit->slots[thread_index] = round;
        thread_pool_barrier(visit->pool);
        for (int i = 0; i < thread_count; i++)
            if (visit->slots[i] != round)
                atomic_fetch_add(&visit->mistakes, 1);
        thread_pool_barrier(visit->pool);
    }
}

static void take_all_items(struct visit *visit)
{
    int64_t item;

    while ((item = thread_pool_next(visit->pool)) < visit->item_count)
        atomic_fetch_add(&visit->items[item], 1);
}

static void counter_task(void *context, int thread_index, int thread_count)
{
    struct visit *visit = context;

    (void)thread_index;
    (void)thread_count;
    take_all_items(visit);
    thread_pool_reset_counter(visit->pool);
    take_all_items(visit);
}

/* Runs `task` many times on pools of 1 to THREADS_TESTED threads, then lets `check` look. */
static void for_every_size(thread_pool_task task, void (*check)(struct visit *visit))
{
    struct error err;

    for (int size = 1; size <= THREADS_TESTED; size++) {
        struct visit visit = {.size = size, .item_count = COUNT_OF(visit.items)};

        if (!thread_pool_create(&visit.pool, size, &err))
            fail_msg("%s", err.message);
        assert_int_equal(thread_pool_size(visit.pool), size);
        for (int run = 0; run < RUNS; run++)
            thread_pool_run(visit.pool, task, &visit);
        check(&visit);
        assert_int_equal(visit.mistakes, 0);
        thread_pool_destroy(visit.pool);
    }
}

static void check_visits(struct visit *visit)
{
    for (int i = 0; i < THREADS_TESTED; i++)
        assert_int_equal(visit->visits[i], i < visit->size ? RUNS : 0);
}

static void thread_pool_run_calls_the_task_once_on_every_thread(void **state)
{
    (void)state;
    for_every_size(visit_task, check_visits);
}

static void check_slots(struct visit *visit)
{
    for (int i = 0; i < visit->size; i++)
        assert_int_equal(visit->slots[i], BARRIER_ROUNDS);
}

static void thread_pool_barrier_separates_writing_from_reading(void **state)
{
    (void)state;
    for_every_size(barrier_task, check_slots);
}

static void check_items(struct visit *visit)
{
    for (size_t i = 0; i < COUNT_OF(visit->items); i++)
        assert_int_equal(visit->items[i], 2 * RUNS);
}

static void thread_pool_next_hands_out_every_number_once_each_time(void **state)
{
    (void)state;
    for_every_size(counter_task, check_items);
}

static void thread_pool_wakes_threads_that_fell_asleep(void **state)
{
    struct visit visit = {.size = 4};
    struct error err;

    (void)state;
    assert_true(thread_pool_create(&visit.pool, 4, &err));
    for (int run = 0; run < 10; run++) {
        usleep(5000); /* far beyond the time that idle threads spin */
        thread_pool_run(visit.pool, visit_task, &visit);
    }
    usleep(5000);
    thread_pool_destroy(visit.pool);
    for (int i = 0; i < 4; i++)
        assert_int_equal(visit.visits[i], 10);
}

static void thread_pool_create_refuses_impossible_sizes(void **state)
{
    static const int sizes[] = {-1, THREAD_POOL_MAX + 1};
    struct thread_pool *pool = NULL;
    struct error err;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        assert_false(thread_pool_create(&pool, sizes[i], &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
        assert_null(pool);
    }
    thread_pool_destroy(NULL);
}

static void thread_pool_of_size_zero_takes_the_cpus_that_the_process_may_use(void **state)
{
    struct thread_pool *pool;
    struct error err;
    cpu_set_t before, one;
    size_t cpu = 0;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    while (!CPU_ISSET(cpu, &before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(thread_pool_cpu_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);

    assert_in_range(thread_pool_cpu_count(), 1, CPU_COUNT(&before));
    assert_true(thread_pool_create(&pool, 0, &err));
    assert_int_equal(thread_pool_size(pool), thread_pool_cpu_count());
    thread_pool_destroy(pool);
}

static void pause_until_waits_between_tries_and_not_after_the_last(void **state)
{
    double start = seconds_now();
    int tries = 0;

    (void)state;
    assert_false(pause_until(start));
    while (pause_until(start + 0.1))
        tries++;
    assert_true(seconds_now() >= start + 0.1);
    assert_in_range(tries, 1, 6); /* each takes at least its pause */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(size_mul_and_add_report_overflow_and_leave_the_result_alone),
        cmocka_unit_test(size_round_up_gives_the_next_multiple),
        cmocka_unit_test(arena_alloc_gives_aligned_memory_that_does_not_overlap),
        cmocka_unit_test(arena_alloc_uses_the_last_byte_and_then_fails),
        cmocka_unit_test(arena_alloc_fails_when_the_size_overflows),
        cmocka_unit_test(arena_release_frees_what_came_after_the_mark_and_keeps_the_peak),
        cmocka_unit_test(a_counting_arena_needs_as_much_as_the_real_one),
        cmocka_unit_test(error_set_returns_false_and_keeps_code_and_message),
        cmocka_unit_test(error_functions_accept_that_nobody_wants_to_know),
        cmocka_unit_test(error_in_puts_the_context_before_the_message),
        cmocka_unit_test(error_set_errno_explains_the_number_and_tells_memory_apart),
        cmocka_unit_test(error_messages_are_cut_at_the_limit_and_still_end),
        cmocka_unit_test(error_codes_have_names_and_exit_codes_of_their_own),
        cmocka_unit_test(file_read_returns_every_byte_and_a_nul),
        cmocka_unit_test(file_read_refuses_what_is_too_large_missing_or_no_regular_file),
        cmocka_unit_test(file_writer_shows_the_file_only_when_it_is_committed),
        cmocka_unit_test(file_writer_puts_bytes_anywhere_into_the_room_it_reserved),
        cmocka_unit_test(file_writer_keeps_the_old_file_until_the_commit),
        cmocka_unit_test(file_writer_abandon_leaves_nothing_behind),
        cmocka_unit_test(file_writer_gives_the_file_the_mode_that_the_umask_asks_for),
        cmocka_unit_test(file_writer_create_fails_where_nothing_can_be_written),
        cmocka_unit_test(file_write_on_a_full_disk_fails_and_leaves_the_old_file),
        cmocka_unit_test(file_writer_commit_that_cannot_rename_fails_and_leaves_nothing),
        cmocka_unit_test(file_join_puts_exactly_one_slash),
        cmocka_unit_test(pause_until_waits_between_tries_and_not_after_the_last),
        cmocka_unit_test(thread_pool_run_calls_the_task_once_on_every_thread),
        cmocka_unit_test(thread_pool_barrier_separates_writing_from_reading),
        cmocka_unit_test(thread_pool_next_hands_out_every_number_once_each_time),
        cmocka_unit_test(thread_pool_wakes_threads_that_fell_asleep),
        cmocka_unit_test(thread_pool_create_refuses_impossible_sizes),
        cmocka_unit_test(thread_pool_of_size_zero_takes_the_cpus_that_the_process_may_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
