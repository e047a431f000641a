/* The program as people run it, on a small model of random weights. */
#include "support/support.h"

#include <dirent.h>
#include <jansson.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/file.h"
#include "image/image.h"
#include "program_run.h"

static const char *sd35, *make_random_model; /* the programs */
static const char *model;                    /* the folder that the second one wrote */

/* --- Running --- */

#define END_OF_ARGUMENTS NULL

static struct program_end run(const struct program_setting *setting, const char *const *arguments)
{
    struct program program;

    program_start(&program, setting, arguments);
    return program_finish(&program);
}

#define RUN(setting, ...) run((setting), (const char *const[]){sd35, __VA_ARGS__, END_OF_ARGUMENTS})

/* A small picture in few steps; further arguments win. */
#define SMALL                                                                                      \
    "generate", "--model", model, "--prompt", "a red cat", "--size", "64x48", "--steps", "2",      \
        "--seed", "7", "--show", "none"
#define SMALL_JSON                                                                                 \
    "generate", "--model", model, "--prompt", "a red cat", "--size", "64x48", "--steps", "2",      \
        "--seed", "7", "--json"

static const struct program_setting usual;

/* A fresh folder for the pictures of one test. */
static const char *new_folder(const char *name)
{
    const char *path = test_path(name);

    assert_int_equal(mkdir(path, 0777), 0);
    return path;
}

static const char *in_folder(const char *folder, const char *name)
{
    static char paths[8][256];
    static int next;
    char *path = paths[next++ % 8];

    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static int count_files(const char *folder)
{
    DIR *directory = opendir(folder);
    int count = 0;

    assert_non_null(directory);
    for (struct dirent *entry = readdir(directory); entry; entry = readdir(directory))
        count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

/* --- What is expected --- */

static void expect_end(struct program_end *end, int code)
{
    if (end->code != code)
        print_error("exit code %d, expected %d\nstdout: %s\nstderr: %s\n", end->code, code,
                    end->out, end->err);
    assert_int_equal(end->code, code);
    program_end_free(end);
}

/* One sentence in one line that holds `part`. */
static void expect_sentence(const char *err, const char *part)
{
    if (!strstr(err, part))
        print_error("expected '%s' in: %s\n", part, err);
    assert_non_null(strstr(err, part));
    assert_true(strncmp(err, "sd35: ", 6) == 0);
    assert_ptr_equal(strchr(err, '\n'), err + strlen(err) - 1);
}

/* Every bad input: the code, a sentence, and nothing left in the folder. */
static void expect_refusal(const struct program_setting *setting, const char *folder, int code,
                           const char *part, const char *const *arguments)
{
    struct program_end end = run(setting, arguments);

    expect_sentence(end.err, part);
    assert_string_equal(end.out, "");
    expect_end(&end, code);
    assert_int_equal(count_files(folder), 0);
}

#define EXPECT_REFUSAL(setting, folder, code, part, ...)                                           \
    expect_refusal((setting), (folder), (code), (part),                                            \
                   (const char *const[]){sd35, __VA_ARGS__, END_OF_ARGUMENTS})

static json_t *parse(const char *text)
{
    json_error_t where;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &where);

    if (!json)
        print_error("%s in: %s\n", where.text, text);
    assert_non_null(json);
    return json;
}

static struct image read_picture(const char *path)
{
    const struct image_limits limits = IMAGE_LIMITS_DEFAULT;
    struct image image;
    struct error err;

    if (!image_read(&image, path, &limits, &err))
        fail_msg("%s", err.message);
    return image;
}

static void read_texts(char **infotext, json_t **json, const char *path)
{
    unsigned char *bytes;
    char *text;
    size_t size;

    assert_true(file_read(&bytes, &size, path, (size_t)1 << 24, NULL));
    assert_true(image_metadata_read(infotext, &text, bytes, size, NULL));
    assert_non_null(*infotext);
    assert_non_null(text);
    *json = parse(text);
    free(text);
    free(bytes);
}

static bool same_bytes(const char *a, const char *b)
{
    unsigned char *a_bytes, *b_bytes;
    size_t a_size, b_size;
    bool same;

    assert_true(file_read(&a_bytes, &a_size, a, (size_t)1 << 24, NULL));
    assert_true(file_read(&b_bytes, &b_size, b, (size_t)1 << 24, NULL));
    same = a_size == b_size && memcmp(a_bytes, b_bytes, a_size) == 0;
    free(a_bytes);
    free(b_bytes);
    return same;
}

static json_int_t integer_at(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static const char *text_at(const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));

    assert_non_null(text);
    return text;
}

static double real_at(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);

    assert_true(json_is_real(value));
    return json_real_value(value);
}

