/* Inbox: what the front says, received on a thread of its own, so that a cancellation takes effect
 * while the thread that draws is busy with a step.
 *
 * The inbox alone receives from the channel; sending stays with the thread that draws, as does all
 * that is declared here.
 */
#ifndef WORKER_INBOX_H
#define WORKER_INBOX_H

#include <stdatomic.h>

#include "wire/channel.h"
#include "wire/messages.h"

struct inbox;

struct inbox_message {
    struct inbox_message *next;
    enum message_type type; /* of the front's; never MESSAGE_CANCEL or MESSAGE_SKIP: see below */
    struct job_message job; /* of MESSAGE_WATCH: ticket and is_watched; ESTIMATE: and the spec */
    struct skip_message skip;
    struct upscale_message upscale;
};
void inbox_message_destroy(struct inbox_message *message); /* NULL is fine */

/* Borrows the channel, and starts the thread. */
MUST_CHECK bool inbox_create(struct inbox **out, struct channel *channel, struct error *err);
void inbox_destroy(struct inbox *inbox); /* waits for the thread; NULL is fine */

/* Readable when a message, a cancellation or the end came since inbox_take gave NULL. */
int inbox_fd(const struct inbox *inbox);
/* The next message, the caller's from now on; NULL: there is none. */
struct inbox_message *inbox_take(struct inbox *inbox);

enum inbox_state { INBOX_OPEN, INBOX_CLOSED, INBOX_BROKEN };
/* CLOSED: the front is gone. BROKEN: it sends what is no message. */
enum inbox_state inbox_state(struct inbox *inbox);

/* A job is known from its message on until it is forgotten. */
bool inbox_is_cancelled(struct inbox *inbox, uint64_t ticket);
/* A picture of the job that is to be left out, once for each. False: there is no other. */
bool inbox_take_skip(struct inbox *inbox, uint64_t ticket, int *image);
void inbox_set_running(struct inbox *inbox, uint64_t ticket);
/* The picture that a running job draws alone: its skip stops it. -1: none. */
void inbox_set_alone(struct inbox *inbox, uint64_t ticket, int image);
void inbox_forget(struct inbox *inbox, uint64_t ticket);
/* Set while there are running jobs and none of them is to go on, and once the front is gone. */
const atomic_bool *inbox_stop(const struct inbox *inbox);

#endif
