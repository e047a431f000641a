/* sd35-velocity: one evaluation of the transformer on inputs from a file, for comparing what it
 * predicts, and how fast, with other engines (beside_pytorch.py).
 *
 * The input is a safetensors file of F32 tensors: latent [B, 16, H, W], context [B, Tc, 4096],
 * pooled [B, 2048], timestep [B]. The output has velocity [B, 16, H, W], F32.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/weight_list.h"
#include "base/arena.h"
#include "base/clock.h"
#include "cli/options.h"
#include "model/mmdit.h"
#include "weights/model_files.h"
#include "weights/safetensors.h"

#define BATCH_MAX 64
#define REPEATS_MAX 10000
/* The first loads and tunes, the second is recorded, the third is the first that is replayed. */
#define EVALUATIONS_LEFT_OUT 3

#define FIELD(name) offsetof(struct settings, name)

struct settings {
    const char *model, *device, *precision, *input, *output;
    int repeats;
};

static const struct option options[] = {
    {"model", 'm', OPTION_TEXT, FIELD(model), "DIR", 0, 0, NULL,
     "Folder in diffusers' layout, or a .safetensors file.", NULL},
    {"device", 0, OPTION_TEXT, FIELD(device), "NAME", 0, 0, NULL,
     "auto (default), cpu, cuda, cuda:1, ..., or ref.", NULL},
    {"precision", 0, OPTION_TEXT, FIELD(precision), "NAME", 0, 0, NULL,
     "What a GPU multiplies in: auto (default), fp8, bf16, fp16 or f32.", NULL},
    {"input", 'i', OPTION_TEXT, FIELD(input), "FILE", 0, 0, NULL,
     "Safetensors with latent, context, pooled and timestep (1000 sigma), all F32.", NULL},
    {"output", 'o', OPTION_TEXT, FIELD(output), "FILE", 0, 0, NULL,
     "Safetensors to write: velocity, F32.", NULL},
    {"repeat", 'r', OPTION_INTEGER, FIELD(repeats), "N", 0, REPEATS_MAX, NULL,
     "Time N further evaluations. Default: 0.", NULL},
};

static const struct option_table option_table = {
    .command = "sd35-velocity",
    .usage = "--model DIR --input FILE --output FILE [options]",
    .summary = "Evaluates a model's transformer once on given inputs.",
    .options = options,
    .option_count = COUNT_OF(options),
};

/* On the host, or on the device in the types that mmdit.h asks for. */
struct inputs {
    struct tensor latent, context, pooled, timestep;
};

struct evaluator {
    struct backend *backend;
    const struct backend_ops *ops;
    struct stream *stream;
    struct model_files *files;
    struct mmdit *mmdit;
    struct held_weights *held; /* NULL on hosts */
    struct safetensors_file *file;
    struct inputs host; /* views of the file */
    struct arena arena;
    struct inputs device;
    struct tensor context_f32, pooled_f32; /* as uploaded, before they become f */
    struct tensor velocity;
    struct mmdit_plan *plan;
};

/* --- Opening --- */

static bool find_input(struct tensor *out, const struct safetensors_file *file, const char *name,
                       int rank, struct error *err)
{
    const struct safetensors_entry *entry = safetensors_find(file, name);

    if (!entry)
        return error_set(err, ERROR_BAD_FILE, "'%s' is missing", name);
    if (entry->dtype != SAFETENSORS_F32 || entry->rank != rank)
        return error_set(err, ERROR_BAD_FILE, "'%s' is %s with %d dimensions, not F32 with %d",
                         name, entry->dtype_name, entry->rank, rank);
    /* Nothing writes through it. */
    *out = tensor_of((void *)(uintptr_t)entry->data, DTYPE_F32, rank, entry->dim);
    return true;
}

static bool check_input(const char *name, int64_t batch, int64_t want_batch, int64_t width,
                        int64_t want_width, struct error *err)
{
    if (batch == want_batch && width == want_width)
        return true;
    return error_set(
        err, ERROR_BAD_FILE, "'%s' has %lld samples %lld wide, not %lld samples %lld wide", name,
        (long long)batch, (long long)width, (long long)want_batch, (long long)want_width);
}

