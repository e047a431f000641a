/* Conversions between element types, exhaustively, and views of tensors. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* --- Conversions --- */

static float decode_f8_e4m3(uint32_t code)
{
    return f8_e4m3_to_float((uint8_t)code);
}

static float decode_f8_e5m2(uint32_t code)
{
    return f8_e5m2_to_float((uint8_t)code);
}

static float decode_f16(uint32_t code)
{
    return f16_to_float((uint16_t)code);
}

static float decode_bf16(uint32_t code)
{
    return bf16_to_float((uint16_t)code);
}

static uint32_t encode_f8_e4m3(float value)
{
    return float_to_f8_e4m3(value);
}

static uint32_t encode_f8_e5m2(float value)
{
    return float_to_f8_e5m2(value);
}

static uint32_t encode_f16(float value)
{
    return float_to_f16(value);
}

static uint32_t encode_bf16(float value)
{
    return float_to_bf16(value);
}

static const struct form {
    const char *name;
    int exponent_bits, mantissa_bits;
    uint32_t sign;     /* its bit */
    uint32_t largest;  /* code of the largest finite value */
    double value;      /* and that value */
    uint32_t infinity; /* its code; 0: none */
    uint32_t overflow; /* what a number far too large becomes */
    float (*decode)(uint32_t code);
    uint32_t (*encode)(float value);
} forms[] = {
    {"f8_e4m3", 4, 3, 0x80, 0x7e, 448.0, 0, 0x7e, decode_f8_e4m3, encode_f8_e4m3},
    {"f8_e5m2", 5, 2, 0x80, 0x7b, 57344.0, 0x7c, 0x7b, decode_f8_e5m2, encode_f8_e5m2},
    {"f16", 5, 10, 0x8000, 0x7bff, 65504.0, 0x7c00, 0x7c00, decode_f16, encode_f16},
    {"bf16", 8, 7, 0x8000, 0x7f7f, 0x1.fep127, 0x7f80, 0x7f80, decode_bf16, encode_bf16},
};

/* What a finite code means, straight from the definition of such formats. */
static double defined_value(const struct form *form, uint32_t code)
{
    int bias = (1 << (form->exponent_bits - 1)) - 1;
    int exponent = (int)((code & (form->sign - 1)) >> form->mantissa_bits);
    double mantissa = (double)(code & ((1u << form->mantissa_bits) - 1));
    double one = (double)(1u << form->mantissa_bits);
    double magnitude = exponent == 0 ? ldexp(mantissa / one, 1 - bias)
                                     : ldexp(1.0 + mantissa / one, exponent - bias);

    return code & form->sign ? -magnitude : magnitude;
}

static void every_code_decodes_to_its_defined_value(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT_OF(forms); f++) {
        const struct form *form = &forms[f];

        assert_true(defined_value(form, form->largest) == form->value);
        for (uint32_t code = 0; code < 2 * form->sign; code++) {
            uint32_t magnitude = code & ~form->sign;
            float value = form->decode(code);

            if (magnitude <= form->largest)
                assert_true((double)value == defined_value(form, code));
            else if (magnitude == form->infinity)
                assert_true(isinf(value));
            else
                assert_true(isnan(value));
            assert_int_equal(!!signbit(value), code >= form->sign);
        }
    }
}

static void every_code_comes_back_from_float(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT_OF(forms); f++) {
        const struct form *form = &forms[f];

        for (uint32_t code = 0; code < 2 * form->sign; code++) {
            uint32_t magnitude = code & ~form->sign;
            uint32_t back = form->encode(form->decode(code));

            if (magnitude == form->infinity && magnitude != 0)
                assert_int_equal(back, form->overflow | (code & form->sign));
            else if (magnitude > form->largest)
                assert_true(isnan(form->decode(back)));
            else
                assert_int_equal(back, code);
        }
    }
}

