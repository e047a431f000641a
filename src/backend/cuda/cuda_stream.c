#include "backend/cuda/cuda_stream.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_choices.h"
#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_streamed.h"
#include "backend/cuda/cuda_weights.h"

struct recording {
    cudaGraphExec_t graph;
    int branch;
    bool has_fork;
    struct streamed_recording streamed;
};

/* --- Failures --- */

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

bool stream_check(struct stream *stream, cudaError_t status, const char *what)
{
    if (status == cudaSuccess)
        return true;
    stream_fail(stream, cuda_error_code(status), "%s: %s (%s)", what, cudaGetErrorString(status),
                cudaGetErrorName(status));
    (void)cudaGetLastError(); /* the next launch would find it */
    return false;
}

bool fail_cuda(struct error *err, cudaError_t status, const char *what)
{
    (void)cudaGetLastError();
    return error_set(err, cuda_error_code(status), "%s: %s (%s)", what, cudaGetErrorString(status),
                     cudaGetErrorName(status));
}

/* --- Coming and going --- */

/* Branch 0 and the side branch have the large kernels, which take every multiprocessor. What goes
 * on beside them is small and comes first where one becomes free, or it would wait for the end of
 * them all. */
static cudaError_t create_branch(cudaStream_t *out, int branch)
{
    bool is_large = branch == 0 || branch == SIDE_BRANCH;
    int least, greatest;
    cudaError_t status = cudaDeviceGetStreamPriorityRange(&least, &greatest);

    if (status != cudaSuccess)
        return status;
    return cudaStreamCreateWithPriority(out, cudaStreamNonBlocking, is_large ? least : greatest);
}

static bool create_branches(struct stream *stream, struct error *err)
{
    cudaError_t status = cudaEventCreateWithFlags(&stream->forked, cudaEventDisableTiming);

    for (int i = 0; i < BRANCHES && status == cudaSuccess; i++) {
        status = create_branch(&stream->branches[i], i);
        if (status == cudaSuccess)
            status = cudaEventCreateWithFlags(&stream->finished[i], cudaEventDisableTiming);
        if (status == cudaSuccess)
            status = cudaMalloc(&stream->workspace[i], WORKSPACE_BYTES);
        if (status == cudaSuccess)
            status =
                cudaMalloc((void **)&stream->aligned_scale[i], ALIGNED_SCALES_MAX * sizeof(float));
    }
    for (int i = 0; i < STREAM_BRANCHES && status == cudaSuccess; i++) {
        status = cudaMalloc(&stream->decoded[i], DECODED_BYTES);
        if (status == cudaSuccess)
            status = cudaMalloc((void **)&stream->folded_scale[i], FOLDED_MAX * sizeof(float));
        if (status == cudaSuccess)
            status = cudaMalloc(&stream->folded_bias[i], FOLDED_MAX * sizeof(float));
    }
    return status == cudaSuccess || fail_cuda(err, status, "creating a stream");
}

bool cuda_stream_create(struct stream **out, const struct backend_ops *ops,
                        const struct stream_options *options, struct error *err)
{
    struct stream *stream = calloc(1, sizeof *stream);
    const struct cuda_libraries *libraries = &cuda_device.libraries;
    cudaError_t status;

    (void)ops;
    if (!stream)
        return error_set(err, ERROR_NO_MEMORY, "no memory for a stream");
    stream->cancel = options->cancel;
    cudaSetDevice(cuda_device.index);
    if (!create_branches(stream, err))
        goto fail;
    status = cudaHostAlloc((void **)&stream->fault, FAULT_COUNT * sizeof *stream->fault,
                           cudaHostAllocMapped);
    if (status != cudaSuccess) {
        fail_cuda(err, status, "creating a stream");
        goto fail;
    }
    memset(stream->fault, 0, FAULT_COUNT * sizeof *stream->fault);
    if (libraries->blas.cublasLtCreate(&stream->lt) != CUBLAS_STATUS_SUCCESS) {
        error_set(err, ERROR_BACKEND, "cuBLASLt does not start");
        goto fail;
    }
    if (!cuda_choices_create(&stream->choices, &cuda_device, err) ||
        !product_cache_create(&stream->products, err) ||
        !attention_cache_create(&stream->attentions, err) ||
        !weight_store_create(&stream->weights, err) ||
        (libraries->has_dnn && !dnn_create(&stream->dnn, libraries, stream->choices, err)))
        goto fail;
    *out = stream;
    return true;

fail:
    cuda_stream_destroy(stream);
    return false;
}

/* As soon as new ones have run, because a server may be killed at any time. Where they cannot be
 * kept the next start takes longer, and no picture fails. */
static void save_choices(struct stream *stream)
{
    if (stream->choices && !stream->is_recording)
        choice_file_save(stream->choices, NULL);
}

