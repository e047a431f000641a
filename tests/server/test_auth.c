/* The gate as a whole, over exchanges and a store in memory. */
#include "support/support.h"

#include <crypt.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "server/auth.h"
#include "server/auth_ended.h"
#include "server/auth_fakes.h"
#include "server/key_commands.h"
#include "server/limits.h"
#include "server/log.h"

static const struct http_route read_route = {.method = HTTP_GET, .scope = SCOPE_READ};
static const struct http_route draw_route = {.method = HTTP_POST, .scope = SCOPE_GENERATE};
static const struct http_route admin_route = {.method = HTTP_GET, .scope = SCOPE_ADMIN};
static const struct http_route public_route = {.method = HTTP_GET, .scope = SCOPE_PUBLIC};
static const struct http_route a1111_route = {
    .method = HTTP_GET, .scope = SCOPE_READ, .style = STYLE_A1111};

static struct hub hub;
static char alice[64], expired[64], revoked[64], reader[64];

static struct auth *start(const struct auth_options *options)
{
    struct auth *auth;
    struct error err = {0};

    if (!auth_create(&auth, options, &hub, &err))
        fail_msg("%s", err.message);
    return auth;
}

/* 200: it passed. Waits where the answer comes late. */
static int check(struct auth *auth, struct http_exchange *exchange)
{
    struct http_gate gate = auth_gate(auth);

    if (gate.check(gate.context, exchange, exchange->route))
        http_pass(exchange);
    fake_wait(exchange);
    return exchange->is_passed ? 200 : exchange->status;
}

/* One request with an Authorization and nothing else that matters. */
static int ask(struct auth *auth, const struct http_route *route, const char *authorization)
{
    struct http_exchange exchange;
    int status;

    fake_init(&exchange, route);
    if (authorization)
        fake_header(&exchange, "Authorization", authorization);
    status = check(auth, &exchange);
    fake_finish(&exchange);
    return status;
}

static const char *bearer(const char *key)
{
    static char header[128];

    snprintf(header, sizeof header, "Bearer %s", key);
    return header;
}

static const char *basic(const char *pair)
{
    static char header[256];

    snprintf(header, sizeof header, "Basic ");
    sodium_bin2base64(header + 6, sizeof header - 6, (const unsigned char *)pair, strlen(pair),
                      sodium_base64_VARIANT_ORIGINAL);
    return header;
}

static void test_keys(void **state)
{
    struct auth *auth = start(&(struct auth_options){0});
    char pair[128];

    (void)state;
    assert_int_equal(ask(auth, &read_route, NULL), 401);
    assert_int_equal(ask(auth, &public_route, NULL), 200);
    assert_int_equal(ask(auth, &public_route, "Bearer wrong"), 200);
    assert_int_equal(ask(auth, &read_route, bearer(alice)), 200);
    assert_int_equal(ask(auth, &draw_route, bearer(alice)), 200);
    assert_int_equal(ask(auth, &admin_route, bearer(alice)), 403);
    assert_int_equal(ask(auth, &draw_route, bearer(reader)), 403);
    assert_int_equal(ask(auth, &read_route, bearer(reader)), 200);
    assert_int_equal(ask(auth, &read_route, bearer(expired)), 401);
    assert_int_equal(ask(auth, &read_route, bearer(revoked)), 401);
    assert_int_equal(ask(auth, &read_route, "Basic Og=="), 401);
    assert_int_equal(ask(auth, &read_route, "Basic %%%"), 401);
    /* A client that knows nothing but Basic. */
    snprintf(pair, sizeof pair, "anybody:%s", alice);
    assert_int_equal(ask(auth, &read_route, basic(pair)), 200);
    auth_destroy(auth);
}

