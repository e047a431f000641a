/* Whole pipelines on small random models: what must hold whatever the weights are. */
#include "support/support.h"
#include "support/test_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "pipeline/pipeline_private.h"

#define SIDE 64

/* --- Models --- */

static const char *write_model(const char *name, enum random_model_layout layout, enum dtype dtype)
{
    struct random_model_options options = test_model_options();

    options.layout = layout;
    options.dtype = dtype;
    return test_model_write(name, &options);
}

/* Written once, used by most tests. */
static const char *model;

static int write_shared_model(void **state)
{
    (void)state;
    model = test_model();
    return 0;
}

static struct pipeline *open_pipeline(const struct pipeline_options *options)
{
    struct pipeline *pipeline;
    struct error err;

    if (!pipeline_create(&pipeline, options, &err))
        fail_msg("%s", err.message);
    return pipeline;
}

static struct pipeline_request small_request(const struct pipeline *pipeline)
{
    struct pipeline_request request;

    pipeline_request_defaults(pipeline, &request);
    request.prompt = "two red apples on a blue background";
    request.negative_prompt = "blurry";
    request.width = request.height = SIDE;
    request.steps = 3;
    request.seed = 11;
    request.t5_tokens = 77;
    return request;
}

static struct pipeline_result run(struct pipeline *pipeline, const struct pipeline_request *request)
{
    struct pipeline_result result;
    struct error err;

    if (!pipeline_run(pipeline, request, NULL, &result, &err))
        fail_msg("%s", err.message);
    return result;
}

static size_t latent_floats(const struct pipeline_request *request)
{
    return (size_t)(16 * (request->height / 8) * (request->width / 8));
}

static void expect_same_picture(const struct pipeline_result *a, int i,
                                const struct pipeline_result *b, int j, size_t floats)
{
    const struct image *x = &a->images[i], *y = &b->images[j];

    assert_int_equal(x->width, y->width);
    assert_int_equal(x->height, y->height);
    assert_memory_equal(a->latents + (size_t)i * floats, b->latents + (size_t)j * floats,
                        floats * sizeof(float));
    assert_memory_equal(x->pixels, y->pixels, (size_t)(x->width * x->height * 3));
}

/* --- Same request, same bytes --- */

static void a_picture_of_a_batch_equals_the_single_one(void **state)
{
    (void)state;
    for (int at_once = 1; at_once <= 3; at_once++) {
        struct pipeline *pipeline =
            open_pipeline(&(struct pipeline_options){.model = model, .images_at_once = at_once});
        struct pipeline_request request = small_request(pipeline);
        struct pipeline_result batch, single;

        request.skip_layers[0] = 1;
        request.skip_layer_count = 1;
        request.skip_layer_stop = 1.0;
        request.image_count = 3; /* with 2 at once the last group is smaller */
        batch = run(pipeline, &request);
        request.image_count = 1;
        for (int i = 0; i < 3; i++, request.seed++) {
            single = run(pipeline, &request);
            assert_int_equal(batch.seeds[i], request.seed);
            expect_same_picture(&batch, i, &single, 0, latent_floats(&request));
            pipeline_result_finish(&single);
        }
        pipeline_result_finish(&batch);
        pipeline_destroy(pipeline);
    }
}

/* One request under every one of the options: the same bytes. */
static void expect_same_under(const struct pipeline_options *options, size_t count)
{
    struct pipeline_result first = {0};

    for (size_t i = 0; i < count; i++) {
        struct pipeline *pipeline = open_pipeline(&options[i]);
        struct pipeline_request request = small_request(pipeline);
        struct pipeline_result result = run(pipeline, &request);

        if (i == 0) {
            first = result;
        } else {
            expect_same_picture(&first, 0, &result, 0, latent_floats(&request));
            pipeline_result_finish(&result);
        }
        pipeline_destroy(pipeline);
    }
    pipeline_result_finish(&first);
}

static void the_number_of_threads_does_not_change_a_picture(void **state)
{
    const struct pipeline_options options[] = {{.model = model, .threads = 1},
                                               {.model = model, .threads = 2},
                                               {.model = model, .threads = 3}};

    (void)state;
    expect_same_under(options, COUNT_OF(options));
}

static void bands_do_not_change_a_picture(void **state)
{
    const struct pipeline_options options[] = {{.model = model, .vae_band_rows = -1},
                                               {.model = model, .vae_band_rows = 1},
                                               {.model = model, .vae_band_rows = 7}};

    (void)state;
    expect_same_under(options, COUNT_OF(options));
}

