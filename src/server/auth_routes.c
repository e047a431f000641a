/* Keys over HTTP, for administrators, and the table of the gate's own routes. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "server/auth_private.h"
#include "server/key_commands.h"
#include "server/log.h"

struct key_use {
    struct auth *auth;
    json_t *list;         /* of what is listed */
    struct store_key key; /* that is added */
    const char *name;     /* that is revoked */
    int count;
};

static void reply_failure(struct http_exchange *exchange, const struct error *err)
{
    log_event(LOG_ERROR, "keys.failed", "request=%s error=%s", http_request_id(exchange),
              err->message);
    http_reply_error(exchange, 503, "store_failed", "", 5, "the store of keys cannot be used now");
}

static void append_key(void *context, const struct store_key *key)
{
    json_array_append_new(context, key_to_json(key));
}

static bool list_keys(void *context, struct store *store, struct error *err)
{
    struct key_use *use = context;

    return store_each_key(store, append_key, use->list, err);
}

void auth_handle_list_keys(struct http_exchange *exchange, void *context)
{
    struct auth *auth = context;
    struct key_use use = {.auth = auth, .list = json_array()};
    struct error err = {0};

    if (hub_with_store(auth->hub, list_keys, &use, &err)) {
        http_reply_json(exchange, 200, json_pack("{s:o}", "keys", use.list));
        return;
    }
    json_decref(use.list);
    reply_failure(exchange, &err);
}

/* ["generate", "read"] as "generate,read"; NULL: it is not such a list. */
static const char *join_scopes(char text[64], const json_t *scopes)
{
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; i < json_array_size(scopes); i++) {
        const char *name = json_string_value(json_array_get(scopes, i));

        if (!name || used + strlen(name) + 2 > 64)
            return NULL;
        used += (size_t)snprintf(text + used, 64 - used, "%s%s", used ? "," : "", name);
    }
    return used > 0 ? text : NULL;
}

/* An integer of the body, 0 where there is none; what does not fit becomes -1, which no field
 * allows. */
static int32_t integer_of(const json_t *body, const char *name)
{
    const json_t *value = json_object_get(body, name);
    json_int_t number = json_integer_value(value);

    if (!value || json_is_null(value))
        return 0;
    return json_is_integer(value) && number >= 0 && number <= INT32_MAX ? (int32_t)number : -1;
}

static bool add_key(void *context, struct store *store, struct error *err)
{
    struct key_use *use = context;

    return store_add_key(store, &use->key, err) && auth_keys_load(&use->auth->keys, store, err);
}

static void reply_new_key(struct http_exchange *exchange, const struct store_key *key,
                          const char *text)
{
    json_t *body = key_to_json(key);

    json_object_set_new(body, "key", json_string(text));
    log_event(LOG_INFO, "keys.added", "request=%s name=%s prefix=%s by=%s",
              http_request_id(exchange), key->name, key->prefix, http_identity_of(exchange)->name);
    http_add_header(exchange, "Cache-Control", "no-store");
    http_reply_json(exchange, 201, body);
}

void auth_handle_add_key(struct http_exchange *exchange, void *context)
{
    struct auth *auth = context;
    struct key_use use = {.auth = auth};
    const json_t *body = http_json(exchange);
    char text[KEY_TEXT_BYTES], scopes[64];
    struct key_request request;
    struct error err = {0};

    if (!body)
        return;
    request = (struct key_request){
        .name = json_string_value(json_object_get(body, "name")),
        .jobs_per_minute = integer_of(body, "jobs_per_minute"),
        .days = integer_of(body, "days"),
    };
    if (json_object_get(body, "scopes")) {
        request.scopes = join_scopes(scopes, json_object_get(body, "scopes"));
        if (!request.scopes)
            request.scopes = "?"; /* no list of names: key_make says so */
    }
    if (!key_make(text, &use.key, &request, key_now_ms(), &err))
        http_reply_error(exchange, 422, "invalid", "", 0, "%s", err.message);
    else if (!hub_with_store(auth->hub, add_key, &use, &err))
        reply_failure(exchange, &err);
    else
        reply_new_key(exchange, &use.key, text);
    sodium_memzero(text, sizeof text);
}

