/* What the C files of the plugin share: the device, its streams, and how ops report failures. */
#ifndef BACKEND_CUDA_CUDA_STREAM_H
#define BACKEND_CUDA_CUDA_STREAM_H

#include "backend/backend.h"
#include "backend/cuda/cuda_libraries.h"
#include "backend/cuda/kernels.h"

struct gpu_monitor;
struct weight_store;
struct dnn;
struct product_cache;
struct attention_cache;
struct choice_file;

/* One device a process: a worker that loses its device is replaced as a whole. */
struct cuda_device {
    int index;
    int capability; /* 90 for 9.0: of the hardware, or lower where SD35_FORCE_CC says so */
    int multiprocessors;
    enum dtype f;       /* the activation type: F32, F16 or BF16 */
    bool allows_fp8;    /* FP8 weights are multiplied in FP8 */
    bool avoids_fp8;    /* for now: cuda_avoid_8_bits */
    void *encode_tiled; /* the driver's cuTensorMapEncodeTiled; NULL: too old a driver */
    char name[256];
    char *choice_folder; /* choice_folder_find's */
    struct cuda_libraries libraries;
    struct gpu_monitor *monitor; /* NULL: there is none */
};
extern struct cuda_device cuda_device;

/* Beside the model's branches: every second sample's product, on the multiprocessors that the last
 * tiles of the one before leave idle. Forked from branch 0, and joined with it. */
#define SIDE_BRANCH STREAM_BRANCHES
#define BRANCHES (STREAM_BRANCHES + 1)

/* Scratch of each branch, so that branches never wait for each other's. */
#define WORKSPACE_BYTES ((size_t)64 << 20) /* of the libraries' kernels */
#define ALIGNED_SCALES_MAX 65536 /* factors of rows that do not lie where cuBLASLt wants */
#define FOLDED_MAX 65536         /* factors of rows of weights, times a gate */
#define DECODED_BYTES                                                                              \
    ((size_t)96 << 20) /* of weights turned to 16 bits, scores, doubled pixels                     \
                        */

enum fault { FAULT_ID, FAULT_NOT_FINITE, FAULT_COUNT };

struct stream {
    cudaStream_t branches[BRANCHES];
    cudaEvent_t forked, finished[BRANCHES];
    bool is_forked[BRANCHES]; /* since the last join */
    int branch;
    void *workspace[BRANCHES], *decoded[STREAM_BRANCHES];
    const atomic_bool *cancel;
    bool has_failed, is_recording;
    int recorded_branch;    /* that the recording began on */
    bool has_recorded_fork; /* and whether it went to others */
    struct error failure;
    cublasLtHandle_t lt;
    struct choice_file *choices; /* saved when the stream has finished */
    struct dnn *dnn;             /* NULL: cuDNN is not there */
    struct product_cache *products;
    struct attention_cache *attentions;
    struct weight_store *weights;
    struct streamed_weights *streamed;     /* a list */
    struct streamed_weights *recorded;     /* that the recording has entered; NULL: none */
    float *aligned_scale[BRANCHES];        /* [ALIGNED_SCALES_MAX] */
    float *folded_scale[STREAM_BRANCHES];  /* [FOLDED_MAX], as folded_bias in f */
    void *folded_bias[STREAM_BRANCHES];
    int *fault; /* [FAULT_COUNT] pinned, seen by kernels: not 0 when one met what it must not */
};

static inline cudaStream_t stream_now(const struct stream *stream)
{
    return stream->branches[stream->branch];
}

static inline void *stream_workspace(const struct stream *stream)
{
    return stream->workspace[stream->branch];
}

/* The side branch, which only ever wants it for timing, takes that of branch 0. */
static inline void *stream_decoded(const struct stream *stream)
{
    return stream->decoded[stream->branch == SIDE_BRANCH ? 0 : stream->branch];
}

/* True when an op is to do nothing: an earlier one failed, or somebody cancelled. While recording,
 * everything is recorded. */
static inline bool stream_skips(const struct stream *stream)
{
    return stream->has_failed || (!stream->is_recording && stream->cancel &&
                                  atomic_load_explicit(stream->cancel, memory_order_relaxed));
}

