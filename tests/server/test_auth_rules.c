/* The gate's pure parts: tables of what passes and what does not. */
#include "support/support.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/auth_addresses.h"
#include "server/auth_attempts.h"
#include "server/auth_credentials.h"
#include "server/auth_rules.h"
#include "server/auth_tokens.h"
#include "server/key_commands.h"
#include "server/limits.h"

static const char *const allowed[] = {"pictures.example.org", NULL};
static const struct auth_rules open_list = {.hostname = "gpubox"};
static const struct auth_rules with_list = {.hostname = "gpubox", .allowed_hosts = allowed};

/* What becomes of a request, all in all. */
static enum auth_verdict judge(const struct auth_rules *rules, struct auth_facts *facts,
                               enum auth_source source)
{
    enum auth_verdict verdict = auth_judge_request(rules, facts);

    return verdict == AUTH_PASSES
               ? auth_judge_identity(rules, facts, source, SCOPE_GENERATE | SCOPE_READ)
               : verdict;
}

/* Three Hosts, four Origins, two types of body: F16's 24 rows, for a browser's cookie. */
static void test_origin_host_and_type(void **state)
{
    static const char *const hosts[] = {"127.0.0.1:7860", "pictures.example.org", "evil.example"};
    static const char *const types[] = {"application/json; charset=utf-8", "text/plain"};
    const char *own[] = {"http://127.0.0.1:7860", "https://pictures.example.org",
                         "http://evil.example"};
    int rows = 0;

    (void)state;
    for (size_t host = 0; host < 3; host++) {
        const char *origins[] = {NULL, own[host], "null", "https://other.example"};

        for (size_t origin = 0; origin < 4; origin++) {
            for (size_t type = 0; type < 2; type++, rows++) {
                struct auth_facts facts = {.method = HTTP_POST,
                                           .scope = SCOPE_GENERATE,
                                           .host = hosts[host],
                                           .origin = origins[origin],
                                           .content_type = types[type]};
                enum auth_verdict wanted = origin >= 2 ? AUTH_FOREIGN_ORIGIN
                                           : host == 2 ? AUTH_FOREIGN_HOST
                                           : type == 1 ? AUTH_NO_MARKER
                                                       : AUTH_PASSES;

                assert_int_equal(judge(&with_list, &facts, AUTH_FROM_COOKIE), wanted);
                facts.marker = "1";
                assert_int_equal(judge(&with_list, &facts, AUTH_FROM_COOKIE),
                                 wanted == AUTH_NO_MARKER ? AUTH_PASSES : wanted);
            }
        }
    }
    assert_int_equal(rows, 24);
}

