/* WebP pictures from outside: each kind is read as its library wrote it, and each kind of damage
 * ends in one sentence that names the file. */
#include "support/pictures.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

#include <webp/encode.h>

#include "image/image.h"

#define WIDTH 37
#define HEIGHT 29
#define NAME "photo.webp"

/* A file that free() frees. */
struct file {
    unsigned char *bytes;
    size_t size;
};

/* A soft picture with an alpha that differs from pixel to pixel. */
static void fill(unsigned char rgba[WIDTH * HEIGHT * 4], struct image *picture)
{
    *picture = test_soft_picture(WIDTH, HEIGHT);
    for (size_t i = 0; i < WIDTH * HEIGHT; i++) {
        memcpy(rgba + 4 * i, picture->pixels + 3 * i, 3);
        rgba[4 * i + 3] = (unsigned char)(1 + i % 255);
    }
}

enum kind { LOSSY, LOSSLESS, LOSSY_ALPHA, LOSSLESS_ALPHA, KIND_COUNT };

static struct file make(enum kind kind, struct image *picture)
{
    unsigned char rgba[WIDTH * HEIGHT * 4];
    struct file file = {0};
    uint8_t *bytes = NULL;

    fill(rgba, picture);
    switch (kind) {
    case LOSSY:
        file.size = WebPEncodeRGB(picture->pixels, WIDTH, HEIGHT, WIDTH * 3, 90, &bytes);
        break;
    case LOSSLESS:
        file.size = WebPEncodeLosslessRGB(picture->pixels, WIDTH, HEIGHT, WIDTH * 3, &bytes);
        break;
    case LOSSY_ALPHA:
        file.size = WebPEncodeRGBA(rgba, WIDTH, HEIGHT, WIDTH * 4, 90, &bytes);
        break;
    case LOSSLESS_ALPHA:
    case KIND_COUNT:
        file.size = WebPEncodeLosslessRGBA(rgba, WIDTH, HEIGHT, WIDTH * 4, &bytes);
    }
    assert_true(file.size > 0);
    file.bytes = malloc(file.size);
    assert_non_null(file.bytes);
    memcpy(file.bytes, bytes, file.size);
    WebPFree(bytes);
    return file;
}

static bool decode(struct image *out, const struct file *file, struct error *err)
{
    return image_decode(out, file->bytes, file->size, &IMAGE_LIMITS_DEFAULT, NAME, err);
}

static void expect_refused(const struct file *file, const char *because)
{
    struct image image;
    struct error err = {0};

    assert_false(decode(&image, file, &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_non_null(strstr(err.message, NAME));
    if (!strstr(err.message, because))
        fail_msg("'%s' does not say '%s'", err.message, because);
}

static void every_kind_is_read(void **state)
{
    (void)state;
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        struct image picture, back;
        struct file file = make((enum kind)kind, &picture);
        struct image_header header;
        struct error err;

        assert_true(
            image_header_read(&header, file.bytes, file.size, &IMAGE_LIMITS_DEFAULT, NAME, &err));
        assert_int_equal(header.format, IMAGE_WEBP);
        assert_int_equal(header.width, WIDTH);
        assert_int_equal(header.height, HEIGHT);
        if (!decode(&back, &file, &err))
            fail_msg("%s", err.message);
        if (kind == LOSSLESS || kind == LOSSLESS_ALPHA)
            assert_memory_equal(back.pixels, picture.pixels, WIDTH * HEIGHT * 3);
        else
            assert_true(test_psnr(&picture, back.pixels) > 30);
        image_finish(&back);
        image_finish(&picture);
        free(file.bytes);
    }
}

static void the_alpha_is_read_alone_where_there_is_one(void **state)
{
    (void)state;
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        struct image picture, alpha;
        struct file file = make((enum kind)kind, &picture);
        struct error err = {0};
        bool has_alpha =
            image_decode_alpha(&alpha, file.bytes, file.size, &IMAGE_LIMITS_DEFAULT, NAME, &err);

        assert_true(has_alpha == (kind == LOSSY_ALPHA || kind == LOSSLESS_ALPHA));
        if (!has_alpha)
            assert_non_null(strstr(err.message, "no alpha"));
        for (size_t i = 0; has_alpha && i < 3 * WIDTH * HEIGHT; i++)
            assert_int_equal(alpha.pixels[i], 1 + i / 3 % 255);
        if (has_alpha)
            image_finish(&alpha);
        image_finish(&picture);
        free(file.bytes);
    }
}

