#include "fma_peak.h"

#include <string.h>
#include <time.h>

#define TURNS 500000
#define FMAS_PER_TURN 12

#if defined(__x86_64__)

/* Twelve sums that wait for nothing but themselves: more than latency times units (4 x 2, 5 x 2).
 */
#define FMA(width, n) "vfmadd231ps %%" width "14, %%" width "15, %%" width n "\n\t"
#define CLEAR(n) "vxorps %%xmm" n ", %%xmm" n ", %%xmm" n "\n\t"
#define DEFINE_PEAK(name, width)                                                                   \
    static void name(long turns)                                                                   \
    {                                                                                              \
        __asm__ volatile(CLEAR("0") CLEAR("1") CLEAR("2") CLEAR("3") CLEAR("4") CLEAR("5")         \
                             CLEAR("6") CLEAR("7") CLEAR("8") CLEAR("9") CLEAR("10") CLEAR("11")   \
                                 CLEAR("14") CLEAR("15") "1:\n\t" FMA(width, "0") FMA(width, "1")  \
                                     FMA(width, "2") FMA(width, "3") FMA(width, "4")               \
                                         FMA(width, "5") FMA(width, "6") FMA(width, "7")           \
                                             FMA(width, "8") FMA(width, "9") FMA(width, "10")      \
                                                 FMA(width, "11") "dec %0\n\t"                     \
                                                                  "jnz 1b\n\t"                     \
                                                                  "vzeroupper"                     \
                         : "+r"(turns)                                                             \
                         :                                                                         \
                         : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",   \
                           "xmm8", "xmm9", "xmm10", "xmm11", "xmm14", "xmm15");                    \
    }

DEFINE_PEAK(spin_256, "ymm")
DEFINE_PEAK(spin_512, "zmm")

static void spin_256_task(void *context, int thread_index, int thread_count)
{
    (void)context, (void)thread_index, (void)thread_count;
    spin_256(TURNS);
}

static void spin_512_task(void *context, int thread_index, int thread_count)
{
    (void)context, (void)thread_index, (void)thread_count;
    spin_512(TURNS);
}

double fma_peak(struct stream *stream, const char *backend_name)
{
    bool wide = strstr(backend_name, "avx512") != NULL;
    double lanes = wide ? 16 : 8, threads = thread_pool_size(stream->pool);
    double begin = seconds_now();

    thread_pool_run(stream->pool, wide ? spin_512_task : spin_256_task, NULL);
    return threads * TURNS * FMAS_PER_TURN * lanes * 2 / (seconds_now() - begin) / 1e9;
}

#else

double fma_peak(struct stream *stream, const char *backend_name)
{
    (void)stream, (void)backend_name;
    return 0;
}

#endif
