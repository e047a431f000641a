#include "golden.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"
#include "weights/safetensors.h"

#define NAME_BYTES 256

/* A converted tensor, in a list so that golden_close can free it. */
struct kept {
    struct kept *next;
    float values[]; /* or int32_t: as large */
};

struct golden {
    struct safetensors_file *file;
    struct kept *kept;
};

/* fail_msg, for readers of the code who cannot see that it never returns. */
static _Noreturn void give_up(const char *what, const char *name)
{
    fail_msg("%s: %s", name, what);
    abort();
}

struct golden *golden_open(const char *relative)
{
    struct golden *golden;
    struct error err;
    const char *path = test_shared_path(relative);

    if (!path) {
        fprintf(stderr, "SKIPPED: '%s' is not in the folder of golden values\n", relative);
        return NULL;
    }
    golden = calloc(1, sizeof *golden);
    if (!golden)
        give_up("no memory", path);
    if (!safetensors_open(&golden->file, path, &err))
        give_up(err.message, path);
    return golden;
}

void golden_close(struct golden *golden)
{
    if (!golden)
        return;
    while (golden->kept) {
        struct kept *first = golden->kept;

        golden->kept = first->next;
        free(first);
    }
    safetensors_close(golden->file);
    free(golden);
}

bool golden_has(const struct golden *golden, const char *name_format, ...)
{
    char name[NAME_BYTES];
    va_list arguments;

    va_start(arguments, name_format);
    vsnprintf(name, sizeof name, name_format, arguments);
    va_end(arguments);
    return safetensors_find(golden->file, name) != NULL;
}

static const struct safetensors_entry *find_entry(const struct golden *golden, const char *format,
                                                  va_list arguments)
{
    const struct safetensors_entry *entry;
    char name[NAME_BYTES];

    vsnprintf(name, sizeof name, format, arguments);
    entry = safetensors_find(golden->file, name);
    if (!entry)
        give_up("no such golden tensor", name);
    if (entry->rank > TENSOR_MAX_RANK)
        give_up("has too many dimensions", name);
    return entry;
}

/* Room for the entry's elements, four bytes each. */
static struct tensor keep_tensor(struct golden *golden, enum dtype dtype,
                                 const struct safetensors_entry *entry)
{
    int64_t scalar = 1;
    struct tensor tensor =
        tensor_of(NULL, dtype, entry->rank ? entry->rank : 1, entry->rank ? entry->dim : &scalar);
    struct kept *kept = malloc(sizeof *kept + tensor_bytes(&tensor));

    if (!kept)
        give_up("no memory", entry->name);
    kept->next = golden->kept;
    golden->kept = kept;
    tensor.data = kept->values;
    return tensor;
}

struct tensor golden_f32(struct golden *golden, const char *name_format, ...)
{
    const struct safetensors_entry *entry;
    struct tensor tensor;
    enum dtype dtype;
    va_list arguments;

    va_start(arguments, name_format);
    entry = find_entry(golden, name_format, arguments);
    va_end(arguments);
    if (!safetensors_to_dtype(&dtype, entry->dtype))
        give_up("no op computes with its type", entry->name);
    tensor = keep_tensor(golden, DTYPE_F32, entry);
    for (int64_t i = 0; i < tensor_count(&tensor); i++)
        ((float *)tensor.data)[i] = dtype_load(dtype, entry->data, i);
    return tensor;
}

struct tensor golden_i32(struct golden *golden, const char *name_format, ...)
{
    const struct safetensors_entry *entry;
    struct tensor tensor;
    va_list arguments;

    va_start(arguments, name_format);
    entry = find_entry(golden, name_format, arguments);
    va_end(arguments);
    if (entry->dtype != SAFETENSORS_I32 && entry->dtype != SAFETENSORS_I64)
        give_up("is not of an integer type", entry->name);
    tensor = keep_tensor(golden, DTYPE_I32, entry);
    for (int64_t i = 0; i < tensor_count(&tensor); i++) {
        int32_t *value = (int32_t *)tensor.data + i;
        int64_t wide;

        if (entry->dtype == SAFETENSORS_I32) {
            memcpy(value, entry->data + i * 4, 4);
        } else {
            memcpy(&wide, entry->data + i * 8, 8);
            *value = (int32_t)wide;
        }
    }
    return tensor;
}

double golden_relative_error(const struct tensor *got, const struct tensor *want)
{
    const float *g = got->data, *w = want->data;
    double difference = 0.0, size = 0.0;

    if (!tensor_same_shape(got, want))
        fail_msg("shapes to compare differ");
    for (int64_t i = 0; i < tensor_count(want); i++) {
        difference += pow((double)g[i] - (double)w[i], 2.0);
        size += pow((double)w[i], 2.0);
    }
    return size > 0.0 ? sqrt(difference / size) : sqrt(difference);
}
