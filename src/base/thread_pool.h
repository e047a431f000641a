/* A fixed set of threads that all run the same function: the CPU backend's parallel loop.
 *
 * The calling thread is one of them (index 0). Tasks are short, tens of microseconds to seconds,
 * and follow each other closely, so idle threads spin a little before they sleep. One thread may
 * use a pool at a time.
 */
#ifndef BASE_THREAD_POOL_H
#define BASE_THREAD_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"

struct thread_pool;

#define THREAD_POOL_MAX 256

typedef void (*thread_pool_task)(void *context, int thread_index, int thread_count);

/* thread_count: 1 to THREAD_POOL_MAX, the caller included; 0 takes one for each CPU that this
 * process may use. Free with thread_pool_destroy. */
MUST_CHECK bool thread_pool_create(struct thread_pool **out, int thread_count, struct error *err);
void thread_pool_destroy(struct thread_pool *pool); /* NULL is fine */

int thread_pool_size(const struct thread_pool *pool);

/* Runs task(context, i, size) on every thread and returns when all have returned. */
void thread_pool_run(struct thread_pool *pool, thread_pool_task task, void *context);

/* Inside a task: waits until every thread of the pool has come here. */
void thread_pool_barrier(struct thread_pool *pool);

/* Inside a task: hands out 0, 1, 2, ... to whichever thread asks next; each call of thread_pool_run
 * and each thread_pool_reset_counter starts again from 0. */
int64_t thread_pool_next(struct thread_pool *pool);

/* Inside a task, by all threads: a barrier after which thread_pool_next starts from 0 again. */
void thread_pool_reset_counter(struct thread_pool *pool);

/* The CPUs that this process may use (machine_limits.h), at most THREAD_POOL_MAX, and half as many
 * as its group may have processes: others need threads, too. */
int thread_pool_cpu_count(void);

#endif
