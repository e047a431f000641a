/* Model search: made-up folders of models and caches, with all that can be wrong with them. */
#include "support/support.h"
#include "support/test_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "library/model_search.h"

#define COMMIT "b940f670f0eda2d07fbb75229e779da1ad11eb80"
#define OTHER_COMMIT "11eb80f670f0eda2d07fbb75229e779da1ad1111"

/* --- Trees --- */

/* Below the test directory, with the folders above it. */
static const char *make_folder(const char *name)
{
    const char *path = test_path(name);
    char upper[512];

    for (const char *at = strchr(name, '/'); at; at = strchr(at + 1, '/')) {
        snprintf(upper, sizeof upper, "%.*s", (int)(at - name), name);
        (void)mkdir(test_path(upper), 0777);
    }
    (void)mkdir(path, 0777);
    assert_true(file_is_directory(path));
    return path;
}

static const char *random_model(const char *name, enum random_model_layout layout)
{
    struct random_model_options options = test_model_options();

    options.layout = layout;
    return test_model_write(name, &options);
}

static const char *folder_model(void)
{
    return random_model("a-folder", RANDOM_MODEL_DIFFUSERS);
}

static const char *single_model(void)
{
    return random_model("a-file.bin", RANDOM_MODEL_SINGLE);
}

static void link_to(const char *target, const char *name)
{
    unlink(test_path(name));
    assert_int_equal(symlink(target, test_path(name)), 0);
}

/* The entries of the model's folder, each a link: some can be taken away again. */
static void link_model(const char *folder)
{
    static const char *const parts[] = {"transformer",     "vae",         "text_encoder",
                                        "text_encoder_2",  "tokenizer",   "tokenizer_2",
                                        "text_encoder_3",  "tokenizer_3", "scheduler",
                                        "model_index.json"};
    char from[600], to[600];

    make_folder(folder);
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        snprintf(from, sizeof from, "%s/%s", folder_model(), parts[i]);
        snprintf(to, sizeof to, "%s/%s", folder, parts[i]);
        link_to(from, to);
    }
}

/* A repository of the cache with one whole snapshot. */
static void make_repo(const char *cache, const char *folder, const char *commit)
{
    char path[600];

    snprintf(path, sizeof path, "%s/%s/snapshots/%s", cache, folder, commit);
    link_model(path);
    snprintf(path, sizeof path, "%s/%s/blobs", cache, folder);
    make_folder(path);
}

static void write_ref(const char *cache, const char *folder, const char *text)
{
    char path[600];

    snprintf(path, sizeof path, "%s/%s/refs", cache, folder);
    make_folder(path);
    snprintf(path, sizeof path, "%s/%s/refs/main", cache, folder);
    test_write_file(path, text, strlen(text));
}

/* Only what a test sets is looked into. */
static int forget_environment(void **state)
{
    (void)state;
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HOME");
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", "/nowhere", 1);
    setenv("SD35_DEMO_DIR", "/nowhere", 1);
    return 0;
}

static void use_cache(const char *cache)
{
    setenv("HF_HUB_CACHE", make_folder(cache), 1);
}

/* --- Expectations --- */

static void expect_found(const char *wanted, const char *models_dir, enum model_origin origin,
                         const char *name, const char *path)
{
    struct found_model found;
    struct error err = {0};

    if (!model_search(&found, wanted, models_dir, &err))
        fail_msg("%s", err.message);
    assert_string_equal(found.name, name);
    assert_string_equal(found.path, path);
    assert_int_equal(found.origin, origin);
    found_model_finish(&found);
}

static void expect_failure(const char *wanted, const char *models_dir, enum error_code code,
                           const char *words)
{
    struct found_model found;
    struct error err = {0};

    assert_false(model_search(&found, wanted, models_dir, &err));
    assert_null(found.path);
    if (err.code != code || !strstr(err.message, words))
        fail_msg("'%s' does not say '%s'", err.message, words);
}

/* --- Paths and the folder of models --- */

static void a_path_is_taken_as_it_is(void **state)
{
    (void)state;
    expect_found(folder_model(), "/nowhere", MODEL_AT_PATH, "a-folder", folder_model());
    expect_found("/dev/null", NULL, MODEL_AT_PATH, "null", "/dev/null");
    expect_failure("/nowhere/x", NULL, ERROR_BAD_REQUEST, "no model at '/nowhere/x'");
}

