/* Choices that outlive the process: what is kept, who may share it, and files that nobody wrote. */
#include "support/support.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/cuda/choice_file.h"
#include "backend/cuda/choice_folder.h"
#include "base/file.h"

#define IDENTITY "a GPU, its libraries"
#define WRITERS 4
#define WRITES 10

/* A folder of the test's own. */
static const char *make_folder(const char *name)
{
    const char *folder = test_path(name);

    assert_int_equal(mkdir(folder, 0700), 0);
    return folder;
}

static struct choice_file *open_file(const char *folder, const char *identity)
{
    struct choice_file *file;
    struct error err;

    assert_true(choice_file_create(&file, folder, identity, &err));
    return file;
}

static void save(struct choice_file *file)
{
    struct error err = {0};

    if (!choice_file_save(file, &err))
        fail_msg("%s", err.message);
}

static void add_text(struct choice_file *file, uint32_t kind, const char *key, const char *value)
{
    choice_file_add(file, kind, key, strlen(key), value, strlen(value) + 1);
}

/* The value, or "" where there is none. */
static const char *find_text(const struct choice_file *file, uint32_t kind, const char *key)
{
    size_t size;
    const char *value = choice_file_find(file, kind, key, strlen(key), &size);

    if (!value)
        return "";
    assert_int_equal(size, strlen(value) + 1);
    return value;
}

/* A file with three records, saved. */
static struct choice_file *make_file(const char *folder)
{
    struct choice_file *file = open_file(folder, IDENTITY);

    add_text(file, 1, "small", "first");
    add_text(file, 1, "large", "second");
    add_text(file, 2, "small", "third");
    save(file);
    return file;
}

static void read_file(unsigned char **bytes, size_t *size, const char *path)
{
    struct error err;

    assert_true(file_read(bytes, size, path, CHOICE_FILE_BYTES_MAX, &err));
}

static void write_bytes(const char *path, const void *bytes, size_t size)
{
    FILE *stream = fopen(path, "wb");

    assert_non_null(stream);
    assert_int_equal(fwrite(bytes, 1, size, stream), size);
    assert_int_equal(fclose(stream), 0);
}

static bool has_records(const char *folder, const char *identity)
{
    struct choice_file *file = open_file(folder, identity);
    bool has = *find_text(file, 1, "small") || *find_text(file, 1, "large") ||
               *find_text(file, 2, "small");

    choice_file_destroy(file);
    return has;
}

static uint64_t inode_of(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return st.st_ino;
}

/* --- Keeping --- */

static void records_come_back_by_kind_and_key(void **state)
{
    const char *folder = make_folder("back");
    struct choice_file *file;

    (void)state;
    choice_file_destroy(make_file(folder));
    file = open_file(folder, IDENTITY);
    assert_string_equal(find_text(file, 1, "small"), "first");
    assert_string_equal(find_text(file, 1, "large"), "second");
    assert_string_equal(find_text(file, 2, "small"), "third");
    assert_string_equal(find_text(file, 2, "large"), "");
    assert_string_equal(find_text(file, 1, "smal"), "");
    choice_file_destroy(file);
}

