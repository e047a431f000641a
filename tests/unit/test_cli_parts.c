/* The small parts of the command line program. */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json_output.h"
#include "cli/picture_files.h"
#include "cli/progress.h"
#include "cli/prompt_text.h"
#include "cli/report.h"

static atomic_bool never;

/* --- Progress --- */

static const struct progress_now halfway = {
    .phase = "denoise", .unit = "", .step = 14, .step_count = 28, .seconds = 70};

static void the_progress_line_tells_phase_step_seconds_and_time_left(void **state)
{
    char line[PROGRESS_LINE_BYTES];

    (void)state;
    progress_format(line, &halfway, 2.5, 80);
    assert_string_equal(
        line, "denoise  [################................]  14/28  1 min 12 s, 1 min 07 s left");
}

static void the_progress_line_never_reaches_the_last_column(void **state)
{
    char line[PROGRESS_LINE_BYTES];

    (void)state;
    for (int columns = 1; columns < 300; columns++) {
        progress_format(line, &halfway, 0, columns);
        assert_true(strlen(line) < (size_t)columns);
    }
}

static void a_narrow_terminal_gets_no_bar(void **state)
{
    char line[PROGRESS_LINE_BYTES];

    (void)state;
    progress_format(line, &halfway, 0, 45);
    assert_string_equal(line, "denoise  14/28  1 min 10 s, 1 min 10 s left");
}

static void time_left_is_not_guessed_before_the_first_step(void **state)
{
    struct progress_now now = {.phase = "denoise", .unit = "", .step_count = 28};
    char line[PROGRESS_LINE_BYTES];

    (void)state;
    progress_format(line, &now, 4000, 80);
    assert_null(strstr(line, "left"));
    assert_non_null(strstr(line, "0/28  1 h 06 min"));
}

/* --- Names of files --- */

static void check_name(const char *output, int count, int i, const char *expected)
{
    struct picture_files files;

    assert_true(picture_files_init(&files, output, 42, count, NULL));
    assert_string_equal(files.paths[i], expected);
    picture_files_finish(&files);
}

static void files_are_named_and_numbered(void **state)
{
    (void)state;
    check_name(NULL, 1, 0, "sd35-42.png");
    check_name(NULL, 2, 1, "sd35-42-2.png");
    check_name("a.b/out.jpg", 1, 0, "a.b/out.jpg");
    check_name("a.b/out.new.jpg", 64, 63, "a.b/out.new-64.jpg");
}

static void a_file_whose_format_is_unknown_is_refused(void **state)
{
    struct picture_files files;
    struct error err;

    (void)state;
    assert_false(picture_files_init(&files, "out.gif", 42, 1, &err));
    picture_files_finish(&files);
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    assert_non_null(strstr(err.message, "out.gif"));
}

/* --- Messages --- */

static void check_clean(const char *text, const char *expected)
{
    char *clean = report_clean(text);

    assert_non_null(clean);
    assert_string_equal(clean, expected);
    free(clean);
}

static void messages_cannot_control_the_terminal(void **state)
{
    (void)state;
    check_clean("a\033[31m\nb\x7f", "a [31m b ");
    check_clean("a\xc2\x9b"
                "31m",
                "a  31m");
    check_clean("\xff", "\xef\xbf\xbd");
    check_clean("gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f");
}

/* --- Texts --- */

static void check_text(const char *given, const char *expected)
{
    char *text;

    assert_true(prompt_text_read(&text, given, "--prompt", &never, NULL));
    assert_string_equal(text, expected);
    free(text);
}

static void texts_come_from_arguments_and_files(void **state)
{
    char given[256];

    (void)state;
    check_text("a cat\n", "a cat\n");
    check_text("", "");
    check_text("@@home", "@home");
    snprintf(given, sizeof given, "@%s", test_write_file("prompt.txt", "a dog\r\n", 7));
    check_text(given, "a dog");
}

static void check_refused(const char *given, enum error_code code, const char *part)
{
    struct error err;
    char *text;

    assert_false(prompt_text_read(&text, given, "--prompt", &never, &err));
    assert_null(text);
    assert_int_equal(err.code, code);
    assert_non_null(strstr(err.message, "--prompt"));
    assert_non_null(strstr(err.message, part));
}

static void texts_that_no_prompt_may_be_are_refused(void **state)
{
    char *large = malloc(PIPELINE_PROMPT_BYTES_MAX + 2), given[256];

    (void)state;
    assert_non_null(large);
    memset(large, 'a', PIPELINE_PROMPT_BYTES_MAX + 1);
    large[PIPELINE_PROMPT_BYTES_MAX + 1] = '\0';
    check_refused(large, ERROR_BAD_REQUEST, "bytes");
    large[PIPELINE_PROMPT_BYTES_MAX] = '\0';
    check_text(large, large);
    free(large);
    check_refused("ab\xc3(", ERROR_BAD_REQUEST, "byte 2");
    check_refused("@/nowhere", ERROR_IO, "/nowhere");
    snprintf(given, sizeof given, "@%s", test_write_file("nul.txt", "a\0b", 3));
    check_refused(given, ERROR_BAD_REQUEST, "NUL at byte 1");
}

/* --- JSON --- */

static void check_number(double value, const char *expected)
{
    char *text;

    assert_true(json_output_format(&text, json_pack("{s:f}", "x", value), NULL));
    assert_non_null(strstr(text, expected));
    free(text);
}

static void numbers_are_short_where_that_loses_nothing(void **state)
{
    (void)state;
    check_number(0.1, "0.1\n");
    check_number(0.1 + 0.2, "0.30000000000000004\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_progress_line_tells_phase_step_seconds_and_time_left),
        cmocka_unit_test(the_progress_line_never_reaches_the_last_column),
        cmocka_unit_test(a_narrow_terminal_gets_no_bar),
        cmocka_unit_test(time_left_is_not_guessed_before_the_first_step),
        cmocka_unit_test(files_are_named_and_numbered),
        cmocka_unit_test(a_file_whose_format_is_unknown_is_refused),
        cmocka_unit_test(messages_cannot_control_the_terminal),
        cmocka_unit_test(texts_come_from_arguments_and_files),
        cmocka_unit_test(texts_that_no_prompt_may_be_are_refused),
        cmocka_unit_test(numbers_are_short_where_that_loses_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