static void a_name_lies_in_the_folder_of_models(void **state)
{
    const char *models = make_folder("named");

    (void)state;
    link_to(folder_model(), "named/large");
    link_to(single_model(), "named/medium.safetensors");
    expect_found("large", models, MODEL_IN_MODELS_DIR, "large", test_path("named/large"));
    expect_found("medium", models, MODEL_IN_MODELS_DIR, "medium",
                 test_path("named/medium.safetensors"));
    expect_found("medium.safetensors", models, MODEL_IN_MODELS_DIR, "medium",
                 test_path("named/medium.safetensors"));
    expect_failure("small", models, ERROR_BAD_REQUEST, "nor one of this name in '");
}

static void names_cannot_leave_their_folder(void **state)
{
    static const char *const names[] = {"a/../b", "../named", "a/..", ".hidden", "a//b", "a/b/c",
                                        "-x",     "a\nb",     "a b",  "x\xff",   "a..b"};
    const char *models = make_folder("named");
    char longest[200];

    (void)state;
    use_cache("hostile-names");
    for (size_t i = 0; i < COUNT_OF(names); i++)
        expect_failure(names[i], models, ERROR_BAD_REQUEST, "no model at '");
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    expect_failure(longest, models, ERROR_BAD_REQUEST, "no model at '");
}

static void the_only_model_of_the_folder_is_taken(void **state)
{
    const char *models = make_folder("one");

    (void)state;
    make_folder("one/.sd35/large-fp8/transformer");
    make_folder("one/notes");
    test_write_file("one/README.md", "x", 1);
    expect_failure(NULL, models, ERROR_BAD_REQUEST, "--model is missing");
    link_to(folder_model(), "one/large");
    expect_found(NULL, models, MODEL_IN_MODELS_DIR, "large", test_path("one/large"));
    link_to(test_path("one/loop"), "one/loop");
    link_to("/nowhere", "one/nowhere.safetensors");
    expect_found("", models, MODEL_IN_MODELS_DIR, "large", test_path("one/large"));
    expect_failure(NULL, "/nowhere/models", ERROR_BAD_REQUEST, "--model is missing");
}

static void the_folder_may_be_the_model(void **state)
{
    static const char index[] = "{\"_class_name\":\"StableDiffusion3Pipeline\",\"_name_or_path\":"
                                "\"stabilityai/stable-diffusion-3.5-large-turbo\"}";

    (void)state;
    link_model("itself");
    expect_found(NULL, test_path("itself"), MODEL_IN_MODELS_DIR, "itself", test_path("itself"));
    unlink(test_path("itself/model_index.json"));
    test_write_file("itself/model_index.json", index, sizeof index - 1);
    expect_found(NULL, test_path("itself"), MODEL_IN_MODELS_DIR, "stable-diffusion-3.5-large-turbo",
                 test_path("itself"));
}

static void text_encoders_are_no_models(void **state)
{
    char from[600];

    (void)state;
    make_folder("files");
    link_to(single_model(), "files/medium.safetensors");
    snprintf(from, sizeof from, "%s/text_encoder/model.safetensors", folder_model());
    link_to(from, "files/clip_l.safetensors");
    snprintf(from, sizeof from, "%s/vae/diffusion_pytorch_model.safetensors", folder_model());
    link_to(from, "files/vae.safetensors");
    expect_found(NULL, test_path("files"), MODEL_IN_MODELS_DIR, "medium",
                 test_path("files/medium.safetensors"));
}

static void several_models_are_listed(void **state)
{
    const char *models = make_folder("several");

    (void)state;
    link_to(folder_model(), "several/large");
    link_to(folder_model(), "several/medium");
    link_to(single_model(), "several/turbo.safetensors");
    expect_failure(NULL, models, ERROR_BAD_REQUEST, "there are 3 models in '");
    expect_failure(NULL, models, ERROR_BAD_REQUEST,
                   "choose with --model 'large', 'medium', 'turbo.safetensors'");
}

static void models_that_are_not_whole_are_told(void **state)
{
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:1\n";

    (void)state;
    link_model("half/large");
    unlink(test_path("half/large/vae"));
    expect_failure(NULL, test_path("half"), ERROR_BAD_FILE, "no weights in 'vae'");
    unlink(test_path("half/large/transformer"));
    expect_failure(NULL, test_path("half"), ERROR_BAD_FILE, "no weights in 'transformer'");
    make_folder("pointers");
    test_write_file("pointers/sd3.5_large.safetensors", pointer, sizeof pointer - 1);
    expect_failure(NULL, test_path("pointers"), ERROR_BAD_FILE, "git lfs pull");
}

