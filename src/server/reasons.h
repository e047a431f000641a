/* Why requests are turned away, jobs fail and workers end. The name of each is its code in answers
 * and its label in metrics.
 */
#ifndef SERVER_REASONS_H
#define SERVER_REASONS_H

#include <stdint.h>

/* A request for pictures. */
enum reject_reason {
    REJECT_QUEUE_FULL,
    REJECT_RATE_LIMITED,
    REJECT_DRAINING,
    REJECT_MODEL_LOADING,
    REJECT_NO_MEMORY,
    REJECT_STORAGE,
    REJECT_STORAGE_FULL,
    REJECT_IDEMPOTENCY_CONFLICT,
    REJECT_REASONS
};

/* A job, up to FAULT_LOST; then the server itself. */
enum fault {
    FAULT_BAD_REQUEST,
    FAULT_OUT_OF_MEMORY, /* the device's or the worker's */
    FAULT_NUMERIC,
    FAULT_BACKEND,
    FAULT_INTERNAL,
    FAULT_POISON, /* its workers died */
    FAULT_TIMEOUT,
    FAULT_STORAGE,
    FAULT_NO_MEMORY, /* the front's */
    FAULT_LOST,      /* the store has it otherwise */
    FAULT_WORKER_HUNG,
    FAULT_WORKER_LOST,
    FAULTS
};

/* The last of each is "other", as metrics wants it: no reason is called so. */
extern const char *const reject_names[REJECT_REASONS + 1];
extern const char *const fault_names[FAULTS + 1];
/* Of an enum worker_end, as a message has it; an unknown one is "other". */
const char *worker_end_name(uint32_t end);

#endif
