/* Recordings for a host: its ops are kept in a list between record_begin and record_end, and replay
 * goes through the list. So what devices do with recordings is seen without one: ops that depend on
 * more than their key says come out wrong.
 *
 * Ops that text encoders and the transformer use are recorded; others run at once. One at a time.
 */
#ifndef TESTS_MODEL_HOST_RECORDER_H
#define TESTS_MODEL_HOST_RECORDER_H

#include "backend/backend.h"

/* Puts itself before the ops of a host's table, for as long as the program runs or until
 * host_recorder_remove. */
void host_recorder_install(struct backend_ops *ops);
void host_recorder_remove(struct backend_ops *ops);

#endif
