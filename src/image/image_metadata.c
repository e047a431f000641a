/* Reads back the texts that image_encode wrote, and those that AUTOMATIC1111 writes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "image/exif.h"
#include "image/image.h"
#include "image/image_bytes.h"
#include "image/image_codecs.h"
#include "image/image_text.h"

struct texts {
    char *infotext, *json;
};

static bool refuse_long_text(size_t size, struct error *err)
{
    return size <= IMAGE_TEXT_BYTES_MAX ||
           error_set(err, ERROR_BAD_FILE, "the picture's text has more than %zu bytes",
                     IMAGE_TEXT_BYTES_MAX);
}

/* --- PNG --- */

#define PNG_KEY_BYTES_MAX 79
#define INFLATE_BYTES_MIN 65536

/* Inflates into memory that doubles as text arrives, and never much beyond the limit. */
static bool inflate_stream(z_stream *stream, unsigned char **out, struct error *err)
{
    size_t room = INFLATE_BYTES_MIN;
    int status = Z_OK;

    while (status == Z_OK) {
        unsigned char *grown;

        if (!refuse_long_text(stream->total_out, err))
            return false;
        grown = realloc(*out, room);
        if (!grown)
            return error_set(err, ERROR_NO_MEMORY, "the picture's text");
        *out = grown;
        stream->next_out = grown + stream->total_out;
        stream->avail_out = (uInt)(room - stream->total_out);
        status = inflate(stream, Z_NO_FLUSH);
        room *= 2;
    }
    if (status != Z_STREAM_END)
        return error_set(err, ERROR_BAD_FILE, "the picture's compressed text is damaged");
    return true;
}

static bool inflate_text(unsigned char **out, size_t *out_size, const unsigned char *bytes,
                         size_t size, struct error *err)
{
    /* zlib does not write to its input, but its older headers do not say so. */
    z_stream stream = {.next_in = (unsigned char *)(uintptr_t)bytes, .avail_in = (uInt)size};
    bool done;

    *out = NULL;
    if (inflateInit(&stream) != Z_OK)
        return error_set(err, ERROR_NO_MEMORY, "the picture's compressed text");
    done = inflate_stream(&stream, out, err);
    *out_size = stream.total_out;
    inflateEnd(&stream);
    return done;
}

static bool decode_png_text(char **out, const unsigned char *bytes, size_t size, bool is_utf8,
                            struct error *err)
{
    return refuse_long_text(size, err) && (is_utf8 ? image_text_from_utf8(out, bytes, size, err)
                                                   : image_text_from_latin1(out, bytes, size, err));
}

static bool decode_compressed(char **out, const unsigned char *bytes, size_t size, bool is_utf8,
                              struct error *err)
{
    unsigned char *text = NULL;
    size_t text_size = 0;
    bool done = inflate_text(&text, &text_size, bytes, size, err) &&
                decode_png_text(out, text, text_size, is_utf8, err);

    free(text);
    return done;
}

struct png_chunk {
    const unsigned char *type; /* 4 letters, followed by `size` bytes and the checksum */
    const unsigned char *bytes;
    size_t size;
};

static bool is_type(const struct png_chunk *chunk, const char *type)
{
    return memcmp(chunk->type, type, 4) == 0;
}

/* iTXt after its key: flag, method, language NUL, translated key NUL, text. */
static bool decode_itxt(char **out, const unsigned char *bytes, size_t size, struct error *err)
{
    const unsigned char *end = bytes + size, *text = bytes + 2;

    for (int i = 0; i < 2 && text; i++) {
        text = text < end ? memchr(text, 0, (size_t)(end - text)) : NULL;
        text = text ? text + 1 : NULL;
    }
    if (!text || bytes[0] > 1 || (bytes[0] == 1 && bytes[1] != 0))
        return error_set(err, ERROR_BAD_FILE, "the PNG's iTXt chunk is damaged");
    size = (size_t)(end - text);
    return bytes[0] == 1 ? decode_compressed(out, text, size, true, err)
                         : decode_png_text(out, text, size, true, err);
}

static bool decode_png_chunk(char **out, const struct png_chunk *chunk, size_t key_bytes,
                             struct error *err)
{
    const unsigned char *bytes = chunk->bytes + key_bytes + 1;
    size_t size = chunk->size - key_bytes - 1;

    if (read_be32(chunk->bytes + chunk->size) !=
        (uint32_t)crc32(crc32(0, NULL, 0), chunk->type, (uInt)(4 + chunk->size)))
        return error_set(err, ERROR_BAD_FILE, "the PNG's %.4s chunk has a wrong checksum",
                         (const char *)chunk->type);
    if (is_type(chunk, "tEXt"))
        return decode_png_text(out, bytes, size, false, err);
    if (is_type(chunk, "iTXt"))
        return decode_itxt(out, bytes, size, err);
    if (size < 1 || bytes[0] != 0)
        return error_set(err, ERROR_BAD_FILE, "the PNG's zTXt chunk is damaged");
    return decode_compressed(out, bytes + 1, size - 1, false, err);
}

static bool take_png_chunk(struct texts *texts, const struct png_chunk *chunk, struct error *err)
{
    size_t search = chunk->size < PNG_KEY_BYTES_MAX + 1 ? chunk->size : PNG_KEY_BYTES_MAX + 1;
    const char *key = (const char *)chunk->bytes;
    char **text;

    if (!is_type(chunk, "tEXt") && !is_type(chunk, "iTXt") && !is_type(chunk, "zTXt"))
        return true;
    if (!memchr(key, 0, search))
        return true;
    text = strcmp(key, IMAGE_KEY_INFOTEXT) == 0 ? &texts->infotext
           : strcmp(key, IMAGE_KEY_JSON) == 0   ? &texts->json
                                                : NULL;
    if (!text || *text) /* the first one counts */
        return true;
    return decode_png_chunk(text, chunk, strlen(key), err);
}