/* --- Drawing --- */

static void a_picture_is_written_with_its_size_and_its_texts(void **state)
{
    const char *folder = new_folder("written"), *path = in_folder(folder, "a.png");
    struct program_end end;
    struct image image;
    char *infotext;
    json_t *json;

    (void)state;
    end = RUN(&usual, SMALL, "--negative-prompt", "dogs, \"cars\"", "--guidance", "4.5",
              "--skip-layers", "0,1", "--output", path);
    assert_non_null(strstr(end.out, path));
    assert_non_null(strstr(end.err, "memory in MiB"));
    assert_non_null(strstr(end.err, "denoise: "));
    assert_null(strchr(end.err, '\r'));
    expect_end(&end, 0);
    assert_int_equal(count_files(folder), 1);

    image = read_picture(path);
    assert_int_equal(image.width, 64);
    assert_int_equal(image.height, 48);
    image_finish(&image);

    read_texts(&infotext, &json, path);
    assert_non_null(strstr(infotext, "a red cat\nNegative prompt: dogs, \"cars\"\nSteps: 2, "));
    assert_non_null(strstr(infotext, "CFG scale: 4.5, Seed: 7, Size: 64x48"));
    assert_non_null(strstr(infotext, "Skip layers: \"0, 1\""));
    assert_non_null(strstr(infotext, "Version: sd35 "));
    assert_string_equal(text_at(json, "prompt"), "a red cat");
    assert_string_equal(text_at(json, "negative_prompt"), "dogs, \"cars\"");
    assert_int_equal(integer_at(json, "seed"), 7);
    assert_int_equal(integer_at(json, "width"), 64);
    assert_int_equal(integer_at(json, "height"), 48);
    assert_int_equal(integer_at(json, "steps"), 2);
    assert_true(real_at(json, "guidance_scale") == 4.5);
    assert_int_equal(json_array_size(json_object_get(json, "skip_layers")), 2);
    free(infotext);
    json_decref(json);
}

static void the_same_seed_gives_the_same_file_and_another_seed_another(void **state)
{
    const char *folder = new_folder("seeds");
    struct program_end end;

    (void)state;
    end = RUN(&usual, SMALL, "--output", in_folder(folder, "a.png"));
    expect_end(&end, 0);
    end = RUN(&usual, SMALL, "--output", in_folder(folder, "b.png"));
    expect_end(&end, 0);
    end = RUN(&usual, SMALL, "--seed", "8", "--output", in_folder(folder, "c.png"));
    expect_end(&end, 0);
    assert_true(same_bytes(in_folder(folder, "a.png"), in_folder(folder, "b.png")));
    assert_false(same_bytes(in_folder(folder, "a.png"), in_folder(folder, "c.png")));
}

static void a_batch_gives_the_files_that_single_runs_give(void **state)
{
    const char *folder = new_folder("batch");
    struct program_end end;

    (void)state;
    end = RUN(&usual, SMALL, "--output", in_folder(folder, "single.png"));
    expect_end(&end, 0);
    end = RUN(&usual, SMALL, "--seed", "8", "--output", in_folder(folder, "next.png"));
    expect_end(&end, 0);
    end = RUN(&usual, SMALL, "--batch", "2", "--output", in_folder(folder, "apart.png"));
    expect_end(&end, 0);
    end = RUN(&usual, SMALL, "--batch", "2", "--images-at-once", "2", "--output",
              in_folder(folder, "together.png"));
    expect_end(&end, 0);
    assert_int_equal(count_files(folder), 6);
    assert_true(same_bytes(in_folder(folder, "single.png"), in_folder(folder, "apart-1.png")));
    assert_true(same_bytes(in_folder(folder, "next.png"), in_folder(folder, "apart-2.png")));
    assert_true(same_bytes(in_folder(folder, "single.png"), in_folder(folder, "together-1.png")));
    assert_true(same_bytes(in_folder(folder, "next.png"), in_folder(folder, "together-2.png")));
}

static void the_other_formats_carry_the_texts_too(void **state)
{
    static const char *const names[] = {"a.jpg", "a.webp"};
    const char *folder = new_folder("formats");

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const char *path = in_folder(folder, names[i]);
        struct program_end end = RUN(&usual, SMALL, "--output", path);
        char *infotext;
        json_t *json;

        expect_end(&end, 0);
        read_texts(&infotext, &json, path);
        assert_non_null(strstr(infotext, "Seed: 7"));
        assert_int_equal(integer_at(json, "seed"), 7);
        free(infotext);
        json_decref(json);
    }
}

