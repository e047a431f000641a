/* The gate's own object, for auth.c and the routes of logins and keys. */
#ifndef SERVER_AUTH_PRIVATE_H
#define SERVER_AUTH_PRIVATE_H

#include "server/auth.h"
#include "server/auth_attempts.h"
#include "server/auth_ended.h"
#include "server/auth_keys.h"
#include "server/auth_passwords.h"
#include "server/auth_rules.h"
#include "server/auth_tokens.h"

struct auth {
    struct auth_options options;
    struct auth_rules rules;
    struct hub *hub;
    char hostname[256];
    unsigned char secret[AUTH_SECRET_BYTES];
    struct auth_keys keys;
    struct auth_passwords *passwords;
    struct auth_attempts attempts;
    struct auth_ended ended;
};

/* Answers with an error. The address's failures are counted where the verdict is one. */
void auth_refuse(struct auth *auth, struct http_exchange *exchange, enum auth_verdict verdict);

/* Who a key, a user or a cookie stands for. */
void auth_identity_of_key(struct http_identity *out, const struct store_key *key);
void auth_identity_of_user(struct http_identity *out, const char *user);
/* AUTH_PASSES with *out filled, AUTH_WRONG_SESSION, or AUTH_NO_CREDENTIALS: there is no cookie. */
enum auth_verdict auth_identity_of_cookie(struct auth *auth, struct http_identity *out,
                                          const struct http_exchange *exchange);

/* A session for who has just shown the credential with this mark: the answer gets its cookie. */
void auth_start_session(struct auth *auth, struct http_exchange *exchange, const char *name,
                        bool is_key, const unsigned char mark[AUTH_MARK_BYTES]);
/* Ends the cookie's session at once. False: not for the next start, as the store failed, and the
 * cookie stays, for another try. */
MUST_CHECK bool auth_end_session(struct auth *auth, struct http_exchange *exchange,
                                 struct error *err);

/* The routes' handlers, with the auth as their context. */
void auth_handle_login(struct http_exchange *exchange, void *context);
void auth_handle_logout(struct http_exchange *exchange, void *context);
void auth_handle_session(struct http_exchange *exchange, void *context);
void auth_handle_list_keys(struct http_exchange *exchange, void *context);
void auth_handle_add_key(struct http_exchange *exchange, void *context);
void auth_handle_revoke_key(struct http_exchange *exchange, void *context);

#endif
