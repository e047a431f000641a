/* Sessions that were logged out before they expired. Their cookies are gone from the browser that
 * did so; this is against copies of them, and is in the store for the next start to know. Any
 * thread.
 */
#ifndef SERVER_AUTH_ENDED_H
#define SERVER_AUTH_ENDED_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "server/auth_tokens.h"
#include "store/store.h"

struct ended_session;
struct auth_ended {
    pthread_mutex_t lock;
    struct ended_session *sessions; /* under lock, as all below */
    size_t count, room;
};

void auth_ended_init(struct auth_ended *ended);
void auth_ended_finish(struct auth_ended *ended);
/* What an earlier server kept. */
MUST_CHECK bool auth_ended_load(struct auth_ended *ended, struct store *store, struct error *err);
bool auth_ended_has(struct auth_ended *ended, const struct auth_session *session);
/* In memory. Of one credential ENDED_SESSIONS_MAX are known one by one; then the one that expires
 * first takes all of this credential with it that expire no later: a session that has ended never
 * begins again, and nobody ends those of others. False: memory is short. */
MUST_CHECK bool auth_ended_add(struct auth_ended *ended, const struct auth_session *session,
                               int64_t now_s);
MUST_CHECK bool auth_ended_keep(struct auth_ended *ended, struct store *store, struct error *err);

#endif