void cuda_stream_destroy(struct stream *stream)
{
    if (!stream)
        return;
    for (int i = 0; i < BRANCHES; i++)
        if (stream->branches[i])
            cudaStreamSynchronize(stream->branches[i]);
    save_choices(stream);
    dnn_destroy(stream->dnn);
    product_cache_destroy(stream->products);
    attention_cache_destroy(stream->attentions);
    weight_store_destroy(stream->weights);
    choice_file_destroy(stream->choices);
    if (stream->lt)
        cuda_device.libraries.blas.cublasLtDestroy(stream->lt);
    for (int i = 0; i < STREAM_BRANCHES; i++) {
        cudaFree(stream->decoded[i]);
        cudaFree(stream->folded_scale[i]);
        cudaFree(stream->folded_bias[i]);
    }
    for (int i = 0; i < BRANCHES; i++) {
        cudaFree(stream->workspace[i]);
        cudaFree(stream->aligned_scale[i]);
        if (stream->finished[i])
            cudaEventDestroy(stream->finished[i]);
        if (stream->branches[i])
            cudaStreamDestroy(stream->branches[i]);
    }
    cudaFreeHost(stream->fault);
    if (stream->forked)
        cudaEventDestroy(stream->forked);
    free(stream);
}

bool cuda_stream_finish(struct stream *stream, struct error *err)
{
    cudaError_t status;

    cuda_join(stream);
    status = cudaStreamSynchronize(stream->branches[0]);
    stream_check(stream, status, "the device");
    save_choices(stream);
    if (stream->fault[FAULT_ID])
        stream_fail(stream, ERROR_BACKEND, "embedding_rows: an id lies outside of the table");
    if (stream->fault[FAULT_NOT_FINITE])
        stream_fail(stream, ERROR_NOT_FINITE, "the network's result is not finite");
    memset(stream->fault, 0, FAULT_COUNT * sizeof *stream->fault);
    if (stream->has_failed) {
        stream->has_failed = false;
        return error_set(err, stream->failure.code, "%s", stream->failure.message);
    }
    if (stream_skips(stream))
        return error_set(err, ERROR_CANCELLED, "cancelled");
    return true;
}

void cuda_stream_watch(struct stream *stream, const atomic_bool *cancel)
{
    stream->cancel = cancel;
}

/* --- Branches --- */

/* Whether other branches than the one that is recorded can be had; if not, the stream fails. */
static bool can_change_branch(struct stream *stream)
{
    if (!stream->is_recording || stream->recorded_branch == 0)
        return true;
    stream_fail(stream, ERROR_BACKEND, "a recording of branch %d goes to another one",
                stream->recorded_branch);
    return false;
}

void cuda_branch(struct stream *stream, int branch)
{
    if (branch == stream->branch || !can_change_branch(stream))
        return;
    stream->branch = branch;
    if (branch == 0 || stream->is_forked[branch])
        return;
    stream->is_forked[branch] = true;
    stream->has_recorded_fork = true;
    if (stream_check(stream, cudaEventRecord(stream->forked, stream->branches[0]), "forking"))
        stream_check(stream, cudaStreamWaitEvent(stream->branches[branch], stream->forked, 0),
                     "forking");
}

void stream_join_branch(struct stream *stream, int branch)
{
    cudaEvent_t finished = stream->finished[branch];

    stream->branch = 0;
    if (!stream->is_forked[branch])
        return;
    stream->is_forked[branch] = false;
    if (stream_check(stream, cudaEventRecord(finished, stream->branches[branch]), "joining"))
        stream_check(stream, cudaStreamWaitEvent(stream->branches[0], finished, 0), "joining");
}

void cuda_join(struct stream *stream)
{
    if (!can_change_branch(stream))
        return;
    for (int i = 1; i < BRANCHES; i++)
        stream_join_branch(stream, i);
}

/* --- Recordings: CUDA graphs --- */

void cuda_record_begin(struct stream *stream)
{
    if (stream_skips(stream))
        return;
    if (stream->branch == 0)
        cuda_join(stream); /* a capture cannot wait for what goes on outside of it */
    stream->is_recording = true;
    stream->recorded_branch = stream->branch;
    stream->has_recorded_fork = false;
    stream_check(stream,
                 cudaStreamBeginCapture(stream_now(stream), cudaStreamCaptureModeThreadLocal),
                 "recording");
    streamed_record_begin(stream);
}

/* What fails while recording fails the recording only: ops that run will report what lasts. */
static void forget_failure(struct stream *stream)
{
    stream->has_failed = false;
    (void)cudaGetLastError(); /* the next launch would find it */
}

struct recording *cuda_record_end(struct stream *stream)
{
    struct recording *recording = NULL;
    struct streamed_recording streamed;
    cudaGraph_t graph = NULL;

