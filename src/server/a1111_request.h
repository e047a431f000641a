/* AUTOMATIC1111's requests: bodies of txt2img and img2img to job_spec's JSON form.
 *
 * Pure functions. What clients send beside what can be done here is taken as given and named in the
 * answer's `info`; numbers are checked by job_spec_read alone.
 */
#ifndef SERVER_A1111_REQUEST_H
#define SERVER_A1111_REQUEST_H

#include <jansson.h>

#include "job/job_spec.h"
#include "server/a1111_value.h"
#include "server/ignored.h"

struct a1111_request {
    json_t *spec;       /* for job_spec_read; owned */
    json_t *parameters; /* the answer's echo; owned */
    bool is_img2img, sends_images;
    int batch_size;
    char task[128]; /* the client's name for it, or "" */
    struct ignored ignored;
};

/* `options` as /sdapi/v1/options has them. On failure *out is empty. */
MUST_CHECK bool a1111_request_read(struct a1111_request *out, const json_t *body, bool is_img2img,
                                   const struct worker_facts *facts, const json_t *options,
                                   struct a1111_problem *problem);
void a1111_request_finish(struct a1111_request *request);

/* A problem of job_spec_read's in the words of the request. */
void a1111_problem_of_spec(struct a1111_problem *out, const struct job_problem *problem);

#endif
