/* The gate's decisions that need nothing but the request's own words: pure functions, so that a
 * table can hold every case.
 *
 * Against a page of somebody else's in a user's browser: a request that changes something and comes
 * from another origin is refused; a name in Host that is not known to be ours is refused unless the
 * request proves who it is with something that a browser does not send by itself (DNS rebinding
 * makes Origin and Host equal, and both foreign); a cookie alone changes nothing without a header
 * that a form cannot send.
 */
#ifndef SERVER_AUTH_RULES_H
#define SERVER_AUTH_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "server/http.h"

struct auth_rules {
    bool is_off;                      /* no login: everybody is "local" */
    const char *const *allowed_hosts; /* NULL at the end; NULL: none are listed */
    const char *hostname;             /* of this machine */
};

/* What of a request matters here; NULL: there is no such header. */
struct auth_facts {
    enum http_method method;
    uint32_t scope; /* of the route */
    const char *host, *origin, *content_type;
    const char *fetch_site; /* Sec-Fetch-Site */
    const char *marker;     /* X-SD35-Request */
    bool has_key_in_query;
};

enum auth_source {
    AUTH_FROM_NOBODY,
    AUTH_FROM_MODE, /* there is no login */
    AUTH_FROM_KEY,
    AUTH_FROM_PASSWORD,
    AUTH_FROM_COOKIE,
    AUTH_FROM_PROXY
};

enum auth_verdict {
    AUTH_PASSES,
    AUTH_KEY_IN_QUERY,
    AUTH_BAD_HOST,
    AUTH_FOREIGN_HOST,
    AUTH_FOREIGN_ORIGIN,
    AUTH_NO_MARKER,
    AUTH_NO_CREDENTIALS,
    AUTH_BAD_CREDENTIALS, /* no credentials at all by their form */
    AUTH_WRONG_KEY,
    AUTH_KEY_EXPIRED,
    AUTH_KEY_REVOKED,
    AUTH_WRONG_PASSWORD,
    AUTH_WRONG_SESSION,
    AUTH_WRONG_USER, /* of a proxy's header */
    AUTH_NO_SCOPE,
    AUTH_TOO_MANY_ATTEMPTS,
    AUTH_BUSY,
    AUTH_VERDICTS
};

/* Before anybody is asked who they are. */
enum auth_verdict auth_judge_request(const struct auth_rules *rules,
                                     const struct auth_facts *facts);
/* Once it is known who asks, and by what. */
enum auth_verdict auth_judge_identity(const struct auth_rules *rules,
                                      const struct auth_facts *facts, enum auth_source source,
                                      uint32_t scopes);

/* How a verdict is answered. */
struct auth_answer {
    int status;
    const char *code;    /* of our error vocabulary */
    const char *reason;  /* of the metric */
    const char *message; /* a sentence */
};
const struct auth_answer *auth_answer(enum auth_verdict verdict);

/* Owners' names: 1 to 64 letters, digits and "._@+-". */
bool auth_name_is_valid(const char *name);

#endif
