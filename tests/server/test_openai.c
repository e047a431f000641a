/* OpenAI's Images API: requests to specs, jobs to answers. */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/openai_request.h"
#include "server/openai_response.h"

int hub_open_file(struct hub *hub, const char *path)
{
    (void)hub;
    (void)path;
    return -1;
}

static const struct worker_facts facts = {.model = "sd3.5_medium",
                                          .variant = "SD3.5 Medium",
                                          .side_max = 2048,
                                          .max_batch = 2,
                                          .has_t5 = true,
                                          .width = 1024,
                                          .height = 1024,
                                          .steps = 30,
                                          .t5_tokens = 256,
                                          .guidance = 4.5,
                                          .flow_shift = 3};

static struct openai_request read_good(const char *text)
{
    json_t *body = json_loads(text, 0, NULL);
    struct openai_problem problem;
    struct openai_request request;

    assert_non_null(body);
    if (!openai_request_read(&request, body, false, &facts, &problem))
        fail_msg("%s: %s", text, problem.message);
    json_decref(body);
    return request;
}

static json_int_t integer_of(const struct openai_request *request, const char *name)
{
    const json_t *value = json_object_get(request->spec, name);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static void expect_bad(const char *text, int status, const char *code, const char *param)
{
    json_t *body = json_loads(text, 0, NULL);
    struct openai_problem problem;
    struct openai_request request;

    assert_non_null(body);
    if (openai_request_read(&request, body, false, &facts, &problem))
        fail_msg("%s is taken", text);
    assert_int_equal(problem.status, status);
    assert_string_equal(problem.code, code);
    assert_string_equal(problem.param, param);
    json_decref(body);
}

static void what_is_left_out_gets_the_models_defaults(void **state)
{
    struct openai_request request = read_good("{\"prompt\": \"a cat\"}");

    (void)state;
    assert_int_equal(integer_of(&request, "width"), 1024);
    assert_int_equal(integer_of(&request, "height"), 1024);
    assert_int_equal(integer_of(&request, "steps"), 30);
    assert_int_equal(integer_of(&request, "count"), 1);
    assert_string_equal(json_string_value(json_object_get(request.spec, "format")), "png");
    assert_null(json_object_get(request.spec, "quality"));
    assert_false(request.wants_url || request.is_stream);
    assert_string_equal(request.ignored.names, "");
    openai_request_finish(&request);
}

static void every_field_arrives_in_the_spec(void **state)
{
    struct openai_request request = read_good(
        "{\"prompt\": \"a cat\", \"model\": \"gpt-image-1\", \"n\": 3, \"size\": \"512x768\", "
        "\"quality\": \"high\", \"response_format\": \"url\", \"output_format\": \"jpeg\", "
        "\"output_compression\": 0, \"background\": \"opaque\", \"negative_prompt\": \"dog\", "
        "\"seed\": 7, \"cfg_scale\": 5.5, \"user\": \"u\", \"st\\nyle\": \"vivid\"}");

    (void)state;
    assert_int_equal(integer_of(&request, "width"), 512);
    assert_int_equal(integer_of(&request, "height"), 768);
    assert_int_equal(integer_of(&request, "count"), 3);
    assert_int_equal(integer_of(&request, "steps"), 40);
    assert_int_equal(integer_of(&request, "quality"), 1);
    assert_int_equal(integer_of(&request, "seed"), 7);
    assert_true(json_real_value(json_object_get(request.spec, "guidance_scale")) == 5.5);
    assert_string_equal(json_string_value(json_object_get(request.spec, "format")), "jpeg");
    assert_string_equal(json_string_value(json_object_get(request.spec, "negative_prompt")), "dog");
    assert_true(request.wants_url);
    assert_string_equal(request.quality, "high");
    assert_string_equal(request.ignored.names, "user, st?yle");
    openai_request_finish(&request);
}

static void steps_win_over_quality(void **state)
{
    struct openai_request request =
        read_good("{\"prompt\": \"a\", \"quality\": \"low\", \"num_inference_steps\": 17}");

    (void)state;
    assert_int_equal(integer_of(&request, "steps"), 17);
    openai_request_finish(&request);
}

static void wrong_fields_are_named(void **state)
{
    (void)state;
    expect_bad("[]", 400, "invalid_value", "");
    expect_bad("{\"prompt\": \"\"}", 400, "invalid_value", "prompt");
    expect_bad("{\"prompt\": \"a\", \"n\": 11}", 400, "invalid_value", "n");
    expect_bad("{\"prompt\": \"a\", \"n\": \"2\"}", 400, "invalid_value", "n");
    expect_bad("{\"prompt\": \"a\", \"size\": \"0x\"}", 400, "invalid_value", "size");
    expect_bad("{\"prompt\": \"a\", \"size\": \"99999999999x16\"}", 400, "invalid_value", "size");
    expect_bad("{\"prompt\": \"a\", \"size\": 512}", 400, "invalid_value", "size");
    expect_bad("{\"prompt\": \"a\", \"quality\": \"best\"}", 400, "invalid_value", "quality");
    expect_bad("{\"prompt\": \"a\", \"background\": \"transparent\"}", 400, "invalid_value",
               "background");
    expect_bad("{\"prompt\": \"a\", \"stream\": 1}", 400, "invalid_value", "stream");
    expect_bad("{\"prompt\": \"a\", \"partial_images\": 4}", 400, "invalid_value",
               "partial_images");
    expect_bad("{\"prompt\": \"a\", \"model\": \"flux\"}", 404, "model_not_found", "model");
    expect_bad("{\"prompt\": \"a\", \"stream\": true, \"response_format\": \"url\"}", 400,
               "invalid_value", "response_format");
}

static void a_spec_that_is_refused_names_the_requests_field(void **state)
{
    struct openai_request request = read_good("{\"prompt\": \"a\", \"size\": \"500x512\"}");
    struct job_problem spec_problem;
    struct openai_problem problem;
    struct job_spec spec;

    (void)state;
    assert_false(job_spec_read(&spec, request.spec, &facts, NULL, &spec_problem));
    openai_problem_of_spec(&problem, &spec_problem);
    assert_string_equal(problem.param, "size");
    assert_int_equal(problem.status, 400);
    openai_request_finish(&request);
}

static void texts_of_a_form_become_numbers_and_pictures_base64(void **state)
{
    const struct http_part parts[] = {
        {.name = "prompt", .bytes = "12", .size = 2},
        {.name = "n", .bytes = "2", .size = 1},
        {.name = "stream", .bytes = "true", .size = 4},
        {.name = "strength", .bytes = "0.5", .size = 3},
        {.name = "image[]", .filename = "a.png", .bytes = "abc", .size = 3},
        {.name = "mask", .filename = "m.png", .bytes = "xyz", .size = 3},
    };
    struct openai_problem problem;
    struct openai_request request;
    json_t *body = openai_form_json(parts, 6, &facts, &problem);

    (void)state;
    assert_non_null(body);
    assert_string_equal(json_string_value(json_object_get(body, "image")), "YWJj");
    assert_true(openai_request_read(&request, body, true, &facts, &problem));
    assert_int_equal(integer_of(&request, "count"), 2);
    assert_true(request.is_stream);
    assert_true(json_real_value(json_object_get(request.spec, "strength")) == 0.5);
    assert_string_equal(json_string_value(json_object_get(request.spec, "prompt")), "12");
    assert_string_equal(json_string_value(json_object_get(request.spec, "mask")), "eHl6");
    assert_true(json_is_true(json_object_get(request.spec, "mask_is_alpha")));
    openai_request_finish(&request);
    json_decref(body);
}

static void an_edit_without_a_mask_redraws_the_whole_picture(void **state)
{
    const struct http_part parts[] = {{.name = "prompt", .bytes = "a", .size = 1},
                                      {.name = "image", .bytes = "abc", .size = 3}};
    struct openai_problem problem;
    struct openai_request request;
    json_t *body = openai_form_json(parts, 2, &facts, &problem);

    (void)state;
    assert_non_null(body);
    assert_true(openai_request_read(&request, body, true, &facts, &problem));
    assert_non_null(json_object_get(request.spec, "init_image"));
    assert_null(json_object_get(request.spec, "mask"));
    assert_null(json_object_get(request.spec, "mask_is_alpha"));
    openai_request_finish(&request);
    json_decref(body);
}

static void a_form_with_two_pictures_or_bad_text_is_refused(void **state)
{
    const struct http_part two[] = {{.name = "image", .bytes = "a", .size = 1},
                                    {.name = "image[]", .bytes = "b", .size = 1}};
    const struct http_part bad[] = {{.name = "prompt", .bytes = "a\0b", .size = 3}};
    struct openai_problem problem;

    (void)state;
    assert_null(openai_form_json(two, 2, &facts, &problem));
    assert_string_equal(problem.param, "image");
    assert_null(openai_form_json(bad, 1, &facts, &problem));
    assert_string_equal(problem.param, "prompt");
}

/* --- Answers --- */

static void openai_facts_for(struct openai_facts *out)
{
    struct job_view view = {.created_ms = 5500};

    view.parameters = json_pack("{s:i, s:i, s:i, s:s, s:i}", "width", 512, "height", 256, "count",
                                2, "format", "webp", "t5_tokens", 100);
    openai_facts_of(out, &view, "low", &facts);
    json_decref(view.parameters);
}

static void an_answer_has_its_data_and_usage(void **state)
{
    struct openai_facts about;
    json_t *data = json_pack("[o]", openai_datum(json_string("QQ=="), false, 9));
    const json_t *usage;
    json_t *body;

    (void)state;
    openai_facts_for(&about);
    body = openai_response(&about, data);
    usage = json_object_get(body, "usage");
    assert_int_equal(json_integer_value(json_object_get(body, "created")), 5);
    assert_string_equal(json_string_value(json_object_get(body, "size")), "512x256");
    assert_string_equal(json_string_value(json_object_get(body, "output_format")), "webp");
    assert_int_equal(json_integer_value(json_object_get(usage, "output_tokens")), 2 * 32 * 16);
    assert_int_equal(json_integer_value(json_object_get(usage, "input_tokens")), 177);
    assert_int_equal(json_integer_value(
                         json_object_get(json_array_get(json_object_get(body, "data"), 0), "seed")),
                     9);
    json_decref(body);
}

static void events_name_their_type_twice(void **state)
{
    struct openai_facts about;
    size_t size;
    char *text;

    (void)state;
    openai_facts_for(&about);
    text = openai_event_text(openai_partial(&about, true, json_string("QQ=="), 1), &size);
    assert_int_equal(size, strlen(text));
    assert_non_null(strstr(text, "event: image_edit.partial_image\ndata: {"));
    assert_non_null(strstr(text, "\"output_format\":\"jpeg\""));
    assert_non_null(strstr(text, "\"partial_image_index\":1"));
    assert_string_equal(text + size - 3, "}\n\n");
    free(text);
    text = openai_event_text(openai_completed(&about, false, json_string("QQ=="), 3), &size);
    assert_non_null(strstr(text, "event: image_generation.completed\n"));
    assert_non_null(strstr(text, "\"usage\":{"));
    free(text);
}

static int partials_of(int steps, int partial_images)
{
    int sent = 0;

    for (int step = 0; step < steps; step++)
        if (openai_partial_is_due(step, steps, partial_images, sent))
            sent++;
    return sent;
}

static void partials_are_spread_over_a_pictures_steps(void **state)
{
    (void)state;
    assert_false(openai_partial_is_due(6, 28, 3, 0));
    assert_true(openai_partial_is_due(7, 28, 3, 0));
    assert_false(openai_partial_is_due(13, 28, 3, 1));
    assert_true(openai_partial_is_due(14, 28, 3, 1));
    assert_int_equal(partials_of(28, 3), 3);
    assert_int_equal(partials_of(4, 3), 3);
    assert_int_equal(partials_of(2, 3), 1);
    assert_int_equal(partials_of(28, 0), 0);
    assert_false(openai_partial_is_due(0, 0, 3, 0));
}

static void failures_have_their_status(void **state)
{
    struct job_view view = {.state = JOB_FAILED};
    struct failure_answer failure;
    json_t *body, *error;

    (void)state;
    strcpy(view.error_code, "out_of_memory");
    failure_answer_of_job(&failure, &view);
    assert_int_equal(failure.status, 503);
    assert_true(failure.is_final);
    strcpy(view.error_code, "something");
    failure_answer_of_job(&failure, &view);
    assert_int_equal(failure.status, 500);
    body = openai_error(&failure);
    error = json_object_get(body, "error");
    assert_true(json_is_null(json_object_get(error, "param")));
    assert_int_equal(json_object_size(error), 4);
    json_decref(body);
    view.state = JOB_CANCELLED;
    failure_answer_of_job(&failure, &view);
    assert_int_equal(failure.status, 409);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_left_out_gets_the_models_defaults),
        cmocka_unit_test(every_field_arrives_in_the_spec),
        cmocka_unit_test(steps_win_over_quality),
        cmocka_unit_test(wrong_fields_are_named),
        cmocka_unit_test(a_spec_that_is_refused_names_the_requests_field),
        cmocka_unit_test(texts_of_a_form_become_numbers_and_pictures_base64),
        cmocka_unit_test(an_edit_without_a_mask_redraws_the_whole_picture),
        cmocka_unit_test(a_form_with_two_pictures_or_bad_text_is_refused),
        cmocka_unit_test(an_answer_has_its_data_and_usage),
        cmocka_unit_test(events_name_their_type_twice),
        cmocka_unit_test(partials_are_spread_over_a_pictures_steps),
        cmocka_unit_test(failures_have_their_status),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
