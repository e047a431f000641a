/* How a product is cut into work for the threads.
 *
 * One operand is packed as a whole, by all threads together, into the shared scratch; then threads
 * take tasks, each of which packs its own piece of the other operand:
 *
 *   shared rows     all of a is shared, a task is a run of columns. Each weight is read and
 *                   converted once: right where a is small, which is where weights are the cost.
 *   shared columns  as many columns of b as fit are shared, a task is a block of rows times a run
 *                   of those columns. For long a, such as the patches of a picture.
 */
#include "backend/cpu/gemm.h"
#include "backend/cpu/scratch.h"

/* Rows of a block: its packed 256 k's take 119 KiB and its sums at most 112 KiB of L2. */
#ifndef BLOCK_ROWS_PANELS
#define BLOCK_ROWS_PANELS 8
#endif
#define BLOCK_ROWS (BLOCK_ROWS_PANELS * GEMM_MR)
/* Columns of a task: 256 KiB of L2 for 256 k's of them. */
#ifndef TASK_COLUMNS_MAX
#define TASK_COLUMNS_MAX 256
#endif
/* Enough tasks that a thread which is held up costs the others little. */
#define TASKS_PER_THREAD 8

#define SHARED_FLOATS ((int64_t)(CPU_SHARED_SCRATCH_BYTES / sizeof(float)))
#define THREAD_FLOATS ((int64_t)(CPU_THREAD_SCRATCH_BYTES / sizeof(float)))
/* Longest k of which a panel of columns fits the shared scratch. */
#define K_MAX (SHARED_FLOATS / GEMM_NR)

_Static_assert(BLOCK_ROWS_PANELS *GEMM_ROWS_PANEL <= THREAD_FLOATS, "a block's rows fit");

bool LEVEL(gemm_prepare)(struct gemm_job *job, struct stream *stream, struct tensor *out,
                         const struct tensor *x, const struct linear *layer)
{
    const struct tensor *w = &layer->weight;
    int64_t taps = w->rank == 4 ? w->dim[2] * w->dim[3] : 1;
    bool is_float = w->dtype != DTYPE_I32 && w->dtype != DTYPE_U8;

    if (x->dtype != DTYPE_F32 || out->dtype != DTYPE_F32 || !is_float) {
        stream_fail(stream, ERROR_BACKEND, "product of %s and %s into %s: not supported",
                    dtype_name(x->dtype), dtype_name(w->dtype), dtype_name(out->dtype));
        return false;
    }
    if (w->dim[1] * taps > K_MAX) {
        stream_fail(stream, ERROR_BACKEND, "product over %lld elements: at most %lld are supported",
                    (long long)(w->dim[1] * taps), (long long)K_MAX);
        return false;
    }
    *job = (struct gemm_job){.stream = stream, .n = w->dim[0], .k = w->dim[1] * taps, .out = out};
    job->weights = (struct gemm_weights){.data = w->data,
                                         .dtype = w->dtype,
                                         .row_stride = w->stride[0],
                                         .channels = w->dim[1],
                                         .taps = taps};
    if (tensor_exists(&layer->scale)) {
        job->weights.scale = layer->scale.data;
        job->weights.scale_stride = layer->scale.dim[0] > 1;
    }
    if (tensor_exists(&layer->bias))
        job->bias = layer->bias.data;
    return true;
}

/* Packed rows and columns that meet in a part of the output, for one block of k. */
struct meeting {
    const float *a; /* panels of GEMM_MR rows */
    const float *b; /* panels of GEMM_NR columns, b_step floats apart */
    int64_t b_step;
    int64_t row, rows;
    int64_t column, columns;
    int64_t k, depth;
    /* Floats from a panel of columns to what is needed after it; 0: the panel of rows that follows
     * is what is fetched ahead. */
    int64_t next_b;
};

/* Points to the rows [row, row + rows) of the output, at `column`. */
static void find_out_rows(const struct tensor *out, float **pointers, int64_t row, int64_t rows,
                          int64_t column)
{
    int axis = out->rank - 2; /* the one along which rows follow each other */
    int64_t length = axis >= 0 ? out->dim[axis] : 1;
    int64_t step = axis >= 0 ? out->stride[axis] : 0;
    int64_t left = 0; /* rows until the axis ends */

    for (int64_t r = 0; r < rows; r++, left--) {
        if (left > 0) {
            pointers[r] = pointers[r - 1] + step;
            continue;
        }
        pointers[r] = (float *)out->data + tensor_row_offset(out, row + r) + column;
        left = length - (row + r) % length;
    }
}

static const char *next_fetch(const struct meeting *meeting, const struct gemm_tile *tile,
                              int64_t row_panel, int64_t column_panel)
{
    if (meeting->next_b)
        return (const char *)(tile->b + meeting->next_b) + row_panel * GEMM_FETCH_BYTES;
    return (const char *)(tile->a + GEMM_ROWS_PANEL) + column_panel * GEMM_FETCH_BYTES;
}

