/* Copies between any strides and types. */
#include <string.h>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/loop.h"
#include "backend/cpu/simd.h"
#include "base/size.h"

#define OUT 0
#define IN 1

struct copy {
    enum dtype to, from;
    int64_t to_step, from_step; /* bytes from element to element */
};

static void copy_rows_of_bytes(const struct cpu_loop_rows *rows, const void *params)
{
    const struct copy *copy = params;
    size_t bytes = (size_t)rows->width * dtype_size(copy->to);

    for (int64_t r = 0; r < rows->count; r++)
        memcpy(rows->at[OUT] + r * rows->step[OUT], rows->at[IN] + r * rows->step[IN], bytes);
}

static inline __attribute__((always_inline)) void convert_rows(const struct cpu_loop_rows *rows,
                                                               enum dtype from)
{
    int64_t size = (int64_t)dtype_size(from);
    int64_t whole = rows->width - rows->width % VF_WIDTH;

    for (int64_t r = 0; r < rows->count; r++) {
        float *to = (float *)(rows->at[OUT] + r * rows->step[OUT]);
        const char *x = rows->at[IN] + r * rows->step[IN];

        for (int64_t c = 0; c < whole; c += VF_WIDTH)
            vf_store(to + c, vf_load_dtype(from, x + c * size));
        if (whole < rows->width)
            vf_store_masked(vmask_first(rows->width - whole), to + whole,
                            vf_load_dtype_tail(from, x + whole * size, rows->width - whole));
    }
}

static void convert_rows_to_f32(const struct cpu_loop_rows *rows, const void *params)
{
    const struct copy *copy = params;

    switch (copy->from) {
    case DTYPE_F16:
        convert_rows(rows, DTYPE_F16);
        return;
    case DTYPE_BF16:
        convert_rows(rows, DTYPE_BF16);
        return;
    case DTYPE_F8_E4M3:
        convert_rows(rows, DTYPE_F8_E4M3);
        return;
    case DTYPE_F8_E5M2:
        convert_rows(rows, DTYPE_F8_E5M2);
        return;
    default:
        convert_rows(rows, DTYPE_U8);
        return;
    }
}

static void copy_each_element(const struct cpu_loop_rows *rows, const void *params)
{
    const struct copy *copy = params;

    for (int64_t r = 0; r < rows->count; r++) {
        char *to = rows->at[OUT] + r * rows->step[OUT];
        const char *x = rows->at[IN] + r * rows->step[IN];

        for (int64_t c = 0; c < rows->width; c++)
            if (copy->to == DTYPE_F32 && copy->from == DTYPE_F32)
                memcpy(to + c * copy->to_step, x + c * copy->from_step, sizeof(float));
            else
                dtype_store(copy->to, to + c * copy->to_step, 0,
                            dtype_load(copy->from, x + c * copy->from_step, 0));
    }
}

static void swap_axes(struct cpu_loop *loop, int a, int b)
{
    int64_t dim = loop->dim[a];

    loop->dim[a] = loop->dim[b];
    loop->dim[b] = dim;
    for (int o = 0; o < loop->operands; o++) {
        int64_t step = loop->step[o][a];

        loop->step[o][a] = loop->step[o][b];
        loop->step[o][b] = step;
    }
}

/* The axis along which the operand's elements lie without gaps; -1: none. */
static int gapless_axis(const struct cpu_loop *loop, int operand, int64_t element_bytes)
{
    for (int i = loop->rank - 1; i >= 0; i--)
        if (loop->step[operand][i] == element_bytes)
            return i;
    return -1;
}

/* Rows come in long runs when the axis before theirs is long. */
static void put_longest_axis_before_rows(struct cpu_loop *loop)
{
    int longest = loop->rank - 2;

    for (int i = loop->rank - 2; i >= 0; i--)
        if (loop->dim[i] > loop->dim[longest])
            longest = i;
    if (longest >= 0)
        swap_axes(loop, longest, loop->rank - 2);
}

/* --- Transposes: the input is gapless along one axis (across), the output along another (along)
 * --- */

#define ACROSS 64
#define ALONG 256

struct transpose {
    const struct cpu_loop *loop; /* its last two axes are across and along */
    int64_t across_blocks, along_blocks;
};

static void transpose_block(const void *context, int64_t index)
{
    const struct transpose *task = context;
    const struct cpu_loop *loop = task->loop;
    int across = loop->rank - 2, along = loop->rank - 1;
    int64_t a = index % task->across_blocks * ACROSS;
    int64_t l = index / task->across_blocks % task->along_blocks * ALONG;
    int64_t rest = index / task->across_blocks / task->along_blocks;
    int64_t width = min_i64(ACROSS, loop->dim[across] - a);
    int64_t l_end = min_i64(loop->dim[along], l + ALONG);
    char *to = loop->data[OUT] + a * loop->step[OUT][across];
    const char *from = loop->data[IN] + a * loop->step[IN][across];

    for (int i = across - 1; i >= 0; i--) {
        to += rest % loop->dim[i] * loop->step[OUT][i];
        from += rest % loop->dim[i] * loop->step[IN][i];
        rest /= loop->dim[i];
    }
    for (; l < l_end; l += VF_WIDTH) {
        int64_t rows = min_i64(VF_WIDTH, l_end - l);

        vf_copy_transposed((float *)(to + l * loop->step[OUT][along]),
                           loop->step[OUT][across] / (int64_t)sizeof(float), rows,
                           (const float *)(from + l * loop->step[IN][along]),
                           loop->step[IN][along] / (int64_t)sizeof(float), rows, width, 1.0f);
    }
}

