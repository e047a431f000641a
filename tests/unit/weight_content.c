#include "weight_content.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/support.h"
#include "weights/weights_build.h"

struct item *content_put(struct content *content, const char *name, enum safetensors_dtype dtype,
                         int rank, const int64_t *dim, const void *data)
{
    struct item *item = &content->item[content->count++];

    assert_true(content->count <= ITEMS_MAX);
    *item = (struct item){.dtype = dtype, .rank = rank, .bytes = safetensors_dtype_size(dtype)};
    snprintf(item->name, sizeof item->name, "%s", name);
    for (int i = 0; i < rank; i++) {
        item->dim[i] = dim[i];
        item->bytes *= (size_t)dim[i];
    }
    item->data = malloc(item->bytes + 1);
    assert_non_null(item->data);
    memcpy(item->data, data, item->bytes);
    return item;
}

struct item *content_put_f32(struct content *content, const char *name, int rank,
                             const int64_t *dim)
{
    static float next = 1.0f;
    float values[4096];
    int64_t count = 1;

    for (int i = 0; i < rank; i++)
        count *= dim[i];
    assert_true(count <= (int64_t)COUNT_OF(values));
    for (int64_t i = 0; i < count; i++)
        values[i] = next++;
    return content_put(content, name, SAFETENSORS_F32, rank, dim, values);
}

const struct item *content_item(const struct content *content, const char *name)
{
    for (size_t i = 0; i < content->count; i++)
        if (strcmp(content->item[i].name, name) == 0)
            return &content->item[i];
    fail_msg("no '%s' in the test's content", name);
    return NULL;
}

void content_clear(struct content *content)
{
    for (size_t i = 0; i < content->count; i++)
        free(content->item[i].data);
    content->count = 0;
    content->quantization = NULL;
}

const char *content_write(const struct content *content, const char *file_name, const char *prefix)
{
    const char *path = test_path(file_name);
    struct safetensors_writer *writer;
    char name[256];

    assert_true(safetensors_writer_create(&writer, path, NULL));
    if (content->quantization)
        assert_true(safetensors_writer_metadata(writer, "_quantization_metadata",
                                                content->quantization, NULL));
    for (size_t i = 0; i < content->count; i++) {
        const struct item *item = &content->item[i];

        snprintf(name, sizeof name, "%s%s", prefix, item->name);
        assert_true(
            safetensors_writer_declare(writer, name, item->dtype, item->rank, item->dim, NULL));
    }
    for (size_t i = 0; i < content->count; i++)
        assert_true(
            safetensors_writer_append(writer, content->item[i].data, content->item[i].bytes, NULL));
    assert_true(safetensors_writer_commit(writer, NULL));
    return path;
}

struct weights *content_try_open(enum component component, const char *path, const char *prefix,
                                 struct error *err)
{
    struct safetensors_file *file;
    struct weights *weights;

    assert_true(safetensors_open(&file, path, err));
    assert_true(weights_create(&weights, component, path, err));
    if (!weights_add_file(weights, file, prefix, err) || !weights_finish(weights, err)) {
        weights_destroy(weights);
        weights = NULL;
    }
    safetensors_close(file);
    return weights;
}

struct weights *content_open(enum component component, const struct content *content)
{
    struct error err = {0};
    struct weights *weights =
        content_try_open(component, content_write(content, "content.safetensors", ""), "", &err);

    if (!weights)
        fail_msg("%s", err.message);
    return weights;
}

void expect_values(const struct tensor *tensor, const void *data, const char *what)
{
    if (!tensor_exists(tensor) ||
        memcmp(tensor->data, data, (size_t)tensor_count(tensor) * sizeof(float)) != 0)
        fail_msg("%s: other values", what);
}

bool becomes_8_bits(struct weights *weights, int64_t n, int64_t k, const char *name)
{
    struct weight_loader loader;
    struct linear layer;

    weight_loader_init(&loader, weights);
    weight_loader_linear(&loader, &layer, n, k, false, "%s", name);
    assert_true(weight_loader_finish(&loader, NULL));
    return layer.to_8_bits;
}