static void without_a_name_the_file_is_named_after_the_seed(void **state)
{
    const struct program_setting setting = {.directory = new_folder("unnamed")};
    struct program_end end = RUN(&setting, SMALL, "--seed", "-1", "--quiet");
    char *path;

    (void)state;
    assert_string_equal(end.err, "");
    assert_int_equal(strncmp(end.out, "sd35-", 5), 0);
    end.out[strcspn(end.out, "\n")] = '\0';
    path = strdup(in_folder(setting.directory, end.out));
    expect_end(&end, 0);
    assert_true(file_is_regular(path));
    free(path);
}

static void an_empty_prompt_is_drawn(void **state)
{
    const char *folder = new_folder("empty"), *path = in_folder(folder, "a.png");
    struct program_end end = RUN(&usual, SMALL, "--prompt", "", "--output", path);

    (void)state;
    expect_end(&end, 0);
    assert_true(file_is_regular(path));
}

static void a_prompt_is_read_from_standard_input(void **state)
{
    const char *folder = new_folder("input"), *path = in_folder(folder, "a.png");
    const struct program_setting setting = {.input =
                                                test_write_file("cat.txt", "a green cat\n", 12)};
    struct program_end end = RUN(&setting, SMALL, "--prompt", "-", "--output", path);
    char *infotext;
    json_t *json;

    (void)state;
    expect_end(&end, 0);
    read_texts(&infotext, &json, path);
    assert_string_equal(text_at(json, "prompt"), "a green cat");
    free(infotext);
    json_decref(json);
}

static void a_picture_is_the_start_of_another_in_its_shape(void **state)
{
    const char *folder = new_folder("image_to_image"), *path = in_folder(folder, "b.png");
    struct program_end end = RUN(&usual, SMALL, "--output", in_folder(folder, "a.png"));
    struct image image;
    char *infotext;
    json_t *json;

    (void)state;
    expect_end(&end, 0);
    end = RUN(&usual, "generate", "--model", model, "--prompt", "a dog", "--steps", "2",
              "--init-image", in_folder(folder, "a.png"), "--mask", in_folder(folder, "a.png"),
              "--strength", "0.5", "--output", path);
    expect_end(&end, 0);
    image = read_picture(path);
    assert_int_equal(image.width, 64);
    assert_int_equal(image.height, 48);
    image_finish(&image);
    read_texts(&infotext, &json, path);
    assert_non_null(strstr(infotext, "Denoising strength: 0.5"));
    assert_true(real_at(json, "strength") == 0.5);
    assert_string_equal(text_at(json, "init_image"), "a.png");
    free(infotext);
    json_decref(json);
}

/* --- For programs --- */

static void json_tells_files_seeds_seconds_and_memory(void **state)
{
    const char *folder = new_folder("json"), *path = in_folder(folder, "a.png");
    struct program_end end = RUN(&usual, SMALL_JSON, "--batch", "2", "--output", path);
    json_t *json = parse(end.out), *images = json_object_get(json, "images");
    json_t *seconds = json_object_get(json, "seconds"), *memory, *second;

    (void)state;
    expect_end(&end, 0);
    assert_int_equal(json_array_size(images), 2);
    second = json_array_get(images, 1);
    assert_string_equal(text_at(second, "file"), in_folder(folder, "a-2.png"));
    assert_int_equal(integer_at(second, "seed"), 8);
    assert_int_equal(integer_at(second, "width"), 64);
    assert_true(real_at(seconds, "denoise") > 0);
    assert_true(real_at(seconds, "total") >= real_at(seconds, "denoise"));
    memory = json_object_get(json, "memory_bytes");
    assert_true(integer_at(memory, "peak_resident") > 1 << 20);
    assert_true(integer_at(json_object_get(memory, "plan"), "peak") > 1 << 20);
    assert_string_equal(text_at(json_object_get(json, "request"), "prompt"), "a red cat");
    assert_non_null(text_at(json_object_get(json, "model"), "variant"));
    assert_non_null(text_at(json, "device"));
    json_decref(json);
}

static void expect_json_error(struct program_end *end, int code, const char *name, const char *part)
{
    json_t *json = parse(end->out), *error = json_object_get(json, "error");

    assert_string_equal(text_at(error, "code"), name);
    assert_non_null(strstr(text_at(error, "message"), part));
    json_decref(json);
    expect_end(end, code);
}

static void json_tells_errors(void **state)
{
    struct program_end end;

    (void)state;
    end = RUN(&usual, "generate", "--steps", "none", "--json");
    expect_json_error(&end, 2, "bad_request", "--steps");
    end = RUN(&usual, "generate", "--model", "/nowhere/\xff", "--prompt", "a", "--json");
    expect_json_error(&end, 2, "bad_request", "/nowhere");
    end = RUN(&usual, "generate", "--model", test_write_file("bad.safetensors", "{}", 2),
              "--prompt", "a", "--output", test_path("never.png"), "--json");
    expect_json_error(&end, 3, "bad_file", "bad.safetensors");
}