static void expect_code(const struct form *form, float value, uint32_t want)
{
    uint32_t got = form->encode(value);
    uint32_t negative = form->encode(-value);

    if (got != want || negative != (want | form->sign))
        fail_msg("%s of %.9g is %#x (negative: %#x), not %#x", form->name, (double)value, got,
                 negative, want);
}

/* Codes of one sign are ordered as their values, so the search for the nearest is over the gap
 * between one code and the next: its middle, and the floats beside the middle. */
static void every_gap_between_codes_is_rounded_to_the_nearest_and_ties_to_even(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT_OF(forms); f++) {
        const struct form *form = &forms[f];

        for (uint32_t code = 0; code < form->largest; code++) {
            float low = form->decode(code), high = form->decode(code + 1);
            float middle = (float)(((double)low + (double)high) / 2.0);

            expect_code(form, middle, code & 1u ? code + 1 : code);
            expect_code(form, nextafterf(middle, 0.0f), code);
            expect_code(form, nextafterf(middle, INFINITY), code + 1);
            expect_code(form, nextafterf(high, 0.0f), code + 1);
            expect_code(form, nextafterf(low, INFINITY), low == middle ? code + 1 : code);
        }
    }
}

static void numbers_beyond_the_largest_saturate_or_become_infinite(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT_OF(forms); f++) {
        const struct form *form = &forms[f];
        double step = form->value - defined_value(form, form->largest - 1);
        float middle = (float)(form->value + step / 2.0);

        expect_code(form, nextafterf(middle, 0.0f), form->largest);
        expect_code(form, middle, form->overflow);
        expect_code(form, nextafterf(middle, INFINITY), form->overflow);
        expect_code(form, 3.4e38f, form->overflow);
        expect_code(form, INFINITY, form->overflow);
        assert_true(isnan(form->decode(form->encode(NAN))));
        assert_true(isnan(form->decode(form->encode(-NAN))));
    }
}

#if defined(__x86_64__)
__attribute__((target("f16c"))) static uint16_t hardware_to_f16(float value)
{
    return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
}

__attribute__((target("f16c"))) static float hardware_from_f16(uint16_t code)
{
    return _cvtsh_ss(code);
}

static void f16_agrees_with_the_processor(void **state)
{
    uint32_t bits = 1;

    (void)state;
    if (!__builtin_cpu_supports("avx2")) { /* which brings F16C along */
        fprintf(stderr, "SKIPPED: this processor has no F16C\n");
        skip();
    }
    for (uint32_t code = 0; code < 0x10000; code++) {
        float ours = f16_to_float((uint16_t)code), theirs = hardware_from_f16((uint16_t)code);

        assert_true(isnan(ours) ? isnan(theirs)
                                : ours == theirs && signbit(ours) == signbit(theirs));
    }
    for (int i = 0; i < 2000000; i++) {
        float value;

        bits = bits * 1664525u + 1013904223u;
        memcpy(&value, &bits, sizeof value);
        if (isnan(value))
            assert_true(isnan(f16_to_float(float_to_f16(value))));
        else
            assert_int_equal(float_to_f16(value), hardware_to_f16(value));
    }
}
#endif

static void dtype_sizes_and_names_are_those_of_the_formats(void **state)
{
    (void)state;
    assert_int_equal(dtype_size(DTYPE_F32), 4);
    assert_int_equal(dtype_size(DTYPE_F16), 2);
    assert_int_equal(dtype_size(DTYPE_BF16), 2);
    assert_int_equal(dtype_size(DTYPE_F8_E4M3), 1);
    assert_int_equal(dtype_size(DTYPE_F8_E5M2), 1);
    assert_int_equal(dtype_size(DTYPE_I32), 4);
    assert_int_equal(dtype_size(DTYPE_U8), 1);
    assert_string_equal(dtype_name(DTYPE_F8_E4M3), "f8_e4m3");
    assert_string_equal(dtype_name(DTYPE_BF16), "bf16");
}

