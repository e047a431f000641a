/* `sd35 serve`: a supervisor, a front that answers, workers that draw. */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/process_user.h"
#include "cli/report.h"
#include "cli/serve_checks.h"
#include "cli/serve_front.h"
#include "cli/serve_model.h"
#include "cli/serve_options.h"
#include "server/log.h"
#include "server/supervisor.h"
#include "worker/worker.h"

#define PREVIEW_SECONDS 0.25
#define PROMPTS_KEPT 16
#define HEAPS_MAX 2 /* of a process */

struct serve {
    struct serve_settings settings;
    struct serve_list devices; /* one worker each */
    int worker_count;
    struct serve_model model;
    struct gpu_list *gpus; /* of "auto": memory that all processes share; written by the scout, and
                              by it alone, before there are workers */
};

static enum log_level log_level_of(const char *name)
{
    static const char *const names[] = {[LOG_ERROR] = "error",
                                        [LOG_WARNING] = "warning",
                                        [LOG_INFO] = "info",
                                        [LOG_DEBUG] = "debug"};

    for (int i = 0; i < (int)COUNT_OF(names); i++)
        if (strcmp(names[i], name) == 0)
            return (enum log_level)i;
    return LOG_INFO;
}

static void set_up_log(const struct serve *serve, const char *process)
{
    log_setup(&(struct log_options){
        .is_json = strcmp(serve->settings.log_format, "json") == 0,
        .level = log_level_of(serve->settings.log_level),
        .with_prompts = serve->settings.log_prompts,
        .process = process,
    });
}

/* What main() watches for is the supervisor's to send. */
static void take_default_signals(void)
{
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
}

static int run_front(void *context, int control_fd)
{
    const struct serve *serve = context;

    take_default_signals();
    set_up_log(serve, "front");
    return serve_front(&serve->settings, serve->model.found.path, control_fd);
}

/* Whether the GPUs that there are say how many workers there will be. */
static bool takes_any(const struct serve *serve)
{
    const char *device = serve->devices.items[0];

    return !device || (strcmp(device, "auto") == 0 && !serve->devices.items[1]);
}

/* One GPU that is the first one needs no name, and "auto" takes the CPU when it does not work. */
static const char *device_of(const struct serve *serve, uint32_t index, char name[16])
{
    const struct gpu_list *gpus = serve->gpus;

    if (!takes_any(serve))
        return serve->devices.items[index];
    if (gpus->count == 0 || (gpus->count == 1 && gpus->index[0] == 0))
        return NULL;
    snprintf(name, 16, "cuda:%d", gpus->index[index]);
    return name;
}

/* What the scout found, as the supervisor is told it. */
struct scouting {
    const struct serve *serve;
    int tell_fd;
};

static void tell_workers(void *context, const struct gpu_list *list)
{
    const struct scouting *scouting = context;
    const struct serve *serve = scouting->serve;
    int count = serve->worker_count;
    unsigned char byte;

    if (takes_any(serve) && list->count > 0) {
        *serve->gpus = *list;
        count = list->count < SERVE_WORKERS_MAX ? list->count : SERVE_WORKERS_MAX;
    }
    byte = (unsigned char)count;
    (void)!write(scouting->tell_fd, &byte, 1);
}

/* Looks at what takes time, in a process of its own: GPUs and the model. */
static int run_scout(void *context, int tell_fd)
{
    const struct serve *serve = context;
    struct scouting scouting = {serve, tell_fd};

    take_default_signals();
    prctl(PR_SET_NAME, "sd35-scout");
    set_up_log(serve, "scout");
    serve_check_rest(&serve->settings, serve->model.found.path, serve->devices.items, tell_workers,
                     &scouting);
    return 0;
}