static void test_hosts(void **state)
{
    static const struct {
        const char *host;
        enum auth_verdict by_cookie, by_key;
    } rows[] = {
        {"127.0.0.1", AUTH_PASSES, AUTH_PASSES},
        {"10.1.2.3:80", AUTH_PASSES, AUTH_PASSES},
        {"[::1]:7860", AUTH_PASSES, AUTH_PASSES},
        {"[fd00::12]", AUTH_PASSES, AUTH_PASSES},
        {"localhost:7860", AUTH_PASSES, AUTH_PASSES},
        {"LOCALHOST", AUTH_PASSES, AUTH_PASSES},
        {"a.localhost", AUTH_PASSES, AUTH_PASSES},
        {"gpubox:7860", AUTH_PASSES, AUTH_PASSES},
        {"GpuBox.", AUTH_PASSES, AUTH_PASSES},
        {"gpubox.local", AUTH_PASSES, AUTH_PASSES},
        {"gpubox.evil.example", AUTH_FOREIGN_HOST, AUTH_PASSES},
        {"evil.example", AUTH_FOREIGN_HOST, AUTH_PASSES},
        {"127.0.0.1.evil.example", AUTH_FOREIGN_HOST, AUTH_PASSES},
        {"localhost.evil.example", AUTH_FOREIGN_HOST, AUTH_PASSES},
        {"evillocalhost", AUTH_FOREIGN_HOST, AUTH_PASSES},
        {"2130706433", AUTH_FOREIGN_HOST, AUTH_PASSES},
        {"127.1", AUTH_FOREIGN_HOST, AUTH_PASSES},
        {"", AUTH_BAD_HOST, AUTH_BAD_HOST},
        {NULL, AUTH_BAD_HOST, AUTH_BAD_HOST},
        {"a b", AUTH_BAD_HOST, AUTH_BAD_HOST},
        {"user@127.0.0.1", AUTH_BAD_HOST, AUTH_BAD_HOST},
        {"127.0.0.1:", AUTH_BAD_HOST, AUTH_BAD_HOST},
        {"127.0.0.1:0", AUTH_BAD_HOST, AUTH_BAD_HOST},
        {"127.0.0.1:65536", AUTH_BAD_HOST, AUTH_BAD_HOST},
        {"127.0.0.1:80:80", AUTH_BAD_HOST, AUTH_BAD_HOST},
        {"[::1", AUTH_BAD_HOST, AUTH_BAD_HOST},
        {"[]", AUTH_BAD_HOST, AUTH_BAD_HOST},
        {"::1", AUTH_BAD_HOST, AUTH_BAD_HOST},
        {"localhost/evil", AUTH_BAD_HOST, AUTH_BAD_HOST},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct auth_facts facts = {.scope = SCOPE_READ, .host = rows[i].host};

        if (judge(&open_list, &facts, AUTH_FROM_COOKIE) != rows[i].by_cookie ||
            judge(&open_list, &facts, AUTH_FROM_MODE) != rows[i].by_cookie ||
            judge(&open_list, &facts, AUTH_FROM_KEY) != rows[i].by_key)
            fail_msg("host '%s'", rows[i].host ? rows[i].host : "(none)");
        /* A list is complete: a key does not open other names. */
        assert_int_equal(judge(&with_list, &facts, AUTH_FROM_KEY), rows[i].by_cookie);
    }
}

