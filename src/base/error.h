/* Errors: a code that says what the caller can do, and a sentence for people.
 *
 * A function that can fail returns bool and takes `struct error *err` last. `error_set` and
 * `error_in` are always false, so failing is one line. `err` may be NULL where the caller does
 * not care. Belongs to one thread at a time.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdbool.h>

#include "base/attributes.h"

enum error_code {
    ERROR_NONE = 0,
    ERROR_BAD_REQUEST, /* the caller asked for something impossible: ask differently */
    ERROR_BAD_FILE,    /* a file's content is wrong: replace the file */
    ERROR_NO_MEMORY,   /* try again smaller */
    ERROR_BACKEND,     /* the device failed */
    ERROR_NOT_FINITE,  /* a result is infinite or no number: compute in more bits */
    ERROR_CANCELLED,   /* somebody asked us to stop */
    ERROR_IO,          /* the system refused to read or write */
};

#define ERROR_MESSAGE_BYTES 1024

struct error {
    enum error_code code;
    char message[ERROR_MESSAGE_BYTES]; /* UTF-8, NUL-terminated, cut when too long */
};

/* Replaces what *err held. False: error_set(err, code, "format", ...). */
#define error_set(err, ...) (error_fill((err), __VA_ARGS__), error_false())

/* As error_set with ERROR_IO, and the text of `errno_value` after the message; ENOMEM becomes
 * ERROR_NO_MEMORY. False: error_set_errno(err, errno_value, "format", ...). */
#define error_set_errno(err, ...) (error_fill_errno((err), __VA_ARGS__), error_false())

/* Puts "<context>: " before the message that *err holds. False: error_in(err, "format", ...). */
#define error_in(err, ...) (error_prefix((err), __VA_ARGS__), error_false())

/* What the macros stand on. They are macros so that compilers and analysers see the false. */
void error_fill(struct error *err, enum error_code code, const char *format, ...) PRINTF_LIKE(3, 4);
void error_fill_errno(struct error *err, int errno_value, const char *format, ...)
    PRINTF_LIKE(3, 4);
void error_prefix(struct error *err, const char *format, ...) PRINTF_LIKE(2, 3);

static inline bool error_false(void)
{
    return false;
}

/* The exit code of a program that ends with this error: distinct for each code. */
int error_exit_code(enum error_code code);

/* A word for programs: "bad_request", "bad_file", ... */
const char *error_code_name(enum error_code code);

#endif
