/* Model files: the four kinds of source, told apart by content, and what is wrong with others. */
#include "support/support.h"
#include "support/test_model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "random_tensors.h"
#include "random_tokenizers.h"
#include "weights/model_files.h"
#include "weights/names.h"
#include "weights/safetensors.h"

/* --- random models, each written once --- */

static struct random_model_options tiny(void)
{
    struct random_model_options options = test_model_options();

    options.dual_layers = 1;
    return options;
}

static const char *folder_model(void)
{
    struct random_model_options options = tiny();

    return test_model_write("folder-model", &options);
}

/* A file of its own folder, whose name says nothing. */
static const char *single_model(enum random_model_layout layout, const char *folder)
{
    struct random_model_options options = tiny();
    char name[64];

    options.layout = layout;
    if (layout == RANDOM_MODEL_COMFY_FP8)
        options.dtype = DTYPE_F8_E4M3;
    (void)mkdir(test_path(folder), 0777);
    snprintf(name, sizeof name, "%s/weights.bin", folder);
    return test_model_write(name, &options);
}

static struct model_files *open_paths(const struct model_paths *paths)
{
    struct model_files *files;
    struct error err = {0};

    if (!model_files_open(&files, paths, &err))
        fail_msg("%s", err.message);
    return files;
}

static struct model_files *open_model(const char *path)
{
    return open_paths(&(struct model_paths){.model = path});
}

static void expect_error(const struct model_paths *paths, enum error_code code, const char *message)
{
    struct model_files *files;
    struct error err = {0};

    if (model_files_open(&files, paths, &err))
        fail_msg("opened '%s'", paths->model);
    if (err.code != code || !strstr(err.message, message))
        fail_msg("%s: %s", error_code_name(err.code), err.message);
}

static void load(struct weight_loader *loader, struct linear *out,
                 const struct random_tensor *tensor)
{
    size_t length = strlen(tensor->name);
    const char *suffix = strrchr(tensor->name, '.');
    const int64_t *dim = tensor->dim;

    *out = (struct linear){0};
    if (tensor->rank == 1)
        weight_loader_vector(loader, &out->weight, dim[0], "%s", tensor->name);
    else if (strstr(tensor->name, "_embedding.weight") || strstr(tensor->name, "_bias.weight") ||
             !suffix)
        weight_loader_table(loader, &out->weight, dim[0], dim[1], "%s", tensor->name);
    else if (tensor->rank == 2)
        weight_loader_linear(loader, out, dim[0], dim[1], false, "%.*s",
                             (int)(length - strlen(".weight")), tensor->name);
    else
        weight_loader_conv(loader, out, dim[0], dim[1], dim[2], "%.*s",
                           (int)(length - strlen(".weight")), tensor->name);
}

/* `exact` for the same bytes; else one side is rounded to bf16, or to FP8 with a scale. */
static void expect_same(const struct linear *want, const struct linear *got, bool exact,
                        const char *name)
{
    bool is_f8 = got->weight.dtype == DTYPE_F8_E4M3;
    float scale = tensor_exists(&got->scale) ? *(const float *)got->scale.data : 1.0f;

    if (!tensor_exists(&got->weight) || !tensor_same_shape(&want->weight, &got->weight))
        fail_msg("%s: not there, or another shape", name);
    for (int64_t i = 0; i < tensor_count(&want->weight); i++) {
        float x = dtype_load(want->weight.dtype, want->weight.data, i);
        float y = dtype_load(got->weight.dtype, got->weight.data, i) * scale;
        float slack = exact ? 0.0f : fabsf(x) * (is_f8 ? 0.07f : 0.005f) + 0.0005f;

        if (!(fabsf(x - y) <= slack))
            fail_msg("%s[%" PRId64 "]: %g, not %g", name, i, (double)y, (double)x);
    }
}

