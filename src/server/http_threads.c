/* The threads that run handlers: a queue without a limit of its own, because each connection has
 * one task in it at most. */
#include "server/http_private.h"

#include <stdlib.h>

/* Handlers decode pictures and build archives; nothing of ours recurses over input. */
#define HANDLER_STACK_BYTES (1 << 20)

struct http_threads {
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    struct http_task *head, **tail; /* under lock */
    bool ends;                      /* under lock */
    int count;
    pthread_t threads[];
};

static void *handle_tasks(void *argument)
{
    struct http_threads *threads = argument;

    pthread_mutex_lock(&threads->lock);
    for (;;) {
        struct http_task *task = threads->head;

        if (task) {
            threads->head = task->next;
            if (!threads->head)
                threads->tail = &threads->head;
            pthread_mutex_unlock(&threads->lock);
            task->run(task);
            pthread_mutex_lock(&threads->lock);
        } else if (threads->ends) {
            break;
        } else {
            pthread_cond_wait(&threads->not_empty, &threads->lock);
        }
    }
    pthread_mutex_unlock(&threads->lock);
    return NULL;
}

bool http_threads_create(struct http_threads **out, int count, struct error *err)
{
    struct http_threads *threads;
    pthread_attr_t attributes;
    int failure = 0;

    if (count < 1)
        count = 1;
    threads = calloc(1, sizeof *threads + (size_t)count * sizeof threads->threads[0]);
    if (!threads)
        return error_set(err, ERROR_NO_MEMORY, "threads of HTTP handlers");
    pthread_mutex_init(&threads->lock, NULL);
    pthread_cond_init(&threads->not_empty, NULL);
    threads->tail = &threads->head;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, HANDLER_STACK_BYTES);
    while (threads->count < count && failure == 0) {
        failure =
            pthread_create(&threads->threads[threads->count], &attributes, handle_tasks, threads);
        if (failure == 0)
            threads->count++;
    }
    pthread_attr_destroy(&attributes);
    /* Where processes are limited, handlers make do with fewer. */
    if (threads->count == 0) {
        http_threads_destroy(threads);
        return error_set_errno(err, failure, "threads of HTTP handlers");
    }
    *out = threads;
    return true;
}

void http_threads_destroy(struct http_threads *threads)
{
    if (!threads)
        return;
    pthread_mutex_lock(&threads->lock);
    threads->ends = true;
    pthread_cond_broadcast(&threads->not_empty);
    pthread_mutex_unlock(&threads->lock);
    for (int i = 0; i < threads->count; i++)
        pthread_join(threads->threads[i], NULL);
    pthread_cond_destroy(&threads->not_empty);
    pthread_mutex_destroy(&threads->lock);
    free(threads);
}

void http_threads_run(struct http_threads *threads, struct http_task *task)
{
    task->next = NULL;
    pthread_mutex_lock(&threads->lock);
    *threads->tail = task;
    threads->tail = &task->next;
    pthread_cond_signal(&threads->not_empty);
    pthread_mutex_unlock(&threads->lock);
}