static void a_dry_run_plans_and_writes_nothing(void **state)
{
    const struct program_setting setting = {.directory = new_folder("dry")};
    struct program_end end = RUN(&setting, SMALL, "--dry-run");
    json_t *json;

    (void)state;
    assert_non_null(strstr(end.out, "transformer"));
    expect_end(&end, 0);
    end = RUN(&setting, "generate", "--model", model, "--dry-run", "--json");
    json = parse(end.out);
    assert_true(integer_at(json_object_get(json_object_get(json, "memory_bytes"), "plan"), "peak") >
                0);
    json_decref(json);
    expect_end(&end, 0);
    assert_int_equal(count_files(setting.directory), 0);
}

static void the_environment_sets_what_the_command_line_does_not(void **state)
{
    const struct program_setting setting = {.variable = "SD35_STEPS=3"};
    struct program_end end;
    json_t *json;

    (void)state;
    end = RUN(&setting, "generate", "--model", model, "--dry-run", "--json");
    json = parse(end.out);
    assert_int_equal(integer_at(json_object_get(json, "request"), "steps"), 3);
    json_decref(json);
    expect_end(&end, 0);
    end = RUN(&setting, "generate", "--model", model, "--dry-run", "--json", "--steps", "4");
    json = parse(end.out);
    assert_int_equal(integer_at(json_object_get(json, "request"), "steps"), 4);
    json_decref(json);
    expect_end(&end, 0);
}

static void version_and_help_are_printed(void **state)
{
    struct program_end end;

    (void)state;
    end = RUN(&usual, "--version");
    assert_int_equal(strncmp(end.out, "sd35 ", 5), 0);
    expect_end(&end, 0);
    end = RUN(&usual, "--help");
    assert_non_null(strstr(end.out, "generate"));
    expect_end(&end, 0);
    end = RUN(&usual, "generate", "--help");
    assert_non_null(strstr(end.out, "--negative-prompt"));
    expect_end(&end, 0);
    end = RUN(&usual, "bench", "--help");
    assert_non_null(strstr(end.out, "--compare"));
    expect_end(&end, 0);
}

static void a_standard_output_that_takes_nothing_is_an_error(void **state)
{
    const struct program_setting setting = {.output = "/dev/full"};
    struct program_end end = RUN(&setting, "--version");

    (void)state;
    expect_sentence(end.err, "standard output");
    expect_end(&end, 6);
}

/* --- Bad input --- */

static void wrong_sizes_are_refused(void **state)
{
    static const char *const sizes[] = {"0x0",           "-1x-1",  "17x17",       "2147483648x16",
                                        "16x2147483648", "0",      "-1",          "17",
                                        "2147483648",    "64x48x", "16384x16384", "99999999999x1"};
    const char *folder = new_folder("sizes"), *path = in_folder(folder, "a.png");

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        EXPECT_REFUSAL(&usual, folder, 2, i == 2 || i == 10 ? "width" : sizes[i], SMALL, "--size",
                       sizes[i], "--output", path);
}

static void prompts_too_long_or_not_utf8_are_refused(void **state)
{
    const char *folder = new_folder("prompts"), *path = in_folder(folder, "a.png");
    size_t size = (size_t)1 << 20;
    char *text = malloc(size), given[256];
    struct program_setting setting = usual;

    (void)state;
    assert_non_null(text);
    memset(text, 'a', size);
    setting.input = test_write_file("long.txt", text, size);
    free(text);
    EXPECT_REFUSAL(&setting, folder, 2, "--prompt", SMALL, "--prompt", "-", "--output", path);
    snprintf(given, sizeof given, "@%s", setting.input);
    EXPECT_REFUSAL(&setting, folder, 3, "long.txt", SMALL, "--prompt", given, "--output", path);
    EXPECT_REFUSAL(&usual, folder, 2, "--prompt", SMALL, "--prompt", "cat \xff\xfe", "--output",
                   path);
    EXPECT_REFUSAL(&usual, folder, 2, "--negative-prompt", SMALL, "--negative-prompt",
                   "\xed\xa0\x80", "--output", path);
    EXPECT_REFUSAL(&usual, folder, 2, "standard input", SMALL, "--prompt", "-", "--prompt-2", "-",
                   "--output", path);
}

static void put_u32(unsigned char *at, unsigned long value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(value >> (24 - 8 * i));
}

