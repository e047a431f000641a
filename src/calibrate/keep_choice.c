#include "calibrate/keep_choice.h"

#include <stdlib.h>

static double worth(const struct keep_unit *unit)
{
    return unit->harm / (double)(unit->bytes > 0 ? unit->bytes : 1);
}

static int compare_worth(const void *a, const void *b)
{
    const struct keep_unit *x = *(struct keep_unit *const *)a, *y = *(struct keep_unit *const *)b;

    if (worth(x) != worth(y))
        return worth(x) > worth(y) ? -1 : 1;
    return x < y ? -1 : x > y;
}

bool keep_choose(struct keep_unit *units, size_t count, size_t budget_bytes, struct error *err)
{
    struct keep_unit **sorted = calloc(count + 1, sizeof(struct keep_unit *));

    if (!sorted)
        return error_set(err, ERROR_NO_MEMORY, "choice of layers");
    for (size_t i = 0; i < count; i++)
        sorted[i] = &units[i];
    qsort(sorted, count, sizeof(struct keep_unit *), compare_worth);
    for (size_t i = 0; i < count; i++) {
        sorted[i]->is_kept = sorted[i]->harm > 0.0 && sorted[i]->bytes <= budget_bytes;
        if (sorted[i]->is_kept)
            budget_bytes -= sorted[i]->bytes;
    }
    free(sorted);
    return true;
}
