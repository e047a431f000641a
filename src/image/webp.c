#include <stdlib.h>
#include <string.h>

#include <webp/decode.h>
#include <webp/encode.h>
#include <webp/mux.h>

#include "image/exif.h"
#include "image/image_codecs.h"

/* A copy that free() frees. */
static bool copy_file(unsigned char **out, size_t *out_size, const WebPData *file,
                      struct error *err)
{
    unsigned char *bytes = malloc(file->size);

    if (!bytes)
        return error_set(err, ERROR_NO_MEMORY, "WebP file of %zu bytes", file->size);
    memcpy(bytes, file->bytes, file->size);
    *out = bytes;
    *out_size = file->size;
    return true;
}

static bool add_exif(WebPData *file, const struct image_metadata *metadata, struct error *err)
{
    unsigned char *exif = NULL;
    WebPData plain = *file, chunk = {0};
    WebPMux *mux = NULL;
    bool done = false;

    if (!exif_format(&exif, &chunk.size, metadata, err))
        return false;
    chunk.bytes = exif;
    mux = WebPMuxCreate(&plain, 0);
    if (mux && WebPMuxSetChunk(mux, "EXIF", &chunk, 0) == WEBP_MUX_OK &&
        WebPMuxAssemble(mux, file) == WEBP_MUX_OK) {
        WebPDataClear(&plain);
        done = true;
    } else {
        *file = plain;
        error_set(err, ERROR_NO_MEMORY, "WebP file with metadata of %zu bytes", chunk.size);
    }
    WebPMuxDelete(mux);
    free(exif);
    return done;
}

static bool encode_error(WebPEncodingError code, const struct image *image, struct error *err)
{
    if (code == VP8_ENC_ERROR_BAD_DIMENSION)
        return error_set(err, ERROR_BAD_REQUEST,
                         "a WebP picture of %d x %d: a side may have at most %d pixels",
                         image->width, image->height, WEBP_MAX_DIMENSION);
    if (code == VP8_ENC_ERROR_OUT_OF_MEMORY || code == VP8_ENC_ERROR_BITSTREAM_OUT_OF_MEMORY)
        return error_set(err, ERROR_NO_MEMORY, "a WebP picture of %d x %d", image->width,
                         image->height);
    return error_set(err, ERROR_BAD_REQUEST,
                     "a WebP picture of %d x %d: the encoder gave up with code %d", image->width,
                     image->height, (int)code);
}

static bool encode_pixels(WebPData *out, const struct image *image, int quality, struct error *err)
{
    WebPConfig config;
    WebPPicture picture;
    WebPMemoryWriter writer;
    bool done;

    if (!WebPConfigPreset(&config, WEBP_PRESET_DEFAULT, (float)quality) ||
        !WebPPictureInit(&picture))
        return error_set(err, ERROR_BAD_REQUEST, "the WebP library is of another version");
    WebPMemoryWriterInit(&writer);
    picture.width = image->width;
    picture.height = image->height;
    picture.writer = WebPMemoryWrite;
    picture.custom_ptr = &writer;
    done = WebPPictureImportRGB(&picture, image->pixels, image->width * 3) &&
           WebPEncode(&config, &picture);
    if (done)
        *out = (WebPData){.bytes = writer.mem, .size = writer.size};
    else {
        encode_error(picture.error_code, image, err);
        WebPMemoryWriterClear(&writer);
    }
    WebPPictureFree(&picture);
    return done;
}

bool image_webp_encode(unsigned char **out, size_t *out_size, const struct image *image,
                       int quality, const struct image_metadata *metadata, struct error *err)
{
    WebPData file = {0};
    bool done = encode_pixels(&file, image, quality, err);

    if (done && (metadata->infotext || metadata->json))
        done = add_exif(&file, metadata, err);
    done = done && copy_file(out, out_size, &file, err);
    WebPDataClear(&file);
    return done;
}

/* --- Decoding --- */

/* Into rows of `row_bytes`, three or four bytes a pixel. */
static bool decode_rows(unsigned char *rows, int channels, const struct image *out,
                        const unsigned char *bytes, size_t size, bool wants_alpha, const char *name,
                        struct error *err)
{
    WebPDecoderConfig config;
    VP8StatusCode status;

    if (!WebPInitDecoderConfig(&config))
        return error_set(err, ERROR_BAD_FILE, "'%s': the WebP library is of another version", name);
    status = WebPGetFeatures(bytes, size, &config.input);
    if (status == VP8_STATUS_OK &&
        (config.input.width != out->width || config.input.height != out->height ||
         config.input.has_animation))
        return error_set(err, ERROR_BAD_FILE, "'%s' is a WebP picture with two sizes", name);
    if (status == VP8_STATUS_OK && wants_alpha && !config.input.has_alpha)
        return error_set(err, ERROR_BAD_FILE, "'%s' has no alpha channel", name);
    config.output.colorspace = channels == 4 ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = rows;
    config.output.u.RGBA.stride = out->width * channels;
    config.output.u.RGBA.size = (size_t)out->width * (size_t)channels * (size_t)out->height;
    if (status == VP8_STATUS_OK)
        status = WebPDecode(bytes, size, &config);
    WebPFreeDecBuffer(&config.output);
    if (status == VP8_STATUS_OUT_OF_MEMORY)
        return error_set(err, ERROR_NO_MEMORY, "'%s': WebP decoder", name);
    return status == VP8_STATUS_OK ||
           error_set(err, ERROR_BAD_FILE, "'%s' is a damaged WebP picture", name);
}

bool image_webp_decode(struct image *out, const unsigned char *bytes, size_t size, const char *name,
                       struct error *err)
{
    return decode_rows(out->pixels, 3, out, bytes, size, false, name, err);
}

bool image_webp_decode_alpha(struct image *out, const unsigned char *bytes, size_t size,
                             const char *name, struct error *err)
{
    size_t pixels = (size_t)out->width * (size_t)out->height;
    unsigned char *rows = malloc(4 * pixels);
    bool done;

    if (!rows)
        return error_set(err, ERROR_NO_MEMORY, "'%s': WebP decoder", name);
    done = decode_rows(rows, 4, out, bytes, size, true, name, err);
    for (size_t i = 0; done && i < pixels; i++)
        memset(out->pixels + 3 * i, rows[4 * i + 3], 3);
    free(rows);
    return done;
}
