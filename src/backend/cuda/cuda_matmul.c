/* cuBLASLt counts columns first: our row-major Y [M, N] = X [M, K] W [N, K]^T is its column-major
 * Y' [N, M] = W'^T X', so W is its A, X its B, and nothing is transposed in memory.
 *
 * Algorithms are chosen by timing when a shape is first met. Those that split K are left out: their
 * sums depend on how many rows there are, and a picture must not depend on its company. Products of
 * one sample, which always has as many rows, may split it as long as the parts are put together in
 * a fixed order. What was chosen is kept for the next start: choice_file.h.
 */
#include "backend/cuda/cuda_matmul.h"

#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_choices.h"
#include "backend/cuda/cuda_uploader.h"

#define CANDIDATES_MAX 16
#define TIMED_RUNS 3

struct chosen {
    struct product_key key;
    cublasLtMatmulAlgo_t algorithm;
    bool is_usable; /* false: cuBLASLt has none, our own kernel takes it */
};

struct product_cache {
    struct chosen *entries;
    size_t count, capacity;
};

bool product_cache_create(struct product_cache **out, struct error *err)
{
    *out = calloc(1, sizeof **out);
    return *out || error_set(err, ERROR_NO_MEMORY, "no memory for products");
}

void product_cache_destroy(struct product_cache *cache)
{
    if (!cache)
        return;
    free(cache->entries);
    free(cache);
}

static cudaDataType_t data_type(int32_t type)
{
    switch (type) {
    case VIEW_F16:
        return CUDA_R_16F;
    case VIEW_BF16:
        return CUDA_R_16BF;
    case VIEW_E4M3:
        return CUDA_R_8F_E4M3;
    default:
        return CUDA_R_32F;
    }
}

/* --- Descriptions for cuBLASLt --- */

struct description {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, out;
    bool is_good;
};

static void set(struct description *description, cublasLtMatmulDescAttributes_t attribute,
                const void *value, size_t size)
{
    if (cuda_device.libraries.blas.cublasLtMatmulDescSetAttribute(
            description->product, attribute, value, size) != CUBLAS_STATUS_SUCCESS)
        description->is_good = false;
}

#define SET(description, attribute, value) set((description), (attribute), &(value), sizeof(value))

static void describe_scales(struct description *d, const struct product *product)
{
    const cublasLtMatmulMatrixScale_t outer = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;

    if (!product->key.is_outer)
        return;
    SET(d, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, outer);
    SET(d, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, outer);
    SET(d, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, product->w_scale);
    SET(d, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, product->x_scale);
}

static void describe_bias(struct description *d, const struct product *product)
{
    const cublasLtEpilogue_t epilogues[2][2] = {
        {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS},
        {CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS}, /* the approximation by tanh */
    };
    const bool has_bias = product->key.bias_type >= 0;
    const cublasLtEpilogue_t epilogue = epilogues[product->key.with_gelu][has_bias];
    const cudaDataType_t type = data_type(product->key.bias_type);

    SET(d, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (!has_bias)
        return;
    SET(d, CUBLASLT_MATMUL_DESC_BIAS_POINTER, product->bias);
    SET(d, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type);
}

static void layout(struct description *d, cublasLtMatrixLayout_t *out, cudaDataType_t type,
                   int64_t rows, int64_t columns, int64_t stride)
{
    if (cuda_device.libraries.blas.cublasLtMatrixLayoutCreate(
            out, type, (uint64_t)rows, (uint64_t)columns, stride) != CUBLAS_STATUS_SUCCESS)
        d->is_good = false;
}

static void repeat(struct description *d, cublasLtMatrixLayout_t layout, int64_t samples,
                   int64_t stride)
{
    const struct blas_functions *blas = &cuda_device.libraries.blas;
    const int32_t count = (int32_t)samples;

    if (d->is_good && samples > 1 &&
        (blas->cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                                sizeof count) != CUBLAS_STATUS_SUCCESS ||
         blas->cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                &stride, sizeof stride) != CUBLAS_STATUS_SUCCESS))
        d->is_good = false;
}

static struct description describe(const struct product *product)
{
    const struct product_key *key = &product->key;
    const cublasOperation_t turned = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    const int8_t fast = key->type == VIEW_E4M3; /* sums within the tensor cores' own registers */
    struct description d = {.is_good = true};

    if (cuda_device.libraries.blas.cublasLtMatmulDescCreate(&d.product, CUBLAS_COMPUTE_32F,
                                                            CUDA_R_32F) != CUBLAS_STATUS_SUCCESS) {
        d.is_good = false;
        return d;
    }
    if (key->w_is_turned)
        SET(&d, CUBLASLT_MATMUL_DESC_TRANSA, plain);
    else
        SET(&d, CUBLASLT_MATMUL_DESC_TRANSA, turned);
    SET(&d, CUBLASLT_MATMUL_DESC_TRANSB, plain);
    if (fast)
        SET(&d, CUBLASLT_MATMUL_DESC_FAST_ACCUM, fast);
    describe_scales(&d, product);
    describe_bias(&d, product);
    if (key->w_is_turned)
        layout(&d, &d.a, data_type(key->type), key->n, key->k, key->w_stride);
    else
        layout(&d, &d.a, data_type(key->type), key->k, key->n, key->w_stride);
    layout(&d, &d.b, data_type(key->type), key->k, key->m, key->x_stride);
    layout(&d, &d.out, data_type(key->out_type), key->n, key->m, key->out_stride);
    repeat(&d, d.a, key->samples, 0);
    repeat(&d, d.b, key->samples, key->x_sample);
    repeat(&d, d.out, key->samples, key->out_sample);
    return d;
}