static void seeds_and_prompts_change_the_picture(void **state)
{
    struct pipeline *pipeline = open_pipeline(&(struct pipeline_options){.model = model});
    struct pipeline_request request = small_request(pipeline);
    size_t bytes = latent_floats(&request) * sizeof(float);
    struct pipeline_result first = run(pipeline, &request), other;

    (void)state;
    request.seed++;
    other = run(pipeline, &request);
    assert_memory_not_equal(first.latents, other.latents, bytes);
    pipeline_result_finish(&other);
    request.seed--;
    request.prompt_3 = "another text for T5";
    other = run(pipeline, &request);
    assert_memory_not_equal(first.latents, other.latents, bytes);
    pipeline_result_finish(&other);
    request.prompt_3 = NULL;
    request.negative_prompt = "sharp";
    other = run(pipeline, &request);
    assert_memory_not_equal(first.latents, other.latents, bytes);
    pipeline_result_finish(&other);
    request.noise_source = NOISE_TORCH_CUDA;
    other = run(pipeline, &request);
    assert_memory_not_equal(first.latents, other.latents, bytes);
    pipeline_result_finish(&other);
    pipeline_result_finish(&first);
    pipeline_destroy(pipeline);
}

/* --- Sources --- */

static double latent_difference(const struct pipeline_result *a, const struct pipeline_result *b,
                                size_t floats)
{
    double difference = 0.0, size = 0.0;

    for (size_t i = 0; i < floats; i++) {
        double d = (double)a->latents[i] - (double)b->latents[i];

        difference += d * d;
        size += (double)b->latents[i] * (double)b->latents[i];
    }
    return sqrt(difference / size);
}

static void every_layout_of_the_same_weights_draws_the_same_picture(void **state)
{
    char *tokenizers = file_join(test_path("layout-folder"), "");
    const char *folder = write_model("layout-folder", RANDOM_MODEL_DIFFUSERS, DTYPE_BF16);
    const char *single = write_model("layout.safetensors", RANDOM_MODEL_SINGLE, DTYPE_BF16);
    const char *fp8 = write_model("layout-fp8.safetensors", RANDOM_MODEL_COMFY_FP8, DTYPE_F8_E4M3);
    struct pipeline *pipeline = open_pipeline(&(struct pipeline_options){.model = folder});
    struct pipeline_request request = small_request(pipeline);
    struct pipeline_result first, other;
    double difference;

    (void)state;
    request.guidance_scale = 1.0; /* guidance would multiply the rounding of FP8 */
    first = run(pipeline, &request);
    pipeline_destroy(pipeline);
    pipeline = open_pipeline(&(struct pipeline_options){.model = single, .tokenizers = tokenizers});
    other = run(pipeline, &request);
    expect_same_picture(&first, 0, &other, 0, latent_floats(&request));
    pipeline_result_finish(&other);
    pipeline_destroy(pipeline);

    /* FP8 rounds weights by up to 1 part in 16, a few percent in the mean: near, but not equal. */
    pipeline = open_pipeline(&(struct pipeline_options){.model = fp8, .tokenizers = tokenizers});
    other = run(pipeline, &request);
    difference = latent_difference(&other, &first, latent_floats(&request));
    if (!(difference > 1e-4 && difference < 0.1))
        fail_msg("relative difference %g", difference);
    pipeline_result_finish(&other);
    pipeline_destroy(pipeline);
    pipeline_result_finish(&first);
    free(tokenizers);
}

static void the_t5_encoder_may_be_absent(void **state)
{
    struct pipeline *pipeline =
        open_pipeline(&(struct pipeline_options){.model = model, .without_t5 = true});
    struct pipeline_request request = small_request(pipeline);
    struct pipeline_result without = run(pipeline, &request), with;
    struct pipeline_info info;

    (void)state;
    pipeline_info(pipeline, &info);
    assert_false(info.has_t5);
    pipeline_destroy(pipeline);
    pipeline = open_pipeline(&(struct pipeline_options){.model = model});
    with = run(pipeline, &request);
    assert_memory_not_equal(with.latents, without.latents, latent_floats(&request) * sizeof(float));
    pipeline_result_finish(&with);
    pipeline_result_finish(&without);
    pipeline_destroy(pipeline);
}

