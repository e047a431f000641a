#include "server/failure_answer.h"

#include <stdio.h>
#include <string.h>

#include "base/attributes.h"

static const struct failure_row {
    const char *code; /* the store's and the hub's */
    int status;
    const char *type, *as;
    bool is_final;
} failures[] = {
    {"out_of_memory", 503, "server_error", "out_of_memory", true},
    {"no_memory", 503, "server_error", "out_of_memory", true},
    {"timeout", 504, "server_error", "timeout", true},
    {"poison", 500, "server_error", "worker_lost", true},
    {"numeric", 500, "server_error", "not_finite", true},
    {"bad_request", 400, "invalid_request_error", "invalid_value", true},
    {"draining", 503, "server_error", "draining", false},
};

void failure_answer_of_job(struct failure_answer *out, const struct job_view *view)
{
    const char *message = view->error_message ? view->error_message : "The job failed.";

    *out = (struct failure_answer){.status = 500, .type = "server_error", .code = "internal"};
    if (view->state == JOB_CANCELLED) {
        out->status = 409;
        out->type = "invalid_request_error";
        out->code = "cancelled";
        out->is_final = true;
        message = "The job was cancelled.";
    }
    for (size_t i = 0; view->state == JOB_FAILED && i < COUNT_OF(failures); i++)
        if (strcmp(view->error_code, failures[i].code) == 0) {
            out->status = failures[i].status;
            out->type = failures[i].type;
            out->code = failures[i].as;
            out->is_final = failures[i].is_final;
        }
    snprintf(out->message, sizeof out->message, "%s", message);
}

void failure_answer_of_hub(struct failure_answer *out, const struct hub_error *problem)
{
    *out = (struct failure_answer){.status = problem->status > 0 ? problem->status : 500,
                                   .type = problem->status >= 500 ? "server_error"
                                                                  : "invalid_request_error",
                                   .code = problem->code};
    if (problem->status == 429)
        out->type = "rate_limit_error";
    snprintf(out->message, sizeof out->message, "%s", problem->message);
}