static void other_pipelines_are_left_alone(void **state)
{
    static const char index[] = "{\"_class_name\":\"FluxPipeline\"}";

    (void)state;
    make_folder("others/flux/transformer");
    test_write_file("others/flux/model_index.json", index, sizeof index - 1);
    expect_failure(NULL, test_path("others"), ERROR_BAD_REQUEST, "--model is missing");
    link_to(folder_model(), "others/large");
    expect_found(NULL, test_path("others"), MODEL_IN_MODELS_DIR, "large",
                 test_path("others/large"));
}

/* --- The cache --- */

#define MEDIUM "models--stabilityai--stable-diffusion-3.5-medium"
#define MEDIUM_ID "stabilityai/stable-diffusion-3.5-medium"

static void repositories_are_found_by_id_by_name_and_alone(void **state)
{
    const char *snapshot = test_path("hub/" MEDIUM "/snapshots/" COMMIT);

    (void)state;
    use_cache("hub");
    make_repo("hub", MEDIUM, COMMIT);
    make_repo("hub", MEDIUM, OTHER_COMMIT);
    write_ref("hub", MEDIUM, COMMIT "\n");
    make_folder("hub/models--google--t5/snapshots/" COMMIT);
    make_folder("hub/datasets--a--b/snapshots/" COMMIT);
    make_folder("hub/.locks");
    expect_found(MEDIUM_ID, NULL, MODEL_IN_CACHE, "stable-diffusion-3.5-medium", snapshot);
    expect_found("stable-diffusion-3.5-medium", "/nowhere", MODEL_IN_CACHE,
                 "stable-diffusion-3.5-medium", snapshot);
    expect_found(NULL, NULL, MODEL_IN_CACHE, "stable-diffusion-3.5-medium", snapshot);
    expect_found(snapshot, NULL, MODEL_AT_PATH, "stable-diffusion-3.5-medium", snapshot);
    expect_failure("other/stable-diffusion-3.5-medium", NULL, ERROR_BAD_REQUEST, "no model at");
    expect_failure("google/t5", NULL, ERROR_BAD_FILE, "without a Stable Diffusion 3 model");
}

static void the_cache_is_where_its_variables_say(void **state)
{
    const char *path = test_path("home/.cache/huggingface/hub/" MEDIUM "/snapshots/" COMMIT);

    (void)state;
    make_repo("home/.cache/huggingface/hub", MEDIUM, COMMIT);
    setenv("HOME", test_path("home"), 1);
    expect_found(NULL, NULL, MODEL_IN_CACHE, "stable-diffusion-3.5-medium", path);
    setenv("HOME", "/nowhere", 1);
    setenv("XDG_CACHE_HOME", test_path("home/.cache"), 1);
    expect_found(NULL, NULL, MODEL_IN_CACHE, "stable-diffusion-3.5-medium", path);
    setenv("XDG_CACHE_HOME", "/nowhere", 1);
    setenv("HF_HOME", test_path("home/.cache/huggingface"), 1);
    expect_found(NULL, NULL, MODEL_IN_CACHE, "stable-diffusion-3.5-medium", path);
    setenv("HF_HUB_CACHE", "/nowhere", 1);
    expect_failure(NULL, NULL, ERROR_BAD_REQUEST, "--model is missing");
}

/* Without refs/main, or with one that leads elsewhere, the newest snapshot counts. */
static void hostile_references_lead_nowhere(void **state)
{
    static const char *const refs[] = {"../../../escape", "..",      "", "/etc", "a/b",
                                       OTHER_COMMIT,      "\x01\xff"};
    const char *snapshot = test_path("refs/" MEDIUM "/snapshots/" COMMIT);

    (void)state;
    use_cache("refs");
    make_repo("refs", MEDIUM, COMMIT);
    link_model("escape");
    for (size_t i = 0; i < COUNT_OF(refs); i++) {
        write_ref("refs", MEDIUM, refs[i]);
        expect_found(MEDIUM_ID, NULL, MODEL_IN_CACHE, "stable-diffusion-3.5-medium", snapshot);
    }
    link_to("loop", "refs/" MEDIUM "/snapshots/loop");
    make_folder("refs/models--..--x/snapshots/" COMMIT);
    make_folder("refs/models--a--b--c/snapshots/" COMMIT);
    make_folder("refs/models----/snapshots/" COMMIT);
    expect_found(NULL, NULL, MODEL_IN_CACHE, "stable-diffusion-3.5-medium", snapshot);
}

