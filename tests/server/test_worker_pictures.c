/* The worker and files: pictures of requests, masks, the texts in what it draws, enlarging. */
#include "support/pictures.h"
#include "support/png_alpha.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

#include "base/version.h"
#include "server/a1111_response.h"
#include "server/worker_front.h"

static struct job_image file_of(const struct image *picture)
{
    struct job_image file;

    assert_true(image_encode(&file.bytes, &file.size, picture, IMAGE_PNG, 90, NULL, NULL));
    return file;
}

static void pictures_of_requests_are_decoded_here(void **state)
{
    struct front *front = front_start(2);
    struct image init = test_soft_picture(SIDE, SIDE), mask = test_soft_picture(SIDE, SIDE);
    struct job_spec good = front_spec("a red apple", 4, 1), bad = good;

    (void)state;
    good.init_image = bad.init_image = file_of(&init);
    good.mask = file_of(&mask);
    bad.init_image.size /= 2; /* its header is whole */
    front_send_job(front, 0, &bad, false);
    front_send_job(front, 1, &good, false);
    front_listen_until_ended(front, 2);
    assert_true(front->outcome[0].has_failed);
    assert_int_equal(front->outcome[0].failed.failure, JOB_FAILURE_BAD_REQUEST);
    assert_non_null(strstr(front->outcome[0].failed.message, "init_image"));
    front_expect_as_alone(&front->outcome[1], &good, 0, &init, &mask);
    free(good.init_image.bytes);
    free(good.mask.bytes);
    image_finish(&init);
    image_finish(&mask);
    assert_int_equal(front_end(front), 0);
}

/* White all over; in its alpha the upper half is opaque. */
static struct job_image half_opaque(void)
{
    static unsigned char rows[SIDE * SIDE * 4];
    const struct test_png png = {.width = SIDE,
                                 .height = SIDE,
                                 .depth = 8,
                                 .colour = PNG_COLOR_TYPE_RGB_ALPHA,
                                 .rows = rows,
                                 .row_bytes = (size_t)SIDE * 4};
    struct job_image file;

    memset(rows, 255, sizeof rows);
    for (size_t i = sizeof rows / 2; i < sizeof rows; i += 4)
        rows[i + 3] = 0;
    file.bytes = test_write_png(&file.size, &png);
    return file;
}

/* One half of it is white. */
static struct image half_white(bool is_upper)
{
    struct image mask;
    size_t half = (size_t)SIDE * SIDE * 3 / 2;

    assert_true(image_init(&mask, SIDE, SIDE, NULL));
    memset(mask.pixels + (is_upper ? 0 : half), 255, half);
    return mask;
}

static void masks_say_what_is_repainted(void **state)
{
    static const struct {
        bool is_alpha, is_inverted, repaints_upper;
    } cases[] = {
        {false, false, true}, {false, true, false}, {true, false, false}, {true, true, true}};
    struct image halves[] = {half_white(false), half_white(true)};
    struct image init = test_soft_picture(SIDE, SIDE);
    struct job_image init_file = file_of(&init), grey = file_of(&halves[1]), alpha = half_opaque();
    struct front *front = front_start(4);
    struct job_spec spec = front_spec("a red apple", 4, 1);

    (void)state;
    spec.init_image = init_file;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        spec.mask = cases[i].is_alpha ? alpha : grey;
        spec.mask_is_alpha = cases[i].is_alpha;
        spec.mask_inverted = cases[i].is_inverted;
        front_send_job(front, i, &spec, false);
    }
    front_listen_until_ended(front, (int)COUNT_OF(cases));
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        front_expect_as_alone(&front->outcome[i], &spec, 0, &init,
                              &halves[cases[i].repaints_upper]);
    free(init_file.bytes);
    free(grey.bytes);
    free(alpha.bytes);
    image_finish(&halves[0]);
    image_finish(&halves[1]);
    image_finish(&init);
    assert_int_equal(front_end(front), 0);
}

static void a_mask_without_alpha_is_refused_where_it_needs_one(void **state)
{
    struct front *front = front_start(1);
    struct image picture = test_soft_picture(SIDE, SIDE);
    struct job_image file = file_of(&picture);
    struct job_spec spec = front_spec("a red apple", 4, 1);

    (void)state;
    spec.init_image = spec.mask = file;
    spec.mask_is_alpha = true;
    front_send_job(front, 0, &spec, false);
    front_listen_until_ended(front, 1);
    assert_true(front->outcome[0].has_failed);
    assert_int_equal(front->outcome[0].failed.failure, JOB_FAILURE_BAD_REQUEST);
    assert_string_equal(front->outcome[0].failed.message, "'mask' has no alpha channel");
    free(file.bytes);
    image_finish(&picture);
    assert_int_equal(front_end(front), 0);
}

/* --- What A1111's clients are told --- */

