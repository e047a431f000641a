#include "server/auth_rules.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define NAME_BYTES 256 /* a DNS name has 253 at most */

/* Host and port as they stand in Host and Origin. */
struct authority {
    char name[NAME_BYTES]; /* lower case, without a final dot; without the brackets of IPv6 */
    bool is_bracketed;
    int port; /* 0: none is named */
};

/* A decimal port up to the end of `text`. */
static bool read_port(int *port, const char *text)
{
    int value = 0;

    if (!*text)
        return false;
    for (; *text; text++) {
        if (!isdigit((unsigned char)*text))
            return false;
        value = value * 10 + (*text - '0');
        if (value > 65535)
            return false;
    }
    *port = value;
    return value > 0;
}

static bool is_name_character(char c)
{
    return isalnum((unsigned char)c) || c == '-' || c == '.' || c == '_';
}

/* RFC 3986's host and port, without user names, paths or percent signs. */
static bool read_authority(struct authority *out, const char *text)
{
    const char *end;
    size_t length;

    *out = (struct authority){0};
    out->is_bracketed = *text == '[';
    text += out->is_bracketed;
    end = text + strcspn(text, out->is_bracketed ? "]" : ":");
    length = (size_t)(end - text);
    if (length == 0 || length >= sizeof out->name || (out->is_bracketed && *end != ']'))
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!(out->is_bracketed ? isxdigit((unsigned char)text[i]) || strchr(":.", text[i])
                                : is_name_character(text[i])))
            return false;
        out->name[i] = (char)tolower((unsigned char)text[i]);
    }
    if (!out->is_bracketed && length > 1 && out->name[length - 1] == '.')
        out->name[length - 1] = '\0';
    end += out->is_bracketed;
    return *end == '\0' || (*end == ':' && read_port(&out->port, end + 1));
}

static bool is_address(const struct authority *authority)
{
    unsigned char bytes[16];

    return inet_pton(authority->is_bracketed ? AF_INET6 : AF_INET, authority->name, bytes) == 1;
}

static bool ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), end_length = strlen(end);

    return length > end_length && strcmp(name + length - end_length, end) == 0;
}

/* This machine's own name, alone or in a domain that nobody can register: RFC 6762, RFC 8375, and
 * ICANN's "internal". */
static bool is_own_name(const char *name, const char *hostname)
{
    static const char *const domains[] = {"", ".local", ".home.arpa", ".internal"};
    char full[NAME_BYTES];

    if (!hostname || !*hostname)
        return false;
    for (size_t i = 0; i < COUNT_OF(domains); i++) {
        snprintf(full, sizeof full, "%s%s", hostname, domains[i]);
        if (strcasecmp(name, full) == 0)
            return true;
    }
    return false;
}

/* An address cannot be rebound, and nobody else can have the names of this machine. */
static bool is_known_host(const struct auth_rules *rules, const struct authority *host)
{
    const char *const *allowed = rules->allowed_hosts;

    if (is_address(host) || strcmp(host->name, "localhost") == 0 ||
        ends_with(host->name, ".localhost") || is_own_name(host->name, rules->hostname))
        return true;
    for (; allowed && *allowed; allowed++)
        if (strcasecmp(*allowed, host->name) == 0)
            return true;
    return false;
}

static bool changes_something(enum http_method method)
{
    return method != HTTP_GET && method != HTTP_HEAD && method != HTTP_OPTIONS;
}

/* Whether `origin` is where this request was sent to. The scheme is not looked at: a proxy that
 * ends TLS need not tell us. */
static bool is_own_origin(const char *origin, const struct authority *host)
{
    bool is_https = strncasecmp(origin, "https://", 8) == 0;
    struct authority from;
    int default_port = is_https ? 443 : 80;

    if (!is_https && strncasecmp(origin, "http://", 7) != 0)
        return false; /* "null", too */
    if (!read_authority(&from, origin + (is_https ? 8 : 7)))
        return false;
    return strcmp(from.name, host->name) == 0 && from.is_bracketed == host->is_bracketed &&
           (from.port ? from.port : default_port) == (host->port ? host->port : default_port);
}

enum auth_verdict auth_judge_request(const struct auth_rules *rules, const struct auth_facts *facts)
{
    struct authority host;

    (void)rules;
    if (facts->has_key_in_query)
        return AUTH_KEY_IN_QUERY;
    if (!facts->host || !read_authority(&host, facts->host))
        return AUTH_BAD_HOST;
    if (!changes_something(facts->method))
        return AUTH_PASSES;
    if (facts->origin && !is_own_origin(facts->origin, &host))
        return AUTH_FOREIGN_ORIGIN;
    if (facts->fetch_site && (strcasecmp(facts->fetch_site, "cross-site") == 0 ||
                              strcasecmp(facts->fetch_site, "same-site") == 0))
        return AUTH_FOREIGN_ORIGIN;
    return AUTH_PASSES;
}

