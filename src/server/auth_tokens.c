#include "server/auth_tokens.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BASE64 sodium_base64_VARIANT_URLSAFE_NO_PADDING
#define MAC_BYTES 32

/* A session as it is signed, before base64: fixed fields, then the name. */
struct session_bytes {
    unsigned char mac[MAC_BYTES];
    unsigned char expires[8]; /* big-endian */
    unsigned char is_key;
    unsigned char mark[AUTH_MARK_BYTES];
    unsigned char nonce[16];
    char name[65];
};
#define SESSION_FIXED_BYTES offsetof(struct session_bytes, name)

void auth_keyed_hash(unsigned char *out, size_t size, const unsigned char secret[AUTH_SECRET_BYTES],
                     const char *purpose, const void *bytes, size_t byte_count)
{
    crypto_generichash_state state;

    crypto_generichash_init(&state, secret, AUTH_SECRET_BYTES, size);
    crypto_generichash_update(&state, (const unsigned char *)purpose, strlen(purpose) + 1);
    crypto_generichash_update(&state, bytes, byte_count);
    crypto_generichash_final(&state, out, size);
}

static void session_mac(unsigned char mac[MAC_BYTES], const struct session_bytes *bytes,
                        size_t size, const unsigned char secret[AUTH_SECRET_BYTES])
{
    auth_keyed_hash(mac, MAC_BYTES, secret, "session", (const unsigned char *)bytes + MAC_BYTES,
                    size - MAC_BYTES);
}

void auth_session_write(char token[AUTH_TOKEN_BYTES], struct auth_session *session,
                        const unsigned char secret[AUTH_SECRET_BYTES])
{
    struct session_bytes bytes = {.is_key = session->is_key};
    size_t size = SESSION_FIXED_BYTES + strlen(session->name);

    randombytes_buf(session->nonce, sizeof session->nonce);
    for (int i = 0; i < 8; i++)
        bytes.expires[i] = (unsigned char)((uint64_t)session->expires_s >> (56 - 8 * i));
    memcpy(bytes.mark, session->mark, sizeof bytes.mark);
    memcpy(bytes.nonce, session->nonce, sizeof bytes.nonce);
    memcpy(bytes.name, session->name, strlen(session->name));
    session_mac(bytes.mac, &bytes, size, secret);
    sodium_bin2base64(token, AUTH_TOKEN_BYTES, (const unsigned char *)&bytes, size, BASE64);
}

bool auth_session_read(struct auth_session *out, const char *token,
                       const unsigned char secret[AUTH_SECRET_BYTES], int64_t now_s)
{
    struct session_bytes bytes = {0};
    unsigned char mac[MAC_BYTES];
    uint64_t expires = 0;
    size_t size;

    if (strlen(token) >= AUTH_TOKEN_BYTES ||
        sodium_base642bin((unsigned char *)&bytes, sizeof bytes - 1, token, strlen(token), NULL,
                          &size, NULL, BASE64) != 0 ||
        size <= SESSION_FIXED_BYTES)
        return false;
    session_mac(mac, &bytes, size, secret);
    if (sodium_memcmp(mac, bytes.mac, MAC_BYTES) != 0)
        return false;
    for (int i = 0; i < 8; i++)
        expires = expires << 8 | bytes.expires[i];
    *out = (struct auth_session){.expires_s = (int64_t)expires, .is_key = bytes.is_key == 1};
    memcpy(out->mark, bytes.mark, sizeof out->mark);
    memcpy(out->nonce, bytes.nonce, sizeof out->nonce);
    memcpy(out->name, bytes.name, sizeof out->name);
    return now_s < out->expires_s;
}

void auth_sign_path(char signature[AUTH_SIGNATURE_BYTES], const char *path, int64_t expires_s,
                    const unsigned char secret[AUTH_SECRET_BYTES])
{
    unsigned char key[AUTH_SECRET_BYTES], mac[MAC_BYTES];
    char expires[24];

    /* Each time has a key of its own: nothing of it can be taken for a part of the path. */
    snprintf(expires, sizeof expires, "%" PRId64, expires_s);
    auth_keyed_hash(key, sizeof key, secret, "link's key", expires, strlen(expires));
    auth_keyed_hash(mac, sizeof mac, key, "link", path, strlen(path));
    sodium_bin2base64(signature, AUTH_SIGNATURE_BYTES, mac, sizeof mac, BASE64);
}

bool auth_check_path(const char *path, const char *expires, const char *signature,
                     const unsigned char secret[AUTH_SECRET_BYTES], int64_t now_s)
{
    char wanted[AUTH_SIGNATURE_BYTES];
    int64_t expires_s;

    if (!path || !expires || !signature || strlen(signature) != AUTH_SIGNATURE_BYTES - 1 ||
        strlen(expires) == 0 || strlen(expires) > 18 || expires[strspn(expires, "0123456789")])
        return false;
    expires_s = strtoll(expires, NULL, 10);
    auth_sign_path(wanted, path, expires_s, secret);
    return sodium_memcmp(wanted, signature, AUTH_SIGNATURE_BYTES) == 0 && now_s < expires_s;
}
