/* Job specs: what is read, what is refused and how it is said, and the way through the store. */
#include "support/pictures.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

#include "job/base64.h"
#include "job/job_spec.h"

static const struct worker_facts facts = {
    .side_max = 1440,
    .layer_count = 24,
    .has_encoder = true,
    .width = 1024,
    .height = 768,
    .steps = 40,
    .t5_tokens = 256,
    .guidance = 5.0,
    .flow_shift = 3.0,
};
static const struct job_limits limits = {.pixels_max = 1 << 20, .steps_max = 100, .count_max = 4};

static json_t *parse(const char *text)
{
    json_t *object = json_loads(text, 0, NULL);

    if (!object)
        fail_msg("no JSON: %s", text);
    return object;
}

static struct job_spec read_good(const char *text)
{
    json_t *object = parse(text);
    struct job_problem problem;
    struct job_spec spec;

    if (!job_spec_read(&spec, object, &facts, &limits, &problem))
        fail_msg("%s: %s", text, problem.message);
    json_decref(object);
    return spec;
}

static struct job_problem refuse_object(json_t *object)
{
    struct job_problem problem = {.message = "left alone"};
    struct job_spec spec;

    assert_false(job_spec_read(&spec, object, &facts, &limits, &problem));
    assert_null(spec.prompt);
    assert_null(spec.init_image.bytes);
    assert_true(problem.message[0] != '\0');
    return problem;
}

static void refuse(const char *text, enum job_problem_kind kind, const char *field)
{
    json_t *object = parse(text);
    struct job_problem problem = refuse_object(object);

    if (problem.kind != kind || strcmp(problem.field, field) != 0)
        fail_msg("%s: kind %d, field '%s': %s", text, problem.kind, problem.field, problem.message);
    json_decref(object);
}

static void defaults_come_from_the_worker(void **state)
{
    struct job_spec spec = read_good("{\"prompt\": \"\"}"), other = read_good("{\"prompt\": \"\"}");

    (void)state;
    assert_string_equal(spec.prompt, "");
    assert_null(spec.negative_prompt);
    assert_int_equal(spec.width, 1024);
    assert_int_equal(spec.height, 768);
    assert_int_equal(spec.steps, 40);
    assert_int_equal(spec.count, 1);
    assert_true(spec.guidance == 5.0);
    assert_int_equal(spec.t5_tokens, 256);
    assert_int_equal(spec.skip_layer_count, 0);
    assert_false(spec.mask_is_alpha || spec.mask_inverted);
    assert_int_equal(spec.format, IMAGE_PNG);
    assert_true(spec.seed <= UINT32_MAX);
    assert_true(spec.seed != other.seed); /* once in 2^32 runs it is */
    job_spec_finish(&spec);
    job_spec_finish(&other);
}

static void defaults_give_way_to_limits(void **state)
{
    const struct job_limits tight = {.pixels_max = 100000, .steps_max = 8};
    json_t *object = parse("{\"prompt\": \"x\", \"width\": 512}");
    struct job_problem problem;
    struct job_spec spec;

    (void)state;
    assert_true(job_spec_read(&spec, object, &facts, &tight, &problem));
    assert_int_equal(spec.width, 512);
    assert_int_equal(spec.height, 192);
    assert_int_equal(spec.steps, 8);
    job_spec_finish(&spec);
    json_decref(object);
}

static void everything_is_read(void **state)
{
    struct job_spec spec =
        read_good("{\"prompt\": \"a\", \"prompt_2\": \"b\", \"prompt_3\": \"c\","
                  "\"negative_prompt\": \"d\", \"negative_prompt_2\": \"e\","
                  "\"negative_prompt_3\": \"f\", \"width\": 64, \"height\": 1440, \"steps\": 100,"
                  "\"guidance_scale\": 7, \"seed\": 9223372036854775803, \"count\": 4,"
                  "\"flow_shift\": 1.5, \"t5_tokens\": 77, \"skip_layers\": [7, 23],"
                  "\"skip_layer_scale\": 2, \"skip_layer_start\": 0.25, \"skip_layer_stop\": 1,"
                  "\"strength\": 0.5, \"format\": \"webp\", \"quality\": 1}");

    (void)state;
    assert_string_equal(spec.prompt_3, "c");
    assert_string_equal(spec.negative_prompt_2, "e");
    assert_int_equal(spec.height, 1440);
    assert_int_equal(spec.steps, 100);
    assert_true(spec.guidance == 7.0);
    assert_true(spec.seed == INT64_MAX - 4);
    assert_int_equal(spec.skip_layer_count, 2);
    assert_int_equal(spec.skip_layers[1], 23);
    assert_true(spec.strength == 0.5);
    assert_int_equal(spec.format, IMAGE_WEBP);
    assert_int_equal(spec.quality, 1);
    assert_true(job_spec_cost(&spec) > 100 * 2 * 4 * 0.092 &&
                job_spec_cost(&spec) < 100 * 2 * 4 * 0.093);
    job_spec_finish(&spec);
}