/* Every tensor of the component is in `other` as it is in `base`. Says how many are FP8 there. */
static int compare_component(enum component component, const struct model_files *base,
                             const struct model_files *other, bool exact)
{
    struct random_model_options options = tiny();
    struct random_tensors list = {0};
    struct weight_loader a, b;
    struct error err = {0};
    int f8_count = 0;

    options.clip_vocabulary = random_tokenizers_clip_size();
    options.t5_vocabulary = random_tokenizers_t5_size();
    random_tensors_list(&list, component, &options);
    assert_true(list.count > 20);
    weight_loader_init(&a, base->component[component]);
    weight_loader_init(&b, other->component[component]);
    for (size_t i = 0; i < list.count; i++) {
        struct linear want, got;

        load(&a, &want, &list.tensor[i]);
        load(&b, &got, &list.tensor[i]);
        expect_same(&want, &got, exact, list.tensor[i].name);
        f8_count += got.weight.dtype == DTYPE_F8_E4M3;
    }
    if (!weight_loader_finish(&a, &err) || !weight_loader_finish(&b, &err))
        fail_msg("%s", err.message);
    random_tensors_finish(&list);
    return f8_count;
}

/* --- the four kinds --- */

static void a_folder_and_a_single_file_of_one_model_hold_the_same_tensors(void **state)
{
    struct model_files *folder = open_model(folder_model());
    struct model_files *file = open_model(single_model(RANDOM_MODEL_SINGLE, "single"));

    (void)state;
    for (int c = 0; c < COMPONENT_COUNT; c++) {
        assert_non_null(folder->component[c]);
        assert_non_null(file->component[c]);
        assert_int_equal(compare_component((enum component)c, folder, file, true), 0);
    }
    assert_string_equal(folder->name, "folder-model");
    assert_string_equal(file->name, "weights.bin");
    assert_true(folder->flow_shift == 3.0 && file->flow_shift == 3.0);
    assert_string_equal(folder->tokenizer_directory[COMPONENT_CLIP_G],
                        test_path("folder-model/tokenizer_2"));
    assert_string_equal(file->tokenizer_directory[COMPONENT_T5], test_path("single/tokenizer_3"));
    assert_null(file->tokenizer_directory[COMPONENT_VAE]);
    model_files_close(file);
    model_files_close(folder);
}

static void scaled_fp8_files_hold_the_same_tensors_up_to_rounding(void **state)
{
    struct random_model_options converted = tiny();
    struct model_files *folder = open_model(folder_model());
    struct model_files *comfy = open_model(single_model(RANDOM_MODEL_COMFY_FP8, "comfy"));
    struct model_files *ours;

    (void)state;
    converted.dtype = DTYPE_F8_E4M3;
    ours = open_model(test_model_write("converted", &converted));
    assert_true(compare_component(COMPONENT_TRANSFORMER, folder, comfy, false) > 50);
    assert_int_equal(compare_component(COMPONENT_T5, folder, comfy, false), 3 * 7);
    assert_int_equal(compare_component(COMPONENT_VAE, folder, comfy, false), 0);
    assert_true(compare_component(COMPONENT_TRANSFORMER, folder, ours, false) > 50);
    assert_int_equal(compare_component(COMPONENT_T5, folder, ours, false), 3 * 7);
    model_files_close(ours);
    model_files_close(comfy);
    model_files_close(folder);
}

/* Component `c` of the single file, alone and with bare names. */
static const char *bare_file(const char *name, const char *prefix)
{
    const char *path = test_path(name);
    struct safetensors_file *whole;
    struct safetensors_writer *writer;
    size_t length = strlen(prefix);

    assert_true(safetensors_open(&whole, single_model(RANDOM_MODEL_SINGLE, "single"), NULL));
    assert_true(safetensors_writer_create(&writer, path, NULL));
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < safetensors_count(whole); i++) {
            const struct safetensors_entry *entry = safetensors_entry_at(whole, i);

            if (strncmp(entry->name, prefix, length) != 0)
                continue;
            assert_true(pass
                            ? safetensors_writer_append(writer, entry->data, entry->bytes, NULL)
                            : safetensors_writer_declare(writer, entry->name + length, entry->dtype,
                                                         entry->rank, entry->dim, NULL));
        }
    }
    assert_true(safetensors_writer_commit(writer, NULL));
    safetensors_close(whole);
    return path;
}

