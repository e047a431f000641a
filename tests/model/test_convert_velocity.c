/* What converting a transformer does to the velocity that it predicts, on random weights. */
#include "support/support.h"
#include "support/test_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/arena.h"
#include "convert/convert.h"
#include "model/mmdit.h"
#include "weights/model_files.h"

#define TOKENS 20
#define SIDE 16 /* of the latent */

static struct random_model_options transformer(void)
{
    struct random_model_options options = test_model_options();

    options.with_encoders = false;
    options.dual_layers = 2;
    options.outlier_scale = 1e5f;
    return options;
}

static const char *write_model(const char *name, int outliers)
{
    struct random_model_options options = transformer();

    options.outliers = outliers;
    return test_model_write(name, &options);
}

/* The same weights, cast to FP8 without factors. */
static const char *write_plain_cast(const char *name)
{
    struct random_model_options options = transformer();

    options.layout = RANDOM_MODEL_SINGLE;
    options.dtype = DTYPE_F8_E4M3;
    return test_model_write(name, &options);
}

static const char *convert(const char *model, const char *name, enum convert_layout layout,
                           enum dtype format)
{
    const struct convert_callbacks callbacks = {0};
    const struct convert_options options = {.model = model,
                                            .output = test_path(name),
                                            .layout = layout,
                                            .format = format,
                                            .shard_bytes = CONVERT_SHARD_BYTES,
                                            .made_by = "test"};
    struct convert_summary summary;
    struct error err;

    if (!convert_model(&options, &callbacks, &summary, &err))
        fail_msg("%s", err.message);
    return options.output;
}

/* --- One forward --- */

static float next_value(uint64_t *state)
{
    float sum = 0.0f;

    for (int i = 0; i < 4; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(*state >> 40) / 16777216.0f - 0.5f;
    }
    return sum * 1.7f;
}

static struct tensor make_input(uint64_t seed, int rank, const int64_t *dim)
{
    struct tensor tensor = tensor_of(NULL, DTYPE_F32, rank, dim);
    float *values = calloc((size_t)tensor_count(&tensor), sizeof *values);

    assert_non_null(values);
    for (int64_t i = 0; i < tensor_count(&tensor); i++)
        values[i] = next_value(&seed);
    tensor.data = values;
    return tensor;
}

struct forward {
    struct backend *backend;
    struct stream *stream;
    struct model_files *files;
    struct mmdit *mmdit;
    struct mmdit_plan *plan;
    struct arena arena;
};

static void plan_forward(struct forward *f)
{
    const struct mmdit_plan_options options = {.batch = 1,
                                               .height = SIDE,
                                               .width = SIDE,
                                               .context_tokens = TOKENS,
                                               .row_count = 1,
                                               .rows_at_once = 1};
    struct arena counting;
    struct error err;

    arena_init(&counting, NULL, 0);
    if (!mmdit_plan_create(&f->plan, f->mmdit, &counting, &counting, &options, &err))
        fail_msg("%s", err.message);
    mmdit_plan_destroy(f->plan);
    arena_init(&f->arena, f->backend->ops.memory_alloc(counting.peak), counting.peak);
    assert_non_null(f->arena.base);
    if (!mmdit_plan_create(&f->plan, f->mmdit, &f->arena, &f->arena, &options, &err))
        fail_msg("%s", err.message);
}

static void open_forward(struct forward *f, const char *model)
{
    const struct model_paths paths = {.model = model};
    const struct backend_options device = {.device = "cpu"};
    const struct stream_options options = {.threads = 0};
    struct error err;

    if (!backend_open(&f->backend, &device, &err) ||
        !f->backend->ops.stream_create(&f->stream, &f->backend->ops, &options, &err) ||
        !model_files_open(&f->files, &paths, &err) ||
        !mmdit_create(&f->mmdit, f->files->component[COMPONENT_TRANSFORMER], &f->backend->ops,
                      &err))
        fail_msg("%s", err.message);
    plan_forward(f);
}

static void close_forward(struct forward *f)
{
    mmdit_plan_destroy(f->plan);
    f->backend->ops.memory_free(f->arena.base, f->arena.size);
    mmdit_destroy(f->mmdit);
    model_files_close(f->files);
    f->backend->ops.stream_destroy(f->stream);
    backend_close(f->backend);
}

