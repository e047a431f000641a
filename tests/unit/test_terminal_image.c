/* Pictures in terminals: the exact bytes of each protocol, a sixel reader that turns them back into
 * pixels, and terminals (pseudo-terminals, that is) which answer or stay silent. */
#include "support/support.h"

#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "cli/terminal_image.h"
#include "support/pictures.h"

/* --- Names --- */

static void terminal_graphics_parse_knows_four_names(void **state)
{
    enum terminal_graphics graphics;

    (void)state;
    assert_true(terminal_graphics_parse(&graphics, "none") && graphics == TERMINAL_GRAPHICS_NONE);
    assert_true(terminal_graphics_parse(&graphics, "kitty") && graphics == TERMINAL_GRAPHICS_KITTY);
    assert_true(terminal_graphics_parse(&graphics, "iterm2") &&
                graphics == TERMINAL_GRAPHICS_ITERM2);
    assert_true(terminal_graphics_parse(&graphics, "sixel") && graphics == TERMINAL_GRAPHICS_SIXEL);
    assert_false(terminal_graphics_parse(&graphics, ""));
    assert_false(terminal_graphics_parse(&graphics, "Kitty"));
    assert_false(terminal_graphics_parse(&graphics, "auto"));
}

/* --- Bytes --- */

static char *bytes_of(enum terminal_graphics graphics, const struct image *image)
{
    char *bytes = NULL;
    size_t size;
    FILE *stream = open_memstream(&bytes, &size);
    struct error err;

    assert_true(terminal_image_write(stream, graphics, image, &err));
    fclose(stream);
    assert_int_equal(strlen(bytes), size);
    return bytes;
}

/* Decodes the base64 up to the first other character; returns the count of bytes. */
static size_t decode_base64(unsigned char *out, const char *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned group = 0;
    int bits = 0;
    size_t count = 0;

    for (const char *digit; *text && (digit = strchr(digits, *text)); text++) {
        group = group << 6 | (unsigned)(digit - digits);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            out[count++] = (unsigned char)(group >> bits);
        }
    }
    return count;
}

static void assert_is_png_of(const unsigned char *png, size_t size, const struct image *image)
{
    struct image back;

    assert_true(image_decode(&back, png, size, &IMAGE_LIMITS_DEFAULT, "sent", NULL));
    assert_int_equal(back.width, image->width);
    assert_memory_equal(back.pixels, image->pixels, (size_t)(image->width * image->height * 3));
    image_finish(&back);
}

static void none_writes_nothing(void **state)
{
    struct image image = test_picture(2, 2, 1);
    char *bytes = bytes_of(TERMINAL_GRAPHICS_NONE, &image);

    (void)state;
    assert_string_equal(bytes, "");
    free(bytes);
    image_finish(&image);
}

static void kitty_takes_a_small_png_in_one_piece(void **state)
{
    struct image image = test_picture(2, 2, 1);
    char *bytes = bytes_of(TERMINAL_GRAPHICS_KITTY, &image);
    const char *head = "\033_Ga=T,f=100,q=2,m=0;";
    unsigned char png[1024];

    (void)state;
    assert_memory_equal(bytes, head, strlen(head));
    assert_is_png_of(png, decode_base64(png, bytes + strlen(head)), &image);
    assert_string_equal(bytes + strlen(bytes) - 3, "\033\\\n");
    assert_null(strstr(bytes + 1, "\033_G"));
    free(bytes);
    image_finish(&image);
}

static void kitty_takes_a_large_png_in_pieces_of_4096(void **state)
{
    struct image image = test_picture(60, 60, 1);
    char *bytes = bytes_of(TERMINAL_GRAPHICS_KITTY, &image);
    unsigned char *png = malloc(strlen(bytes));
    size_t size = 0;
    int pieces = 0;
    const char *at = bytes;

    (void)state;
    while (strncmp(at, "\033_G", 3) == 0) {
        const char *data = strchr(at, ';') + 1, *end = strchr(data, '\033');
        int is_last = end[2] == '\n';

        assert_memory_equal(at + 3,
                            pieces == 0 ? "a=T,f=100,q=2,m=1;"
                            : is_last   ? "q=2,m=0;"
                                        : "q=2,m=1;",
                            (size_t)(data - at - 3));
        if (!is_last)
            assert_int_equal(end - data, 4096);
        size += decode_base64(png + size, data);
        assert_memory_equal(end, "\033\\", 2);
        at = end + 2;
        pieces++;
    }
    assert_string_equal(at, "\n");
    assert_true(pieces >= 3);
    assert_is_png_of(png, size, &image);
    free(png);
    free(bytes);
    image_finish(&image);
}

