/* Pictures from outside: every kind that is accepted, and every kind of damage, which ends in one
 * sentence that names the file. */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>
#include <sys/resource.h>
#include <zlib.h>

#include "image/image.h"
#include "image/image_bytes.h"
#include "support/pictures.h"

#define NAME "photo.img"

struct file {
    unsigned char *bytes;
    size_t size;
};

static void file_finish(struct file *file)
{
    free(file->bytes);
}

static void file_append(struct file *file, const void *bytes, size_t size)
{
    file->bytes = realloc(file->bytes, file->size + size > 0 ? file->size + size : 1);
    assert_non_null(file->bytes);
    memcpy(file->bytes + file->size, bytes, size);
    file->size += size;
}

static bool decode(struct image *out, const struct file *file, struct error *err)
{
    return image_decode(out, file->bytes, file->size, &IMAGE_LIMITS_DEFAULT, NAME, err);
}

static void assert_refused(const struct file *file, const char *because)
{
    struct image image;
    struct error err = {0};

    assert_false(decode(&image, file, &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_non_null(strstr(err.message, NAME));
    assert_null(strchr(err.message, '\n'));
    if (!strstr(err.message, because))
        fail_msg("'%s' does not say '%s'", err.message, because);
}

/* --- PNG files by libpng --- */

struct png_kind {
    int colour, depth, interlace;
};

/* Rows of any kind whose bytes are noise. */
static struct file make_png(const struct png_kind *kind, int width, int height, uint32_t seed)
{
    struct file file = {0};
    FILE *stream = open_memstream((char **)&file.bytes, &file.size);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    struct image noise = test_picture(3 * width, height, seed);
    png_color palette[256];
    int passes;

    png_init_io(png, stream);
    png_set_IHDR(png, info, (png_uint_32)width, (png_uint_32)height, kind->depth, kind->colour,
                 kind->interlace, 0, 0);
    for (int i = 0; i < 256; i++)
        palette[i] = (png_color){(png_byte)i, (png_byte)(255 - i), (png_byte)(i * 7)};
    if (kind->colour == PNG_COLOR_TYPE_PALETTE)
        png_set_PLTE(png, info, palette, 1 << kind->depth);
    png_write_info(png, info);
    passes = png_set_interlace_handling(png);
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < height; y++)
            png_write_row(png, noise.pixels + (size_t)y * (size_t)width * 9);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    fclose(stream);
    image_finish(&noise);
    return file;
}

/* Sample c of pixel x of a row as make_png writes it. */
static unsigned sample(const unsigned char *row, const struct png_kind *kind, int channels, int x,
                       int c)
{
    int index = x * channels + c;
    int bit = index * kind->depth;

    if (kind->depth == 16)
        return read_be16(row + 2 * index);
    return (unsigned)row[bit / 8] >> (8 - kind->depth - bit % 8) & ((1u << kind->depth) - 1);
}

/* What a pixel of that kind is in 8-bit RGB. */
static void expected_pixel(unsigned char *out, const unsigned char *row,
                           const struct png_kind *kind, int x)
{
    static const int channel_counts[] = {1, 0, 3, 1, 2, 0, 4};
    int channels = channel_counts[kind->colour];
    unsigned top = (1u << kind->depth) - 1;

    for (int c = 0; c < 3; c++) {
        unsigned value = sample(row, kind, channels, x, channels < 3 ? 0 : c);

        if (kind->colour == PNG_COLOR_TYPE_PALETTE)
            out[c] = (unsigned char)(c == 0 ? value : c == 1 ? 255 - value : value * 7);
        else
            out[c] = (unsigned char)((value * 255 + top / 2) / top);
    }
}

static void png_of_every_kind_becomes_8_bit_rgb(void **state)
{
    static const struct png_kind kinds[] = {
        {0, 1, 0}, {0, 2, 0}, {0, 4, 0}, {0, 8, 0}, {0, 16, 0}, {2, 8, 0}, {2, 16, 0}, {3, 1, 0},
        {3, 2, 0}, {3, 4, 0}, {3, 8, 0}, {4, 8, 0}, {4, 16, 0}, {6, 8, 0}, {6, 16, 0}};
    int width = 13, height = 11;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        for (int interlace = 0; interlace < 2; interlace++) {
            struct png_kind kind = kinds[i];
            struct image noise = test_picture(3 * width, height, (uint32_t)i), image;
            struct file file;
            struct error err;

            kind.interlace = interlace;
            file = make_png(&kind, width, height, (uint32_t)i);
            assert_true(decode(&image, &file, &err));
            assert_int_equal(image.width, width);
            assert_int_equal(image.height, height);
            for (int y = 0; y < height; y++)
                for (int x = 0; x < width; x++) {
                    unsigned char expected[3];

                    expected_pixel(expected, noise.pixels + y * width * 9, &kind, x);
                    assert_memory_equal(image.pixels + 3 * (y * width + x), expected, 3);
                }
            image_finish(&image);
            image_finish(&noise);
            file_finish(&file);
        }
}

/* --- PNG files by hand --- */

static void append_chunk(struct file *file, const char *type, const void *bytes, size_t size)
{
    unsigned char length[4], checksum[4];
    uLong crc = crc32(crc32(0, NULL, 0), (const Bytef *)type, 4);

    write_be32(length, (uint32_t)size);
    write_be32(checksum, (uint32_t)(size ? crc32(crc, bytes, (uInt)size) : crc));
    file_append(file, length, 4);
    file_append(file, type, 4);
    file_append(file, bytes, size);
    file_append(file, checksum, 4);
}

static struct file begin_png(uint32_t width, uint32_t height, int depth, int colour, int interlace)
{
    struct file file = {0};
    unsigned char ihdr[13] = {0};

    write_be32(ihdr, width);
    write_be32(ihdr + 4, height);
    ihdr[8] = (unsigned char)depth;
    ihdr[9] = (unsigned char)colour;
    ihdr[12] = (unsigned char)interlace;
    file_append(&file, "\x89PNG\r\n\x1a\n", 8);
    append_chunk(&file, "IHDR", ihdr, sizeof ihdr);
    return file;
}

static void append_deflated(struct file *file, const char *type, const void *head, size_t head_size,
                            const void *bytes, size_t size)
{
    uLongf room = compressBound(size);
    unsigned char *chunk = malloc(head_size + room);

    assert_non_null(chunk);
    if (head_size)
        memcpy(chunk, head, head_size);
    assert_int_equal(compress2(chunk + head_size, &room, bytes, size, 9), Z_OK);
    append_chunk(file, type, chunk, head_size + room);
    free(chunk);
}

static void png_bombs_are_refused_by_their_header(void **state)
{
    static const struct {
        uint32_t width, height;
        const char *because;
    } cases[] = {
        {100000, 100000, "100000 x 100000"},
        {0x80000000u, 0x80000000u, "2147483648"},
        {0xffffffffu, 0xffffffffu, "4294967295"},
        {0x7fffffffu, 1, "2147483647 x 1"},
        {1, 0x7fffffffu, "1 x 2147483647"},
        {16384, 16384, "at most 50000000 pixels"},
        {16385, 1, "at most 16384"},
        {0, 5, "0 x 5"},
        {5, 0, "5 x 0"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct file file = begin_png(cases[i].width, cases[i].height, 8, 2, 0);

        append_deflated(&file, "IDAT", NULL, 0, "", 1);
        assert_true(file.size < 60);
        assert_refused(&file, cases[i].because);
        file_finish(&file);
    }
}

static void png_headers_of_no_known_kind_are_refused(void **state)
{
    static const struct {
        int depth, colour, interlace;
    } cases[] = {{8, 1, 0},  {8, 5, 0},  {8, 7, 0}, {8, 255, 0}, {3, 0, 0},
                 {0, 2, 0},  {16, 3, 0}, {4, 2, 0}, {1, 6, 0},   {255, 0, 0},
                 {32, 0, 0}, {33, 0, 0}, {8, 2, 2}, {8, 2, 255}};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct file file = begin_png(4, 4, cases[i].depth, cases[i].colour, cases[i].interlace);

        append_chunk(&file, "IEND", "", 0);
        assert_refused(&file, "unknown");
        file_finish(&file);
    }
}

static void assert_every_prefix_is_refused(const struct file *file)
{
    struct image image;

    for (size_t size = 0; size < file->size; size++) {
        /* A copy of exactly this size, so that reading beyond it is noticed. */
        struct file prefix = {0};

        file_append(&prefix, file->bytes, size);
        assert_refused(&prefix, "");
        file_finish(&prefix);
    }
    assert_true(decode(&image, file, NULL));
    image_finish(&image);
}

static void a_png_that_is_cut_off_anywhere_is_refused(void **state)
{
    static const struct png_kind kinds[] = {{2, 8, 0}, {3, 4, 1}};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        struct file file = make_png(&kinds[i], 9, 7, 1);

        assert_every_prefix_is_refused(&file);
        file_finish(&file);
    }
}

