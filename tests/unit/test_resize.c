/* Resizing equals Pillow 11.3 to the bit. The expected values are Pillow's, for the same pictures:
 *   picture(7, 5, 1).resize((4, 3), Image.LANCZOS).tobytes()
 */
#include "support/support.h"

#include <string.h>

#include "image/image.h"
#include "support/pictures.h"

static const unsigned char lanczos_7x5_to_4x3[] = {
    72,  77,  105, 164, 80,  89, 201, 144, 103, 181, 219, 149, 41,  98,  149, 105, 172, 113,
    149, 105, 101, 148, 137, 95, 100, 147, 208, 163, 164, 96,  154, 177, 82,  114, 147, 96};
static const unsigned char lanczos_3x4_to_5x7[] = {
    29,  98,  65,  112, 136, 32,  195, 181, 19,  108, 157, 95,  22,  124, 152, 74,  132, 22,
    125, 166, 28,  174, 188, 57,  116, 123, 106, 62,  79,  131, 166, 169, 7,   162, 204, 51,
    146, 199, 113, 122, 75,  109, 110, 9,   88,  255, 152, 146, 234, 204, 147, 157, 212, 124,
    98,  61,  72,  81,  0,   42,  242, 84,  245, 226, 138, 192, 169, 182, 96,  93,  103, 51,
    57,  33,  50,  98,  31,  159, 120, 58,  126, 146, 114, 80,  133, 151, 84,  116, 157, 100,
    0,   9,   72,  44,  16,  67,  127, 73,  74,  162, 178, 112, 162, 232, 135};
static const unsigned char lanczos_23x2_to_3x5[] = {
    158, 100, 155, 60,  112, 177, 84,  133, 133, 151, 108, 146, 74,  125, 163,
    98,  137, 123, 141, 120, 135, 95,  144, 143, 118, 144, 109, 131, 132, 123,
    116, 163, 122, 138, 151, 95,  124, 140, 114, 130, 176, 108, 152, 155, 85};
static const unsigned char lanczos_6x9_to_6x2[] = {
    92,  111, 117, 142, 53,  141, 149, 40, 133, 119, 194, 169, 123, 175, 138, 177, 101, 139,
    142, 114, 87,  158, 110, 100, 100, 76, 148, 153, 174, 156, 102, 102, 48,  153, 133, 173};
static const unsigned char nearest_7x5_to_4x3[] = {
    60,  94, 129, 198, 142, 4,  151, 214, 60,  174, 136, 55,  39,  95,  175, 151, 223, 84,
    212, 6,  98,  207, 104, 37, 107, 144, 242, 233, 240, 110, 169, 191, 113, 0,   89,  169};
static const unsigned char nearest_3x4_to_5x7[] = {
    60,  117, 48,  60,  117, 48, 189, 183, 30,  52,  120, 134, 52,  120, 134, 60,  117, 48,
    60,  117, 48,  189, 183, 30, 52,  120, 134, 52,  120, 134, 178, 180, 27,  178, 180, 27,
    145, 201, 118, 114, 3,   87, 114, 3,   87,  178, 180, 27,  178, 180, 27,  145, 201, 118,
    114, 3,   87,  114, 3,   87, 251, 107, 232, 251, 107, 232, 170, 189, 99,  63,  38,  46,
    63,  38,  46,  37,  18,  94, 37,  18,  94,  132, 85,  76,  150, 201, 120, 150, 201, 120,
    37,  18,  94,  37,  18,  94, 132, 85,  76,  150, 201, 120, 150, 201, 120};

typedef bool resize_function(struct image *, const struct image *, int, int, struct error *);

static const struct {
    int width, height;
    uint32_t seed;
    int new_width, new_height;
    resize_function *resize;
    const unsigned char *expected;
} small_cases[] = {
    {7, 5, 1, 4, 3, image_resize, lanczos_7x5_to_4x3},
    {3, 4, 2, 5, 7, image_resize, lanczos_3x4_to_5x7},
    {23, 2, 3, 3, 5, image_resize, lanczos_23x2_to_3x5},
    {6, 9, 4, 6, 2, image_resize, lanczos_6x9_to_6x2},
    {7, 5, 1, 4, 3, image_resize_nearest, nearest_7x5_to_4x3},
    {3, 4, 2, 5, 7, image_resize_nearest, nearest_3x4_to_5x7},
};

static void resizing_small_pictures_gives_the_bytes_that_pillow_gives(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(small_cases); i++) {
        struct image image =
            test_picture(small_cases[i].width, small_cases[i].height, small_cases[i].seed);
        struct image resized;
        int width = small_cases[i].new_width, height = small_cases[i].new_height;

        assert_true(small_cases[i].resize(&resized, &image, width, height, NULL));
        assert_int_equal(resized.width, width);
        assert_int_equal(resized.height, height);
        assert_memory_equal(resized.pixels, small_cases[i].expected, (size_t)(width * height * 3));
        image_finish(&resized);
        image_finish(&image);
    }
}

