/* Questions to a worker that are no jobs: what a request would take, which only it has measured;
 * and pictures to enlarge, whose files only it decodes. */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "server/hub_private.h"

#define ESTIMATE_SECONDS_MAX 1.0
#define UPSCALE_SECONDS_MAX 60.0 /* it waits for the step that is under way */

/* Lies on its caller's stack, in hub->questions while the answer is awaited. */
struct hub_question {
    struct hub_call call;
    struct hub_question *next;
    double seconds; /* that the answer may take */
    struct hub_error *err;
    const struct hub_worker *worker;
    uint64_t ticket;
    double until;
    bool is_answered;
    /* One of the two. */
    const struct job_spec *spec;
    struct estimated_message *estimated;
    const struct upscale_message *picture;
    struct upscaled_message *upscaled;
    unsigned char **bytes;
};

static struct hub_worker *ready_worker(const struct hub *hub)
{
    struct hub_worker *worker = hub->workers;

    while (worker && (!worker->is_ready || worker->is_lost))
        worker = worker->next;
    return worker;
}

static bool send_estimate(struct hub *hub, const struct hub_question *question,
                          struct hub_worker *worker)
{
    struct job_spec spec = *question->spec; /* borrows */
    struct record_writer record = {0};

    spec.init_image = spec.mask = (struct job_image){0};
    record_put_u64(&record, question->ticket);
    spec_write(&record, &spec);
    return hub_worker_send(hub, worker, MESSAGE_ESTIMATE, &record);
}

static bool send_upscale(struct hub *hub, const struct hub_question *question,
                         struct hub_worker *worker)
{
    struct upscale_message message = *question->picture; /* borrows */
    struct record_writer record = {0};

    message.ticket = question->ticket;
    upscale_message_write(&record, &message);
    return hub_worker_send(hub, worker, MESSAGE_UPSCALE, &record);
}

static void ask_worker(struct hub *hub, struct hub_call *call)
{
    struct hub_question *question = (struct hub_question *)call;
    struct hub_worker *worker = ready_worker(hub);

    question->ticket = ++hub->last_ticket;
    question->worker = worker;
    if (!worker || !(question->spec ? send_estimate(hub, question, worker)
                                    : send_upscale(hub, question, worker))) {
        hub_fail(question->err, 503, hub->has_facts ? "no_worker" : "model_loading", 5,
                 "no worker is ready");
        hub_complete(hub, call);
        return;
    }
    question->until = seconds_now() + question->seconds;
    question->next = hub->questions;
    hub->questions = question;
}

/* Out of the list; NULL: nobody asked, or nobody waits any more. */
static struct hub_question *take_question(struct hub *hub, uint64_t ticket, bool is_estimate)
{
    for (struct hub_question **at = &hub->questions; *at; at = &(*at)->next) {
        struct hub_question *question = *at;

        if (question->ticket != ticket || (question->spec != NULL) != is_estimate)
            continue;
        *at = question->next;
        question->is_answered = true;
        return question;
    }
    return NULL;
}

void hub_estimate_answer(struct hub *hub, const struct estimated_message *message)
{
    struct hub_question *question = take_question(hub, message->ticket, true);

    if (!question)
        return;
    *question->estimated = *message;
    hub_complete(hub, &question->call);
}

void hub_upscale_answer(struct hub *hub, const struct upscaled_message *message,
                        unsigned char *bytes)
{
    struct hub_question *question = take_question(hub, message->ticket, false);

    if (!question) {
        free(bytes);
        return;
    }
    *question->upscaled = *message;
    *question->bytes = bytes;
    hub_complete(hub, &question->call);
}

void hub_questions_give_up(struct hub *hub, const struct hub_worker *worker, double now)
{
    for (struct hub_question **at = &hub->questions; *at;) {
        struct hub_question *question = *at;
        bool is_over = worker ? question->worker == worker : now >= question->until;

        if (!is_over) {
            at = &question->next;
            continue;
        }
        *at = question->next;
        if (worker)
            hub_fail(question->err, 503, "no_worker", 5, "the worker went away");
        else
            hub_fail(question->err, 504, "timeout", 1, "the worker is too busy to answer");
        hub_complete(hub, &question->call);
    }
}

double hub_questions_next(const struct hub *hub)
{
    double first = INFINITY;

    for (const struct hub_question *at = hub->questions; at; at = at->next)
        first = fmin(first, at->until);
    return first;
}

/* --- The caller's side --- */

bool hub_estimate(struct hub *hub, const struct job_spec *spec, struct estimated_message *out,
                  struct hub_error *err)
{
    struct hub_question question = {.call.run = ask_worker,
                                    .seconds = ESTIMATE_SECONDS_MAX,
                                    .err = err,
                                    .spec = spec,
                                    .estimated = out};

    if (!hub_ask(hub, &question.call))
        hub_fail_stopping(err);
    return question.is_answered;
}

bool hub_upscale(struct hub *hub, const struct upscale_message *picture, unsigned char **out,
                 size_t *size, struct hub_error *err)
{
    struct upscaled_message answer;
    struct hub_question question = {.call.run = ask_worker,
                                    .seconds = UPSCALE_SECONDS_MAX,
                                    .err = err,
                                    .picture = picture,
                                    .upscaled = &answer,
                                    .bytes = out};

    *out = NULL;
    if (!hub_ask(hub, &question.call))
        hub_fail_stopping(err);
    if (!question.is_answered)
        return false;
    *size = (size_t)answer.file_bytes;
    if (*out)
        return true;
    if (*answer.message)
        hub_fail(err, 422, "bad_picture", 0, "%s", answer.message);
    else
        hub_fail(err, 503, "no_memory", 5, "the server is short of memory");
    return false;
}
