/* The gate in front of the decoders: it refuses what they should never see. */
#include <string.h>
#include <zlib.h>

#include "base/size.h"
#include "image/image.h"
#include "image/image_bytes.h"
#include "image/image_codecs.h"

/* What people send instead, by its first bytes. */
static const struct {
    size_t at;
    size_t size;
    const char *bytes;
    const char *what;
} strangers[] = {
    {0, 4, "GIF8", "a GIF picture"},
    {4, 8, "ftypavif", "an AVIF picture"},
    {4, 8, "ftypavis", "an AVIF picture"},
    {4, 8, "ftypheic", "a HEIC picture"},
    {4, 8, "ftypheix", "a HEIC picture"},
    {4, 8, "ftypmif1", "a HEIF picture"},
    {4, 4, "ftyp", "a video"},
    {4, 4, "JXL ", "a JPEG XL picture"},
    {0, 2, "\xff\x0a", "a JPEG XL picture"},
    {4, 4, "jP  ", "a JPEG 2000 picture"},
    {0, 4, "\xff\x4f\xff\x51", "a JPEG 2000 picture"},
    {0, 4, "II*\0", "a TIFF picture"},
    {0, 4, "MM\0*", "a TIFF picture"},
    {0, 4, "8BPS", "a Photoshop document"},
    {0, 4, "qoif", "a QOI picture"},
    {0, 4, "\0\0\1\0", "an icon"},
    {0, 4, "%PDF", "a PDF document"},
    {0, 4, "<svg", "an SVG drawing"},
    {0, 5, "<?xml", "an XML document"},
    {0, 9, "<!DOCTYPE", "a web page"},
    {0, 9, "<!doctype", "a web page"},
    {0, 5, "<html", "a web page"},
    {0, 4, "PK\3\4", "a ZIP archive"},
    {0, 2, "\x1f\x8b", "a gzip file"},
    {0, 2, "BM", "a BMP picture"},
};

static bool refuse_stranger(const unsigned char *bytes, size_t size, const char *name,
                            struct error *err)
{
    if (size == 0)
        return error_set(err, ERROR_BAD_FILE, "'%s' is empty", name);
    for (size_t i = 0; i < COUNT_OF(strangers); i++)
        if (size >= strangers[i].at + strangers[i].size &&
            memcmp(bytes + strangers[i].at, strangers[i].bytes, strangers[i].size) == 0)
            return error_set(err, ERROR_BAD_FILE, "'%s' is %s; a PNG, a JPEG or a WebP is wanted",
                             name, strangers[i].what);
    return error_set(err, ERROR_BAD_FILE, "'%s' is neither a PNG, a JPEG nor a WebP picture", name);
}

static bool check_size(struct image_header *out, enum image_format format, uint32_t width,
                       uint32_t height, const struct image_limits *limits, const char *name,
                       struct error *err)
{
    size_t pixels;

    if (width == 0 || height == 0)
        return error_set(err, ERROR_BAD_FILE, "'%s' says that it is %u x %u pixels large", name,
                         width, height);
    if (width > IMAGE_SIDE_MAX || height > IMAGE_SIDE_MAX)
        return error_set(err, ERROR_BAD_FILE,
                         "'%s' is %u x %u pixels large; a side may have at most %d", name, width,
                         height, IMAGE_SIDE_MAX);
    if (!size_mul(&pixels, width, height) || pixels > limits->pixels_max)
        return error_set(err, ERROR_BAD_FILE,
                         "'%s' is %u x %u pixels large; at most %zu pixels are accepted", name,
                         width, height, limits->pixels_max);
    *out = (struct image_header){.format = format, .width = (int)width, .height = (int)height};
    return true;
}

/* The sample depths that each colour type may have, as bits: depth 8 is bit 8. */
static const uint32_t png_depths[] = {
    [0] = 1u << 1 | 1u << 2 | 1u << 4 | 1u << 8 | 1u << 16, /* grey */
    [2] = 1u << 8 | 1u << 16,                               /* RGB */
    [3] = 1u << 1 | 1u << 2 | 1u << 4 | 1u << 8,            /* palette */
    [4] = 1u << 8 | 1u << 16,                               /* grey and alpha */
    [6] = 1u << 8 | 1u << 16,                               /* RGB and alpha */
};

