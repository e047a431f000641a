/* AUTOMATIC1111's API over the hub: /sdapi/v1/... and /internal/...
 *
 * txt2img and img2img are synchronous for the client and hold no thread; a client that goes away
 * takes its job with it. "The" current job is the asking owner's.
 */
#ifndef SERVER_A1111_API_H
#define SERVER_A1111_API_H

#include "server/http.h"
#include "server/hub.h"

struct a1111;

struct a1111_api_options {
    struct hub *hub;
    struct job_limits limits;
    const char *version; /* "sd35 0.1.0"; borrowed */
};

/* Borrows the hub. */
MUST_CHECK bool a1111_create(struct a1111 **out, const struct a1111_api_options *options,
                             struct error *err);
/* Answers what waits with 503; before http_server_stop. */
void a1111_stop(struct a1111 *a1111);
/* After http_server_stop, before hub_destroy. NULL is fine. */
void a1111_destroy(struct a1111 *a1111);
struct http_routes a1111_routes(struct a1111 *a1111);

#endif
