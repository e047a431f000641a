/* How a job that did not end well is answered by the APIs whose calls wait for it. Pure functions.
 */
#ifndef SERVER_FAILURE_ANSWER_H
#define SERVER_FAILURE_ANSWER_H

#include "server/hub.h"

struct failure_answer {
    int status;
    const char *type, *code; /* OpenAI's words; `code` may point into the hub_error */
    bool is_final;           /* the same request would fail again */
    char message[512];
};

/* Of a job that is failed or cancelled. */
void failure_answer_of_job(struct failure_answer *out, const struct job_view *view);
void failure_answer_of_hub(struct failure_answer *out, const struct hub_error *problem);

#endif