static bool read_inputs(struct inputs *in, const struct safetensors_file *file,
                        const struct mmdit_shape *shape, struct error *err)
{
    int64_t batch;

    if (!find_input(&in->latent, file, "latent", 4, err) ||
        !find_input(&in->context, file, "context", 3, err) ||
        !find_input(&in->pooled, file, "pooled", 2, err) ||
        !find_input(&in->timestep, file, "timestep", 1, err))
        return false;
    batch = in->timestep.dim[0];
    if (batch < 1 || batch > BATCH_MAX || in->context.dim[1] < 1)
        return error_set(err, ERROR_BAD_FILE, "%lld samples of %lld text tokens: 1 to %d, of some",
                         (long long)batch, (long long)in->context.dim[1], BATCH_MAX);
    return check_input("latent", in->latent.dim[0], batch, in->latent.dim[1],
                       shape->latent_channels, err) &&
           check_input("context", in->context.dim[0], batch, in->context.dim[2],
                       shape->context_width, err) &&
           check_input("pooled", in->pooled.dim[0], batch, in->pooled.dim[1], shape->pooled_width,
                       err);
}

static bool open_model(struct evaluator *e, const struct settings *settings, struct error *err)
{
    const struct model_paths paths = {.model = settings->model};
    const struct backend_options device = {.device = settings->device,
                                           .precision = settings->precision};
    const struct stream_options stream = {.threads = 0};

    if (!backend_open(&e->backend, &device, err))
        return false;
    e->ops = &e->backend->ops;
    if (!e->ops->stream_create(&e->stream, e->ops, &stream, err) ||
        !model_files_open(&e->files, &paths, err))
        return false;
    if (!e->files->component[COMPONENT_TRANSFORMER])
        return error_set(err, ERROR_BAD_FILE, "'%s' has no transformer", settings->model);
    return mmdit_create(&e->mmdit, e->files->component[COMPONENT_TRANSFORMER], e->ops, err) ||
           error_in(err, "loading '%s'", settings->model);
}

static bool hold_weights(struct evaluator *e, struct error *err)
{
    struct weight_list list = {0};
    bool ok;

    if (!e->ops->weights_hold)
        return true;
    ok = mmdit_list_weights(e->mmdit, &list, err) &&
         e->ops->weights_hold(e->stream, &e->held, list.requests, list.count, err);
    weight_list_finish(&list);
    return ok;
}

static bool plan(struct evaluator *e, struct arena *arena, struct error *err)
{
    enum dtype f = e->ops->activation_dtype;
    const int64_t *latent = e->host.latent.dim, *context = e->host.context.dim;
    const int64_t *pooled = e->host.pooled.dim;
    const struct mmdit_plan_options wanted = {.batch = latent[0],
                                              .height = latent[2],
                                              .width = latent[3],
                                              .context_tokens = context[1],
                                              .row_count = latent[0],
                                              .rows_at_once = latent[0]};

    return tensor_alloc(&e->device.latent, arena, DTYPE_F32, "latent", 4, latent, err) &&
           tensor_alloc(&e->velocity, arena, DTYPE_F32, "velocity", 4, latent, err) &&
           tensor_alloc(&e->context_f32, arena, DTYPE_F32, "context", 3, context, err) &&
           tensor_alloc(&e->device.context, arena, f, "context", 3, context, err) &&
           tensor_alloc(&e->pooled_f32, arena, DTYPE_F32, "pooled text", 2, pooled, err) &&
           tensor_alloc(&e->device.pooled, arena, f, "pooled text", 2, pooled, err) &&
           TENSOR_ALLOC(&e->device.timestep, arena, DTYPE_F32, "timesteps", err, latent[0]) &&
           mmdit_plan_create(&e->plan, e->mmdit, arena, arena, &wanted, err);
}

static bool place(struct evaluator *e, struct error *err)
{
    struct arena counting;

    arena_init(&counting, NULL, 0);
    if (!plan(e, &counting, err))
        return false;
    mmdit_plan_destroy(e->plan);
    e->plan = NULL;
    arena_init(&e->arena, e->ops->memory_alloc(counting.peak), counting.peak);
    if (!e->arena.base)
        return error_set(err, ERROR_NO_MEMORY, "%zu bytes of working memory", counting.peak);
    return plan(e, &e->arena, err);
}

/* --- Running --- */

static void prepare(struct evaluator *e)
{
    const struct backend_ops *op = e->ops;

    op->upload(e->stream, &e->device.latent, &e->host.latent);
    op->upload(e->stream, &e->device.timestep, &e->host.timestep);
    op->upload(e->stream, &e->context_f32, &e->host.context);
    op->upload(e->stream, &e->pooled_f32, &e->host.pooled);
    op->copy(e->stream, &e->device.context, &e->context_f32);
    op->copy(e->stream, &e->device.pooled, &e->pooled_f32);
    mmdit_modulate(e->plan, e->stream, 0, &e->device.timestep, &e->device.pooled);
    mmdit_set_context(e->plan, e->stream, 0, &e->device.context);
}

