/* Errors, as the clients of each of the three surfaces read them. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "server/http_private.h"

#define MESSAGE_BYTES_MAX 1024

static json_t *native_error(const struct http_exchange *exchange, const char *code,
                            const char *field, const char *message)
{
    return json_pack("{s:{s:s, s:s, s:s, s:s}}", "error", "code", code, "message", message, "field",
                     field, "request_id", exchange->request_id);
}

static json_t *openai_error(int status, const char *code, const char *field, const char *message)
{
    const char *type = status == 403   ? "permission_error"
                       : status == 429 ? "rate_limit_error"
                       : status >= 500 ? "server_error"
                                       : "invalid_request_error";

    return json_pack("{s:{s:s, s:s, s:s?, s:s}}", "error", "message", message, "type", type,
                     "param", *field ? field : NULL, "code", code);
}

static json_t *a1111_error(int status, const char *code, const char *field, const char *message)
{
    if (status == 422 && *field)
        return json_pack("{s:[{s:[s, s], s:s, s:s}]}", "detail", "loc", "body", field, "msg",
                         message, "type", code);
    if (status == 429)
        return json_pack("{s:s, s:s}", "error", "QueueFull", "detail", message);
    if (status >= 500)
        return json_pack("{s:s, s:s, s:s, s:s}", "error", code, "detail", message, "body", "",
                         "errors", message);
    return json_pack("{s:s}", "detail", message);
}

/* A message that was cut, or that quotes what is no UTF-8, must not cost the whole answer. */
static void make_utf8(char *text)
{
    size_t length = strlen(text);

    if (http_text_is_utf8(text, length))
        return;
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)text[i] >= 0x80)
            text[i] = '?';
    }
}

void http_reply_error(struct http_exchange *exchange, int status, const char *code,
                      const char *field, int retry_after, const char *format, ...)
{
    char message[MESSAGE_BYTES_MAX], seconds[16];
    json_t *body = NULL;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    make_utf8(message);
    if (retry_after > 0) {
        snprintf(seconds, sizeof seconds, "%d", retry_after);
        http_add_header(exchange, "Retry-After", seconds);
    }
    switch (http_style_of(exchange)) {
    case STYLE_NATIVE:
        body = native_error(exchange, code, field, message);
        break;
    case STYLE_OPENAI:
        /* Their clients retry 5xx by themselves; memory does not grow from that. */
        if (strcmp(code, "out_of_memory") == 0)
            http_add_header(exchange, "x-should-retry", "false");
        body = openai_error(status, code, field, message);
        break;
    case STYLE_A1111:
        body = a1111_error(status, code, field, message);
        break;
    }
    http_reply_json(exchange, status, body);
}
