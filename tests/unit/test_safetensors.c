/* safetensors: what is written is read back, and what is malformed is refused by name. */
#include "support/support.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "weights/safetensors.h"

/* --- malformed files --- */

#define FILE_BYTES_MAX (9u << 20)

/* A file under construction. */
struct bytes {
    unsigned char *at;
    size_t size;
};

static void put_length(struct bytes *file, uint64_t length)
{
    for (int i = 0; i < 8; i++)
        file->at[i] = (unsigned char)(length >> (8 * i));
}

/* The file with this header and `data_size` bytes of data. */
static void put_raw(struct bytes *file, const void *header, size_t header_size, size_t data_size)
{
    assert_true(8 + header_size + data_size <= FILE_BYTES_MAX);
    put_length(file, header_size);
    memcpy(file->at + 8, header, header_size);
    memset(file->at + 8 + header_size, 0x5a, data_size);
    file->size = 8 + header_size + data_size;
}

static void put_header(struct bytes *file, const char *header, size_t data_size)
{
    put_raw(file, header, strlen(header), data_size);
}

static char *text(const char *format, ...) PRINTF_LIKE(1, 2);

static char *text(const char *format, ...)
{
    static char buffer[1 << 16];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
}

static const char good_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"a.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"a.bias\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[24,28]},"
    "\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[28,29]}}";

#define GOOD_DATA_BYTES 29

static void too_short(struct bytes *file, int i)
{
    put_header(file, good_header, GOOD_DATA_BYTES);
    put_length(file, (uint64_t)i);
    file->size = (size_t)i % 8;
}

static void header_too_long(struct bytes *file, int i)
{
    put_header(file, good_header, GOOD_DATA_BYTES);
    put_length(file, i % 2 ? UINT64_MAX >> (i / 2 % 36) : 100000001u + (uint64_t)i);
}

static void header_past_the_file(struct bytes *file, int i)
{
    put_header(file, good_header, GOOD_DATA_BYTES);
    put_length(file, file->size - 8 + 1 + (uint64_t)(i * i));
}

static void other_first_byte(struct bytes *file, int i)
{
    put_header(file, good_header, GOOD_DATA_BYTES);
    file->at[8] = (unsigned char)(i < '{' ? i : i + 1);
    if (i == 0)
        put_length(file, 0);
}

static void cut_header(struct bytes *file, int i)
{
    put_raw(file, good_header, 1 + (size_t)i % (sizeof good_header - 2), GOOD_DATA_BYTES);
}

static void not_utf8(struct bytes *file, int i)
{
    char header[sizeof good_header];

    memcpy(header, good_header, sizeof header);
    strstr(header, "a.weight")[i % 8] = (char)(0x80 + i);
    put_header(file, header, GOOD_DATA_BYTES);
}

static void embedded_nul(struct bytes *file, int i)
{
    char header[sizeof good_header];

    if (i % 2) {
        put_header(file,
                   text("{\"a%.*s\\u0000\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}",
                        i / 2 % 20, "xxxxxxxxxxxxxxxxxxxx"),
                   1);
        return;
    }
    memcpy(header, good_header, sizeof header);
    header[1 + i % (int)(sizeof header - 3)] = '\0';
    put_raw(file, header, sizeof header - 1, GOOD_DATA_BYTES);
}

static void nested(struct bytes *file, int i)
{
    size_t depth = 4 + (size_t)i * 97, at = 0;
    char *header = malloc(depth * 7);

    assert_non_null(header);
    at += (size_t)sprintf(header, "{\"a\":{\"shape\":");
    for (size_t level = 2; level < depth; level++)
        at += (size_t)sprintf(header + at, i % 2 ? "[" : "{\"a\":");
    put_raw(file, header, at, 0);
    free(header);
}

static void same_name_twice(struct bytes *file, int i)
{
    put_header(file,
               text("{\"n%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                    "\"n%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}}",
                    i, i, i % 2, i % 2 + 1),
               2);
}

static void bad_metadata(struct bytes *file, int i)
{
    static const char *const values[] = {"[]",        "3",          "\"a\"",        "null",
                                         "{\"a\":1}", "{\"a\":[]}", "{\"a\":null}", "true"};

    put_header(file,
               text("{\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                    "\"__metadata__\":%s}",
                    i, values[i % 8]),
               1);
}