static bool evaluate(struct evaluator *e, struct error *err)
{
    int32_t rows[BATCH_MAX];
    const struct mmdit_evaluation evaluation = {.rows = rows};

    for (int32_t i = 0; i < BATCH_MAX; i++)
        rows[i] = i;
    mmdit_run(e->plan, e->stream, &e->velocity, &e->device.latent, &evaluation);
    return e->ops->stream_finish(e->stream, err);
}

static bool write_velocity(struct evaluator *e, const char *path, struct error *err)
{
    struct tensor host = e->velocity;
    struct safetensors_writer *writer = NULL;
    bool ok;

    host.data = malloc(tensor_bytes(&host));
    if (!host.data)
        return error_set(err, ERROR_NO_MEMORY, "velocity");
    e->ops->download(e->stream, &host, &e->velocity);
    ok = e->ops->stream_finish(e->stream, err) && safetensors_writer_create(&writer, path, err);
    if (ok &&
        safetensors_writer_declare(writer, "velocity", SAFETENSORS_F32, host.rank, host.dim, err) &&
        safetensors_writer_append(writer, host.data, tensor_bytes(&host), err)) {
        ok = safetensors_writer_commit(writer, err);
    } else {
        safetensors_writer_abandon(writer);
        ok = false;
    }
    free(host.data);
    return ok;
}

static int compare_seconds(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;

    return (difference > 0) - (difference < 0);
}

/* Once there has been one evaluation. */
static bool measure(struct evaluator *e, int count, struct error *err)
{
    double *seconds = calloc((size_t)count, sizeof *seconds);
    bool ok = true;

    if (!seconds)
        return error_set(err, ERROR_NO_MEMORY, "measured seconds");
    for (int i = 1; ok && i < EVALUATIONS_LEFT_OUT; i++)
        ok = evaluate(e, err);
    for (int i = 0; ok && i < count; i++) {
        double started = seconds_now();

        ok = evaluate(e, err);
        seconds[i] = seconds_now() - started;
    }
    if (ok) {
        qsort(seconds, (size_t)count, sizeof *seconds, compare_seconds);
        printf("%.3f ms (%.3f to %.3f), median of %d\n",
               1e3 * (seconds[(count - 1) / 2] + seconds[count / 2]) / 2, 1e3 * seconds[0],
               1e3 * seconds[count - 1], count);
    }
    free(seconds);
    return ok;
}

/* --- All of it --- */

static bool run(struct evaluator *e, const struct settings *settings, struct error *err)
{
    if (!open_model(e, settings, err))
        return false;
    if (!safetensors_open(&e->file, settings->input, err))
        return false;
    if (!read_inputs(&e->host, e->file, mmdit_shape(e->mmdit), err))
        return error_in(err, "'%s'", settings->input);
    if (!hold_weights(e, err) || !place(e, err))
        return false;
    prepare(e);
    if (!evaluate(e, err) || !write_velocity(e, settings->output, err))
        return false;
    printf("%s, on %s\n", settings->model, e->backend->description);
    return settings->repeats == 0 || measure(e, settings->repeats, err);
}

static void finish(struct evaluator *e)
{
    mmdit_plan_destroy(e->plan);
    if (e->arena.base)
        e->ops->memory_free(e->arena.base, e->arena.size);
    if (e->held)
        e->ops->weights_drop(e->stream, e->held);
    safetensors_close(e->file);
    mmdit_destroy(e->mmdit);
    model_files_close(e->files);
    if (e->stream)
        e->ops->stream_destroy(e->stream);
    backend_close(e->backend);
}

static bool parse(struct settings *settings, bool *wants_help, int argc, char *const *argv,
                  struct error *err)
{
    if (!options_parse(settings, wants_help, &option_table, argc, argv, err))
        return false;
    if (*wants_help || (settings->model && settings->input && settings->output))
        return true;
    return error_set(err, ERROR_BAD_REQUEST, "--%s is missing; see --help",
                     !settings->model   ? "model"
                     : !settings->input ? "input"
                                        : "output");
}

int main(int argc, char **argv)
{
    struct settings settings = {0};
    struct evaluator evaluator = {0};
    struct error err = {0};
    bool wants_help, ok = parse(&settings, &wants_help, argc, argv, &err);

    if (ok && wants_help) {
        options_print_help(stdout, &option_table);
        return 0;
    }
    if (ok) {
        ok = run(&evaluator, &settings, &err);
        finish(&evaluator);
    }
    if (ok && (fflush(stdout) != 0 || ferror(stdout)))
        ok = error_set_errno(&err, errno, "writing to standard output");
    if (ok)
        return 0;
    fprintf(stderr, "sd35-velocity: %s\n", err.message);
    return error_exit_code(err.code);
}