static void the_file_is_for_its_owner_alone_and_stands_alone(void **state)
{
    const char *folder = make_folder("private");
    struct choice_file *file = make_file(folder);
    struct dirent *entry;
    struct stat st;
    int count = 0;
    DIR *listing;

    (void)state;
    assert_int_equal(stat(choice_file_path(file), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    listing = opendir(folder);
    assert_non_null(listing);
    while ((entry = readdir(listing)) != NULL)
        count += entry->d_name[0] != '.';
    closedir(listing);
    assert_int_equal(count, 1);
    choice_file_destroy(file);
}

static void only_what_is_new_is_written(void **state)
{
    const char *folder = make_folder("new");
    struct choice_file *file = make_file(folder);
    const char *path = choice_file_path(file);
    uint64_t before = inode_of(path);

    (void)state;
    save(file);
    assert_int_equal(inode_of(path), before);
    add_text(file, 1, "small", "first"); /* chosen again, although it is what was chosen before */
    save(file);
    assert_int_not_equal(inode_of(path), before);
    choice_file_destroy(file);
}

static void a_replaced_value_is_the_one_that_stays(void **state)
{
    const char *folder = make_folder("replaced");
    struct choice_file *file;

    (void)state;
    choice_file_destroy(make_file(folder));
    file = open_file(folder, IDENTITY);
    add_text(file, 1, "small", "a longer one");
    assert_string_equal(find_text(file, 1, "small"), "a longer one");
    save(file);
    choice_file_destroy(file);
    file = open_file(folder, IDENTITY);
    assert_string_equal(find_text(file, 1, "small"), "a longer one");
    assert_string_equal(find_text(file, 1, "large"), "second");
    choice_file_destroy(file);
}

static void without_a_folder_choices_live_in_memory(void **state)
{
    struct choice_file *file = open_file(NULL, IDENTITY);

    (void)state;
    add_text(file, 1, "small", "first");
    assert_string_equal(find_text(file, 1, "small"), "first");
    assert_null(choice_file_path(file));
    save(file);
    choice_file_destroy(file);
}

static void sizes_that_are_not_allowed_are_not_kept(void **state)
{
    static unsigned char large[CHOICE_PART_BYTES_MAX + 1];
    struct choice_file *file = open_file(NULL, IDENTITY);
    size_t size;

    (void)state;
    choice_file_add(file, 1, large, sizeof large, "v", 1);
    choice_file_add(file, 1, "k", 1, large, sizeof large);
    choice_file_add(file, 1, "k", 1, large, 0);
    choice_file_add(file, 1, "k", 0, "v", 1);
    assert_null(choice_file_find(file, 1, large, sizeof large, &size));
    assert_null(choice_file_find(file, 1, "k", 1, &size));
    assert_null(choice_file_find(file, 1, "k", 0, &size));
    choice_file_add(file, 1, large, sizeof large - 1, large, sizeof large - 1);
    assert_non_null(choice_file_find(file, 1, large, sizeof large - 1, &size));
    assert_int_equal(size, CHOICE_PART_BYTES_MAX);
    choice_file_destroy(file);
}

static void fill(struct choice_file *file, uint32_t count, size_t value_size)
{
    static const unsigned char value[CHOICE_PART_BYTES_MAX];

    for (uint32_t i = 0; i < count; i++)
        choice_file_add(file, 1, &i, sizeof i, value, value_size);
}

static void expect_from(const char *folder, uint32_t first, uint32_t count)
{
    struct choice_file *file = open_file(folder, IDENTITY);
    uint32_t last = count - 1, gone = first - 1;
    size_t size;

    assert_null(choice_file_find(file, 1, &gone, sizeof gone, &size));
    assert_non_null(choice_file_find(file, 1, &first, sizeof first, &size));
    assert_non_null(choice_file_find(file, 1, &last, sizeof last, &size));
    choice_file_destroy(file);
}

static void the_oldest_go_when_there_are_too_many(void **state)
{
    const char *folder = make_folder("many");
    struct choice_file *file = open_file(folder, IDENTITY);

    (void)state;
    fill(file, CHOICE_RECORDS_MAX + 10, 1);
    save(file);
    expect_from(folder, 10, CHOICE_RECORDS_MAX + 10);
    choice_file_destroy(file);
}

static void the_oldest_go_when_they_take_too_much(void **state)
{
    const char *folder = make_folder("much");
    struct choice_file *file = open_file(folder, IDENTITY);
    size_t record = 12 + 4 + CHOICE_PART_BYTES_MAX;
    uint32_t fits = (uint32_t)((CHOICE_FILE_BYTES_MAX - 28 - strlen(IDENTITY)) / record);

    (void)state;
    fill(file, fits + 3, CHOICE_PART_BYTES_MAX);
    save(file);
    expect_from(folder, 3, fits + 3);
    choice_file_destroy(file);
}

/* --- Sharing --- */

static void what_another_process_wrote_stays(void **state)
{
    const char *folder = make_folder("shared");
    struct choice_file *one = open_file(folder, IDENTITY), *other = open_file(folder, IDENTITY);
    struct choice_file *file;

    (void)state;
    add_text(one, 1, "small", "of one");
    add_text(one, 1, "both", "of one");
    add_text(other, 1, "large", "of other");
    add_text(other, 1, "both", "of other");
    save(one);
    save(other);
    file = open_file(folder, IDENTITY);
    assert_string_equal(find_text(file, 1, "small"), "of one");
    assert_string_equal(find_text(file, 1, "large"), "of other");
    assert_string_equal(find_text(file, 1, "both"), "of one");
    assert_string_equal(find_text(other, 1, "both"), "of other"); /* what it runs already */
    choice_file_destroy(file);
    choice_file_destroy(other);
    choice_file_destroy(one);
}

static void a_file_that_went_is_written_whole(void **state)
{
    const char *folder = make_folder("went");
    struct choice_file *file = make_file(folder);

    (void)state;
    assert_int_equal(unlink(choice_file_path(file)), 0);
    add_text(file, 3, "new", "fourth");
    save(file);
    choice_file_destroy(file);
    file = open_file(folder, IDENTITY);
    assert_string_equal(find_text(file, 1, "small"), "first");
    assert_string_equal(find_text(file, 3, "new"), "fourth");
    choice_file_destroy(file);
}

/* Adds and saves again and again. The exit status: 0 when each of it worked. */
static int write_much(const char *folder, uint32_t writer)
{
    struct choice_file *file;

    if (!choice_file_create(&file, folder, IDENTITY, NULL))
        return 1;
    for (uint32_t i = 0; i < WRITES; i++) {
        uint32_t key[2] = {writer, i};

        choice_file_add(file, 1, key, sizeof key, key, sizeof key);
        if (!choice_file_save(file, NULL))
            return 2;
    }
    choice_file_destroy(file);
    return 0;
}

/* Somebody's latest save stands, whole: each saves all that it made itself. */
static bool has_all_of_one(const struct choice_file *file)
{
    for (uint32_t writer = 0; writer < WRITERS; writer++) {
        uint32_t found = 0;

        for (uint32_t i = 0; i < WRITES; i++) {
            uint32_t key[2] = {writer, i};
            size_t size;
            const void *value = choice_file_find(file, 1, key, sizeof key, &size);

            found += value && size == sizeof key && memcmp(value, key, sizeof key) == 0;
        }
        if (found == WRITES)
            return true;
    }
    return false;
}

static void many_may_write_while_one_reads(void **state)
{
    const char *folder = make_folder("race");
    struct choice_file *file = make_file(folder);
    int running = WRITERS;

    (void)state;
    for (uint32_t i = 0; i < WRITERS; i++) {
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0)
            _exit(write_much(folder, i));
    }
    while (running > 0) {
        int status;
        pid_t ended = waitpid(-1, &status, WNOHANG);

        assert_true(ended >= 0);
        if (ended > 0) {
            assert_true(WIFEXITED(status));
            assert_int_equal(WEXITSTATUS(status), 0);
            running--;
        }
        assert_true(has_records(folder, IDENTITY)); /* never torn: then there would be none */
    }
    choice_file_destroy(file);
    file = open_file(folder, IDENTITY);
    assert_true(has_all_of_one(file));
    choice_file_destroy(file);
}

/* --- Files that nobody wrote --- */

static void another_identity_has_its_own_file(void **state)
{
    const char *folder = make_folder("identity");
    struct choice_file *mine = make_file(folder), *other = open_file(folder, IDENTITY ".");
    unsigned char *bytes;
    size_t size;

    (void)state;
    assert_string_not_equal(choice_file_path(mine), choice_file_path(other));
    /* Even where it lies in the other's place. */
    read_file(&bytes, &size, choice_file_path(mine));
    write_bytes(choice_file_path(other), bytes, size);
    assert_false(has_records(folder, IDENTITY "."));
    assert_true(has_records(folder, IDENTITY));
    free(bytes);
    choice_file_destroy(other);
    choice_file_destroy(mine);
}

static void every_truncation_is_ignored(void **state)
{
    const char *folder = make_folder("truncated");
    struct choice_file *file = make_file(folder);
    unsigned char *bytes;
    size_t size;

    (void)state;
    read_file(&bytes, &size, choice_file_path(file));
    for (size_t length = 0; length < size; length++) {
        write_bytes(choice_file_path(file), bytes, length);
        assert_false(has_records(folder, IDENTITY));
    }
    write_bytes(choice_file_path(file), bytes, size);
    assert_true(has_records(folder, IDENTITY));
    free(bytes);
    choice_file_destroy(file);
}

static void every_flip_of_a_byte_is_ignored(void **state)
{
    const char *folder = make_folder("flipped");
    struct choice_file *file = make_file(folder);
    unsigned char *bytes;
    size_t size;

    (void)state;
    read_file(&bytes, &size, choice_file_path(file));
    for (size_t i = 0; i < size; i++)
        for (unsigned flip = 1; flip < 256; flip = flip < 128 ? 2 * flip : flip + 127) {
            bytes[i] ^= (unsigned char)flip;
            write_bytes(choice_file_path(file), bytes, size);
            assert_false(has_records(folder, IDENTITY));
            bytes[i] ^= (unsigned char)flip;
        }
    free(bytes);
    choice_file_destroy(file);
}

/* As choice_file.c has it, so that files with a good checksum can be wrong inside. */
static void write_sealed(const char *path, const unsigned char *body, size_t size)
{
    static const char magic[8] = {'S', 'D', '3', '5', 'C', 'H', 'O', '1'};
    unsigned char *bytes = malloc(24 + size);
    uint64_t hash = UINT64_C(0xcbf29ce484222325), length = size;

    assert_non_null(bytes);
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ body[i]) * UINT64_C(0x100000001b3);
    memcpy(bytes, magic, sizeof magic);
    memcpy(bytes + 8, &length, sizeof length);
    memcpy(bytes + 16, &hash, sizeof hash);
    memcpy(bytes + 24, body, size);
    write_bytes(path, bytes, 24 + size);
    free(bytes);
}

