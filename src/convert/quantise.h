/* Quantiser: rows of weights to FP8.
 *
 * A weight w is stored as the FP8 number nearest to w / scale, ties to even, saturating. Scales are
 * chosen by the squared error that they leave, from a few candidates: the largest weight at the
 * format's largest number, and steps of an octave above, which shift the grid's uneven spacing over
 * the weights. Every result is the same on every machine: sums have a fixed order, and the levels
 * of instructions differ in speed alone.
 */
#ifndef CONVERT_QUANTISE_H
#define CONVERT_QUANTISE_H

#include <stdint.h>

#include "tensor/dtype.h"

struct quantise_ops {
    const char *level;
    /* f32, f16 or bf16, not necessarily aligned. */
    void (*decode)(float *out, const void *in, enum dtype dtype, int64_t count);
    /* The largest magnitude; infinity when anything is infinite or NaN. */
    float (*largest)(const float *in, int64_t count);
    /* Sum of the squared differences that storing with this scale leaves. */
    double (*error)(const float *in, int64_t count, enum dtype format, float scale);
    double (*squares)(const float *in, int64_t count);
    /* f8_e4m3 or f8_e5m2: bit-equal to float_to_f8_...(in[i] * (1 / scale)). */
    void (*encode)(uint8_t *out, const float *in, int64_t count, enum dtype format, float scale);
};

/* The best that these CPU features (cpu_features.h) allow. */
const struct quantise_ops *quantise_ops(unsigned features);

/* The scales to choose from for weights of this largest magnitude, finite and at least 0. All are
 * positive, and the format's largest number times the scale is finite. */
#define QUANTISE_CANDIDATES 8
float quantise_candidate(enum dtype format, float largest, int index);

/* The index of the least of the candidates' errors; the first of equals. */
int quantise_best(const double error[QUANTISE_CANDIDATES]);

/* Both for one row: the best scale, and the squared error that it leaves. */
float quantise_row_scale(const struct quantise_ops *ops, const float *row, int64_t count,
                         enum dtype format, float largest, double *error);

#endif