static int run_worker(void *context, uint32_t index, int channel_fd, struct heartbeat *heartbeat)
{
    struct serve *serve = context;
    struct worker_options options = {
        .pipeline = engine_pipeline_options(&serve->settings.engine, MEMORY_ALL),
        .max_batch = serve->settings.max_batch,
        .preview_seconds = PREVIEW_SECONDS,
        .heartbeat = heartbeat,
        .prepare = serve_model_prepare,
        .prepare_context = &serve->model,
    };
    const char *device;
    char process[32], name[16];

    take_default_signals();
    snprintf(process, sizeof process, "worker %u", index);
    set_up_log(serve, process);
    options.pipeline.model = serve->model.found.path;
    options.pipeline.model_name = serve->model.found.name;
    options.pipeline.prompts_kept = PROMPTS_KEPT;
    device = device_of(serve, index, name);
    if (device)
        options.pipeline.device = device;
    return worker_run(channel_fd, &options);
}

/* "cuda:0,cuda:1" is a worker for each. */
static bool list_devices(struct serve *serve, struct error *err)
{
    if (!serve_list_split(&serve->devices, "--device", serve->settings.engine.device, err))
        return false;
    while (serve->worker_count < SERVE_LIST_MAX && serve->devices.items[serve->worker_count])
        serve->worker_count++;
    if (serve->worker_count > SERVE_WORKERS_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "--device: more than %d devices",
                         SERVE_WORKERS_MAX);
    if (serve->worker_count == 0)
        serve->worker_count = 1;
    return true;
}

/* What is wrong with a model that cannot be found is told with its cure. */
static bool find_model(struct serve *serve, struct error *err)
{
    return serve_model_find(&serve->model, &serve->settings, err) ||
           serve_explain_model(&serve->settings, err);
}

/* Before anything is started: each process would say it for itself. */
static bool prepare(struct serve *serve, struct error *err)
{
    const char *outputs = serve->settings.outputs_dir;

    if (!serve_check_start(&serve->settings, serve->model.found.path, serve->devices.items, err))
        return false;
    if (mkdir(outputs, 0755) != 0 && errno != EEXIST)
        return error_set(err, ERROR_IO, "making '%s': %s", outputs, strerror(errno));
    serve->gpus =
        mmap(NULL, sizeof *serve->gpus, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (serve->gpus == MAP_FAILED) {
        serve->gpus = NULL;
        return error_set_errno(err, errno, "memory that processes share");
    }
    return true;
}

/* Each thread that has to wait for the heap would get one of its own, up to eight for each CPU, and
 * what is freed stays with the heap that it came from: with a dozen threads that handle requests a
 * container pays for the peaks of all. Two are enough: nothing of ours is bound by the heap. */
static void limit_heaps(void)
{
    if (!getenv("MALLOC_ARENA_MAX"))
        (void)mallopt(M_ARENA_MAX, HEAPS_MAX);
}

static int supervise(struct serve *serve)
{
    const struct supervisor_options options = {
        .worker_count = serve->worker_count,
        .grace = serve->settings.grace,
        .front = run_front,
        .worker = run_worker,
        .scout = run_scout,
        .context = serve,
    };

    limit_heaps();
    return supervisor_run(&options);
}

int serve_command(int argc, char **argv, const atomic_bool *cancel)
{
    struct serve serve = {0};
    bool wants_help;
    struct error err;
    int code;

    (void)cancel; /* the supervisor watches signals itself */
    if (!serve_settings_parse(&serve.settings, &wants_help, argc, argv, &err)) {
        report_error(&err);
        return error_exit_code(err.code);
    }
    if (wants_help) {
        options_print_help(stdout, &serve_option_table);
        return 0;
    }
    set_up_log(&serve, "supervisor");
    if (process_user_adopt(serve.settings.user, serve.settings.outputs_dir, &err) &&
        list_devices(&serve, &err) && find_model(&serve, &err) && prepare(&serve, &err)) {
        code = supervise(&serve);
    } else {
        report_error(&err);
        code = error_exit_code(err.code);
    }
    if (serve.gpus)
        munmap(serve.gpus, sizeof *serve.gpus);
    serve_model_finish(&serve.model);
    serve_list_finish(&serve.devices);
    return code;
}