static void iterm2_takes_the_png_inline_with_its_size(void **state)
{
    struct image image = test_picture(3, 2, 1);
    char *bytes = bytes_of(TERMINAL_GRAPHICS_ITERM2, &image);
    unsigned char png[1024];
    size_t announced, size;
    int head;

    (void)state;
    assert_int_equal(sscanf(bytes, "\033]1337;File=inline=1;size=%zu:%n", &announced, &head), 1);
    size = decode_base64(png, bytes + head);
    assert_int_equal(size, announced);
    assert_is_png_of(png, size, &image);
    assert_string_equal(bytes + strlen(bytes) - 2, "\a\n");
    free(bytes);
    image_finish(&image);
}

static struct image one_colour(int width, int height, int red, int green, int blue)
{
    struct image image = test_picture(width, height, 1);

    for (int i = 0; i < width * height; i++) {
        image.pixels[3 * i] = (unsigned char)red;
        image.pixels[3 * i + 1] = (unsigned char)green;
        image.pixels[3 * i + 2] = (unsigned char)blue;
    }
    return image;
}

static void sixel_of_tiny_pictures_is_known_to_the_byte(void **state)
{
    struct image red = one_colour(5, 7, 255, 0, 0), two = one_colour(3, 2, 0, 0, 0);
    char *bytes = bytes_of(TERMINAL_GRAPHICS_SIXEL, &red);

    (void)state;
    assert_string_equal(bytes, "\033P0;1;0q\"1;1;5;7#0;2;100;0;0#0!5~-#0!5@-\033\\");
    free(bytes);
    memset(two.pixels + 3, 255, 3); /* the pixel right of the first */
    bytes = bytes_of(TERMINAL_GRAPHICS_SIXEL, &two);
    assert_string_equal(bytes, "\033P0;1;0q\"1;1;3;2#0;2;0;0;0#1;2;100;100;100"
                               "#0BAB$#1?@-\033\\");
    free(bytes);
    image_finish(&red);
    image_finish(&two);
}

/* --- A sixel reader --- */

struct sixel_reader {
    struct image image;
    unsigned char colours[256][3];
    unsigned char *is_painted; /* [height, width] */
    int colour_count, colour;
    int x, band;
};

static int read_number(const char **at)
{
    char *end;
    long number = strtol(*at, &end, 10);

    assert_true(end > *at);
    *at = end;
    return (int)number;
}

static void expect(const char **at, char c)
{
    assert_int_equal(**at, c);
    (*at)++;
}

static void read_colour(struct sixel_reader *reader, const char **at)
{
    reader->colour = read_number(at);
    assert_in_range(reader->colour, 0, 255);
    if (**at != ';')
        return;
    expect(at, ';');
    assert_int_equal(read_number(at), 2);
    for (int c = 0; c < 3; c++) {
        int value;

        expect(at, ';');
        value = read_number(at);
        assert_in_range(value, 0, 100);
        reader->colours[reader->colour][c] = (unsigned char)((value * 255 + 50) / 100);
    }
    reader->colour_count++;
}

static void paint(struct sixel_reader *reader, int bits, int count)
{
    struct image *image = &reader->image;

    for (; count > 0; count--, reader->x++)
        for (int row = 0; row < 6; row++) {
            int y = 6 * reader->band + row;

            if (!(bits & 1 << row))
                continue;
            assert_true(reader->x < image->width && y < image->height);
            memcpy(image->pixels + 3 * (y * image->width + reader->x),
                   reader->colours[reader->colour], 3);
            assert_int_equal(reader->is_painted[y * image->width + reader->x], 0);
            reader->is_painted[y * image->width + reader->x] = 1;
        }
}

/* Turns our sixel bytes into pixels; each pixel must be painted exactly once. */
static struct image read_sixel(const char *at, int *colour_count)
{
    struct sixel_reader reader = {0};
    int width, height, head;

    assert_int_equal(sscanf(at, "\033P0;1;0q\"1;1;%d;%d%n", &width, &height, &head), 2);
    assert_true(image_init(&reader.image, width, height, NULL));
    reader.is_painted = calloc((size_t)width, (size_t)height);
    for (at += head; *at != '\033';) {
        char c = *at++;

        if (c == '#') {
            read_colour(&reader, &at);
        } else if (c == '$') {
            reader.x = 0;
        } else if (c == '-') {
            reader.x = 0;
            reader.band++;
        } else {
            int count = c == '!' ? read_number(&at) : 1;

            c = c == '!' ? *at++ : c;
            assert_in_range(c, '?', '~');
            paint(&reader, c - '?', count);
        }
    }
    assert_string_equal(at, "\033\\");
    assert_null(memchr(reader.is_painted, 0, (size_t)(width * height)));
    free(reader.is_painted);
    *colour_count = reader.colour_count;
    return reader.image;
}