static void a_good_checksum_over_wrong_sizes_is_ignored(void **state)
{
    const char *folder = make_folder("sealed");
    struct choice_file *file = make_file(folder);
    static const uint32_t wrong[] = {
        0, 4, CHOICE_PART_BYTES_MAX, CHOICE_PART_BYTES_MAX + 1, 0x7fffffff, 0xffffffff};
    unsigned char *bytes;
    size_t size, count = 0;

    (void)state;
    read_file(&bytes, &size, choice_file_path(file));
    write_sealed(choice_file_path(file), bytes + 24, size - 24);
    assert_true(has_records(folder, IDENTITY)); /* the seal is right */
    /* The identity's size, and both sizes of the first record, which come right behind it. */
    for (int place = 0; place < 3; place++)
        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
            size_t at = 24 + (place ? 4 + strlen(IDENTITY) + 4 * (size_t)place : 0);
            uint32_t right;

            memcpy(&right, bytes + at, sizeof right);
            memcpy(bytes + at, &wrong[i], sizeof right);
            write_sealed(choice_file_path(file), bytes + 24, size - 24);
            assert_false(has_records(folder, IDENTITY));
            memcpy(bytes + at, &right, sizeof right);
            count++;
        }
    assert_int_equal(count, 18);
    for (size_t length = 0; length < size - 24; length++) {
        write_sealed(choice_file_path(file), bytes + 24, length);
        choice_file_destroy(open_file(folder, IDENTITY)); /* records that are whole may count */
    }
    free(bytes);
    choice_file_destroy(file);
}

