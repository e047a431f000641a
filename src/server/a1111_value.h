/* Values of AUTOMATIC1111's requests: its clients send numbers as texts and null for what they
 * leave alone, as its own reader takes them. Private to a1111_*.c; pure functions.
 */
#ifndef SERVER_A1111_VALUE_H
#define SERVER_A1111_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attributes.h"

/* What is wrong, for an answer in A1111's words. */
struct a1111_problem {
    int status;       /* 404, 422, 501, 503 */
    const char *code; /* "validation", "sampler", ... */
    char field[64];   /* "": the message is the whole detail */
    char message[256];
};
/* Always false. */
bool a1111_fail(struct a1111_problem *problem, const char *field, const char *format, ...)
    PRINTF_LIKE(3, 4);
bool a1111_fail_for_memory(struct a1111_problem *problem);

/* Each takes `otherwise` where the member is absent, null or "". A text that is no such value is a
 * problem. Integers may come as 28, 28.0, "28" and "28.0". */
MUST_CHECK bool a1111_integer(int64_t *out, const json_t *body, const char *name, int64_t otherwise,
                              struct a1111_problem *problem);
MUST_CHECK bool a1111_number(double *out, const json_t *body, const char *name, double otherwise,
                             struct a1111_problem *problem);
MUST_CHECK bool a1111_flag(bool *out, const json_t *body, const char *name, bool otherwise,
                           struct a1111_problem *problem);
/* Borrowed from the body. */
MUST_CHECK bool a1111_text(const char **out, const json_t *body, const char *name,
                           const char *otherwise, struct a1111_problem *problem);

#endif
