/* Answers from files: whole, one range of them (RFC 9110, section 14), or "you have it". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/http_private.h"

bool http_etag_matches(const char *list, const char *etag)
{
    size_t length = strlen(etag);

    while (list && *list) {
        list += strspn(list, " \t,");
        if (*list == '*')
            return true;
        if (strncmp(list, "W/", 2) == 0)
            list += 2;
        if (strncmp(list, etag, length) == 0 && (!list[length] || strchr(" \t,", list[length])))
            return true;
        list += strcspn(list, ",");
    }
    return false;
}

static bool read_number(const char **text, uint64_t *value)
{
    size_t digits = strspn(*text, "0123456789");

    if (digits == 0 || digits > 18)
        return false;
    *value = strtoull(*text, NULL, 10);
    *text += digits;
    return true;
}

int http_range_parse(const char *range, uint64_t size, uint64_t *from, uint64_t *length)
{
    uint64_t first, last;

    *from = 0;
    *length = size;
    if (!range || strncmp(range, "bytes=", 6) != 0)
        return 200;
    range += 6;
    if (*range == '-') {
        range++;
        if (!read_number(&range, &last) || *range)
            return 200;
        if (last == 0 || size == 0)
            return 416;
        *length = last < size ? last : size;
        *from = size - *length;
        return 206;
    }
    if (!read_number(&range, &first) || *range++ != '-')
        return 200;
    last = size - 1;
    if (*range && (!read_number(&range, &last) || *range || last < first))
        return 200;
    if (first >= size)
        return 416;
    *from = first;
    *length = (last < size ? last : size - 1) - first + 1;
    return 206;
}

/* `name` quoted; what could leave the quotes becomes '_'. */
void http_add_download(struct http_exchange *exchange, const char *name)
{
    char value[300];
    size_t length = (size_t)snprintf(value, sizeof value, "attachment; filename=\"");

    for (; *name && length + 2 < sizeof value; name++) {
        unsigned char c = (unsigned char)*name;

        value[length++] = c < 0x20 || c >= 0x7f || strchr("\"\\/%", c) ? '_' : (char)c;
    }
    value[length++] = '"';
    value[length] = '\0';
    http_add_header(exchange, "Content-Disposition", value);
}

static int choose_status(struct http_exchange *exchange, const char *etag, uint64_t size,
                         uint64_t *from, uint64_t *length)
{
    const char *condition = http_header(exchange, "If-Range");
    const char *range = http_header(exchange, "Range");

    *from = 0;
    *length = size;
    if (etag && http_etag_matches(http_header(exchange, "If-None-Match"), etag))
        return 304;
    if (condition && (!etag || strcmp(condition, etag) != 0))
        range = NULL;
    return http_range_parse(range, size, from, length);
}

static void add_file_headers(struct http_exchange *exchange, int status, const char *etag,
                             const char *download_name, uint64_t from, uint64_t length,
                             uint64_t size)
{
    char value[80];

    http_add_header(exchange, "Accept-Ranges", "bytes");
    if (etag)
        http_add_header(exchange, "ETag", etag);
    if (etag && !http_has_added(exchange, "Cache-Control"))
        http_add_header(exchange, "Cache-Control", "private, no-cache");
    if (download_name)
        http_add_download(exchange, download_name);
    if (status == 206)
        snprintf(value, sizeof value, "bytes %llu-%llu/%llu", (unsigned long long)from,
                 (unsigned long long)(from + length - 1), (unsigned long long)size);
    else
        snprintf(value, sizeof value, "bytes */%llu", (unsigned long long)size);
    if (status == 206 || status == 416)
        http_add_header(exchange, "Content-Range", value);
}

void http_reply_file(struct http_exchange *exchange, int fd, const char *type, const char *etag,
                     const char *download_name)
{
    struct MHD_Response *response;
    struct stat file;
    uint64_t from, length, size;
    int status;

    if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode)) {
        close(fd);
        http_reply_error(exchange, 500, "storage", "", 0, "the file cannot be read");
        return;
    }
    size = (uint64_t)file.st_size;
    status = choose_status(exchange, etag, size, &from, &length);
    add_file_headers(exchange, status, etag, download_name, from, length, size);
    if (status == 304 || status == 416 || length == 0) {
        close(fd);
        if (status == 416)
            http_reply_error(exchange, 416, "bad_range", "", 0,
                             "the range lies outside the file's %llu bytes",
                             (unsigned long long)size);
        else
            http_reply_bytes(exchange, status, status == 304 ? NULL : type, "", 0);
        return;
    }
    response = MHD_create_response_from_fd_at_offset64(length, fd, from);
    if (!response)
        close(fd);
    else
        http_response_headers(exchange, response, type);
    http_exchange_answer(exchange, response ? status : 503, (size_t)length, response);
}
