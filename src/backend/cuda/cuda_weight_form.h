/* The form of weights on the device: where the parts of a request lie, and how they come there. */
#ifndef BACKEND_CUDA_CUDA_WEIGHT_FORM_H
#define BACKEND_CUDA_CUDA_WEIGHT_FORM_H

#include "backend/cuda/cuda_uploader.h"
#include "backend/cuda/cuda_weights.h"

#define WEIGHT_ALIGN 256 /* of a request and each of its parts */

/* Places a request at `base`, NULL for measuring, and returns the bytes that it takes. */
size_t weight_place(struct device_weight *out, char *base, const struct weight_request *request);
/* Makes what was placed there, as soon as the uploader's stream gets to it. */
void weight_upload(struct uploader *uploader, const struct device_weight *to,
                   const struct weight_request *request);

/* From the first element of a table to its last: rows may have room between them. */
size_t weight_span_bytes(const struct tensor *table);

#endif
