/* Log: one line an event, JSON or text, to standard error, whole lines only. Any thread; never
 * prompts or keys, control bytes escaped.
 */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <stdbool.h>

#include "base/attributes.h"

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
struct log_options {
    bool is_json;
    enum log_level level;
    bool with_prompts;   /* only when asked for */
    const char *process; /* "front", "worker 0", "supervisor" */
};
void log_setup(const struct log_options *options);
bool log_has_prompts(void);

/* A line: level, event ("job.done"), and fields: pairs of key and a printf value, e.g.
 *   log_event(LOG_INFO, "job.done", "job=%s seconds=%.3f", id, seconds);
 * Values may have spaces when quoted by log_quoted. job and request ids tie lines together. */
void log_event(enum log_level level, const char *event, const char *format, ...) PRINTF_LIKE(3, 4);

#endif
