/* Worker: the process that draws. One device, one pipeline; opens no socket and no file but the
 * model's. Jobs come over a channel, join a running batch between steps when their shape allows,
 * and their pictures go back as memfds.
 */
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

#include "base/error.h"
#include "pipeline/pipeline.h"
#include "wire/messages.h"

struct worker_options {
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
