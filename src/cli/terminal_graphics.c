/* Which pictures a terminal can show. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "cli/terminal_image.h"

#define ANSWER_TIMEOUT_MS 150

/* In the "device attributes" that a terminal reports, the number that stands for sixel. */
#define ATTRIBUTE_SIXEL 4

bool terminal_graphics_parse(enum terminal_graphics *out, const char *name)
{
    static const char *const names[] = {
        [TERMINAL_GRAPHICS_NONE] = "none",
        [TERMINAL_GRAPHICS_KITTY] = "kitty",
        [TERMINAL_GRAPHICS_ITERM2] = "iterm2",
        [TERMINAL_GRAPHICS_SIXEL] = "sixel",
    };

    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum terminal_graphics)i;
            return true;
        }
    return false;
}

static const char *variable(const char *name)
{
    const char *value = getenv(name);

    return value ? value : "";
}

static bool is_set(const char *name)
{
    return *variable(name) != '\0';
}

static bool begins_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Multiplexers draw text only, and a log of continuous integration is read later. */
static bool shows_text_only(const char *term)
{
    return is_set("TMUX") || is_set("STY") || is_set("CI") || begins_with(term, "screen") ||
           begins_with(term, "tmux") || strcmp(term, "dumb") == 0 || *term == '\0';
}

static enum terminal_graphics detect_by_environment(const char *term)
{
    const char *program = variable("TERM_PROGRAM");

    if (is_set("KITTY_WINDOW_ID") || strcmp(term, "xterm-kitty") == 0)
        return TERMINAL_GRAPHICS_KITTY;
    if (strcmp(program, "ghostty") == 0 || strcmp(term, "xterm-ghostty") == 0 ||
        is_set("GHOSTTY_RESOURCES_DIR"))
        return TERMINAL_GRAPHICS_KITTY;
    if (strcmp(program, "iTerm.app") == 0 || strcmp(program, "WezTerm") == 0 ||
        strcmp(variable("LC_TERMINAL"), "iTerm2") == 0)
        return TERMINAL_GRAPHICS_ITERM2;
    if (strstr(term, "sixel") || strcmp(term, "foot") == 0 || begins_with(term, "foot-") ||
        begins_with(term, "mlterm"))
        return TERMINAL_GRAPHICS_SIXEL;
    return TERMINAL_GRAPHICS_NONE;
}

static long milliseconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Reads until the answer is complete, which ends with 'c', or the time is over. Keys that were
 * typed meanwhile are lost. */
static bool read_answer(char *answer, size_t size, int tty)
{
    long deadline = milliseconds_now() + ANSWER_TIMEOUT_MS;
    size_t length = 0;

    while (length + 1 < size) {
        struct pollfd waiting = {.fd = tty, .events = POLLIN};
        long rest = deadline - milliseconds_now();
        int ready = rest > 0 ? poll(&waiting, 1, (int)rest) : 0;
        ssize_t got;

        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0 || !(waiting.revents & POLLIN))
            return false;
        got = read(tty, answer + length, size - 1 - length);
        if (got <= 0)
            return false;
        length += (size_t)got;
        answer[length] = '\0';
        if (memchr(answer, 'c', length))
            return true;
    }
    return false;
}

/* An answer is ESC [ ? 62 ; 4 ; 22 c, the numbers being what the terminal can do. */
static bool answer_has_sixel(const char *answer)
{
    const char *at = strstr(answer, "\033[?");

    at = at ? at + 3 : "";
    while (*at >= '0' && *at <= '9') {
        char *end;

        if (strtol(at, &end, 10) == ATTRIBUTE_SIXEL)
            return true;
        at = *end == ';' ? end + 1 : end;
    }
    return false;
}

static bool ask_for_sixel(int tty)
{
    static const char question[] = "\033[c";
    char answer[256];
    struct termios before, raw;
    bool has_sixel;

    /* A process in the background would be stopped for touching the terminal. */
    if (tcgetpgrp(tty) != getpgrp() || tcgetattr(tty, &before) != 0)
        return false;
    raw = before;
    /* Without ISIG no key can end us while the terminal is raw. */
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    if (tcsetattr(tty, TCSANOW, &raw) != 0)
        return false;
    has_sixel = write(tty, question, sizeof question - 1) == sizeof question - 1 &&
                read_answer(answer, sizeof answer, tty) && answer_has_sixel(answer);
    tcsetattr(tty, TCSANOW, &before);
    return has_sixel;
}

enum terminal_graphics terminal_graphics_detect(int fd)
{
    const char *term = variable("TERM");
    enum terminal_graphics graphics;
    int tty;

    if (terminal_graphics_parse(&graphics, variable(TERMINAL_GRAPHICS_VARIABLE)))
        return graphics;
    if (!isatty(fd) || shows_text_only(term))
        return TERMINAL_GRAPHICS_NONE;
    graphics = detect_by_environment(term);
    if (graphics != TERMINAL_GRAPHICS_NONE)
        return graphics;
    tty = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (tty < 0)
        return TERMINAL_GRAPHICS_NONE;
    if (ask_for_sixel(tty))
        graphics = TERMINAL_GRAPHICS_SIXEL;
    close(tty);
    return graphics;
}
