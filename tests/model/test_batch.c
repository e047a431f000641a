/* Batches: pictures that join and leave between steps, each as if it were alone. */
#include "support/support.h"
#include "support/test_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/pipeline_private.h"

#define SIDE 64
#define FLOATS (16 * (SIDE / 8) * (SIDE / 8))

static const char *model;

static int write_model(void **state)
{
    (void)state;
    model = test_model();
    return 0;
}

static struct pipeline *open_pipeline(int prompts_kept)
{
    const struct pipeline_options options = {
        .model = model, .device = "cpu", .memory = MEMORY_ALL, .prompts_kept = prompts_kept};
    struct pipeline *pipeline;
    struct error err;

    if (!pipeline_create(&pipeline, &options, &err))
        fail_msg("%s", err.message);
    return pipeline;
}

static struct pipeline_request request_of(const struct pipeline *pipeline, const char *prompt,
                                          int steps, uint64_t seed)
{
    struct pipeline_request request;

    pipeline_request_defaults(pipeline, &request);
    request.prompt = prompt;
    request.negative_prompt = "blurry";
    request.width = request.height = SIDE;
    request.steps = steps;
    request.seed = seed;
    request.t5_tokens = 77;
    return request;
}

/* A picture of a request on its way through a batch. */
struct drawn {
    struct pipeline_request request;
    struct pipeline_job *job;
    int place; /* -1: not in the batch */
    float latent[FLOATS];
    struct image image;
};

static void join(struct pipeline_batch *batch, struct drawn *drawn)
{
    struct error err;

    if (!pipeline_job_create(&drawn->job, batch, &drawn->request, NULL, &err) ||
        !pipeline_batch_join(batch, drawn->job, 0, &drawn->place, &err))
        fail_msg("%s", err.message);
}

static void leave(struct pipeline_batch *batch, struct drawn *drawn)
{
    pipeline_batch_leave(batch, drawn->place);
    drawn->place = -1;
    pipeline_job_destroy(drawn->job);
}

/* One step, after which those that are done are decoded and leave. */
static void step(struct pipeline_batch *batch, struct drawn *drawn, int count)
{
    struct error err;

    if (!pipeline_batch_step(batch, &err))
        fail_msg("%s", err.message);
    for (int i = 0; i < count; i++) {
        struct drawn *d = &drawn[i];

        if (d->place < 0 || !pipeline_batch_is_done(batch, d->place))
            continue;
        if (!pipeline_batch_latent(batch, d->place, d->latent, &err) ||
            !pipeline_batch_decode(batch, d->job, d->latent, &d->image, &err))
            fail_msg("%s", err.message);
        leave(batch, d);
    }
}

static void expect_as_alone(struct drawn *drawn)
{
    struct pipeline *pipeline = open_pipeline(0);
    struct pipeline_result alone;
    struct error err;

    if (!pipeline_run(pipeline, &drawn->request, NULL, &alone, &err))
        fail_msg("%s", err.message);
    assert_memory_equal(drawn->latent, alone.latents, sizeof drawn->latent);
    assert_memory_equal(drawn->image.pixels, alone.images[0].pixels, 3 * SIDE * SIDE);
    pipeline_result_finish(&alone);
    pipeline_destroy(pipeline);
    image_finish(&drawn->image);
}

/* Different prompts, steps (more than a window of modulation), guidance, seeds; one with layers
 * skipped; they come and go at different steps, and one goes before it is done. */