static int largest_difference(const struct image *a, const struct image *b)
{
    int largest = 0;

    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    for (int i = 0; i < a->width * a->height * 3; i++) {
        int difference = abs(a->pixels[i] - b->pixels[i]);

        largest = difference > largest ? difference : largest;
    }
    return largest;
}

static void sixel_of_few_colours_keeps_each(void **state)
{
    struct image image = test_picture(50, 23, 1), back;
    int colour_count;
    char *bytes;

    (void)state;
    /* 27 colours that lie far apart */
    for (int i = 0; i < 50 * 23 * 3; i++)
        image.pixels[i] = (unsigned char)(image.pixels[i] / 86 * 127);
    bytes = bytes_of(TERMINAL_GRAPHICS_SIXEL, &image);
    back = read_sixel(bytes, &colour_count);
    assert_int_equal(colour_count, 27);
    assert_true(largest_difference(&image, &back) <= 2); /* 0 to 100 instead of 0 to 255 */
    image_finish(&back);
    image_finish(&image);
    free(bytes);
}

static void sixel_of_many_colours_stays_close(void **state)
{
    struct image image = test_soft_picture(160, 97), back;
    int colour_count;
    char *bytes = bytes_of(TERMINAL_GRAPHICS_SIXEL, &image);

    (void)state;
    back = read_sixel(bytes, &colour_count);
    assert_int_equal(colour_count, 256);
    assert_true(test_psnr(&image, back.pixels) > 30);
    assert_true(largest_difference(&image, &back) < 64);
    image_finish(&back);
    image_finish(&image);
    free(bytes);
}

static void sixel_of_noise_is_read_back_too(void **state)
{
    static const int sizes[][2] = {{1, 1}, {1, 13}, {300, 6}, {7, 5}};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        struct image image = test_picture(sizes[i][0], sizes[i][1], 9), back;
        int colour_count;
        char *bytes = bytes_of(TERMINAL_GRAPHICS_SIXEL, &image);

        back = read_sixel(bytes, &colour_count);
        assert_true(colour_count >= 1 && colour_count <= 256);
        assert_true(test_psnr(&image, back.pixels) > 20);
        image_finish(&back);
        image_finish(&image);
        free(bytes);
    }
}

/* --- Showing --- */

/* Shows a picture of 40 x 20 in a terminal of that size and returns what arrives there. */
static char *shown_in(const struct winsize *size)
{
    static char received[65536];
    struct image image = one_colour(40, 20, 0, 255, 0);
    struct termios settings;
    int terminal, program;
    ssize_t got;
    struct error err;

    assert_int_equal(openpty(&terminal, &program, NULL, NULL, size), 0);
    assert_int_equal(tcgetattr(program, &settings), 0);
    cfmakeraw(&settings);
    assert_int_equal(tcsetattr(program, TCSANOW, &settings), 0);
    assert_true(terminal_image_show(program, TERMINAL_GRAPHICS_SIXEL, &image, &err));
    got = read(terminal, received, sizeof received - 1);
    assert_true(got > 0);
    received[got] = '\0';
    close(program);
    close(terminal);
    image_finish(&image);
    return received;
}

static void a_picture_wider_than_the_terminal_is_made_smaller(void **state)
{
    (void)state;
    assert_non_null(strstr(shown_in(&(struct winsize){.ws_xpixel = 20}), "\"1;1;20;10#"));
    assert_non_null(strstr(shown_in(&(struct winsize){.ws_xpixel = 1}), "\"1;1;1;1#"));
    assert_non_null(strstr(shown_in(&(struct winsize){.ws_xpixel = 40}), "\"1;1;40;20#"));
    assert_non_null(
        strstr(shown_in(&(struct winsize){.ws_col = 80, .ws_xpixel = 20}), "\"1;1;20;10#"));
    /* No pixels known: 8 for each character. */
    assert_non_null(strstr(shown_in(&(struct winsize){.ws_col = 4}), "\"1;1;32;16#"));
    assert_non_null(strstr(shown_in(&(struct winsize){.ws_col = 0}), "\"1;1;40;20#"));
}

