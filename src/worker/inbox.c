#include "worker/inbox.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct ticket {
    struct ticket *next;
    uint64_t number;
    bool is_running, is_cancelled;
    bool skips[JOB_COUNT_MAX]; /* not taken yet */
    int alone;                 /* the picture that is drawn alone; -1: none */
};

struct inbox {
    struct channel *channel; /* borrowed; the thread receives */
    pthread_t thread;
    int arrived, end; /* eventfds; fixed */
    atomic_bool stop; /* written under lock */

    pthread_mutex_t lock;
    struct inbox_message *first, **last; /* under lock */
    struct ticket *tickets;              /* under lock */
    enum inbox_state state;              /* under lock */
};

static void ring(int eventfd)
{
    const uint64_t one = 1;

    /* Fails only when the counter is full: then it is readable already. */
    while (write(eventfd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void silence(int eventfd)
{
    uint64_t count;

    while (read(eventfd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}

void inbox_message_destroy(struct inbox_message *message)
{
    if (message) {
        job_spec_finish(&message->job.spec);
        free(message->upscale.file.bytes);
    }
    free(message);
}

/* --- Tickets --- */

static struct ticket *find_locked(struct inbox *inbox, uint64_t number)
{
    struct ticket *ticket = inbox->tickets;

    while (ticket && ticket->number != number)
        ticket = ticket->next;
    return ticket;
}

static void update_stop_locked(struct inbox *inbox)
{
    bool runs = false, goes_on = false;

    for (const struct ticket *ticket = inbox->tickets; ticket; ticket = ticket->next) {
        runs = runs || ticket->is_running;
        goes_on = goes_on || (ticket->is_running && !ticket->is_cancelled &&
                              !(ticket->alone >= 0 && ticket->skips[ticket->alone]));
    }
    atomic_store(&inbox->stop, (runs && !goes_on) || inbox->state != INBOX_OPEN);
}

bool inbox_is_cancelled(struct inbox *inbox, uint64_t number)
{
    const struct ticket *ticket;
    bool is_cancelled;

    pthread_mutex_lock(&inbox->lock);
    ticket = find_locked(inbox, number);
    is_cancelled = ticket && ticket->is_cancelled;
    pthread_mutex_unlock(&inbox->lock);
    return is_cancelled;
}

bool inbox_take_skip(struct inbox *inbox, uint64_t number, int *image)
{
    struct ticket *ticket;
    bool is_skipped = false;

    pthread_mutex_lock(&inbox->lock);
    ticket = find_locked(inbox, number);
    for (int i = 0; ticket && !is_skipped && i < JOB_COUNT_MAX; i++) {
        is_skipped = ticket->skips[i];
        ticket->skips[i] = false;
        *image = i;
    }
    update_stop_locked(inbox);
    pthread_mutex_unlock(&inbox->lock);
    return is_skipped;
}

void inbox_set_alone(struct inbox *inbox, uint64_t number, int image)
{
    struct ticket *ticket;

    pthread_mutex_lock(&inbox->lock);
    ticket = find_locked(inbox, number);
    if (ticket)
        ticket->alone = image;
    update_stop_locked(inbox);
    pthread_mutex_unlock(&inbox->lock);
}

void inbox_set_running(struct inbox *inbox, uint64_t number)
{
    struct ticket *ticket;

    pthread_mutex_lock(&inbox->lock);
    ticket = find_locked(inbox, number);
    if (ticket)
        ticket->is_running = true;
    update_stop_locked(inbox);
    pthread_mutex_unlock(&inbox->lock);
}

void inbox_forget(struct inbox *inbox, uint64_t number)
{
    struct ticket **at, *ticket;

    pthread_mutex_lock(&inbox->lock);
    at = &inbox->tickets;
    while (*at && (*at)->number != number)
        at = &(*at)->next;
    ticket = *at;
    if (ticket)
        *at = ticket->next;
    update_stop_locked(inbox);
    pthread_mutex_unlock(&inbox->lock);
    free(ticket);
}

const atomic_bool *inbox_stop(const struct inbox *inbox)
{
    return &inbox->stop;
}

/* --- Receiving --- */

/* False: it is no message of the front's, or memory is short. */
static bool read_message(struct inbox_message *message, uint32_t type, struct record_reader reader)
{
    message->type = (enum message_type)type;
    switch (type) {
    case MESSAGE_JOB:
        return job_message_read(&message->job, reader);
    case MESSAGE_CANCEL:
        message->job.ticket = record_get_u64(&reader);
        return record_reader_is_done(&reader);
    case MESSAGE_SKIP:
        return skip_message_read(&message->skip, reader);
    case MESSAGE_WATCH:
        message->job.ticket = record_get_u64(&reader);
        message->job.is_watched = record_get_bool(&reader);
        return record_reader_is_done(&reader);
    case MESSAGE_ESTIMATE:
        message->job.ticket = record_get_u64(&reader);
        return spec_read(&message->job.spec, &reader) && record_reader_is_done(&reader);
    case MESSAGE_UPSCALE:
        return upscale_message_read(&message->upscale, reader);
    case MESSAGE_DRAIN:
        return record_reader_is_done(&reader);
    default:
        return false;
    }
}

static bool add_ticket_locked(struct inbox *inbox, uint64_t number)
{
    struct ticket *ticket = calloc(1, sizeof *ticket);

    if (!ticket)
        return false;
    *ticket = (struct ticket){.next = inbox->tickets, .number = number, .alone = -1};
    inbox->tickets = ticket;
    return true;
}

static void cancel_locked(struct inbox *inbox, uint64_t number)
{
    struct ticket *ticket = find_locked(inbox, number);

    if (ticket)
        ticket->is_cancelled = true;
    update_stop_locked(inbox);
}

static void skip_locked(struct inbox *inbox, const struct skip_message *skip)
{
    struct ticket *ticket = find_locked(inbox, skip->ticket);

    if (ticket)
        ticket->skips[skip->image] = true;
    update_stop_locked(inbox);
}

/* Takes the message. False: memory is short. */
static bool deliver(struct inbox *inbox, struct inbox_message *message)
{
    bool ok = true;

    pthread_mutex_lock(&inbox->lock);
    if (message->type == MESSAGE_CANCEL) {
        cancel_locked(inbox, message->job.ticket);
    } else if (message->type == MESSAGE_SKIP) {
        skip_locked(inbox, &message->skip);
    } else {
        ok = message->type != MESSAGE_JOB || add_ticket_locked(inbox, message->job.ticket);
        if (ok) {
            *inbox->last = message;
            inbox->last = &message->next;
            message = NULL;
        }
    }
    pthread_mutex_unlock(&inbox->lock);
    inbox_message_destroy(message);
    ring(inbox->arrived);
    return ok;
}

/* All that is there. */
static enum inbox_state receive(struct inbox *inbox)
{
    for (;;) {
        struct inbox_message *message;
        struct record_reader reader;
        uint32_t type;
        int fd;

        switch (channel_receive(inbox->channel, &type, &reader, &fd)) {
        case CHANNEL_NOTHING:
            return INBOX_OPEN;
        case CHANNEL_CLOSED:
            return INBOX_CLOSED;
        case CHANNEL_BROKEN:
            return INBOX_BROKEN;
        case CHANNEL_RECORD:
            break;
        }
        if (fd >= 0) /* no message of the front's has one */
            close(fd);
        message = calloc(1, sizeof *message);
        if (!message || !read_message(message, type, reader)) {
            inbox_message_destroy(message);
            return INBOX_BROKEN;
        }
        if (!deliver(inbox, message))
            return INBOX_BROKEN;
    }
}

static void *run(void *context)
{
    struct inbox *inbox = context;
    struct pollfd fds[] = {{.fd = channel_fd(inbox->channel), .events = POLLIN},
                           {.fd = inbox->end, .events = POLLIN}};
    enum inbox_state state = INBOX_OPEN;

    while (state == INBOX_OPEN && !fds[1].revents) {
        if (poll(fds, COUNT_OF(fds), -1) < 0) {
            state = errno == EINTR ? INBOX_OPEN : INBOX_BROKEN;
            fds[0].revents = fds[1].revents = 0;
        } else if (fds[0].revents) {
            state = receive(inbox);
        }
    }
    pthread_mutex_lock(&inbox->lock);
    inbox->state = state;
    update_stop_locked(inbox);
    pthread_mutex_unlock(&inbox->lock);
    ring(inbox->arrived);
    return NULL;
}

/* --- For the thread that draws --- */

static void release(struct inbox *inbox)
{
    while (inbox->first) {
        struct inbox_message *next = inbox->first->next;

        inbox_message_destroy(inbox->first);
        inbox->first = next;
    }
    while (inbox->tickets) {
        struct ticket *next = inbox->tickets->next;

        free(inbox->tickets);
        inbox->tickets = next;
    }
    if (inbox->arrived >= 0)
        close(inbox->arrived);
    if (inbox->end >= 0)
        close(inbox->end);
    pthread_mutex_destroy(&inbox->lock);
    free(inbox);
}

bool inbox_create(struct inbox **out, struct channel *channel, struct error *err)
{
    struct inbox *inbox = calloc(1, sizeof *inbox);
    int failure;

    if (!inbox)
        return error_set(err, ERROR_NO_MEMORY, "inbox");
    inbox->channel = channel;
    inbox->last = &inbox->first;
    inbox->arrived = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    inbox->end = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&inbox->lock, NULL);
    if (inbox->arrived < 0 || inbox->end < 0) {
        error_set_errno(err, errno, "inbox");
        release(inbox);
        return false;
    }
    failure = pthread_create(&inbox->thread, NULL, run, inbox);
    if (failure != 0) {
        error_set_errno(err, failure, "thread of the inbox");
        release(inbox);
        return false;
    }
    *out = inbox;
    return true;
}

void inbox_destroy(struct inbox *inbox)
{
    if (!inbox)
        return;
    ring(inbox->end);
    pthread_join(inbox->thread, NULL);
    release(inbox);
}

int inbox_fd(const struct inbox *inbox)
{
    return inbox->arrived;
}

struct inbox_message *inbox_take(struct inbox *inbox)
{
    struct inbox_message *message;

    pthread_mutex_lock(&inbox->lock);
    message = inbox->first;
    if (message) {
        inbox->first = message->next;
        message->next = NULL;
        if (!inbox->first)
            inbox->last = &inbox->first;
    } else {
        silence(inbox->arrived);
    }
    pthread_mutex_unlock(&inbox->lock);
    return message;
}

enum inbox_state inbox_state(struct inbox *inbox)
{
    enum inbox_state state;

    pthread_mutex_lock(&inbox->lock);
    state = inbox->state;
    pthread_mutex_unlock(&inbox->lock);
    return state;
}
