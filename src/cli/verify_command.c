/* `sd35 verify`: is this model whole, or the store of a server? */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/attributes.h"
#include "base/thread_pool.h"
#include "cli/byte_progress.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "convert/verify.h"
#include "store/store.h"

#define FIELD(name) offsetof(struct verify_settings, name)

struct verify_settings {
    const char *model, *store;
    int threads;
    bool quiet;
};

static const struct option options[] = {
    {"model", 'm', OPTION_TEXT, FIELD(model), "MODEL", 0, 0, NULL,
     "Folder in diffusers' layout, or a .safetensors file. Needs no --model before it.", NULL},
    {"store", 0, OPTION_TEXT, FIELD(store), "DIR", 0, 0, NULL,
     "Instead of a model: the outputs folder of a server that is stopped. Its jobs, pictures and "
     "files must agree.",
     NULL},
    {"threads", 't', OPTION_INTEGER, FIELD(threads), "N", 0, THREAD_POOL_MAX, NULL,
     "Default: 0, one for each CPU.", NULL},
    {"quiet", 'q', OPTION_FLAG, FIELD(quiet), NULL, 0, 0, NULL,
     "No progress and no figures: only defects and errors.", NULL},
};

static const struct option_pair conflicts[] = {{"model", "store"}};

static const struct option_table table = {
    .command = "sd35 verify",
    .usage = "MODEL | --store DIR [options]",
    .summary = "Checks every tensor of a model and all files against its manifest, or a store.",
    .conflicts = conflicts,
    .conflict_count = COUNT_OF(conflicts),
    .options = options,
    .option_count = COUNT_OF(options),
    .operand = "model",
};

/* One line each, on standard output: they are the result. */
static void print_defect(void *context, const char *sentence)
{
    char *clean = report_clean(sentence);

    progress_clear(context);
    puts(clean ? clean : "out of memory");
    fflush(stdout);
    free(clean);
}

static void print_summary(const struct verify_summary *summary)
{
    fprintf(stderr, "%zu tensors", summary->tensors);
    if (summary->has_manifest)
        fprintf(stderr, " and the %zu files of the manifest", summary->files);
    fputs(" checked", stderr);
    if (!summary->has_manifest)
        fputs("; there is no manifest to compare with", stderr);
    fputc('\n', stderr);
}

static bool verify(const struct verify_settings *settings, const atomic_bool *cancel,
                   struct error *err)
{
    struct verify_callbacks callbacks = {
        .defect = print_defect, .progress = byte_progress_show, .cancel = cancel};
    struct verify_summary summary;
    struct progress *progress;
    bool ok;

    if (!progress_create(&progress, settings->quiet, err))
        return false;
    callbacks.context = progress;
    ok = verify_model(settings->model, settings->threads, &callbacks, &summary, err);
    progress_destroy(progress);
    if (!ok)
        return false;
    if (!settings->quiet)
        print_summary(&summary);
    if (summary.defects > 0)
        return error_set(err, ERROR_BAD_FILE, "'%s' has %zu defect%s", settings->model,
                         summary.defects, summary.defects == 1 ? "" : "s");
    return true;
}

struct defects {
    struct progress *progress;
    size_t count;
};

static void print_store_defect(void *context, const char *sentence)
{
    struct defects *defects = context;

    defects->count++;
    print_defect(defects->progress, sentence);
}

static bool verify_store(const struct verify_settings *settings, struct error *err)
{
    struct defects defects = {0};
    int64_t checked = 0;
    bool ok;

    if (!progress_create(&defects.progress, settings->quiet, err))
        return false;
    ok = store_verify(settings->store, print_store_defect, &defects, &checked, err);
    progress_destroy(defects.progress);
    if (!ok)
        return false;
    if (!settings->quiet)
        fprintf(stderr, "%" PRId64 " jobs and files checked\n", checked);
    if (defects.count > 0)
        return error_set(err, ERROR_BAD_FILE, "'%s' has %zu defect%s", settings->store,
                         defects.count, defects.count == 1 ? "" : "s");
    return true;
}

int verify_command(int argc, char **argv, const atomic_bool *cancel)
{
    struct verify_settings settings = {0};
    struct error err = {0};
    bool wants_help;

    if (!options_parse(&settings, &wants_help, &table, argc, argv, &err))
        goto fail;
    if (wants_help) {
        options_print_help(stdout, &table);
        return 0;
    }
    if (!settings.model && !settings.store) {
        error_set(&err, ERROR_BAD_REQUEST,
                  "the model is missing: name its folder or file, or a --store");
        goto fail;
    }
    if (settings.store ? !verify_store(&settings, &err) : !verify(&settings, cancel, &err))
        goto fail;
    return 0;

fail:
    report_error(&err);
    return error_exit_code(err.code);
}
