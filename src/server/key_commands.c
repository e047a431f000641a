#include "server/key_commands.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "server/auth.h"
#include "server/auth_rules.h"

#define DAY_MS INT64_C(86400000)
#define KEY_RANDOM_BYTES 32

static const struct {
    const char *name;
    uint32_t bit;
} scope_names[] = {{"generate", SCOPE_GENERATE},
                   {"read", SCOPE_READ},
                   {"metrics", SCOPE_METRICS},
                   {"admin", SCOPE_ADMIN}};

bool key_read_scopes(uint32_t *scopes, const char *text, struct error *err)
{
    uint32_t found = 0;

    for (const char *at = text;; at++) {
        size_t length = strcspn(at, ","), i = 0;

        while (i < COUNT_OF(scope_names) && (strlen(scope_names[i].name) != length ||
                                             memcmp(scope_names[i].name, at, length) != 0))
            i++;
        if (i == COUNT_OF(scope_names) || found & scope_names[i].bit)
            return error_set(err, ERROR_BAD_REQUEST,
                             "scopes: '%.64s' is no list of generate, read, metrics and admin",
                             text);
        found |= scope_names[i].bit;
        at += length;
        if (!*at)
            break;
    }
    *scopes = found;
    return true;
}

void key_write_scopes(char text[64], uint32_t scopes)
{
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; i < COUNT_OF(scope_names); i++)
        if (scopes & scope_names[i].bit)
            used += (size_t)snprintf(text + used, 64 - used, "%s%s", used ? "," : "",
                                     scope_names[i].name);
}

int64_t key_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void auth_make_key(char key[64], struct store_key *out, const char *name, uint32_t scopes)
{
    unsigned char random[KEY_RANDOM_BYTES];

    randombytes_buf(random, sizeof random);
    snprintf(key, 64, "sd35_");
    sodium_bin2base64(key + 5, 64 - 5, random, sizeof random,
                      sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    sodium_memzero(random, sizeof random);
    *out = (struct store_key){.scopes = scopes, .created_ms = key_now_ms()};
    snprintf(out->name, sizeof out->name, "%s", name);
    snprintf(out->prefix, sizeof out->prefix, "%.12s", key);
    crypto_hash_sha256(out->hash, (const unsigned char *)key, strlen(key));
}

bool key_make(char text[KEY_TEXT_BYTES], struct store_key *out, const struct key_request *request,
              int64_t now_ms, struct error *err)
{
    uint32_t scopes;

    if (!request->name || !auth_name_is_valid(request->name))
        return error_set(err, ERROR_BAD_REQUEST,
                         "name: 1 to 64 letters, digits and '._@+-' are needed");
    if (request->jobs_per_minute < 0 || request->jobs_per_minute > KEY_RATE_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "jobs_per_minute: 0 to %d", KEY_RATE_MAX);
    if (request->days < 0 || request->days > KEY_DAYS_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "days: 0 to %d", KEY_DAYS_MAX);
    if (!key_read_scopes(&scopes, request->scopes ? request->scopes : "generate,read", err))
        return false;
    auth_make_key(text, out, request->name, scopes);
    out->created_ms = now_ms;
    out->jobs_per_minute = request->jobs_per_minute;
    out->expires_ms = request->days ? now_ms + request->days * DAY_MS : 0;
    return true;
}

static json_t *time_or_null(int64_t ms)
{
    return ms ? json_integer(ms / 1000) : json_null();
}

json_t *key_scopes_to_json(uint32_t scopes)
{
    json_t *names = json_array();

    for (size_t i = 0; i < COUNT_OF(scope_names); i++)
        if (scopes & scope_names[i].bit)
            json_array_append_new(names, json_string(scope_names[i].name));
    return names;
}

json_t *key_to_json(const struct store_key *key)
{
    return json_pack("{s:s, s:s, s:o, s:i, s:o, s:o, s:o}", "name", key->name, "prefix",
                     key->prefix, "scopes", key_scopes_to_json(key->scopes), "jobs_per_minute",
                     key->jobs_per_minute, "created", time_or_null(key->created_ms), "expires",
                     time_or_null(key->expires_ms), "revoked", time_or_null(key->revoked_ms));
}
