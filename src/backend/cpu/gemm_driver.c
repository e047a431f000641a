/* How a product is cut into work for the threads.
 *
 * One operand is packed as a whole, by all threads together, into the shared scratch; then threads
 * take tasks, each of which packs its own piece of the other operand:
 *
 *   shared rows     as many rows of a as fit are shared, a task is a run of columns times all or
 *                   a part of those rows. Each weight is read and converted once or a few times,
 *                   and nothing is packed more than that: 78 to 83 % of two cores' peak at the
 *                   MM-DiT's shapes, where shared columns were 5 % slower.
 *   shared columns  as many columns of b as fit are shared, a task is a block of rows times a run
 *                   of those columns. For the patches of a picture, of which there are many, made
 *                   of a picture that is nine times smaller than they are.
 */
#include <assert.h>

#include "backend/cpu/gemm.h"
#include "backend/cpu/scratch.h"

/* Rows of a task over shared columns, which sum up TASK_COLUMNS_MAX columns for all k's: 112 KiB of
 * L2 for their sums beside the 384 KiB that a block of k takes of the columns. */
#define TASK_ROWS (8 * GEMM_MR)
/* Rows of a task over shared rows, at least: each packs its columns again, which costs as much as
 * multiplying them with 16 rows. */
#define TASK_ROWS_MIN (32 * GEMM_MR)
#define TASK_COLUMNS_MAX 256
/* Fewer are only for products that have little else to share out: a panel of rows from L3 has to
 * last for a few tiles. */
#define TASK_COLUMNS_MIN (6 * GEMM_NR)
/* Enough tasks that a thread which is held up costs the others little. */
#define TASKS_PER_THREAD 6

#define SHARED_FLOATS ((int64_t)(CPU_SHARED_SCRATCH_BYTES / sizeof(float)))
#define THREAD_FLOATS ((int64_t)(CPU_THREAD_SCRATCH_BYTES / sizeof(float)))
/* Longest k of which a panel of columns fits the shared scratch. */
#define K_MAX (SHARED_FLOATS / GEMM_NR)

_Static_assert(TASK_COLUMNS_MAX *GEMM_KC <= THREAD_FLOATS / 2, "a task's columns fit");
_Static_assert(GEMM_ROWS_PANEL <= THREAD_FLOATS, "a panel of rows fits");

bool LEVEL(gemm_prepare)(struct gemm_job *job, struct stream *stream, struct tensor *out,
                         const struct tensor *x, const struct linear *layer)
{
    const struct tensor *w = &layer->weight;
    int64_t taps = w->rank == 4 ? w->dim[2] * w->dim[3] : 1;
    bool is_contiguous = w->rank == 2 || (w->stride[2] == w->dim[3] && w->stride[1] == taps);
    bool is_float = w->dtype != DTYPE_I32 && w->dtype != DTYPE_U8;

    assert(w->dim[0] == out->dim[out->rank - 1] && w->dim[1] == x->dim[x->rank - 1]);
    assert(w->stride[w->rank - 1] == 1 && is_contiguous);
    (void)is_contiguous;
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

static void pack_rows(const struct gemm_job *job, float *to, int64_t row, int64_t rows, int64_t k)
{
    int64_t depth = min_i64(GEMM_KC, job->k - k);

    job->pack_rows(job, to, row, rows, k, depth);
    LEVEL(gemm_finish_rows)(to, rows, depth);
}

static void pack_panel(const struct gemm_job *job, float *to, int64_t n, int64_t k, int64_t depth)
{
    LEVEL(gemm_pack_panel)(&job->weights, to, job->n, n, k, depth);
    LEVEL(gemm_finish_panel)(to, depth);
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
        const char *next_rows = (const char *)(tile.a + GEMM_ROWS_PANEL);

        find_out_rows(job->out, out, meeting->row + r, tile.rows, meeting->column);
        for (int64_t c = 0; c < meeting->columns; c += GEMM_NR) {
            tile.columns = (int)min_i64(GEMM_NR, meeting->columns - c);
            tile.bias = job->bias ? job->bias + meeting->column + c : NULL;
            tile.next = meeting->next_b ? (const char *)(tile.b + meeting->next_b)
                                        : next_rows + c / GEMM_NR * GEMM_FETCH_BYTES;
            LEVEL(gemm_kernel)(&tile);
            tile.b += meeting->b_step;
            for (int i = 0; i < tile.rows; i++)
                out[i] += GEMM_NR;
        }
    }
}

/* n cut into `parts`, in whole panels, within the limits of a task. */
static int64_t cut_columns(int64_t n, int64_t parts, int64_t at_least)
{
    int64_t columns = ceil_div_i64(ceil_div_i64(n, parts), GEMM_NR) * GEMM_NR;

    return min_i64(max_i64(columns, at_least), TASK_COLUMNS_MAX);
}

static int64_t wanted_tasks(const struct gemm_job *job)
{
    return (int64_t)thread_pool_size(job->stream->pool) * TASKS_PER_THREAD;
}

/* --- Shared rows --- */

struct shared_rows {
    const struct gemm_job *job;
    float *a;             /* [block of k][panel of rows] */
    int64_t rows;         /* that fit, in whole panels */
    int64_t task_rows;    /* in whole panels */
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
            pack_rows(job, shared_row_panel(work, row, k), first + row,
                      min_i64(GEMM_MR, rows - row), k);
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
            pack_panel(job, b + c / GEMM_NR * meeting.b_step, column + c, run, run_depth);
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
    LEVEL(gemm_begin)();
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
    LEVEL(gemm_end)();
}

