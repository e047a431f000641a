/* Matrix products: linear layers with their types, strides and gates, as products of rows. */
#include <string.h>

#include "backend/cuda/cuda_matmul.h"
#include "backend/cuda/cuda_uploader.h"
#include "backend/cuda/cuda_weights.h"
#include "base/size.h"

/* Below, samples apart are too small for the device, and cuBLASLt has no kernel that adds. */
#define FOLDED_TOKENS_MIN 1024
#define ALIGNMENT_MAX 256

static int32_t alignment_of(const void *address, int64_t stride, size_t element)
{
    uintptr_t bits = (uintptr_t)address | (uintptr_t)((size_t)stride * element) | ALIGNMENT_MAX;

    return (int32_t)(bits & (~bits + 1));
}

/* --- One product --- */

static void *moved(const void *base, int64_t elements, int32_t type)
{
    return (char *)(uintptr_t)base + elements * (int64_t)view_type_size((enum view_type)type);
}

static void run_own(struct stream *stream, const struct product *product, int64_t sample)
{
    const struct product_key *key = &product->key;
    struct kernel_product own = {
        .out = moved(product->out, sample * key->out_sample, key->out_type),
        .x = moved(product->x, sample * key->x_sample, key->type),
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
    /* In f32, for checking other types against, sums are in one order whatever the shape. */
    bool is_done = product->key.type != VIEW_F32 && cuda_matmul(stream, product);

    for (int64_t i = 0; !is_done && !stream->has_failed && i < product->key.samples; i++)
        run_own(stream, product, i);
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
        .samples = 1,
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

/* Rows that lie evenly, `count` of them, `stride` elements apart; or so in each sample. */
struct even_rows {
    int64_t count, stride;
    int64_t samples, sample_stride;
};

/* Of the axes from `first` on. */
static bool rows_are_even_from(int first, struct even_rows *rows, const struct tensor *tensor)
{
    int last = tensor->rank - 1;

    *rows = (struct even_rows){1, last > 0 ? tensor->stride[last - 1] : tensor->dim[last], 1, 0};
    for (int i = last - 1; i >= first; i--) {
        if (tensor->dim[i] != 1 && tensor->stride[i] != rows->stride * rows->count)
            return false;
        rows->count *= tensor->dim[i];
    }
    return true;
}

static bool rows_are_even(struct even_rows *rows, const struct tensor *tensor)
{
    return rows_are_even_from(0, rows, tensor);
}

/* The first axis is the samples'. */
static bool rows_are_even_in_samples(struct even_rows *rows, const struct tensor *tensor)
{
    if (tensor->rank < 3 || !rows_are_even_from(1, rows, tensor))
        return false;
    rows->samples = tensor->dim[0];
    rows->sample_stride = tensor->stride[0];
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
        .samples = x_rows.samples,
        .x_sample = x_rows.sample_stride,
        .out_sample = out_rows.sample_stride,
        .type = view_type_of(x->dtype),
        .out_type = view_type_of(out->dtype),
        .is_outer = is_8_bit,
        .bias_type = weight->bias ? (int32_t)view_type_of(out->dtype) : -1,
        .adds = finish == FINISH_ADD,
        .with_gelu = finish == FINISH_GELU,
        .x_align = alignment_of(x->data, x_rows.stride | x_rows.sample_stride, in),
        .w_align = alignment_of(w, weight->k, in),
        .out_align = alignment_of(product.out, out_rows.stride | out_rows.sample_stride, element),
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
    bool is_8_bit =
        x->dtype == DTYPE_F8_E4M3; /* whose rows' factors would have to lie evenly, too */

    if ((!rows_are_even(&out_rows, out) || !rows_are_even(&x_rows, x)) &&
        (is_8_bit || !rows_are_even_in_samples(&out_rows, out) ||
         !rows_are_even_in_samples(&x_rows, x))) {
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
 * product is added to x as it leaves the tensor cores' registers. cuBLASLt has no FP8 product of
 * several samples with factors each, and one sample's ends in a round of tiles that fills a part of
 * the device. So the next one goes on beside it: four pictures take 1 % less time. */
static void add_folded(struct stream *stream, struct tensor *x, const struct tensor *gate,
                       const struct tensor *input, const struct device_weight *weight)
{
    int branch = stream->branch;
    float *scale = stream->folded_scale[branch];
    char *bias = stream->folded_bias[branch];
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
        if (branch == 0)
            cuda_branch(stream, b % 2 ? SIDE_BRANCH : 0);
        if (!rows_are_even(&out_rows, &out) || !rows_are_even(&in_rows, &in)) {
            stream_fail(stream, ERROR_BACKEND, "gated_linear: rows lie unevenly");
            break;
        }
        multiply_rows(stream, &out, out_rows, &in, in_rows, &folded, folded.data, 0, folded.n,
                      FINISH_ADD);
    }
    if (branch == 0)
        stream_join_branch(stream, SIDE_BRANCH);
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
