#include "server/auth_fakes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "store/store.h"

void fake_init(struct http_exchange *exchange, const struct http_route *route)
{
    *exchange = (struct http_exchange){.route = route, .client = "192.0.2.1", .peer = "192.0.2.1"};
    pthread_mutex_init(&exchange->lock, NULL);
    pthread_cond_init(&exchange->changed, NULL);
    fake_header(exchange, "Host", "127.0.0.1:7860");
}

void fake_finish(struct http_exchange *exchange)
{
    json_decref(exchange->body);
    json_decref(exchange->answer);
    pthread_mutex_destroy(&exchange->lock);
    pthread_cond_destroy(&exchange->changed);
}

void fake_header(struct http_exchange *exchange, const char *name, const char *value)
{
    for (size_t i = 0; i < FAKE_PAIRS_MAX; i++) {
        struct fake_pair *pair = &exchange->headers[i];

        if (!pair->name || strcasecmp(pair->name, name) == 0) {
            *pair = (struct fake_pair){name, value};
            return;
        }
    }
    abort();
}

void fake_wait(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    while (!exchange->is_passed && exchange->status == 0)
        pthread_cond_wait(&exchange->changed, &exchange->lock);
    pthread_mutex_unlock(&exchange->lock);
}

static const char *find(const struct fake_pair *pairs, size_t count, const char *name)
{
    for (size_t i = 0; i < count && pairs[i].name; i++)
        if (strcasecmp(pairs[i].name, name) == 0)
            return pairs[i].value;
    return NULL;
}

/* --- http.h --- */

const struct http_route *http_route_of(const struct http_exchange *exchange)
{
    return exchange->route;
}

const char *http_request_id(const struct http_exchange *exchange)
{
    (void)exchange;
    return "r1";
}

enum http_method http_method_of(const struct http_exchange *exchange)
{
    return exchange->route->method;
}

const char *http_header(const struct http_exchange *exchange, const char *name)
{
    return find(exchange->headers, FAKE_PAIRS_MAX, name);
}

int http_header_count(const struct http_exchange *exchange, const char *name)
{
    int count = 0;

    for (size_t i = 0; i < FAKE_PAIRS_MAX && exchange->headers[i].name; i++)
        count += strcasecmp(exchange->headers[i].name, name) == 0;
    return count;
}

const char *http_cookie(const struct http_exchange *exchange, const char *name)
{
    return find(exchange->cookies, 2, name);
}

const char *http_query(const struct http_exchange *exchange, const char *name)
{
    return find(exchange->queries, 2, name);
}

const char *http_path_value(const struct http_exchange *exchange, const char *name)
{
    (void)name;
    return exchange->path_value;
}

const char *http_client_address(const struct http_exchange *exchange)
{
    return exchange->client;
}

const char *http_peer_address(const struct http_exchange *exchange)
{
    return exchange->peer;
}

bool http_is_secure(const struct http_exchange *exchange)
{
    return exchange->is_secure;
}

struct http_identity *http_identity_of(struct http_exchange *exchange)
{
    return &exchange->identity;
}

const json_t *http_json(struct http_exchange *exchange)
{
    return exchange->body;
}

void http_add_header(struct http_exchange *exchange, const char *name, const char *value)
{
    if (strcmp(name, "Set-Cookie") == 0)
        snprintf(exchange->set_cookie, sizeof exchange->set_cookie, "%s", value);
    if (strcmp(name, "WWW-Authenticate") == 0)
        snprintf(exchange->challenge, sizeof exchange->challenge, "%s", value);
}

void http_pass(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    exchange->is_passed = true;
    pthread_cond_signal(&exchange->changed);
    pthread_mutex_unlock(&exchange->lock);
}

/* Exactly one answer for each exchange. */
static void answer(struct http_exchange *exchange, int status, json_t *body)
{
    pthread_mutex_lock(&exchange->lock);
    if (exchange->status != 0 || exchange->is_passed)
        abort();
    exchange->status = status;
    exchange->answer = body;
    pthread_cond_signal(&exchange->changed);
    pthread_mutex_unlock(&exchange->lock);
}

void http_reply_json(struct http_exchange *exchange, int status, json_t *body)
{
    answer(exchange, status, body);
}

void http_reply_error(struct http_exchange *exchange, int status, const char *code,
                      const char *field, int retry_after, const char *format, ...)
{
    va_list args;

    (void)field;
    (void)retry_after;
    va_start(args, format);
    vsnprintf(exchange->message, sizeof exchange->message, format, args);
    va_end(args);
    snprintf(exchange->code, sizeof exchange->code, "%s", code);
    answer(exchange, status, NULL);
}

/* --- hub.h and store.h --- */

bool hub_with_store(struct hub *hub,
                    bool (*use)(void *context, struct store *store, struct error *err),
                    void *context, struct error *err)
{
    if (hub->store.fails)
        return error_set(err, ERROR_IO, "the disk failed");
    return use(context, &hub->store, err);
}

void hub_state(struct hub *hub, struct hub_state *out)
{
    (void)hub;
    *out = (struct hub_state){0};
}

bool store_add_key(struct store *store, const struct store_key *key, struct error *err)
{
    if (store->key_count == COUNT_OF(store->keys))
        return error_set(err, ERROR_IO, "full");
    store->keys[store->key_count++] = *key;
    return true;
}

bool store_revoke_key(struct store *store, const char *name_or_prefix, int64_t now_ms, int *count,
                      struct error *err)
{
    (void)err;
    *count = 0;
    for (size_t i = 0; i < store->key_count; i++) {
        struct store_key *key = &store->keys[i];

        if (key->revoked_ms == 0 &&
            (strcmp(key->name, name_or_prefix) == 0 || strcmp(key->prefix, name_or_prefix) == 0)) {
            key->revoked_ms = now_ms;
            ++*count;
        }
    }
    return true;
}

bool store_each_key(struct store *store, void (*visit)(void *context, const struct store_key *key),
                    void *context, struct error *err)
{
    (void)err;
    for (size_t i = 0; i < store->key_count; i++)
        visit(context, &store->keys[i]);
    return true;
}

/* NULL: there is none of the name, and no room for one. */
static struct fake_setting *find_setting(struct store *store, const char *name)
{
    for (size_t i = 0; i < COUNT_OF(store->settings); i++) {
        struct fake_setting *setting = &store->settings[i];

        if (!setting->name || strcmp(setting->name, name) == 0)
            return setting;
    }
    return NULL;
}

bool store_get_setting(struct store *store, const char *name, char **value, struct error *err)
{
    const struct fake_setting *setting = find_setting(store, name);

    (void)err;
    *value = setting && setting->value ? strdup(setting->value) : NULL;
    return true;
}

bool store_set_setting(struct store *store, const char *name, const char *value, struct error *err)
{
    struct fake_setting *setting = find_setting(store, name);

    if (!setting)
        return error_set(err, ERROR_IO, "full");
    if (!setting->name)
        setting->name = strdup(name);
    free(setting->value);
    setting->value = strdup(value);
    return true;
}

void fake_free_settings(struct store *store)
{
    for (size_t i = 0; i < COUNT_OF(store->settings); i++) {
        free(store->settings[i].name);
        free(store->settings[i].value);
    }
}

bool store_count(struct store *store, struct store_counts *out, struct error *err)
{
    (void)store;
    (void)err;
    *out = (struct store_counts){0};
    return true;
}
