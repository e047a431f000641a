#include "server/a1111_infotext.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/attributes.h"

#define PAIRS_MIN 3 /* fewer, and the last line belongs to the prompt */
#define NEGATIVE "Negative prompt:"
/* A longer last line is part of the prompt: what taking it apart can cost grows with its square. */
#define LINE_BYTES_MAX 32768

/* One "key: value" of the last line; views into it. */
struct pair {
    const char *key, *value;
    size_t key_length, value_length;
};

/* Letters of any script, digits and "_"; bytes above ASCII are taken for letters. */
static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The end of a JSON string that begins at `at`; NULL: it has none, or is empty. */
static const char *quoted_end(const char *at)
{
    const char *end = at + 1;

    while (*end && *end != '"') {
        if (*end == '\\' && !end[1])
            return NULL;
        end += *end == '\\' ? 2 : 1;
    }
    return *end == '"' && end > at + 1 ? end + 1 : NULL;
}

/* `\w[\w \-/]+:` at `at`, then the value up to a comma or the end. *next is behind the comma. */
static bool match_at(struct pair *pair, const char *at, const char **next)
{
    const char *end = at;
    const char *quoted;

    if (!is_word(*at))
        return false;
    while (is_word(*end) || *end == ' ' || *end == '-' || *end == '/')
        end++;
    if (*end != ':' || end - at < 2)
        return false;
    pair->key = at;
    pair->key_length = (size_t)(end - at);
    for (end++; is_space(*end);)
        end++;
    quoted = *end == '"' ? quoted_end(end) : NULL;
    if (!quoted || (*quoted && *quoted != ','))
        quoted = end + strcspn(end, ",");
    pair->value = end;
    pair->value_length = (size_t)(quoted - end);
    *next = *quoted ? quoted + 1 : quoted;
    return true;
}

/* Behind the run of a key's characters at `at`: where it is no pair, none begins inside it. */
static const char *skip_run(const char *at)
{
    const char *end = at;

    while (is_word(*end) || *end == ' ' || *end == '-' || *end == '/')
        end++;
    return end > at ? end : at + 1;
}

/* The next pair from *at on, which moves behind it. */
static bool next_pair(struct pair *pair, const char **at)
{
    const char *start = *at;

    while (*start) {
        while (is_space(*start))
            start++;
        if (match_at(pair, start, at))
            return true;
        start = *start ? skip_run(start) : start;
    }
    return false;
}

static int count_pairs(const char *line)
{
    struct pair pair;
    int count = 0;

    while (next_pair(&pair, &line))
        count++;
    return count;
}

/* --- Values --- */

static json_t *text_json(const char *text, size_t length)
{
    return json_stringn(text, length);
}

/* What the pair's value means: quoted ones are JSON. */
static json_t *value_json(const struct pair *pair)
{
    json_t *value = NULL;

    if (pair->value_length > 1 && pair->value[0] == '"')
        value = json_loadb(pair->value, pair->value_length, JSON_DECODE_ANY, NULL);
    return value ? value : text_json(pair->value, pair->value_length);
}

/* "1024x768" alone: where its "x" is; NULL: it is none. */
static const char *size_cross(const char *text)
{
    size_t width = strspn(text, "0123456789");
    size_t height = text[width] == 'x' ? strspn(text + width + 1, "0123456789") : 0;

    return width > 0 && height > 0 && !text[width + 1 + height] ? text + width : NULL;
}

static bool set_half(json_t *out, const struct pair *pair, int half, const char *text,
                     size_t length)
{
    json_t *key = json_sprintf("%.*s-%d", (int)pair->key_length, pair->key, half);
    bool ok = key && json_object_set_new(out, json_string_value(key), text_json(text, length)) == 0;

    json_decref(key);
    return ok;
}

/* Takes `value`. */
static bool set_value(json_t *out, const struct pair *pair, json_t *value)
{
    const char *text = json_string_value(value);
    const char *cross = text ? size_cross(text) : NULL;
    json_t *key;
    bool ok;

    if (cross) {
        ok = set_half(out, pair, 1, text, (size_t)(cross - text)) &&
             set_half(out, pair, 2, cross + 1, strlen(cross + 1));
        json_decref(value);
        return ok;
    }
    key = text_json(pair->key, pair->key_length);
    ok = key && json_object_set(out, json_string_value(key), value) == 0;
    json_decref(key);
    json_decref(value);
    return ok;
}

