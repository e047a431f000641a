#include <stdio.h> /* jpeglib.h wants it first */
#include <stdlib.h>
#include <string.h>

#include <jerror.h>
#include <jpeglib.h>
#include <setjmp.h>

#include "image/exif.h"
#include "image/image_codecs.h"

/* A progressive file may go over the whole picture as often as it likes, at a few bytes a time. */
#define SCANS_MAX 100

/* From here on colour is kept at full resolution. */
#define FULL_COLOUR_QUALITY 90

/* libjpeg reports failure by calling back, and we jump out. */
struct jpeg_failure {
    struct jpeg_error_mgr base; /* first: libjpeg knows only this part */
    jmp_buf jump;
    const char *name; /* of the file, for messages */
    struct error *err;
};

_Noreturn static void fail(j_common_ptr codec)
{
    struct jpeg_failure *failure = (struct jpeg_failure *)codec->err;
    char message[JMSG_LENGTH_MAX];

    codec->err->format_message(codec, message);
    /* Writing goes to memory. */
    if (codec->err->msg_code == JERR_OUT_OF_MEMORY || codec->err->msg_code == JERR_FILE_WRITE)
        error_set(failure->err, ERROR_NO_MEMORY, "'%s': memory for the JPEG coder", failure->name);
    else
        error_set(failure->err, ERROR_BAD_FILE, "'%s' is a damaged JPEG: %s", failure->name,
                  message);
    longjmp(failure->jump, 1);
}

/* libjpeg goes on after most damage and paints grey; only what costs no pixels is let pass. */
static void refuse_damage(j_common_ptr codec, int level)
{
    int code = codec->err->msg_code;

    if (level < 0 && code != JWRN_EXTRANEOUS_DATA && code != JWRN_ADOBE_XFORM &&
        code != JWRN_JFIF_MAJOR && code != JWRN_TOO_MUCH_DATA)
        fail(codec);
}

static void stay_silent(j_common_ptr codec)
{
    (void)codec;
}

static struct jpeg_error_mgr *failure_init(struct jpeg_failure *failure)
{
    jpeg_std_error(&failure->base);
    failure->base.error_exit = fail;
    failure->base.emit_message = refuse_damage;
    failure->base.output_message = stay_silent;
    return &failure->base;
}

/* --- Encoding --- */

static void write_exif(struct jpeg_compress_struct *codec, const unsigned char *exif, size_t size)
{
    jpeg_write_m_header(codec, JPEG_MARKER_APP1, (unsigned)(JPEG_EXIF_PREFIX_BYTES + size));
    for (size_t i = 0; i < JPEG_EXIF_PREFIX_BYTES; i++)
        jpeg_write_m_byte(codec, JPEG_EXIF_PREFIX[i]);
    for (size_t i = 0; i < size; i++)
        jpeg_write_m_byte(codec, exif[i]);
}

/* In as many comments as it takes. */
static void write_json(struct jpeg_compress_struct *codec, const char *json)
{
    size_t rest = strlen(json);

    while (rest > 0) {
        size_t room = JPEG_SEGMENT_BYTES_MAX - JPEG_JSON_PREFIX_BYTES;
        size_t count = rest < room ? rest : room;

        jpeg_write_m_header(codec, JPEG_COM, (unsigned)(JPEG_JSON_PREFIX_BYTES + count));
        for (size_t i = 0; i < JPEG_JSON_PREFIX_BYTES; i++)
            jpeg_write_m_byte(codec, JPEG_JSON_PREFIX[i]);
        for (size_t i = 0; i < count; i++)
            jpeg_write_m_byte(codec, (unsigned char)json[i]);
        json += count;
        rest -= count;
    }
}

static void set_parameters(struct jpeg_compress_struct *codec, const struct image *image,
                           int quality)
{
    codec->image_width = (JDIMENSION)image->width;
    codec->image_height = (JDIMENSION)image->height;
    codec->input_components = 3;
    codec->in_color_space = JCS_RGB;
    jpeg_set_defaults(codec);
    jpeg_set_quality(codec, quality, TRUE);
    codec->optimize_coding = TRUE;
    codec->comp_info[0].h_samp_factor = quality >= FULL_COLOUR_QUALITY ? 1 : 2;
    codec->comp_info[0].v_samp_factor = codec->comp_info[0].h_samp_factor;
}

