#include "cli/byte_progress.h"

#include <limits.h>

#include "cli/progress.h"

static int megabytes(size_t bytes)
{
    size_t count = bytes / 1000000;

    return count < INT_MAX ? (int)count : INT_MAX;
}

void byte_progress_show(void *context, const struct convert_progress *now)
{
    const struct progress_now shown = {
        .phase = now->phase,
        .unit = " MB",
        .step = megabytes(now->done_bytes),
        .step_count = megabytes(now->total_bytes),
        .seconds = now->seconds,
    };

    progress_show(context, &shown);
}