/* A PNG that claims 60,000 x 60,000 pixels and has none. */
static const char *write_bomb(void)
{
    unsigned char png[33] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

    put_u32(png + 16, 60000);
    put_u32(png + 20, 60000);
    png[24] = 8;
    png[25] = 2;
    put_u32(png + 29, crc32(0, png + 12, 17));
    return test_write_file("bomb.png", png, sizeof png);
}

static void bad_pictures_are_refused(void **state)
{
    const char *folder = new_folder("pictures"), *path = in_folder(folder, "a.png");
    const char *bomb = write_bomb(), *text = test_write_file("text.png", "hello", 5);

    (void)state;
    EXPECT_REFUSAL(&usual, folder, 3, "bomb.png", SMALL, "--init-image", bomb, "--output", path);
    EXPECT_REFUSAL(&usual, folder, 3, "text.png", SMALL, "--init-image", text, "--output", path);
    EXPECT_REFUSAL(&usual, folder, 6, "/nowhere.png", SMALL, "--init-image", "/nowhere.png",
                   "--output", path);
    EXPECT_REFUSAL(&usual, folder, 3, "/dev/zero", SMALL, "--init-image", "/dev/zero", "--output",
                   path);
    EXPECT_REFUSAL(&usual, folder, 2, "--init-image", SMALL, "--mask", bomb, "--output", path);
}

static void outputs_that_cannot_be_are_refused_before_drawing(void **state)
{
    const char *folder = new_folder("outputs"), *file = test_write_file("file", "", 0);
    /* So long that the test would not end if it began. */
    const char *const steps = "1000";

    (void)state;
    EXPECT_REFUSAL(&usual, folder, 6, "--output", SMALL, "--steps", steps, "--output",
                   in_folder(folder, "none/a.png"));
    EXPECT_REFUSAL(&usual, folder, 6, "--output", SMALL, "--steps", steps, "--output",
                   in_folder(file, "a.png"));
    EXPECT_REFUSAL(&usual, folder, 6, "--output", SMALL, "--steps", steps, "--output",
                   "/proc/a.png");
    EXPECT_REFUSAL(&usual, folder, 2, "a.gif", SMALL, "--steps", steps, "--output",
                   in_folder(folder, "a.gif"));
    EXPECT_REFUSAL(&usual, folder, 2, "--output", SMALL, "--steps", steps, "--output", folder);
    EXPECT_REFUSAL(&usual, folder, 2, "--output", SMALL, "--steps", steps, "--output", "");
}

static void bad_options_are_refused(void **state)
{
    const char *folder = new_folder("options"), *path = in_folder(folder, "a.png");

    (void)state;
    EXPECT_REFUSAL(&usual, folder, 2, "--guidance", SMALL, "--guidence", "5", "--output", path);
    EXPECT_REFUSAL(&usual, folder, 2, "skip_layers", SMALL, "--skip-layers", "900", "--output",
                   path);
    EXPECT_REFUSAL(&usual, folder, 2, "t5_tokens", SMALL, "--t5-tokens", "5", "--output", path);
    EXPECT_REFUSAL(&usual, folder, 2, "flow_shift", SMALL, "--flow-shift", "0", "--output", path);
    EXPECT_REFUSAL(&usual, folder, 2, "device", SMALL, "--device", "abacus", "--output", path);
    EXPECT_REFUSAL(&usual, folder, 2, "--size", SMALL, "--width", "64", "--output", path);
    EXPECT_REFUSAL(&usual, folder, 2, "--batch", SMALL, "--batch", "65", "--output", path);
    EXPECT_REFUSAL(&usual, folder, 2, "generat", "generat", SMALL, "--output", path);
}

static void a_full_disk_leaves_no_file(void **state)
{
    const char *folder = new_folder("full"), *path = in_folder(folder, "a.png");
    const struct program_setting setting = {.file_limit = 4096};
    struct program_end end;

    (void)state;
    EXPECT_REFUSAL(&setting, folder, 6, "a.png", SMALL, "--quiet", "--output", path);
    EXPECT_REFUSAL(&setting, folder, 6, "a-1.png", SMALL, "--quiet", "--batch", "2", "--output",
                   path);
    end = RUN(&setting, SMALL_JSON, "--output", path);
    expect_json_error(&end, 6, "io", "a.png");
}

