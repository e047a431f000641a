/* What a request would take: a worker is asked, which knows its memory and has measured. */
#include <math.h>

#include "base/clock.h"
#include "server/hub_private.h"

#define ESTIMATE_SECONDS_MAX 1.0

/* Lies on its caller's stack, in hub->estimates while the answer is awaited. */
struct hub_estimate {
    struct hub_call call;
    struct hub_estimate *next;
    const struct job_spec *spec;
    struct estimated_message *out;
    struct hub_error *err;
    const struct hub_worker *worker;
    uint64_t ticket;
    double until;
    bool is_answered;
};

static struct hub_worker *ready_worker(const struct hub *hub)
{
    struct hub_worker *worker = hub->workers;

    while (worker && (!worker->is_ready || worker->is_lost))
        worker = worker->next;
    return worker;
}

static bool send_question(struct hub *hub, struct hub_estimate *estimate, struct hub_worker *worker)
{
    struct job_spec spec = *estimate->spec; /* borrows */
    struct record_writer record = {0};

    spec.init_image = spec.mask = (struct job_image){0};
    estimate->ticket = ++hub->last_ticket;
    estimate->worker = worker;
    record_put_u64(&record, estimate->ticket);
    spec_write(&record, &spec);
    return hub_worker_send(hub, worker, MESSAGE_ESTIMATE, &record);
}

static void start_estimate(struct hub *hub, struct hub_call *call)
{
    struct hub_estimate *estimate = (struct hub_estimate *)call;
    struct hub_worker *worker = ready_worker(hub);

    if (!worker || !send_question(hub, estimate, worker)) {
        hub_fail(estimate->err, 503, hub->has_facts ? "no_worker" : "model_loading", 5,
                 "no worker is ready");
        hub_complete(hub, call);
        return;
    }
    estimate->until = seconds_now() + ESTIMATE_SECONDS_MAX;
    estimate->next = hub->estimates;
    hub->estimates = estimate;
}

void hub_estimate_answer(struct hub *hub, const struct estimated_message *message)
{
    for (struct hub_estimate **at = &hub->estimates; *at; at = &(*at)->next) {
        struct hub_estimate *estimate = *at;

        if (estimate->ticket != message->ticket)
            continue;
        *at = estimate->next;
        *estimate->out = *message;
        estimate->is_answered = true;
        hub_complete(hub, &estimate->call);
        return;
    }
}

void hub_estimates_give_up(struct hub *hub, const struct hub_worker *worker, double now)
{
    for (struct hub_estimate **at = &hub->estimates; *at;) {
        struct hub_estimate *estimate = *at;
        bool is_over = worker ? estimate->worker == worker : now >= estimate->until;

        if (!is_over) {
            at = &estimate->next;
            continue;
        }
        *at = estimate->next;
        if (worker)
            hub_fail(estimate->err, 503, "no_worker", 5, "the worker went away");
        else
            hub_fail(estimate->err, 504, "timeout", 1, "the worker is too busy to answer");
        hub_complete(hub, &estimate->call);
    }
}

double hub_estimates_next(const struct hub *hub)
{
    double first = INFINITY;

    for (const struct hub_estimate *at = hub->estimates; at; at = at->next)
        first = fmin(first, at->until);
    return first;
}

bool hub_estimate(struct hub *hub, const struct job_spec *spec, struct estimated_message *out,
                  struct hub_error *err)
{
    struct hub_estimate estimate = {
        .call.run = start_estimate, .spec = spec, .out = out, .err = err};

    if (!hub_ask(hub, &estimate.call))
        hub_fail_stopping(err);
    return estimate.is_answered;
}
