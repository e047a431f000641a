#include "cli/terminal_image.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/sixel.h"

/* Kitty takes this much base64 at a time. */
#define KITTY_CHUNK_BYTES 4096

/* For terminals that do not tell how many pixels a character has. */
#define CHARACTER_WIDTH 8

static void write_base64(FILE *out, const unsigned char *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < size; i += 3) {
        size_t count = size - i < 3 ? size - i : 3;
        unsigned group = (unsigned)bytes[i] << 16;

        group |= count > 1 ? (unsigned)bytes[i + 1] << 8 : 0;
        group |= count > 2 ? bytes[i + 2] : 0;
        fputc(digits[group >> 18], out);
        fputc(digits[group >> 12 & 63], out);
        fputc(count > 1 ? digits[group >> 6 & 63] : '=', out);
        fputc(count > 2 ? digits[group & 63] : '=', out);
    }
}

/* Format 100 is PNG; q=2 keeps the terminal from answering into the shell's input. */
static void write_kitty(FILE *out, const unsigned char *png, size_t size)
{
    size_t room = KITTY_CHUNK_BYTES / 4 * 3;

    for (size_t at = 0; at < size; at += room) {
        size_t count = size - at < room ? size - at : room;

        fprintf(out, "\033_G%sq=2,m=%d;", at == 0 ? "a=T,f=100," : "", at + count < size);
        write_base64(out, png + at, count);
        fputs("\033\\", out);
    }
    fputc('\n', out);
}

static void write_iterm2(FILE *out, const unsigned char *png, size_t size)
{
    fprintf(out, "\033]1337;File=inline=1;size=%zu:", size);
    write_base64(out, png, size);
    fputs("\a\n", out);
}

bool terminal_image_write(FILE *out, enum terminal_graphics graphics, const struct image *image,
                          struct error *err)
{
    unsigned char *png;
    size_t size;

    if (graphics == TERMINAL_GRAPHICS_NONE)
        return true;
    if (graphics == TERMINAL_GRAPHICS_SIXEL)
        return sixel_write(out, image, err);
    if (!image_encode(&png, &size, image, IMAGE_PNG, 100, NULL, err))
        return false;
    if (graphics == TERMINAL_GRAPHICS_KITTY)
        write_kitty(out, png, size);
    else
        write_iterm2(out, png, size);
    free(png);
    return true;
}

/* The terminal's width in pixels, or the largest there is where it does not tell. */
static int terminal_width(int fd)
{
    struct winsize size;

    if (ioctl(fd, TIOCGWINSZ, &size) != 0 || (size.ws_xpixel == 0 && size.ws_col == 0))
        return IMAGE_SIDE_MAX;
    return size.ws_xpixel ? size.ws_xpixel : size.ws_col * CHARACTER_WIDTH;
}

static bool write_all(int fd, const char *bytes, size_t size, struct error *err)
{
    while (size > 0) {
        ssize_t done = write(fd, bytes, size);

        if (done < 0 && errno == EAGAIN) {
            struct pollfd waiting = {.fd = fd, .events = POLLOUT};

            poll(&waiting, 1, -1);
            continue;
        }
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return error_set_errno(err, errno, "showing a picture in the terminal");
        bytes += done;
        size -= (size_t)done;
    }
    return true;
}

static bool show_at_own_size(int fd, enum terminal_graphics graphics, const struct image *image,
                             struct error *err)
{
    char *bytes = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&bytes, &size);
    bool done;

    if (!stream)
        return error_set(err, ERROR_NO_MEMORY, "a picture for the terminal");
    done = terminal_image_write(stream, graphics, image, err);
    if (done && ferror(stream))
        done = error_set(err, ERROR_NO_MEMORY, "a picture for the terminal");
    if (fclose(stream) != 0 && done)
        done = error_set(err, ERROR_NO_MEMORY, "a picture for the terminal");
    done = done && write_all(fd, bytes, size, err);
    free(bytes);
    return done;
}

bool terminal_image_show(int fd, enum terminal_graphics graphics, const struct image *image,
                         struct error *err)
{
    int width = terminal_width(fd);
    struct image smaller = {0};
    int height;
    bool done;

    if (graphics == TERMINAL_GRAPHICS_NONE)
        return true;
    if (image->width <= width)
        return show_at_own_size(fd, graphics, image, err);
    height = (int)((int64_t)image->height * width / image->width);
    if (!image_resize(&smaller, image, width, height > 0 ? height : 1, err))
        return false;
    done = show_at_own_size(fd, graphics, &smaller, err);
    image_finish(&smaller);
    return done;
}
