/* Weights that are replaced in memory draw what a converted model draws. */
#include "support/support.h"
#include "support/test_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/measured_model.h"
#include "calibrate/picture_error.h"
#include "convert/convert.h"

#define SIDE 64

static struct convert_options options; /* of the test's model */

static int make_model(void **state)
{
    struct random_model_options random = test_model_options();

    (void)state;
    random.layers = random.dual_layers = 2;
    options = (struct convert_options){.model = test_model_write("model", &random),
                                       .format = DTYPE_F8_E4M3,
                                       .shard_bytes = CONVERT_SHARD_BYTES,
                                       .made_by = "test"};
    return 0;
}

static void open_model(struct measured_model *model)
{
    struct error err;

    if (!measured_model_open(model, &options, &err))
        fail_msg("%s", err.message);
}

static void quantise(struct measured_model *model, enum fp8_recipe recipe)
{
    struct error err;

    if (!measured_model_quantise(model, DTYPE_F8_E4M3, recipe, &err))
        fail_msg("%s", err.message);
}

static struct pipeline_request request_for(const struct pipeline *pipeline)
{
    struct pipeline_request request;

    pipeline_request_defaults(pipeline, &request);
    request.prompt = "a red cat";
    request.width = request.height = SIDE;
    request.steps = 2;
    request.seed = 7;
    return request;
}

static struct image draw(struct measured_model *model)
{
    struct pipeline_request request = request_for(model->pipeline);
    struct image image;
    struct error err;

    if (!measured_model_draw(model, &image, &request, NULL, NULL, &err))
        fail_msg("%s", err.message);
    return image;
}

static struct image draw_plainly(const char *path)
{
    const struct pipeline_options wanted = {.model = path, .device = "cpu"};
    struct pipeline_request request;
    struct pipeline_result result;
    struct pipeline *pipeline;
    struct image image;
    struct error err;

    if (!pipeline_create(&pipeline, &wanted, &err))
        fail_msg("%s", err.message);
    request = request_for(pipeline);
    if (!pipeline_run(pipeline, &request, NULL, &result, &err))
        fail_msg("%s", err.message);
    image = result.images[0];
    result.images[0] = (struct image){0};
    pipeline_result_finish(&result);
    pipeline_destroy(pipeline);
    return image;
}

static bool is_same(const struct image *a, const struct image *b)
{
    return memcmp(a->pixels, b->pixels, (size_t)SIDE * SIDE * 3) == 0;
}

/* Takes both pictures. */
static void expect_same(struct image a, struct image b, bool wanted)
{
    assert_int_equal(is_same(&a, &b), wanted);
    image_finish(&a);
    image_finish(&b);
}

static void a_tap_changes_nothing_by_itself(void **state)
{
    struct measured_model model;

    (void)state;
    open_model(&model);
    quantise(&model, FP8_ROWS);
    model.tap->is_recording = true;
    expect_same(draw(&model), draw_plainly(options.model), true);
    measured_model_use_all(&model, true);
    expect_same(draw(&model), draw_plainly(options.model), false);
    measured_model_use_all(&model, false);
    expect_same(draw(&model), draw_plainly(options.model), true);
    measured_model_close(&model);
}

/* Layers kept by the rule in 16 bits, all others in FP8, as a conversion decides. */
static void copies_draw_what_a_converted_model_draws(void **state)
{
    const struct convert_callbacks callbacks = {0};
    struct convert_options wanted = options;
    struct convert_summary summary;
    struct measured_model model;
    struct error err;

    (void)state;
    wanted.output = test_path("converted");
    if (!convert_model(&wanted, &callbacks, &summary, &err))
        fail_msg("%s", err.message);
    open_model(&model);
    quantise(&model, FP8_ROWS);
    for (size_t i = 0; i < model.plan->layer_count; i++)
        measured_model_use(&model, i, model.plan->layers[i].reason == NULL);
    expect_same(draw(&model), draw_plainly(wanted.output), true);
    measured_model_close(&model);
}

