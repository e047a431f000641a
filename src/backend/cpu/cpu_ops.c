#include "backend/cpu/cpu_ops.h"

#include <string.h>

#include "backend/cpu/scratch.h"
#include "backend/host_stream.h"

#if defined(__x86_64__)

/* level_ops.c, once for each level */
void cpu_level_ops_avx2(struct backend_ops *ops);
void cpu_level_ops_avx512(struct backend_ops *ops);

/* A level that is AVX-512's but for its products. */
#define PRODUCT_LEVEL(level)                                                                       \
    void cpu_linear_##level(struct stream *stream, struct tensor *out, const struct tensor *x,     \
                            const struct linear *layer);                                           \
    void cpu_conv2d_##level(struct stream *stream, struct tensor *out, const struct tensor *x,     \
                            const struct linear *layer, const struct conv_options *options);       \
    static void level##_ops(struct backend_ops *ops)                                               \
    {                                                                                              \
        cpu_level_ops_avx512(ops);                                                                 \
        ops->linear = cpu_linear_##level;                                                          \
        ops->conv2d = cpu_conv2d_##level;                                                          \
    }

PRODUCT_LEVEL(avx512_bf16)
PRODUCT_LEVEL(avx512_fp16)
PRODUCT_LEVEL(amx)

#define AVX512_BASE (CPU_AVX2 | CPU_AVX512)

const struct cpu_level cpu_levels[] = {
    {"avx2", "cpu avx2", CPU_AVX2, true, cpu_level_ops_avx2},
    {"avx512", "cpu avx512", AVX512_BASE, true, cpu_level_ops_avx512},
    {"avx512_bf16", "cpu avx512_bf16", AVX512_BASE | CPU_AVX512_BF16, false, avx512_bf16_ops},
    {"avx512_fp16", "cpu avx512_fp16", AVX512_BASE | CPU_AVX512_FP16, false, avx512_fp16_ops},
    /* Converts to bf16 with AVX512-BF16. */
    {"amx", "cpu amx", AVX512_BASE | CPU_AVX512_BF16 | CPU_AMX, true, amx_ops},
};
const int cpu_level_count = COUNT_OF(cpu_levels);
#else
const struct cpu_level cpu_levels[1] = {{NULL}};
const int cpu_level_count = 0;
#endif

static bool has_features(const struct cpu_level *level, unsigned features)
{
    return (features & level->features) == level->features;
}

static const struct cpu_level *best_exact_level(unsigned features)
{
    const struct cpu_level *best = NULL;

    for (int i = 0; i < cpu_level_count; i++)
        if (cpu_levels[i].is_exact && has_features(&cpu_levels[i], features))
            best = &cpu_levels[i];
    return best;
}

const struct cpu_level *cpu_level_find(const char *name, unsigned features)
{
    if (!name || strcmp(name, "auto") == 0)
        return best_exact_level(features);
    for (int i = 0; i < cpu_level_count; i++)
        if (strcmp(cpu_levels[i].name, name) == 0)
            return has_features(&cpu_levels[i], features) ? &cpu_levels[i] : NULL;
    return NULL;
}

static bool cpu_stream_create(struct stream **out, const struct backend_ops *ops,
                              const struct stream_options *options, struct error *err)
{
    (void)ops;
    return host_stream_create(out, options->threads, options->cancel, cpu_scratch_bytes, err);
}

void backend_cpu_ops_of(struct backend_ops *ops, const struct cpu_level *level)
{
    *ops = backend_ref_ops;
    ops->name = "cpu";
    ops->stream_create = cpu_stream_create;
    if (!level)
        return;
    ops->name = level->op_name;
    level->replace_ops(ops);
}

void backend_cpu_ops(struct backend_ops *ops, unsigned features)
{
    backend_cpu_ops_of(ops, best_exact_level(features));
}