/* Keep the first failure. */
void stream_fail(struct stream *stream, enum error_code code, const char *format, ...)
    PRINTF_LIKE(3, 4);
/* False, and the stream has failed, when `status` is not success. */
bool stream_check(struct stream *stream, cudaError_t status, const char *what);
/* Where no stream is to fail: sets `err`. Always false. */
bool fail_cuda(struct error *err, cudaError_t status, const char *what);

/* The same memory as the kernels see it. */
struct view view_of(const struct tensor *tensor);
enum view_type view_type_of(enum dtype dtype);

bool cuda_stream_create(struct stream **out, const struct backend_ops *ops,
                        const struct stream_options *options, struct error *err);
void cuda_stream_destroy(struct stream *stream);
bool cuda_stream_finish(struct stream *stream, struct error *err);
void cuda_stream_watch(struct stream *stream, const atomic_bool *cancel);
void cuda_branch(struct stream *stream, int branch);
/* To branch 0, which goes on when this one, too, has got here. */
void stream_join_branch(struct stream *stream, int branch);
void cuda_join(struct stream *stream);
void cuda_record_begin(struct stream *stream);
struct recording *cuda_record_end(struct stream *stream);
void cuda_replay(struct stream *stream, const struct recording *recording);
void cuda_recording_free(struct recording *recording);
void *cuda_memory_alloc(size_t bytes);
void cuda_memory_free(void *memory, size_t bytes);
void cuda_upload(struct stream *stream, struct tensor *out, const struct tensor *host);
void cuda_download(struct stream *stream, struct tensor *host, const struct tensor *x);
size_t cuda_scratch_bytes(const struct stream *stream);
void cuda_avoid_8_bits(struct stream *stream, bool avoid);
void cuda_check_finite(struct stream *stream, const struct tensor *x);
void cuda_memory_info(size_t *free_bytes, size_t *total_bytes);

/* cuda_matmul.c */
bool product_cache_create(struct product_cache **out, struct error *err);
void product_cache_destroy(struct product_cache *cache);

/* Products: cuda_products.c */
enum dtype cuda_linear_input(const struct linear *layers, int count);
void cuda_linear(struct stream *stream, struct tensor *out, const struct tensor *x,
                 const struct linear *layer);
void cuda_linears(struct stream *stream, struct tensor *out, const struct tensor *x,
                  const struct linear *layers, int count);
/* gelu_tanh(linear(x)) in f, for x of f. */
void cuda_linear_with_gelu(struct stream *stream, struct tensor *out, const struct tensor *x,
                           const struct linear *layer);
void cuda_gated_linear(struct stream *stream, struct tensor *x, const struct tensor *gate,
                       const struct tensor *input, const struct linear *layer);
/* out [M, N] = alpha x [M, K] w [N, K]^T (or w [K, N] when w_is_turned), all of one 16-bit type or
 * F32; out may be F32. Row strides in elements. */
struct plain_product {
    void *out;
    const void *x, *w;
    int64_t m, n, k, out_stride, x_stride, w_stride;
    enum view_type type, out_type;
    bool w_is_turned;
};
void cuda_plain_product(struct stream *stream, const struct plain_product *product);

/* cuda_fused.c */
void cuda_normed_qkv(struct stream *stream, struct tensor *out, const struct tensor *x,
                     const struct linear layers[3], const struct tensor *q_norm,
                     const struct tensor *k_norm, float epsilon);
void cuda_gelu_linear(struct stream *stream, struct tensor *out, struct tensor *hidden,
                      const struct tensor *x, const struct linear *layer);

/* cuda_attention.c */
bool attention_cache_create(struct attention_cache **out, struct error *err);
void attention_cache_destroy(struct attention_cache *cache);
void cuda_attention(struct stream *stream, struct tensor *out, const struct tensor *q,
                    const struct tensor *k, const struct tensor *v,
                    const struct attention_options *options);

/* cuda_pictures.c */
void cuda_conv2d(struct stream *stream, struct tensor *out, const struct tensor *x,
                 const struct linear *layer, const struct conv_options *options);
void cuda_group_stats(struct stream *stream, struct tensor *stats, const struct tensor *x,
                      float epsilon);
void cuda_group_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                     const struct tensor *stats, const struct tensor *weight,
                     const struct tensor *bias, bool with_silu);

#endif
