#include "server/auth.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "server/auth_addresses.h"
#include "server/auth_credentials.h"
#include "server/auth_private.h"
#include "server/key_commands.h"
#include "server/log.h"
#include "server/metrics.h"

#define USER_SCOPES (SCOPE_GENERATE | SCOPE_READ | SCOPE_METRICS) /* of those without a key */

/* --- The object --- */

static bool make_secret(struct store *store, char hex[2 * AUTH_SECRET_BYTES + 1], struct error *err)
{
    unsigned char secret[AUTH_SECRET_BYTES];

    randombytes_buf(secret, sizeof secret);
    sodium_bin2hex(hex, 2 * AUTH_SECRET_BYTES + 1, secret, sizeof secret);
    sodium_memzero(secret, sizeof secret);
    return store_set_setting(store, "secret", hex, err);
}

/* On the hub's thread: the secret, made by the first start, the keys, the sessions that are over.
 */
static bool load_from_store(void *context, struct store *store, struct error *err)
{
    struct auth *auth = context;
    char made[2 * AUTH_SECRET_BYTES + 1], *kept = NULL;
    size_t size = 0;
    bool ok;

    if (!store_get_setting(store, "secret", &kept, err) ||
        (!kept && !make_secret(store, made, err)))
        return error_in(err, "the secret of sessions");
    ok = sodium_hex2bin(auth->secret, sizeof auth->secret, kept ? kept : made,
                        2 * AUTH_SECRET_BYTES, NULL, &size, NULL) == 0 &&
         size == sizeof auth->secret;
    free(kept);
    if (!ok)
        return error_set(err, ERROR_BAD_FILE, "the secret of sessions in the store is damaged");
    return auth_ended_load(&auth->ended, store, err) && auth_keys_load(&auth->keys, store, err);
}

bool auth_create(struct auth **out, const struct auth_options *options, struct hub *hub,
                 struct error *err)
{
    struct auth *auth;

    if (sodium_init() < 0)
        return error_set(err, ERROR_IO, "libsodium does not start");
    auth = calloc(1, sizeof *auth);
    if (!auth)
        return error_set(err, ERROR_NO_MEMORY, "the gate");
    auth->options = *options;
    auth->hub = hub;
    auth_ended_init(&auth->ended);
    auth_keys_init(&auth->keys);
    auth_attempts_init(&auth->attempts);
    gethostname(auth->hostname, sizeof auth->hostname - 1);
    auth->rules =
        (struct auth_rules){options->mode == AUTH_OFF, options->allowed_hosts, auth->hostname};
    if (!auth_check_networks(options->trusted_proxies, err) ||
        !auth_passwords_create(&auth->passwords, options->api_auth, options->htpasswd, err) ||
        !hub_with_store(hub, load_from_store, auth, err)) {
        auth_destroy(auth);
        return false;
    }
    if (auth->rules.is_off && !options->is_loopback)
        log_event(LOG_WARNING, "auth.off", "message=\"everybody who reaches the port may do all\"");
    *out = auth;
    return true;
}

void auth_destroy(struct auth *auth)
{
    if (!auth)
        return;
    auth_passwords_destroy(auth->passwords);
    auth_keys_finish(&auth->keys);
    auth_attempts_finish(&auth->attempts);
    auth_ended_finish(&auth->ended);
    sodium_memzero(auth, sizeof *auth);
    free(auth);
}

static bool load_keys(void *context, struct store *store, struct error *err)
{
    struct auth *auth = context;

    return auth_keys_load(&auth->keys, store, err);
}

void auth_reload(struct auth *auth)
{
    struct error err = {0};

    if (!auth_passwords_reload(auth->passwords, &err))
        log_event(LOG_ERROR, "auth.reload_failed", "error=%s", err.message);
    if (!hub_with_store(auth->hub, load_keys, auth, &err))
        log_event(LOG_ERROR, "auth.reload_failed", "error=%s", err.message);
}

