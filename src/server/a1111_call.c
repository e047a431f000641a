#include "server/a1111_call.h"

#include <stdio.h>
#include <stdlib.h>

#include "server/a1111_response.h"
#include "server/failure_answer.h"
#include "server/picture_text.h"

struct call {
    const struct a1111_home *home;
    struct http_exchange *exchange;
    struct job_wait *wait;
    struct job_spec spec; /* without its pictures */
    bool has_init_image, sends_images;
    int batch_size;
    struct worker_facts facts;
    struct ignored ignored;
    json_t *parameters; /* owned */
};

static void call_destroy(struct call *call)
{
    if (!call)
        return;
    json_decref(call->parameters);
    job_spec_finish(&call->spec);
    free(call);
}

void a1111_reply_problem(struct http_exchange *exchange, const struct a1111_problem *problem)
{
    http_reply_error(exchange, problem->status, problem->code, problem->field,
                     problem->status == 503 ? 5 : 0, "%s", problem->message);
}

static void reply_for_memory(struct http_exchange *exchange)
{
    struct a1111_problem problem = {0};

    a1111_fail_for_memory(&problem);
    a1111_reply_problem(exchange, &problem);
}

void a1111_reply(struct http_exchange *exchange, json_t *body)
{
    if (body)
        http_reply_json(exchange, 200, body);
    else
        reply_for_memory(exchange);
}

/* NULL: a picture is gone, or memory is short. */
static json_t *images_of(const struct call *call, const struct job_view *view)
{
    json_t *images = json_array();

    for (int32_t i = 0; images && call->sends_images && i < view->picture_count; i++) {
        json_t *text = picture_text_stored(call->home->hub, &view->pictures[i]);

        if (!text || json_array_append_new(images, text) != 0) {
            json_decref(images);
            return NULL;
        }
    }
    return images;
}

/* A job that was interrupted is answered with the pictures that it has, as theirs are. Theirs also
 * hold a skipped picture, half noise; ours leave it out, and `info` with it, as clients save and
 * pair whatever comes. */
static json_t *response_of(struct call *call, const struct job_view *view)
{
    uint64_t seeds[STORE_PICTURES_MAX];
    struct a1111_answer answer = {.spec = &call->spec,
                                  .has_init_image = call->has_init_image,
                                  .facts = &call->facts,
                                  .seeds = seeds,
                                  .picture_count = view->picture_count,
                                  .batch_size = call->batch_size,
                                  .ignored = call->ignored.names,
                                  .created_ms = view->created_ms,
                                  .version = call->home->version};
    json_t *images;

    for (int32_t i = 0; i < view->picture_count; i++)
        seeds[i] = view->pictures[i].seed;
    images = images_of(call, view);
    return images ? a1111_response(&answer, images, call->parameters) : NULL;
}

static void ended(void *context, const struct job_view *view, const struct hub_error *problem)
{
    struct call *call = context;
    struct failure_answer failure;
    json_t *body;

    if (view && (view->state == JOB_DONE || view->state == JOB_CANCELLED)) {
        body = response_of(call, view);
        if (body)
            http_reply_json(call->exchange, 200, body);
        else
            http_reply_error(call->exchange, 500, "picture_lost", "", 0,
                             "A picture of the job cannot be read.");
    } else {
        if (view)
            failure_answer_of_job(&failure, view);
        else
            failure_answer_of_hub(&failure, problem);
        http_reply_error(call->exchange, failure.status, failure.code, "", 0, "%s",
                         failure.message);
    }
    call_destroy(call);
}

static bool copy_without_pictures(struct job_spec *out, const struct job_spec *spec)
{
    struct job_spec bare = *spec; /* borrows its texts */

    bare.init_image = bare.mask = (struct job_image){0};
    return job_spec_copy(out, &bare);
}

static struct call *call_create(const struct a1111_home *home, struct http_exchange *exchange,
                                const struct a1111_request *request, const struct job_spec *spec,
                                const struct worker_facts *facts)
{
    struct call *call = calloc(1, sizeof *call);
    struct job_wait_callbacks callbacks = {.ended = ended, .context = call};

    if (!call)
        return NULL;
    *call = (struct call){.home = home,
                          .exchange = exchange,
                          .has_init_image = spec->init_image.bytes != NULL,
                          .sends_images = request->sends_images,
                          .batch_size = request->batch_size,
                          .facts = *facts,
                          .ignored = request->ignored,
                          .parameters = json_incref(request->parameters)};
    if (copy_without_pictures(&call->spec, spec))
        call->wait = job_wait_create(home->waiter, &callbacks, false);
    if (call->wait)
        return call;
    call_destroy(call);
    return NULL;
}

static bool submit(const struct call *call, const struct job_spec *spec, struct job_view *view)
{
    const struct http_identity *identity = http_identity_of(call->exchange);
    const struct hub_submission submission = {.spec = spec,
                                              .owner = identity->name,
                                              .api = "a1111",
                                              .jobs_per_minute = identity->jobs_per_minute};
    struct hub_error problem = {0};
    bool is_new;

    if (hub_submit(call->home->hub, &submission, view, &is_new, &problem))
        return true;
    http_reply_error(call->exchange, problem.status, problem.code, problem.field,
                     problem.retry_after, "%s", problem.message);
    return false;
}

void a1111_call(const struct a1111_home *home, struct http_exchange *exchange,
                const struct a1111_request *request, const struct job_spec *spec,
                const struct worker_facts *facts)
{
    struct call *call = call_create(home, exchange, request, spec, facts);
    struct job_view view = {0};
    struct error err = {0};

    if (!call) {
        reply_for_memory(exchange);
        return;
    }
    if (!submit(call, spec, &view)) {
        job_wait_discard(call->wait);
        call_destroy(call);
        return;
    }
    if (*request->task)
        a1111_tracker_name_task(home->tracker, view.owner, request->task, view.id);
    http_on_disconnect(exchange, job_wait_gone, call->wait);
    if (!job_wait_start(call->wait, view.id, view.owner, false, &err)) {
        http_reply_error(exchange, 503, "draining", "", 5, "%s", err.message);
        job_wait_discard(call->wait);
        call_destroy(call);
    }
    job_view_finish(&view);
}