static void separate_files_are_recognised_by_what_they_hold(void **state)
{
    const struct model_paths paths = {
        .model = bare_file("bare-transformer", "model.diffusion_model."),
        .vae = bare_file("bare-vae", "first_stage_model."),
        .clip_l = bare_file("bare-clip-l", "text_encoders.clip_l.transformer."),
        .clip_g = bare_file("bare-clip-g", "text_encoders.clip_g.transformer."),
        .t5 = bare_file("bare-t5", "text_encoders.t5xxl.transformer."),
        .tokenizers = folder_model(),
    };
    struct model_files *folder = open_model(folder_model());
    struct model_files *files = open_paths(&paths);

    (void)state;
    for (int c = 0; c < COMPONENT_COUNT; c++)
        assert_int_equal(compare_component((enum component)c, folder, files, true), 0);
    assert_string_equal(weights_path(files->component[COMPONENT_T5]), paths.t5);
    assert_non_null(files->tokenizer_directory[COMPONENT_CLIP_L]);
    model_files_close(files);
    /* A whole model serves as a separate file too, and wins over the model's own. */
    files = open_paths(&(struct model_paths){
        .model = folder_model(), .clip_g = single_model(RANDOM_MODEL_COMFY_FP8, "comfy")});
    assert_string_equal(weights_path(files->component[COMPONENT_CLIP_G]),
                        single_model(RANDOM_MODEL_COMFY_FP8, "comfy"));
    assert_int_equal(weights_config_integer(files->component[COMPONENT_CLIP_G], "hidden_size", -1),
                     -1);
    assert_int_equal(weights_config_integer(files->component[COMPONENT_CLIP_L], "hidden_size", -1),
                     64);
    model_files_close(files);
    /* What a bare file is when it is the model itself. */
    files = open_model(paths.vae);
    for (int c = 0; c < COMPONENT_COUNT; c++)
        assert_int_equal(files->component[c] != NULL, c == COMPONENT_VAE);
    model_files_close(files);
    files = open_model(paths.t5);
    for (int c = 0; c < COMPONENT_COUNT; c++)
        assert_int_equal(files->component[c] != NULL, c == COMPONENT_T5);
    model_files_close(files);
    model_files_close(folder);
}

/* The prefix that files of the transformer alone carry. */
static void the_short_prefix_is_a_transformer(void **state)
{
    const char *path = test_path("short-prefix");
    struct safetensors_writer *writer;
    struct model_files *files;

    (void)state;
    assert_true(safetensors_writer_create(&writer, path, NULL));
    assert_true(safetensors_writer_declare(writer, "diffusion_model.pos_embed", SAFETENSORS_U8, 1,
                                           (int64_t[]){1}, NULL));
    assert_true(safetensors_writer_append(writer, "x", 1, NULL));
    assert_true(safetensors_writer_commit(writer, NULL));
    files = open_model(path);
    assert_true(weights_has(files->component[COMPONENT_TRANSFORMER], "position_table"));
    model_files_close(files);
}

/* Every other tensor of `whole`, from number `first` on. */
static void write_half(const struct safetensors_file *whole, size_t first, const char *path)
{
    struct safetensors_writer *writer;

    assert_true(safetensors_writer_create(&writer, path, NULL));
    for (size_t i = first; i < safetensors_count(whole); i += 2) {
        const struct safetensors_entry *entry = safetensors_entry_at(whole, i);

        assert_true(safetensors_writer_declare(writer, entry->name, entry->dtype, entry->rank,
                                               entry->dim, NULL));
    }
    for (size_t i = first; i < safetensors_count(whole); i += 2)
        assert_true(safetensors_writer_append(writer, safetensors_entry_at(whole, i)->data,
                                              safetensors_entry_at(whole, i)->bytes, NULL));
    assert_true(safetensors_writer_commit(writer, NULL));
}

