/* Resizing that equals Pillow's to the bit, so that a picture prepared here and one prepared there
 * start from the same pixels.
 *
 * Pillow 11.3 is meant, which always resizes rows before columns; from 12.3 on the order depends on
 * the sizes, and with it the last bits. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "image/image.h"

#define LANCZOS_SUPPORT 3.0
#define WEIGHT_BITS                                                                                \
    22 /* of the fraction: 32 less 8 for the sample and 2 for sign and overshoot                   \
        */

/* For each output position along one axis: the run of input positions that it is made of, and
 * their weights as fixed-point numbers. */
struct kernel {
    int out_size;
    int tap_max;      /* weights kept for each position */
    int *first;       /* [out_size] */
    int *count;       /* [out_size] */
    int32_t *weights; /* [out_size, tap_max] */
};

static double sinc(double x)
{
    return x == 0 ? 1 : sin(x * M_PI) / (x * M_PI);
}

static double lanczos(double x)
{
    return x >= -LANCZOS_SUPPORT && x < LANCZOS_SUPPORT ? sinc(x) * sinc(x / LANCZOS_SUPPORT) : 0;
}

static void kernel_finish(struct kernel *kernel)
{
    free(kernel->first);
    free(kernel->count);
    free(kernel->weights);
}

/* Half away from zero, as Pillow rounds its weights. */
static int32_t to_fixed(double weight)
{
    double scaled = weight * (1 << WEIGHT_BITS);

    return (int32_t)(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

/* The weights of one output position; `scratch` holds tap_max numbers. */
static void fill_taps(struct kernel *kernel, int out, int in_size, double *scratch)
{
    double scale = (double)in_size / kernel->out_size;
    double stretch = scale < 1 ? 1 : scale;
    double support = LANCZOS_SUPPORT * stretch;
    double center = (out + 0.5) * scale;
    double per_pixel = 1.0 / stretch;
    int first = (int)(center - support + 0.5);
    int end = (int)(center + support + 0.5);
    double sum = 0;
    int32_t *weights = kernel->weights + (size_t)out * (size_t)kernel->tap_max;

    first = first < 0 ? 0 : first;
    end = end > in_size ? in_size : end;
    for (int i = 0; i < end - first; i++) {
        scratch[i] = lanczos((i + first - center + 0.5) * per_pixel);
        sum += scratch[i];
    }
    for (int i = 0; i < end - first; i++)
        weights[i] = to_fixed(sum != 0 ? scratch[i] / sum : scratch[i]);
    kernel->first[out] = first;
    kernel->count[out] = end - first;
}

static bool kernel_init(struct kernel *kernel, int in_size, int out_size, struct error *err)
{
    double scale = (double)in_size / out_size;
    double support = LANCZOS_SUPPORT * (scale < 1 ? 1 : scale);
    double *scratch;
    size_t weight_count;

    *kernel = (struct kernel){.out_size = out_size, .tap_max = (int)ceil(support) * 2 + 1};
    kernel->first = calloc((size_t)out_size, sizeof *kernel->first);
    kernel->count = calloc((size_t)out_size, sizeof *kernel->count);
    kernel->weights = size_mul(&weight_count, (size_t)out_size, (size_t)kernel->tap_max)
                          ? calloc(weight_count, sizeof *kernel->weights)
                          : NULL;
    scratch = calloc((size_t)kernel->tap_max, sizeof *scratch);
    if (!kernel->first || !kernel->count || !kernel->weights || !scratch) {
        free(scratch);
        kernel_finish(kernel);
        return error_set(err, ERROR_NO_MEMORY, "weights for resizing %d to %d pixels", in_size,
                         out_size);
    }
    for (int i = 0; i < out_size; i++)
        fill_taps(kernel, i, in_size, scratch);
    free(scratch);
    return true;
}

/* One RGB pixel: the weighted sum of `count` pixels that lie `stride` bytes apart. */
static void sum_pixels(unsigned char *out, const unsigned char *in, size_t stride,
                       const int32_t *weights, int count)
{
    int32_t sum[3];

    for (int c = 0; c < 3; c++)
        sum[c] = 1 << (WEIGHT_BITS - 1);
    for (int i = 0; i < count; i++, in += stride)
        for (int c = 0; c < 3; c++)
            sum[c] += in[c] * weights[i];
    for (int c = 0; c < 3; c++) {
        int32_t value = sum[c] >> WEIGHT_BITS;

        out[c] = (unsigned char)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}

static size_t row_bytes(const struct image *image)
{
    return (size_t)image->width * 3;
}

static void resize_rows(struct image *out, const struct image *image, const struct kernel *kernel)
{
    for (int y = 0; y < image->height; y++) {
        const unsigned char *in = image->pixels + (size_t)y * row_bytes(image);
        unsigned char *row = out->pixels + (size_t)y * row_bytes(out);

        for (int x = 0; x < out->width; x++)
            sum_pixels(row + 3 * x, in + 3 * kernel->first[x], 3,
                       kernel->weights + (size_t)x * (size_t)kernel->tap_max, kernel->count[x]);
    }
}

static void resize_columns(struct image *out, const struct image *image,
                           const struct kernel *kernel)
{
    size_t stride = row_bytes(image);

    for (int y = 0; y < out->height; y++) {
        const unsigned char *in = image->pixels + (size_t)kernel->first[y] * stride;
        unsigned char *row = out->pixels + (size_t)y * stride;

        for (int x = 0; x < out->width; x++)
            sum_pixels(row + 3 * x, in + 3 * x, stride,
                       kernel->weights + (size_t)y * (size_t)kernel->tap_max, kernel->count[y]);
    }
}

typedef void resize_pass(struct image *, const struct image *, const struct kernel *);

/* Along one axis: `in_size` is the picture's side there, `out_size` the new one. */
static bool run_pass(struct image *out, const struct image *image, resize_pass *pass, int in_size,
                     int out_size, int width, int height, struct error *err)
{
    struct kernel kernel;
    bool done;

    if (!kernel_init(&kernel, in_size, out_size, err))
        return false;
    done = image_init(out, width, height, err);
    if (done)
        pass(out, image, &kernel);
    kernel_finish(&kernel);
    return done;
}

static bool copy_image(struct image *out, const struct image *image, struct error *err)
{
    if (!image_init(out, image->width, image->height, err))
        return false;
    memcpy(out->pixels, image->pixels, row_bytes(image) * (size_t)image->height);
    return true;
}

/* Checked before anything is made, because the first pass knows only one of the sides. */
static bool check_side(int side, struct error *err)
{
    return (side >= 1 && side <= IMAGE_SIDE_MAX) ||
           error_set(err, ERROR_BAD_REQUEST, "resizing to a side of %d: it must be 1 to %d pixels",
                     side, IMAGE_SIDE_MAX);
}

bool image_resize(struct image *out, const struct image *image, int width, int height,
                  struct error *err)
{
    struct image rows = {0}, result = {0};
    const struct image *source = image;
    bool done;

    if (!check_side(width, err) || !check_side(height, err))
        return false;
    if (width == image->width && height == image->height)
        return copy_image(out, image, err);
    if (width != image->width) {
        if (!run_pass(&rows, image, resize_rows, image->width, width, width, image->height, err))
            return false;
        source = &rows;
    }
    if (height == image->height) {
        *out = rows;
        return true;
    }
    done = run_pass(&result, source, resize_columns, image->height, height, width, height, err);
    image_finish(&rows);
    if (done)
        *out = result;
    return done;
}

bool image_crop(struct image *out, const struct image *image, int width, int height,
                struct error *err)
{
    int left = (image->width - width) / 2, top = (image->height - height) / 2;
    struct image cut = {0};

    if (width > image->width || height > image->height)
        return error_set(err, ERROR_BAD_REQUEST, "%d x %d cannot be cut out of %d x %d", width,
                         height, image->width, image->height);
    if (!image_init(&cut, width, height, err))
        return false;
    for (int y = 0; y < height; y++)
        memcpy(cut.pixels + (size_t)y * row_bytes(&cut),
               image->pixels + (size_t)(top + y) * row_bytes(image) + 3 * (size_t)left,
               row_bytes(&cut));
    *out = cut;
    return true;
}

/* *from[i] = the input position of output position i. Pillow adds the step up instead of
 * multiplying, and the rounding of that is part of what is reproduced. */
static bool nearest_positions(int **from, int in_size, int out_size, struct error *err)
{
    double step = (double)in_size / out_size;
    double at = step * 0.5;
    int *positions = calloc((size_t)out_size, sizeof *positions);

    if (!positions)
        return error_set(err, ERROR_NO_MEMORY, "resizing to %d pixels", out_size);
    for (int i = 0; i < out_size; i++, at += step)
        positions[i] = at < in_size ? (int)at : in_size - 1;
    *from = positions;
    return true;
}

bool image_resize_nearest(struct image *out, const struct image *image, int width, int height,
                          struct error *err)
{
    struct image result = {0};
    int *from_x = NULL, *from_y = NULL;
    bool done = check_side(width, err) && check_side(height, err) &&
                nearest_positions(&from_x, image->width, width, err) &&
                nearest_positions(&from_y, image->height, height, err) &&
                image_init(&result, width, height, err);

    for (int y = 0; done && y < height; y++) {
        const unsigned char *in = image->pixels + (size_t)from_y[y] * row_bytes(image);
        unsigned char *row = result.pixels + (size_t)y * row_bytes(&result);

        for (int x = 0; x < width; x++)
            memcpy(row + 3 * x, in + 3 * from_x[x], 3);
    }
    free(from_x);
    free(from_y);
    if (done)
        *out = result;
    return done;
}
