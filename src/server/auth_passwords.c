#include "server/auth_passwords.h"

#include <crypt.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/auth_credentials.h"
#include "server/password_file.h"

#define RIGHT_SECONDS 60.0 /* that a right password is remembered */
#define RIGHT_SLOTS 64
#define WAITING_MAX 64
#define DIGEST_BYTES 32

struct waiting_check {
    struct waiting_check *next;
    char user[AUTH_TEXT_BYTES], password[AUTH_TEXT_BYTES];
    void (*done)(void *context, bool is_right);
    void *context;
};

struct auth_passwords {
    const char *api_auth;
    char *htpasswd; /* NULL: no file, no thread */
    pthread_mutex_t lock;
    pthread_cond_t has_work;
    /* Under the lock. */
    struct password_list list;
    struct {
        unsigned char digest[DIGEST_BYTES];
        double until;
    } right[RIGHT_SLOTS];
    struct waiting_check *first, **last;
    int waiting;
    int reloads;
    bool is_over;

    unsigned char secret[AUTH_SECRET_BYTES]; /* of the digests: drawn at each start */
    struct crypt_data crypt;                 /* 32 KiB, the thread's */
    pthread_t thread;
    bool has_thread;
};

/* Of user and password together; no plain password is kept, nor compared byte by byte. */
static void digest_of(const struct auth_passwords *passwords, unsigned char digest[DIGEST_BYTES],
                      const char *user, const char *password)
{
    unsigned char pair[2 * AUTH_TEXT_BYTES] = {0};

    strncpy((char *)pair, user, AUTH_TEXT_BYTES - 1);
    strncpy((char *)pair + AUTH_TEXT_BYTES, password, AUTH_TEXT_BYTES - 1);
    auth_keyed_hash(digest, DIGEST_BYTES, passwords->secret, "password", pair, sizeof pair);
    sodium_memzero(pair, sizeof pair);
}

/* Under the lock. */
static bool is_remembered(const struct auth_passwords *passwords,
                          const unsigned char digest[DIGEST_BYTES])
{
    double now = seconds_now();
    bool is = false;

    for (size_t i = 0; i < RIGHT_SLOTS; i++)
        is |= sodium_memcmp(passwords->right[i].digest, digest, DIGEST_BYTES) == 0 &&
              now < passwords->right[i].until;
    return is;
}

/* In the slot that ends first; not when the list was changed since the check began. */
static void remember(struct auth_passwords *passwords, const unsigned char digest[DIGEST_BYTES],
                     int reloads)
{
    size_t oldest = 0;

    pthread_mutex_lock(&passwords->lock);
    for (size_t i = 1; i < RIGHT_SLOTS; i++)
        if (passwords->right[i].until < passwords->right[oldest].until)
            oldest = i;
    if (reloads == passwords->reloads) {
        memcpy(passwords->right[oldest].digest, digest, DIGEST_BYTES);
        passwords->right[oldest].until = seconds_now() + RIGHT_SECONDS;
    }
    pthread_mutex_unlock(&passwords->lock);
}

/* A user without a hash, or that does not exist, takes as long as the first one with a hash:
 * whoever asks does not learn names. Copied, since a reload may come meanwhile. */
static bool copy_user(struct auth_passwords *passwords, struct password_user *out, const char *name)
{
    const struct password_user *user;
    bool exists;

    pthread_mutex_lock(&passwords->lock);
    user = password_list_find(&passwords->list, name);
    exists = user && user->is_hash;
    if (!exists)
        user = NULL;
    for (size_t i = 0; !user && i < passwords->list.count; i++)
        if (passwords->list.users[i].is_hash)
            user = &passwords->list.users[i];
    if (user)
        *out = *user;
    pthread_mutex_unlock(&passwords->lock);
    return exists;
}

static bool is_right(struct auth_passwords *passwords, const struct waiting_check *check)
{
    struct password_user user = {0};
    bool exists = copy_user(passwords, &user, check->user);
    const char *hash = crypt_r(check->password, user.secret, &passwords->crypt);
    bool is;

    /* crypt_r's own sign of failure begins with '*' and is never a hash of ours. */
    is = hash && hash[0] != '*' && strlen(hash) == strlen(user.secret) &&
         sodium_memcmp(hash, user.secret, strlen(hash)) == 0;
    sodium_memzero(&passwords->crypt, sizeof passwords->crypt);
    return is && exists;
}

static void finish_check(struct waiting_check *check, bool right)
{
    check->done(check->context, right);
    sodium_memzero(check, sizeof *check);
    free(check);
}

/* Waits for a check; NULL: it is over. */
static struct waiting_check *take_check(struct auth_passwords *passwords)
{
    struct waiting_check *check = NULL;

    pthread_mutex_lock(&passwords->lock);
    while (!passwords->first && !passwords->is_over)
        pthread_cond_wait(&passwords->has_work, &passwords->lock);
    if (!passwords->is_over) {
        check = passwords->first;
        passwords->first = check->next;
        if (!passwords->first)
            passwords->last = &passwords->first;
        passwords->waiting--;
    }
    pthread_mutex_unlock(&passwords->lock);
    return check;
}

static void *check_passwords(void *context)
{
    struct auth_passwords *passwords = context;
    struct waiting_check *check;

    while ((check = take_check(passwords))) {
        unsigned char digest[DIGEST_BYTES];
        bool right;
        int reloads;

        digest_of(passwords, digest, check->user, check->password);
        pthread_mutex_lock(&passwords->lock);
        right = is_remembered(passwords, digest);
        reloads = passwords->reloads;
        pthread_mutex_unlock(&passwords->lock);
        if (!right) {
            right = is_right(passwords, check);
            if (right)
                remember(passwords, digest, reloads);
        }
        finish_check(check, right);
    }
    return NULL;
}

