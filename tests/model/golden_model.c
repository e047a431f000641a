/* Transformer, VAE, schedules, noise. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/fp8_copy.h"
#include "golden_check.h"

/* --- Transformer --- */

struct observed {
    struct check *check;
    const char *tag;
    const struct backend_ops *ops;
    int block_count;
};

static void observe_block(void *context, int block, const struct tensor *image,
                          const struct tensor *text)
{
    struct observed *observed = context;

    check_stage(observed->check, observed->check->limits.forward, image, "mmdit.%s.block%d.image",
                observed->tag, block);
    if (block < observed->block_count - 1)
        check_stage(observed->check, observed->check->limits.forward, text,
                    "mmdit.%s.block%d.context", observed->tag, block);
}

/* The prompt embeddings of prompts 0 and 1, as one batch, in f. */
static struct tensor pair_of(struct check *check, const char *name)
{
    struct tensor a = check_expected(check, "text.0.%s", name);
    struct tensor b = check_expected(check, "text.1.%s", name);
    int64_t dim[TENSOR_MAX_RANK] = {2};
    struct tensor both;

    memcpy(dim + 1, a.dim, (size_t)a.rank * sizeof *dim);
    both = check_zeros(check, DTYPE_F32, a.rank + 1, dim);
    memcpy(both.data, a.data, tensor_bytes(&a));
    memcpy((char *)both.data + tensor_bytes(&a), b.data, tensor_bytes(&b));
    return check_activation(check, &both);
}

/* The table below rounding_linear: the pipeline's, of a program that has one. */
static struct backend_ops exact_ops;

/* Layers with FP8 weights get FP8 activations, with a factor a row. */
static void rounding_linear(struct stream *stream, struct tensor *out, const struct tensor *x,
                            const struct linear *layer)
{
    int64_t rows = tensor_row_count(x), columns = x->dim[x->rank - 1];
    struct tensor rounded = *x;
    float *values = NULL;

    if (layer->weight.dtype == DTYPE_F8_E4M3) {
        values = malloc((size_t)(rows * columns) * sizeof *values);
        if (!values)
            exit(3);
        for (int64_t row = 0; row < rows; row++)
            fp8_round_row(values + row * columns,
                          (const float *)x->data + tensor_row_offset(x, row), columns);
        rounded = tensor_of(values, DTYPE_F32, x->rank, x->dim);
    }
    exact_ops.linear(stream, out, &rounded, layer);
    free(values);
}

/* From modulation on, whose activations are never rounded. Devices round them by themselves. */
static void round_activations(struct check *check, bool is_rounded)
{
    struct backend_ops *ops = &check->pipeline->backend->ops;

    if (!check->has_fp8_activations || check->pipeline->backend->plugin)
        return;
    if (is_rounded)
        exact_ops = *ops;
    ops->linear = is_rounded ? rounding_linear : exact_ops.linear;
}

