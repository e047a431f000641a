/* What holds for each picture that decodes, of whatever format. */
#ifndef FUZZ_DECODED_IMAGE_H
#define FUZZ_DECODED_IMAGE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"

static const struct image_limits limits = {.bytes_max = 1 << 20, .pixels_max = 1 << 20};

static inline void expect(bool is_true)
{
    if (!is_true)
        abort();
}

/* It has the size and format that its header says, and all of its pixels can be read. False: it
 * does not decode, and the error says so. */
static inline bool decodes(struct image_header *header, const uint8_t *bytes, size_t size,
                           enum image_format format)
{
    struct image image, smaller;
    struct error err = {0};

    if (!image_decode(&image, bytes, size, &limits, "input", &err)) {
        expect(err.code == ERROR_BAD_FILE && strstr(err.message, "input"));
        return false;
    }
    expect(image_header_read(header, bytes, size, &limits, "input", NULL));
    expect(header->format == format && image.pixels);
    expect(image.width == header->width && image.height == header->height);
    expect(image_resize_nearest(&smaller, &image, 3, 2, NULL)); /* reads from corner to corner */
    image_finish(&smaller);
    image_finish(&image);
    return true;
}

#endif
