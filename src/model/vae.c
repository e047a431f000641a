#include "model/vae.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/vae_blocks.h"

#define LEVELS_MAX 8
#define RESNETS_MAX 8 /* a level */

struct vae_level {
    int resnet_count;
    struct vae_resnet resnets[RESNETS_MAX];
    bool has_resize;
    struct linear resize; /* up- or downsampling convolution */
};

/* What encoder and decoder have alike: the decoder is the encoder backwards. */
struct vae_half {
    const struct backend_ops *ops;
    struct linear conv_in;
    int level_count;
    struct vae_level levels[LEVELS_MAX];
    struct vae_resnet mid_resnets[2];
    struct vae_attention mid_attention;
    struct vae_norm norm_out;
    struct linear conv_out;
    int64_t groups, width_in, latent_channels;
    double scale, shift;
};

struct vae_decoder {
    struct vae_half half;
};

struct vae_encoder {
    struct vae_half half;
};

static void load_levels(struct vae_half *half, struct weight_loader *loader, const char *half_name,
                        const char *direction, const char *resize_name)
{
    const struct weights *weights = loader->weights;
    char name[96];

    for (int i = 0; i < LEVELS_MAX; i++) {
        struct vae_level *level = &half->levels[i];

        if (!weights_has(weights, "%s.%s.%d.block.0.conv1.weight", half_name, direction, i))
            break;
        half->level_count++;
        while (level->resnet_count < RESNETS_MAX &&
               weights_has(weights, "%s.%s.%d.block.%d.conv1.weight", half_name, direction, i,
                           level->resnet_count)) {
            snprintf(name, sizeof name, "%s.%s.%d.block.%d", half_name, direction, i,
                     level->resnet_count);
            vae_resnet_load(&level->resnets[level->resnet_count++], loader, name);
        }
        level->has_resize =
            weights_has(weights, "%s.%s.%d.%s.weight", half_name, direction, i, resize_name);
        if (level->has_resize) {
            int64_t c = level->resnets[level->resnet_count - 1].out;

            weight_loader_conv(loader, &level->resize, c, c, 3, "%s.%s.%d.%s", half_name, direction,
                               i, resize_name);
        }
    }
}

static void load_mid(struct vae_half *half, struct weight_loader *loader, const char *half_name)
{
    char name[96];

    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.mid.block.%d", half_name, i);
        vae_resnet_load(&half->mid_resnets[i], loader, name);
    }
    snprintf(name, sizeof name, "%s.mid.attention", half_name);
    vae_attention_load(&half->mid_attention, loader, name, half->mid_resnets[0].out);
}

/* Every resnet must take what the one before leaves; the loader only knows that each fits itself.
 */
static bool check_chain(const struct vae_half *half, int64_t width, bool mid_first,
                        const struct weights *weights, struct error *err)
{
    bool fits = true;
    int resize_count = 0;

    if (mid_first)
        fits = half->mid_resnets[0].in == width && half->mid_resnets[1].in == width &&
               half->mid_resnets[0].out == width && half->mid_resnets[1].out == width;
    for (int i = 0; i < half->level_count; i++) {
        const struct vae_level *level = &half->levels[i];

        for (int j = 0; j < level->resnet_count; j++) {
            fits = fits && level->resnets[j].in == width;
            width = level->resnets[j].out;
        }
        resize_count += level->has_resize;
    }
    if (!mid_first)
        fits = fits && half->mid_resnets[0].in == width && half->mid_resnets[1].in == width &&
               half->mid_resnets[0].out == width && half->mid_resnets[1].out == width;
    if (fits && 1 << resize_count == VAE_FACTOR)
        return true;
    return error_set(err, ERROR_BAD_FILE,
                     fits ? "VAE in '%s': its levels do not resize by 8 in all"
                          : "VAE in '%s': the widths of its blocks do not follow each other",
                     weights_path(weights));
}

