#include "cli/serve_options.h"

#include <stdlib.h>
#include <string.h>

#include "cli/process_user.h"
#include "pipeline/pipeline.h"

#define FIELD(name) offsetof(struct serve_settings, name)
#define SECONDS_MAX 86400.0
#define QUEUE_MAX 1000000
#define PIXELS_MAX 1e9
#define MEBIBYTES_MAX 1e9

static const struct option options[] = {
    {"host", 0, OPTION_TEXT, FIELD(host), "ADDRESS", 0, 0, NULL,
     "Address to listen on. Default: 0.0.0.0, all of IPv4.", "Network"},
    {"listen", 0, OPTION_TEXT, FIELD(host), "ADDRESS", 0, 0, NULL, "The same as --host.", NULL},
    {"port", 0, OPTION_INTEGER, FIELD(port), "N", 0, 65535, NULL,
     "Default: 7860; 0 takes any free one.", NULL},
    {"tls-cert", 0, OPTION_TEXT, FIELD(tls_cert), "FILE", 0, 0, NULL,
     "Certificate chain in PEM: serves HTTPS. For those without a proxy that does.", NULL},
    {"tls-key", 0, OPTION_TEXT, FIELD(tls_key), "FILE", 0, 0, NULL, "Its key.", NULL},

    ENGINE_MODEL_OPTIONS(struct serve_settings),
    {"outputs-dir", 0, OPTION_TEXT, FIELD(outputs_dir), "DIR", 0, 0, NULL,
     "Pictures, history and queue. Default: outputs.", NULL},
    PROCESS_USER_OPTION(FIELD(user)),
    {"keep-fp8", 0, OPTION_CHOICE, FIELD(keep_fp8), "on|off", 0, 0, "on|off",
     "With --fp8: keep what a 16-bit model was converted to, in .sd35 of --models-dir or of "
     "--outputs-dir, for the next start. Default: on.",
     NULL},

    ENGINE_MACHINE_OPTIONS(struct serve_settings),

    {"max-batch", 0, OPTION_INTEGER, FIELD(max_batch), "N", 1, PIPELINE_IMAGES_MAX, NULL,
     "Pictures that are drawn together, as far as memory goes. Default: 2.", "Limits"},
    {"max-queue", 0, OPTION_INTEGER, FIELD(max_queue), "N", 1, QUEUE_MAX, NULL,
     "Requests that wait; more are answered with 429. Default: 1000.", NULL},
    {"max-queue-per-user", 0, OPTION_INTEGER, FIELD(max_queue_per_user), "N", 1, QUEUE_MAX, NULL,
     "The same for one user or key. Default: 64.", NULL},
    {"max-pixels", 0, OPTION_NUMBER, FIELD(max_pixels), "N", 1, PIXELS_MAX, NULL,
     "Of one picture. Default: 4194304, 2048 x 2048.", NULL},
    {"max-steps", 0, OPTION_INTEGER, FIELD(max_steps), "N", 1, PIPELINE_STEPS_MAX, NULL,
     "Of one picture. Default: 100.", NULL},
    {"max-images", 0, OPTION_INTEGER, FIELD(max_count), "N", 1, 16, NULL,
     "Of one request. Default: 10.", NULL},
    {"request-timeout", 0, OPTION_NUMBER, FIELD(request_timeout), "SECONDS", 0, SECONDS_MAX, NULL,
     "From a request to its last picture. Default: 1800; 0: none.", NULL},
    {"grace", 0, OPTION_NUMBER, FIELD(grace), "SECONDS", 0, SECONDS_MAX, NULL,
     "For running requests when the server is stopped; what waits is kept. Default: 30.", NULL},
    {"disk-reserve", 0, OPTION_NUMBER, FIELD(disk_reserve), "MIB", 0, MEBIBYTES_MAX, NULL,
     "Room that stays free on the outputs' disk. Default: 256.", NULL},

    {"auth", 0, OPTION_CHOICE, FIELD(auth), "on|off", 0, 0, "on|off",
     "Default: on. Without a key or user, the first start makes a key and prints it once.",
     "Access"},
    {"api-auth", 0, OPTION_TEXT, FIELD(api_auth), "USER:PASSWORD,...", 0, 0, NULL,
     "Users for Basic authentication.", NULL},
    {"htpasswd", 0, OPTION_TEXT, FIELD(htpasswd), "FILE", 0, 0, NULL,
     "More of them, with hashed passwords, as Apache's htpasswd -B makes it.", NULL},
    {"proxy-header", 0, OPTION_TEXT, FIELD(proxy_header), "NAME", 0, 0, NULL,
     "Header in which a trusted proxy names the user, as X-Auth-Request-User.", NULL},
    {"trusted-proxy", 0, OPTION_TEXT, FIELD(trusted_proxy), "CIDR,...", 0, 0, NULL,
     "Addresses whose forwarding headers, and --proxy-header, are believed.", NULL},
    {"allowed-hosts", 0, OPTION_TEXT, FIELD(allowed_hosts), "NAME,...", 0, 0, NULL,
     "Names under which browsers may reach the server, beside addresses and localhost.", NULL},

    {"log-format", 0, OPTION_CHOICE, FIELD(log_format), "text|json", 0, 0, "text|json",
     "One line an event, on standard error. Default: text.", "Log"},
    {"log-level", 0, OPTION_CHOICE, FIELD(log_level), "LEVEL", 0, 0, "error|warning|info|debug",
     "error, warning, info (default) or debug.", NULL},
    {"log-prompts", 0, OPTION_FLAG, FIELD(log_prompts), NULL, 0, 0, NULL,
     "Prompts, too; they are left out otherwise.", NULL},
};

