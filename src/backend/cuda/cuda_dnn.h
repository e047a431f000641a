/* cuDNN: convolutions with their bias, and attention as one node.
 *
 * The first call with a shape asks cuDNN for engines, leaves out those whose result may differ from
 * run to run or that compute in fewer bits, times the others on the buffers of the call (which
 * waits for the stream, and leaves in `out` what the call is to leave there) and keeps the fastest,
 * or one that cuDNN recommends more and that is as good as that.
 * Later calls with that shape only enqueue, and may be captured into a graph; a first call while
 * the stream is capturing fails. DNN_PLANS_MAX shapes are kept, the least recently used goes first.
 * A graph that has captured a shape must be gone before that shape goes, and before dnn_destroy.
 *
 * Which engine is fastest depends on the shape, the batch included, and where two are close, timing
 * may prefer either: the last bits of a result would change from start to start. Choices are
 * therefore kept in a choice_file, and one that is there is not timed again.
 */
#ifndef BACKEND_CUDA_CUDA_DNN_H
#define BACKEND_CUDA_CUDA_DNN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels.h"
#include "base/attributes.h"
#include "base/error.h"

#define DNN_PLANS_MAX 256

struct choice_file;
struct cuda_libraries;
struct dnn; /* of one device and one thread, for work on one stream at a time */

struct dnn_conv {
    struct view out;    /* [B, H', W', O], x's type or F32 */
    struct view x;      /* [B, H, W, C], BF16 or F16, C a multiple of 8 */
    const void *filter; /* [O, kh, kw, C] of x's type, contiguous */
    const void *bias;   /* [O]; NULL: none */
    /* F32, or x's type. cuDNN has its compiled engines for x's type; F32 leaves those few that it
     * compiles when a shape is first seen, a second or two each time. */
    enum view_type bias_type;
    /* Set to whether the caller has to add the bias, because no engine adds it. NULL: such a
     * convolution fails. */
    bool *bias_is_left;
    int64_t kernel_height, kernel_width;
    int stride;            /* of both directions */
    int pad_top, pad_left; /* zeros before the input; negative: so much of it is skipped */
};

/* What the latest call ran. */
struct dnn_choice {
    int64_t engine; /* cuDNN's number of it, -1 when it has none; numbers are per kind of graph */
    int rank; /* place of engine and settings in cuDNN's recommendation, 0: its favourite; -1: it
               * was chosen before, and none was timed */
    int candidates;  /* how many were timed */
    float best_ms;   /* of the one that was taken, when it was timed */
    float second_ms; /* of the fastest other; 0 when there was one only */
    size_t workspace_bytes;
};

/* For the current device. Borrows libraries, whose has_dnn must be true, and choices. */
MUST_CHECK bool dnn_create(struct dnn **out, const struct cuda_libraries *libraries,
                           struct choice_file *choices, struct error *err);
void dnn_destroy(struct dnn *dnn); /* NULL is fine; its work must have ended */

/* out = convolution as in backend.h, without upsampling. Beyond the input on every side is zero.
 * workspace is device memory, aligned to 256 bytes; engines that need more of it are left out.
 * ERROR_BACKEND with a sentence when cuDNN does not take the shape: that is remembered too. */
MUST_CHECK bool dnn_conv(struct dnn *dnn, cudaStream_t stream, void *workspace,
                         size_t workspace_bytes, const struct dnn_conv *conv, struct error *err);

/* BF16 or F16, D a multiple of 8 up to 128, all addresses and strides multiples of 16 bytes, shapes
 * that agree, and a cuDNN that has the one-node form (9.13.1). */
bool dnn_attention_fits(const struct dnn *dnn, const struct view *out, const struct view *q,
                        const struct view *k, const struct view *v);
/* out = softmax(scale q k') v: q, out [B, Tq, N, D], k, v [B, Tk, N, D]. Only what fits. */
MUST_CHECK bool dnn_attention(struct dnn *dnn, cudaStream_t stream, void *workspace,
                              size_t workspace_bytes, const struct view *out, const struct view *q,
                              const struct view *k, const struct view *v, float scale,
                              struct error *err);

void dnn_latest_choice(const struct dnn *dnn, struct dnn_choice *choice);

#endif