static void dtype_load_and_store_reach_unaligned_elements_of_every_type(void **state)
{
    unsigned char memory[64];

    (void)state;
    for (unsigned dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        size_t size = dtype_size(dtype);

        memset(memory, 0xaa, sizeof memory);
        for (int64_t i = 0; i < 3; i++)
            dtype_store(dtype, memory + 1, i, (float)(i + 5));
        for (int64_t i = 0; i < 3; i++)
            assert_true(dtype_load(dtype, memory + 1, i) == (float)(i + 5));
        assert_int_equal(memory[0], 0xaa);
        assert_int_equal(memory[1 + 3 * size], 0xaa);
    }
}

static void integers_round_to_even_and_clamp(void **state)
{
    static const struct {
        float value;
        int32_t i32;
        unsigned char u8;
    } cases[] = {
        {0.5f, 0, 0},           {1.5f, 2, 2},
        {2.5f, 2, 2},           {-0.5f, 0, 0},
        {-1.5f, -2, 0},         {254.5f, 254, 254},
        {255.5f, 256, 255},     {1e6f, 1000000, 255},
        {-1e10f, INT32_MIN, 0}, {1e10f, 2147483520, 255},
        {NAN, INT32_MIN, 0},    {INFINITY, 2147483520, 255},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        unsigned char byte = 99;
        int32_t integer = 99;

        dtype_store(DTYPE_I32, &integer, 0, cases[i].value);
        dtype_store(DTYPE_U8, &byte, 0, cases[i].value);
        assert_int_equal(integer, cases[i].i32);
        assert_int_equal(byte, cases[i].u8);
    }
}

/* --- Views --- */

/* The element at (a, b, c, d) of a view of rank 4 or less over int32_t. */
static int32_t at(const struct tensor *view, int64_t a, int64_t b, int64_t c, int64_t d)
{
    const int64_t index[] = {a, b, c, d};
    const int32_t *values = view->data;
    int64_t offset = 0;

    for (int i = 0; i < view->rank; i++)
        offset += index[i] * view->stride[i];
    return values[offset];
}

/* [2, 3, 4], element (i, j, k) holding 100 i + 10 j + k. */
static struct tensor counting_tensor(int32_t values[24])
{
    for (int i = 0; i < 24; i++)
        values[i] = 100 * (i / 12) + 10 * (i / 4 % 3) + i % 4;
    return TENSOR_OF(values, DTYPE_I32, 2, 3, 4);
}

static void tensor_of_is_contiguous_with_the_last_axis_innermost(void **state)
{
    int32_t values[24];
    struct tensor tensor = counting_tensor(values);

    (void)state;
    assert_int_equal(tensor.rank, 3);
    assert_int_equal(tensor.stride[0], 12);
    assert_int_equal(tensor.stride[1], 4);
    assert_int_equal(tensor.stride[2], 1);
    assert_int_equal(tensor_count(&tensor), 24);
    assert_int_equal(tensor_bytes(&tensor), 96);
    assert_true(tensor_is_contiguous(&tensor));
    assert_int_equal(at(&tensor, 1, 2, 3, 0), 123);
}

static void no_tensor_has_no_elements(void **state)
{
    struct tensor none = {.rank = 0};
    struct tensor scalar = TENSOR_OF(NULL, DTYPE_F32, 1);

    (void)state;
    assert_false(tensor_exists(&none));
    assert_true(tensor_exists(&scalar));
    assert_int_equal(tensor_count(&none), 0);
    assert_int_equal(tensor_bytes(&none), 0);
}