static bool revoke_key(void *context, struct store *store, struct error *err)
{
    struct key_use *use = context;

    return store_revoke_key(store, use->name, key_now_ms(), &use->count, err) &&
           auth_keys_load(&use->auth->keys, store, err);
}

void auth_handle_revoke_key(struct http_exchange *exchange, void *context)
{
    struct auth *auth = context;
    struct key_use use = {.auth = auth, .name = http_path_value(exchange, "name")};
    struct error err = {0};

    if (!hub_with_store(auth->hub, revoke_key, &use, &err)) {
        reply_failure(exchange, &err);
        return;
    }
    if (use.count == 0) {
        http_reply_error(exchange, 404, "not_found", "name", 0,
                         "no key that is good has this name or prefix");
        return;
    }
    log_event(LOG_INFO, "keys.revoked", "request=%s name=%s count=%d by=%s",
              http_request_id(exchange), use.name, use.count, http_identity_of(exchange)->name);
    http_reply_json(exchange, 200, json_pack("{s:i}", "revoked", use.count));
}

/* --- Schemas --- */

static json_t *text_type(const char *type)
{
    return json_pack("{s:s}", "type", type);
}

static json_t *login_schema(void *context)
{
    (void)context;
    return json_pack("{s:s, s:{s:o, s:o, s:o}}", "type", "object", "properties", "key",
                     text_type("string"), "user", text_type("string"), "password",
                     text_type("string"));
}

static json_t *new_key_schema(void *context)
{
    (void)context;
    return json_pack("{s:s, s:[s], s:{s:o, s:{s:s, s:{s:s, s:[s,s,s,s]}}, "
                     "s:{s:s, s:i, s:i}, s:{s:s, s:i, s:i}}}",
                     "type", "object", "required", "name", "properties", "name",
                     text_type("string"), "scopes", "type", "array", "items", "type", "string",
                     "enum", "generate", "read", "metrics", "admin", "jobs_per_minute", "type",
                     "integer", "minimum", 0, "maximum", KEY_RATE_MAX, "days", "type", "integer",
                     "minimum", 0, "maximum", KEY_DAYS_MAX);
}

#define AUTH_ROUTE(verb, route, who, handler, schema, text)                                        \
    {                                                                                              \
        .method = (verb), .path = (route), .scope = (who), .style = STYLE_NATIVE,                  \
        .handle = (handler), .request_schema = (schema), .summary = (text), .tag = "Server"        \
    }

static const struct http_route routes[] = {
    AUTH_ROUTE(HTTP_POST, "/api/v1/login", SCOPE_PUBLIC, auth_handle_login, login_schema,
               "Log in with a key, or a user and a password, for a cookie"),
    AUTH_ROUTE(HTTP_POST, "/api/v1/logout", SCOPE_PUBLIC, auth_handle_logout, NULL,
               "End the session of the cookie"),
    AUTH_ROUTE(HTTP_GET, "/api/v1/session", SCOPE_PUBLIC, auth_handle_session, NULL,
               "Who is asking, and what they may do"),
    AUTH_ROUTE(HTTP_GET, "/api/v1/keys", SCOPE_ADMIN, auth_handle_list_keys, NULL,
               "All keys, without themselves"),
    AUTH_ROUTE(HTTP_POST, "/api/v1/keys", SCOPE_ADMIN, auth_handle_add_key, new_key_schema,
               "Make a key: it is shown in this answer and never again"),
    AUTH_ROUTE(HTTP_DELETE, "/api/v1/keys/{name}", SCOPE_ADMIN, auth_handle_revoke_key, NULL,
               "Revoke the keys of a name or prefix"),
};

struct http_routes auth_routes(struct auth *auth)
{
    return (struct http_routes){routes, COUNT_OF(routes), auth};
}
