/* Rounding to FP8, against its definition, and the choice of scales. */
#include "support/support.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_features.h"
#include "base/attributes.h"
#include "convert/quantise.h"
#include "convert/quantise_kernels.h"

#ifndef EXHAUSTIVE
#define EXHAUSTIVE 0 /* 1: every float there is, which takes half a minute */
#endif

static const enum dtype formats[] = {DTYPE_F8_E4M3, DTYPE_F8_E5M2};

/* The levels that this machine can run, and NULL. */
static const struct quantise_ops *levels[3];

static const struct quantise_ops *level_at(int i)
{
    return levels[i];
}

static int find_levels(void **state)
{
    const struct quantise_ops *best = quantise_ops(cpu_features_detect());

    (void)state;
    levels[0] = &quantise_plain;
    levels[1] = best != &quantise_plain ? best : NULL;
    return 0;
}

/* --- The definition: the nearest of the format's numbers, of two the one with the even code --- */

struct definition {
    enum dtype format;
    int largest_code; /* finite ones are 0 to this */
    uint8_t nan;
    double middle[128]; /* between a code's value and the next one's */
};

/* What a code stands for, from the layout of its bits alone. */
static double value_of(const struct definition *definition, int code)
{
    int mantissa_bits = definition->format == DTYPE_F8_E4M3 ? 3 : 2;
    int bias = definition->format == DTYPE_F8_E4M3 ? 7 : 15;
    int exponent = code >> mantissa_bits, mantissa = code & ((1 << mantissa_bits) - 1);

    if (exponent == 0)
        return ldexp(mantissa, 1 - bias - mantissa_bits);
    return ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

static struct definition define(enum dtype format)
{
    struct definition definition = {format, 0x7e, 0x7f, {0}};

    if (format == DTYPE_F8_E5M2) {
        definition.largest_code = 0x7b;
        definition.nan = 0x7e;
    }
    for (int code = 0; code < definition.largest_code; code++)
        definition.middle[code] =
            (value_of(&definition, code) + value_of(&definition, code + 1)) / 2;
    return definition;
}

/* The code of a magnitude, for magnitudes that never fall from call to call. */
static int code_of(const struct definition *definition, int *at, double magnitude)
{
    if (isnan(magnitude))
        return definition->nan;
    while (*at < definition->largest_code && (magnitude > definition->middle[*at] ||
                                              (magnitude == definition->middle[*at] && *at % 2)))
        (*at)++;
    return *at;
}

static uint8_t scalar(enum dtype format, float value)
{
    return format == DTYPE_F8_E4M3 ? float_to_f8_e4m3(value) : float_to_f8_e5m2(value);
}

static float scalar_back(enum dtype format, uint8_t code)
{
    return format == DTYPE_F8_E4M3 ? f8_e4m3_to_float(code) : f8_e5m2_to_float(code);
}

/* --- Every float --- */

#define BLOCK 4096

struct range {
    struct definition definition;
    uint32_t begin, end; /* magnitudes, as bits */
    uint32_t wrong;      /* the first; UINT32_MAX: none */
};

/* One block of magnitudes and their negatives through the scalar conversion and every level. */
static bool check_block(const struct definition *definition, int *at, uint32_t begin,
                        uint32_t *wrong)
{
    static const uint32_t minus = 0x80000000u;
    float values[2 * BLOCK];
    uint8_t want[2 * BLOCK], got[2 * BLOCK];

    for (uint32_t i = 0; i < BLOCK; i++) {
        values[i] = float_of_bits(begin + i);
        values[BLOCK + i] = float_of_bits(minus | (begin + i));
        want[i] = (uint8_t)code_of(definition, at, (double)values[i]);
        want[BLOCK + i] = want[i] | 0x80u;
        if (scalar(definition->format, values[i]) != want[i] ||
            scalar(definition->format, values[BLOCK + i]) != want[BLOCK + i]) {
            *wrong = begin + i;
            return false;
        }
    }
    for (int level = 0; level_at(level); level++) {
        level_at(level)->encode(got, values, (int64_t)COUNT_OF(values), definition->format, 1.0f);
        if (memcmp(got, want, sizeof got) != 0) {
            *wrong = begin;
            return false;
        }
    }
    return true;
}

static void *check_range(void *context)
{
    struct range *range = context;
    int at = 0;

    range->wrong = UINT32_MAX;
    for (uint32_t begin = range->begin; begin < range->end; begin += BLOCK)
        if (!check_block(&range->definition, &at, begin, &range->wrong))
            break;
    return NULL;
}

static void every_float_is_rounded_to_the_nearest(enum dtype format)
{
    struct range ranges[4];
    pthread_t threads[4];

    for (uint32_t i = 0; i < 4; i++) {
        ranges[i] = (struct range){define(format), i << 29, (i + 1) << 29, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, check_range, &ranges[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(ranges[i].wrong, UINT32_MAX);
    }
}

static void every_float_is_rounded_to_the_nearest_e4m3(void **state)
{
    (void)state;
    if (!EXHAUSTIVE)
        skip();
    every_float_is_rounded_to_the_nearest(DTYPE_F8_E4M3);
}

static void every_float_is_rounded_to_the_nearest_e5m2(void **state)
{
    (void)state;
    if (!EXHAUSTIVE)
        skip();
    every_float_is_rounded_to_the_nearest(DTYPE_F8_E5M2);
}

/* --- Where the result changes --- */

static uint32_t bits_of(double value)
{
    float narrow = (float)value;
    uint32_t bits;

    memcpy(&bits, &narrow, sizeof bits);
    return bits;
}

/* A magnitude by its bits, through the scalar conversion and every level, with both signs. */
static void expect_code(const struct definition *definition, uint32_t magnitude)
{
    for (uint32_t sign = 0; sign < 2; sign++) {
        float value = float_of_bits(magnitude | sign << 31);
        int at = 0, want = code_of(definition, &at, fabs((double)value)) | (int)(sign << 7);
        uint8_t got;

        assert_int_equal(scalar(definition->format, value), want);
        for (int level = 0; level_at(level); level++) {
            level_at(level)->encode(&got, &value, 1, definition->format, 1.0f);
            assert_int_equal(got, want);
        }
    }
}

static void rounding_changes_where_it_should_and_nowhere_beside(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT_OF(formats); f++) {
        struct definition definition = define(formats[f]);

        for (int code = 0; code < definition.largest_code; code++) {
            double low = value_of(&definition, code), high = value_of(&definition, code + 1);

            for (uint32_t step = 0; step < 5; step++) {
                expect_code(&definition, bits_of((low + high) / 2) - 2 + step);
                expect_code(&definition, bits_of(high) - 2 + step);
            }
        }
        for (uint32_t bits = 0; bits < 0x7f800000u; bits += 0x12345u)
            expect_code(&definition, bits);
    }
}

static void what_is_too_large_saturates_and_nan_stays_nan(void **state)
{
    static const uint32_t special[] = {0,           1,           0x007fffffu, 0x00800000u,
                                       0x7f7fffffu, 0x7f800000u, 0x7f800001u, 0x7fc00000u,
                                       0x7fffffffu, 0x43e00000u, 0x43e00001u, 0x47600001u};

    (void)state;
    for (size_t f = 0; f < COUNT_OF(formats); f++) {
        struct definition definition = define(formats[f]);

        for (size_t i = 0; i < COUNT_OF(special); i++)
            expect_code(&definition, special[i]);
    }
    assert_int_equal(float_to_f8_e4m3(INFINITY), 0x7e);
    assert_int_equal(float_to_f8_e5m2(-INFINITY), 0xfb);
}

static void codes_mean_what_their_bits_say(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT_OF(formats); f++) {
        struct definition definition = define(formats[f]);

        for (int code = 0; code <= definition.largest_code; code++) {
            uint8_t bits = (uint8_t)code;

            assert_true((double)scalar_back(formats[f], bits) == value_of(&definition, code));
            bits |= 0x80u;
            assert_true((double)scalar_back(formats[f], bits) == -value_of(&definition, code));
        }
    }
}

/* --- Rows --- */

#define WIDTH 1003 /* no multiple of any vector */

static uint64_t random_state = 1;

static double uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(random_state >> 11) + 0.5) / 9007199254740992.0;
}