static void tensor_slice_views_a_range_of_one_axis(void **state)
{
    int32_t values[24];
    struct tensor tensor = counting_tensor(values);
    struct tensor middle = tensor_slice(&tensor, 1, 1, 2);
    struct tensor half = tensor_slice(&tensor, 0, 1, 1);
    struct tensor empty = tensor_slice(&tensor, 2, 4, 0);

    (void)state;
    assert_int_equal(middle.dim[1], 2);
    assert_int_equal(at(&middle, 0, 0, 0, 0), 10);
    assert_int_equal(at(&middle, 1, 1, 3, 0), 123);
    assert_false(tensor_is_contiguous(&middle));
    /* One of the outermost axis is still a run of memory. */
    assert_true(tensor_is_contiguous(&half));
    assert_int_equal(at(&half, 0, 0, 0, 0), 100);
    assert_int_equal(tensor_count(&empty), 0);
}

static void tensor_split_sees_one_axis_as_two(void **state)
{
    int32_t values[24];
    struct tensor tensor = counting_tensor(values);
    struct tensor last = tensor_split(&tensor, 2, 2);
    struct tensor first = tensor_split(&tensor, 0, 1);

    (void)state;
    assert_int_equal(last.rank, 4);
    assert_int_equal(last.dim[2], 2);
    assert_int_equal(last.dim[3], 2);
    assert_int_equal(at(&last, 1, 2, 1, 0), 122);
    assert_int_equal(at(&last, 1, 2, 0, 1), 121);
    assert_true(tensor_is_contiguous(&last));
    assert_int_equal(first.dim[0], 2);
    assert_int_equal(first.dim[1], 1);
    assert_int_equal(first.dim[2], 3);
    assert_int_equal(at(&first, 1, 0, 2, 3), 123);
}

static void tensor_permute_reorders_the_axes(void **state)
{
    int32_t values[24];
    struct tensor tensor = counting_tensor(values);
    /* Not its own inverse, so taking the order backwards would show. */
    struct tensor view = tensor_permute(&tensor, (int[]){1, 2, 0});

    (void)state;
    assert_int_equal(view.dim[0], 3);
    assert_int_equal(view.dim[1], 4);
    assert_int_equal(view.dim[2], 2);
    assert_int_equal(at(&view, 2, 3, 1, 0), 123);
    assert_false(tensor_is_contiguous(&view));
}

static void tensor_reshape_keeps_the_order_of_elements(void **state)
{
    int32_t values[24];
    struct tensor tensor = counting_tensor(values);
    struct tensor view = TENSOR_RESHAPE(&tensor, 6, 4);

    (void)state;
    assert_int_equal(view.rank, 2);
    assert_int_equal(at(&view, 5, 3, 0, 0), 123);
    assert_ptr_equal(view.data, values);
}

static void an_axis_of_one_does_not_break_contiguity(void **state)
{
    float values[8];
    struct tensor tensor = TENSOR_OF(values, DTYPE_F32, 2, 4);

    (void)state;
    tensor = tensor_slice(&tensor, 0, 0, 1);
    tensor.stride[0] = 1000;
    assert_true(tensor_is_contiguous(&tensor));
    tensor.stride[1] = 2;
    assert_false(tensor_is_contiguous(&tensor));
}

static void tensor_same_shape_compares_rank_and_sizes_only(void **state)
{
    float values[6];
    struct tensor a = TENSOR_OF(values, DTYPE_F32, 2, 3);
    struct tensor b = TENSOR_OF(NULL, DTYPE_F16, 2, 3);
    struct tensor c = TENSOR_OF(values, DTYPE_F32, 3, 2);
    struct tensor d = TENSOR_OF(values, DTYPE_F32, 2, 3, 1);

    (void)state;
    assert_true(tensor_same_shape(&a, &b));
    assert_false(tensor_same_shape(&a, &c));
    assert_false(tensor_same_shape(&a, &d));
}

