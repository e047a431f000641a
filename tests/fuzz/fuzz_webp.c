/* WebP files: what decodes has the size that its header says, and all of its pixels can be
 * read; so is its alpha, where there is one. */
#include "decoded_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct image_header header;
    struct image alpha;
    struct error err = {0};

    if (size < 12 || memcmp(bytes, "RIFF", 4) != 0 || memcmp(bytes + 8, "WEBP", 4) != 0)
        return 0;
    if (decodes(&header, bytes, size, IMAGE_WEBP) &&
        image_decode_alpha(&alpha, bytes, size, &limits, "input", &err)) {
        expect(alpha.width == header.width && alpha.height == header.height);
        image_finish(&alpha);
    }
    return 0;
}
