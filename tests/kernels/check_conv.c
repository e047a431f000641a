#include <math.h>

#include "kernel_check.h"

struct shape {
    int64_t batch, height, width, channels, outputs;
    int kernel;
};

static struct linear make_layer(struct kernel_check *check, struct shape s, enum dtype dtype)
{
    struct linear layer = {
        .weight = KERNEL_TENSOR(check, dtype, 0, s.outputs, s.channels, s.kernel, s.kernel),
        .bias = KERNEL_TENSOR(check, DTYPE_F32, 0, s.outputs),
    };

    kernel_randomise(check, &layer.weight, 0.5, 1.0);
    return layer;
}

static struct tensor make_picture(struct kernel_check *check, struct shape s, int pad)
{
    struct tensor x = KERNEL_TENSOR(check, check->f, pad, s.batch, s.height, s.width, s.channels);

    kernel_randomise(check, &x, 0.5, 1.0);
    return x;
}

static void check_case(struct kernel_check *check, struct shape s, enum dtype dtype,
                       struct conv_options options, int64_t height, int64_t width)
{
    struct linear layer = make_layer(check, s, dtype);
    struct tensor x = make_picture(check, s, 3);
    struct tensor out = KERNEL_TENSOR(check, check->f, 5, s.batch, height, width, s.outputs);
    struct tensor want = kernel_like(check, &out), got = kernel_like(check, &out);
    int64_t terms = s.channels * s.kernel * s.kernel;

    check->ref->conv2d(check->ref_stream, &want, &x, &layer, &options);
    check->fast.conv2d(check->stream, &got, &x, &layer, &options);
    kernel_expect_close(check, &got, &want, kernel_product_tolerance(check, terms),
                        "conv B %d %dx%d, %d to %d, kernel %d, stride %d, upsample %d, pad %d %d",
                        (int)s.batch, (int)s.height, (int)s.width, (int)s.channels, (int)s.outputs,
                        s.kernel, options.stride, options.upsample, options.pad_top,
                        options.pad_left);
    kernel_release(check);
}

/* A whole picture with as much around it as the model has. */
static void check_whole(struct kernel_check *check, struct shape s, enum dtype dtype, int stride,
                        int upsample)
{
    int pad = stride == 1 ? s.kernel / 2 : 0; /* downsampling pads on the far sides only */
    struct conv_options options = {
        .stride = stride, .upsample = upsample, .pad_top = pad, .pad_left = pad};

    check_case(check, s, dtype, options, (s.height * upsample + stride - 1) / stride,
               (s.width * upsample + stride - 1) / stride);
}

static void check_shapes(struct kernel_check *check)
{
    static const struct shape shapes[] = {
        {1, 1, 1, 1, 1, 1},   {1, 1, 1, 1, 1, 3},    {2, 5, 7, 3, 2, 3},     {1, 4, 4, 16, 33, 3},
        {1, 9, 3, 31, 16, 3}, {2, 3, 15, 17, 31, 3}, {1, 6, 6, 130, 3, 3},   {1, 8, 8, 64, 70, 1},
        {1, 3, 5, 5, 40, 5},  {1, 2, 29, 400, 8, 1}, {1, 20, 20, 48, 64, 3}, {1, 7, 7, 390, 20, 3},
    };
    static const enum dtype types[] = {DTYPE_F16, DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3};

    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        check_whole(check, shapes[i], types[i % 4], 1, 1);
        check_whole(check, shapes[i], types[(i + 1) % 4], 2, 1);
        check_whole(check, shapes[i], types[(i + 2) % 4], 1, 2);
        check_whole(check, shapes[i], types[(i + 3) % 4], 2, 2);
    }
}

/* Any padding, also more than the kernel is wide, and negative: a band that begins further down. */
static void check_padding(struct kernel_check *check)
{
    struct shape s = {2, 9, 6, 19, 34, 3};

    for (int top = -5; top <= 4; top++)
        for (int left = -1; left <= 4; left++) {
            struct conv_options options = {.stride = 1 + (top & 1),
                                           .upsample = 1 + (left & 1),
                                           .pad_top = top,
                                           .pad_left = left};

            check_case(check, s, DTYPE_F16, options, 4, 11);
        }
}