/* Every key that differs in one character, is shorter or longer by one: all refused. */
static void test_near_misses(void **state)
{
    struct auth *auth = start(&(struct auth_options){0});
    char near[80];

    (void)state;
    for (size_t i = 0; i < strlen(alice); i++) {
        struct http_exchange exchange;

        snprintf(near, sizeof near, "%s", alice);
        near[i] ^= 1;
        fake_init(&exchange, &read_route);
        fake_header(&exchange, "Authorization", bearer(near));
        check(auth, &exchange);
        /* After ten of them the address has to wait, and is told so. */
        assert_int_equal(exchange.status, i < LOGIN_FAILURES_PER_MINUTE_MAX ? 401 : 429);
        fake_finish(&exchange);
    }
    snprintf(near, sizeof near, "%.47s", alice);
    assert_int_not_equal(ask(auth, &read_route, bearer(near)), 200);
    snprintf(near, sizeof near, "%sA", alice);
    assert_int_not_equal(ask(auth, &read_route, bearer(near)), 200);
    /* A right key is let in from the same address. */
    assert_int_equal(ask(auth, &read_route, bearer(alice)), 200);
    auth_destroy(auth);
}

static void test_key_in_the_address(void **state)
{
    struct auth *auth = start(&(struct auth_options){0});
    struct http_exchange exchange;

    (void)state;
    fake_init(&exchange, &read_route);
    exchange.queries[0] = (struct fake_pair){"api_key", alice};
    assert_int_equal(check(auth, &exchange), 400);
    assert_null(strstr(exchange.message, alice));
    fake_finish(&exchange);
    auth_destroy(auth);
}

static void test_identity_and_challenge(void **state)
{
    struct auth *auth = start(&(struct auth_options){0});
    struct http_exchange exchange;

    (void)state;
    fake_init(&exchange, &read_route);
    fake_header(&exchange, "Authorization", bearer(alice));
    assert_int_equal(check(auth, &exchange), 200);
    assert_string_equal(exchange.identity.name, "alice");
    assert_int_equal(exchange.identity.jobs_per_minute, 9);
    assert_false(exchange.identity.is_browser);
    fake_finish(&exchange);
    fake_init(&exchange, &a1111_route);
    check(auth, &exchange);
    assert_memory_equal(exchange.challenge, "Basic ", 6);
    assert_string_equal(exchange.message, "Incorrect username or password");
    fake_finish(&exchange);
    fake_init(&exchange, &read_route);
    check(auth, &exchange);
    assert_memory_equal(exchange.challenge, "Bearer ", 7);
    fake_finish(&exchange);
    auth_destroy(auth);
}

static void test_off(void **state)
{
    struct auth *auth = start(&(struct auth_options){.mode = AUTH_OFF, .is_loopback = true});
    struct http_exchange exchange;

    (void)state;
    fake_init(&exchange, &admin_route);
    assert_int_equal(check(auth, &exchange), 200);
    assert_string_equal(exchange.identity.name, "local");
    fake_finish(&exchange);
    fake_init(&exchange, &read_route);
    fake_header(&exchange, "Host", "rebound.example");
    assert_int_equal(check(auth, &exchange), 403);
    fake_finish(&exchange);
    fake_init(&exchange, &draw_route);
    fake_header(&exchange, "Origin", "https://evil.example");
    assert_int_equal(check(auth, &exchange), 403);
    fake_finish(&exchange);
    auth_destroy(auth);
}

/* A proxy that adds its header to the client's, which comes first. */
static void check_two_users(struct auth *auth)
{
    struct http_exchange exchange;

    fake_init(&exchange, &draw_route);
    exchange.peer = "10.1.1.1";
    fake_header(&exchange, "X-Auth-Request-User", "eve");
    exchange.headers[2] = (struct fake_pair){"x-auth-request-user", "bob"};
    assert_int_equal(check(auth, &exchange), 403);
    fake_finish(&exchange);
}

static void test_proxy(void **state)
{
    const char *const proxies[] = {"10.0.0.0/8", NULL};
    struct auth *auth = start(
        &(struct auth_options){.proxy_header = "X-Auth-Request-User", .trusted_proxies = proxies});
    static const struct {
        const char *peer, *client, *user;
        int status;
    } rows[] = {
        {"10.1.1.1", "203.0.113.5", "bob@example.org", 200},
        {"10.1.1.1", "203.0.113.5", "bob smith", 403},
        {"10.1.1.1", "203.0.113.5", "", 401},
        {"203.0.113.5", "203.0.113.5", "bob", 401},
        /* The client is not the connection. */
        {"203.0.113.5", "10.1.1.1", "bob", 401},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct http_exchange exchange;

        fake_init(&exchange, &draw_route);
        exchange.peer = rows[i].peer;
        exchange.client = rows[i].client;
        fake_header(&exchange, "X-Auth-Request-User", rows[i].user);
        assert_int_equal(check(auth, &exchange), rows[i].status);
        if (rows[i].status == 200)
            assert_string_equal(exchange.identity.name, rows[i].user);
        fake_finish(&exchange);
    }
    check_two_users(auth);
    auth_destroy(auth);
}

