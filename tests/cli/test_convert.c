/* `sd35 convert` and `sd35 verify` as people run them, on small models of random weights. */
#include "support/support.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "program_run.h"
#include "weights/safetensors.h"

static const char *sd35, *make_random_model; /* the programs */
static const char *model;                    /* the folder that the second one wrote, F16 */

static const struct program_setting usual;

static struct program_end run(const struct program_setting *setting, const char *const *arguments)
{
    struct program program;

    program_start(&program, setting, arguments);
    return program_finish(&program);
}

#define RUN(setting, ...) run((setting), (const char *const[]){sd35, __VA_ARGS__, NULL})
#define MAKE(...) run(&usual, (const char *const[]){make_random_model, __VA_ARGS__, NULL})

static void expect_end(struct program_end *end, int code)
{
    if (end->code != code)
        print_error("exit code %d, expected %d\nstdout: %s\nstderr: %s\n", end->code, code,
                    end->out, end->err);
    assert_int_equal(end->code, code);
    program_end_free(end);
}

static void expect(struct program_end end, int code)
{
    expect_end(&end, code);
}

/* A fresh folder of one test, and paths in it. */
static const char *new_folder(const char *name)
{
    const char *path = test_path(name);

    assert_int_equal(mkdir(path, 0777), 0);
    return path;
}

/* Every folder here lies in the test's. */
static const char *in(const char *folder, const char *name)
{
    char below[512];

    snprintf(below, sizeof below, "%s/%s", folder + strlen(test_directory()) + 1, name);
    return test_path(below);
}

static int count_files(const char *folder)
{
    DIR *directory = opendir(folder);
    int count = 0;

    assert_non_null(directory);
    for (struct dirent *entry = readdir(directory); entry; entry = readdir(directory))
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(directory);
    return count;
}

/* The code, one sentence that holds `part`, and nothing left in the folder. */
static void expect_refusal(struct program_end end, const char *folder, int code, const char *part)
{
    if (!strstr(end.err, part))
        print_error("expected '%s' in: %s\n", part, end.err);
    assert_non_null(strstr(end.err, part));
    assert_true(strncmp(end.err, "sd35: ", 6) == 0);
    assert_ptr_equal(strchr(end.err, '\n'), end.err + strlen(end.err) - 1);
    expect_end(&end, code);
    assert_int_equal(count_files(folder), 0);
}

static json_t *read_json(const char *path)
{
    json_t *json = json_load_file(path, 0, NULL);

    if (!json)
        print_error("no JSON at %s\n", path);
    assert_non_null(json);
    return json;
}

/* --- It works --- */

static void expect_picture(const char *path, const char *folder)
{
    expect(RUN(&usual, "generate", "--model", path, "--prompt", "a red cat", "--size", "64x64",
               "--steps", "2", "--seed", "7", "--quiet", "--output", in(folder, "a.png")),
           0);
}

