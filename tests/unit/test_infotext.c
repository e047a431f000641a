/* Infotext, read back by AUTOMATIC1111's grammar: the pattern
 *   \s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)
 * applied to the last line again and again, as Python's findall does. */
#include "support/support.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/infotext.h"

/* --- The reader --- */

struct pair {
    char key[64];
    char value[512];
};

struct reading {
    char prompt[1024], negative_prompt[1024];
    struct pair pairs[32];
    size_t pair_count;
};

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

/* The end of a JSON string at `at`, or NULL. */
static const char *end_of_string(const char *at)
{
    const char *start = at++;

    while (*at && *at != '"')
        at += at[0] == '\\' && at[1] ? 2 : 1;
    return *at == '"' && at > start + 1 ? at + 1 : NULL;
}

/* Matches one pair at `at`, without the white space before it. Returns its end or NULL. */
static const char *match_pair(struct pair *out, const char *at)
{
    const char *key = at, *end;

    if (!is_word(*at))
        return NULL;
    while (is_word(*at) || *at == ' ' || *at == '-' || *at == '/')
        at++;
    if (*at != ':' || at - key < 2)
        return NULL;
    snprintf(out->key, sizeof out->key, "%.*s", (int)(at - key), key);
    at++;
    while (isspace((unsigned char)*at))
        at++;
    end = *at == '"' ? end_of_string(at) : NULL;
    if (!end || (*end != ',' && *end != '\0'))
        end = at + strcspn(at, ",");
    snprintf(out->value, sizeof out->value, "%.*s", (int)(end - at), at);
    return *end == ',' ? end + 1 : end;
}

static size_t find_pairs(struct pair *out, const char *line)
{
    size_t count = 0;

    while (*line) {
        const char *start = line + strspn(line, " \t"), *end = match_pair(&out[count], start);

        count += end ? 1 : 0;
        line = end ? end : line + 1;
    }
    return count;
}

/* json.loads for the strings that can occur. */
static void unquote(char *value)
{
    char *to = value, *from = value + 1;

    if (value[0] != '"' || value[strlen(value) - 1] != '"')
        return;
    for (; *from && *from != '"'; from++) {
        unsigned code;

        if (*from != '\\') {
            *to++ = *from;
            continue;
        }
        from++;
        if (*from == 'u' && sscanf(from + 1, "%4x", &code) == 1) {
            *to++ = (char)code;
            from += 4;
        } else {
            *to++ = (char)(*from == 'n' ? '\n' : *from);
        }
    }
    *to = '\0';
}

static void add_line(char *text, const char *line)
{
    if (*text)
        strcat(text, "\n");
    strcat(text, line);
}

static struct reading *read_infotext(const char *infotext)
{
    static struct reading reading;
    static char copy[4096];
    char *target = reading.prompt, *last, *line, *rest = copy;

    memset(&reading, 0, sizeof reading);
    snprintf(copy, sizeof copy, "%s", infotext);
    last = strrchr(copy, '\n');
    reading.pair_count = find_pairs(reading.pairs, last ? last + 1 : copy);
    if (reading.pair_count >= 3)
        *(last ? last : copy) = '\0';
    else
        reading.pair_count = 0;
    while (*copy && (line = strsep(&rest, "\n"))) {
        if (strncmp(line, "Negative prompt:", 16) == 0) {
            target = reading.negative_prompt;
            line += 16;
        }
        line += strspn(line, " ");
        add_line(target, line);
    }
    for (size_t i = 0; i < reading.pair_count; i++)
        unquote(reading.pairs[i].value);
    return &reading;
}

static const char *value_of(const struct reading *reading, const char *key)
{
    for (size_t i = 0; i < reading->pair_count; i++)
        if (strcmp(reading->pairs[i].key, key) == 0)
            return reading->pairs[i].value;
    return "";
}

static void the_reader_itself_knows_the_known_traps(void **state)
{
    struct pair pairs[8];

    (void)state;
    /* What another program writes without quotes is lost after the first comma. */
    assert_int_equal(find_pairs(pairs, "Skip layers: [7, 8, 9, ], Seed: 1"), 2);
    assert_string_equal(pairs[0].value, "[7");
    assert_int_equal(find_pairs(pairs, "X: 1, Key (a): 2, Steps: 3"), 1);
    assert_string_equal(pairs[0].key, "Steps");
    assert_int_equal(find_pairs(pairs, "Text: \"a, \\\"b\\\": c\", Steps: 3"), 2);
    assert_string_equal(pairs[0].value, "\"a, \\\"b\\\": c\"");
}

/* --- The writer --- */

static const struct infotext nothing = {.steps = -1,
                                        .guidance_scale = -1,
                                        .width = -1,
                                        .height = -1,
                                        .denoising_strength = -1,
                                        .skip_layer_scale = -1,
                                        .flow_shift = -1,
                                        .t5_tokens = -1};

