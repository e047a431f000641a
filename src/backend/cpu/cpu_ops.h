/* The CPU backend's op tables, one for each feature level.
 *
 * A table starts as a copy of backend_ref_ops; a level replaces what it does faster.
 */
#ifndef BACKEND_CPU_CPU_OPS_H
#define BACKEND_CPU_CPU_OPS_H

#include "backend/backend.h"
#include "backend/cpu/cpu_features.h"

struct cpu_level {
    const char *name;    /* what a person chooses: "avx512" */
    const char *op_name; /* backend_ops.name: "cpu avx512" */
    unsigned features;   /* what it needs */
    bool is_exact;       /* products as good as f32; others are for choosing by name only */
    void (*replace_ops)(struct backend_ops *ops);
};

/* From plain to fancy; the last exact one that a machine has is its best. */
extern const struct cpu_level cpu_levels[];
extern const int cpu_level_count;

/* The level of that name, "auto" (or NULL) being the best exact one within `features`. NULL when
 * there is none: an unknown name, or one that needs more than `features`. */
const struct cpu_level *cpu_level_find(const char *name, unsigned features);

/* NULL for the level leaves the reference's ops, with threads but without speed. */
void backend_cpu_ops_of(struct backend_ops *ops, const struct cpu_level *level);
/* The table of the best exact level within `features`. */
void backend_cpu_ops(struct backend_ops *ops, unsigned features);

#endif