/* --- Answers --- */

static bool counts_as_attempt(enum auth_verdict verdict)
{
    return verdict == AUTH_WRONG_KEY || verdict == AUTH_WRONG_PASSWORD ||
           verdict == AUTH_KEY_EXPIRED || verdict == AUTH_KEY_REVOKED;
}

void auth_refuse(struct auth *auth, struct http_exchange *exchange, enum auth_verdict verdict)
{
    const struct http_route *route = http_route_of(exchange);
    bool is_a1111 = route && route->style == STYLE_A1111;
    const char *address = http_client_address(exchange);
    const struct auth_answer *answer;

    if (counts_as_attempt(verdict)) {
        if (auth_attempts_are_spent(&auth->attempts, address, seconds_now()))
            verdict = AUTH_TOO_MANY_ATTEMPTS;
        auth_attempts_fail(&auth->attempts, address, seconds_now());
    }
    answer = auth_answer(verdict);
    metrics_count(METRIC_AUTH_FAILURES, answer->reason, 1);
    log_event(LOG_INFO, "auth.refused", "request=%s address=%s reason=%s status=%d",
              http_request_id(exchange), address ? address : "", answer->code, answer->status);
    if (answer->status == 401)
        http_add_header(exchange, "WWW-Authenticate",
                        is_a1111 ? "Basic realm=\"sd35\", charset=\"UTF-8\""
                                 : "Bearer realm=\"sd35\"");
    http_reply_error(exchange, answer->status, answer->code, "",
                     answer->status == 429   ? 60
                     : answer->status == 503 ? 1
                                             : 0,
                     "%s",
                     is_a1111 && answer->status == 401 ? "Incorrect username or password"
                                                       : answer->message);
}

/* --- Who asks --- */

void auth_identity_of_key(struct http_identity *out, const struct store_key *key)
{
    static_assert(sizeof out->name == sizeof key->name, "both hold an owner's name");
    *out = (struct http_identity){.scopes = key->scopes, .jobs_per_minute = key->jobs_per_minute};
    memcpy(out->name, key->name, sizeof out->name);
}

void auth_identity_of_user(struct http_identity *out, const char *user)
{
    *out = (struct http_identity){.scopes = USER_SCOPES};
    snprintf(out->name, sizeof out->name, "%s", user);
}

struct late_check {
    struct auth *auth;
    struct http_exchange *exchange;
    struct auth_facts facts; /* borrows from the exchange */
    char user[65];
};

static void gather_facts(struct auth_facts *facts, const struct http_exchange *exchange,
                         const struct http_route *route)
{
    static const char *const names[] = {"key", "api_key", "token", "access_token"};

    *facts = (struct auth_facts){
        .method = http_method_of(exchange),
        .scope = route->scope,
        .host = http_header(exchange, "Host"),
        .origin = http_header(exchange, "Origin"),
        .content_type = http_header(exchange, "Content-Type"),
        .fetch_site = http_header(exchange, "Sec-Fetch-Site"),
        .marker = http_header(exchange, "X-SD35-Request"),
    };
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const char *value = http_query(exchange, names[i]);

        facts->has_key_in_query |= value && strncmp(value, "sd35_", 5) == 0;
    }
}

/* True: go on to the handler. */
static bool conclude(struct auth *auth, struct http_exchange *exchange,
                     const struct auth_facts *facts, enum auth_source source,
                     const struct http_identity *identity)
{
    enum auth_verdict verdict = auth_judge_identity(&auth->rules, facts, source, identity->scopes);

    if (verdict != AUTH_PASSES) {
        auth_refuse(auth, exchange, verdict);
        return false;
    }
    *http_identity_of(exchange) = *identity;
    return true;
}

static void finish_late(void *context, bool is_right)
{
    struct late_check *late = context;
    struct http_identity identity;

    auth_identity_of_user(&identity, late->user);
    if (!is_right)
        auth_refuse(late->auth, late->exchange, AUTH_WRONG_PASSWORD);
    else if (conclude(late->auth, late->exchange, &late->facts, AUTH_FROM_PASSWORD, &identity))
        http_pass(late->exchange);
    free(late);
}