/* An htpasswd file with one user for each kind of hash. */
static const char *password_file(const char *password)
{
    static const char *const settings[] = {"$2y$04$abcdefghijklmnopqrstuu",
                                           "$6$rounds=1000$saltsalt"};
    static const char *const names[] = {"bea", "sam"};
    char text[1024] = "# users\n\n";
    struct crypt_data data = {0};

    for (int i = 0; i < 2; i++) {
        const char *hash = crypt_r(password, settings[i], &data);

        assert_non_null(hash);
        assert_int_not_equal(hash[0], '*');
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s:%s\r\n", names[i], hash);
    }
    return test_write_file("htpasswd", text, strlen(text));
}

static void test_passwords(void **state)
{
    struct auth *auth = start(&(struct auth_options){.api_auth = "joe:secret,ann:pass word",
                                                     .htpasswd = password_file("right")});

    (void)state;
    assert_int_equal(ask(auth, &draw_route, basic("joe:secret")), 200);
    assert_int_equal(ask(auth, &draw_route, basic("ann:pass word")), 200);
    assert_int_equal(ask(auth, &draw_route, basic("joe:Secret")), 401);
    assert_int_equal(ask(auth, &draw_route, basic("bea:right")), 200);
    assert_int_equal(ask(auth, &draw_route, basic("bea:right")), 200); /* remembered */
    assert_int_equal(ask(auth, &draw_route, basic("sam:right")), 200);
    assert_int_equal(ask(auth, &draw_route, basic("sam:wrong")), 401);
    assert_int_equal(ask(auth, &draw_route, basic("nobody:right")), 401);
    assert_int_equal(ask(auth, &draw_route, basic("bea:")), 401);
    assert_int_equal(ask(auth, &admin_route, basic("bea:right")), 403);
    /* The file is read again: what was remembered is forgotten. */
    password_file("changed");
    auth_reload(auth);
    assert_int_equal(ask(auth, &draw_route, basic("bea:right")), 401);
    assert_int_equal(ask(auth, &draw_route, basic("bea:changed")), 200);
    /* A damaged one leaves what was there. */
    test_write_file("htpasswd", "bea:plain\n", 10);
    auth_reload(auth);
    assert_int_equal(ask(auth, &draw_route, basic("bea:changed")), 200);
    auth_destroy(auth);
}

static void test_attempts_are_limited(void **state)
{
    struct auth *auth = start(&(struct auth_options){.api_auth = "joe:secret"});

    (void)state;
    for (int i = 0; i < LOGIN_FAILURES_PER_MINUTE_MAX; i++)
        assert_int_equal(ask(auth, &draw_route, basic("joe:wrong")), 401);
    assert_int_equal(ask(auth, &draw_route, basic("joe:wrong")), 429);
    assert_int_equal(ask(auth, &draw_route, basic("joe:secret")), 429);
    assert_int_equal(ask(auth, &draw_route, bearer(alice)), 200);
    auth_destroy(auth);
}

static void test_bad_password_files(void **state)
{
    static const char *const texts[] = {
        "bea:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n",
        "bea:$apr1$abc$def\n",
        "bea\n",
        "bea:\n",
        "b a:$2y$04$abcdefghijklmnopqrstuu\n",
        ":$2y$04$abc\n",
        "bea:$2y$04$abc\nbea:$2y$04$abc\n",
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        const char *path = test_write_file("bad", texts[i], strlen(texts[i]));
        struct error err = {0};
        struct auth *auth;

        assert_false(auth_create(&auth, &(struct auth_options){.htpasswd = path}, &hub, &err));
        assert_non_null(strstr(err.message, "line "));
        assert_null(strstr(err.message, "$2y$04$"));
    }
}