static void every_layout_is_whole_and_draws(void **state)
{
    static const struct {
        const char *layout, *name, *format;
    } cases[] = {
        {"diffusers", "out", "e4m3"},
        {"diffusers", "out5", "e5m2"},
        {"single", "out.safetensors", "e4m3"},
        {"comfyui", "comfy.safetensors", "e4m3"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char name[32];
        const char *folder, *path;

        snprintf(name, sizeof name, "layout%zu", i);
        folder = new_folder(name);
        path = in(folder, cases[i].name);
        expect(RUN(&usual, "convert", "--model-path", model, "--output-path", path, "--layout",
                   cases[i].layout, "--format", cases[i].format),
               0);
        expect(RUN(&usual, "verify", path), 0);
        expect_picture(path, folder);
    }
}

/* From one file in F32 to a folder, with configurations made for it, and back to one file. */
static void layouts_become_each_other(void **state)
{
    const char *folder = new_folder("to-and-fro"), *file = in(folder, "source.safetensors");
    const char *out = in(folder, "out");
    json_t *config;

    (void)state;
    expect(MAKE("--output", file, "--layout", "single", "--dtype", "f32", "--dual-layers", "1"), 0);
    expect(RUN(&usual, "convert", "--model-path", file, "--output-path", out), 0);
    expect(RUN(&usual, "verify", out), 0);
    expect_picture(out, folder);
    config = read_json(in(out, "transformer/config.json"));
    assert_int_equal(json_integer_value(json_object_get(config, "num_layers")), 4);
    assert_int_equal(json_array_size(json_object_get(config, "dual_attention_layers")), 1);
    json_decref(config);
    config = read_json(in(out, "model_index.json"));
    assert_string_equal(json_string_value(json_object_get(config, "_class_name")),
                        "StableDiffusion3Pipeline");
    json_decref(config);
}

static void separate_encoders_are_taken(void **state)
{
    const char *folder = new_folder("separate"), *file = in(folder, "bare.safetensors");
    const char *out = in(folder, "out.safetensors");

    (void)state;
    expect(MAKE("--output", file, "--layout", "single", "--without-encoders"), 0);
    expect(RUN(&usual, "convert", "--model-path", file, "--clip-l",
               in(model, "text_encoder/model.safetensors"), "--clip-g",
               in(model, "text_encoder_2/model.safetensors"), "--t5",
               in(model, "text_encoder_3/model.safetensors"), "--tokenizers", model,
               "--output-path", out, "--layout", "single"),
           0);
    expect(RUN(&usual, "verify", out), 0);
    expect_picture(out, folder);
}

/* What config.json alone knows, in a file that has no config.json. */
static void facts_survive_in_one_file(void **state)
{
    const char *folder = new_folder("facts"), *source = in(folder, "a-turbo-model");
    const char *out = in(folder, "out.safetensors"), *path = in(source, "vae/config.json");
    struct safetensors_file *file;
    json_t *config, *facts;

    (void)state;
    expect(MAKE("--output", source), 0);
    config = read_json(path);
    json_object_set_new(config, "norm_num_groups", json_integer(16));
    json_object_set_new(config, "scaling_factor", json_real(1.25));
    assert_int_equal(json_dump_file(config, path, 0), 0);
    expect(
        RUN(&usual, "convert", "--model-path", source, "--output-path", out, "--layout", "single"),
        0);
    assert_true(safetensors_open(&file, out, NULL));
    facts = json_loads(safetensors_metadata(file, "sd35.facts"), 0, NULL);
    assert_string_equal(json_string_value(json_object_get(facts, "name")), "a-turbo-model");
    assert_true(json_equal(json_object_get(json_object_get(facts, "configs"), "vae"), config));
    safetensors_close(file);
    json_decref(facts);
    json_decref(config);
    expect(RUN(&usual, "generate", "--model", out, "--prompt", "a", "--size", "64x64", "--seed",
               "7", "--quiet", "--output", in(folder, "a.png")),
           0);
    expect(RUN(&usual, "generate", "--model", in(folder, "nothing"), "--dry-run"), 2);
}

static void the_record_tells_layers_sources_and_hashes(void **state)
{
    const char *folder = new_folder("record"), *out = in(folder, "out");
    size_t kept = 0, quantised = 0, i;
    struct safetensors_file *file;
    json_t *record, *layer;

    (void)state;
    expect(RUN(&usual, "convert", "--model-path", model, "--output-path", out, "--keep",
               "clip_g,*.mlp_in"),
           0);
    record = read_json(in(out, "quantization.json"));
    json_array_foreach(json_object_get(record, "layers"), i, layer)
    {
        const char *name = json_string_value(json_object_get(layer, "layer"));
        double error = json_number_value(json_object_get(layer, "error_alone"));
        bool is_kept = json_is_true(json_object_get(layer, "kept"));

        kept += is_kept;
        quantised += !is_kept;
        assert_true(is_kept == json_is_string(json_object_get(layer, "reason")));
        assert_true(error > 0.005 && error < 0.04);
        if (strstr(name, "mlp_in") || strncmp(name, "clip_g.", 7) == 0)
            assert_true(is_kept);
        if (strcmp(name, "transformer.block.1.image.modulation") == 0)
            assert_false(is_kept);
    }
    assert_true(kept > 20 && quantised > 20);
    assert_int_equal(json_array_size(json_object_get(record, "source")), 5);
    assert_true(
        safetensors_open(&file, in(out, "transformer/diffusion_pytorch_model.safetensors"), NULL));
    assert_string_equal(safetensors_metadata(file, "sd35.source.0.sha256"),
                        json_string_value(json_object_get(
                            json_array_get(json_object_get(record, "source"), 0), "sha256")));
    assert_int_not_equal(safetensors_metadata(file, "sd35.source.0.sha256")[0], '\0');
    safetensors_close(file);
    json_decref(record);
}

/* Splits, and reads what it split; the shards of the second are links, as in the demo model. */
static void shards_are_written_and_read_through_links(void **state)
{
    const char *folder = new_folder("shards"), *source = in(folder, "source");
    const char *elsewhere = in(folder, "elsewhere"), *out = in(folder, "out");
    const char *name = "transformer/diffusion_pytorch_model.safetensors";

    (void)state;
    expect(MAKE("--output", source, "--heads", "4", "--layers", "8"), 0);
    assert_int_equal(rename(in(source, name), elsewhere), 0);
    assert_int_equal(symlink(elsewhere, in(source, name)), 0);
    expect(
        RUN(&usual, "convert", "--model-path", source, "--output-path", out, "--shard-size", "5"),
        0);
    assert_true(
        file_is_regular(in(out, "transformer/diffusion_pytorch_model.safetensors.index.json")));
    assert_true(count_files(in(out, "transformer")) > 4);
    expect(RUN(&usual, "verify", out), 0);
    expect_picture(out, folder);
}

/* The same bytes whatever the number of threads. */
static void threads_change_nothing(void **state)
{
    const char *folder = new_folder("threads");
    unsigned char *a, *b;
    size_t a_size, b_size;

    (void)state;
    expect(RUN(&usual, "convert", "--model-path", model, "--output-path", in(folder, "1"),
               "--threads", "1"),
           0);
    expect(RUN(&usual, "convert", "--model-path", model, "--output-path", in(folder, "3"),
               "--threads", "3"),
           0);
    assert_true(file_read(&a, &a_size, in(folder, "1/manifest.json"), 1u << 24, NULL));
    assert_true(file_read(&b, &b_size, in(folder, "3/manifest.json"), 1u << 24, NULL));
    assert_int_equal(a_size, b_size);
    assert_memory_equal(a, b, a_size);
    free(a);
    free(b);
}

/* --- It refuses --- */

/* A copy of the model whose transformer has these bytes at the start of its largest tensor. */
static const char *model_with_weight(const char *name, const char *dtype, const void *bytes,
                                     size_t size)
{
    const char *path = test_path(name), *weights;
    struct safetensors_file *file;
    const struct safetensors_entry *entry;
    const void *header;
    size_t header_size;
    FILE *out;

    expect(MAKE("--output", path, "--dtype", dtype), 0);
    weights = in(path, "transformer/diffusion_pytorch_model.safetensors");
    assert_true(safetensors_open(&file, weights, NULL));
    safetensors_header(file, &header, &header_size);
    entry = safetensors_find(file, "transformer_blocks.1.ff.net.2.weight");
    assert_non_null(entry);
    out = fopen(weights, "r+b");
    assert_non_null(out);
    assert_int_equal(
        fseek(out, (long)(entry->data - (const unsigned char *)header) + 600 * 4, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, size, out), size);
    assert_int_equal(fclose(out), 0);
    safetensors_close(file);
    return path;
}

static void weights_that_are_no_numbers_are_named(void **state)
{
    static const unsigned char nan_f16[] = {0x00, 0x7e}, infinite_bf16[] = {0x80, 0xff};
    static const unsigned char nan_f32[] = {0x00, 0x00, 0xc0, 0x7f};
    const char *folder = new_folder("not-finite"), *path;
    struct program_end end;

    (void)state;
    path = model_with_weight("nan-f16", "f16", nan_f16, sizeof nan_f16);
    expect_refusal(
        RUN(&usual, "convert", "--quiet", "--model-path", path, "--output-path", in(folder, "a")),
        folder, 3, "'transformer_blocks.1.ff.net.2.weight' holds NaN at row 2, column 176");
    end = RUN(&usual, "verify", path);
    assert_non_null(strstr(end.out, "'transformer_blocks.1.ff.net.2.weight' holds NaN"));
    expect_end(&end, 3);
    path = model_with_weight("infinite-bf16", "bf16", infinite_bf16, sizeof infinite_bf16);
    expect_refusal(RUN(&usual, "convert", "--quiet", "--model-path", path, "--output-path",
                       in(folder, "a.safetensors"), "--layout", "comfyui"),
                   folder, 3, "holds an infinite weight");
    path = model_with_weight("nan-f32", "f32", nan_f32, sizeof nan_f32);
    expect_refusal(
        RUN(&usual, "convert", "--quiet", "--model-path", path, "--output-path", in(folder, "a")),
        folder, 3, "holds NaN at row 1, column 88");
}

static void what_is_fp8_already_is_refused(void **state)
{
    const char *folder = new_folder("fp8"), *source = test_path("fp8-source.safetensors");

    (void)state;
    expect(MAKE("--output", source, "--layout", "comfy-fp8"), 0);
    expect_refusal(RUN(&usual, "convert", "--model-path", source, "--output-path", in(folder, "a")),
                   folder, 3, "is FP8 already");
}

static void missing_tensors_are_named(void **state)
{
    const char *folder = new_folder("missing"), *source = test_path("missing-source");
    const char *name = "transformer/diffusion_pytorch_model.safetensors";

    (void)state;
    expect(MAKE("--output", source), 0);
    /* The VAE's file in the transformer's place. */
    assert_int_equal(unlink(in(source, name)), 0);
    assert_int_equal(
        rename(in(source, "vae/diffusion_pytorch_model.safetensors"), in(source, name)), 0);
    expect_refusal(RUN(&usual, "convert", "--model-path", source, "--output-path", in(folder, "a")),
                   folder, 3, "transformer");
    expect_refusal(RUN(&usual, "convert", "--model-path", in(folder, "nothing"), "--output-path",
                       in(folder, "a")),
                   folder, 2, "no model at");
}

static void targets_that_would_harm_the_source_are_refused(void **state)
{
    const char *folder = new_folder("harm"), *link = test_path("harm-link");

    (void)state;
    assert_int_equal(symlink(model, link), 0);
    expect_refusal(RUN(&usual, "convert", "--model-path", model, "--output-path", model, "--force"),
                   folder, 2, "is the model itself");
    expect_refusal(RUN(&usual, "convert", "--model-path", link, "--output-path", model, "--force"),
                   folder, 2, "is the model itself");
    expect_refusal(RUN(&usual, "convert", "--model-path", model, "--output-path", in(link, "fp8")),
                   folder, 2, "lies inside the model");
    expect_refusal(
        RUN(&usual, "convert", "--model-path", model, "--output-path", test_directory(), "--force"),
        folder, 2, "which is read");
    expect_refusal(RUN(&usual, "convert", "--model-path", model, "--output-path",
                       in(model, "transformer/diffusion_pytorch_model.safetensors"), "--layout",
                       "single", "--force"),
                   folder, 2, "inside the model");
    expect_refusal(
        RUN(&usual, "convert", "--model-path", model, "--output-path", in(folder, "no/such/a")),
        folder, 2, "there is no folder");
    expect(RUN(&usual, "verify", model), 0);
}

static void bad_options_are_refused(void **state)
{
    const char *folder = new_folder("options"), *out = in(folder, "a");

    (void)state;
    expect_refusal(RUN(&usual, "convert", "--output-path", out), folder, 2, "--model-path");
    expect_refusal(RUN(&usual, "convert", "--model-path", model), folder, 2, "--output-path");
    expect_refusal(
        RUN(&usual, "convert", "--model-path", model, "--output-path", out, "--layout", "gguf"),
        folder, 2, "--layout");
    expect_refusal(RUN(&usual, "convert", "--model-path", model, "--output-path", out, "--layout",
                       "comfyui", "--keep", "t5"),
                   folder, 2, "contradict");
    expect_refusal(RUN(&usual, "convert", "--model-path", model, "--output-path", out, "--keep",
                       "transformer,clip_l,clip_g,t5"),
                   folder, 2, "no layer would become FP8");
    expect_refusal(RUN(&usual, "convert", "--model-path", model, "--output-path", out, "--keep",
                       "clip_g,transformer.blok.0"),
                   folder, 2, "no layer is called 'transformer.blok.0'");
    expect_refusal(RUN(&usual, "verify"), folder, 2, "model is missing");
    expect_refusal(RUN(&usual, "verify", in(folder, "nothing")), folder, 2, "no model at");
}

static void only_converted_models_are_replaced(void **state)
{
    const char *folder = new_folder("replace"), *out = in(folder, "out");
    const char *other = in(folder, "other"), *file = in(folder, "out.safetensors");
    struct program_end end;

    (void)state;
    expect(RUN(&usual, "convert", "--model-path", model, "--output-path", out), 0);
    end = RUN(&usual, "convert", "--model-path", model, "--output-path", out);
    assert_non_null(strstr(end.err, "--force replaces it"));
    expect_end(&end, 2);
    expect(RUN(&usual, "convert", "--model-path", model, "--output-path", out, "--force",
               "--format", "e5m2"),
           0);
    expect(RUN(&usual, "verify", out), 0);
    assert_int_equal(count_files(folder), 1);

    assert_int_equal(mkdir(other, 0777), 0);
    fclose(fopen(in(other, "letter.txt"), "w"));
    end = RUN(&usual, "convert", "--model-path", model, "--output-path", other, "--force");
    assert_non_null(strstr(end.err, "it is not replaced"));
    expect_end(&end, 2);
    assert_true(file_is_regular(in(other, "letter.txt")));

    for (int i = 0; i < 2; i++)
        expect(RUN(&usual, "convert", "--model-path", model, "--output-path", file, "--layout",
                   "single", "--force"),
               0);
    expect(RUN(&usual, "verify", file), 0);
}

/* --- Trouble on the way --- */

/* Large enough to be interrupted. */
static const char *big_model(void)
{
    static const char *path;

    if (!path) {
        path = test_path("big");
        expect(MAKE("--output", path, "--heads", "12", "--layers", "16", "--without-encoders",
                    "--dtype", "f16"),
               0);
    }
    return path;
}

static void a_signal_leaves_nothing_behind(void **state)
{
    const char *folder = new_folder("signal");
    const char *const arguments[] = {sd35,      "convert",       "--model-path",    big_model(),
                                     "--quiet", "--output-path", in(folder, "out"), NULL};
    struct program program;
    struct program_end end;

    (void)state;
    program_start(&program, &usual, arguments);
    assert_true(program_wait_for_handler(&program, SIGINT));
    while (count_files(folder) == 0 && kill(program.pid, 0) == 0)
        usleep(1000);
    assert_int_equal(kill(program.pid, SIGINT), 0);
    end = program_finish(&program);
    assert_non_null(strstr(end.err, "cancelled"));
    expect_end(&end, 130);
    assert_int_equal(count_files(folder), 0);
}

/* What the killed program leaves has a telling name, and is no model. */
static void a_kill_leaves_nothing_that_looks_complete(void **state)
{
    const char *folder = new_folder("killed"), *out = in(folder, "out");
    const char *const arguments[] = {
        sd35, "convert", "--model-path", big_model(), "--quiet", "--output-path", out, NULL};
    struct program program;
    struct program_end end;
    DIR *directory;

    (void)state;
    program_start(&program, &usual, arguments);
    while (count_files(folder) == 0)
        usleep(1000);
    assert_int_equal(kill(program.pid, SIGKILL), 0);
    end = program_finish(&program);
    assert_int_equal(end.code, 1000 + SIGKILL);
    program_end_free(&end);
    assert_int_not_equal(access(out, F_OK), 0);
    directory = opendir(folder);
    assert_non_null(directory);
    for (struct dirent *entry = readdir(directory); entry; entry = readdir(directory)) {
        if (entry->d_name[0] == '.')
            continue;
        assert_non_null(strstr(entry->d_name, "out.part-"));
        assert_false(file_is_regular(in(in(folder, entry->d_name), "model_index.json")));
        end = RUN(&usual, "generate", "--model", in(folder, entry->d_name), "--dry-run");
        assert_true(end.code == 2 || end.code == 3);
        program_end_free(&end);
    }
    closedir(directory);
    expect(RUN(&usual, "convert", "--model-path", big_model(), "--output-path", out), 0);
    expect(RUN(&usual, "verify", out), 0);
}

static void files_that_may_not_grow_are_an_error(void **state)
{
    const struct program_setting setting = {.file_limit = 100000};
    const char *folder = new_folder("limit");

    (void)state;
    expect_refusal(RUN(&setting, "convert", "--quiet", "--model-path", model, "--output-path",
                       in(folder, "a")),
                   folder, 6, "File too large");
}

/* A file system of its own, if this user may mount one. */
static bool mount_small(const char *folder, const char *options, unsigned long flags)
{
    if (mount("tmpfs", folder, "tmpfs", flags, options) == 0)
        return true;
    fprintf(stderr, "SKIPPED: no file system can be mounted here (%s)\n", strerror(errno));
    return false;
}

static void a_full_disk_is_found_before_the_work(void **state)
{
    const char *folder = new_folder("full");
    struct program_end end;

    (void)state;
    if (!mount_small(folder, "size=8m", 0))
        skip();
    end =
        RUN(&usual, "convert", "--quiet", "--model-path", model, "--output-path", in(folder, "a"));
    assert_int_equal(count_files(folder), 0);
    assert_int_equal(umount(folder), 0);
    assert_non_null(strstr(end.err, "is too full: the converted model takes"));
    expect_end(&end, 6);
}

static void a_read_only_disk_is_an_error(void **state)
{
    const char *folder = new_folder("read-only");
    struct program_end end;

    (void)state;
    if (!mount_small(folder, "size=1g", MS_RDONLY))
        skip();
    end =
        RUN(&usual, "convert", "--quiet", "--model-path", model, "--output-path", in(folder, "a"));
    assert_int_equal(umount(folder), 0);
    assert_non_null(strstr(end.err, "Read-only file system"));
    expect_end(&end, 6);
}

/* --- Verifying --- */

static void change_byte(const char *path, long from_end)
{
    FILE *file = fopen(path, "r+b");
    int byte;

    assert_non_null(file);
    assert_int_equal(fseek(file, -from_end, SEEK_END), 0);
    byte = fgetc(file);
    assert_int_equal(fseek(file, -from_end, SEEK_END), 0);
    fputc(byte ^ 1, file);
    assert_int_equal(fclose(file), 0);
}

static void every_defect_is_named(void **state)
{
    const char *folder = new_folder("defects"), *out = in(folder, "out");
    struct program_end end;
    FILE *file;

    (void)state;
    expect(RUN(&usual, "convert", "--model-path", model, "--output-path", out), 0);
    change_byte(in(out, "transformer/diffusion_pytorch_model.safetensors"), 5);
    change_byte(in(out, "text_encoder/model.safetensors"), 5);
    file = fopen(in(out, "scheduler/scheduler_config.json"), "a");
    assert_non_null(file);
    fputc('\n', file);
    fclose(file);
    assert_int_equal(unlink(in(out, "tokenizer/merges.txt")), 0);
    end = RUN(&usual, "verify", "--quiet", out);
    assert_non_null(strstr(end.out, "transformer/diffusion_pytorch_model.safetensors': tensor '"));
    assert_non_null(strstr(end.out, "text_encoder/model.safetensors': tensor '"));
    assert_non_null(strstr(end.out, "scheduler_config.json' is not what the manifest says"));
    assert_non_null(strstr(end.out, "merges.txt' is missing"));
    assert_non_null(strstr(end.err, "has 4 defects"));
    expect_end(&end, 3);
}

/* Without a manifest the networks still tell. */
static void a_factor_of_zero_is_a_defect(void **state)
{
    const char *folder = new_folder("factor"), *out = in(folder, "out");
    const char *weights = in(out, "transformer/diffusion_pytorch_model.safetensors");
    const struct safetensors_entry *entry;
    struct safetensors_file *file;
    struct program_end end;
    const void *header;
    size_t size;
    FILE *damaged;

    (void)state;
    expect(RUN(&usual, "convert", "--model-path", model, "--output-path", out), 0);
    assert_int_equal(unlink(in(out, "manifest.json")), 0);
    assert_true(safetensors_open(&file, weights, NULL));
    safetensors_header(file, &header, &size);
    entry = safetensors_find(file, "transformer_blocks.1.attn.to_q.scale_weight");
    assert_non_null(entry);
    damaged = fopen(weights, "r+b");
    assert_int_equal(fseek(damaged, (long)(entry->data - (const unsigned char *)header), SEEK_SET),
                     0);
    fwrite("\0\0\0\0", 1, 4, damaged);
    fclose(damaged);
    safetensors_close(file);
    end = RUN(&usual, "verify", out);
    assert_non_null(strstr(end.out, "holds a scale that is no positive, finite number"));
    assert_non_null(strstr(end.err, "no manifest"));
    expect_end(&end, 3);
}

static int make_model(void **state)
{
    struct program_end end;

    (void)state;
    model = test_path("model");
    end = MAKE("--output", model, "--preset", "tiny", "--dtype", "f16");
    if (end.code != 0)
        print_error("%s", end.err);
    program_end_free(&end);
    return end.code;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_is_whole_and_draws),
        cmocka_unit_test(layouts_become_each_other),
        cmocka_unit_test(separate_encoders_are_taken),
        cmocka_unit_test(facts_survive_in_one_file),
        cmocka_unit_test(the_record_tells_layers_sources_and_hashes),
        cmocka_unit_test(shards_are_written_and_read_through_links),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(weights_that_are_no_numbers_are_named),
        cmocka_unit_test(what_is_fp8_already_is_refused),
        cmocka_unit_test(missing_tensors_are_named),
        cmocka_unit_test(targets_that_would_harm_the_source_are_refused),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(only_converted_models_are_replaced),
        cmocka_unit_test(a_signal_leaves_nothing_behind),
        cmocka_unit_test(a_kill_leaves_nothing_that_looks_complete),
        cmocka_unit_test(files_that_may_not_grow_are_an_error),
        cmocka_unit_test(a_full_disk_is_found_before_the_work),
        cmocka_unit_test(a_read_only_disk_is_an_error),
        cmocka_unit_test(every_defect_is_named),
        cmocka_unit_test(a_factor_of_zero_is_a_defect),
    };

    if (argc != 3) {
        fprintf(stderr, "usage: test_convert SD35 SD35_MAKE_RANDOM_MODEL\n");
        return 2;
    }
    sd35 = argv[1];
    make_random_model = argv[2];
    return cmocka_run_group_tests(tests, make_model, NULL);
}
