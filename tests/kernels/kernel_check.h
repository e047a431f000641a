/* Kernel checks: every CPU level's ops against the reference's, and the per-op benchmark. With
 * --device cuda the ops of a GPU instead, in memory that both see; SKIPPED where there is none.
 *
 * A check program hands kernel_check_main a function that makes cases. It runs once for each level
 * that this machine has and each of a few thread counts. A case makes tensors, runs an op twice,
 * and compares:
 *
 *     struct tensor x = KERNEL_TENSOR(check, DTYPE_F32, pad, rows, width);
 *     struct tensor want = kernel_like(check, &x), got = kernel_like(check, &x);
 *
 *     check->ref->silu(check->ref_stream, &want, &x);
 *     check->fast.silu(check->stream, &got, &x);
 *     kernel_expect_close(check, &got, &want, kernel_tolerance(DTYPE_F32, 1), "silu %d", width);
 *     kernel_release(check);
 *
 * Every tensor lies between guard bytes, and what lies between its rows is guarded too.
 */
#ifndef TESTS_KERNELS_KERNEL_CHECK_H
#define TESTS_KERNELS_KERNEL_CHECK_H

#include "backend/backend.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/plugin_library.h"

struct kernel_memory;

struct kernel_check {
    const struct backend_ops *ref;
    struct stream *ref_stream;
    struct backend_ops fast;
    struct stream *stream;
    const struct cpu_level *level;       /* of `fast`; NULL: a device */
    const struct backend_plugin *plugin; /* of a device; NULL: the CPU */
    int threads;
    enum dtype f; /* the activation type of `fast`: F32 on hosts */

    /* kernel_check.c's own */
    uint64_t random;
    struct kernel_memory *memory;
    int comparisons, failures;
    bool is_quiet, is_verbose;
    double began; /* seconds_now() then */
};

typedef void (*kernel_check_function)(struct kernel_check *check);

/* Runs `run` for each level and thread count, or with --bench `bench` for each level with one
 * thread a CPU. Returns main's result. Options: --bench, --verbose (a line for each comparison,
 * with the time since the start), --seed N, --level NAME, --threads N, --device cuda, --precision
 * NAME. */
int kernel_check_main(int argc, char **argv, kernel_check_function run,
                      kernel_check_function bench);

/* A tensor of normal random numbers, or of whole ones for i32 and u8. Its last axis is contiguous;
 * each other stride is `pad` elements longer than it has to be. Lives until kernel_release. */
struct tensor kernel_tensor(struct kernel_check *check, enum dtype dtype, int pad, int rank,
                            const int64_t *dim);
#define KERNEL_TENSOR(check, dtype, pad, ...)                                                      \
    kernel_tensor((check), (dtype), (pad),                                                         \
                  (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                       \
                  (int64_t[]){__VA_ARGS__})
/* The same shape and strides, every element NaN (or the largest whole number): an output. */
struct tensor kernel_like(struct kernel_check *check, const struct tensor *tensor);
/* The same shape, strides and elements: what an op may overwrite. */
struct tensor kernel_clone(struct kernel_check *check, const struct tensor *tensor);
/* New elements around `mean`. */
void kernel_randomise(struct kernel_check *check, struct tensor *tensor, double mean,
                      double spread);
double kernel_random_normal(struct kernel_check *check);
/* Any of 0 .. count - 1. */
int64_t kernel_random_index(struct kernel_check *check, int64_t count);

double kernel_get(const struct tensor *tensor, int64_t index); /* row-major, any strides */
void kernel_put(struct tensor *tensor, int64_t index, double value);

void kernel_release(struct kernel_check *check);

/* What a result of that type may be off by, as a part of its size: one rounding of the type, and
 * the drift of an f32 sum of so many terms, which grows with their square root. */
double kernel_tolerance(enum dtype dtype, int64_t terms);
/* The same for what functions of the elements may add: `error` in f32, nothing to speak of in 16
 * bits. */
double kernel_function_tolerance(const struct kernel_check *check, double error);
/* The same for a sum of `terms` products of f32 at the level that is being checked. */
double kernel_product_tolerance(const struct kernel_check *check, int64_t terms);

/* Each element within `tolerance` of max(|want|, root mean square of want), the guards of both
 * untouched, and no NaN where there should be none. The text names the case. */
void kernel_expect_close(struct kernel_check *check, const struct tensor *got,
                         const struct tensor *want, double tolerance, const char *format, ...)
    PRINTF_LIKE(5, 6);
/* Each element the same, or both NaN. */
void kernel_expect_equal(struct kernel_check *check, const struct tensor *got,
                         const struct tensor *want, const char *format, ...) PRINTF_LIKE(4, 5);
/* For anything else. */
void kernel_expect(struct kernel_check *check, bool holds, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* Times run(context), alternating with the peak that this level's fused multiply-adds reach on as
 * many threads, and prints one line: median, spread, and either GFLOP/s with their share of that
 * peak, or (flops 0) GB/s. bytes: what has to be read and written at least. */
void kernel_bench(struct kernel_check *check, double flops, double bytes,
                  void (*run)(struct kernel_check *check, void *context), void *context,
                  const char *format, ...) PRINTF_LIKE(6, 7);

#endif
