/* Uploader: the way of weights from a mapped file to the device, through two pinned buffers, so
 * that the copy to one overlaps the transfer from the other. Belongs to one thread at a time. */
#ifndef BACKEND_CUDA_CUDA_UPLOADER_H
#define BACKEND_CUDA_CUDA_UPLOADER_H

#include "backend/cuda/kernels.h"
#include "base/error.h"

#define UPLOAD_PIECE_BYTES ((size_t)16 << 20)

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
/* Waits. False, with a sentence, when something failed. */
MUST_CHECK bool uploader_wait(struct uploader *uploader, struct error *err);

size_t view_type_size(enum view_type type);

#endif
