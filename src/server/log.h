/* Log: one line an event, JSON or text, to standard error, each with a single write. Any thread
 * once log_setup has returned; never prompts or keys.
 *
 * Nothing that a value holds can end the line, begin another field or move a terminal's cursor:
 * control characters, those that turn the direction of writing around, and bytes that are not UTF-8
 * are escaped. A line has 4096 bytes at most, which a pipe takes whole: what does not fit is cut.
 */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
struct log_options {
    bool is_json;
    enum log_level level;
    bool with_prompts;   /* only when asked for */
    const char *process; /* "front", "worker 0", "supervisor" */
};
/* Before there are other threads. */
void log_setup(const struct log_options *options);
bool log_has_prompts(void);

/* A line: level, event ("job.done"), and fields: keys with printf's conversions, e.g.
 *   log_event(LOG_INFO, "job.done", "job=%s seconds=%.3f", id, seconds);
 * Where fields begin and end is the format's doing alone, so that values may hold anything. A
 * space of the format that belongs to a value stands between '"'. Job and request ids tie lines
 * together. */
void log_event(enum log_level level, const char *event, const char *format, ...) PRINTF_LIKE(3, 4);

/* The same for fields that come as a list. */
struct log_field {
    const char *key;
    const char *value;
    bool is_number; /* the value is one of JSON's numbers: no quotes */
};
void log_fields(enum log_level level, const char *event, const struct log_field *fields,
                size_t count);

#define LOG_LINE_BYTES_MAX 4096
#define LOG_FIELDS_MAX 32

/* What is written, as a function of everything that goes into it: returns the length with the line
 * feed at its end. `wall_ms` since 1970. */
size_t log_make_line(char line[LOG_LINE_BYTES_MAX], const struct log_options *options,
                     int64_t wall_ms, enum log_level level, const char *event,
                     const struct log_field *fields, size_t count);

#endif