static const char *sharded_t5(void)
{
    static const char *const shards[] = {"one.safetensors", "two.safetensors"};
    char text[16384] = "{\"metadata\":{\"total_size\":1},\"weight_map\":";
    struct safetensors_file *whole;

    (void)mkdir(test_path("sharded"), 0777);
    assert_true(
        safetensors_open(&whole, test_path("folder-model/text_encoder_3/model.safetensors"), NULL));
    for (size_t i = 0; i < safetensors_count(whole); i++) {
        size_t used = strlen(text);

        snprintf(text + used, sizeof text - used, "%c\"%s\":\"%s\"", i ? ',' : '{',
                 safetensors_entry_at(whole, i)->name, shards[i % 2]);
    }
    strcat(text, "}}");
    write_half(whole, 0, test_path("sharded/one.safetensors"));
    write_half(whole, 1, test_path("sharded/two.safetensors"));
    safetensors_close(whole);
    return test_write_file("sharded/any-name", text, strlen(text));
}

static void an_index_of_shards_is_recognised_by_its_content(void **state)
{
    struct model_files *folder = open_model(folder_model());
    struct model_files *files =
        open_paths(&(struct model_paths){.model = folder_model(), .t5 = sharded_t5()});

    (void)state;
    assert_string_equal(weights_path(files->component[COMPONENT_T5]),
                        test_path("sharded/any-name"));
    assert_int_equal(compare_component(COMPONENT_T5, folder, files, true), 0);
    assert_int_equal(weights_stored_bytes(files->component[COMPONENT_T5]),
                     weights_stored_bytes(folder->component[COMPONENT_T5]));
    model_files_close(files);
    model_files_close(folder);
}

/* --- folders --- */

/* A folder whose components are links to another model's, to be spoilt one by one. */
static const char *linked_folder(const char *name, const char *model)
{
    static const char *const parts[] = {"transformer",     "vae",         "text_encoder",
                                        "text_encoder_2",  "tokenizer",   "tokenizer_2",
                                        "text_encoder_3",  "tokenizer_3", "scheduler",
                                        "model_index.json"};
    const char *folder = test_path(name);
    char from[512], to[512];

    assert_int_equal(mkdir(folder, 0777), 0);
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        snprintf(from, sizeof from, "%s/%s", model, parts[i]);
        snprintf(to, sizeof to, "%s/%s", folder, parts[i]);
        assert_int_equal(symlink(from, to), 0);
    }
    return folder;
}

static void replace(const char *folder, const char *name, const char *text)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
    if (text)
        assert_true(file_write(path, text, strlen(text), NULL));
}

static void components_that_are_left_out_are_absent(void **state)
{
    const char *folder = linked_folder("left-out", folder_model());
    struct model_files *files;

    (void)state;
    replace(folder, "model_index.json",
            "{\"_class_name\":\"StableDiffusion3Pipeline\",\"text_encoder_3\":[null,null],"
            "\"text_encoder\":null}");
    replace(folder, "vae", NULL);
    files = open_model(folder);
    assert_null(files->component[COMPONENT_T5]);
    assert_null(files->component[COMPONENT_CLIP_L]);
    assert_null(files->component[COMPONENT_VAE]);
    assert_non_null(files->component[COMPONENT_CLIP_G]);
    assert_non_null(files->component[COMPONENT_TRANSFORMER]);
    model_files_close(files);
    replace(folder, "model_index.json", NULL);
    files = open_model(folder);
    assert_non_null(files->component[COMPONENT_T5]);
    model_files_close(files);
}

static void a_random_model_without_encoders_has_none(void **state)
{
    struct random_model_options options = tiny();
    struct model_files *files;

    (void)state;
    options.with_t5 = false;
    files = open_model(test_model_write("without-t5", &options));
    assert_null(files->component[COMPONENT_T5]);
    assert_null(files->tokenizer_directory[COMPONENT_T5]);
    assert_non_null(files->component[COMPONENT_CLIP_G]);
    model_files_close(files);
    options.with_encoders = false;
    files = open_model(test_model_write("without-encoders", &options));
    assert_null(files->component[COMPONENT_CLIP_G]);
    assert_non_null(files->component[COMPONENT_VAE]);
    model_files_close(files);
}

