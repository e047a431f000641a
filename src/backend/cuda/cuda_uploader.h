/* Uploader: the way of weights from a mapped file to the device, through two pinned buffers, so
 * that the copy to one overlaps the transfer from the other. Belongs to one thread at a time. */
#ifndef BACKEND_CUDA_CUDA_UPLOADER_H
#define BACKEND_CUDA_CUDA_UPLOADER_H

#include "backend/cuda/kernels.h"
#include "base/attributes.h"
#include "base/error.h"

#define UPLOAD_PIECE_BYTES ((size_t)16 << 20)
#define UPLOAD_THREADS_MAX 8

struct uploader {
    cudaStream_t stream;
    struct upload_slot {
        void *pinned, *raw; /* host and device, UPLOAD_PIECE_BYTES each */
        cudaEvent_t done;
    } slots[2];
    int next;
    cudaError_t status; /* the first failure; nothing is done after it */
};

MUST_CHECK bool uploader_init(struct uploader *uploader, struct error *err);
void uploader_finish(struct uploader *uploader);

/* Keeps the first failure. */
void uploader_note(struct uploader *uploader, cudaError_t status);

/* The bytes as they are. */
void upload_bytes(struct uploader *uploader, void *to, const void *from, size_t bytes);
/* A matrix [n, k], turned to `type`, each row times its factor. scale on the device, or NULL. */
void upload_matrix(struct uploader *uploader, void *to, enum view_type to_type, const void *from,
                   enum view_type from_type, int64_t n, int64_t k, const float *scale,
                   int64_t scale_count);
/* A filter [o, c, kh, kw] of at most UPLOAD_PIECE_BYTES, arranged [o, kh, kw, padded_c]. */
void upload_filter(struct uploader *uploader, void *to, enum view_type to_type, const void *from,
                   enum view_type from_type, const int64_t dim[4], int64_t padded_c,
                   const float *scale, int64_t scale_count);
/* A matrix [n, k] of 16 or 32 bits as E4M3, with a factor for each row: scale [n] on the device. */
void upload_quantised(struct uploader *uploader, void *to, float *scale, const void *from,
                      enum view_type from_type, int64_t n, int64_t k);
/* What lies on the device then, to pinned memory. */
void upload_back(struct uploader *uploader, void *host, const void *from, size_t bytes);
/* Waits. False, with a sentence, when something failed. */
MUST_CHECK bool uploader_wait(struct uploader *uploader, struct error *err);

/* What each thread of uploaders_run does with item `index`. */
struct upload_work {
    void (*upload)(struct uploader *uploader, void *context, int thread, size_t index);
    void *context;
    size_t count;
    int threads_max; /* at most UPLOAD_THREADS_MAX are taken */
};
/* Does it for all of 0 .. count - 1, by several threads with an uploader each. Waits. False, with
 * the first failure. */
MUST_CHECK bool uploaders_run(const struct upload_work *work, struct error *err);

size_t view_type_size(enum view_type type);

#endif
