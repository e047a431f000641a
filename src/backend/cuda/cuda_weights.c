#include "backend/cuda/cuda_weights.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_uploader.h"
#include "base/size.h"
#include "base/thread_pool.h"

#define ALIGN 256
#define LOADERS_MAX 8

/* How a copy was made from what lies at its address. */
enum copy_kind { COPY_LINEAR, COPY_FILTER, COPY_VECTOR, COPY_TABLE, COPY_WINDOW };

struct copy_key {
    const void *address; /* NULL: an empty slot */
    enum copy_kind kind;
    int count;             /* linears side by side */
    int64_t height, width; /* of a window */
};

struct weight_copy {
    struct copy_key key;
    struct device_weight weight;
    struct held_weights *held; /* NULL: has memory of its own */
};

struct weight_store {
    struct weight_copy *slots; /* open addressing; a power of two */
    size_t capacity, used;
    struct uploader uploader;
};

struct held_weights {
    char *block;
};

/* --- The store --- */

bool weight_store_create(struct weight_store **out, struct error *err)
{
    struct weight_store *store = calloc(1, sizeof *store);

    if (!store)
        return error_set(err, ERROR_NO_MEMORY, "weights");
    store->capacity = 1024;
    store->slots = calloc(store->capacity, sizeof *store->slots);
    if (!store->slots || !uploader_init(&store->uploader, err)) {
        if (!store->slots)
            error_set(err, ERROR_NO_MEMORY, "weights");
        free(store->slots);
        free(store);
        return false;
    }
    *out = store;
    return true;
}

void weight_store_destroy(struct weight_store *store)
{
    if (!store)
        return;
    weight_store_forget(store);
    uploader_finish(&store->uploader);
    free(store->slots);
    free(store);
}

static bool same_key(const struct copy_key *a, const struct copy_key *b)
{
    return a->address == b->address && a->kind == b->kind && a->count == b->count &&
           a->height == b->height && a->width == b->width;
}

static size_t hash_key(const struct copy_key *key)
{
    uint64_t hash = (uint64_t)(uintptr_t)key->address * 0x9e3779b97f4a7c15u;

    hash ^= ((uint64_t)key->kind << 8) + (uint64_t)key->count + (uint64_t)key->height * 131 +
            (uint64_t)key->width * 65599;
    return (size_t)(hash ^ hash >> 29);
}

/* The copy under this key, or the empty slot where it belongs. */
static struct weight_copy *find_slot(struct weight_copy *slots, size_t capacity,
                                     const struct copy_key *key)
{
    size_t at = hash_key(key) & (capacity - 1);

    while (slots[at].key.address && !same_key(&slots[at].key, key))
        at = (at + 1) & (capacity - 1);
    return &slots[at];
}

/* Moves those that `keeps` approves of into a new table. */
static bool rebuild(struct weight_store *store, size_t capacity,
                    bool (*keeps)(const struct weight_copy *copy, const void *context),
                    const void *context)
{
    struct weight_copy *slots = calloc(capacity, sizeof *slots);

    if (!slots)
        return false;
    store->used = 0;
    for (size_t i = 0; i < store->capacity; i++) {
        struct weight_copy *copy = &store->slots[i];

        if (!copy->key.address || (keeps && !keeps(copy, context)))
            continue;
        *find_slot(slots, capacity, &copy->key) = *copy;
        store->used++;
    }
    free(store->slots);
    store->slots = slots;
    store->capacity = capacity;
    return true;
}

static bool add_copy(struct weight_store *store, const struct weight_copy *copy)
{
    if (2 * store->used >= store->capacity && !rebuild(store, 2 * store->capacity, NULL, NULL))
        return false;
    *find_slot(store->slots, store->capacity, &copy->key) = *copy;
    store->used++;
    return true;
}

static const struct weight_copy *find_copy(const struct weight_store *store,
                                           const struct copy_key *key)
{
    const struct weight_copy *copy = find_slot(store->slots, store->capacity, key);

    return copy->key.address ? copy : NULL;
}

void weight_store_forget(struct weight_store *store)
{
    for (size_t i = 0; i < store->capacity; i++)
        if (store->slots[i].key.address && !store->slots[i].held)
            cudaFree(store->slots[i].weight.data);
    memset(store->slots, 0, store->capacity * sizeof *store->slots);
    store->used = 0;
}

/* --- Where the parts of a weight lie --- */

