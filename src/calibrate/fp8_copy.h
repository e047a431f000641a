/* A linear weight in FP8, in memory: what a network computes with in place of its own.
 *
 * Beside the recipe that conversions use there are the naive ones, to compare with.
 */
#ifndef CALIBRATE_FP8_COPY_H
#define CALIBRATE_FP8_COPY_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "convert/quantise.h"
#include "tensor/tensor.h"

enum fp8_recipe {
    FP8_ROWS,   /* a factor a row, of least squared error: what conversions write */
    FP8_TENSOR, /* the largest weight at the format's largest number */
    FP8_CAST,   /* no factors */
};

struct fp8_copy {
    struct tensor weight; /* [N, K]; the data is owned */
    struct tensor scale;  /* f32 [N] or [1]; rank 0: none */
};

/* weight [N, K] f32, f16 or bf16, contiguous. Fails with ERROR_NO_MEMORY, and with ERROR_BAD_FILE
 * when a weight is not finite. Free with fp8_copy_finish. */
MUST_CHECK bool fp8_copy_init(struct fp8_copy *copy, const struct tensor *weight, enum dtype format,
                              enum fp8_recipe recipe, const struct quantise_ops *ops,
                              struct error *err);
void fp8_copy_finish(struct fp8_copy *copy);

/* out[k] = in[k] as E4M3 keeps it with one factor for the row, its largest magnitude at 448: what
 * a GPU makes of activations. */
void fp8_round_row(float *out, const float *in, int64_t count);

#endif
