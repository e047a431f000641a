/* JPEG files: what decodes has the size that its header says, and all of its pixels can be read. */
#include "decoded_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct image_header header;

    if (size >= 3 && memcmp(bytes, "\xff\xd8\xff", 3) == 0)
        (void)decodes(&header, bytes, size, IMAGE_JPEG);
    return 0;
}
