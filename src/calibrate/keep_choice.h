/* Which tensors to keep in 16 bits when there is room for some: those that hurt most for each byte.
 */
#ifndef CALIBRATE_KEEP_CHOICE_H
#define CALIBRATE_KEEP_CHOICE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"

struct keep_unit {
    double harm;  /* of quantising it alone; nothing is kept for harm of 0 or less */
    size_t bytes; /* more that it takes when it is kept */
    bool is_kept; /* the answer */
};

/* Greedy by harm per byte, the first of equals first; a unit that no longer fits leaves its room to
 * smaller ones. */
MUST_CHECK bool keep_choose(struct keep_unit *units, size_t count, size_t budget_bytes,
                            struct error *err);

#endif
