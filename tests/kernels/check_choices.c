/* Algorithms that one start chose are those of the next, and a file of choices that is wrong costs
 * only time. Run with --device cuda. A stream stands for a start: it reads the file when it is
 * created and writes it when it has something new. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "kernel_check.h"

#define HEAD_WIDTH 64
#define OUTPUTS 4
#define PATH_BYTES 512
#define FILE_BYTES_MAX ((size_t)4 << 20)

static char folder[] = "/tmp/sd35-check-choices-XXXXXX";

/* Input and weights of what is chosen by timing. */
struct work {
    struct linear layer, layer_8_bit, filter;
    struct tensor x, rows, picture, qkv;
    struct tensor out[OUTPUTS];
};

static struct tensor make_rows(struct kernel_check *check)
{
    struct tensor rows = KERNEL_TENSOR(check, DTYPE_F8_E4M3, 0, 1, 333, 1536);
    struct tensor factors = KERNEL_TENSOR(check, DTYPE_F32, 0, 333);

    kernel_randomise(check, &factors, 0.01, 0.001);
    rows.row_scale = factors.data;
    return rows;
}

static struct work make_work(struct kernel_check *check)
{
    struct work work = {
        .layer.weight = KERNEL_TENSOR(check, check->f, 0, 1536, 1536),
        .layer_8_bit.weight = KERNEL_TENSOR(check, DTYPE_F8_E4M3, 0, 1536, 1536),
        .layer_8_bit.scale = KERNEL_TENSOR(check, DTYPE_F32, 0, 1536),
        .filter.weight = KERNEL_TENSOR(check, check->f, 0, 128, 128, 3, 3),
        .filter.bias = KERNEL_TENSOR(check, DTYPE_F32, 0, 128),
        .x = KERNEL_TENSOR(check, check->f, 0, 1, 333, 1536),
        .rows = make_rows(check),
        .picture = KERNEL_TENSOR(check, check->f, 0, 1, 64, 64, 128),
        .qkv = KERNEL_TENSOR(check, check->f, 0, 2, 429, 9 * HEAD_WIDTH),
    };

    work.out[0] = KERNEL_TENSOR(check, check->f, 0, 1, 333, 1536);
    work.out[1] = kernel_like(check, &work.out[0]);
    work.out[2] = kernel_like(check, &work.picture);
    work.out[3] = KERNEL_TENSOR(check, check->f, 0, 2, 429, 3, HEAD_WIDTH);
    return work;
}

static struct tensor attention_part(const struct tensor *fused, int64_t index)
{
    int64_t width = fused->dim[2] / 3;
    struct tensor third = tensor_slice(fused, 2, index * width, width);

    return tensor_split(&third, 2, HEAD_WIDTH);
}

static bool multiplies_rows(const struct kernel_check *check)
{
    struct linear layer = {.weight = TENSOR_OF(NULL, DTYPE_F8_E4M3, 16, 16)};

    return check->fast.linear_input && check->fast.linear_input(&layer, 1) == DTYPE_F8_E4M3;
}

/* One start: everything is run on a new stream, which then goes. results[OUTPUTS] become its. */
static void start(struct kernel_check *check, const struct work *work,
                  struct tensor results[OUTPUTS], const char *what)
{
    struct conv_options whole = {.stride = 1, .upsample = 1, .pad_top = 1, .pad_left = 1};
    struct attention_options options = {.scale = 0.125f};
    struct tensor q = attention_part(&work->qkv, 0), k = attention_part(&work->qkv, 1);
    struct tensor v = attention_part(&work->qkv, 2);
    struct stream_options stream_options = {0};
    struct stream *stream;
    struct error err = {0};

