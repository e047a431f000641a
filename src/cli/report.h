/* Sentences for people, on standard error. */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include <stdio.h>

#include "base/attributes.h"
#include "base/error.h"

/* "sd35: <message>" in one line. What the message quotes cannot move the cursor or break the
 * line. */
void report_error(const struct error *err);
void report_warning(const char *format, ...) PRINTF_LIKE(1, 2);

/* `text` without control characters and without anything that is not UTF-8. The caller frees the
 * result; NULL when memory is short. */
char *report_clean(const char *text);

#endif
