/* One call of txt2img or img2img, from its submission to its answer. Private to a1111_*.c. */
#ifndef SERVER_A1111_CALL_H
#define SERVER_A1111_CALL_H

#include "server/a1111_request.h"
#include "server/a1111_tracker.h"
#include "server/http.h"
#include "server/job_waiter.h"

/* Where calls get answered from; borrowed by each. */
struct a1111_home {
    struct hub *hub;
    struct job_waiter *waiter;
    struct a1111_tracker *tracker;
    const char *version;
};

/* Submits the job, and answers the exchange now or when the job ended. `spec` is copied; the echo
 * of the request is shared. */
void a1111_call(const struct a1111_home *home, struct http_exchange *exchange,
                const struct a1111_request *request, const struct job_spec *spec,
                const struct worker_facts *facts);
void a1111_reply_problem(struct http_exchange *exchange, const struct a1111_problem *problem);
/* Steals `body`; NULL: memory is short. */
void a1111_reply(struct http_exchange *exchange, json_t *body);

#endif
