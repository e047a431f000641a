/* Tracker: what is being drawn for whom, for AUTOMATIC1111's clients, who ask about "the" job.
 *
 * Follows the hub's events; asking waits for nothing. Previews are wanted from the hub only once
 * somebody asks for them. Any thread.
 */
#ifndef SERVER_A1111_TRACKER_H
#define SERVER_A1111_TRACKER_H

#include "server/hub.h"

struct a1111_tracker;

MUST_CHECK bool a1111_tracker_create(struct a1111_tracker **out, struct hub *hub,
                                     struct error *err);
void a1111_tracker_destroy(struct a1111_tracker *tracker); /* NULL is fine */

/* The job that an owner looks at: the oldest that runs, or else the oldest that waits. */
struct a1111_job {
    char id[JOB_ID_BYTES];
    char owner[STORE_OWNER_BYTES];
    bool is_running;
    int64_t sequence, created_ms, started_ms;
    int step, step_count, position;
    double seconds_left; /* -1: unknown */
};
bool a1111_tracker_current(struct a1111_tracker *tracker, const char *owner, struct a1111_job *out);
/* A job of the owner that has not ended. */
bool a1111_tracker_find(struct a1111_tracker *tracker, const char *owner, const char *id,
                        struct a1111_job *out);
/* Ids of what the owner has waiting, as "task(<id>)"; a new reference, NULL: memory is short. */
json_t *a1111_tracker_waiting(struct a1111_tracker *tracker, const char *owner);

/* The latest preview of a job, a JPEG in base64, and its number from 1 on; the first call for a job
 * asks for previews, and has none yet. NULL: none. */
json_t *a1111_tracker_preview(struct a1111_tracker *tracker, const char *owner, const char *id,
                              int *number);

/* A client's own name for a job; the latest A1111_TASKS_KEPT are kept. */
#define A1111_TASKS_KEPT 256
void a1111_tracker_name_task(struct a1111_tracker *tracker, const char *owner, const char *task,
                             const char *id);
bool a1111_tracker_task(struct a1111_tracker *tracker, const char *owner, const char *task,
                        char id[JOB_ID_BYTES]);

#endif
