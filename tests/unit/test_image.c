/* Pictures as we write them, read back: pixels, metadata, and what happens without memory. */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <webp/decode.h>

#include "image/image.h"
#include "support/failing_memory.h"
#include "support/pictures.h"

/* --- Pictures and formats --- */

static void image_init_is_black_and_refuses_sides_out_of_range(void **state)
{
    static const int sides[] = {0, -1, IMAGE_SIDE_MAX + 1, INT32_MAX, INT32_MIN};
    struct image image;
    struct error err;

    (void)state;
    assert_true(image_init(&image, 5, 3, &err));
    for (int i = 0; i < 5 * 3 * 3; i++)
        assert_int_equal(image.pixels[i], 0);
    image_finish(&image);
    assert_null(image.pixels);
    image_finish(&image);
    for (size_t i = 0; i < COUNT_OF(sides); i++) {
        assert_false(image_init(&image, sides[i], 8, &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
        assert_false(image_init(&image, 8, sides[i], &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
    }
}

static void image_format_of_path_goes_by_the_extension(void **state)
{
    static const char *const unknown[] = {"a.gif", "png", "a.png/b", "", ".", "a.", "a.png "};
    enum image_format format;
    struct error err;

    (void)state;
    assert_true(image_format_of_path(&format, "a/b.c/x.PNG", &err) && format == IMAGE_PNG);
    assert_true(image_format_of_path(&format, "x.jpg", &err) && format == IMAGE_JPEG);
    assert_true(image_format_of_path(&format, "x.y.Jpeg", &err) && format == IMAGE_JPEG);
    assert_true(image_format_of_path(&format, ".webp", &err) && format == IMAGE_WEBP);
    for (size_t i = 0; i < COUNT_OF(unknown); i++) {
        assert_false(image_format_of_path(&format, unknown[i], &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
        assert_non_null(strstr(err.message, unknown[i]));
    }
    assert_string_equal(image_format_name(IMAGE_JPEG), "jpeg");
    assert_string_equal(image_format_media_type(IMAGE_WEBP), "image/webp");
}

/* --- Pixels --- */

static void png_gives_back_every_pixel(void **state)
{
    static const int sizes[][2] = {{1, 1}, {3, 2}, {64, 33}, {1, 200}, {257, 5}};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        struct image image = test_picture(sizes[i][0], sizes[i][1], (uint32_t)i), back;
        unsigned char *bytes;
        size_t size;
        struct error err;

        assert_true(image_encode(&bytes, &size, &image, IMAGE_PNG, 1, NULL, &err));
        assert_true(image_decode(&back, bytes, size, &IMAGE_LIMITS_DEFAULT, "round trip", &err));
        assert_int_equal(back.width, image.width);
        assert_int_equal(back.height, image.height);
        assert_memory_equal(back.pixels, image.pixels, (size_t)(image.width * image.height * 3));
        image_finish(&back);
        image_finish(&image);
        free(bytes);
    }
}

static void jpeg_keeps_more_as_quality_rises(void **state)
{
    static const struct {
        int quality;
        double psnr;
    } cases[] = {{50, 33}, {89, 38}, {90, 43}, {100, 50}};
    struct image image = test_soft_picture(123, 77);
    double before = 0;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        unsigned char *bytes;
        size_t size;
        struct image back;
        double psnr;

        assert_true(image_encode(&bytes, &size, &image, IMAGE_JPEG, cases[i].quality, NULL, NULL));
        assert_true(image_decode(&back, bytes, size, &IMAGE_LIMITS_DEFAULT, "x", NULL));
        psnr = test_psnr(&image, back.pixels);
        assert_true(psnr > cases[i].psnr);
        assert_true(psnr > before);
        before = psnr;
        image_finish(&back);
        free(bytes);
    }
    image_finish(&image);
}

/* The sampling factors of the first component, from the frame header. */
static int luma_sampling(const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i + 12 < size; i++)
        if (bytes[i] == 0xff && bytes[i + 1] == 0xc0)
            return bytes[i + 11];
    return -1;
}

static void jpeg_keeps_full_colour_from_quality_90(void **state)
{
    struct image image = test_soft_picture(32, 32);
    unsigned char *bytes;
    size_t size;

    (void)state;
    assert_true(image_encode(&bytes, &size, &image, IMAGE_JPEG, 90, NULL, NULL));
    assert_int_equal(luma_sampling(bytes, size), 0x11);
    free(bytes);
    assert_true(image_encode(&bytes, &size, &image, IMAGE_JPEG, 89, NULL, NULL));
    assert_int_equal(luma_sampling(bytes, size), 0x22);
    free(bytes);
    image_finish(&image);
}

static void webp_is_read_by_its_library_as_nearly_the_same_picture(void **state)
{
    struct image image = test_soft_picture(123, 77);
    const struct image_metadata metadata = {.infotext = "Steps: 1", .json = "{}"};
    const struct image_metadata *with[] = {NULL, &metadata};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(with); i++) {
        unsigned char *bytes, *pixels;
        size_t size;
        int width, height;

        assert_true(image_encode(&bytes, &size, &image, IMAGE_WEBP, 90, with[i], NULL));
        pixels = WebPDecodeRGB(bytes, size, &width, &height);
        assert_non_null(pixels);
        assert_int_equal(width, 123);
        assert_int_equal(height, 77);
        assert_true(test_psnr(&image, pixels) > 36);
        WebPFree(pixels);
        free(bytes);
    }
    image_finish(&image);
}

static void image_encode_refuses_what_a_format_cannot_hold(void **state)
{
    struct image image = test_picture(4, 4, 1), wide;
    unsigned char *bytes;
    size_t size;
    struct error err;

    (void)state;
    assert_false(image_encode(&bytes, &size, &image, IMAGE_PNG, 0, NULL, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    assert_false(image_encode(&bytes, &size, &image, IMAGE_JPEG, 101, NULL, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    assert_false(image_encode(&bytes, &size, &image, IMAGE_FORMAT_COUNT, 50, NULL, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    assert_true(image_init(&wide, IMAGE_SIDE_MAX, 1, &err));
    assert_false(image_encode(&bytes, &size, &wide, IMAGE_WEBP, 50, NULL, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    assert_non_null(strstr(err.message, "16383"));
    image_finish(&wide);
    image_finish(&image);
}

static void image_read_reads_a_file_and_names_one_that_is_missing(void **state)
{
    struct image image = test_picture(6, 4, 2), back;
    unsigned char *bytes;
    size_t size;
    struct error err;

    (void)state;
    assert_true(image_encode(&bytes, &size, &image, IMAGE_PNG, 50, NULL, NULL));
    assert_true(
        image_read(&back, test_write_file("a.png", bytes, size), &IMAGE_LIMITS_DEFAULT, &err));
    assert_memory_equal(back.pixels, image.pixels, 6 * 4 * 3);
    image_finish(&back);
    assert_false(image_read(&back, test_path("missing.png"), &IMAGE_LIMITS_DEFAULT, &err));
    assert_non_null(strstr(err.message, "missing.png"));
    free(bytes);
    image_finish(&image);
}

/* --- Metadata --- */

static const char *const texts[] = {
    "Steps: 20, Sampler: Euler",
    "caf\xc3\xa9 \xc3\xbf\nsecond line\nSteps: 1",
    "一只猫 😀 \"quoted\"\n\\ and, colons: here",
    "x",
    "\xef\xbb\xbfmark",
    "\xef\xbf\xbeno character",
    "\xf0\x9f\x98\x80",
};

static void assert_texts(const struct image_metadata *want, const unsigned char *bytes, size_t size)
{
    char *infotext, *json;
    struct error err;

    assert_true(image_metadata_read(&infotext, &json, bytes, size, &err));
    assert_int_equal(infotext != NULL, want->infotext != NULL);
    assert_int_equal(json != NULL, want->json != NULL);
    if (infotext)
        assert_string_equal(infotext, want->infotext);
    if (json)
        assert_string_equal(json, want->json);
    free(infotext);
    free(json);
}

static void metadata_comes_back_from_every_format(void **state)
{
    static const char *const requests[] = {"{\"prompt\":\"猫😀 \\\"q\\\"\\n\"}", "{}", NULL};
    struct image image = test_picture(8, 8, 3);

    (void)state;
    for (int format = 0; format < IMAGE_FORMAT_COUNT; format++)
        for (size_t i = 0; i <= COUNT_OF(texts); i++)
            for (size_t j = 0; j < COUNT_OF(requests); j++) {
                struct image_metadata metadata = {.infotext = i < COUNT_OF(texts) ? texts[i] : NULL,
                                                  .json = requests[j]};
                unsigned char *bytes;
                size_t size;

                assert_true(image_encode(&bytes, &size, &image, (enum image_format)format, 80,
                                         &metadata, NULL));
                assert_texts(&metadata, bytes, size);
                free(bytes);
            }
    image_finish(&image);
}

static bool contains(const unsigned char *bytes, size_t size, const void *part, size_t part_size)
{
    return memmem(bytes, size, part, part_size) != NULL;
}

static void png_uses_the_old_text_chunk_wherever_it_can(void **state)
{
    struct image image = test_picture(2, 2, 4);
    unsigned char *bytes;
    size_t size;

    (void)state;
    assert_true(image_encode(&bytes, &size, &image, IMAGE_PNG, 80,
                             &(struct image_metadata){"caf\xc3\xa9", "{}"}, NULL));
    assert_true(contains(bytes, size, "\0\0\0\x0ftEXtparameters\0caf\xe9", 23));
    assert_true(contains(bytes, size, "iTXtsd35\0\0\0\0\0{}", 15));
    free(bytes);
    assert_true(image_encode(&bytes, &size, &image, IMAGE_PNG, 80,
                             &(struct image_metadata){"猫", NULL}, NULL));
    assert_true(contains(bytes, size, "iTXtparameters\0\0\0\0\0猫", 22));
    free(bytes);
    image_finish(&image);
}

/* The bytes that piexif and AUTOMATIC1111 write and look for. */
static void exif_holds_the_comment_as_unicode_in_big_endian_order(void **state)
{
    struct image image = test_picture(2, 2, 5);

    (void)state;
    for (int format = IMAGE_JPEG; format <= IMAGE_WEBP; format++) {
        unsigned char *bytes;
        size_t size;

        assert_true(image_encode(&bytes, &size, &image, (enum image_format)format, 80,
                                 &(struct image_metadata){"A猫😀", NULL}, NULL));
        assert_true(contains(bytes, size,
                             "MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0"
                             "\0\x01\x92\x86\0\x07\0\0\0\x10\0\0\0\x2c\0\0\0\0"
                             "UNICODE\0\0A\x73\x2b\xd8\x3d\xde\x00",
                             60));
        free(bytes);
    }
    image_finish(&image);
}

static void long_texts_survive_where_there_is_room(void **state)
{
    enum { LONG = 150000 };
    static char infotext[LONG + 1], json[LONG + 1];
    struct image image = test_picture(2, 2, 6);

    (void)state;
    memset(infotext, 'i', LONG);
    memset(json, 'j', LONG);
    json[0] = '{';
    for (int format = 0; format < IMAGE_FORMAT_COUNT; format++) {
        struct image_metadata metadata = {infotext, json};
        unsigned char *bytes;
        size_t size;

        assert_true(
            image_encode(&bytes, &size, &image, (enum image_format)format, 80, &metadata, NULL));
        if (format == IMAGE_JPEG) /* a segment has 65,533 bytes */
            metadata.infotext = NULL;
        assert_texts(&metadata, bytes, size);
        free(bytes);
    }
    image_finish(&image);
}

static void metadata_that_is_too_long_is_refused(void **state)
{
    struct image image = test_picture(2, 2, 6);
    size_t length = ((size_t)4 << 20) + 1;
    char *text = calloc(1, length + 1);
    unsigned char *bytes;
    size_t size;
    struct error err;

    (void)state;
    memset(text, 'x', length);
    assert_false(image_encode(&bytes, &size, &image, IMAGE_PNG, 80,
                              &(struct image_metadata){text, NULL}, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    free(text);
    image_finish(&image);
}

static void text_that_is_not_utf8_is_repaired(void **state)
{
    struct image image = test_picture(2, 2, 7);
    struct image_metadata broken = {"a\xff\xc0\x80z\xed\xa0\x80\xe7\x8c", "{\xf5}"};
    struct image_metadata repaired = {
        "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz"
        "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd",
        "{\xef\xbf\xbd}"};

    (void)state;
    for (int format = 0; format < IMAGE_FORMAT_COUNT; format++) {
        unsigned char *bytes;
        size_t size;

        assert_true(
            image_encode(&bytes, &size, &image, (enum image_format)format, 80, &broken, NULL));
        assert_texts(&repaired, bytes, size);
        free(bytes);
    }
    image_finish(&image);
}

/* --- Without memory --- */

/* Runs out after each number of allocations in turn, until there are enough. */
static void encoding_fails_cleanly_at_every_allocation(void **state)
{
    static const struct image_metadata metadata = {"猫 Steps: 1", "{\"a\":1}"};
    struct image image = test_soft_picture(40, 30);

    (void)state;
    for (int format = 0; format < IMAGE_FORMAT_COUNT; format++) {
        bool done = false;
        int failures = 0;

        for (int limit = 0; !done; limit++) {
            unsigned char *bytes = NULL;
            size_t size;
            struct error err = {0};

            allocations_left = limit;
            done =
                image_encode(&bytes, &size, &image, (enum image_format)format, 80, &metadata, &err);
            allocations_left = -1;
            if (!done) {
                failures++;
                assert_int_equal(err.code, ERROR_NO_MEMORY);
                assert_null(bytes);
            }
            free(bytes);
        }
        assert_true(failures >= 4);
    }
    image_finish(&image);
}

static void decoding_and_resizing_fail_cleanly_at_every_allocation(void **state)
{
    struct image image = test_soft_picture(40, 30);

    (void)state;
    for (int format = IMAGE_PNG; format <= IMAGE_JPEG; format++) {
        unsigned char *bytes;
        size_t size;
        bool done = false;

        assert_true(image_encode(&bytes, &size, &image, (enum image_format)format, 80, NULL, NULL));
        for (int limit = 0; !done; limit++) {
            struct image back = {0}, smaller = {0};
            struct error err = {0};

            allocations_left = limit;
            done = image_decode(&back, bytes, size, &IMAGE_LIMITS_DEFAULT, "x", &err) &&
                   image_resize(&smaller, &back, 20, 15, &err);
            allocations_left = -1;
            assert_true(done || err.code == ERROR_NO_MEMORY);
            image_finish(&back);
            image_finish(&smaller);
        }
        free(bytes);
    }
    image_finish(&image);
}

static void reading_metadata_fails_cleanly_at_every_allocation(void **state)
{
    static const struct image_metadata metadata = {"猫 Steps: 1", "{\"a\":1}"};
    struct image image = test_soft_picture(8, 8);

    (void)state;
    for (int format = 0; format < IMAGE_FORMAT_COUNT; format++) {
        unsigned char *bytes;
        size_t size;
        bool done = false;
        int failures = 0;

        assert_true(
            image_encode(&bytes, &size, &image, (enum image_format)format, 80, &metadata, NULL));
        for (int limit = 0; !done; limit++) {
            char *infotext = NULL, *json = NULL;
            struct error err = {0};

            allocations_left = limit;
            done = image_metadata_read(&infotext, &json, bytes, size, &err);
            allocations_left = -1;
            assert_true(done || err.code == ERROR_NO_MEMORY);
            failures += done ? 0 : 1;
            free(infotext);
            free(json);
        }
        assert_true(failures >= 2);
        free(bytes);
    }
    image_finish(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_init_is_black_and_refuses_sides_out_of_range),
        cmocka_unit_test(image_format_of_path_goes_by_the_extension),
        cmocka_unit_test(png_gives_back_every_pixel),
        cmocka_unit_test(jpeg_keeps_more_as_quality_rises),
        cmocka_unit_test(jpeg_keeps_full_colour_from_quality_90),
        cmocka_unit_test(webp_is_read_by_its_library_as_nearly_the_same_picture),
        cmocka_unit_test(image_encode_refuses_what_a_format_cannot_hold),
        cmocka_unit_test(image_read_reads_a_file_and_names_one_that_is_missing),
        cmocka_unit_test(metadata_comes_back_from_every_format),
        cmocka_unit_test(png_uses_the_old_text_chunk_wherever_it_can),
        cmocka_unit_test(exif_holds_the_comment_as_unicode_in_big_endian_order),
        cmocka_unit_test(long_texts_survive_where_there_is_room),
        cmocka_unit_test(metadata_that_is_too_long_is_refused),
        cmocka_unit_test(text_that_is_not_utf8_is_repaired),
        cmocka_unit_test(encoding_fails_cleanly_at_every_allocation),
        cmocka_unit_test(decoding_and_resizing_fail_cleanly_at_every_allocation),
        cmocka_unit_test(reading_metadata_fails_cleanly_at_every_allocation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
