/* EXIF: the TIFF-shaped block in which JPEG and WebP keep texts.
 *
 * The infotext is the UserComment (tag 0x9286), as "UNICODE" and UTF-16 in big-endian order, which
 * is what AUTOMATIC1111 writes and reads; the JSON is the ImageDescription (tag 0x010e).
 */
#ifndef IMAGE_EXIF_H
#define IMAGE_EXIF_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"
#include "image/image.h"

/* The texts must be valid UTF-8. The caller frees *out. */
MUST_CHECK bool exif_format(unsigned char **out, size_t *out_size,
                            const struct image_metadata *metadata, struct error *err);

/* Sets *infotext and *json where the block has them and they are still NULL; a damaged block has
 * none. Fails only with ERROR_NO_MEMORY. The caller frees both texts. */
MUST_CHECK bool exif_parse(char **infotext, char **json, const unsigned char *bytes, size_t size,
                           struct error *err);

#endif