static void forget_description(struct description *d)
{
    const struct blas_functions *blas = &cuda_device.libraries.blas;

    if (d->out)
        blas->cublasLtMatrixLayoutDestroy(d->out);
    if (d->b)
        blas->cublasLtMatrixLayoutDestroy(d->b);
    if (d->a)
        blas->cublasLtMatrixLayoutDestroy(d->a);
    if (d->product)
        blas->cublasLtMatmulDescDestroy(d->product);
}

static cublasStatus_t multiply(struct stream *stream, const struct description *d,
                               const struct product *product, const cublasLtMatmulAlgo_t *algorithm)
{
    const float one = 1.0f, old = product->key.adds ? 1.0f : 0.0f;

    return cuda_device.libraries.blas.cublasLtMatmul(
        stream->lt, d->product, &one, product->w, d->a, product->x, d->b, &old, product->out,
        d->out, product->out, d->out, algorithm, stream_workspace(stream), WORKSPACE_BYTES,
        stream_now(stream));
}

/* --- Choosing --- */

static bool is_in_order(const cublasLtMatmulAlgo_t *algorithm, bool is_of_one_sample)
{
    int32_t parts = 1;
    uint32_t scheme = 0;
    size_t written;
    const struct blas_functions *blas = &cuda_device.libraries.blas;

    blas->cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts,
                                               sizeof parts, &written);
    blas->cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                               &scheme, sizeof scheme, &written);
    if (is_of_one_sample)
        return scheme != CUBLASLT_REDUCTION_SCHEME_INPLACE;
    return parts <= 1 && scheme == CUBLASLT_REDUCTION_SCHEME_NONE;
}

static int candidates(struct stream *stream, const struct description *d,
                      const struct product_key *key,
                      cublasLtMatmulHeuristicResult_t results[CANDIDATES_MAX])
{
    const struct blas_functions *blas = &cuda_device.libraries.blas;
    const size_t workspace = WORKSPACE_BYTES;
    const uint32_t a = (uint32_t)key->w_align, b = (uint32_t)key->x_align;
    const uint32_t out = (uint32_t)key->out_align;
    cublasLtMatmulPreference_t preference;
    int found = 0, kept = 0;

    if (blas->cublasLtMatmulPreferenceCreate(&preference) != CUBLAS_STATUS_SUCCESS)
        return 0;
    blas->cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &workspace, sizeof workspace);
    blas->cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a, sizeof a);
    blas->cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b, sizeof b);
    blas->cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &out, sizeof out);
    blas->cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &out, sizeof out);
    if (blas->cublasLtMatmulAlgoGetHeuristic(stream->lt, d->product, d->a, d->b, d->out, d->out,
                                             preference, CANDIDATES_MAX, results,
                                             &found) != CUBLAS_STATUS_SUCCESS)
        found = 0;
    blas->cublasLtMatmulPreferenceDestroy(preference);
    for (int i = 0; i < found; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS && is_in_order(&results[i].algo, key->adds))
            results[kept++] = results[i];
    return kept;
}

/* Milliseconds of the fastest of a few runs; negative when it does not run, or the stream has
 * failed. */
static float time_algorithm(struct stream *stream, const struct description *d,
                            const struct product *product, const cublasLtMatmulAlgo_t *algorithm,
                            cudaEvent_t begin, cudaEvent_t end)
{
    float best = -1.0f;

    for (int run = 0; run <= TIMED_RUNS; run++) {
        float ms;

        cudaEventRecord(begin, stream_now(stream));
        if (multiply(stream, d, product, algorithm) != CUBLAS_STATUS_SUCCESS) {
            (void)cudaGetLastError(); /* a launch that was refused is no failure of the stream */
            return -1.0f;
        }
        cudaEventRecord(end, stream_now(stream));
        if (!stream_check(stream, cudaEventSynchronize(end), "timing a product") ||
            !stream_check(stream, cudaEventElapsedTime(&ms, begin, end), "timing a product"))
            return -1.0f;
        if (run > 0 && (best < 0.0f || ms < best))
            best = ms;
    }
    return best;
}

/* What is to be timed: a product that adds would do so again and again, so it does it in the
 * scratch. False when there is no room. */
