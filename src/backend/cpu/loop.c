#include "backend/cpu/loop.h"

#include <assert.h>

#include "base/size.h"

/* Below this many elements another thread's help costs more than it saves. */
#define SHARED_WORK_MIN 32768
/* Elements that a thread takes at a time. */
#define GRAIN 16384

static void drop_axis(struct cpu_loop *loop, int axis)
{
    loop->rank--;
    for (int i = axis; i < loop->rank; i++) {
        loop->dim[i] = loop->dim[i + 1];
        for (int o = 0; o < loop->operands; o++)
            loop->step[o][i] = loop->step[o][i + 1];
    }
}

/* Whether every operand steps through axes `axis` and `axis` + 1 as through one. */
static bool is_even(const struct cpu_loop *loop, int axis)
{
    for (int o = 0; o < loop->operands; o++)
        if (loop->step[o][axis] != loop->step[o][axis + 1] * loop->dim[axis + 1])
            return false;
    return true;
}

/* Removes and joins axes before `end`. */
static void join_axes(struct cpu_loop *loop, int end)
{
    for (int i = end - 1; i >= 0; i--)
        if (loop->dim[i] == 1 && loop->rank > 1) {
            drop_axis(loop, i);
            end--;
        }
    for (int i = end - 2; i >= 0; i--)
        if (is_even(loop, i)) {
            int64_t joined = loop->dim[i] * loop->dim[i + 1];

            drop_axis(loop, i);
            loop->dim[i] = joined;
        }
}

static struct cpu_loop whole_loop(int operands, const struct tensor *const *tensors)
{
    struct cpu_loop loop = {.operands = operands, .rank = tensors[0]->rank};

    for (int i = 0; i < loop.rank; i++)
        loop.dim[i] = tensors[0]->dim[i];
    for (int o = 0; o < operands; o++) {
        assert(tensor_same_shape(tensors[o], tensors[0]));
        loop.data[o] = tensors[o]->data;
        for (int i = 0; i < loop.rank; i++)
            loop.step[o][i] = tensors[o]->stride[i] * (int64_t)dtype_size(tensors[o]->dtype);
    }
    return loop;
}

static void note_element_steps(struct cpu_loop *loop)
{
    for (int o = 0; o < loop->operands; o++)
        loop->element_step[o] = loop->step[o][loop->rank - 1];
}

struct cpu_loop cpu_loop_of_elements(int operands, const struct tensor *const *tensors)
{
    struct cpu_loop loop = whole_loop(operands, tensors);

    join_axes(&loop, loop.rank);
    note_element_steps(&loop);
    loop.splits_rows = true;
    return loop;
}

struct cpu_loop cpu_loop_of_rows(int operands, const struct tensor *const *tensors)
{
    struct cpu_loop loop = whole_loop(operands, tensors);

    join_axes(&loop, loop.rank - 1);
    note_element_steps(&loop);
    return loop;
}

bool cpu_loop_is_plain(const struct cpu_loop *loop, const struct tensor *const *tensors,
                       enum dtype dtype)
{
    for (int o = 0; o < loop->operands; o++)
        if (tensors[o]->dtype != dtype ||
            (loop->element_step[o] != (int64_t)dtype_size(dtype) && loop->dim[loop->rank - 1] != 1))
            return false;
    return true;
}

static int64_t row_count(const struct cpu_loop *loop)
{
    int64_t rows = 1;

    for (int i = 0; i < loop->rank - 1; i++)
        rows *= loop->dim[i];
    return rows;
}

/* The longest run of evenly stepped rows that starts at `row` and has at most `most`. */
static struct cpu_loop_rows rows_at(const struct cpu_loop *loop, int64_t row, int64_t most)
{
    struct cpu_loop_rows rows = {.count = 1, .width = loop->dim[loop->rank - 1]};
    int64_t rest = row;

    for (int o = 0; o < loop->operands; o++)
        rows.at[o] = loop->data[o];
    for (int i = loop->rank - 2; i >= 0; i--) {
        for (int o = 0; o < loop->operands; o++)
            rows.at[o] += rest % loop->dim[i] * loop->step[o][i];
        rest /= loop->dim[i];
    }
    if (loop->rank < 2)
        return rows;
    rows.count = min_i64(most, loop->dim[loop->rank - 2] - row % loop->dim[loop->rank - 2]);
    for (int o = 0; o < loop->operands; o++)
        rows.step[o] = loop->step[o][loop->rank - 2];
    return rows;
}

struct loop_task {
    const struct cpu_loop *loop;
    cpu_loop_body body;
    const void *params;
    int64_t rows;
    int64_t rows_per_piece;
    int64_t pieces_per_row; /* more than one: rows are long, and a piece is a part of one */
};

static void run_row_part(const struct loop_task *task, int64_t piece)
{
    struct cpu_loop_rows rows = rows_at(task->loop, piece / task->pieces_per_row, 1);
    int64_t begin = piece % task->pieces_per_row * GRAIN;

    for (int o = 0; o < task->loop->operands; o++)
        rows.at[o] += begin * task->loop->element_step[o];
    rows.width = min_i64(GRAIN, rows.width - begin);
    task->body(&rows, task->params);
}

static void run_piece(const void *context, int64_t piece)
{
    const struct loop_task *task = context;
    int64_t row = piece * task->rows_per_piece;
    int64_t end = min_i64(task->rows, row + task->rows_per_piece);

    if (task->pieces_per_row > 1) {
        run_row_part(task, piece);
        return;
    }
    while (row < end) {
        struct cpu_loop_rows rows = rows_at(task->loop, row, end - row);

        task->body(&rows, task->params);
        row += rows.count;
    }
}

void cpu_loop_run(struct stream *stream, const struct cpu_loop *loop, cpu_loop_body body,
                  const void *params)
{
    int64_t width = loop->dim[loop->rank - 1];
    struct loop_task task = {loop, body, params, row_count(loop), 1, 1};

    if (task.rows == 0 || width == 0)
        return;
    if (loop->splits_rows && width > GRAIN)
        task.pieces_per_row = ceil_div_i64(width, GRAIN);
    else
        task.rows_per_piece = max_i64(1, GRAIN / width);
    cpu_for_each(stream, ceil_div_i64(task.rows, task.rows_per_piece) * task.pieces_per_row,
                 task.rows * width, run_piece, &task);
}

struct each_task {
    struct thread_pool *pool;
    int64_t count;
    void (*body)(const void *context, int64_t index);
    const void *context;
};

static void run_each(void *context, int thread_index, int thread_count)
{
    const struct each_task *task = context;

    (void)thread_index;
    (void)thread_count;
    for (int64_t i; (i = thread_pool_next(task->pool)) < task->count;)
        task->body(task->context, i);
}

void cpu_for_each(struct stream *stream, int64_t count, int64_t work,
                  void (*body)(const void *context, int64_t index), const void *context)
{
    struct each_task task = {stream->pool, count, body, context};

    if (work >= SHARED_WORK_MIN && count > 1) {
        thread_pool_run(stream->pool, run_each, &task);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        body(context, i);
}
