/* The stream of backends that run on the host: threads, scratch, the first failure.
 *
 * Work is done before an op returns. Shared by ref/ and cpu/.
 */
#ifndef BACKEND_HOST_STREAM_H
#define BACKEND_HOST_STREAM_H

#include "backend/backend.h"
#include "base/thread_pool.h"

struct stream {
    struct thread_pool *pool; /* NULL for ref/: one thread, the caller's */
    const atomic_bool *cancel;
    bool has_failed;
    struct error failure;
    /* Packing buffers of cpu/, taken once so that ops allocate nothing; NULL for ref/. */
    void *scratch;
    size_t scratch_bytes;
    void *tap; /* of a table that wraps the one of this stream; NULL: none */
};

/* True when an op is to do nothing: an earlier one failed, or somebody cancelled. */
static inline bool stream_skips(const struct stream *stream)
{
    return stream->has_failed ||
           (stream->cancel && atomic_load_explicit(stream->cancel, memory_order_relaxed));
}

/* Keeps the first failure. */
void stream_fail(struct stream *stream, enum error_code code, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* threads as in stream_options, or -1 for none; scratch_bytes_for says how much scratch a stream
 * with so many threads needs, NULL for none. */
MUST_CHECK bool host_stream_create(struct stream **out, int threads, const atomic_bool *cancel,
                                   size_t (*scratch_bytes_for)(int threads), struct error *err);
void host_stream_destroy(struct stream *stream);
bool host_stream_finish(struct stream *stream, struct error *err);
void host_stream_watch(struct stream *stream, const atomic_bool *cancel);
size_t host_stream_scratch_bytes(const struct stream *stream);
void *host_memory_alloc(size_t bytes);
void host_memory_free(void *memory, size_t bytes);
void host_copy_bytes(struct stream *stream, struct tensor *out, const struct tensor *x);

#endif