static void test_origins(void **state)
{
    static const struct {
        const char *host, *origin;
        bool is_own;
    } rows[] = {
        {"a.localhost:7860", "http://a.localhost:7860", true},
        {"127.0.0.1", "http://127.0.0.1:80", true},
        {"127.0.0.1:443", "https://127.0.0.1", true},
        {"[::1]:7860", "http://[::1]:7860", true},
        {"LocalHost:7860", "http://localhost:7860", true},
        {"localhost:7860", "http://localhost:7861", false},
        {"localhost", "https://localhost", true}, /* a proxy may end TLS */
        {"localhost:80", "https://localhost", false},
        {"localhost", "http://localhost.evil.example", false},
        {"localhost", "http://evil@localhost", false},
        {"localhost", "file://localhost", false},
        {"localhost", "localhost", false},
        {"localhost", "", false},
        {"localhost", "null", false},
        {"localhost", "http://", false},
        {"localhost", "http://localhost http://evil", false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct auth_facts facts = {
            .method = HTTP_DELETE, .host = rows[i].host, .origin = rows[i].origin};

        if ((auth_judge_request(&open_list, &facts) == AUTH_PASSES) != rows[i].is_own)
            fail_msg("host '%s' origin '%s'", rows[i].host, rows[i].origin);
        facts.method = HTTP_GET;
        assert_int_equal(auth_judge_request(&open_list, &facts), AUTH_PASSES);
        facts.method = HTTP_POST;
        facts.origin = NULL;
        facts.fetch_site = "cross-site";
        assert_int_equal(auth_judge_request(&open_list, &facts), AUTH_FOREIGN_ORIGIN);
    }
}

static void test_scopes(void **state)
{
    (void)state;
    for (uint32_t scopes = 0; scopes < 16; scopes++) {
        for (uint32_t wanted = 0; wanted < 16; wanted++) {
            struct auth_facts facts = {.scope = wanted, .host = "localhost"};
            enum auth_verdict verdict =
                auth_judge_identity(&open_list, &facts, AUTH_FROM_KEY, scopes);

            assert_int_equal(verdict, (wanted & ~scopes) == 0 ? AUTH_PASSES : AUTH_NO_SCOPE);
            verdict = auth_judge_identity(&open_list, &facts, AUTH_FROM_NOBODY, scopes);
            assert_int_equal(verdict, wanted == 0 ? AUTH_PASSES : AUTH_NO_CREDENTIALS);
        }
    }
}

static void test_credentials(void **state)
{
    static const struct {
        const char *header;
        enum auth_scheme scheme;
        const char *user, *secret;
    } rows[] = {
        {NULL, AUTH_SCHEME_NONE, "", ""},
        {"", AUTH_SCHEME_NONE, "", ""},
        {"  ", AUTH_SCHEME_NONE, "", ""},
        {"Bearer", AUTH_SCHEME_NONE, "", ""},
        {"Bearer ", AUTH_SCHEME_NONE, "", ""},
        {"Basic Og==", AUTH_SCHEME_NONE, "", ""},
        {"Basic ", AUTH_SCHEME_NONE, "", ""},
        {"bearer  abc", AUTH_SCHEME_BEARER, "", "abc"},
        {"Bearer a b", AUTH_SCHEME_BAD, "", ""},
        {"Bearer a\x01", AUTH_SCHEME_BAD, "", ""},
        {"Bearerabc", AUTH_SCHEME_BAD, "", ""},
        {"BASIC dXNlcjpwOnc=", AUTH_SCHEME_BASIC, "user", "p:w"},
        {"Basic dXNlcjpwOnc", AUTH_SCHEME_BASIC, "user", "p:w"},
        {"Basic dXNlcg==", AUTH_SCHEME_BAD, "", ""},     /* no colon */
        {"Basic dXNlcjpwAHc=", AUTH_SCHEME_BAD, "", ""}, /* a zero byte */
        {"Basic dXNlcjpwOnc=x", AUTH_SCHEME_BAD, "", ""},
        {"Basic ****", AUTH_SCHEME_BAD, "", ""},
        {"Basic dXN lcjpw", AUTH_SCHEME_BAD, "", ""},
        {"Digest abc", AUTH_SCHEME_BAD, "", ""},
    };
    char longer[1024];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct auth_credentials got;

        auth_read_credentials(&got, rows[i].header);
        if (got.scheme != rows[i].scheme)
            fail_msg("'%s': %d", rows[i].header ? rows[i].header : "(none)", got.scheme);
        assert_string_equal(got.user, rows[i].user);
        assert_string_equal(got.scheme == AUTH_SCHEME_BEARER ? got.key : got.password,
                            rows[i].secret);
    }
    for (size_t length = 240; length < 1000; length++) {
        struct auth_credentials got;

        memcpy(longer, "Bearer ", 7);
        memset(longer + 7, 'a', length);
        longer[7 + length] = '\0';
        auth_read_credentials(&got, longer);
        assert_int_equal(got.scheme,
                         length < AUTH_TEXT_BYTES ? AUTH_SCHEME_BEARER : AUTH_SCHEME_BAD);
        memcpy(longer, "Basic ", 6);
        auth_read_credentials(&got, longer);
        assert_int_equal(got.scheme, AUTH_SCHEME_BAD);
    }
}

static uint32_t next_random(uint32_t *seed)
{
    return *seed = *seed * 1664525u + 1013904223u;
}

