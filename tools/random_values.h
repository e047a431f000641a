/* Values for random weights: nearly normal, made a few hundred million a second. */
#ifndef TOOLS_RANDOM_VALUES_H
#define TOOLS_RANDOM_VALUES_H

#include <stddef.h>
#include <stdint.h>

#include "tensor/dtype.h"

/* The values are drawn from a table of this many, rounded to their type once. */
#define RANDOM_VALUES 4096
#define RANDOM_VALUES_LARGEST 4.0f /* no value is further from 0, in standard deviations */

struct random_values {
    uint64_t state;
    uint64_t bits; /* drawn and not used yet */
    int bit_count;
    enum dtype dtype;
    unsigned char encoded[RANDOM_VALUES * 4];
};

/* The stream depends on `seed` and `name` alone. */
void random_values_init(struct random_values *values, uint64_t seed, const char *name,
                        enum dtype dtype, float mean, float deviation);
void random_values_fill(struct random_values *values, void *out, size_t count);

#endif