/* A picture in bands is the picture: what norms and weights leave of memory depends on it. */
static void check_bands(struct kernel_check *check)
{
    struct shape s = {1, 12, 20, 40, 48, 3};
    struct linear layer = make_layer(check, s, DTYPE_F16);
    struct tensor x = make_picture(check, s, 0);
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, 1, 24, 40, 48);
    struct tensor whole = kernel_like(check, &out), bands = kernel_like(check, &out);
    struct conv_options options = {.stride = 1, .upsample = 2, .pad_top = 1, .pad_left = 1};

    check->fast.conv2d(check->stream, &whole, &x, &layer, &options);
    for (int64_t row = 0; row < 24; row += 7) {
        struct tensor band = tensor_slice(&bands, 1, row, row + 7 < 24 ? 7 : 24 - row);

        options.pad_top = 1 - (int)row;
        check->fast.conv2d(check->stream, &band, &x, &layer, &options);
    }
    kernel_expect_equal(check, &whole, &bands, "conv in bands");
    kernel_release(check);
}

/* More packed columns than the scratch holds: 16 MiB are 910 of 4608. */
static void check_phases(struct kernel_check *check)
{
    check_whole(check, (struct shape){1, 2, 2, 512, 1000, 3}, DTYPE_F16, 1, 1);
}

static void check_scale(struct kernel_check *check)
{
    struct shape s = {1, 4, 4, 8, 20, 3};
    struct conv_options options = {.stride = 1, .upsample = 1, .pad_top = 1, .pad_left = 1};
    struct linear layer = make_layer(check, s, DTYPE_F8_E4M3);
    struct tensor x = make_picture(check, s, 0);
    struct tensor out = KERNEL_TENSOR(check, check->f, 0, 1, 4, 4, 20);
    struct tensor want = kernel_like(check, &out), got = kernel_like(check, &out);

    layer.scale = KERNEL_TENSOR(check, DTYPE_F32, 0, 20);
    layer.bias = (struct tensor){0};
    check->ref->conv2d(check->ref_stream, &want, &x, &layer, &options);
    check->fast.conv2d(check->stream, &got, &x, &layer, &options);
    kernel_expect_close(check, &got, &want, kernel_product_tolerance(check, 72),
                        "conv with scales and no bias");
    kernel_release(check);
}

static void check_conv(struct kernel_check *check)
{
    check_shapes(check);
    check_padding(check);
    check_bands(check);
    check_phases(check);
    check_scale(check);
}

struct bench_case {
    struct linear layer;
    struct tensor x, out;
    struct conv_options options;
};

static void run_case(struct kernel_check *check, void *context)
{
    struct bench_case *c = context;

    check->fast.conv2d(check->stream, &c->out, &c->x, &c->layer, &c->options);
}

static void bench_shape(struct kernel_check *check, struct shape s, int stride, int upsample)
{
    int64_t height = s.height * upsample / stride, width = s.width * upsample / stride;
    int pad = stride == 1 ? s.kernel / 2 : 0;
    struct bench_case c = {
        .layer = make_layer(check, s, DTYPE_F16),
        .x = make_picture(check, s, 0),
        .out = KERNEL_TENSOR(check, check->f, 0, 1, height, width, s.outputs),
        .options = {.stride = stride, .upsample = upsample, .pad_top = pad, .pad_left = pad},
    };
    double terms = (double)(s.channels * s.kernel * s.kernel);

    kernel_bench(check, 2.0 * terms * (double)(height * width * s.outputs), 0, run_case, &c,
                 "conv to %dx%d, %d to %d, kernel %d, /%d, x%d", (int)height, (int)width,
                 (int)s.channels, (int)s.outputs, s.kernel, stride, upsample);
    kernel_release(check);
}

/* The VAE at 512 x 512. */
static void bench_conv(struct kernel_check *check)
{
    bench_shape(check, (struct shape){1, 64, 64, 16, 512, 3}, 1, 1);
    bench_shape(check, (struct shape){1, 64, 64, 512, 512, 3}, 1, 1);
    bench_shape(check, (struct shape){1, 128, 128, 512, 512, 3}, 1, 1);
    bench_shape(check, (struct shape){1, 128, 128, 512, 512, 3}, 1, 2);
    bench_shape(check, (struct shape){1, 256, 256, 256, 256, 3}, 1, 1);
    bench_shape(check, (struct shape){1, 256, 256, 512, 256, 1}, 1, 1);
    bench_shape(check, (struct shape){1, 512, 512, 128, 128, 3}, 1, 1);
    bench_shape(check, (struct shape){1, 512, 512, 128, 128, 3}, 2, 1);
    bench_shape(check, (struct shape){1, 512, 512, 128, 3, 3}, 1, 1);
}

int main(int argc, char **argv)
{
    return kernel_check_main(argc, argv, check_conv, bench_conv);
}
