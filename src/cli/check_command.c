/* `sd35 check`: what would keep `sd35 serve` with the same options from starting, and the cure; and
 * whether a server that runs is ready, for containers' health checks. */
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check/health_client.h"
#include "cli/commands.h"
#include "cli/json_output.h"
#include "cli/process_user.h"
#include "cli/report.h"
#include "cli/serve_checks.h"

#define FIELD(name) offsetof(struct check_settings, name)
#define PORT_NOT_GIVEN (-1)
#define HEALTH_SECONDS 5
#define EXIT_FAILED 1

struct check_settings {
    struct serve_settings serve; /* first: its offsets are those of serve's table */
    bool health, json;
};

static const struct option own_options[] = {
    {"health", 0, OPTION_FLAG, FIELD(health), NULL, 0, 0, NULL,
     "Only ask the server that runs on --outputs-dir, or on --port of this machine, whether it is "
     "ready.",
     "Check"},
    {"json", 0, OPTION_FLAG, FIELD(json), NULL, 0, 0, NULL, "The findings as a JSON object.", NULL},
};

/* Serve's options and ours. `options` has OPTIONS_MAX places. */
static struct option_table make_table(struct option *options)
{
    struct option_table table = serve_option_table;

    memcpy(options, own_options, sizeof own_options);
    memcpy(options + COUNT_OF(own_options), serve_option_table.options,
           serve_option_table.option_count * sizeof *options);
    table.command = "sd35 check";
    table.usage = "[options of 'sd35 serve']";
    table.summary = "Tells what would keep a server with these options from starting, and the "
                    "cure; or with --health, whether it is ready.";
    table.options = options;
    table.option_count += COUNT_OF(own_options);
    return table;
}

/* --- The health of a server --- */

static void end_of_patience(int signal)
{
    static const char message[] = "sd35: not ready: no answer within 5 s\n";

    (void)signal;
    (void)!write(STDERR_FILENO, message, sizeof message - 1);
    _exit(EXIT_FAILED);
}

static int check_health(const struct serve_settings *settings, bool is_port_given)
{
    struct health_address address =
        health_address_of(settings->host, settings->port, settings->tls_cert != NULL);
    struct error err;

    signal(SIGALRM, end_of_patience);
    alarm(HEALTH_SECONDS);
    if ((!is_port_given && !health_address_read(&address, settings->outputs_dir, &err)) ||
        !health_ask(&address, &err)) {
        report_error(&err);
        return EXIT_FAILED;
    }
    puts("ready");
    return 0;
}

/* --- Telling --- */

static void print_clean(const char *before, const char *text)
{
    char *clean = report_clean(text);

    printf("%s%s\n", before, clean ? clean : "?");
    free(clean);
}

/* Those that were not printed yet: some checks take seconds. */
static void print_new(const struct findings *findings)
{
    static const char *const levels[] = {
        [FINDING_OK] = "ok", [FINDING_NOTE] = "note", [FINDING_FAIL] = "FAIL"};
    static size_t printed;

    for (; printed < findings->count; printed++) {
        const struct finding *finding = &findings->items[printed];
        char before[64];

        snprintf(before, sizeof before, "%-4s  %-8s ", levels[finding->level], finding->subject);
        print_clean(before, finding->found);
        if (finding->cure)
            print_clean(findings->language == LANGUAGE_CHINESE ? "      解决办法："
                                                               : "      cure: ",
                        finding->cure);
    }
    fflush(stdout);
}

static void print_nothing(const struct findings *findings)
{
    (void)findings;
}

static json_t *finding_json(const struct finding *finding)
{
    static const char *const levels[] = {
        [FINDING_OK] = "ok", [FINDING_NOTE] = "note", [FINDING_FAIL] = "fail"};
    char *found = report_clean(finding->found);
    char *cure = finding->cure ? report_clean(finding->cure) : NULL;
    json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:s?}", "level", levels[finding->level], "check",
                             finding->subject, "code", finding->code, "found", found ? found : "",
                             "cure", cure);

    free(found);
    free(cure);
    return json;
}

static bool print_json(const struct findings *findings, struct error *err)
{
    json_t *list = json_array();
    char *text;

    for (size_t i = 0; i < findings->count; i++)
        json_array_append_new(list, finding_json(&findings->items[i]));
    if (!json_output_format(
            &text,
            json_pack("{s:b, s:o}", "ok", !findings_have(findings, FINDING_FAIL), "findings", list),
            err))
        return false;
    puts(text);
    free(text);
    return true;
}

static bool check_all(bool *is_fine, const struct check_settings *settings, struct error *err)
{
    struct findings findings = {.language = language_of_environment()};
    bool ok = true;

    serve_check_all(&findings, &settings->serve, settings->json ? print_nothing : print_new);
    *is_fine = !findings_have(&findings, FINDING_FAIL);
    if (settings->json)
        ok = print_json(&findings, err);
    findings_finish(&findings);
    return ok;
}

int check_command(int argc, char **argv, const atomic_bool *cancel)
{
    struct check_settings settings = {.serve = serve_settings_unset};
    struct option options[OPTIONS_MAX];
    const struct option_table table = make_table(options);
    bool wants_help, is_port_given, is_fine = true;
    struct error err;

    (void)cancel;
    settings.serve.port = PORT_NOT_GIVEN;
    if (!options_parse(&settings, &wants_help, &table, argc, argv, &err) ||
        (!wants_help && !serve_settings_check(&settings.serve, &err))) {
        report_error(&err);
        return error_exit_code(err.code);
    }
    if (wants_help) {
        options_print_help(stdout, &table);
        return 0;
    }
    is_port_given = settings.serve.port > 0;
    if (settings.serve.port == PORT_NOT_GIVEN)
        settings.serve.port = serve_settings_unset.port;
    if (settings.health)
        return check_health(&settings.serve, is_port_given);
    /* As whom serve would become: root may write where nobody else may. */
    if (!process_user_adopt(settings.serve.user, settings.serve.outputs_dir, &err) ||
        !check_all(&is_fine, &settings, &err)) {
        report_error(&err);
        return error_exit_code(err.code);
    }
    return is_fine ? 0 : EXIT_FAILED;
}