/* The caller frees the values. */
static struct tensor velocity_of(const char *model)
{
    const struct mmdit_evaluation evaluation = {.rows = (int32_t[]){0}};
    struct forward f = {0};
    struct tensor latent = make_input(1, 4, (int64_t[]){1, 16, SIDE, SIDE});
    struct tensor velocity = make_input(2, 4, (int64_t[]){1, 16, SIDE, SIDE});
    struct tensor timestep = make_input(3, 1, (int64_t[]){1}), context, pooled;
    struct error err;

    open_forward(&f, model);
    context = make_input(4, 3, (int64_t[]){1, TOKENS, mmdit_shape(f.mmdit)->context_width});
    pooled = make_input(5, 2, (int64_t[]){1, mmdit_shape(f.mmdit)->pooled_width});
    *(float *)timestep.data = 700.0f;
    mmdit_modulate(f.plan, f.stream, 0, &timestep, &pooled);
    mmdit_set_context(f.plan, f.stream, 0, &context);
    mmdit_run(f.plan, f.stream, &velocity, &latent, &evaluation);
    if (!f.backend->ops.stream_finish(f.stream, &err))
        fail_msg("%s", err.message);
    close_forward(&f);
    free(latent.data);
    free(timestep.data);
    free(context.data);
    free(pooled.data);
    return velocity;
}

static double error_against(const struct tensor *want, const char *model)
{
    struct tensor got = velocity_of(model);
    const float *a = got.data, *b = want->data;
    double difference = 0.0, size = 0.0;

    for (int64_t i = 0; i < tensor_count(want); i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    free(got.data);
    return sqrt(difference / size);
}

/* --- Tests --- */

static void velocities_stay_within_3_percent(void **state)
{
    const char *model = write_model("plain", 0);
    struct tensor want = velocity_of(model);
    double row, tensor, e5m2, cast;

    (void)state;
    row = error_against(&want, convert(model, "plain-row", CONVERT_DIFFUSERS, DTYPE_F8_E4M3));
    tensor = error_against(
        &want, convert(model, "plain-tensor.safetensors", CONVERT_COMFYUI, DTYPE_F8_E4M3));
    e5m2 = error_against(&want, convert(model, "plain-e5m2", CONVERT_DIFFUSERS, DTYPE_F8_E5M2));
    cast = error_against(&want, write_plain_cast("plain-cast.safetensors"));
    print_message("velocity: a factor a row %.4f, a tensor %.4f, none %.4f; E5M2 %.4f\n", row,
                  tensor, cast, e5m2);
    free(want.data);
    assert_true(row <= 0.03);
    assert_true(row < tensor && row < e5m2 && row < cast);
}

static void factors_for_rows_halve_the_error_of_outliers(void **state)
{
    const char *model = write_model("outliers", 1);
    struct tensor want = velocity_of(model);
    double row, tensor;

    (void)state;
    row = error_against(&want, convert(model, "outliers-row", CONVERT_DIFFUSERS, DTYPE_F8_E4M3));
    tensor = error_against(
        &want, convert(model, "outliers-tensor.safetensors", CONVERT_COMFYUI, DTYPE_F8_E4M3));
    print_message("velocity with outliers: a factor a row %.4f, a tensor %.4f\n", row, tensor);
    free(want.data);
    assert_true(row <= 0.5 * tensor);
}

/* The same weights in every layout: FP8 codes and factors, and so the velocity. */
static void one_file_means_the_same_as_a_folder(void **state)
{
    const char *model = write_model("layouts", 0);
    struct tensor folder =
        velocity_of(convert(model, "layouts-folder", CONVERT_DIFFUSERS, DTYPE_F8_E4M3));

    (void)state;
    assert_true(error_against(&folder, convert(model, "layouts.safetensors", CONVERT_SINGLE,
                                               DTYPE_F8_E4M3)) == 0.0);
    free(folder.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(velocities_stay_within_3_percent),
        cmocka_unit_test(factors_for_rows_halve_the_error_of_outliers),
        cmocka_unit_test(one_file_means_the_same_as_a_folder),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
