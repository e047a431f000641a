/* OpenAI's Images API over the hub: /v1/images/generations, /v1/images/edits, /v1/models.
 *
 * Calls are synchronous for the client and hold no thread: they are submitted as jobs, and answered
 * when those end. A client that goes away takes its job with it, unless it gave an Idempotency-Key,
 * with which it may come back for it.
 */
#ifndef SERVER_OPENAI_API_H
#define SERVER_OPENAI_API_H

#include "server/auth.h"
#include "server/http.h"
#include "server/hub.h"

struct openai;

struct openai_options {
    struct hub *hub;
    const struct auth *auth; /* signs links */
    struct job_limits limits;
};

/* Borrows hub and auth. */
MUST_CHECK bool openai_create(struct openai **out, const struct openai_options *options,
                              struct error *err);
/* Answers what waits with 503; before http_server_stop. */
void openai_stop(struct openai *openai);
/* After http_server_stop, before hub_destroy. NULL is fine. */
void openai_destroy(struct openai *openai);
struct http_routes openai_routes(struct openai *openai);

#endif
