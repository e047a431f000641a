#include "tensor/tensor.h"

#include <assert.h>
#include <stdio.h>

#include "base/size.h"

struct tensor tensor_of(void *data, enum dtype dtype, int rank, const int64_t *dim)
{
    struct tensor tensor = {.dtype = dtype, .rank = rank, .data = data};
    int64_t stride = 1;

    assert(rank >= 1 && rank <= TENSOR_MAX_RANK);
    for (int i = rank - 1; i >= 0; i--) {
        tensor.dim[i] = dim[i];
        tensor.stride[i] = stride;
        stride *= dim[i];
    }
    return tensor;
}

bool tensor_alloc(struct tensor *out, struct arena *arena, enum dtype dtype, const char *what,
                  int rank, const int64_t *dim, struct error *err)
{
    char shape[TENSOR_SHAPE_TEXT_BYTES];
    struct tensor tensor = {.rank = 0};
    size_t strides = 1; /* the largest stride: an empty tensor has strides too */
    bool fits = true;

    for (int i = 0; i < rank; i++)
        fits = fits && dim[i] >= 0 && size_mul(&strides, strides, (size_t)max_i64(dim[i], 1)) &&
               strides <= INT64_MAX / 8;
    if (fits)
        tensor = tensor_of(NULL, dtype, rank, dim);
    if (!fits ||
        !arena_alloc(&tensor.data, arena, (size_t)tensor_count(&tensor), dtype_size(dtype)))
        return error_set(err, ERROR_NO_MEMORY, "%s: no room for %s %s", what, dtype_name(dtype),
                         tensor_shape_text(shape, sizeof shape, rank, dim));
    *out = tensor;
    return true;
}

int64_t tensor_count(const struct tensor *tensor)
{
    int64_t count = tensor->rank ? 1 : 0;

    for (int i = 0; i < tensor->rank; i++)
        count *= tensor->dim[i];
    return count;
}

size_t tensor_bytes(const struct tensor *tensor)
{
    return (size_t)tensor_count(tensor) * dtype_size(tensor->dtype);
}

bool tensor_is_contiguous(const struct tensor *tensor)
{
    int64_t stride = 1;

    for (int i = tensor->rank - 1; i >= 0; i--) {
        if (tensor->dim[i] != 1 && tensor->stride[i] != stride)
            return false;
        stride *= tensor->dim[i];
    }
    return true;
}

bool tensor_same_shape(const struct tensor *a, const struct tensor *b)
{
    if (a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i])
            return false;
    return true;
}

struct tensor tensor_slice(const struct tensor *tensor, int axis, int64_t begin, int64_t count)
{
    struct tensor view = *tensor;

    assert(axis >= 0 && axis < tensor->rank);
    assert(begin >= 0 && count >= 0 && begin + count <= tensor->dim[axis]);
    view.dim[axis] = count;
    view.data =
        (char *)tensor->data + begin * tensor->stride[axis] * (int64_t)dtype_size(tensor->dtype);
    if (tensor->row_scale) {
        assert(axis == 0);
        view.row_scale += begin * (tensor_row_count(tensor) / tensor->dim[0]);
    }
    return view;
}

struct tensor tensor_split(const struct tensor *tensor, int axis, int64_t inner)
{
    struct tensor view = *tensor;

    assert(tensor->rank < TENSOR_MAX_RANK && tensor->dim[axis] % inner == 0);
    for (int i = tensor->rank; i > axis + 1; i--) {
        view.dim[i] = tensor->dim[i - 1];
        view.stride[i] = tensor->stride[i - 1];
    }
    view.rank = tensor->rank + 1;
    view.dim[axis] = tensor->dim[axis] / inner;
    view.stride[axis] = tensor->stride[axis] * inner;
    view.dim[axis + 1] = inner;
    view.stride[axis + 1] = tensor->stride[axis];
    return view;
}

struct tensor tensor_permute(const struct tensor *tensor, const int *order)
{
    struct tensor view = *tensor;

    for (int i = 0; i < tensor->rank; i++) {
        view.dim[i] = tensor->dim[order[i]];
        view.stride[i] = tensor->stride[order[i]];
    }
    return view;
}

struct tensor tensor_reshape(const struct tensor *tensor, int rank, const int64_t *dim)
{
    struct tensor view = tensor_of(tensor->data, tensor->dtype, rank, dim);

    assert(tensor_is_contiguous(tensor) && tensor_count(tensor) == tensor_count(&view));
    return view;
}

int64_t tensor_row_count(const struct tensor *tensor)
{
    int64_t count = 1;

    for (int i = 0; i < tensor->rank - 1; i++)
        count *= tensor->dim[i];
    return count;
}

int64_t tensor_row_offset(const struct tensor *tensor, int64_t row)
{
    int64_t offset = 0;

    for (int i = tensor->rank - 2; i >= 0; i--) {
        offset += row % tensor->dim[i] * tensor->stride[i];
        row /= tensor->dim[i];
    }
    return offset;
}

char *tensor_shape_text(char *text, size_t size, int rank, const int64_t *dim)
{
    size_t used = 0;

    used += (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && used < size; i++)
        used +=
            (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "", (long long)dim[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
    return text;
}