static void a_variant_is_taken_only_where_the_plain_file_is_absent(void **state)
{
    const char *folder = linked_folder("variants", folder_model());
    const char *vae = test_path("folder-model/vae/diffusion_pytorch_model.safetensors");
    struct model_files *files;

    (void)state;
    replace(folder, "vae", NULL);
    assert_int_equal(mkdir(test_path("variants/vae"), 0777), 0);
    assert_int_equal(
        symlink(vae, test_path("variants/vae/diffusion_pytorch_model.fp16.safetensors")), 0);
    files = open_model(folder);
    assert_non_null(strstr(weights_path(files->component[COMPONENT_VAE]), ".fp16."));
    model_files_close(files);
    assert_int_equal(symlink(vae, test_path("variants/vae/diffusion_pytorch_model.safetensors")),
                     0);
    files = open_model(folder);
    assert_null(strstr(weights_path(files->component[COMPONENT_VAE]), ".fp16."));
    model_files_close(files);
}

static void the_scheduler_sets_the_flow_shift(void **state)
{
    static const struct {
        const char *config;
        double shift; /* 0: refused */
    } cases[] = {
        {"{\"shift\":1.5}", 1.5},  {"{\"shift\":2}", 2.0}, {"{}", 3.0},
        {"{\"shift\":null}", 3.0}, {"{\"shift\":0}", 0.0}, {"{\"shift\":-1}", 0.0},
    };
    const char *folder = linked_folder("shifts", folder_model());

    (void)state;
    replace(folder, "scheduler", NULL);
    assert_int_equal(mkdir(test_path("shifts/scheduler"), 0777), 0);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct model_files *files;

        replace(folder, "scheduler/scheduler_config.json", cases[i].config);
        if (cases[i].shift == 0.0) {
            expect_error(&(struct model_paths){.model = folder}, ERROR_BAD_FILE,
                         "shift is not above 0");
            continue;
        }
        files = open_model(folder);
        assert_true(files->flow_shift == cases[i].shift);
        model_files_close(files);
    }
    replace(folder, "scheduler/scheduler_config.json", "{\"shift\":");
    expect_error(&(struct model_paths){.model = folder}, ERROR_BAD_FILE, "scheduler_config.json");
}

static void the_name_comes_from_the_path_and_tells_turbo(void **state)
{
    static const struct {
        const char *link, *path, *name;
        bool is_turbo, is_file;
    } cases[] = {
        {"SD3.5-Large-Turbo", "SD3.5-Large-Turbo", "SD3.5-Large-Turbo", true, false},
        {"sd3.5-medium", "sd3.5-medium///", "sd3.5-medium", false, false},
        {"sd3.5_large_TURBO.safetensors", "sd3.5_large_TURBO.safetensors", "sd3.5_large_TURBO",
         true, true},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct model_files *files;

        assert_int_equal(
            symlink(cases[i].is_file ? single_model(RANDOM_MODEL_SINGLE, "single") : folder_model(),
                    test_path(cases[i].link)),
            0);
        files = open_model(test_path(cases[i].path));
        assert_string_equal(files->name, cases[i].name);
        assert_int_equal(files->is_turbo, cases[i].is_turbo);
        model_files_close(files);
    }
}

static void only_headers_are_read(void **state)
{
    struct timespec begin, end;
    struct model_files *files;

    (void)state;
    (void)folder_model();
    clock_gettime(CLOCK_MONOTONIC, &begin);
    files = open_model(folder_model());
    clock_gettime(CLOCK_MONOTONIC, &end);
    assert_true((double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) * 1e-9 <
                0.1);
    model_files_close(files);
}

/* --- what is no model --- */

