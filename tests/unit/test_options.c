/* Options: the table's reading of command lines and of the environment. */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/generate_options.h"
#include "cli/options.h"

struct values {
    bool loud;
    const char *name, *colour, *perhaps;
    int count;
    double ratio;
    struct option_seed seed;
    struct option_size size;
    struct option_list list;
};

#define FIELD(name) offsetof(struct values, name)

static const struct option options[] = {
    {"loud", 'l', OPTION_FLAG, FIELD(loud), NULL, 0, 0, NULL, "Make noise.", "Sound"},
    {"name", 'n', OPTION_TEXT, FIELD(name), "TEXT", 0, 0, NULL, "Whose.", NULL},
    {"colour", 0, OPTION_CHOICE, FIELD(colour), "HOW", 0, 0, "red|green", "Which.", NULL},
    {"count", 'c', OPTION_INTEGER, FIELD(count), "N", 1, 9, NULL, "How many.", "Sizes"},
    {"ratio", 0, OPTION_NUMBER, FIELD(ratio), "X", 0, 1, NULL, "How much.", NULL},
    {"seed", 0, OPTION_SEED, FIELD(seed), "N", 0, 0, NULL, "Which noise.", NULL},
    {"frame-size", 0, OPTION_SIZE, FIELD(size), "WxH", 1, 100, NULL, "Pixels.", NULL},
    {"list", 0, OPTION_LIST, FIELD(list), "N,N,...", 0, 50, NULL, "Some.", NULL},
    {"perhaps", 'p', OPTION_OPTIONAL_TEXT, FIELD(perhaps), "[TEXT]", 0, 0, NULL, "Or not.", NULL},
};

static const struct option_pair conflicts[] = {{"count", "list"}};
static const struct option_pair dependents[] = {{"ratio", "name"}};

static const struct option_table table = {
    .command = "sd35 try",
    .usage = "[options]",
    .summary = "Tries.",
    .options = options,
    .option_count = COUNT_OF(options),
    .conflicts = conflicts,
    .conflict_count = COUNT_OF(conflicts),
    .dependents = dependents,
    .dependent_count = COUNT_OF(dependents),
};

#define WORDS_MAX 8

/* Words in a NULL-terminated array; argv[0] is added. */
static bool parse_words(struct values *values, bool *wants_help, const char *const *words,
                        struct error *err)
{
    char *argv[WORDS_MAX + 1] = {(char *)(uintptr_t) "try"};
    int argc = 1;

    for (; *words; words++)
        argv[argc++] = (char *)(uintptr_t)*words;
    return options_parse(values, wants_help, &table, argc, argv, err);
}

#define PARSE(values, err, ...)                                                                    \
    parse_words((values), &(bool){false}, (const char *const[WORDS_MAX]){__VA_ARGS__}, (err))

static void expect_failure(const char *const *words, const char *message)
{
    struct values values = {0};
    struct error err = {0};
    bool wants_help;

    assert_false(parse_words(&values, &wants_help, words, &err));
    assert_string_equal(err.message, message);
    assert_int_equal(error_exit_code(err.code), 2);
}

#define EXPECT_FAILURE(message, ...)                                                               \
    expect_failure((const char *const[WORDS_MAX]){__VA_ARGS__}, message)

static void options_are_read_in_every_spelling(void **state)
{
    struct values values = {0};

    (void)state;
    assert_true(PARSE(&values, NULL, "--loud", "-n", "Ada", "--count=3", "--colour", "green"));
    assert_true(values.loud);
    assert_string_equal(values.name, "Ada");
    assert_int_equal(values.count, 3);
    assert_string_equal(values.colour, "green");
    assert_true(PARSE(&values, NULL, "-c7", "--loud=no", "--name="));
    assert_int_equal(values.count, 7);
    assert_false(values.loud);
    assert_string_equal(values.name, "");
}

static void the_last_of_several_values_counts(void **state)
{
    struct values values = {0};

    (void)state;
    assert_true(PARSE(&values, NULL, "-c", "1", "--count", "2"));
    assert_int_equal(values.count, 2);
}

static void a_value_may_begin_with_one_dash(void **state)
{
    struct values values = {.seed = {.is_set = true}};

    (void)state;
    assert_true(PARSE(&values, NULL, "--seed", "-1", "--name", "-"));
    assert_false(values.seed.is_set);
    assert_string_equal(values.name, "-");
}

