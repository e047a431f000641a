/* The parts of a conversion that need no model: what is kept, what is written where, manifests. */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "convert/manifest.h"
#include "convert/source_hashes.h"
#include "convert/staging.h"
#include "weights/keep_rule.h"

/* --- What is kept --- */

static void the_rule_keeps_ends_and_sensitive_layers(void **state)
{
    static const struct {
        enum component component;
        const char *name;
        bool is_kept;
    } cases[] = {
        {COMPONENT_TRANSFORMER, "timestep_embed.in", true},
        {COMPONENT_TRANSFORMER, "pooled_embed.out", true},
        {COMPONENT_TRANSFORMER, "context_embed", true},
        {COMPONENT_TRANSFORMER, "final.linear", true},
        {COMPONENT_TRANSFORMER, "final.shift", true},
        {COMPONENT_TRANSFORMER, "block.0.image.modulation", true},
        {COMPONENT_TRANSFORMER, "block.0.context.modulation", true},
        {COMPONENT_TRANSFORMER, "block.37.image.mlp_out", true},
        {COMPONENT_TRANSFORMER, "block.0.image.proj2", true},
        {COMPONENT_TRANSFORMER, "block.0.context.mlp_out", false},
        {COMPONENT_TRANSFORMER, "block.0.image.q", false},
        {COMPONENT_TRANSFORMER, "block.1.image.modulation", false},
        {COMPONENT_TRANSFORMER, "block.36.image.modulation", false},
        {COMPONENT_TRANSFORMER, "block.3.image.modulation", false},
        {COMPONENT_VAE, "decoder.mid.attention.q", true},
        {COMPONENT_CLIP_G, "text_projection", true},
        {COMPONENT_CLIP_L, "layer.0.mlp_out", false},
        {COMPONENT_T5, "layer.0.down", false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        assert_int_equal(keep_rule_reason(cases[i].component, cases[i].name, 38) != NULL,
                         cases[i].is_kept);
}

static void patterns_match_names_beginnings_and_wildcards(void **state)
{
    static const struct {
        const char *patterns, *layer;
        bool matches;
    } cases[] = {
        {NULL, "t5.layer.0.q", false},
        {"", "t5.layer.0.q", false},
        {"t5", "t5.layer.0.q", true},
        {"t", "t5.layer.0.q", false},
        {"t5.layer.0.q", "t5.layer.0.q", true},
        {"t5.layer.0", "t5.layer.01.q", false},
        {"clip_l,,t5.layer.0", "t5.layer.0.q", true},
        {"*.mlp_out", "transformer.block.3.image.mlp_out", true},
        {"*.mlp", "transformer.block.3.image.mlp_out", false},
        {"transformer.block.[01].*", "transformer.block.1.image.q", true},
        {"transformer.block.[01].*", "transformer.block.2.image.q", false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        assert_int_equal(keep_rule_matches(cases[i].patterns, cases[i].layer), cases[i].matches);
}

/* --- Hashes --- */

static void sources_have_the_hashes_that_others_compute(void **state)
{
    const char *paths[] = {test_write_file("abc", "abc", 3), test_write_file("empty", "", 0)};
    struct source_hashes *hashes;
    size_t done, total;
    const char *hash;

    (void)state;
    assert_true(source_hashes_create(&hashes, paths, 2, 2, NULL));
    assert_true(source_hashes_wait(&hash, hashes, 0, 10, NULL));
    assert_string_equal(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_true(source_hashes_wait(&hash, hashes, 1, 10, NULL));
    assert_string_equal(hash, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    source_hashes_progress(hashes, &done, &total);
    assert_int_equal(done, 3);
    assert_int_equal(total, 3);
    source_hashes_destroy(hashes);
}

static void a_source_that_cannot_be_read_is_named(void **state)
{
    const char *path = test_path("not-there");
    struct source_hashes *hashes;
    struct error err = {0};
    const char *hash;

    (void)state;
    assert_true(source_hashes_create(&hashes, &path, 1, 1, NULL));
    assert_false(source_hashes_wait(&hash, hashes, 0, 10, &err));
    assert_non_null(strstr(err.message, "not-there"));
    source_hashes_destroy(hashes);
}

static void manifests_have_the_hashes_that_b2sum_computes(void **state)
{
    char text[MANIFEST_TEXT_BYTES];

    (void)state;
    manifest_hash_of(text, "abc", 3);
    assert_string_equal(text, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
}

static void manifests_that_lead_elsewhere_are_refused(void **state)
{
    static const char *const wrong[] = {
        "{}",
        "{\"version\": 2, \"hash\": \"blake2b-256\", \"files\": {}}",
        "{\"version\": 1, \"hash\": \"md5\", \"files\": {}}",
        "{\"version\": 1, \"hash\": \"blake2b-256\", \"files\": []}",
        "{\"version\": 1, \"hash\": \"blake2b-256\", \"files\": {\"/etc/passwd\": {}}}",
        "{\"version\": 1, \"hash\": \"blake2b-256\", \"files\": {\"a/../../b\": {}}}",
        "{\"version\": 1, \"hash\": \"blake2b-256\", \"files\": {\"..\": {}}}",
        "{\"version\": 1, \"hash\": \"blake2b-256\", \"files\": {\"a\": 1}}",
    };
    struct error err;
    json_t *manifest;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        const char *path = test_write_file("manifest", wrong[i], strlen(wrong[i]));

        assert_false(manifest_read(&manifest, path, &err));
        assert_int_equal(err.code, ERROR_BAD_FILE);
    }
}

/* --- The place where a model grows --- */

static void what_is_not_committed_is_removed(void **state)
{
    const char *target = test_path("abandoned");
    struct staging staging;
    char *path, *folder;

    (void)state;
    assert_true(staging_init(&staging, target, true, false, NULL, 0, "test", NULL));
    assert_true(staging_open(&staging, 1000, 0, NULL));
    assert_true(staging_path(&path, &staging, "a/b", NULL));
    assert_true(file_write(path, "1", 1, NULL));
    folder = strdup(staging.folder);
    staging_finish(&staging);
    assert_false(file_is_directory(folder));
    assert_false(file_is_directory(target));
    free(folder);
    free(path);
}

static void a_disk_that_is_too_small_is_found_first(void **state)
{
    struct staging staging;
    struct error err = {0};

    (void)state;
    assert_true(staging_init(&staging, test_path("vast"), true, false, NULL, 0, "test", NULL));
    assert_false(staging_open(&staging, (size_t)1 << 60, 0, &err));
    assert_int_equal(err.code, ERROR_IO);
    assert_non_null(strstr(err.message, "too full"));
    assert_false(staging_open(&staging, 1000, (size_t)1 << 60, &err));
    assert_non_null(strstr(err.message, "are to stay so"));
    staging_finish(&staging);
}

static void what_killed_conversions_left_is_swept_up(void **state)
{
    static const char *const names[] = {"swept.part-aaaaaa", "swept.part-b.old", "swept",
                                        "swept.party", "unswept.part-aaaaaa"};
    char file[512];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        assert_int_equal(mkdir(test_path(names[i]), 0777), 0);
        snprintf(file, sizeof file, "%s/file", test_path(names[i]));
        assert_true(file_write(file, "1", 1, NULL));
    }
    staging_sweep(test_path("swept"));
    for (size_t i = 0; i < COUNT_OF(names); i++)
        assert_int_equal(file_is_directory(test_path(names[i])), i >= 2);
}

static void names_without_a_place_are_refused(void **state)
{
    static const char *const wrong[] = {"/", "..", "a/..", "."};
    struct staging staging;
    struct error err;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        assert_false(staging_init(&staging, wrong[i], true, true, NULL, 0, "test", &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
        staging_finish(&staging);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rule_keeps_ends_and_sensitive_layers),
        cmocka_unit_test(patterns_match_names_beginnings_and_wildcards),
        cmocka_unit_test(sources_have_the_hashes_that_others_compute),
        cmocka_unit_test(a_source_that_cannot_be_read_is_named),
        cmocka_unit_test(manifests_have_the_hashes_that_b2sum_computes),
        cmocka_unit_test(manifests_that_lead_elsewhere_are_refused),
        cmocka_unit_test(what_is_not_committed_is_removed),
        cmocka_unit_test(a_disk_that_is_too_small_is_found_first),
        cmocka_unit_test(what_killed_conversions_left_is_swept_up),
        cmocka_unit_test(names_without_a_place_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
