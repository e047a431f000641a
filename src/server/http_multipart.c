/* multipart/form-data (RFC 7578), over a body that is in memory already. Strict: lines end with
 * CRLF, every part names its field, nothing follows the last boundary but one line's end. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/http_private.h"

#define BOUNDARY_BYTES_MAX 70
#define PART_HEADERS_BYTES_MAX 4096

struct reader {
    const char *at, *end;
    char delimiter[BOUNDARY_BYTES_MAX + 5]; /* "\r\n--" and the boundary */
    size_t delimiter_length;
    char *text, *text_at; /* names, filenames and types */
};

/* Copies the parameter `name` of a header's value, quoted or not, to *out, which moves on. NULL:
 * none. *is_broken: a quote without an end. */
static char *copy_parameter(char **out, const char *value, size_t size, const char *name,
                            bool *is_broken)
{
    const char *end = value + size;
    size_t length = strlen(name);
    char *start = *out, *to;
    const char *at = memchr(value, ';', size);

    while (at && at < end) {
        bool is_wanted;

        at++;
        while (at < end && (*at == ' ' || *at == '\t'))
            at++;
        is_wanted =
            (size_t)(end - at) > length && strncasecmp(at, name, length) == 0 && at[length] == '=';
        while (at < end && *at != '=' && *at != ';')
            at++;
        if (at == end || *at == ';')
            continue;
        at++;
        to = start;
        if (at < end && *at == '"') {
            for (at++; at < end && *at != '"'; at++) {
                if (*at == '\\' && end - at > 1 && (at[1] == '"' || at[1] == '\\'))
                    at++;
                *to++ = *at;
            }
            if (at == end) {
                *is_broken = true;
                return NULL;
            }
            at++;
        } else {
            while (at < end && *at != ';' && *at != ' ' && *at != '\t')
                *to++ = *at++;
        }
        if (is_wanted) {
            *to = '\0';
            *out = to + 1;
            return start;
        }
        while (at < end && *at != ';')
            at++;
    }
    return NULL;
}

static bool is_boundary_character(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("'()+_,-./:=? ", c));
}

static const char *read_boundary(struct reader *reader, const char *type)
{
    static const char wanted[] = "multipart/form-data";
    bool is_broken = false;
    size_t size = strlen(type);
    char *copy, *to, *boundary;
    size_t length;

    if (strncasecmp(type, wanted, sizeof wanted - 1) != 0 ||
        !strchr("; \t", type[sizeof wanted - 1]))
        return "Content-Type must be multipart/form-data";
    copy = to = malloc(size + 1);
    if (!copy)
        return "memory is short";
    boundary = copy_parameter(&to, type, size, "boundary", &is_broken);
    length = boundary ? strlen(boundary) : 0;
    for (size_t i = 0; i < length; i++)
        is_broken |= !is_boundary_character(boundary[i]);
    if (is_broken || length == 0 || length > BOUNDARY_BYTES_MAX) {
        free(copy);
        return "Content-Type has no good boundary";
    }
    memcpy(reader->delimiter, "\r\n--", 4);
    memcpy(reader->delimiter + 4, boundary, length);
    reader->delimiter_length = length + 4;
    free(copy);
    return NULL;
}

static const char *read_part_header(struct reader *reader, struct http_part *part, const char *line,
                                    size_t size)
{
    const char *colon = memchr(line, ':', size);
    size_t name_length = colon ? (size_t)(colon - line) : 0;
    bool is_broken = false;
    const char *value;

    if (!colon || name_length == 0 || memchr(line, '\0', size) || memchr(line, '\n', size) ||
        memchr(line, '\r', size) || !http_text_is_utf8(line, size))
        return "a part has a broken header";
    for (value = colon + 1; value < line + size && (*value == ' ' || *value == '\t'); value++)
        ;
    size -= (size_t)(value - line);
    if (name_length == 19 && strncasecmp(line, "Content-Disposition", 19) == 0) {
        if (part->name || size < 9 || strncasecmp(value, "form-data", 9) != 0)
            return "a part has a broken Content-Disposition";
        part->name = copy_parameter(&reader->text_at, value, size, "name", &is_broken);
        part->filename = copy_parameter(&reader->text_at, value, size, "filename", &is_broken);
        if (is_broken || !part->name)
            return "a part has a broken Content-Disposition";
    } else if (name_length == 12 && strncasecmp(line, "Content-Type", 12) == 0) {
        if (part->type)
            return "a part has two Content-Types";
        part->type = reader->text_at;
        memcpy(reader->text_at, value, size);
        reader->text_at[size] = '\0';
        reader->text_at += size + 1;
    } else if (name_length == 25 && strncasecmp(line, "Content-Transfer-Encoding", 25) == 0 &&
               !(size == 6 && strncasecmp(value, "binary", 6) == 0) &&
               !(size == 4 && strncasecmp(value, "8bit", 4) == 0) &&
               !(size == 4 && strncasecmp(value, "7bit", 4) == 0)) {
        return "a part has a transfer encoding";
    }
    return NULL;
}