static const struct http_route *route_of(struct http_routes routes, enum http_method method,
                                         const char *path)
{
    for (size_t i = 0; i < routes.count; i++)
        if (routes.routes[i].method == method && strcmp(routes.routes[i].path, path) == 0)
            return &routes.routes[i];
    fail_msg("no route %s", path);
    return NULL;
}

/* Gate and handler, as the server does it. */
static int call(struct auth *auth, struct http_exchange *exchange)
{
    if (check(auth, exchange) != 200)
        return exchange->status;
    pthread_mutex_lock(&exchange->lock);
    exchange->is_passed = false;
    pthread_mutex_unlock(&exchange->lock);
    exchange->route->handle(exchange, auth);
    fake_wait(exchange);
    return exchange->status;
}

/* Logs in and returns the cookie's value; NULL when refused. */
static const char *login(struct auth *auth, const char *body, bool is_secure)
{
    static char value[256];
    struct http_exchange exchange;
    const char *result = NULL;

    fake_init(&exchange, route_of(auth_routes(auth), HTTP_POST, "/api/v1/login"));
    exchange.body = json_loads(body, 0, NULL);
    exchange.is_secure = is_secure;
    assert_non_null(exchange.body);
    if (call(auth, &exchange) == 200) {
        const char *name = is_secure ? "__Host-sd35=" : "sd35_session=";

        assert_memory_equal(exchange.set_cookie, name, strlen(name));
        assert_non_null(strstr(exchange.set_cookie, "; HttpOnly"));
        assert_non_null(strstr(exchange.set_cookie, "; SameSite=Strict"));
        assert_non_null(strstr(exchange.set_cookie, "; Path=/"));
        assert_int_equal(strstr(exchange.set_cookie, "; Secure") != NULL, is_secure);
        snprintf(value, sizeof value, "%.*s", (int)strcspn(exchange.set_cookie + strlen(name), ";"),
                 exchange.set_cookie + strlen(name));
        result = value;
    }
    fake_finish(&exchange);
    return result;
}

static int ask_by_cookie(struct auth *auth, const struct http_route *route, const char *cookie,
                         const char *marker)
{
    struct http_exchange exchange;
    int status;

    fake_init(&exchange, route);
    exchange.cookies[0] = (struct fake_pair){"sd35_session", cookie};
    if (marker)
        fake_header(&exchange, "X-SD35-Request", marker);
    status = check(auth, &exchange);
    if (status == 200)
        assert_true(exchange.identity.is_browser);
    fake_finish(&exchange);
    return status;
}

static const char *login_body(const char *key)
{
    static char body[128];

    snprintf(body, sizeof body, "{\"key\": \"%s\"}", key);
    return body;
}

static void test_sessions(void **state)
{
    const struct auth_options options = {.api_auth = "joe:secret",
                                         .htpasswd = password_file("right")};
    struct auth *auth = start(&options);
    char cookie[256];
    const char *value;

    (void)state;
    assert_null(login(auth, "{\"key\": \"sd35_wrong\"}", false));
    assert_null(login(auth, "{\"user\": \"joe\", \"password\": \"wrong\"}", false));
    assert_null(login(auth, "{\"user\": \"joe\"}", false));
    assert_null(login(auth, "{\"key\": 7}", false));
    assert_non_null(login(auth, login_body(alice), true));
    assert_non_null(login(auth, "{\"user\": \"joe\", \"password\": \"secret\"}", false));
    value = login(auth, "{\"user\": \"bea\", \"password\": \"right\"}", false);
    assert_non_null(value);
    assert_int_equal(ask_by_cookie(auth, &read_route, value, NULL), 200);
    assert_int_equal(ask_by_cookie(auth, &draw_route, value, NULL), 403);
    assert_int_equal(ask_by_cookie(auth, &draw_route, value, "1"), 200);
    snprintf(cookie, sizeof cookie, "%s", value);
    /* It outlives the server, but not the password. */
    auth_destroy(auth);
    auth = start(&options);
    assert_int_equal(ask_by_cookie(auth, &read_route, cookie, NULL), 200);
    password_file("changed");
    auth_reload(auth);
    assert_int_equal(ask_by_cookie(auth, &read_route, cookie, NULL), 401);
    auth_destroy(auth);
}