static void a_png_with_a_wrong_checksum_is_refused(void **state)
{
    static const struct png_kind kind = {3, 8, 0};
    struct file file = make_png(&kind, 9, 7, 1);

    (void)state;
    /* Each bit that belongs to a chunk: no flip gives a picture. */
    for (size_t i = 8; i < file.size; i++)
        for (int bit = 0; bit < 8; bit++) {
            file.bytes[i] ^= (unsigned char)(1 << bit);
            assert_refused(&file, "");
            file.bytes[i] ^= (unsigned char)(1 << bit);
        }
    file.bytes[8 + 8 + 13] ^= 1;
    assert_refused(&file, "wrong checksum");
    file_finish(&file);
}

static void png_data_of_the_wrong_amount_is_refused(void **state)
{
    static const unsigned char rows[4 * 13];
    struct file file = begin_png(4, 4, 8, 2, 0), empty = begin_png(4, 4, 8, 2, 0);
    struct file without_palette = begin_png(4, 4, 8, 3, 0);

    (void)state;
    append_deflated(&file, "IDAT", NULL, 0, rows, sizeof rows / 2);
    append_chunk(&file, "IEND", "", 0);
    assert_refused(&file, "");
    append_chunk(&empty, "IEND", "", 0);
    assert_refused(&empty, "");
    append_deflated(&without_palette, "IDAT", NULL, 0, rows, 4 * 5);
    append_chunk(&without_palette, "IEND", "", 0);
    assert_refused(&without_palette, "");
    file_finish(&file);
    file_finish(&empty);
    file_finish(&without_palette);
}