/* Field times wrong value; a value that one type takes is left out for it. */
static void wrong_types_are_named(void **state)
{
    static const struct {
        const char *field, *takes;
    } fields[] = {
        {"prompt", "s"},
        {"prompt_2", "s"},
        {"prompt_3", "s"},
        {"negative_prompt", "s"},
        {"width", "i"},
        {"height", "i"},
        {"steps", "i"},
        {"guidance_scale", "if"},
        {"seed", "i"},
        {"count", "i"},
        {"flow_shift", "if"},
        {"t5_tokens", "i"},
        {"skip_layers", "a"},
        {"strength", "if"},
        {"skip_layer_scale", "if"},
        {"skip_layer_start", "f"},
        {"format", "s"},
        {"quality", "i"},
        {"init_image", "s"},
        {"mask", "s"},
        {"mask_is_alpha", "b"},
        {"mask_inverted", "b"},
    };
    static const struct {
        char type;
        const char *text;
    } values[] = {{'s', "\"1024\""}, {'s', "\"\""},  {'i', "1"},  {'f', "1.5"}, {'n', "null"},
                  {'b', "true"},     {'b', "false"}, {'a', "[]"}, {'o', "{}"},  {'x', "[[1]]"}};
    char text[128];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(fields); i++)
        for (size_t j = 0; j < COUNT_OF(values); j++) {
            if (strchr(fields[i].takes, values[j].type) || strcmp(fields[i].takes, "f") == 0)
                continue;
            snprintf(text, sizeof text, "{\"%s\": %s}", fields[i].field, values[j].text);
            refuse(text, JOB_PROBLEM_TYPE, fields[i].field);
        }
}

static void ranges_are_kept(void **state)
{
    static const struct {
        const char *members, *field;
    } bad[] = {
        {"\"width\": 0", "width"},
        {"\"width\": -16", "width"},
        {"\"width\": 63", "width"},
        {"\"width\": 1456", "width"},
        {"\"height\": 2147483648", "height"},
        {"\"height\": 9223372036854775807", "height"},
        {"\"steps\": 0", "steps"},
        {"\"steps\": 101", "steps"},
        {"\"count\": 5", "count"},
        {"\"guidance_scale\": -0.5", "guidance_scale"},
        {"\"guidance_scale\": 100.5", "guidance_scale"},
        {"\"flow_shift\": 0", "flow_shift"},
        {"\"t5_tokens\": 76", "t5_tokens"},
        {"\"t5_tokens\": 513", "t5_tokens"},
        {"\"seed\": -2", "seed"},
        {"\"seed\": 9223372036854775807", "seed"},
        {"\"seed\": 9223372036854775804, \"count\": 4", "seed"},
        {"\"skip_layers\": [24]", "skip_layers"},
        {"\"skip_layers\": [-1]", "skip_layers"},
        {"\"strength\": 1.01", "strength"},
        {"\"format\": \"gif\"", "format"},
        {"\"quality\": 0", "quality"},
        {"\"quality\": 101", "quality"},
        {"\"prompt_2\": \"\\ud800\"", NULL}, /* no JSON at all */
    };
    char text[256];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        snprintf(text, sizeof text, "{\"prompt\": \"x\", %s}", bad[i].members);
        if (bad[i].field)
            refuse(text, JOB_PROBLEM_VALUE, bad[i].field);
        else
            assert_null(json_loads(text, 0, NULL));
    }
    refuse("{\"prompt\": \"x\", \"width\": 1440, \"height\": 1440}", JOB_PROBLEM_TOO_LARGE,
           "width");
    refuse("{\"prompt\": \"x\", \"image_url\": \"http://169.254.1.1\"}", JOB_PROBLEM_UNKNOWN_FIELD,
           "image_url");
    refuse("{\"prompt\": \"x\", \"has_mask\": false}", JOB_PROBLEM_UNKNOWN_FIELD, "has_mask");
    refuse("{}", JOB_PROBLEM_VALUE, "prompt");
    refuse("[]", JOB_PROBLEM_TYPE, "");
}

