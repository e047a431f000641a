#include "backend/cpu/cpu_features.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From arch_prctl(2) and the kernel's x86/xstate documentation; older headers lack the first. */
#define REQUEST_STATE_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define STATE_TILE_DATA 18

/* Register files that the system saves for us, as XCR0 bits (Intel SDM volume 1, 13.3). */
#define STATE_AVX 0x6UL       /* SSE and AVX */
#define STATE_AVX512 0xe6UL   /* those, mask registers, and both halves of zmm */
#define STATE_TILES 0x60000UL /* tile configuration and data */

struct cpuid_answer {
    unsigned eax, ebx, ecx, edx;
};

/* All zeros for a leaf that the CPU does not know. */
static struct cpuid_answer ask_cpuid(unsigned leaf, unsigned subleaf)
{
    struct cpuid_answer answer = {0};

    if (!__get_cpuid_count(leaf, subleaf, &answer.eax, &answer.ebx, &answer.ecx, &answer.edx))
        return (struct cpuid_answer){0};
    return answer;
}

/* XCR0; the caller knows that the instruction exists. */
static unsigned long saved_states(void)
{
    unsigned low, high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (unsigned long)high << 32 | low;
}

static bool has_bits(unsigned long value, unsigned long wanted)
{
    return (value & wanted) == wanted;
}

static bool may_use_tiles(void)
{
    return syscall(SYS_arch_prctl, REQUEST_STATE_PERMISSION, STATE_TILE_DATA) == 0;
}

unsigned cpu_features_detect(void)
{
    struct cpuid_answer base = ask_cpuid(1, 0);
    struct cpuid_answer extended = ask_cpuid(7, 0);
    struct cpuid_answer more = ask_cpuid(7, 1);
    unsigned features = 0;
    unsigned long states;

    if (!(base.ecx & bit_OSXSAVE))
        return 0;
    states = saved_states();
    if (!has_bits(states, STATE_AVX) || !has_bits(base.ecx, bit_FMA | bit_F16C | bit_AVX) ||
        !(extended.ebx & bit_AVX2))
        return 0;
    features |= CPU_AVX2;
    if (!has_bits(states, STATE_AVX512) ||
        !has_bits(extended.ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ))
        return features;
    features |= CPU_AVX512;
    if (more.eax & 1u << 5)
        features |= CPU_AVX512_BF16;
    if (extended.edx & 1u << 23)
        features |= CPU_AVX512_FP16;
    /* bits 22 and 24: bf16 products and the tiles themselves */
    if (has_bits(extended.edx, 1u << 22 | 1u << 24) && has_bits(states, STATE_TILES) &&
        may_use_tiles())
        features |= CPU_AMX;
    return features;
}

#else

unsigned cpu_features_detect(void)
{
    return 0;
}

#endif
