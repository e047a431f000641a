#include "server/openai_call.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/limits.h"
#include "server/openai_response.h"
#include "server/picture_text.h"

#define EVENTS_TYPE "text/event-stream"
#define URL_BYTES 1024

struct call {
    const struct openai_home *home;
    bool is_edit, wants_url;
    int partial_images, steps;
    struct openai_facts facts;
    struct job_wait *wait;
    struct http_exchange *exchange; /* of a call that is no stream */

    /* Of a stream. Recursive: `closed` may come from inside a write. */
    pthread_mutex_t lock;
    struct http_stream *stream; /* under lock; NULL: there is none, or the client is gone */
    bool is_closed;             /* under lock: the stream is over */
    bool has_ended;             /* under lock: the wait is over */
    int holders;                /* under lock: the wait and the stream */
    int sent[JOB_COUNT_MAX];    /* hub's thread alone: partials of each picture */
};

static struct call *call_create(const struct openai_home *home,
                                const struct openai_request *request, const struct job_spec *spec)
{
    struct call *call = calloc(1, sizeof *call);
    pthread_mutexattr_t attributes;

    if (!call)
        return NULL;
    call->home = home;
    call->is_edit = request->is_edit;
    call->wants_url = request->wants_url;
    call->partial_images = request->partial_images;
    call->steps = (int)(spec->init_image.bytes ? spec->steps * spec->strength : spec->steps);
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&call->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return call;
}

static void call_destroy(struct call *call)
{
    pthread_mutex_destroy(&call->lock);
    free(call);
}

/* --- Pictures --- */

/* The absolute, signed link of a picture; NULL when memory is short. */
static json_t *link_of(const struct call *call, const struct store_picture *picture)
{
    char path[64], link[URL_BYTES];
    char *base = http_base_url(call->exchange);
    json_t *value;

    snprintf(path, sizeof path, "/files/%s", picture->id);
    auth_sign(call->home->auth, path, (int64_t)time(NULL) + SIGNED_URL_SECONDS, link, sizeof link);
    value = base ? json_sprintf("%s%s", base, link) : NULL;
    free(base);
    return value;
}

/* NULL: a picture is gone, or memory is short. */
static json_t *data_of(const struct call *call, const struct job_view *view)
{
    json_t *data = json_array();

    for (int32_t i = 0; data && i < view->picture_count; i++) {
        const struct store_picture *picture = &view->pictures[i];
        json_t *text = call->wants_url ? link_of(call, picture)
                                       : picture_text_stored(call->home->hub, picture);

        if (!text ||
            json_array_append_new(data, openai_datum(text, call->wants_url, picture->seed)) != 0) {
            json_decref(data);
            return NULL;
        }
    }
    return data;
}

/* What went wrong when the job is no source of an answer. False: nothing did. */
static bool find_failure(struct failure_answer *failure, const struct job_view *view,
                         const struct hub_error *problem)
{
    if (view && view->state == JOB_DONE)
        return false;
    if (view)
        failure_answer_of_job(failure, view);
    else
        failure_answer_of_hub(failure, problem);
    return true;
}

static void set_lost(struct failure_answer *failure)
{
    *failure = (struct failure_answer){.status = 500,
                                       .type = "server_error",
                                       .code = "picture_lost",
                                       .is_final = true,
                                       .message = "A picture of the job cannot be read."};
}

/* --- An answer with a body --- */

static void answer_failure(struct call *call, const struct failure_answer *failure)
{
    if (failure->is_final)
        http_add_header(call->exchange, "x-should-retry", "false");
    http_reply_error(call->exchange, failure->status, failure->code, "", 0, "%s", failure->message);
}

static void ended(void *context, const struct job_view *view, const struct hub_error *problem)
{
    struct call *call = context;
    struct failure_answer failure;
    json_t *data, *body;

    if (find_failure(&failure, view, problem)) {
        answer_failure(call, &failure);
        call_destroy(call);
        return;
    }
    data = data_of(call, view);
    body = data ? openai_response(&call->facts, data) : NULL;
    if (body) {
        http_reply_json(call->exchange, 200, body);
    } else {
        set_lost(&failure);
        answer_failure(call, &failure);
    }
    call_destroy(call);
}

/* --- A stream --- */

static void release_and_unlock(struct call *call)
{
    bool is_last = --call->holders == 0;

    pthread_mutex_unlock(&call->lock);
    if (is_last)
        call_destroy(call);
}

/* The client is gone, or the stream ended. */
static void closed(void *context)
{
    struct call *call = context;

    pthread_mutex_lock(&call->lock);
    call->stream = NULL;
    call->is_closed = true;
    if (!call->has_ended)
        job_wait_gone(call->wait);
    release_and_unlock(call);
}

static void send_text(struct call *call, const char *text, size_t size)
{
    pthread_mutex_lock(&call->lock);
    if (call->stream)
        http_stream_write(call->stream, text, size);
    pthread_mutex_unlock(&call->lock);
}

/* Steals `data`; NULL does nothing. */
static void send_event(struct call *call, json_t *data)
{
    size_t size = 0;
    char *text = data ? openai_event_text(data, &size) : NULL;

    if (text)
        send_text(call, text, size);
    free(text);
}