static void pictures_join_and_leave_and_do_not_notice(void **state)
{
    struct pipeline *pipeline = open_pipeline(4);
    struct drawn drawn[] = {
        {.request = request_of(pipeline, "a red apple", 4, 1)},
        {.request = request_of(pipeline, "two green pears", WINDOW_STEPS + 3, 2)},
        {.request = request_of(pipeline, "a blue bird", 6, 3)},
        {.request = request_of(pipeline, "a red apple", 5, 4)},
    };
    struct pipeline_batch *batch;
    struct error err;

    (void)state;
    drawn[1].request.guidance_scale = 7.5;
    drawn[3].request.skip_layers[0] = 1;
    drawn[3].request.skip_layer_count = 1;
    drawn[3].request.skip_layer_start = 0.0;
    drawn[3].request.skip_layer_stop = 1.0;
    for (size_t i = 0; i < COUNT_OF(drawn); i++)
        drawn[i].place = -1;
    assert_true(pipeline_batch_open(&batch, pipeline, &drawn[0].request, 3, &err));
    join(batch, &drawn[0]);
    step(batch, drawn, 4);
    join(batch, &drawn[1]);
    join(batch, &drawn[2]);
    assert_int_equal(pipeline_batch_free_places(batch), 0);
    step(batch, drawn, 4);
    assert_int_equal(pipeline_batch_steps_done(batch, drawn[1].place), 1);
    step(batch, drawn, 4);
    step(batch, drawn, 4);
    assert_int_equal(drawn[0].place, -1); /* done */
    leave(batch, &drawn[2]);              /* half-way */
    assert_int_equal(pipeline_batch_free_places(batch), 2);
    join(batch, &drawn[3]);
    for (int i = 0; i < WINDOW_STEPS; i++)
        step(batch, drawn, 4);
    assert_int_equal(pipeline_batch_free_places(batch), 3);
    expect_as_alone(&drawn[0]);
    expect_as_alone(&drawn[1]);
    expect_as_alone(&drawn[3]);
    pipeline_destroy(pipeline);
}

static void paint(struct image *image)
{
    assert_true(image_init(image, SIDE, SIDE, NULL));
    for (int i = 0; i < 3 * SIDE * SIDE; i++)
        image->pixels[i] = (unsigned char)(i * 7);
}

static void image_to_image_joins_text_to_image(void **state)
{
    struct pipeline *pipeline = open_pipeline(4);
    struct drawn drawn[] = {
        {.request = request_of(pipeline, "a red apple", 5, 1)},
        {.request = request_of(pipeline, "two green pears", 8, 2)},
    };
    struct pipeline_batch *batch;
    struct image init, mask;
    struct error err;

    (void)state;
    paint(&init);
    assert_true(image_init(&mask, SIDE, SIDE, NULL));
    memset(mask.pixels, 255, 3 * SIDE * SIDE / 2);
    drawn[1].request.init_image = &init;
    drawn[1].request.mask = &mask;
    drawn[1].request.strength = 0.5;
    assert_true(pipeline_batch_open(&batch, pipeline, &drawn[0].request, 2, &err));
    assert_true(pipeline_batch_fits(batch, &drawn[1].request));
    drawn[1].place = -1;
    join(batch, &drawn[0]);
    step(batch, drawn, 2);
    join(batch, &drawn[1]);
    assert_int_equal(pipeline_job_step_count(drawn[1].job), 4);
    for (int i = 0; i < 4; i++)
        step(batch, drawn, 2);
    assert_int_equal(pipeline_batch_free_places(batch), 2);
    expect_as_alone(&drawn[0]);
    expect_as_alone(&drawn[1]);
    image_finish(&init);
    image_finish(&mask);
    pipeline_destroy(pipeline);
}

static void a_picture_that_breaks_is_an_error_of_its_own(void **state)
{
    struct pipeline *pipeline = open_pipeline(0);
    struct drawn good = {.request = request_of(pipeline, "a red apple", 3, 1)};
    struct drawn bad = {.request = request_of(pipeline, "a red apple", 3, 2)};
    float *noise = calloc(FLOATS, sizeof *noise);
    struct pipeline_batch *batch;
    struct error err;

    (void)state;
    assert_non_null(noise);
    noise[FLOATS / 2] = NAN;
    bad.request.initial_noise = noise;
    assert_true(pipeline_batch_open(&batch, pipeline, &good.request, 2, &err));
    join(batch, &bad);
    join(batch, &good);
    for (int i = 0; i < 3; i++)
        step(batch, &good, 1);
    assert_true(pipeline_batch_is_done(batch, bad.place));
    assert_false(pipeline_batch_latent(batch, bad.place, bad.latent, &err));
    assert_int_equal(err.code, ERROR_NOT_FINITE);
    leave(batch, &bad);
    expect_as_alone(&good);
    free(noise);
    pipeline_destroy(pipeline);
}

