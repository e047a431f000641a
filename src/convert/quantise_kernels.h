/* The quantiser's loops, compiled once for each level of instructions. */
#ifndef CONVERT_QUANTISE_KERNELS_H
#define CONVERT_QUANTISE_KERNELS_H

#include "convert/quantise.h"

extern const struct quantise_ops quantise_plain;
#if defined(__x86_64__)
extern const struct quantise_ops quantise_avx2;
#endif

#endif
