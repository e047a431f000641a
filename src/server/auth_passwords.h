/* Users with passwords: from --api-auth, and from an htpasswd file with bcrypt, SHA-512, SHA-256 or
 * yescrypt. Those hashes take a fraction of a second each by design, so they are computed on a
 * thread of their own, and what was right is remembered for a minute. A wrong answer takes the same
 * work whether there is such a user or not. Any thread may call.
 */
#ifndef SERVER_AUTH_PASSWORDS_H
#define SERVER_AUTH_PASSWORDS_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "server/auth_tokens.h"

struct auth_passwords;

/* `api_auth` "user:password,user2:password2", `htpasswd` a file; either may be NULL; the
 * former is borrowed. Starts the thread where there is a file. */
MUST_CHECK bool auth_passwords_create(struct auth_passwords **out, const char *api_auth,
                                      const char *htpasswd, struct error *err);
/* Answers what waits with false. */
void auth_passwords_destroy(struct auth_passwords *passwords);
/* Reads the file again; what was there stays when that fails. */
MUST_CHECK bool auth_passwords_reload(struct auth_passwords *passwords, struct error *err);
bool auth_passwords_are_there(struct auth_passwords *passwords);

enum password_check { PASSWORD_RIGHT, PASSWORD_WRONG, PASSWORD_LATER, PASSWORD_BUSY };
/* LATER: `done` is called once, from the thread. */
enum password_check auth_passwords_check(struct auth_passwords *passwords, const char *user,
                                         const char *password,
                                         void (*done)(void *context, bool is_right), void *context);

/* What a session of the user is marked with: another one once the password is changed. False: there
 * is no such user any more. */
bool auth_passwords_mark(struct auth_passwords *passwords, const char *user,
                         const unsigned char secret[AUTH_SECRET_BYTES],
                         unsigned char mark[AUTH_MARK_BYTES]);

#endif
