#include "server/native_chores.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"

/* The longest sleep: a clock that seconds_now does not share cannot make a chore wait for ever. */
#define SLEEP_SECONDS_MAX 1.0

struct chores {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    struct chore *first, *last; /* under lock, by due */
    bool is_ending;             /* under lock */
};

static void unlink_locked(struct chores *chores, struct chore *chore)
{
    if (chore->previous)
        chore->previous->next = chore->next;
    else
        chores->first = chore->next;
    if (chore->next)
        chore->next->previous = chore->previous;
    else
        chores->last = chore->previous;
    chore->next = chore->previous = NULL;
    chore->is_listed = false;
}

/* From the end, where most belong: waits are mostly of the same length. Urgent ones (due 0) go to
 * the front without a search. */
static void link_locked(struct chores *chores, struct chore *chore)
{
    struct chore *before = chore->due > 0 ? chores->last : NULL;

    while (before && before->due > chore->due)
        before = before->previous;
    chore->previous = before;
    chore->next = before ? before->next : chores->first;
    if (chore->next)
        chore->next->previous = chore;
    else
        chores->last = chore;
    if (before)
        before->next = chore;
    else
        chores->first = chore;
    chore->is_listed = true;
}

static void sleep_locked(struct chores *chores)
{
    double seconds = SLEEP_SECONDS_MAX;
    struct timespec until;

    if (!chores->first) {
        pthread_cond_wait(&chores->changed, &chores->lock);
        return;
    }
    seconds = fmin(seconds, fmax(chores->first->due - seconds_now(), 0));
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(seconds * 1e9) + 1;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&chores->changed, &chores->lock, &until);
}

static void *work(void *context)
{
    struct chores *chores = context;

    pthread_mutex_lock(&chores->lock);
    while (!chores->is_ending || chores->first) {
        struct chore *chore = chores->first;

        if (!chore || (!chores->is_ending && chore->due > seconds_now())) {
            sleep_locked(chores);
            continue;
        }
        unlink_locked(chores, chore);
        pthread_mutex_unlock(&chores->lock);
        chore->run(chore);
        pthread_mutex_lock(&chores->lock);
    }
    pthread_mutex_unlock(&chores->lock);
    return NULL;
}

bool chores_create(struct chores **out, struct error *err)
{
    struct chores *chores = calloc(1, sizeof *chores);
    pthread_condattr_t attributes;
    int status;

    if (!chores)
        return error_set(err, ERROR_NO_MEMORY, "native API");
    pthread_mutex_init(&chores->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&chores->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    status = pthread_create(&chores->thread, NULL, work, chores);
    if (status != 0) {
        pthread_cond_destroy(&chores->changed);
        pthread_mutex_destroy(&chores->lock);
        free(chores);
        return error_set_errno(err, status, "native API: starting a thread");
    }
    *out = chores;
    return true;
}

void chores_destroy(struct chores *chores)
{
    if (!chores)
        return;
    pthread_mutex_lock(&chores->lock);
    chores->is_ending = true;
    pthread_cond_signal(&chores->changed);
    pthread_mutex_unlock(&chores->lock);
    pthread_join(chores->thread, NULL);
    pthread_cond_destroy(&chores->changed);
    pthread_mutex_destroy(&chores->lock);
    free(chores);
}

void chores_add(struct chores *chores, struct chore *chore, double due)
{
    pthread_mutex_lock(&chores->lock);
    chore->due = chore->is_hurried ? 0 : due;
    link_locked(chores, chore);
    if (chores->first == chore)
        pthread_cond_signal(&chores->changed);
    pthread_mutex_unlock(&chores->lock);
}

static void hurry_locked(struct chores *chores, struct chore *chore)
{
    chore->is_hurried = true;
    if (!chore->is_listed || chore->due == 0)
        return;
    unlink_locked(chores, chore);
    chore->due = 0;
    link_locked(chores, chore);
}

void chores_hurry(struct chores *chores, struct chore *chore)
{
    pthread_mutex_lock(&chores->lock);
    hurry_locked(chores, chore);
    pthread_cond_signal(&chores->changed);
    pthread_mutex_unlock(&chores->lock);
}

void chores_hurry_all(struct chores *chores)
{
    pthread_mutex_lock(&chores->lock);
    for (struct chore *chore = chores->first, *next; chore; chore = next) {
        next = chore->next;
        hurry_locked(chores, chore);
    }
    pthread_cond_signal(&chores->changed);
    pthread_mutex_unlock(&chores->lock);
}
