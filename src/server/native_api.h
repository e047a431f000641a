/* The native API: jobs, events, pictures and facts below /api/v1, and signed links to pictures.
 *
 * Owners see their own jobs and pictures only; a key with the scope `admin` sees everybody's with
 * ?all=1. Made once, before the HTTP server starts; destroyed after it stopped and before the hub
 * is.
 */
#ifndef SERVER_NATIVE_API_H
#define SERVER_NATIVE_API_H

#include "server/auth.h"
#include "server/http.h"
#include "server/hub.h"
#include "server/openapi.h"

struct native;

struct native_options {
    struct hub *hub;   /* borrowed */
    struct auth *auth; /* borrowed; for signed links */
    struct job_limits limits;
    int max_queue;          /* as the hub's, to be told */
    double request_timeout; /* the same */
};

MUST_CHECK bool native_create(struct native **out, const struct native_options *options,
                              struct error *err);
struct http_routes native_routes(struct native *native);
/* What openapi.json says of the query's and the headers' values. */
const struct openapi_parameter *native_parameters(void);
/* Answers all that wait for the end of a job at once: before http_server_stop. */
void native_hang_up(struct native *native);
void native_destroy(struct native *native); /* NULL is fine */

#endif