static void ends_before_it_begins(struct bytes *file, int i)
{
    put_header(
        file,
        text("{\"a\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%d,%d]}}", i, i + 1, i / 2),
        1000);
}

static void past_the_end(struct bytes *file, int i)
{
    static const int64_t ends[] = {101, 1 << 20, (int64_t)1 << 40, (int64_t)1 << 53, INT64_MAX};
    int64_t end = ends[i % 5];

    put_header(file,
               text("{\"a\":{\"dtype\":\"U8\",\"shape\":[%" PRId64 "],\"data_offsets\":[%d,%" PRId64
                    "]}}",
                    end - i % 100, i % 100, end),
               100);
}

static void leaves_a_gap(struct bytes *file, int i)
{
    put_header(file,
               text("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
                    "\"b\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%d,%d]}}",
                    i, 5 + i, 5 + 2 * i),
               5 + 2 * (size_t)i);
}

static void overlaps(struct bytes *file, int i)
{
    put_header(file,
               text("{\"a\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[0,%d]},"
                    "\"b\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%d,%d]}}",
                    i + 2, i + 2, i + 2, i / 2 + 1, i + i / 2 + 3),
               (size_t)(i + i / 2 + 3));
}

static void bytes_at_the_end(struct bytes *file, int i)
{
    put_header(file, good_header, GOOD_DATA_BYTES + 1 + (size_t)i);
}

/* Products that wrap to 0, to small numbers, and ones that a dimension of 0 would hide. */
static void shape_overflows(struct bytes *file, int i)
{
    static const char *const shapes[] = {
        "[4294967296,4294967296]",
        "[9223372036854775807,2]",
        "[9223372036854775807]",
        "[0,9223372036854775807,3]",
        "[2147483648,2147483648,2147483648]",
        "[3,6148914691236517206]",
        "[65536,65536,65536,65536]",
        "[4294967296,4294967296,0]",
    };
    static const char *const dtypes[] = {"F32", "F64", "I64", "BF16"};

    put_header(file,
               text("{\"a%d\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[0,%d]}}", i,
                    dtypes[i / 8 % 4], shapes[i % 8], i % 2 * 8),
               (size_t)(i % 2 * 8));
}

static void bad_dimension(struct bytes *file, int i)
{
    static const char *const dims[] = {"-1", "1.0", "\"1\"", "null", "true", "1e3", "-4096"};

    put_header(file,
               text("{\"a%d\":{\"dtype\":\"U8\",\"shape\":[%s%s],\"data_offsets\":[0,1]}}", i,
                    i % 2 ? "1," : "", dims[i % 7]),
               1);
}

static void rank_too_high(struct bytes *file, int i)
{
    char shape[1024] = "1";

    for (int j = 0; j < 8 + i; j++)
        strcat(shape, ",1");
    put_header(file,
               text("{\"a\":{\"dtype\":\"U8\",\"shape\":[%s],\"data_offsets\":[0,1]}}", shape), 1);
}

static void shape_and_offsets_differ(struct bytes *file, int i)
{
    static const char *const dtypes[] = {"F64", "F32", "BF16", "F8_E4M3", "F8_E8M0", "BOOL"};

    put_header(file,
               text("{\"a\":{\"dtype\":\"%s\",\"shape\":[%d],\"data_offsets\":[0,%d]}}",
                    dtypes[i % 6], i + 1, i / 2),
               (size_t)i / 2);
}

static void bad_offsets(struct bytes *file, int i)
{
    static const char *const offsets[] = {"[0]",       "[0,1,2]", "{}",        "\"0,1\"",
                                          "[0.0,1.0]", "[-1,0]",  "[0,\"1\"]", "null"};

    put_header(
        file,
        text("{\"a%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":%s}}", i, offsets[i % 8]),
        1);
}

static void bad_name(struct bytes *file, int i)
{
    char name[1024];

    memset(name, 'x', sizeof name);
    name[i % 3 == 0 ? 0 : 513 + i] = '\0';
    if (i % 3 == 1)
        snprintf(name, sizeof name, "a\\u00%02xb", i % 2 ? 1 + i % 31 : 0x7f);
    put_header(file, text("{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", name),
               1);
}

