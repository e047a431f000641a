/* What this CPU can do, as far as the kernels care, and the system lets us use it. */
#ifndef BACKEND_CPU_CPU_FEATURES_H
#define BACKEND_CPU_CPU_FEATURES_H

enum {
    CPU_AVX2 = 1,        /* AVX2, FMA and F16C */
    CPU_AVX512 = 2,      /* AVX-512 F, BW, VL and DQ */
    CPU_AVX512_BF16 = 4, /* products of bf16 pairs */
    CPU_AVX512_FP16 = 8, /* arithmetic in f16 */
    CPU_AMX = 16,        /* tiles and their bf16 product */
};

/* A sum of the above. Asks the kernel for permission to use tiles, which it wants once a process
 * and before the threads that use them start. 0 on machines that are no x86. */
unsigned cpu_features_detect(void);

#endif
