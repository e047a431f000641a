#include "server/auth_keys.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "server/auth_tokens.h"

#define HASH_BYTES sizeof((struct store_key *)NULL)->hash

void auth_keys_init(struct auth_keys *keys)
{
    keys->keys = NULL;
    keys->count = 0;
    pthread_rwlock_init(&keys->lock, NULL);
}

void auth_keys_finish(struct auth_keys *keys)
{
    free(keys->keys);
    pthread_rwlock_destroy(&keys->lock);
}

struct key_list {
    struct store_key *keys;
    size_t count, capacity;
    bool has_failed;
};

static void collect_key(void *context, const struct store_key *key)
{
    struct key_list *list = context;

    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 16;
        struct store_key *keys = reallocarray(list->keys, capacity, sizeof *keys);

        if (!keys) {
            list->has_failed = true;
            return;
        }
        list->keys = keys;
        list->capacity = capacity;
    }
    list->keys[list->count++] = *key;
}

bool auth_keys_load(struct auth_keys *keys, struct store *store, struct error *err)
{
    struct key_list list = {0};
    struct store_key *old;

    if (!store_each_key(store, collect_key, &list, err) || list.has_failed) {
        bool has_failed = list.has_failed;

        free(list.keys);
        return has_failed ? error_set(err, ERROR_NO_MEMORY, "the keys") : error_in(err, "keys");
    }
    pthread_rwlock_wrlock(&keys->lock);
    old = keys->keys;
    keys->keys = list.keys;
    keys->count = list.count;
    pthread_rwlock_unlock(&keys->lock);
    free(old);
    return true;
}

static enum auth_verdict judge(const struct store_key *key, int64_t now_ms)
{
    if (key->revoked_ms != 0)
        return AUTH_KEY_REVOKED;
    return key->expires_ms != 0 && key->expires_ms <= now_ms ? AUTH_KEY_EXPIRED : AUTH_PASSES;
}

bool auth_keys_have_one(struct auth_keys *keys, int64_t now_ms)
{
    bool has_one = false;

    pthread_rwlock_rdlock(&keys->lock);
    for (size_t i = 0; i < keys->count; i++)
        has_one |= judge(&keys->keys[i], now_ms) == AUTH_PASSES;
    pthread_rwlock_unlock(&keys->lock);
    return has_one;
}

/* All keys are looked at, also after one that fits. */
static enum auth_verdict find(struct auth_keys *keys, struct store_key *out,
                              const unsigned char *hash, size_t hash_bytes, int64_t now_ms)
{
    enum auth_verdict verdict = AUTH_WRONG_KEY;

    pthread_rwlock_rdlock(&keys->lock);
    for (size_t i = 0; i < keys->count; i++) {
        if (sodium_memcmp(keys->keys[i].hash, hash, hash_bytes) != 0)
            continue;
        *out = keys->keys[i];
        verdict = judge(out, now_ms);
    }
    pthread_rwlock_unlock(&keys->lock);
    return verdict;
}

enum auth_verdict auth_keys_find(struct auth_keys *keys, struct store_key *out, const char *text,
                                 int64_t now_ms)
{
    unsigned char hash[HASH_BYTES];

    crypto_hash_sha256(hash, (const unsigned char *)text, strlen(text));
    return find(keys, out, hash, sizeof hash, now_ms);
}

enum auth_verdict auth_keys_find_mark(struct auth_keys *keys, struct store_key *out,
                                      const unsigned char *mark, int64_t now_ms)
{
    return find(keys, out, mark, AUTH_MARK_BYTES, now_ms);
}
