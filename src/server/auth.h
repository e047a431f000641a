/* The gate in front of every route: who asks, and may they. Denies by default.
 *
 * API keys (Authorization: Bearer), htpasswd users (Basic), the page's cookie, a trusted proxy's
 * header; Host and Origin are checked before all of them. Keys are 256 random bits, stored hashed,
 * compared in constant time.
 */
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include "base/attributes.h"
#include "server/http.h"
#include "server/hub.h"

struct auth;

struct auth_options {
    enum auth_mode { AUTH_ON, AUTH_OFF } mode;
    const char *api_auth;               /* "user:password,user2:password2", or NULL */
    const char *htpasswd;               /* a file, or NULL; read again on SIGHUP */
    const char *proxy_header;           /* "X-Auth-Request-User"; NULL: none */
    const char *const *trusted_proxies; /* NULL at the end; NULL: none */
    const char *const *allowed_hosts;   /* names that Host may have beside addresses and localhost;
                                         * NULL: any that the request's own Origin has */
    bool is_loopback;                   /* listens on loopback only */
};

MUST_CHECK bool auth_create(struct auth **out, const struct auth_options *options, struct hub *hub,
                            struct error *err);
void auth_destroy(struct auth *auth); /* NULL is fine */
struct http_gate auth_gate(struct auth *auth);
/* POST /api/v1/login {key} or {user, password} -> cookie; POST /api/v1/logout; GET /api/v1/session.
 */
struct http_routes auth_routes(struct auth *auth);
void auth_reload(struct auth *auth);

/* The first start without any credential makes a key, keeps it in the store and, once, in
 * `path` (mode 0600); *key is what to print, freed by the caller, NULL when there were credentials.
 */
MUST_CHECK bool auth_first_key(struct auth *auth, const char *path, char **key, struct error *err);

/* A link that needs no login until it expires: "/files/<id>?expires=..&signature=..". */
void auth_sign(const struct auth *auth, const char *path, int64_t expires_s, char *out,
               size_t size);
bool auth_verify_signed(const struct auth *auth, const char *path, const char *expires,
                        const char *signature, int64_t now_s);

/* A new key: "sd35_" and 43 characters of base64url. */
void auth_make_key(char key[64], struct store_key *out, const char *name, uint32_t scopes);

#endif
