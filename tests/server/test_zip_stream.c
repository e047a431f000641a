/* Archives, read back by a reader of the test's own: headers, directory, bytes and checksums. */
#include "support/support.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/zip_stream.h"

static uint32_t u16(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8;
}

static uint32_t u32(const unsigned char *at)
{
    return u16(at) | u16(at + 2) << 16;
}

static const char *const contents[] = {"", "a", "hello, archive", NULL, "the last"};

static int open_one(void *context, size_t index)
{
    char name[32];

    (void)context;
    if (!contents[index])
        return -1;
    snprintf(name, sizeof name, "zip%zu", index);
    return open(test_write_file(name, contents[index], strlen(contents[index])), O_RDONLY);
}

/* Reads `room` bytes at a time. */
static unsigned char *make(size_t room, size_t *size)
{
    struct zip_file files[5];
    unsigned char *bytes = malloc(1 << 16);
    struct zip_stream *stream;
    struct error err;
    ssize_t got;

    for (size_t i = 0; i < 5; i++) {
        snprintf(files[i].name, sizeof files[i].name, "sd35-%zu.png", i);
        files[i].modified_ms = 1767225600000; /* 2026-01-01 */
    }
    assert_true(zip_stream_create(&stream, files, 5, open_one, NULL, &err));
    *size = 0;
    while ((got = zip_stream_read(stream, (char *)bytes + *size, room)) > 0)
        *size += (size_t)got;
    assert_int_equal(got, 0);
    assert_int_equal(zip_stream_read(stream, (char *)bytes, 1), 0);
    zip_stream_destroy(stream);
    return bytes;
}

static void expect_entry(const unsigned char *bytes, const unsigned char *line, size_t index)
{
    const unsigned char *local = bytes + u32(line + 42);
    size_t size = strlen(contents[index]);
    char name[32];

    snprintf(name, sizeof name, "sd35-%zu.png", index);
    assert_int_equal(u32(local), 0x04034b50);
    assert_int_equal(u32(line), 0x02014b50);
    assert_memory_equal(local + 4, line + 6, 26); /* version to the length of the extra field */
    assert_int_equal(u16(local + 8), 0);          /* stored */
    assert_int_equal(u16(local + 12), (2026 - 1980) << 9 | 1 << 5 | 1);
    assert_int_equal(u32(local + 18), size);
    assert_int_equal(u32(local + 22), size);
    assert_int_equal(u32(local + 14), zip_crc32(0, contents[index], size));
    assert_int_equal(u16(local + 26), strlen(name));
    assert_memory_equal(local + 30, name, strlen(name));
    assert_memory_equal(line + 46, name, strlen(name));
    assert_memory_equal(local + 30 + strlen(name), contents[index], size);
}

static void an_archive_reads_back_without_the_file_that_is_gone(void **state)
{
    static const size_t rooms[] = {1, 7, 4096}, there[] = {0, 1, 2, 4};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        size_t size;
        unsigned char *bytes = make(rooms[i], &size);
        const unsigned char *end = bytes + size - 22, *line = bytes + u32(end + 16);

        assert_int_equal(u32(end), 0x06054b50);
        assert_int_equal(u16(end + 8), 4);
        assert_int_equal(u16(end + 10), 4);
        for (size_t k = 0; k < 4; k++) {
            expect_entry(bytes, line, there[k]);
            line += 46 + u16(line + 28);
        }
        assert_ptr_equal(line, end);
        assert_int_equal(u32(end + 12), line - (bytes + u32(end + 16)));
        free(bytes);
    }
}

static void crc32_has_the_check_value_of_its_definition(void **state)
{
    uint32_t crc = 0;

    (void)state;
    assert_int_equal(zip_crc32(0, "123456789", 9), 0xcbf43926);
    for (const char *at = "123456789"; *at; at++)
        crc = zip_crc32(crc, at, 1);
    assert_int_equal(crc, 0xcbf43926);
    assert_int_equal(zip_crc32(0, "", 0), 0);
}

static int open_folder(void *context, size_t index)
{
    (void)context;
    (void)index;
    return open(test_directory(), O_RDONLY); /* reading it fails */
}

static void a_file_that_cannot_be_read_breaks_the_archive(void **state)
{
    struct zip_file file = {.name = "a"};
    struct zip_stream *stream;
    struct error err;
    char bytes[64];

    (void)state;
    assert_true(zip_stream_create(&stream, &file, 1, open_folder, NULL, &err));
    assert_int_equal(zip_stream_read(stream, bytes, sizeof bytes), -1);
    zip_stream_destroy(stream);
}

/* For a program that knows the format: `unzip -t` or Python's zipfile, where it is there. */
static void pythons_reader_finds_no_fault(void **state)
{
    size_t size;
    unsigned char *bytes = make(4096, &size);
    char command[512];

    (void)state;
    snprintf(command, sizeof command, "python3 -m zipfile -t '%s' > /dev/null",
             test_write_file("whole.zip", bytes, size));
    free(bytes);
    if (system("command -v python3 > /dev/null") != 0) {
        print_message("SKIPPED: no python3\n");
        return;
    }
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_archive_reads_back_without_the_file_that_is_gone),
        cmocka_unit_test(crc32_has_the_check_value_of_its_definition),
        cmocka_unit_test(a_file_that_cannot_be_read_breaks_the_archive),
        cmocka_unit_test(pythons_reader_finds_no_fault),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