static int logout(struct auth *auth, const char *cookie)
{
    struct http_exchange exchange;
    int status;

    fake_init(&exchange, route_of(auth_routes(auth), HTTP_POST, "/api/v1/logout"));
    exchange.cookies[0] = (struct fake_pair){"sd35_session", cookie};
    fake_header(&exchange, "X-SD35-Request", "1");
    status = call(auth, &exchange);
    assert_int_equal(strstr(exchange.set_cookie, "Max-Age=0") != NULL, status == 200);
    fake_finish(&exchange);
    return status;
}

static void test_logout(void **state)
{
    struct auth *auth = start(&(struct auth_options){0});
    char first[256], second[256];

    (void)state;
    snprintf(first, sizeof first, "%s", login(auth, login_body(alice), false));
    snprintf(second, sizeof second, "%s", login(auth, login_body(alice), false));
    assert_int_equal(logout(auth, first), 200);
    assert_int_equal(ask_by_cookie(auth, &read_route, first, NULL), 401);
    assert_int_equal(logout(auth, first), 200); /* nothing is left to end */
    assert_int_equal(logout(auth, "nonsense"), 200);
    /* The next start knows, and nobody else is logged out. */
    auth_destroy(auth);
    auth = start(&(struct auth_options){0});
    assert_int_equal(ask_by_cookie(auth, &read_route, first, NULL), 401);
    assert_int_equal(ask_by_cookie(auth, &read_route, second, NULL), 200);
    /* Where the store fails the session ends, and the browser may try again. */
    hub.store.fails = true;
    assert_int_equal(logout(auth, second), 503);
    assert_int_equal(ask_by_cookie(auth, &read_route, second, NULL), 401);
    hub.store.fails = false;
    assert_int_equal(logout(auth, second), 200);
    auth_destroy(auth);
    auth = start(&(struct auth_options){0});
    assert_int_equal(ask_by_cookie(auth, &read_route, second, NULL), 401);
    auth_destroy(auth);
}

static struct auth_session session_of(unsigned credential, unsigned number, int64_t expires_s)
{
    return (struct auth_session){.expires_s = expires_s,
                                 .mark = {(unsigned char)credential},
                                 .nonce = {1, (unsigned char)number, (unsigned char)(number >> 8)}};
}

static bool has_ended(struct auth_ended *ended, unsigned credential, unsigned number,
                      int64_t expires_s)
{
    const struct auth_session session = session_of(credential, number, expires_s);

    return auth_ended_has(ended, &session);
}

static void test_many_logouts(void **state)
{
    const unsigned count = 3 * ENDED_SESSIONS_MAX;
    struct auth_ended ended, again;
    struct store store = {0};
    struct auth_session session;
    struct error err = {0};

    (void)state;
    auth_ended_init(&ended);
    auth_ended_init(&again);
    session = session_of(2, 0, 5000);
    assert_true(auth_ended_add(&ended, &session, 0));
    for (unsigned i = 0; i < count; i++) {
        session = session_of(1, i, 1000 + i);
        assert_true(auth_ended_add(&ended, &session, 0));
    }
    assert_true(auth_ended_keep(&ended, &store, &err));
    assert_true(auth_ended_load(&again, &store, &err));
    assert_int_equal(again.count,
                     ENDED_SESSIONS_MAX + 2); /* one for the rest, one of credential 2 */
    for (unsigned i = 0; i < count; i++)
        assert_true(has_ended(&again, 1, i, 1000 + i));
    assert_true(has_ended(&again, 2, 0, 5000));
    /* Of this credential those that expire early are over with them, of another they are not. */
    assert_true(has_ended(&again, 1, 9999, 1000));
    assert_false(has_ended(&again, 1, 9999, 1000 + count));
    assert_false(has_ended(&again, 2, 9999, 1000));
    /* What has expired is not kept. */
    session = session_of(3, 0, 9000);
    assert_true(auth_ended_add(&again, &session, 6000));
    assert_int_equal(again.count, 1);
    auth_ended_finish(&again);
    auth_ended_finish(&ended);
    fake_free_settings(&store);
}

