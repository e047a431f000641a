/* How fast this machine multiplies and adds with nothing else to do: no loads, no stores. */
#ifndef TESTS_KERNELS_FMA_PEAK_H
#define TESTS_KERNELS_FMA_PEAK_H

#include "backend/host_stream.h"
#include "base/clock.h"

/* GFLOP/s of all threads of the stream together, in f32 and with vectors as wide as the backend's
 * ("cpu avx2", "cpu avx512"). Takes a few milliseconds. 0 where there is no such kernel. */
double fma_peak(struct stream *stream, const char *backend_name);

#endif
