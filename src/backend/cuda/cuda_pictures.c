/* Convolutions and group norms: the VAE's. */
#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_stream.h"
#include "backend/cuda/cuda_weights.h"
#include "base/size.h"

/* One convolution after upsampling and padding: views as cuDNN takes them. */
struct conv_part {
    struct tensor out, x;
    int stride, pad_top, pad_left;
    int64_t kernel_height, kernel_width;
};

static void convolve(struct stream *stream, const struct conv_part *part,
                     const struct device_weight *filter)
{
    struct dnn_conv conv = {
        .out = view_of(&part->out),
        .x = view_of(&part->x),
        .filter = filter->data,
        .bias = filter->bias,
        .bias_type = filter->type,
        .kernel_height = part->kernel_height,
        .kernel_width = part->kernel_width,
        .stride = part->stride,
        .pad_top = part->pad_top,
        .pad_left = part->pad_left,
    };
    struct kernel_conv own = {
        .out = conv.out,
        .x = conv.x,
        .filter = filter->data,
        .bias = filter->bias,
        .filter_type = filter->type,
        .kernel_height = part->kernel_height,
        .kernel_width = part->kernel_width,
        .filter_channels = filter->k / (part->kernel_height * part->kernel_width),
        .stride = part->stride,
        .pad_top = part->pad_top,
        .pad_left = part->pad_left,
    };
    struct error err;

    if (stream->dnn && cuda_device.f != DTYPE_F32 && part->x.dim[3] % FILTER_CHANNEL_STEP == 0 &&
        part->out.dim[3] % FILTER_CHANNEL_STEP == 0) {
        if (dnn_conv(stream->dnn, stream_now(stream), stream_workspace(stream), WORKSPACE_BYTES,
                     &conv, &err))
            return;
        if (err.code == ERROR_NO_MEMORY) { /* or a picture would depend on what memory is free */
            stream_fail(stream, err.code, "%s", err.message);
            return;
        }
    }
    stream_check(stream, kernel_conv(stream_now(stream), &own), "convolution");
}

/* The picture with channels up to the multiple that cuDNN wants, in the scratch of the branch, for
 * thin pictures only: rgb in, rgb out. */
static struct tensor widened(void *memory, const struct tensor *x)
{
    int64_t channels = ceil_div_i64(x->dim[3], FILTER_CHANNEL_STEP) * FILTER_CHANNEL_STEP;

    return TENSOR_OF(memory, x->dtype, x->dim[0], x->dim[1], x->dim[2], channels);
}

static bool is_thin(const struct tensor *x)
{
    return x->dim[3] % FILTER_CHANNEL_STEP != 0;
}

/* Bands of output rows, so that what is put into the scratch fits there. */
struct bands {
    const struct conv_options *options;
    struct tensor *out;
    const struct tensor *x;
    struct device_weight filter;
    int64_t kernel_height, kernel_width;
};

/* Rows of the (doubled) input that output rows [first, first + count) reach. */
static void rows_reached(const struct bands *bands, int64_t first, int64_t count, int64_t *begin,
                         int64_t *end)
{
    int64_t height = bands->x->dim[1] * bands->options->upsample;
    int64_t top = first * bands->options->stride - bands->options->pad_top;
    int64_t bottom = top + (count - 1) * bands->options->stride + bands->kernel_height;

    *begin = min_i64(max_i64(top, 0), height);
    *end = max_i64(min_i64(bottom, height), *begin);
}

/* Puts the rows of the input that a band reaches into `memory`, doubled or widened or both. */
static struct tensor prepare_rows(struct stream *stream, const struct bands *bands, void *memory,
                                  int64_t begin, int64_t end)
{
    const struct tensor *x = bands->x;
    int up = bands->options->upsample;
    struct tensor rows =
        TENSOR_OF(memory, x->dtype, x->dim[0], end - begin, x->dim[2] * up, x->dim[3]);
    struct tensor wide, part, from;
    struct view rows_view = view_of(&rows), x_view = view_of(x), wide_view, part_view, from_view;

    if (up == 2) {
        stream_check(stream, kernel_double_pixels(stream_now(stream), &rows_view, &x_view, begin),
                     "doubling pixels");
        if (!is_thin(x))
            return rows;
        from = rows;
        memory = (char *)memory + size_round_up(tensor_bytes(&rows), 256);
    } else {
        from = tensor_slice(x, 1, begin, end - begin);
    }
    wide = widened(memory, &rows);
    wide_view = view_of(&wide);
    stream_check(stream, kernel_fill(stream_now(stream), &wide_view, 0.0f), "widening");
    part = tensor_slice(&wide, 3, 0, x->dim[3]);
    part_view = view_of(&part);
    from_view = view_of(&from);
    stream_check(stream, kernel_copy(stream_now(stream), &part_view, &from_view), "widening");
    return wide;
}

