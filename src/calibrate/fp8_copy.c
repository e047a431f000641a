#include "calibrate/fp8_copy.h"

#include <math.h>
#include <stdlib.h>

#include "tensor/f8_grid.h"

#define E4M3_LARGEST 448.0f

static void decode_row(float *values, const struct tensor *weight, int64_t row,
                       const struct quantise_ops *ops)
{
    int64_t columns = weight->dim[1];
    const unsigned char *at = weight->data;

    ops->decode(values, at + (size_t)(row * columns) * dtype_size(weight->dtype), weight->dtype,
                columns);
}

static float largest_of(float *values, const struct tensor *weight, const struct quantise_ops *ops)
{
    float largest = 0.0f;

    for (int64_t row = 0; row < weight->dim[0]; row++) {
        decode_row(values, weight, row, ops);
        largest = fmaxf(largest, ops->largest(values, weight->dim[1]));
    }
    return largest;
}

static void encode_rows(struct fp8_copy *copy, float *values, const struct tensor *weight,
                        enum fp8_recipe recipe, float largest, const struct quantise_ops *ops)
{
    enum dtype format = copy->weight.dtype;
    int64_t columns = weight->dim[1];
    float scale = recipe == FP8_CAST ? 1.0f : quantise_candidate(format, largest, 0);
    float *scales = copy->scale.data;
    uint8_t *out = copy->weight.data;
    double unused;

    for (int64_t row = 0; row < weight->dim[0]; row++) {
        decode_row(values, weight, row, ops);
        if (recipe == FP8_ROWS)
            scales[row] = scale = quantise_row_scale(ops, values, columns, format,
                                                     ops->largest(values, columns), &unused);
        ops->encode(out + row * columns, values, columns, format, scale);
    }
    if (recipe == FP8_TENSOR)
        scales[0] = scale;
}

bool fp8_copy_init(struct fp8_copy *copy, const struct tensor *weight, enum dtype format,
                   enum fp8_recipe recipe, const struct quantise_ops *ops, struct error *err)
{
    int64_t rows = weight->dim[0], columns = weight->dim[1];
    int64_t factors = recipe == FP8_ROWS ? rows : 1;
    float *values = calloc((size_t)columns, sizeof *values), largest;
    bool ok = false;

    *copy = (struct fp8_copy){
        .weight = TENSOR_OF(malloc((size_t)(rows * columns)), format, rows, columns),
        .scale = TENSOR_OF(calloc((size_t)factors, sizeof(float)), DTYPE_F32, factors),
    };
    if (!values || !copy->weight.data || !copy->scale.data) {
        error_set(err, ERROR_NO_MEMORY, "an FP8 copy of %lld x %lld weights", (long long)rows,
                  (long long)columns);
        goto done;
    }
    largest = largest_of(values, weight, ops);
    if (isinf(largest)) {
        error_set(err, ERROR_BAD_FILE, "a weight is not a finite number");
        goto done;
    }
    encode_rows(copy, values, weight, recipe, largest, ops);
    if (recipe == FP8_CAST) {
        free(copy->scale.data);
        copy->scale = (struct tensor){0};
    }
    ok = true;

done:
    free(values);
    if (!ok)
        fp8_copy_finish(copy);
    return ok;
}

void fp8_copy_finish(struct fp8_copy *copy)
{
    free(copy->weight.data);
    free(copy->scale.data);
    *copy = (struct fp8_copy){0};
}

void fp8_round_row(float *out, const float *in, int64_t count)
{
    float largest = 0.0f, scale;

    for (int64_t k = 0; k < count; k++)
        largest = fmaxf(largest, fabsf(in[k]));
    scale = largest > 0.0f ? largest / E4M3_LARGEST : 1.0f;
    for (int64_t k = 0; k < count; k++)
        out[k] = copysignf(f8_round(in[k] / scale, f8_e4m3_grid) * scale, in[k]);
}
