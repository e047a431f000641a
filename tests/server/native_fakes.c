#include "native_fakes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/auth.h"

/* --- HTTP --- */

void fake_exchange_init(struct http_exchange *exchange)
{
    *exchange = (struct http_exchange){.identity = {.name = "ann", .scopes = SCOPE_READ}};
    pthread_mutex_init(&exchange->lock, NULL);
    pthread_cond_init(&exchange->changed, NULL);
}

void fake_exchange_finish(struct http_exchange *exchange)
{
    json_decref(exchange->json);
    json_decref(exchange->answer);
    free(exchange->stream);
    pthread_cond_destroy(&exchange->changed);
    pthread_mutex_destroy(&exchange->lock);
}

void fake_set(struct http_exchange *exchange, const char *name, const char *value)
{
    for (int i = 0; i < FAKE_FIELDS_MAX; i++)
        if (!exchange->names[i] || strcmp(exchange->names[i], name) == 0) {
            exchange->names[i] = name;
            exchange->values[i] = value;
            return;
        }
}

void fake_await(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    while (exchange->answers == 0)
        pthread_cond_wait(&exchange->changed, &exchange->lock);
    pthread_mutex_unlock(&exchange->lock);
}

bool fake_streamed(struct http_exchange *exchange, const char *text)
{
    bool result;

    pthread_mutex_lock(&exchange->lock);
    result = exchange->stream && strstr(exchange->stream, text);
    pthread_mutex_unlock(&exchange->lock);
    return result;
}

static const char *find(const struct http_exchange *exchange, const char *name)
{
    for (int i = 0; i < FAKE_FIELDS_MAX && exchange->names[i]; i++)
        if (strcmp(exchange->names[i], name) == 0)
            return exchange->values[i];
    return NULL;
}

static void answered(struct http_exchange *exchange, int status)
{
    exchange->status = status;
    exchange->answers++;
    pthread_cond_broadcast(&exchange->changed);
}

const char *http_query(const struct http_exchange *exchange, const char *name)
{
    return find(exchange, name);
}

const char *http_header(const struct http_exchange *exchange, const char *name)
{
    return find(exchange, name);
}

const char *http_path(const struct http_exchange *exchange)
{
    return find(exchange, "path");
}

const char *http_path_value(const struct http_exchange *exchange, const char *name)
{
    return strcmp(name, "id") == 0 ? exchange->id : find(exchange, name);
}

const void *http_body(const struct http_exchange *exchange, size_t *size)
{
    *size = exchange->body ? strlen(exchange->body) : 0;
    return exchange->body;
}

const json_t *http_json(struct http_exchange *exchange)
{
    if (!exchange->json)
        exchange->json = exchange->body ? json_loads(exchange->body, 0, NULL) : json_object();
    return exchange->json;
}

struct http_identity *http_identity_of(struct http_exchange *exchange)
{
    return &exchange->identity;
}

void http_add_header(struct http_exchange *exchange, const char *name, const char *value)
{
    if (strcmp(name, "Location") == 0)
        snprintf(exchange->location, sizeof exchange->location, "%s", value);
}

void http_reply_json(struct http_exchange *exchange, int status, json_t *body)
{
    pthread_mutex_lock(&exchange->lock);
    exchange->answer = body;
    answered(exchange, status);
    pthread_mutex_unlock(&exchange->lock);
}

/* Only JSON comes this way. */
void http_reply_buffer(struct http_exchange *exchange, int status, const char *type, char *bytes,
                       size_t size)
{
    (void)type;
    http_reply_json(exchange, status, json_loadb(bytes, size, JSON_REJECT_DUPLICATES, NULL));
    free(bytes);
}

void http_reply_error(struct http_exchange *exchange, int status, const char *code,
                      const char *field, int retry_after, const char *format, ...)
{
    (void)retry_after;
    (void)format;
    pthread_mutex_lock(&exchange->lock);
    snprintf(exchange->code, sizeof exchange->code, "%s", code);
    snprintf(exchange->field, sizeof exchange->field, "%s", field);
    answered(exchange, status);
    pthread_mutex_unlock(&exchange->lock);
}

