/* The parts of a calibration that need no model. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/calibrate.h"
#include "calibrate/fp8_copy.h"
#include "calibrate/html_text.h"
#include "calibrate/keep_choice.h"
#include "calibrate/picture_error.h"
#include "calibrate/prompt_list.h"

/* --- Pictures --- */

static struct image make_image(int width, int height, unsigned seed, int low, int high)
{
    struct image image;

    assert_true(image_init(&image, width, height, NULL));
    for (int i = 0; i < width * height * 3; i++) {
        seed = seed * 1664525u + 1013904223u;
        image.pixels[i] = (unsigned char)(low + (int)(seed >> 16) % (high - low + 1));
    }
    return image;
}

static struct picture_error error_of(const struct image *a, const struct image *b)
{
    struct picture_error error;

    assert_true(picture_error_measure(&error, a, b, NULL));
    return error;
}

static void equal_pictures_have_no_error(void **state)
{
    struct image image = make_image(40, 24, 1, 0, 255);
    struct picture_error error = error_of(&image, &image);

    (void)state;
    assert_true(fabs(error.ssim - 1.0) < 1e-12);
    assert_true(error.delta_e == 0.0);
    assert_true(fabs(picture_error_harm(&error)) < 1e-12);
    image_finish(&image);
}

/* Of two even pictures nothing but the means is left of the formula. */
static void ssim_of_even_greys_is_that_of_their_means(void **state)
{
    struct image a = make_image(16, 16, 1, 100, 100), b = make_image(16, 16, 1, 150, 150);
    double c1 = 0.01 * 255 * 0.01 * 255;
    double want = (2 * 100.0 * 150 + c1) / (100.0 * 100 + 150.0 * 150 + c1);

    (void)state;
    assert_true(fabs(error_of(&a, &b).ssim - want) < 1e-6);
    image_finish(&a);
    image_finish(&b);
}

/* The formula again, two-dimensional and one window at a time. */
static double plain_ssim(const struct image *a, const struct image *b)
{
    double total = 0.0, weights = 0.0, c1 = 6.5025, c2 = 58.5225;
    int places = 0;

    for (int i = -5; i <= 5; i++)
        for (int j = -5; j <= 5; j++)
            weights += exp(-(i * i + j * j) / 4.5);
    for (int y = 5; y + 5 < a->height; y++)
        for (int x = 5; x + 5 < a->width; x++, places++) {
            double ma = 0, mb = 0, aa = 0, bb = 0, ab = 0;

            for (int i = -5; i <= 5; i++)
                for (int j = -5; j <= 5; j++) {
                    const unsigned char *p = a->pixels + 3 * ((y + i) * a->width + x + j);
                    const unsigned char *q = b->pixels + 3 * ((y + i) * b->width + x + j);
                    double w = exp(-(i * i + j * j) / 4.5) / weights;
                    double u = 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
                    double v = 0.299 * q[0] + 0.587 * q[1] + 0.114 * q[2];

                    ma += w * u;
                    mb += w * v;
                    aa += w * u * u;
                    bb += w * v * v;
                    ab += w * u * v;
                }
            total += (2 * ma * mb + c1) * (2 * (ab - ma * mb) + c2) /
                     ((ma * ma + mb * mb + c1) * (aa - ma * ma + bb - mb * mb + c2));
        }
    return total / places;
}

static void ssim_is_the_formula(void **state)
{
    struct image a = make_image(29, 17, 3, 0, 255), b = make_image(29, 17, 3, 0, 255);

    (void)state;
    for (int i = 0; i < 29 * 17 * 3; i += 5)
        b.pixels[i] = (unsigned char)(b.pixels[i] / 2);
    assert_true(fabs(error_of(&a, &b).ssim - plain_ssim(&a, &b)) < 1e-9);
    assert_true(error_of(&a, &b).ssim < 0.99);
    image_finish(&a);
    image_finish(&b);
}

/* Values of CIE Lab under D65, from the standard's formulae. */
static void colours_are_where_lab_has_them(void **state)
{
    static const struct {
        unsigned char rgb[3];
        float lab[3];
    } cases[] = {
        {{255, 255, 255}, {100.0f, 0.0f, 0.0f}},   {{0, 0, 0}, {0.0f, 0.0f, 0.0f}},
        {{255, 0, 0}, {53.24f, 80.09f, 67.20f}},   {{0, 255, 0}, {87.73f, -86.18f, 83.18f}},
        {{0, 0, 255}, {32.30f, 79.19f, -107.86f}}, {{119, 119, 119}, {50.03f, 0.0f, 0.0f}},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        float lab[3];

        picture_error_lab(lab, cases[i].rgb);
        for (int c = 0; c < 3; c++)
            if (!(fabsf(lab[c] - cases[i].lab[c]) < 0.03f))
                fail_msg("colour %zu, part %d: %g, not %g", i, c, (double)lab[c],
                         (double)cases[i].lab[c]);
    }
}

