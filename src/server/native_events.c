/* Server-sent events: the hub's, as text, to one client each.
 *
 * Three threads meet here: the hub's tells, a connection's closes, a handler's sets up. The stream
 * is used under the lock only, so that none writes to it once it is closed; the subscription is
 * ended by the chores' thread.
 */
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/native_private.h"

struct event_stream {
    struct chore chore; /* first: chore.run gets it */
    struct native *native;
    struct hub_subscription *subscription; /* of the handler, then of the chores' thread */
    pthread_mutex_t lock;                  /* recursive: a write may close the stream itself */
    struct http_stream *stream;            /* under lock; NULL: closed */
    bool is_set_up, is_closed;             /* under lock */

    /* Of the request, which may be gone once the stream was started. */
    struct hub_interest interest; /* points to these two */
    char owner[STORE_OWNER_BYTES], job[STORE_ID_BYTES];
    bool has_last_id, is_resumed;
};

static void free_stream(struct event_stream *events)
{
    pthread_mutex_destroy(&events->lock);
    free(events);
}

static void end_stream(struct chore *chore)
{
    struct event_stream *events = (struct event_stream *)chore;

    if (events->subscription)
        hub_unsubscribe(events->native->options.hub, events->subscription);
    free_stream(events);
}

static void write_text(struct event_stream *events, const char *text)
{
    pthread_mutex_lock(&events->lock);
    /* A stream that is full is dropped by the server, which then calls be_closed. */
    if (events->stream)
        (void)http_stream_write(events->stream, text, strlen(text));
    pthread_mutex_unlock(&events->lock);
}

/* `id` NULL: none. Takes `data`; what memory is too short for is left out, and its number with it:
 * a client that comes back for it gets it again. */
static void write_event(struct event_stream *events, const char *id, const char *name,
                        struct json_writer *data)
{
    size_t size;
    char *json = json_writer_take(data, &size);
    char *text = NULL;

    if (json && asprintf(&text, "%s%s%sevent: %s\ndata: %s\n\n", id ? "id: " : "", id ? id : "",
                         id ? "\n" : "", name, json) > 0)
        write_text(events, text);
    else
        text = NULL;
    free(text);
    free(json);
}

static void write_empty_event(struct event_stream *events, const char *id, const char *name)
{
    struct json_writer data = {0};

    json_writer_open(&data, NULL, '{');
    json_writer_close(&data, '}');
    write_event(events, id, name, &data);
}

/* "job": .., "image": 0, "jpeg": "<base64>" */
static void write_preview(struct json_writer *out, const struct hub_event *event)
{
    size_t size = sodium_base64_encoded_len(event->size, sodium_base64_VARIANT_ORIGINAL);
    char *text = malloc(size);

    out->has_failed |= !text;
    if (!text)
        return;
    sodium_bin2base64(text, size, event->bytes, event->size, sodium_base64_VARIANT_ORIGINAL);
    json_writer_string(out, "job", event->job ? event->job->id : "");
    json_writer_integer(out, "image", event->image);
    json_writer_string(out, "jpeg", text);
    free(text);
}

/* A job without its parameters, which do not change; of a picture or its star, with the picture's
 * index. */
static void write_data(struct json_writer *out, const struct hub_event *event)
{
    if (event->type == EVENT_JOB_PREVIEW) {
        write_preview(out, event);
        return;
    }
    if (event->job) {
        native_write_job(out, event->job);
        json_writer_value(out, "result", event->job->result);
    }
    if (event->type == EVENT_PICTURE || event->type == EVENT_STAR)
        json_writer_integer(out, "image", event->image);
}

static void be_told(void *context, const struct hub_event *event)
{
    struct event_stream *events = context;
    struct json_writer data = {0};
    char id[NATIVE_EVENT_ID_BYTES];
    bool has_id = event->number != 0 || event->type == EVENT_GAP;

    json_writer_open(&data, NULL, '{');
    write_data(&data, event);
    json_writer_close(&data, '}');
    native_event_id_write(id, events->native->boot, event->number);
    write_event(events, has_id ? id : NULL,
                event->type == EVENT_GAP ? "gap" : hub_event_name(event->type), &data);
}