/* --- Previews --- */

/* What the picture at `place` looks like, given its latent before and after the step. */
static void expect_preview(struct pipeline_batch *batch, int place, const float *before,
                           const float *after)
{
    const struct latent_colours *colours = &batch->pipeline->colours;
    const struct sample *sample = &batch->samples[place];
    const float *sigma = &sample->job->schedule->sigma[sample->step - 1];
    struct image preview;
    struct error err;

    if (!pipeline_batch_preview(batch, place, &preview, &err))
        fail_msg("%s", err.message);
    assert_int_equal(preview.width, SIDE / 8);
    assert_int_equal(preview.height, SIDE / 8);
    for (size_t i = 0; i < FLOATS / 16; i++)
        for (size_t colour = 0; colour < 3; colour++) {
            double value = colours->bias[colour], byte;

            for (size_t at = i, c = 0; c < 16; c++, at += FLOATS / 16) {
                double velocity = (after[at] - before[at]) / (sigma[1] - sigma[0]);

                value += (after[at] - sigma[1] * velocity) * colours->factors[c][colour];
            }
            byte = fmin(fmax((value + 1) * 127.5, 0), 255);
            assert_true(fabs(preview.pixels[3 * i + colour] - byte) < 1);
        }
    image_finish(&preview);
}

static void a_preview_is_the_picture_without_its_noise(void **state)
{
    struct pipeline *pipeline = open_pipeline(0);
    struct drawn quick = {.request = request_of(pipeline, "a red apple", 1, 1)};
    struct drawn slow = {.request = request_of(pipeline, "a blue house", 3, 2)};
    static float latents[3][FLOATS];
    struct pipeline_batch *batch;
    struct error err;

    (void)state;
    assert_true(pipeline_batch_open(&batch, pipeline, &quick.request, 2, &err));
    join(batch, &quick);
    join(batch, &slow);
    assert_true(pipeline_batch_latent(batch, slow.place, latents[0], &err));
    step(batch, &quick, 1); /* is done, and the other picture moves in the network's batch */
    assert_true(pipeline_batch_latent(batch, slow.place, latents[1], &err));
    expect_preview(batch, slow.place, latents[0], latents[1]);
    assert_true(pipeline_batch_step(batch, &err));
    assert_true(pipeline_batch_latent(batch, slow.place, latents[2], &err));
    expect_preview(batch, slow.place, latents[1], latents[2]);
    leave(batch, &slow);
    image_finish(&quick.image);
    pipeline_destroy(pipeline);
}

static void a_vae_says_how_its_latents_look(void **state)
{
    json_t *factors = json_array(), *config;
    struct latent_colours colours;

    (void)state;
    latent_colours_read(&colours, NULL);
    assert_float_equal(colours.factors[2][0], 0.1994, 1e-6); /* SD 3's */
    for (int c = 0; c < 16; c++)
        json_array_append_new(factors, json_pack("[f, f, i]", 0.5 * c, -1.5, 2));
    config = json_pack("{s:O, s:[f, f, f]}", "latent_rgb_factors", factors, "latent_rgb_bias", 0.25,
                       0.5, 0.75);
    latent_colours_read(&colours, config);
    assert_float_equal(colours.factors[15][0], 7.5, 0);
    assert_float_equal(colours.factors[15][2], 2, 0);
    assert_float_equal(colours.bias[1], 0.5, 0);
    json_array_set_new(factors, 9, json_string("none"));
    latent_colours_read(&colours, config);
    assert_float_equal(colours.factors[2][0], 0.1994, 1e-6);
    json_decref(config);
    json_decref(factors);
}

