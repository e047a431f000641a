/* Sixel: pictures as columns of six pixels, one colour at a time (DEC STD 070). */
#ifndef CLI_SIXEL_H
#define CLI_SIXEL_H

#include <stdbool.h>
#include <stdio.h>

#include "base/attributes.h"
#include "base/error.h"
#include "image/image.h"

/* With up to 256 colours, chosen for the picture by cutting its colour space at medians (Heckbert
 * 1982). Fails only with ERROR_NO_MEMORY; failures of `out` itself stay in ferror(out). */
MUST_CHECK bool sixel_write(FILE *out, const struct image *image, struct error *err);

#endif