static void bad_dtype(struct bytes *file, int i)
{
    static const char *const dtypes[] = {"3", "null", "\"\"", "[\"F32\"]", "{}", "false"};

    put_header(
        file,
        text("{\"a%d\":{\"dtype\":%s,\"shape\":[1],\"data_offsets\":[0,1]}}", i, dtypes[i % 6]), 1);
}

static void entry_is_no_object(struct bytes *file, int i)
{
    static const char *const values[] = {"[]", "3", "\"F32\"", "null", "[[0,1]]", "1.5"};

    put_header(file, text("{\"a%d\":%s}", i, values[i % 6]), 0);
}

static void text_after_the_header(struct bytes *file, int i)
{
    char header[sizeof good_header + 8];

    snprintf(header, sizeof header, "%s%*s", good_header, 1 + i % 5,
             (const char *const[]){"x", "{}", "]", ",", "0"}[i % 5]);
    put_header(file, header, GOOD_DATA_BYTES);
}

static const struct malformed {
    const char *name;
    void (*make)(struct bytes *file, int i);
    int count;
    const char *message; /* names the class */
} malformed[] = {
    {"too short", too_short, 100, "too few for a safetensors file"},
    {"header too long", header_too_long, 100, "more than 100000000"},
    {"header past the file", header_past_the_file, 100, "but the file ends after"},
    {"other first byte", other_first_byte, 255, "does not begin with '{'"},
    {"cut header", cut_header, 220, "JSON is not valid"},
    {"not UTF-8", not_utf8, 128, "JSON is not valid"},
    {"embedded NUL", embedded_nul, 100, "JSON is not valid"},
    {"nested", nested, 100, "nested too deeply"},
    {"same name twice", same_name_twice, 100, "JSON is not valid"},
    {"bad metadata", bad_metadata, 100, "__metadata__"},
    {"ends before it begins", ends_before_it_begins, 100, "before they begin"},
    {"past the end", past_the_end, 100, "past the end of the data"},
    {"gap", leaves_a_gap, 100, "leaves a gap"},
    {"overlap", overlaps, 100, "overlaps the one before it"},
    {"bytes at the end", bytes_at_the_end, 100, "belong to no tensor"},
    {"shape overflows", shape_overflows, 100, "product of the shape overflows"},
    {"bad dimension", bad_dimension, 100, "a dimension of the shape is not"},
    {"rank too high", rank_too_high, 100, "more than 8"},
    {"shape and offsets differ", shape_and_offsets_differ, 100, "the shape needs"},
    {"bad offsets", bad_offsets, 100, "data_offsets is not a pair"},
    {"bad name", bad_name, 100, "a tensor's name"},
    {"bad dtype", bad_dtype, 100, "the dtype is not the name of a type"},
    {"entry is no object", entry_is_no_object, 100, "is not an object"},
    {"text after the header", text_after_the_header, 100, "JSON is not valid"},
};

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void expect_refused(const struct bytes *file, const struct malformed *class, int i,
                           bool on_disk)
{
    struct safetensors_file *opened = NULL;
    struct error err = {0};
    double begin = seconds();
    /* An exact copy, so that the sanitizer sees a read past the end. */
    unsigned char *copy = malloc(file->size + !file->size);
    bool is_open;

    memcpy(copy, file->at, file->size);
    is_open = on_disk ? safetensors_open(&opened,
                                         test_write_file("malformed", file->at, file->size), &err)
                      : safetensors_open_memory(&opened, copy, file->size, "malformed", &err);
    if (is_open || err.code != ERROR_BAD_FILE || !strstr(err.message, class->message))
        fail_msg("%s, number %d: %s", class->name, i, is_open ? "was accepted" : err.message);
    assert_true(seconds() - begin < 1.0);
    free(copy);
}

static void a_malformed_file_is_refused_with_the_name_of_its_class(void **state)
{
    struct bytes file = {.at = malloc(FILE_BYTES_MAX)};
    int count = 0;

    (void)state;
    assert_non_null(file.at);
    for (size_t c = 0; c < COUNT_OF(malformed); c++) {
        for (int i = 0; i < malformed[c].count; i++, count++) {
            malformed[c].make(&file, i);
            expect_refused(&file, &malformed[c], i, i % 25 == 0);
        }
    }
    assert_true(count >= 2000);
    free(file.at);
}

