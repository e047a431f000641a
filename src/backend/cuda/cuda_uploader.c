#include "backend/cuda/cuda_uploader.h"

#include <string.h>

#include "base/size.h"

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

static void note(struct uploader *uploader, cudaError_t status)
{
    if (uploader->status == cudaSuccess)
        uploader->status = status;
}

bool uploader_init(struct uploader *uploader, struct error *err)
{
    *uploader = (struct uploader){0};
    note(uploader, cudaStreamCreateWithFlags(&uploader->stream, cudaStreamNonBlocking));
    for (int i = 0; i < 2; i++) {
        struct upload_slot *slot = &uploader->slots[i];

        note(uploader, cudaMallocHost(&slot->pinned, UPLOAD_PIECE_BYTES));
        note(uploader, cudaMalloc(&slot->raw, UPLOAD_PIECE_BYTES));
        note(uploader, cudaEventCreateWithFlags(&slot->done, cudaEventDisableTiming));
    }
    if (uploader->status == cudaSuccess)
        return true;
    error_set(err, ERROR_NO_MEMORY, "buffers for loading weights: %s",
              cudaGetErrorString(uploader->status));
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
    note(uploader, cudaEventSynchronize(slot->done));
    return uploader->status == cudaSuccess ? slot : NULL;
}

static void send(struct uploader *uploader, struct upload_slot *slot, void *to, const void *from,
                 size_t bytes)
{
    memcpy(slot->pinned, from, bytes);
    note(uploader,
         cudaMemcpyAsync(to, slot->pinned, bytes, cudaMemcpyHostToDevice, uploader->stream));
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
        note(uploader, cudaEventRecord(slot->done, uploader->stream));
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
        note(uploader, cudaErrorInvalidValue);
        return;
    }
    for (int64_t first = 0; first < n; first += step) {
        int64_t rows = min_i64(step, n - first);
        struct upload_slot *slot = take_slot(uploader);

        if (!slot)
            return;
        send(uploader, slot, slot->raw, (const char *)from + (size_t)first * row,
             (size_t)rows * row);
        note(uploader,
             kernel_decode_weight(uploader->stream,
                                  (char *)to + (size_t)(first * k) * view_type_size(to_type),
                                  to_type, slot->raw, from_type, rows, k,
                                  scale && scale_count > 1 ? scale + first : scale,
                                  scale_count > 1 ? rows : scale_count));
        note(uploader, cudaEventRecord(slot->done, uploader->stream));
    }
}

void upload_filter(struct uploader *uploader, void *to, enum view_type to_type, const void *from,
                   enum view_type from_type, const int64_t dim[4], int64_t padded_c,
                   const float *scale, int64_t scale_count)
{
    size_t bytes = (size_t)(dim[0] * dim[1] * dim[2] * dim[3]) * view_type_size(from_type);
    struct upload_slot *slot;

    if (bytes > UPLOAD_PIECE_BYTES) {
        note(uploader, cudaErrorInvalidValue);
        return;
    }
    slot = take_slot(uploader);
    if (!slot)
        return;
    send(uploader, slot, slot->raw, from, bytes);
    note(uploader,
         kernel_arrange_filter(uploader->stream, to, to_type, slot->raw, from_type, dim[0], dim[1],
                               dim[2], dim[3], padded_c, scale, scale_count));
    note(uploader, cudaEventRecord(slot->done, uploader->stream));
}

bool uploader_wait(struct uploader *uploader, struct error *err)
{
    note(uploader, cudaStreamSynchronize(uploader->stream));
    if (uploader->status == cudaSuccess)
        return true;
    error_set(err, uploader->status == cudaErrorMemoryAllocation ? ERROR_NO_MEMORY : ERROR_BACKEND,
              "loading weights: %s", cudaGetErrorString(uploader->status));
    uploader->status = cudaSuccess;
    return false;
}