static void a_full_disk_keeps_the_file_that_was_there(void **state)
{
    const char *folder = new_folder("kept"), *path = in_folder(folder, "a.png");
    const struct program_setting setting = {.file_limit = 4096};
    FILE *old = fopen(path, "w");
    struct program_end end;
    unsigned char *bytes;
    size_t size;

    (void)state;
    assert_non_null(old);
    fputs("old", old);
    fclose(old);
    end = RUN(&setting, SMALL, "--output", path);
    expect_end(&end, 6);
    assert_true(file_read(&bytes, &size, path, 100, NULL));
    assert_string_equal((char *)bytes, "old");
    free(bytes);
    assert_int_equal(count_files(folder), 1);
}

/* --- Timing --- */

#define BENCH "bench", "--model", model, "--size", "128x128", "--steps", "2", "--runs", "1"

static json_t *parse_file(const char *path)
{
    unsigned char *bytes;
    size_t size;
    json_t *json;

    assert_true(file_read(&bytes, &size, path, (size_t)1 << 16, NULL));
    json = parse((const char *)bytes);
    free(bytes);
    return json;
}

static void expect_bench_json(json_t *json)
{
    static const char *const once[] = {"open", "first"};
    static const char *const repeated[] = {"encode", "step", "denoise", "decode", "total"};
    json_t *seconds = json_object_get(json, "seconds"), *memory = json_object_get(json, "memory");

    for (size_t i = 0; i < COUNT_OF(once); i++)
        assert_true(real_at(seconds, once[i]) > 0);
    for (size_t i = 0; i < COUNT_OF(repeated); i++) {
        json_t *figure = json_object_get(seconds, repeated[i]);

        assert_true(real_at(figure, "min") > 0);
        assert_true(real_at(figure, "median") >= real_at(figure, "min"));
        assert_true(real_at(figure, "max") >= real_at(figure, "median"));
    }
    assert_true(real_at(json, "tflop_per_step") > 0);
    assert_true(real_at(json, "tflops") > 0);
    assert_true(real_at(json, "pictures_per_minute") > 0);
    assert_true(integer_at(memory, "planned_peak_bytes") > 1 << 20);
    assert_true(integer_at(memory, "host_peak_bytes") > 1 << 20);
    assert_true(json_is_null(json_object_get(memory, "device_peak_bytes")));
    assert_int_equal(integer_at(json, "width"), 128);
    assert_int_equal(integer_at(json, "steps"), 2);
    json_decref(json);
}

static void a_bench_tells_seconds_speed_and_memory(void **state)
{
    static const char *const rows[] = {
        "\nopen ",   "\nfirst picture ", "\nencode ",          "\nstep ",     "\ndenoise ",
        "\ndecode ", "\ntotal ",         "\nspeed of a step ", "\npictures ", "\nmemory, planned "};
    const char *folder = new_folder("bench"), *path = in_folder(folder, "a.json");
    struct program_end end = RUN(&usual, BENCH, "--json-file", path);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        assert_non_null(strstr(end.out, rows[i]));
    assert_non_null(strstr(end.out, "128 x 128, 2 steps"));
    assert_non_null(strstr(end.err, "first picture: "));
    expect_end(&end, 0);
    assert_int_equal(count_files(folder), 1);
    expect_bench_json(parse_file(path));

    end = RUN(&usual, BENCH, "--batch", "2", "--runs", "2", "--warmup", "0", "--json-file", "-",
              "--quiet");
    assert_string_equal(end.err, "");
    expect_bench_json(parse(end.out));
    expect_end(&end, 0);
}

static void a_bench_is_compared_with_an_earlier_one(void **state)
{
    const char *folder = new_folder("bench-compare"), *path = in_folder(folder, "a.json");
    struct program_end end = RUN(&usual, BENCH, "--quiet", "--json-file", path);

    (void)state;
    expect_end(&end, 0);
    /* Read before it is replaced. */
    end = RUN(&usual, BENCH, "--quiet", "--compare", path, "--json-file", path);
    assert_string_equal(end.err, "");
    assert_non_null(strstr(end.out, "now/before"));
    assert_non_null(strstr(end.out, "memory, planned"));
    expect_end(&end, 0);
    end = RUN(&usual, BENCH, "--quiet", "--compare", path, "--steps", "3");
    expect_sentence(end.err, "steps is 3 now and was 2 before");
    expect_end(&end, 0);
}