    for (int i = 0; i < OUTPUTS; i++)
        results[i] = kernel_like(check, &work->out[i]);
    if (!check->fast.stream_create(&stream, &check->fast, &stream_options, &err)) {
        kernel_expect(check, false, "%s: %s", what, err.message);
        return;
    }
    check->fast.linear(stream, &results[0], &work->x, &work->layer);
    if (multiplies_rows(check))
        check->fast.linear(stream, &results[1], &work->rows, &work->layer_8_bit);
    check->fast.conv2d(stream, &results[2], &work->picture, &work->filter, &whole);
    check->fast.attention(stream, &results[3], &q, &k, &v, &options);
    kernel_expect(check, check->fast.stream_finish(stream, &err), "%s: the stream is well: %s",
                  what, err.message);
    check->fast.stream_destroy(stream);
}

static void expect_equal(struct kernel_check *check, const struct tensor got[OUTPUTS],
                         const struct tensor want[OUTPUTS], const char *what)
{
    for (int i = 0; i < OUTPUTS; i++)
        kernel_expect_equal(check, &got[i], &want[i], "%s: result %d", what, i);
}

/* Other algorithms add in another order. */
static void expect_close(struct kernel_check *check, const struct tensor got[OUTPUTS],
                         const struct tensor want[OUTPUTS], const char *what)
{
    for (int i = 0; i < OUTPUTS; i++)
        if (i != 1 || multiplies_rows(check))
            kernel_expect_close(check, &got[i], &want[i], 4 * kernel_tolerance(check->f, 1536),
                                "%s: result %d", what, i);
}

/* --- The file --- */

/* The folder's only file; "" when there is none or there are more. */
static void find_file(char path[PATH_BYTES])
{
    DIR *listing = opendir(folder);
    struct dirent *entry;
    int count = 0;

    *path = '\0';
    if (!listing)
        return;
    while ((entry = readdir(listing)) != NULL)
        if (entry->d_name[0] != '.') {
            snprintf(path, PATH_BYTES, "%s/%s", folder, entry->d_name);
            count++;
        }
    closedir(listing);
    if (count != 1)
        *path = '\0';
}

/* Tells one writing of the file from the next: each makes a new file. */
struct writing {
    ino_t inode;
    struct timespec when;
};

static struct writing writing_of(const char *path)
{
    struct stat st = {0};

    (void)stat(path, &st);
    return (struct writing){st.st_ino, st.st_mtim};
}

static bool is_same_writing(struct writing a, struct writing b)
{
    return a.inode == b.inode && a.when.tv_sec == b.when.tv_sec && a.when.tv_nsec == b.when.tv_nsec;
}

/* Records of each kind, by choice_kind's numbers; the format is choice_file.c's. */
static void count_kinds(int counts[4], const unsigned char *bytes, size_t size)
{
    uint32_t head[3]; /* the kind, and the sizes of key and value */

    memset(counts, 0, 4 * sizeof *counts);
    memcpy(head, bytes + 24, sizeof *head);
    for (size_t at = 24 + 4 + head[0]; at + sizeof head <= size;
         at += sizeof head + head[1] + head[2]) {
        memcpy(head, bytes + at, sizeof head);
        counts[head[0] < 4 ? head[0] : 0]++;
    }
}

/* Without one of a kind, nothing would be known of it at the next start. */
static void expect_kinds(struct kernel_check *check, const char *path)
{
    unsigned char *bytes;
    int counts[4];
    size_t size;
    struct error err;

    if (!file_read(&bytes, &size, path, FILE_BYTES_MAX, &err)) {
        kernel_expect(check, false, "%s", err.message);
        return;
    }
    count_kinds(counts, bytes, size);
    free(bytes);
    printf("%zu bytes: %d products, %d graphs of cuDNN, %d attentions\n", size, counts[1],
           counts[2], counts[3]);
    kernel_expect(check, counts[1] > 0, "choices of cuBLASLt are kept");
    kernel_expect(check, counts[2] > 0, "choices of cuDNN are kept (is it installed?)");
    kernel_expect(check, counts[0] == 0, "all kinds are known");
}

