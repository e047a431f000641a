#include "backend/cuda/cuda_uploader.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "backend/cuda/cuda_stream.h"
#include "base/size.h"
#include "base/thread_pool.h"

size_t view_type_size(enum view_type type)
{
    switch (type) {
    case VIEW_F32:
    case VIEW_I32:
        return 4;
    case VIEW_F16:
    case VIEW_BF16:
        return 2;
    default:
        return 1;
    }
}

void uploader_note(struct uploader *uploader, cudaError_t status)
{
    if (uploader->status == cudaSuccess)
        uploader->status = status;
}

bool uploader_init(struct uploader *uploader, struct error *err)
{
    *uploader = (struct uploader){0};
    uploader_note(uploader, cudaStreamCreateWithFlags(&uploader->stream, cudaStreamNonBlocking));
    for (int i = 0; i < 2; i++) {
        struct upload_slot *slot = &uploader->slots[i];

        uploader_note(uploader, cudaMallocHost(&slot->pinned, UPLOAD_PIECE_BYTES));
        uploader_note(uploader, cudaMalloc(&slot->raw, UPLOAD_PIECE_BYTES));
        uploader_note(uploader, cudaEventCreateWithFlags(&slot->done, cudaEventDisableTiming));
    }
    if (uploader->status == cudaSuccess)
        return true;
    fail_cuda(err, uploader->status, "buffers for loading weights");
    uploader_finish(uploader);
    return false;
}

void uploader_finish(struct uploader *uploader)
{
    if (uploader->stream)
        cudaStreamSynchronize(uploader->stream);
    for (int i = 0; i < 2; i++) {
        struct upload_slot *slot = &uploader->slots[i];

        cudaFreeHost(slot->pinned);
        cudaFree(slot->raw);
        if (slot->done)
            cudaEventDestroy(slot->done);
    }
    if (uploader->stream)
        cudaStreamDestroy(uploader->stream);
    *uploader = (struct uploader){0};
}

/* The next slot, once the device is done with it. NULL after a failure. */
static struct upload_slot *take_slot(struct uploader *uploader)
{
    struct upload_slot *slot = &uploader->slots[uploader->next];

    uploader->next ^= 1;
    uploader_note(uploader, cudaEventSynchronize(slot->done));
    return uploader->status == cudaSuccess ? slot : NULL;
}

static void send(struct uploader *uploader, struct upload_slot *slot, void *to, const void *from,
                 size_t bytes)
{
    memcpy(slot->pinned, from, bytes);
    uploader_note(uploader, cudaMemcpyAsync(to, slot->pinned, bytes, cudaMemcpyHostToDevice,
                                            uploader->stream));
}

void upload_bytes(struct uploader *uploader, void *to, const void *from, size_t bytes)
{
    for (size_t done = 0; done < bytes; done += UPLOAD_PIECE_BYTES) {
        size_t left = bytes - done;
        struct upload_slot *slot = take_slot(uploader);

        if (!slot)
            return;
        send(uploader, slot, (char *)to + done, (const char *)from + done,
             left < UPLOAD_PIECE_BYTES ? left : UPLOAD_PIECE_BYTES);
        uploader_note(uploader, cudaEventRecord(slot->done, uploader->stream));
    }
}

void upload_matrix(struct uploader *uploader, void *to, enum view_type to_type, const void *from,
                   enum view_type from_type, int64_t n, int64_t k, const float *scale,
                   int64_t scale_count)
{
    size_t row = (size_t)k * view_type_size(from_type);
    int64_t step = (int64_t)(UPLOAD_PIECE_BYTES / row);

    if (to_type == from_type && !scale) {
        upload_bytes(uploader, to, from, (size_t)n * row);
        return;
    }
    if (step < 1) {
        uploader_note(uploader, cudaErrorInvalidValue);
        return;
    }
    for (int64_t first = 0; first < n; first += step) {
        int64_t rows = min_i64(step, n - first);
        struct upload_slot *slot = take_slot(uploader);

        if (!slot)
            return;
        send(uploader, slot, slot->raw, (const char *)from + (size_t)first * row,
             (size_t)rows * row);
        uploader_note(uploader, kernel_decode_weight(
                                    uploader->stream,
                                    (char *)to + (size_t)(first * k) * view_type_size(to_type),
                                    to_type, slot->raw, from_type, rows, k,
                                    scale && scale_count > 1 ? scale + first : scale,
                                    scale_count > 1 ? rows : scale_count));
        uploader_note(uploader, cudaEventRecord(slot->done, uploader->stream));
    }
}