static bool is_8_bit(enum dtype dtype)
{
    return dtype == DTYPE_F8_E4M3 || dtype == DTYPE_F8_E5M2;
}

/* Layers side by side stay in 8 bits when all are, in the same type. */
static bool stays_8_bit(const struct weight_request *request)
{
    for (int i = 0; i < request->count; i++)
        if (!is_8_bit(request->layers[i].weight.dtype) ||
            request->layers[i].weight.dtype != request->layers[0].weight.dtype)
            return false;
    return !request->is_conv;
}

static int64_t padded_channels(int64_t channels)
{
    return ceil_div_i64(channels, FILTER_CHANNEL_STEP) * FILTER_CHANNEL_STEP;
}

static int64_t rows_of(const struct weight_request *request)
{
    int64_t n = 0;

    for (int i = 0; i < request->count; i++)
        n += request->layers[i].weight.dim[0];
    return request->is_conv ? padded_channels(n) : n;
}

static bool has_bias(const struct weight_request *request)
{
    for (int i = 0; i < request->count; i++)
        if (tensor_exists(&request->layers[i].bias))
            return true;
    return false;
}

/* From the first element of a table to its last: rows may have room between them. */
static size_t span_bytes(const struct tensor *table)
{
    int64_t last = 0;

    for (int i = 0; i < table->rank; i++)
        last += (table->dim[i] - 1) * table->stride[i];
    return (size_t)(last + 1) * dtype_size(table->dtype);
}

/* Elements of a row on the device. */
static int64_t width_of(const struct weight_request *request)
{
    const struct tensor *weight = &request->layers[0].weight;

    if (!request->is_conv)
        return weight->dim[1];
    return padded_channels(weight->dim[1]) * weight->dim[2] * weight->dim[3];
}

/* Places a request at `base` and returns the bytes that it takes. */
static size_t place(struct device_weight *out, char *base, const struct weight_request *request)
{
    enum view_type f = view_type_of(cuda_device.f);
    bool is_8;
    size_t used, rows;

    if (request->table) {
        *out = (struct device_weight){.data = base};
        return size_round_up(span_bytes(request->table), ALIGN);
    }
    is_8 = stays_8_bit(request);
    rows = (size_t)rows_of(request);
    *out = (struct device_weight){
        .data = base,
        .type = is_8 ? view_type_of(request->layers[0].weight.dtype) : f,
        .n = (int64_t)rows,
        .k = width_of(request),
    };
    used = size_round_up(rows * (size_t)out->k * view_type_size(out->type), ALIGN);
    if (is_8) {
        out->scale = (float *)(base + used);
        used += size_round_up(rows * sizeof *out->scale, ALIGN);
        out->bound = (float *)(base + used);
        used += ALIGN;
    }
    if (has_bias(request)) {
        out->bias = base + used;
        used += size_round_up(rows * view_type_size(f), ALIGN);
    }
    return used;
}

size_t cuda_weights_bytes(const struct weight_request *requests, size_t count)
{
    struct device_weight unused;
    size_t bytes = 0;

    for (size_t i = 0; i < count; i++)
        bytes += place(&unused, NULL, &requests[i]);
    return bytes;
}

/* --- Copying --- */

/* What a stored factor [1] or [n] or none is for each row. */
static void upload_scale(struct uploader *uploader, float *to, const struct tensor *scale,
                         int64_t n)
{
    float *rows;

    if (tensor_exists(scale) && scale->dim[0] == n) {
        upload_bytes(uploader, to, scale->data, (size_t)n * sizeof *to);
        return;
    }
    rows = malloc((size_t)n * sizeof *rows);
    if (!rows) {
        uploader->status = cudaErrorMemoryAllocation;
        return;
    }
    for (int64_t i = 0; i < n; i++)
        rows[i] = tensor_exists(scale) ? *(const float *)scale->data : 1.0f;
    upload_bytes(uploader, to, rows, (size_t)n * sizeof *rows);
    free(rows);
}

/* Factors for decoding on the way, at the end of the destination's own bias or scale memory there
 * is no room for; a raw slot serves, since uploads of one uploader are in order. */
