#include "model/vae_blocks.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>

#include "base/size.h"

#define NORM_EPSILON 1e-6f

static const struct conv_options same_size = {
    .stride = 1, .upsample = 1, .pad_top = 1, .pad_left = 1};
static const struct conv_options pointwise = {.stride = 1, .upsample = 1};

void vae_norm_load(struct vae_norm *norm, struct weight_loader *loader, const char *name,
                   int64_t width)
{
    weight_loader_vector(loader, &norm->weight, width, "%s.weight", name);
    weight_loader_vector(loader, &norm->bias, width, "%s.bias", name);
}

void vae_resnet_load(struct vae_resnet *resnet, struct weight_loader *loader, const char *name)
{
    int64_t dim[TENSOR_MAX_RANK] = {0};
    int rank;
    char part[128];

    /* The widths are whatever conv1 says; everything else has to agree with it. */
    if (!weights_shape(loader->weights, &rank, dim, "%s.conv1.weight", name) || rank != 4)
        dim[0] = dim[1] = 1;
    resnet->out = dim[0];
    resnet->in = dim[1];
    snprintf(part, sizeof part, "%s.norm1", name);
    vae_norm_load(&resnet->norm1, loader, part, resnet->in);
    snprintf(part, sizeof part, "%s.norm2", name);
    vae_norm_load(&resnet->norm2, loader, part, resnet->out);
    weight_loader_conv(loader, &resnet->conv1, resnet->out, resnet->in, 3, "%s.conv1", name);
    weight_loader_conv(loader, &resnet->conv2, resnet->out, resnet->out, 3, "%s.conv2", name);
    if (resnet->in != resnet->out)
        weight_loader_conv(loader, &resnet->shortcut, resnet->out, resnet->in, 1, "%s.shortcut",
                           name);
}

void vae_attention_load(struct vae_attention *attention, struct weight_loader *loader,
                        const char *name, int64_t width)
{
    char part[128];

    attention->width = width;
    snprintf(part, sizeof part, "%s.norm", name);
    vae_norm_load(&attention->norm, loader, part, width);
    weight_loader_linear(loader, &attention->q, width, width, true, "%s.q", name);
    weight_loader_linear(loader, &attention->k, width, width, true, "%s.k", name);
    weight_loader_linear(loader, &attention->v, width, width, true, "%s.v", name);
    weight_loader_linear(loader, &attention->proj, width, width, true, "%s.proj", name);
}

bool vae_resnet_list_weights(const struct vae_resnet *resnet, struct weight_list *list,
                             struct error *err)
{
    return weight_list_add(list, &resnet->conv1, 1, true, err) &&
           weight_list_add(list, &resnet->conv2, 1, true, err) &&
           weight_list_add(list, &resnet->shortcut, 1, true, err);
}

void vae_program_init(struct vae_program *program, const struct backend_ops *ops, int64_t batch,
                      int64_t band_rows, int64_t groups, int64_t height, int64_t width,
                      int64_t channels)
{
    *program =
        (struct vae_program){.ops = ops, .batch = batch, .band_rows = band_rows, .groups = groups};
    /* What the first step finds: kept in the slot after the last step, which the next append
     * reads. */
    program->steps[0] = (struct vae_step){.height = height, .width = width, .channels = channels};
}

/* The next free step, its input known. */
static struct vae_step *next_step(struct vae_program *program, enum vae_step_kind kind)
{
    struct vae_step *step = &program->steps[program->step_count];

    assert(program->step_count + 1 < VAE_STEPS_MAX);
    step->kind = kind;
    step->out_height = step->height;
    step->out_width = step->width;
    step->out_channels = step->channels;
    return step;
}

static void finish_step(struct vae_program *program, const struct vae_step *step)
{
    program->step_count++;
    program->steps[program->step_count] = (struct vae_step){
        .height = step->out_height, .width = step->out_width, .channels = step->out_channels};
}

void vae_program_conv(struct vae_program *program, const struct linear *conv, int stride,
                      int upsample)
{
    struct vae_step *step = next_step(program, VAE_STEP_CONV);

    step->conv = conv;
    step->options = same_size;
    if (stride == 2) /* zeros at the right and the bottom only (model.md, section 6.1) */
        step->options = (struct conv_options){.stride = 2, .upsample = 1};
    step->options.upsample = upsample;
    step->out_height = step->height * upsample / stride;
    step->out_width = step->width * upsample / stride;
    step->out_channels = conv->weight.dim[0];
    finish_step(program, step);
}

void vae_program_resnet(struct vae_program *program, const struct vae_resnet *resnet)
{
    struct vae_step *step = next_step(program, VAE_STEP_RESNET);

    step->resnet = resnet;
    step->out_channels = resnet->out;
    finish_step(program, step);
}