/* All tiles of the meeting; a panel of rows stays in L1 while the columns pass by. */
static void multiply_panels(const struct gemm_job *job, const struct meeting *meeting)
{
    float *out[GEMM_MR];

    for (int64_t r = 0; r < meeting->rows; r += GEMM_MR) {
        struct gemm_tile tile = {.a = meeting->a + r / GEMM_MR * GEMM_ROWS_PANEL,
                                 .b = meeting->b,
                                 .out = out,
                                 .depth = meeting->depth,
                                 .rows = (int)min_i64(GEMM_MR, meeting->rows - r),
                                 .is_first = meeting->k == 0};

        find_out_rows(job->out, out, meeting->row + r, tile.rows, meeting->column);
        for (int64_t c = 0; c < meeting->columns; c += GEMM_NR) {
            tile.columns = (int)min_i64(GEMM_NR, meeting->columns - c);
            tile.bias = job->bias ? job->bias + meeting->column + c : NULL;
            tile.next = next_fetch(meeting, &tile, r / GEMM_MR, c / GEMM_NR);
            LEVEL(gemm_kernel)(&tile);
            tile.b += meeting->b_step;
            for (int i = 0; i < tile.rows; i++)
                out[i] += GEMM_NR;
        }
    }
}

/* Columns of a task, in whole panels, so that `across` columns times `down` other pieces keep the
 * threads busy. */
static int64_t choose_task_columns(int64_t across, int64_t down, int threads)
{
    int64_t wanted = ceil_div_i64((int64_t)threads * TASKS_PER_THREAD, down);
    int64_t columns = ceil_div_i64(ceil_div_i64(across, wanted), GEMM_NR) * GEMM_NR;

    return min_i64(columns, TASK_COLUMNS_MAX);
}

/* --- Shared rows --- */

struct shared_rows {
    const struct gemm_job *job;
    float *a;             /* [block of k][panel of rows] */
    int64_t rows;         /* that fit, in whole panels */
    int64_t task_rows;    /* a divisor of the work along rows, in whole panels */
    int64_t task_columns; /* in whole panels */
    int64_t run_depth;    /* k's that a task packs at a time, in whole blocks */
};

/* Where the panel that begins with row `row` of those shared lies. */
static float *shared_row_panel(const struct shared_rows *work, int64_t row, int64_t k)
{
    int64_t panels = work->rows / GEMM_MR;

    return work->a + (k / GEMM_KC * panels + row / GEMM_MR) * GEMM_ROWS_PANEL;
}

/* Packs rows [first, first + rows), all k's; a task is one panel. */
static void pack_shared_rows(const struct shared_rows *work, int64_t first, int64_t rows)
{
    const struct gemm_job *job = work->job;
    int64_t row;

    while ((row = thread_pool_next(job->stream->pool) * GEMM_MR) < rows)
        for (int64_t k = 0; k < job->k; k += GEMM_KC)
            job->pack_rows(job, shared_row_panel(work, row, k), first + row,
                           min_i64(GEMM_MR, rows - row), k, min_i64(GEMM_KC, job->k - k));
}

/* Rows [row, row + rows) of those shared, of which the first is `first`, times the task's columns
 * from `column` on, which are packed into `b`. */
static void multiply_shared_rows(const struct shared_rows *work, int64_t first, int64_t row,
                                 int64_t rows, int64_t column, float *b)
{
    const struct gemm_job *job = work->job;
    struct meeting meeting = {.b_step = gemm_panel_floats(work->run_depth),
                              .row = first + row,
                              .rows = rows,
                              .column = column,
                              .columns = min_i64(work->task_columns, job->n - column)};

    for (int64_t run = 0; run < job->k; run += work->run_depth) {
        int64_t run_depth = min_i64(work->run_depth, job->k - run);

        for (int64_t c = 0; c < meeting.columns; c += GEMM_NR)
            LEVEL(gemm_pack_panel)
            (&job->weights, b + c / GEMM_NR * meeting.b_step, job->n, column + c, run, run_depth);
        for (int64_t k = 0; k < run_depth; k += GEMM_KC) {
            meeting.a = shared_row_panel(work, row, run + k);
            meeting.b = b + gemm_panel_floats(k);
            meeting.k = run + k;
            meeting.depth = min_i64(GEMM_KC, run_depth - k);
            multiply_panels(job, &meeting);
        }
    }
}

static void run_shared_rows(void *context, int thread_index, int thread_count)
{
    const struct shared_rows *work = context;
    const struct gemm_job *job = work->job;
    int64_t across = ceil_div_i64(job->n, work->task_columns);
    float *b = cpu_thread_scratch(job->stream, thread_index);

    (void)thread_count;
    for (int64_t first = 0; first < job->m; first += work->rows) {
        int64_t rows = min_i64(work->rows, job->m - first);
        int64_t down = ceil_div_i64(rows, work->task_rows);
        int64_t task;

        pack_shared_rows(work, first, rows);
        thread_pool_reset_counter(job->stream->pool);
        while ((task = thread_pool_next(job->stream->pool)) < across * down) {
            int64_t row = task % down * work->task_rows;

            if (!stream_skips(job->stream))
                multiply_shared_rows(work, first, row, min_i64(work->task_rows, rows - row),
                                     task / down * work->task_columns, b);
        }
        thread_pool_reset_counter(job->stream->pool);
    }
}

