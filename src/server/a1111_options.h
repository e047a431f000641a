/* Options: the settings that AUTOMATIC1111's clients read and write back, kept in the store.
 *
 * Known ones alone are kept; clients echo their whole dictionary, and what is unknown or of another
 * type is let go. "samples_format" and "jpeg_quality" are what has an effect. Any thread.
 */
#ifndef SERVER_A1111_OPTIONS_H
#define SERVER_A1111_OPTIONS_H

#include "server/hub.h"

struct a1111_options;

MUST_CHECK bool a1111_options_create(struct a1111_options **out, struct hub *hub,
                                     struct error *err);
void a1111_options_destroy(struct a1111_options *options); /* NULL is fine */

/* All of them; a new reference, NULL: memory is short. `facts` NULL: no model is known yet. */
json_t *a1111_options_json(struct a1111_options *options, const struct worker_facts *facts);
/* Takes what is known of `changes` and returns when it is kept: not on a connection's thread. */
MUST_CHECK bool a1111_options_change(struct a1111_options *options, const json_t *changes,
                                     struct error *err);

/* Of the body to change them, which may leave out any, and of the list of all; a new reference,
 * NULL: memory is short. */
json_t *a1111_options_schema(void);

/* Pure: `stored` with what is known of `changes`; a new reference, NULL: memory is short. */
json_t *a1111_options_merged(const json_t *stored, const json_t *changes);

#endif
