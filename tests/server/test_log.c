/* The log: values cannot forge fields or lines, and every line of JSON is one object. */
#include "support/support.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/log.h"

static const struct log_options as_text = {.process = "front", .level = LOG_DEBUG};
static const struct log_options as_json = {
    .process = "worker 0", .level = LOG_DEBUG, .is_json = true};

/* What log_event and log_fields wrote to standard error while `write` ran. The caller frees it. */
static char *capture(void (*write_some)(const void *context), const void *context)
{
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);
    char *text = calloc(1, 65536);
    size_t size;

    assert_non_null(file);
    assert_non_null(text);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    write_some(context);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    rewind(file);
    size = fread(text, 1, 65535, file);
    text[size] = '\0';
    fclose(file);
    return text;
}

static void write_value(const void *context)
{
    log_event(LOG_INFO, "test.value", "first=%s second=%d third=%.2f", (const char *)context, 7,
              0.5);
}

static const char *const hostile[] = {
    "x second=8",
    "x\nlevel=error",
    "x\r\n2026-01-01T00:00:00.000Z error [front] fake",
    "\x1b[2J",
    "\" second=8 a=\"",
    "\\\" second=8",
    "\x1e",
    "\x1f",
    "\x1e\x1fsecond=8",
    "x\x1esecond=8\x1f",
    "%n%s%d",
    "${jndi:ldap://a}",
    "<script>",
    "{\"level\":1}",
    "\",\"level\":\"error",
    "\xff\xfe",
    "\xc0\x80",
    "\xed\xa0\x80",
    "\xe2\x80\xaetxt",
    "\xc2\233[m",
    "\xe2\x80\xa8",
    "",
    " ",
    "=",
    "a=b",
    "\xf0\x9f\x98\x80",
    "\xf0\x9f\x98",
    "12",
    "\\",
    "\"",
};

/* jansson refuses other text. */
static bool is_utf8(const char *text)
{
    json_t *value = json_string(text);
    bool result = value != NULL;

    json_decref(value);
    return result;
}

static void test_json_cannot_be_forged(void **state)
{
    (void)state;
    log_setup(&as_json);
    for (size_t i = 0; i < COUNT_OF(hostile); i++) {
        char *line = capture(write_value, hostile[i]);
        json_error_t error;
        json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, &error);
        const char *first;

        assert_non_null(object);
        assert_int_equal(json_object_size(object), 7);
        assert_string_equal(json_string_value(json_object_get(object, "level")), "info");
        assert_string_equal(json_string_value(json_object_get(object, "process")), "worker 0");
        assert_string_equal(json_string_value(json_object_get(object, "event")), "test.value");
        assert_int_equal(json_integer_value(json_object_get(object, "second")), 7);
        assert_true(json_real_value(json_object_get(object, "third")) == 0.5);
        first = json_string_value(json_object_get(object, "first"));
        assert_non_null(first);
        if (is_utf8(hostile[i]))
            assert_string_equal(first, hostile[i]);
        assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
        json_decref(object);
        free(line);
    }
}

/* Outside quotes there are exactly the fields of the format; no byte acts on a terminal. */
static void test_text_cannot_be_forged(void **state)
{
    (void)state;
    log_setup(&as_text);
    for (size_t i = 0; i < COUNT_OF(hostile); i++) {
        char *line = capture(write_value, hostile[i]);
        bool is_quoted = false;
        int equals = 0;

        assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
        for (char *at = line; *at != '\n'; at++) {
            assert_true((unsigned char)*at >= 0x20 && *at != 0x7f);
            if (is_quoted && *at == '\\' && at[1])
                at++;
            else if (*at == '"')
                is_quoted = !is_quoted;
            else if (!is_quoted && *at == '=')
                equals++;
        }
        assert_false(is_quoted);
        assert_int_equal(equals, 3);
        assert_null(strstr(line, "\xe2\x80\xae"));
        assert_null(strstr(line, "\xc2\x9b"));
        assert_non_null(strstr(line, " second=7 third=0.50\n"));
        free(line);
    }
}

static void test_shape(void **state)
{
    const struct log_field fields[] = {{"job", "0a1b", false}, {"seconds", "1.5", true}};
    char line[LOG_LINE_BYTES_MAX];
    size_t size;

    (void)state;
    size = log_make_line(line, &as_text, 1764146096007, LOG_WARNING, "job.done", fields, 2);
    line[size] = '\0';
    assert_string_equal(line,
                        "2025-11-26T08:34:56.007Z warning [front] job.done job=0a1b seconds=1.5\n");
    size = log_make_line(line, &as_json, 1764146096007, LOG_ERROR, "job.done", fields, 2);
    line[size] = '\0';
    assert_string_equal(line, "{\"time\":\"2025-11-26T08:34:56.007Z\",\"level\":\"error\","
                              "\"process\":\"worker 0\",\"event\":\"job.done\",\"job\":\"0a1b\","
                              "\"seconds\":1.5}\n");
}

/* Of every length around the limit, and with values that grow when escaped. */
static void test_long_lines_stay_whole(void **state)
{
    char value[6000], line[LOG_LINE_BYTES_MAX + 1];

    (void)state;
    for (size_t length = 3800; length < 4200; length++) {
        for (int kind = 0; kind < 3; kind++) {
            const struct log_field fields[] = {{"value", value, kind == 2},
                                               {"after", "x y", false}};
            json_t *object;
            size_t size;

            memset(value, kind == 0 ? 'a' : kind == 1 ? '\n' : '1', length);
            value[length] = '\0';
            size = log_make_line(line, &as_json, 0, LOG_INFO, "long", fields, 2);
            assert_true(size <= LOG_LINE_BYTES_MAX);
            object = json_loadb(line, size, JSON_DECODE_ANY, NULL);
            assert_non_null(object);
            assert_true(json_object_get(object, "after") || json_object_get(object, "is_cut"));
            json_decref(object);
            size = log_make_line(line, &as_text, 0, LOG_INFO, "long", fields, 2);
            assert_true(size <= LOG_LINE_BYTES_MAX);
            assert_int_equal(line[size - 1], '\n');
        }
    }
}

static void write_levels(const void *context)
{
    (void)context;
    log_event(LOG_DEBUG, "no", "a=%d", 1);
    log_event(LOG_WARNING, "yes", "what=\"two words\" not_a_number=%f job=%s.png", 0.0 / 0.0, "7");
}

static void test_levels_and_quotes_of_the_format(void **state)
{
    struct log_options options = as_json;
    char *line;
    json_t *object;

    (void)state;
    options.level = LOG_WARNING;
    options.with_prompts = true;
    log_setup(&options);
    assert_true(log_has_prompts());
    line = capture(write_levels, NULL);
    object = json_loads(line, 0, NULL);
    assert_non_null(object);
    assert_string_equal(json_string_value(json_object_get(object, "what")), "two words");
    assert_true(json_is_string(json_object_get(object, "not_a_number")));
    assert_string_equal(json_string_value(json_object_get(object, "job")), "7.png");
    json_decref(object);
    free(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_cannot_be_forged),
        cmocka_unit_test(test_text_cannot_be_forged),
        cmocka_unit_test(test_shape),
        cmocka_unit_test(test_long_lines_stay_whole),
        cmocka_unit_test(test_levels_and_quotes_of_the_format),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