static void texts_are_bounded_utf8(void **state)
{
    char longest[JOB_PROMPT_BYTES_MAX + 2];
    json_t *object = json_object();
    struct job_problem problem;
    struct job_spec spec;

    (void)state;
    memset(longest, 'a', sizeof longest);
    assert_int_equal(
        json_object_set_new(object, "prompt", json_stringn(longest, JOB_PROMPT_BYTES_MAX)), 0);
    assert_true(job_spec_read(&spec, object, &facts, &limits, &problem));
    job_spec_finish(&spec);
    json_object_set_new(object, "prompt", json_stringn(longest, JOB_PROMPT_BYTES_MAX + 1));
    assert_int_equal(refuse_object(object).kind, JOB_PROBLEM_TOO_LARGE);
    json_object_set_new(object, "prompt", json_stringn("a\0b", 3));
    assert_int_equal(refuse_object(object).kind, JOB_PROBLEM_VALUE);
    json_object_set_new(object, "prompt", json_stringn_nocheck("\xc0\x80", 2));
    assert_int_equal(refuse_object(object).kind, JOB_PROBLEM_VALUE);
    /* A name that the problem has no room for is cut between characters. */
    json_object_clear(object);
    for (size_t i = 0; i + 2 < sizeof longest; i += 2)
        memcpy(longest + i, "\xc3\xa4", 2);
    longest[999] = '\0';
    longest[0] = longest[998] = 'x';
    memmove(longest + 1, longest + 2, 997);
    json_object_set_new_nocheck(object, longest, json_true());
    problem = refuse_object(object);
    assert_int_equal(problem.kind, JOB_PROBLEM_UNKNOWN_FIELD);
    assert_int_equal(strlen(problem.field), sizeof problem.field - 1);
    object = (json_decref(object), json_string(problem.message));
    assert_non_null(object);
    json_decref(object);
}

/* --- Pictures --- */

/* Base64 of a picture's file, by the definition rather than by our reader; freed by the caller. */
static char *encode(const unsigned char *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = calloc(1, size / 3 * 4 + 5), *to = text;

    assert_non_null(text);
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        uint32_t bits = (uint32_t)bytes[i] << 16 | (left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
                        (left > 2 ? bytes[i + 2] : 0u);

        *to++ = digits[bits >> 18];
        *to++ = digits[bits >> 12 & 63];
        *to++ = left > 1 ? digits[bits >> 6 & 63] : '=';
        *to++ = left > 2 ? digits[bits & 63] : '=';
    }
    return text;
}

static json_t *with_picture(const char *field, const char *prefix, int width, int height,
                            enum image_format format, struct job_image *file)
{
    struct image picture = test_soft_picture(width, height);
    json_t *object = json_pack("{s:s}", "prompt", "x");
    char *text, *whole;

    assert_true(image_encode(&file->bytes, &file->size, &picture, format, 90, NULL, NULL));
    text = encode(file->bytes, file->size);
    assert_true(asprintf(&whole, "%s%s", prefix, text) > 0);
    assert_int_equal(json_object_set_new(object, field, json_string(whole)), 0);
    image_finish(&picture);
    free(text);
    free(whole);
    return object;
}

static void pictures_come_in_base64(void **state)
{
    static const char *const prefixes[] = {"", "data:image/png;base64,", "data:image/x;y;base64,"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(prefixes) * IMAGE_FORMAT_COUNT; i++) {
        struct job_image file;
        json_t *object = with_picture("init_image", prefixes[i % COUNT_OF(prefixes)], 20, 10,
                                      (enum image_format)(i / COUNT_OF(prefixes)), &file);
        struct job_problem problem;
        struct job_spec spec;

        assert_true(job_spec_read(&spec, object, &facts, &limits, &problem));
        assert_int_equal(spec.init_image.size, file.size);
        assert_memory_equal(spec.init_image.bytes, file.bytes, file.size);
        job_spec_finish(&spec);
        json_decref(object);
        free(file.bytes);
    }
}

static void refuse_picture(json_t *object, struct job_image *file, enum job_problem_kind kind,
                           const char *field)
{
    struct job_problem problem = refuse_object(object);

    assert_string_equal(problem.field, field);
    assert_int_equal(problem.kind, kind);
    json_decref(object);
    free(file->bytes);
}