static void showing_in_a_closed_place_is_an_error(void **state)
{
    struct image image = one_colour(4, 4, 0, 0, 0);
    struct error err;
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    close(ends[1]);
    assert_false(terminal_image_show(ends[0], TERMINAL_GRAPHICS_SIXEL, &image, &err));
    assert_int_equal(err.code, ERROR_IO);
    assert_true(terminal_image_show(ends[0], TERMINAL_GRAPHICS_NONE, &image, &err));
    close(ends[0]);
    image_finish(&image);
}

/* --- Detection --- */

static void clear_environment(void)
{
    static const char *const names[] = {"TERM",
                                        "TERM_PROGRAM",
                                        "KITTY_WINDOW_ID",
                                        "TMUX",
                                        "STY",
                                        "CI",
                                        "GHOSTTY_RESOURCES_DIR",
                                        "LC_TERMINAL",
                                        TERMINAL_GRAPHICS_VARIABLE};

    for (size_t i = 0; i < COUNT_OF(names); i++)
        unsetenv(names[i]);
}

/* What is detected at a terminal when these variables are set: "NAME=value NAME=value". */
static enum terminal_graphics detected_with(const char *variables, bool at_terminal)
{
    char copy[256], *rest = copy, *word;
    int terminal, program;
    enum terminal_graphics graphics;

    clear_environment();
    snprintf(copy, sizeof copy, "%s", variables);
    while ((word = strsep(&rest, " "))) {
        char *value = strchr(word, '=');

        assert_non_null(value);
        *value = '\0';
        setenv(word, value + 1, 1);
    }
    assert_int_equal(openpty(&terminal, &program, NULL, NULL, NULL), 0);
    if (!at_terminal) {
        close(program);
        program = dup(fileno(tmpfile()));
    }
    graphics = terminal_graphics_detect(program);
    close(program);
    close(terminal);
    return graphics;
}

