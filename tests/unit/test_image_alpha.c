/* The alpha of PNG files of every kind, and of files that have none. */
#include "support/pictures.h"
#include "support/png_alpha.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

#include "image/image.h"

#define WIDTH 13
#define HEIGHT 11
#define NAME "mask"

/* Of the test's size, 8 bits, not interlaced. */
static struct test_png png_of(int colour, const unsigned char *rows, size_t row_bytes)
{
    return (struct test_png){.width = WIDTH,
                             .height = HEIGHT,
                             .depth = 8,
                             .colour = colour,
                             .rows = rows,
                             .row_bytes = row_bytes};
}

static bool decode(struct image *out, const unsigned char *bytes, size_t size, struct error *err)
{
    return image_decode_alpha(out, bytes, size, &IMAGE_LIMITS_DEFAULT, NAME, err);
}

static void expect_alpha(const unsigned char *bytes, size_t size,
                         const unsigned char alpha[WIDTH * HEIGHT])
{
    struct image image;
    struct error err;

    if (!decode(&image, bytes, size, &err))
        fail_msg("%s", err.message);
    assert_int_equal(image.width, WIDTH);
    assert_int_equal(image.height, HEIGHT);
    for (int i = 0; i < WIDTH * HEIGHT; i++)
        for (int c = 0; c < 3; c++)
            if (image.pixels[3 * i + c] != alpha[i])
                fail_msg("pixel %d is %d, not %d", i, image.pixels[3 * i + c], alpha[i]);
    image_finish(&image);
}

static void expect_refused(const unsigned char *bytes, size_t size, const char *because)
{
    struct image image;
    struct error err = {0};

    assert_false(decode(&image, bytes, size, &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_non_null(strstr(err.message, NAME));
    if (!strstr(err.message, because))
        fail_msg("'%s' does not say '%s'", err.message, because);
}

/* Noise whose last channel is the alpha, of 8 and 16 bits. */
static void an_alpha_channel_is_read_alone(void **state)
{
    static const struct {
        int colour, channels, depth;
    } kinds[] = {{PNG_COLOR_TYPE_GRAY_ALPHA, 2, 8},
                 {PNG_COLOR_TYPE_GRAY_ALPHA, 2, 16},
                 {PNG_COLOR_TYPE_RGB_ALPHA, 4, 8},
                 {PNG_COLOR_TYPE_RGB_ALPHA, 4, 16}};
    struct image noise = test_picture(3 * WIDTH, HEIGHT, 1);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        for (int interlace = 0; interlace < 2; interlace++) {
            struct test_png file = png_of(kinds[i].colour, noise.pixels, (size_t)WIDTH * 9);
            size_t sample = (size_t)kinds[i].depth / 8;
            size_t pixel = sample * (size_t)kinds[i].channels, size;
            unsigned char alpha[WIDTH * HEIGHT], *bytes;

            file.depth = kinds[i].depth;
            file.interlace = interlace;
            for (size_t j = 0; j < sizeof alpha; j++) {
                const unsigned char *last =
                    noise.pixels + j / WIDTH * WIDTH * 9 + (j % WIDTH + 1) * pixel - sample;

                alpha[j] =
                    sample == 1 ? last[0] : (unsigned char)((last[0] * 256 + last[1] + 128) / 257);
            }
            bytes = test_write_png(&size, &file);
            expect_alpha(bytes, size, alpha);
            free(bytes);
        }
    image_finish(&noise);
}

static void a_palettes_alpha_counts(void **state)
{
    static const unsigned char transparent[] = {0, 128, 255, 7};
    unsigned char rows[WIDTH * HEIGHT], alpha[WIDTH * HEIGHT], *bytes;
    struct test_png file = png_of(PNG_COLOR_TYPE_PALETTE, rows, WIDTH);
    size_t size;

    (void)state;
    file.transparent = transparent;
    file.transparent_count = COUNT_OF(transparent);
    for (size_t i = 0; i < sizeof rows; i++) {
        rows[i] = (unsigned char)(i % 6);
        alpha[i] = rows[i] < 4 ? transparent[rows[i]] : 255;
    }
    for (int interlace = 0; interlace < 2; interlace++) {
        file.interlace = interlace;
        bytes = test_write_png(&size, &file);
        expect_alpha(bytes, size, alpha);
        free(bytes);
    }
}

static void a_transparent_colour_counts(void **state)
{
    const png_color_16 key = {.red = 5, .green = 5, .blue = 5, .gray = 5};
    unsigned char rows[WIDTH * HEIGHT * 3], alpha[WIDTH * HEIGHT], *bytes;
    struct test_png grey = png_of(PNG_COLOR_TYPE_GRAY, rows, WIDTH);
    struct test_png rgb = png_of(PNG_COLOR_TYPE_RGB, rows, (size_t)WIDTH * 3);
    size_t size;

    (void)state;
    grey.key = rgb.key = &key;
    for (size_t i = 0; i < sizeof rows; i++)
        rows[i] = (unsigned char)(i % 2 ? 5 : i % 7); /* some grey 5s, some RGB ones */
    for (size_t i = 0; i < sizeof alpha; i++)
        alpha[i] = rows[i] == 5 ? 0 : 255;
    bytes = test_write_png(&size, &grey);
    expect_alpha(bytes, size, alpha);
    free(bytes);
    for (size_t i = 0; i < sizeof alpha; i++)
        alpha[i] = rows[3 * i] == 5 && rows[3 * i + 1] == 5 && rows[3 * i + 2] == 5 ? 0 : 255;
    assert_non_null(memchr(alpha, 0, sizeof alpha));
    bytes = test_write_png(&size, &rgb);
    expect_alpha(bytes, size, alpha);
    free(bytes);
}

static void a_file_without_alpha_is_refused(void **state)
{
    static const int colours[] = {PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_PALETTE};
    struct image picture = test_soft_picture(WIDTH, HEIGHT);
    unsigned char *bytes;
    size_t size;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(colours); i++) {
        struct test_png file = png_of(colours[i], picture.pixels, (size_t)WIDTH * 3);

        bytes = test_write_png(&size, &file);
        expect_refused(bytes, size, "no alpha");
        free(bytes);
    }
    assert_true(image_encode(&bytes, &size, &picture, IMAGE_JPEG, 90, NULL, NULL));
    expect_refused(bytes, size, "no alpha");
    free(bytes);
    image_finish(&picture);
}

/* A copy of exactly each size, so that reading beyond it is noticed. */
static void a_file_that_is_cut_off_anywhere_is_refused(void **state)
{
    struct image noise = test_picture(2 * WIDTH, HEIGHT, 2);
    struct test_png file = png_of(PNG_COLOR_TYPE_RGB_ALPHA, noise.pixels, (size_t)WIDTH * 6);
    unsigned char *bytes;
    size_t whole;

    (void)state;
    file.interlace = 1;
    bytes = test_write_png(&whole, &file);
    for (size_t size = 0; size < whole; size++) {
        unsigned char *cut = malloc(size + !size);

        assert_non_null(cut);
        memcpy(cut, bytes, size);
        expect_refused(cut, size, "");
        free(cut);
    }
    free(bytes);
    image_finish(&noise);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_alpha_channel_is_read_alone),
        cmocka_unit_test(a_palettes_alpha_counts),
        cmocka_unit_test(a_transparent_colour_counts),
        cmocka_unit_test(a_file_without_alpha_is_refused),
        cmocka_unit_test(a_file_that_is_cut_off_anywhere_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
