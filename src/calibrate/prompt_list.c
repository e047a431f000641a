#include "calibrate/prompt_list.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/file.h"

/* Things, colours, people, text, night and day, plain and crowded: what layers are sensitive to
 * differs. The first two are what single layers are measured with. */
static const char *const shipped[] = {
    "a red apple on a blue background",
    "a cat to the left of a dog, yellow background",
    "an old lighthouse on a cliff at sunset, waves below, oil painting",
    "portrait photograph of a smiling woman with freckles, soft window light",
    "three balloons on a green background",
    "a wooden sign that says OPEN, in front of a small shop",
    "a rocket on a black background",
    "a crowded street market at night in the rain, neon lights reflected in puddles",
};

static bool fail_line(const char *path, int line, const char *what, struct error *err)
{
    return error_set(err, ERROR_BAD_REQUEST, "prompts in '%s': line %d %s", path, line, what);
}

static bool is_utf8(const char *text, size_t length)
{
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    utf8proc_int32_t code;
    utf8proc_ssize_t used;

    for (size_t at = 0; at < length; at += (size_t)used) {
        used = utf8proc_iterate(bytes + at, (utf8proc_ssize_t)(length - at), &code);
        if (used < 1 || code == 0)
            return false;
    }
    return true;
}

/* `text` is one line of `length` bytes; ends it with a NUL. */
static bool add_line(struct prompt_list *list, const char *path, int line, char *text,
                     size_t length, struct error *err)
{
    if (!is_utf8(text, length))
        return fail_line(path, line, "is not UTF-8 text", err);
    while (length > 0 && strchr(" \t\r", text[length - 1]))
        length--;
    for (; length > 0 && strchr(" \t", *text); length--)
        text++;
    if (length == 0 || *text == '#')
        return true;
    if (length > PROMPT_LIST_PROMPT_BYTES_MAX)
        return error_set(err, ERROR_BAD_REQUEST,
                         "prompts in '%s': line %d has more than the %d bytes allowed", path, line,
                         PROMPT_LIST_PROMPT_BYTES_MAX);
    if (list->count == PROMPT_LIST_MAX)
        return error_set(err, ERROR_BAD_REQUEST,
                         "prompts in '%s': there are more than the %d allowed", path,
                         PROMPT_LIST_MAX);
    text[length] = '\0';
    list->prompt[list->count++] = text;
    return true;
}

static bool split(struct prompt_list *list, const char *path, size_t size, struct error *err)
{
    char *at = list->text, *end = list->text + size;

    for (int line = 1; at < end; line++) {
        char *line_end = memchr(at, '\n', (size_t)(end - at));

        if (!line_end)
            line_end = end; /* file_read put a NUL there */
        if (!add_line(list, path, line, at, (size_t)(line_end - at), err))
            return false;
        at = line_end + 1;
    }
    if (list->count == 0)
        return error_set(err, ERROR_BAD_REQUEST, "prompts in '%s': there are none", path);
    return true;
}

bool prompt_list_read(struct prompt_list *list, const char *path, struct error *err)
{
    unsigned char *bytes;
    size_t size;

    *list = (struct prompt_list){0};
    if (!path || !*path) {
        memcpy(list->prompt, shipped, sizeof shipped);
        list->count = COUNT_OF(shipped);
        return true;
    }
    if (!file_read(&bytes, &size, path, PROMPT_LIST_FILE_BYTES_MAX, err))
        return error_in(err, "prompts");
    list->text = (char *)bytes;
    if (split(list, path, size, err))
        return true;
    prompt_list_finish(list);
    return false;
}

void prompt_list_finish(struct prompt_list *list)
{
    free(list->text);
    *list = (struct prompt_list){0};
}
