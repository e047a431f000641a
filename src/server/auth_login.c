/* Logging in and out, for browsers. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/auth_credentials.h"
#include "server/auth_private.h"
#include "server/key_commands.h"
#include "server/log.h"

static void welcome(struct http_exchange *exchange, const struct http_identity *identity)
{
    log_event(LOG_INFO, "auth.login", "request=%s user=%s", http_request_id(exchange),
              identity->name);
    http_reply_json(exchange, 200,
                    json_pack("{s:s, s:o}", "user", identity->name, "scopes",
                              key_scopes_to_json(identity->scopes)));
}

static void login_by_key(struct auth *auth, struct http_exchange *exchange, const char *text)
{
    struct http_identity identity;
    struct store_key key;
    enum auth_verdict verdict = auth_keys_find(&auth->keys, &key, text, key_now_ms());

    if (verdict != AUTH_PASSES) {
        auth_refuse(auth, exchange, verdict);
        return;
    }
    auth_identity_of_key(&identity, &key);
    auth_start_session(auth, exchange, key.name, true, key.hash);
    welcome(exchange, &identity);
}

struct late_login {
    struct auth *auth;
    struct http_exchange *exchange;
    char user[65];
};

static void finish_login(void *context, bool is_right)
{
    struct late_login *login = context;
    unsigned char mark[AUTH_MARK_BYTES];
    struct http_identity identity;

    if (is_right &&
        auth_passwords_mark(login->auth->passwords, login->user, login->auth->secret, mark)) {
        auth_identity_of_user(&identity, login->user);
        auth_start_session(login->auth, login->exchange, login->user, false, mark);
        welcome(login->exchange, &identity);
    } else {
        auth_refuse(login->auth, login->exchange, AUTH_WRONG_PASSWORD);
    }
    free(login);
}

static void login_by_password(struct auth *auth, struct http_exchange *exchange, const char *user,
                              const char *password)
{
    struct late_login *login = calloc(1, sizeof *login);
    enum password_check result;

    if (!login || strlen(user) >= sizeof login->user) {
        auth_refuse(auth, exchange, login ? AUTH_WRONG_PASSWORD : AUTH_BUSY);
        free(login);
        return;
    }
    login->auth = auth;
    login->exchange = exchange;
    memcpy(login->user, user, strlen(user) + 1);
    result = auth_passwords_check(auth->passwords, user, password, finish_login, login);
    if (result == PASSWORD_LATER)
        return;
    if (result == PASSWORD_BUSY) {
        auth_refuse(auth, exchange, AUTH_BUSY);
        free(login);
        return;
    }
    finish_login(login, result == PASSWORD_RIGHT);
}

void auth_handle_login(struct http_exchange *exchange, void *context)
{
    struct auth *auth = context;
    const json_t *body = http_json(exchange);
    const char *key, *user, *password;

    if (!body)
        return;
    key = json_string_value(json_object_get(body, "key"));
    user = json_string_value(json_object_get(body, "user"));
    password = json_string_value(json_object_get(body, "password"));
    if (auth_attempts_are_spent(&auth->attempts, http_client_address(exchange), seconds_now()))
        auth_refuse(auth, exchange, AUTH_TOO_MANY_ATTEMPTS);
    else if (key && strlen(key) < AUTH_TEXT_BYTES)
        login_by_key(auth, exchange, key);
    else if (user && password)
        login_by_password(auth, exchange, user, password);
    else
        http_reply_error(exchange, 422, "invalid", "key", 0,
                         "a key, or a user and a password, are needed");
}

void auth_handle_logout(struct http_exchange *exchange, void *context)
{
    struct error err = {0};

    if (auth_end_session(context, exchange, &err)) {
        http_reply_json(exchange, 200, json_object());
        return;
    }
    log_event(LOG_ERROR, "auth.logout_failed", "request=%s error=%s", http_request_id(exchange),
              err.message);
    http_reply_error(exchange, 503, "store_failed", "", 5,
                     "the session has ended, but the store cannot keep that now");
}

void auth_handle_session(struct http_exchange *exchange, void *context)
{
    const struct http_identity *identity = http_identity_of(exchange);
    struct auth *auth = context;

    http_add_header(exchange, "Cache-Control", "no-store");
    http_reply_json(exchange, 200,
                    json_pack("{s:s?, s:o, s:b, s:b, s:b}", "user",
                              identity->name[0] ? identity->name : NULL, "scopes",
                              key_scopes_to_json(identity->scopes), "by_cookie",
                              identity->is_browser, "login_is_needed", !auth->rules.is_off,
                              "has_passwords", auth_passwords_are_there(auth->passwords)));
}