/* Of the answer that the front makes once the spec's pictures are gone. */
static void expect_infotexts(const struct front *front, const struct job_spec *spec,
                             const struct outcome *outcome)
{
    const uint64_t seeds[] = {spec->seed, spec->seed + 1};
    struct worker_facts facts = front->facts; /* the hash is the front's to know */
    const struct a1111_answer answer = {.spec = spec,
                                        .has_init_image = spec->init_image.bytes != NULL,
                                        .facts = &facts,
                                        .seeds = seeds,
                                        .picture_count = 2,
                                        .batch_size = 2,
                                        .ignored = "",
                                        .version = PROGRAM_NAME_AND_VERSION};
    json_t *text, *info;

    text = a1111_info(&answer);
    info = json_loads(json_string_value(text), 0, NULL);
    assert_non_null(info);
    for (size_t i = 0; i < COUNT_OF(seeds); i++) {
        const json_t *told = json_array_get(json_object_get(info, "infotexts"), i);
        char *infotext, *json;

        assert_true(image_metadata_read(&infotext, &json, outcome->bytes[i],
                                        (size_t)outcome->picture[i].file_bytes, NULL));
        assert_non_null(infotext);
        assert_string_equal(json_string_value(told), infotext);
        assert_non_null(json);
        free(infotext);
        free(json);
    }
    json_decref(info);
    json_decref(text);
}

static void infotexts_are_those_of_the_files(void **state)
{
    struct image init = test_soft_picture(SIDE, SIDE);
    struct job_image file = file_of(&init);
    struct front *front = front_start(2);
    struct job_spec plain = front_spec("a \xf0\x9f\x8d\x8e, red\nand \"round\"", 2, 41),
                    full = plain;

    (void)state;
    plain.count = full.count = 2;
    full.init_image = file;
    full.strength = 0.7;
    full.guidance = 1.1;
    full.skip_layers[0] = 1;
    full.skip_layer_count = 1;
    full.format = IMAGE_JPEG;
    front_send_job(front, 0, &plain, false);
    front_send_job(front, 1, &full, false);
    front_listen_until_ended(front, 2);
    for (int i = 0; i < 2; i++)
        if (!front->outcome[i].is_done)
            fail_msg("%s", front->outcome[i].failed.message);
    expect_infotexts(front, &plain, &front->outcome[0]);
    expect_infotexts(front, &full, &front->outcome[1]);
    free(file.bytes);
    image_finish(&init);
    assert_int_equal(front_end(front), 0);
}

/* Sends, and waits for the answer. */
static void upscale(struct front *front, const struct upscale_message *message)
{
    int before = front->upscaled_count;
    struct record_writer record = {0};

    upscale_message_write(&record, message);
    front_send_record(front, MESSAGE_UPSCALE, &record);
    while (front->upscaled_count == before)
        assert_true(front_listen(front));
    assert_int_equal(front->upscaled.ticket, message->ticket);
}

static void pictures_are_enlarged_with_their_texts(void **state)
{
    struct front *front = front_start(1);
    struct image image = test_soft_picture(40, 30), larger, wanted, back;
    const struct image_metadata texts = {.infotext = "a\nSteps: 1, Seed: 2, Size: 40x30"};
    struct upscale_message message = {7, 80, 60, 60, 60, false, {0}};
    char *infotext, *json;
    struct error err;

    (void)state;
    assert_true(
        image_encode(&message.file.bytes, &message.file.size, &image, IMAGE_PNG, 90, &texts, &err));
    upscale(front, &message);
    assert_non_null(front->upscaled_bytes);
    assert_true(image_decode(&back, front->upscaled_bytes, (size_t)front->upscaled.file_bytes,
                             &IMAGE_LIMITS_DEFAULT, "answer", &err));
    assert_true(image_resize(&larger, &image, 80, 60, &err));
    assert_true(image_crop(&wanted, &larger, 60, 60, &err));
    assert_int_equal(back.width, 60);
    assert_int_equal(back.height, 60);
    assert_memory_equal(back.pixels, wanted.pixels, 60 * 60 * 3);
    assert_true(image_metadata_read(&infotext, &json, front->upscaled_bytes,
                                    (size_t)front->upscaled.file_bytes, &err));
    assert_string_equal(infotext, texts.infotext);
    free(infotext);
    free(json);
    free(front->upscaled_bytes);
    front->upscaled_bytes = NULL;
    message.file.size -= 20;
    upscale(front, &message);
    assert_null(front->upscaled_bytes);
    assert_non_null(strstr(front->upscaled.message, "image"));
    free(message.file.bytes);
    image_finish(&image);
    image_finish(&larger);
    image_finish(&wanted);
    image_finish(&back);
    assert_int_equal(front_end(front), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_of_requests_are_decoded_here),
        cmocka_unit_test(masks_say_what_is_repainted),
        cmocka_unit_test(a_mask_without_alpha_is_refused_where_it_needs_one),
        cmocka_unit_test(infotexts_are_those_of_the_files),
        cmocka_unit_test(pictures_are_enlarged_with_their_texts),
    };

    return cmocka_run_group_tests(tests, front_setup, NULL);
}
