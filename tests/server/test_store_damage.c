/* What others do to the store's folder: damage, links, full disks, syncs that fail. */
#include "server/store_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "store/store_private.h"

/* In the place of the C library's, for this program and for SQLite in it: the n-th call fails. */
int fsync(int fd);
int fdatasync(int fd);

static int sync_fails_at; /* 0: never */

static int sync_or_fail(long call, int fd)
{
    if (sync_fails_at > 0 && --sync_fails_at == 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(call, fd);
}

int fsync(int fd)
{
    return sync_or_fail(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return sync_or_fail(SYS_fdatasync, fd);
}

/* A path below a folder, for the rest of the program. */
static const char *below(const char *folder, const char *name)
{
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];

    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

#define DATABASE ".sd35/store.sqlite"

/* A store with `count` jobs, each done with a picture, closed. */
static const char *filled_folder(int count)
{
    const char *folder = fixture_folder();
    struct store *store = fixture_open(folder);

    for (int i = 1; i <= count; i++) {
        char id[STORE_ID_BYTES];
        struct error err = {0};
        bool kept;

        fixture_accept(store, i);
        fixture_add(store, i, fixture_claim(store, i), 0);
        fixture_id(id, i);
        fixture_good(store_finish(store, id, 1, "{}", 3000, &kept, &err), &err);
    }
    store_close(store);
    return folder;
}

static struct store_picture picture_of(struct store *store, int number)
{
    char id[STORE_ID_BYTES];
    struct error err = {0};
    struct store_picture picture;
    struct store_job job;
    bool found;

    fixture_id(id, number);
    fixture_good(store_get(store, id, NULL, &job, &found, &err), &err);
    assert_true(found);
    picture = job.pictures[0];
    store_job_finish(&job);
    return picture;
}

/* Refused, with this code and a sentence that has this in it. */
static void expect_refused(const char *folder, enum error_code code, const char *part)
{
    struct error err = {0};
    struct store *store = NULL;

    assert_false(store_open(&store, folder, &err));
    assert_int_equal(err.code, code);
    if (!strstr(err.message, part))
        fail_msg("'%s' does not say '%s'", err.message, part);
}

static void write_bytes(const char *path, const void *bytes, size_t size)
{
    struct error err = {0};

    fixture_good(file_write(path, bytes, size, &err), &err);
}

static void a_second_server_is_refused(void **state)
{
    const char *folder = fixture_folder();
    struct store *store = fixture_open(folder);
    struct error err = {0};
    int64_t checked;

    (void)state;
    expect_refused(folder, ERROR_BAD_REQUEST, "another server");
    assert_false(store_verify(folder, NULL, NULL, &checked, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    store_close(store);
    store_close(fixture_open(folder));
}

/* As after a kill and a start at once. */
static void a_server_that_is_about_to_be_gone_is_waited_for(void **state)
{
    const char *folder = fixture_folder();
    int opened[2], status;
    char byte;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(opened), 0);
    pid = fork();
    if (pid == 0) {
        fixture_open(folder);
        (void)!write(opened[1], "", 1);
        usleep(300000);
        _exit(0);
    }
    assert_int_equal(read(opened[0], &byte, 1), 1);
    store_close(fixture_open(folder));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(opened[0]);
    close(opened[1]);
}

static void a_newer_schema_is_refused(void **state)
{
    const char *folder = filled_folder(1);
    const char *path = below(folder, DATABASE);
    struct error err = {0};
    unsigned char *bytes, *after;
    size_t size, after_size;

    (void)state;
    fixture_good(file_read(&bytes, &size, path, 1 << 24, &err), &err);
    bytes[63] = 99; /* user_version, in big-endian order at 60 */
    write_bytes(path, bytes, size);
    expect_refused(folder, ERROR_BAD_FILE, "newer version");
    fixture_good(file_read(&after, &after_size, path, 1 << 24, &err), &err);
    assert_int_equal(after_size, size);
    assert_memory_equal(after, bytes, size);
    free(after);
    bytes[63] = 0;
    write_bytes(path, bytes, size);
    expect_refused(folder, ERROR_BAD_FILE, "no schema");
    free(bytes);
}

static void a_lost_database_is_not_begun_anew(void **state)
{
    const char *folder = filled_folder(2);
    const char *path = below(folder, DATABASE);

    (void)state;
    write_bytes(path, "", 0);
    expect_refused(folder, ERROR_BAD_FILE, "put back a backup");
    write_bytes(path, "this is no database, but a text", 31);
    expect_refused(folder, ERROR_BAD_FILE, "put back a backup");
    assert_int_equal(unlink(path), 0);
    expect_refused(folder, ERROR_BAD_FILE, "no database");
    assert_int_equal(symlink("/etc/passwd", path), 0);
    expect_refused(folder, ERROR_BAD_FILE, "not a regular file");
    assert_int_equal(fixture_file_count(folder), 4);
}

static void count_job(void *context, const struct store_job *job)
{
    (void)job;
    ++*(int *)context;
}

static void ignore(void *context, const char *sentence)
{
    (void)context;
    (void)sentence;
}

/* Everything that reads, on a store that may be damaged anywhere. False: it noticed. */
static bool read_everything(struct store *store, int *count)
{
    struct store_query query = {.limit = 200, .search = "fox"};
    struct store_counts counts;
    bool is_good;
    int queued = 0;

    *count = 0;
    is_good = store_list(store, &query, count_job, count, NULL);
    is_good &= store_each_queued(store, count_job, &queued, NULL);
    is_good &= store_count(store, &counts, NULL);
    return is_good;
}

static void a_flipped_byte_is_no_crash_and_no_new_beginning(void **state)
{
    const int jobs = 60, flips = 600;
    const char *folder = filled_folder(jobs);
    const char *path = below(folder, DATABASE), *wal = below(folder, DATABASE "-wal");
    struct error err = {0};
    unsigned char *bytes;
    unsigned seed = 4711;
    size_t size;
    int refused = 0, noticed = 0, whole = 0, unverified = 0;

    (void)state;
    fixture_good(file_read(&bytes, &size, path, 1 << 24, &err), &err);
    for (int i = 0; i < flips; i++) {
        struct store *store = NULL;
        unsigned char saved;
        size_t at;
        int count;
        int64_t checked;

        seed = seed * 1103515245u + 12345u;
        at = i < 100 ? (size_t)i : seed % size; /* all of the header, too */
        saved = bytes[at];
        seed = seed * 1103515245u + 12345u;
        bytes[at] ^= (unsigned char)(1u << (seed >> 16) % 8);
        write_bytes(path, bytes, size);
        bytes[at] = saved;
        (void)unlink(wal);
        unverified += !store_verify(folder, ignore, NULL, &checked, &err);
        if (!store_open(&store, folder, &err)) {
            refused++;
            if (err.code != ERROR_BAD_FILE && err.code != ERROR_IO)
                fail_msg("byte %zu: %s", at, err.message);
            continue;
        }
        if (!read_everything(store, &count))
            noticed++;
        else if (count < jobs - 1) /* a prompt of its own may have lost its fox */
            fail_msg("byte %zu: %d jobs are left and nobody says so", at, count);
        else
            whole++;
        store_close(store);
    }
    free(bytes);
    print_message("%d flips: %d refused, %d noticed later, %d without effect on what is read; the "
                  "oracle refused %d\n",
                  flips, refused, noticed, whole, unverified);
    assert_true(refused > 50);
}

static void links_lead_nowhere(void **state)
{
    const char *folder = filled_folder(1);
    struct store *store = fixture_open(folder);
    struct store_picture picture = picture_of(store, 1);
    const char *file = below(folder, picture.path);
    char day[11], inside[512];
    int folder_fd = open(folder, O_RDONLY | O_DIRECTORY);

    (void)state;
    memcpy(day, picture.path, 10);
    day[10] = '\0';
    assert_int_equal(store_open_file(store, "../../etc/passwd"), -1);
    assert_int_equal(store_open_file(store, "/etc/passwd"), -1);
    assert_int_equal(store_open_file(store, DATABASE), -1);
    assert_int_equal(store_open_file(store, ""), -1);
    for (int i = 0; i < 2; i++) {
        int (*const open_it)(int, const char *, int) =
            i == 0 ? store_open_beneath : store_open_by_segments;
        int fd = open_it(folder_fd, picture.path, O_RDONLY);

        assert_true(fd >= 0);
        close(fd);
        assert_int_equal(open_it(folder_fd, "../x", O_RDONLY), -1);
        assert_int_equal(open_it(folder_fd, "..", O_RDONLY | O_DIRECTORY), -1);
        assert_int_equal(open_it(folder_fd, "/etc/passwd", O_RDONLY), -1);
        assert_int_equal(open_it(folder_fd, "", O_RDONLY), -1);
        assert_int_equal(open_it(folder_fd, "none/x", O_RDONLY), -1);
    }
    /* The file becomes a link, then a pipe, then its folder a link. */
    assert_int_equal(unlink(file), 0);
    assert_int_equal(symlink("/etc/passwd", file), 0);
    assert_int_equal(store_open_file(store, picture.path), -1);
    assert_int_equal(store_open_by_segments(folder_fd, picture.path, O_RDONLY), -1);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(mkfifo(file, 0600), 0);
    assert_int_equal(store_open_file(store, picture.path), -1);
    assert_int_equal(unlink(file), 0);
    snprintf(inside, sizeof inside, "%s/elsewhere", folder);
    assert_int_equal(rename(below(folder, day), inside), 0);
    assert_int_equal(symlink("elsewhere", below(folder, day)), 0);
    assert_int_equal(store_open_file(store, picture.path), -1);
    assert_int_equal(store_open_by_segments(folder_fd, picture.path, O_RDONLY), -1);
    close(folder_fd);
    store_close(store);
    /* Nothing is swept through a link. */
    snprintf(inside, sizeof inside, "%s/elsewhere/%s.png", folder, picture.sha256);
    write_bytes(inside, "precious", 8);
    store_close(fixture_open(folder));
    assert_true(file_is_regular(inside));
}

static void a_state_folder_that_is_a_link_is_refused(void **state)
{
    static const char *const names[] = {".sd35", ".sd35/tmp", ".sd35/lock"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const char *folder = fixture_folder();
        const char *victim = below(folder, i == 2 ? "victim.txt" : "victim");

        if (i > 0)
            assert_int_equal(mkdir(below(folder, ".sd35"), 0700), 0);
        if (i == 2)
            write_bytes(victim, "x", 1);
        else
            assert_int_equal(mkdir(victim, 0700), 0);
        assert_int_equal(symlink(victim, below(folder, names[i])), 0);
        expect_refused(folder, ERROR_IO, "");
    }
}

static void only_what_is_ours_is_swept(void **state)
{
    static const char *const strangers[] = {
        "2026-11-26/holiday.png",
        "2026-11-26/ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef0123456789.png",
        "2026-11-26/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.txt",
        "2026-11-26/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.png.bak",
        "holiday/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.png",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.png",
        ".sd35/notes.txt",
    };
    static const char orphan[] =
        "2026-11-26/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.png";
    const char *folder = filled_folder(2);

    (void)state;
    (void)mkdir(below(folder, "2026-11-26"), 0700);
    assert_int_equal(mkdir(below(folder, "holiday"), 0700), 0);
    for (size_t i = 0; i < COUNT_OF(strangers); i++)
        write_bytes(below(folder, strangers[i]), "x", 1);
    write_bytes(below(folder, orphan), "x", 1);
    write_bytes(below(folder, ".sd35/tmp/half"), "x", 1);
    assert_int_equal(fixture_defects(folder, false), 2);
    store_close(fixture_open(folder));
    for (size_t i = 0; i < COUNT_OF(strangers); i++)
        assert_true(file_is_regular(below(folder, strangers[i])));
    assert_false(file_is_regular(below(folder, orphan)));
    assert_int_equal(fixture_defects(folder, true), 0);
}

static void the_oracle_sees_each_damage(void **state)
{
    const char *folder = filled_folder(4);
    struct store *store = fixture_open(folder);
    struct store_picture pictures[4];
    struct store_new_picture good = fixture_picture(200, 0);
    struct error err = {0};
    unsigned char *bytes;
    size_t size;

    (void)state;
    for (int i = 0; i < 4; i++)
        pictures[i] = picture_of(store, i + 1);
    store_close(store);
    assert_int_equal(unlink(below(folder, pictures[0].path)), 0);
    assert_int_equal(fixture_defects(folder, false), 1);
    assert_int_equal(truncate(below(folder, pictures[1].path), 20), 0);
    assert_int_equal(fixture_defects(folder, false), 2);
    fixture_good(file_read(&bytes, &size, below(folder, pictures[2].path), 1 << 20, &err), &err);
    bytes[size - 20] ^= 1;
    write_bytes(below(folder, pictures[2].path), bytes, size);
    free(bytes);
    assert_int_equal(fixture_defects(folder, false), 3);
    write_bytes(below(folder, pictures[3].thumbnail), "no picture", 10);
    assert_int_equal(fixture_defects(folder, false), 4);

    /* A size that was not asked for, and a job without pictures. */
    folder = fixture_folder();
    store = fixture_open(folder);
    for (int i = 1; i <= 2; i++) {
        char id[STORE_ID_BYTES];
        bool kept;

        fixture_accept(store, i);
        (void)fixture_claim(store, i);
        fixture_id(id, i);
        good.width = 9;
        if (i == 1)
            fixture_good(store_add_picture(store, id, 1, &good, &kept, &err), &err);
        fixture_good(store_finish(store, id, 1, NULL, 3000, &kept, &err), &err);
    }
    store_close(store);
    assert_int_equal(fixture_defects(folder, false), 2);
}

/* Of two that were asked for. */
static const char *folder_with_one_picture(const char *result)
{
    const char *folder = fixture_folder();
    struct store *store = fixture_open(folder);
    struct error err = {0};
    struct store_new_job job;
    char id[STORE_ID_BYTES], answer[STORE_ID_BYTES];
    enum store_accept how;
    bool kept;

    fixture_id(id, 1);
    job = fixture_job(id, "A fox");
    job.parameters = "{\"count\":2}";
    fixture_good(store_accept(store, &job, &how, answer, &err), &err);
    fixture_add(store, 1, fixture_claim(store, 1), 1);
    fixture_good(store_finish(store, id, 1, result, 3000, &kept, &err), &err);
    store_close(store);
    return folder;
}

static void fewer_pictures_than_were_asked_for_must_be_said_to_be_skipped(void **state)
{
    (void)state;
    assert_int_equal(fixture_defects(folder_with_one_picture(NULL), false), 1);
    assert_int_equal(fixture_defects(folder_with_one_picture("{\"pictures_skipped\":0}"), false),
                     1);
    assert_int_equal(fixture_defects(folder_with_one_picture("{\"pictures_skipped\":1}"), true), 0);
}

static void a_sync_that_fails_ends_all_writing(void **state)
{
    int failed = 0;

    (void)state;
    for (int at = 1; at <= 8; at++) {
        const char *folder = filled_folder(1);
        struct store *store = fixture_open(folder);
        struct store_new_picture picture = fixture_picture(50, 0);
        char id[STORE_ID_BYTES], answer[STORE_ID_BYTES];
        struct error err = {0};
        struct store_new_job job;
        enum store_accept how;
        bool kept, is_good;
        int count;

        fixture_accept(store, 7);
        (void)fixture_claim(store, 7);
        fixture_id(id, 7);
        sync_fails_at = at;
        is_good = store_add_picture(store, id, 1, &picture, &kept, &err);
        if (sync_fails_at > 0) { /* there are fewer */
            sync_fails_at = 0;
            store_close(store);
            continue;
        }
        failed++;
        assert_false(is_good);
        assert_int_equal(err.code, ERROR_IO);
        fixture_id(id, 8);
        job = fixture_job(id, "x");
        assert_false(store_accept(store, &job, &how, answer, &err));
        assert_int_equal(err.code, ERROR_IO);
        assert_non_null(strstr(err.message, "no more writes"));
        assert_true(read_everything(store, &count)); /* reading goes on */
        assert_int_equal(count, 2);
        store_close(store);
        store = fixture_open(folder);
        fixture_accept(store, 8);
        store_close(store);
        assert_int_equal(fixture_defects(folder, true), 0);
    }
    print_message("%d syncs of one picture failed in turn\n", failed);
    assert_true(failed >= 4);
}

/* Jobs until the disk is full, more after room is made, everything kept that was answered. */
static void fill_the_disk(const char *folder, const char *ballast)
{
    struct store *store = fixture_open(folder);
    char id[STORE_ID_BYTES], answer[STORE_ID_BYTES];
    char *prompt = calloc(1, 20001);
    struct store_counts counts;
    struct error err = {0};
    struct store_new_job job;
    enum store_accept how;
    int accepted = 0;

    assert_non_null(prompt);
    memset(prompt, 'p', 20000);
    for (;;) {
        fixture_id(id, accepted + 1);
        job = fixture_job(id, prompt);
        if (!store_accept(store, &job, &how, answer, &err))
            break;
        assert_true(++accepted < 100000);
    }
    free(prompt);
    assert_int_equal(err.code, ERROR_IO);
    if (!strstr(err.message, "the disk is full"))
        fail_msg("%s", err.message);
    assert_int_equal(unlink(ballast), 0);
    fixture_accept(store, 999999);
    (void)fixture_claim(store, 1);
    fixture_add(store, 1, 1, 0);
    fixture_good(store_count(store, &counts, &err), &err);
    assert_int_equal(counts.queued + counts.running, accepted + 1);
    store_close(store);
    store_close(fixture_open(folder));
    assert_int_equal(fixture_defects(folder, true), 0);
    print_message("full after %d jobs\n", accepted);
}

static void a_full_disk_is_said_and_outlived(void **state)
{
    const char *folder = fixture_folder();
    char *ballast = calloc(1, 8 << 20);

    (void)state;
    assert_non_null(ballast);
    if (mount("none", folder, "tmpfs", 0, "size=24m") != 0) {
        print_message("SKIPPED: mounting is not allowed here: %s\n", strerror(errno));
        free(ballast);
        skip();
        return;
    }
    write_bytes(below(folder, "ballast"), ballast, 8 << 20);
    free(ballast);
    fill_the_disk(folder, below(folder, "ballast"));
    assert_int_equal(umount(folder), 0);
}

static void a_limit_on_files_is_a_full_disk(void **state)
{
    const char *folder = filled_folder(1);
    struct store *store = fixture_open(folder);
    struct store_new_picture picture = fixture_picture(50, 0);
    struct rlimit before, small;
    char id[STORE_ID_BYTES];
    struct error err = {0};
    bool kept, is_good;

    (void)state;
    fixture_accept(store, 7);
    (void)fixture_claim(store, 7);
    fixture_id(id, 7);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = picture.file.size / 2; /* the picture is cut in the middle of its bytes */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    is_good = store_add_picture(store, id, 1, &picture, &kept, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_false(is_good);
    assert_int_equal(err.code, ERROR_IO);
    assert_non_null(strstr(err.message, "the disk is full"));
    assert_int_equal(fixture_file_count(folder), 2);
    fixture_good(store_add_picture(store, id, 1, &picture, &kept, &err), &err);
    store_close(store);
    assert_int_equal(fixture_defects(folder, true), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_server_is_refused),
        cmocka_unit_test(a_server_that_is_about_to_be_gone_is_waited_for),
        cmocka_unit_test(a_newer_schema_is_refused),
        cmocka_unit_test(a_lost_database_is_not_begun_anew),
        cmocka_unit_test(a_flipped_byte_is_no_crash_and_no_new_beginning),
        cmocka_unit_test(links_lead_nowhere),
        cmocka_unit_test(a_state_folder_that_is_a_link_is_refused),
        cmocka_unit_test(only_what_is_ours_is_swept),
        cmocka_unit_test(the_oracle_sees_each_damage),
        cmocka_unit_test(fewer_pictures_than_were_asked_for_must_be_said_to_be_skipped),
        cmocka_unit_test(a_sync_that_fails_ends_all_writing),
        cmocka_unit_test(a_full_disk_is_said_and_outlived),
        cmocka_unit_test(a_limit_on_files_is_a_full_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