/* Whether the request has what no form and no picture of another site can send. */
static bool has_marker(const struct auth_facts *facts)
{
    static const char json[] = "application/json";
    size_t length = sizeof json - 1;

    if (facts->marker && strcmp(facts->marker, "1") == 0)
        return true;
    return facts->content_type && strncasecmp(facts->content_type, json, length) == 0 &&
           strchr(" \t;", facts->content_type[length]) != NULL;
}

enum auth_verdict auth_judge_identity(const struct auth_rules *rules,
                                      const struct auth_facts *facts, enum auth_source source,
                                      uint32_t scopes)
{
    bool is_proven =
        source == AUTH_FROM_KEY || source == AUTH_FROM_PASSWORD || source == AUTH_FROM_PROXY;
    bool is_open = facts->scope == SCOPE_PUBLIC && !changes_something(facts->method);
    struct authority host;

    if (!facts->host || !read_authority(&host, facts->host))
        return AUTH_BAD_HOST;
    /* Probes and the page's files are the same for everybody, under any name. */
    if (!is_open && !is_known_host(rules, &host) && (rules->allowed_hosts || !is_proven))
        return AUTH_FOREIGN_HOST;
    if (source == AUTH_FROM_COOKIE && changes_something(facts->method) && !has_marker(facts))
        return AUTH_NO_MARKER;
    if (facts->scope == SCOPE_PUBLIC)
        return AUTH_PASSES;
    if (source == AUTH_FROM_NOBODY)
        return AUTH_NO_CREDENTIALS;
    return (scopes & facts->scope) == facts->scope ? AUTH_PASSES : AUTH_NO_SCOPE;
}

const struct auth_answer *auth_answer(enum auth_verdict verdict)
{
    static const struct auth_answer answers[AUTH_VERDICTS] = {
        [AUTH_PASSES] = {200, "", "other", ""},
        [AUTH_KEY_IN_QUERY] = {400, "key_in_query", "query",
                               "a key does not belong into an address, which logs keep: send it as "
                               "Authorization: Bearer"},
        [AUTH_BAD_HOST] = {400, "bad_host", "host", "the header Host is missing or malformed"},
        [AUTH_FOREIGN_HOST] = {403, "host_not_allowed", "host",
                               "this name of the server is not known to it: start it with "
                               "--allowed-hosts, or use its address"},
        [AUTH_FOREIGN_ORIGIN] = {403, "origin_not_allowed", "origin",
                                 "a page of another site may not do this"},
        [AUTH_NO_MARKER] = {403, "marker_missing", "origin",
                            "with a cookie, send X-SD35-Request: 1 or a JSON body"},
        [AUTH_NO_CREDENTIALS] = {401, "unauthorized", "none", "a key or a login is needed"},
        [AUTH_BAD_CREDENTIALS] = {401, "bad_authorization", "malformed",
                                  "the header Authorization is neither Bearer nor Basic"},
        [AUTH_WRONG_KEY] = {401, "invalid_api_key", "key", "this key is not known"},
        [AUTH_KEY_EXPIRED] = {401, "key_expired", "expired", "this key has expired"},
        [AUTH_KEY_REVOKED] = {401, "key_revoked", "revoked", "this key was revoked"},
        [AUTH_WRONG_PASSWORD] = {401, "wrong_password", "password",
                                 "Incorrect username or password"},
        [AUTH_WRONG_SESSION] = {401, "session_ended", "session", "the login has ended: log in"},
        [AUTH_WRONG_USER] = {403, "bad_user", "proxy",
                             "the proxy names a user that cannot be an owner of jobs"},
        [AUTH_NO_SCOPE] = {403, "scope_missing", "scope", "this key may not do this"},
        [AUTH_TOO_MANY_ATTEMPTS] = {429, "too_many_attempts", "attempts",
                                    "too many failed attempts from this address: wait a minute"},
        [AUTH_BUSY] = {503, "login_busy", "busy", "too many passwords are being checked"},
    };

    return &answers[(size_t)verdict < AUTH_VERDICTS ? verdict : AUTH_NO_CREDENTIALS];
}

bool auth_name_is_valid(const char *name)
{
    size_t length = strlen(name);

    if (length == 0 || length > 64)
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._@+-", name[i]))
            return false;
    return true;
}