static void what_is_no_model_is_refused_with_the_reason(void **state)
{
    static const char gguf[] = "GGUF\003\0\0\0more than sixteen bytes";
    static const char zip[] = "PK\003\004more than sixteen bytes";
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n";
    const char *lora = test_path("lora");
    struct safetensors_writer *writer;

    (void)state;
    expect_error(&(struct model_paths){0}, ERROR_BAD_REQUEST, "no model was named");
    expect_error(&(struct model_paths){.model = test_path("nowhere")}, ERROR_BAD_REQUEST,
                 "no model at '");
    expect_error(&(struct model_paths){.model = test_path("nowhere/deeper")}, ERROR_BAD_REQUEST,
                 "no model at '");
    expect_error(&(struct model_paths){.model = "/dev/null"}, ERROR_BAD_FILE,
                 "neither a file nor a folder");
    (void)mkdir(test_path("empty"), 0777);
    expect_error(&(struct model_paths){.model = test_path("empty")}, ERROR_BAD_FILE,
                 "neither model_index.json nor transformer");
    expect_error(&(struct model_paths){.model = test_write_file("m.gguf", gguf, sizeof gguf)},
                 ERROR_BAD_FILE, "is a GGUF file");
    expect_error(&(struct model_paths){.model = test_write_file("m.ckpt", zip, sizeof zip)},
                 ERROR_BAD_FILE, "is a PyTorch checkpoint");
    expect_error(&(struct model_paths){.model = test_write_file("m.empty", "", 0)}, ERROR_BAD_FILE,
                 "too few for a safetensors file");
    expect_error(&(struct model_paths){.model = test_write_file("m.lfs", lfs, sizeof lfs - 1)},
                 ERROR_BAD_FILE, "git lfs pull");
    assert_true(safetensors_writer_create(&writer, lora, NULL));
    assert_true(safetensors_writer_declare(writer, "transformer.x.lora_A.weight", SAFETENSORS_U8, 1,
                                           (int64_t[]){1}, NULL));
    assert_true(safetensors_writer_append(writer, "x", 1, NULL));
    assert_true(safetensors_writer_commit(writer, NULL));
    expect_error(&(struct model_paths){.model = lora}, ERROR_BAD_FILE,
                 "holds no part of a Stable Diffusion 3 model; its first tensor is "
                 "'transformer.x.lora_A.weight'");
}

static void a_separate_file_of_another_component_is_refused(void **state)
{
    const char *vae = bare_file("wrong-vae", "first_stage_model.");
    const char *t5 = bare_file("wrong-t5", "text_encoders.t5xxl.transformer.");

    (void)state;
    expect_error(&(struct model_paths){.model = folder_model(), .t5 = vae}, ERROR_BAD_FILE,
                 "holds no tensor of a T5");
    expect_error(&(struct model_paths){.model = folder_model(), .vae = t5}, ERROR_BAD_FILE,
                 "holds no tensor of a VAE");
    expect_error(&(struct model_paths){.model = folder_model(), .clip_l = t5}, ERROR_BAD_FILE,
                 "holds no tensor of a CLIP-L");
    expect_error(&(struct model_paths){.model = folder_model(), .vae = test_path("nowhere")},
                 ERROR_BAD_REQUEST, "no model at '");
    expect_error(&(struct model_paths){.model = folder_model(), .tokenizers = vae},
                 ERROR_BAD_REQUEST, "no tokenizers at '");
}

static void a_folder_of_another_pipeline_or_with_broken_files_is_refused(void **state)
{
    const char *folder = linked_folder("broken", folder_model());
    const struct model_paths paths = {.model = folder};

    (void)state;
    replace(folder, "model_index.json", "{\"_class_name\":\"FluxPipeline\"}");
    expect_error(&paths, ERROR_BAD_FILE, "is a FluxPipeline");
    replace(folder, "model_index.json", "{\"_class_name\":\"StableDiffusion3Pipeline\"");
    expect_error(&paths, ERROR_BAD_FILE, "model_index.json': the JSON is not valid");
    replace(folder, "model_index.json", NULL);
    replace(folder, "vae", NULL);
    assert_int_equal(mkdir(test_path("broken/vae"), 0777), 0);
    replace(folder, "vae/diffusion_pytorch_model.safetensors", "no safetensors at all");
    expect_error(&paths, ERROR_BAD_FILE, "vae/diffusion_pytorch_model.safetensors'");
    replace(folder, "vae/diffusion_pytorch_model.safetensors", NULL);
    assert_int_equal(symlink(test_path("folder-model/vae/diffusion_pytorch_model.safetensors"),
                             test_path("broken/vae/diffusion_pytorch_model.safetensors")),
                     0);
    replace(folder, "vae/config.json", "[1]");
    expect_error(&paths, ERROR_BAD_FILE, "vae/config.json': the JSON is not an object");
}