static void test_damaged_logouts(void **state)
{
    static const char *const damaged[] = {
        "",
        "{}",
        "[1]",
        "[[]]",
        "[[\"00\", \"00\", 1]]",
        "[[\"00000000000000000000000000000000\", \"00000000000000000000000000000000\", \"1\"]]"};
    struct auth_ended ended;
    struct error err = {0};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(damaged); i++) {
        struct store store = {0};

        assert_true(store_set_setting(&store, "sessions.ended", damaged[i], &err));
        auth_ended_init(&ended);
        assert_false(auth_ended_load(&ended, &store, &err));
        assert_int_equal(err.code, ERROR_BAD_FILE);
        auth_ended_finish(&ended);
        fake_free_settings(&store);
    }
}

static void test_session_route(void **state)
{
    struct auth *auth = start(&(struct auth_options){0});
    struct http_exchange exchange;

    (void)state;
    fake_init(&exchange, route_of(auth_routes(auth), HTTP_GET, "/api/v1/session"));
    assert_int_equal(call(auth, &exchange), 200);
    assert_true(json_is_null(json_object_get(exchange.answer, "user")));
    assert_true(json_is_true(json_object_get(exchange.answer, "login_is_needed")));
    fake_finish(&exchange);
    auth_destroy(auth);
}

static int call_keys(struct auth *auth, enum http_method method, const char *body, const char *name,
                     json_t **answer)
{
    const char *path = method == HTTP_DELETE ? "/api/v1/keys/{name}" : "/api/v1/keys";
    struct http_exchange exchange;
    int status;

    fake_init(&exchange, route_of(auth_routes(auth), method, path));
    exchange.body = json_loads(body, 0, NULL);
    exchange.path_value = name;
    exchange.route->handle(&exchange, auth);
    status = exchange.status;
    *answer = json_incref(exchange.answer);
    fake_finish(&exchange);
    return status;
}

static void test_keys_over_http(void **state)
{
    static const char *const wrong[] = {
        "{}",
        "{\"name\": \"\"}",
        "{\"name\": \"a\", \"scopes\": \"read\"}",
        "{\"name\": \"a\", \"scopes\": [\"root\"]}",
        "{\"name\": \"a\", \"scopes\": []}",
        "{\"name\": \"a\", \"days\": -1}",
        "{\"name\": \"a\", \"days\": 1.5}",
        "{\"name\": \"a\", \"jobs_per_minute\": 9999999999}",
    };
    struct auth *auth = start(&(struct auth_options){0});
    char key[64], *text;
    const char *session;
    json_t *answer;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        assert_int_equal(call_keys(auth, HTTP_POST, wrong[i], NULL, &answer), 422);
    assert_int_equal(
        call_keys(auth, HTTP_POST, "{\"name\": \"new\", \"scopes\": [\"admin\"]}", NULL, &answer),
        201);
    snprintf(key, sizeof key, "%s", json_string_value(json_object_get(answer, "key")));
    json_decref(answer);
    assert_int_equal(ask(auth, &admin_route, bearer(key)), 200);
    session = login(auth, login_body(key), false);
    assert_int_equal(ask_by_cookie(auth, &admin_route, session, NULL), 200);
    assert_int_equal(call_keys(auth, HTTP_GET, "{}", NULL, &answer), 200);
    assert_int_equal(json_array_size(json_object_get(answer, "keys")), 5);
    text = json_dumps(answer, 0);
    assert_null(strstr(text, key));
    assert_non_null(strstr(text, "\"new\""));
    free(text);
    json_decref(answer);
    /* Revoked: at once, and its sessions with it. */
    assert_int_equal(call_keys(auth, HTTP_DELETE, "{}", "new", &answer), 200);
    json_decref(answer);
    assert_int_equal(ask(auth, &admin_route, bearer(key)), 401);
    assert_int_equal(ask_by_cookie(auth, &admin_route, session, NULL), 401);
    assert_int_equal(call_keys(auth, HTTP_DELETE, "{}", "new", &answer), 404);
    hub.store.fails = true;
    assert_int_equal(call_keys(auth, HTTP_GET, "{}", NULL, &answer), 503);
    hub.store.fails = false;
    auth_destroy(auth);
}