#define PNG_IHDR_BYTES 13

static bool read_png(struct image_header *out, const unsigned char *bytes, size_t size,
                     const struct image_limits *limits, const char *name, struct error *err)
{
    const unsigned char *chunk = bytes + PNG_SIGNATURE_BYTES;
    const unsigned char *ihdr = chunk + 8;
    unsigned depth, colour;

    if (size < PNG_SIGNATURE_BYTES + 8 + PNG_IHDR_BYTES + 4)
        return error_set(err, ERROR_BAD_FILE, "'%s' is cut off: a PNG of %zu bytes", name, size);
    if (read_be32(chunk) != PNG_IHDR_BYTES || memcmp(chunk + 4, "IHDR", 4) != 0)
        return error_set(err, ERROR_BAD_FILE, "'%s' is a PNG that does not begin with its header",
                         name);
    if (read_be32(ihdr + PNG_IHDR_BYTES) !=
        (uint32_t)crc32(crc32(0, NULL, 0), chunk + 4, 4 + PNG_IHDR_BYTES))
        return error_set(err, ERROR_BAD_FILE, "'%s' is a PNG whose header has a wrong checksum",
                         name);
    depth = ihdr[8];
    colour = ihdr[9];
    if (colour >= COUNT_OF(png_depths) || depth > 16 || !(png_depths[colour] & 1u << depth))
        return error_set(err, ERROR_BAD_FILE,
                         "'%s' is a PNG of unknown colour type %u with %u bits", name, colour,
                         depth);
    if (ihdr[10] != 0 || ihdr[11] != 0 || ihdr[12] > 1)
        return error_set(err, ERROR_BAD_FILE, "'%s' is a PNG of an unknown coding", name);
    return check_size(out, IMAGE_PNG, read_be32(ihdr), read_be32(ihdr + 4), limits, name, err);
}

bool image_jpeg_segment_next(struct jpeg_segment *out, size_t *at, const unsigned char *bytes,
                             size_t size)
{
    size_t i = *at;

    if (i >= size || bytes[i] != 0xff)
        return false;
    while (i < size && bytes[i] == 0xff) /* fill bytes may come before a marker */
        i++;
    if (i >= size)
        return false;
    *out = (struct jpeg_segment){.marker = bytes[i], .bytes = bytes + i + 1};
    i++;
    /* TEM, RST0 to RST7, SOI and EOI have no length. */
    if (out->marker != 0x01 && !(out->marker >= 0xd0 && out->marker <= JPEG_MARKER_END)) {
        size_t length;

        if (size - i < 2)
            return false;
        length = read_be16(bytes + i);
        if (length < 2 || length > size - i)
            return false;
        out->bytes = bytes + i + 2;
        out->size = length - 2;
        i += length;
    }
    *at = i;
    return true;
}

