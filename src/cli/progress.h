/* How far a run has come, on standard error: one line that is drawn again and again on a terminal,
 * one line for each finished phase elsewhere.
 *
 * On a terminal a thread keeps the seconds going between the steps, which may take minutes.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"
#include "pipeline/pipeline.h"

struct progress;

struct progress_now {
    const char *phase;    /* lives forever */
    const char *unit;     /* of the steps, behind their number: " MB"; may be "" */
    const char *ended;    /* what is said of the steps when the phase has ended, "28 steps" being
                             their number and this word; NULL: nothing */
    int step, step_count; /* step counts finished ones */
    double seconds;       /* since the phase began */
};

MUST_CHECK bool progress_create(struct progress **out, bool is_quiet, struct error *err);
/* Takes the line away. NULL is fine. */
void progress_destroy(struct progress *progress);

void progress_show(struct progress *progress, const struct progress_now *now);

/* For pipeline_callbacks: `context` is the struct progress. Takes the line away at the end. */
void progress_update(void *context, const struct pipeline_progress *now);

/* Takes the line away until the next update, so that something else can be printed. */
void progress_clear(struct progress *progress);

/* The line for a terminal of `columns` characters; it is at most one shorter than that.
 * `waited`: seconds since the last step ended. */
#define PROGRESS_LINE_BYTES 256
void progress_format(char line[PROGRESS_LINE_BYTES], const struct progress_now *now, double waited,
                     int columns);

#endif