static void colour_difference_is_a_distance(void **state)
{
    struct image black = make_image(16, 16, 1, 0, 0), white = make_image(16, 16, 1, 255, 255);

    (void)state;
    assert_true(fabs(error_of(&black, &white).delta_e - 100.0) < 0.01);
    image_finish(&black);
    image_finish(&white);
}

/* --- The choice --- */

static void the_most_harmful_bytes_are_kept(void **state)
{
    struct keep_unit units[] = {
        {.harm = 1.0, .bytes = 100},  /* 0.01 a byte */
        {.harm = 0.9, .bytes = 10},   /* 0.09 */
        {.harm = 5.0, .bytes = 1000}, /* 0.005, and too large */
        {.harm = 0.2, .bytes = 50},   /* 0.004: takes what is left */
        {.harm = 0.0, .bytes = 1},    /* harmless */
        {.harm = -1.0, .bytes = 1},
    };

    (void)state;
    assert_true(keep_choose(units, COUNT_OF(units), 165, NULL));
    assert_true(units[0].is_kept && units[1].is_kept && units[3].is_kept);
    assert_false(units[2].is_kept || units[4].is_kept || units[5].is_kept);
    assert_true(keep_choose(units, COUNT_OF(units), 9, NULL));
    for (size_t i = 0; i < COUNT_OF(units); i++)
        assert_false(units[i].is_kept);
    assert_true(keep_choose(units, 0, 100, NULL));
}

static void blocks_are_found_in_names(void **state)
{
    static const struct {
        const char *layer, *block;
    } cases[] = {
        {"transformer.block.12.image.q", "transformer.block.12"},
        {"transformer.context_embed", "transformer"},
        {"transformer.final.linear", "transformer"},
        {"t5.layer.0.up", "t5.layer.0"},
        {"clip_g.text_projection", "clip_g"},
    };
    char block[LAYER_NAME_BYTES];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        calibration_block_of(block, cases[i].layer);
        assert_string_equal(block, cases[i].block);
    }
}

/* --- FP8 copies --- */

static double copy_error(const float *weights, int64_t rows, int64_t columns,
                         enum fp8_recipe recipe)
{
    struct tensor weight = TENSOR_OF((void *)(uintptr_t)weights, DTYPE_F32, rows, columns);
    struct fp8_copy copy;
    double error = 0.0;

    assert_true(fp8_copy_init(&copy, &weight, DTYPE_F8_E4M3, recipe, quantise_ops(0), NULL));
    for (int64_t i = 0; i < rows * columns; i++) {
        const float *scale = copy.scale.data;
        double factor = !scale ? 1.0 : (double)scale[recipe == FP8_ROWS ? i / columns : 0];
        double got = (double)dtype_load(DTYPE_F8_E4M3, copy.weight.data, i) * factor;

        error += (got - (double)weights[i]) * (got - (double)weights[i]);
    }
    fp8_copy_finish(&copy);
    return error;
}

/* Small weights beside large ones: what factors are for. */
static void factors_for_rows_are_the_best_recipe(void **state)
{
    float weights[4 * 64];
    double rows, tensor, cast;

    (void)state;
    for (int i = 0; i < 4 * 64; i++)
        weights[i] = (float)((i * 37 % 64) - 31) * (i < 64 ? 1e-1f : 1e-6f);
    rows = copy_error(weights, 4, 64, FP8_ROWS);
    tensor = copy_error(weights, 4, 64, FP8_TENSOR);
    cast = copy_error(weights, 4, 64, FP8_CAST);
    assert_true(rows < tensor && rows < cast);
}

