/* Which route a request is for. Patterns are matched segment by segment against the path as it
 * came, and only then decoded: an escaped slash never makes a segment. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/http_private.h"

static const char *const method_names[] = {
    [HTTP_GET] = "GET", [HTTP_POST] = "POST", [HTTP_DELETE] = "DELETE",   [HTTP_PATCH] = "PATCH",
    [HTTP_PUT] = "PUT", [HTTP_HEAD] = "HEAD", [HTTP_OPTIONS] = "OPTIONS",
};

const char *http_method_name(enum http_method method)
{
    return method_names[method];
}

static bool is_dots(const char *text)
{
    return strcmp(text, ".") == 0 || strcmp(text, "..") == 0;
}

/* Whether the path begins as the pattern does, up to the pattern's first value or the path's first
 * escape: tells most routes apart without decoding anything. */
static bool begins_alike(const char *pattern, const char *path)
{
    while (*pattern && *pattern != '{' && *pattern == *path) {
        pattern++;
        path++;
    }
    return *pattern == '{' || *path == '%' || *pattern == *path;
}

int http_match_path(const char *pattern, const char *path, struct http_field *values, int room,
                    char *text)
{
    int count = 0;

    if (!begins_alike(pattern, path))
        return -1;
    while (*pattern == '/' && *path == '/') {
        size_t pattern_length = strcspn(++pattern, "/");
        size_t length = strcspn(++path, "/");
        bool is_value = pattern_length > 2 && pattern[0] == '{';
        bool is_rest = is_value && pattern[pattern_length - 2] == '*';

        if (is_rest)
            length = strlen(path);
        if (!http_decode(text, path, length, false, false) || is_dots(text))
            return -1;
        if (is_value) {
            if (length == 0 || count == room)
                return -1;
            values[count].name = pattern + 1; /* up to '}' or '*' */
            values[count++].value = text;
        } else if (strlen(text) != pattern_length || memcmp(text, pattern, pattern_length) != 0) {
            return -1;
        }
        text += strlen(text) + 1;
        pattern += pattern_length;
        path += length;
    }
    return *pattern || *path ? -1 : count;
}

const char *http_path_value(const struct http_exchange *exchange, const char *name)
{
    size_t length = strlen(name);

    for (size_t i = 0; i < exchange->path_value_count; i++) {
        const char *found = exchange->path_values[i].name;

        if (strncmp(found, name, length) == 0 && (found[length] == '}' || found[length] == '*'))
            return exchange->path_values[i].value;
    }
    return NULL;
}

static void reply_options(struct http_exchange *exchange, unsigned allowed)
{
    char allow[128] = "OPTIONS";
    size_t length = strlen(allow);

    if (allowed & 1u << HTTP_GET)
        allowed |= 1u << HTTP_HEAD;
    for (int method = 0; method < (int)COUNT_OF(method_names); method++) {
        if (method != HTTP_OPTIONS && (allowed & 1u << method))
            length += (size_t)snprintf(allow + length, sizeof allow - length, ", %s",
                                       method_names[method]);
    }
    http_add_header(exchange, "Allow", allow);
    if (exchange->is_method_known && exchange->method == HTTP_OPTIONS)
        http_reply_bytes(exchange, 204, "text/plain", "", 0);
    else
        http_reply_error(exchange, 405, "method_not_allowed", "", 0,
                         "this path takes other methods");
}

static bool is_method(const struct http_exchange *exchange, enum http_method method)
{
    if (!exchange->is_method_known)
        return false;
    return method == exchange->method || (method == HTTP_GET && exchange->method == HTTP_HEAD);
}

/* "." and ".." name no file of ours. */
static bool has_dots(const char *path)
{
    for (const char *at = strchr(path, '/'); at; at = strchr(at + 1, '/')) {
        size_t length = strcspn(at + 1, "/");

        if ((length == 1 || length == 2) && strncmp(at + 1, "..", length) == 0)
            return true;
    }
    return false;
}

/* Fills the exchange with the route and the path's values. Returns the methods that other routes of
 * the path take, as bits. */
static unsigned match_routes(struct http_exchange *exchange, const char *path)
{
    unsigned allowed = 0;

    for (const struct http_routes *part = exchange->server->parts; part->routes; part++) {
        for (size_t i = 0; i < part->count; i++) {
            const struct http_route *route = &part->routes[i];
            int count = http_match_path(route->path, path, exchange->path_values, PATH_VALUES_MAX,
                                        exchange->path_text);

            if (count < 0)
                continue;
            allowed |= 1u << route->method;
            if (!is_method(exchange, route->method))
                continue;
            exchange->route = route;
            exchange->route_context = part->context;
            exchange->path_value_count = (size_t)count;
            return allowed;
        }
    }
    return allowed;
}

bool http_find_route(struct http_exchange *exchange)
{
    size_t path_length = strcspn(exchange->target, "?");
    char *path = strndup(exchange->target, path_length);
    unsigned allowed = 0;

    exchange->path_text = malloc(path_length + PATH_VALUES_MAX * 4 + 32);
    if (!path || !exchange->path_text) {
        free(path);
        http_reply_error(exchange, 503, "out_of_memory", "", 1, "memory is short");
        return false;
    }
    if (!has_dots(exchange->path))
        allowed = match_routes(exchange, path);
    free(path);
    if (exchange->route)
        return true;
    if (allowed)
        reply_options(exchange, allowed);
    else
        http_reply_error(exchange, 404, "not_found", "", 0, "Not Found");
    return false;
}

enum http_error_style http_style_of(const struct http_exchange *exchange)
{
    if (exchange->route)
        return exchange->route->style;
    if (strncmp(exchange->target, "/v1/", 4) == 0)
        return STYLE_OPENAI;
    if (strncmp(exchange->target, "/sdapi/", 7) == 0 ||
        strncmp(exchange->target, "/internal/", 10) == 0)
        return STYLE_A1111;
    return STYLE_NATIVE;
}