/* FNV-1a, 64 bits. */
static uint64_t hash_pixels(const struct image *image)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < (size_t)image->width * (size_t)image->height * 3; i++)
        hash = (hash ^ image->pixels[i]) * 0x100000001b3u;
    return hash;
}

static void resizing_larger_pictures_gives_the_hashes_that_pillow_gives(void **state)
{
    static const struct {
        int width, height;
        uint64_t lanczos, nearest;
    } cases[] = {
        {128, 96, 0x4d562b9dfe6fdddeu, 0x2636a3bd2235a3c2u},
        {640, 100, 0x19f1249badc53a58u, 0xb3f220bb96f76b7fu},
        {97, 404, 0x45240e0feb0c7925u, 0xc6221dbd534c7bc8u},
    };
    struct image image = test_picture(301, 203, 5);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct image resized;

        assert_true(image_resize(&resized, &image, cases[i].width, cases[i].height, NULL));
        assert_true(hash_pixels(&resized) == cases[i].lanczos);
        image_finish(&resized);
        assert_true(image_resize_nearest(&resized, &image, cases[i].width, cases[i].height, NULL));
        assert_true(hash_pixels(&resized) == cases[i].nearest);
        image_finish(&resized);
    }
    image_finish(&image);
}

static void resizing_to_the_same_size_copies(void **state)
{
    struct image image = test_picture(9, 4, 7), copy;

    (void)state;
    assert_true(image_resize(&copy, &image, 9, 4, NULL));
    assert_ptr_not_equal(copy.pixels, image.pixels);
    assert_memory_equal(copy.pixels, image.pixels, 9 * 4 * 3);
    image_finish(&copy);
    assert_true(image_resize_nearest(&copy, &image, 9, 4, NULL));
    assert_memory_equal(copy.pixels, image.pixels, 9 * 4 * 3);
    image_finish(&copy);
    image_finish(&image);
}

static void resizing_keeps_one_colour_and_overshoot_stays_in_range(void **state)
{
    struct image image = test_picture(40, 30, 8), resized;
    bool has_black = false, has_white = false;

    (void)state;
    memset(image.pixels, 200, 40 * 30 * 3);
    assert_true(image_resize(&resized, &image, 13, 77, NULL));
    for (int i = 0; i < 13 * 77 * 3; i++)
        assert_int_equal(resized.pixels[i], 200);
    image_finish(&resized);

    /* A hard edge makes Lanczos swing below 0 and above 255, which must not wrap around. */
    for (int i = 0; i < 40 * 30; i++)
        memset(image.pixels + 3 * i, i % 40 < 20 ? 0 : 255, 3);
    assert_true(image_resize(&resized, &image, 200, 30, NULL));
    for (int x = 0; x < 80; x++)
        assert_true(resized.pixels[3 * x] < 40);
    for (int x = 120; x < 200; x++)
        assert_true(resized.pixels[3 * x] > 215);
    for (int x = 0; x < 200; x++) {
        has_black |= resized.pixels[3 * x] == 0;
        has_white |= resized.pixels[3 * x] == 255;
    }
    assert_true(has_black && has_white);
    image_finish(&resized);
    image_finish(&image);
}

static void resizing_refuses_sides_that_no_picture_has(void **state)
{
    static const int sides[] = {0, -1, IMAGE_SIDE_MAX + 1, INT32_MAX, INT32_MIN};
    struct image image = test_picture(4, 4, 9), resized;
    struct error err;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sides); i++) {
        assert_false(image_resize(&resized, &image, sides[i], 4, &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
        assert_false(image_resize(&resized, &image, 5, sides[i], &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
        assert_false(image_resize_nearest(&resized, &image, sides[i], 4, &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
        assert_false(image_resize_nearest(&resized, &image, 4, sides[i], &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
    }
    assert_true(image_resize(&resized, &image, 1, IMAGE_SIDE_MAX, &err));
    image_finish(&resized);
    image_finish(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resizing_small_pictures_gives_the_bytes_that_pillow_gives),
        cmocka_unit_test(resizing_larger_pictures_gives_the_hashes_that_pillow_gives),
        cmocka_unit_test(resizing_to_the_same_size_copies),
        cmocka_unit_test(resizing_keeps_one_colour_and_overshoot_stays_in_range),
        cmocka_unit_test(resizing_refuses_sides_that_no_picture_has),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