static bool check_groups(const struct vae_half *half, const struct weights *weights,
                         struct error *err)
{
    for (int i = 0; i < half->level_count; i++)
        for (int j = 0; j < half->levels[i].resnet_count; j++) {
            const struct vae_resnet *resnet = &half->levels[i].resnets[j];

            if (half->groups < 1 || resnet->in % half->groups != 0 ||
                resnet->out % half->groups != 0)
                return error_set(err, ERROR_BAD_FILE,
                                 "VAE in '%s': %lld groups do not divide its widths",
                                 weights_path(weights), (long long)half->groups);
        }
    return true;
}

/* What both halves read in the same way. */
static void init_half(struct vae_half *half, const struct weights *weights,
                      const struct backend_ops *ops)
{
    half->ops = ops;
    half->groups = weights_config_integer(weights, "norm_num_groups", 32);
    half->scale = weights_config_number(weights, "scaling_factor", 1.5305);
    half->shift = weights_config_number(weights, "shift_factor", 0.0609);
}

static int64_t first_dim(const struct weights *weights, const char *name, int axis)
{
    int64_t dim[TENSOR_MAX_RANK];
    int rank;

    if (!weights_shape(weights, &rank, dim, "%s", name) || rank != 4)
        return 1; /* the loader will complain */
    return dim[axis];
}

static bool check_scale(const struct vae_half *half, const struct weights *weights,
                        struct error *err)
{
    if (isfinite(half->scale) && half->scale != 0.0 && isfinite(half->shift))
        return true;
    return error_set(err, ERROR_BAD_FILE, "VAE in '%s': scaling_factor %g and shift_factor %g",
                     weights_path(weights), half->scale, half->shift);
}

bool vae_decoder_create(struct vae_decoder **out, struct weights *weights,
                        const struct backend_ops *ops, struct error *err)
{
    struct vae_decoder *decoder = calloc(1, sizeof *decoder);
    struct weight_loader loader;
    struct vae_half *half;
    int64_t last;

    if (!decoder)
        return error_set(err, ERROR_NO_MEMORY, "VAE decoder");
    half = &decoder->half;
    init_half(half, weights, ops);
    half->width_in = first_dim(weights, "decoder.conv_in.weight", 0);
    half->latent_channels = first_dim(weights, "decoder.conv_in.weight", 1);
    weight_loader_init(&loader, weights);
    weight_loader_conv(&loader, &half->conv_in, half->width_in, half->latent_channels, 3,
                       "decoder.conv_in");
    load_mid(half, &loader, "decoder");
    load_levels(half, &loader, "decoder", "up", "upsample");
    last = half->level_count ? half->levels[half->level_count - 1]
                                   .resnets[half->levels[half->level_count - 1].resnet_count - 1]
                                   .out
                             : 1;
    vae_norm_load(&half->norm_out, &loader, "decoder.norm_out", last);
    weight_loader_conv(&loader, &half->conv_out, 3, last, 3, "decoder.conv_out");
    if (!weight_loader_finish(&loader, err) ||
        !check_chain(half, half->width_in, true, weights, err) ||
        !check_groups(half, weights, err) || !check_scale(half, weights, err)) {
        vae_decoder_destroy(decoder);
        return false;
    }
    *out = decoder;
    return true;
}

void vae_decoder_destroy(struct vae_decoder *decoder)
{
    free(decoder);
}

bool vae_encoder_create(struct vae_encoder **out, struct weights *weights,
                        const struct backend_ops *ops, struct error *err)
{
    struct vae_encoder *encoder = calloc(1, sizeof *encoder);
    struct weight_loader loader;
    struct vae_half *half;
    int64_t top;

    if (!encoder)
        return error_set(err, ERROR_NO_MEMORY, "VAE encoder");
    half = &encoder->half;
    init_half(half, weights, ops);
    half->width_in = first_dim(weights, "encoder.conv_in.weight", 0);
    half->latent_channels = first_dim(weights, "encoder.conv_out.weight", 0) / 2;
    weight_loader_init(&loader, weights);
    weight_loader_conv(&loader, &half->conv_in, half->width_in, 3, 3, "encoder.conv_in");
    load_levels(half, &loader, "encoder", "down", "downsample");
    load_mid(half, &loader, "encoder");
    top = half->mid_resnets[1].out;
    vae_norm_load(&half->norm_out, &loader, "encoder.norm_out", top);
    weight_loader_conv(&loader, &half->conv_out, 2 * half->latent_channels, top, 3,
                       "encoder.conv_out");
    if (!weight_loader_finish(&loader, err) ||
        !check_chain(half, half->width_in, false, weights, err) ||
        !check_groups(half, weights, err) || !check_scale(half, weights, err)) {
        vae_encoder_destroy(encoder);
        return false;
    }
    *out = encoder;
    return true;
}