static void copies_of_what_is_no_number_are_refused(void **state)
{
    float weights[4] = {1.0f, NAN, 2.0f, 3.0f};
    struct tensor weight = TENSOR_OF(weights, DTYPE_F32, 2, 2);
    struct fp8_copy copy;
    struct error err;

    (void)state;
    assert_false(fp8_copy_init(&copy, &weight, DTYPE_F8_E4M3, FP8_ROWS, quantise_ops(0), &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_null(copy.weight.data);
}

static void rows_of_activations_are_rounded_by_their_largest(void **state)
{
    const float in[] = {448.0f, -17.0f, 0.0f, 1.0625f, -1.1875f};
    const float want[] = {448.0f, -16.0f, 0.0f, 1.0f, -1.25f}; /* ties to even */
    float out[COUNT_OF(in)], large[COUNT_OF(in)], zeros[2] = {0};

    (void)state;
    fp8_round_row(out, in, COUNT_OF(in));
    assert_memory_equal(out, want, sizeof want);
    for (size_t i = 0; i < COUNT_OF(in); i++)
        large[i] = in[i] * 1024.0f;
    fp8_round_row(out, large, COUNT_OF(in));
    for (size_t i = 0; i < COUNT_OF(in); i++)
        assert_true(out[i] == want[i] * 1024.0f);
    fp8_round_row(out, zeros, 2);
    assert_true(out[0] == 0.0f && out[1] == 0.0f);
}

/* --- Prompts --- */

static void prompts_are_the_lines_of_a_file(void **state)
{
    static const char text[] = "# what we draw\n\n  a red cat \r\nein Grün\xc3\xbc\n\t\nlast";
    const char *path = test_write_file("prompts.txt", text, sizeof text - 1);
    struct prompt_list list;

    (void)state;
    assert_true(prompt_list_read(&list, path, NULL));
    assert_int_equal(list.count, 3);
    assert_string_equal(list.prompt[0], "a red cat");
    assert_string_equal(list.prompt[2], "last");
    prompt_list_finish(&list);
}

static void a_set_of_prompts_ships(void **state)
{
    struct prompt_list list;

    (void)state;
    assert_true(prompt_list_read(&list, "", NULL));
    assert_true(list.count >= CALIBRATE_PAIRS);
    prompt_list_finish(&list);
}

static void expect_bad_prompts(const char *bytes, size_t size, const char *part)
{
    const char *path = test_write_file("bad-prompts.txt", bytes, size);
    struct prompt_list list;
    struct error err;

    assert_false(prompt_list_read(&list, path, &err));
    if (!strstr(err.message, part))
        fail_msg("'%s' has no '%s'", err.message, part);
    assert_null(list.text);
}

static void bad_prompt_files_are_refused(void **state)
{
    size_t size = PROMPT_LIST_FILE_BYTES_MAX + 1;
    char *large = malloc(size);

    (void)state;
    assert_non_null(large);
    memset(large, 'a', size);
    expect_bad_prompts("", 0, "there are none");
    expect_bad_prompts("# nothing\n \n", 12, "there are none");
    expect_bad_prompts("fine\nnot \xff fine\n", 16, "line 2 is not UTF-8");
    expect_bad_prompts("a\0b\n", 4, "line 1 is not UTF-8");
    expect_bad_prompts("cut \xc3", 5, "line 1 is not UTF-8");
    expect_bad_prompts(large, PROMPT_LIST_PROMPT_BYTES_MAX + 1, "line 1 has more than the 4096");
    expect_bad_prompts(large, size, "bad-prompts.txt");
    for (size_t i = 1; i < size; i += 2)
        large[i] = '\n';
    expect_bad_prompts(large, 2 * (PROMPT_LIST_MAX + 1), "more than the 64");
    free(large);
}

/* --- The report's text --- */

static void text_is_escaped(void **state)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    (void)state;
    assert_non_null(out);
    html_put_text(out, "<script>\"a\" & 'b'</script>");
    assert_int_equal(fclose(out), 0);
    assert_string_equal(text, "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;");
    free(text);
}

static void pictures_are_inside_the_page(void **state)
{
    struct image image = make_image(3, 2, 1, 0, 255);
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    (void)state;
    assert_non_null(out);
    assert_true(html_put_image(out, &image, "a < b", NULL));
    assert_int_equal(fclose(out), 0);
    assert_non_null(strstr(text, "width=\"3\" height=\"2\" alt=\"a &lt; b\""));
    assert_non_null(strstr(text, "src=\"data:image/png;base64,iVBORw0KGgo"));
    free(text);
    image_finish(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_pictures_have_no_error),
        cmocka_unit_test(ssim_of_even_greys_is_that_of_their_means),
        cmocka_unit_test(ssim_is_the_formula),
        cmocka_unit_test(colours_are_where_lab_has_them),
        cmocka_unit_test(colour_difference_is_a_distance),
        cmocka_unit_test(the_most_harmful_bytes_are_kept),
        cmocka_unit_test(blocks_are_found_in_names),
        cmocka_unit_test(factors_for_rows_are_the_best_recipe),
        cmocka_unit_test(copies_of_what_is_no_number_are_refused),
        cmocka_unit_test(rows_of_activations_are_rounded_by_their_largest),
        cmocka_unit_test(prompts_are_the_lines_of_a_file),
        cmocka_unit_test(a_set_of_prompts_ships),
        cmocka_unit_test(bad_prompt_files_are_refused),
        cmocka_unit_test(text_is_escaped),
        cmocka_unit_test(pictures_are_inside_the_page),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
