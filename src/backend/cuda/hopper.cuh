/* What the kernels for Hopper share, attention_sm90.cu and products_sm90.cu: barriers in shared
 * memory, rings of buffers that TMA fills, wgmma.
 *
 * Shared memory is addressed by 32 bits, in its own window. The bodies of such kernels are empty
 * but for sm_90a, and so is this.
 */
#ifndef BACKEND_CUDA_HOPPER_CUH
#define BACKEND_CUDA_HOPPER_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#define DEVICE __device__ __forceinline__

constexpr int shared_bytes_max = 232448; /* of a CTA */

/* Whether a kernel has its body on this device. In a build for sm_90 without the "a", and from PTX,
 * it is empty and takes next to no registers. *known is -1 until it was asked for. */
template <class kernel_type> bool has_body(int *known, kernel_type kernel)
{
    cudaFuncAttributes attributes;

    if (*known < 0) {
        cudaError_t status = cudaFuncGetAttributes(&attributes, kernel);

        (void)cudaGetLastError(); /* no code at all is an answer, not a fault */
        if (status == cudaErrorMemoryAllocation) /* kernels are loaded now: asked again then */
            return false;
        *known = status == cudaSuccess && attributes.numRegs > 32;
    }
    return *known;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* --- Warps --- */

/* The same in all lanes, and known to be. */
DEVICE int warp_index()
{
    return __shfl_sync(~0u, (int)threadIdx.x / 32, 0);
}

/* How many registers a thread has from here on; by whole warpgroups. One that takes waits until
 * others have given enough. */
template <int count> DEVICE void registers_give()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

template <int count> DEVICE void registers_take()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

/* Barrier 1 .. 15 of the hardware, for so many threads: those that wait, and that only arrive. */
template <int threads> DEVICE void threads_meet(int barrier)
{
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(threads) : "memory");
}

template <int threads> DEVICE void threads_arrive(int barrier)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "n"(threads) : "memory");
}

/* --- Shared memory, and barriers in it --- */

/* The first multiple of 1024, which the 128-byte swizzle wants; the language aligns to 16 only. */
DEVICE uint32_t shared_begin()
{
    extern __shared__ unsigned char memory[];
    return ((uint32_t)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
}

/* What was written before is seen by TMA. */
DEVICE void fence_for_tma()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

DEVICE void barrier_init(uint32_t at, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}

/* After the last barrier_init. */
DEVICE void barriers_ready()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    fence_for_tma();
}

DEVICE void barrier_arrive(uint32_t at)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}

/* Arrives, and the phase waits for so many bytes by TMA as well. */
DEVICE void barrier_expect(uint32_t at, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
                 : "memory");
}

/* Returns once the phase of this parity has completed. */
DEVICE void barrier_wait(uint32_t at, uint32_t parity)
{
    asm volatile("{\n.reg .pred done;\nagain:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}\n" ::"r"(at), "r"(parity) : "memory");
}

/* A place in a ring of buffers, and the parity of the round. */
template <int stages> struct ring_place {
    int stage;
    uint32_t parity;
    DEVICE void advance()
    {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
    DEVICE void skip(int count)
    {
        unsigned all = (unsigned)(stage + count), rounds = all / stages;
        stage = (int)(all - rounds * stages);
        parity ^= rounds & 1;
    }
};

/* --- wgmma --- */

/* Matrix of 128-byte rows, 128-byte swizzle.
 * K-major (a row runs along the sum): 1024 bytes between groups of 8 rows; what follows in the sum
 * is so many bytes further in the row.
 * MN-major (the sum runs over rows; of 16 bits only): 64 columns are one swizzle atom, 1024 bytes
 * between groups of 8 rows, 16 more of the sum are 2048 bytes.
 * The leading offset means nothing in either case; it is given the same value. Addresses and steps
 * are in units of 16 bytes. */
DEVICE uint64_t matrix_descriptor(uint32_t address)
{
    return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)(1024 >> 4) << 16 |
           (uint64_t)((address & 0x3ffff) >> 4);
}

DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/* Keeps the compiler from moving uses of accumulators across this point. */
template <int n> DEVICE void pin(float (&x)[n])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("" : "+f"(x[i])::"memory");
}

/* Waits while more than `pending` groups of products go on, the youngest; for x: its group's. */
template <int pending> DEVICE void products_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

template <int pending, int n> DEVICE void products_wait(float (&x)[n])
{
    products_wait<pending>();
    pin(x);
}

/* Operands of asm: accumulators, and the names of those that come first. */
#define ACCUMULATORS_8(d, i)                                                                       \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define ACCUMULATORS_32(d, i)                                                                      \
    ACCUMULATORS_8(d, i), ACCUMULATORS_8(d, i + 8), ACCUMULATORS_8(d, i + 16),                     \
        ACCUMULATORS_8(d, i + 24)
#define NAMES_32                                                                                   \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_64                                                                                   \
    NAMES_32 ", "                                                                                  \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_96                                                                                   \
    NAMES_64 ", "                                                                                  \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"

/* --- Arithmetic --- */

DEVICE float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE uint32_t pack_bf16(float low, float high)
{
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

#endif

#endif
