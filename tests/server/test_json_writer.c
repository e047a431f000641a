/* JSON that is written as text: it reads back as what it was made of, and lack of memory is not
 * forgotten. */
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/attributes.h"
#include "server/json_writer.h"

/* Ends the text and reads it as a client does. */
static json_t *read_back(struct json_writer *text)
{
    json_t *value;
    size_t size;
    char *bytes = json_writer_take(text, &size);

    assert_non_null(bytes);
    assert_int_equal(strlen(bytes), size);
    value = json_loadb(bytes, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
    free(bytes);
    return value;
}

static void commas_stand_between_values_alone(void **state)
{
    struct json_writer text = {0};
    size_t size;
    char *bytes;

    (void)state;
    json_writer_open(&text, NULL, '{');
    json_writer_open(&text, "none", '[');
    json_writer_close(&text, ']');
    json_writer_open(&text, "two", '[');
    json_writer_integer(&text, NULL, 1);
    json_writer_open(&text, NULL, '{');
    json_writer_close(&text, '}');
    json_writer_close(&text, ']');
    json_writer_raw(&text, "raw", "[1,2]");
    json_writer_raw(&text, "nothing", NULL);
    json_writer_boolean(&text, "no", false);
    json_writer_value(&text, "tree", NULL);
    json_writer_close(&text, '}');
    bytes = json_writer_take(&text, &size);
    assert_string_equal(bytes, "{\"none\":[],\"two\":[1,{}],\"raw\":[1,2],\"nothing\":null,"
                               "\"no\":false,\"tree\":null}");
    free(bytes);
}

static void a_string_reads_back_as_it_was(void **state)
{
    static const char *const strings[] = {"",
                                          "plain, with spaces and /slashes/",
                                          "\"quoted\" \\ and back",
                                          "lines\nand\ttabs\r\b\f\x01\x1f\x7f",
                                          "caf\xc3\xa9 \xf0\x9f\xa6\x8a",
                                          "ends in [",
                                          "ends in {"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(strings); i++) {
        struct json_writer text = {0};
        json_t *list;

        json_writer_open(&text, NULL, '[');
        json_writer_string(&text, NULL, strings[i]);
        json_writer_string(&text, NULL, NULL);
        json_writer_close(&text, ']');
        list = read_back(&text);
        assert_non_null(list);
        assert_string_equal(json_string_value(json_array_get(list, 0)), strings[i]);
        assert_true(json_is_null(json_array_get(list, 1)));
        json_decref(list);
    }
}

static void bytes_that_are_no_utf8_become_question_marks(void **state)
{
    struct json_writer text = {0};
    json_t *value;

    (void)state;
    json_writer_string(&text, NULL, "\"caf\xc3\" \xff");
    value = read_back(&text);
    assert_string_equal(json_string_value(value), "\"caf?\" ?");
    json_decref(value);
}

static void an_integer_reads_back_as_it_was(void **state)
{
    static const int64_t integers[] = {0, 1, -1, 9, 10, 1234567890123, INT64_MAX, INT64_MIN};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(integers); i++) {
        struct json_writer text = {0};
        json_t *value;

        json_writer_integer(&text, NULL, integers[i]);
        value = read_back(&text);
        assert_true(json_is_integer(value));
        assert_true(json_integer_value(value) == integers[i]);
        json_decref(value);
    }
}

static void a_real_number_is_told_to_a_millionth(void **state)
{
    static const struct {
        double value;
        const char *text;
    } reals[] = {
        {0, "0.0"},
        {-0.0, "0.0"},
        {1, "1.0"},
        {-2.5, "-2.5"},
        {0.1, "0.1"},
        {0.48, "0.48"},
        {1.0 / 3, "0.333333"},
        {2.0 / 3, "0.666667"},
        {0.9999999, "1.0"},
        {-1e-9, "0.0"},
        {0.000001, "0.000001"},
        {1234567.000089, "1234567.000089"},
        {999999999.0, "999999999.0"},
        {NAN, "null"},
        {INFINITY, "null"},
        {-INFINITY, "null"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(reals); i++) {
        struct json_writer text = {0};
        size_t size;
        char *bytes;

        json_writer_real(&text, NULL, reals[i].value);
        bytes = json_writer_take(&text, &size);
        assert_string_equal(bytes, reals[i].text);
        free(bytes);
    }
}

static void a_large_number_reads_back_as_it_was(void **state)
{
    static const double reals[] = {1e9, -1e17, 1.5e300};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(reals); i++) {
        struct json_writer text = {0};
        json_t *value;

        json_writer_real(&text, NULL, reals[i]);
        value = read_back(&text);
        assert_true(json_is_real(value));
        assert_true(json_real_value(value) == reals[i]);
        json_decref(value);
    }
}

static void a_text_grows_as_far_as_it_must(void **state)
{
    struct json_writer text = {0};
    char long_string[10001];
    json_t *list;

    (void)state;
    memset(long_string, 'x', sizeof long_string - 1);
    long_string[sizeof long_string - 1] = '\0';
    json_writer_open(&text, NULL, '[');
    for (int i = 0; i < 1000; i++)
        json_writer_integer(&text, NULL, i);
    json_writer_string(&text, NULL, long_string);
    json_writer_close(&text, ']');
    list = read_back(&text);
    assert_int_equal(json_array_size(list), 1001);
    assert_int_equal(json_integer_value(json_array_get(list, 999)), 999);
    assert_string_equal(json_string_value(json_array_get(list, 1000)), long_string);
    json_decref(list);
}

static void a_text_that_lost_something_is_none(void **state)
{
    struct json_writer text = {0};
    size_t size;

    (void)state;
    json_writer_open(&text, NULL, '[');
    text.has_failed = true; /* as where memory was short */
    json_writer_integer(&text, NULL, 1);
    json_writer_close(&text, ']');
    assert_null(json_writer_take(&text, &size));
    assert_null(text.bytes);
    assert_false(text.has_failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commas_stand_between_values_alone),
        cmocka_unit_test(a_string_reads_back_as_it_was),
        cmocka_unit_test(bytes_that_are_no_utf8_become_question_marks),
        cmocka_unit_test(an_integer_reads_back_as_it_was),
        cmocka_unit_test(a_real_number_is_told_to_a_millionth),
        cmocka_unit_test(a_large_number_reads_back_as_it_was),
        cmocka_unit_test(a_text_grows_as_far_as_it_must),
        cmocka_unit_test(a_text_that_lost_something_is_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
