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

static bool is_ended(struct auth *auth, const struct auth_session *session)
{
    bool is = false;

    pthread_mutex_lock(&auth->ended_lock);
    for (size_t i = 0; i < AUTH_ENDED_SESSIONS; i++)
        is |= memcmp(auth->ended[i], session->nonce, sizeof session->nonce) == 0;
    pthread_mutex_unlock(&auth->ended_lock);
    return is;
}

static bool read_cookie(struct auth *auth, struct auth_session *session, const char *cookie)
{
    return auth_session_read(session, cookie, auth->secret, (int64_t)time(NULL)) &&
           !is_ended(auth, session);
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
    if (!read_cookie(auth, &session, cookie))
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

void auth_end_session(struct auth *auth, struct http_exchange *exchange)
{
    const char *cookie = http_cookie(exchange, cookie_name(exchange));
    struct auth_session session;

    if (cookie && read_cookie(auth, &session, cookie)) {
        pthread_mutex_lock(&auth->ended_lock);
        memcpy(auth->ended[auth->ended_next], session.nonce, sizeof session.nonce);
        auth->ended_next = (auth->ended_next + 1) % AUTH_ENDED_SESSIONS;
        pthread_mutex_unlock(&auth->ended_lock);
    }
    set_cookie(exchange, "", 0);
}