static void fill(float *row, int64_t count, double deviation)
{
    for (int64_t i = 0; i < count; i++)
        row[i] =
            (float)(deviation * sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()));
}

static void levels_agree_on_everything(void **state)
{
    static float row[WIDTH], decoded[2][WIDTH + 1];
    static unsigned char stored[WIDTH * 4 + 1];
    static uint8_t codes[2][WIDTH];
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

    (void)state;
    if (!level_at(1))
        skip();
    fill(row, WIDTH, 0.02);
    row[5] = 1e-40f;
    row[7] = 300.0f;
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        for (int64_t i = 0; i < WIDTH; i++)
            dtype_store(types[t], stored + 1, i, row[i]);
        for (int l = 0; l < 2; l++)
            level_at(l)->decode(decoded[l], stored + 1, types[t], WIDTH);
        assert_memory_equal(decoded[0], decoded[1], WIDTH * sizeof(float));
        for (int64_t i = 0; i < WIDTH; i++)
            assert_true(decoded[0][i] == dtype_load(types[t], stored + 1, i));
    }
    for (size_t f = 0; f < COUNT_OF(formats); f++)
        for (int64_t width = WIDTH - 20; width <= WIDTH; width++) {
            double error[2], squares[2];
            float scale[2];

            for (int l = 0; l < 2; l++) {
                scale[l] = quantise_row_scale(level_at(l), row, width, formats[f],
                                              level_at(l)->largest(row, width), &error[l]);
                squares[l] = level_at(l)->squares(row, width);
                level_at(l)->encode(codes[l], row, width, formats[f], scale[l]);
            }
            assert_true(scale[0] == scale[1] && error[0] == error[1] && squares[0] == squares[1]);
            assert_memory_equal(codes[0], codes[1], (size_t)width);
        }
}