static struct infotext everything(void)
{
    return (struct infotext){.prompt = "a cat, (red:1.2)",
                             .negative_prompt = "blurry, low quality",
                             .steps = 28,
                             .sampler = "Euler",
                             .schedule_type = "Simple",
                             .guidance_scale = 4.5,
                             .seed = UINT64_MAX,
                             .width = 1024,
                             .height = 768,
                             .model_hash = "0123456789",
                             .model = "sd3.5_medium",
                             .fp8_weight = "fp8_e4m3fn",
                             .denoising_strength = 0.75,
                             .rng = "CPU",
                             .skip_layers = "7, 8, 9",
                             .skip_layer_scale = 2.5,
                             .flow_shift = 3,
                             .t5_tokens = 256,
                             .version = "sd35 0.1.0"};
}

static char *format(const struct infotext *infotext)
{
    char *text;
    struct error err;

    assert_true(infotext_format(&text, infotext, &err));
    return text;
}

static void all_keys_are_written_in_their_order(void **state)
{
    struct infotext infotext = everything();
    char *text = format(&infotext);

    (void)state;
    assert_string_equal(text, "a cat, (red:1.2)\n"
                              "Negative prompt: blurry, low quality\n"
                              "Steps: 28, Sampler: Euler, Schedule type: Simple, CFG scale: 4.5, "
                              "Seed: 18446744073709551615, Size: 1024x768, Model hash: "
                              "0123456789, Model: sd3.5_medium, "
                              "FP8 weight: fp8_e4m3fn, Denoising strength: 0.75, RNG: CPU, "
                              "Skip layers: \"7, 8, 9\", SLG scale: 2.5, Shift: 3.0, "
                              "T5 tokens: 256, Version: sd35 0.1.0");
    free(text);
}

static void a_drawing_says_what_it_was_drawn_with(void **state)
{
    const int32_t layers[] = {7, 8, 9};
    struct infotext_drawing drawing = {
        .prompt = "a cat",
        .steps = 4,
        .width = 64,
        .height = 32,
        .guidance_scale = 4.5,
        .flow_shift = 3,
        .seed = 7,
        .model = "m",
        .weight_types = "f16 f8_e4m3",
        .has_init_image = true,
        .has_t5 = true,
        .strength = 0.5,
        .t5_tokens = 77,
        .has_cuda_noise = true,
        .skip_layers = layers,
        .skip_layer_count = 3,
        .skip_layer_scale = 2.5,
        .version = "v",
    };
    char *text;

    (void)state;
    assert_true(infotext_of_drawing(&text, &drawing, NULL));
    assert_string_equal(text,
                        "a cat\nSteps: 4, Sampler: Euler, Schedule type: Normal, CFG scale: 4.5, "
                        "Seed: 7, Size: 64x32, Model: m, FP8 weight: "
                        "fp8_e4m3fn, Denoising strength: 0.5, RNG: NV, Skip layers: "
                        "\"7, 8, 9\", SLG scale: 2.5, Shift: 3.0, T5 tokens: 77, Version: v");
    free(text);
    drawing.has_init_image = drawing.has_t5 = drawing.has_cuda_noise = false;
    drawing.skip_layer_count = 0;
    drawing.weight_types = "f16";
    assert_true(infotext_of_drawing(&text, &drawing, NULL));
    assert_string_equal(text,
                        "a cat\nSteps: 4, Sampler: Euler, Schedule type: Normal, CFG scale: 4.5, "
                        "Seed: 7, Size: 64x32, Model: m, RNG: CPU, Shift: 3.0, Version: v");
    free(text);
}

static void what_is_not_set_is_left_out(void **state)
{
    struct infotext infotext = nothing;
    char *text;

    (void)state;
    infotext.steps = 0;
    infotext.sampler = "Euler";
    infotext.model = ""; /* readers fail on an empty value */
    infotext.version = "sd35 0.1.0";
    text = format(&infotext);
    assert_string_equal(text, "Steps: 0, Sampler: Euler, Seed: 0, Version: sd35 0.1.0");
    free(text);
}

static void the_reader_finds_what_was_written(void **state)
{
    struct infotext infotext = everything();
    char *text = format(&infotext);
    const struct reading *reading = read_infotext(text);

    (void)state;
    assert_string_equal(reading->prompt, infotext.prompt);
    assert_string_equal(reading->negative_prompt, infotext.negative_prompt);
    assert_int_equal(reading->pair_count, 16);
    assert_string_equal(value_of(reading, "Steps"), "28");
    assert_string_equal(value_of(reading, "Sampler"), "Euler");
    assert_string_equal(value_of(reading, "Skip layers"), "7, 8, 9");
    assert_string_equal(value_of(reading, "Version"), "sd35 0.1.0");
    free(text);
}

