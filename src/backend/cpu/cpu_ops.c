#include "backend/cpu/cpu_ops.h"

#include <string.h>

#include "backend/cpu/scratch.h"
#include "backend/host_stream.h"

/* level_ops.c, once for each level */
void cpu_level_ops_avx2(struct backend_ops *ops);
void cpu_level_ops_avx512(struct backend_ops *ops);

#if defined(__x86_64__)
#define AVX512_BASE (CPU_AVX2 | CPU_AVX512)

const struct cpu_level cpu_levels[] = {
    {"avx2", "cpu avx2", CPU_AVX2, true, cpu_level_ops_avx2},
    {"avx512", "cpu avx512", AVX512_BASE, true, cpu_level_ops_avx512},
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
