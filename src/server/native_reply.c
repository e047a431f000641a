/* Answers of the native API, and errors in its words. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/native_private.h"

void native_reply(struct http_exchange *exchange, int status, json_t *body)
{
    if (body)
        http_reply_json(exchange, status, body);
    else
        http_reply_error(exchange, 503, "out_of_memory", "", 1, "the server is short of memory");
}

void native_reply_text(struct http_exchange *exchange, int status, struct json_writer *body)
{
    size_t size;
    char *bytes = json_writer_take(body, &size);

    if (bytes)
        http_reply_buffer(exchange, status, "application/json", bytes, size);
    else
        native_reply(exchange, status, NULL);
}

void native_reply_job(struct http_exchange *exchange, int status, const struct job_view *job)
{
    struct json_writer body = {0};

    json_writer_open(&body, NULL, '{');
    native_write_whole_job(&body, job);
    json_writer_close(&body, '}');
    native_reply_text(exchange, status, &body);
}

void native_reply_job_texts(struct http_exchange *exchange, const struct job_view *job,
                            const char *parameters, const char *result)
{
    struct json_writer body = {0};

    json_writer_open(&body, NULL, '{');
    native_write_job(&body, job);
    json_writer_raw(&body, "result", result);
    if (parameters)
        json_writer_raw(&body, "parameters", parameters);
    json_writer_close(&body, '}');
    native_reply_text(exchange, 200, &body);
}

void native_reply_hub_error(struct http_exchange *exchange, const struct hub_error *problem)
{
    http_reply_error(exchange, problem->status, problem->code, problem->field, problem->retry_after,
                     "%s", problem->message);
}

static const char *problem_code(enum job_problem_kind kind)
{
    switch (kind) {
    case JOB_PROBLEM_TYPE:
        return "invalid_type";
    case JOB_PROBLEM_VALUE:
        return "invalid_value";
    case JOB_PROBLEM_UNKNOWN_FIELD:
        return "unknown_field";
    case JOB_PROBLEM_TOO_LARGE:
        return "too_large";
    case JOB_PROBLEM_MEMORY:
        return "out_of_memory";
    }
    return "invalid_value";
}

void native_reply_problem(struct http_exchange *exchange, const struct job_problem *problem)
{
    bool is_ours = problem->kind == JOB_PROBLEM_MEMORY;

    http_reply_error(exchange, is_ours ? 503 : 422, problem_code(problem->kind), problem->field,
                     is_ours ? 1 : 0, "%s", problem->message);
}

void native_reply_bad(struct http_exchange *exchange, const char *field, const char *what)
{
    http_reply_error(exchange, 422, "invalid_value", field, 0, "\"%s\" %s", field, what);
}
