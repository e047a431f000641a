/* Health, for those who run the server: it lives while it answers; it is ready when a worker can
 * draw, the store takes jobs and the disk has its reserve. Nobody is asked who they are, nothing
 * waits.
 */
#ifndef SERVER_HEALTH_H
#define SERVER_HEALTH_H

#include "server/http.h"
#include "server/hub.h"

/* GET /health/live, /health/ready and the names that others have for them. Borrows the hub. */
struct http_routes health_routes(struct hub *hub);

/* The body of the ready routes; new reference, NULL when memory is short. */
json_t *health_body(const struct hub_state *state);

#endif
