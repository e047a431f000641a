#include "server/store_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "image/image.h"
#include "store/store_private.h"

bool fixture_is_child;

const char *fixture_folder(void)
{
    static int count;
    char name[32];
    const char *path;

    snprintf(name, sizeof name, "store%d", count++);
    path = test_path(name);
    assert_int_equal(mkdir(path, 0700), 0);
    return path;
}

void fixture_good(bool is_good, const struct error *err)
{
    if (is_good)
        return;
    if (fixture_is_child) {
        fprintf(stderr, "child: %s\n", err->message);
        _exit(9);
    }
    fail_msg("%s", err->message);
}

struct store *fixture_open(const char *folder)
{
    struct error err = {0};
    struct store *store = NULL;

    fixture_good(store_open(&store, folder, &err), &err);
    return store;
}

void fixture_id(char id[STORE_ID_BYTES], int number)
{
    snprintf(id, STORE_ID_BYTES, "%032x", (unsigned)number);
}

struct store_new_job fixture_job(const char *id, const char *prompt)
{
    return (struct store_new_job){.id = id,
                                  .owner = "ada",
                                  .api = "native",
                                  .parameters = "{\"steps\":4}",
                                  .prompt = prompt,
                                  .cost = 1.5,
                                  .created_ms = 1000};
}

void fixture_accept(struct store *store, int number)
{
    char id[STORE_ID_BYTES], answer[STORE_ID_BYTES];
    struct error err = {0};
    enum store_accept how;
    struct store_new_job job;

    fixture_id(id, number);
    job = fixture_job(id, "A fox");
    fixture_good(store_accept(store, &job, &how, answer, &err), &err);
    assert_int_equal(how, STORE_ACCEPTED);
    assert_string_equal(answer, id);
}

int64_t fixture_claim(struct store *store, int number)
{
    char id[STORE_ID_BYTES];
    struct error err = {0};
    int64_t fence = -1;
    bool claimed;

    fixture_id(id, number);
    fixture_good(store_claim(store, id, "worker", 1000, 2000, &fence, &claimed, &err), &err);
    assert_true(claimed);
    return fence;
}

struct store_job fixture_get(struct store *store, int number)
{
    struct store_job job;
    char id[STORE_ID_BYTES];
    struct error err = {0};
    bool found;

    fixture_id(id, number);
    fixture_good(store_get(store, id, NULL, &job, &found, &err), &err);
    assert_true(found);
    return job;
}

void fixture_finish(struct store *store, int number, int64_t fence, bool wanted)
{
    char id[STORE_ID_BYTES];
    struct error err = {0};
    bool kept;

    fixture_id(id, number);
    fixture_good(store_finish(store, id, fence, "{\"seconds\":1}", 3000, &kept, &err), &err);
    assert_int_equal(kept, wanted);
}

#define SIDE 8
#define PNG_MAX 512

/* Encoded once for each colour. */
static struct store_blob encoded_png(int number)
{
    static struct {
        unsigned char bytes[PNG_MAX];
        size_t size;
    } made[256];
    int colour = number & 255;

    if (made[colour].size == 0) {
        struct error err = {0};
        struct image image;
        unsigned char *bytes;
        size_t size;

        fixture_good(image_init(&image, SIDE, SIDE, &err), &err);
        memset(image.pixels, colour, (size_t)SIDE * SIDE * 3);
        fixture_good(image_encode(&bytes, &size, &image, IMAGE_PNG, 90, NULL, &err), &err);
        assert_true(size <= PNG_MAX);
        memcpy(made[colour].bytes, bytes, size);
        made[colour].size = size;
        free(bytes);
        image_finish(&image);
    }
    return (struct store_blob){made[colour].bytes, made[colour].size};
}

struct store_new_picture fixture_picture(int number, int index)
{
    return (struct store_new_picture){.index = index,
                                      .width = SIDE,
                                      .height = SIDE,
                                      .seed = UINT64_MAX - (uint64_t)number,
                                      .format = "png",
                                      .file = encoded_png(number),
                                      .thumbnail = encoded_png(number)};
}

void fixture_add(struct store *store, int number, int64_t fence, int index)
{
    struct store_new_picture picture = fixture_picture(number + index, index);
    char id[STORE_ID_BYTES];
    struct error err = {0};
    bool kept;

    fixture_id(id, number);
    fixture_good(store_add_picture(store, id, fence, &picture, &kept, &err), &err);
    assert_true(kept);
}

struct loudness {
    int count;
    bool is_loud;
};

static void note_defect(void *context, const char *sentence)
{
    struct loudness *loudness = context;

    loudness->count++;
    if (loudness->is_loud)
        print_message("defect: %s\n", sentence);
}

int fixture_defects(const char *folder, bool is_loud)
{
    struct loudness loudness = {.is_loud = is_loud};
    struct error err = {0};
    int64_t checked;

    fixture_good(store_verify(folder, note_defect, &loudness, &checked, &err), &err);
    return loudness.count;
}

static bool count_file(void *context, const char *path, struct error *err)
{
    (void)path;
    (void)err;
    ++*(int *)context;
    return true;
}

int fixture_file_count(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct error err = {0};
    int count = 0;

    assert_true(fd >= 0);
    fixture_good(store_each_file(fd, count_file, &count, &err), &err);
    close(fd);
    return count;
}