/* The error in double, from the codes. */
static double error_of(const float *row, int64_t count, enum dtype format, float scale)
{
    double sum = 0.0;

    for (int64_t i = 0; i < count; i++) {
        uint8_t code = scalar(format, row[i] * (1.0f / scale));
        double difference = (double)row[i] - (double)scalar_back(format, code) * (double)scale;

        sum += difference * difference;
    }
    return sum;
}

static void the_error_that_is_told_is_the_error_that_is_made(void **state)
{
    static float row[WIDTH];

    (void)state;
    for (int turn = 0; turn < 20; turn++) {
        fill(row, WIDTH, pow(10.0, turn - 10));
        for (size_t f = 0; f < COUNT_OF(formats); f++)
            for (int l = 0; level_at(l); l++) {
                float largest = level_at(l)->largest(row, WIDTH);
                double told, made, squares = 0.0;
                float scale =
                    quantise_row_scale(level_at(l), row, WIDTH, formats[f], largest, &told);

                made = error_of(row, WIDTH, formats[f], scale);
                assert_true(fabs(told - made) <= 1e-4 * made);
                for (int i = 0; i < QUANTISE_CANDIDATES; i++)
                    assert_true(error_of(row, WIDTH, formats[f],
                                         quantise_candidate(formats[f], largest, i)) >=
                                made * (1 - 1e-4));
                for (int64_t i = 0; i < WIDTH; i++)
                    squares += (double)row[i] * (double)row[i];
                assert_true(fabs(level_at(l)->squares(row, WIDTH) - squares) <= 1e-5 * squares);
            }
    }
}

static void a_scale_search_beats_the_largest_weight_alone(void **state)
{
    static float row[WIDTH];
    double searched = 0.0, plain = 0.0, error;

    (void)state;
    for (int turn = 0; turn < 200; turn++) {
        float largest;

        fill(row, WIDTH, 0.02);
        largest = quantise_plain.largest(row, WIDTH);
        quantise_row_scale(&quantise_plain, row, WIDTH, DTYPE_F8_E4M3, largest, &error);
        searched += error;
        plain += quantise_plain.error(row, WIDTH, DTYPE_F8_E4M3, largest / 448.0f);
    }
    assert_true(searched < 0.97 * plain); /* 0.955 when it was set */
}

static void rows_of_zeros_and_of_extremes_have_usable_scales(void **state)
{
    static const float largest[] = {0.0f,     0x1p-149f, 0x1p-133f, 1e-30f,
                                    0x1p-14f, 65504.0f,  1e30f,     3.4028235e38f};

    (void)state;
    for (size_t f = 0; f < COUNT_OF(formats); f++)
        for (size_t i = 0; i < COUNT_OF(largest); i++)
            for (int c = 0; c < QUANTISE_CANDIDATES; c++) {
                float scale = quantise_candidate(formats[f], largest[i], c);

                assert_true(scale > 0.0f && isfinite(1.0f / scale));
                assert_true(isfinite(scale * (formats[f] == DTYPE_F8_E4M3 ? 448.0f : 57344.0f)));
            }
}

static void what_is_not_finite_shows_in_the_largest(void **state)
{
    static float row[WIDTH];

    (void)state;
    for (int l = 0; level_at(l); l++)
        for (int64_t i = 0; i < WIDTH; i += 91) {
            fill(row, WIDTH, 1.0);
            assert_true(isfinite(level_at(l)->largest(row, WIDTH)));
            row[i] = i % 2 ? -INFINITY : NAN;
            assert_true(isinf(level_at(l)->largest(row, WIDTH)));
        }
}

/* A row with one weight that is 2^17 times the others: a scale for all rows would lose them. */
static void a_scale_for_each_row_survives_outlier_channels(void **state)
{
    static float usual[WIDTH], outlier[WIDTH];
    double own, shared;
    float largest;

    (void)state;
    fill(usual, WIDTH, 0.02);
    fill(outlier, WIDTH, 0.02 * 131072);
    largest = quantise_plain.largest(outlier, WIDTH);
    quantise_row_scale(&quantise_plain, usual, WIDTH, DTYPE_F8_E4M3,
                       quantise_plain.largest(usual, WIDTH), &own);
    shared = quantise_plain.error(usual, WIDTH, DTYPE_F8_E4M3, largest / 448.0f);
    assert_true(sqrt(shared / own) > 2.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_mean_what_their_bits_say),
        cmocka_unit_test(rounding_changes_where_it_should_and_nowhere_beside),
        cmocka_unit_test(what_is_too_large_saturates_and_nan_stays_nan),
        cmocka_unit_test(levels_agree_on_everything),
        cmocka_unit_test(the_error_that_is_told_is_the_error_that_is_made),
        cmocka_unit_test(a_scale_search_beats_the_largest_weight_alone),
        cmocka_unit_test(rows_of_zeros_and_of_extremes_have_usable_scales),
        cmocka_unit_test(what_is_not_finite_shows_in_the_largest),
        cmocka_unit_test(a_scale_for_each_row_survives_outlier_channels),
        cmocka_unit_test(every_float_is_rounded_to_the_nearest_e4m3),
        cmocka_unit_test(every_float_is_rounded_to_the_nearest_e5m2),
    };

    return cmocka_run_group_tests(tests, find_levels, NULL);
}
