#include "check/findings.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUES_MAX 8

struct values {
    const char *key[VALUES_MAX], *text[VALUES_MAX];
    size_t count;
};

/* As a word of sh that means exactly this text. */
static void write_shell_word(FILE *out, const char *text)
{
    bool is_plain = *text != '\0';

    for (const char *at = text; *at && is_plain; at++)
        is_plain = isalnum((unsigned char)*at) || strchr("/._-+:=@%,", *at);
    if (is_plain) {
        fputs(text, out);
        return;
    }
    fputc('\'', out);
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", out);
        else
            fputc(*text, out);
    }
    fputc('\'', out);
}

/* Writes the value of "key}" or "key!}" at `name`; the length up to and with the brace, or 0 when
 * there is no such key. */
static size_t write_value(FILE *out, const char *name, const struct values *values)
{
    size_t length = strcspn(name, "}!");
    bool is_word = name[length] == '!';

    for (size_t i = 0; i < values->count; i++) {
        if (strlen(values->key[i]) != length || strncmp(values->key[i], name, length) != 0)
            continue;
        if (is_word)
            write_shell_word(out, values->text[i]);
        else
            fputs(values->text[i], out);
        return length + 1 + is_word;
    }
    return 0;
}

/* NULL for a NULL template, and when memory is short. */
static char *fill_in(const char *template, const struct values *values)
{
    char *text = NULL;
    size_t size;
    FILE *out = template ? open_memstream(&text, &size) : NULL;

    if (!out)
        return NULL;
    while (*template) {
        size_t used = *template == '{' ? write_value(out, template + 1, values) : 0;

        if (used == 0)
            fputc(*template, out);
        template += used + 1;
    }
    if (ferror(out) | fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

void findings_add(struct findings *findings, enum finding_level level, enum check_row row, ...)
{
    const struct check_text *text = check_text(row);
    const enum language language = findings->language;
    struct values values = {.count = 0};
    struct finding finding = {.level = level, .subject = text->subject, .code = text->code};
    va_list arguments;

    va_start(arguments, row);
    for (const char *key; values.count < VALUES_MAX && (key = va_arg(arguments, const char *));) {
        values.key[values.count] = key;
        values.text[values.count++] = va_arg(arguments, const char *);
    }
    va_end(arguments);
    finding.found = fill_in(text->found[language], &values);
    finding.cure = level == FINDING_OK ? NULL : fill_in(text->cure[language], &values);
    if (findings->count == FINDINGS_MAX || !finding.found) {
        free(finding.found);
        free(finding.cure);
        if (findings->count > 0)
            findings->items[findings->count - 1].level = FINDING_FAIL;
        return;
    }
    findings->items[findings->count++] = finding;
}

void findings_finish(struct findings *findings)
{
    for (size_t i = 0; i < findings->count; i++) {
        free(findings->items[i].found);
        free(findings->items[i].cure);
    }
    findings->count = 0;
}

bool findings_have(const struct findings *findings, enum finding_level level)
{
    for (size_t i = 0; i < findings->count; i++)
        if (findings->items[i].level == level)
            return true;
    return false;
}
