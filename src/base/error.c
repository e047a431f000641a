#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void error_fill(struct error *err, enum error_code code, const char *format, ...)
{
    va_list arguments;

    if (!err)
        return;
    err->code = code;
    va_start(arguments, format);
    vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
}

void error_fill_errno(struct error *err, int errno_value, const char *format, ...)
{
    va_list arguments;
    size_t used;

    if (!err)
        return;
    err->code = errno_value == ENOMEM ? ERROR_NO_MEMORY : ERROR_IO;
    va_start(arguments, format);
    vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    used = strlen(err->message);
    snprintf(err->message + used, sizeof err->message - used, ": %s", strerror(errno_value));
}

void error_prefix(struct error *err, const char *format, ...)
{
    char context[ERROR_MESSAGE_BYTES];
    size_t length, room, kept;
    va_list arguments;

    if (!err)
        return;
    va_start(arguments, format);
    vsnprintf(context, sizeof context - 2, format, arguments);
    va_end(arguments);
    length = strlen(context);
    memcpy(context + length, ": ", sizeof ": ");
    length += 2;

    room = sizeof err->message - 1 - length;
    kept = strnlen(err->message, room);
    memmove(err->message + length, err->message, kept);
    memcpy(err->message, context, length);
    err->message[length + kept] = '\0';
}

static const struct {
    const char *name;
    int exit_code;
} codes[] = {
    [ERROR_NONE] = {"ok", 0},
    [ERROR_BAD_REQUEST] = {"bad_request", 2},
    [ERROR_BAD_FILE] = {"bad_file", 3},
    [ERROR_NO_MEMORY] = {"no_memory", 4},
    [ERROR_BACKEND] = {"backend", 5},
    [ERROR_NOT_FINITE] = {"not_finite", 7},
    [ERROR_IO] = {"io", 6},
    [ERROR_CANCELLED] = {"cancelled", 130}, /* as a shell reports Ctrl-C */
};

int error_exit_code(enum error_code code)
{
    return codes[code].exit_code;
}

const char *error_code_name(enum error_code code)
{
    return codes[code].name;
}