/* --- the real sizes --- */

/* model.md, section 1: how many tensors and parameters the published transformers have. */
static void transformers_of_the_real_sizes_have_the_published_counts(void **state)
{
    static const struct {
        const char *preset;
        size_t tensors;
        int64_t elements;
    } cases[] = {
        {"sd3-medium", 491, 2084951104},
        {"medium", 665, 2469663936},
        {"large", 923, 8146280768},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const struct names names = {.component = COMPONENT_TRANSFORMER, .layout = NAMES_ORIGINAL};
        struct random_model_options options;
        struct random_tensors list = {0};
        struct names_target target, last = {0};
        int64_t elements = 0;
        size_t tensors = 0;

        assert_true(random_model_preset(&options, cases[i].preset));
        random_tensors_list(&list, COMPONENT_TRANSFORMER, &options);
        for (size_t j = 0; j < list.count; j++) {
            int64_t count = 1;

            for (int k = 0; k < list.tensor[j].rank; k++)
                count *= list.tensor[j].dim[k];
            elements += count;
            assert_true(names_resolve(&target, &names, list.tensor[j].name, 0));
            tensors += strcmp(target.stored, last.stored) != 0;
            last = target;
        }
        assert_int_equal(tensors, cases[i].tensors);
        assert_int_equal(elements, cases[i].elements);
        random_tensors_finish(&list);
    }
}

/* --- files that diffusers wrote --- */

static const char *golden_folder(const char *bundle)
{
    static const char *const parts[][2] = {
        {"encoders/text_encoder", "text_encoder"},
        {"encoders/text_encoder_2", "text_encoder_2"},
        {"encoders/text_encoder_3", "text_encoder_3"},
    };
    static const char *const own[] = {"transformer", "vae", "scheduler", "model_index.json"};
    const char *folder = test_path(bundle);
    char from[128], to[128];

    assert_int_equal(mkdir(folder, 0777), 0);
    for (size_t i = 0; i < COUNT_OF(own); i++) {
        snprintf(from, sizeof from, "golden/%s/%s", bundle, own[i]);
        snprintf(to, sizeof to, "%s/%s", bundle, own[i]);
        assert_int_equal(symlink(test_shared_path(from), test_path(to)), 0);
    }
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        snprintf(from, sizeof from, "golden/%s", parts[i][0]);
        snprintf(to, sizeof to, "%s/%s", bundle, parts[i][1]);
        assert_int_equal(symlink(test_shared_path(from), test_path(to)), 0);
    }
    return folder;
}

static void golden_options(struct random_model_options *options, const char *bundle)
{
    assert_true(random_model_preset(options, "tiny"));
    options->dual_layers = strcmp(bundle, "tiny-medium") == 0 ? 2 : 0;
    options->clip_l = (struct random_model_encoder){32, 3, 2, 128};
    options->clip_g = (struct random_model_encoder){48, 3, 3, 192};
    options->t5 = (struct random_model_encoder){96, 3, 4, 160};
    options->clip_vocabulary = 49408;
    options->t5_vocabulary = 32128;
}

/* Everything that model code asks for is there, and nothing in the files is left over. */
static void every_tensor_of_the_golden_bundles_is_found(void **state)
{
    static const char *const bundles[] = {"tiny-large", "tiny-medium"};

    (void)state;
    if (test_skip_without_shared("every_tensor_of_the_golden_bundles_is_found"))
        return;
    for (size_t i = 0; i < COUNT_OF(bundles); i++) {
        struct model_files *files = open_model(golden_folder(bundles[i]));
        struct random_model_options options;

        golden_options(&options, bundles[i]);
        for (int c = 0; c < COMPONENT_COUNT; c++) {
            struct weights *weights = files->component[c];
            struct random_tensors list = {0};
            size_t bytes = 0;

            random_tensors_list(&list, (enum component)c, &options);
            for (size_t j = 0; j < list.count; j++) {
                int64_t dim[TENSOR_MAX_RANK], count = 1;
                int rank;

                if (!weights_shape(weights, &rank, dim, "%s", list.tensor[j].name))
                    fail_msg("%s: no '%s'", bundles[i], list.tensor[j].name);
                assert_int_equal(rank, list.tensor[j].rank);
                for (int k = 0; k < rank; k++) {
                    /* The bundle's T5 has heads of width 16, ours of 64. */
                    if (c != COMPONENT_T5)
                        assert_int_equal(dim[k], list.tensor[j].dim[k]);
                    count *= dim[k];
                }
                bytes += (size_t)count * 2;
            }
            assert_int_equal(bytes, weights_stored_bytes(weights));
            random_tensors_finish(&list);
        }
        model_files_close(files);
    }
}

