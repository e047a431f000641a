#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/machine_limits.h"
#include "base/size.h"

/* How often an idle thread looks before it sleeps. About 50 us of looking: longer than the gap
 * between two ops, shorter than anybody notices. */
#define SPIN_LIMIT 4000
/* On a machine with fewer free CPUs than threads, the one we wait for may not be running. */
#define SPINS_BEFORE_YIELD 1000

struct thread_pool {
    int size;
    int started; /* threads created so far, the caller not counted */
    pthread_t threads[THREAD_POOL_MAX];

    pthread_mutex_t lock;
    pthread_cond_t work_ready;
    atomic_uint generation; /* raised under lock for each task; read anywhere */
    int sleeping;           /* under lock */
    bool stopping;          /* under lock, published by generation */

    thread_pool_task task; /* published by generation */
    void *context;

    atomic_int barrier_arrived;
    atomic_uint barrier_phase;
    atomic_int_fast64_t counter;
};

struct worker_start {
    struct thread_pool *pool;
    int index;
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    sched_yield();
#endif
}

void thread_pool_barrier(struct thread_pool *pool)
{
    unsigned phase = atomic_load_explicit(&pool->barrier_phase, memory_order_acquire);

    if (atomic_fetch_add_explicit(&pool->barrier_arrived, 1, memory_order_acq_rel) + 1 ==
        pool->size) {
        atomic_store_explicit(&pool->barrier_arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&pool->barrier_phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&pool->barrier_phase, memory_order_acquire) == phase;
         spins++) {
        if (spins < SPINS_BEFORE_YIELD)
            cpu_relax();
        else
            sched_yield();
    }
}

int64_t thread_pool_next(struct thread_pool *pool)
{
    return atomic_fetch_add_explicit(&pool->counter, 1, memory_order_relaxed);
}

void thread_pool_reset_counter(struct thread_pool *pool)
{
    thread_pool_barrier(pool);
    atomic_store_explicit(&pool->counter, 0, memory_order_relaxed);
    thread_pool_barrier(pool);
}

/* Returns the generation after `seen`, waiting for it. */
static unsigned wait_for_work(struct thread_pool *pool, unsigned seen)
{
    unsigned now;

    for (int spins = 0; spins < SPIN_LIMIT; spins++) {
        now = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (now != seen)
            return now;
        cpu_relax();
    }
    pthread_mutex_lock(&pool->lock);
    pool->sleeping++;
    while ((now = atomic_load_explicit(&pool->generation, memory_order_acquire)) == seen)
        pthread_cond_wait(&pool->work_ready, &pool->lock);
    pool->sleeping--;
    pthread_mutex_unlock(&pool->lock);
    return now;
}

static void *worker_main(void *argument)
{
    struct worker_start start = *(struct worker_start *)argument;
    struct thread_pool *pool = start.pool;
    unsigned seen = 0;

    free(argument);
    for (;;) {
        seen = wait_for_work(pool, seen);
        if (pool->stopping)
            return NULL;
        pool->task(pool->context, start.index, pool->size);
        thread_pool_barrier(pool);
    }
}

static void publish_work(struct thread_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
    if (pool->sleeping > 0)
        pthread_cond_broadcast(&pool->work_ready);
    pthread_mutex_unlock(&pool->lock);
}

void thread_pool_run(struct thread_pool *pool, thread_pool_task task, void *context)
{
    atomic_store_explicit(&pool->counter, 0, memory_order_relaxed);
    if (pool->size == 1) {
        task(context, 0, 1);
        return;
    }
    pool->task = task;
    pool->context = context;
    publish_work(pool);
    task(context, 0, pool->size);
    thread_pool_barrier(pool);
}

int thread_pool_cpu_count(void)
{
    struct machine_limits limits;

    machine_limits_read(&limits, NULL);
    if (limits.process_count / 2 < (uint64_t)limits.cpus)
        limits.cpus = (int)max_i64(1, (int64_t)limits.process_count / 2);
    return (int)min_i64(limits.cpus, THREAD_POOL_MAX);
}

int thread_pool_size(const struct thread_pool *pool)
{
    return pool->size;
}

bool thread_pool_create(struct thread_pool **out, int thread_count, struct error *err)
{
    struct thread_pool *pool;

    if (thread_count == 0)
        thread_count = thread_pool_cpu_count();
    if (thread_count < 1 || thread_count > THREAD_POOL_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "threads: %d is not between 1 and %d",
                         thread_count, THREAD_POOL_MAX);
    pool = calloc(1, sizeof *pool);
    if (!pool)
        return error_set(err, ERROR_NO_MEMORY, "thread pool");
    pool->size = thread_count;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work_ready, NULL);
    for (int i = 1; i < thread_count; i++) {
        struct worker_start *start = malloc(sizeof *start);
        int failure;

        if (!start) {
            error_set(err, ERROR_NO_MEMORY, "thread pool");
            goto fail;
        }
        *start = (struct worker_start){.pool = pool, .index = i};
        failure = pthread_create(&pool->threads[pool->started], NULL, worker_main, start);
        if (failure) {
            free(start);
            error_set_errno(err, failure, "starting thread %d of %d", i + 1, thread_count);
            goto fail;
        }
        pool->started++;
    }
    *out = pool;
    return true;

fail:
    thread_pool_destroy(pool);
    return false;
}

void thread_pool_destroy(struct thread_pool *pool)
{
    if (!pool)
        return;
    pool->stopping = true;
    publish_work(pool);
    for (int i = 0; i < pool->started; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->work_ready);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}