static void be_closed(void *context)
{
    struct event_stream *events = context;
    bool is_set_up;

    pthread_mutex_lock(&events->lock);
    events->stream = NULL;
    events->is_closed = true;
    is_set_up = events->is_set_up;
    pthread_mutex_unlock(&events->lock);
    if (is_set_up)
        chores_add(events->native->chores, &events->chore, 0);
}

static void finish_set_up(struct event_stream *events)
{
    bool is_closed;

    pthread_mutex_lock(&events->lock);
    events->is_set_up = true;
    is_closed = events->is_closed;
    pthread_mutex_unlock(&events->lock);
    if (is_closed)
        chores_add(events->native->chores, &events->chore, 0);
}

static struct event_stream *create_stream(struct native *native)
{
    struct event_stream *events = calloc(1, sizeof *events);
    pthread_mutexattr_t attributes;

    if (!events)
        return NULL;
    events->chore.run = end_stream;
    events->native = native;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&events->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return events;
}

/* The handle may be dead before we have seen it. False: there is no stream. */
static bool open_stream(struct event_stream *events, struct http_exchange *exchange)
{
    struct http_stream *stream;

    pthread_mutex_lock(&events->lock);
    stream = http_start_stream(exchange, "text/event-stream", be_closed, events);
    if (!events->is_closed)
        events->stream = stream;
    pthread_mutex_unlock(&events->lock);
    return stream != NULL;
}

/* The client's first word decides: nothing (it starts anew), a number that is still ours (what came
 * since is sent), or one that says nothing any more (it has to load all again). */
static void subscribe(struct event_stream *events)
{
    const char *boot = events->native->boot;
    char id[NATIVE_EVENT_ID_BYTES];
    struct error err;

    write_text(events, "retry: 2000\n\n");
    if (!hub_subscribe(events->native->options.hub, &events->subscription, &events->interest,
                       be_told, events, &err)) {
        pthread_mutex_lock(&events->lock);
        if (events->stream)
            http_stream_end(events->stream);
        pthread_mutex_unlock(&events->lock);
        return;
    }
    /* After the subscription, so that what is loaded upon it misses nothing. */
    native_event_id_write(id, boot, 0);
    if (!events->is_resumed)
        write_empty_event(events, id, events->has_last_id ? "gap" : "ready");
}

/* Everything that is needed of the request. */
static void keep_request(struct event_stream *events, const struct hub_interest *interest,
                         const char *last_id)
{
    events->interest = *interest;
    if (interest->owner) {
        snprintf(events->owner, sizeof events->owner, "%s", interest->owner);
        events->interest.owner = events->owner;
    }
    if (interest->job) {
        snprintf(events->job, sizeof events->job, "%s", interest->job);
        events->interest.job = events->job;
    }
    events->has_last_id = last_id != NULL;
    events->is_resumed =
        last_id && native_event_id_read(&events->interest.after, events->native->boot, last_id);
}

void native_get_events(struct http_exchange *exchange, void *context)
{
    const char *last_id = http_header(exchange, "Last-Event-ID");
    struct hub_interest interest = {.job = http_query(exchange, "job")};
    struct event_stream *events;

    if (!native_flag(exchange, "previews", &interest.wants_previews) ||
        !native_owner(exchange, &interest.owner))
        return;
    if (interest.job && !native_is_id(interest.job)) {
        native_reply_bad(exchange, "job", "must be a job's id: 32 hexadecimal digits");
        return;
    }
    events = create_stream(context);
    if (!events) {
        native_reply(exchange, 503, NULL);
        return;
    }
    if (!last_id)
        last_id = http_query(exchange, "last_event_id");
    keep_request(events, &interest, last_id);
    if (!open_stream(events, exchange)) {
        free_stream(events);
        return;
    }
    subscribe(events);
    finish_set_up(events);
}