static void the_environment_tells_which_terminal_it_is(void **state)
{
    static const struct {
        const char *variables;
        enum terminal_graphics graphics;
    } cases[] = {
        {"TERM=xterm-kitty", TERMINAL_GRAPHICS_KITTY},
        {"TERM=xterm-256color KITTY_WINDOW_ID=1", TERMINAL_GRAPHICS_KITTY},
        {"TERM=xterm-ghostty", TERMINAL_GRAPHICS_KITTY},
        {"TERM=xterm-256color TERM_PROGRAM=ghostty", TERMINAL_GRAPHICS_KITTY},
        {"TERM=xterm-256color TERM_PROGRAM=iTerm.app", TERMINAL_GRAPHICS_ITERM2},
        {"TERM=xterm-256color TERM_PROGRAM=WezTerm", TERMINAL_GRAPHICS_ITERM2},
        {"TERM=xterm-256color LC_TERMINAL=iTerm2", TERMINAL_GRAPHICS_ITERM2},
        {"TERM=foot", TERMINAL_GRAPHICS_SIXEL},
        {"TERM=foot-extra", TERMINAL_GRAPHICS_SIXEL},
        {"TERM=mlterm-256color", TERMINAL_GRAPHICS_SIXEL},
        {"TERM=yaft-sixel", TERMINAL_GRAPHICS_SIXEL},
        {"TERM=dumb KITTY_WINDOW_ID=1", TERMINAL_GRAPHICS_NONE},
        {"KITTY_WINDOW_ID=1", TERMINAL_GRAPHICS_NONE},
        {"TERM=xterm-kitty TMUX=/tmp/x", TERMINAL_GRAPHICS_NONE},
        {"TERM=tmux-256color KITTY_WINDOW_ID=1", TERMINAL_GRAPHICS_NONE},
        {"TERM=screen.xterm-256color KITTY_WINDOW_ID=1", TERMINAL_GRAPHICS_NONE},
        {"TERM=xterm-kitty STY=1.x", TERMINAL_GRAPHICS_NONE},
        {"TERM=xterm-kitty CI=true", TERMINAL_GRAPHICS_NONE},
        {"TERM=xterm-kitty CI=true " TERMINAL_GRAPHICS_VARIABLE "=sixel", TERMINAL_GRAPHICS_SIXEL},
        {"TERM=xterm-kitty " TERMINAL_GRAPHICS_VARIABLE "=none", TERMINAL_GRAPHICS_NONE},
        {"TERM=xterm-kitty " TERMINAL_GRAPHICS_VARIABLE "=auto", TERMINAL_GRAPHICS_KITTY},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        if (detected_with(cases[i].variables, true) != cases[i].graphics)
            fail_msg("%s", cases[i].variables);
}

static void what_is_no_terminal_shows_nothing_unless_forced(void **state)
{
    (void)state;
    assert_int_equal(detected_with("TERM=xterm-kitty", false), TERMINAL_GRAPHICS_NONE);
    assert_int_equal(detected_with("TERM=xterm " TERMINAL_GRAPHICS_VARIABLE "=iterm2", false),
                     TERMINAL_GRAPHICS_ITERM2);
}

/* In the child of a pseudo-terminal: detects, and tells whether the settings came back. */
static void detect_and_exit(void)
{
    struct termios before, after;
    enum terminal_graphics graphics;

    clear_environment();
    setenv("TERM", "xterm-256color", 1);
    tcgetattr(STDIN_FILENO, &before);
    graphics = terminal_graphics_detect(STDOUT_FILENO);
    tcgetattr(STDIN_FILENO, &after);
    if (before.c_lflag != after.c_lflag || memcmp(before.c_cc, after.c_cc, sizeof before.c_cc) != 0)
        _exit(100);
    _exit((int)graphics);
}

static long milliseconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Plays a terminal that answers the question with these bytes. Returns the child's exit code. */
static int detected_by_answer(const char *answer)
{
    int terminal, status;
    char question[16] = "";
    struct pollfd waiting;
    pid_t child = forkpty(&terminal, NULL, NULL, NULL);

    assert_true(child >= 0);
    if (child == 0)
        detect_and_exit();
    waiting = (struct pollfd){.fd = terminal, .events = POLLIN};
    assert_int_equal(poll(&waiting, 1, 20000), 1);
    assert_int_equal(read(terminal, question, sizeof question - 1), 3);
    assert_string_equal(question, "\033[c");
    assert_int_equal(write(terminal, answer, strlen(answer)), strlen(answer));
    assert_int_equal(waitpid(child, &status, 0), child);
    close(terminal);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_terminal_that_reports_sixel_gets_sixel(void **state)
{
    (void)state;
    assert_int_equal(detected_by_answer("\033[?62;4;22c"), TERMINAL_GRAPHICS_SIXEL);
    assert_int_equal(detected_by_answer("\033[?4c"), TERMINAL_GRAPHICS_SIXEL);
    assert_int_equal(detected_by_answer("x\033[?65;1;4c"), TERMINAL_GRAPHICS_SIXEL);
}

static void other_answers_mean_no_graphics(void **state)
{
    static const char *const answers[] = {
        "\033[?62;22c", "\033[?1;2c", "\033[?64;44;14c", "\033[?c", "c", "\033[4c", "\033[?;4c"};
    char endless[600];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(answers); i++)
        assert_int_equal(detected_by_answer(answers[i]), TERMINAL_GRAPHICS_NONE);
    memset(endless, ';', sizeof endless);
    endless[sizeof endless - 1] = '\0';
    assert_int_equal(detected_by_answer(endless), TERMINAL_GRAPHICS_NONE);
}

static void a_silent_terminal_is_given_up_soon(void **state)
{
    long start = milliseconds_now();

    (void)state;
    assert_int_equal(detected_by_answer(""), TERMINAL_GRAPHICS_NONE);
    assert_in_range(milliseconds_now() - start, 140, 10000);
    assert_int_equal(detected_by_answer("\033[?62;4"), TERMINAL_GRAPHICS_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(terminal_graphics_parse_knows_four_names),
        cmocka_unit_test(none_writes_nothing),
        cmocka_unit_test(kitty_takes_a_small_png_in_one_piece),
        cmocka_unit_test(kitty_takes_a_large_png_in_pieces_of_4096),
        cmocka_unit_test(iterm2_takes_the_png_inline_with_its_size),
        cmocka_unit_test(sixel_of_tiny_pictures_is_known_to_the_byte),
        cmocka_unit_test(sixel_of_few_colours_keeps_each),
        cmocka_unit_test(sixel_of_many_colours_stays_close),
        cmocka_unit_test(sixel_of_noise_is_read_back_too),
        cmocka_unit_test(a_picture_wider_than_the_terminal_is_made_smaller),
        cmocka_unit_test(showing_in_a_closed_place_is_an_error),
        cmocka_unit_test(the_environment_tells_which_terminal_it_is),
        cmocka_unit_test(what_is_no_terminal_shows_nothing_unless_forced),
        cmocka_unit_test(a_terminal_that_reports_sixel_gets_sixel),
        cmocka_unit_test(other_answers_mean_no_graphics),
        cmocka_unit_test(a_silent_terminal_is_given_up_soon),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