    if (!stream->is_recording)
        return NULL;
    if (stream->recorded_branch == 0)
        cuda_join(stream);
    streamed_record_end(stream, &streamed);
    stream->is_recording = false;
    if (!stream_check(stream, cudaStreamEndCapture(stream_now(stream), &graph), "recording") ||
        stream->has_failed)
        goto done;
    recording = calloc(1, sizeof *recording);
    if (recording && !stream_check(stream, cudaGraphInstantiate(&recording->graph, graph, 0),
                                   "instantiating a recording")) {
        free(recording);
        recording = NULL;
    }
    if (recording) {
        recording->branch = stream->branch;
        recording->has_fork = stream->has_recorded_fork;
        recording->streamed = streamed;
    }

done:
    if (graph)
        cudaGraphDestroy(graph);
    if (stream->has_failed)
        forget_failure(stream);
    return recording;
}

void cuda_replay(struct stream *stream, const struct recording *recording)
{
    if (stream_skips(stream))
        return;
    if (recording->branch != stream->branch) {
        stream_fail(stream, ERROR_BACKEND, "a recording of branch %d is replayed on branch %d",
                    recording->branch, stream->branch);
        return;
    }
    if (recording->has_fork)
        cuda_join(stream); /* other branches have their scratch to themselves */
    streamed_replay_begin(stream, &recording->streamed);
    if (!stream->has_failed &&
        stream_check(stream, cudaGraphLaunch(recording->graph, stream_now(stream)), "replaying"))
        streamed_replay_end(&recording->streamed);
}

void cuda_recording_free(struct recording *recording)
{
    if (!recording)
        return;
    cudaGraphExecDestroy(recording->graph);
    free(recording);
}

/* --- Memory --- */

void *cuda_memory_alloc(size_t bytes)
{
    void *memory = NULL;

    cudaSetDevice(cuda_device.index);
    /* Streams wait for nothing that the default one does, and it clears while the host goes on. */
    if (cudaMalloc(&memory, bytes) != cudaSuccess || cudaMemset(memory, 0, bytes) != cudaSuccess ||
        cudaStreamSynchronize(cudaStreamLegacy) != cudaSuccess) {
        (void)cudaGetLastError(); /* a refusal is an answer, not a fault */
        cudaFree(memory);
        return NULL;
    }
    return memory;
}

void cuda_memory_free(void *memory, size_t bytes)
{
    (void)bytes;
    cudaFree(memory);
}

/* Both return when the host's memory is free to change: it may lie on the caller's stack. */
void cuda_upload(struct stream *stream, struct tensor *out, const struct tensor *host)
{
    if (!stream_skips(stream))
        stream_check(stream,
                     cudaMemcpyAsync(out->data, host->data, tensor_bytes(out),
                                     cudaMemcpyHostToDevice, stream_now(stream)),
                     "upload");
}

void cuda_download(struct stream *stream, struct tensor *host, const struct tensor *x)
{
    if (!stream_skips(stream))
        stream_check(stream,
                     cudaMemcpyAsync(host->data, x->data, tensor_bytes(host),
                                     cudaMemcpyDeviceToHost, stream_now(stream)),
                     "download");
}

size_t cuda_scratch_bytes(const struct stream *stream)
{
    (void)stream;
    return BRANCHES * WORKSPACE_BYTES + STREAM_BRANCHES * DECODED_BYTES;
}

void cuda_avoid_8_bits(struct stream *stream, bool avoid)
{
    (void)stream;
    cuda_device.avoids_fp8 = avoid;
}

void cuda_check_finite(struct stream *stream, const struct tensor *x)
{
    if (!stream_skips(stream))
        stream_check(stream,
                     kernel_find_not_finite(stream_now(stream), stream->fault + FAULT_NOT_FINITE,
                                            x->data, tensor_count(x)),
                     "check_finite");
}

void cuda_memory_info(size_t *free_bytes, size_t *total_bytes)
{
    cudaSetDevice(cuda_device.index);
    if (cudaMemGetInfo(free_bytes, total_bytes) != cudaSuccess) {
        (void)cudaGetLastError();
        *free_bytes = *total_bytes = 0;
    }
}

/* --- Views --- */

enum view_type view_type_of(enum dtype dtype)
{
    static const enum view_type types[DTYPE_COUNT] = {
        [DTYPE_F32] = VIEW_F32,      [DTYPE_F16] = VIEW_F16,      [DTYPE_BF16] = VIEW_BF16,
        [DTYPE_F8_E4M3] = VIEW_E4M3, [DTYPE_F8_E5M2] = VIEW_E5M2, [DTYPE_I32] = VIEW_I32,
        [DTYPE_U8] = VIEW_U8,
    };

    return types[dtype];
}

struct view view_of(const struct tensor *tensor)
{
    struct view view = {
        .data = tensor->data,
        .row_scale = tensor->row_scale,
        .type = view_type_of(tensor->dtype),
        .rank = tensor->rank,
    };

    for (int i = 0; i < tensor->rank; i++) {
        view.dim[i] = tensor->dim[i];
        view.stride[i] = tensor->stride[i];
    }
    return view;
}
