/* Products: every output element is one sum in double precision. */
#include <assert.h>
#include <math.h>

#include "backend/ref/ref_ops.h"

/* Rows of weights are decoded once into the stream's scratch, which is all the speed that the
 * definition needs to be tested in minutes. */
static double *scratch_row(struct stream *stream, int64_t count)
{
    if ((size_t)count * sizeof(double) <= stream->scratch_bytes)
        return stream->scratch;
    stream_fail(stream, ERROR_BACKEND, "ref: a row of %lld values is too long", (long long)count);
    return NULL;
}

/* What weight[n, ..] is multiplied by. */
static double weight_scale(const struct linear *layer, int64_t n)
{
    if (!tensor_exists(&layer->scale))
        return 1.0;
    return ref_get(&layer->scale, layer->scale.dim[0] == 1 ? 0 : n);
}

static double weight_bias(const struct linear *layer, int64_t n)
{
    return tensor_exists(&layer->bias) ? ref_get(&layer->bias, n) : 0.0;
}

void ref_linear(struct stream *stream, struct tensor *out, const struct tensor *x,
                const struct linear *layer)
{
    int64_t rows = tensor_row_count(x), k_count = x->dim[x->rank - 1];
    int64_t n_count = out->dim[out->rank - 1];
    double *weight;

    if (stream_skips(stream) || !(weight = scratch_row(stream, k_count)))
        return;
    assert(tensor_row_count(out) == rows);
    assert(layer->weight.dim[0] == n_count && layer->weight.dim[1] == k_count);
    for (int64_t n = 0; n < n_count; n++) {
        double scale = weight_scale(layer, n), bias = weight_bias(layer, n);

        for (int64_t k = 0; k < k_count; k++)
            weight[k] = ref_get(&layer->weight, n * layer->weight.stride[0] + k);
        for (int64_t r = 0; r < rows; r++) {
            int64_t from = tensor_row_offset(x, r);
            double sum = 0.0;

            for (int64_t k = 0; k < k_count; k++)
                sum += ref_get(x, from + k) * weight[k];
            ref_put(out, tensor_row_offset(out, r) + n, sum * scale + bias);
        }
    }
}

static int64_t head_row(const struct tensor *x, int64_t b, int64_t t, int64_t n)
{
    return b * x->stride[0] + t * x->stride[1] + n * x->stride[2];
}

/* The scaled product of query i with key j, plus its bias. */
static double attention_logit(const struct tensor *q, const struct tensor *k, int64_t b, int64_t n,
                              int64_t i, int64_t j, const struct attention_options *options)
{
    int64_t at_q = head_row(q, b, i, n), at_k = head_row(k, b, j, n);
    double sum = 0.0;

    for (int64_t d = 0; d < q->dim[3]; d++)
        sum += ref_get(q, at_q + d) * ref_get(k, at_k + d);
    sum *= (double)options->scale;
    if (options->bias)
        sum +=
            ref_get(options->bias, n * options->bias->stride[0] + i * options->bias->stride[1] + j);
    return sum;
}

#define REF_HEAD_WIDTH_MAX 1024

/* One query: softmax over the keys with the maximum known first, so that no exponential
 * overflows. `shares` has room for every key. */
static void attend(struct tensor *out, double *shares, const struct tensor *q,
                   const struct tensor *k, const struct tensor *v, int64_t b, int64_t n, int64_t i,
                   const struct attention_options *options)
{
    int64_t keys = options->is_causal ? i + 1 : k->dim[1];
    int64_t width = v->dim[3], to = head_row(out, b, i, n);
    double sum[REF_HEAD_WIDTH_MAX] = {0};
    double largest = -INFINITY, total = 0.0;

    for (int64_t j = 0; j < keys; j++) {
        shares[j] = attention_logit(q, k, b, n, i, j, options);
        largest = fmax(largest, shares[j]);
    }
    for (int64_t j = 0; j < keys; j++) {
        double share = exp(shares[j] - largest);

        total += share;
        for (int64_t d = 0; d < width; d++)
            sum[d] += share * ref_get(v, head_row(v, b, j, n) + d);
    }
    for (int64_t d = 0; d < width; d++)
        ref_put(out, to + d, sum[d] / total);
}

void ref_attention(struct stream *stream, struct tensor *out, const struct tensor *q,
                   const struct tensor *k, const struct tensor *v,
                   const struct attention_options *options)
{
    double *shares;

    if (stream_skips(stream) || !(shares = scratch_row(stream, k->dim[1])))
        return;
    assert(tensor_same_shape(out, q) && tensor_same_shape(k, v) && q->dim[3] == k->dim[3]);
    if (v->dim[3] > REF_HEAD_WIDTH_MAX) {
        stream_fail(stream, ERROR_BACKEND, "ref: a head of width %lld, at most %d are supported",
                    (long long)v->dim[3], REF_HEAD_WIDTH_MAX);
        return;
    }
    for (int64_t b = 0; b < q->dim[0]; b++)
        for (int64_t n = 0; n < q->dim[2]; n++)
            for (int64_t i = 0; i < q->dim[1]; i++)
                attend(out, shares, q, k, v, b, n, i, options);
}

/* The sum over taps and channels for one output element; weight [kh, kw, C]. */
static double convolve(const struct tensor *x, const double *weight, const int64_t kernel[2],
                       int64_t b, int64_t row, int64_t column, const struct conv_options *options)
{
    int64_t up = options->upsample, channels = x->dim[3];
    double sum = 0.0;

    for (int64_t i = 0; i < kernel[0]; i++)
        for (int64_t j = 0; j < kernel[1]; j++) {
            const double *tap = weight + (i * kernel[1] + j) * channels;
            int64_t y = row * options->stride + i - options->pad_top;
            int64_t z = column * options->stride + j - options->pad_left;
            int64_t at;

            if (y < 0 || z < 0 || y >= x->dim[1] * up || z >= x->dim[2] * up)
                continue;
            at = b * x->stride[0] + y / up * x->stride[1] + z / up * x->stride[2];
            for (int64_t c = 0; c < channels; c++)
                sum += ref_get(x, at + c) * tap[c];
        }
    return sum;
}

void ref_conv2d(struct stream *stream, struct tensor *out, const struct tensor *x,
                const struct linear *layer, const struct conv_options *options)
{
    const struct tensor *w = &layer->weight;
    int64_t channels = x->dim[3], taps = w->dim[2] * w->dim[3];
    double *weight;

    if (stream_skips(stream) || !(weight = scratch_row(stream, taps * channels)))
        return;
    assert(out->dim[0] == x->dim[0] && w->dim[0] == out->dim[3] && w->dim[1] == channels);
    for (int64_t o = 0; o < out->dim[3]; o++) {
        double scale = weight_scale(layer, o), bias = weight_bias(layer, o);

        for (int64_t i = 0; i < taps * channels; i++)
            weight[i % taps * channels + i / taps] = ref_get(w, o * w->stride[0] + i);
        for (int64_t r = 0; r < tensor_row_count(out); r++) {
            int64_t column = r % out->dim[2], row = r / out->dim[2] % out->dim[1];
            int64_t b = r / (out->dim[2] * out->dim[1]);

            ref_put(out, tensor_row_offset(out, r) + o,
                    convolve(x, weight, w->dim + 2, b, row, column, options) * scale + bias);
        }
    }
}
