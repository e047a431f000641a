#include "backend/cpu/gemm.h"

static void pack_tensor_rows(const struct gemm_job *job, float *to, int64_t row, int64_t rows,
                             int64_t k, int64_t depth)
{
    const struct tensor *x = job->rows;

    for (int64_t r = 0; r < rows; r++, to += GEMM_ROW_STRIDE) {
        const float *from = (const float *)x->data + tensor_row_offset(x, row + r) + k;

        memcpy(to, from, (size_t)depth * sizeof *to);
    }
}

static uintptr_t find_tensor_row(const struct gemm_job *job, int64_t row)
{
    const struct tensor *x = job->rows;

    return (uintptr_t)((const float *)x->data + tensor_row_offset(x, row));
}

static int64_t find_tensor_column(const struct gemm_job *job, int64_t k)
{
    (void)job;
    return k * (int64_t)sizeof(float);
}

void LEVEL(cpu_linear)(struct stream *stream, struct tensor *out, const struct tensor *x,
                       const struct linear *layer)
{
    struct gemm_job job;

    if (stream_skips(stream) || !LEVEL(gemm_prepare)(&job, stream, out, x, layer))
        return;
    job.m = tensor_row_count(x);
    job.pack_rows = pack_tensor_rows;
    job.find_row = find_tensor_row;
    job.find_column = find_tensor_column;
    job.rows = x;
    LEVEL(gemm_run)(&job);
}