static void only_pictures_of_one_shape_fit(void **state)
{
    struct pipeline *pipeline = open_pipeline(0);
    struct pipeline_request like = request_of(pipeline, "a red apple", 3, 1), other;
    struct pipeline_batch *batch, *again;
    struct drawn first = {.request = like}, second = {.request = like};
    struct error err;
    int place;

    (void)state;
    assert_true(pipeline_batch_open(&batch, pipeline, &like, 1, &err));
    assert_true(pipeline_batch_open(&again, pipeline, &like, 1, &err));
    assert_ptr_equal(batch, again);
    other = like;
    other.width = 2 * SIDE;
    assert_false(pipeline_batch_fits(batch, &other));
    assert_false(pipeline_job_create(&second.job, batch, &other, NULL, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    other = like;
    other.guidance_scale = 1.0;
    assert_false(pipeline_batch_fits(batch, &other));
    other = like;
    other.t5_tokens = 100;
    assert_false(pipeline_batch_fits(batch, &other));
    other = like;
    other.steps = 50;
    other.guidance_scale = 3.0;
    assert_true(pipeline_batch_fits(batch, &other));

    join(batch, &first);
    assert_true(pipeline_job_create(&second.job, batch, &second.request, NULL, &err));
    assert_false(pipeline_batch_join(batch, second.job, 0, &place, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    leave(batch, &first);
    assert_false(pipeline_batch_join(batch, second.job, 1, &place, &err)); /* it has one picture */
    assert_int_equal(pipeline_batch_free_places(batch), 1);
    pipeline_job_destroy(second.job);
    assert_false(pipeline_batch_open(&again, pipeline, &like, 0, &err));
    assert_false(pipeline_batch_open(&again, pipeline, &like, PIPELINE_IMAGES_MAX + 1, &err));
    pipeline_destroy(pipeline);
}

static void kept_prompts_draw_the_same_picture(void **state)
{
    struct pipeline *keeps = open_pipeline(2);
    struct pipeline_request request = request_of(keeps, "a red apple", 2, 1);
    struct pipeline_result first, second;
    struct prompt_tokens tokens;
    struct embedding *embedding;
    struct error err;

    (void)state;
    assert_true(pipeline_run(keeps, &request, NULL, &first, &err));
    assert_true(prompt_tokenize(&tokens, keeps, (const char *const[]){"blurry", "blurry", "blurry"},
                                77, &err));
    embedding = prompt_store_find(keeps->prompts, &tokens);
    assert_non_null(embedding);
    embedding_release(embedding);
    assert_true(pipeline_run(keeps, &request, NULL, &second, &err));
    assert_memory_equal(first.latents, second.latents, FLOATS * sizeof(float));
    pipeline_result_finish(&second);
    /* Two others push "a red apple" and "blurry" out. */
    request.prompt = "a pear";
    request.negative_prompt = "ugly";
    assert_true(pipeline_run(keeps, &request, NULL, &second, &err));
    assert_null(prompt_store_find(keeps->prompts, &tokens));
    pipeline_result_finish(&first);
    pipeline_result_finish(&second);
    pipeline_destroy(keeps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_join_and_leave_and_do_not_notice),
        cmocka_unit_test(image_to_image_joins_text_to_image),
        cmocka_unit_test(a_picture_that_breaks_is_an_error_of_its_own),
        cmocka_unit_test(a_preview_is_the_picture_without_its_noise),
        cmocka_unit_test(a_vae_says_how_its_latents_look),
        cmocka_unit_test(only_pictures_of_one_shape_fit),
        cmocka_unit_test(kept_prompts_draw_the_same_picture),
    };

    return cmocka_run_group_tests(tests, write_model, NULL);
}
