/* WebP files: what decodes has the size that its header says, and all of its pixels can be
 * read; so is its alpha, where there is one. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const struct image_limits limits = {.bytes_max = 1 << 20, .pixels_max = 1 << 20};

static void expect(bool is_true)
{
    if (!is_true)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct image_header header;
    struct image image, smaller;
    struct error err = {0};

    if (size < 12 || memcmp(bytes, "RIFF", 4) != 0 || memcmp(bytes + 8, "WEBP", 4) != 0)
        return 0;
    if (!image_decode(&image, bytes, size, &limits, "input", &err)) {
        expect(err.code == ERROR_BAD_FILE && strstr(err.message, "input"));
        return 0;
    }
    expect(image_header_read(&header, bytes, size, &limits, "input", NULL));
    expect(header.format == IMAGE_WEBP && image.pixels);
    expect(image.width == header.width && image.height == header.height);
    expect(image_resize_nearest(&smaller, &image, 3, 2, NULL)); /* reads from corner to corner */
    image_finish(&smaller);
    image_finish(&image);
    if (image_decode_alpha(&image, bytes, size, &limits, "input", &err)) {
        expect(image.width == header.width && image.height == header.height);
        image_finish(&image);
    }
    return 0;
}
