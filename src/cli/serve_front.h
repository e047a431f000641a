/* The front of `sd35 serve`: everything that answers, put together. */
#ifndef CLI_SERVE_FRONT_H
#define CLI_SERVE_FRONT_H

#include "cli/serve_options.h"

/* `model` is where it lies. Runs in a process of its own until SIGTERM or SIGINT drained it.
 * Returns its exit code. */
int serve_front(const struct serve_settings *settings, const char *model, int control_fd);

#endif
