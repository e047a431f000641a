/* How ops of the CPU backend share a stream's scratch.
 *
 * One part is shared by all threads of an op, then comes a part for each thread. Everything lives
 * for one op only.
 */
#ifndef BACKEND_CPU_SCRATCH_H
#define BACKEND_CPU_SCRATCH_H

#include <assert.h>
#include <stddef.h>

#include "backend/host_stream.h"

/* Room for a packed operand of a product. With 32 MiB the products of SD 3.5 Medium and of T5 are
 * done in one round, or in two; 16 MiB cost T5 5 %. Pages that no op needs stay untouched. */
#define CPU_SHARED_SCRATCH_BYTES ((size_t)32 << 20)
/* As large as the L2 cache of big cores: more would not be quick to reach. */
#define CPU_THREAD_SCRATCH_BYTES ((size_t)1 << 20)

static inline size_t cpu_scratch_bytes(int threads)
{
    return CPU_SHARED_SCRATCH_BYTES + (size_t)threads * CPU_THREAD_SCRATCH_BYTES;
}

/* Both aligned to pages. */
static inline void *cpu_shared_scratch(const struct stream *stream)
{
    assert(stream->scratch_bytes >= CPU_SHARED_SCRATCH_BYTES);
    return stream->scratch;
}

static inline void *cpu_thread_scratch(const struct stream *stream, int thread_index)
{
    assert(stream->scratch_bytes >= cpu_scratch_bytes(thread_index + 1));
    return (char *)stream->scratch + cpu_scratch_bytes(thread_index);
}

#endif
