/* A log's line in the making: text that is escaped, within room that never runs over. */
#ifndef SERVER_LOG_TEXT_H
#define SERVER_LOG_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"

#define LOG_TEXT_END_BYTES 24 /* that `room` leaves to log_text_end */

/* Start it as {.to = ..., .room = ...}. */
struct log_text {
    char *to;
    size_t used, room;
    bool is_cut;
};

void log_text_put(struct log_text *text, const char *bytes, size_t size);
void log_text_format(struct log_text *text, const char *format, ...) PRINTF_LIKE(2, 3);
/* `"key":"value"` with a comma before it where it is not the object's first. */
void log_text_member(struct log_text *text, const char *key, const char *value, bool is_number);
/* ` key=value`, the value between quotes where it has anything but plain characters. */
void log_text_pair(struct log_text *text, const char *key, const char *value);
/* Says whether something was cut, ends the line, and returns its length. */
size_t log_text_end(struct log_text *text, bool is_json);

#endif
