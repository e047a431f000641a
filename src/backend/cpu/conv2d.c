/* Convolution as a product: a row of a is the patch of the picture under one output pixel, in the
 * order [tap, channel], so that it is made of whole runs of the channels-last input. */
#include "backend/cpu/gemm.h"

struct convolution {
    const struct tensor *x;
    int64_t height, width; /* of the output */
    int64_t kernel_width, channels;
    int64_t stride, pad_top, pad_left;
    int doubling; /* 1: the input is seen with every pixel doubled; 0 */
};

/* A piece of a patch: channels [channel, channel + count) of the pixel under one tap. */
struct patch_run {
    int64_t tap_row, tap_column;
    int64_t channel, count;
};

/* Cuts columns [k, k + depth) of a into runs; returns how many. */
static int64_t cut_runs(const struct convolution *conv, struct patch_run *runs, int64_t k,
                        int64_t depth)
{
    int64_t count = 0;

    for (int64_t at = k; at < k + depth; count++) {
        int64_t tap = at / conv->channels, channel = at % conv->channels;
        int64_t length = min_i64(conv->channels - channel, k + depth - at);

        runs[count] = (struct patch_run){.tap_row = tap / conv->kernel_width,
                                         .tap_column = tap % conv->kernel_width,
                                         .channel = channel,
                                         .count = length};
        at += length;
    }
    return count;
}

/* The input pixel at (row, column) of the perhaps doubled input; NULL outside. */
static inline const float *pixel_at(const struct convolution *conv, const float *picture,
                                    int64_t row, int64_t column)
{
    const struct tensor *x = conv->x;

    if (row < 0 || column < 0)
        return NULL;
    row >>= conv->doubling;
    column >>= conv->doubling;
    if (row >= x->dim[1] || column >= x->dim[2])
        return NULL;
    return picture + row * x->stride[1] + column * x->stride[2];
}

/* memcpy, or zeros for from == NULL; in line because runs are short. */
static inline void write_run(float *to, const float *from, int64_t count)
{
    int64_t i = 0;

    if (!from) {
        memset(to, 0, (size_t)count * sizeof *to);
        return;
    }
    for (; i + VF_WIDTH <= count; i += VF_WIDTH)
        vf_store(to + i, vf_load(from + i));
    if (i < count) {
        vmask mask = vmask_first(count - i);

        vf_store_masked(mask, to + i, vf_load_masked(mask, from + i));
    }
}

static void pack_patches(const struct gemm_job *job, float *to, int64_t row, int64_t rows,
                         int64_t k, int64_t depth)
{
    const struct convolution *conv = job->rows;
    struct patch_run runs[GEMM_KC];
    int64_t run_count = cut_runs(conv, runs, k, depth);
    int64_t column = row % conv->width, line = row / conv->width % conv->height;
    int64_t picture = row / (conv->width * conv->height);

    for (int64_t r = 0; r < rows; r++) {
        const float *from = (const float *)conv->x->data + picture * conv->x->stride[0];
        int64_t top = line * conv->stride - conv->pad_top;
        int64_t left = column * conv->stride - conv->pad_left;
        float *patch = to + r * GEMM_ROW_STRIDE;

        for (int64_t i = 0; i < run_count; i++) {
            const float *pixel =
                pixel_at(conv, from, top + runs[i].tap_row, left + runs[i].tap_column);

            write_run(patch, pixel ? pixel + runs[i].channel : NULL, runs[i].count);
            patch += runs[i].count;
        }
        if (++column == conv->width) {
            column = 0;
            if (++line == conv->height) {
                line = 0;
                picture++;
            }
        }
    }
}

void LEVEL(cpu_conv2d)(struct stream *stream, struct tensor *out, const struct tensor *x,
                       const struct linear *layer, const struct conv_options *options)
{
    struct convolution conv = {.x = x,
                               .height = out->dim[1],
                               .width = out->dim[2],
                               .kernel_width = layer->weight.dim[3],
                               .channels = x->dim[3],
                               .stride = options->stride,
                               .pad_top = options->pad_top,
                               .pad_left = options->pad_left,
                               .doubling = options->upsample == 2};
    struct gemm_job job;

    if (stream_skips(stream) || !LEVEL(gemm_prepare)(&job, stream, out, x, layer))
        return;
    job.m = tensor_row_count(out);
    job.pack_rows = pack_patches;
    job.rows = &conv;
    LEVEL(gemm_run)(&job);
}
