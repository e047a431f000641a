/* Jobs of the native API: made, looked at, cancelled, forgotten. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/limits.h"
#include "server/native_private.h"

/* A request for a job, read. */
struct order {
    struct job_spec spec;
    double timeout; /* seconds; 0: the server's */
    bool is_dry_run;
};

static bool read_timeout(const json_t *value, double *out, struct job_problem *problem)
{
    double seconds = json_number_value(value);

    *out = 0;
    if (!value)
        return true;
    if (json_is_number(value) && seconds > 0 && seconds <= NATIVE_TIMEOUT_SECONDS_MAX) {
        *out = seconds;
        return true;
    }
    *problem = (struct job_problem){
        .kind = json_is_number(value) ? JOB_PROBLEM_VALUE : JOB_PROBLEM_TYPE,
        .field = "timeout",
        .message = "\"timeout\" must be seconds, more than 0 and at most 86400",
    };
    return false;
}

static bool read_dry_run(const json_t *value, bool *out, struct job_problem *problem)
{
    *out = json_is_true(value);
    if (!value || json_is_boolean(value))
        return true;
    *problem = (struct job_problem){.kind = JOB_PROBLEM_TYPE,
                                    .field = "dry_run",
                                    .message = "\"dry_run\" must be true or false"};
    return false;
}

/* The body is the JSON form of a spec and two fields beside it. */
static bool read_order(struct order *order, const json_t *body, const struct worker_facts *facts,
                       const struct job_limits *limits, struct job_problem *problem)
{
    json_t *form = json_copy((json_t *)body); /* shallow: only counts of references change */
    bool result;

    if (!form) {
        *problem = (struct job_problem){.kind = JOB_PROBLEM_MEMORY,
                                        .message = "the server is short of memory"};
        return false;
    }
    json_object_del(form, "timeout");
    json_object_del(form, "dry_run");
    result = read_timeout(json_object_get(body, "timeout"), &order->timeout, problem) &&
             read_dry_run(json_object_get(body, "dry_run"), &order->is_dry_run, problem) &&
             job_spec_read(&order->spec, form, facts, limits, problem);
    json_decref(form);
    return result;
}

static void reply_estimate(struct native *native, struct http_exchange *exchange,
                           const struct job_spec *spec)
{
    struct estimated_message estimate;
    struct hub_error problem;

    if (!hub_estimate(native->options.hub, spec, &estimate, &problem)) {
        native_reply_hub_error(exchange, &problem);
        return;
    }
    native_reply(exchange, 200,
                 json_pack("{s:b, s:I, s:I, s:o, s:o}", "fits", estimate.fits, "memory_bytes",
                           (json_int_t)estimate.peak_bytes, "memory_free_bytes",
                           (json_int_t)estimate.free_bytes, "seconds",
                           estimate.seconds > 0 ? native_seconds(estimate.seconds) : json_null(),
                           "reason",
                           estimate.fits ? json_null() : json_any_string(estimate.message)));
}

/* Absent is NULL. False: answered with an error already. */
static bool read_key(struct http_exchange *exchange, const char **key)
{
    size_t length;

    *key = http_header(exchange, "Idempotency-Key");
    if (!*key)
        return true;
    length = strlen(*key);
    if (length > 0 && length < STORE_KEY_BYTES)
        return true;
    native_reply_bad(exchange, "Idempotency-Key", "must have 1 to 255 bytes");
    return false;
}

static void submit(struct native *native, struct http_exchange *exchange, const struct order *order,
                   double wait)
{
    const struct http_identity *identity = http_identity_of(exchange);
    struct hub_submission submission = {.spec = &order->spec,
                                        .owner = identity->name,
                                        .api = "native",
                                        .timeout = order->timeout,
                                        .jobs_per_minute = identity->jobs_per_minute};
    struct job_view job;
    struct hub_error problem;
    char location[64];
    bool is_new;

    if (!read_key(exchange, &submission.idempotency_key))
        return;
    submission.body = http_body(exchange, &submission.body_size);
    if (!hub_submit(native->options.hub, &submission, &job, &is_new, &problem)) {
        native_reply_hub_error(exchange, &problem);
        return;
    }
    snprintf(location, sizeof location, "/api/v1/jobs/%s", job.id);
    http_add_header(exchange, "Location", location);
    if (wait > 0 && !native_job_is_over(job.state))
        native_answer_when_over(native, exchange, job.id, identity->name, wait, is_new ? 202 : 200);
    else
        native_reply_job(exchange, is_new && !native_job_is_over(job.state) ? 202 : 200, &job);
    job_view_finish(&job);
}

