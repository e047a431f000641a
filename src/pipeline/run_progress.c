/* What a run tells those who watch it. */
#include "pipeline/pipeline_private.h"

const char *pipeline_phase_name(enum pipeline_phase phase)
{
    static const char *const names[] = {"plan", "encode", "image", "denoise", "decode", "done"};

    return names[phase];
}

static void watch_device_memory(struct pipeline *pipeline)
{
    const struct backend_ops *ops = &pipeline->backend->ops;
    size_t free_bytes, total_bytes;

    if (!ops->memory_info)
        return;
    ops->memory_info(&free_bytes, &total_bytes);
    if (pipeline->device_least_free == 0 || free_bytes < pipeline->device_least_free)
        pipeline->device_least_free = free_bytes;
}

void progress_report(struct progress *progress, enum pipeline_phase phase, int step, int step_count)
{
    struct pipeline_progress told = {.phase = phase, .step = step, .step_count = step_count};
    double now = seconds_now();

    watch_device_memory(progress->pipeline);
    if (!progress->callbacks || !progress->callbacks->progress)
        return;
    told.phase_seconds = now - progress->phase_started;
    told.total_seconds = now - progress->started;
    progress->callbacks->progress(progress->callbacks->context, &told);
}

void progress_begin_phase(struct progress *progress, enum pipeline_phase phase, int step_count)
{
    progress->phase_started = seconds_now();
    progress_report(progress, phase, 0, step_count);
}
