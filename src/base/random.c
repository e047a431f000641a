#include "base/random.h"

#include <assert.h>
#include <math.h>

#define MT_WORDS 624
#define MT_MIDDLE 397

void mt19937_seed(struct mt19937 *generator, uint64_t seed)
{
    uint32_t *state = generator->state;

    /* PyTorch keeps all 64 bits as initial_seed() but gives the engine only the low half. */
    state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < MT_WORDS; i++)
        state[i] = 1812433253u * (state[i - 1] ^ state[i - 1] >> 30) + i;
    generator->next = MT_WORDS;
    generator->has_cached_normal = 0;
    generator->cached_normal = 0.0;
}

/* Matsumoto and Nishimura 1998, "Mersenne Twister", section 2. */
static void make_words(uint32_t *state)
{
    for (int i = 0; i < MT_WORDS; i++) {
        uint32_t mixed = (state[i] & 0x80000000u) | (state[(i + 1) % MT_WORDS] & 0x7fffffffu);

        state[i] =
            state[(i + MT_MIDDLE) % MT_WORDS] ^ mixed >> 1 ^ ((mixed & 1u) ? 0x9908b0dfu : 0u);
    }
}

uint32_t mt19937_next(struct mt19937 *generator)
{
    uint32_t word;

    if (generator->next >= MT_WORDS) {
        make_words(generator->state);
        generator->next = 0;
    }
    word = generator->state[generator->next++];
    word ^= word >> 11;
    word ^= word << 7 & 0x9d2c5680u;
    word ^= word << 15 & 0xefc60000u;
    return word ^ word >> 18;
}

/* [0, 1) in steps of 2^-24 */
static float uniform_float(struct mt19937 *generator)
{
    return (float)(mt19937_next(generator) & 0xffffffu) * 0x1p-24f;
}

/* [0, 1) in steps of 2^-53 */
static double uniform_double(struct mt19937 *generator)
{
    uint64_t high = mt19937_next(generator);
    uint64_t low = mt19937_next(generator);

    return (double)((high << 32 | low) & 0x1fffffffffffffu) * 0x1p-53;
}

/* Box and Muller 1958, one value at a time: the second of each pair waits in the generator. */
static double next_normal(struct mt19937 *generator)
{
    double radius, angle;

    if (generator->has_cached_normal) {
        generator->has_cached_normal = 0;
        return generator->cached_normal;
    }
    angle = 2.0 * M_PI * uniform_double(generator);
    radius = sqrt(-2.0 * log1p(-uniform_double(generator)));
    generator->cached_normal = radius * sin(angle);
    generator->has_cached_normal = 1;
    return radius * cos(angle);
}

#define BLOCK 16

static void fill_uniform(float *out, size_t count, struct mt19937 *generator)
{
    for (size_t i = 0; i < count; i++)
        out[i] = uniform_float(generator);
}

/* Uniform to normal in place; the pairs are 8 apart because PyTorch's vector code has 8 lanes. */
static void block_to_normal(float *block)
{
    for (int i = 0; i < BLOCK / 2; i++) {
        float radius = sqrtf(-2.0f * logf(1.0f - block[i]));
        float angle = (float)(2.0 * M_PI) * block[i + BLOCK / 2];

        block[i] = radius * cosf(angle);
        block[i + BLOCK / 2] = radius * sinf(angle);
    }
}

void torch_cpu_normal(float *out, size_t count, struct mt19937 *generator)
{
    if (count < BLOCK) {
        for (size_t i = 0; i < count; i++)
            out[i] = (float)next_normal(generator);
        return;
    }
    fill_uniform(out, count, generator);
    for (size_t i = 0; i + BLOCK <= count; i += BLOCK)
        block_to_normal(out + i);
    /* A remainder is not padded: the last 16 elements are drawn again, overwriting some. */
    if (count % BLOCK) {
        fill_uniform(out + count - BLOCK, BLOCK, generator);
        block_to_normal(out + count - BLOCK);
    }
}

#define CUDA_BLOCK_THREADS 256
#define NORMALS_PER_COUNTER 4

/* Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3. */
static void philox_words(uint32_t words[4], uint64_t seed, uint64_t counter, uint64_t thread)
{
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};

    words[0] = (uint32_t)counter;
    words[1] = (uint32_t)(counter >> 32);
    words[2] = (uint32_t)thread;
    words[3] = (uint32_t)(thread >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t even = (uint64_t)0xd2511f53u * words[0];
        uint64_t odd = (uint64_t)0xcd9e8d57u * words[2];

        words[0] = (uint32_t)(odd >> 32) ^ words[1] ^ key[0];
        words[1] = (uint32_t)odd;
        words[2] = (uint32_t)(even >> 32) ^ words[3] ^ key[1];
        words[3] = (uint32_t)even;
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
}

/* Box-Muller as cuRAND does it: sine first, both uniforms in the middle of their step. The GPU's
 * fast sine takes turns, not radians; rounding to float there as well brings us from 1.9e-6 to
 * 1.6e-6 of an H100's values. */
static void pair_to_normal(float out[2], uint32_t x, uint32_t y)
{
    float u = fmaf((float)x, 0x1p-32f, 0x1p-33f);
    float angle = fmaf((float)y, (float)(2.0 * M_PI * 0x1p-32), (float)(2.0 * M_PI * 0x1p-33));
    float turns = angle * (float)(0.5 / M_PI);
    float radius = sqrtf(-2.0f * logf(u));

    out[0] = radius * (float)sin(2.0 * M_PI * (double)turns);
    out[1] = radius * (float)cos(2.0 * M_PI * (double)turns);
}

static void counter_to_normals(float normals[NORMALS_PER_COUNTER], uint64_t seed, uint64_t counter,
                               uint64_t thread)
{
    uint32_t words[4];

    philox_words(words, seed, counter, thread);
    pair_to_normal(normals, words[0], words[1]);
    pair_to_normal(normals + 2, words[2], words[3]);
}

void torch_cuda_normal(float *out, size_t count, struct philox *generator)
{
    size_t blocks = count / CUDA_BLOCK_THREADS + (count % CUDA_BLOCK_THREADS != 0);
    size_t blocks_max = generator->threads_max / CUDA_BLOCK_THREADS;
    size_t threads = (blocks < blocks_max ? blocks : blocks_max) * CUDA_BLOCK_THREADS;
    uint64_t counter = generator->offset / NORMALS_PER_COUNTER;

    assert(blocks_max > 0);
    /* Thread t makes elements t, t + threads, t + 2 threads and t + 3 threads from its first
     * counter, the following four from its second, and so on. */
    for (size_t base = 0; base < count; base += NORMALS_PER_COUNTER * threads, counter++)
        for (size_t thread = 0; thread < threads && base + thread < count; thread++) {
            float normals[NORMALS_PER_COUNTER];
            size_t at = base + thread;

            counter_to_normals(normals, generator->seed, counter, thread);
            for (int i = 0; i < NORMALS_PER_COUNTER && at < count; i++, at += threads)
                out[at] = normals[i];
        }
    generator->offset = counter * NORMALS_PER_COUNTER;
}