/* In KiB. */
static long peak_memory(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* Appends a chunk that is `head` and 100 MiB of one letter, deflated to 100 KB. */
static void append_bomb(struct file *file, const char *type, char letter, const void *head,
                        size_t head_size)
{
    static unsigned char letters[1 << 20], chunk[1 << 18];
    z_stream stream = {.next_out = chunk + head_size,
                       .avail_out = (uInt)(sizeof chunk - head_size)};

    memcpy(chunk, head, head_size);
    memset(letters, letter, sizeof letters);
    assert_int_equal(deflateInit(&stream, 9), Z_OK);
    for (int i = 0; i < 100; i++) {
        stream.next_in = letters;
        stream.avail_in = sizeof letters;
        assert_int_equal(deflate(&stream, Z_NO_FLUSH), Z_OK);
    }
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    append_chunk(file, type, chunk, head_size + stream.total_out);
    deflateEnd(&stream);
}

static void png_data_that_goes_on_is_refused_before_it_is_inflated(void **state)
{
    struct file file = begin_png(4, 4, 8, 2, 0);

    (void)state;
    append_bomb(&file, "IDAT", 0, "", 0);
    append_chunk(&file, "IEND", "", 0);
    assert_refused(&file, "more data than pixels");
    file_finish(&file);
}

static struct file make_chunk_bomb(void)
{
    static const unsigned char rows[2 * 7] = {0, 1, 2, 3, 4, 5, 6, 0, 7, 8, 9, 10, 11, 12};
    struct file file = begin_png(2, 2, 8, 2, 0);

    append_bomb(&file, "iCCP", 'x', "icc\0", 5);
    append_bomb(&file, "zTXt", 'x', "parameters\0", 12);
    append_bomb(&file, "iTXt", 'x', "sd35\0\1\0\0", 9);
    append_deflated(&file, "IDAT", NULL, 0, rows, sizeof rows);
    append_chunk(&file, "IEND", "", 0);
    return file;
}

static void compressed_profiles_and_texts_take_little_memory(void **state)
{
    struct file file = make_chunk_bomb();
    long before = peak_memory();
    struct image image;
    char *infotext, *json;
    struct error err;

    (void)state;
    assert_true(decode(&image, &file, &err));
    assert_int_equal(image.pixels[11], 12);
    image_finish(&image);
    assert_false(image_metadata_read(&infotext, &json, file.bytes, file.size, &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_non_null(strstr(err.message, "more than"));
    assert_true(peak_memory() - before < 32 << 10);
    file_finish(&file);
}

static void extra_chunks_as_in_apng_are_passed_over(void **state)
{
    static const unsigned char rows[2 * 7] = {0, 1, 2, 3, 4, 5, 6, 0, 7, 8, 9, 10, 11, 12};
    unsigned char control[26] = {0};
    struct file file = begin_png(2, 2, 8, 2, 0);
    struct image image;
    struct error err;

    (void)state;
    append_chunk(&file, "acTL", "\0\0\0\2\0\0\0\0", 8);
    append_chunk(&file, "gAMA", "\0\0\0\1", 4);
    append_chunk(&file, "fcTL", control, sizeof control);
    append_deflated(&file, "IDAT", NULL, 0, rows, sizeof rows);
    append_chunk(&file, "fdAT", "\0\0\0\1garbage", 11);
    append_chunk(&file, "IEND", "", 0);
    file_append(&file, "after the end", 13);
    assert_true(decode(&image, &file, &err));
    assert_int_equal(image.pixels[0], 1);
    assert_int_equal(image.pixels[6], 7);
    image_finish(&image);
    file_finish(&file);
}

static void many_chunks_take_no_memory(void **state)
{
    static const unsigned char rows[2 * 7];
    struct file file = begin_png(2, 2, 8, 2, 0);
    struct image image;

    (void)state;
    for (int i = 0; i < 5000; i++)
        append_chunk(&file, i % 2 ? "tEXt" : "abCd", "key\0text", 8);
    append_deflated(&file, "IDAT", NULL, 0, rows, sizeof rows);
    append_chunk(&file, "IEND", "", 0);
    assert_true(decode(&image, &file, NULL));
    image_finish(&image);
    file_finish(&file);
}

/* --- JPEG files by libjpeg --- */

struct jpeg_kind {
    J_COLOR_SPACE colour; /* of the pixels that go in */
    bool is_progressive;
    bool is_arithmetic;
    int scan_count; /* 0: as usual */
};

#define SCANS_MAX 300

static struct file make_jpeg(const struct jpeg_kind *kind, const struct image *image)
{
    static jpeg_scan_info scans[SCANS_MAX];
    struct file file = {0};
    unsigned long size = 0;
    struct jpeg_compress_struct codec;
    struct jpeg_error_mgr errors;
    int channels = kind->colour == JCS_GRAYSCALE ? 1 : kind->colour == JCS_CMYK ? 4 : 3;
    unsigned char *row = calloc((size_t)image->width, 4);

    codec.err = jpeg_std_error(&errors);
    jpeg_create_compress(&codec);
    jpeg_mem_dest(&codec, &file.bytes, &size);
    codec.image_width = (JDIMENSION)image->width;
    codec.image_height = (JDIMENSION)image->height;
    codec.input_components = channels;
    codec.in_color_space = kind->colour;
    jpeg_set_defaults(&codec);
    jpeg_set_quality(&codec, 95, TRUE);
    codec.arith_code = kind->is_arithmetic;
    if (kind->is_progressive)
        jpeg_simple_progression(&codec);
    if (kind->scan_count) {
        /* One for the averages of all components, then one for each frequency of each of them. */
        scans[0] = (jpeg_scan_info){.comps_in_scan = 3, .component_index = {0, 1, 2}};
        for (int i = 1; i < kind->scan_count; i++)
            scans[i] = (jpeg_scan_info){.comps_in_scan = 1,
                                        .component_index = {(i - 1) / 63},
                                        .Ss = (i - 1) % 63 + 1,
                                        .Se = (i - 1) % 63 + 1};
        codec.scan_info = scans;
        codec.num_scans = kind->scan_count;
    }
    jpeg_start_compress(&codec, TRUE);
    for (int y = 0; y < image->height; y++) {
        for (int x = 0; x < image->width; x++)
            for (int c = 0; c < channels; c++)
                row[x * channels + c] = image->pixels[3 * (y * image->width + x) + c % 3];
        jpeg_write_scanlines(&codec, &row, 1);
    }
    jpeg_finish_compress(&codec);
    jpeg_destroy_compress(&codec);
    free(row);
    file.size = size;
    return file;
}

static void baseline_progressive_and_grey_jpegs_are_read(void **state)
{
    static const struct jpeg_kind kinds[] = {{JCS_RGB, false, false, 0},
                                             {JCS_RGB, true, false, 0},
                                             {JCS_RGB, true, false, 100},
                                             {JCS_GRAYSCALE, false, false, 0},
                                             {JCS_GRAYSCALE, true, false, 0}};
    struct image image = test_soft_picture(61, 35);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        struct file file = make_jpeg(&kinds[i], &image);
        struct image back;
        struct error err;

        assert_true(decode(&back, &file, &err));
        assert_int_equal(back.width, 61);
        assert_int_equal(back.height, 35);
        for (int p = 0; p < 61 * 35; p++) {
            if (kinds[i].colour == JCS_GRAYSCALE) {
                assert_int_equal(back.pixels[3 * p], back.pixels[3 * p + 2]);
                image.pixels[3 * p + 1] = image.pixels[3 * p + 2] = image.pixels[3 * p];
            }
        }
        assert_true(test_psnr(&image, back.pixels) > 30);
        image_finish(&back);
        file_finish(&file);
    }
    image_finish(&image);
}

static void jpegs_of_other_kinds_are_refused_by_name(void **state)
{
    static const struct jpeg_kind cmyk = {JCS_CMYK, false, false, 0};
    static const struct jpeg_kind arithmetic = {JCS_RGB, false, true, 0};
    static const struct jpeg_kind arithmetic_progressive = {JCS_RGB, true, true, 0};
    static const struct jpeg_kind many_scans = {JCS_RGB, true, false, 101};
    static const struct {
        const struct jpeg_kind *kind;
        const char *because;
    } cases[] = {{&cmyk, "CMYK"},
                 {&arithmetic, "arithmetically coded"},
                 {&arithmetic_progressive, "arithmetically coded"},
                 {&many_scans, "more than 100 scans"}};
    struct image image = test_soft_picture(16, 16);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct file file = make_jpeg(cases[i].kind, &image);

        assert_refused(&file, cases[i].because);
        file_finish(&file);
    }
    image_finish(&image);
}

/* The offset of the frame header's marker. */
static size_t find_frame(const struct file *file)
{
    for (size_t i = 0; i + 20 < file->size; i++)
        if (file->bytes[i] == 0xff && file->bytes[i + 1] >= 0xc0 && file->bytes[i + 1] <= 0xc2)
            return i;
    fail();
    return 0;
}

static void jpeg_frame_headers_that_lie_are_refused(void **state)
{
    static const struct {
        int offset; /* from the marker */
        int value;
        const char *because;
    } cases[] = {
        {1, 0xc3, "lossless"},
        {1, 0xc5, "hierarchical"},
        {1, 0xc9, "arithmetically"},
        {4, 12, "12 bits"},
        {4, 16, "16 bits"},
        {4, 0, "0 bits"},
        {9, 0, "0 colour"},
        {9, 2, "2 colour"},
        {9, 4, "CMYK"},
        {9, 255, "255 colour"},
        {9, 1, ""},
        {11, 0x00, ""},
        {11, 0xff, ""},
        {12, 9, ""},
        {3, 5, ""},
    };
    static const struct jpeg_kind kind = {JCS_RGB, false, false, 0};
    struct image image = test_soft_picture(16, 16);
    struct file file = make_jpeg(&kind, &image);
    size_t frame = find_frame(&file);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        unsigned char *byte = &file.bytes[frame + (size_t)cases[i].offset], before = *byte;

        *byte = (unsigned char)cases[i].value;
        assert_refused(&file, cases[i].because);
        *byte = before;
    }
    write_be32(file.bytes + frame + 5, 0xffffffffu);
    assert_refused(&file, "65535 x 65535");
    write_be32(file.bytes + frame + 5, 0x00100000u);
    assert_refused(&file, "0 x 16");
    write_be32(file.bytes + frame + 5, 0x00000010u);
    assert_refused(&file, "16 x 0");
    write_be32(file.bytes + frame + 5, 0x3fff3fffu);
    assert_refused(&file, "at most 50000000 pixels");
    file_finish(&file);
    image_finish(&image);
}

