/* Plan of a conversion: every tensor that will be written, in which file and where in it, what it
 * is made from and in which type. Making it reads headers and, of F32 tensors that are not
 * quantised, values; everything that can be wrong with a model's shape is found here.
 */
#ifndef CONVERT_CONVERT_PLAN_H
#define CONVERT_CONVERT_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "convert/convert.h"
#include "convert/model_tensors.h"
#include "convert/quantise.h"
#include "weights/keep_rule.h"
#include "weights/model_files.h"

#define PLAN_PARTS_MAX 3

/* A linear layer: the unit that is kept or not. */
struct plan_layer {
    char name[LAYER_NAME_BYTES]; /* "transformer.block.0.image.q" */
    const struct model_tensor *source;
    const char *reason; /* why it stays in 16 bits; NULL: it becomes FP8 */
    const char *tensor; /* that it is in */
    enum dtype dtype;
    double error; /* ||stored - w|| / ||w|| when it is FP8; set while it is converted */
};

struct plan_tensor {
    char name[SAFETENSORS_NAME_BYTES_MAX + 1]; /* in the file, prefix included */
    enum component component;
    const struct model_tensor *part[PLAN_PARTS_MAX]; /* one below the other */
    int parts;                                       /* 0: a marker, one zero */
    struct plan_layer *layer[PLAN_PARTS_MAX];        /* NULL for what is no linear's weight */
    enum dtype dtype;
    int rank;
    int64_t dim[TENSOR_MAX_RANK];
    int64_t rows, columns;       /* of all parts; each has rows / parts */
    int64_t scale_count;         /* factors beside it: 0, 1 or rows */
    size_t offset, scale_offset; /* in the file's data */
    size_t bytes, source_bytes;
};

struct plan_file {
    char *name;          /* below the target's folder; the target itself where that is a file */
    size_t first, count; /* of the plan's tensors, in the order of their sources */
    size_t bytes;        /* of data */
    bool has[COMPONENT_COUNT];
};

struct convert_plan {
    const struct model_files *files; /* borrowed */
    enum convert_layout layout;
    enum dtype format;
    struct model_tensors list[COMPONENT_COUNT];
    struct plan_layer *layers;
    size_t layer_count;
    struct plan_tensor *tensors;
    size_t tensor_count, tensor_capacity;
    struct plan_file *out;
    size_t out_count;
    size_t bytes, source_bytes; /* of all tensors */
    size_t component_bytes[COMPONENT_COUNT], component_source_bytes[COMPONENT_COUNT];
    int64_t rows_max, columns_max;
    enum dtype narrow[COMPONENT_COUNT]; /* what F32 becomes */
};

/* Borrows `files` and what `options` point to. Free with convert_plan_destroy. */
MUST_CHECK bool convert_plan_create(struct convert_plan **out, const struct model_files *files,
                                    const struct convert_options *options,
                                    const struct quantise_ops *ops, struct error *err);
void convert_plan_destroy(struct convert_plan *plan); /* NULL is fine */

/* Where the model to convert lies. Borrows the options' texts. */
struct model_paths convert_source_paths(const struct convert_options *options);

/* "<layer>.scale_weight" for "<layer>.weight". */
void plan_scale_name(char name[SAFETENSORS_NAME_BYTES_MAX + 1], const struct plan_tensor *tensor);

bool plan_is_f8(enum dtype dtype);

#endif
