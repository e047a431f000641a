/* Which files stand for a model, and when its name says its hash. */
#include "support/support.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "server/model_hash.h"

#define HASH "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void write_small(const char *path)
{
    struct error err;

    if (!file_write(path, "x", 1, &err))
        fail_msg("%s", err.message);
}

static void expect_files(const char *model, const char *first, const char *second)
{
    struct model_hash_files files;

    assert_true(model_hash_files_find(&files, model));
    assert_int_equal(files.count, (first != NULL) + (second != NULL));
    if (first)
        assert_string_equal(files.paths[0], first);
    if (second)
        assert_string_equal(files.paths[1], second);
    model_hash_files_finish(&files);
}

static void a_folder_is_its_transformers_file_or_its_parts(void **state)
{
    const char *folder = test_path("folder"), *inside = test_path("folder/transformer");
    const char *half = test_path("folder/transformer/diffusion_pytorch_model.fp16.safetensors");
    const char *second =
        test_path("folder/transformer/diffusion_pytorch_model-00002-of-00002.safetensors");
    const char *first =
        test_path("folder/transformer/diffusion_pytorch_model-00001-of-00002.safetensors");
    const char *file = test_path("folder/transformer/diffusion_pytorch_model.safetensors");

    (void)state;
    assert_int_equal(mkdir(folder, 0700), 0);
    expect_files(folder, NULL, NULL);
    assert_int_equal(mkdir(inside, 0700), 0);
    expect_files(folder, NULL, NULL);
    write_small(half);
    expect_files(folder, half, NULL);
    write_small(second);
    write_small(first);
    expect_files(folder, first, second);
    write_small(file);
    expect_files(folder, file, NULL);
    expect_files(file, file, NULL);
}

static void a_link_into_a_cache_says_its_hash_and_others_do_not(void **state)
{
    static const struct {
        const char *target;
        bool says;
    } links[] = {
        {"../../blobs/" HASH, true},
        {"/cache/blobs/" HASH, true},
        {"../../blobs/0123", false},
        {"../../blobs/" HASH "0", false},
        {"../../globs/" HASH, false},
        {HASH, false},
        {"/" HASH, false},
        {"../blobs/ZZ112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", false},
    };
    const char *link = test_path("link");
    char hash[65];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(links); i++) {
        assert_int_equal(symlink(links[i].target, link), 0);
        assert_true(model_hash_of_link(hash, link) == links[i].says);
        if (links[i].says)
            assert_string_equal(hash, HASH);
        assert_int_equal(unlink(link), 0);
    }
    assert_false(model_hash_of_link(hash, link));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_is_its_transformers_file_or_its_parts),
        cmocka_unit_test(a_link_into_a_cache_says_its_hash_and_others_do_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