void upload_filter(struct uploader *uploader, void *to, enum view_type to_type, const void *from,
                   enum view_type from_type, const int64_t dim[4], int64_t padded_c,
                   const float *scale, int64_t scale_count)
{
    size_t bytes = (size_t)(dim[0] * dim[1] * dim[2] * dim[3]) * view_type_size(from_type);
    struct upload_slot *slot;

    if (bytes > UPLOAD_PIECE_BYTES) {
        uploader_note(uploader, cudaErrorInvalidValue);
        return;
    }
    slot = take_slot(uploader);
    if (!slot)
        return;
    send(uploader, slot, slot->raw, from, bytes);
    uploader_note(uploader,
                  kernel_arrange_filter(uploader->stream, to, to_type, slot->raw, from_type, dim[0],
                                        dim[1], dim[2], dim[3], padded_c, scale, scale_count));
    uploader_note(uploader, cudaEventRecord(slot->done, uploader->stream));
}

void upload_quantised(struct uploader *uploader, void *to, float *scale, const void *from,
                      enum view_type from_type, int64_t n, int64_t k)
{
    size_t row = (size_t)k * view_type_size(from_type);
    int64_t step = (int64_t)(UPLOAD_PIECE_BYTES / row);

    if (step < 1) {
        uploader_note(uploader, cudaErrorInvalidValue);
        return;
    }
    for (int64_t first = 0; first < n; first += step) {
        int64_t rows = min_i64(step, n - first);
        struct upload_slot *slot = take_slot(uploader);

        if (!slot)
            return;
        send(uploader, slot, slot->raw, (const char *)from + (size_t)first * row,
             (size_t)rows * row);
        uploader_note(uploader,
                      kernel_quantise_weight(uploader->stream, (char *)to + first * k,
                                             scale + first, slot->raw, from_type, rows, k));
        uploader_note(uploader, cudaEventRecord(slot->done, uploader->stream));
    }
}

void upload_back(struct uploader *uploader, void *host, const void *from, size_t bytes)
{
    uploader_note(uploader,
                  cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, uploader->stream));
}

bool uploader_wait(struct uploader *uploader, struct error *err)
{
    uploader_note(uploader, cudaStreamSynchronize(uploader->stream));
    if (uploader->status == cudaSuccess)
        return true;
    fail_cuda(err, uploader->status, "loading weights");
    uploader->status = cudaSuccess;
    return false;
}

/* --- Several --- */

struct upload_run {
    const struct upload_work *work;
    atomic_size_t next_index;
    atomic_int next_thread;
    pthread_mutex_t lock;
    struct error failure; /* under lock, the first */
};

/* A thread that has no room for its buffers leaves its share to others, unless it is the one that
 * called. */
static void upload_share(struct upload_run *run, bool is_caller)
{
    const struct upload_work *work = run->work;
    int thread = atomic_fetch_add(&run->next_thread, 1);
    struct uploader uploader;
    struct error err = {0};
    bool ok;

    cudaSetDevice(cuda_device.index);
    ok = uploader_init(&uploader, &err);
    if (!ok && !is_caller && err.code == ERROR_NO_MEMORY)
        return;
    while (ok) {
        size_t index = atomic_fetch_add(&run->next_index, 1);

        if (index >= work->count)
            break;
        work->upload(&uploader, work->context, thread, index);
        ok = uploader.status == cudaSuccess;
    }
    if (uploader.stream) {
        ok = uploader_wait(&uploader, &err) && ok;
        uploader_finish(&uploader);
    }
    if (!ok) {
        pthread_mutex_lock(&run->lock);
        if (run->failure.code == ERROR_NONE)
            run->failure = err;
        pthread_mutex_unlock(&run->lock);
    }
}

static void *help_to_upload(void *run)
{
    upload_share(run, false);
    return NULL;
}

bool uploaders_run(const struct upload_work *work, struct error *err)
{
    struct upload_run run = {.work = work};
    pthread_t threads[UPLOAD_THREADS_MAX];
    int wanted = thread_pool_cpu_count(), started = 0;

    if (wanted > UPLOAD_THREADS_MAX)
        wanted = UPLOAD_THREADS_MAX;
    if (wanted > work->threads_max)
        wanted = work->threads_max;
    pthread_mutex_init(&run.lock, NULL);
    for (; started < wanted - 1; started++)
        if (pthread_create(&threads[started], NULL, help_to_upload, &run) != 0)
            break;
    upload_share(&run, true);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&run.lock);
    if (run.failure.code == ERROR_NONE)
        return true;
    *err = run.failure;
    return false;
}