/* Wide tasks, then fewer rows for each, then narrow tasks, until there are enough. */
static void cut_tasks(struct shared_rows *work)
{
    int64_t n = work->job->n, rows = min_i64(work->rows, work->job->m);
    int64_t wanted = wanted_tasks(work->job), across, down;

    work->task_columns = cut_columns(n, wanted, TASK_COLUMNS_MIN);
    across = ceil_div_i64(n, work->task_columns);
    down = max_i64(1, min_i64(ceil_div_i64(wanted, across), rows / TASK_ROWS_MIN));
    work->task_rows = ceil_div_i64(ceil_div_i64(rows, down), GEMM_MR) * GEMM_MR;
    if (across * down < wanted)
        work->task_columns = cut_columns(n, ceil_div_i64(wanted, down), GEMM_NR);
}

static void share_rows(const struct gemm_job *job)
{
    int64_t k_blocks = ceil_div_i64(job->k, GEMM_KC);
    int64_t panels = ceil_div_i64(job->m, GEMM_MR);
    int64_t panels_that_fit = SHARED_FLOATS / GEMM_ROWS_PANEL / k_blocks;
    struct shared_rows work = {.job = job, .a = cpu_shared_scratch(job->stream)};
    int64_t blocks_that_fit;

    /* Rounds of about the same size, since each packs all columns again. */
    work.rows = ceil_div_i64(panels, ceil_div_i64(panels, panels_that_fit)) * GEMM_MR;
    cut_tasks(&work);
    blocks_that_fit = THREAD_FLOATS / 2 / (work.task_columns * GEMM_KC);
    work.run_depth = min_i64(blocks_that_fit, k_blocks) * GEMM_KC;
    thread_pool_run(job->stream->pool, run_shared_rows, &work);
}

/* --- Shared columns --- */

struct shared_columns {
    const struct gemm_job *job;
    float *b;                        /* panels of columns, all k's of each */
    int64_t b_step;                  /* floats from one panel to the next */
    int64_t columns;                 /* that fit, in whole panels */
    int64_t task_columns, task_rows; /* in whole panels */
};

/* Packs columns [first, first + columns), all k's; a task is one panel. */
static void pack_shared_columns(const struct shared_columns *work, int64_t first, int64_t columns)
{
    const struct gemm_job *job = work->job;
    int64_t panel;

    while ((panel = thread_pool_next(job->stream->pool)) * GEMM_NR < columns)
        pack_panel(job, work->b + panel * work->b_step, first + panel * GEMM_NR, 0, job->k);
}

/* Rows [row, row_end), of which one panel at a time is packed, into `a`, times columns [column,
 * column + columns) of those shared, of which the first is `first`. */
static void multiply_shared_columns(const struct shared_columns *work, int64_t row, int64_t row_end,
                                    int64_t first, int64_t column, int64_t columns, float *a)
{
    const struct gemm_job *job = work->job;
    struct meeting meeting = {
        .a = a, .b_step = work->b_step, .column = first + column, .columns = columns};

    for (int64_t k = 0; k < job->k; k += GEMM_KC) {
        meeting.k = k;
        meeting.depth = min_i64(GEMM_KC, job->k - k);
        meeting.b = work->b + column / GEMM_NR * work->b_step + gemm_panel_floats(k);
        meeting.next_b = gemm_panel_floats(meeting.depth);
        for (int64_t r = row; r < row_end; r += GEMM_MR) {
            meeting.row = r;
            meeting.rows = min_i64(GEMM_MR, row_end - r);
            pack_rows(job, a, r, meeting.rows, k);
            multiply_panels(job, &meeting);
            meeting.next_b += GEMM_FETCH_BYTES / (int64_t)sizeof(float);
        }
    }
}

/* Tasks that follow each other take the same rows, so that those are in a cache for the second. */
static void take_column_tasks(const struct shared_columns *work, int64_t first, int64_t columns,
                              float *a)
{
    const struct gemm_job *job = work->job;
    int64_t across = ceil_div_i64(columns, work->task_columns);
    int64_t down = ceil_div_i64(job->m, work->task_rows);
    int64_t task;

    while ((task = thread_pool_next(job->stream->pool)) < across * down) {
        int64_t column = task % across * work->task_columns;
        int64_t row = task / across * work->task_rows;

        if (!stream_skips(job->stream))
            multiply_shared_columns(work, row, min_i64(row + work->task_rows, job->m), first,
                                    column, min_i64(work->task_columns, columns - column), a);
    }
}

static void run_shared_columns(void *context, int thread_index, int thread_count)
{
    const struct shared_columns *work = context;
    const struct gemm_job *job = work->job;
    float *a = cpu_thread_scratch(job->stream, thread_index);

    (void)thread_count;
    LEVEL(gemm_begin)();
    for (int64_t first = 0; first < job->n; first += work->columns) {
        int64_t columns = min_i64(work->columns, job->n - first);

        pack_shared_columns(work, first, columns);
        thread_pool_reset_counter(job->stream->pool);
        take_column_tasks(work, first, columns, a);
        thread_pool_reset_counter(job->stream->pool);
    }
    LEVEL(gemm_end)();
}

static void share_columns(const struct gemm_job *job)
{
    int64_t panels = ceil_div_i64(job->n, GEMM_NR);
    int64_t down = ceil_div_i64(job->m, TASK_ROWS);
    struct shared_columns work = {
        .job = job, .b = cpu_shared_scratch(job->stream), .b_step = gemm_panel_floats(job->k)};

    work.columns = min_i64(SHARED_FLOATS / work.b_step, panels) * GEMM_NR;
    work.task_columns = cut_columns(work.columns, ceil_div_i64(wanted_tasks(job), down), GEMM_NR);
    /* Tasks of about the same size, so that none is a sliver. */
    work.task_rows = ceil_div_i64(ceil_div_i64(job->m, down), GEMM_MR) * GEMM_MR;
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