/* The last two bytes of the transformer's file become NaN: they belong to some weight. */
static void damaged_weights_are_an_error_and_no_picture(void **state)
{
    const char *folder = write_model("damaged", RANDOM_MODEL_DIFFUSERS, DTYPE_F32);
    char *path = file_join(folder, "transformer/diffusion_pytorch_model.safetensors");
    FILE *file = fopen(path, "r+b");
    struct pipeline *pipeline;
    struct pipeline_request request;
    struct pipeline_result result;
    struct error err;

    (void)state;
    assert_non_null(file);
    assert_int_equal(fseek(file, -4, SEEK_END), 0);
    assert_int_equal(fwrite("\xff\xff\xff\xff", 1, 4, file), 4);
    fclose(file);
    pipeline = open_pipeline(&(struct pipeline_options){.model = folder});
    request = small_request(pipeline);
    assert_false(pipeline_run(pipeline, &request, NULL, &result, &err));
    assert_int_equal(err.code, ERROR_NOT_FINITE);
    assert_null(result.images);
    pipeline_destroy(pipeline);
    free(path);
}

/* --- Image to image --- */

static void picture_of(struct image *image, int side)
{
    struct error err;

    assert_true(image_init(image, side, side, &err));
    for (int i = 0; i < side * side; i++) {
        image->pixels[3 * i] = (unsigned char)(i % side * 255 / side);
        image->pixels[3 * i + 1] = (unsigned char)(i / side * 255 / side);
        image->pixels[3 * i + 2] = 90;
    }
}

static void what_the_mask_keeps_is_the_init_image(void **state)
{
    struct pipeline *pipeline = open_pipeline(&(struct pipeline_options){.model = model});
    struct pipeline_request request = small_request(pipeline);
    struct pipeline_result kept, half;
    struct image init, mask;
    size_t side = SIDE / 8, cells = side * side;
    int changed = 0;

    (void)state;
    picture_of(&init, 2 * SIDE); /* of another size: it is resized */
    assert_true(image_init(&mask, SIDE, SIDE, NULL));
    request.init_image = &init;
    request.mask = &mask;
    request.strength = 0.9;
    kept = run(pipeline, &request); /* an all-black mask keeps everything */
    for (int y = 0; y < SIDE; y++)
        memset(mask.pixels + 3 * (y * SIDE + SIDE / 2), 255, 3 * SIDE / 2);
    half = run(pipeline, &request); /* now the right half is painted anew */
    for (size_t c = 0; c < 16; c++)
        for (size_t i = 0; i < cells; i++) {
            float a = kept.latents[c * cells + i], b = half.latents[c * cells + i];

            if (i % side < side / 2)
                assert_true(fabsf(a - b) < 1e-6f);
            else
                changed += fabsf(a - b) > 1e-3f;
        }
    assert_true(changed > (int)(cells * 16 / 4));
    pipeline_result_finish(&kept);
    pipeline_result_finish(&half);
    image_finish(&init);
    image_finish(&mask);
    pipeline_destroy(pipeline);
}

static void strength_one_ignores_the_init_image(void **state)
{
    struct pipeline *pipeline = open_pipeline(&(struct pipeline_options){.model = model});
    struct pipeline_request request = small_request(pipeline);
    struct pipeline_result text = run(pipeline, &request), image;
    struct image init;

    (void)state;
    picture_of(&init, SIDE);
    request.init_image = &init;
    request.strength = 1.0;
    image = run(pipeline, &request);
    expect_same_picture(&text, 0, &image, 0, latent_floats(&request));
    pipeline_result_finish(&image);
    pipeline_result_finish(&text);
    image_finish(&init);
    pipeline_destroy(pipeline);
}

/* --- Progress and cancellation --- */

struct watch {
    atomic_bool cancel;
    int cancel_at;      /* denoising step after which to cancel; -1: never */
    int phases_seen[8]; /* reports in each phase */
    int last_step;
    struct pipeline_memory memory;
};

static void note_progress(void *context, const struct pipeline_progress *progress)
{
    struct watch *watch = context;

    watch->phases_seen[progress->phase]++;
    if (progress->phase != PHASE_DENOISE)
        return;
    watch->last_step = progress->step;
    if (progress->step == watch->cancel_at)
        atomic_store(&watch->cancel, true);
}

static void note_plan(void *context, const struct pipeline_memory *memory)
{
    struct watch *watch = context;

    assert_int_equal(watch->phases_seen[PHASE_ENCODE], 0);
    watch->memory = *memory;
}

