/* What AUTOMATIC1111's clients list: models, upscalers, and the many things that there are none of
 * here. Pure functions; new references, NULL: memory is short.
 */
#ifndef SERVER_A1111_LISTS_H
#define SERVER_A1111_LISTS_H

#include <jansson.h>

#include "server/hub.h"

/* The body of GET /sdapi/v1/<name>, or NULL also where there is no such list. */
json_t *a1111_list(const char *name, const struct hub_state *state);

#endif
