/* What the server signs so that it need not remember: the cookies of sessions, and links. Both are
 * keyed hashes (BLAKE2b) under the store's secret, each with a purpose of its own.
 */
#ifndef SERVER_AUTH_TOKENS_H
#define SERVER_AUTH_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUTH_SECRET_BYTES 32
#define AUTH_MARK_BYTES 16
#define AUTH_TOKEN_BYTES 256 /* of a cookie's value, with its NUL */
#define AUTH_SIGNATURE_BYTES 44

struct auth_session {
    int64_t expires_s;
    bool is_key;                         /* logged in by a key; otherwise with a password */
    unsigned char mark[AUTH_MARK_BYTES]; /* of the credential: gone or changed, the session ends */
    unsigned char nonce[16];
    char name[65];
};

/* `purpose` keeps hashes of one use from being taken for those of another. */
void auth_keyed_hash(unsigned char *out, size_t size, const unsigned char secret[AUTH_SECRET_BYTES],
                     const char *purpose, const void *bytes, size_t byte_count);

/* Draws the nonce. */
void auth_session_write(char token[AUTH_TOKEN_BYTES], struct auth_session *session,
                        const unsigned char secret[AUTH_SECRET_BYTES]);
/* False: not ours, damaged, or over. */
bool auth_session_read(struct auth_session *out, const char *token,
                       const unsigned char secret[AUTH_SECRET_BYTES], int64_t now_s);

void auth_sign_path(char signature[AUTH_SIGNATURE_BYTES], const char *path, int64_t expires_s,
                    const unsigned char secret[AUTH_SECRET_BYTES]);
bool auth_check_path(const char *path, const char *expires, const char *signature,
                     const unsigned char secret[AUTH_SECRET_BYTES], int64_t now_s);

#endif