void vae_program_attention(struct vae_program *program, const struct vae_attention *attention)
{
    struct vae_step *step = next_step(program, VAE_STEP_ATTENTION);

    step->attention = attention;
    finish_step(program, step);
}

void vae_program_norm_conv(struct vae_program *program, const struct vae_norm *norm,
                           const struct linear *conv)
{
    struct vae_step *step = next_step(program, VAE_STEP_NORM_CONV);

    step->norm = norm;
    step->conv = conv;
    step->out_channels = conv->weight.dim[0];
    finish_step(program, step);
}

/* --- Memory --- */

static int64_t band_of(const struct vae_program *program, int64_t height)
{
    return program->band_rows > 0 ? min_i64(program->band_rows, height) : height;
}

/* True when the step writes over its input. */
static bool is_in_place(const struct vae_step *step)
{
    return step->kind == VAE_STEP_ATTENTION ||
           (step->kind == VAE_STEP_RESNET && step->resnet->in == step->resnet->out);
}

static void at_least(int64_t *count, int64_t wanted)
{
    *count = max_i64(*count, wanted);
}

/* What a step needs beside its input and output. */
static void count_scratch(struct vae_program *program, const struct vae_step *step)
{
    int64_t band = band_of(program, step->height);
    int64_t row = program->batch * step->width;
    int64_t pixels = row * step->height;

    switch (step->kind) {
    case VAE_STEP_CONV:
        break;
    case VAE_STEP_RESNET:
        at_least(&program->hidden_count, pixels * step->resnet->out);
        at_least(&program->normed_count, min_i64(band + 2, step->height) * row *
                                             max_i64(step->resnet->in, step->resnet->out));
        at_least(&program->branch_count, band * row * step->resnet->out);
        break;
    case VAE_STEP_ATTENTION:
        at_least(&program->hidden_count, 3 * pixels * step->channels);
        at_least(&program->normed_count, pixels * step->channels);
        break;
    case VAE_STEP_NORM_CONV:
        at_least(&program->normed_count, min_i64(band + 2, step->height) * row * step->channels);
        break;
    }
}

static bool place(void **out, const struct vae_program *program, struct arena *scratch,
                  int64_t count, struct error *err)
{
    size_t element = dtype_size(program->ops->activation_dtype);

    if (!arena_alloc(out, scratch, (size_t)count, element))
        return error_set(err, ERROR_NO_MEMORY, "VAE: no room for %lld elements", (long long)count);
    return true;
}

bool vae_program_place(struct vae_program *program, struct arena *scratch, struct error *err)
{
    int at = 0; /* the region that holds the next step's input; the first one's is the caller's */

    for (int i = 0; i < program->step_count; i++) {
        const struct vae_step *step = &program->steps[i];

        count_scratch(program, step);
        if (i + 1 == program->step_count)
            break; /* the last step writes into the caller's tensor */
        if (i == 0 || !is_in_place(step))
            at = 1 - at;
        at_least(&program->region_count[at],
                 program->batch * step->out_height * step->out_width * step->out_channels);
    }
    return place(&program->region[0], program, scratch, program->region_count[0], err) &&
           place(&program->region[1], program, scratch, program->region_count[1], err) &&
           place(&program->hidden, program, scratch, program->hidden_count, err) &&
           place(&program->normed, program, scratch, program->normed_count, err) &&
           place(&program->branch, program, scratch, program->branch_count, err) &&
           TENSOR_ALLOC(&program->stats, scratch, DTYPE_F32, "group statistics", err,
                        program->batch, program->groups, 2);
}

/* --- Running --- */

static struct tensor picture(const struct vae_program *program, void *data, int64_t height,
                             int64_t width, int64_t channels)
{
    return TENSOR_OF(data, program->ops->activation_dtype, program->batch, height, width, channels);
}

/* out[rows] = conv(silu(norm(x)))[rows] for rows [begin, begin + count): norms the rows that the
 * kernel reaches, one more on either side. */
static void norm_conv_band(struct vae_program *program, struct stream *stream, struct tensor *out,
                           const struct tensor *x, const struct vae_norm *norm,
                           const struct linear *conv, int64_t begin, int64_t count)
{
    const struct backend_ops *op = program->ops;
    int64_t first = max_i64(begin - 1, 0);
    int64_t last = min_i64(begin + count + 1, x->dim[1]);
    struct tensor rows = tensor_slice(x, 1, first, last - first);
    struct tensor normed = picture(program, program->normed, last - first, x->dim[2], x->dim[3]);
    struct conv_options options = same_size;

    options.pad_top = (int)(first - (begin - 1));
    op->group_norm(stream, &normed, &rows, &program->stats, &norm->weight, &norm->bias, true);
    op->conv2d(stream, out, &normed, conv, &options);
}