void native_post_job(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    const json_t *body = http_json(exchange);
    struct order order = {0};
    struct job_problem problem;
    struct hub_state state;
    double wait;

    if (!body || !native_wait_seconds(exchange, &wait))
        return;
    hub_state(native->options.hub, &state);
    if (!state.has_facts) {
        http_reply_error(exchange, 503, "model_loading", "", 5, "the model is being loaded");
        return;
    }
    if (!read_order(&order, body, &state.facts, &native->options.limits, &problem)) {
        native_reply_problem(exchange, &problem);
        return;
    }
    if (order.is_dry_run)
        reply_estimate(native, exchange, &order.spec);
    else
        submit(native, exchange, &order, wait);
    job_spec_finish(&order.spec);
}

/* On a handler's thread: the store may be asked, and a wait begun. */
static void load_job(struct http_exchange *exchange, void *context)
{
    const char *id = native_id(exchange), *owner;
    double wait;

    if (id && native_wait_seconds(exchange, &wait) && native_owner(exchange, &owner))
        native_answer_when_over(context, exchange, id, owner, wait, 200);
}

/* Quick: a job that waits, runs or ended lately is answered at once, without another thread. */
void native_get_job(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    const char *id = native_id(exchange), *owner;
    char *parameters, *result;
    struct job_view job;
    double wait;

    if (!id || !native_wait_seconds(exchange, &wait) || !native_owner(exchange, &owner))
        return;
    if (!hub_peek_texts(native->options.hub, id, owner, &job, &parameters, &result)) {
        http_continue_on_thread(exchange, load_job, native);
        return;
    }
    if (wait > 0 && !native_job_is_over(job.state))
        http_continue_on_thread(exchange, load_job, native);
    else
        native_reply_job_texts(exchange, &job, parameters, result);
    free(parameters);
    free(result);
    job_view_finish(&job);
}

void native_cancel_job(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    const char *id = native_id(exchange), *owner;
    struct job_view job;
    struct hub_error problem;

    if (!id || !native_owner(exchange, &owner))
        return;
    if (!hub_cancel(native->options.hub, id, owner, &job, &problem)) {
        native_reply_hub_error(exchange, &problem);
        return;
    }
    native_reply_job(exchange, 200, &job);
    job_view_finish(&job);
}

/* ?all=1 is what one has to say for so much; everybody's jobs take ?everybody=1 and an
 * administrator. */
void native_cancel_all(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    const struct http_identity *identity = http_identity_of(exchange);
    bool is_sure, is_everybody;

    if (!native_flag(exchange, "all", &is_sure) ||
        !native_flag(exchange, "everybody", &is_everybody))
        return;
    if (!is_sure) {
        native_reply_bad(exchange, "all", "must be 1 to cancel all jobs");
        return;
    }
    if (is_everybody && !(identity->scopes & SCOPE_ADMIN)) {
        http_reply_error(exchange, 403, "forbidden", "everybody", 0,
                         "only an administrator may cancel everybody's jobs");
        return;
    }
    native_reply(
        exchange, 200,
        json_pack("{s:i}", "cancelled",
                  hub_cancel_all(native->options.hub, is_everybody ? NULL : identity->name)));
}

void native_delete_record(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    const char *id = native_id(exchange), *owner;
    struct hub_error problem;

    if (!id || !native_owner(exchange, &owner))
        return;
    if (!hub_delete(native->options.hub, id, owner, &problem))
        native_reply_hub_error(exchange, &problem);
    else
        native_reply(exchange, 200, json_pack("{s:s, s:b}", "id", id, "deleted", 1));
}