static bool for_timing(struct product *timed, const struct stream *stream,
                       const struct product *product)
{
    const struct product_key *key = &product->key;

    *timed = *product;
    if (!key->adds)
        return true;
    timed->out = stream_decoded(stream);
    return (size_t)(key->m * key->out_stride) * view_type_size((enum view_type)key->out_type) <=
           DECODED_BYTES;
}

static void choose(struct stream *stream, const struct description *d,
                   const struct product *product, struct chosen *chosen)
{
    cublasLtMatmulHeuristicResult_t results[CANDIDATES_MAX];
    struct product timed;
    int count = candidates(stream, d, &product->key, results);
    cudaEvent_t begin, end;
    float best = -1.0f;

    chosen->is_usable = false;
    if (count == 0)
        return;
    if (count == 1 || !for_timing(&timed, stream, product)) {
        chosen->algorithm = results[0].algo;
        chosen->is_usable = true;
        return;
    }
    /* What other branches still do would count, and what is beside this one may use the scratch. */
    if (!stream_check(stream, cudaDeviceSynchronize(), "timing a product") ||
        !stream_check(stream, cudaEventCreate(&begin), "timing a product"))
        return;
    if (!stream_check(stream, cudaEventCreate(&end), "timing a product")) {
        cudaEventDestroy(begin);
        return;
    }
    for (int i = 0; i < count; i++) {
        float ms = time_algorithm(stream, d, &timed, &results[i].algo, begin, end);

        if (ms >= 0.0f && (best < 0.0f || ms < best)) {
            best = ms;
            chosen->algorithm = results[i].algo;
            chosen->is_usable = true;
        }
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
}

/* What was chosen in an earlier run of the program, if it is still among those that cuBLASLt
 * proposes: bytes that it did not make itself could crash it. */
static bool recall(struct stream *stream, const struct description *d, struct chosen *chosen)
{
    const struct product_key *key = &chosen->key;
    cublasLtMatmulHeuristicResult_t results[CANDIDATES_MAX];
    size_t size;
    const void *kept = choice_file_find(stream->choices, CHOICE_PRODUCT, key, sizeof *key, &size);
    int count;

    chosen->is_usable = false;
    if (!kept || size != sizeof chosen->algorithm)
        return false;
    count = candidates(stream, d, key, results);
    for (int i = 0; i < count && !chosen->is_usable; i++) {
        chosen->algorithm = results[i].algo;
        chosen->is_usable = memcmp(&results[i].algo, kept, size) == 0;
    }
    return chosen->is_usable;
}

/* That there is none is not kept: to learn it again costs next to nothing, and it may have been for
 * want of memory. */
static void remember(struct stream *stream, const struct chosen *chosen)
{
    if (chosen->is_usable)
        choice_file_add(stream->choices, CHOICE_PRODUCT, &chosen->key, sizeof chosen->key,
                        &chosen->algorithm, sizeof chosen->algorithm);
}

static const struct chosen *find_chosen(const struct product_cache *cache,
                                        const struct product_key *key)
{
    for (size_t i = 0; i < cache->count; i++)
        if (memcmp(&cache->entries[i].key, key, sizeof *key) == 0)
            return &cache->entries[i];
    return NULL;
}

/* What was chosen for this shape, choosing now if need be. NULL: the stream has failed. */
static const struct chosen *choice_for(struct stream *stream, const struct description *d,
                                       const struct product *product)
{
    struct product_cache *cache = stream->products;
    const struct chosen *known = find_chosen(cache, &product->key);
    struct chosen *grown;

    if (known)
        return known;
    if (stream->is_recording) {
        stream_fail(stream, ERROR_BACKEND, "a product's shape was first met while recording");
        return NULL;
    }
    if (cache->count == cache->capacity) {
        size_t capacity = cache->capacity ? 2 * cache->capacity : 64;

        grown = reallocarray(cache->entries, capacity, sizeof *grown);
        if (!grown) {
            stream_fail(stream, ERROR_NO_MEMORY, "no memory for products");
            return NULL;
        }
        cache->entries = grown;
        cache->capacity = capacity;
    }
    grown = &cache->entries[cache->count++];
    grown->key = product->key;
    if (!recall(stream, d, grown)) {
        choose(stream, d, product, grown);
        if (stream->has_failed) { /* what was chosen then is not to last */
            cache->count--;
            return NULL;
        }
        remember(stream, grown);
    }
    return grown;
}

/* --- Running --- */

bool cuda_matmul(struct stream *stream, const struct product *product)
{
    struct description d = describe(product);
    const struct chosen *chosen = d.is_good ? choice_for(stream, &d, product) : NULL;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    bool is_taken = chosen && chosen->is_usable;

    if (is_taken)
        status = multiply(stream, &d, product, &chosen->algorithm);
    forget_description(&d);
    if (status != CUBLAS_STATUS_SUCCESS)
        stream_fail(stream, ERROR_BACKEND, "product [%lld, %lld] x [%lld, %lld]: %s",
                    (long long)product->key.m, (long long)product->key.k, (long long)product->key.n,
                    (long long)product->key.k,
                    cuda_device.libraries.blas.cublasLtGetStatusString(status));
    return is_taken;
}
