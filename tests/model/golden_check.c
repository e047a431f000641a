/* golden_check MODEL_DIR [--tokens tokens.json] [--device cpu|ref] [--cpu-level LEVEL] [--threads
 * N]
 * golden_check MODEL_DIR --fp8|--fp8-activations [...]
 * golden_check --levels
 *
 * MODEL_DIR: a complete model folder with expected.safetensors and cases.json. Prints a line for
 * each stage: name, error, limit, ok or not. Exit code 0 when all are ok. --fp8: the
 * folder was converted to FP8, which changes one forward by 3 % at most. --fp8-activations: and
 * what goes into its layers, but for modulation, is rounded to E4M3 row by row: 5 % at most.
 * --levels lists the CPU levels of this machine. */
#include "golden_check.h"

#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_ops.h"
#include "base/file.h"

void check_report(struct check *check, double error, double limit, const char *format, ...)
{
    bool ok = error <= limit;
    char name[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    printf("%-52s %10.2e %10.1e  %s\n", name, error, limit, ok ? "ok" : "NOT OK");
    fflush(stdout);
    check->checked++;
    check->failed += !ok;
}

void check_skip(struct check *check, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("  SKIPPED\n");
    check->skipped++;
}

void check_broken(struct check *check, const struct error *err, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("  NOT OK: %s\n", err->message);
    check->checked++;
    check->failed++;
}

static void *memory_or_exit(size_t bytes)
{
    void *memory = calloc(1, bytes ? bytes : 1);

    if (!memory) {
        fprintf(stderr, "out of memory: %zu bytes\n", bytes);
        exit(4);
    }
    return memory;
}

struct tensor check_zeros(enum dtype dtype, int rank, const int64_t *dim)
{
    struct tensor tensor = tensor_of(NULL, dtype, rank, dim);

    tensor.data = memory_or_exit(tensor_bytes(&tensor));
    return tensor;
}

struct tensor check_expected(struct check *check, const char *format, ...)
{
    const struct safetensors_entry *entry;
    struct tensor tensor;
    enum dtype dtype;
    char name[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    entry = safetensors_find(check->expected, name);
    if (!entry || entry->rank < 1 || entry->rank > TENSOR_MAX_RANK ||
        !safetensors_to_dtype(&dtype, entry->dtype))
        return (struct tensor){0};
    tensor = check_zeros(dtype == DTYPE_I32 ? DTYPE_I32 : DTYPE_F32, entry->rank, entry->dim);
    for (int64_t i = 0; i < tensor_count(&tensor); i++)
        dtype_store(tensor.dtype, tensor.data, i, dtype_load(dtype, entry->data, i));
    return tensor;
}

double relative_error(const struct tensor *got, const struct tensor *want)
{
    const float *a = got->data, *b = want->data;
    double difference = 0.0, size = 0.0;

    if (tensor_count(got) != tensor_count(want))
        return NAN;
    for (int64_t i = 0; i < tensor_count(want); i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(difference) / fmax(sqrt(size), 1e-30);
}

void check_stage(struct check *check, const struct tensor *got, const char *format, ...)
{
    struct tensor want;
    char name[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    want = check_expected(check, "%s", name);
    if (tensor_exists(&want))
        check_report(check, relative_error(got, &want), check->limits.stage, "%s", name);
}

struct arena check_arena(struct check *check, size_t bytes)
{
    struct arena arena;
    void *memory = check->pipeline->backend->ops.memory_alloc(bytes);

    if (!memory) {
        fprintf(stderr, "out of memory: %zu bytes\n", bytes);
        exit(4);
    }
    arena_init(&arena, memory, bytes);
    return arena;
}

static json_t *read_json(const char *path)
{
    struct error err;
    unsigned char *bytes;
    size_t size;
    json_t *value;

    if (!file_read(&bytes, &size, path, 256u << 20, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(error_exit_code(err.code));
    }
    value = json_loadb((char *)bytes, size, 0, NULL);
    free(bytes);
    if (!value) {
        fprintf(stderr, "'%s' is not JSON\n", path);
        exit(3);
    }
    return value;
}

/* Levels that compute products in 16 bits cannot meet the limits of f32: one rounding is 2^-9 in
 * bf16, and errors add up over blocks and steps (model.md, section 11, allows 1e-2 a forward). */
static struct limits limits_for(const char *level)
{
    const struct cpu_level *found = level ? cpu_level_find(level, ~0u) : NULL;

    if (found && !found->is_exact)
        return (struct limits){.stage = 2e-2, .pipeline = 1e-1, .picture = 16.0};
    return (struct limits){.stage = 1e-4, .pipeline = 1e-3, .picture = 1.0};
}

static void open_all(struct check *check, const struct pipeline_options *options)
{
    char *path;
    struct error err;

    if (!pipeline_create(&check->pipeline, options, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(error_exit_code(err.code));
    }
    path = file_join(options->model, "expected.safetensors");
    if (!path || !safetensors_open(&check->expected, path, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(error_exit_code(err.code));
    }
    free(path);
    path = file_join(options->model, "cases.json");
    check->cases = read_json(path);
    free(path);
}

static int list_levels(void)
{
    unsigned features = cpu_features_detect();

    for (int i = 0; i < cpu_level_count; i++)
        if ((cpu_levels[i].features & ~features) == 0)
            printf("%s\n", cpu_levels[i].name);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"tokens", required_argument, NULL, 't'},    {"device", required_argument, NULL, 'd'},
        {"levels", no_argument, NULL, 'L'},          {"cpu-level", required_argument, NULL, 'l'},
        {"threads", required_argument, NULL, 'n'},   {"fp8", no_argument, NULL, 'f'},
        {"fp8-activations", no_argument, NULL, 'a'}, {NULL, 0, NULL, 0}};
    struct pipeline_options options = {.keep_weights = true};
    const char *tokens = NULL;
    struct check check = {0};
    int option;

    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (option == 't')
            tokens = optarg;
        else if (option == 'd')
            options.device = optarg;
        else if (option == 'l')
            options.cpu_level = optarg;
        else if (option == 'L')
            return list_levels();
        else if (option == 'f')
            check.is_fp8 = true;
        else if (option == 'a')
            check.is_fp8 = check.has_fp8_activations = true;
        else if (option == 'n')
            options.threads = (int)strtol(optarg, NULL, 10);
        else
            return 2;
    }
    if (optind != argc - 1) {
        fprintf(stderr, "usage: golden_check MODEL_DIR [--tokens tokens.json] [--device cpu|ref] "
                        "[--cpu-level LEVEL] [--threads N]\n");
        return 2;
    }
    options.model = check.model_directory = argv[optind];
    check.limits = limits_for(options.cpu_level);
    if (check.is_fp8)
        check.limits.stage = check.has_fp8_activations ? 5e-2 : 3e-2;
    open_all(&check, &options);
    printf("%s on %s\n", options.model, check.pipeline->backend->description);

    if (check.is_fp8) {
        check_transformer(&check);
    } else {
        check_tokens(&check, tokens);
        check_text(&check);
        check_transformer(&check);
        check_vae(&check);
        check_schedules(&check);
        check_noise(&check);
        check_pipelines(&check);
    }

    printf("%d checks, %d not ok, %d skipped\n", check.checked, check.failed, check.skipped);
    json_decref(check.cases);
    safetensors_close(check.expected);
    pipeline_destroy(check.pipeline);
    return check.failed == 0 && check.checked > 0 ? 0 : 1;
}