static void random_bodies_under_a_good_checksum_do_no_harm(void **state)
{
    const char *folder = make_folder("random");
    struct choice_file *file = make_file(folder);
    unsigned char *bytes;
    uint64_t random = 1;
    size_t size;

    (void)state;
    read_file(&bytes, &size, choice_file_path(file));
    for (int turn = 0; turn < 2000; turn++) {
        size_t start = turn % 2 ? 24 + 4 + strlen(IDENTITY) : 24;
        unsigned char *body = malloc(size - 24);
        struct choice_file *read;

        assert_non_null(body);
        memcpy(body, bytes + 24, size - 24);
        for (int change = 0; change < 4; change++) {
            random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
            body[start - 24 + (random >> 33) % (size - start)] = (unsigned char)(random >> 24);
        }
        write_sealed(choice_file_path(file), body, size - 24);
        read = open_file(folder, IDENTITY);
        add_text(read, 9, "new", "one");
        if (turn % 100 == 0) /* the disk is slow */
            save(read);
        choice_file_destroy(read);
        free(body);
    }
    free(bytes);
    choice_file_destroy(file);
}

static void too_large_files_and_folders_are_ignored(void **state)
{
    const char *folder = make_folder("large");
    struct choice_file *file = make_file(folder);
    const char *path = choice_file_path(file);
    struct error err = {0};

    (void)state;
    assert_int_equal(truncate(path, (off_t)CHOICE_FILE_BYTES_MAX + 1), 0);
    assert_false(has_records(folder, IDENTITY));
    assert_int_equal(truncate(path, (off_t)1 << 40), 0);
    assert_false(has_records(folder, IDENTITY));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_false(has_records(folder, IDENTITY));
    add_text(file, 1, "new", "one");
    assert_false(choice_file_save(file, &err));
    assert_int_equal(err.code, ERROR_IO);
    assert_true(choice_file_save(file, &err)); /* not again until there is something new */
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_false(has_records(folder, IDENTITY)); /* and nobody waits */
    choice_file_destroy(file);
}

