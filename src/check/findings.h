/* What a diagnosis found: one finding a check, each a sentence and, where something is wrong, its
 * cure, in the language of whoever reads them.
 *
 * A finding's kind is a row of the table in check_texts.c. Belongs to one thread.
 */
#ifndef CHECK_FINDINGS_H
#define CHECK_FINDINGS_H

#include <stdbool.h>
#include <stddef.h>

#include "check/check_texts.h"

enum finding_level {
    FINDING_OK,
    FINDING_NOTE, /* the server starts, but somebody should know */
    FINDING_FAIL, /* it cannot start, or cannot draw */
};

struct finding {
    enum finding_level level;
    const char *subject, *code; /* of the table: "port", "port_taken" */
    char *found, *cure; /* owned; UTF-8 but for what they quote; cure NULL: none is needed */
};

#define FINDINGS_MAX 128

struct findings {
    enum language language;
    struct finding items[FINDINGS_MAX];
    size_t count;
};

/* Adds the row's texts, with {key} replaced by the value and {key!} by the value as one word of a
 * shell. Keys and values are pairs of texts, NULL at the end:
 *   findings_add(findings, FINDING_FAIL, CHECK_PORT_TAKEN, "port", "7860", "owner", "nginx", NULL);
 * What does not fit any more, or into memory, turns the last finding into a failure. */
void findings_add(struct findings *findings, enum finding_level level, enum check_row row, ...)
    __attribute__((sentinel));
void findings_finish(struct findings *findings);

bool findings_have(const struct findings *findings, enum finding_level level);

#endif
