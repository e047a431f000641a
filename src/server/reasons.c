#include "server/reasons.h"

#include "server/supervisor.h"

const char *const reject_names[REJECT_REASONS + 1] = {
    [REJECT_QUEUE_FULL] = "queue_full",
    [REJECT_RATE_LIMITED] = "rate_limited",
    [REJECT_DRAINING] = "draining",
    [REJECT_MODEL_LOADING] = "model_loading",
    [REJECT_NO_MEMORY] = "no_memory",
    [REJECT_STORAGE] = "storage",
    [REJECT_STORAGE_FULL] = "storage_full",
    [REJECT_IDEMPOTENCY_CONFLICT] = "idempotency_conflict",
    [REJECT_REASONS] = "other",
};

const char *const fault_names[FAULTS + 1] = {
    [FAULT_BAD_REQUEST] = "bad_request",
    [FAULT_OUT_OF_MEMORY] = "out_of_memory",
    [FAULT_NUMERIC] = "numeric",
    [FAULT_BACKEND] = "backend",
    [FAULT_INTERNAL] = "internal",
    [FAULT_POISON] = "poison",
    [FAULT_TIMEOUT] = "timeout",
    [FAULT_STORAGE] = "storage",
    [FAULT_NO_MEMORY] = "no_memory",
    [FAULT_LOST] = "lost",
    [FAULT_WORKER_HUNG] = "worker_hung",
    [FAULT_WORKER_LOST] = "worker_lost",
    [FAULTS] = "other",
};

const char *worker_end_name(uint32_t end)
{
    static const char *const names[WORKER_ENDS] = {
        [WORKER_END_UNKNOWN] = "other",
        [WORKER_EXITED] = "exit",
        [WORKER_KILLED] = "signal",
        [WORKER_HUNG] = "hang",
        [WORKER_OUT_OF_MEMORY] = "out_of_memory",
        [WORKER_LEFT_ALONE] = "front",
    };

    return names[end < WORKER_ENDS ? end : WORKER_END_UNKNOWN];
}