static void upload_decoded(struct uploader *uploader, void *to, const struct linear *layer,
                           bool is_conv)
{
    const struct tensor *weight = &layer->weight, *scale = &layer->scale;
    enum view_type f = view_type_of(cuda_device.f), from = view_type_of(weight->dtype);
    float *factors = NULL;
    int64_t count = tensor_exists(scale) ? scale->dim[0] : 0;

    if (count > 0) {
        if (cudaMallocAsync((void **)&factors, (size_t)count * sizeof *factors, uploader->stream) !=
            cudaSuccess) {
            uploader->status = cudaErrorMemoryAllocation;
            return;
        }
        upload_bytes(uploader, factors, scale->data, (size_t)count * sizeof *factors);
    }
    if (is_conv)
        upload_filter(uploader, to, f, weight->data, from, weight->dim,
                      padded_channels(weight->dim[1]), factors, count);
    else
        upload_matrix(uploader, to, f, weight->data, from, weight->dim[0], weight->dim[1], factors,
                      count);
    if (factors)
        cudaFreeAsync(factors, uploader->stream);
}

static void upload_bias(struct uploader *uploader, char *to, const struct linear *layer)
{
    enum view_type type = view_type_of(cuda_device.f);
    int64_t n = layer->weight.dim[0];

    if (tensor_exists(&layer->bias))
        upload_matrix(uploader, to, type, layer->bias.data, VIEW_F32, 1, n, NULL, 0);
    else if (cudaMemsetAsync(to, 0, (size_t)n * view_type_size(type), uploader->stream) !=
             cudaSuccess)
        uploader->status = cudaErrorUnknown;
}

static void clear(struct uploader *uploader, const struct device_weight *to)
{
    size_t bytes = (size_t)(to->n * to->k) * view_type_size(to->type);

    if (cudaMemsetAsync(to->data, 0, bytes, uploader->stream) != cudaSuccess ||
        (to->bias && cudaMemsetAsync(to->bias, 0, (size_t)to->n * dtype_size(cuda_device.f),
                                     uploader->stream) != cudaSuccess))
        uploader->status = cudaErrorUnknown;
}

static void upload_request(struct uploader *uploader, const struct device_weight *to,
                           const struct weight_request *request)
{
    char *data = to->data, *bias = to->bias;
    float *scale = to->scale;

    if (request->table) {
        upload_bytes(uploader, to->data, request->table->data, span_bytes(request->table));
        return;
    }
    if (request->is_conv) /* channels that only padding has */
        clear(uploader, to);
    for (int i = 0; i < request->count; i++) {
        const struct linear *layer = &request->layers[i];
        int64_t n = layer->weight.dim[0];
        size_t bytes = (size_t)(n * to->k) * view_type_size(to->type);

        if (scale) {
            upload_bytes(uploader, data, layer->weight.data, bytes);
            upload_scale(uploader, scale, &layer->scale, n);
            scale += n;
        } else {
            upload_decoded(uploader, data, layer, request->is_conv);
        }
        if (bias) {
            upload_bias(uploader, bias, layer);
            bias += (size_t)n * dtype_size(cuda_device.f);
        }
        data += bytes;
    }
    if (to->bound) {
        struct kernel_bound bound = {.bound = to->bound,
                                     .w = to->data,
                                     .bias = to->bias,
                                     .scale = to->scale,
                                     .n = to->n,
                                     .k = to->k,
                                     .type = to->type,
                                     .bias_type = view_type_of(cuda_device.f)};

        if (kernel_weight_bound(uploader->stream, &bound) != cudaSuccess)
            uploader->status = cudaErrorUnknown;
    }
}

/* --- Many at once --- */

struct hold {
    const struct weight_request *requests;
    const struct device_weight *places;
    size_t count;
    atomic_size_t next;
    pthread_mutex_t lock;
    struct error failure; /* under lock, the first */
};

static void *load_requests(void *context)
{
    struct hold *hold = context;
    struct uploader uploader;
    struct error err = {0};
    bool ok;

    cudaSetDevice(cuda_device.index);
    ok = uploader_init(&uploader, &err);
    while (ok) {
        size_t i = atomic_fetch_add(&hold->next, 1);

        if (i >= hold->count)
            break;
        upload_request(&uploader, &hold->places[i], &hold->requests[i]);
        ok = uploader.status == cudaSuccess;
    }
    if (uploader.stream) {
        ok = uploader_wait(&uploader, &err) && ok;
        uploader_finish(&uploader);
    }
    if (!ok) {
        pthread_mutex_lock(&hold->lock);
        if (hold->failure.code == ERROR_NONE)
            hold->failure = err;
        pthread_mutex_unlock(&hold->lock);
    }
    return NULL;
}