void vae_encoder_destroy(struct vae_encoder *encoder)
{
    free(encoder);
}

static bool list_half(const struct vae_half *half, struct weight_list *list, struct error *err)
{
    const struct vae_attention *attention = &half->mid_attention;
    const struct linear *linears[] = {&attention->q, &attention->k, &attention->v, &attention->proj,
                                      NULL};

    if (!weight_list_add_each(list, linears, err) ||
        !weight_list_add(list, &half->conv_in, 1, true, err) ||
        !weight_list_add(list, &half->conv_out, 1, true, err) ||
        !vae_resnet_list_weights(&half->mid_resnets[0], list, err) ||
        !vae_resnet_list_weights(&half->mid_resnets[1], list, err))
        return false;
    for (int i = 0; i < half->level_count; i++) {
        const struct vae_level *level = &half->levels[i];

        for (int j = 0; j < level->resnet_count; j++)
            if (!vae_resnet_list_weights(&level->resnets[j], list, err))
                return false;
        if (!weight_list_add(list, &level->resize, 1, true, err))
            return false;
    }
    return true;
}

bool vae_decoder_list_weights(const struct vae_decoder *decoder, struct weight_list *list,
                              struct error *err)
{
    return list_half(&decoder->half, list, err);
}

bool vae_encoder_list_weights(const struct vae_encoder *encoder, struct weight_list *list,
                              struct error *err)
{
    return list_half(&encoder->half, list, err);
}

/* --- Decoding --- */

struct vae_decode_plan {
    const struct vae_decoder *decoder;
    struct vae_program program;
    struct tensor latent; /* [B, h, w, 16] f, as the decoder takes it */
    struct tensor one;    /* a single 1: the shift is added as shift * 1 */
    bool forgets_shift;
};

static void add_level(struct vae_program *program, const struct vae_level *level, int stride,
                      int upsample)
{
    for (int i = 0; i < level->resnet_count; i++)
        vae_program_resnet(program, &level->resnets[i]);
    if (level->has_resize)
        vae_program_conv(program, &level->resize, stride, upsample);
}

static void add_mid(struct vae_program *program, const struct vae_half *half)
{
    vae_program_resnet(program, &half->mid_resnets[0]);
    vae_program_attention(program, &half->mid_attention);
    vae_program_resnet(program, &half->mid_resnets[1]);
}

bool vae_decode_plan_create(struct vae_decode_plan **out, const struct vae_decoder *decoder,
                            struct arena *scratch, int64_t batch, int64_t height, int64_t width,
                            int64_t band_rows, struct error *err)
{
    const struct vae_half *half = &decoder->half;
    enum dtype f = half->ops->activation_dtype;
    struct vae_decode_plan *plan = calloc(1, sizeof *plan);

    if (!plan)
        return error_set(err, ERROR_NO_MEMORY, "VAE");
    plan->decoder = decoder;
    vae_program_init(&plan->program, half->ops, batch, band_rows, half->groups, height, width,
                     half->latent_channels);
    vae_program_conv(&plan->program, &half->conv_in, 1, 1);
    add_mid(&plan->program, half);
    for (int i = 0; i < half->level_count; i++)
        add_level(&plan->program, &half->levels[i], 1, 2);
    vae_program_norm_conv(&plan->program, &half->norm_out, &half->conv_out);
    if (!TENSOR_ALLOC(&plan->latent, scratch, f, "VAE latent", err, batch, height, width,
                      half->latent_channels) ||
        !TENSOR_ALLOC(&plan->one, scratch, f, "VAE shift", err, 1) ||
        !vae_program_place(&plan->program, scratch, err)) {
        vae_decode_plan_destroy(plan);
        return false;
    }
    *out = plan;
    return true;
}