static void pictures_are_checked_before_they_are_decoded(void **state)
{
    const struct worker_facts blind = {.side_max = 64, .width = 64, .height = 64};
    struct job_image file, none = {0};
    struct job_problem problem;
    struct job_spec spec;
    json_t *object;

    (void)state;
    refuse_picture(with_picture("init_image", "", JOB_IMAGE_SIDE_MAX + 1, 1, IMAGE_PNG, &file),
                   &file, JOB_PROBLEM_TOO_LARGE, "init_image");
    refuse_picture(json_pack("{s:s, s:s}", "prompt", "x", "init_image", "R0lGODlhAQABAAAAADs="),
                   &none, JOB_PROBLEM_VALUE, "init_image"); /* a GIF */
    refuse_picture(with_picture("mask", "", 8, 8, IMAGE_PNG, &file), &file, JOB_PROBLEM_VALUE,
                   "mask");
    refuse_picture(with_picture("init_image", "!", 8, 8, IMAGE_PNG, &file), &file,
                   JOB_PROBLEM_VALUE, "init_image");
    refuse_picture(json_pack("{s:s, s:s}", "prompt", "x", "init_image", ""), &none,
                   JOB_PROBLEM_VALUE, "init_image");
    object = with_picture("init_image", "", 8, 8, IMAGE_JPEG, &file);
    assert_false(job_spec_read(&spec, object, &blind, NULL, &problem));
    assert_string_equal(problem.field, "init_image");
    json_decref(object);
    free(file.bytes);
}

static void base64_is_strict(void **state)
{
    static const struct {
        const char *text, *bytes;
        enum base64_result result;
    } cases[] = {
        {"", "", BASE64_OK},
        {"YQ==", "a", BASE64_OK},
        {"YQ", "a", BASE64_OK},
        {"YWI=", "ab", BASE64_OK},
        {"YWJj", "abc", BASE64_OK},
        {"Y W\nJ\tj\r", "abc", BASE64_OK},
        {"YQ=", "", BASE64_MALFORMED},
        {"YQ===", "", BASE64_MALFORMED},
        {"YWJj=", "", BASE64_MALFORMED},
        {"Y", "", BASE64_MALFORMED},
        {"YR==", "", BASE64_MALFORMED},
        {"YWJ", "ab", BASE64_MALFORMED},
        {"YQ==YQ==", "", BASE64_MALFORMED},
        {"Y-_j", "", BASE64_MALFORMED},
        {"=", "", BASE64_MALFORMED},
        {"YWJjZA==", "", BASE64_TOO_LARGE},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        unsigned char *bytes;
        size_t size;
        enum base64_result result =
            base64_decode(&bytes, &size, cases[i].text, strlen(cases[i].text), 3);

        if (result != cases[i].result)
            fail_msg("'%s': %d", cases[i].text, result);
        if (result != BASE64_OK)
            continue;
        assert_int_equal(size, strlen(cases[i].bytes));
        assert_memory_equal(bytes, cases[i].bytes, size);
        free(bytes);
    }
}

/* --- The store --- */

static void the_json_form_restores_the_spec(void **state)
{
    struct job_spec spec = read_good("{\"prompt\": \"a \xc3\xa4\", \"negative_prompt\": \"\","
                                     "\"skip_layers\": [1], \"seed\": 5, \"format\": \"jpeg\","
                                     "\"guidance_scale\": 4.25}");
    struct job_image file = {.bytes = (unsigned char *)"PNG", .size = 3};
    struct job_problem problem;
    struct job_spec back, copy;
    json_t *form, *again;

    (void)state;
    spec.init_image = file; /* borrowed */
    form = job_spec_json(&spec);
    assert_true(json_is_true(json_object_get(form, "has_init_image")));
    assert_true(json_is_false(json_object_get(form, "has_mask")));
    assert_null(json_object_get(form, "init_image"));
    assert_null(json_object_get(form, "prompt_2"));
    assert_true(job_spec_restore(&back, form, &file, NULL, &problem));
    assert_true(job_spec_copy(&copy, &back));
    again = job_spec_json(&copy);
    assert_true(json_equal(form, again));
    assert_int_equal(copy.init_image.size, 3);
    assert_memory_equal(copy.init_image.bytes, "PNG", 3);
    assert_ptr_not_equal(copy.init_image.bytes, back.init_image.bytes);
    job_spec_finish(&copy);
    job_spec_finish(&back);
    json_decref(again);

    assert_false(job_spec_restore(&back, form, NULL, NULL, &problem)); /* its picture is lost */
    assert_string_equal(problem.field, "init_image");
    json_object_del(form, "seed");
    assert_false(job_spec_restore(&back, form, &file, NULL, &problem)); /* none is drawn */
    assert_string_equal(problem.field, "seed");
    json_decref(form);
    spec.init_image = (struct job_image){0};
    job_spec_finish(&spec);
}