static void send_partial(void *context, const struct hub_event *event)
{
    struct call *call = context;
    int *sent;

    if (event->type != EVENT_JOB_PREVIEW || event->image < 0 || event->image >= JOB_COUNT_MAX)
        return;
    sent = &call->sent[event->image];
    if (!openai_partial_is_due(event->step, call->steps, call->partial_images, *sent))
        return;
    send_event(call, openai_partial(&call->facts, call->is_edit,
                                    picture_text_json(event->bytes, event->size), *sent));
    ++*sent;
}

/* Writes the picture's event behind the others. False: it cannot be read, or memory is short. */
static bool add_picture(FILE *out, const struct call *call, const struct store_picture *picture)
{
    json_t *file = picture_text_stored(call->home->hub, picture);
    json_t *data = file ? openai_completed(&call->facts, call->is_edit, file, picture->seed) : NULL;
    size_t size = 0;
    char *text = data ? openai_event_text(data, &size) : NULL;

    if (text)
        fwrite(text, 1, size, out);
    free(text);
    return text != NULL;
}

/* All in one write: a client that has not read the one before is then not too slow. False: one of
 * them cannot be read, and none is sent. */
static bool send_pictures(struct call *call, const struct job_view *view)
{
    char *events = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&events, &size);
    bool ok = out != NULL;

    for (int32_t i = 0; ok && i < view->picture_count; i++)
        ok = add_picture(out, call, &view->pictures[i]);
    if (out) {
        ok = !ferror(out) && ok;
        ok = fclose(out) == 0 && ok;
    }
    if (ok)
        send_text(call, events, size);
    free(events);
    return ok;
}

static void stream_ended(void *context, const struct job_view *view,
                         const struct hub_error *problem)
{
    struct call *call = context;
    struct failure_answer failure;
    bool has_failed = find_failure(&failure, view, problem);

    if (!has_failed && !send_pictures(call, view)) {
        set_lost(&failure);
        has_failed = true;
    }
    if (has_failed)
        send_event(call, openai_error(&failure));
    pthread_mutex_lock(&call->lock);
    call->has_ended = true;
    if (call->stream)
        http_stream_end(call->stream);
    release_and_unlock(call);
}

/* --- Submission --- */

static void answer_for_memory(struct http_exchange *exchange)
{
    http_reply_error(exchange, 503, "out_of_memory", "", 5, "The server is short of memory.");
}

static bool submit(struct call *call, struct http_exchange *exchange, const struct job_spec *spec,
                   struct job_view *view)
{
    const struct http_identity *identity = http_identity_of(exchange);
    struct hub_submission submission = {
        .spec = spec,
        .owner = identity->name,
        .api = "openai",
        .idempotency_key = http_header(exchange, "Idempotency-Key"),
        .jobs_per_minute = identity->jobs_per_minute,
    };
    struct hub_error problem = {0};
    bool is_new;

    submission.body = http_body(exchange, &submission.body_size);
    if (hub_submit(call->home->hub, &submission, view, &is_new, &problem))
        return true;
    http_reply_error(exchange, problem.status, problem.code, problem.field, problem.retry_after,
                     "%s", problem.message);
    return false;
}

static void start_stream(struct call *call, struct http_exchange *exchange,
                         const struct job_view *view)
{
    struct error err = {0};
    struct hub_error problem = {.status = 503, .code = "draining"};
    struct http_stream *stream;

    pthread_mutex_lock(&call->lock);
    call->holders = 2;
    stream = http_start_stream(exchange, EVENTS_TYPE, closed, call);
    if (stream && !call->is_closed) {
        call->stream = stream;
    } else if (!stream && !call->is_closed) {
        call->holders = 1;
        job_wait_gone(call->wait);
    }
    pthread_mutex_unlock(&call->lock);
    if (job_wait_start(call->wait, view->id, view->owner, call->partial_images > 0, &err))
        return;
    snprintf(problem.message, sizeof problem.message, "%.500s", err.message);
    pthread_mutex_lock(&call->lock);
    call->has_ended = true;
    pthread_mutex_unlock(&call->lock);
    job_wait_discard(call->wait);
    stream_ended(call, NULL, &problem);
}

static void start_body(struct call *call, struct http_exchange *exchange,
                       const struct job_view *view)
{
    struct error err = {0};

    call->exchange = exchange;
    http_on_disconnect(exchange, job_wait_gone, call->wait);
    if (job_wait_start(call->wait, view->id, view->owner, false, &err))
        return;
    http_reply_error(exchange, 503, "draining", "", 5, "%s", err.message);
    job_wait_discard(call->wait);
    call_destroy(call);
}

void openai_call(const struct openai_home *home, struct http_exchange *exchange,
                 const struct openai_request *request, const struct job_spec *spec,
                 const struct worker_facts *facts)
{
    struct call *call = call_create(home, request, spec);
    struct job_wait_callbacks callbacks = {.event = request->is_stream ? send_partial : NULL,
                                           .ended = request->is_stream ? stream_ended : ended,
                                           .context = call};
    bool keeps_job = http_header(exchange, "Idempotency-Key") != NULL;
    struct job_view view = {0};

    if (call)
        call->wait = job_wait_create(home->waiter, &callbacks, keeps_job);
    if (!call || !call->wait) {
        answer_for_memory(exchange);
    } else if (submit(call, exchange, spec, &view)) {
        openai_facts_of(&call->facts, &view, request->quality, facts);
        if (request->is_stream)
            start_stream(call, exchange, &view);
        else
            start_body(call, exchange, &view);
        job_view_finish(&view);
        return;
    }
    if (call && call->wait)
        job_wait_discard(call->wait);
    if (call)
        call_destroy(call);
}