void http_reply_file(struct http_exchange *exchange, int fd, const char *type, const char *etag,
                     const char *download_name)
{
    (void)etag;
    (void)download_name;
    close(fd);
    snprintf(exchange->type, sizeof exchange->type, "%s", type);
    pthread_mutex_lock(&exchange->lock);
    answered(exchange, 200);
    pthread_mutex_unlock(&exchange->lock);
}

void http_reply_static(struct http_exchange *exchange, const char *type, const void *bytes,
                       size_t size, const char *etag)
{
    (void)bytes;
    (void)size;
    (void)etag;
    snprintf(exchange->type, sizeof exchange->type, "%s", type);
    pthread_mutex_lock(&exchange->lock);
    answered(exchange, 200);
    pthread_mutex_unlock(&exchange->lock);
}

void http_reply_pieces(struct http_exchange *exchange, const char *type, const char *download_name,
                       ssize_t (*read)(void *context, char *to, size_t room),
                       void (*done)(void *context), void *context)
{
    char bytes[4096];

    (void)download_name;
    while (read(context, bytes, sizeof bytes) > 0)
        ;
    done(context);
    snprintf(exchange->type, sizeof exchange->type, "%s", type);
    pthread_mutex_lock(&exchange->lock);
    answered(exchange, 200);
    pthread_mutex_unlock(&exchange->lock);
}

void http_on_disconnect(struct http_exchange *exchange, void (*gone)(void *context), void *context)
{
    exchange->gone = gone;
    exchange->gone_context = context;
}

void http_continue_on_thread(struct http_exchange *exchange,
                             void (*handler)(struct http_exchange *exchange, void *context),
                             void *context)
{
    handler(exchange, context);
}

/* A stream is the exchange itself. */
struct http_stream *http_start_stream(struct http_exchange *exchange, const char *type,
                                      void (*closed)(void *context), void *context)
{
    snprintf(exchange->type, sizeof exchange->type, "%s", type);
    exchange->closed = closed;
    exchange->closed_context = context;
    return (struct http_stream *)exchange;
}

bool http_stream_write(struct http_stream *stream, const void *bytes, size_t size)
{
    struct http_exchange *exchange = (struct http_exchange *)stream;
    size_t before;

    pthread_mutex_lock(&exchange->lock);
    before = exchange->stream ? strlen(exchange->stream) : 0;
    exchange->stream = realloc(exchange->stream, before + size + 1);
    memcpy(exchange->stream + before, bytes, size);
    exchange->stream[before + size] = '\0';
    pthread_mutex_unlock(&exchange->lock);
    return true;
}

void http_stream_end(struct http_stream *stream)
{
    (void)stream;
}

const char *http_method_name(enum http_method method)
{
    static const char *const names[] = {"GET", "POST", "DELETE", "PATCH", "PUT", "HEAD", "OPTIONS"};

    return names[method];
}

bool auth_verify_signed(const struct auth *auth, const char *path, const char *expires,
                        const char *signature, int64_t now_s)
{
    (void)auth;
    (void)path;
    (void)expires;
    (void)now_s;
    return strcmp(signature, "good") == 0;
}

/* --- Hub --- */

struct hub_subscription {
    struct hub_subscription *next;
    void (*tell)(void *context, const struct hub_event *event);
    void *context;
    uint64_t after;
};

struct hub {
    pthread_mutex_t lock;
    struct job_view jobs[FAKE_JOBS_MAX];
    bool is_gone[FAKE_JOBS_MAX];
    int count, deleted, subscribed;
    uint64_t after;
    bool hides;
    struct hub_subscription *first;
};

static void lay_out(struct job_view *job, int index, int sequence)
{
    snprintf(job->id, sizeof job->id, "%032x", index);
    snprintf(job->owner, sizeof job->owner, "%s", "ann");
    snprintf(job->api, sizeof job->api, "%s", "native");
    job->sequence = sequence;
    job->created_ms = 1767225600000 + sequence;
    job->state = index % 5 == 4 ? JOB_FAILED : JOB_DONE;
    job->parameters = json_pack("{s:s}", "prompt", "a fox");
    job->picture_count = index % 3 == 0 ? 2 : 0;
    for (int i = 0; i < job->picture_count; i++) {
        struct store_picture *picture = &job->pictures[i];

        snprintf(picture->id, sizeof picture->id, "%032x", (index + 16) * 256 + i);
        snprintf(picture->format, sizeof picture->format, "png");
        picture->index = i;
        picture->seed = (uint64_t)(100 + i);
    }
}