void vae_decode_plan_destroy(struct vae_decode_plan *plan)
{
    free(plan);
}

void vae_decode_plan_add_shift(struct vae_decode_plan *plan, bool adds)
{
    plan->forgets_shift = !adds;
}

/* [B, C, H, W] seen as [B, H, W, C] */
static struct tensor channels_last(const struct tensor *x)
{
    return tensor_permute(x, (int[]){0, 2, 3, 1});
}

/* The one element seen as any shape. */
static struct tensor repeated(const struct tensor *one, const struct tensor *shape)
{
    struct tensor view = *shape;

    view.dtype = one->dtype;
    view.data = one->data;
    for (int i = 0; i < view.rank; i++)
        view.stride[i] = 0;
    return view;
}

void vae_decode(struct vae_decode_plan *plan, struct stream *stream, struct tensor *rgb,
                const struct tensor *latent)
{
    const struct vae_half *half = &plan->decoder->half;
    const struct backend_ops *op = half->ops;
    struct tensor view = channels_last(latent);
    struct tensor ones = repeated(&plan->one, &plan->latent);
    float shift = plan->forgets_shift ? 0.0f : (float)half->shift;

    /* z = latent / scale + shift: back to what the decoder was trained on */
    op->copy(stream, &plan->latent, &view);
    op->fill(stream, &plan->one, 1.0f);
    op->scale_add(stream, &plan->latent, (float)(1.0 / half->scale), &plan->latent, shift, &ones);
    vae_program_run(&plan->program, stream, rgb, &plan->latent);
}

/* --- Encoding --- */

struct vae_encode_plan {
    const struct vae_encoder *encoder;
    struct vae_program program;
    struct tensor moments; /* [B, h, w, 32] f */
};

bool vae_encode_plan_create(struct vae_encode_plan **out, const struct vae_encoder *encoder,
                            struct arena *scratch, int64_t batch, int64_t height, int64_t width,
                            int64_t band_rows, struct error *err)
{
    const struct vae_half *half = &encoder->half;
    struct vae_encode_plan *plan = calloc(1, sizeof *plan);

    if (!plan)
        return error_set(err, ERROR_NO_MEMORY, "VAE");
    plan->encoder = encoder;
    vae_program_init(&plan->program, half->ops, batch, band_rows, half->groups, height * VAE_FACTOR,
                     width * VAE_FACTOR, 3);
    vae_program_conv(&plan->program, &half->conv_in, 1, 1);
    for (int i = 0; i < half->level_count; i++)
        add_level(&plan->program, &half->levels[i], 2, 1);
    add_mid(&plan->program, half);
    vae_program_norm_conv(&plan->program, &half->norm_out, &half->conv_out);
    if (!TENSOR_ALLOC(&plan->moments, scratch, half->ops->activation_dtype, "VAE moments", err,
                      batch, height, width, 2 * half->latent_channels) ||
        !vae_program_place(&plan->program, scratch, err)) {
        vae_encode_plan_destroy(plan);
        return false;
    }
    *out = plan;
    return true;
}

void vae_encode_plan_destroy(struct vae_encode_plan *plan)
{
    free(plan);
}

void vae_encode(struct vae_encode_plan *plan, struct stream *stream, struct tensor *moments,
                const struct tensor *rgb)
{
    struct tensor view = channels_last(moments);

    vae_program_run(&plan->program, stream, &plan->moments, rgb);
    plan->encoder->half.ops->copy(stream, &view, &plan->moments);
}

void vae_sample(const struct vae_encoder *encoder, float *latent, const float *moments,
                const float *noise, int64_t height, int64_t width)
{
    const struct vae_half *half = &encoder->half;
    int64_t count = half->latent_channels * height * width;

    for (int64_t i = 0; i < count; i++) {
        double z = (double)moments[i];

        if (noise) {
            double logvar = fmin(fmax((double)moments[count + i], -30.0), 20.0);

            z += exp(logvar / 2.0) * (double)noise[i];
        }
        latent[i] = (float)((z - half->shift) * half->scale);
    }
}
