#include "backend/host_stream.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void stream_fail(struct stream *stream, enum error_code code, const char *format, ...)
{
    va_list arguments;

    if (stream->has_failed)
        return;
    stream->has_failed = true;
    stream->failure.code = code;
    va_start(arguments, format);
    vsnprintf(stream->failure.message, sizeof stream->failure.message, format, arguments);
    va_end(arguments);
}

bool host_stream_create(struct stream **out, int threads, const atomic_bool *cancel,
                        size_t (*scratch_bytes_for)(int threads), struct error *err)
{
    struct stream *stream = calloc(1, sizeof *stream);

    if (!stream)
        return error_set(err, ERROR_NO_MEMORY, "stream");
    stream->cancel = cancel;
    if (threads >= 0 && !thread_pool_create(&stream->pool, threads, err))
        goto fail;
    if (scratch_bytes_for) {
        stream->scratch_bytes =
            scratch_bytes_for(stream->pool ? thread_pool_size(stream->pool) : 1);
        stream->scratch = host_memory_alloc(stream->scratch_bytes);
        if (!stream->scratch) {
            error_set(err, ERROR_NO_MEMORY, "stream: %zu bytes of scratch", stream->scratch_bytes);
            goto fail;
        }
    }
    *out = stream;
    return true;

fail:
    host_stream_destroy(stream);
    return false;
}

void host_stream_destroy(struct stream *stream)
{
    if (!stream)
        return;
    host_memory_free(stream->scratch, stream->scratch_bytes);
    thread_pool_destroy(stream->pool);
    free(stream);
}

bool host_stream_finish(struct stream *stream, struct error *err)
{
    if (stream->has_failed) {
        stream->has_failed = false;
        return error_set(err, stream->failure.code, "%s", stream->failure.message);
    }
    if (stream_skips(stream))
        return error_set(err, ERROR_CANCELLED, "cancelled");
    return true;
}

void host_stream_watch(struct stream *stream, const atomic_bool *cancel)
{
    stream->cancel = cancel;
}

size_t host_stream_scratch_bytes(const struct stream *stream)
{
    return stream->scratch_bytes;
}

/* Straight from the system, so that pages nobody touches cost nothing and freed ones really go. */
void *host_memory_alloc(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED)
        return NULL;
    (void)madvise(memory, bytes, MADV_HUGEPAGE); /* fewer TLB misses; harmless where refused */
    return memory;
}

void host_memory_free(void *memory, size_t bytes)
{
    if (memory)
        munmap(memory, bytes);
}

void host_copy_bytes(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    if (!stream_skips(stream))
        memcpy(out->data, x->data, tensor_bytes(out));
}