/* Lays `spoil` over each value's first bytes and makes the checksum right again. */
static void spoil_values(unsigned char *bytes, size_t size, uint64_t spoil, size_t spoil_bytes)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    uint32_t head[3];
    size_t at;

    memcpy(head, bytes + 24, sizeof *head);
    for (at = 24 + 4 + head[0]; at + sizeof head <= size; at += sizeof head + head[1] + head[2]) {
        unsigned char *value;

        memcpy(head, bytes + at, sizeof head);
        value = bytes + at + sizeof head + head[1];
        for (size_t i = 0; i < head[2] && i < spoil_bytes; i++)
            value[i] ^= (unsigned char)(spoil >> (8 * (i % 8)));
    }
    for (size_t i = 24; i < size; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    memcpy(bytes + 16, &hash, sizeof hash);
}

/* Starts over a file that is wrong: all runs, and what it chose holds at the next start. */
static void check_wrong(struct kernel_check *check, const struct work *work,
                        const struct tensor want[OUTPUTS], const char *path, const char *what)
{
    struct writing before = writing_of(path), written;
    struct tensor first[OUTPUTS], second[OUTPUTS];

    start(check, work, first, what);
    expect_close(check, first, want, what);
    written = writing_of(path);
    kernel_expect(check, !is_same_writing(before, written), "%s: something is chosen anew", what);
    start(check, work, second, what);
    expect_equal(check, second, first, what);
    kernel_expect(check, is_same_writing(written, writing_of(path)), "%s: and only once", what);
}

static void check_wrong_files(struct kernel_check *check, const struct work *work,
                              const struct tensor want[OUTPUTS], const char *path)
{
    unsigned char *bytes;
    size_t size;
    struct error err;
    static const struct {
        const char *what;
        uint64_t spoil;
        size_t bytes;
    } cases[] = {{"values of ones", UINT64_MAX, 64},
                 {"values with another number first", 77, 1},
                 {"values with another number behind", UINT64_C(0xff00000000000000), 24}};

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        if (!file_read(&bytes, &size, path, FILE_BYTES_MAX, &err)) {
            kernel_expect(check, false, "%s", err.message);
            return;
        }
        spoil_values(bytes, size, cases[i].spoil, cases[i].bytes);
        kernel_expect(check, file_write(path, bytes, size, &err), "a file is spoilt");
        free(bytes);
        check_wrong(check, work, want, path, cases[i].what);
    }
    kernel_expect(check, truncate(path, 100) == 0, "a file is cut");
    check_wrong(check, work, want, path, "a file that was cut");
    kernel_expect(check, unlink(path) == 0, "a file is removed");
    check_wrong(check, work, want, path, "no file");
}

static void check_choices(struct kernel_check *check)
{
    struct work work = make_work(check);
    struct tensor first[OUTPUTS], second[OUTPUTS];
    struct writing written;
    char path[PATH_BYTES];

    if (check->f == DTYPE_F32) { /* then sums are in one order, and nothing is chosen */
        printf("SKIPPED: nothing is chosen in f32\n");
        kernel_release(check);
        return;
    }
    start(check, &work, first, "the first start");
    find_file(path);
    kernel_expect(check, *path, "there is one file of choices in %s", folder);
    written = writing_of(path);
    start(check, &work, second, "the second start");
    expect_equal(check, second, first, "the second start");
    kernel_expect(check, is_same_writing(written, writing_of(path)),
                  "the second start chooses nothing");
    if (*path) {
        expect_kinds(check, path);
        check_wrong_files(check, &work, first, path);
    }
    kernel_release(check);
    (void)unlink(path);
}

int main(int argc, char **argv)
{
    bool has_device = false;
    int result;

    for (int i = 1; i < argc; i++)
        has_device = has_device || strcmp(argv[i], "--device") == 0;
    if (!has_device) {
        printf("SKIPPED: only devices choose by timing\n");
        return 0;
    }
    if (!mkdtemp(folder) || setenv("SD35_CACHE_DIR", folder, 1) != 0) {
        perror(folder);
        return 99;
    }
    result = kernel_check_main(argc, argv, check_choices, check_choices);
    (void)rmdir(folder);
    return result;
}
