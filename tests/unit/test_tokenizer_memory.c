/* Both tokenizers with each of their allocations failing in turn: an error that says so, and
 * nothing leaked or half-made. */
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "support/failing_memory.h"
#include "support/small_vocabularies.h"
#include "text/clip_tokenizer.h"
#include "text/t5_tokenizer.h"

/* Runs `use` with one more allocation allowed each time, until it succeeds. */
static void expect_no_memory_until_it_works(bool (*use)(const struct tokenizer_files *files,
                                                        struct error *err),
                                            struct tokenizer_files files, int allocations_min)
{
    struct error err;
    int allowed = 0;
    bool ok;

    do {
        err = (struct error){0};
        allocations_left = allowed;
        ok = use(&files, &err);
        allocations_left = -1;
        /* Without memory the JSON library often reports a syntax error. */
        if (!ok && !(err.code == ERROR_BAD_FILE && strstr(err.message, "is not JSON")))
            assert_int_equal(err.code, ERROR_NO_MEMORY);
    } while (!ok && ++allowed < 100000);
    assert_true(ok);
    assert_true(allowed >= allocations_min);
    tokenizer_files_finish(&files);
}

static bool use_clip(const struct tokenizer_files *files, struct error *err)
{
    /* With marks out of order, which take memory to sort. */
    static const char text[] = "lower<|endoftext|> q\xCC\x81\xCC\xA3 low";
    struct clip_tokenizer *tokenizer;
    int32_t ids[CLIP_TOKENS];
    size_t cut;
    bool ok;

    if (!clip_tokenizer_create_from_files(&tokenizer, files, "!", err))
        return false;
    ok = clip_tokenizer_encode_padded(tokenizer, text, strlen(text), ids, &cut, err);
    clip_tokenizer_destroy(tokenizer);
    return ok;
}

static bool use_t5(const struct tokenizer_files *files, struct error *err)
{
    static const char text[] = "hello</s> A\to q";
    struct t5_tokenizer *tokenizer;
    int32_t ids[16];
    size_t cut;
    bool ok;

    if (!t5_tokenizer_create_from_files(&tokenizer, files, err))
        return false;
    ok = t5_tokenizer_encode_padded(tokenizer, text, strlen(text), ids, 16, &cut, err);
    t5_tokenizer_destroy(tokenizer);
    return ok;
}

static void clip_from_vocab_and_merges_survives_each_failing_allocation(void **state)
{
    (void)state;
    expect_no_memory_until_it_works(use_clip, small_clip_folder(), 50);
}

static void clip_from_tokenizer_json_survives_each_failing_allocation(void **state)
{
    struct tokenizer_files files = small_folder();

    (void)state;
    small_put_text(&files, TOKENIZER_JSON, small_clip_json);
    expect_no_memory_until_it_works(use_clip, files, 50);
}

static void t5_from_spiece_model_survives_each_failing_allocation(void **state)
{
    (void)state;
    expect_no_memory_until_it_works(use_t5, small_t5_folder(), 15);
}

static void t5_from_tokenizer_json_survives_each_failing_allocation(void **state)
{
    struct tokenizer_files files = small_folder();
    struct small_bytes map = small_charsmap();
    char *base64 = small_base64(&map), *json = small_t5_json(base64);

    (void)state;
    small_put_text(&files, TOKENIZER_JSON, json);
    free(json);
    free(base64);
    free(map.bytes);
    expect_no_memory_until_it_works(use_t5, files, 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clip_from_vocab_and_merges_survives_each_failing_allocation),
        cmocka_unit_test(clip_from_tokenizer_json_survives_each_failing_allocation),
        cmocka_unit_test(t5_from_spiece_model_survives_each_failing_allocation),
        cmocka_unit_test(t5_from_tokenizer_json_survives_each_failing_allocation),
    };

    json_set_alloc_funcs(malloc, free); /* which the linker sends to ours */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