/* A hundred thousand headers of noise: none is a credential that anybody has, none reads beyond. */
static void test_garbage(void **state)
{
    static const char *const starts[] = {"Bearer ", "Basic ", "Bearer sd35_", "", "http://", "["};
    const unsigned char secret[AUTH_SECRET_BYTES] = {7};
    uint32_t seed = 1;

    (void)state;
    for (int i = 0; i < 100000; i++) {
        size_t length = next_random(&seed) >> 8 & 63;
        char *text = malloc(length + 16);
        struct auth_credentials credentials;
        struct auth_session session;
        struct auth_facts facts = {.method = HTTP_POST, .scope = SCOPE_READ};
        const char *start = starts[(next_random(&seed) >> 16) % COUNT_OF(starts)];
        size_t used = strlen(start);

        assert_non_null(text);
        memcpy(text, start, used);
        for (size_t at = 0; at < length; at++)
            text[used + at] = (char)(1 + (next_random(&seed) >> 16) % (i % 2 ? 255 : 122));
        text[used + length] = '\0';
        auth_read_credentials(&credentials, text);
        assert_false(auth_session_read(&session, text, secret, 0));
        assert_false(auth_check_path("/files/1", text, text, secret, 0));
        facts.host = facts.origin = facts.content_type = text;
        assert_int_not_equal(judge(&open_list, &facts, AUTH_FROM_NOBODY), AUTH_PASSES);
        auth_address_is_in(text, (const char *const[]){text, NULL});
        auth_name_is_valid(text);
        free(text);
    }
}

static void test_sessions(void **state)
{
    const unsigned char secret[AUTH_SECRET_BYTES] = {1}, other[AUTH_SECRET_BYTES] = {2};
    struct auth_session session = {.expires_s = 1000, .is_key = true, .mark = {9}}, read;
    char token[AUTH_TOKEN_BYTES], again[AUTH_TOKEN_BYTES];

    (void)state;
    memset(session.name, 'n', 64);
    auth_session_write(token, &session, secret);
    assert_true(auth_session_read(&read, token, secret, 999));
    assert_string_equal(read.name, session.name);
    assert_int_equal(read.expires_s, 1000);
    assert_true(read.is_key);
    assert_memory_equal(read.mark, session.mark, sizeof read.mark);
    assert_false(auth_session_read(&read, token, secret, 1000));
    assert_false(auth_session_read(&read, token, other, 999));
    auth_session_write(again, &session, secret);
    assert_string_not_equal(token, again);
    for (size_t i = 0; token[i]; i++) {
        char kept = token[i];

        token[i] = kept == 'A' ? 'B' : 'A';
        assert_false(auth_session_read(&read, token, secret, 999));
        token[i] = '\0';
        assert_false(auth_session_read(&read, token, secret, 999));
        token[i] = kept;
    }
    assert_true(auth_session_read(&read, token, secret, 999));
}

static void test_links(void **state)
{
    const unsigned char secret[AUTH_SECRET_BYTES] = {1}, other[AUTH_SECRET_BYTES] = {2};
    char signature[AUTH_SIGNATURE_BYTES];

    (void)state;
    auth_sign_path(signature, "/files/ab", 5000, secret);
    assert_true(auth_check_path("/files/ab", "5000", signature, secret, 4999));
    assert_false(auth_check_path("/files/ab", "5000", signature, secret, 5000));
    assert_false(auth_check_path("/files/ab", "5001", signature, secret, 4999));
    assert_false(auth_check_path("/files/ab", "+5000", signature, secret, 4999));
    assert_false(auth_check_path("/files/ab", "99999999999999999999", signature, secret, 0));
    assert_false(auth_check_path("/files/a", "b5000", signature, secret, 4999));
    assert_false(auth_check_path("/files/ac", "5000", signature, secret, 4999));
    assert_false(auth_check_path("/files/ab", "5000", signature, other, 4999));
    assert_false(auth_check_path("/files/ab", NULL, signature, secret, 0));
    assert_false(auth_check_path("/files/ab", "5000", NULL, secret, 0));
    signature[42] ^= 1;
    assert_false(auth_check_path("/files/ab", "5000", signature, secret, 4999));
}