static void a_value_may_be_left_out_where_the_table_says_so(void **state)
{
    struct values values = {0};

    (void)state;
    assert_true(PARSE(&values, NULL, "--perhaps", "--loud"));
    assert_string_equal(values.perhaps, "");
    assert_true(values.loud);
    assert_true(PARSE(&values, NULL, "--loud", "-p"));
    assert_string_equal(values.perhaps, "");
    assert_true(PARSE(&values, NULL, "-p", "file", "-c", "2"));
    assert_string_equal(values.perhaps, "file");
    assert_int_equal(values.count, 2);
    assert_true(PARSE(&values, NULL, "--perhaps=-x"));
    assert_string_equal(values.perhaps, "-x");
}

static void sizes_lists_and_seeds_are_read(void **state)
{
    struct values values = {0};

    (void)state;
    assert_true(PARSE(&values, NULL, "--frame-size", "64x48", "--list", "7,8,50", "--seed",
                      "9223372036854775807"));
    assert_int_equal(values.size.width, 64);
    assert_int_equal(values.size.height, 48);
    assert_int_equal(values.list.count, 3);
    assert_int_equal(values.list.values[2], 50);
    assert_true(values.seed.is_set);
    assert_true(values.seed.value == INT64_MAX);
}

static void numbers_with_anything_else_around_them_are_refused(void **state)
{
    static const char *const wrong[] = {"",   " 3",         "3 ",  "3x",
                                        "+3", "0x3",        "-3",  "0",
                                        "10", "2147483648", "3.0", "99999999999999999999999999"};
    struct values values = {.count = 5};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        assert_false(PARSE(&values, NULL, "--count", wrong[i]));
    assert_int_equal(values.count, 5);
    EXPECT_FAILURE("--count: '3x' is not a whole number from 1 to 9", "--count", "3x");
    EXPECT_FAILURE("-c: '10' is not a whole number from 1 to 9", "-c", "10");
}

static void fractions_outside_their_range_or_not_finite_are_refused(void **state)
{
    static const char *const wrong[] = {"", "nan", "inf", "1.5", "-0.1", "0.5x", " 0.5", "0x1p-1"};
    struct values values = {0};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        assert_false(PARSE(&values, NULL, "--name", "a", "--ratio", wrong[i]));
    assert_true(PARSE(&values, NULL, "--name", "a", "--ratio", "2.5e-1"));
    assert_true(values.ratio == 0.25);
}

static void malformed_sizes_lists_and_seeds_are_refused(void **state)
{
    static const char *const sizes[] = {"",     "64",     "64x",     "x48",
                                        "0x48", "64x101", "64x48x2", "64,48"};
    static const char *const lists[] = {"", "7,", ",7", "7,,8", "7,51", "7;8"};
    static const char *const seeds[] = {"", "-2", "1e3", "9223372036854775808", "random"};
    struct values values = {0};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        assert_false(PARSE(&values, NULL, "--frame-size", sizes[i]));
    for (size_t i = 0; i < COUNT_OF(lists); i++)
        assert_false(PARSE(&values, NULL, "--list", lists[i]));
    for (size_t i = 0; i < COUNT_OF(seeds); i++)
        assert_false(PARSE(&values, NULL, "--seed", seeds[i]));
    EXPECT_FAILURE("--frame-size: '64' is not a size such as 1024x768, with sides from 1 to 100",
                   "--frame-size", "64");
}

