/* Element by element: out[i] = f(inputs[i]). */
#include <assert.h>
#include <math.h>

#include "backend/ref/ref_ops.h"

#define PI 3.14159265358979323846

void ref_copy(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, x));
    for (int64_t i = 0; i < tensor_count(out); i++)
        ref_put(out, ref_offset(out, i), ref_get(x, ref_offset(x, i)));
}

void ref_fill(struct stream *stream, struct tensor *out, float value)
{
    if (stream_skips(stream))
        return;
    for (int64_t i = 0; i < tensor_count(out); i++)
        ref_put(out, ref_offset(out, i), (double)value);
}

void ref_add(struct stream *stream, struct tensor *out, const struct tensor *a,
             const struct tensor *b)
{
    ref_scale_add(stream, out, 1.0f, a, 1.0f, b);
}

void ref_scale_add(struct stream *stream, struct tensor *out, float a, const struct tensor *x,
                   float b, const struct tensor *y)
{
    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, x) && tensor_same_shape(out, y));
    for (int64_t i = 0; i < tensor_count(out); i++)
        ref_put(out, ref_offset(out, i),
                (double)a * ref_get(x, ref_offset(x, i)) +
                    (double)b * ref_get(y, ref_offset(y, i)));
}

void ref_gated_add(struct stream *stream, struct tensor *out, const struct tensor *x,
                   const struct tensor *gate, const struct tensor *y)
{
    int64_t per_batch;

    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, x) && tensor_same_shape(out, y));
    per_batch = x->dim[1] * x->dim[2];
    for (int64_t i = 0; i < tensor_count(out); i++) {
        int64_t b = i / per_batch, c = i % x->dim[2];

        ref_put(out, ref_offset(out, i),
                ref_get(x, ref_offset(x, i)) +
                    ref_get(gate, b * gate->stride[0] + c * gate->stride[1]) *
                        ref_get(y, ref_offset(y, i)));
    }
}

void ref_mask_blend(struct stream *stream, struct tensor *out, const struct tensor *mask,
                    const struct tensor *x, const struct tensor *y)
{
    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, mask) && tensor_same_shape(out, x) && tensor_same_shape(out, y));
    for (int64_t i = 0; i < tensor_count(out); i++) {
        double m = ref_get(mask, ref_offset(mask, i));

        ref_put(out, ref_offset(out, i),
                m * ref_get(x, ref_offset(x, i)) + (1.0 - m) * ref_get(y, ref_offset(y, i)));
    }
}

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static double gelu_tanh(double x)
{
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / PI) * (x + 0.044715 * x * x * x)));
}

static double gelu_of_kind(double x, enum gelu_kind kind)
{
    switch (kind) {
    case GELU_TANH:
        return gelu_tanh(x);
    case GELU_ERF:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case GELU_QUICK:
        return x * sigmoid(1.702 * x);
    }
    return 0.0;
}

void ref_silu(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, x));
    for (int64_t i = 0; i < tensor_count(out); i++) {
        double value = ref_get(x, ref_offset(x, i));

        ref_put(out, ref_offset(out, i), value * sigmoid(value));
    }
}

void ref_gelu(struct stream *stream, struct tensor *out, const struct tensor *x,
              enum gelu_kind kind)
{
    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, x));
    for (int64_t i = 0; i < tensor_count(out); i++)
        ref_put(out, ref_offset(out, i), gelu_of_kind(ref_get(x, ref_offset(x, i)), kind));
}

void ref_gated_gelu(struct stream *stream, struct tensor *out, const struct tensor *gate,
                    const struct tensor *up)
{
    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, gate) && tensor_same_shape(out, up));
    for (int64_t i = 0; i < tensor_count(out); i++)
        ref_put(out, ref_offset(out, i),
                gelu_tanh(ref_get(gate, ref_offset(gate, i))) * ref_get(up, ref_offset(up, i)));
}

void ref_rgb_to_bytes(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, x) && out->dtype == DTYPE_U8);
    for (int64_t i = 0; i < tensor_count(out); i++) {
        double level = (ref_get(x, ref_offset(x, i)) + 1.0) / 2.0;

        ref_put(out, ref_offset(out, i), 255.0 * fmin(fmax(level, 0.0), 1.0));
    }
}

void ref_bytes_to_rgb(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, x) && x->dtype == DTYPE_U8);
    for (int64_t i = 0; i < tensor_count(out); i++)
        ref_put(out, ref_offset(out, i), 2.0 * ref_get(x, ref_offset(x, i)) / 255.0 - 1.0);
}
