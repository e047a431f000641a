/* `sd35 convert --calibrate` as people run it, on a small model of random weights. */
#include "support/support.h"

#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "program_run.h"

static const char *sd35, *make_random_model; /* the programs */
static const char *model;                    /* F16, of 4 steps */
static const char *prompts;                  /* a file of one */

static const struct program_setting usual;

static struct program_end run(const char *const *arguments)
{
    struct program program;

    program_start(&program, &usual, arguments);
    return program_finish(&program);
}

#define RUN(...) run((const char *const[]){sd35, __VA_ARGS__, NULL})

static void expect(struct program_end end, int code)
{
    if (end.code != code)
        print_error("exit code %d, expected %d\nstderr: %s\n", end.code, code, end.err);
    assert_int_equal(end.code, code);
    program_end_free(&end);
}

static const char *in(const char *folder, const char *name)
{
    char below[512];

    snprintf(below, sizeof below, "%s/%s", folder + strlen(test_directory()) + 1, name);
    return test_path(below);
}

static json_t *read_json(const char *path)
{
    json_t *json = json_load_file(path, 0, NULL);

    if (!json)
        print_error("no JSON at %s\n", path);
    assert_non_null(json);
    return json;
}

static double number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_number(value))
        print_error("'%s' is no number\n", key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

/* --- It works --- */

static void expect_layer(const json_t *layer)
{
    const json_t *activations = json_object_get(layer, "activations");
    double largest;

    assert_true(number_of(layer, "ssim_alone") <= 1.0);
    assert_true(number_of(layer, "delta_e_alone") >= 0.0);
    assert_non_null(activations);
    largest = number_of(activations, "largest");
    assert_true(largest > 0.0);
    assert_true(number_of(activations, "channel_median") <= largest);
    assert_true(fabs(number_of(activations, "static_scale") * 448.0 - largest) < 1e-3 * largest);
    assert_non_null(json_object_get(activations, "outlier_channels"));
}

static bool is_of(const json_t *layer, const char *component)
{
    const char *name = json_string_value(json_object_get(layer, "layer"));
    size_t length = strlen(component);

    return strncmp(name, component, length) == 0 && name[length] == '.';
}

/* What is kept takes no more than the budget above the size with all layers in FP8. */
static void expect_budget(const json_t *record, const char *component, double percent)
{
    const json_t *layers = json_object_get(record, "layers");
    double kept = 0.0,
           size = number_of(json_object_get(json_object_get(record, "components"), component),
                            "converted");

    for (size_t i = 0; i < json_array_size(layers); i++) {
        const json_t *layer = json_array_get(layers, i);
        double rows = number_of(layer, "rows"), columns = number_of(layer, "columns");

        if (is_of(layer, component) && json_is_true(json_object_get(layer, "kept")))
            kept += rows * columns - 4 * rows;
    }
    assert_true(kept <= (size - kept) * percent / 100.0);
}

static int count_kept(const json_t *record, const char *component)
{
    const json_t *layers = json_object_get(record, "layers");
    int kept = 0;

    for (size_t i = 0; i < json_array_size(layers); i++)
        kept += is_of(json_array_get(layers, i), component) &&
                json_is_true(json_object_get(json_array_get(layers, i), "kept"));
    return kept;
}

static void expect_calibration(const json_t *calibration)
{
    const json_t *together = json_object_get(calibration, "together");
    const json_t *keys = json_object_get(calibration, "key_means");
    const json_t *first = json_object_get(json_array_get(keys, 0), "mean");

    assert_int_equal(json_array_size(json_object_get(calibration, "prompts")), 1);
    assert_true(number_of(calibration, "budget_percent") == 3.0);
    assert_true(number_of(together, "ssim") > 0.0 && number_of(together, "ssim") <= 1.0);
    assert_int_equal(json_array_size(json_object_get(together, "step_error")), 4);
    assert_true(json_array_size(json_object_get(calibration, "blocks")) >= 5);
    assert_true(json_array_size(keys) == 2);
    assert_int_equal(json_array_size(json_array_get(first, 0)), 64);
}

static void expect_report(const char *path, bool has_pictures)
{
    unsigned char *bytes;
    size_t size;
    char *text;

    assert_true(file_read(&bytes, &size, path, (size_t)16 << 20, NULL));
    text = (char *)bytes;
    assert_ptr_equal(strstr(text, "<!DOCTYPE html>"), text);
    assert_non_null(strstr(text, "</html>"));
    assert_non_null(strstr(text, "prefers-color-scheme:dark"));
    assert_non_null(strstr(text, "transformer.block.0.image.q"));
    assert_null(strstr(text, "<script"));
    assert_null(strstr(text, "://"));
    assert_int_equal(strstr(text, "data:image/png;base64,") != NULL, has_pictures);
    assert_int_equal(strstr(text, "<polyline") != NULL, has_pictures);
    if (has_pictures)
        assert_non_null(strstr(text, "a &lt;b&gt; &amp; c"));
    assert_null(strstr(text, "a <b>"));
    free(bytes);
}

static void a_calibrated_model_tells_what_was_measured(void **state)
{
    const char *out = test_path("out");
    const json_t *layers;
    json_t *record;

    (void)state;
    expect(RUN("convert", "--model-path", model, "--output-path", out, "--threads", "1",
               "--calibrate", prompts),
           0);
    expect(RUN("verify", out), 0);
    record = read_json(in(out, "quantization.json"));
    assert_string_equal(json_string_value(json_object_get(record, "rule")), "calibrated");
    expect_calibration(json_object_get(record, "calibration"));
    layers = json_object_get(record, "layers");
    for (size_t i = 0; i < json_array_size(layers); i++)
        if (!is_of(json_array_get(layers, i), "vae"))
            expect_layer(json_array_get(layers, i));
    expect_budget(record, "transformer", 3.0);
    expect_budget(record, "t5", 3.0);
    assert_true(count_kept(record, "transformer") > 0);
    json_decref(record);
    expect_report(in(out, "report.html"), true);
}

static void the_budget_decides_how_many_layers_are_kept(void **state)
{
    const char *out = test_path("none.safetensors");
    json_t *record;

    (void)state;
    expect(RUN("convert", "--model-path", model, "--output-path", out, "--layout", "single",
               "--keep", "clip_l.layer.0.q", "--budget", "0", "--quiet", "--threads", "1",
               "--calibrate", prompts),
           0);
    expect(RUN("verify", out), 0);
    record = read_json(test_path("none.quantization.json"));
    assert_int_equal(count_kept(record, "transformer"), 0);
    assert_int_equal(count_kept(record, "t5"), 0);
    /* Asked for, with what shares its tensor in this layout or not. */
    assert_true(count_kept(record, "clip_l") >= 1);
    json_decref(record);
    expect_report(test_path("none.report.html"), true);
}

static void without_measuring_the_report_is_short(void **state)
{
    const char *out = test_path("plain");
    json_t *record;

    (void)state;
    expect(RUN("convert", "--model-path", model, "--output-path", out), 0);
    record = read_json(in(out, "quantization.json"));
    assert_string_equal(json_string_value(json_object_get(record, "rule")), "default");
    assert_null(json_object_get(record, "calibration"));
    json_decref(record);
    expect_report(in(out, "report.html"), false);
}

/* --- It does not --- */

static void expect_refusal(struct program_end end, const char *out, int code, const char *part)
{
    if (!strstr(end.err, part))
        print_error("expected '%s' in: %s\n", part, end.err);
    assert_non_null(strstr(end.err, part));
    expect(end, code);
    assert_false(file_is_directory(out) || file_is_regular(out));
}

static void bad_prompt_files_are_refused(void **state)
{
    const char *out = test_path("refused"), *empty = test_write_file("empty.txt", "\n# none\n", 8);
    const char *latin = test_write_file("latin.txt", "caf\xe9\n", 5), *path;
    char *text = malloc(5000);

    (void)state;
    assert_non_null(text);
    memset(text, 'a', 5000);
    path = test_write_file("long.txt", text, 5000);
    free(text);
#define CALIBRATE(file)                                                                            \
    RUN("convert", "--quiet", "--model-path", model, "--output-path", out, "--calibrate", file)
    expect_refusal(CALIBRATE(test_path("missing.txt")), out, 6, "missing.txt");
    expect_refusal(CALIBRATE(test_directory()), out, 3, "is not a regular file");
    expect_refusal(CALIBRATE(empty), out, 2, "empty.txt': there are none");
    expect_refusal(CALIBRATE(latin), out, 2, "latin.txt': line 1 is not UTF-8");
    expect_refusal(CALIBRATE(path), out, 2, "long.txt': line 1 has more than the 4096 bytes");
}

static void contradictions_are_refused(void **state)
{
    const char *out = test_path("refused");

    (void)state;
    expect_refusal(RUN("convert", "--model-path", model, "--output-path", out, "--layout",
                       "comfyui", "--calibrate"),
                   out, 2, "contradict");
    expect_refusal(RUN("convert", "--model-path", model, "--output-path", out, "--budget", "5"),
                   out, 2, "--calibrate");
    expect_refusal(RUN("convert", "--model-path", model, "--output-path", out, "--calibrate",
                       "--budget", "-1"),
                   out, 2, "--budget");
    /* Before anything is measured. */
    expect_refusal(RUN("convert", "--quiet", "--model-path", model, "--output-path",
                       in(model, "transformer/x"), "--calibrate"),
                   in(model, "transformer/x"), 2, "lies inside the model");
}

static void a_signal_ends_the_measurement(void **state)
{
    const char *out = test_path("interrupted");
    struct program program;

    (void)state;
    program_start(&program, &usual,
                  (const char *const[]){sd35, "convert", "--model-path", model, "--output-path",
                                        out, "--calibrate", NULL});
    assert_true(program_wait_for_handler(&program, SIGINT));
    assert_int_equal(kill(program.pid, SIGINT), 0);
    expect_refusal(program_finish(&program), out, 130, "cancelled");
}

/* --- The model --- */

static int make_model(void **state)
{
    static const char text[] = "# one\na <b> & c\n";
    struct program_end end;
    const char *path;
    json_t *config;
    int code;

    (void)state;
    prompts = test_write_file("prompts.txt", text, sizeof text - 1);
    model = test_path("a-turbo-model");
    end = run((const char *const[]){make_random_model,
                                    "--output",
                                    model,
                                    "--dtype",
                                    "f16",
                                    "--layers",
                                    "1",
                                    "--dual-layers",
                                    "1",
                                    "--heads",
                                    "2",
                                    "--position-side",
                                    "2",
                                    "--clip-layers",
                                    "2",
                                    "--t5-layers",
                                    "2",
                                    "--vae-channels",
                                    "32,32,32,32",
                                    NULL});
    code = end.code;
    program_end_free(&end);
    if (code != 0)
        return code;
    path = in(model, "tokenizer_3/tokenizer_config.json");
    config = read_json(path);
    json_object_set_new(config, "model_max_length", json_integer(77));
    code = json_dump_file(config, path, 0);
    json_decref(config);
    return code;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_calibrated_model_tells_what_was_measured),
        cmocka_unit_test(the_budget_decides_how_many_layers_are_kept),
        cmocka_unit_test(without_measuring_the_report_is_short),
        cmocka_unit_test(bad_prompt_files_are_refused),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(a_signal_ends_the_measurement),
    };

    if (argc != 3) {
        fprintf(stderr, "usage: test_convert_calibrate SD35 SD35_MAKE_RANDOM_MODEL\n");
        return 2;
    }
    sd35 = argv[1];
    make_random_model = argv[2];
    return cmocka_run_group_tests(tests, make_model, NULL);
}
