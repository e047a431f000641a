/* Pictures in the terminal, by the three protocols that terminals have for them.
 *
 * Kitty's graphics protocol (https://sw.kovidgoyal.net/kitty/graphics-protocol), iTerm2's inline
 * images (https://iterm2.com/documentation-images.html), and sixel (DEC STD 070), which has 256
 * colours here.
 */
#ifndef CLI_TERMINAL_IMAGE_H
#define CLI_TERMINAL_IMAGE_H

#include <stdbool.h>
#include <stdio.h>

#include "base/attributes.h"
#include "base/error.h"
#include "image/image.h"

enum terminal_graphics {
    TERMINAL_GRAPHICS_NONE,
    TERMINAL_GRAPHICS_KITTY,
    TERMINAL_GRAPHICS_ITERM2,
    TERMINAL_GRAPHICS_SIXEL,
};

/* Overrides what terminal_graphics_detect would find: a name that terminal_graphics_parse knows. */
#define TERMINAL_GRAPHICS_VARIABLE "SD35_TERMINAL_GRAPHICS"

/* What the terminal at `fd` shows: NONE when it is no terminal, inside tmux or screen, and in
 * continuous integration. Goes by the environment; where that says nothing it asks the terminal and
 * waits up to 150 ms for the answer, so call it once. */
enum terminal_graphics terminal_graphics_detect(int fd);

/* "none", "kitty", "iterm2" or "sixel". False for anything else. */
MUST_CHECK bool terminal_graphics_parse(enum terminal_graphics *out, const char *name);

/* Shows the picture below the cursor, made smaller where it is wider than the terminal. NONE shows
 * nothing. */
MUST_CHECK bool terminal_image_show(int fd, enum terminal_graphics graphics,
                                    const struct image *image, struct error *err);

/* The bytes that show the picture at its own size. Failures of `out` itself stay in ferror(out). */
MUST_CHECK bool terminal_image_write(FILE *out, enum terminal_graphics graphics,
                                     const struct image *image, struct error *err);

#endif