static void check_forward(struct check *check, const char *tag)
{
    const struct pipeline *p = check->pipeline;
    struct tensor latent = check_expected(check, "mmdit.%s.latent", tag);
    struct tensor timestep = check_expected(check, "mmdit.%s.timestep", tag);
    struct tensor context = pair_of(check, "prompt_embeds");
    struct tensor pooled = pair_of(check, "pooled_prompt_embeds");
    struct tensor velocity = check_zeros(check, DTYPE_F32, latent.rank, latent.dim);
    struct observed observed = {check, tag, &p->backend->ops, mmdit_shape(p->mmdit)->block_count};
    struct mmdit_evaluation evaluation = {.rows = (int32_t[]){0, 1}};
    const struct mmdit_plan_options options = {.batch = 2,
                                               .height = latent.dim[2],
                                               .width = latent.dim[3],
                                               .context_tokens = context.dim[1],
                                               .row_count = 2,
                                               .rows_at_once = 2};
    struct mmdit_plan *plan = NULL;
    struct arena counting, arena;
    struct error err;

    arena_init(&counting, NULL, 0);
    if (!mmdit_plan_create(&plan, p->mmdit, &counting, &counting, &options, &err)) {
        check_broken(check, &err, "mmdit.%s", tag);
        return;
    }
    mmdit_plan_destroy(plan);
    arena = check_arena(check, counting.peak);
    if (!mmdit_plan_create(&plan, p->mmdit, &arena, &arena, &options, &err)) {
        check_broken(check, &err, "mmdit.%s", tag);
        return;
    }
    mmdit_modulate(plan, p->stream, 0, &timestep, &pooled);
    round_activations(check, true);
    mmdit_set_context(plan, p->stream, 0, &context);
    mmdit_observe(plan, check->is_fp8 ? NULL : observe_block, &observed);
    mmdit_run(plan, p->stream, &velocity, &latent, &evaluation);
    check_stage(check, check->limits.forward, &velocity, "mmdit.%s.velocity", tag);

    mmdit_observe(plan, NULL, NULL);
    evaluation.skips = (int[]){1, 2};
    evaluation.skip_count = 2;
    mmdit_run(plan, p->stream, &velocity, &latent, &evaluation);
    check_stage(check, check->limits.forward, &velocity, "mmdit.%s.velocity_skip_1_2", tag);
    round_activations(check, false);
    if (!p->backend->ops.stream_finish(p->stream, &err))
        check_broken(check, &err, "mmdit.%s", tag);
    mmdit_plan_destroy(plan);
    p->backend->ops.memory_free(arena.base, arena.size);
}

/* Every tag of "mmdit.TAG.latent", whichever they are. */
void check_transformer(struct check *check)
{
    for (size_t i = 0; i < safetensors_count(check->expected); i++) {
        const char *name = safetensors_entry_at(check->expected, i)->name;
        char tag[64];
        int end = 0;

        if (sscanf(name, "mmdit.%63[^.].latent%n", tag, &end) == 1 && end > 0 && !name[end])
            check_forward(check, tag);
    }
    if (!check->is_fp8 && safetensors_find(check->expected, "lora.velocity"))
        check_skip(check, "lora.velocity: adapters are not built yet");
    if (!check->is_fp8 && safetensors_find(check->expected, "controlnet.velocity"))
        check_skip(check, "controlnet.velocity: ControlNets are not built yet");
}

/* --- VAE --- */

/* Views: [1, 3, H, W] <-> [1, H, W, 3] */
static struct tensor channels_last(const struct tensor *x)
{
    return tensor_permute(x, (int[]){0, 2, 3, 1});
}

static struct tensor channels_first(const struct tensor *x)
{
    return tensor_permute(x, (int[]){0, 3, 1, 2});
}

/* The reference decodes the VAE's own latent; ours takes the sampler's and undoes shift and scale,
 * so they are put on first. */
static struct tensor model_space(struct check *check, const struct tensor *z)
{
    const struct weights *weights = check->pipeline->files->component[COMPONENT_VAE];
    double scale = weights_config_number(weights, "scaling_factor", 1.5305);
    double shift = weights_config_number(weights, "shift_factor", 0.0609);
    struct tensor latent = check_zeros(check, DTYPE_F32, z->rank, z->dim);

    for (int64_t i = 0; i < tensor_count(z); i++)
        ((float *)latent.data)[i] = (float)(((double)((float *)z->data)[i] - shift) * scale);
    return latent;
}

