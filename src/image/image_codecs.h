/* The codecs behind image_encode and image_decode, and the walk over a JPEG's segments that the
 * header gate and the metadata reader share. Private to this folder.
 */
#ifndef IMAGE_IMAGE_CODECS_H
#define IMAGE_IMAGE_CODECS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"
#include "image/image.h"

#define PNG_SIGNATURE "\x89PNG\r\n\x1a\n"
#define PNG_SIGNATURE_BYTES 8

/* Keywords of the text chunks; PNG_KEY_JSON also begins our comments in a JPEG. */
#define IMAGE_KEY_INFOTEXT "parameters"
#define IMAGE_KEY_JSON "sd35"

/* A JPEG in which each of these begins its EXIF block, and each comment with a part of our JSON. */
#define JPEG_EXIF_PREFIX "Exif\0"
#define JPEG_EXIF_PREFIX_BYTES 6
#define JPEG_JSON_PREFIX IMAGE_KEY_JSON " "
#define JPEG_JSON_PREFIX_BYTES 5

#define JPEG_SEGMENT_BYTES_MAX 65533
#define JPEG_MARKER_APP1 0xe1
#define JPEG_MARKER_COMMENT 0xfe
#define JPEG_MARKER_SCAN 0xda
#define JPEG_MARKER_END 0xd9

/* The texts are valid UTF-8 of at most IMAGE_TEXT_BYTES_MAX. The caller frees *out. */
MUST_CHECK bool image_png_encode(unsigned char **out, size_t *out_size, const struct image *image,
                                 const struct image_metadata *metadata, struct error *err);
MUST_CHECK bool image_jpeg_encode(unsigned char **out, size_t *out_size, const struct image *image,
                                  int quality, const struct image_metadata *metadata,
                                  struct error *err);
MUST_CHECK bool image_webp_encode(unsigned char **out, size_t *out_size, const struct image *image,
                                  int quality, const struct image_metadata *metadata,
                                  struct error *err);

/* Into `out`, black and of the size that image_header_read found. */
MUST_CHECK bool image_png_decode(struct image *out, const unsigned char *bytes, size_t size,
                                 const char *name, struct error *err);
/* The same for its alpha; ERROR_BAD_FILE without one. */
MUST_CHECK bool image_png_decode_alpha(struct image *out, const unsigned char *bytes, size_t size,
                                       const char *name, struct error *err);
MUST_CHECK bool image_webp_decode(struct image *out, const unsigned char *bytes, size_t size,
                                  const char *name, struct error *err);
MUST_CHECK bool image_webp_decode_alpha(struct image *out, const unsigned char *bytes, size_t size,
                                        const char *name, struct error *err);
MUST_CHECK bool image_jpeg_decode(struct image *out, const unsigned char *bytes, size_t size,
                                  const char *name, struct error *err);

struct jpeg_segment {
    unsigned marker;            /* the byte after 0xff */
    const unsigned char *bytes; /* after the length; view into the file */
    size_t size;
};

/* The segment at *at, which moves on; it is 2 for the first. False where the bytes end or are no
 * segment. The walk is over at JPEG_MARKER_SCAN, after which coded data follow. */
MUST_CHECK bool image_jpeg_segment_next(struct jpeg_segment *out, size_t *at,
                                        const unsigned char *bytes, size_t size);

#endif