static struct pipeline_callbacks callbacks_of(struct watch *watch)
{
    return (struct pipeline_callbacks){.planned = note_plan,
                                       .progress = note_progress,
                                       .context = watch,
                                       .cancel = &watch->cancel};
}

static void progress_is_told_by_phase_and_step_and_memory_before(void **state)
{
    struct pipeline *pipeline = open_pipeline(&(struct pipeline_options){.model = model});
    struct pipeline_request request = small_request(pipeline);
    struct watch watch = {.cancel_at = -1};
    struct pipeline_callbacks callbacks = callbacks_of(&watch);
    struct pipeline_memory estimate;
    struct pipeline_result result;
    struct error err;

    (void)state;
    assert_true(pipeline_estimate(pipeline, &request, &estimate, &err));
    assert_true(pipeline_run(pipeline, &request, &callbacks, &result, &err));
    assert_int_equal(watch.phases_seen[PHASE_ENCODE], 3);  /* the start and two prompts */
    assert_int_equal(watch.phases_seen[PHASE_DENOISE], 4); /* the start and three steps */
    assert_int_equal(watch.last_step, 3);
    assert_int_equal(watch.phases_seen[PHASE_DECODE], 2);
    assert_int_equal(watch.phases_seen[PHASE_DONE], 1);
    assert_int_equal(watch.memory.work_transformer, estimate.work_transformer);
    assert_true(watch.memory.weights_transformer > 0 && watch.memory.peak > watch.memory.base);
    pipeline_result_finish(&result);
    /* What a run leaves behind is not counted again. */
    assert_true(pipeline_estimate(pipeline, &request, &estimate, &err));
    assert_int_equal(watch.memory.peak, estimate.peak);
    pipeline_destroy(pipeline);
}

static void a_cancelled_run_ends_at_once_and_the_pipeline_goes_on(void **state)
{
    struct pipeline *pipeline = open_pipeline(&(struct pipeline_options){.model = model});
    struct pipeline_request request = small_request(pipeline);
    struct watch watch = {.cancel_at = 1};
    struct pipeline_callbacks callbacks = callbacks_of(&watch);
    struct pipeline_result before = run(pipeline, &request), result, after;
    struct error err;

    (void)state;
    assert_false(pipeline_run(pipeline, &request, &callbacks, &result, &err));
    assert_int_equal(err.code, ERROR_CANCELLED);
    assert_int_equal(watch.last_step, 1);
    assert_null(result.images);
    after = run(pipeline, &request);
    expect_same_picture(&before, 0, &after, 0, latent_floats(&request));
    pipeline_result_finish(&before);
    pipeline_result_finish(&after);
    pipeline_destroy(pipeline);
}

/* Cancels from inside a forward pass, after its first block. */
static void cancel_in_block(void *context, int block, const struct tensor *image,
                            const struct tensor *text)
{
    (void)image;
    (void)text;
    if (block == 0)
        atomic_store((atomic_bool *)context, true);
}

static void cancelling_takes_effect_within_a_block(void **state)
{
    struct pipeline *pipeline = open_pipeline(&(struct pipeline_options){.model = model});
    const struct backend_ops *ops = &pipeline->backend->ops;
    int64_t context_width = mmdit_shape(pipeline->mmdit)->context_width;
    int64_t pooled_width = mmdit_shape(pipeline->mmdit)->pooled_width;
    const struct mmdit_plan_options options = {.batch = 1,
                                               .height = 8,
                                               .width = 8,
                                               .context_tokens = 154,
                                               .row_count = 1,
                                               .rows_at_once = 1};
    struct mmdit_evaluation evaluation = {.rows = (int32_t[]){0}};
    size_t bytes = 64u << 20;
    void *memory = ops->memory_alloc(bytes);
    struct tensor latent, velocity, timesteps, pooled, context;
    atomic_bool cancel = false;
    struct mmdit_plan *plan;
    struct arena arena;
    struct error err;

    (void)state;
    assert_non_null(memory);
    arena_init(&arena, memory, bytes);
    assert_true(TENSOR_ALLOC(&latent, &arena, DTYPE_F32, "latent", &err, 1, 16, 8, 8));
    assert_true(TENSOR_ALLOC(&velocity, &arena, DTYPE_F32, "velocity", &err, 1, 16, 8, 8));
    assert_true(TENSOR_ALLOC(&timesteps, &arena, DTYPE_F32, "timesteps", &err, 1));
    assert_true(TENSOR_ALLOC(&pooled, &arena, DTYPE_F32, "pooled", &err, 1, pooled_width));
    assert_true(TENSOR_ALLOC(&context, &arena, DTYPE_F32, "context", &err, 1, 154, context_width));
    assert_true(mmdit_plan_create(&plan, pipeline->mmdit, &arena, &arena, &options, &err));
    ops->fill(pipeline->stream, &velocity, 123.0f);
    ops->fill(pipeline->stream, &latent, 0.5f);
    mmdit_modulate(plan, pipeline->stream, 0, &timesteps, &pooled);
    mmdit_set_context(plan, pipeline->stream, 0, &context);
    ops->stream_watch(pipeline->stream, &cancel);
    mmdit_observe(plan, cancel_in_block, &cancel);
    mmdit_run(plan, pipeline->stream, &velocity, &latent, &evaluation);
    assert_false(ops->stream_finish(pipeline->stream, &err));
    assert_int_equal(err.code, ERROR_CANCELLED);
    assert_true(((float *)velocity.data)[0] == 123.0f); /* nothing after the block ran */

    ops->stream_watch(pipeline->stream, NULL);
    mmdit_plan_destroy(plan);
    ops->memory_free(memory, bytes);
    pipeline_destroy(pipeline);
}

