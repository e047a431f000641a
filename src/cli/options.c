#include "cli/options.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES_MAX 32 /* of what is compared for a suggestion */

/* Where each option's value came from, while parsing. */
struct parsing {
    void *values;
    const struct option_table *table;
    bool on_command_line[OPTIONS_MAX];
    bool in_environment[OPTIONS_MAX]; /* and not given way to the command line */
};

static const struct option *find_name(const struct option_table *table, const char *name,
                                      size_t length)
{
    for (size_t i = 0; i < table->option_count; i++)
        if (strlen(table->options[i].name) == length &&
            memcmp(table->options[i].name, name, length) == 0)
            return &table->options[i];
    return NULL;
}

static const struct option *find_letter(const struct option_table *table, char letter)
{
    for (size_t i = 0; i < table->option_count; i++)
        if (letter && table->options[i].letter == letter)
            return &table->options[i];
    return NULL;
}

static size_t index_of(const struct parsing *parsing, const char *name)
{
    return (size_t)(find_name(parsing->table, name, strlen(name)) - parsing->table->options);
}

/* --- Suggestions --- */

static size_t smallest(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;

    return least < c ? least : c;
}

/* Levenshtein's distance between the first characters of two texts; b_length is below
 * NAME_BYTES_MAX. */
static size_t distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t row[NAME_BYTES_MAX];

    for (size_t j = 0; j <= b_length; j++)
        row[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t above = row[j];

            row[j] = smallest(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[b_length];
}

struct option_guess option_guess_start(const char *wrong)
{
    size_t length = strcspn(wrong, "=");

    /* A slip or two, not another word. */
    return (struct option_guess){.wrong = wrong, .distance = length / 3 + 2};
}

void option_guess_offer(struct option_guess *guess, const char *name)
{
    size_t wrong_length = strcspn(guess->wrong, "="), length = strlen(name), apart;

    if (wrong_length >= NAME_BYTES_MAX || length >= NAME_BYTES_MAX)
        return;
    apart = distance(guess->wrong, wrong_length, name, length);
    if (apart >= guess->distance)
        return;
    guess->distance = apart;
    guess->name = name;
}

static bool fail_unknown(const struct option_table *table, const char *word, struct error *err)
{
    bool is_long = word[1] == '-';
    struct option_guess guess = option_guess_start(is_long ? word + 2 : word);

    if (is_long)
        for (size_t i = 0; i < table->option_count; i++)
            option_guess_offer(&guess, table->options[i].name);
    if (guess.name)
        return error_set(err, ERROR_BAD_REQUEST, "unknown option '%.60s': did you mean --%s?", word,
                         guess.name);
    return error_set(err, ERROR_BAD_REQUEST, "unknown option '%.60s': see '%s --help'", word,
                     table->command);
}

/* --- The command line --- */

/* An argument taken apart. */
struct argument {
    const struct option *option;
    char given_as[NAME_BYTES_MAX + 2]; /* "--steps", "-s" */
    const char *value;                 /* in the same word; NULL: none there */
};

static bool take_apart(struct argument *out, const struct option_table *table, const char *word,
                       struct error *err)
{
    size_t length;

    *out = (struct argument){0};
    if (word[0] != '-' && table->operand) {
        out->option = find_name(table, table->operand, strlen(table->operand));
        out->value = word;
        snprintf(out->given_as, sizeof out->given_as, "%s", out->option->value_name);
        return true;
    }
    if (word[0] != '-' || word[1] == '\0')
        return error_set(err, ERROR_BAD_REQUEST,
                         "'%.60s' stands alone, without an option before it: see '%s --help'", word,
                         table->command);
    if (word[1] == '-') {
        length = strcspn(word + 2, "=");
        out->option = find_name(table, word + 2, length);
        out->value = word[2 + length] == '=' ? word + 3 + length : NULL;
    } else {
        out->option = find_letter(table, word[1]);
        out->value = word[2] ? word + 2 : NULL;
    }
    if (!out->option)
        return fail_unknown(table, word, err);
    if (word[1] == '-')
        snprintf(out->given_as, sizeof out->given_as, "--%s", out->option->name);
    else
        snprintf(out->given_as, sizeof out->given_as, "-%c", word[1]);
    return true;
}

/* The value may be the next word, which *at then moves over. */
static bool find_value(struct argument *argument, int *at, int argc, char *const *argv,
                       struct error *err)
{
    if (argument->value)
        return true;
    if (argument->option->kind == OPTION_FLAG) {
        argument->value = "yes";
        return true;
    }
    if (argument->option->kind == OPTION_OPTIONAL_TEXT &&
        (*at + 1 >= argc || argv[*at + 1][0] == '-')) {
        argument->value = "";
        return true;
    }
    if (*at + 1 >= argc)
        return error_set(err, ERROR_BAD_REQUEST, "%s: the %s after it is missing",
                         argument->given_as, argument->option->value_name);
    if (strncmp(argv[*at + 1], "--", 2) == 0)
        return error_set(err, ERROR_BAD_REQUEST,
                         "%s: '%.60s' looks like another option: write --%s=%.60s if it is the %s",
                         argument->given_as, argv[*at + 1], argument->option->name, argv[*at + 1],
                         argument->option->value_name);
    argument->value = argv[++*at];
    return true;
}

static bool asks_for_help(const struct option_table *table, int argc, char *const *argv)
{
    for (int i = 1; i < argc; i++) {
        struct argument argument;

        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
        /* Step over values: '--prompt -h' asks for a picture. */
        if (take_apart(&argument, table, argv[i], NULL))
            (void)!find_value(&argument, &i, argc, argv, NULL);
    }
    return false;
}

static bool read_arguments(struct parsing *parsing, int argc, char *const *argv, struct error *err)
{
    for (int i = 1; i < argc; i++) {
        struct argument argument;

        if (!take_apart(&argument, parsing->table, argv[i], err) ||
            !find_value(&argument, &i, argc, argv, err) ||
            !option_set(parsing->values, argument.option, argument.given_as, argument.value, err))
            return false;
        parsing->on_command_line[argument.option - parsing->table->options] = true;
    }
    return true;
}

/* --- The environment --- */

void option_variable_name(char name[OPTION_VARIABLE_BYTES], const struct option *option)
{
    snprintf(name, OPTION_VARIABLE_BYTES, "SD35_%s", option->name);
    for (char *at = name; *at; at++)
        *at = *at == '-' ? '_' : (char)toupper((unsigned char)*at);
}

static const char *variable_of(const struct option *option)
{
    char name[OPTION_VARIABLE_BYTES];
    const char *text;

    option_variable_name(name, option);
    text = getenv(name);
    return text && *text ? text : NULL;
}

/* Variables count only where the command line does not say otherwise. */
static void find_variables(struct parsing *parsing)
{
    const struct option_table *table = parsing->table;

    for (size_t i = 0; i < table->option_count; i++)
        parsing->in_environment[i] =
            !parsing->on_command_line[i] && variable_of(&table->options[i]);
    for (size_t i = 0; i < table->conflict_count; i++) {
        size_t first = index_of(parsing, table->conflicts[i].first);
        size_t second = index_of(parsing, table->conflicts[i].second);

        if (parsing->on_command_line[first])
            parsing->in_environment[second] = false;
        if (parsing->on_command_line[second])
            parsing->in_environment[first] = false;
    }
    for (size_t i = 0; i < table->dependent_count; i++) {
        size_t needed = index_of(parsing, table->dependents[i].second);

        if (!parsing->on_command_line[needed] && !parsing->in_environment[needed])
            parsing->in_environment[index_of(parsing, table->dependents[i].first)] = false;
    }
}

static bool read_variables(struct parsing *parsing, struct error *err)
{
    const struct option_table *table = parsing->table;
    char name[OPTION_VARIABLE_BYTES];

    for (size_t i = 0; i < table->option_count; i++) {
        if (!parsing->in_environment[i])
            continue;
        option_variable_name(name, &table->options[i]);
        if (!option_set(parsing->values, &table->options[i], name, variable_of(&table->options[i]),
                        err))
            return false;
    }
    return true;
}

/* --- Both --- */

static bool is_given(const struct parsing *parsing, const char *name)
{
    size_t i = index_of(parsing, name);

    return parsing->on_command_line[i] || parsing->in_environment[i];
}

static bool check_pairs(const struct parsing *parsing, struct error *err)
{
    const struct option_table *table = parsing->table;

    for (size_t i = 0; i < table->conflict_count; i++)
        if (is_given(parsing, table->conflicts[i].first) &&
            is_given(parsing, table->conflicts[i].second))
            return error_set(err, ERROR_BAD_REQUEST, "--%s and --%s contradict each other",
                             table->conflicts[i].first, table->conflicts[i].second);
    for (size_t i = 0; i < table->dependent_count; i++)
        if (is_given(parsing, table->dependents[i].first) &&
            !is_given(parsing, table->dependents[i].second))
            return error_set(err, ERROR_BAD_REQUEST, "--%s means nothing without --%s",
                             table->dependents[i].first, table->dependents[i].second);
    return true;
}

bool options_parse(void *values, bool *wants_help, const struct option_table *table, int argc,
                   char *const *argv, struct error *err)
{
    struct parsing parsing = {.values = values, .table = table};

    *wants_help = asks_for_help(table, argc, argv);
    if (*wants_help)
        return true;
    if (!read_arguments(&parsing, argc, argv, err))
        return false;
    find_variables(&parsing);
    return read_variables(&parsing, err) && check_pairs(&parsing, err);
}
