#include "cli/report.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "image/image_text.h"

/* U+0080 to U+009F are control characters as well: C2 80 to C2 9F. */
static bool is_control(const unsigned char *at)
{
    return at[0] < ' ' || at[0] == 0x7f || (at[0] == 0xc2 && at[1] < 0xa0);
}

char *report_clean(const char *text)
{
    char *clean;

    if (!image_text_from_utf8(&clean, (const unsigned char *)text, strlen(text), NULL))
        return NULL;
    for (unsigned char *at = (unsigned char *)clean; *at; at++) {
        if (!is_control(at))
            continue;
        if (*at == 0xc2)
            *at++ = ' ';
        *at = ' ';
    }
    return clean;
}

static void print_line(const char *before, const char *message)
{
    char *clean = report_clean(message);

    fprintf(stderr, "sd35: %s%s\n", before, clean ? clean : "out of memory");
    free(clean);
}

void report_error(const struct error *err)
{
    print_line("", err->message);
}

void report_warning(const char *format, ...)
{
    char message[ERROR_MESSAGE_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    print_line("warning: ", message);
}
