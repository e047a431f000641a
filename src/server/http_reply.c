/* Answers that are whole: JSON, text, bytes; and the headers that every answer has. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/http_private.h"

#define FIELDS_MAX 12
#define ADDED_MAX 32

static const char page_policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

const char *http_reason(int status)
{
    return MHD_get_reason_phrase_for((unsigned)status);
}

bool http_has_added(const struct http_exchange *exchange, const char *name)
{
    for (size_t i = 0; i < exchange->added_count; i++) {
        if (http_same_name(exchange->added[i].name, name))
            return true;
    }
    return false;
}

/* A value that could end its line is a mistake of ours or an attack: it is left out. */
void http_add_header(struct http_exchange *exchange, const char *name, const char *value)
{
    struct http_field *field;

    if (exchange->added_count == ADDED_MAX || strpbrk(name, "\r\n: ") || strpbrk(value, "\r\n"))
        return;
    if (!exchange->added) {
        exchange->added = calloc(ADDED_MAX, sizeof *exchange->added);
        if (!exchange->added)
            return;
    }
    field = &exchange->added[exchange->added_count];
    field->name = strdup(name);
    field->value = strdup(value);
    if (!field->name || !field->value) {
        free((char *)field->name);
        free((char *)field->value);
        return;
    }
    exchange->added_count++;
}

static size_t list_headers(struct http_exchange *exchange, const char *type,
                           struct http_field fields[FIELDS_MAX])
{
    size_t count = 0;

    fields[count++] = (struct http_field){"X-Request-Id", exchange->request_id};
    fields[count++] = (struct http_field){"X-Content-Type-Options", "nosniff"};
    fields[count++] = (struct http_field){"Referrer-Policy", "no-referrer"};
    fields[count++] = (struct http_field){"Cross-Origin-Resource-Policy", "same-origin"};
    if (type)
        fields[count++] = (struct http_field){"Content-Type", type};
    if (!http_has_added(exchange, "Cache-Control"))
        fields[count++] = (struct http_field){"Cache-Control", "no-store"};
    if (type && strncasecmp(type, "text/html", 9) == 0 &&
        !http_has_added(exchange, "Content-Security-Policy"))
        fields[count++] = (struct http_field){"Content-Security-Policy", page_policy};
    if (exchange->must_close)
        fields[count++] = (struct http_field){"Connection", "close"};
    return count;
}

void http_response_headers(struct http_exchange *exchange, struct MHD_Response *response,
                           const char *type)
{
    struct http_field fields[FIELDS_MAX];
    size_t count = list_headers(exchange, type, fields);

    for (size_t i = 0; i < count; i++)
        MHD_add_response_header(response, fields[i].name, fields[i].value);
    for (size_t i = 0; i < exchange->added_count; i++)
        MHD_add_response_header(response, exchange->added[i].name, exchange->added[i].value);
}

char *http_head_text(struct http_exchange *exchange, int status, const char *type, size_t *size)
{
    struct http_field fields[FIELDS_MAX];
    char *text = NULL;
    FILE *out;
    size_t count;

    exchange->must_close = true;
    out = open_memstream(&text, size);
    if (!out)
        return NULL;
    count = list_headers(exchange, type, fields);
    fprintf(out, "HTTP/1.1 %d %s\r\n", status, http_reason(status));
    for (size_t i = 0; i < count; i++)
        fprintf(out, "%s: %s\r\n", fields[i].name, fields[i].value);
    for (size_t i = 0; i < exchange->added_count; i++)
        fprintf(out, "%s: %s\r\n", exchange->added[i].name, exchange->added[i].value);
    if (!exchange->is_http_1_0)
        fputs("Transfer-Encoding: chunked\r\n", out);
    fputs("\r\n", out);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static void reply_memory(struct http_exchange *exchange, int status, const char *type,
                         const void *bytes, size_t size, enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(size, (void *)bytes, mode);

    if (!response) {
        if (mode == MHD_RESPMEM_MUST_FREE)
            free((void *)bytes);
    } else {
        http_response_headers(exchange, response, type);
    }
    http_exchange_answer(exchange, response ? status : 503, size, response);
}

void http_reply_bytes(struct http_exchange *exchange, int status, const char *type,
                      const void *bytes, size_t size)
{
    reply_memory(exchange, status, type, bytes, size, MHD_RESPMEM_MUST_COPY);
}

void http_reply_buffer(struct http_exchange *exchange, int status, const char *type, char *bytes,
                       size_t size)
{
    reply_memory(exchange, status, type, bytes, size, MHD_RESPMEM_MUST_FREE);
}

void http_reply_text(struct http_exchange *exchange, int status, const char *type, const char *text)
{
    http_reply_bytes(exchange, status, type, text, strlen(text));
}

void http_reply_json(struct http_exchange *exchange, int status, json_t *body)
{
    char *text = body ? json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

    json_decref(body);
    if (text)
        http_reply_buffer(exchange, status, "application/json", text, strlen(text));
    else
        http_reply_text(exchange, 503, "application/json",
                        "{\"error\":{\"code\":\"out_of_memory\",\"message\":\"memory is short\"}}");
}

void http_reply_static(struct http_exchange *exchange, const char *type, const void *bytes,
                       size_t size, const char *etag)
{
    if (etag) {
        http_add_header(exchange, "ETag", etag);
        if (!http_has_added(exchange, "Cache-Control"))
            http_add_header(exchange, "Cache-Control", "no-cache");
        if (http_etag_matches(http_header(exchange, "If-None-Match"), etag)) {
            reply_memory(exchange, 304, NULL, "", 0, MHD_RESPMEM_PERSISTENT);
            return;
        }
    }
    reply_memory(exchange, 200, type, bytes, size, MHD_RESPMEM_PERSISTENT);
}