struct hub *fake_hub_create(int count)
{
    struct hub *hub = calloc(1, sizeof *hub);

    pthread_mutex_init(&hub->lock, NULL);
    hub->count = count;
    for (int i = 0; i < count; i++)
        lay_out(&hub->jobs[i], i, count - i);
    return hub;
}

void fake_hub_destroy(struct hub *hub)
{
    for (int i = 0; i < hub->count; i++)
        json_decref(hub->jobs[i].parameters);
    pthread_mutex_destroy(&hub->lock);
    free(hub);
}

struct job_view *fake_hub_job(struct hub *hub, int index)
{
    return &hub->jobs[index];
}

int fake_hub_subscriptions(struct hub *hub)
{
    return hub->subscribed;
}

uint64_t fake_hub_after(struct hub *hub)
{
    return hub->after;
}

int fake_hub_deleted(struct hub *hub)
{
    return hub->deleted;
}

void fake_hub_hide(struct hub *hub, bool from_peek)
{
    hub->hides = from_peek;
}

void fake_hub_tell(struct hub *hub, enum hub_event_type type, uint64_t number, int index)
{
    struct hub_event event = {.number = number,
                              .type = type,
                              .job = index < 0 ? NULL : &hub->jobs[index],
                              .bytes = "\xff\xd8jpeg",
                              .size = 6};

    pthread_mutex_lock(&hub->lock);
    for (struct hub_subscription *at = hub->first; at; at = at->next)
        at->tell(at->context, &event);
    pthread_mutex_unlock(&hub->lock);
}

static int place(struct hub *hub, const char *id, const char *owner)
{
    for (int i = 0; i < hub->count; i++)
        if (!hub->is_gone[i] && strcmp(hub->jobs[i].id, id) == 0 &&
            (!owner || strcmp(owner, hub->jobs[i].owner) == 0))
            return i;
    return -1;
}

static bool not_found(struct hub_error *err)
{
    *err = (struct hub_error){.status = 404, .code = "not_found", .message = "none"};
    return false;
}

bool hub_load(struct hub *hub, const char *id, const char *owner, struct job_view *out,
              struct hub_error *err)
{
    int index;

    pthread_mutex_lock(&hub->lock);
    index = place(hub, id, owner);
    if (index >= 0) {
        *out = hub->jobs[index];
        json_incref(out->parameters);
    }
    pthread_mutex_unlock(&hub->lock);
    return index >= 0 || not_found(err);
}

bool hub_peek(struct hub *hub, const char *id, const char *owner, struct job_view *out)
{
    struct hub_error err;

    return !hub->hides && hub_load(hub, id, owner, out, &err);
}

bool hub_peek_texts(struct hub *hub, const char *id, const char *owner, struct job_view *out,
                    char **parameters, char **result)
{
    if (!hub_peek(hub, id, owner, out))
        return false;
    *parameters = out->parameters ? json_dumps(out->parameters, JSON_COMPACT) : NULL;
    *result = out->result ? json_dumps(out->result, JSON_COMPACT) : NULL;
    json_decref(out->parameters);
    out->parameters = out->result = NULL;
    return true;
}

void job_view_finish(struct job_view *view)
{
    json_decref(view->parameters);
}

bool hub_submit(struct hub *hub, const struct hub_submission *submission, struct job_view *out,
                bool *is_new, struct hub_error *err)
{
    *is_new = !submission->idempotency_key;
    return hub_load(hub, hub->jobs[0].id, NULL, out, err);
}

bool hub_cancel(struct hub *hub, const char *id, const char *owner, struct job_view *out,
                struct hub_error *err)
{
    return hub_load(hub, id, owner, out, err);
}

int hub_cancel_all(struct hub *hub, const char *owner)
{
    return owner ? 1 : hub->count;
}

