#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/image_bytes.h"
#include "image/image_codecs.h"
#include "image/image_text.h"

/* A noisy 1024 x 1024 picture: 155 ms and 1.72 MB at level 3, 406 ms and 1.52 MB at level 6. */
#define PNG_LEVEL 3

/* libpng buffers no chunk that we want; this stops the ones that it would. */
#define PNG_CHUNK_BYTES_MAX 65536

/* Deflated data that may follow the last row begun, beside the row itself: libpng inflates all of
 * it, a thousand times as much, only to throw it away. */
#define PNG_SURPLUS_BYTES_MAX 65536

/* One picture on its way through libpng, which reports failure by jumping out. */
struct png_coder {
    png_structp png;
    png_infop info;
    const char *name; /* of the file, for messages */
    const unsigned char *bytes;
    size_t size, at; /* of bytes */
    bool wants_alpha;
    size_t stop; /* where reading must not go on for now */
    bool is_out_of_memory;
    struct error *err;
};

static void fail(png_structp png, png_const_charp message)
{
    struct png_coder *coder = png_get_error_ptr(png);

    if (coder->is_out_of_memory || !coder->bytes) /* writing goes to memory */
        error_set(coder->err, ERROR_NO_MEMORY, "'%s': memory for the PNG coder", coder->name);
    else
        error_set(coder->err, ERROR_BAD_FILE, "'%s' is a damaged PNG: %s", coder->name, message);
    png_longjmp(png, 1);
}

static void ignore_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static png_voidp allocate(png_structp png, png_alloc_size_t size)
{
    struct png_coder *coder = png_get_mem_ptr(png);
    void *memory = malloc(size);

    if (!memory)
        coder->is_out_of_memory = true;
    return memory;
}

static void release(png_structp png, png_voidp memory)
{
    (void)png;
    free(memory);
}

/* --- Encoding --- */

/* Latin-1 where that is possible, because old readers know no other text chunk. */
static bool make_text_chunk(unsigned char **out, size_t *out_size, const char **type,
                            const char *key, const char *text, bool may_be_latin1,
                            struct error *err)
{
    static const char utf8_head[4]; /* not compressed, no method, no language, no translated key */
    bool is_latin1 = may_be_latin1 && image_text_is_latin1(text);
    size_t key_bytes = strlen(key) + 1;
    size_t head_bytes = key_bytes + (is_latin1 ? 0 : sizeof utf8_head);
    size_t text_bytes = strlen(text);
    unsigned char *latin1 = NULL, *chunk;

    if (is_latin1 && !image_text_to_latin1(&latin1, &text_bytes, text, err))
        return false;
    chunk = calloc(1, head_bytes + text_bytes);
    if (!chunk) {
        free(latin1);
        return error_set(err, ERROR_NO_MEMORY, "text chunk of %zu bytes", text_bytes);
    }
    memcpy(chunk, key, key_bytes);
    memcpy(chunk + head_bytes, is_latin1 ? latin1 : (const unsigned char *)text, text_bytes);
    free(latin1);
    *out = chunk;
    *out_size = head_bytes + text_bytes;
    *type = is_latin1 ? "tEXt" : "iTXt";
    return true;
}

struct png_text_chunk {
    const char *type; /* NULL: no such text */
    unsigned char *bytes;
    size_t size;
};

static void write_text_chunk(png_structp png, const struct png_text_chunk *chunk)
{
    if (chunk->type)
        png_write_chunk(png, (png_const_bytep)chunk->type, chunk->bytes, chunk->size);
}

static bool write_picture(struct png_coder *coder, FILE *stream, const struct image *image,
                          const struct png_text_chunk *chunks)
{
    if (setjmp(png_jmpbuf(coder->png)))
        return false;
    png_init_io(coder->png, stream);
    png_set_IHDR(coder->png, coder->info, (png_uint_32)image->width, (png_uint_32)image->height, 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(coder->png, PNG_LEVEL);
    png_write_info(coder->png, coder->info);
    write_text_chunk(coder->png, &chunks[0]);
    write_text_chunk(coder->png, &chunks[1]);
    for (int y = 0; y < image->height; y++)
        png_write_row(coder->png, image->pixels + (size_t)y * (size_t)image->width * 3);
    png_write_end(coder->png, NULL);
    return true;
}

static bool create_writer(struct png_coder *coder)
{
    coder->png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, coder, fail, ignore_warning,
                                           coder, allocate, release);
    coder->info = coder->png ? png_create_info_struct(coder->png) : NULL;
    return coder->info || error_set(coder->err, ERROR_NO_MEMORY, "PNG encoder");
}

bool image_png_encode(unsigned char **out, size_t *out_size, const struct image *image,
                      const struct image_metadata *metadata, struct error *err)
{
    struct png_text_chunk chunks[2] = {0};
    struct png_coder coder = {.name = "new picture", .err = err};
    char *bytes = NULL;
    size_t size = 0;
    FILE *stream = NULL;
    bool done = false;

    if (metadata->infotext && !make_text_chunk(&chunks[0].bytes, &chunks[0].size, &chunks[0].type,
                                               IMAGE_KEY_INFOTEXT, metadata->infotext, true, err))
        goto finish;
    if (metadata->json && !make_text_chunk(&chunks[1].bytes, &chunks[1].size, &chunks[1].type,
                                           IMAGE_KEY_JSON, metadata->json, false, err))
        goto finish;
    stream = open_memstream(&bytes, &size);
    if (!stream) {
        error_set(err, ERROR_NO_MEMORY, "PNG file");
        goto finish;
    }
    done = create_writer(&coder) && write_picture(&coder, stream, image, chunks);

finish:
    png_destroy_write_struct(&coder.png, &coder.info);
    if (stream && fclose(stream) != 0 && done)
        done = error_set(err, ERROR_NO_MEMORY, "PNG file");
    free(chunks[0].bytes);
    free(chunks[1].bytes);
    if (!done) {
        free(bytes);
        return false;
    }
    *out = (unsigned char *)bytes;
    *out_size = size;
    return true;
}

