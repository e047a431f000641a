/* Values of options: strict, so that a slip of the finger is a message and not another picture. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"

/* Longer texts are cut in messages. */
#define SHOWN_BYTES 60

static bool fail(const char *given_as, const char *text, const char *wanted, struct error *err)
{
    return error_set(err, ERROR_BAD_REQUEST, "%s: '%.*s' is not %s", given_as, SHOWN_BYTES, text,
                     wanted);
}

/* Digits, with a minus sign before them where it is allowed; all of the `length` characters. */
static bool parse_integer(long long *out, const char *text, size_t length)
{
    char copy[24];
    size_t digits = text[0] == '-' ? length - 1 : length;
    const char *first = text + (length - digits);

    if (digits == 0 || length >= sizeof copy || strspn(first, "0123456789") < digits)
        return false;
    memcpy(copy, text, length);
    copy[length] = '\0';
    errno = 0;
    *out = strtoll(copy, NULL, 10);
    return errno == 0;
}

static bool parse_int_between(int *out, const char *text, size_t length,
                              const struct option *option)
{
    long long value;

    if (!parse_integer(&value, text, length) || (double)value < option->low ||
        (double)value > option->high)
        return false;
    *out = (int)value;
    return true;
}

static bool set_integer(int *out, const struct option *option, const char *given_as,
                        const char *text, struct error *err)
{
    char wanted[80];

    if (parse_int_between(out, text, strlen(text), option))
        return true;
    snprintf(wanted, sizeof wanted, "a whole number from %.0f to %.0f", option->low, option->high);
    return fail(given_as, text, wanted, err);
}

static bool set_number(double *out, const struct option *option, const char *given_as,
                       const char *text, struct error *err)
{
    char wanted[80];
    char *end;
    double value;

    /* strtod also takes spaces, hexadecimal numbers, infinity and NaN. */
    if (strspn(text, "0123456789.eE+-") == strlen(text)) {
        value = strtod(text, &end);
        if (end != text && *end == '\0' && isfinite(value) && value >= option->low &&
            value <= option->high) {
            *out = value;
            return true;
        }
    }
    snprintf(wanted, sizeof wanted, "a number from %g to %g", option->low, option->high);
    return fail(given_as, text, wanted, err);
}

static bool set_flag(bool *out, const char *given_as, const char *text, struct error *err)
{
    static const struct {
        const char *word;
        bool value;
    } words[] = {
        {"1", true},  {"yes", true}, {"true", true},   {"on", true},
        {"0", false}, {"no", false}, {"false", false}, {"off", false},
    };

    for (size_t i = 0; i < COUNT_OF(words); i++)
        if (strcmp(text, words[i].word) == 0) {
            *out = words[i].value;
            return true;
        }
    return fail(given_as, text, "yes or no", err);
}

static bool set_choice(const char **out, const struct option *option, const char *given_as,
                       const char *text, struct error *err)
{
    size_t length = strlen(text), each;
    char wanted[128];

    for (const char *at = option->choices; *at; at += each + (at[each] == '|')) {
        each = strcspn(at, "|");
        if (each == length && memcmp(at, text, length) == 0) {
            *out = text;
            return true;
        }
    }
    snprintf(wanted, sizeof wanted, "one of %s", option->choices);
    return fail(given_as, text, wanted, err);
}

static bool set_seed(struct option_seed *out, const char *given_as, const char *text,
                     struct error *err)
{
    if (strcmp(text, "-1") == 0) {
        *out = (struct option_seed){0};
        return true;
    }
    errno = 0;
    if (*text && strspn(text, "0123456789") == strlen(text)) {
        long long value = strtoll(text, NULL, 10);

        if (errno == 0) {
            *out = (struct option_seed){.is_set = true, .value = (uint64_t)value};
            return true;
        }
    }
    return fail(given_as, text, "a whole number from 0 to 9223372036854775807, or -1 for any", err);
}

static bool set_size(struct option_size *out, const struct option *option, const char *given_as,
                     const char *text, struct error *err)
{
    size_t width_length = strcspn(text, "xX");
    const char *height = text + width_length + (text[width_length] != '\0');
    struct option_size size;
    char wanted[96];

    if (parse_int_between(&size.width, text, width_length, option) &&
        parse_int_between(&size.height, height, strlen(height), option)) {
        *out = size;
        return true;
    }
    snprintf(wanted, sizeof wanted, "a size such as 1024x768, with sides from %.0f to %.0f",
             option->low, option->high);
    return fail(given_as, text, wanted, err);
}

static bool set_list(struct option_list *out, const struct option *option, const char *given_as,
                     const char *text, struct error *err)
{
    struct option_list list = {0};
    const char *at = text;
    char wanted[96];

    for (;;) {
        size_t length = strcspn(at, ",");

        if (list.count == OPTION_LIST_MAX ||
            !parse_int_between(&list.values[list.count++], at, length, option))
            break;
        if (at[length] == '\0') {
            *out = list;
            return true;
        }
        at += length + 1;
    }
    snprintf(wanted, sizeof wanted, "a list such as 7,8,9, of up to %d numbers from %.0f to %.0f",
             OPTION_LIST_MAX, option->low, option->high);
    return fail(given_as, text, wanted, err);
}

bool option_set(void *values, const struct option *option, const char *given_as, const char *text,
                struct error *err)
{
    void *field = (char *)values + option->offset;

    switch (option->kind) {
    case OPTION_FLAG:
        return set_flag(field, given_as, text, err);
    case OPTION_TEXT:
    case OPTION_OPTIONAL_TEXT:
        *(const char **)field = text;
        return true;
    case OPTION_CHOICE:
        return set_choice(field, option, given_as, text, err);
    case OPTION_INTEGER:
        return set_integer(field, option, given_as, text, err);
    case OPTION_NUMBER:
        return set_number(field, option, given_as, text, err);
    case OPTION_SEED:
        return set_seed(field, given_as, text, err);
    case OPTION_SIZE:
        return set_size(field, option, given_as, text, err);
    case OPTION_LIST:
        return set_list(field, option, given_as, text, err);
    }
    return error_set(err, ERROR_BAD_REQUEST, "%s: unknown kind", given_as);
}
