#include "server/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/log_text.h"

#define PROCESS_BYTES 32

static struct log_options log_now = {.level = LOG_INFO, .process = "sd35"};

void log_setup(const struct log_options *options)
{
    static char process[PROCESS_BYTES];

    snprintf(process, sizeof process, "%s", options->process ? options->process : "sd35");
    log_now = *options;
    log_now.process = process;
}

bool log_has_prompts(void)
{
    return log_now.with_prompts;
}

static const char *level_name(enum log_level level)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};

    return (size_t)level < COUNT_OF(names) ? names[level] : "error";
}

/* RFC 3339 in UTC, with milliseconds. */
static void time_text(char text[32], int64_t wall_ms)
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm tm = {0};
    size_t used;

    gmtime_r(&seconds, &tm);
    used = strftime(text, 24, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + used, 32 - used, ".%03dZ", (int)(wall_ms % 1000));
}

size_t log_make_line(char line[LOG_LINE_BYTES_MAX], const struct log_options *options,
                     int64_t wall_ms, enum log_level level, const char *event,
                     const struct log_field *fields, size_t count)
{
    struct log_text text = {.to = line, .room = LOG_LINE_BYTES_MAX - LOG_TEXT_END_BYTES};
    char when[32];

    time_text(when, wall_ms);
    if (options->is_json) {
        log_text_put(&text, "{", 1);
        log_text_member(&text, "time", when, false);
        log_text_member(&text, "level", level_name(level), false);
        log_text_member(&text, "process", options->process, false);
        log_text_member(&text, "event", event, false);
    } else {
        log_text_format(&text, "%s %-7s [%s] %s", when, level_name(level), options->process, event);
    }
    for (size_t i = 0; i < count; i++) {
        if (options->is_json)
            log_text_member(&text, fields[i].key, fields[i].value, fields[i].is_number);
        else
            log_text_pair(&text, fields[i].key, fields[i].value);
    }
    return log_text_end(&text, options->is_json);
}

/* A pipe that nobody empties, or a full disk, costs lines and never stops the server. */
static void write_line(const char *line, size_t size)
{
    while (size > 0) {
        ssize_t done = write(STDERR_FILENO, line, size);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return;
        line += done;
        size -= (size_t)done;
    }
}

void log_fields(enum log_level level, const char *event, const struct log_field *fields,
                size_t count)
{
    char line[LOG_LINE_BYTES_MAX];
    int saved_errno = errno;
    struct timespec now;

    if (level > log_now.level)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    write_line(line,
               log_make_line(line, &log_now, (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000,
                             level, event, fields, count));
    errno = saved_errno;
}

/* The format with `separator` for each space between fields, and without the quotes that keep
 * other spaces together. */
static void separate(char *to, const char *format, char separator)
{
    bool is_quoted = false;

    for (; *format; format++) {
        if (*format == '"')
            is_quoted = !is_quoted;
        else
            *to++ = *format == ' ' && !is_quoted ? separator : *format;
    }
    *to = '\0';
}

/* Whether the field that begins at `format` is printed as a number: it has a conversion, and no
 * text beside it. */
static bool is_number_format(const char *format)
{
    size_t length;

    format = strchr(format, '=');
    if (!format || *++format != '%')
        return false;
    length = strcspn(format + 1, " ");
    return length > 0 && strchr("diufg", format[length]) && !memchr(format + 1, '%', length) &&
           !memchr(format + 1, 's', length);
}

/* Cuts `text` at the places where it differs from its twin: there, and only there, the format's
 * own separators are. */
static size_t split_fields(struct log_field fields[LOG_FIELDS_MAX], char *text, const char *twin,
                           size_t size, const char *format)
{
    size_t count = 0;
    char *start = text;

    for (size_t i = 0; i <= size && count < LOG_FIELDS_MAX; i++) {
        char *equals;

        if (i < size && text[i] == twin[i])
            continue;
        text[i] = '\0';
        equals = strchr(start, '=');
        if (equals) {
            *equals = '\0';
            fields[count++] = (struct log_field){start, equals + 1, is_number_format(format)};
        } else if (*start) {
            fields[count++] = (struct log_field){"message", start, false};
        }
        start = text + i + 1;
        format += strcspn(format, " ");
        format += *format == ' ';
    }
    return count;
}

void log_event(enum log_level level, const char *event, const char *format, ...)
{
    struct log_field fields[LOG_FIELDS_MAX];
    char format_a[512], format_b[512];
    char *text = NULL, *twin = NULL;
    va_list args, again;
    int size, twin_size;

    if (level > log_now.level)
        return;
    if (strlen(format) >= sizeof format_a) {
        log_fields(level, event, NULL, 0);
        return;
    }
    /* Printed twice, with other separators: no value can have both at the same place. */
    separate(format_a, format, '\x1e');
    separate(format_b, format, '\x1f');
    va_start(args, format);
    va_copy(again, args);
    size = vasprintf(&text, format_a, args);
    twin_size = vasprintf(&twin, format_b, again);
    va_end(again);
    va_end(args);
    if (size >= 0 && twin_size == size)
        log_fields(level, event, fields, split_fields(fields, text, twin, (size_t)size, format));
    else
        log_fields(level, event, NULL, 0);
    if (size >= 0)
        free(text);
    if (twin_size >= 0)
        free(twin);
}
