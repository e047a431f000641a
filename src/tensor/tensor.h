/* Tensor: a shape with strides over memory that somebody else owns.
 *
 * Dimensions are written outermost first. Strides count elements. Copying the struct copies the
 * view, never the data. Views (tensor_slice, tensor_split, ...) point into the same memory.
 */
#ifndef TENSOR_TENSOR_H
#define TENSOR_TENSOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/attributes.h"
#include "base/error.h"
#include "tensor/dtype.h"

#define TENSOR_MAX_RANK 5

struct tensor {
    enum dtype dtype;
    int rank; /* 0: no tensor */
    int64_t dim[TENSOR_MAX_RANK];
    int64_t stride[TENSOR_MAX_RANK];
    void *data;       /* may be unaligned when it points into a model file */
    float *row_scale; /* of f8_e4m3 activations: what each row is multiplied by, dense in row order;
                       * NULL: 1. Lies where the data lies. */
};

/* A linear layer or convolution as the ops take it: y = (weight * scale) x + bias. */
struct linear {
    struct tensor weight; /* [N, K], or [N, C, kh, kw] for a convolution; any float dtype */
    struct tensor scale;  /* f32: [1] or [N], what each f8 weight is multiplied by; rank 0: 1 */
    struct tensor bias;   /* f32 [N]; rank 0: none */
    /* A device makes f8_e4m3 of a matrix of 16 or 32 bits while it copies it, with a factor for
     * each row, as convert/quantise.h chooses them. Hosts take the weight as it is. */
    bool to_8_bits;
};

/* The type that the weight has where to_8_bits is heeded. */
static inline enum dtype linear_held_dtype(const struct linear *layer)
{
    bool is_wide = dtype_size(layer->weight.dtype) > 1;

    return layer->to_8_bits && is_wide ? DTYPE_F8_E4M3 : layer->weight.dtype;
}

/* Contiguous over `data`, which holds at least the product of dim. */
struct tensor tensor_of(void *data, enum dtype dtype, int rank, const int64_t *dim);
#define TENSOR_OF(data, dtype, ...)                                                                \
    tensor_of((data), (dtype), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),          \
              (int64_t[]){__VA_ARGS__})

/* A new contiguous tensor in the arena. Fails with ERROR_NO_MEMORY, naming `what` and its bytes. */
MUST_CHECK bool tensor_alloc(struct tensor *out, struct arena *arena, enum dtype dtype,
                             const char *what, int rank, const int64_t *dim, struct error *err);
#define TENSOR_ALLOC(out, arena, dtype, what, err, ...)                                            \
    tensor_alloc((out), (arena), (dtype), (what),                                                  \
                 (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                        \
                 (int64_t[]){__VA_ARGS__}, (err))

static inline bool tensor_exists(const struct tensor *tensor)
{
    return tensor->rank != 0;
}

int64_t tensor_count(const struct tensor *tensor); /* product of dim; 0 for no tensor */
size_t tensor_bytes(const struct tensor *tensor);  /* of a contiguous tensor of this shape */
bool tensor_is_contiguous(const struct tensor *tensor);
bool tensor_same_shape(const struct tensor *a, const struct tensor *b);

/* View of [begin, begin + count) along one axis; with row_scale, along the first. */
struct tensor tensor_slice(const struct tensor *tensor, int axis, int64_t begin, int64_t count);
/* View with one axis of size `outer` * `inner` seen as two: [.., outer, inner, ..]. */
struct tensor tensor_split(const struct tensor *tensor, int axis, int64_t inner);
/* View with the axes in another order: result axis i is axis order[i] of the tensor. */
struct tensor tensor_permute(const struct tensor *tensor, const int *order);
/* View of a contiguous tensor under another shape of the same count. */
struct tensor tensor_reshape(const struct tensor *tensor, int rank, const int64_t *dim);
#define TENSOR_RESHAPE(tensor, ...)                                                                \
    tensor_reshape((tensor), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),            \
                   (int64_t[]){__VA_ARGS__})

/* Rows are what lies along the last axis: how many there are, and where row `row` starts, in
 * elements from `data`. */
int64_t tensor_row_count(const struct tensor *tensor);
int64_t tensor_row_offset(const struct tensor *tensor, int64_t row);

/* "[2, 333, 1536]" into `text`; returns `text`. */
char *tensor_shape_text(char *text, size_t size, int rank, const int64_t *dim);

#define TENSOR_SHAPE_TEXT_BYTES 128

#endif