static void a_jpeg_that_is_cut_off_anywhere_is_refused(void **state)
{
    static const struct jpeg_kind kinds[] = {{JCS_RGB, false, false, 0}, {JCS_RGB, true, false, 0}};
    struct image image = test_soft_picture(20, 9);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        struct file file = make_jpeg(&kinds[i], &image);

        assert_every_prefix_is_refused(&file);
        file_finish(&file);
    }
    image_finish(&image);
}

/* No assertion about which succeed: a flipped bit may well give another picture. */
static void flipped_bits_in_a_jpeg_give_a_picture_or_a_sentence(void **state)
{
    static const struct jpeg_kind kinds[] = {{JCS_RGB, false, false, 0}, {JCS_RGB, true, false, 0}};
    struct image image = test_soft_picture(20, 9);
    int refused = 0;

    (void)state;
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        struct file file = make_jpeg(&kinds[k], &image);

        for (size_t i = 0; i < 8 * file.size; i++) {
            struct image_limits limits = {.bytes_max = 1 << 20, .pixels_max = 1 << 20};
            struct image back;
            struct error err = {0};

            file.bytes[i / 8] ^= (unsigned char)(1 << i % 8);
            if (image_decode(&back, file.bytes, file.size, &limits, NAME, &err)) {
                assert_true(back.width >= 1 && back.height >= 1 && back.pixels);
                image_finish(&back);
            } else {
                refused++;
                assert_non_null(strstr(err.message, NAME));
            }
            file.bytes[i / 8] ^= (unsigned char)(1 << i % 8);
        }
        file_finish(&file);
    }
    assert_true(refused > 0);
    image_finish(&image);
}