static bool load_all(struct hold *hold, struct error *err)
{
    pthread_t threads[LOADERS_MAX];
    int wanted = thread_pool_cpu_count(), started = 0;

    if (wanted > LOADERS_MAX)
        wanted = LOADERS_MAX;
    pthread_mutex_init(&hold->lock, NULL);
    for (; started < wanted - 1; started++)
        if (pthread_create(&threads[started], NULL, load_requests, hold) != 0)
            break;
    load_requests(hold);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&hold->lock);
    if (hold->failure.code == ERROR_NONE)
        return true;
    *err = hold->failure;
    return false;
}

static bool is_of_others(const struct weight_copy *copy, const void *held)
{
    return copy->held != held;
}

void cuda_weights_drop(struct stream *stream, struct held_weights *held)
{
    struct weight_store *store = stream->weights;

    if (!held)
        return;
    cudaStreamSynchronize(stream->branches[0]);
    if (!rebuild(store, store->capacity, is_of_others, held))
        stream_fail(stream, ERROR_NO_MEMORY, "weights");
    cudaFree(held->block);
    free(held);
}

static struct copy_key key_of(const struct weight_request *request)
{
    if (request->table)
        return (struct copy_key){.address = request->table->data, .kind = COPY_TABLE};
    return (struct copy_key){.address = request->layers[0].weight.data,
                             .kind = request->is_conv ? COPY_FILTER : COPY_LINEAR,
                             .count = request->count};
}

/* Enters what is loaded into the store. */
static bool enter_all(struct weight_store *store, struct held_weights *held,
                      const struct weight_request *requests, const struct device_weight *places,
                      size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct weight_copy copy = {
            .key = key_of(&requests[i]),
            .weight = places[i],
            .held = held,
        };

        if (!find_copy(store, &copy.key) && !add_copy(store, &copy))
            return false;
    }
    return true;
}

bool cuda_weights_hold(struct stream *stream, struct held_weights **out,
                       const struct weight_request *requests, size_t count, struct error *err)
{
    struct held_weights *held = calloc(1, sizeof *held);
    struct device_weight *places = calloc(count + 1, sizeof *places);
    struct hold hold = {.requests = requests, .places = places, .count = count};
    size_t bytes = cuda_weights_bytes(requests, count), used = 0;

    if (!held || !places) {
        error_set(err, ERROR_NO_MEMORY, "weights");
        goto fail;
    }
    if (cudaMalloc((void **)&held->block, bytes + ALIGN) != cudaSuccess) {
        (void)cudaGetLastError();
        error_set(err, ERROR_NO_MEMORY, "the device has no room for %zu MiB of weights",
                  bytes >> 20);
        goto fail;
    }
    for (size_t i = 0; i < count; i++)
        used += place(&places[i], held->block + used, &requests[i]);
    if (!load_all(&hold, err))
        goto fail;
    if (!enter_all(stream->weights, held, requests, places, count)) {
        cuda_weights_drop(stream, held);
        free(places);
        return error_set(err, ERROR_NO_MEMORY, "weights");
    }
    free(places);
    *out = held;
    return true;

fail:
    if (held)
        cudaFree(held->block);
    free(held);
    free(places);
    return false;
}

/* --- One at a time, when an op meets it --- */

/* Memory for a copy under `key`; NULL, and the stream has failed, when there is none. */
static char *take_memory(struct stream *stream, size_t bytes)
{
    void *memory = NULL;

    if (stream->is_recording) {
        stream_fail(stream, ERROR_BACKEND, "weights that nothing used before met while recording");
        return NULL;
    }
    return stream_check(stream, cudaMalloc(&memory, bytes), "memory for weights") ? memory : NULL;
}

/* Waits for the copy and enters it. */
static bool keep(struct stream *stream, const struct copy_key *key,
                 const struct device_weight *weight)
{
    struct weight_copy copy = {.key = *key, .weight = *weight};
    struct error err;

    if (!uploader_wait(&stream->weights->uploader, &err)) {
        stream_fail(stream, err.code, "%s", err.message);
    } else if (!add_copy(stream->weights, &copy)) {
        stream_fail(stream, ERROR_NO_MEMORY, "weights");
    } else {
        return true;
    }
    cudaFree(weight->data);
    return false;
}

