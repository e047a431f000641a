/* Loops over tensors of one shape, cut into pieces for the threads.
 *
 * A body gets runs of rows: for each operand the first row's address and the step from row to row.
 * What a body does with an element or row must not depend on which run it came in.
 */
#ifndef BACKEND_CPU_LOOP_H
#define BACKEND_CPU_LOOP_H

#include "backend/host_stream.h"

#define CPU_LOOP_OPERANDS_MAX 4

struct cpu_loop_rows {
    char *at[CPU_LOOP_OPERANDS_MAX];
    int64_t step[CPU_LOOP_OPERANDS_MAX]; /* bytes from row to row */
    int64_t count;                       /* rows */
    int64_t width;                       /* elements of a row */
};

typedef void (*cpu_loop_body)(const struct cpu_loop_rows *rows, const void *params);

struct cpu_loop {
    int operands;
    int rank; /* at least 1; the last axis is a row */
    int64_t dim[TENSOR_MAX_RANK];
    /* Of each operand, in bytes, also along the row: only operands whose element_step is their
     * element's size lie without gaps. */
    int64_t step[CPU_LOOP_OPERANDS_MAX][TENSOR_MAX_RANK];
    int64_t element_step[CPU_LOOP_OPERANDS_MAX];
    char *data[CPU_LOOP_OPERANDS_MAX];
    bool splits_rows; /* bodies may get parts of rows */
};

/* Axes that all operands step through evenly become one, so that rows are as long as they can be.
 * Every operand has the first one's shape. */
struct cpu_loop cpu_loop_of_elements(int operands, const struct tensor *const *tensors);
/* The last axis stays the row. */
struct cpu_loop cpu_loop_of_rows(int operands, const struct tensor *const *tensors);

/* True when every operand's rows lie without gaps and hold elements of that type. */
bool cpu_loop_is_plain(const struct cpu_loop *loop, const struct tensor *const *tensors,
                       enum dtype dtype);

void cpu_loop_run(struct stream *stream, const struct cpu_loop *loop, cpu_loop_body body,
                  const void *params);

/* Calls body(context, i) for i in [0, count) on all threads, or on the caller's alone when `work`,
 * in elements, is too little to share. */
void cpu_for_each(struct stream *stream, int64_t count, int64_t work,
                  void (*body)(const void *context, int64_t index), const void *context);

#endif
