/* Weights put together in memory, written to a file of the test's folder, and opened again. */
#ifndef TESTS_UNIT_WEIGHT_CONTENT_H
#define TESTS_UNIT_WEIGHT_CONTENT_H

#include "weights/safetensors.h"
#include "weights/weights.h"

#define ITEMS_MAX 256

struct item {
    char name[160];
    enum safetensors_dtype dtype;
    int rank;
    int64_t dim[6];
    unsigned char *data;
    size_t bytes;
};

struct content {
    struct item item[ITEMS_MAX];
    size_t count;
    const char *quantization; /* "_quantization_metadata"; NULL: none */
};

/* A copy of data, which has the shape's elements. */
struct item *content_put(struct content *content, const char *name, enum safetensors_dtype dtype,
                         int rank, const int64_t *dim, const void *data);
#define PUT(content, name, dtype, data, ...)                                                       \
    content_put(content, name, dtype, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),   \
                (int64_t[]){__VA_ARGS__}, data)

/* A tensor whose elements are all different, and different from those of all others. */
struct item *content_put_f32(struct content *content, const char *name, int rank,
                             const int64_t *dim);
#define PUT_F32(content, name, ...)                                                                \
    content_put_f32(content, name, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),      \
                    (int64_t[]){__VA_ARGS__})

/* Fails the test when there is none. */
const struct item *content_item(const struct content *content, const char *name);
void content_clear(struct content *content);

/* The path of the file, whose names begin with the prefix. */
const char *content_write(const struct content *content, const char *file_name, const char *prefix);
/* The file's weights; NULL with an error. */
struct weights *content_try_open(enum component component, const char *path, const char *prefix,
                                 struct error *err);
/* Written and opened. */
struct weights *content_open(enum component component, const struct content *content);

/* The tensor has the f32 values of data. */
void expect_values(const struct tensor *tensor, const void *data, const char *what);
/* Whether the linear [n, k] of that canonical name, which is there, is marked to become FP8. */
bool becomes_8_bits(struct weights *weights, int64_t n, int64_t k, const char *name);

#endif