/* --- The folder --- */

/* The folder that is found with these settings, where NULL unsets. */
static char *find_folder(const char *asked, const char *caches, const char *home, char notice[512])
{
    const struct {
        const char *name, *value;
    } settings[] = {{"SD35_CACHE_DIR", asked}, {"XDG_CACHE_HOME", caches}, {"HOME", home}};

    for (size_t i = 0; i < COUNT_OF(settings); i++)
        assert_int_equal(settings[i].value ? setenv(settings[i].name, settings[i].value, 1)
                                           : unsetenv(settings[i].name),
                         0);
    return choice_folder_find(notice, 512);
}

static void expect_folder(const char *asked, const char *caches, const char *home, const char *want)
{
    char notice[512], *found = find_folder(asked, caches, home, notice);

    assert_string_equal(notice, "");
    if (want) {
        char *real = realpath(want, NULL);

        assert_non_null(real);
        assert_non_null(found);
        assert_string_equal(found, real);
        assert_true(file_is_directory(found));
        free(real);
    } else {
        assert_null(found);
    }
    free(found);
}

static void folders_are_taken_in_order(void **state)
{
    const char *home = make_folder("home"), *asked = test_path("asked/for");
    const char *caches = test_path("caches");

    (void)state;
    expect_folder(asked, caches, home, asked);
    expect_folder(NULL, caches, home, test_path("caches/sd35"));
    expect_folder(NULL, NULL, home, test_path("home/.cache/sd35"));
    expect_folder(NULL, "not/absolute", home, test_path("home/.cache/sd35"));
    expect_folder(NULL, "", home, test_path("home/.cache/sd35"));
    expect_folder("", caches, home, NULL);
    expect_folder(NULL, NULL, NULL, NULL);
    expect_folder(NULL, NULL, "", NULL);
    expect_folder(NULL, NULL, test_path("nobody"), NULL);
    assert_false(file_is_directory(test_path("nobody")));
}

static void only_who_asks_for_a_folder_hears_that_it_cannot_be_used(void **state)
{
    const char *file = test_write_file("no_folder", "", 0);
    const char *below = test_path("no_folder/below");
    char notice[512], *found;

    (void)state;
    free(find_folder(file, NULL, NULL, notice));
    assert_non_null(strstr(notice, "SD35_CACHE_DIR"));
    assert_non_null(strstr(notice, file));
    found = find_folder(below, NULL, NULL, notice);
    assert_null(found);
    assert_non_null(strstr(notice, below));
    found = find_folder(NULL, file, NULL, notice);
    assert_null(found);
    assert_string_equal(notice, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_come_back_by_kind_and_key),
        cmocka_unit_test(the_file_is_for_its_owner_alone_and_stands_alone),
        cmocka_unit_test(only_what_is_new_is_written),
        cmocka_unit_test(a_replaced_value_is_the_one_that_stays),
        cmocka_unit_test(without_a_folder_choices_live_in_memory),
        cmocka_unit_test(sizes_that_are_not_allowed_are_not_kept),
        cmocka_unit_test(the_oldest_go_when_there_are_too_many),
        cmocka_unit_test(the_oldest_go_when_they_take_too_much),
        cmocka_unit_test(what_another_process_wrote_stays),
        cmocka_unit_test(a_file_that_went_is_written_whole),
        cmocka_unit_test(many_may_write_while_one_reads),
        cmocka_unit_test(another_identity_has_its_own_file),
        cmocka_unit_test(every_truncation_is_ignored),
        cmocka_unit_test(every_flip_of_a_byte_is_ignored),
        cmocka_unit_test(a_good_checksum_over_wrong_sizes_is_ignored),
        cmocka_unit_test(random_bodies_under_a_good_checksum_do_no_harm),
        cmocka_unit_test(too_large_files_and_folders_are_ignored),
        cmocka_unit_test(folders_are_taken_in_order),
        cmocka_unit_test(only_who_asks_for_a_folder_hears_that_it_cannot_be_used),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