/* out = conv(silu(norm(x))), band by band. */
static void norm_conv(struct vae_program *program, struct stream *stream, struct tensor *out,
                      const struct tensor *x, const struct vae_norm *norm,
                      const struct linear *conv)
{
    int64_t height = x->dim[1], band = band_of(program, height);

    program->ops->group_stats(stream, &program->stats, x, NORM_EPSILON);
    for (int64_t begin = 0; begin < height; begin += band) {
        int64_t count = min_i64(band, height - begin);
        struct tensor rows = tensor_slice(out, 1, begin, count);

        norm_conv_band(program, stream, &rows, x, norm, conv, begin, count);
    }
}

/* out is x when the widths are equal. */
static void run_resnet(struct vae_program *program, struct stream *stream, struct tensor *out,
                       const struct tensor *x, const struct vae_resnet *resnet)
{
    const struct backend_ops *op = program->ops;
    int64_t height = x->dim[1], band = band_of(program, height);
    struct tensor hidden = picture(program, program->hidden, height, x->dim[2], resnet->out);

    norm_conv(program, stream, &hidden, x, &resnet->norm1, &resnet->conv1);
    op->group_stats(stream, &program->stats, &hidden, NORM_EPSILON);
    for (int64_t begin = 0; begin < height; begin += band) {
        int64_t count = min_i64(band, height - begin);
        struct tensor branch = picture(program, program->branch, count, x->dim[2], resnet->out);
        struct tensor rows = tensor_slice(out, 1, begin, count);

        norm_conv_band(program, stream, &branch, &hidden, &resnet->norm2, &resnet->conv2, begin,
                       count);
        if (resnet->in != resnet->out) {
            struct tensor from = tensor_slice(x, 1, begin, count);

            op->conv2d(stream, &rows, &from, &resnet->shortcut, &pointwise);
        }
        op->add(stream, &rows, &rows, &branch);
    }
}

static void run_attention(struct vae_program *program, struct stream *stream, struct tensor *x,
                          const struct vae_attention *weights)
{
    const struct backend_ops *op = program->ops;
    int64_t height = x->dim[1], width = x->dim[2], c = weights->width, tokens = height * width;
    enum dtype f = op->activation_dtype;
    struct attention_options options = {.scale = 1.0f / sqrtf((float)c)};
    struct tensor normed = picture(program, program->normed, height, width, c);
    struct tensor qkv = TENSOR_OF(program->hidden, f, 3, program->batch, tokens, c);
    struct tensor normed_tokens = TENSOR_OF(program->normed, f, program->batch, tokens, c);
    struct tensor x_tokens = TENSOR_RESHAPE(x, program->batch, tokens, c);
    const struct linear *linears[3] = {&weights->q, &weights->k, &weights->v};
    struct tensor part[3], heads[3], attended;

    op->group_stats(stream, &program->stats, x, NORM_EPSILON);
    op->group_norm(stream, &normed, x, &program->stats, &weights->norm.weight, &weights->norm.bias,
                   false);
    for (int i = 0; i < 3; i++) {
        struct tensor slice = tensor_slice(&qkv, 0, i, 1);

        part[i] = TENSOR_RESHAPE(&slice, program->batch, tokens, c);
        heads[i] = tensor_split(&part[i], 2, c);
        op->linear(stream, &part[i], &normed_tokens, linears[i]);
    }
    attended = tensor_split(&normed_tokens, 2, c);
    op->attention(stream, &attended, &heads[0], &heads[1], &heads[2], &options);
    op->linear(stream, &part[0], &normed_tokens, &weights->proj);
    op->add(stream, &x_tokens, &x_tokens, &part[0]);
}

static void run_step(struct vae_program *program, struct stream *stream,
                     const struct vae_step *step, struct tensor *out, struct tensor *x)
{
    switch (step->kind) {
    case VAE_STEP_CONV:
        program->ops->conv2d(stream, out, x, step->conv, &step->options);
        break;
    case VAE_STEP_RESNET:
        run_resnet(program, stream, out, x, step->resnet);
        break;
    case VAE_STEP_ATTENTION:
        run_attention(program, stream, out, step->attention);
        break;
    case VAE_STEP_NORM_CONV:
        norm_conv(program, stream, out, x, step->norm, step->conv);
        break;
    }
}

void vae_program_run(struct vae_program *program, struct stream *stream, struct tensor *out,
                     const struct tensor *x)
{
    struct tensor input = *x, output;
    int at = 0;

    for (int i = 0; i < program->step_count; i++) {
        const struct vae_step *step = &program->steps[i];

        if (i + 1 == program->step_count) {
            output = *out;
        } else if (i > 0 && is_in_place(step)) {
            output = input;
        } else {
            at = 1 - at;
            output = picture(program, program->region[at], step->out_height, step->out_width,
                             step->out_channels);
        }
        run_step(program, stream, step, &output, &input);
        input = output;
    }
}
