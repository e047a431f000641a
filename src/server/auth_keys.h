/* API keys in memory: what the gate compares with. Any thread. */
#ifndef SERVER_AUTH_KEYS_H
#define SERVER_AUTH_KEYS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "server/auth_rules.h"
#include "store/store.h"

struct auth_keys {
    pthread_rwlock_t lock;
    struct store_key *keys;
    size_t count;
};

void auth_keys_init(struct auth_keys *keys);
void auth_keys_finish(struct auth_keys *keys);
/* Replaces what is there by the store's keys; leaves it alone when the store fails. */
MUST_CHECK bool auth_keys_load(struct auth_keys *keys, struct store *store, struct error *err);
/* Whether there is a key that is good now. */
bool auth_keys_have_one(struct auth_keys *keys, int64_t now_ms);

/* AUTH_PASSES with *out filled; AUTH_WRONG_KEY, AUTH_KEY_EXPIRED, AUTH_KEY_REVOKED. Takes as long
 * for every text of a length, whatever is in it. */
enum auth_verdict auth_keys_find(struct auth_keys *keys, struct store_key *out, const char *text,
                                 int64_t now_ms);
/* By the first AUTH_MARK_BYTES of its hash, for sessions. */
enum auth_verdict auth_keys_find_mark(struct auth_keys *keys, struct store_key *out,
                                      const unsigned char *mark, int64_t now_ms);

#endif
