/* PNG files with an alpha channel, which image_encode does not write. */
#ifndef TESTS_SUPPORT_PNG_ALPHA_H
#define TESTS_SUPPORT_PNG_ALPHA_H

#include "support/support.h"

#include <png.h>
#include <stdio.h>
#include <stdlib.h>

/* One file. A palette has the colours (i, i, i). */
struct test_png {
    int width, height, depth, colour, interlace; /* as libpng's */
    const unsigned char *rows;                   /* packed as the kind has them */
    size_t row_bytes;                            /* from one row to the next */
    const unsigned char *transparent; /* alphas of the palette's first colours, or NULL */
    int transparent_count;
    const png_color_16 *key; /* the transparent colour of grey and RGB, or NULL */
};

/* The caller frees the result. */
static inline unsigned char *test_write_png(size_t *size, const struct test_png *file)
{
    char *bytes = NULL;
    FILE *stream = open_memstream(&bytes, size);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_color palette[256];
    int passes;

    for (int i = 0; i < 256; i++)
        palette[i] = (png_color){(png_byte)i, (png_byte)i, (png_byte)i};
    png_init_io(png, stream);
    png_set_IHDR(png, info, (png_uint_32)file->width, (png_uint_32)file->height, file->depth,
                 file->colour, file->interlace, 0, 0);
    if (file->colour == PNG_COLOR_TYPE_PALETTE)
        png_set_PLTE(png, info, palette, 1 << file->depth);
    if (file->transparent || file->key)
        png_set_tRNS(png, info, file->transparent, file->transparent_count, file->key);
    png_write_info(png, info);
    passes = png_set_interlace_handling(png);
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < file->height; y++)
            png_write_row(png, file->rows + (size_t)y * file->row_bytes);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    assert_int_equal(fclose(stream), 0);
    return (unsigned char *)bytes;
}

#endif