static void tensor_alloc_takes_the_bytes_of_its_shape(void **state)
{
    static _Alignas(ARENA_ALIGN) unsigned char block[256];
    struct tensor tensor;
    struct arena arena;
    struct error err;

    (void)state;
    arena_init(&arena, block, sizeof block);
    assert_true(TENSOR_ALLOC(&tensor, &arena, DTYPE_F16, "thing", &err, 3, 40));
    assert_ptr_equal(tensor.data, block);
    assert_int_equal(arena.used, 256);
    assert_int_equal(tensor.dim[1], 40);
    assert_true(tensor_is_contiguous(&tensor));
    assert_false(TENSOR_ALLOC(&tensor, &arena, DTYPE_U8, "one more", &err, 1));
    assert_int_equal(err.code, ERROR_NO_MEMORY);
    assert_string_equal(err.message, "one more: no room for u8 [1]");
}

static void tensor_alloc_fails_when_the_shape_overflows(void **state)
{
    static const int64_t shapes[][3] = {
        {INT64_MAX, 1, 1},
        {INT64_MAX / 2, 3, 1},
        {INT64_C(1) << 32, INT64_C(1) << 32, 1}, /* 0 if it wrapped */
        {0, INT64_C(1) << 62, INT64_C(1) << 62}, /* empty, but its strides would wrap */
        {-1, 4, 4},
        {-1, -1, 4},
    };
    struct arena arena;

    (void)state;
    arena_init(&arena, NULL, 0);
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        struct tensor tensor = {.rank = 0};
        struct error err;

        assert_false(tensor_alloc(&tensor, &arena, DTYPE_F32, "huge", 3, shapes[i], &err));
        assert_int_equal(err.code, ERROR_NO_MEMORY);
        assert_false(tensor_exists(&tensor));
    }
    assert_int_equal(arena.used, 0);
}

static void tensor_shape_text_is_readable_and_never_too_long(void **state)
{
    static const int64_t dim[] = {2, 333, 1536};
    char text[TENSOR_SHAPE_TEXT_BYTES], guarded[8];

    (void)state;
    assert_string_equal(tensor_shape_text(text, sizeof text, 3, dim), "[2, 333, 1536]");
    assert_string_equal(tensor_shape_text(text, sizeof text, 1, dim), "[2]");
    for (size_t size = 1; size < sizeof guarded; size++) {
        memset(guarded, 'g', sizeof guarded);
        tensor_shape_text(guarded, size, 3, dim);
        assert_int_equal(strlen(guarded), size - 1);
        assert_int_equal(guarded[size], 'g');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_decodes_to_its_defined_value),
        cmocka_unit_test(every_code_comes_back_from_float),
        cmocka_unit_test(every_gap_between_codes_is_rounded_to_the_nearest_and_ties_to_even),
        cmocka_unit_test(numbers_beyond_the_largest_saturate_or_become_infinite),
#if defined(__x86_64__)
        cmocka_unit_test(f16_agrees_with_the_processor),
#endif
        cmocka_unit_test(dtype_sizes_and_names_are_those_of_the_formats),
        cmocka_unit_test(dtype_load_and_store_reach_unaligned_elements_of_every_type),
        cmocka_unit_test(integers_round_to_even_and_clamp),
        cmocka_unit_test(tensor_of_is_contiguous_with_the_last_axis_innermost),
        cmocka_unit_test(no_tensor_has_no_elements),
        cmocka_unit_test(tensor_slice_views_a_range_of_one_axis),
        cmocka_unit_test(tensor_split_sees_one_axis_as_two),
        cmocka_unit_test(tensor_permute_reorders_the_axes),
        cmocka_unit_test(tensor_reshape_keeps_the_order_of_elements),
        cmocka_unit_test(an_axis_of_one_does_not_break_contiguity),
        cmocka_unit_test(tensor_same_shape_compares_rank_and_sizes_only),
        cmocka_unit_test(tensor_alloc_takes_the_bytes_of_its_shape),
        cmocka_unit_test(tensor_alloc_fails_when_the_shape_overflows),
        cmocka_unit_test(tensor_shape_text_is_readable_and_never_too_long),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
