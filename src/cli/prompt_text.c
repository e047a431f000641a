#include "cli/prompt_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

#include "base/file.h"
#include "pipeline/pipeline.h"

static bool fail_long(struct error *err)
{
    return error_set(err, ERROR_BAD_REQUEST, "the text has more than the %d bytes allowed",
                     PIPELINE_PROMPT_BYTES_MAX);
}

static bool read_standard_input(unsigned char **out, size_t *out_size, const atomic_bool *cancel,
                                struct error *err)
{
    size_t room = PIPELINE_PROMPT_BYTES_MAX + 2, used = 0; /* a line's end, and one too many */
    unsigned char *bytes = malloc(room + 1);

    if (!bytes)
        return error_set(err, ERROR_NO_MEMORY, "%zu bytes", room);
    while (used < room) {
        ssize_t got = atomic_load(cancel) ? -1 : read(STDIN_FILENO, bytes + used, room - used);

        if (got == 0)
            break;
        if (got > 0) {
            used += (size_t)got;
        } else if (atomic_load(cancel)) {
            free(bytes);
            return error_set(err, ERROR_CANCELLED, "cancelled");
        } else if (errno != EINTR) {
            error_set_errno(err, errno, "reading standard input");
            free(bytes);
            return false;
        }
    }
    bytes[used] = '\0';
    *out = bytes;
    *out_size = used;
    return true;
}

static bool read_argument(unsigned char **out, size_t *out_size, const char *text,
                          struct error *err)
{
    *out = (unsigned char *)strdup(text);
    if (!*out)
        return error_set(err, ERROR_NO_MEMORY, "%zu bytes", strlen(text));
    *out_size = strlen(text);
    return true;
}

static size_t without_line_end(const unsigned char *bytes, size_t size)
{
    size -= size > 0 && bytes[size - 1] == '\n';
    return size - (size > 0 && bytes[size - 1] == '\r');
}

static bool check(const unsigned char *bytes, size_t size, struct error *err)
{
    size_t at = 0;

    if (size > PIPELINE_PROMPT_BYTES_MAX)
        return fail_long(err);
    while (at < size) {
        utf8proc_int32_t code;
        utf8proc_ssize_t used = utf8proc_iterate(bytes + at, (utf8proc_ssize_t)(size - at), &code);

        if (used < 1)
            return error_set(err, ERROR_BAD_REQUEST, "the text is not UTF-8 at byte %zu", at);
        if (code == 0)
            return error_set(err, ERROR_BAD_REQUEST, "the text has a NUL at byte %zu", at);
        at += (size_t)used;
    }
    return true;
}

static bool read_any(unsigned char **out, size_t *out_size, const char *given,
                     const atomic_bool *cancel, struct error *err)
{
    if (strcmp(given, "-") == 0) {
        if (!read_standard_input(out, out_size, cancel, err))
            return false;
    } else if (given[0] == '@' && given[1] != '@') {
        if (!file_read(out, out_size, given + 1, PIPELINE_PROMPT_BYTES_MAX + 2, err))
            return false;
    } else {
        return read_argument(out, out_size, given[0] == '@' ? given + 1 : given, err);
    }
    *out_size = without_line_end(*out, *out_size);
    return true;
}

bool prompt_text_read(char **out, const char *given, const char *name, const atomic_bool *cancel,
                      struct error *err)
{
    unsigned char *bytes = NULL;
    size_t size;

    *out = NULL;
    if (!given)
        return true;
    if (!read_any(&bytes, &size, given, cancel, err))
        return error_in(err, "%s", name);
    if (!check(bytes, size, err)) {
        free(bytes);
        return error_in(err, "%s", name);
    }
    bytes[size] = '\0';
    *out = (char *)bytes;
    return true;
}