/* A copy of exactly each size, so that reading beyond it is noticed. */
static void a_file_that_is_cut_off_anywhere_is_refused(void **state)
{
    (void)state;
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        struct image picture;
        struct file file = make((enum kind)kind, &picture);

        for (size_t size = 0; size < file.size; size++) {
            struct file cut = {malloc(size + !size), size};

            assert_non_null(cut.bytes);
            memcpy(cut.bytes, file.bytes, size);
            expect_refused(&cut, "");
            free(cut.bytes);
        }
        image_finish(&picture);
        free(file.bytes);
    }
}

static void flipped_bits_give_a_picture_or_a_sentence(void **state)
{
    int refused = 0;

    (void)state;
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        const struct image_limits limits = {.bytes_max = 1 << 20, .pixels_max = 1 << 16};
        struct image picture, back;
        struct file file = make((enum kind)kind, &picture);

        for (size_t i = 0; i < 8 * file.size; i++) {
            struct error err = {0};

            file.bytes[i / 8] ^= (unsigned char)(1 << i % 8);
            if (image_decode(&back, file.bytes, file.size, &limits, NAME, &err)) {
                image_finish(&back);
            } else {
                refused++;
                assert_non_null(strstr(err.message, NAME));
            }
            file.bytes[i / 8] ^= (unsigned char)(1 << i % 8);
        }
        image_finish(&picture);
        free(file.bytes);
    }
    assert_true(refused > 0);
}

static void headers_that_lie_or_are_too_large_are_refused(void **state)
{
    struct image picture;
    struct file lossy = make(LOSSY, &picture), lossless, extended;

    (void)state;
    image_finish(&picture);
    lossless = make(LOSSLESS, &picture);
    image_finish(&picture);
    extended = make(LOSSY_ALPHA, &picture);
    image_finish(&picture);
    assert_memory_equal(lossy.bytes + 12, "VP8 ", 4);
    assert_memory_equal(lossless.bytes + 12, "VP8L", 4);
    assert_memory_equal(extended.bytes + 12, "VP8X", 4);
    extended.bytes[24]++; /* the canvas is wider than the picture in it */
    expect_refused(&extended, "");
    extended.bytes[24]--;
    memset(extended.bytes + 24, 0xff, 6);
    expect_refused(&extended, "16777216 x 16777216");
    extended.bytes[20] |= 0x02;
    expect_refused(&extended, "moves");
    memset(lossless.bytes + 21, 0xff, 3);
    lossless.bytes[24] |= 0x0f;
    expect_refused(&lossless, "16384 x 16384");
    lossy.bytes[26] = lossy.bytes[27] = 0;
    expect_refused(&lossy, "0 x");
    lossy.bytes[23] ^= 1;
    expect_refused(&lossy, "damaged header");
    memcpy(lossy.bytes + 12, "VP9 ", 4);
    expect_refused(&lossy, "unknown kind");
    free(lossy.bytes);
    free(lossless.bytes);
    free(extended.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_read),
        cmocka_unit_test(the_alpha_is_read_alone_where_there_is_one),
        cmocka_unit_test(a_file_that_is_cut_off_anywhere_is_refused),
        cmocka_unit_test(flipped_bits_give_a_picture_or_a_sentence),
        cmocka_unit_test(headers_that_lie_or_are_too_large_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