static void transpose(struct stream *stream, const struct cpu_loop *loop)
{
    int across = loop->rank - 2, along = loop->rank - 1;
    struct transpose task = {
        .loop = loop,
        .across_blocks = ceil_div_i64(loop->dim[across], ACROSS),
        .along_blocks = ceil_div_i64(loop->dim[along], ALONG),
    };
    int64_t rest = 1;

    for (int i = 0; i < across; i++)
        rest *= loop->dim[i];
    cpu_for_each(stream, rest * task.across_blocks * task.along_blocks,
                 rest * loop->dim[across] * loop->dim[along], transpose_block, &task);
}

static cpu_loop_body body_for(const struct copy *copy)
{
    if (copy->to_step != (int64_t)dtype_size(copy->to) ||
        copy->from_step != (int64_t)dtype_size(copy->from))
        return copy_each_element;
    if (copy->to == copy->from)
        return copy_rows_of_bytes;
    if (copy->to == DTYPE_F32 && copy->from != DTYPE_I32)
        return convert_rows_to_f32;
    return copy_each_element;
}

void LEVEL(cpu_copy)(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    struct copy copy = {.to = out->dtype, .from = x->dtype};
    int64_t to_size = (int64_t)dtype_size(copy.to), from_size = (int64_t)dtype_size(copy.from);
    struct cpu_loop loop;
    int last, along, across;

    if (stream_skips(stream))
        return;
    loop = cpu_loop_of_elements(2, (const struct tensor *[]){out, x});
    last = loop.rank - 1;
    along = gapless_axis(&loop, OUT, to_size);
    if (along >= 0)
        swap_axes(&loop, along, last);
    across = gapless_axis(&loop, IN, from_size);
    copy.to_step = loop.element_step[OUT] = loop.step[OUT][last];
    copy.from_step = loop.element_step[IN] = loop.step[IN][last];
    if (along >= 0 && across >= 0 && across != last && copy.to == DTYPE_F32 &&
        copy.from == DTYPE_F32) {
        swap_axes(&loop, across, last - 1);
        transpose(stream, &loop);
        return;
    }
    put_longest_axis_before_rows(&loop);
    cpu_loop_run(stream, &loop, body_for(&copy), &copy);
}

struct fill {
    enum dtype dtype;
    int64_t step;
    float value;
};

static void fill_rows(const struct cpu_loop_rows *rows, const void *params)
{
    const struct fill *fill = params;

    for (int64_t r = 0; r < rows->count; r++) {
        char *to = rows->at[OUT] + r * rows->step[OUT];

        for (int64_t c = 0; c < rows->width; c++)
            dtype_store(fill->dtype, to + c * fill->step, 0, fill->value);
    }
}

static void fill_rows_of_f32(const struct cpu_loop_rows *rows, const void *params)
{
    const struct fill *fill = params;

    for (int64_t r = 0; r < rows->count; r++) {
        float *to = (float *)(rows->at[OUT] + r * rows->step[OUT]);

        for (int64_t c = 0; c < rows->width; c++)
            to[c] = fill->value;
    }
}

void LEVEL(cpu_fill)(struct stream *stream, struct tensor *out, float value)
{
    const struct tensor *tensors[] = {out};
    struct fill fill = {out->dtype, 0, value};
    struct cpu_loop loop;

    if (stream_skips(stream))
        return;
    loop = cpu_loop_of_elements(1, tensors);
    fill.step = loop.element_step[OUT];
    cpu_loop_run(stream, &loop,
                 cpu_loop_is_plain(&loop, tensors, DTYPE_F32) ? fill_rows_of_f32 : fill_rows,
                 &fill);
}

/* One picture [C, H, W] seen as [H/p, W/p, C, p, p], so that both patch orders are copies. */
static struct tensor picture_by_patches(const struct tensor *picture, int64_t b, int patch)
{
    struct tensor view = {
        .dtype = picture->dtype,
        .rank = 5,
        .dim = {picture->dim[2] / patch, picture->dim[3] / patch, picture->dim[1], patch, patch},
        .stride = {patch * picture->stride[2], patch * picture->stride[3], picture->stride[1],
                   picture->stride[2], picture->stride[3]},
        .data =
            (char *)picture->data + b * picture->stride[0] * (int64_t)dtype_size(picture->dtype),
    };

    return view;
}

/* One picture's tokens [gh gw, C p p] under the same shape. */
static struct tensor tokens_by_patches(const struct tensor *tokens, int64_t b,
                                       const struct tensor *picture, bool channel_fastest)
{
    int64_t channels = picture->dim[2], patch = picture->dim[3];
    struct tensor view = *picture;

    view.dtype = tokens->dtype;
    view.stride[0] = picture->dim[1] * tokens->stride[1];
    view.stride[1] = tokens->stride[1];
    view.stride[2] = channel_fastest ? 1 : patch * patch;
    view.stride[3] = channel_fastest ? patch * channels : patch;
    view.stride[4] = channel_fastest ? channels : 1;
    view.data = (char *)tokens->data + b * tokens->stride[0] * (int64_t)dtype_size(tokens->dtype);
    return view;
}

void LEVEL(cpu_patchify)(struct stream *stream, struct tensor *out, const struct tensor *x,
                         int patch)
{
    for (int64_t b = 0; b < x->dim[0]; b++) {
        struct tensor picture = picture_by_patches(x, b, patch);
        struct tensor tokens = tokens_by_patches(out, b, &picture, false);

        LEVEL(cpu_copy)(stream, &tokens, &picture);
    }
}

void LEVEL(cpu_unpatchify)(struct stream *stream, struct tensor *out, const struct tensor *x,
                           int patch)
{
    for (int64_t b = 0; b < out->dim[0]; b++) {
        struct tensor picture = picture_by_patches(out, b, patch);
        struct tensor tokens = tokens_by_patches(x, b, &picture, true);

        LEVEL(cpu_copy)(stream, &picture, &tokens);
    }
}
