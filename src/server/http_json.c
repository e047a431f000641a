/* JSON bodies. jansson recurses and takes any number of keys, so a scan without recursion looks at
 * depth and numbers first; it need not find every error, jansson does that. */
#include <string.h>
#include <strings.h>

#include "server/http_private.h"

/* The place after the string that begins at `at`, or `size`. */
static size_t skip_string(const char *text, size_t size, size_t at)
{
    for (at++; at < size && text[at] != '"'; at++) {
        if (text[at] == '\\')
            at++;
    }
    return at < size ? at + 1 : size;
}

const char *http_json_scan(const char *text, size_t size)
{
    int keys[JSON_DEPTH_MAX + 1] = {0}; /* colons of the object at each depth */
    int depth = 0, values = 0;

    for (size_t at = 0; at < size;) {
        char c = text[at];

        if (c == '"') {
            at = skip_string(text, size, at);
            continue;
        }
        at++;
        if (c == '{' || c == '[') {
            if (++depth > JSON_DEPTH_MAX)
                return "nested too deeply";
            keys[depth] = 0;
            values++;
        } else if (c == '}' || c == ']') {
            if (--depth < 0)
                return "closes what it did not open";
        } else if (c == ',') {
            values++;
        } else if (c == ':') {
            values++;
            if (++keys[depth] > JSON_KEYS_MAX)
                return "an object with too many keys";
        }
        if (values > JSON_VALUES_MAX)
            return "too many values";
    }
    return NULL;
}

static bool is_json_type(const char *type)
{
    size_t length = strcspn(type, "; \t");

    return (length == 16 && strncasecmp(type, "application/json", 16) == 0) ||
           (length > 17 && strncasecmp(type, "application/", 12) == 0 &&
            strncasecmp(type + length - 5, "+json", 5) == 0);
}

/* Not jansson's own text: it quotes the body. */
static const char *what_is_wrong(const json_error_t *error)
{
    switch (json_error_code(error)) {
    case json_error_duplicate_key:
        return "a key occurs twice";
    case json_error_numeric_overflow:
        return "a number is too large";
    case json_error_out_of_memory:
        return "memory is short";
    case json_error_null_character:
        return "\"\\u0000\" in a text";
    default:
        return "it is none";
    }
}

/* Owned by the caller. NULL: answered, and so the exchange may be gone. */
static json_t *parse_body(struct http_exchange *exchange)
{
    const char *wrong = http_json_scan(exchange->body, exchange->body_size);
    json_error_t error;
    json_t *json;

    if (wrong) {
        http_reply_error(exchange, 400, "bad_json", "", 0, "the body's JSON: %s", wrong);
        return NULL;
    }
    json = json_loadb(exchange->body, exchange->body_size, JSON_REJECT_DUPLICATES, &error);
    if (!json) {
        http_reply_error(exchange, 400, "bad_json", "", 0,
                         "the body's JSON: %s: line %d, column %d", what_is_wrong(&error),
                         error.line, error.column);
    } else if (!json_is_object(json)) {
        json_decref(json);
        json = NULL;
        http_reply_error(exchange, 400, "bad_json", "", 0, "the body must be a JSON object");
    }
    return json;
}

const json_t *http_json(struct http_exchange *exchange)
{
    const char *type = http_header(exchange, "Content-Type");
    json_t *json = exchange->json;

    if (json)
        return json;
    if (exchange->body_size == 0) {
        json = json_object();
        if (!json)
            http_reply_error(exchange, 503, "out_of_memory", "", 1, "memory is short");
    } else if (!type || !is_json_type(type)) {
        /* Forms and plain text are what a foreign page can send without being asked. */
        http_reply_error(exchange, 415, "not_json", "", 0,
                         "the body's Content-Type must be application/json");
    } else {
        json = parse_body(exchange);
    }
    if (json)
        exchange->json = json;
    return json;
}