static void a_list_longer_than_its_room_is_refused(void **state)
{
    char list[OPTION_LIST_MAX * 2 + 2] = "";
    struct values values = {0};

    (void)state;
    for (int i = 0; i < OPTION_LIST_MAX; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s1", i ? "," : "");
    assert_true(PARSE(&values, NULL, "--list", list));
    assert_int_equal(values.list.count, OPTION_LIST_MAX);
    strcat(list, ",1");
    assert_false(PARSE(&values, NULL, "--list", list));
}

static void an_unknown_option_is_named_with_the_nearest_one(void **state)
{
    (void)state;
    EXPECT_FAILURE("unknown option '--cuont': did you mean --count?", "--cuont");
    EXPECT_FAILURE("unknown option '--colors=red': did you mean --colour?", "--colors=red");
    EXPECT_FAILURE("unknown option '--zebra': see 'sd35 try --help'", "--zebra");
    EXPECT_FAILURE("unknown option '-z': see 'sd35 try --help'", "-z");
}

static void a_very_long_unknown_option_is_cut_in_the_message(void **state)
{
    char word[4096];
    struct values values = {0};
    struct error err;

    (void)state;
    memset(word, 'a', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    word[0] = word[1] = '-';
    assert_false(PARSE(&values, &err, word));
    assert_true(strlen(err.message) < 120);
}

static void a_missing_value_is_named(void **state)
{
    (void)state;
    EXPECT_FAILURE("--count: the N after it is missing", "--count");
    EXPECT_FAILURE("-n: '--loud' looks like another option: write --name=--loud if it is the TEXT",
                   "-n", "--loud");
}

static void a_word_without_option_is_refused(void **state)
{
    (void)state;
    EXPECT_FAILURE("'cat' stands alone, without an option before it: see 'sd35 try --help'", "cat");
}

static void a_choice_must_be_one_of_the_listed(void **state)
{
    (void)state;
    EXPECT_FAILURE("--colour: 'blue' is not one of red|green", "--colour", "blue");
    EXPECT_FAILURE("--colour: 'red|green' is not one of red|green", "--colour", "red|green");
    EXPECT_FAILURE("--colour: '' is not one of red|green", "--colour", "");
}

static void contradictions_are_refused(void **state)
{
    (void)state;
    EXPECT_FAILURE("--count and --list contradict each other", "--count", "2", "--list", "1");
    EXPECT_FAILURE("--ratio means nothing without --name", "--ratio", "1");
}

static void the_environment_is_read_and_the_command_line_wins(void **state)
{
    struct values values = {0};

    (void)state;
    setenv("SD35_FRAME_SIZE", "10x20", 1);
    setenv("SD35_LOUD", "on", 1);
    setenv("SD35_COLOUR", "", 1);
    assert_true(PARSE(&values, NULL, "--colour", "red"));
    assert_true(values.loud);
    assert_int_equal(values.size.height, 20);
    assert_string_equal(values.colour, "red");
    assert_true(PARSE(&values, NULL, "--frame-size", "1x2", "--loud=off"));
    assert_int_equal(values.size.height, 2);
    assert_false(values.loud);
}

static void an_empty_variable_counts_as_not_set(void **state)
{
    struct values values = {.count = 4};

    (void)state;
    setenv("SD35_COUNT", "", 1);
    assert_true(PARSE(&values, NULL, "--loud"));
    assert_int_equal(values.count, 4);
}

static void a_wrong_variable_is_named(void **state)
{
    (void)state;
    setenv("SD35_COUNT", "many", 1);
    EXPECT_FAILURE("SD35_COUNT: 'many' is not a whole number from 1 to 9", "--loud");
}

static void a_variable_gives_way_to_what_contradicts_it_on_the_command_line(void **state)
{
    struct values values = {.count = 4};

    (void)state;
    setenv("SD35_COUNT", "2", 1);
    assert_true(PARSE(&values, NULL, "--list", "1"));
    assert_int_equal(values.count, 4);
    setenv("SD35_LIST", "1,2", 1);
    EXPECT_FAILURE("--count and --list contradict each other", "--loud");
}

static void a_variable_that_needs_another_option_waits_for_it(void **state)
{
    struct values values = {0};

    (void)state;
    setenv("SD35_RATIO", "0.5", 1);
    assert_true(PARSE(&values, NULL, "--loud"));
    assert_true(values.ratio == 0);
    assert_true(PARSE(&values, NULL, "--name", "a"));
    assert_true(values.ratio == 0.5);
}

static void help_wins_over_mistakes_but_not_over_values(void **state)
{
    struct values values = {0};
    bool wants_help;

    (void)state;
    assert_true(parse_words(&values, &wants_help,
                            (const char *const[]){"--zebra", "--count", "x", "-h", NULL}, NULL));
    assert_true(wants_help);
    assert_true(
        parse_words(&values, &wants_help, (const char *const[]){"--name", "-h", NULL}, NULL));
    assert_false(wants_help);
    assert_string_equal(values.name, "-h");
}

static void the_help_names_every_option_and_variable(void **state)
{
    char *text = NULL, line[128], variable[OPTION_VARIABLE_BYTES];
    size_t size;
    FILE *out = open_memstream(&text, &size);

    (void)state;
    assert_non_null(out);
    options_print_help(out, &generate_option_table);
    fclose(out);
    for (size_t i = 0; i < generate_option_table.option_count; i++) {
        const struct option *option = &generate_option_table.options[i];

        snprintf(line, sizeof line, " --%s ", option->name);
        assert_non_null(strstr(text, line));
        option_variable_name(variable, option);
        snprintf(line, sizeof line, "[%s]", variable);
        assert_non_null(strstr(text, line));
    }
    for (char *row = strtok(text, "\n"); row; row = strtok(NULL, "\n"))
        assert_true(strlen(row) <= 100);
    free(text);
}

static void the_generate_table_has_no_name_or_letter_twice(void **state)
{
    const struct option *all = generate_option_table.options;

    (void)state;
    for (size_t i = 0; i < generate_option_table.option_count; i++)
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(all[i].name, all[j].name);
            assert_false(all[i].letter && all[i].letter == all[j].letter);
        }
}

static bool parse_generate(struct generate_settings *settings, const char *const *words,
                           struct error *err)
{
    char *argv[16] = {(char *)(uintptr_t) "generate"};
    bool wants_help;
    int argc = 1;

    for (; *words; words++)
        argv[argc++] = (char *)(uintptr_t)*words;
    return generate_settings_parse(settings, &wants_help, argc, argv, err);
}

#define PARSE_GENERATE(settings, err, ...)                                                         \
    parse_generate((settings), (const char *const[16]){__VA_ARGS__}, (err))

static void generate_wants_a_model_and_a_prompt(void **state)
{
    struct generate_settings settings;
    struct error err;

    (void)state;
    assert_false(PARSE_GENERATE(&settings, &err, "--prompt", "a"));
    assert_non_null(strstr(err.message, "--model"));
    assert_false(PARSE_GENERATE(&settings, &err, "--model", "a"));
    assert_non_null(strstr(err.message, "--prompt"));
    assert_true(PARSE_GENERATE(&settings, &err, "--model", "a", "--prompt", ""));
    assert_true(PARSE_GENERATE(&settings, &err, "--model", "a", "--dry-run"));
}

static void generate_tells_what_was_not_given(void **state)
{
    struct generate_settings settings;

    (void)state;
    assert_true(PARSE_GENERATE(&settings, NULL, "--model", "a", "--prompt", "b"));
    assert_int_equal(settings.size.width, 0);
    assert_int_equal(settings.steps, 0);
    assert_true(settings.guidance < 0);
    assert_true(settings.strength < 0);
    assert_false(settings.seed.is_set);
    assert_int_equal(settings.batch, 1);
    assert_null(settings.output);
    assert_true(
        PARSE_GENERATE(&settings, NULL, "--model", "a", "--prompt", "b", "--guidance", "0"));
    assert_true(settings.guidance == 0);
}

static void generate_refuses_seeds_that_a_batch_would_run_out_of(void **state)
{
    struct generate_settings settings;

    (void)state;
    assert_false(PARSE_GENERATE(&settings, NULL, "--model", "a", "--prompt", "b", "--seed",
                                "9223372036854775807", "--batch", "2"));
    assert_true(PARSE_GENERATE(&settings, NULL, "--model", "a", "--prompt", "b", "--seed",
                               "9223372036854775800", "--batch", "2"));
}

static int clear_variables(void **state)
{
    (void)state;
    unsetenv("SD35_FRAME_SIZE");
    unsetenv("SD35_LOUD");
    unsetenv("SD35_COLOUR");
    unsetenv("SD35_COUNT");
    unsetenv("SD35_LIST");
    unsetenv("SD35_RATIO");
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, clear_variables, clear_variables)

static void a_word_of_its_own_goes_to_the_operand(void **state)
{
    struct option_table with_operand = table;
    char *once[] = {(char *)(uintptr_t) "try", (char *)(uintptr_t) "cat",
                    (char *)(uintptr_t) "--count", (char *)(uintptr_t) "3"};
    struct values values = {0};
    bool wants_help;

    (void)state;
    with_operand.operand = "name";
    assert_true(options_parse(&values, &wants_help, &with_operand, 4, once, NULL));
    assert_string_equal(values.name, "cat");
    assert_int_equal(values.count, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(options_are_read_in_every_spelling),
        TEST(the_last_of_several_values_counts),
        TEST(a_value_may_begin_with_one_dash),
        TEST(a_value_may_be_left_out_where_the_table_says_so),
        TEST(sizes_lists_and_seeds_are_read),
        TEST(numbers_with_anything_else_around_them_are_refused),
        TEST(fractions_outside_their_range_or_not_finite_are_refused),
        TEST(malformed_sizes_lists_and_seeds_are_refused),
        TEST(a_list_longer_than_its_room_is_refused),
        TEST(an_unknown_option_is_named_with_the_nearest_one),
        TEST(a_very_long_unknown_option_is_cut_in_the_message),
        TEST(a_missing_value_is_named),
        TEST(a_word_without_option_is_refused),
        TEST(a_choice_must_be_one_of_the_listed),
        TEST(contradictions_are_refused),
        TEST(the_environment_is_read_and_the_command_line_wins),
        TEST(an_empty_variable_counts_as_not_set),
        TEST(a_wrong_variable_is_named),
        TEST(a_variable_gives_way_to_what_contradicts_it_on_the_command_line),
        TEST(a_variable_that_needs_another_option_waits_for_it),
        TEST(help_wins_over_mistakes_but_not_over_values),
        TEST(a_word_of_its_own_goes_to_the_operand),
        TEST(the_help_names_every_option_and_variable),
        TEST(the_generate_table_has_no_name_or_letter_twice),
        TEST(generate_wants_a_model_and_a_prompt),
        TEST(generate_tells_what_was_not_given),
        TEST(generate_refuses_seeds_that_a_batch_would_run_out_of),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
