#include "random_values.h"

#include <string.h>

#define INDEX_BITS 12

/* splitmix64 (Steele et al. 2014): good enough here, and seeds of 0 do no harm. */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* A sum of twelve uniform numbers in [-1/2, 1/2), of variance 1. */
static float nearly_normal(uint64_t *state)
{
    float sum = 0.0f;

    for (int i = 0; i < 3; i++) {
        uint64_t bits = next(state);

        for (int j = 0; j < 4; j++)
            sum += (float)((bits >> (16 * j)) & 0xffffu) / 65536.0f - 0.5f;
    }
    if (sum > RANDOM_VALUES_LARGEST)
        return RANDOM_VALUES_LARGEST;
    return sum < -RANDOM_VALUES_LARGEST ? -RANDOM_VALUES_LARGEST : sum;
}

void random_values_init(struct random_values *values, uint64_t seed, const char *name,
                        enum dtype dtype, float mean, float deviation)
{
    uint64_t table = 1;

    values->state = seed;
    for (; *name; name++) {
        values->state ^= (unsigned char)*name;
        next(&values->state);
        values->state *= 0x100000001b3u;
    }
    values->bit_count = 0;
    values->dtype = dtype;
    for (int64_t i = 0; i < RANDOM_VALUES / 2; i++) {
        float value = deviation * nearly_normal(&table);

        /* In pairs, so that the mean is exact. */
        dtype_store(dtype, values->encoded, 2 * i, mean + value);
        dtype_store(dtype, values->encoded, 2 * i + 1, mean - value);
    }
}

static size_t next_index(struct random_values *values)
{
    size_t index;

    if (values->bit_count < INDEX_BITS) {
        values->bits = next(&values->state);
        values->bit_count = 64;
    }
    index = (size_t)(values->bits & (RANDOM_VALUES - 1));
    values->bits >>= INDEX_BITS;
    values->bit_count -= INDEX_BITS;
    return index;
}

void random_values_fill(struct random_values *values, void *out, size_t count)
{
    unsigned char *at = out;
    size_t size = dtype_size(values->dtype);

    if (size == 2) { /* by far the most common */
        for (size_t i = 0; i < count; i++)
            memcpy(at + 2 * i, values->encoded + 2 * next_index(values), 2);
        return;
    }
    for (size_t i = 0; i < count; i++, at += size)
        memcpy(at, values->encoded + size * next_index(values), size);
}
