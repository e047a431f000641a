/* How many jobs a second the store accepts, claims and finishes on this disk.
 *
 * usage: bench_store FOLDER [JOBS] [GROUP]    FOLDER: empty; GROUP: accepts that share a commit
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/store.h"

struct bench {
    struct store *store;
    int jobs, group;
    double slowest; /* commit, in seconds */
};

static bool accept_one(struct bench *bench, int number, struct error *err)
{
    char id[STORE_ID_BYTES], key[32], answer[STORE_ID_BYTES];
    enum store_accept how;
    struct store_new_job job = {
        .id = id,
        .owner = "bench",
        .api = "native",
        .parameters = "{\"prompt\":\"a fox in the snow, at dawn\",\"steps\":28,\"width\":1024,"
                      "\"height\":1024,\"guidance_scale\":4.5,\"seed\":12345}",
        .prompt = "a fox in the snow, at dawn",
        .idempotency_key = key,
        .cost = 1,
        .created_ms = 1,
    };

    snprintf(id, sizeof id, "%032x", (unsigned)number);
    snprintf(key, sizeof key, "key-%d", number);
    return store_accept(bench->store, &job, &how, answer, err);
}

static bool accept_all(struct bench *bench, struct error *err)
{
    for (int i = 0; i < bench->jobs; i += bench->group) {
        double start = seconds_now();

        if (!store_begin(bench->store, err))
            return false;
        for (int k = i; k < i + bench->group && k < bench->jobs; k++)
            if (!accept_one(bench, k, err))
                return false;
        if (!store_commit(bench->store, err))
            return false;
        if (seconds_now() - start > bench->slowest)
            bench->slowest = seconds_now() - start;
    }
    return true;
}

/* Claim, one picture of 1 MiB, done. */
static bool run_one(struct bench *bench, int number, unsigned char *bytes, size_t size,
                    struct error *err)
{
    struct store_new_picture picture = {
        .width = 1024, .height = 1024, .format = "png", .file = {bytes, size}};
    char id[STORE_ID_BYTES];
    int64_t fence;
    bool answer;

    snprintf(id, sizeof id, "%032x", (unsigned)number);
    memcpy(bytes, &number, sizeof number); /* each has a name of its own */
    return store_claim(bench->store, id, "bench", 1000, 1, &fence, &answer, err) &&
           store_add_picture(bench->store, id, fence, &picture, &answer, err) &&
           store_finish(bench->store, id, fence, "{}", 2, &answer, err);
}

static bool run_some(struct bench *bench, int count, struct error *err)
{
    size_t size = (size_t)1 << 20;
    unsigned char *bytes = calloc(1, size);
    double start = seconds_now(), seconds;
    bool is_good = bytes || error_set(err, ERROR_NO_MEMORY, "a picture");

    for (int i = 0; is_good && i < count; i++)
        is_good = run_one(bench, i, bytes, size, err);
    free(bytes);
    if (!is_good)
        return false;
    seconds = seconds_now() - start;
    printf("claim, picture of 1 MiB, done: %.0f jobs/s\n", count / seconds);
    return true;
}

int main(int argc, char **argv)
{
    struct bench bench = {.jobs = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 10000,
                          .group = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 32};
    struct error err = {0};
    double start;

    if (argc < 2 || bench.jobs < 1 || bench.group < 1) {
        fprintf(stderr, "usage: %s FOLDER [JOBS] [GROUP]\n", argv[0]);
        return 2;
    }
    if (!store_open(&bench.store, argv[1], &err))
        goto fail;
    start = seconds_now();
    if (!accept_all(&bench, &err))
        goto fail;
    printf("accepts in groups of %d: %.0f jobs/s, slowest group %.1f ms\n", bench.group,
           bench.jobs / (seconds_now() - start), 1e3 * bench.slowest);
    if (!run_some(&bench, bench.jobs < 200 ? bench.jobs : 200, &err))
        goto fail;
    store_close(bench.store);
    return 0;

fail:
    fprintf(stderr, "bench_store: %s\n", err.message);
    store_close(bench.store);
    return error_exit_code(err.code);
}
