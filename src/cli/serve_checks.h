/* What `sd35 check` tells and `sd35 serve` looks at when it starts: the checks, for the options of
 * a server. */
#ifndef CLI_SERVE_CHECKS_H
#define CLI_SERVE_CHECKS_H

#include "check/checks.h"
#include "cli/serve_options.h"

/* One by one, `tell` being called after each with the findings so far. */
void serve_check_all(struct findings *findings, const struct serve_settings *settings,
                     void (*tell)(const struct findings *findings));

/* Of a server that starts, what nobody would survive: names of devices, the model's path, the
 * folder, the port. Takes a moment. False when it cannot start, with the error, cure included. */
MUST_CHECK bool serve_check_start(const struct serve_settings *settings, const char *model,
                                  const char *const *devices, struct error *err);

/* After *err came of a model that cannot be found: adds the cure. Always false. */
bool serve_explain_model(const struct serve_settings *settings, struct error *err);

/* The rest, which takes longer: into the log. Finds the GPUs of "auto" first, and calls `found`. */
void serve_check_rest(const struct serve_settings *settings, const char *model,
                      const char *const *devices,
                      void (*found)(void *context, const struct gpu_list *list), void *context);

#endif