static bool read_png(struct texts *texts, const unsigned char *bytes, size_t size,
                     struct error *err)
{
    size_t at = PNG_SIGNATURE_BYTES;

    while (size - at >= 12) {
        struct png_chunk chunk = {
            .type = bytes + at + 4, .bytes = bytes + at + 8, .size = read_be32(bytes + at)};

        if (chunk.size > size - at - 12)
            break;
        if (is_type(&chunk, "IEND"))
            return true;
        if (!take_png_chunk(texts, &chunk, err))
            return false;
        at += 12 + chunk.size;
    }
    return error_set(err, ERROR_BAD_FILE, "the PNG is cut off");
}

/* --- JPEG --- */

static bool append_json(char **json, size_t *json_size, const struct jpeg_segment *segment,
                        struct error *err)
{
    size_t count = segment->size - JPEG_JSON_PREFIX_BYTES;
    char *grown;

    if (!refuse_long_text(*json_size + count, err))
        return false;
    grown = realloc(*json, *json_size + count + 1);
    if (!grown)
        return error_set(err, ERROR_NO_MEMORY, "the picture's text");
    memcpy(grown + *json_size, segment->bytes + JPEG_JSON_PREFIX_BYTES, count);
    *json_size += count;
    grown[*json_size] = '\0';
    *json = grown;
    return true;
}

static bool begins_with(const unsigned char *bytes, size_t size, const char *prefix,
                        size_t prefix_size)
{
    return size >= prefix_size && memcmp(bytes, prefix, prefix_size) == 0;
}

static bool take_jpeg_segment(struct texts *texts, char **json, size_t *json_size,
                              const struct jpeg_segment *segment, struct error *err)
{
    if (segment->marker == JPEG_MARKER_COMMENT &&
        begins_with(segment->bytes, segment->size, JPEG_JSON_PREFIX, JPEG_JSON_PREFIX_BYTES))
        return append_json(json, json_size, segment, err);
    if (segment->marker == JPEG_MARKER_APP1 &&
        begins_with(segment->bytes, segment->size, JPEG_EXIF_PREFIX, JPEG_EXIF_PREFIX_BYTES))
        return exif_parse(&texts->infotext, &texts->json, segment->bytes + JPEG_EXIF_PREFIX_BYTES,
                          segment->size - JPEG_EXIF_PREFIX_BYTES, err);
    return true;
}

static bool read_jpeg(struct texts *texts, const unsigned char *bytes, size_t size,
                      struct error *err)
{
    struct jpeg_segment segment = {0};
    char *json = NULL;
    size_t json_size = 0, at = 2;
    bool done = true;

    while (done && segment.marker != JPEG_MARKER_SCAN) {
        if (!image_jpeg_segment_next(&segment, &at, bytes, size))
            done = error_set(err, ERROR_BAD_FILE, "the JPEG is damaged or cut off");
        else
            done = take_jpeg_segment(texts, &json, &json_size, &segment, err);
    }
    if (done && json) { /* our comments have all of it, a description of EXIF may be cut */
        free(texts->json);
        texts->json = NULL;
        done = image_text_from_utf8(&texts->json, (unsigned char *)json, json_size, err);
    }
    free(json);
    return done;
}

/* --- WebP --- */

static bool read_webp(struct texts *texts, const unsigned char *bytes, size_t size,
                      struct error *err)
{
    size_t at = 12;

    while (at < size) {
        size_t chunk_size;

        if (size - at < 8 || (chunk_size = read_le32(bytes + at + 4)) > size - at - 8)
            return error_set(err, ERROR_BAD_FILE, "the WebP file is cut off");
        if (memcmp(bytes + at, "EXIF", 4) == 0) {
            const unsigned char *exif = bytes + at + 8;
            /* Some writers keep the prefix that only JPEG needs. */
            size_t skip = begins_with(exif, chunk_size, JPEG_EXIF_PREFIX, JPEG_EXIF_PREFIX_BYTES)
                              ? JPEG_EXIF_PREFIX_BYTES
                              : 0;

            return exif_parse(&texts->infotext, &texts->json, exif + skip, chunk_size - skip, err);
        }
        at += 8 + chunk_size;
        at += chunk_size % 2 && at < size ? 1 : 0;
    }
    return true;
}

static bool read_texts(struct texts *texts, const unsigned char *bytes, size_t size,
                       struct error *err)
{
    if (begins_with(bytes, size, PNG_SIGNATURE, PNG_SIGNATURE_BYTES))
        return read_png(texts, bytes, size, err);
    if (begins_with(bytes, size, "\xff\xd8\xff", 3))
        return read_jpeg(texts, bytes, size, err);
    if (begins_with(bytes, size, "RIFF", 4) && size >= 12 && memcmp(bytes + 8, "WEBP", 4) == 0)
        return read_webp(texts, bytes, size, err);
    return error_set(err, ERROR_BAD_FILE, "the file is neither a PNG, a JPEG nor a WebP picture");
}

bool image_metadata_read(char **infotext, char **json, const unsigned char *bytes, size_t size,
                         struct error *err)
{
    struct texts texts = {0};

    if (!read_texts(&texts, bytes, size, err)) {
        free(texts.infotext);
        free(texts.json);
        return false;
    }
    *infotext = texts.infotext;
    *json = texts.json;
    return true;
}