/* --- Bad requests --- */

static void break_width(struct pipeline_request *r)
{
    r->width = 17;
}
static void break_height(struct pipeline_request *r)
{
    r->height = -1;
}
static void break_size(struct pipeline_request *r)
{
    r->width = 0x7ffffff0;
}
static void break_zero(struct pipeline_request *r)
{
    r->height = 0;
}
static void break_steps(struct pipeline_request *r)
{
    r->steps = 0;
}
static void break_guidance(struct pipeline_request *r)
{
    r->guidance_scale = (double)NAN;
}
static void break_count(struct pipeline_request *r)
{
    r->image_count = 65;
}
static void break_shift(struct pipeline_request *r)
{
    r->flow_shift = 0.0;
}
static void break_tokens(struct pipeline_request *r)
{
    r->t5_tokens = 513;
}
static void break_prompt(struct pipeline_request *r)
{
    r->prompt = "caf\xe9";
}
static void break_surrogate(struct pipeline_request *r)
{
    r->negative_prompt = "\xed\xa0\x80";
}
static void break_skip(struct pipeline_request *r)
{
    r->skip_layer_count = 1;
    r->skip_layers[0] = 99;
}
static void break_mask(struct pipeline_request *r)
{
    static struct image mask;

    r->mask = &mask;
}

