/* Progress as AUTOMATIC1111's clients read it. Pure functions; NULL: memory is short. */
#ifndef SERVER_A1111_PROGRESS_H
#define SERVER_A1111_PROGRESS_H

#include "server/a1111_tracker.h"

struct a1111_progress {
    const struct a1111_job *job;           /* NULL: none is under way */
    const struct loading_message *loading; /* NULL: the model is there */
    int64_t now_ms;
};

/* 0 exactly when nothing is under way, else more than 0 and at most 1. */
double a1111_progress_share(const struct a1111_progress *progress);
/* Of /sdapi/v1/progress; `image` is stolen, NULL: null. */
json_t *a1111_progress_json(const struct a1111_progress *progress, json_t *image);
/* Of /internal/progress, for one job; `image` as above, with its number. `is_known` false: nobody
 * has given a job that name yet. */
json_t *a1111_task_json(const struct a1111_progress *progress, bool is_known, json_t *image,
                        int number);

#endif