static enum auth_verdict check_key(struct auth *auth, const char *text, struct http_identity *out)
{
    struct store_key key;
    enum auth_verdict verdict = auth_keys_find(&auth->keys, &key, text, key_now_ms());

    if (verdict == AUTH_PASSES)
        auth_identity_of_key(out, &key);
    return verdict;
}

/* *is_later: the answer comes from the passwords' thread, and the exchange is theirs now. */
static enum auth_verdict check_password(struct auth *auth, struct http_exchange *exchange,
                                        const struct auth_facts *facts,
                                        const struct auth_credentials *credentials,
                                        struct http_identity *out, bool *is_later)
{
    struct late_check *late;
    enum password_check result;

    if (auth_attempts_are_spent(&auth->attempts, http_client_address(exchange), seconds_now()))
        return AUTH_TOO_MANY_ATTEMPTS;
    if (strlen(credentials->user) >= sizeof late->user)
        return AUTH_WRONG_PASSWORD;
    late = calloc(1, sizeof *late);
    if (!late)
        return AUTH_BUSY;
    *late = (struct late_check){auth, exchange, *facts, ""};
    memcpy(late->user, credentials->user, strlen(credentials->user) + 1);
    result = auth_passwords_check(auth->passwords, credentials->user, credentials->password,
                                  finish_late, late);
    if (result == PASSWORD_LATER) {
        *is_later = true;
        return AUTH_PASSES;
    }
    free(late);
    auth_identity_of_user(out, credentials->user);
    return result == PASSWORD_RIGHT  ? AUTH_PASSES
           : result == PASSWORD_BUSY ? AUTH_BUSY
                                     : AUTH_WRONG_PASSWORD;
}

/* The user that a trusted proxy names. */
static enum auth_verdict check_proxy(struct auth *auth, const struct http_exchange *exchange,
                                     struct http_identity *out)
{
    const char *user =
        auth->options.proxy_header ? http_header(exchange, auth->options.proxy_header) : NULL;

    if (!user || !*user ||
        !auth_address_is_in(http_peer_address(exchange), auth->options.trusted_proxies))
        return AUTH_NO_CREDENTIALS;
    /* One of two is not the proxy's: it adds where it should set. */
    if (http_header_count(exchange, auth->options.proxy_header) > 1 || !auth_name_is_valid(user))
        return AUTH_WRONG_USER;
    auth_identity_of_user(out, user);
    return AUTH_PASSES;
}

/* By the proxy's header, Authorization or the cookie, in this order: a proxy may pass on the
 * Authorization that was meant for itself. */
static enum auth_verdict identify(struct auth *auth, struct http_exchange *exchange,
                                  const struct auth_facts *facts, struct http_identity *out,
                                  enum auth_source *source, bool *is_later)
{
    enum auth_verdict verdict = check_proxy(auth, exchange, out);
    struct auth_credentials credentials;

    *source = AUTH_FROM_PROXY;
    if (verdict != AUTH_NO_CREDENTIALS)
        return verdict;
    auth_read_credentials(&credentials, http_header(exchange, "Authorization"));
    switch (credentials.scheme) {
    case AUTH_SCHEME_BEARER:
        *source = AUTH_FROM_KEY;
        verdict = check_key(auth, credentials.key, out);
        break;
    case AUTH_SCHEME_BASIC:
        /* Clients that know nothing but Basic send a key as the password. */
        *source = AUTH_FROM_KEY;
        verdict = check_key(auth, credentials.password, out);
        if (verdict == AUTH_WRONG_KEY && facts->scope != SCOPE_PUBLIC) {
            *source = AUTH_FROM_PASSWORD;
            verdict = check_password(auth, exchange, facts, &credentials, out, is_later);
        }
        break;
    case AUTH_SCHEME_BAD:
        verdict = AUTH_BAD_CREDENTIALS;
        break;
    case AUTH_SCHEME_NONE:
        *source = AUTH_FROM_COOKIE;
        verdict = auth_identity_of_cookie(auth, out, exchange);
        break;
    }
    sodium_memzero(&credentials, sizeof credentials);
    return verdict;
}

