/* The help of a command, from its table. */
#include <string.h>

#include "cli/options.h"

#define LINE_WIDTH 96
#define HELP_COLUMN 32

/* Writes `text` word by word from column `column`, further lines from HELP_COLUMN. */
static void print_wrapped(FILE *out, const char *text, int column)
{
    bool is_first = true;

    while (*text) {
        int length = (int)strcspn(text, " ");

        if (!is_first && column + 1 + length > LINE_WIDTH) {
            fprintf(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (!is_first) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", length, text);
        column += length;
        text += length + (text[length] == ' ');
        is_first = false;
    }
    fputc('\n', out);
}

static void print_option(FILE *out, const struct option *option)
{
    char variable[OPTION_VARIABLE_BYTES], text[512], letter[8] = "    ";
    int column;

    if (option->heading)
        fprintf(out, "\n%s:\n", option->heading);
    if (option->letter)
        snprintf(letter, sizeof letter, "-%c, ", option->letter);
    option_variable_name(variable, option);
    snprintf(text, sizeof text, "%s [%s]", option->help, variable);
    column = fprintf(out, "  %s--%s%s%s", letter, option->name, option->value_name ? " " : "",
                     option->value_name ? option->value_name : "");
    if (column < HELP_COLUMN - 1)
        fprintf(out, "%*s", HELP_COLUMN - column, "");
    else
        fprintf(out, "\n%*s", HELP_COLUMN, "");
    print_wrapped(out, text, HELP_COLUMN);
}

void options_print_help(FILE *out, const struct option_table *table)
{
    fprintf(out, "usage: %s %s\n\n%s\n", table->command, table->usage, table->summary);
    for (size_t i = 0; i < table->option_count; i++)
        print_option(out, &table->options[i]);
    fputs("\nEach option can also be given by the environment variable in brackets; the command "
          "line wins.\n",
          out);
}
