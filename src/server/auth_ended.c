#include "server/auth_ended.h"

#include <jansson.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "server/limits.h"

#define SETTING "sessions.ended"
#define NONCE_BYTES 16

struct ended_session {
    int64_t expires_s;
    unsigned char mark[AUTH_MARK_BYTES]; /* of the credential */
    unsigned char nonce[NONCE_BYTES];    /* 0: all of the credential's that expire by then */
};

static const unsigned char all[NONCE_BYTES];

void auth_ended_init(struct auth_ended *ended)
{
    *ended = (struct auth_ended){0};
    pthread_mutex_init(&ended->lock, NULL);
}

void auth_ended_finish(struct auth_ended *ended)
{
    free(ended->sessions);
    pthread_mutex_destroy(&ended->lock);
}

static bool is_of(const struct ended_session *one, const unsigned char mark[AUTH_MARK_BYTES])
{
    return memcmp(one->mark, mark, AUTH_MARK_BYTES) == 0;
}

static struct ended_session *find_locked(const struct auth_ended *ended,
                                         const unsigned char mark[AUTH_MARK_BYTES],
                                         const unsigned char nonce[NONCE_BYTES])
{
    for (size_t i = 0; i < ended->count; i++)
        if (is_of(&ended->sessions[i], mark) &&
            memcmp(ended->sessions[i].nonce, nonce, NONCE_BYTES) == 0)
            return &ended->sessions[i];
    return NULL;
}

bool auth_ended_has(struct auth_ended *ended, const struct auth_session *session)
{
    const struct ended_session *earlier;
    bool has;

    pthread_mutex_lock(&ended->lock);
    earlier = find_locked(ended, session->mark, all);
    has = (earlier && session->expires_s <= earlier->expires_s) ||
          find_locked(ended, session->mark, session->nonce);
    pthread_mutex_unlock(&ended->lock);
    return has;
}

static void remove_expired_locked(struct auth_ended *ended, int64_t now_s)
{
    size_t kept = 0;

    for (size_t i = 0; i < ended->count; i++)
        if (ended->sessions[i].expires_s > now_s)
            ended->sessions[kept++] = ended->sessions[i];
    ended->count = kept;
}

static bool append_locked(struct auth_ended *ended, const unsigned char mark[AUTH_MARK_BYTES],
                          const unsigned char nonce[NONCE_BYTES], int64_t expires_s)
{
    struct ended_session *one;

    if (ended->count == ended->room) {
        size_t room = ended->room ? 2 * ended->room : 16;
        struct ended_session *more = reallocarray(ended->sessions, room, sizeof *more);

        if (!more)
            return false;
        ended->sessions = more;
        ended->room = room;
    }
    one = &ended->sessions[ended->count++];
    one->expires_s = expires_s;
    memcpy(one->mark, mark, AUTH_MARK_BYTES);
    memcpy(one->nonce, nonce, NONCE_BYTES);
    return true;
}

/* Makes room among a credential's own, where it has too many. */
static void fold_locked(struct auth_ended *ended, const unsigned char mark[AUTH_MARK_BYTES])
{
    struct ended_session *earlier = find_locked(ended, mark, all), *first = NULL;
    size_t count = 0;

    for (struct ended_session *at = ended->sessions; at < ended->sessions + ended->count; at++) {
        if (at == earlier || !is_of(at, mark))
            continue;
        count++;
        if (!first || at->expires_s < first->expires_s)
            first = at;
    }
    if (!first || count < ENDED_SESSIONS_MAX)
        return;
    if (!earlier) { /* it becomes that one */
        memcpy(first->nonce, all, NONCE_BYTES);
        return;
    }
    if (first->expires_s > earlier->expires_s)
        earlier->expires_s = first->expires_s;
    *first = ended->sessions[--ended->count];
}

bool auth_ended_add(struct auth_ended *ended, const struct auth_session *session, int64_t now_s)
{
    bool is_known;

    pthread_mutex_lock(&ended->lock);
    remove_expired_locked(ended, now_s);
    is_known = find_locked(ended, session->mark, session->nonce) != NULL;
    if (!is_known) {
        fold_locked(ended, session->mark);
        is_known = append_locked(ended, session->mark, session->nonce, session->expires_s);
    }
    pthread_mutex_unlock(&ended->lock);
    return is_known;
}

/* --- In the store: [["<mark>", "<nonce>", <when it expires>], ...] --- */

static bool read_bytes(unsigned char *bytes, size_t size, json_t *text)
{
    size_t read = 0;

    return json_is_string(text) &&
           sodium_hex2bin(bytes, size, json_string_value(text), json_string_length(text), NULL,
                          &read, NULL) == 0 &&
           read == size;
}

/* False: it is none, or memory is short. */
static bool read_one_locked(struct auth_ended *ended, json_t *one)
{
    unsigned char mark[AUTH_MARK_BYTES], nonce[NONCE_BYTES];
    json_t *expires = json_array_get(one, 2);

    return json_is_integer(expires) && read_bytes(mark, sizeof mark, json_array_get(one, 0)) &&
           read_bytes(nonce, sizeof nonce, json_array_get(one, 1)) &&
           append_locked(ended, mark, nonce, json_integer_value(expires));
}

bool auth_ended_load(struct auth_ended *ended, struct store *store, struct error *err)
{
    char *text;
    json_t *kept;
    bool is_good;

    if (!store_get_setting(store, SETTING, &text, err))
        return error_in(err, "the sessions that have ended");
    if (!text)
        return true;
    kept = json_loads(text, 0, NULL);
    free(text);
    is_good = json_is_array(kept);
    pthread_mutex_lock(&ended->lock);
    for (size_t i = 0; is_good && i < json_array_size(kept); i++)
        is_good = read_one_locked(ended, json_array_get(kept, i));
    pthread_mutex_unlock(&ended->lock);
    json_decref(kept);
    return is_good || error_set(err, ERROR_BAD_FILE,
                                "the list of sessions that have ended is damaged in the store");
}

static char *write_text(struct auth_ended *ended)
{
    json_t *list = json_array();
    char *text;

    pthread_mutex_lock(&ended->lock);
    for (size_t i = 0; i < ended->count; i++) {
        const struct ended_session *one = &ended->sessions[i];
        char mark[2 * AUTH_MARK_BYTES + 1], nonce[2 * NONCE_BYTES + 1];

        sodium_bin2hex(mark, sizeof mark, one->mark, AUTH_MARK_BYTES);
        sodium_bin2hex(nonce, sizeof nonce, one->nonce, NONCE_BYTES);
        json_array_append_new(list,
                              json_pack("[s, s, I]", mark, nonce, (json_int_t)one->expires_s));
    }
    pthread_mutex_unlock(&ended->lock);
    text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    return text;
}

bool auth_ended_keep(struct auth_ended *ended, struct store *store, struct error *err)
{
    char *text = write_text(ended);
    bool is_kept = text ? store_set_setting(store, SETTING, text, err)
                        : error_set(err, ERROR_NO_MEMORY, "the sessions that have ended");

    free(text);
    return is_kept;
}