bool hub_list(struct hub *hub, const struct store_query *query,
              void (*visit)(void *context, const struct job_view *job), void *context,
              struct hub_error *err)
{
    int32_t left = query->limit;
    int64_t before = query->before; /* the visitor may change it */

    (void)err;
    for (int i = 0; i < hub->count && left > 0; i++)
        if ((before == 0 || hub->jobs[i].sequence < before) &&
            (!query->done_only || hub->jobs[i].state == JOB_DONE)) {
            visit(context, &hub->jobs[i]);
            left--;
        }
    return true;
}

bool hub_find_picture(struct hub *hub, const char *picture_id, const char *owner,
                      struct store_picture *out, char job_id[STORE_ID_BYTES], struct hub_error *err)
{
    (void)owner;
    for (int i = 0; i < hub->count; i++)
        for (int k = 0; k < hub->jobs[i].picture_count && !hub->is_gone[i]; k++)
            if (strcmp(hub->jobs[i].pictures[k].id, picture_id) == 0) {
                *out = hub->jobs[i].pictures[k];
                snprintf(job_id, STORE_ID_BYTES, "%s", hub->jobs[i].id);
                return true;
            }
    return not_found(err);
}

int hub_open_file(struct hub *hub, const char *path)
{
    (void)hub;
    (void)path;
    return -1;
}

bool hub_star(struct hub *hub, const char *picture_id, const char *owner, bool starred,
              struct hub_error *err)
{
    struct store_picture picture;
    char job_id[STORE_ID_BYTES];

    (void)starred;
    return hub_find_picture(hub, picture_id, owner, &picture, job_id, err);
}

bool hub_delete(struct hub *hub, const char *id, const char *owner, struct hub_error *err)
{
    int index = place(hub, id, owner);

    if (index < 0)
        return not_found(err);
    hub->is_gone[index] = true;
    hub->deleted++;
    return true;
}

bool hub_estimate(struct hub *hub, const struct job_spec *spec, struct estimated_message *out,
                  struct hub_error *err)
{
    (void)hub;
    (void)spec;
    (void)err;
    *out = (struct estimated_message){.fits = true, .peak_bytes = 5, .free_bytes = 9};
    return true;
}

bool hub_subscribe(struct hub *hub, struct hub_subscription **out,
                   const struct hub_interest *interest,
                   void (*tell)(void *context, const struct hub_event *event), void *context,
                   struct error *err)
{
    struct hub_subscription *subscription = calloc(1, sizeof *subscription);

    (void)err;
    *subscription = (struct hub_subscription){.tell = tell, .context = context};
    pthread_mutex_lock(&hub->lock);
    hub->after = interest->after;
    hub->subscribed++;
    subscription->next = hub->first;
    hub->first = subscription;
    pthread_mutex_unlock(&hub->lock);
    *out = subscription;
    return true;
}

void hub_unsubscribe(struct hub *hub, struct hub_subscription *subscription)
{
    pthread_mutex_lock(&hub->lock);
    for (struct hub_subscription **at = &hub->first; *at; at = &(*at)->next)
        if (*at == subscription) {
            *at = subscription->next;
            break;
        }
    hub->subscribed--;
    pthread_mutex_unlock(&hub->lock);
    free(subscription);
}

void hub_state(struct hub *hub, struct hub_state *out)
{
    (void)hub;
    *out = (struct hub_state){.has_facts = true,
                              .has_device = true,
                              .facts = {.model = "demo",
                                        .side_max = 2048,
                                        .layer_count = 24,
                                        .width = 512,
                                        .height = 512,
                                        .steps = 20,
                                        .t5_tokens = 77,
                                        .guidance = 4.5,
                                        .flow_shift = 3}};
}

const char *hub_event_name(enum hub_event_type type)
{
    switch (type) {
    case EVENT_JOB_PREVIEW:
        return "job.preview";
    case EVENT_STAR:
        return "job.starred";
    default:
        return "job.done";
    }
}

const char *job_state_name(enum job_state state)
{
    static const char *const names[] = {"queued", "running", "done", "failed", "cancelled"};

    return names[state];
}