static const struct option_pair conflicts[] = {ENGINE_CONFLICTS, {"host", "listen"}};

static const struct option_pair dependents[] = {
    {"tls-cert", "tls-key"},
    {"tls-key", "tls-cert"},
    {"proxy-header", "trusted-proxy"},
};

const struct option_table serve_option_table = {
    .command = "sd35 serve",
    .usage = "[options]",
    .summary = "Serves the page and the HTTP APIs.",
    .options = options,
    .option_count = COUNT_OF(options),
    .conflicts = conflicts,
    .conflict_count = COUNT_OF(conflicts),
    .dependents = dependents,
    .dependent_count = COUNT_OF(dependents),
};

_Static_assert(COUNT_OF(options) + 2 <= OPTIONS_MAX, /* two are those of 'sd35 check' */
               "options_parse has room for them");

const struct serve_settings serve_settings_unset = {
    .outputs_dir = "outputs",
    .host = "0.0.0.0",
    .port = 7860,
    .max_batch = 2,
    .max_queue = 1000,
    .max_queue_per_user = 64,
    .max_pixels = 2048.0 * 2048.0,
    .max_steps = 100,
    .max_count = 10,
    .request_timeout = 1800,
    .grace = 30,
    .disk_reserve = 256,
    .keep_fp8 = "on",
    .auth = "on",
    .log_format = "text",
    .log_level = "info",
};

bool serve_settings_check(const struct serve_settings *settings, struct error *err)
{
    if (strcmp(settings->auth, "off") == 0 &&
        (settings->api_auth || settings->htpasswd || settings->proxy_header))
        return error_set(err, ERROR_BAD_REQUEST,
                         "--auth off: --api-auth, --htpasswd and --proxy-header would do nothing");
    return true;
}

bool serve_settings_parse(struct serve_settings *settings, bool *wants_help, int argc,
                          char *const *argv, struct error *err)
{
    *settings = serve_settings_unset;
    if (!options_parse(settings, wants_help, &serve_option_table, argc, argv, err))
        return false;
    return *wants_help || serve_settings_check(settings, err);
}

bool serve_list_split(struct serve_list *out, const char *option, const char *text,
                      struct error *err)
{
    size_t count = 0;
    char *rest, *item;

    *out = (struct serve_list){0};
    if (!text)
        return true;
    out->copy = strdup(text);
    if (!out->copy)
        return error_set(err, ERROR_NO_MEMORY, "%s", option);
    for (item = strtok_r(out->copy, ", ", &rest); item; item = strtok_r(NULL, ", ", &rest)) {
        if (count == SERVE_LIST_MAX) {
            serve_list_finish(out);
            return error_set(err, ERROR_BAD_REQUEST, "%s: more than %d", option, SERVE_LIST_MAX);
        }
        out->items[count++] = item;
    }
    return true;
}

void serve_list_finish(struct serve_list *list)
{
    free(list->copy);
    *list = (struct serve_list){0};
}
