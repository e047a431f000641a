#include "backend/cuda/cuda_weights.h"

#include <stdlib.h>

#include "backend/cuda/cuda_uploader.h"
#include "backend/cuda/cuda_weight_form.h"
#include "backend/cuda/cuda_weight_table.h"

struct weight_store {
    struct weight_table table;
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
        return error_set(err, ERROR_NO_MEMORY, "no memory for weights");
    if (!weight_table_init(&store->table, err) || !uploader_init(&store->uploader, err)) {
        weight_table_finish(&store->table);
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
    weight_table_finish(&store->table);
    free(store);
}

void weight_store_forget(struct weight_store *store)
{
    struct weight_table *table = &store->table;

    for (size_t i = 0; i < table->capacity; i++)
        if (table->slots[i].key.address && !table->slots[i].owner)
            cudaFree(table->slots[i].weight.data);
    weight_table_remove_owned(table, NULL);
}

struct weight_table *weight_store_table_of(struct weight_store *store)
{
    return &store->table;
}

size_t cuda_weights_bytes(const struct weight_request *requests, size_t count)
{
    struct device_weight unused;
    size_t bytes = 0;

    for (size_t i = 0; i < count; i++)
        bytes += weight_place(&unused, NULL, &requests[i]);
    return bytes;
}

/* --- Many at once --- */

struct hold {
    const struct weight_request *requests;
    const struct device_weight *places;
};

static void load_one(struct uploader *uploader, void *context, int thread, size_t index)
{
    struct hold *hold = context;

    (void)thread;
    weight_upload(uploader, &hold->places[index], &hold->requests[index]);
}

void cuda_weights_drop(struct stream *stream, struct held_weights *held)
{
    if (!held)
        return;
    cudaStreamSynchronize(stream->branches[0]);
    weight_table_remove_owned(&stream->weights->table, held);
    cudaFree(held->block);
    free(held);
}

/* Enters what is loaded into the store. */
static bool enter_all(struct weight_table *table, struct held_weights *held,
                      const struct weight_request *requests, const struct device_weight *places,
                      size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct weight_copy copy = {
            .key = weight_request_key(&requests[i]),
            .weight = places[i],
            .owner = held,
        };

        if (!weight_table_find(table, &copy.key) && !weight_table_add(table, &copy))
            return false;
    }
    return true;
}

bool cuda_weights_hold(struct stream *stream, struct held_weights **out,
                       const struct weight_request *requests, size_t count, struct error *err)
{
    struct held_weights *held = calloc(1, sizeof *held);
    struct device_weight *places = calloc(count + 1, sizeof *places);
    struct hold hold = {.requests = requests, .places = places};
    const struct upload_work work = {
        .upload = load_one, .context = &hold, .count = count, .threads_max = UPLOAD_THREADS_MAX};
    size_t bytes = cuda_weights_bytes(requests, count), used = 0;
    cudaError_t status;

    if (!held || !places) {
        error_set(err, ERROR_NO_MEMORY, "no memory for weights");
        goto fail;
    }
    status = cudaMalloc((void **)&held->block, bytes + WEIGHT_ALIGN);
    if (status != cudaSuccess) {
        fail_cuda(err, status, "memory for weights");
        if (status == cudaErrorMemoryAllocation)
            error_set(err, ERROR_NO_MEMORY, "the device has no room for %zu MiB of weights",
                      bytes >> 20);
        goto fail;
    }
    for (size_t i = 0; i < count; i++)
        used += weight_place(&places[i], held->block + used, &requests[i]);
    if (!uploaders_run(&work, err))
        goto fail;
    if (!enter_all(&stream->weights->table, held, requests, places, count)) {
        cuda_weights_drop(stream, held);
        free(places);
        return error_set(err, ERROR_NO_MEMORY, "no memory for weights");
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
    } else if (!weight_table_add(&stream->weights->table, &copy)) {
        stream_fail(stream, ERROR_NO_MEMORY, "no memory for weights");
    } else {
        return true;
    }
    cudaFree(weight->data);
    return false;
}

static bool find_or_load(struct stream *stream, struct device_weight *out,
                         const struct weight_request *request)
{
    struct copy_key key = weight_request_key(request);
    const struct weight_copy *copy = weight_table_find(&stream->weights->table, &key);
    char *memory;

    if (copy) {
        *out = copy->weight;
        return true;
    }
    memory = take_memory(stream, cuda_weights_bytes(request, 1));
    if (!memory)
        return false;
    weight_place(out, memory, request);
    weight_upload(&stream->weights->uploader, out, request);
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
    const struct weight_copy *copy = weight_table_find(&stream->weights->table, key);
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

/* False: the stream has failed. The host must not touch what may be the device's. */
static bool find_side(struct stream *stream, const void *address, bool *is_on_device)
{
    struct cudaPointerAttributes attributes;

    if (!stream_check(stream, cudaPointerGetAttributes(&attributes, address), "finding a table"))
        return false;
    *is_on_device =
        attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
    return true;
}

bool weight_store_table(struct stream *stream, struct tensor *out, const struct tensor *host)
{
    struct copy_key key = {.address = host->data, .kind = COPY_TABLE};
    bool is_on_device;

    *out = *host;
    if (!find_side(stream, host->data, &is_on_device))
        return false;
    if (is_on_device)
        return true;
    return find_or_load_rows(stream, &out->data, &key, host->data, 1, weight_span_bytes(host), 0);
}

/* A window of a table whose rows have room between them, row by row. */
static bool load_spaced_window(struct stream *stream, struct tensor *out, const struct tensor *host,
                               const struct copy_key *key, int64_t first, int64_t side)
{
    const struct weight_copy *copy = weight_table_find(&stream->weights->table, key);
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