static bool write_picture(struct jpeg_compress_struct *codec, struct jpeg_failure *failure,
                          FILE *stream, const struct image *image, int quality,
                          const unsigned char *exif, size_t exif_size, const char *json)
{
    if (setjmp(failure->jump))
        return false;
    jpeg_create_compress(codec);
    jpeg_stdio_dest(codec, stream);
    set_parameters(codec, image, quality);
    jpeg_start_compress(codec, TRUE);
    /* A segment is short: the infotext of a very long prompt is left out, the JSON has it all. */
    if (exif && exif_size <= JPEG_SEGMENT_BYTES_MAX - JPEG_EXIF_PREFIX_BYTES)
        write_exif(codec, exif, exif_size);
    if (json)
        write_json(codec, json);
    while (codec->next_scanline < codec->image_height) {
        JSAMPROW row = image->pixels + (size_t)codec->next_scanline * (size_t)image->width * 3;

        jpeg_write_scanlines(codec, &row, 1);
    }
    jpeg_finish_compress(codec);
    return true;
}

bool image_jpeg_encode(unsigned char **out, size_t *out_size, const struct image *image,
                       int quality, const struct image_metadata *metadata, struct error *err)
{
    struct jpeg_compress_struct codec = {0};
    struct jpeg_failure failure = {.name = "new picture", .err = err};
    const struct image_metadata exif_texts = {.infotext = metadata->infotext};
    unsigned char *exif = NULL;
    size_t exif_size = 0, size = 0;
    char *bytes = NULL;
    FILE *stream;
    bool done;

    if (metadata->infotext && !exif_format(&exif, &exif_size, &exif_texts, err))
        return false;
    stream = open_memstream(&bytes, &size);
    if (!stream) {
        free(exif);
        return error_set(err, ERROR_NO_MEMORY, "JPEG file");
    }
    codec.err = failure_init(&failure);
    done = write_picture(&codec, &failure, stream, image, quality, exif, exif_size, metadata->json);
    jpeg_destroy_compress(&codec);
    free(exif);
    if (fclose(stream) != 0 && done)
        done = error_set(err, ERROR_NO_MEMORY, "JPEG file");
    if (!done) {
        free(bytes);
        return false;
    }
    *out = (unsigned char *)bytes;
    *out_size = size;
    return true;
}

/* --- Decoding --- */

static void refuse_many_scans(j_common_ptr codec)
{
    struct jpeg_failure *failure = (struct jpeg_failure *)codec->err;

    if (((j_decompress_ptr)codec)->input_scan_number <= SCANS_MAX)
        return;
    error_set(failure->err, ERROR_BAD_FILE, "'%s' is a JPEG of more than %d scans", failure->name,
              SCANS_MAX);
    longjmp(failure->jump, 1);
}

/* A progressive picture is held as coefficients: 16 bits for each sample of each component, whose
 * sides are rounded up to blocks. */
static long memory_limit(const struct image *image)
{
    return (32l << 20) + 8l * (image->width + 64) * (image->height + 64);
}

static bool read_picture(struct jpeg_decompress_struct *codec, struct jpeg_failure *failure,
                         struct jpeg_progress_mgr *progress, const struct image *out,
                         const unsigned char *bytes, size_t size)
{
    if (setjmp(failure->jump))
        return false;
    jpeg_create_decompress(codec);
    codec->progress = progress;
    codec->mem->max_memory_to_use = memory_limit(out);
    jpeg_mem_src(codec, bytes, size);
    jpeg_read_header(codec, TRUE);
    if (codec->image_width != (JDIMENSION)out->width ||
        codec->image_height != (JDIMENSION)out->height || codec->num_components > 3)
        ERREXIT(codec, JERR_SOF_DUPLICATE);
    codec->out_color_space = JCS_RGB;
    jpeg_start_decompress(codec);
    while (codec->output_scanline < codec->output_height) {
        JSAMPROW row = out->pixels + (size_t)codec->output_scanline * (size_t)out->width * 3;

        jpeg_read_scanlines(codec, &row, 1);
    }
    jpeg_finish_decompress(codec);
    return true;
}

bool image_jpeg_decode(struct image *out, const unsigned char *bytes, size_t size, const char *name,
                       struct error *err)
{
    struct jpeg_decompress_struct codec = {0};
    struct jpeg_failure failure = {.name = name, .err = err};
    struct jpeg_progress_mgr progress = {.progress_monitor = refuse_many_scans};
    bool done;

    codec.err = failure_init(&failure);
    done = read_picture(&codec, &failure, &progress, out, bytes, size);
    jpeg_destroy_decompress(&codec);
    return done;
}
