#include "backend/cuda/cuda_weight_form.h"

#include <stdlib.h>

#include "base/size.h"

/* --- Where the parts of a weight lie --- */

/* Layers side by side are held in 8 bits when all are, in the same type. */
static bool is_8_bit(const struct weight_request *request)
{
    enum dtype dtype = linear_held_dtype(&request->layers[0]);

    for (int i = 1; i < request->count; i++)
        if (linear_held_dtype(&request->layers[i]) != dtype)
            return false;
    return !request->is_conv && dtype_size(dtype) == 1;
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

size_t weight_span_bytes(const struct tensor *table)
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

size_t weight_place(struct device_weight *out, char *base, const struct weight_request *request)
{
    enum view_type f = view_type_of(cuda_device.f);
    bool is_8;
    size_t used, rows;

    if (request->table) {
        *out = (struct device_weight){.data = base};
        return size_round_up(weight_span_bytes(request->table), WEIGHT_ALIGN);
    }
    is_8 = is_8_bit(request);
    rows = (size_t)rows_of(request);
    *out = (struct device_weight){
        .data = base,
        .type = is_8 ? view_type_of(linear_held_dtype(&request->layers[0])) : f,
        .n = (int64_t)rows,
        .k = width_of(request),
    };
    used = size_round_up(rows * (size_t)out->k * view_type_size(out->type), WEIGHT_ALIGN);
    if (is_8) {
        out->scale = (float *)(base + used);
        used += size_round_up(rows * sizeof *out->scale, WEIGHT_ALIGN);
        out->bound = (float *)(base + used);
        used += WEIGHT_ALIGN;
    }
    if (has_bias(request)) {
        out->bias = base + used;
        used += size_round_up(rows * view_type_size(f), WEIGHT_ALIGN);
    }
    return used;
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
        uploader_note(uploader, cudaErrorMemoryAllocation);
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
        cudaError_t status =
            cudaMallocAsync((void **)&factors, (size_t)count * sizeof *factors, uploader->stream);

        uploader_note(uploader, status);
        if (status != cudaSuccess)
            return;
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
    else
        uploader_note(uploader,
                      cudaMemsetAsync(to, 0, (size_t)n * view_type_size(type), uploader->stream));
}

static void clear(struct uploader *uploader, const struct device_weight *to)
{
    size_t bytes = (size_t)(to->n * to->k) * view_type_size(to->type);

    uploader_note(uploader, cudaMemsetAsync(to->data, 0, bytes, uploader->stream));
    if (to->bias)
        uploader_note(uploader,
                      cudaMemsetAsync(to->bias, 0, (size_t)to->n * dtype_size(cuda_device.f),
                                      uploader->stream));
}

static void upload_layer(struct uploader *uploader, char *data, float *scale,
                         const struct device_weight *to, const struct linear *layer, bool is_conv)
{
    const struct tensor *weight = &layer->weight;
    int64_t n = weight->dim[0];

    if (!scale) {
        upload_decoded(uploader, data, layer, is_conv);
    } else if (linear_held_dtype(layer) != weight->dtype) {
        upload_quantised(uploader, data, scale, weight->data, view_type_of(weight->dtype), n,
                         to->k);
    } else {
        upload_bytes(uploader, data, weight->data, (size_t)(n * to->k));
        upload_scale(uploader, scale, &layer->scale, n);
    }
}

static void find_bound(struct uploader *uploader, const struct device_weight *to)
{
    struct kernel_bound bound = {.bound = to->bound,
                                 .w = to->data,
                                 .bias = to->bias,
                                 .scale = to->scale,
                                 .n = to->n,
                                 .k = to->k,
                                 .type = to->type,
                                 .bias_type = view_type_of(cuda_device.f)};

    uploader_note(uploader, kernel_weight_bound(uploader->stream, &bound));
}

void weight_upload(struct uploader *uploader, const struct device_weight *to,
                   const struct weight_request *request)
{
    char *data = to->data, *bias = to->bias;
    float *scale = to->scale;

    if (request->table) {
        upload_bytes(uploader, to->data, request->table->data, weight_span_bytes(request->table));
        return;
    }
    if (request->is_conv) /* channels that only padding has */
        clear(uploader, to);
    for (int i = 0; i < request->count; i++) {
        const struct linear *layer = &request->layers[i];
        int64_t n = layer->weight.dim[0];

        upload_layer(uploader, data, scale, to, layer, request->is_conv);
        if (scale)
            scale += n;
        if (bias) {
            upload_bias(uploader, bias, layer);
            bias += (size_t)n * dtype_size(cuda_device.f);
        }
        data += (size_t)(n * to->k) * view_type_size(to->type);
    }
    if (to->bound)
        find_bound(uploader, to);
}