/* --- The gate --- */

static void other_files_are_refused_by_their_name(void **state)
{
    static const struct {
        const char *bytes;
        size_t size;
        const char *because;
    } cases[] = {
        {"", 0, "empty"},
        {"GIF89a\1\0\1\0", 10, "GIF"},
        {"RIFF\x10\0\0\0WEBPVP8 ", 16, "cut off"},
        {"RIFF\x10\0\0\0WAVEfmt ", 16, "neither a PNG, a JPEG nor a WebP"},
        {"BM\0\0\0\0", 6, "BMP"},
        {"II*\0\x08\0\0\0", 8, "TIFF"},
        {"\0\0\0\x20"
         "ftypavif",
         12, "AVIF"},
        {"\0\0\0\x20"
         "ftypheic",
         12, "HEIC"},
        {"\0\0\0\x0cJXL \r\n\x87\n", 12, "JPEG XL"},
        {"\0\0\0\x0cjP  \r\n\x87\n", 12, "JPEG 2000"},
        {"<!DOCTYPE html>", 15, "web page"},
        {"<svg xmlns", 10, "SVG"},
        {"%PDF-1.7", 8, "PDF"},
        {"plain text", 10, "neither a PNG, a JPEG nor a WebP"},
        {"\x89PNG\r\n\x1a", 7, "neither a PNG, a JPEG nor a WebP"},
        {"\xff\xd8", 2, "neither a PNG, a JPEG nor a WebP"},
        {"G", 1, "neither a PNG, a JPEG nor a WebP"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct file file = {0};

        file_append(&file, cases[i].bytes, cases[i].size);
        assert_refused(&file, cases[i].because);
        file_finish(&file);
    }
}

static void the_limits_are_kept_to_the_byte_and_the_pixel(void **state)
{
    static const struct png_kind png_kind = {2, 8, 0};
    static const struct jpeg_kind jpeg_kind = {JCS_RGB, false, false, 0};
    struct image image = test_soft_picture(20, 9), back;
    struct file files[] = {make_png(&png_kind, 20, 9, 1), make_jpeg(&jpeg_kind, &image)};
    struct error err;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        struct image_limits limits = {.bytes_max = files[i].size, .pixels_max = 180};
        struct image_header header;

        assert_true(image_header_read(&header, files[i].bytes, files[i].size, &limits, NAME, &err));
        assert_int_equal(header.format, i == 0 ? IMAGE_PNG : IMAGE_JPEG);
        assert_int_equal(header.width, 20);
        assert_int_equal(header.height, 9);
        limits.pixels_max = 179;
        assert_false(image_decode(&back, files[i].bytes, files[i].size, &limits, NAME, &err));
        assert_non_null(strstr(err.message, "at most 179 pixels"));
        limits = (struct image_limits){.bytes_max = files[i].size - 1, .pixels_max = 180};
        assert_false(image_decode(&back, files[i].bytes, files[i].size, &limits, NAME, &err));
        assert_non_null(strstr(err.message, "bytes"));
        file_finish(&files[i]);
    }
    image_finish(&image);
}

