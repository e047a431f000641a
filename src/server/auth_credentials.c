#include "server/auth_credentials.h"

#include <sodium.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

static enum auth_scheme read_bearer(struct auth_credentials *out, const char *token)
{
    size_t length = strlen(token);

    if (length == 0)
        return AUTH_SCHEME_NONE; /* what clients send whose key is left empty */
    if (length >= sizeof out->key)
        return AUTH_SCHEME_BAD;
    for (size_t i = 0; i < length; i++)
        if (token[i] <= ' ' || token[i] > '~')
            return AUTH_SCHEME_BAD;
    memcpy(out->key, token, length + 1);
    return AUTH_SCHEME_BEARER;
}

/* With its padding, or without, as some clients send it. */
static bool decode(char text[2 * AUTH_TEXT_BYTES], size_t *size, const char *base64)
{
    static const int variants[] = {sodium_base64_VARIANT_ORIGINAL,
                                   sodium_base64_VARIANT_ORIGINAL_NO_PADDING};

    for (int i = 0; i < 2; i++)
        if (sodium_base642bin((unsigned char *)text, 2 * AUTH_TEXT_BYTES - 1, base64,
                              strlen(base64), NULL, size, NULL, variants[i]) == 0)
            return true;
    return false;
}

static enum auth_scheme read_basic(struct auth_credentials *out, const char *base64)
{
    char text[2 * AUTH_TEXT_BYTES];
    enum auth_scheme scheme = AUTH_SCHEME_BAD;
    const char *colon;
    size_t size = 0;

    if (!*base64)
        return AUTH_SCHEME_NONE;
    if (!decode(text, &size, base64) || memchr(text, '\0', size))
        goto done;
    text[size] = '\0';
    colon = strchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof out->user ||
        strlen(colon + 1) >= sizeof out->password)
        goto done;
    scheme = AUTH_SCHEME_NONE; /* ":", from clients that send the header in any case */
    if (size == 1)
        goto done;
    memcpy(out->user, text, (size_t)(colon - text));
    memcpy(out->password, colon + 1, strlen(colon + 1) + 1);
    scheme = AUTH_SCHEME_BASIC;

done:
    sodium_memzero(text, sizeof text);
    return scheme;
}

void auth_read_credentials(struct auth_credentials *out, const char *header)
{
    *out = (struct auth_credentials){0};
    if (!header)
        return;
    header += strspn(header, " \t");
    if (!*header)
        return;
    out->scheme = AUTH_SCHEME_BAD;
    if (strncasecmp(header, "Bearer", 6) == 0 && strchr(" ", header[6]))
        out->scheme = read_bearer(out, header + 6 + strspn(header + 6, " "));
    else if (strncasecmp(header, "Basic", 5) == 0 && strchr(" ", header[5]))
        out->scheme = read_basic(out, header + 5 + strspn(header + 5, " "));
}