static void a_bad_request_is_refused_and_the_field_is_named(void **state)
{
    static const struct {
        void (*damage)(struct pipeline_request *request);
        const char *field;
    } cases[] = {
        {break_width, "width 17"},
        {break_height, "height -1"},
        {break_size, "width 2147483632"},
        {break_zero, "height 0"},
        {break_steps, "steps"},
        {break_guidance, "guidance_scale"},
        {break_count, "image_count"},
        {break_shift, "flow"},
        {break_tokens, "t5_tokens"},
        {break_prompt, "prompt: not UTF-8 at byte 3"},
        {break_surrogate, "negative_prompt: not UTF-8"},
        {break_skip, "skip_layers 99"},
        {break_mask, "mask"},
    };
    struct pipeline *pipeline = open_pipeline(&(struct pipeline_options){.model = model});

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct pipeline_request request = small_request(pipeline);
        struct pipeline_result result;
        struct error err;

        cases[i].damage(&request);
        assert_false(pipeline_run(pipeline, &request, NULL, &result, &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
        if (!strstr(err.message, cases[i].field))
            fail_msg("'%s' does not name '%s'", err.message, cases[i].field);
    }
    pipeline_destroy(pipeline);
}

static void a_prompt_of_a_mebibyte_is_refused_and_an_empty_one_drawn(void **state)
{
    struct pipeline *pipeline = open_pipeline(&(struct pipeline_options){.model = model});
    struct pipeline_request request = small_request(pipeline);
    char *text = malloc((1u << 20) + 1);
    struct pipeline_result result;
    struct error err;

    (void)state;
    assert_non_null(text);
    memset(text, 'a', 1u << 20);
    text[1u << 20] = '\0';
    request.prompt = text;
    assert_false(pipeline_run(pipeline, &request, NULL, &result, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    assert_non_null(strstr(err.message, "prompt: 1048576 bytes"));
    text[PIPELINE_PROMPT_BYTES_MAX] = '\0'; /* the longest that is allowed: cut to what fits */
    result = run(pipeline, &request);
    assert_true(result.t5_tokens_cut > 0);
    pipeline_result_finish(&result);
    request.prompt = "";
    result = run(pipeline, &request);
    assert_int_equal(result.t5_tokens_cut, 0);
    pipeline_result_finish(&result);
    free(text);
    pipeline_destroy(pipeline);
}

static void every_multiple_of_sixteen_up_to_the_limit_is_drawn(void **state)
{
    struct pipeline *pipeline = open_pipeline(&(struct pipeline_options){.model = model});
    struct pipeline_info info;

    (void)state;
    pipeline_info(pipeline, &info);
    for (int width = 16; width <= info.side_max; width += 16 * 5) {
        struct pipeline_request request = small_request(pipeline);
        struct pipeline_result result;

        request.width = width;
        request.height = 16;
        request.steps = 1;
        result = run(pipeline, &request);
        assert_int_equal(result.images[0].width, width);
        assert_int_equal(result.images[0].height, 16);
        pipeline_result_finish(&result);
    }
    pipeline_destroy(pipeline);
}

/* The random model says 128 cells, more than its position table reaches. */
static void the_default_size_is_the_trained_one_where_the_model_can_draw_it(void **state)
{
    static const struct {
        const char *sample_size;
        int side;
    } cases[] = {{"16", 128}, {"17", 128}, {"128", 384}, {"-3", 384}, {"1", 384}, {"4e9", 384}};

    (void)state;
    write_model("sizes", RANDOM_MODEL_DIFFUSERS, DTYPE_F16);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct pipeline_request request;
        struct pipeline *pipeline;
        char command[600];

        snprintf(command, sizeof command,
                 "sed -i 's/\"sample_size\": [^,]*,/\"sample_size\": %s,/' "
                 "'%s/transformer/config.json'",
                 cases[i].sample_size, test_path("sizes"));
        assert_int_equal(system(command), 0);
        pipeline = open_pipeline(&(struct pipeline_options){.model = test_path("sizes")});
        pipeline_request_defaults(pipeline, &request);
        assert_int_equal(request.width, cases[i].side);
        assert_int_equal(request.height, cases[i].side);
        assert_int_equal(request.t5_tokens, 256); /* its tokenizer takes 512 */
        pipeline_destroy(pipeline);
    }
}

static void a_model_without_a_text_encoder_is_refused_by_name(void **state)
{
    char command[600];
    struct pipeline *pipeline;
    struct error err;

    (void)state;
    write_model("headless", RANDOM_MODEL_DIFFUSERS, DTYPE_F16);
    snprintf(command, sizeof command, "rm -r '%s/text_encoder_2'", test_path("headless"));
    assert_int_equal(system(command), 0);
    assert_false(pipeline_create(&pipeline,
                                 &(struct pipeline_options){.model = test_path("headless")}, &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_non_null(strstr(err.message, "CLIP-G"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_picture_of_a_batch_equals_the_single_one),
        cmocka_unit_test(the_number_of_threads_does_not_change_a_picture),
        cmocka_unit_test(bands_do_not_change_a_picture),
        cmocka_unit_test(seeds_and_prompts_change_the_picture),
        cmocka_unit_test(every_layout_of_the_same_weights_draws_the_same_picture),
        cmocka_unit_test(the_t5_encoder_may_be_absent),
        cmocka_unit_test(damaged_weights_are_an_error_and_no_picture),
        cmocka_unit_test(what_the_mask_keeps_is_the_init_image),
        cmocka_unit_test(strength_one_ignores_the_init_image),
        cmocka_unit_test(progress_is_told_by_phase_and_step_and_memory_before),
        cmocka_unit_test(a_cancelled_run_ends_at_once_and_the_pipeline_goes_on),
        cmocka_unit_test(cancelling_takes_effect_within_a_block),
        cmocka_unit_test(a_bad_request_is_refused_and_the_field_is_named),
        cmocka_unit_test(a_prompt_of_a_mebibyte_is_refused_and_an_empty_one_drawn),
        cmocka_unit_test(every_multiple_of_sixteen_up_to_the_limit_is_drawn),
        cmocka_unit_test(the_default_size_is_the_trained_one_where_the_model_can_draw_it),
        cmocka_unit_test(a_model_without_a_text_encoder_is_refused_by_name),
    };

    return cmocka_run_group_tests(tests, write_shared_model, NULL);
}