/* --- Metadata --- */

static void metadata_of_cut_and_changed_files_is_a_text_or_a_sentence(void **state)
{
    struct image image = test_soft_picture(8, 8);
    struct image_metadata metadata = {"猫 Steps: 1", "{\"a\":1}"};

    (void)state;
    for (int format = 0; format < IMAGE_FORMAT_COUNT; format++) {
        struct file file = {0};
        char *infotext, *json;
        struct error err = {0};

        assert_true(image_encode(&file.bytes, &file.size, &image, (enum image_format)format, 80,
                                 &metadata, NULL));
        for (size_t size = 0; size < file.size; size++) {
            struct file prefix = {.bytes = malloc(size + 1), .size = size};

            prefix.bytes = realloc(prefix.bytes, size ? size : 1);
            memcpy(prefix.bytes, file.bytes, size);
            if (image_metadata_read(&infotext, &json, prefix.bytes, size, &err)) {
                free(infotext);
                free(json);
            } else {
                assert_int_equal(err.code, ERROR_BAD_FILE);
            }
            file_finish(&prefix);
        }
        for (size_t i = 0; i < 8 * file.size; i++) {
            file.bytes[i / 8] ^= (unsigned char)(1 << i % 8);
            if (image_metadata_read(&infotext, &json, file.bytes, file.size, &err)) {
                free(infotext);
                free(json);
            }
            file.bytes[i / 8] ^= (unsigned char)(1 << i % 8);
        }
        file_finish(&file);
    }
    image_finish(&image);
}

