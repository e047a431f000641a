/* What a request says. All of it was copied when it came, so that it can be read for as long as the
 * exchange lives, from any thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/http_private.h"

const struct http_route *http_route_of(const struct http_exchange *exchange)
{
    return exchange->route;
}

const char *http_request_id(const struct http_exchange *exchange)
{
    return exchange->request_id;
}

enum http_method http_method_of(const struct http_exchange *exchange)
{
    return exchange->method;
}

const char *http_path(const struct http_exchange *exchange)
{
    return exchange->path ? exchange->path : "";
}

const char *http_query(const struct http_exchange *exchange, const char *name)
{
    for (size_t i = 0; i < exchange->query_count; i++) {
        if (strcmp(exchange->query[i].name, name) == 0)
            return exchange->query[i].value;
    }
    return NULL;
}

/* A request's names are compared some sixty times, and most differ in their first letter. */
bool http_same_name(const char *a, const char *b)
{
    return ((a[0] ^ b[0]) & ~('a' ^ 'A')) == 0 && strcasecmp(a, b) == 0;
}

const char *http_header(const struct http_exchange *exchange, const char *name)
{
    for (size_t i = 0; i < exchange->header_count; i++) {
        if (http_same_name(exchange->headers[i].name, name))
            return exchange->headers[i].value;
    }
    return NULL;
}

int http_header_count(const struct http_exchange *exchange, const char *name)
{
    int count = 0;

    for (size_t i = 0; i < exchange->header_count; i++)
        count += http_same_name(exchange->headers[i].name, name);
    return count;
}

/* Splits the Cookie header into pairs "name\0value\0", ended by an empty name. */
static char *split_cookies(const char *header)
{
    char *text = malloc(strlen(header) * 2 + 3), *to = text;

    while (text && *header) {
        size_t length = strcspn(header, ";");
        const char *equal;

        while (length > 0 && (*header == ' ' || *header == '\t')) {
            header++;
            length--;
        }
        equal = memchr(header, '=', length);
        if (equal && equal > header) {
            size_t name_length = (size_t)(equal - header);

            memcpy(to, header, length);
            to[name_length] = '\0';
            to[length] = '\0';
            to += length + 1;
        }
        header += length;
        if (*header)
            header++;
    }
    if (text)
        *to = '\0';
    return text;
}

const char *http_cookie(const struct http_exchange *exchange, const char *name)
{
    /* Split at the request's begin: an exchange is read by one thread at a time, but const. */
    for (const char *at = exchange->cookie; at && *at;) {
        const char *value = at + strlen(at) + 1;

        if (strcmp(at, name) == 0)
            return value;
        at = value + strlen(value) + 1;
    }
    return NULL;
}

const char *http_client_address(const struct http_exchange *exchange)
{
    return exchange->client;
}

const char *http_peer_address(const struct http_exchange *exchange)
{
    return exchange->peer;
}

/* A proxy's own, where it leaves the client's before it. */
static const char *last_header(const struct http_exchange *exchange, const char *name)
{
    for (size_t i = exchange->header_count; i-- > 0;)
        if (http_same_name(exchange->headers[i].name, name))
            return exchange->headers[i].value;
    return NULL;
}

bool http_is_secure(const struct http_exchange *exchange)
{
    const char *scheme =
        exchange->is_trusted_peer ? last_header(exchange, "X-Forwarded-Proto") : NULL;

    if (scheme)
        return strcasecmp(scheme, "https") == 0;
    return exchange->server->options.tls_cert != NULL;
}

char *http_base_url(const struct http_exchange *exchange)
{
    const char *host = http_header(exchange, "Host");
    char *url;

    return asprintf(&url, "%s://%s", http_is_secure(exchange) ? "https" : "http",
                    host ? host : "localhost") < 0
               ? NULL
               : url;
}

const void *http_body(const struct http_exchange *exchange, size_t *size)
{
    *size = exchange->body_size;
    return exchange->body ? exchange->body : "";
}

struct http_identity *http_identity_of(struct http_exchange *exchange)
{
    return &exchange->identity;
}

/* Goes back through one header's list of addresses while they are those of trusted proxies. False:
 * found, or something that is no address. */
static bool follow_list(struct http_exchange *exchange, unsigned char address[16], const char *list)
{
    const struct http_peers *peers = exchange->server->peers;
    size_t end = strlen(list);

    while (end > 0) {
        size_t start = end, from;
        char text[INET6_ADDRSTRLEN];

        while (start > 0 && list[start - 1] != ',')
            start--;
        for (from = start; from < end && list[from] == ' ';)
            from++;
        while (end > from && list[end - 1] == ' ')
            end--;
        if (end - from >= sizeof text)
            return false;
        memcpy(text, list + from, end - from);
        text[end - from] = '\0';
        if (!http_address_parse(address, text))
            return false;
        http_address_format(exchange->client, address);
        if (!http_peers_trust(peers, address))
            return false;
        end = start > 0 ? start - 1 : 0;
    }
    return true;
}

/* The last address of X-Forwarded-For that is none of the trusted proxies: what stands before it
 * anybody may have written. Some proxies add a header of their own after the client's. */
static void find_client(struct http_exchange *exchange)
{
    bool goes_on;
    unsigned char address[16];

    memcpy(address, exchange->address, 16);
    http_address_format(exchange->client, address);
    memcpy(exchange->peer, exchange->client, sizeof exchange->peer);
    exchange->is_trusted_peer = http_peers_trust(exchange->server->peers, address);
    goes_on = exchange->is_trusted_peer;
    for (size_t i = exchange->header_count; goes_on && i-- > 0;)
        if (http_same_name(exchange->headers[i].name, "X-Forwarded-For"))
            goes_on = follow_list(exchange, address, exchange->headers[i].value);
}

bool http_read_request(struct http_exchange *exchange)
{
    size_t path_length = strcspn(exchange->target, "?");
    const char *query = exchange->target + path_length;
    const char *cookie = http_header(exchange, "Cookie");

    find_client(exchange);
    exchange->path = malloc(path_length + 1);
    if (!exchange->path || (cookie && !(exchange->cookie = split_cookies(cookie)))) {
        http_reply_error(exchange, 503, "out_of_memory", "", 1, "memory is short");
        return false;
    }
    if (exchange->target[0] != '/' ||
        !http_decode(exchange->path, exchange->target, path_length, false, false) ||
        !http_query_parse(&exchange->query, &exchange->query_count, &exchange->query_text,
                          *query ? query + 1 : "")) {
        free(exchange->path);
        exchange->path = NULL;
        http_reply_error(exchange, 400, "bad_target", "", 0,
                         "the path or the query is not well escaped UTF-8");
        return false;
    }
    return true;
}