static bool check_exchange(void *context, struct http_exchange *exchange,
                           const struct http_route *route)
{
    struct http_identity identity = {.name = "local", .scopes = KEY_ALL_SCOPES};
    enum auth_source source = AUTH_FROM_MODE;
    struct auth *auth = context;
    enum auth_verdict verdict;
    struct auth_facts facts;
    bool is_later = false;

    gather_facts(&facts, exchange, route);
    verdict = auth_judge_request(&auth->rules, &facts);
    if (verdict == AUTH_PASSES && !auth->rules.is_off) {
        identity = (struct http_identity){0};
        verdict = identify(auth, exchange, &facts, &identity, &source, &is_later);
        if (is_later)
            return false;
        /* Where nobody is asked, wrong credentials are none. */
        if (verdict == AUTH_NO_CREDENTIALS ||
            (verdict != AUTH_PASSES && facts.scope == SCOPE_PUBLIC)) {
            identity = (struct http_identity){0};
            source = AUTH_FROM_NOBODY;
            verdict = AUTH_PASSES;
        }
    }
    if (verdict != AUTH_PASSES) {
        auth_refuse(auth, exchange, verdict);
        return false;
    }
    return conclude(auth, exchange, &facts, source, &identity);
}

struct http_gate auth_gate(struct auth *auth)
{
    return (struct http_gate){check_exchange, auth};
}

/* --- The first key, and links --- */

struct new_key {
    struct auth *auth;
    struct store_key key;
};

static bool add_first_key(void *context, struct store *store, struct error *err)
{
    struct new_key *new_key = context;

    return store_add_key(store, &new_key->key, err) &&
           auth_keys_load(&new_key->auth->keys, store, err);
}

static bool write_key(const char *path, const char *text, struct error *err)
{
    struct file_writer *writer;

    if (!file_writer_create(&writer, path, err))
        return false;
    if (!file_writer_keep_private(writer, err) ||
        !file_writer_append(writer, text, strlen(text), err) ||
        !file_writer_append(writer, "\n", 1, err)) {
        file_writer_abandon(writer);
        return false;
    }
    return file_writer_commit(writer, err);
}

bool auth_first_key(struct auth *auth, const char *path, char **key, struct error *err)
{
    struct new_key first = {.auth = auth};
    char text[KEY_TEXT_BYTES];

    *key = NULL;
    if (auth->rules.is_off || auth->options.proxy_header ||
        auth_passwords_are_there(auth->passwords) || auth_keys_have_one(&auth->keys, key_now_ms()))
        return true;
    auth_make_key(text, &first.key, "first", KEY_ALL_SCOPES);
    /* The file first: a key that is in the store alone would be nobody's. */
    if (!write_key(path, text, err) || !hub_with_store(auth->hub, add_first_key, &first, err))
        return error_in(err, "the first key");
    *key = strdup(text);
    sodium_memzero(text, sizeof text);
    return *key || error_set(err, ERROR_NO_MEMORY, "the first key");
}

void auth_sign(const struct auth *auth, const char *path, int64_t expires_s, char *out, size_t size)
{
    char signature[AUTH_SIGNATURE_BYTES];

    auth_sign_path(signature, path, expires_s, auth->secret);
    snprintf(out, size, "%s?expires=%lld&signature=%s", path, (long long)expires_s, signature);
}

bool auth_verify_signed(const struct auth *auth, const char *path, const char *expires,
                        const char *signature, int64_t now_s)
{
    return auth_check_path(path, expires, signature, auth->secret, now_s);
}
