/* Options of a command: one table each, from which the parsing, the environment names and the help
 * are made.
 *
 * An option is given as --name VALUE, --name=VALUE, -l VALUE or by the environment: --flow-shift is
 * SD35_FLOW_SHIFT there. The command line wins, an empty variable counts as not set. Values are
 * written into a struct of the command's own; what is not given leaves its field alone.
 */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/attributes.h"
#include "base/error.h"

enum option_kind {
    OPTION_FLAG,          /* bool; with a value: yes or no, true or false, on or off, 1 or 0 */
    OPTION_TEXT,          /* const char *: borrowed from the arguments or the environment */
    OPTION_OPTIONAL_TEXT, /* the same, or "" when nothing follows that could be a value */
    OPTION_CHOICE,        /* const char *: one of `choices` */
    OPTION_INTEGER,       /* int in [low, high] */
    OPTION_NUMBER,        /* double in [low, high] */
    OPTION_SEED,          /* struct option_seed */
    OPTION_SIZE,          /* struct option_size, sides in [low, high] */
    OPTION_LIST,          /* struct option_list, integers in [low, high] */
};

struct option_seed {
    bool is_set; /* false for -1, which asks for any seed */
    uint64_t value;
};

struct option_size {
    int width, height;
};

#define OPTION_LIST_MAX 64

struct option_list {
    int count;
    int values[OPTION_LIST_MAX];
};

struct option {
    const char *name; /* without the dashes */
    char letter;      /* 0: none */
    enum option_kind kind;
    size_t offset;          /* of the field */
    const char *value_name; /* for the help; NULL for flags */
    double low, high;
    const char *choices; /* "auto|none" */
    const char *help;
    const char *heading; /* for the help: a section begins here; NULL: it goes on */
};

/* Two options by name. */
struct option_pair {
    const char *first, *second;
};

struct option_table {
    const char *command; /* "sd35 generate" */
    const char *usage;   /* what follows the command in the help's first line */
    const char *summary; /* one sentence */
    const struct option *options;
    size_t option_count;                  /* up to OPTIONS_MAX */
    const struct option_pair *conflicts;  /* never together */
    size_t conflict_count;                /* a variable gives way to the command line */
    const struct option_pair *dependents; /* the first means nothing without the second */
    size_t dependent_count;               /* a variable for the first is not looked at then */
    const char *operand; /* the option that a word of its own is for; NULL: none is allowed */
};

#define OPTIONS_MAX 64

/* Fills `values`. *wants_help is set for --help and -h, and nothing is checked then. Fails with
 * ERROR_BAD_REQUEST and a sentence that names the option. */
MUST_CHECK bool options_parse(void *values, bool *wants_help, const struct option_table *table,
                              int argc, char *const *argv, struct error *err);

void options_print_help(FILE *out, const struct option_table *table);

/* "SD35_FLOW_SHIFT" for "flow-shift". */
#define OPTION_VARIABLE_BYTES 64
void option_variable_name(char name[OPTION_VARIABLE_BYTES], const struct option *option);

/* The name that was probably meant by a wrong one: the nearest of those offered, NULL when none is
 * near. */
struct option_guess {
    const char *wrong; /* up to an end or a '=' */
    const char *name;
    size_t distance; /* only nearer ones count */
};
struct option_guess option_guess_start(const char *wrong);
void option_guess_offer(struct option_guess *guess, const char *name);

/* Reads `text` into the option's field. `given_as` is what the person wrote, for the message. */
MUST_CHECK bool option_set(void *values, const struct option *option, const char *given_as,
                           const char *text, struct error *err);

#endif