static bool add_pairs(json_t *out, const char *line)
{
    struct pair pair;

    while (next_pair(&pair, &line))
        if (pair.key_length < 256 && !set_value(out, &pair, value_json(&pair)))
            return false;
    return true;
}

static bool add_defaults(json_t *out)
{
    static const struct {
        const char *key, *value;
    } defaults[] = {{"Clip skip", "1"},
                    {"RNG", "GPU"},
                    {"Schedule type", "Automatic"},
                    {"FP8 weight", "Disable"},
                    {"Mask mode", "Inpaint masked"},
                    {"Masked content", "original"},
                    {"Inpaint area", "Whole picture"}};

    for (size_t i = 0; i < COUNT_OF(defaults); i++)
        if (!json_object_get(out, defaults[i].key) &&
            json_object_set_new(out, defaults[i].key, json_string(defaults[i].value)) != 0)
            return false;
    return true;
}

/* --- The whole --- */

/* Takes the white space around it away. */
static void trim(const char **text, size_t *length)
{
    while (*length > 0 && is_space((*text)[*length - 1]))
        --*length;
    while (*length > 0 && is_space(**text)) {
        ++*text;
        --*length;
    }
}

/* A line of a prompt; lines before the first that has something do not count. */
static void write_line(FILE *out, const char *line, size_t length)
{
    if (ftell(out) > 0)
        fputc('\n', out);
    fwrite(line, 1, length, out);
}

/* From a line that begins with "Negative prompt:" on, lines belong to that. */
static void split_prompts(FILE *prompt, FILE *negative, const char *text, size_t length)
{
    const char *end = text + length;
    FILE *out = prompt;

    while (text < end) {
        const char *next = memchr(text, '\n', (size_t)(end - text)), *line = text;
        size_t line_length = (size_t)((next ? next : end) - text);

        trim(&line, &line_length);
        if (line_length >= strlen(NEGATIVE) && memcmp(line, NEGATIVE, strlen(NEGATIVE)) == 0) {
            out = negative;
            line += strlen(NEGATIVE);
            line_length -= strlen(NEGATIVE);
            trim(&line, &line_length);
        }
        write_line(out, line, line_length);
        text = next ? next + 1 : end;
    }
}

/* Closes `stream`, whose bytes are at *text. */
static bool add_prompt(json_t *out, const char *name, FILE *stream, char **text)
{
    bool ok = stream && fclose(stream) == 0;

    ok = ok && json_object_set_new(out, name, json_string(*text)) == 0;
    free(*text);
    return ok;
}

static bool add_prompts(json_t *out, const char *text, size_t length)
{
    char *prompt_text = NULL, *negative_text = NULL;
    size_t prompt_size, negative_size;
    FILE *prompt = open_memstream(&prompt_text, &prompt_size);
    FILE *negative = open_memstream(&negative_text, &negative_size);
    bool ok;

    if (prompt && negative)
        split_prompts(prompt, negative, text, length);
    ok = add_prompt(out, "Prompt", prompt, &prompt_text);
    return add_prompt(out, "Negative prompt", negative, &negative_text) && ok;
}

/* `text` has no white space at its end. */
static json_t *parse_trimmed(const char *text)
{
    size_t length = strlen(text);
    const char *line = strrchr(text, '\n');
    json_t *out = json_object();

    line = line ? line + 1 : text;
    if (strlen(line) <= LINE_BYTES_MAX && count_pairs(line) >= PAIRS_MIN)
        length = (size_t)(line - text);
    else
        line = "";
    if (out && add_prompts(out, text, length) && add_pairs(out, line) && add_defaults(out))
        return out;
    json_decref(out);
    return NULL;
}

json_t *a1111_infotext_parse(const char *text)
{
    size_t length = strlen(text);
    char *trimmed;
    json_t *out;

    while (length > 0 && is_space(text[length - 1]))
        length--;
    trimmed = strndup(text, length);
    out = trimmed ? parse_trimmed(trimmed) : NULL;
    free(trimmed);
    return out;
}
