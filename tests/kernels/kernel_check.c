#include "kernel_check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ref/ref_ops.h"
#include "fma_peak.h"

#define GUARD_BYTES 256
#define GUARD 0xa5
#define DEFAULT_SEED 1
#define BENCH_RUNS 9
#define LABEL_BYTES 256
#define REPORTS_MAX 20

struct kernel_memory {
    struct kernel_memory *next;
    struct tensor tensor;
    unsigned char *bytes;
    size_t size;
};

static void *need(void *memory)
{
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(99);
    }
    return memory;
}

/* --- Random numbers --- */

/* xorshift64* (Vigna 2016, arXiv:1402.6246) */
static uint64_t random_bits(struct kernel_check *check)
{
    check->random ^= check->random >> 12;
    check->random ^= check->random << 25;
    check->random ^= check->random >> 27;
    return check->random * 2685821657736338717u;
}

static double random_unit(struct kernel_check *check)
{
    return (double)(random_bits(check) >> 11) * 0x1p-53;
}

/* The sum of four uniform numbers is near enough, and has no far tails. */
double kernel_random_normal(struct kernel_check *check)
{
    double sum = random_unit(check) + random_unit(check) + random_unit(check) + random_unit(check);

    return (sum - 2.0) * sqrt(3.0);
}

int64_t kernel_random_index(struct kernel_check *check, int64_t count)
{
    return (int64_t)(random_bits(check) >> 1) % count;
}

/* --- Tensors --- */

double kernel_get(const struct tensor *tensor, int64_t index)
{
    return ref_get(tensor, ref_offset(tensor, index));
}

void kernel_put(struct tensor *tensor, int64_t index, double value)
{
    ref_put(tensor, ref_offset(tensor, index), value);
}

void kernel_randomise(struct kernel_check *check, struct tensor *tensor, double mean, double spread)
{
    int64_t count = tensor_count(tensor);

    for (int64_t i = 0; i < count; i++)
        kernel_put(tensor, i, mean + spread * kernel_random_normal(check));
}

/* Guarded memory of that shape and those strides; the elements are all-ones bits. */
static struct tensor place(struct kernel_check *check, const struct tensor *shape)
{
    struct kernel_memory *memory = need(calloc(1, sizeof *memory));
    size_t element = dtype_size(shape->dtype);
    int64_t last = 0, count = tensor_count(shape);

    for (int i = 0; i < shape->rank; i++)
        last += (shape->dim[i] - 1) * shape->stride[i];
    memory->size = 2 * GUARD_BYTES + ((size_t)last + 1) * element;
    memory->bytes =
        need(check->plugin ? check->plugin->shared_alloc(memory->size) : malloc(memory->size));
    memset(memory->bytes, GUARD, memory->size);
    memory->tensor = *shape;
    memory->tensor.data = memory->bytes + GUARD_BYTES;
    for (int64_t i = 0; i < count; i++)
        memset((char *)memory->tensor.data + (size_t)ref_offset(shape, i) * element, 0xff, element);
    memory->next = check->memory;
    check->memory = memory;
    return memory->tensor;
}

struct tensor kernel_tensor(struct kernel_check *check, enum dtype dtype, int pad, int rank,
                            const int64_t *dim)
{
    struct tensor shape = tensor_of(NULL, dtype, rank, dim);
    struct tensor tensor;

    for (int i = rank - 2; i >= 0; i--)
        shape.stride[i] = shape.stride[i + 1] * shape.dim[i + 1] + pad;
    tensor = place(check, &shape);
    if (dtype == DTYPE_U8)
        kernel_randomise(check, &tensor, 128, 60);
    else if (dtype == DTYPE_I32)
        kernel_randomise(check, &tensor, 0, 1000);
    else
        kernel_randomise(check, &tensor, 0, 1);
    return tensor;
}

struct tensor kernel_like(struct kernel_check *check, const struct tensor *tensor)
{
    return place(check, tensor);
}

struct tensor kernel_clone(struct kernel_check *check, const struct tensor *tensor)
{
    struct tensor clone = place(check, tensor);
    size_t element = dtype_size(tensor->dtype);
    int64_t count = tensor_count(tensor);

    for (int64_t i = 0; i < count; i++) {
        size_t at = (size_t)ref_offset(tensor, i) * element;

        memcpy((char *)clone.data + at, (char *)tensor->data + at, element);
    }
    return clone;
}

/* Ops of a device run while the host goes on. */
static void wait_for_device(struct kernel_check *check)
{
    struct error err;

    if (check->plugin && !check->fast.stream_finish(check->stream, &err)) {
        check->failures++;
        fprintf(stderr, "FAILED %s: %s\n", check->fast.name, err.message);
    }
}