static void test_first_key(void **state)
{
    struct store kept = hub.store;
    const char *path = test_path("first_key");
    struct auth *auth;
    struct stat info;
    char *key, *again;

    (void)state;
    hub.store.key_count = 0;
    auth = start(&(struct auth_options){0});
    assert_true(auth_first_key(auth, path, &key, NULL));
    assert_non_null(key);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_int_equal(info.st_size, 49);
    assert_int_equal(ask(auth, &admin_route, bearer(key)), 200);
    assert_true(auth_first_key(auth, path, &again, NULL));
    assert_null(again);
    free(key);
    auth_destroy(auth);
    hub.store = kept;
}

static void test_links(void **state)
{
    struct auth *auth = start(&(struct auth_options){0});
    char link[160], expires[32], signature[64];

    (void)state;
    auth_sign(auth, "/files/12", 2000, link, sizeof link);
    assert_int_equal(sscanf(link, "/files/12?expires=%31[0-9]&signature=%63s", expires, signature),
                     2);
    assert_true(auth_verify_signed(auth, "/files/12", expires, signature, 1999));
    assert_false(auth_verify_signed(auth, "/files/13", expires, signature, 1999));
    auth_destroy(auth);
}

struct crowd {
    struct auth *auth;
    const char *authorization;
    int wanted;
};

static void *ask_often(void *context)
{
    const struct crowd *crowd = context;
    intptr_t wrong = 0;

    for (int i = 0; i < 200; i++) {
        int status = ask(crowd->auth, &read_route, crowd->authorization);

        wrong += status != crowd->wanted && status != 503;
    }
    return (void *)wrong;
}

/* Requests of all kinds while keys and passwords are read again. */
static void test_threads(void **state)
{
    struct auth *auth = start(&(struct auth_options){.htpasswd = password_file("right")});
    struct crowd crowds[3] = {{auth, NULL, 401}, {auth, NULL, 200}, {auth, NULL, 200}};
    char key_header[128], basic_header[256];
    pthread_t threads[3];

    (void)state;
    snprintf(key_header, sizeof key_header, "%s", bearer(alice));
    snprintf(basic_header, sizeof basic_header, "%s", basic("bea:right"));
    crowds[1].authorization = key_header;
    crowds[2].authorization = basic_header;
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_often, &crowds[i]), 0);
    for (int i = 0; i < 50; i++)
        auth_reload(auth);
    for (size_t i = 0; i < 3; i++) {
        void *wrong;

        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    auth_destroy(auth);
}

static int fill_store(void **state)
{
    struct store_key *keys = hub.store.keys;

    (void)state;
    if (sodium_init() < 0)
        return 1;
    log_setup(&(struct log_options){.level = LOG_ERROR, .process = "test"});
    auth_make_key(alice, &keys[0], "alice", SCOPE_GENERATE | SCOPE_READ);
    keys[0].jobs_per_minute = 9;
    auth_make_key(expired, &keys[1], "old", KEY_ALL_SCOPES);
    keys[1].expires_ms = 1000;
    auth_make_key(revoked, &keys[2], "gone", KEY_ALL_SCOPES);
    keys[2].revoked_ms = 1000;
    auth_make_key(reader, &keys[3], "reader", SCOPE_READ);
    hub.store.key_count = 4;
    return 0;
}

static int empty_store(void **state)
{
    (void)state;
    fake_free_settings(&hub.store);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_near_misses),
        cmocka_unit_test(test_key_in_the_address),
        cmocka_unit_test(test_identity_and_challenge),
        cmocka_unit_test(test_off),
        cmocka_unit_test(test_proxy),
        cmocka_unit_test(test_passwords),
        cmocka_unit_test(test_attempts_are_limited),
        cmocka_unit_test(test_bad_password_files),
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_logout),
        cmocka_unit_test(test_many_logouts),
        cmocka_unit_test(test_damaged_logouts),
        cmocka_unit_test(test_session_route),
        cmocka_unit_test(test_keys_over_http),
        cmocka_unit_test(test_first_key),
        cmocka_unit_test(test_links),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, fill_store, empty_store);
}
