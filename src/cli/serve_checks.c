#include "cli/serve_checks.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/log.h"

#define ROOT "" /* the system's */
#define MEBIBYTE 1048576.0
#define SCOUT_NICE 10

static struct pipeline_options pipeline_options_of(const struct serve_settings *settings,
                                                   const char *model)
{
    struct pipeline_options options = engine_pipeline_options(&settings->engine, MEMORY_ALL);

    options.model = model;
    return options;
}

static void check_folder(struct findings *findings, const struct serve_settings *settings,
                         bool syncs)
{
    check_outputs(findings, ROOT, settings->outputs_dir, settings->disk_reserve * MEBIBYTE, syncs);
}

static struct gpu_check gpu_check_of(const struct serve_settings *settings,
                                     const char *const *devices, bool opens)
{
    return (struct gpu_check){.root = ROOT,
                              .devices = devices,
                              .cpu_level = settings->engine.cpu_level,
                              .precision = settings->engine.precision,
                              .opens = opens};
}

/* The model that the options mean. One that is named by a path is looked into even where it is no
 * model: what a download left behind tells why. */
static void check_meant_model(struct findings *findings, const struct serve_settings *settings,
                              bool draws_on_cpu)
{
    const char *path = settings->engine.model;
    struct found_model found = {0};
    struct pipeline_options options;
    struct error err;

    if (engine_find_model(&found, &settings->engine, &err))
        path = found.path;
    else if (!path || (!strchr(path, '/') && access(path, F_OK) != 0))
        path = NULL;
    options = pipeline_options_of(settings, path);
    if (path)
        check_model(findings, ROOT, &options, draws_on_cpu);
    else
        findings_add(findings, FINDING_FAIL, CHECK_MODEL_NOT_FOUND, "message", err.message, NULL);
    found_model_finish(&found);
}

void serve_check_all(struct findings *findings, const struct serve_settings *settings,
                     void (*tell)(const struct findings *findings))
{
    struct serve_list devices = {0};
    struct gpu_check gpus;
    struct gpu_list list;
    bool draws_on_cpu = false;

    check_folder(findings, settings, true);
    tell(findings);
    check_port(findings, settings->host, settings->port);
    tell(findings);
    if (serve_list_split(&devices, "--device", settings->engine.device, NULL)) {
        gpus = gpu_check_of(settings, devices.items, true);
        check_gpus(findings, &gpus, &list, &draws_on_cpu);
        if (draws_on_cpu)
            check_cpu(findings, settings->engine.cpu_level, settings->engine.threads);
        serve_list_finish(&devices);
    }
    check_shared_memory(findings, ROOT);
    tell(findings);
    check_meant_model(findings, settings, draws_on_cpu);
    tell(findings);
}

/* --- When a server starts --- */

/* The lock is waited for by the store: who held it may be ending. A disk that is short of room is
 * no reason not to start either: what was drawn can be had. */
static bool keeps_from_starting(const struct finding *finding)
{
    return finding->level == FINDING_FAIL && strcmp(finding->code, "outputs_in_use") != 0 &&
           strcmp(finding->code, "outputs_full") != 0;
}

/* What a person got wrong, and what the system refuses. */
static enum error_code code_of(const struct finding *finding)
{
    static const char *const refusals[] = {"outputs", "port"};

    if (strcmp(finding->code, "host_unknown") == 0)
        return ERROR_BAD_REQUEST;
    for (size_t i = 0; i < COUNT_OF(refusals); i++)
        if (strcmp(finding->subject, refusals[i]) == 0)
            return ERROR_IO;
    return ERROR_BAD_REQUEST;
}

static bool fail_with(const struct findings *findings, const struct finding *finding,
                      enum error_code code, struct error *err)
{
    return error_set(err, code, "%s%s%s", finding->found,
                     findings->language == LANGUAGE_CHINESE ? "。解决办法：" : "; cure: ",
                     finding->cure ? finding->cure : "");
}

bool serve_explain_model(const struct serve_settings *settings, struct error *err)
{
    struct findings findings = {.language = language_of_environment()};

    check_meant_model(&findings, settings, false);
    if (findings.count > 0 && findings.items[0].level == FINDING_FAIL)
        (void)fail_with(&findings, &findings.items[0], err->code, err);
    findings_finish(&findings);
    return false;
}

bool serve_check_start(const struct serve_settings *settings, const char *model,
                       const char *const *devices, struct error *err)
{
    struct findings findings = {.language = language_of_environment()};
    bool ok = true;

    check_device_names(&findings, devices);
    if (settings->engine.cpu_level)
        check_cpu(&findings, settings->engine.cpu_level, settings->engine.threads);
    if (check_model_path(&findings, model)) {
        check_folder(&findings, settings, false); /* the store syncs soon enough */
        check_port(&findings, settings->host, settings->port);
    }
    for (size_t i = 0; i < findings.count && ok; i++) {
        const struct finding *finding = &findings.items[i];

        if (keeps_from_starting(finding))
            ok = fail_with(&findings, finding, code_of(finding), err);
    }
    findings_finish(&findings);
    return ok;
}

/* A small /dev/shm is nothing to a server: only those who ask are told. */
static bool is_for_the_log(const struct finding *finding)
{
    return finding->level != FINDING_OK && strcmp(finding->code, "shm_small") != 0;
}

static void log_findings(const struct findings *findings)
{
    for (size_t i = 0; i < findings->count; i++) {
        const struct finding *finding = &findings->items[i];
        const struct log_field fields[] = {{.key = "code", .value = finding->code},
                                           {.key = "found", .value = finding->found},
                                           {.key = "cure", .value = finding->cure}};

        if (is_for_the_log(finding))
            log_fields(finding->level == FINDING_FAIL ? LOG_ERROR : LOG_WARNING, "check", fields,
                       finding->cure ? COUNT_OF(fields) : COUNT_OF(fields) - 1);
    }
}

void serve_check_rest(const struct serve_settings *settings, const char *model,
                      const char *const *devices,
                      void (*found)(void *context, const struct gpu_list *list), void *context)
{
    const struct pipeline_options options = pipeline_options_of(settings, model);
    const struct gpu_check gpus = gpu_check_of(settings, devices, false);
    struct findings findings = {.language = language_of_environment()};
    struct gpu_list list;
    bool draws_on_cpu;

    check_gpus(&findings, &gpus, &list, &draws_on_cpu);
    found(context, &list);
    (void)!nice(SCOUT_NICE); /* from here on nobody waits for it */
    if (draws_on_cpu && !settings->engine.cpu_level)
        check_cpu(&findings, NULL, settings->engine.threads);
    check_shared_memory(&findings, ROOT);
    check_model(&findings, ROOT, &options, draws_on_cpu);
    log_findings(&findings);
    findings_finish(&findings);
}