/* --- facts in the metadata --- */

/* A VAE in a file of its own, with these facts. */
static const char *vae_with_facts(const char *name, const char *facts)
{
    const char *path = test_path(name);
    struct safetensors_writer *writer;
    const float value = 1.0f;

    assert_true(safetensors_writer_create(&writer, path, NULL));
    assert_true(safetensors_writer_metadata(writer, "sd35.facts", facts, NULL));
    assert_true(safetensors_writer_declare(writer, "first_stage_model.encoder.conv_in.weight",
                                           SAFETENSORS_F32, 1, (int64_t[]){1}, NULL));
    assert_true(safetensors_writer_append(writer, &value, sizeof value, NULL));
    assert_true(safetensors_writer_commit(writer, NULL));
    return path;
}

static void a_file_carries_the_facts_of_its_networks(void **state)
{
    const char *path =
        vae_with_facts("facts.safetensors",
                       "{\"flow_shift\": 2.5, \"configs\": {\"vae\": {\"norm_num_groups\": 16}}}");
    struct model_files *files;
    struct error err;

    (void)state;
    if (!model_files_open(&files, &(struct model_paths){.model = path}, &err))
        fail_msg("%s", err.message);
    assert_true(files->flow_shift == 2.5);
    assert_int_equal(weights_config_integer(files->component[COMPONENT_VAE], "norm_num_groups", 32),
                     16);
    assert_false(files->is_turbo);
    model_files_close(files);
}

static void facts_that_make_no_sense_are_refused(void **state)
{
    static const char *const wrong[] = {
        "{",
        "[]",
        "{\"name\": 1}",
        "{\"flow_shift\": 0}",
        "{\"flow_shift\": \"3\"}",
        "{\"configs\": []}",
        "{\"configs\": {\"vae\": 1}}",
    };
    struct model_files *files;
    struct error err;

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *path = vae_with_facts("wrong-facts.safetensors", wrong[i]);

        assert_false(model_files_open(&files, &(struct model_paths){.model = path}, &err));
        assert_int_equal(err.code, ERROR_BAD_FILE);
        assert_non_null(strstr(err.message, "sd35.facts"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_carries_the_facts_of_its_networks),
        cmocka_unit_test(facts_that_make_no_sense_are_refused),
        cmocka_unit_test(a_folder_and_a_single_file_of_one_model_hold_the_same_tensors),
        cmocka_unit_test(scaled_fp8_files_hold_the_same_tensors_up_to_rounding),
        cmocka_unit_test(separate_files_are_recognised_by_what_they_hold),
        cmocka_unit_test(the_short_prefix_is_a_transformer),
        cmocka_unit_test(an_index_of_shards_is_recognised_by_its_content),
        cmocka_unit_test(components_that_are_left_out_are_absent),
        cmocka_unit_test(a_random_model_without_encoders_has_none),
        cmocka_unit_test(a_variant_is_taken_only_where_the_plain_file_is_absent),
        cmocka_unit_test(the_scheduler_sets_the_flow_shift),
        cmocka_unit_test(the_name_comes_from_the_path_and_tells_turbo),
        cmocka_unit_test(only_headers_are_read),
        cmocka_unit_test(what_is_no_model_is_refused_with_the_reason),
        cmocka_unit_test(a_separate_file_of_another_component_is_refused),
        cmocka_unit_test(a_folder_of_another_pipeline_or_with_broken_files_is_refused),
        cmocka_unit_test(transformers_of_the_real_sizes_have_the_published_counts),
        cmocka_unit_test(every_tensor_of_the_golden_bundles_is_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
