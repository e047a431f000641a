/* Chores: what must not be done where it comes up, on one thread of its own: ending a subscription
 * (never from an event's own call) and answering a request whose time of waiting is over.
 */
#ifndef SERVER_NATIVE_CHORES_H
#define SERVER_NATIVE_CHORES_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"

struct chores;

/* Inside the object that it is about, whose memory `run` may free. Starts zeroed but for `run`. */
struct chore {
    void (*run)(struct chore *chore); /* once, on the chores' thread, without a lock */
    struct chore *next, *previous;    /* under the lock of chores */
    double due;                       /* in the same seconds as seconds_now */
    bool is_listed, is_hurried;       /* under the lock of chores */
};

MUST_CHECK bool chores_create(struct chores **out, struct error *err);
/* Runs all that is left, without waiting for its time. NULL is fine. */
void chores_destroy(struct chores *chores);

/* To be run at `due`, or at once when it was hurried already. From now on `run` may happen. */
void chores_add(struct chores *chores, struct chore *chore, double due);
/* Now rather than when it is due. Before chores_add it is remembered, while it runs it does
 * nothing. */
void chores_hurry(struct chores *chores, struct chore *chore);
void chores_hurry_all(struct chores *chores);

#endif
