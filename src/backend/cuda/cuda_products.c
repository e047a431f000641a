/* Matrix products through cuBLASLt.
 *
 * cuBLASLt counts columns first: our row-major Y [M, N] = X [M, K] W [N, K]^T is its column-major
 * Y' [N, M] = W'^T X', so W is its A, X its B, and nothing is transposed in memory.
 *
 * Algorithms are chosen by timing when a shape is first met. Those that split K are left out: their
 * sums depend on how many rows there are, and a picture must not depend on its company. Products of
 * one sample, which always has as many rows, may split it as long as the parts are put together in
 * a fixed order.
 */
#include "backend/cuda/cuda_stream.h"

#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_uploader.h"
#include "backend/cuda/cuda_weights.h"
#include "base/size.h"

#define CANDIDATES_MAX 16
#define TIMED_RUNS 3
/* Below, samples apart are too small for the device, and cuBLASLt has no kernel that adds. */
#define FOLDED_TOKENS_MIN 1024
#define ALIGNMENT_MAX 256

/* Everything that an algorithm is chosen for. Compared as bytes: no holes, zeroed first. */
struct product_key {
    int64_t m, n, k, x_stride, w_stride, out_stride;
    int32_t type, out_type, is_outer, w_is_turned, bias_type, x_align, w_align, out_align;
    int32_t adds, with_gelu; /* adds: out += instead of out = */
};

struct product {
    struct product_key key;
    const void *x, *w, *bias;
    const float *x_scale, *w_scale; /* [M], [N]: is_outer */
    void *out;
};

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
    return *out || error_set(err, ERROR_NO_MEMORY, "products");
}

void product_cache_destroy(struct product_cache *cache)
{
    if (!cache)
        return;
    free(cache->entries);
    free(cache);
}

