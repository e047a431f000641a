/* The shape of a request, byte for byte.
 *
 * libmicrohttpd 0.9.75 forgives what request smuggling lives on: lines that end with a bare LF,
 * folded headers, NUL, Content-Length twice or beside Transfer-Encoding. It parses in place, so the
 * texts that it hands over lie where they came in, and it says how long the whole head was. In a
 * well-formed head they lie end to end with known bytes between them; any other shape leaves a gap
 * of another size. (RFC 9112, sections 2 to 6.)
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/http_private.h"

struct head {
    struct http_exchange *exchange;
    uintptr_t at; /* where the next header must begin */
    size_t count, text_size;
    bool is_broken;
    char *text_at;
};

static bool is_token(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        char c = text[i];

        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
              (c && strchr("!#$%&'*+-.^_`|~", c))))
            return false;
    }
    return size > 0;
}

static bool is_field_text(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];

        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

static enum MHD_Result measure_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                      size_t name_size, const char *value, size_t value_size)
{
    struct head *head = cls;
    uintptr_t start = (uintptr_t)name, text = (uintptr_t)value;
    uintptr_t colon = start + name_size;

    (void)kind;
    head->count++;
    head->text_size += name_size + value_size + 2;
    /* The gap may hold as many blanks as it likes, but not more than a line. */
    if (start != head->at || !value || text <= colon || text - colon > HTTP_LINE_BYTES_MAX ||
        !is_token(name, name_size) || !is_field_text(value, value_size)) {
        head->is_broken = true;
        return MHD_NO;
    }
    for (const char *blank = name + name_size + 1; blank < value; blank++)
        head->is_broken |= *blank != ' ' && *blank != '\t';
    head->at = text + value_size + 2;
    return MHD_YES;
}

static enum MHD_Result copy_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                   size_t name_size, const char *value, size_t value_size)
{
    struct head *head = cls;
    struct http_exchange *exchange = head->exchange;
    struct http_field *field = &exchange->headers[exchange->header_count++];

    (void)kind;
    while (value_size > 0 && (value[value_size - 1] == ' ' || value[value_size - 1] == '\t'))
        value_size--;
    field->name = head->text_at;
    memcpy(head->text_at, name, name_size);
    head->text_at[name_size] = '\0';
    field->value = head->text_at + name_size + 1;
    memcpy(head->text_at + name_size + 1, value, value_size);
    head->text_at[name_size + 1 + value_size] = '\0';
    head->text_at += name_size + value_size + 2;
    return MHD_YES;
}

static int copy_headers(struct http_exchange *exchange, struct head *head, const char **why)
{
    exchange->headers = calloc(head->count + 1, sizeof *exchange->headers);
    exchange->text = head->text_at = malloc(head->text_size + 1);
    if (!exchange->headers || !exchange->text) {
        *why = "memory is short";
        return 503;
    }
    MHD_get_connection_values_n(exchange->mhd, MHD_HEADER_KIND, copy_header, head);
    return 0;
}

/* How often the header is there; *value its last. */
static int count_header(const struct http_exchange *exchange, const char *name, const char **value)
{
    int count = 0;

    *value = NULL;
    for (size_t i = 0; i < exchange->header_count; i++) {
        const struct http_field *field = &exchange->headers[i];

        if (field->name && http_same_name(field->name, name)) {
            *value = field->value;
            count++;
        }
    }
    return count;
}

static bool is_host(const char *host)
{
    for (const char *c = host; *c; c++) {
        if (!((*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
              strchr("-._:[]", *c)))
            return false;
    }
    return *host != '\0' && strlen(host) < 300;
}

static int check_framing(struct http_exchange *exchange, const char **why)
{
    const char *host, *length, *coding, *expect;
    int hosts = count_header(exchange, "Host", &host);
    int lengths = count_header(exchange, "Content-Length", &length);
    int codings = count_header(exchange, "Transfer-Encoding", &coding);

    *why = "Host must be there once, with a name or an address";
    if (hosts > 1 || (hosts == 0 && !exchange->is_http_1_0) || (hosts == 1 && !is_host(host)))
        return 400;
    *why = "Content-Length must be one number";
    if (lengths > 1 || (length && (!*length || length[strspn(length, "0123456789")])))
        return 400;
    *why = "Transfer-Encoding must be chunked, once, without Content-Length";
    if (codings > 1 ||
        (coding && (lengths > 0 || exchange->is_http_1_0 || strcasecmp(coding, "chunked") != 0)))
        return 400;
    exchange->is_chunked = codings > 0;
    *why = "a GET or HEAD request has no body";
    if (exchange->is_method_known &&
        (exchange->method == HTTP_GET || exchange->method == HTTP_HEAD) &&
        (codings > 0 || (length && length[strspn(length, "0")])))
        return 400;
    *why = "only 100-continue may be expected";
    if (count_header(exchange, "Expect", &expect) > 1 ||
        (expect && strcasecmp(expect, "100-continue") != 0))
        return 417;
    return 0;
}

static int check_request_line(struct http_exchange *exchange, const char *method,
                              const char *version, const char **why)
{
    size_t length = strlen(exchange->target);

    if ((uintptr_t)method + strlen(method) + 1 != exchange->where ||
        exchange->where + length + 1 != (uintptr_t)version || !is_token(method, strlen(method))) {
        *why = "the request line must have single spaces";
        return 400;
    }
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0) {
        *why = "HTTP/1.0 and HTTP/1.1 are spoken here";
        return strncmp(version, "HTTP/", 5) == 0 ? 505 : 400;
    }
    exchange->is_http_1_0 = version[7] == '0';
    if (length > HTTP_LINE_BYTES_MAX) {
        *why = "the request's target is too long";
        return 414;
    }
    for (size_t i = 0; i < length; i++) {
        if (exchange->target[i] <= ' ' || exchange->target[i] > '~') {
            *why = "the request's target has bytes that must be escaped";
            return 400;
        }
    }
    return 0;
}

int http_check_shape(struct http_exchange *exchange, const char *method, const char *version,
                     const char **why)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    struct head head = {.exchange = exchange, .at = (uintptr_t)version + strlen(version) + 2};
    size_t size = info ? info->header_size : 0;
    int status = check_request_line(exchange, method, version, why);

    if (status != 0)
        return status;
    MHD_get_connection_values_n(exchange->mhd, MHD_HEADER_KIND, measure_header, &head);
    if (head.count > HTTP_HEADERS_MAX || size > HTTP_HEADER_BYTES_MAX) {
        *why = "the request's headers are too large";
        return 431;
    }
    if (head.is_broken || head.at + 2 != (uintptr_t)method + size) {
        *why = "the request's headers are malformed";
        return 400;
    }
    status = copy_headers(exchange, &head, why);
    return status != 0 ? status : check_framing(exchange, why);
}