static void test_addresses(void **state)
{
    static const char *const networks[] = {"10.0.0.0/8", "192.168.1.7", "fd00::/9", "::1", NULL};
    static const char *const wrong[] = {"10.0.0.0/33", "10.0.0/8",  "host", "fd00::/129",
                                        "1.2.3.4/",    "1.2.3.4/x", "/8",   "1.2.3.4/-1"};
    unsigned char a[16], b[16];

    (void)state;
    assert_true(auth_check_networks(networks, NULL));
    assert_true(auth_address_is_in("10.255.1.2", networks));
    assert_true(auth_address_is_in("::ffff:10.1.1.1", networks));
    assert_true(auth_address_is_in("192.168.1.7", networks));
    assert_true(auth_address_is_in("fd7f::1", networks));
    assert_false(auth_address_is_in("fd80::1", networks));
    assert_false(auth_address_is_in("11.0.0.1", networks));
    assert_false(auth_address_is_in("192.168.1.8", networks));
    assert_false(auth_address_is_in("::2", networks));
    assert_false(auth_address_is_in("10.1.1.1", NULL));
    assert_false(auth_address_is_in(NULL, networks));
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        assert_false(auth_check_networks((const char *const[]){wrong[i], NULL}, NULL));
    auth_address_group(a, "2001:db8::1");
    auth_address_group(b, "2001:db8::ffff:1");
    assert_memory_equal(a, b, 16);
    auth_address_group(b, "2001:db8:0:1::1");
    assert_memory_not_equal(a, b, 16);
}

static void test_attempts(void **state)
{
    struct auth_attempts *attempts = malloc(sizeof *attempts);
    char address[32];

    (void)state;
    assert_non_null(attempts);
    auth_attempts_init(attempts);
    for (int i = 0; i < LOGIN_FAILURES_PER_MINUTE_MAX; i++) {
        assert_false(auth_attempts_are_spent(attempts, "192.0.2.1", 100));
        auth_attempts_fail(attempts, "192.0.2.1", 100);
    }
    assert_true(auth_attempts_are_spent(attempts, "192.0.2.1", 159.9));
    assert_false(auth_attempts_are_spent(attempts, "192.0.2.2", 159.9));
    /* Others do not push the one that is locked out from the table. */
    for (int i = 0; i < 5000; i++) {
        snprintf(address, sizeof address, "10.1.%d.%d", i / 250, i % 250);
        auth_attempts_fail(attempts, address, 120);
    }
    assert_true(auth_attempts_are_spent(attempts, "192.0.2.1", 130));
    assert_false(auth_attempts_are_spent(attempts, "192.0.2.1", 160));
    auth_attempts_finish(attempts);
    free(attempts);
}

static void test_key_requests(void **state)
{
    static const struct key_request wrong[] = {
        {NULL, NULL, 0, 0},       {"", NULL, 0, 0},
        {"a b", NULL, 0, 0},      {"a", "", 0, 0},
        {"a", "root", 0, 0},      {"a", "read,", 0, 0},
        {"a", "read,read", 0, 0}, {"a", NULL, -1, 0},
        {"a", NULL, 0, -1},       {"a", NULL, 0, KEY_DAYS_MAX + 1},
    };
    const struct key_request right = {"alice", "read,admin", 5, 2};
    char text[KEY_TEXT_BYTES], scopes[64];
    struct store_key key;
    struct error err;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        err.code = ERROR_NONE;
        assert_false(key_make(text, &key, &wrong[i], 1000, &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
    }
    assert_true(key_make(text, &key, &right, 1000, &err));
    assert_int_equal(strlen(text), 48);
    assert_memory_equal(text, key.prefix, 12);
    assert_int_equal(key.expires_ms, 1000 + 2 * 86400000);
    key_write_scopes(scopes, key.scopes);
    assert_string_equal(scopes, "read,admin");
}

static int start_sodium(void **state)
{
    (void)state;
    return sodium_init() < 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_origin_host_and_type),
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_origins),
        cmocka_unit_test(test_scopes),
        cmocka_unit_test(test_credentials),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_links),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_attempts),
        cmocka_unit_test(test_key_requests),
    };

    return cmocka_run_group_tests(tests, start_sodium, NULL);
}