static void run_band(struct stream *stream, const struct bands *bands, int64_t first, int64_t count)
{
    const struct conv_options *options = bands->options;
    struct tensor out = tensor_slice(bands->out, 1, first, count), wide_out, narrow;
    bool widens_out = is_thin(&out);
    char *memory = stream_decoded(stream);
    int64_t begin, end;
    struct conv_part part = {.stride = options->stride,
                             .pad_left = options->pad_left,
                             .kernel_height = bands->kernel_height,
                             .kernel_width = bands->kernel_width};
    struct view to, from;

    rows_reached(bands, first, count, &begin, &end);
    part.pad_top = (int)(begin - (first * options->stride - options->pad_top));
    part.out = out;
    if (widens_out) {
        wide_out = widened(memory, &out);
        memory += size_round_up(tensor_bytes(&wide_out), 256);
        part.out = wide_out;
    }
    if (options->upsample == 2 || is_thin(bands->x))
        part.x = prepare_rows(stream, bands, memory, begin, end);
    else
        part.x = tensor_slice(bands->x, 1, begin, end - begin);
    convolve(stream, &part, &bands->filter);
    if (widens_out) {
        narrow = tensor_slice(&wide_out, 3, 0, out.dim[3]);
        to = view_of(&out);
        from = view_of(&narrow);
        stream_check(stream, kernel_copy(stream_now(stream), &to, &from), "narrowing");
    }
}

/* Output rows whose scratch fits. */
static int64_t band_rows(const struct bands *bands)
{
    const struct tensor *x = bands->x, *out = bands->out;
    size_t element = dtype_size(x->dtype);
    size_t in_row = 0, out_row = 0, rows;
    struct tensor wide_x = widened(NULL, x), wide_out = widened(NULL, out);

    if (bands->options->upsample == 2)
        in_row = (size_t)(x->dim[0] * 2 * x->dim[2] * x->dim[3]) * element;
    if (is_thin(x))
        in_row += (size_t)(x->dim[0] * x->dim[2] * wide_x.dim[3]) * element *
                  (size_t)bands->options->upsample;
    in_row *= (size_t)bands->options->stride;
    if (is_thin(out))
        out_row = (size_t)(out->dim[0] * out->dim[2] * wide_out.dim[3]) * element;
    if (in_row + out_row == 0)
        return out->dim[1];
    rows = (DECODED_BYTES - 4096) / (in_row + out_row);
    return rows > (size_t)bands->kernel_height ? (int64_t)rows - bands->kernel_height : 0;
}

void cuda_conv2d(struct stream *stream, struct tensor *out, const struct tensor *x,
                 const struct linear *layer, const struct conv_options *options)
{
    struct bands bands = {.options = options,
                          .out = out,
                          .x = x,
                          .kernel_height = layer->weight.dim[2],
                          .kernel_width = layer->weight.dim[3]};
    int64_t band, height = out->dim[1];

    if (stream_skips(stream))
        return;
    if (x->dtype != cuda_device.f || out->dtype != cuda_device.f) {
        stream_fail(stream, ERROR_BACKEND, "conv2d: %s from %s is not supported",
                    dtype_name(out->dtype), dtype_name(x->dtype));
        return;
    }
    if (!weight_store_filter(stream, &bands.filter, layer))
        return;
    band = band_rows(&bands);
    if (band < 1) {
        stream_fail(stream, ERROR_BACKEND, "conv2d: a row of %lld pixels is too long",
                    (long long)x->dim[2]);
        return;
    }
    for (int64_t first = 0; first < height; first += band)
        run_band(stream, &bands, first, min_i64(band, height - first));
}

void cuda_group_stats(struct stream *stream, struct tensor *stats, const struct tensor *x,
                      float epsilon)
{
    struct view stats_view = view_of(stats), x_view = view_of(x);

    if (stream_skips(stream))
        return;
    if (kernel_group_stats_scratch(x->dim[0], stats->dim[1]) > WORKSPACE_BYTES) {
        stream_fail(stream, ERROR_BACKEND, "group_stats: a batch of %lld pictures is too large",
                    (long long)x->dim[0]);
        return;
    }
    stream_check(stream,
                 kernel_group_stats(stream_now(stream), &stats_view, &x_view, epsilon,
                                    stream_workspace(stream)),
                 "group_stats");
}

void cuda_group_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                     const struct tensor *stats, const struct tensor *weight,
                     const struct tensor *bias, bool with_silu)
{
    struct view out_view = view_of(out), x_view = view_of(x), stats_view = view_of(stats);
    struct view weight_view, bias_view;
    struct tensor device_weight, device_bias;

    if (stream_skips(stream) || !weight_store_vector(stream, &device_weight, weight) ||
        !weight_store_vector(stream, &device_bias, bias))
        return;
    weight_view = view_of(&device_weight);
    bias_view = view_of(&device_bias);
    stream_check(stream,
                 kernel_group_norm(stream_now(stream), &out_view, &x_view, &stats_view,
                                   &weight_view, &bias_view, with_silu),
                 "group_norm");
}
