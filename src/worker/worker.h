/* Worker: the process that draws. One device, one pipeline; opens no socket and no file but the
 * model's and what `prepare` makes of them. Jobs come over a channel, join a running batch between
 * steps when their shape allows, and their pictures go back as memfds.
 */
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

#include <stdatomic.h>

#include "base/error.h"
#include "pipeline/pipeline.h"
#include "wire/messages.h"

/* For what takes long before the model can be opened. */
struct worker_preparing {
    /* Tells the front, and that the worker lives: to be called at least every few seconds. */
    void (*tell)(const struct worker_preparing *preparing, const char *what, double fraction);
    const atomic_bool *stop; /* set: end soon, with ERROR_CANCELLED */
};

struct worker_options {
    /* Called first of all, unless NULL: makes the model ready, and may change where it is; what it
     * puts into `pipeline` outlives the worker. */
    bool (*prepare)(void *context, struct pipeline_options *pipeline,
                    const struct worker_preparing *preparing, struct error *err);
    void *prepare_context;
    struct pipeline_options pipeline; /* prompts_kept 0: the worker chooses */
    int max_batch;                    /* pictures that go through the network together; 1 to 64 */
    double preview_seconds;           /* the least time between previews of a picture: 0.25 */
    struct heartbeat *heartbeat;      /* shared */
};

/* Serves until the front goes away or drains. Returns the process's exit code: 0 in order, 3 when
 * the device failed in a way that only a new process cures, error_exit_code otherwise. Never
 * returns a job half done: what runs when it ends is lost, and the front requeues it. */
int worker_run(int channel_fd, const struct worker_options *options);

#endif
