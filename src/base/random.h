/* Noise that a seed means elsewhere too: PyTorch's CPU and CUDA generators, reproduced.
 *
 * The CPU generator is MT19937 with PyTorch's way of filling a tensor (aten, DistributionTemplates:
 * normal_fill); the CUDA generator is Philox4x32-10 (Salmon et al. 2011) with PyTorch's mapping of
 * threads to elements. Values agree with PyTorch to about 1e-6, not to the bit: its vectorised
 * logarithm and cosine differ from ours.
 */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* What torch.Generator("cpu").manual_seed(seed) is. */
struct mt19937 {
    uint32_t state[624];
    int next;              /* index of the next word; 624: make new ones first */
    int has_cached_normal; /* only draws of fewer than 16 elements use it, as in PyTorch */
    double cached_normal;
};

void mt19937_seed(struct mt19937 *generator, uint64_t seed);
uint32_t mt19937_next(struct mt19937 *generator);

/* torch.randn(count, generator=generator) in float32. The generator moves on, so a second call
 * draws what a second torch.randn would. */
void torch_cpu_normal(float *out, size_t count, struct mt19937 *generator);

/* The most threads PyTorch launches for one kernel on the card whose noise is wanted:
 * multiprocessors * floor(threads per multiprocessor / 256) * 256. */
#define TORCH_CUDA_THREADS_H100 270336u
#define TORCH_CUDA_THREADS_A100 221184u
#define TORCH_CUDA_THREADS_RTX4090 196608u

struct philox {
    uint64_t seed;
    uint64_t offset;      /* what torch calls the generator's offset: a multiple of 4 */
    uint32_t threads_max; /* one of the above */
};

/* torch.randn(count, generator=torch.Generator("cuda").manual_seed(seed), device="cuda") in float32
 * for generator->offset = 0. The offset moves on as PyTorch's does. */
void torch_cuda_normal(float *out, size_t count, struct philox *generator);

#endif