static void texts_of_other_writers_are_read(void **state)
{
    struct file compressed = begin_png(2, 2, 8, 2, 0), international = begin_png(2, 2, 8, 2, 0);
    char *infotext, *json;
    struct error err;

    (void)state;
    append_chunk(&compressed, "tEXt", "other\0ignored", 13);
    append_deflated(&compressed, "zTXt", "parameters\0", 12, "caf\xe9", 4);
    append_chunk(&compressed, "tEXt", "parameters\0second", 17);
    append_chunk(&compressed, "IEND", "", 0);
    assert_true(image_metadata_read(&infotext, &json, compressed.bytes, compressed.size, &err));
    assert_string_equal(infotext, "caf\xc3\xa9");
    assert_null(json);
    free(infotext);
    append_deflated(&international, "iTXt", "parameters\0\1\0zh\0\xe5\x8f\x82\0", 20, "猫", 3);
    append_chunk(&international, "IEND", "", 0);
    assert_true(
        image_metadata_read(&infotext, &json, international.bytes, international.size, &err));
    assert_string_equal(infotext, "猫");
    free(infotext);
    file_finish(&compressed);
    file_finish(&international);
}

/* A JPEG that is nothing but an EXIF block with a UserComment, little-endian as cameras write. */
static struct file make_exif(const char *comment, size_t size)
{
    struct file file = {0};
    unsigned char length[2];

    assert_true(size < 256);
    write_be16(length, (uint32_t)(2 + 6 + 44 + size));
    file_append(&file, "\xff\xd8\xff\xe1", 4);
    file_append(&file, length, 2);
    file_append(&file,
                "Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x1a\0\0\0\0\0\0\0"
                "\1\0\x86\x92\7\0",
                6 + 32);
    file_append(&file, (unsigned char[]){(unsigned char)size, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0},
                12);
    file_append(&file, comment, size);
    file_append(&file, "\xff\xda\0\2\xff\xd9", 6);
    return file;
}

