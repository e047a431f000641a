#include "image/image.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/size.h"
#include "image/image_codecs.h"
#include "image/image_text.h"

bool image_init(struct image *image, int width, int height, struct error *err)
{
    size_t bytes;
    unsigned char *pixels;

    if (width < 1 || height < 1 || width > IMAGE_SIDE_MAX || height > IMAGE_SIDE_MAX)
        return error_set(err, ERROR_BAD_REQUEST,
                         "a picture of %d x %d: each side must be 1 to %d pixels", width, height,
                         IMAGE_SIDE_MAX);
    if (!size_mul(&bytes, (size_t)width * 3, (size_t)height) || !(pixels = calloc(1, bytes)))
        return error_set(err, ERROR_NO_MEMORY, "a picture of %d x %d", width, height);
    *image = (struct image){.width = width, .height = height, .pixels = pixels};
    return true;
}

void image_finish(struct image *image)
{
    free(image->pixels);
    *image = (struct image){0};
}

static const struct {
    const char *name, *media_type;
} formats[IMAGE_FORMAT_COUNT] = {
    [IMAGE_PNG] = {"png", "image/png"},
    [IMAGE_JPEG] = {"jpeg", "image/jpeg"},
    [IMAGE_WEBP] = {"webp", "image/webp"},
};

static const struct {
    const char *extension;
    enum image_format format;
} extensions[] = {
    {".png", IMAGE_PNG}, {".jpg", IMAGE_JPEG}, {".jpeg", IMAGE_JPEG}, {".webp", IMAGE_WEBP}};

bool image_format_of_path(enum image_format *out, const char *path, struct error *err)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');

    for (size_t i = 0; dot && i < COUNT_OF(extensions); i++)
        if (strcasecmp(dot, extensions[i].extension) == 0) {
            *out = extensions[i].format;
            return true;
        }
    return error_set(err, ERROR_BAD_REQUEST,
                     "'%s': a picture's name must end in .png, .jpg, .jpeg or .webp", path);
}

const char *image_format_name(enum image_format format)
{
    return formats[format].name;
}

const char *image_format_media_type(enum image_format format)
{
    return formats[format].media_type;
}

static bool copy_text(char **out, const char *text, struct error *err)
{
    size_t size;

    *out = NULL;
    if (!text)
        return true;
    size = strlen(text);
    if (size > IMAGE_TEXT_BYTES_MAX)
        return error_set(err, ERROR_BAD_REQUEST,
                         "a picture's metadata of %zu bytes; at most %zu are allowed", size,
                         IMAGE_TEXT_BYTES_MAX);
    return image_text_from_utf8(out, (const unsigned char *)text, size, err);
}

static bool encode(unsigned char **out, size_t *out_size, const struct image *image,
                   enum image_format format, int quality, const struct image_metadata *metadata,
                   struct error *err)
{
    switch (format) {
    case IMAGE_PNG:
        return image_png_encode(out, out_size, image, metadata, err);
    case IMAGE_JPEG:
        return image_jpeg_encode(out, out_size, image, quality, metadata, err);
    case IMAGE_WEBP:
        return image_webp_encode(out, out_size, image, quality, metadata, err);
    case IMAGE_FORMAT_COUNT:
        break;
    }
    return error_set(err, ERROR_BAD_REQUEST, "picture format %d does not exist", (int)format);
}

bool image_encode(unsigned char **out, size_t *out_size, const struct image *image,
                  enum image_format format, int quality, const struct image_metadata *metadata,
                  struct error *err)
{
    char *infotext = NULL, *json = NULL;
    bool done;

    if (quality < 1 || quality > 100)
        return error_set(err, ERROR_BAD_REQUEST, "picture quality %d: it must be 1 to 100",
                         quality);
    done = copy_text(&infotext, metadata ? metadata->infotext : NULL, err) &&
           copy_text(&json, metadata ? metadata->json : NULL, err) &&
           encode(out, out_size, image, format, quality, &(struct image_metadata){infotext, json},
                  err);
    free(infotext);
    free(json);
    return done;
}

typedef bool decoder(struct image *out, const unsigned char *bytes, size_t size, const char *name,
                     struct error *err);

static const struct {
    decoder *colours, *alpha; /* NULL: the format has none */
} decoders[IMAGE_FORMAT_COUNT] = {
    [IMAGE_PNG] = {image_png_decode, image_png_decode_alpha},
    [IMAGE_JPEG] = {image_jpeg_decode, NULL},
    [IMAGE_WEBP] = {image_webp_decode, image_webp_decode_alpha},
};

static bool decode(struct image *out, decoder *by, const struct image_header *header,
                   const unsigned char *bytes, size_t size, const char *name, struct error *err)
{
    struct image image = {0};

    if (!image_init(&image, header->width, header->height, err))
        return error_in(err, "'%s'", name);
    if (!by(&image, bytes, size, name, err)) {
        image_finish(&image);
        return false;
    }
    *out = image;
    return true;
}

bool image_decode(struct image *out, const unsigned char *bytes, size_t size,
                  const struct image_limits *limits, const char *name, struct error *err)
{
    struct image_header header;

    return image_header_read(&header, bytes, size, limits, name, err) &&
           decode(out, decoders[header.format].colours, &header, bytes, size, name, err);
}

bool image_decode_alpha(struct image *out, const unsigned char *bytes, size_t size,
                        const struct image_limits *limits, const char *name, struct error *err)
{
    struct image_header header;

    if (!image_header_read(&header, bytes, size, limits, name, err))
        return false;
    if (!decoders[header.format].alpha)
        return error_set(err, ERROR_BAD_FILE, "'%s' has no alpha channel: no %s has", name,
                         image_format_name(header.format));
    return decode(out, decoders[header.format].alpha, &header, bytes, size, name, err);
}

bool image_read(struct image *out, const char *path, const struct image_limits *limits,
                struct error *err)
{
    unsigned char *bytes;
    size_t size;
    bool done;

    if (!file_read(&bytes, &size, path, limits->bytes_max, err))
        return false;
    done = image_decode(out, bytes, size, limits, path, err);
    free(bytes);
    return done;
}