static void every_layer_of_the_networks_is_seen(void **state)
{
    struct measured_model model;
    struct image image;
    int attentions = 0;

    (void)state;
    open_model(&model);
    model.tap->is_recording = true;
    image = draw(&model);
    for (size_t i = 0; i < model.tap->count; i++) {
        const struct tapped_layer *layer = &model.tap->layers[i];
        struct activation_summary seen;

        if (strncmp(layer->layer->name, "vae.", strlen("vae.")) == 0)
            continue;
        if (layer->rows_seen == 0)
            fail_msg("'%s' was not seen", layer->layer->name);
        assert_true(layer_tap_summarise(&seen, layer, NULL));
        assert_true(seen.largest >= seen.median && seen.median >= seen.least);
        assert_true(isfinite(seen.largest) && seen.largest > 0.0f);
        attentions += layer->keys_seen > 0;
        assert_int_equal(layer->keys_seen > 0, layer->key_sum != NULL);
    }
    assert_int_equal(attentions, 2 * 2); /* one of both sides and one of the image, each block */
    image_finish(&image);
    measured_model_close(&model);
}

/* The keys of the last layers are what is normed to a length of about 8. */
static void means_of_keys_are_no_longer_than_keys(void **state)
{
    const struct tapped_layer *v;
    struct measured_model model;
    struct image image;
    double largest = 0.0;

    (void)state;
    open_model(&model);
    model.tap->is_recording = true;
    image = draw(&model);
    v = layer_tap_find(model.tap, "transformer.block.1.image.v");
    assert_non_null(v);
    assert_int_equal(v->key_heads, 2);
    for (int n = 0; n < 2; n++) {
        double length = 0.0;

        for (int d = 0; d < 64; d++) {
            double mean = v->key_sum[n * 64 + d] / (double)v->keys_seen;

            length += mean * mean;
        }
        largest = fmax(largest, length);
    }
    assert_true(largest > 0.0 && largest < 64.0 * 16);
    image_finish(&image);
    measured_model_close(&model);
}

static void latents_are_those_of_every_step(void **state)
{
    const size_t size = 16 * (SIDE / 8) * (SIDE / 8);
    float *latents = calloc(3 * size, sizeof *latents);
    struct pipeline_request request;
    struct measured_model model;
    struct image image;
    struct error err;

    (void)state;
    assert_non_null(latents);
    open_model(&model);
    request = request_for(model.pipeline);
    model.tap->latents = latents;
    model.tap->latent_size = size;
    model.tap->latent_room = request.steps;
    if (!measured_model_draw(&model, &image, &request, latents + 2 * size, NULL, &err))
        fail_msg("%s", err.message);
    assert_int_equal(model.tap->latent_count, 2);
    assert_memory_not_equal(latents, latents + size, size * sizeof *latents);
    assert_memory_not_equal(latents + size, latents + 2 * size, size * sizeof *latents);
    image_finish(&image);
    measured_model_close(&model);
    free(latents);
}

static void rounded_activations_show_but_little(void **state)
{
    struct image exact, weights, both;
    struct picture_error of_weights, of_both;
    struct measured_model model;

    (void)state;
    open_model(&model);
    quantise(&model, FP8_ROWS);
    exact = draw(&model);
    measured_model_use_all(&model, true);
    weights = draw(&model);
    measured_model_round_activations(&model, true);
    both = draw(&model);
    assert_false(is_same(&weights, &both));
    assert_true(picture_error_measure(&of_weights, &exact, &weights, NULL));
    assert_true(picture_error_measure(&of_both, &exact, &both, NULL));
    print_message("SSIM: weights %.4f, activations too %.4f\n", of_weights.ssim, of_both.ssim);
    assert_true(of_both.ssim > 0.5);
    image_finish(&exact);
    image_finish(&weights);
    image_finish(&both);
    measured_model_close(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tap_changes_nothing_by_itself),
        cmocka_unit_test(copies_draw_what_a_converted_model_draws),
        cmocka_unit_test(every_layer_of_the_networks_is_seen),
        cmocka_unit_test(means_of_keys_are_no_longer_than_keys),
        cmocka_unit_test(latents_are_those_of_every_step),
        cmocka_unit_test(rounded_activations_show_but_little),
    };

    return cmocka_run_group_tests(tests, make_model, NULL);
}