static void exif_comments_of_other_writers_are_read(void **state)
{
    static const struct {
        const char *comment;
        size_t size;
        const char *text;
    } cases[] = {
        {"UNICODE\0A\0\x2b\x73", 12, "A猫"},
        {"UNICODE\0\xff\xfe"
         "A\0",
         12, "A"},
        {"UNICODE\0\xfe\xff\0A", 12, "A"},
        {"UNICODE\0\x3d\xd8\x00\xde"
         "A\0\x3d\xd8",
         16, "😀A\xef\xbf\xbd"},
        {"UNICODE\0A\0B", 11, "A"},
        {"UNICODE\0", 8, ""},
        {"ASCII\0\0\0Steps", 13, "Steps"},
        {"JIS\0\0\0\0\0abc", 11, NULL},
        {"UNICODE", 7, NULL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct file file = make_exif(cases[i].comment, cases[i].size);
        char *infotext, *json;
        struct error err;

        assert_true(image_metadata_read(&infotext, &json, file.bytes, file.size, &err));
        assert_int_equal(infotext != NULL, cases[i].text != NULL);
        if (infotext)
            assert_string_equal(infotext, cases[i].text);
        free(infotext);
        file_finish(&file);
    }
}

static void damaged_text_chunks_are_refused(void **state)
{
    static const struct {
        const char *type, *bytes;
        size_t size;
    } cases[] = {
        {"zTXt", "parameters\0", 11},          {"zTXt", "parameters\0\1abc", 15},
        {"zTXt", "parameters\0\0abc", 15},     {"iTXt", "parameters\0", 11},
        {"iTXt", "parameters\0\0\0", 13},      {"iTXt", "parameters\0\0\0en", 15},
        {"iTXt", "parameters\0\2\0\0\0x", 16}, {"iTXt", "parameters\0\1\1\0\0x", 16},
        {"iTXt", "parameters\0\1\0\0\0x", 16},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct file file = begin_png(2, 2, 8, 2, 0);
        char *infotext, *json;
        struct error err = {0};

        append_chunk(&file, cases[i].type, cases[i].bytes, cases[i].size);
        append_chunk(&file, "IEND", "", 0);
        assert_false(image_metadata_read(&infotext, &json, file.bytes, file.size, &err));
        assert_int_equal(err.code, ERROR_BAD_FILE);
        file_finish(&file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(png_of_every_kind_becomes_8_bit_rgb),
        cmocka_unit_test(png_bombs_are_refused_by_their_header),
        cmocka_unit_test(png_headers_of_no_known_kind_are_refused),
        cmocka_unit_test(a_png_that_is_cut_off_anywhere_is_refused),
        cmocka_unit_test(a_png_with_a_wrong_checksum_is_refused),
        cmocka_unit_test(png_data_of_the_wrong_amount_is_refused),
        cmocka_unit_test(png_data_that_goes_on_is_refused_before_it_is_inflated),
        cmocka_unit_test(compressed_profiles_and_texts_take_little_memory),
        cmocka_unit_test(extra_chunks_as_in_apng_are_passed_over),
        cmocka_unit_test(many_chunks_take_no_memory),
        cmocka_unit_test(baseline_progressive_and_grey_jpegs_are_read),
        cmocka_unit_test(jpegs_of_other_kinds_are_refused_by_name),
        cmocka_unit_test(jpeg_frame_headers_that_lie_are_refused),
        cmocka_unit_test(a_jpeg_that_is_cut_off_anywhere_is_refused),
        cmocka_unit_test(flipped_bits_in_a_jpeg_give_a_picture_or_a_sentence),
        cmocka_unit_test(other_files_are_refused_by_their_name),
        cmocka_unit_test(the_limits_are_kept_to_the_byte_and_the_pixel),
        cmocka_unit_test(metadata_of_cut_and_changed_files_is_a_text_or_a_sentence),
        cmocka_unit_test(texts_of_other_writers_are_read),
        cmocka_unit_test(exif_comments_of_other_writers_are_read),
        cmocka_unit_test(damaged_text_chunks_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
