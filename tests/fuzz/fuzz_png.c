/* PNG files: what decodes has the size that its header says, and survives being written and read
 * again. Each input also runs with its checksums put right, or hardly any change would get far. */
#include <zlib.h>

#include "decoded_image.h"
#include "image/image_bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void decode_and_check(const uint8_t *bytes, size_t size)
{
    struct image_header header;
    struct image image, again;
    struct error err = {0};
    unsigned char *copy;
    size_t copy_size;

    if (!image_decode(&image, bytes, size, &limits, "input", &err)) {
        expect(err.code == ERROR_BAD_FILE && strstr(err.message, "input"));
        return;
    }
    expect(image_header_read(&header, bytes, size, &limits, "input", NULL));
    expect(image.pixels && image.width == header.width && image.height == header.height);
    if ((size_t)image.width * (size_t)image.height <= 4096) {
        expect(image_encode(&copy, &copy_size, &image, IMAGE_PNG, 50, NULL, NULL));
        expect(image_decode(&again, copy, copy_size, &limits, "copy", NULL));
        expect(memcmp(image.pixels, again.pixels, 3 * (size_t)(image.width * image.height)) == 0);
        image_finish(&again);
        free(copy);
    }
    image_finish(&image);
}

/* Decodes where the picture does, or says that there is none. */
static void decode_alpha_and_check(const uint8_t *bytes, size_t size)
{
    struct image image, alpha;
    struct error err = {0};
    size_t pixels;

    if (!image_decode_alpha(&alpha, bytes, size, &limits, "input", &err)) {
        expect(err.code == ERROR_BAD_FILE && strstr(err.message, "input"));
        return;
    }
    expect(image_decode(&image, bytes, size, &limits, "input", NULL));
    expect(image.width == alpha.width && image.height == alpha.height);
    pixels = (size_t)alpha.width * (size_t)alpha.height;
    for (size_t i = 0; i < pixels; i++)
        expect(memcmp(alpha.pixels + 3 * i, alpha.pixels + 3 * i + 1, 2) == 0);
    image_finish(&image);
    image_finish(&alpha);
}

static void fix_checksums(unsigned char *bytes, size_t size)
{
    for (size_t at = 8; at <= size && size - at >= 12;) {
        size_t length = read_be32(bytes + at);

        if (length > size - at - 12)
            return;
        write_be32(bytes + at + 8 + length,
                   (uint32_t)crc32(crc32(0, NULL, 0), bytes + at + 4, (uInt)(4 + length)));
        at += 12 + length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    unsigned char *fixed;

    if (size < 8 || memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) != 0 || size > limits.bytes_max)
        return 0;
    decode_and_check(bytes, size);
    decode_alpha_and_check(bytes, size);
    fixed = malloc(size);
    expect(fixed);
    memcpy(fixed, bytes, size);
    fix_checksums(fixed, size);
    decode_and_check(fixed, size);
    decode_alpha_and_check(fixed, size);
    free(fixed);
    return 0;
}
