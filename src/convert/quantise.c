#include "convert/quantise.h"

#include "backend/cpu/cpu_features.h"
#include "convert/quantise_kernels.h"

const struct quantise_ops *quantise_ops(unsigned features)
{
#if defined(__x86_64__)
    if (features & CPU_AVX2)
        return &quantise_avx2;
#else
    (void)features;
#endif
    return &quantise_plain;
}

float quantise_candidate(enum dtype format, float largest, int index)
{
    /* Eighths of an octave: above 2 the grid repeats itself, one exponent lower. */
    static const float factors[QUANTISE_CANDIDATES] = {1.0f,    1.0905f, 1.1892f, 1.2968f,
                                                       1.4142f, 1.5422f, 1.6818f, 1.8340f};
    const float top = format == DTYPE_F8_E5M2 ? 57344.0f : 448.0f;
    const float least = 0x1p-126f, most = 0x1p127f / top;
    float scale = largest / top * factors[index];

    if (largest == 0.0f)
        return 1.0f;
    if (scale < least)
        return least;
    return scale < most ? scale : most;
}

int quantise_best(const double error[QUANTISE_CANDIDATES])
{
    int best = 0;

    for (int i = 1; i < QUANTISE_CANDIDATES; i++)
        if (error[i] < error[best])
            best = i;
    return best;
}

float quantise_row_scale(const struct quantise_ops *ops, const float *row, int64_t count,
                         enum dtype format, float largest, double *error)
{
    double errors[QUANTISE_CANDIDATES] = {0};
    int best;

    for (int i = 0; i < QUANTISE_CANDIDATES && largest > 0.0f; i++)
        errors[i] = ops->error(row, count, format, quantise_candidate(format, largest, i));
    best = quantise_best(errors);
    *error = errors[best];
    return quantise_candidate(format, largest, best);
}
