/* What `sd35 serve` can be told. */
#ifndef CLI_SERVE_OPTIONS_H
#define CLI_SERVE_OPTIONS_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "cli/engine_options.h"

#define SERVE_WORKERS_MAX 16
#define SERVE_LIST_MAX 32

/* Texts are borrowed from the arguments and the environment. */
struct serve_settings {
    struct engine_settings engine;
    const char *outputs_dir, *user, *keep_fp8;

    const char *host;
    int port;
    const char *tls_cert, *tls_key;

    int max_batch, max_queue, max_queue_per_user, max_steps, max_count;
    double max_pixels, request_timeout, grace, disk_reserve; /* seconds; MiB */

    const char *auth, *api_auth, *htpasswd, *proxy_header, *trusted_proxy, *allowed_hosts;

    const char *log_format, *log_level;
    bool log_prompts;
};

extern const struct option_table serve_option_table;
extern const struct serve_settings serve_settings_unset; /* what counts where nothing is given */

/* *wants_help: the command line asks for the help and nothing was checked. */
MUST_CHECK bool serve_settings_parse(struct serve_settings *settings, bool *wants_help, int argc,
                                     char *const *argv, struct error *err);

/* What options mean together. */
MUST_CHECK bool serve_settings_check(const struct serve_settings *settings, struct error *err);

/* A list with commas, as texts with NULL at the end. */
struct serve_list {
    char *copy; /* owned */
    const char *items[SERVE_LIST_MAX + 1];
};
/* `text` NULL is an empty list. Fails with ERROR_BAD_REQUEST when there are too many. Free with
 * serve_list_finish. */
MUST_CHECK bool serve_list_split(struct serve_list *out, const char *option, const char *text,
                                 struct error *err);
void serve_list_finish(struct serve_list *list);

#endif
