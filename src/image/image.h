/* Images: 8-bit RGB pictures, PNG, JPEG and WebP out and in.
 *
 * Input is hostile: a gate of our own reads the header and caps the area before a library decodes
 * anything. Output carries the generation's parameters as AUTOMATIC1111's infotext and as our full
 * JSON request.
 */
#ifndef IMAGE_IMAGE_H
#define IMAGE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"

/* sRGB, rows from the top, 3 bytes a pixel, no padding. */
struct image {
    int width, height;
    unsigned char *pixels; /* [height, width, 3]; owned */
};

/* Black. 1 to IMAGE_SIDE_MAX a side. */
#define IMAGE_SIDE_MAX 16384
MUST_CHECK bool image_init(struct image *image, int width, int height, struct error *err);
void image_finish(struct image *image);

enum image_format { IMAGE_PNG, IMAGE_JPEG, IMAGE_WEBP, IMAGE_FORMAT_COUNT };

/* By extension: .png, .jpg, .jpeg, .webp in any case. Fails with ERROR_BAD_REQUEST. */
MUST_CHECK bool image_format_of_path(enum image_format *out, const char *path, struct error *err);
const char *image_format_name(enum image_format format);       /* "png" */
const char *image_format_media_type(enum image_format format); /* "image/png" */

struct image_metadata {
    const char *infotext; /* AUTOMATIC1111's parameters text, UTF-8; NULL: none */
    const char *json;     /* our request, an object; NULL: none */
};

/* quality: 1 to 100 for JPEG and WebP; PNG ignores it. metadata may be NULL. A JPEG has room for an
 * infotext of about 32,000 characters; a longer one is left out. The caller frees *out. */
MUST_CHECK bool image_encode(unsigned char **out, size_t *out_size, const struct image *image,
                             enum image_format format, int quality,
                             const struct image_metadata *metadata, struct error *err);

/* Limits of a picture from outside. */
struct image_limits {
    size_t bytes_max;  /* of the file */
    size_t pixels_max; /* width * height */
};
#define IMAGE_LIMITS_DEFAULT ((struct image_limits){.bytes_max = 64u << 20, .pixels_max = 50000000})

/* PNG, JPEG or WebP, told apart by content; alpha is dropped onto black-free "as is" colour, grey
 * becomes RGB, 16 bits become 8. Fails with ERROR_BAD_FILE; `name` goes into messages. */
MUST_CHECK bool image_decode(struct image *out, const unsigned char *bytes, size_t size,
                             const struct image_limits *limits, const char *name,
                             struct error *err);
/* The alpha of a PNG or WebP in all three colours: black is transparent. A file that has none, as
 * no JPEG does, fails as one that is damaged does. */
MUST_CHECK bool image_decode_alpha(struct image *out, const unsigned char *bytes, size_t size,
                                   const struct image_limits *limits, const char *name,
                                   struct error *err);
MUST_CHECK bool image_read(struct image *out, const char *path, const struct image_limits *limits,
                           struct error *err);

/* What image_decode's gate reads from the header, without decoding. */
struct image_header {
    enum image_format format;
    int width, height;
};
MUST_CHECK bool image_header_read(struct image_header *out, const unsigned char *bytes, size_t size,
                                  const struct image_limits *limits, const char *name,
                                  struct error *err);

/* The texts of a picture that image_encode wrote (PNG, JPEG or WebP). *infotext and *json are NULL
 * where absent; the caller frees both. */
MUST_CHECK bool image_metadata_read(char **infotext, char **json, const unsigned char *bytes,
                                    size_t size, struct error *err);

/* Lanczos with a = 3 and support scaled when shrinking, as Pillow's LANCZOS. */
MUST_CHECK bool image_resize(struct image *out, const struct image *image, int width, int height,
                             struct error *err);
/* The middle of a picture that is as large at least. */
MUST_CHECK bool image_crop(struct image *out, const struct image *image, int width, int height,
                           struct error *err);
/* Nearest, as Pillow's NEAREST: for masks. */
MUST_CHECK bool image_resize_nearest(struct image *out, const struct image *image, int width,
                                     int height, struct error *err);

#endif
