/* OpenAI requests: bodies of /v1/images/generations and /v1/images/edits to job_spec's JSON form.
 *
 * Pure functions. Names and meanings are those of openai/openai-openapi, with our extras at the top
 * level; numbers are checked by job_spec_read alone.
 */
#ifndef SERVER_OPENAI_REQUEST_H
#define SERVER_OPENAI_REQUEST_H

#include <jansson.h>

#include "job/job_spec.h"
#include "server/http.h"
#include "server/ignored.h"

#define OPENAI_PICTURES_MAX 10
#define OPENAI_PARTIALS_MAX 3

struct openai_request {
    json_t *spec; /* for job_spec_read; owned */
    bool is_edit, wants_url, is_stream;
    int partial_images;  /* of each picture, 0 to OPENAI_PARTIALS_MAX */
    const char *quality; /* "low", "medium", "high": what is echoed */
    struct ignored ignored;
};

/* What is wrong, in OpenAI's words. */
struct openai_problem {
    int status;       /* 400, 404, 503 */
    const char *code; /* "invalid_value", "model_not_found", ... */
    char param[64];   /* the request's name of it, or "" */
    char message[256];
};

/* On failure *out is empty. */
MUST_CHECK bool openai_request_read(struct openai_request *out, const json_t *body, bool is_edit,
                                    const struct worker_facts *facts,
                                    struct openai_problem *problem);
void openai_request_finish(struct openai_request *request);

/* A form as the object that openai_request_read takes: pictures become base64 under "image" and
 * "mask", texts of fields that hold numbers or booleans become those; without a size it becomes the
 * picture's. A new reference, or NULL. */
json_t *openai_form_json(const struct http_part *parts, size_t count,
                         const struct worker_facts *facts, struct openai_problem *problem);

/* A problem of job_spec_read's in the words of the request. */
void openai_problem_of_spec(struct openai_problem *out, const struct job_problem *problem);

/* Whether a request may name the model so: ours, or what clients have hard-coded. */
bool openai_knows_model(const char *name, const struct worker_facts *facts);

#endif
