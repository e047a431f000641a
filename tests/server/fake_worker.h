/* A worker of the test's own: the other end of a channel, which says what the test has it say. The
 * test's thread is its thread.
 */
#ifndef TESTS_SERVER_FAKE_WORKER_H
#define TESTS_SERVER_FAKE_WORKER_H

#include <stdint.h>

#include "server/supervisor.h"
#include "wire/channel.h"
#include "wire/messages.h"

struct fake_worker {
    struct channel *channel;
    struct heartbeat *heartbeat;
    int control_fd; /* borrowed */
    uint32_t index;
};

/* Comes to the hub over `control_fd`, the supervisor's end. */
void fake_worker_come(struct fake_worker *worker, int control_fd, uint32_t index,
                      uint32_t restarts);
void fake_worker_ready(struct fake_worker *worker);
/* The supervisor says why right after: fake_worker_die says that it exited. */
void fake_worker_die(struct fake_worker *worker);
void fake_worker_end(struct fake_worker *worker, enum worker_end end, uint64_t memory_limit);

/* Waits for a record of this type and skips others; the ticket in it. */
uint64_t fake_worker_expect(struct fake_worker *worker, uint32_t type);
/* Waits for a picture that is to be left out. */
struct skip_message fake_worker_skip(struct fake_worker *worker);
/* Waits for a job; freed with job_spec_finish. */
struct job_message fake_worker_take(struct fake_worker *worker);
void fake_worker_progress(struct fake_worker *worker, uint64_t ticket, int step, int step_count);
void fake_worker_picture(struct fake_worker *worker, uint64_t ticket, int image);
void fake_worker_preview(struct fake_worker *worker, uint64_t ticket);
void fake_worker_done(struct fake_worker *worker, uint64_t ticket);
void fake_worker_failed(struct fake_worker *worker, uint64_t ticket, enum job_failure failure);
void fake_worker_estimated(struct fake_worker *worker, uint64_t ticket);

#endif