static int32_t alignment_of(const void *address, int64_t stride, size_t element)
{
    uintptr_t bits = (uintptr_t)address | (uintptr_t)((size_t)stride * element) | ALIGNMENT_MAX;

    return (int32_t)(bits & (~bits + 1));
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

/* Milliseconds of the fastest of a few runs; negative when it does not run. */
static float time_algorithm(struct stream *stream, const struct description *d,
                            const struct product *product, const cublasLtMatmulAlgo_t *algorithm,
                            cudaEvent_t begin, cudaEvent_t end)
{
    float best = -1.0f;

    for (int run = 0; run <= TIMED_RUNS; run++) {
        float ms;

        cudaEventRecord(begin, stream_now(stream));
        if (multiply(stream, d, product, algorithm) != CUBLAS_STATUS_SUCCESS)
            return -1.0f;
        cudaEventRecord(end, stream_now(stream));
        if (cudaEventSynchronize(end) != cudaSuccess ||
            cudaEventElapsedTime(&ms, begin, end) != cudaSuccess)
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
    if (cudaEventCreate(&begin) != cudaSuccess)
        return;
    if (cudaEventCreate(&end) != cudaSuccess) {
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
            stream_fail(stream, ERROR_NO_MEMORY, "products");
            return NULL;
        }
        cache->entries = grown;
        cache->capacity = capacity;
    }
    grown = &cache->entries[cache->count++];
    grown->key = product->key;
    choose(stream, d, product, grown);
    return grown;
}

/* --- Running --- */

static void run_own(struct stream *stream, const struct product *product)
{
    const struct product_key *key = &product->key;
    struct kernel_product own = {
        .out = product->out,
        .x = product->x,
        .w = product->w,
        .bias = product->bias,
        .m = key->m,
        .n = key->n,
        .k = key->k,
        .out_stride = key->out_stride,
        .x_stride = key->x_stride,
        .w_stride = key->w_stride,
        .x_scale = product->x_scale,
        .w_scale = product->w_scale,
        .type = (enum view_type)key->type,
        .out_type = (enum view_type)key->out_type,
        .w_is_turned = key->w_is_turned,
        .adds = key->adds,
        .with_gelu = key->with_gelu,
    };

    stream_check(stream, kernel_product(stream_now(stream), &own), "product");
}

static void run_product(struct stream *stream, const struct product *product)
{
    struct description d = describe(product);
    const struct chosen *chosen = NULL;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;

    /* In f32, for checking other types against, sums are in one order whatever the shape. */
    if (d.is_good && product->key.type != VIEW_F32)
        chosen = choice_for(stream, &d, product);
    if (chosen && chosen->is_usable)
        status = multiply(stream, &d, product, &chosen->algorithm);
    else if (!stream->has_failed)
        run_own(stream, product);
    forget_description(&d);
    if (status != CUBLAS_STATUS_SUCCESS)
        stream_fail(stream, ERROR_BACKEND, "product [%lld, %lld] x [%lld, %lld]: %s",
                    (long long)product->key.m, (long long)product->key.k, (long long)product->key.n,
                    (long long)product->key.k,
                    cuda_device.libraries.blas.cublasLtGetStatusString(status));
}

void cuda_plain_product(struct stream *stream, const struct plain_product *plain)
{
    struct product product;
    size_t in = view_type_size(plain->type), out = view_type_size(plain->out_type);

    if (stream_skips(stream))
        return;
    memset(&product, 0, sizeof product);
    product.key = (struct product_key){
        .m = plain->m,
        .n = plain->n,
        .k = plain->k,
        .x_stride = plain->x_stride,
        .w_stride = plain->w_stride,
        .out_stride = plain->out_stride,
        .type = plain->type,
        .out_type = plain->out_type,
        .w_is_turned = plain->w_is_turned,
        .bias_type = -1,
        .x_align = alignment_of(plain->x, plain->x_stride, in),
        .w_align = alignment_of(plain->w, plain->w_stride, in),
        .out_align = alignment_of(plain->out, plain->out_stride, out),
    };
    product.x = plain->x;
    product.w = plain->w;
    product.out = plain->out;
    run_product(stream, &product);
}

/* --- Linear layers --- */

/* Rows that lie evenly: `count` of them, `stride` elements apart. */
struct even_rows {
    int64_t count, stride;
};

static bool rows_are_even(struct even_rows *rows, const struct tensor *tensor)
{
    int last = tensor->rank - 1;

    *rows = (struct even_rows){1, last > 0 ? tensor->stride[last - 1] : tensor->dim[last]};
    for (int i = last - 1; i >= 0; i--) {
        if (tensor->dim[i] != 1 && tensor->stride[i] != rows->stride * rows->count)
            return false;
        rows->count *= tensor->dim[i];
    }
    return true;
}

/* cuBLASLt takes factors from addresses of 16 bytes' multiples only; those of the second sample of
 * 333 tokens lie elsewhere. */
static const float *aligned_scale(struct stream *stream, const float *scale, int64_t count)
{
    float *aligned = stream->aligned_scale[stream->branch];

    if ((uintptr_t)scale % 16 == 0 || count > ALIGNED_SCALES_MAX)
        return scale;
    stream_check(stream,
                 cudaMemcpyAsync(aligned, scale, (size_t)count * sizeof *scale,
                                 cudaMemcpyDeviceToDevice, stream_now(stream)),
                 "factors of rows");
    return aligned;
}

/* How a product's result goes into out. */
enum finish { FINISH_PLAIN, FINISH_ADD, FINISH_GELU };

/* One product of evenly spaced rows: x and w of one type, w's rows [first, first + n). */
static void multiply_rows(struct stream *stream, const struct tensor *out,
                          struct even_rows out_rows, const struct tensor *x,
                          struct even_rows x_rows, const struct device_weight *weight,
                          const void *w, int64_t first, int64_t n, enum finish finish)
{
    size_t in = dtype_size(x->dtype), element = dtype_size(out->dtype);
    bool is_8_bit = x->dtype == DTYPE_F8_E4M3;
    struct product product;

    memset(&product, 0, sizeof product);
    product.x = x->data;
    product.w = w;
    product.out = (char *)out->data + (size_t)first * element;
    if (weight->bias)
        product.bias = (char *)weight->bias + (size_t)first * element;
    if (is_8_bit) {
        product.x_scale = aligned_scale(stream, x->row_scale, x_rows.count);
        product.w_scale = weight->scale + first;
    }
    product.key = (struct product_key){
        .m = x_rows.count,
        .n = n,
        .k = weight->k,
        .x_stride = x_rows.stride,
        .w_stride = weight->k,
        .out_stride = out_rows.stride,
        .type = view_type_of(x->dtype),
        .out_type = view_type_of(out->dtype),
        .is_outer = is_8_bit,
        .bias_type = weight->bias ? (int32_t)view_type_of(out->dtype) : -1,
        .adds = finish == FINISH_ADD,
        .with_gelu = finish == FINISH_GELU,
        .x_align = alignment_of(x->data, x_rows.stride, in),
        .w_align = alignment_of(w, weight->k, in),
        .out_align = alignment_of(product.out, out_rows.stride, element),
    };
    if (is_8_bit && cuda_device.capability != 90) {
        /* Only Hopper takes factors of rows and columns; elsewhere they follow the product. */
        struct kernel_scaling scaling = {
            .out = product.out,
            .bias = product.bias,
            .x_scale = product.x_scale,
            .w_scale = product.w_scale,
            .m = x_rows.count,
            .n = n,
            .out_stride = out_rows.stride,
            .type = view_type_of(out->dtype),
        };

        product.key.is_outer = 0;
        product.key.bias_type = -1;
        product.bias = NULL;
        product.x_scale = product.w_scale = NULL;
        run_product(stream, &product);
        stream_check(stream, kernel_scale_product(stream_now(stream), &scaling), "product");
        return;
    }
    run_product(stream, &product);
}

/* Weights of another type than x, turned to x's in pieces that fit the scratch. */
static void multiply_decoded(struct stream *stream, const struct tensor *out,
                             struct even_rows out_rows, const struct tensor *x,
                             struct even_rows x_rows, const struct device_weight *weight,
                             enum finish finish)
{
    size_t row = (size_t)weight->k * dtype_size(x->dtype);
    int64_t step = (int64_t)(DECODED_BYTES / row) & ~INT64_C(15);

    if (step < 1)
        step = 1;
    if (row > DECODED_BYTES) {
        stream_fail(stream, ERROR_BACKEND, "linear: a row of %lld weights is too long",
                    (long long)weight->k);
        return;
    }
    for (int64_t first = 0; first < weight->n; first += step) {
        int64_t n = min_i64(step, weight->n - first);
        const char *from =
            (const char *)weight->data + (size_t)(first * weight->k) * view_type_size(weight->type);

        stream_check(stream,
                     kernel_decode_weight(stream_now(stream), stream_decoded(stream),
                                          view_type_of(x->dtype), from, weight->type, n, weight->k,
                                          weight->scale ? weight->scale + first : NULL,
                                          weight->scale ? n : 0),
                     "decoding weights");
        multiply_rows(stream, out, out_rows, x, x_rows, weight, stream_decoded(stream), first, n,
                      finish);
    }
}

/* Entry i of the first axis, without that axis. */
static struct tensor sample_of(const struct tensor *tensor, int64_t i)
{
    struct tensor sample = tensor_slice(tensor, 0, i, 1);

    memmove(sample.dim, sample.dim + 1, sizeof sample.dim - sizeof *sample.dim);
    memmove(sample.stride, sample.stride + 1, sizeof sample.stride - sizeof *sample.stride);
    sample.rank--;
    return sample;
}

static void multiply_tensors(struct stream *stream, const struct tensor *out,
                             const struct tensor *x, const struct device_weight *weight,
                             enum finish finish)
{
    struct even_rows out_rows, x_rows;

    if (!rows_are_even(&out_rows, out) || !rows_are_even(&x_rows, x)) {
        for (int64_t i = 0; i < x->dim[0]; i++) {
            struct tensor out_part = sample_of(out, i), x_part = sample_of(x, i);

            multiply_tensors(stream, &out_part, &x_part, weight, finish);
        }
        return;
    }
    if (x_rows.count == 0)
        return;
    if (view_type_of(x->dtype) == weight->type)
        multiply_rows(stream, out, out_rows, x, x_rows, weight, weight->data, 0, weight->n, finish);
    else
        multiply_decoded(stream, out, out_rows, x, x_rows, weight, finish);
}

static bool is_8_bit_input(const struct tensor *x)
{
    return x->dtype == DTYPE_F8_E4M3 && x->row_scale;
}

static void run_linears(struct stream *stream, struct tensor *out, const struct tensor *x,
                        const struct linear *layers, int count, enum finish finish)
{
    struct device_weight weight;

    if (stream_skips(stream))
        return;
    if ((x->dtype != cuda_device.f && !is_8_bit_input(x)) || out->dtype != cuda_device.f) {
        stream_fail(stream, ERROR_BACKEND, "linear: %s from %s is not supported",
                    dtype_name(out->dtype), dtype_name(x->dtype));
        return;
    }
    if (!weight_store_linear(stream, &weight, layers, count))
        return;
    if (is_8_bit_input(x) && weight.type != VIEW_E4M3) {
        stream_fail(stream, ERROR_BACKEND, "linear: 8-bit activations meet weights of 16 bits");
        return;
    }
    multiply_tensors(stream, out, x, &weight, finish);
}

void cuda_linears(struct stream *stream, struct tensor *out, const struct tensor *x,
                  const struct linear *layers, int count)
{
    run_linears(stream, out, x, layers, count, FINISH_PLAIN);
}

void cuda_linear_with_gelu(struct stream *stream, struct tensor *out, const struct tensor *x,
                           const struct linear *layer)
{
    run_linears(stream, out, x, layer, 1, FINISH_GELU);
}

void cuda_linear(struct stream *stream, struct tensor *out, const struct tensor *x,
                 const struct linear *layer)
{
    cuda_linears(stream, out, x, layer, 1);
}

/* The gate becomes a part of the factors and the bias, which differ from sample to sample then; the
 * product is added to x as it leaves the tensor cores' registers. */
static void add_folded(struct stream *stream, struct tensor *x, const struct tensor *gate,
                       const struct tensor *input, const struct device_weight *weight)
{
    float *scale = stream->folded_scale[stream->branch];
    char *bias = stream->folded_bias[stream->branch];
    struct view gate_view = view_of(gate);

    if (!stream_check(stream,
                      kernel_fold_gate(stream_now(stream), scale, bias, weight->scale, weight->bias,
                                       &gate_view),
                      "folding a gate"))
        return;
    for (int64_t b = 0; b < x->dim[0]; b++) {
        struct tensor out = sample_of(x, b), in = sample_of(input, b);
        struct device_weight folded = *weight;
        struct even_rows out_rows, in_rows;

        folded.scale = scale + b * weight->n;
        folded.bias = bias + (size_t)(b * weight->n) * dtype_size(cuda_device.f);
        if (!rows_are_even(&out_rows, &out) || !rows_are_even(&in_rows, &in)) {
            stream_fail(stream, ERROR_BACKEND, "gated_linear: rows lie unevenly");
            return;
        }
        multiply_rows(stream, &out, out_rows, &in, in_rows, &folded, folded.data, 0, folded.n,
                      FINISH_ADD);
    }
}

/* The product into the scratch, and the gate's share of it into x. */
static void add_after(struct stream *stream, struct tensor *x, const struct tensor *gate,
                      const struct tensor *input, const struct device_weight *weight)
{
    struct tensor delta = tensor_of(stream_decoded(stream), x->dtype, x->rank, x->dim);
    struct view to = view_of(x), gates = view_of(gate), added = view_of(&delta);

    multiply_tensors(stream, &delta, input, weight, FINISH_PLAIN);
    stream_check(stream, kernel_gated_add(stream_now(stream), &to, &to, &gates, &added),
                 "gated_add");
}

/* Samples are taken as many at a time as there is room for. */
void cuda_gated_linear(struct stream *stream, struct tensor *x, const struct tensor *gate,
                       const struct tensor *input, const struct linear *layer)
{
    struct device_weight weight;
    int64_t tokens = x->dim[1], n = x->dim[2], step;
    bool folds = tokens >= FOLDED_TOKENS_MIN && n % 8 == 0;

    if (stream_skips(stream) || !weight_store_linear(stream, &weight, layer, 1))
        return;
    if (folds)
        step = FOLDED_MAX / n;
    else
        step = (int64_t)(DECODED_BYTES / ((size_t)(tokens * n) * dtype_size(x->dtype)));
    if (!is_8_bit_input(input) || weight.type != VIEW_E4M3 || step < 1) {
        stream_fail(stream, ERROR_BACKEND, "gated_linear: this type or width is not supported");
        return;
    }
    for (int64_t first = 0; first < x->dim[0]; first += step) {
        int64_t count = min_i64(step, x->dim[0] - first);
        struct tensor some = tensor_slice(x, 0, first, count);
        struct tensor gates = tensor_slice(gate, 0, first, count);
        struct tensor inputs = tensor_slice(input, 0, first, count);

        if (folds)
            add_folded(stream, &some, &gates, &inputs, &weight);
        else
            add_after(stream, &some, &gates, &inputs, &weight);
    }
}

/* cuBLASLt wants rows of 16 bytes' multiples for FP8. */
enum dtype cuda_linear_input(const struct linear *layers, int count)
{
    if (!cuda_device.allows_fp8 || cuda_device.avoids_fp8)
        return cuda_device.f;
    for (int i = 0; i < count; i++)
        if (linear_held_dtype(&layers[i]) != DTYPE_F8_E4M3 || layers[i].weight.dim[0] % 16 != 0 ||
            layers[i].weight.dim[1] % 16 != 0)
            return cuda_device.f;
    return DTYPE_F8_E4M3;
}