static bool find_or_load(struct stream *stream, struct device_weight *out,
                         const struct weight_request *request)
{
    struct copy_key key = key_of(request);
    const struct weight_copy *copy = find_copy(stream->weights, &key);
    char *memory;

    if (copy) {
        *out = copy->weight;
        return true;
    }
    memory = take_memory(stream, cuda_weights_bytes(request, 1));
    if (!memory)
        return false;
    place(out, memory, request);
    upload_request(&stream->weights->uploader, out, request);
    return keep(stream, &key, out);
}

bool weight_store_linear(struct stream *stream, struct device_weight *out,
                         const struct linear *layers, int count)
{
    return find_or_load(stream, out, &(struct weight_request){.layers = layers, .count = count});
}

bool weight_store_filter(struct stream *stream, struct device_weight *out,
                         const struct linear *layer)
{
    return find_or_load(stream, out,
                        &(struct weight_request){.layers = layer, .count = 1, .is_conv = true});
}

/* The rows of a stored table, `count` runs of `bytes` that are `stride` bytes apart. */
static bool find_or_load_rows(struct stream *stream, void **out, const struct copy_key *key,
                              const void *from, int64_t count, size_t bytes, size_t stride)
{
    const struct weight_copy *copy = find_copy(stream->weights, key);
    struct device_weight weight = {0};

    if (copy) {
        *out = copy->weight.data;
        return true;
    }
    weight.data = take_memory(stream, (size_t)count * bytes);
    if (!weight.data)
        return false;
    *out = weight.data;
    for (int64_t i = 0; i < count; i++)
        upload_bytes(&stream->weights->uploader, (char *)weight.data + (size_t)i * bytes,
                     (const char *)from + (size_t)i * stride, bytes);
    return keep(stream, key, &weight);
}

bool weight_store_vector(struct stream *stream, struct tensor *out, const struct tensor *host)
{
    struct copy_key key = {.address = host->data, .kind = COPY_VECTOR};

    *out = *host;
    return find_or_load_rows(stream, &out->data, &key, host->data, 1, tensor_bytes(host), 0);
}

static bool is_on_device(const void *address)
{
    struct cudaPointerAttributes attributes;

    if (cudaPointerGetAttributes(&attributes, address) != cudaSuccess) {
        (void)cudaGetLastError();
        return false;
    }
    return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
}

bool weight_store_table(struct stream *stream, struct tensor *out, const struct tensor *host)
{
    struct copy_key key = {.address = host->data, .kind = COPY_TABLE};

    *out = *host;
    if (is_on_device(host->data))
        return true;
    return find_or_load_rows(stream, &out->data, &key, host->data, 1, span_bytes(host), 0);
}

/* A window of a table whose rows have room between them, row by row. */
static bool load_spaced_window(struct stream *stream, struct tensor *out, const struct tensor *host,
                               const struct copy_key *key, int64_t first, int64_t side)
{
    const struct weight_copy *copy = find_copy(stream->weights, key);
    size_t element = dtype_size(host->dtype), bytes = (size_t)host->dim[1] * element;
    struct device_weight weight = {0};

    if (copy) {
        out->data = copy->weight.data;
        return true;
    }
    weight.data = take_memory(stream, (size_t)out->dim[0] * bytes);
    if (!weight.data)
        return false;
    out->data = weight.data;
    for (int64_t i = 0; i < out->dim[0]; i++) {
        int64_t row = first + i / key->width * side + i % key->width;

        upload_bytes(&stream->weights->uploader, (char *)weight.data + (size_t)i * bytes,
                     (const char *)host->data + (size_t)(row * host->stride[0]) * element, bytes);
    }
    return keep(stream, key, &weight);
}

bool weight_store_window(struct stream *stream, struct tensor *out, const struct tensor *host,
                         int64_t height, int64_t width)
{
    struct copy_key key = {
        .address = host->data, .kind = COPY_WINDOW, .height = height, .width = width};
    int64_t side = 1, c = host->dim[1];
    size_t element = dtype_size(host->dtype), row = (size_t)host->stride[0] * element;
    int64_t top, left;

    while (side * side < host->dim[0])
        side++;
    top = (side - height) / 2;
    left = (side - width) / 2;
    *out = TENSOR_OF(NULL, host->dtype, height * width, c);
    if (host->stride[0] == c) /* whole lines of the grid at a time */
        return find_or_load_rows(stream, &out->data, &key,
                                 (const char *)host->data + (size_t)(top * side + left) * row,
                                 height, (size_t)width * row, (size_t)side * row);
    return load_spaced_window(stream, out, host, &key, top * side + left, side);
}