/* At the byte after a boundary's line. Leaves reader->at after the next boundary. */
static const char *read_part(struct reader *reader, struct http_part *part)
{
    const char *start = reader->at, *next;

    for (;;) {
        const char *line = reader->at;
        const char *end = memmem(line, (size_t)(reader->end - line), "\r\n", 2);
        const char *wrong;

        if (!end || end - start > PART_HEADERS_BYTES_MAX)
            return "a part's headers have no end";
        reader->at = end + 2;
        if (end == line)
            break;
        wrong = read_part_header(reader, part, line, (size_t)(end - line));
        if (wrong)
            return wrong;
    }
    if (!part->name)
        return "a part has no name";
    /* An empty part's boundary shares the line's end with the headers. */
    next = memmem(reader->at - 2, (size_t)(reader->end - reader->at) + 2, reader->delimiter,
                  reader->delimiter_length);
    if (!next)
        return "the last boundary is missing";
    part->bytes = reader->at;
    part->size = next >= reader->at ? (size_t)(next - reader->at) : 0;
    reader->at = next + reader->delimiter_length;
    return NULL;
}

static const char *read_parts(struct reader *reader, struct http_part *parts, size_t *count)
{
    const char *first = reader->delimiter + 2; /* without the line's end before it */
    size_t first_length = reader->delimiter_length - 2;

    if ((size_t)(reader->end - reader->at) < first_length ||
        memcmp(reader->at, first, first_length) != 0)
        return "the body does not begin with its boundary";
    reader->at += first_length;
    for (;;) {
        size_t left = (size_t)(reader->end - reader->at);
        const char *wrong;

        if (left >= 2 && memcmp(reader->at, "--", 2) == 0) {
            reader->at += 2;
            left -= 2;
            if (left > 2 || (left > 0 && memcmp(reader->at, "\r\n", left) != 0) || left == 1)
                return "something follows the last boundary";
            return NULL;
        }
        if (left < 2 || memcmp(reader->at, "\r\n", 2) != 0)
            return "a boundary's line has no end";
        if (*count == HTTP_MULTIPART_PARTS_MAX)
            return "too many parts";
        reader->at += 2;
        wrong = read_part(reader, &parts[*count]);
        if (wrong)
            return wrong;
        ++*count;
    }
}

const char *http_multipart_parse(struct http_part **parts, size_t *count, char **text,
                                 const char *type, const char *bytes, size_t size)
{
    struct reader reader = {.at = bytes, .end = bytes + size};
    const char *wrong = read_boundary(&reader, type);

    *parts = NULL;
    *text = NULL;
    *count = 0;
    if (wrong)
        return wrong;
    /* A part keeps less text than it has headers; the last may need as much again to look for it.
     */
    *parts = calloc(HTTP_MULTIPART_PARTS_MAX, sizeof **parts);
    *text = reader.text = reader.text_at =
        malloc((size_t)(HTTP_MULTIPART_PARTS_MAX + 2) * (PART_HEADERS_BYTES_MAX + 4));
    if (!*parts || !*text)
        wrong = "memory is short";
    else
        wrong = read_parts(&reader, *parts, count);
    if (wrong) {
        free(*parts);
        free(*text);
        *parts = NULL;
        *text = NULL;
        *count = 0;
    }
    return wrong;
}

const struct http_part *http_multipart(struct http_exchange *exchange, size_t *count)
{
    const char *type = http_header(exchange, "Content-Type");
    const char *wrong;

    if (!exchange->parts) {
        wrong = http_multipart_parse(&exchange->parts, &exchange->part_count, &exchange->part_text,
                                     type ? type : "", exchange->body ? exchange->body : "",
                                     exchange->body_size);
        if (wrong) {
            http_reply_error(exchange, 400, "bad_multipart", "", 0, "the body: %s", wrong);
            return NULL;
        }
    }
    *count = exchange->part_count;
    return exchange->parts;
}