void kernel_release(struct kernel_check *check)
{
    wait_for_device(check);
    if (check->plugin)
        check->plugin->forget_weights(check->stream);
    while (check->memory) {
        struct kernel_memory *memory = check->memory;

        check->memory = memory->next;
        if (check->plugin)
            check->plugin->shared_free(memory->bytes);
        else
            free(memory->bytes);
        free(memory);
    }
}

/* --- Comparing --- */

static void report(struct kernel_check *check, const char *label, const char *format, ...)
    PRINTF_LIKE(3, 4);

static void report(struct kernel_check *check, const char *label, const char *format, ...)
{
    va_list arguments;

    check->failures++;
    if (check->is_quiet || check->failures > REPORTS_MAX)
        return;
    fprintf(stderr, "FAILED %s, %d threads: %s: ", check->fast.name, check->threads, label);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

/* The memory that holds the tensor's first element. */
static const struct kernel_memory *memory_of(const struct kernel_check *check,
                                             const struct tensor *tensor)
{
    const unsigned char *at = tensor->data;

    for (const struct kernel_memory *memory = check->memory; memory; memory = memory->next)
        if (at >= memory->bytes && at < memory->bytes + memory->size)
            return memory;
    return NULL;
}

static void expect_guards(struct kernel_check *check, const struct tensor *tensor,
                          const char *label)
{
    const struct kernel_memory *memory = memory_of(check, tensor);
    size_t element = dtype_size(tensor->dtype);
    unsigned char *belongs;

    if (!memory)
        return;
    belongs = need(calloc(memory->size, 1));
    for (int64_t i = 0; i < tensor_count(&memory->tensor); i++)
        memset(belongs + GUARD_BYTES + (size_t)ref_offset(&memory->tensor, i) * element, 1,
               element);
    for (size_t i = 0; i < memory->size; i++)
        if (!belongs[i] && memory->bytes[i] != GUARD) {
            report(check, label, "wrote outside, at byte %lld of its memory",
                   (long long)i - GUARD_BYTES);
            break;
        }
    free(belongs);
}

double kernel_tolerance(enum dtype dtype, int64_t terms)
{
    /* What is wanted was rounded to the type as well: apart by a whole step of 16 bits. */
    double rounding = dtype == DTYPE_F16 ? 0x1p-10 : dtype == DTYPE_BF16 ? 0x1p-7 : 0x1p-24;

    /* The worst of many results is several times as far off as most are. */
    return rounding + 0x1p-24 * (2.0 + 4.0 * sqrt((double)terms));
}

double kernel_function_tolerance(const struct kernel_check *check, double error)
{
    return check->f == DTYPE_F32 ? error : kernel_tolerance(check->f, 1) + 0x1p-10;
}

double kernel_product_tolerance(const struct kernel_check *check, int64_t terms)
{
    double exact = kernel_tolerance(check->f, terms);

    if (!check->level) /* weights of other types are rounded to f */
        return check->f == DTYPE_F32 ? exact : 2.0 * exact;
    if (!check->level->is_exact)
        return exact + 0x1p-6; /* factors of 8 bits */
    if (check->level->features & CPU_AMX)
        return exact + 0x1p-14; /* factors of 16 bits */
    return exact;
}

static double root_mean_square(const struct tensor *tensor)
{
    int64_t count = tensor_count(tensor), finite = 0;
    double sum = 0.0;

    for (int64_t i = 0; i < count; i++) {
        double value = kernel_get(tensor, i);

        if (isfinite(value)) {
            sum += value * value;
            finite++;
        }
    }
    return finite ? sqrt(sum / (double)finite) : 0.0;
}

static bool is_same(double got, double want)
{
    return got == want || (isnan(got) && isnan(want));
}

static void count_comparison(struct kernel_check *check, const char *label)
{
    check->comparisons++;
    if (!check->is_verbose)
        return;
    printf("%8.2f s  %s\n", seconds_now() - check->began, label);
    fflush(stdout);
}

static void expect_within(struct kernel_check *check, const struct tensor *got,
                          const struct tensor *want, double tolerance, const char *label)
{
    double usual = root_mean_square(want);
    int64_t count = tensor_count(want), wrong = 0;
    char shape[TENSOR_SHAPE_TEXT_BYTES];

    wait_for_device(check);
    count_comparison(check, label);
    if (!tensor_same_shape(got, want)) {
        report(check, label, "shapes differ");
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        double g = kernel_get(got, i), w = kernel_get(want, i);
        double most = tolerance * fmax(fabs(w), usual);

        if (is_same(g, w) || fabs(g - w) <= most) /* false for one NaN */
            continue;
        if (wrong++ == 0)
            report(check, label, "%s of %s: element %lld is %.9g, wanted %.9g, may be off by %.3g",
                   dtype_name(got->dtype),
                   tensor_shape_text(shape, sizeof shape, got->rank, got->dim), (long long)i, g, w,
                   most);
    }
    if (wrong > 1 && !check->is_quiet && check->failures <= REPORTS_MAX)
        fprintf(stderr, "       and %lld more of %lld\n", (long long)wrong - 1, (long long)count);
    expect_guards(check, got, label);
}

void kernel_expect_close(struct kernel_check *check, const struct tensor *got,
                         const struct tensor *want, double tolerance, const char *format, ...)
{
    char label[LABEL_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(label, sizeof label, format, arguments);
    va_end(arguments);
    expect_within(check, got, want, tolerance, label);
}

void kernel_expect_equal(struct kernel_check *check, const struct tensor *got,
                         const struct tensor *want, const char *format, ...)
{
    char label[LABEL_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(label, sizeof label, format, arguments);
    va_end(arguments);
    expect_within(check, got, want, 0.0, label);
}

void kernel_expect(struct kernel_check *check, bool holds, const char *format, ...)
{
    char label[LABEL_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(label, sizeof label, format, arguments);
    va_end(arguments);
    count_comparison(check, label);
    if (!holds)
        report(check, label, "does not hold");
}

/* A comparison that cannot fail proves nothing: each kind of fault must be seen. */
static bool comparing_works(struct kernel_check *check)
{
    int seen, before = check->failures;
    struct tensor want = KERNEL_TENSOR(check, DTYPE_F32, 3, 4, 5);
    struct tensor nan = kernel_clone(check, &want), off = kernel_clone(check, &want);
    struct tensor gap = kernel_clone(check, &want), same = kernel_clone(check, &want);

    kernel_put(&nan, 7, NAN);
    kernel_put(&off, 19, kernel_get(&off, 19) + 1e-3);
    ((float *)gap.data)[6] = 0.0f;
    check->is_quiet = true;
    kernel_expect_close(check, &nan, &want, 1e-4, "NaN");
    kernel_expect_close(check, &off, &want, 1e-4, "too far off");
    kernel_expect_equal(check, &off, &want, "not equal");
    kernel_expect_close(check, &gap, &want, 1e-4, "written between rows");
    seen = check->failures - before;
    kernel_expect_equal(check, &same, &want, "equal");
    seen = seen == 4 && check->failures - before == 4;
    check->is_quiet = false;
    check->failures = before;
    check->comparisons = 0;
    kernel_release(check);
    return seen;
}

/* --- Timing --- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

void kernel_bench(struct kernel_check *check, double flops, double bytes,
                  void (*run)(struct kernel_check *check, void *context), void *context,
                  const char *format, ...)
{
    double times[BENCH_RUNS], peaks[BENCH_RUNS], median;
    char label[LABEL_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(label, sizeof label, format, arguments);
    va_end(arguments);
    run(check, context); /* faults pages in */
    for (int i = 0; i < BENCH_RUNS; i++) {
        double begin;

        peaks[i] = fma_peak(check->stream, check->fast.name);
        begin = seconds_now();
        run(check, context);
        times[i] = seconds_now() - begin;
    }
    qsort(times, BENCH_RUNS, sizeof *times, compare_doubles);
    qsort(peaks, BENCH_RUNS, sizeof *peaks, compare_doubles);
    median = times[BENCH_RUNS / 2];
    printf("%-11s %-44s %9.3f ms (%.3f to %.3f)", check->fast.name, label, 1e3 * median,
           1e3 * times[0], 1e3 * times[BENCH_RUNS - 1]);
    if (flops > 0)
        printf("  %7.1f GFLOP/s, %4.1f %% of %.0f", flops / median / 1e9,
               100 * flops / median / 1e9 / peaks[BENCH_RUNS / 2], peaks[BENCH_RUNS / 2]);
    if (bytes > 0)
        printf("  %6.2f GB/s", bytes / median / 1e9);
    printf("\n");
    fflush(stdout);
}

/* --- Running --- */

struct run_options {
    bool is_bench, is_verbose;
    uint64_t seed;
    const char *level, *device, *precision; /* NULL: all */
    int threads;                            /* 0: the usual ones */
};

static bool parse_options(struct run_options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(argv[i], "--bench") == 0) {
            options->is_bench = true;
            continue;
        }
        if (strcmp(argv[i], "--verbose") == 0) {
            options->is_verbose = true;
            continue;
        }
        if (strcmp(argv[i], "--seed") == 0)
            options->seed = strtoull(value, NULL, 0);
        else if (strcmp(argv[i], "--level") == 0)
            options->level = value;
        else if (strcmp(argv[i], "--threads") == 0)
            options->threads = atoi(value);
        else if (strcmp(argv[i], "--device") == 0)
            options->device = value;
        else if (strcmp(argv[i], "--precision") == 0)
            options->precision = value;
        else
            return false;
        i++;
    }
    return true;
}

/* The ops of a device. Returns the failures. */
static int run_device(const struct run_options *options, kernel_check_function run)
{
    const struct backend_options device = {.device = options->device,
                                           .precision = options->precision};
    struct stream_options stream_options = {0};
    struct kernel_check check = {.ref = &backend_ref_ops,
                                 .random = options->seed * 2 + 1,
                                 .began = seconds_now(),
                                 .is_verbose = options->is_verbose};
    struct backend *backend;
    struct error err;

    /* Ops end before they return, so that a check may change what they read. */
    setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
    setenv("SD35_CACHE_DIR", "", 0); /* what is chosen under test is nobody's choice */
    if (!backend_open(&backend, &device, &err)) {
        printf("SKIPPED: %s\n", err.message);
        return 0;
    }
    check.fast = backend->ops;
    check.f = backend->ops.activation_dtype;
    check.plugin = plugin_library_plugin(backend->plugin);
    if (!check.fast.stream_create(&check.stream, &check.fast, &stream_options, &err) ||
        !check.ref->stream_create(&check.ref_stream, check.ref, &stream_options, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(99);
    }
    if (!comparing_works(&check))
        report(&check, "the comparison itself", "misses a fault");
    run(&check);
    kernel_release(&check);
    printf("%s: %d comparisons, %d failures\n", backend->description, check.comparisons,
           check.failures);
    check.ref->stream_destroy(check.ref_stream);
    check.fast.stream_destroy(check.stream);
    backend_close(backend);
    return check.failures;
}

/* One level with one number of threads. Returns the failures. */
static int run_level(const struct cpu_level *level, int threads, const struct run_options *options,
                     kernel_check_function run)
{
    struct kernel_check check = {
        .ref = &backend_ref_ops,
        .level = level,
        .threads = threads,
        .f = DTYPE_F32,
        .random = options->seed * 2 + 1,
        .began = seconds_now(),
        .is_verbose = options->is_verbose,
    };
    struct stream_options stream_options = {.threads = threads};
    struct error err;

    backend_cpu_ops_of(&check.fast, level);
    if (!check.fast.stream_create(&check.stream, &check.fast, &stream_options, &err) ||
        !check.ref->stream_create(&check.ref_stream, check.ref, &stream_options, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(99);
    }
    check.threads = thread_pool_size(check.stream->pool);
    if (!comparing_works(&check))
        report(&check, "the comparison itself", "misses a fault");
    run(&check);
    kernel_release(&check);
    kernel_expect(&check, check.fast.stream_finish(check.stream, NULL), "the stream is well");
    if (!options->is_bench)
        printf("%s, %d threads: %d comparisons, %d failures\n", check.fast.name, check.threads,
               check.comparisons, check.failures);
    check.ref->stream_destroy(check.ref_stream);
    check.fast.stream_destroy(check.stream);
    return check.failures;
}

int kernel_check_main(int argc, char **argv, kernel_check_function run, kernel_check_function bench)
{
    static const int usual_threads[] = {1, 3};
    struct run_options options = {.seed = DEFAULT_SEED};
    unsigned features = cpu_features_detect();
    int failures = 0, levels = 0;

    if (!parse_options(&options, argc, argv)) {
        fprintf(stderr,
                "usage: %s [--bench] [--verbose] [--seed N] [--level NAME] [--threads N] "
                "[--device cuda] [--precision NAME]\n",
                argv[0]);
        return 2;
    }
    printf("seed %llu\n", (unsigned long long)options.seed);
    if (options.device)
        return run_device(&options, run) ? 1 : 0;
    for (int i = 0; i < cpu_level_count; i++) {
        const struct cpu_level *level = &cpu_levels[i];

        if ((level->features & features) != level->features ||
            (options.level && strcmp(options.level, level->name) != 0))
            continue;
        levels++;
        if (options.is_bench)
            failures += run_level(level, options.threads, &options, bench);
        else if (options.threads)
            failures += run_level(level, options.threads, &options, run);
        else
            for (size_t t = 0; t < COUNT_OF(usual_threads); t++)
                failures += run_level(level, usual_threads[t], &options, run);
    }
    if (levels == 0)
        printf("SKIPPED: this machine has none of the levels\n");
    return failures ? 1 : 0;
}