static void awkward_values_come_back_as_they_were(void **state)
{
    static const char *const names[] = {"a,b",        "C: drive",
                                        "two\nlines", "\"quoted\"",
                                        "say \"x\"",  "back\\slash",
                                        " spaces ",   "tab\there",
                                        "\\",         "\"",
                                        "模型,一",    "😀: \"\\\n\",",
                                        "-",          "Steps: 9, Sampler: x, Seed: 1"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct infotext infotext = everything();
        const struct reading *reading;
        char *text;

        infotext.model = names[i];
        text = format(&infotext);
        reading = read_infotext(text);
        assert_string_equal(value_of(reading, "Model"), names[i]);
        assert_int_equal(reading->pair_count, 16);
        assert_string_equal(value_of(reading, "Version"), "sd35 0.1.0");
        free(text);
    }
}

static void a_prompt_that_looks_like_parameters_stays_a_prompt(void **state)
{
    struct infotext infotext = everything();
    const struct reading *reading;
    char *text;

    (void)state;
    infotext.prompt = "first line\nSteps: 1, Sampler: DDIM, Seed: 2, Size: 64x64";
    infotext.negative_prompt = NULL;
    text = format(&infotext);
    reading = read_infotext(text);
    assert_string_equal(reading->prompt, infotext.prompt);
    assert_string_equal(reading->negative_prompt, "");
    assert_string_equal(value_of(reading, "Steps"), "28");
    free(text);
}

static void chinese_emoji_and_several_lines_survive(void **state)
{
    struct infotext infotext = everything();
    const struct reading *reading;
    char *text;

    (void)state;
    infotext.prompt = "一只猫,坐在窗边 😀\n\"quoted\" \\ back";
    infotext.negative_prompt = "模糊\nlow, quality";
    text = format(&infotext);
    reading = read_infotext(text);
    assert_string_equal(reading->prompt, infotext.prompt);
    assert_string_equal(reading->negative_prompt, infotext.negative_prompt);
    free(text);
}

static void without_prompts_the_text_is_the_parameters_line(void **state)
{
    struct infotext infotext = everything();
    char *text;

    (void)state;
    infotext.prompt = "";
    infotext.negative_prompt = NULL;
    text = format(&infotext);
    assert_memory_equal(text, "Steps: 28", 9);
    free(text);
    infotext.negative_prompt = "x";
    text = format(&infotext);
    assert_memory_equal(text, "Negative prompt: x\nSteps: 28", 28);
    free(text);
}

/* The numbers as Python prints them, wherever it uses no exponent. */
static void numbers_have_the_fewest_decimals_that_read_back(void **state)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0, "0.0"},
        {7, "7.0"},
        {4.5, "4.5"},
        {0.1, "0.1"},
        {0.30000000000000004, "0.30000000000000004"},
        {3.1622776601683795, "3.1622776601683795"},
        {1e-7, "0.0000001"},
        {123456789.25, "123456789.25"},
        {1e15, "1000000000000000.0"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct infotext infotext = everything();
        char *text;

        infotext.guidance_scale = cases[i].value;
        text = format(&infotext);
        assert_string_equal(value_of(read_infotext(text), "CFG scale"), cases[i].text);
        free(text);
    }
}

static void numbers_that_are_none_are_left_out(void **state)
{
    static const double values[] = {__builtin_nan(""), __builtin_inf(), -__builtin_inf(), -0.5};

    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct infotext infotext = everything();
        char *text;

        infotext.flow_shift = values[i];
        text = format(&infotext);
        assert_null(strstr(text, "Shift"));
        free(text);
    }
}

static void the_largest_number_is_written_whole(void **state)
{
    struct infotext infotext = everything();
    const char *shift;
    char *text;

    (void)state;
    infotext.flow_shift = 1.7976931348623157e308;
    text = format(&infotext);
    shift = value_of(read_infotext(text), "Shift");
    assert_true(strtod(shift, NULL) == infotext.flow_shift);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reader_itself_knows_the_known_traps),
        cmocka_unit_test(all_keys_are_written_in_their_order),
        cmocka_unit_test(a_drawing_says_what_it_was_drawn_with),
        cmocka_unit_test(what_is_not_set_is_left_out),
        cmocka_unit_test(the_reader_finds_what_was_written),
        cmocka_unit_test(awkward_values_come_back_as_they_were),
        cmocka_unit_test(a_prompt_that_looks_like_parameters_stays_a_prompt),
        cmocka_unit_test(chinese_emoji_and_several_lines_survive),
        cmocka_unit_test(without_prompts_the_text_is_the_parameters_line),
        cmocka_unit_test(numbers_have_the_fewest_decimals_that_read_back),
        cmocka_unit_test(numbers_that_are_none_are_left_out),
        cmocka_unit_test(the_largest_number_is_written_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