static void what_no_bench_wrote_is_not_compared_with(void **state)
{
    static const char *const texts[] = {
        "", "sd35", "[1]", "{}", "{\"version\": \"1\", \"version\": \"2\"}",
        /* All is there but the seconds. */
        "{\"version\": \"\", \"model\": \"\", \"variant\": \"\", \"weights\": \"\", "
        "\"device\": \"\", \"width\": 1, \"height\": 1, \"steps\": 1, \"guidance\": 1, "
        "\"batch\": 1, \"runs\": 1, \"tflop_per_step\": 1, \"seconds\": [\"\\u001b[2J\"]}"};
    const char *folder = new_folder("bench-broken"), *json = in_folder(folder, "a.json");

    (void)state;
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        EXPECT_REFUSAL(&usual, folder, 3, "broken.json", BENCH, "--json-file", json, "--compare",
                       test_write_file("broken.json", texts[i], strlen(texts[i])));
    EXPECT_REFUSAL(&usual, folder, 6, "/nowhere.json", BENCH, "--json-file", json, "--compare",
                   "/nowhere.json");
    EXPECT_REFUSAL(&usual, folder, 3, "/dev/zero", BENCH, "--compare", "/dev/zero");
}

static void a_bench_that_cannot_be_is_refused(void **state)
{
    const char *folder = new_folder("bench-refused"), *path = in_folder(folder, "a.json");

    (void)state;
    EXPECT_REFUSAL(&usual, folder, 2, "--model", "bench", "--json-file", path);
    EXPECT_REFUSAL(&usual, folder, 2, "--runs", BENCH, "--runs", "0", "--json-file", path);
    EXPECT_REFUSAL(&usual, folder, 2, "width", BENCH, "--size", "17x17", "--json-file", path);
    EXPECT_REFUSAL(&usual, folder, 2, "standard input", BENCH, "--prompt", "-", "-n", "-");
    EXPECT_REFUSAL(&usual, folder, 6, "none/a.json", BENCH, "--runs", "1000", "--json-file",
                   in_folder(folder, "none/a.json"));
}

/* --- Stopping --- */

static void stop_with(int signal_number, const char *folder)
{
    const char *const arguments[] = {sd35,      SMALL,  "--size",   "384x384",
                                     "--steps", "1000", "--output", in_folder(folder, "a.png"),
                                     NULL};
    struct program program;
    struct program_end end;

    program_start(&program, &usual, arguments);
    assert_true(program_wait_for(&program, "encode: "));
    assert_int_equal(kill(program.pid, signal_number), 0);
    end = program_finish(&program);
    assert_non_null(strstr(end.err, "sd35: "));
    assert_non_null(strstr(end.err, "cancelled"));
    expect_end(&end, 130);
    assert_int_equal(count_files(folder), 0);
}

static void a_signal_ends_the_run_with_nothing_written(void **state)
{
    const char *folder = new_folder("signals");

    (void)state;
    stop_with(SIGINT, folder);
    stop_with(SIGTERM, folder);
}

static void a_signal_ends_a_bench_with_nothing_written(void **state)
{
    const char *folder = new_folder("bench-signal");
    const char *const arguments[] = {
        sd35, BENCH, "--runs", "1000", "--json-file", in_folder(folder, "a.json"), NULL};
    struct program program;
    struct program_end end;

    (void)state;
    program_start(&program, &usual, arguments);
    assert_true(program_wait_for(&program, "first picture: "));
    assert_int_equal(kill(program.pid, SIGINT), 0);
    end = program_finish(&program);
    assert_non_null(strstr(end.err, "cancelled"));
    assert_string_equal(end.out, "");
    expect_end(&end, 130);
    assert_int_equal(count_files(folder), 0);
}

/* The transformer's file loses everything behind its first page while it is drawn with. */
static void a_model_file_that_shrinks_is_an_error_and_no_crash(void **state)
{
    const char *folder = new_folder("shrinking");
    const char *shrinking = in_folder(new_folder("shrinking-model"), "model");
    const char *const arguments[] = {sd35,       "generate",
                                     "--model",  shrinking,
                                     "--prompt", "a",
                                     "--size",   "384x384",
                                     "--steps",  "1000",
                                     "--seed",   "1",
                                     "--output", in_folder(folder, "a.png"),
                                     NULL};
    struct program program;
    struct program_end end;
    char weights[512];

    (void)state;
    snprintf(weights, sizeof weights, "%s/transformer/diffusion_pytorch_model.safetensors",
             shrinking);
    end = run(&usual, (const char *const[]){make_random_model, "--output", shrinking, NULL});
    expect_end(&end, 0);
    program_start(&program, &usual, arguments);
    assert_true(program_wait_for(&program, "encode: "));
    assert_int_equal(truncate(weights, 4096), 0);
    end = program_finish(&program);
    assert_non_null(strstr(end.err, "sd35: a model file"));
    expect_end(&end, 6);
    assert_int_equal(count_files(folder), 0);
}