static void a_header_that_would_take_long_to_parse_is_refused(void **state)
{
    const struct malformed elements = {.name = "elements", .message = "more than 400000 elements"};
    const struct malformed bytes = {.name = "bytes", .message = "more than the 8388608 that are"};
    const size_t size = (8u << 20) + 1;
    char *header = malloc(size + 1);
    struct bytes file = {.at = malloc(FILE_BYTES_MAX)};

    (void)state;
    assert_non_null(header);
    memset(header, ',', size);
    memcpy(header, "{\"a\":[", 6);
    put_raw(&file, header, size - 1, 0);
    expect_refused(&file, &elements, 0, false);
    memset(header, 'a', size);
    memcpy(header, "{\"", 2);
    memcpy(header + size - 4, "\":3}", 4);
    put_raw(&file, header, size, 0);
    expect_refused(&file, &bytes, 0, false);
    put_raw(&file, header + 1, size - 1, 0); /* the longest that is parsed at all */
    file.at[8] = '{';
    file.at[9] = '"';
    expect_refused(&file, &(struct malformed){.name = "name", .message = "a tensor's name has"}, 0,
                   false);
    free(header);
    free(file.at);
}

/* Any single changed byte either is refused or leaves ranges that lie inside the file. */
static void a_changed_byte_never_leads_outside_the_file(void **state)
{
    unsigned char bytes[8 + sizeof good_header - 1 + GOOD_DATA_BYTES];
    struct bytes file = {.at = bytes};
    const size_t header_end = 8 + sizeof good_header - 1;
    int opened = 0;

    (void)state;
    for (size_t i = 0; i < header_end; i++) {
        for (unsigned change = 1; change < 256; change += 6) {
            struct safetensors_file *result;

            put_header(&file, good_header, GOOD_DATA_BYTES);
            bytes[i] ^= (unsigned char)change;
            if (!safetensors_open_memory(&result, bytes, file.size, "changed", NULL))
                continue;
            opened++;
            for (size_t j = 0; j < safetensors_count(result); j++) {
                const struct safetensors_entry *entry = safetensors_entry_at(result, j);

                assert_true(entry->data >= bytes + header_end);
                assert_true(entry->data + entry->bytes <= bytes + file.size);
            }
            safetensors_close(result);
        }
    }
    assert_true(opened > 100); /* other letters in names are fine */
}

/* --- good files --- */

static void a_file_with_types_unknown_to_us_opens_and_says_their_names(void **state)
{
    static const char header[] =
        "{\"f4\":{\"dtype\":\"F4\",\"shape\":[3,2],\"data_offsets\":[0,3]},"
        "\"f6\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[3,6]},"
        "\"c\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[6,14]},"
        "\"e8\":{\"dtype\":\"F8_E8M0\",\"shape\":[2],\"data_offsets\":[14,16]}}   ";
    unsigned char bytes[512];
    struct bytes file = {.at = bytes};
    struct safetensors_file *opened;
    const struct safetensors_entry *entry;
    enum dtype dtype;

    (void)state;
    put_header(&file, header, 16);
    assert_true(safetensors_open_memory(&opened, bytes, file.size, "new", NULL));
    assert_int_equal(safetensors_count(opened), 4);
    entry = safetensors_find(opened, "f6");
    assert_int_equal(entry->dtype, SAFETENSORS_DTYPE_COUNT);
    assert_string_equal(entry->dtype_name, "F6_E2M3");
    assert_int_equal(entry->bytes, 3);
    assert_false(safetensors_to_dtype(&dtype, entry->dtype));
    assert_false(safetensors_to_dtype(&dtype, safetensors_find(opened, "e8")->dtype));
    assert_null(safetensors_find(opened, "f8"));
    safetensors_close(opened);
}

static void an_empty_header_is_a_file_without_tensors(void **state)
{
    unsigned char bytes[16];
    struct bytes file = {.at = bytes};
    struct safetensors_file *opened;

    (void)state;
    put_header(&file, "{}", 0);
    assert_true(safetensors_open_memory(&opened, bytes, file.size, "empty", NULL));
    assert_int_equal(safetensors_count(opened), 0);
    assert_null(safetensors_find(opened, "a"));
    assert_null(safetensors_metadata(opened, "a"));
    safetensors_close(opened);
}