static void share_rows(const struct gemm_job *job)
{
    int threads = thread_pool_size(job->stream->pool);
    int64_t k_blocks = ceil_div_i64(job->k, GEMM_KC);
    int64_t panels =
        min_i64(ceil_div_i64(job->m, GEMM_MR), SHARED_FLOATS / GEMM_ROWS_PANEL / k_blocks);
    struct shared_rows work = {
        .job = job, .a = cpu_shared_scratch(job->stream), .rows = panels * GEMM_MR};
    int64_t column_panels, blocks_that_fit;

    work.task_rows = work.rows;
    work.task_columns = choose_task_columns(job->n, 1, threads);
    column_panels = work.task_columns / GEMM_NR;
    blocks_that_fit = THREAD_FLOATS / 2 / gemm_panel_floats(GEMM_KC) / column_panels;
    work.run_depth = min_i64(blocks_that_fit, k_blocks) * GEMM_KC;
    thread_pool_run(job->stream->pool, run_shared_rows, &work);
}

/* --- Shared columns --- */

struct shared_columns {
    const struct gemm_job *job;
    float *b;        /* panels of columns, all k's of each */
    int64_t b_step;  /* floats from one panel to the next */
    int64_t columns; /* that fit */
    int64_t task_columns;
    int64_t row_blocks;
    int64_t block_rows;
};

static void pack_shared_columns(const struct shared_columns *work, int64_t first, int64_t columns)
{
    const struct gemm_job *job = work->job;
    int64_t panel;

    while ((panel = thread_pool_next(job->stream->pool)) * GEMM_NR < columns)
        LEVEL(gemm_pack_panel)
    (&job->weights, work->b + panel * work->b_step, job->n, first + panel * GEMM_NR, 0, job->k);
}

static void multiply_block(const struct shared_columns *work, int64_t row, int64_t first,
                           int64_t column, int64_t columns, float *a)
{
    const struct gemm_job *job = work->job;
    struct meeting meeting = {.a = a,
                              .b_step = work->b_step,
                              .row = row,
                              .rows = min_i64(work->block_rows, job->m - row),
                              .column = first + column,
                              .columns = columns};

    for (int64_t k = 0; k < job->k; k += GEMM_KC) {
        meeting.k = k;
        meeting.depth = min_i64(GEMM_KC, job->k - k);
        meeting.b = work->b + column / GEMM_NR * work->b_step + gemm_panel_floats(k);
        job->pack_rows(job, a, row, meeting.rows, k, meeting.depth);
        meeting.next_b = gemm_panel_floats(meeting.depth);
        multiply_panels(job, &meeting);
    }
}

/* Tasks that follow each other take the same rows, so that those are in a cache for the second. */
static void multiply_shared_columns(const struct shared_columns *work, int64_t first,
                                    int64_t columns, float *a)
{
    const struct gemm_job *job = work->job;
    int64_t across = ceil_div_i64(columns, work->task_columns);
    int64_t task;

    while ((task = thread_pool_next(job->stream->pool)) < across * work->row_blocks) {
        int64_t column = task % across * work->task_columns;

        if (!stream_skips(job->stream))
            multiply_block(work, task / across * work->block_rows, first, column,
                           min_i64(work->task_columns, columns - column), a);
    }
}

static void run_shared_columns(void *context, int thread_index, int thread_count)
{
    const struct shared_columns *work = context;
    const struct gemm_job *job = work->job;
    float *a = cpu_thread_scratch(job->stream, thread_index);

    (void)thread_count;
    for (int64_t first = 0; first < job->n; first += work->columns) {
        int64_t columns = min_i64(work->columns, job->n - first);

        pack_shared_columns(work, first, columns);
        thread_pool_reset_counter(job->stream->pool);
        multiply_shared_columns(work, first, columns, a);
        thread_pool_reset_counter(job->stream->pool);
    }
}

static void share_columns(const struct gemm_job *job)
{
    int threads = thread_pool_size(job->stream->pool);
    int64_t all = ceil_div_i64(job->n, GEMM_NR);
    struct shared_columns work = {.job = job,
                                  .b = cpu_shared_scratch(job->stream),
                                  .b_step = gemm_panel_floats(job->k),
                                  .row_blocks = ceil_div_i64(job->m, BLOCK_ROWS)};

    work.columns = min_i64(SHARED_FLOATS / work.b_step, all) * GEMM_NR;
    /* Blocks of about the same size, so that none is a sliver. */
    work.block_rows = ceil_div_i64(ceil_div_i64(job->m, work.row_blocks), GEMM_MR) * GEMM_MR;
    work.task_columns = choose_task_columns(work.columns, work.row_blocks, threads);
    thread_pool_run(job->stream->pool, run_shared_columns, &work);
}

void LEVEL(gemm_run)(const struct gemm_job *job)
{
    if (job->m == 0 || job->n == 0)
        return;
    if (job->shares_rows)
        share_rows(job);
    else
        share_columns(job);
}