static void a_signal_ends_the_waiting_for_a_prompt(void **state)
{
    const char *folder = new_folder("waiting");
    const char *const arguments[] = {
        sd35, SMALL, "--prompt", "-", "--output", in_folder(folder, "a.png"), NULL};
    struct program_setting setting = {0};
    struct program program;
    struct program_end end;
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    setting.input_fd = ends[0];
    program_start(&program, &setting, arguments);
    assert_true(program_wait_for_handler(&program, SIGINT));
    usleep(100000); /* until it has begun to read */
    assert_int_equal(kill(program.pid, SIGINT), 0);
    end = program_finish(&program);
    close(ends[0]);
    close(ends[1]);
    expect_sentence(end.err, "cancelled");
    expect_end(&end, 130);
    assert_int_equal(count_files(folder), 0);
}

/* --- On a terminal --- */

static size_t read_terminal(int fd, char *text, size_t size)
{
    size_t used = 0;
    ssize_t got;

    /* EIO: the other end is closed. */
    while (used + 1 < size && (got = read(fd, text + used, size - 1 - used)) > 0)
        used += (size_t)got;
    text[used] = '\0';
    return used;
}

static void a_terminal_gets_a_line_that_is_taken_away_at_the_end(void **state)
{
    const char *folder = new_folder("terminal");
    const char *const arguments[] = {sd35, SMALL, "--output", in_folder(folder, "a.png"), NULL};
    struct winsize size = {.ws_row = 24, .ws_col = 70};
    struct program_setting setting = {0};
    static char text[1 << 16];
    struct program program;
    struct program_end end;
    int master, slave;

    (void)state;
    assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
    setting.error_fd = slave;
    program_start(&program, &setting, arguments);
    close(slave);
    read_terminal(master, text, sizeof text);
    end = program_finish(&program);
    close(master);
    expect_end(&end, 0);
    assert_non_null(strstr(text, "\rdenoise  ["));
    assert_non_null(strstr(text, "\r\033[Kdone in "));
}

static int make_model(void **state)
{
    struct program_end end;

    (void)state;
    model = test_path("model");
    end = run(&usual, (const char *const[]){make_random_model, "--output", model, "--preset",
                                            "tiny", NULL});
    if (end.code != 0)
        print_error("%s", end.err);
    program_end_free(&end);
    return end.code;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_picture_is_written_with_its_size_and_its_texts),
        cmocka_unit_test(the_same_seed_gives_the_same_file_and_another_seed_another),
        cmocka_unit_test(a_batch_gives_the_files_that_single_runs_give),
        cmocka_unit_test(the_other_formats_carry_the_texts_too),
        cmocka_unit_test(without_a_name_the_file_is_named_after_the_seed),
        cmocka_unit_test(an_empty_prompt_is_drawn),
        cmocka_unit_test(a_prompt_is_read_from_standard_input),
        cmocka_unit_test(a_picture_is_the_start_of_another_in_its_shape),
        cmocka_unit_test(json_tells_files_seeds_seconds_and_memory),
        cmocka_unit_test(json_tells_errors),
        cmocka_unit_test(a_dry_run_plans_and_writes_nothing),
        cmocka_unit_test(the_environment_sets_what_the_command_line_does_not),
        cmocka_unit_test(version_and_help_are_printed),
        cmocka_unit_test(a_standard_output_that_takes_nothing_is_an_error),
        cmocka_unit_test(wrong_sizes_are_refused),
        cmocka_unit_test(prompts_too_long_or_not_utf8_are_refused),
        cmocka_unit_test(bad_pictures_are_refused),
        cmocka_unit_test(outputs_that_cannot_be_are_refused_before_drawing),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(a_full_disk_leaves_no_file),
        cmocka_unit_test(a_full_disk_keeps_the_file_that_was_there),
        cmocka_unit_test(a_bench_tells_seconds_speed_and_memory),
        cmocka_unit_test(a_bench_is_compared_with_an_earlier_one),
        cmocka_unit_test(what_no_bench_wrote_is_not_compared_with),
        cmocka_unit_test(a_bench_that_cannot_be_is_refused),
        cmocka_unit_test(a_signal_ends_the_run_with_nothing_written),
        cmocka_unit_test(a_signal_ends_a_bench_with_nothing_written),
        cmocka_unit_test(a_signal_ends_the_waiting_for_a_prompt),
        cmocka_unit_test(a_model_file_that_shrinks_is_an_error_and_no_crash),
        cmocka_unit_test(a_terminal_gets_a_line_that_is_taken_away_at_the_end),
    };

    if (argc != 3) {
        fprintf(stderr, "usage: test_cli SD35 SD35_MAKE_RANDOM_MODEL\n");
        return 2;
    }
    sd35 = argv[1];
    make_random_model = argv[2];
    return cmocka_run_group_tests(tests, make_model, NULL);
}
