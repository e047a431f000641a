#include "calibrate/html_text.h"

#include <sodium.h>
#include <stdlib.h>

void html_put_text(FILE *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        case '\'':
            fputs("&#39;", out);
            break;
        default:
            fputc(*text, out);
        }
}

bool html_put_image(FILE *out, const struct image *image, const char *alt, struct error *err)
{
    unsigned char *png;
    size_t size, text_size;
    char *text;

    if (!image_encode(&png, &size, image, IMAGE_PNG, 100, NULL, err))
        return false;
    text_size = sodium_base64_ENCODED_LEN(size, sodium_base64_VARIANT_ORIGINAL);
    text = malloc(text_size);
    if (text)
        sodium_bin2base64(text, text_size, png, size, sodium_base64_VARIANT_ORIGINAL);
    free(png);
    if (!text)
        return error_set(err, ERROR_NO_MEMORY, "a picture of the report");
    fprintf(out, "<img width=\"%d\" height=\"%d\" alt=\"", image->width, image->height);
    html_put_text(out, alt);
    fprintf(out, "\" src=\"data:image/png;base64,%s\">", text);
    free(text);
    return true;
}
