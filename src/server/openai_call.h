/* One call of the Images API, from its submission to its answer: a body, or a stream of events.
 * Private to openai_*.c.
 */
#ifndef SERVER_OPENAI_CALL_H
#define SERVER_OPENAI_CALL_H

#include "server/auth.h"
#include "server/http.h"
#include "server/hub.h"
#include "server/job_waiter.h"
#include "server/openai_request.h"

/* Where calls get answered from; borrowed by each. */
struct openai_home {
    struct hub *hub;
    const struct auth *auth;
    struct job_waiter *waiter;
};

/* Submits the job and answers the exchange, now or when the job ended. `spec` is copied. */
void openai_call(const struct openai_home *home, struct http_exchange *exchange,
                 const struct openai_request *request, const struct job_spec *spec,
                 const struct worker_facts *facts);

#endif