static void check_decode(struct check *check, int64_t band_rows)
{
    const struct pipeline *p = check->pipeline;
    struct tensor z = check_expected(check, "vae.decode.latent");
    struct tensor want = check_expected(check, "vae.decode.image");
    struct tensor latent, rgb, got;
    struct vae_decode_plan *plan;
    struct arena counting, arena;
    struct error err;

    if (!tensor_exists(&z))
        return;
    latent = model_space(check, &z);
    rgb = check_zeros(check, p->backend->ops.activation_dtype, 4,
                      (int64_t[]){z.dim[0], want.dim[2], want.dim[3], 3});
    arena_init(&counting, NULL, 0);
    if (!vae_decode_plan_create(&plan, p->vae_decoder, &counting, z.dim[0], z.dim[2], z.dim[3],
                                band_rows, &err)) {
        check_broken(check, &err, "vae.decode");
        return;
    }
    vae_decode_plan_destroy(plan);
    arena = check_arena(check, counting.peak);
    if (!vae_decode_plan_create(&plan, p->vae_decoder, &arena, z.dim[0], z.dim[2], z.dim[3],
                                band_rows, &err)) {
        check_broken(check, &err, "vae.decode");
        return;
    }
    vae_decode(plan, p->stream, &rgb, &latent);
    rgb = channels_first(&rgb);
    got = check_result(check, &rgb);
    check_report(check, relative_error(&got, &want), check->limits.vae,
                 "vae.decode.image, bands of %lld rows (0: whole)", (long long)band_rows);
    vae_decode_plan_destroy(plan);
    p->backend->ops.memory_free(arena.base, arena.size);
}

static void check_encode(struct check *check, int64_t band_rows)
{
    const struct pipeline *p = check->pipeline;
    struct tensor image = check_expected(check, "vae.encode.image");
    struct tensor mean = check_expected(check, "vae.encode.mean");
    struct tensor logvar = check_expected(check, "vae.encode.logvar");
    struct tensor rgb, moments, half;
    struct vae_encode_plan *plan;
    struct arena counting, arena;
    struct error err;

    if (!tensor_exists(&image) || !p->vae_encoder)
        return;
    rgb = channels_last(&image);
    rgb = check_activation(check, &rgb);
    moments =
        check_zeros(check, DTYPE_F32, 4, (int64_t[]){1, 2 * mean.dim[1], mean.dim[2], mean.dim[3]});
    arena_init(&counting, NULL, 0);
    if (!vae_encode_plan_create(&plan, p->vae_encoder, &counting, 1, mean.dim[2], mean.dim[3],
                                band_rows, &err)) {
        check_broken(check, &err, "vae.encode");
        return;
    }
    vae_encode_plan_destroy(plan);
    arena = check_arena(check, counting.peak);
    if (!vae_encode_plan_create(&plan, p->vae_encoder, &arena, 1, mean.dim[2], mean.dim[3],
                                band_rows, &err)) {
        check_broken(check, &err, "vae.encode");
        return;
    }
    vae_encode(plan, p->stream, &moments, &rgb);
    moments = check_result(check, &moments);
    half = tensor_slice(&moments, 1, 0, mean.dim[1]);
    check_report(check, relative_error(&half, &mean), check->limits.vae,
                 "vae.encode.mean, bands of %lld rows (0: whole)", (long long)band_rows);
    half = tensor_slice(&moments, 1, mean.dim[1], mean.dim[1]);
    check_report(check, relative_error(&half, &logvar), check->limits.vae,
                 "vae.encode.logvar, bands of %lld rows (0: whole)", (long long)band_rows);
    vae_encode_plan_destroy(plan);
    p->backend->ops.memory_free(arena.base, arena.size);
}

void check_vae(struct check *check)
{
    static const int64_t bands[] = {0, 5, 16};

    for (size_t i = 0; i < COUNT_OF(bands); i++) {
        check_decode(check, bands[i]);
        check_encode(check, bands[i]);
    }
}

/* --- Schedules --- */

static double largest_difference(const float *got, const struct tensor *want)
{
    double largest = 0.0;

    for (int64_t i = 0; i < tensor_count(want); i++) {
        double difference = fabs((double)got[i] - (double)((const float *)want->data)[i]);

        if (!(difference <= largest))
            largest = difference;
    }
    return largest;
}

