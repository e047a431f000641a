#include "backend/cpu/gemm.h"

#define ROWS_AHEAD 2

static inline void fetch_run(const float *from, int64_t count)
{
    for (int64_t i = 0; i < count; i += 16)
        __builtin_prefetch(from + i);
}

static void pack_tensor_rows(const struct gemm_job *job, float *to, int64_t row, int64_t rows,
                             int64_t k, int64_t depth)
{
    const struct tensor *x = job->rows;

    for (int64_t r = 0; r < rows; r++, to += GEMM_ROW_STRIDE) {
        const float *from = (const float *)x->data + tensor_row_offset(x, row + r) + k;

        /* Rows are far from each other, which defeats the CPU's own prefetching. */
        if (r + ROWS_AHEAD < rows)
            fetch_run((const float *)x->data + tensor_row_offset(x, row + r + ROWS_AHEAD) + k,
                      depth);
        memcpy(to, from, (size_t)depth * sizeof *to);
    }
}

void LEVEL(cpu_linear)(struct stream *stream, struct tensor *out, const struct tensor *x,
                       const struct linear *layer)
{
    struct gemm_job job;

    if (stream_skips(stream) || !LEVEL(gemm_prepare)(&job, stream, out, x, layer))
        return;
    job.m = tensor_row_count(x);
    job.pack_rows = pack_tensor_rows;
    job.shares_rows = true;
    job.rows = x;
    LEVEL(gemm_run)(&job);
}