/* Each alone, so that none is taken for the other. */
static void flags_keep_their_values(void **state)
{
    static const char *const names[] = {"mask_is_alpha", "mask_inverted"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        json_t *object = json_pack("{s:s, s:b, s:b}", "prompt", "x", names[i], 1, names[1 - i], 0);
        struct job_spec spec, back, copy;
        struct job_problem problem;
        json_t *form;

        json_object_set_new(object, "seed", json_integer(1));
        assert_true(job_spec_read(&spec, object, &facts, &limits, &problem));
        form = job_spec_json(&spec);
        assert_true(json_is_true(json_object_get(form, names[i])));
        assert_true(json_is_false(json_object_get(form, names[1 - i])));
        assert_true(job_spec_restore(&back, form, NULL, NULL, &problem));
        assert_true(job_spec_copy(&copy, &back));
        assert_int_equal(copy.mask_is_alpha, i == 0);
        assert_int_equal(copy.mask_inverted, i == 1);
        job_spec_finish(&back);
        json_object_del(form, names[0]); /* as what an earlier version stored has neither */
        json_object_del(form, names[1]);
        assert_true(job_spec_restore(&back, form, NULL, NULL, &problem));
        assert_false(back.mask_is_alpha || back.mask_inverted);
        job_spec_finish(&copy);
        job_spec_finish(&back);
        job_spec_finish(&spec);
        json_decref(form);
        json_decref(object);
    }
}

static void the_schema_names_every_field(void **state)
{
    struct job_spec spec = read_good("{\"prompt\": \"x\"}");
    json_t *form = job_spec_json(&spec), *schema = job_spec_schema(&facts, &limits);
    json_t *properties = json_object_get(schema, "properties"), *bare, *value;
    const char *name;

    (void)state;
    assert_true(json_is_false(json_object_get(schema, "additionalProperties")));
    json_object_foreach(form, name, value) if (strncmp(name, "has_", 4) != 0 &&
                                               !json_object_get(properties, name))
        fail_msg("the schema has no '%s'", name);
    assert_non_null(json_object_get(properties, "mask"));
    value = json_object_get(properties, "width");
    assert_int_equal(json_integer_value(json_object_get(value, "maximum")), 1440);
    assert_int_equal(json_integer_value(json_object_get(value, "multipleOf")), 16);
    assert_int_equal(json_integer_value(json_object_get(value, "default")), 1024);
    value = json_object_get(properties, "count");
    assert_int_equal(json_integer_value(json_object_get(value, "maximum")), 4);
    value = json_object_get(properties, "mask_inverted");
    assert_string_equal(json_string_value(json_object_get(value, "type")), "boolean");
    assert_true(json_is_false(json_object_get(value, "default")));
    bare = job_spec_schema(NULL, NULL);
    value = json_object_get(json_object_get(bare, "properties"), "steps");
    assert_int_equal(json_integer_value(json_object_get(value, "maximum")), JOB_STEPS_MAX);
    assert_null(json_object_get(value, "default"));
    json_decref(bare);
    json_decref(schema);
    json_decref(form);
    job_spec_finish(&spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_come_from_the_worker),
        cmocka_unit_test(defaults_give_way_to_limits),
        cmocka_unit_test(everything_is_read),
        cmocka_unit_test(wrong_types_are_named),
        cmocka_unit_test(ranges_are_kept),
        cmocka_unit_test(texts_are_bounded_utf8),
        cmocka_unit_test(pictures_come_in_base64),
        cmocka_unit_test(pictures_are_checked_before_they_are_decoded),
        cmocka_unit_test(base64_is_strict),
        cmocka_unit_test(the_json_form_restores_the_spec),
        cmocka_unit_test(flags_keep_their_values),
        cmocka_unit_test(the_schema_names_every_field),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
