#include "convert/source_hashes.h"

#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PIECE_BYTES (1u << 20)
#define THREADS_MAX 16

struct hashed_file {
    const char *path;
    off_t size;
    char text[SOURCE_HASH_TEXT_BYTES]; /* under lock, as are the next two */
    bool is_done, is_good;
    struct error err; /* when it is not good */
};

struct source_hashes {
    struct hashed_file *files;
    struct hashed_file **order; /* in which they are hashed */
    size_t count;
    pthread_t threads[THREADS_MAX];
    int thread_count;
    atomic_size_t next; /* file that nobody has taken */
    atomic_size_t done_bytes;
    atomic_bool is_stopping;
    pthread_mutex_t lock;
    pthread_cond_t file_done;
};

static bool hash_descriptor(struct source_hashes *hashes, struct hashed_file *file, int fd,
                            unsigned char *piece, struct sha256_ctx *state)
{
    for (;;) {
        ssize_t got = read(fd, piece, PIECE_BYTES);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_set_errno(&file->err, errno, "reading '%s'", file->path);
        if (got == 0)
            return true;
        if (atomic_load(&hashes->is_stopping))
            return error_set(&file->err, ERROR_CANCELLED, "hashing '%s' was cancelled", file->path);
        sha256_update(state, (size_t)got, piece);
        atomic_fetch_add(&hashes->done_bytes, (size_t)got);
    }
}

static bool hash_file(struct source_hashes *hashes, struct hashed_file *file,
                      unsigned char digest[SHA256_DIGEST_SIZE])
{
    unsigned char *piece = malloc(PIECE_BYTES);
    struct sha256_ctx state;
    bool ok;
    int fd;

    if (!piece)
        return error_set(&file->err, ERROR_NO_MEMORY, "hashing '%s'", file->path);
    fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        free(piece);
        return error_set_errno(&file->err, errno, "opening '%s'", file->path);
    }
    sha256_init(&state);
    ok = hash_descriptor(hashes, file, fd, piece, &state);
    sha256_digest(&state, SHA256_DIGEST_SIZE, digest);
    close(fd);
    free(piece);
    return ok;
}

static void *hash_files(void *context)
{
    struct source_hashes *hashes = context;

    for (;;) {
        size_t i = atomic_fetch_add(&hashes->next, 1);
        unsigned char digest[SHA256_DIGEST_SIZE] = {0};
        struct hashed_file *file;
        bool ok;

        if (i >= hashes->count || atomic_load(&hashes->is_stopping))
            return NULL;
        file = hashes->order[i];
        ok = hash_file(hashes, file, digest);
        pthread_mutex_lock(&hashes->lock);
        sodium_bin2hex(file->text, SOURCE_HASH_TEXT_BYTES, digest, sizeof digest);
        file->is_good = ok;
        file->is_done = true;
        pthread_cond_broadcast(&hashes->file_done);
        pthread_mutex_unlock(&hashes->lock);
    }
}

static bool init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    bool ok;

    if (pthread_condattr_init(&attributes) != 0)
        return false;
    ok = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
         pthread_cond_init(condition, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    return ok;
}

static bool start_threads(struct source_hashes *hashes, int thread_count, struct error *err)
{
    if (thread_count > THREADS_MAX)
        thread_count = THREADS_MAX;
    for (int i = 0; i < thread_count && (size_t)i < hashes->count; i++) {
        int failure = pthread_create(&hashes->threads[i], NULL, hash_files, hashes);

        if (failure)
            return error_set_errno(err, failure, "starting a thread");
        hashes->thread_count++;
    }
    return true;
}

static int compare_sizes(const void *a, const void *b)
{
    const struct hashed_file *const *x = a, *const *y = b;

    if ((*x)->size != (*y)->size)
        return (*x)->size > (*y)->size ? -1 : 1;
    return (*x > *y) - (*x < *y);
}

static void list_files(struct source_hashes *hashes, const char *const *paths)
{
    for (size_t i = 0; i < hashes->count; i++) {
        struct stat st;

        hashes->files[i].path = paths[i];
        if (stat(paths[i], &st) == 0)
            hashes->files[i].size = st.st_size;
        hashes->order[i] = &hashes->files[i];
    }
    if (hashes->count > 0)
        qsort(hashes->order, hashes->count, sizeof(struct hashed_file *), compare_sizes);
}

bool source_hashes_create(struct source_hashes **out, const char *const *paths, size_t count,
                          int thread_count, struct error *err)
{
    struct source_hashes *hashes = calloc(1, sizeof *hashes);

    if (!hashes || !init_condition(&hashes->file_done)) {
        free(hashes);
        return error_set(err, ERROR_NO_MEMORY, "hashes of %zu files", count);
    }
    pthread_mutex_init(&hashes->lock, NULL);
    hashes->files = calloc(count + 1, sizeof *hashes->files);
    hashes->order = calloc(count + 1, sizeof(struct hashed_file *));
    if (!hashes->files || !hashes->order) {
        error_set(err, ERROR_NO_MEMORY, "hashes of %zu files", count);
        goto fail;
    }
    hashes->count = count;
    list_files(hashes, paths);
    if (!start_threads(hashes, thread_count, err))
        goto fail;
    *out = hashes;
    return true;

fail:
    source_hashes_destroy(hashes);
    return false;
}

void source_hashes_destroy(struct source_hashes *hashes)
{
    if (!hashes)
        return;
    atomic_store(&hashes->is_stopping, true);
    for (int i = 0; i < hashes->thread_count; i++)
        pthread_join(hashes->threads[i], NULL);
    pthread_cond_destroy(&hashes->file_done);
    pthread_mutex_destroy(&hashes->lock);
    free(hashes->files);
    free(hashes->order);
    free(hashes);
}

static struct timespec time_after(double seconds)
{
    struct timespec until;
    long whole = (long)seconds;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += whole;
    until.tv_nsec += (long)((seconds - (double)whole) * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    return until;
}

bool source_hashes_wait(const char **out, struct source_hashes *hashes, size_t i, double seconds,
                        struct error *err)
{
    const struct timespec until = time_after(seconds);
    struct hashed_file *file = &hashes->files[i];
    bool ok;

    pthread_mutex_lock(&hashes->lock);
    while (!file->is_done &&
           pthread_cond_timedwait(&hashes->file_done, &hashes->lock, &until) == 0) {
    }
    ok = !file->is_done || file->is_good;
    *out = file->is_done && file->is_good ? file->text : NULL;
    if (!ok)
        *err = file->err;
    pthread_mutex_unlock(&hashes->lock);
    return ok;
}

void source_hashes_progress(struct source_hashes *hashes, size_t *done, size_t *total)
{
    *done = atomic_load(&hashes->done_bytes);
    *total = 0;
    for (size_t i = 0; i < hashes->count; i++)
        *total += (size_t)hashes->files[i].size;
}
