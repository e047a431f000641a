/* AUTOMATIC1111's tools for finished pictures: their parameters, and enlarging them. Handlers;
 * private to a1111_*.c.
 */
#ifndef SERVER_A1111_PICTURES_H
#define SERVER_A1111_PICTURES_H

#include "server/http.h"
#include "server/hub.h"

void a1111_png_info(struct http_exchange *exchange);

/* Waits for a worker for as long as it draws a step and enlarges what the body has: not on a
 * connection's thread, and not on all of the handlers'. */
void a1111_extra(struct hub *hub, struct http_exchange *exchange, bool is_batch);

#endif
