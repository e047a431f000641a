/* Pieces of a self-contained page. */
#ifndef CALIBRATE_HTML_TEXT_H
#define CALIBRATE_HTML_TEXT_H

#include <stdbool.h>
#include <stdio.h>

#include "base/attributes.h"
#include "base/error.h"
#include "image/image.h"

/* Text as it reads, in content and in quoted attributes. */
void html_put_text(FILE *out, const char *text);

/* An <img> of the picture as a PNG inside its address. `alt` is escaped. */
MUST_CHECK bool html_put_image(FILE *out, const struct image *image, const char *alt,
                               struct error *err);

#endif
