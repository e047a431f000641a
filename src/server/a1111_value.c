#include "server/a1111_value.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool a1111_fail(struct a1111_problem *problem, const char *field, const char *format, ...)
{
    va_list arguments;

    problem->status = 422;
    problem->code = "validation";
    snprintf(problem->field, sizeof problem->field, "%s", field);
    va_start(arguments, format);
    vsnprintf(problem->message, sizeof problem->message, format, arguments);
    va_end(arguments);
    return false;
}

bool a1111_fail_for_memory(struct a1111_problem *problem)
{
    a1111_fail(problem, "", "The server is short of memory.");
    problem->status = 503;
    problem->code = "OutOfMemoryError";
    return false;
}

static bool is_left_out(const json_t *value)
{
    return !value || json_is_null(value) ||
           (json_is_string(value) && *json_string_value(value) == '\0');
}

/* A whole text that is a finite number. */
static bool number_of_text(double *out, const char *text)
{
    char *end;

    errno = 0;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && errno == 0 && isfinite(*out);
}

static bool number_of(double *out, const json_t *value)
{
    if (json_is_string(value))
        return number_of_text(out, json_string_value(value));
    *out = json_number_value(value);
    return json_is_number(value);
}

bool a1111_number(double *out, const json_t *body, const char *name, double otherwise,
                  struct a1111_problem *problem)
{
    const json_t *value = json_object_get(body, name);

    *out = otherwise;
    if (is_left_out(value))
        return true;
    return number_of(out, value) || a1111_fail(problem, name, "value is not a valid float");
}

/* Doubles hold integers up to here exactly. */
#define EXACT_MAX 9007199254740992.0

static bool integer_of(int64_t *out, const json_t *value)
{
    double number;

    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    if (json_is_string(value)) {
        char *end;

        errno = 0;
        *out = strtoll(json_string_value(value), &end, 10);
        if (*end == '\0' && errno == 0)
            return true;
    }
    if (!number_of(&number, value) || number != floor(number) || fabs(number) > EXACT_MAX)
        return false;
    *out = (int64_t)number;
    return true;
}

bool a1111_integer(int64_t *out, const json_t *body, const char *name, int64_t otherwise,
                   struct a1111_problem *problem)
{
    const json_t *value = json_object_get(body, name);

    *out = otherwise;
    if (is_left_out(value))
        return true;
    return integer_of(out, value) || a1111_fail(problem, name, "value is not a valid integer");
}

/* 1, "true", "yes", "on" and their opposites, as Pydantic reads them. */
static bool flag_of(bool *out, const json_t *value)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    const char *text = json_string_value(value);

    if (json_is_boolean(value)) {
        *out = json_is_true(value);
        return true;
    }
    if (json_is_integer(value)) {
        *out = json_integer_value(value) == 1;
        return *out || json_integer_value(value) == 0;
    }
    for (size_t i = 0; text && i < COUNT_OF(words); i++)
        if (strcasecmp(text, words[i]) == 0) {
            *out = i % 2 == 1;
            return true;
        }
    return false;
}

bool a1111_flag(bool *out, const json_t *body, const char *name, bool otherwise,
                struct a1111_problem *problem)
{
    const json_t *value = json_object_get(body, name);

    *out = otherwise;
    if (is_left_out(value))
        return true;
    return flag_of(out, value) ||
           a1111_fail(problem, name, "value could not be parsed to a boolean");
}

bool a1111_text(const char **out, const json_t *body, const char *name, const char *otherwise,
                struct a1111_problem *problem)
{
    const json_t *value = json_object_get(body, name);

    *out = otherwise;
    if (!value || json_is_null(value))
        return true;
    if (!json_is_string(value))
        return a1111_fail(problem, name, "str type expected");
    *out = json_string_value(value);
    return true;
}
