/* Answers that libmicrohttpd sends while they are made: a buffer that one side fills and its
 * callback empties. The connection sleeps while there is nothing. Downloads in pieces fill it on a
 * handler thread; streams of events use it under TLS, where http_stream.c cannot write itself. */
#include <stdlib.h>
#include <string.h>

#include "server/http_private.h"
#include "server/metrics.h"

#define PIECE_BYTES 65536

struct http_source *http_source_create(struct http_exchange *exchange)
{
    struct http_source *source = calloc(1, sizeof *source);

    if (!source)
        return NULL;
    source->server = exchange->server;
    source->mhd = exchange->mhd;
    source->references = 1;
    pthread_mutex_init(&source->lock, NULL);
    return source;
}

void http_source_unref(struct http_source *source)
{
    if (atomic_fetch_sub(&source->references, 1) > 1)
        return;
    if (source->done)
        source->done(source->context);
    free(source->bytes);
    pthread_mutex_destroy(&source->lock);
    free(source);
}

static void wake_locked(struct http_source *source)
{
    if (!source->is_suspended)
        return;
    source->is_suspended = false;
    MHD_resume_connection(source->mhd);
}

void http_source_end(struct http_source *source, bool is_broken)
{
    pthread_mutex_lock(&source->lock);
    source->is_ended = true;
    source->is_broken |= is_broken;
    wake_locked(source);
    pthread_mutex_unlock(&source->lock);
}

static bool append_locked(struct http_source *source, const void *bytes, size_t size)
{
    if (source->from > 0) {
        source->size -= source->from;
        memmove(source->bytes, source->bytes + source->from, source->size);
        source->from = 0;
    }
    if (source->size + size > source->room) {
        char *more = realloc(source->bytes, source->size + size);

        if (!more)
            return false;
        source->bytes = more;
        source->room = source->size + size;
    }
    memcpy(source->bytes + source->size, bytes, size);
    source->size += size;
    return true;
}

bool http_source_write(struct http_source *source, const void *bytes, size_t size, size_t limit)
{
    bool is_fine, is_full;

    pthread_mutex_lock(&source->lock);
    is_full = source->size - source->from + size > limit;
    if (!source->is_ended && is_full)
        metrics_count(METRIC_EVENTS_DROPPED, "", 1);
    is_fine = !source->is_ended && !is_full && append_locked(source, bytes, size);
    if (!is_fine)
        source->is_ended = source->is_broken = true;
    wake_locked(source);
    pthread_mutex_unlock(&source->lock);
    return is_fine;
}

size_t http_source_sent(struct http_source *source)
{
    size_t sent;

    pthread_mutex_lock(&source->lock);
    sent = source->sent;
    pthread_mutex_unlock(&source->lock);
    return sent;
}

/* On a handler thread: one piece. */
static void fill_source(struct http_task *task)
{
    struct http_source *source = (struct http_source *)task;
    char *piece = malloc(PIECE_BYTES);
    ssize_t size = piece ? source->read(source->context, piece, PIECE_BYTES) : -1;

    pthread_mutex_lock(&source->lock);
    free(source->bytes);
    source->bytes = piece;
    source->from = 0;
    source->size = size > 0 ? (size_t)size : 0;
    source->room = PIECE_BYTES;
    source->is_filling = false;
    source->is_ended |= size <= 0;
    source->is_broken |= size < 0 || size > PIECE_BYTES;
    wake_locked(source);
    pthread_mutex_unlock(&source->lock);
    http_source_unref(source);
}

static void start_filling_locked(struct http_source *source)
{
    if (!source->read || source->is_filling)
        return;
    source->is_filling = true;
    atomic_fetch_add(&source->references, 1);
    source->task.run = fill_source;
    http_threads_run(source->server->threads, &source->task);
}

static ssize_t give_bytes(void *cls, uint64_t position, char *to, size_t room)
{
    struct http_source *source = cls;
    ssize_t given = 0;

    (void)position;
    pthread_mutex_lock(&source->lock);
    if (source->is_broken) {
        given = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (source->from < source->size) {
        given = (ssize_t)(source->size - source->from < room ? source->size - source->from : room);
        memcpy(to, source->bytes + source->from, (size_t)given);
        source->from += (size_t)given;
        source->sent += (size_t)given;
    } else if (source->is_ended) {
        given = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        start_filling_locked(source);
        source->is_suspended = true;
        MHD_suspend_connection(source->mhd);
    }
    pthread_mutex_unlock(&source->lock);
    return given;
}

/* libmicrohttpd is through with it, in whatever way. */
static void release_source(void *cls)
{
    struct http_source *source = cls;

    http_source_end(source, true);
    if (source->released)
        source->released(source->released_context);
    http_source_unref(source);
}

struct MHD_Response *http_source_response(struct http_source *source)
{
    struct MHD_Response *response;

    atomic_fetch_add(&source->references, 1);
    response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, give_bytes, source,
                                                 release_source);
    if (!response)
        atomic_fetch_sub(&source->references, 1); /* the caller has another */
    return response;
}

void http_reply_pieces(struct http_exchange *exchange, const char *type, const char *download_name,
                       ssize_t (*read)(void *context, char *to, size_t room),
                       void (*done)(void *context), void *context)
{
    struct http_source *source = http_source_create(exchange);
    struct MHD_Response *response = NULL;

    if (source) {
        source->read = read;
        source->done = done;
        source->context = context;
        response = http_source_response(source);
    }
    if (!response) {
        if (source)
            http_source_unref(source);
        else if (done)
            done(context);
        http_reply_error(exchange, 503, "out_of_memory", "", 1, "memory is short");
        return;
    }
    if (download_name)
        http_add_download(exchange, download_name);
    http_response_headers(exchange, response, type);
    exchange->source = source;
    http_exchange_answer(exchange, 200, 0, response);
}