static uint32_t draw(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

#define TRIP_TENSORS 40

struct trip {
    char name[TRIP_TENSORS][64];
    enum safetensors_dtype dtype[TRIP_TENSORS];
    int rank[TRIP_TENSORS];
    int64_t dim[TRIP_TENSORS][SAFETENSORS_MAX_RANK];
    size_t bytes[TRIP_TENSORS];
    size_t data_size;
};

static void draw_trip(struct trip *trip, uint32_t seed)
{
    trip->data_size = 0;
    for (int i = 0; i < TRIP_TENSORS; i++) {
        /* Not in alphabetical order, and with letters that JSON must escape. */
        snprintf(trip->name[i], sizeof trip->name[i], "%u.\"\\/\xc3\xa9.%d", draw(&seed) % 1000, i);
        trip->dtype[i] = (enum safetensors_dtype)(draw(&seed) % SAFETENSORS_DTYPE_COUNT);
        trip->rank[i] = (int)(draw(&seed) % (SAFETENSORS_MAX_RANK + 1));
        trip->bytes[i] = safetensors_dtype_size(trip->dtype[i]);
        for (int j = 0; j < trip->rank[i]; j++) {
            trip->dim[i][j] = draw(&seed) % (i % 7 ? 3 : 2) + (i % 7 ? 1 : 0);
            trip->bytes[i] *= (size_t)trip->dim[i][j];
        }
        trip->data_size += trip->bytes[i];
    }
}

static void write_trip(const struct trip *trip, const unsigned char *data, const char *path)
{
    struct safetensors_writer *writer;
    size_t piece;

    assert_true(safetensors_writer_create(&writer, path, NULL));
    assert_true(safetensors_writer_metadata(writer, "key", "value \"1\"", NULL));
    for (int i = 0; i < TRIP_TENSORS; i++)
        assert_true(safetensors_writer_declare(writer, trip->name[i], trip->dtype[i], trip->rank[i],
                                               trip->dim[i], NULL));
    for (size_t at = 0; at < trip->data_size; at += piece) {
        piece = trip->data_size - at < 1000 ? trip->data_size - at : 1 + at % 1000;
        assert_true(safetensors_writer_append(writer, data + at, piece, NULL));
    }
    assert_true(safetensors_writer_commit(writer, NULL));
}

static void check_trip(const struct trip *trip, const unsigned char *data, const char *path)
{
    struct safetensors_file *file;
    size_t offset = 0;

    assert_true(safetensors_open(&file, path, NULL));
    assert_int_equal(safetensors_count(file), TRIP_TENSORS);
    assert_string_equal(safetensors_metadata(file, "key"), "value \"1\"");
    assert_string_equal(safetensors_path(file), path);
    for (int i = 0; i < TRIP_TENSORS; i++) {
        const struct safetensors_entry *entry = safetensors_find(file, trip->name[i]);

        assert_non_null(entry);
        assert_int_equal(entry->dtype, trip->dtype[i]);
        assert_int_equal(entry->rank, trip->rank[i]);
        assert_memory_equal(entry->dim, trip->dim[i], (size_t)trip->rank[i] * sizeof *entry->dim);
        assert_int_equal(entry->bytes, trip->bytes[i]);
        assert_memory_equal(entry->data, data + offset, entry->bytes);
        if (i == 0)
            assert_int_equal((uintptr_t)entry->data % 8, 0);
        offset += entry->bytes;
    }
    for (size_t i = 1; i < safetensors_count(file); i++)
        assert_true(strcmp(safetensors_entry_at(file, i - 1)->name,
                           safetensors_entry_at(file, i)->name) < 0);
    safetensors_release_pages(file);
    for (size_t i = 0; i < safetensors_count(file); i++)
        safetensors_release_entry(file, safetensors_entry_at(file, i));
    assert_memory_equal(safetensors_find(file, trip->name[0])->data, data, trip->bytes[0]);
    safetensors_close(file);
}

static void what_the_writer_writes_is_read_back(void **state)
{
    struct trip *trip = malloc(sizeof *trip);

    (void)state;
    for (uint32_t seed = 1; seed <= 20; seed++) {
        const char *path = test_path("trip.safetensors");
        unsigned char *data;
        uint32_t random = seed;

        draw_trip(trip, seed);
        data = malloc(trip->data_size + 1);
        for (size_t i = 0; i < trip->data_size; i++)
            data[i] = (unsigned char)draw(&random);
        write_trip(trip, data, path);
        check_trip(trip, data, path);
        free(data);
    }
    free(trip);
}

static void a_file_of_any_size_opens_in_the_time_of_its_header(void **state)
{
    const int64_t size = (int64_t)40 << 30; /* sparse: it takes no room */
    const char *header = text("{\"a\":{\"dtype\":\"BF16\",\"shape\":[%" PRId64
                              ",1024],\"data_offsets\":[0,%" PRId64 "]}}",
                              size / 2048, size);
    unsigned char bytes[256];
    struct bytes start = {.at = bytes};
    struct safetensors_file *file;
    struct error err = {0};
    const char *path;
    double begin;

    (void)state;
    put_header(&start, header, 0);
    path = test_write_file("huge", bytes, start.size);
    assert_int_equal(truncate(path, (off_t)start.size + size), 0);
    begin = seconds();
    if (!safetensors_open(&file, path, &err))
        fail_msg("%s", err.message);
    assert_true(seconds() - begin < 0.1);
    assert_int_equal(safetensors_entry_at(file, 0)->bytes, size);
    safetensors_close(file);
    unlink(path);
}

static void a_file_lives_until_its_last_owner_closes_it(void **state)
{
    unsigned char bytes[512];
    struct bytes content = {.at = bytes};
    struct safetensors_file *file, *second;

    (void)state;
    put_header(&content, good_header, GOOD_DATA_BYTES);
    assert_true(safetensors_open(&file, test_write_file("owned", bytes, content.size), NULL));
    second = safetensors_retain(file);
    safetensors_close(file);
    assert_int_equal(safetensors_find(second, "b")->data[0], 0x5a);
    safetensors_close(second);
}

static void a_path_that_is_no_file_is_refused(void **state)
{
    struct safetensors_file *file;
    struct error err = {0};

    (void)state;
    assert_false(safetensors_open(&file, test_path("not-there"), &err));
    assert_int_equal(err.code, ERROR_IO);
    assert_false(safetensors_open(&file, test_directory(), &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_non_null(strstr(err.message, "not a regular file"));
}

/* --- the writer's own mistakes --- */

static void a_file_with_missing_data_never_appears(void **state)
{
    const char *path = test_path("short.safetensors");
    struct safetensors_writer *writer;
    struct error err = {0};

    (void)state;
    assert_true(safetensors_writer_create(&writer, path, NULL));
    assert_true(safetensors_writer_declare(writer, "a", SAFETENSORS_F32, 1, (int64_t[]){2}, NULL));
    assert_true(safetensors_writer_append(writer, "1234567", 7, NULL));
    assert_false(safetensors_writer_commit(writer, &err));
    assert_non_null(strstr(err.message, "7 bytes of data came, 8 were declared"));
    assert_int_equal(access(path, F_OK), -1);
}

static void the_writer_refuses_what_it_could_not_read_back(void **state)
{
    struct safetensors_writer *writer;
    char long_name[SAFETENSORS_NAME_BYTES_MAX + 2];
    const int64_t one = 1, negative = -1;
    const int64_t vast[2] = {INT64_MAX, 4};

    (void)state;
    memset(long_name, 'a', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    assert_true(safetensors_writer_create(&writer, test_path("refused"), NULL));
    assert_true(safetensors_writer_declare(writer, "a", SAFETENSORS_U8, 1, &one, NULL));
    assert_false(safetensors_writer_declare(writer, "a", SAFETENSORS_U8, 1, &one, NULL));
    assert_false(safetensors_writer_declare(writer, "", SAFETENSORS_U8, 1, &one, NULL));
    assert_false(safetensors_writer_declare(writer, long_name, SAFETENSORS_U8, 1, &one, NULL));
    assert_false(safetensors_writer_declare(writer, "__metadata__", SAFETENSORS_U8, 1, &one, NULL));
    assert_false(safetensors_writer_declare(writer, "b", SAFETENSORS_U8, 1, &negative, NULL));
    assert_false(safetensors_writer_declare(writer, "b", SAFETENSORS_U8, 2, vast, NULL));
    assert_false(safetensors_writer_declare(writer, "b", SAFETENSORS_U8, 9, vast, NULL));
    assert_false(safetensors_writer_append(writer, "12", 2, NULL));
    assert_false(safetensors_writer_declare(writer, "b", SAFETENSORS_U8, 1, &one, NULL));
    assert_false(safetensors_writer_metadata(writer, "b", "c", NULL));
    safetensors_writer_abandon(writer);
    assert_int_equal(access(test_path("refused"), F_OK), -1);
}

/* Two tensors put in pieces from behind, and metadata that is known last. */
static void data_is_put_in_any_order(void **state)
{
    const char *path = test_path("put.safetensors");
    struct safetensors_writer *writer;
    struct safetensors_file *file;
    const void *header;
    size_t size;

    (void)state;
    assert_true(safetensors_writer_create(&writer, path, NULL));
    assert_true(safetensors_writer_metadata(writer, "hash", "0000", NULL));
    assert_true(safetensors_writer_declare(writer, "a", SAFETENSORS_U8, 1, (int64_t[]){3}, NULL));
    assert_true(safetensors_writer_declare(writer, "b", SAFETENSORS_U8, 1, (int64_t[]){4}, NULL));
    assert_true(safetensors_writer_put(writer, 5, "fg", 2, NULL));
    assert_true(safetensors_writer_put(writer, 0, "abcde", 5, NULL));
    assert_false(safetensors_writer_put(writer, 7, "h", 1, NULL));
    assert_false(safetensors_writer_put(writer, 0, "abc", 3, NULL));
    assert_false(safetensors_writer_metadata(writer, "hash", "12345", NULL));
    assert_false(safetensors_writer_metadata(writer, "hash", "12\"4", NULL));
    assert_false(safetensors_writer_metadata(writer, "other", "1234", NULL));
    assert_true(safetensors_writer_metadata(writer, "hash", "1234", NULL));
    assert_true(safetensors_writer_commit(writer, NULL));
    assert_true(safetensors_open(&file, path, NULL));
    assert_string_equal(safetensors_metadata(file, "hash"), "1234");
    assert_memory_equal(safetensors_find(file, "a")->data, "abc", 3);
    assert_memory_equal(safetensors_find(file, "b")->data, "defg", 4);
    safetensors_header(file, &header, &size);
    assert_ptr_equal((const unsigned char *)header + size, safetensors_find(file, "a")->data);
    safetensors_close(file);
}

static void data_that_was_not_put_is_missed(void **state)
{
    const char *path = test_path("not-put.safetensors");
    struct safetensors_writer *writer;
    struct error err = {0};

    (void)state;
    assert_true(safetensors_writer_create(&writer, path, NULL));
    assert_true(safetensors_writer_declare(writer, "a", SAFETENSORS_U8, 1, (int64_t[]){3}, NULL));
    assert_true(safetensors_writer_put(writer, 1, "bc", 2, NULL));
    assert_false(safetensors_writer_commit(writer, &err));
    assert_non_null(strstr(err.message, "2 bytes of data came, 3 were declared"));
    assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_malformed_file_is_refused_with_the_name_of_its_class),
        cmocka_unit_test(a_header_that_would_take_long_to_parse_is_refused),
        cmocka_unit_test(a_changed_byte_never_leads_outside_the_file),
        cmocka_unit_test(a_file_with_types_unknown_to_us_opens_and_says_their_names),
        cmocka_unit_test(an_empty_header_is_a_file_without_tensors),
        cmocka_unit_test(what_the_writer_writes_is_read_back),
        cmocka_unit_test(a_file_of_any_size_opens_in_the_time_of_its_header),
        cmocka_unit_test(a_file_lives_until_its_last_owner_closes_it),
        cmocka_unit_test(a_path_that_is_no_file_is_refused),
        cmocka_unit_test(a_file_with_missing_data_never_appears),
        cmocka_unit_test(the_writer_refuses_what_it_could_not_read_back),
        cmocka_unit_test(data_is_put_in_any_order),
        cmocka_unit_test(data_that_was_not_put_is_missed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
