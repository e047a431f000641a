/* Sessions of browsers: a cookie that no script can read. It says which credential it was given
 * for, and is worth as much as that one still is. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "server/auth_private.h"
#include "server/limits.h"

/* "__Host-": set by this very host over TLS, for all of it, or the browser refuses it. */
static const char *cookie_name(const struct http_exchange *exchange)
{
    return http_is_secure(exchange) ? "__Host-sd35" : "sd35_session";
}

enum auth_verdict auth_identity_of_cookie(struct auth *auth, struct http_identity *out,
                                          const struct http_exchange *exchange)
{
    const char *cookie = http_cookie(exchange, cookie_name(exchange));
    unsigned char mark[AUTH_MARK_BYTES];
    struct auth_session session;
    struct store_key key;

    if (!cookie || !*cookie)
        return AUTH_NO_CREDENTIALS;
    if (!auth_session_read(&session, cookie, auth->secret, (int64_t)time(NULL)) ||
        auth_ended_has(&auth->ended, &session))
        return AUTH_WRONG_SESSION;
    if (session.is_key) {
        if (auth_keys_find_mark(&auth->keys, &key, session.mark, (int64_t)time(NULL) * 1000) !=
            AUTH_PASSES)
            return AUTH_WRONG_SESSION;
        auth_identity_of_key(out, &key);
    } else {
        if (!auth_passwords_mark(auth->passwords, session.name, auth->secret, mark) ||
            sodium_memcmp(mark, session.mark, sizeof mark) != 0)
            return AUTH_WRONG_SESSION;
        auth_identity_of_user(out, session.name);
    }
    out->is_browser = true;
    return AUTH_PASSES;
}

static void set_cookie(struct http_exchange *exchange, const char *value, int seconds)
{
    char cookie[AUTH_TOKEN_BYTES + 128];

    snprintf(cookie, sizeof cookie, "%s=%s; Path=/; Max-Age=%d; HttpOnly; SameSite=Strict%s",
             cookie_name(exchange), value, seconds, http_is_secure(exchange) ? "; Secure" : "");
    http_add_header(exchange, "Set-Cookie", cookie);
}

void auth_start_session(struct auth *auth, struct http_exchange *exchange, const char *name,
                        bool is_key, const unsigned char mark[AUTH_MARK_BYTES])
{
    struct auth_session session = {.expires_s = (int64_t)time(NULL) + SESSION_SECONDS,
                                   .is_key = is_key};
    char token[AUTH_TOKEN_BYTES];

    snprintf(session.name, sizeof session.name, "%s", name);
    memcpy(session.mark, mark, sizeof session.mark);
    auth_session_write(token, &session, auth->secret);
    set_cookie(exchange, token, SESSION_SECONDS);
}

static bool keep_ended(void *context, struct store *store, struct error *err)
{
    struct auth *auth = context;

    return auth_ended_keep(&auth->ended, store, err);
}

bool auth_end_session(struct auth *auth, struct http_exchange *exchange, struct error *err)
{
    const char *cookie = http_cookie(exchange, cookie_name(exchange));
    int64_t now_s = (int64_t)time(NULL);
    struct auth_session session;

    if (cookie && auth_session_read(&session, cookie, auth->secret, now_s)) {
        if (!auth_ended_add(&auth->ended, &session, now_s))
            return error_set(err, ERROR_NO_MEMORY, "a session that has ended");
        if (!hub_with_store(auth->hub, keep_ended, auth, err))
            return false;
    }
    set_cookie(exchange, "", 0);
    return true;
}
