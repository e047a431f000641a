/* Norms: the mean first, then the spread around it; E[x^2] - E[x]^2 would cancel. */
#include <assert.h>
#include <math.h>

#include "backend/ref/ref_ops.h"

struct moments {
    double mean, inv_std;
};

static struct moments row_moments(const struct tensor *x, int64_t offset, int64_t width,
                                  float epsilon)
{
    double sum = 0.0, squares = 0.0, mean;

    for (int64_t c = 0; c < width; c++)
        sum += ref_get(x, offset + c);
    mean = sum / (double)width;
    for (int64_t c = 0; c < width; c++) {
        double deviation = ref_get(x, offset + c) - mean;

        squares += deviation * deviation;
    }
    return (struct moments){mean, 1.0 / sqrt(squares / (double)width + (double)epsilon)};
}

void ref_layer_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                    const struct tensor *weight, const struct tensor *bias, float epsilon)
{
    int64_t width = x->dim[x->rank - 1];

    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, x) && weight->dim[0] == width && bias->dim[0] == width);
    for (int64_t r = 0; r < tensor_row_count(x); r++) {
        int64_t from = tensor_row_offset(x, r), to = tensor_row_offset(out, r);
        struct moments m = row_moments(x, from, width, epsilon);

        for (int64_t c = 0; c < width; c++)
            ref_put(out, to + c,
                    (ref_get(x, from + c) - m.mean) * m.inv_std * ref_get(weight, c) +
                        ref_get(bias, c));
    }
}

void ref_modulated_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                        const struct tensor *shift, const struct tensor *scale, float epsilon)
{
    int64_t width = x->dim[2];

    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, x) && shift->dim[1] == width && scale->dim[1] == width);
    for (int64_t r = 0; r < tensor_row_count(x); r++) {
        int64_t from = tensor_row_offset(x, r), to = tensor_row_offset(out, r);
        int64_t b = r / x->dim[1];
        struct moments m = row_moments(x, from, width, epsilon);

        for (int64_t c = 0; c < width; c++)
            ref_put(out, to + c,
                    (ref_get(x, from + c) - m.mean) * m.inv_std *
                            (1.0 + ref_get(scale, b * scale->stride[0] + c)) +
                        ref_get(shift, b * shift->stride[0] + c));
    }
}

void ref_rms_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                  const struct tensor *weight, float epsilon)
{
    int64_t width = x->dim[x->rank - 1];

    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, x) && weight->dim[0] == width);
    for (int64_t r = 0; r < tensor_row_count(x); r++) {
        int64_t from = tensor_row_offset(x, r), to = tensor_row_offset(out, r);
        double squares = 0.0, inverse;

        for (int64_t c = 0; c < width; c++)
            squares += ref_get(x, from + c) * ref_get(x, from + c);
        inverse = 1.0 / sqrt(squares / (double)width + (double)epsilon);
        for (int64_t c = 0; c < width; c++)
            ref_put(out, to + c, ref_get(x, from + c) * inverse * ref_get(weight, c));
    }
}

static struct moments group_moments(const struct tensor *x, int64_t b, int64_t first, int64_t width,
                                    float epsilon)
{
    struct tensor picture = tensor_slice(x, 0, b, 1);
    double count = (double)(x->dim[1] * x->dim[2] * width);
    double sum = 0.0, squares = 0.0, mean;

    for (int64_t pixel = 0; pixel < tensor_row_count(&picture); pixel++)
        for (int64_t c = 0; c < width; c++)
            sum += ref_get(&picture, tensor_row_offset(&picture, pixel) + first + c);
    mean = sum / count;
    for (int64_t pixel = 0; pixel < tensor_row_count(&picture); pixel++)
        for (int64_t c = 0; c < width; c++) {
            double deviation =
                ref_get(&picture, tensor_row_offset(&picture, pixel) + first + c) - mean;

            squares += deviation * deviation;
        }
    return (struct moments){mean, 1.0 / sqrt(squares / count + (double)epsilon)};
}

void ref_group_stats(struct stream *stream, struct tensor *stats, const struct tensor *x,
                     float epsilon)
{
    int64_t width;

    if (stream_skips(stream))
        return;
    assert(stats->dim[0] == x->dim[0] && x->dim[3] % stats->dim[1] == 0);
    width = x->dim[3] / stats->dim[1];
    for (int64_t b = 0; b < stats->dim[0]; b++)
        for (int64_t g = 0; g < stats->dim[1]; g++) {
            struct moments m = group_moments(x, b, g * width, width, epsilon);
            int64_t at = b * stats->stride[0] + g * stats->stride[1];

            ref_put(stats, at, m.mean);
            ref_put(stats, at + 1, m.inv_std);
        }
}

void ref_group_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                    const struct tensor *stats, const struct tensor *weight,
                    const struct tensor *bias, bool with_silu)
{
    int64_t channels, pixels, width;

    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, x));
    channels = x->dim[3];
    pixels = x->dim[1] * x->dim[2];
    width = channels / stats->dim[1];
    for (int64_t r = 0; r < tensor_row_count(x); r++) {
        int64_t from = tensor_row_offset(x, r), to = tensor_row_offset(out, r);

        for (int64_t c = 0; c < channels; c++) {
            int64_t at = r / pixels * stats->stride[0] + c / width * stats->stride[1];
            double value = (ref_get(x, from + c) - ref_get(stats, at)) * ref_get(stats, at + 1) *
                               ref_get(weight, c) +
                           ref_get(bias, c);

            ref_put(out, to + c, with_silu ? value / (1.0 + exp(-value)) : value);
        }
    }
}