static void several_repositories_are_listed(void **state)
{
    (void)state;
    use_cache("two");
    make_repo("two", MEDIUM, COMMIT);
    make_repo("two", "models--me--stable-diffusion-3.5-medium", COMMIT);
    expect_failure(NULL, NULL, ERROR_BAD_REQUEST,
                   "choose with --model 'me/stable-diffusion-3.5-medium', '" MEDIUM_ID "'");
    expect_failure("stable-diffusion-3.5-medium", NULL, ERROR_BAD_REQUEST, "choose with --model");
    expect_found(MEDIUM_ID, NULL, MODEL_IN_CACHE, "stable-diffusion-3.5-medium",
                 test_path("two/" MEDIUM "/snapshots/" COMMIT));
}

static void downloads_that_have_not_ended_are_told(void **state)
{
    (void)state;
    use_cache("partial");
    make_repo("partial", MEDIUM, COMMIT);
    unlink(test_path("partial/" MEDIUM "/snapshots/" COMMIT "/text_encoder_3"));
    expect_found(NULL, NULL, MODEL_IN_CACHE, "stable-diffusion-3.5-medium",
                 test_path("partial/" MEDIUM "/snapshots/" COMMIT)); /* left out on purpose */
    test_write_file("partial/" MEDIUM "/blobs/0123.incomplete", "x", 1);
    expect_failure(NULL, NULL, ERROR_BAD_FILE, "has not ended (1 unfinished files in the cache)");
    expect_failure(MEDIUM_ID, NULL, ERROR_BAD_FILE, "no weights in 'text_encoder_3'");
}

static void a_single_file_of_a_repository_is_a_model(void **state)
{
    (void)state;
    use_cache("single");
    make_folder("single/" MEDIUM "/snapshots/" COMMIT);
    link_to(single_model(), "single/" MEDIUM "/snapshots/" COMMIT "/sd3.5_medium.safetensors");
    expect_found(NULL, NULL, MODEL_IN_CACHE, "sd3.5_medium",
                 test_path("single/" MEDIUM "/snapshots/" COMMIT "/sd3.5_medium.safetensors"));
}

/* --- What is installed --- */

static void the_demo_model_comes_last(void **state)
{
    (void)state;
    make_folder("demos");
    link_to(folder_model(), "demos/demo");
    link_to(folder_model(), "demos/demo-turbo");
    setenv("SD35_DEMO_DIR", test_path("demos"), 1);
    expect_found(NULL, NULL, MODEL_BUILT_IN, "demo", test_path("demos/demo"));
    expect_found("demo-turbo", NULL, MODEL_BUILT_IN, "demo-turbo", test_path("demos/demo-turbo"));
    make_folder("empty");
    expect_found(NULL, test_path("empty"), MODEL_BUILT_IN, "demo", test_path("demos/demo"));
    link_to(folder_model(), "empty/large");
    expect_found(NULL, test_path("empty"), MODEL_IN_MODELS_DIR, "large", test_path("empty/large"));
    expect_found("demo", test_path("empty"), MODEL_BUILT_IN, "demo", test_path("demos/demo"));
}

#define TEST(name) cmocka_unit_test_setup(name, forget_environment)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_path_is_taken_as_it_is),
        TEST(a_name_lies_in_the_folder_of_models),
        TEST(names_cannot_leave_their_folder),
        TEST(the_only_model_of_the_folder_is_taken),
        TEST(the_folder_may_be_the_model),
        TEST(text_encoders_are_no_models),
        TEST(several_models_are_listed),
        TEST(models_that_are_not_whole_are_told),
        TEST(other_pipelines_are_left_alone),
        TEST(repositories_are_found_by_id_by_name_and_alone),
        TEST(the_cache_is_where_its_variables_say),
        TEST(hostile_references_lead_nowhere),
        TEST(several_repositories_are_listed),
        TEST(downloads_that_have_not_ended_are_told),
        TEST(a_single_file_of_a_repository_is_a_model),
        TEST(the_demo_model_comes_last),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