static bool is_frame_header(unsigned marker)
{
    /* 0xc4, 0xc8 and 0xcc are tables and a reserved value. */
    return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

static bool check_frame(struct image_header *out, const struct jpeg_segment *frame,
                        const struct image_limits *limits, const char *name, struct error *err)
{
    unsigned depth, components;

    if (frame->marker > 0xc2)
        return error_set(err, ERROR_BAD_FILE,
                         "'%s' is a %s JPEG; baseline and progressive ones are accepted", name,
                         frame->marker == 0xc3   ? "lossless"
                         : frame->marker <= 0xc7 ? "hierarchical"
                                                 : "arithmetically coded");
    if (frame->size < 6)
        return error_set(err, ERROR_BAD_FILE, "'%s' is a JPEG with a damaged header", name);
    depth = frame->bytes[0];
    components = frame->bytes[5];
    if (depth != 8)
        return error_set(err, ERROR_BAD_FILE, "'%s' is a JPEG with %u bits a sample; 8 are wanted",
                         name, depth);
    if (components == 4)
        return error_set(err, ERROR_BAD_FILE,
                         "'%s' is a CMYK JPEG; convert it to RGB, which is what is wanted", name);
    if (components != 1 && components != 3)
        return error_set(err, ERROR_BAD_FILE,
                         "'%s' is a JPEG with %u colour components; 1 or 3 are wanted", name,
                         components);
    return check_size(out, IMAGE_JPEG, read_be16(frame->bytes + 3), read_be16(frame->bytes + 1),
                      limits, name, err);
}

static bool read_jpeg(struct image_header *out, const unsigned char *bytes, size_t size,
                      const struct image_limits *limits, const char *name, struct error *err)
{
    struct jpeg_segment segment;
    size_t at = 2;

    while (image_jpeg_segment_next(&segment, &at, bytes, size)) {
        if (is_frame_header(segment.marker))
            return check_frame(out, &segment, limits, name, err);
        if (segment.marker == JPEG_MARKER_SCAN || segment.marker == JPEG_MARKER_END)
            break;
    }
    return error_set(err, ERROR_BAD_FILE,
                     "'%s' is a JPEG that is damaged or cut off before its size", name);
}

/* --- WebP: a chunk in a RIFF container, of which the first says the size --- */

#define WEBP_CHUNK_AT 12
#define WEBP_PAYLOAD_AT (WEBP_CHUNK_AT + 8)
#define WEBP_HEADER_BYTES 10 /* of each kind of payload, at most */
#define WEBP_FLAG_ANIMATION 0x02

static uint32_t read_le24(const unsigned char *bytes)
{
    return read_le16(bytes) | (uint32_t)bytes[2] << 16;
}

static bool refuse_webp(const char *name, const char *what, struct error *err)
{
    return error_set(err, ERROR_BAD_FILE, "'%s' is a WebP picture %s", name, what);
}

/* RFC 9649, sections 2.5 to 2.7: lossy, lossless, extended. */
static bool read_webp(struct image_header *out, const unsigned char *bytes, size_t size,
                      const struct image_limits *limits, const char *name, struct error *err)
{
    const unsigned char *chunk = bytes + WEBP_CHUNK_AT, *payload = bytes + WEBP_PAYLOAD_AT;
    uint32_t width, height;

    if (size < WEBP_PAYLOAD_AT + WEBP_HEADER_BYTES || read_le32(bytes + 4) > size - 8)
        return refuse_webp(name, "that is cut off", err);
    if (memcmp(chunk, "VP8 ", 4) == 0) {
        if ((payload[0] & 1) != 0 || memcmp(payload + 3, "\x9d\x01\x2a", 3) != 0)
            return refuse_webp(name, "with a damaged header", err);
        width = read_le16(payload + 6) & 0x3fff;
        height = read_le16(payload + 8) & 0x3fff;
    } else if (memcmp(chunk, "VP8L", 4) == 0) {
        if (payload[0] != 0x2f || payload[4] >> 5 != 0)
            return refuse_webp(name, "with a damaged header", err);
        width = (read_le32(payload + 1) & 0x3fff) + 1;
        height = (read_le32(payload + 1) >> 14 & 0x3fff) + 1;
    } else if (memcmp(chunk, "VP8X", 4) == 0) {
        if (payload[0] & WEBP_FLAG_ANIMATION)
            return refuse_webp(name, "that moves; a still one is wanted", err);
        width = read_le24(payload + 4) + 1;
        height = read_le24(payload + 7) + 1;
    } else {
        return refuse_webp(name, "of an unknown kind", err);
    }
    return check_size(out, IMAGE_WEBP, width, height, limits, name, err);
}

bool image_header_read(struct image_header *out, const unsigned char *bytes, size_t size,
                       const struct image_limits *limits, const char *name, struct error *err)
{
    if (size > limits->bytes_max)
        return error_set(err, ERROR_BAD_FILE, "'%s' has %zu bytes; at most %zu are accepted", name,
                         size, limits->bytes_max);
    if (size >= PNG_SIGNATURE_BYTES && memcmp(bytes, PNG_SIGNATURE, PNG_SIGNATURE_BYTES) == 0)
        return read_png(out, bytes, size, limits, name, err);
    if (size >= 3 && memcmp(bytes, "\xff\xd8\xff", 3) == 0)
        return read_jpeg(out, bytes, size, limits, name, err);
    if (size >= 12 && memcmp(bytes, "RIFF", 4) == 0 && memcmp(bytes + 8, "WEBP", 4) == 0)
        return read_webp(out, bytes, size, limits, name, err);
    return refuse_stranger(bytes, size, name, err);
}