/* --- Decoding --- */

static void read_bytes(png_structp png, png_bytep out, size_t count)
{
    struct png_coder *coder = png_get_io_ptr(png);

    if (count > coder->size - coder->at)
        png_error(png, "it is cut off");
    if (coder->at > coder->stop)
        png_error(png, "it has more data than pixels");
    memcpy(out, coder->bytes + coder->at, count);
    coder->at += count;
}

static void read_rows(struct png_coder *coder, const struct image *out, size_t row_bytes)
{
    int passes = png_set_interlace_handling(coder->png);

    png_read_update_info(coder->png, coder->info);
    if (png_get_rowbytes(coder->png, coder->info) != row_bytes)
        png_error(coder->png, "its colours are of an unknown kind");
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < out->height; y++) {
            if (pass == passes - 1 && y == out->height - 1)
                coder->stop = coder->at + 2 * row_bytes + PNG_SURPLUS_BYTES_MAX;
            png_read_row(coder->png, out->pixels + (size_t)y * row_bytes, NULL);
        }
    coder->stop = coder->size;
}

/* Whatever the file holds becomes 8-bit RGB; alpha is dropped. */
static void ask_for_rgb(struct png_coder *coder)
{
    png_set_palette_to_rgb(coder->png);
    png_set_expand_gray_1_2_4_to_8(coder->png);
    png_set_scale_16(coder->png);
    png_set_gray_to_rgb(coder->png);
    png_set_strip_alpha(coder->png);
}

static bool has_alpha(const struct png_coder *coder)
{
    return png_get_color_type(coder->png, coder->info) & PNG_COLOR_MASK_ALPHA ||
           png_get_valid(coder->png, coder->info, PNG_INFO_tRNS);
}

/* A row of RGBA becomes one of RGB that has the alpha three times. */
static void keep_alpha(png_structp png, png_row_infop info, png_bytep row)
{
    if (info->channels != 4 || info->bit_depth != 8)
        png_error(png, "its alpha is of an unknown kind");
    for (size_t x = 0; x < info->width; x++)
        memset(row + 3 * x, row[4 * x + 3], 3);
}

/* Whatever alpha the file holds, a transparent colour or palette too, becomes 8-bit RGB. */
static void ask_for_alpha(struct png_coder *coder)
{
    png_set_expand(coder->png);
    png_set_scale_16(coder->png);
    png_set_gray_to_rgb(coder->png);
    png_set_read_user_transform_fn(coder->png, keep_alpha);
    png_set_user_transform_info(coder->png, NULL, 8, 3);
}

static bool read_picture(struct png_coder *coder, const struct image *out)
{
    if (setjmp(png_jmpbuf(coder->png)))
        return false;
    png_set_read_fn(coder->png, coder, read_bytes);
    png_set_user_limits(coder->png, IMAGE_SIDE_MAX, IMAGE_SIDE_MAX);
    png_set_chunk_malloc_max(coder->png, PNG_CHUNK_BYTES_MAX);
    /* No ancillary chunk is parsed: no profile or text is ever inflated. */
    png_set_keep_unknown_chunks(coder->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_read_info(coder->png, coder->info);
    if (png_get_image_width(coder->png, coder->info) != (png_uint_32)out->width ||
        png_get_image_height(coder->png, coder->info) != (png_uint_32)out->height)
        png_error(coder->png, "it has two sizes");
    if (coder->wants_alpha && !has_alpha(coder))
        return error_set(coder->err, ERROR_BAD_FILE, "'%s' has no alpha channel", coder->name);
    if (coder->wants_alpha)
        ask_for_alpha(coder);
    else
        ask_for_rgb(coder);
    read_rows(coder, out, (size_t)out->width * 3);
    png_read_end(coder->png, NULL);
    return true;
}

static bool decode(struct png_coder *coder, struct image *out)
{
    bool done = false;

    coder->png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, coder, fail, ignore_warning, coder,
                                          allocate, release);
    coder->info = coder->png ? png_create_info_struct(coder->png) : NULL;
    if (coder->info)
        done = read_picture(coder, out);
    else
        error_set(coder->err, ERROR_NO_MEMORY, "'%s': PNG decoder", coder->name);
    png_destroy_read_struct(&coder->png, &coder->info, NULL);
    return done;
}

bool image_png_decode(struct image *out, const unsigned char *bytes, size_t size, const char *name,
                      struct error *err)
{
    struct png_coder coder = {.name = name, .bytes = bytes, .size = size, .stop = size, .err = err};

    return decode(&coder, out);
}

bool image_png_decode_alpha(struct image *out, const unsigned char *bytes, size_t size,
                            const char *name, struct error *err)
{
    struct png_coder coder = {
        .name = name, .bytes = bytes, .size = size, .stop = size, .wants_alpha = true, .err = err};

    return decode(&coder, out);
}