static bool load(const struct auth_passwords *passwords, struct password_list *list,
                 struct error *err)
{
    return (!passwords->api_auth || password_list_read_pairs(list, passwords->api_auth, err)) &&
           (!passwords->htpasswd || password_list_read_file(list, passwords->htpasswd, err));
}

bool auth_passwords_create(struct auth_passwords **out, const char *api_auth, const char *htpasswd,
                           struct error *err)
{
    struct auth_passwords *passwords = calloc(1, sizeof *passwords);

    if (!passwords)
        return error_set(err, ERROR_NO_MEMORY, "the passwords");
    pthread_mutex_init(&passwords->lock, NULL);
    pthread_cond_init(&passwords->has_work, NULL);
    passwords->last = &passwords->first;
    passwords->api_auth = api_auth;
    randombytes_buf(passwords->secret, sizeof passwords->secret);
    if (htpasswd && !(passwords->htpasswd = strdup(htpasswd))) {
        error_set(err, ERROR_NO_MEMORY, "the passwords");
        goto fail;
    }
    if (!load(passwords, &passwords->list, err))
        goto fail;
    if (htpasswd && pthread_create(&passwords->thread, NULL, check_passwords, passwords) != 0) {
        error_set(err, ERROR_NO_MEMORY, "a thread for passwords");
        goto fail;
    }
    passwords->has_thread = htpasswd != NULL;
    *out = passwords;
    return true;

fail:
    auth_passwords_destroy(passwords);
    return false;
}

void auth_passwords_destroy(struct auth_passwords *passwords)
{
    if (!passwords)
        return;
    pthread_mutex_lock(&passwords->lock);
    passwords->is_over = true;
    pthread_cond_signal(&passwords->has_work);
    pthread_mutex_unlock(&passwords->lock);
    if (passwords->has_thread)
        pthread_join(passwords->thread, NULL);
    for (struct waiting_check *check = passwords->first, *next; check; check = next) {
        next = check->next;
        finish_check(check, false);
    }
    password_list_finish(&passwords->list);
    pthread_mutex_destroy(&passwords->lock);
    pthread_cond_destroy(&passwords->has_work);
    free(passwords->htpasswd);
    sodium_memzero(passwords, sizeof *passwords);
    free(passwords);
}

bool auth_passwords_reload(struct auth_passwords *passwords, struct error *err)
{
    struct password_list list = {0}, old;

    if (!load(passwords, &list, err)) {
        password_list_finish(&list);
        return false;
    }
    pthread_mutex_lock(&passwords->lock);
    old = passwords->list;
    passwords->list = list;
    passwords->reloads++;
    sodium_memzero(passwords->right, sizeof passwords->right);
    pthread_mutex_unlock(&passwords->lock);
    password_list_finish(&old);
    return true;
}

bool auth_passwords_are_there(struct auth_passwords *passwords)
{
    bool are;

    pthread_mutex_lock(&passwords->lock);
    are = passwords->list.count > 0;
    pthread_mutex_unlock(&passwords->lock);
    return are;
}

/* Under the lock. Costs the same whether there is such a user or not. */
static bool is_plain_right(const struct auth_passwords *passwords, const char *name,
                           const unsigned char digest[DIGEST_BYTES])
{
    static const struct password_user nobody;
    const struct password_user *user = password_list_find(&passwords->list, name);
    bool is_plain = user && !user->is_hash;
    unsigned char wanted[DIGEST_BYTES];

    if (!is_plain)
        user = &nobody;
    digest_of(passwords, wanted, user->name, user->secret);
    return sodium_memcmp(wanted, digest, DIGEST_BYTES) == 0 && is_plain;
}

/* Under the lock. */
static enum password_check enqueue(struct auth_passwords *passwords, const char *user,
                                   const char *password, void (*done)(void *context, bool is_right),
                                   void *context)
{
    struct waiting_check *check;

    if (passwords->waiting >= WAITING_MAX || !(check = calloc(1, sizeof *check)))
        return PASSWORD_BUSY;
    strncpy(check->user, user, sizeof check->user - 1);
    strncpy(check->password, password, sizeof check->password - 1);
    check->done = done;
    check->context = context;
    *passwords->last = check;
    passwords->last = &check->next;
    passwords->waiting++;
    pthread_cond_signal(&passwords->has_work);
    return PASSWORD_LATER;
}

enum password_check auth_passwords_check(struct auth_passwords *passwords, const char *user,
                                         const char *password,
                                         void (*done)(void *context, bool is_right), void *context)
{
    enum password_check result = PASSWORD_WRONG;
    unsigned char digest[DIGEST_BYTES];

    if (strlen(user) >= AUTH_TEXT_BYTES || strlen(password) >= AUTH_TEXT_BYTES)
        return PASSWORD_WRONG;
    digest_of(passwords, digest, user, password);
    pthread_mutex_lock(&passwords->lock);
    if (is_plain_right(passwords, user, digest) || is_remembered(passwords, digest))
        result = PASSWORD_RIGHT;
    else if (passwords->has_thread)
        result = enqueue(passwords, user, password, done, context);
    pthread_mutex_unlock(&passwords->lock);
    return result;
}

bool auth_passwords_mark(struct auth_passwords *passwords, const char *user,
                         const unsigned char secret[AUTH_SECRET_BYTES],
                         unsigned char mark[AUTH_MARK_BYTES])
{
    const struct password_user *found;

    pthread_mutex_lock(&passwords->lock);
    found = password_list_find(&passwords->list, user);
    if (found)
        auth_keyed_hash(mark, AUTH_MARK_BYTES, secret, "mark", found, sizeof *found);
    pthread_mutex_unlock(&passwords->lock);
    return found != NULL;
}