void check_schedules(struct check *check)
{
    for (size_t i = 0; i < safetensors_count(check->expected); i++) {
        const char *name = safetensors_entry_at(check->expected, i)->name;
        struct sigma_schedule *schedule;
        struct tensor sigmas, timesteps;
        struct error err;
        int steps, end = 0;

        if (sscanf(name, "schedule.%d.sigmas%n", &steps, &end) != 1 || !end)
            continue;
        if (!sigma_schedule_create(&schedule, steps, check->pipeline->files->flow_shift, &err)) {
            check_broken(check, &err, "%s", name);
            continue;
        }
        sigmas = check_expected(check, "schedule.%d.sigmas", steps);
        timesteps = check_expected(check, "schedule.%d.timesteps", steps);
        check_report(check, largest_difference(schedule->sigma, &sigmas), 1e-6, "%s", name);
        for (int k = 0; k < steps && k < timesteps.dim[0]; k++)
            ((float *)timesteps.data)[k] /= 1000.0f;
        check_report(check, largest_difference(schedule->sigma, &timesteps), 1e-6,
                     "schedule.%d.timesteps / 1000", steps);
        sigma_schedule_destroy(schedule);
    }
}

/* --- Noise --- */

/* What one rounding to the stored type may differ by, next to x. */
static double rounding(enum safetensors_dtype dtype, double x)
{
    if (dtype == SAFETENSORS_F16)
        return fabs(x) * 0x1p-10;
    if (dtype == SAFETENSORS_BF16)
        return fabs(x) * 0x1p-7;
    return 0.0;
}

static double noise_difference(const float *got, const struct tensor *want,
                               enum safetensors_dtype dtype)
{
    double largest = 0.0;

    for (int64_t i = 0; i < tensor_count(want); i++) {
        double x = (double)((const float *)want->data)[i];
        double difference = fabs((double)got[i] - x) - rounding(dtype, x);

        if (!(difference <= largest))
            largest = difference;
    }
    return largest;
}

static void check_one_noise(struct check *check, const struct safetensors_entry *entry,
                            const char *generator, unsigned long long seed, bool is_big)
{
    struct tensor want = check_expected(check, "%s", entry->name);
    /* "big" keeps every 5th channel and every 16th row and column of [1, 16, 128, 128]. */
    size_t count = is_big ? 16 * 128 * 128 : (size_t)tensor_count(&want);
    float *noise = malloc(count * sizeof *noise);

    if (!noise)
        exit(4);
    if (strcmp(generator, "cpu") == 0) {
        struct mt19937 cpu;

        mt19937_seed(&cpu, seed);
        torch_cpu_normal(noise, count, &cpu);
    } else {
        struct philox cuda = {.seed = seed, .threads_max = TORCH_CUDA_THREADS_H100};

        torch_cuda_normal(noise, count, &cuda);
    }
    for (size_t i = 0; is_big && i < 4 * 8 * 8; i++)
        noise[i] = noise[i / 64 * 5 * 16384 + i / 8 % 8 * 16 * 128 + i % 8 * 16];
    check_report(check, noise_difference(noise, &want, entry->dtype), 2e-6, "%s", entry->name);
    free(noise);
}

void check_noise(struct check *check)
{
    for (size_t i = 0; i < safetensors_count(check->expected); i++) {
        const struct safetensors_entry *entry = safetensors_entry_at(check->expected, i);
        char generator[8], what[16];
        unsigned long long seed;

        if (sscanf(entry->name, "noise.%7[^.].%llu.%15s", generator, &seed, what) != 3)
            continue;
        /* What a seed means in 16 bits on the CPU changed between PyTorch's versions; noise is
         * always drawn in f32 here (model.md, section 7.11). */
        if (strcmp(generator, "cpu") == 0 && strstr(what, "f16"))
            check_skip(check, "%s: drawn in 16 bits", entry->name);
        else
            check_one_noise(check, entry, generator, seed, strcmp(what, "big") == 0);
    }
}
