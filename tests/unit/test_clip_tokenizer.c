/* CLIP tokenizer: the reference's ids from every form of its files, small vocabularies, and files
 * that are damaged. */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "support/small_vocabularies.h"
#include "text/clip_tokenizer.h"

#define IDS_MAX 4096

static struct clip_tokenizer *create(const struct tokenizer_files *files, const char *pad)
{
    struct clip_tokenizer *tokenizer = NULL;
    struct error err = {0};

    if (!clip_tokenizer_create_from_files(&tokenizer, files, pad, &err))
        fail_msg("%s", err.message);
    return tokenizer;
}

static struct clip_tokenizer *create_small(void)
{
    struct tokenizer_files files = small_clip_folder();
    struct clip_tokenizer *tokenizer = create(&files, "<|endoftext|>");

    tokenizer_files_finish(&files);
    return tokenizer;
}

static void expect_ids_of(const struct clip_tokenizer *tokenizer, const char *text, size_t size,
                          const int32_t *want, size_t want_count)
{
    static int32_t ids[IDS_MAX];
    struct error err;
    size_t count;

    assert_true(clip_tokenizer_encode(tokenizer, text, size, ids, IDS_MAX, &count, &err));
    for (size_t i = 0; i < count && i < want_count; i++) {
        if (ids[i] != want[i])
            fail_msg("'%s': id %zu is %d, not %d", text, i, ids[i], want[i]);
    }
    if (count != want_count)
        fail_msg("'%s': %zu ids, not %zu", text, count, want_count);
}

#define EXPECT_IDS(tokenizer, text, ...)                                                           \
    expect_ids_of(tokenizer, text, strlen(text), (const int32_t[]){__VA_ARGS__},                   \
                  sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

/* --- The published vocabulary --- */

static json_t *golden_rows(void)
{
    const char *path = test_shared_path("golden/tokens.json");
    json_t *rows = path ? json_load_file(path, JSON_ALLOW_NUL, NULL) : NULL;

    assert_int_equal(json_array_size(rows), 200);
    return rows;
}

static size_t golden_ids(int32_t *ids, const json_t *row, const char *key)
{
    const json_t *list = json_object_get(row, key);

    assert_true(json_is_array(list) && json_array_size(list) <= IDS_MAX);
    for (size_t i = 0; i < json_array_size(list); i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return json_array_size(list);
}

static void expect_golden_ids(const char *directory)
{
    static int32_t want[IDS_MAX];
    json_t *rows = golden_rows();
    struct clip_tokenizer *tokenizer;
    struct error err;

    if (!clip_tokenizer_create(&tokenizer, directory, "<|endoftext|>", &err))
        fail_msg("%s", err.message);
    assert_int_equal(clip_tokenizer_vocabulary_size(tokenizer), 49408);
    assert_int_equal(clip_tokenizer_eos(tokenizer), 49407);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i), *text = json_object_get(row, "text");
        size_t count = golden_ids(want, row, "clip");

        expect_ids_of(tokenizer, json_string_value(text), json_string_length(text), want, count);
    }
    clip_tokenizer_destroy(tokenizer);
    json_decref(rows);
}

static void vocab_and_merges_give_the_ids_of_the_reference(void **state)
{
    (void)state;
    if (test_skip_without_shared(__func__))
        skip();
    expect_golden_ids(test_shared_path("tokenizers/tokenizer"));
}

/* The merges of the published merges.txt, as "a b" or as ["a", "b"]. */
static json_t *read_published_merges(bool as_pairs)
{
    FILE *file = fopen(test_shared_path("tokenizers/tokenizer/merges.txt"), "r");
    json_t *merges = json_array();
    char left[256], right[256], line[512];

    assert_non_null(file);
    assert_non_null(fgets(line, sizeof line, file)); /* #version */
    while (fgets(line, sizeof line, file)) {
        assert_int_equal(sscanf(line, "%255s %255s", left, right), 2);
        line[strcspn(line, "\n")] = '\0';
        json_array_append_new(merges,
                              as_pairs ? json_pack("[ss]", left, right) : json_string(line));
    }
    fclose(file);
    return merges;
}

static void expect_golden_ids_from_json(const char *folder, bool as_pairs)
{
    json_t *vocab = json_load_file(test_shared_path("tokenizers/tokenizer/vocab.json"), 0, NULL);
    json_t *root = json_pack("{s:[{s:i,s:s,s:b}],s:{s:s,s:o,s:o}}", "added_tokens", "id", 49406,
                             "content", "<|startoftext|>", "normalized", 1, "model", "type", "BPE",
                             "vocab", vocab, "merges", read_published_merges(as_pairs));
    char name[64];

    assert_non_null(root);
    snprintf(name, sizeof name, "%s/tokenizer.json", folder);
    assert_int_equal(mkdir(test_path(folder), 0777), 0);
    assert_int_equal(json_dump_file(root, test_path(name), 0), 0);
    json_decref(root);
    expect_golden_ids(test_path(folder));
}

static void tokenizer_json_gives_the_ids_of_the_reference_from_both_forms_of_merges(void **state)
{
    (void)state;
    if (test_skip_without_shared(__func__))
        skip();
    expect_golden_ids_from_json("strings", false);
    expect_golden_ids_from_json("pairs", true);
}

static void expect_golden_padded(const char *directory, const char *key, const char *pad)
{
    int32_t want[IDS_MAX], got[CLIP_TOKENS];
    json_t *rows = golden_rows();
    struct clip_tokenizer *tokenizer;
    struct error err;
    size_t cut, count, plain;

    assert_true(clip_tokenizer_create(&tokenizer, test_shared_path(directory), pad, &err));
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i), *json = json_object_get(row, "text");
        const char *text = json_string_value(json);
        size_t size = json_string_length(json);

        count = golden_ids(want, row, key);
        assert_int_equal(count, CLIP_TOKENS);
        assert_true(clip_tokenizer_encode_padded(tokenizer, text, size, got, &cut, &err));
        if (memcmp(got, want, sizeof got) != 0)
            fail_msg("%s of row %zu differs", key, i);
        assert_true(clip_tokenizer_encode(tokenizer, text, size, NULL, 0, &plain, &err));
        assert_int_equal(cut, plain > CLIP_TOKENS - 2 ? plain - (CLIP_TOKENS - 2) : 0);
    }
    clip_tokenizer_destroy(tokenizer);
    json_decref(rows);
}

static void padded_ids_are_those_of_the_reference_for_both_encoders(void **state)
{
    (void)state;
    if (test_skip_without_shared(__func__))
        skip();
    expect_golden_padded("tokenizers/tokenizer", "clip_l_77", "<|endoftext|>");
    expect_golden_padded("tokenizers/tokenizer_2", "clip_g_77", "!");
}

static void known_prompts_have_known_ids(void **state)
{
    struct clip_tokenizer *tokenizer;
    struct error err;

    (void)state;
    if (test_skip_without_shared(__func__))
        skip();
    assert_true(clip_tokenizer_create(&tokenizer, test_shared_path("tokenizers/tokenizer"),
                                      "<|endoftext|>", &err));
    EXPECT_IDS(tokenizer, "a photo of a cat", 320, 1125, 539, 320, 2368);
    EXPECT_IDS(tokenizer, "A cat holding a sign that says hello world", 320, 2368, 5050, 320, 2292,
               682, 1563, 3306, 1002);
    EXPECT_IDS(tokenizer, "don't stop", 847, 713, 1691);
    EXPECT_IDS(tokenizer, "2024!!", 273, 271, 273, 275, 748);
    EXPECT_IDS(tokenizer, "hello,world", 3306, 267, 1002);
    EXPECT_IDS(tokenizer, "Caf\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E \xF0\x9F\x98\x80",
               15304, 39121, 44353, 34002, 508, 7334);
    EXPECT_IDS(tokenizer, "<|STARTOFTEXT|> x", 49406, 343);
    EXPECT_IDS(tokenizer, "a<|endoftext|>b", 320, 49407, 321);
    /* Not the end token, which is looked for as it is written; and cut in three. */
    EXPECT_IDS(tokenizer, "<|ENDOFTEXT|> x", 27, 347, 40786, 4160, 91, 285, 343);
    EXPECT_IDS(tokenizer, "'Sup", 568, 705);
    EXPECT_IDS(tokenizer, "\xC4\xB0", 328, 16384); /* U+0130 becomes i and U+0307 */
    EXPECT_IDS(tokenizer, "e\xCC\x81", 4166);      /* composes to U+00E9 */
    clip_tokenizer_destroy(tokenizer);
}

static void an_exclamation_mark_is_the_pad_token_where_the_folder_says_so(void **state)
{
    struct clip_tokenizer *tokenizer;
    struct error err;

    (void)state;
    if (test_skip_without_shared(__func__))
        skip();
    assert_true(
        clip_tokenizer_create(&tokenizer, test_shared_path("tokenizers/tokenizer_2"), "!", &err));
    EXPECT_IDS(tokenizer, "wow!!", 2781, 0, 0);
    clip_tokenizer_destroy(tokenizer);
}

/* --- A small vocabulary --- */

static void words_merge_in_the_order_of_ranks(void **state)
{
    struct clip_tokenizer *tokenizer = create_small();

    (void)state;
    EXPECT_IDS(tokenizer, "lower newer", 10, 2, 16, 9, 3, 2, 16);
    EXPECT_IDS(tokenizer, "low", 15);
    EXPECT_IDS(tokenizer, "LOW\t\n low", 15, 15);
    EXPECT_IDS(tokenizer, "llo", 22, 23); /* "l o" has no last o; "l l" goes */
    EXPECT_IDS(tokenizer, "aaaaaaaa", 26, 25, 24, 27);
    assert_int_equal(clip_tokenizer_vocabulary_size(tokenizer), 28);
    assert_int_equal(clip_tokenizer_eos(tokenizer), 19);
    clip_tokenizer_destroy(tokenizer);
}

static void an_empty_text_has_no_ids(void **state)
{
    struct clip_tokenizer *tokenizer = create_small();

    (void)state;
    expect_ids_of(tokenizer, "", 0, NULL, 0);
    expect_ids_of(tokenizer, " \t\n\xC2\xA0 ", 6, NULL, 0);
    clip_tokenizer_destroy(tokenizer);
}

static void bytes_outside_the_vocabulary_become_the_unknown_token(void **state)
{
    struct clip_tokenizer *tokenizer = create_small();

    (void)state;
    EXPECT_IDS(tokenizer, "lqw", 0, 17, 12);
    EXPECT_IDS(tokenizer, "\xC3\xA9", 17, 17);
    EXPECT_IDS(tokenizer, "\xFF", 17, 17, 17); /* as U+FFFD, of three bytes */
    expect_ids_of(tokenizer, "l\0o", 3, (const int32_t[]){11, 17, 23}, 3);
    clip_tokenizer_destroy(tokenizer);
}

static void without_an_unknown_token_the_end_token_takes_its_place(void **state)
{
    struct tokenizer_files files = small_folder();
    struct clip_tokenizer *tokenizer;

    (void)state;
    small_put_text(&files, TOKENIZER_VOCAB, SMALL_CLIP_VOCAB);
    small_put_text(&files, TOKENIZER_MERGES, SMALL_CLIP_MERGES);
    tokenizer = create(&files, "!");
    EXPECT_IDS(tokenizer, "lqw", 0, 19, 12);
    clip_tokenizer_destroy(tokenizer);
    tokenizer_files_finish(&files);
}

static void special_tokens_are_recognised_inside_texts(void **state)
{
    struct clip_tokenizer *tokenizer = create_small();

    (void)state;
    EXPECT_IDS(tokenizer, "low<|endoftext|>low", 15, 19, 15);
    EXPECT_IDS(tokenizer, "<|StartOfText|>low", 18, 15); /* looked for in lower case */
    EXPECT_IDS(tokenizer, "low!", 15, 20);               /* not "!</w>", which is 21 */
    EXPECT_IDS(tokenizer, "lo<unk>w", 0, 23, 17, 12);
    clip_tokenizer_destroy(tokenizer);
}

static void tokenizer_json_gives_the_same_ids_as_vocab_and_merges(void **state)
{
    struct tokenizer_files files = small_folder();
    struct clip_tokenizer *tokenizer;

    (void)state;
    small_put_text(&files, TOKENIZER_JSON, small_clip_json);
    tokenizer = create(&files, "!");
    EXPECT_IDS(tokenizer, "lower newer llo aaaaaaaa q", 10, 2, 16, 9, 3, 2, 16, 22, 23, 26, 25, 24,
               27, 17);
    EXPECT_IDS(tokenizer, "low!", 15, 21); /* only named by the caller, so it pads but is a word */
    clip_tokenizer_destroy(tokenizer);
    tokenizer_files_finish(&files);
}

static void added_tokens_beyond_the_vocabulary_have_ids_of_their_own(void **state)
{
    struct tokenizer_files files = small_clip_folder();
    struct clip_tokenizer *tokenizer;

    (void)state;
    small_put_text(&files, TOKENIZER_CONFIG,
                   "{\"added_tokens_decoder\":{\"40\":{\"content\":\"<style>\"},"
                   "\"41\":{\"content\":\"<style>2\"}}}");
    tokenizer = create(&files, "!");
    EXPECT_IDS(tokenizer, "low <style> low<style>2", 15, 40, 15, 41);
    assert_int_equal(clip_tokenizer_vocabulary_size(tokenizer), 42);
    clip_tokenizer_destroy(tokenizer);
    tokenizer_files_finish(&files);
}

static int32_t find_pad(const char *config, const char *names, const char *fallback)
{
    struct tokenizer_files files = small_folder();
    struct clip_tokenizer *tokenizer;
    int32_t ids[CLIP_TOKENS];
    size_t cut;

    small_put_text(&files, TOKENIZER_VOCAB, SMALL_CLIP_VOCAB);
    small_put_text(&files, TOKENIZER_MERGES, SMALL_CLIP_MERGES);
    if (config)
        small_put_text(&files, TOKENIZER_CONFIG, config);
    if (names)
        small_put_text(&files, TOKENIZER_SPECIAL_NAMES, names);
    tokenizer = create(&files, fallback);
    assert_true(clip_tokenizer_encode_padded(tokenizer, "low", 3, ids, &cut, NULL));
    clip_tokenizer_destroy(tokenizer);
    tokenizer_files_finish(&files);
    assert_int_equal(ids[0], 18);
    assert_int_equal(ids[1], 15);
    assert_int_equal(ids[2], 19);
    for (size_t i = 3; i < CLIP_TOKENS; i++)
        assert_int_equal(ids[i], ids[3]);
    return ids[3];
}

static void the_pad_token_comes_from_the_folder_and_else_from_the_caller(void **state)
{
    (void)state;
    assert_int_equal(find_pad(NULL, NULL, "<|endoftext|>"), 19);
    assert_int_equal(find_pad(NULL, NULL, "!"), 20);
    assert_int_equal(find_pad("{\"pad_token\":\"!\"}", NULL, "<|endoftext|>"), 20);
    assert_int_equal(find_pad("{\"pad_token\":{\"content\":\"!\"}}", NULL, "<|endoftext|>"), 20);
    assert_int_equal(find_pad(NULL, "{\"pad_token\":\"<unk>\"}", "!"), 17);
    assert_int_equal(
        find_pad("{\"pad_token\":null}", "{\"pad_token\":{\"content\":\"<unk>\"}}", "!"), 17);
    assert_int_equal(find_pad("{\"pad_token\":\"!\"}", "{\"pad_token\":\"<unk>\"}", "l"), 20);
}

static void long_texts_are_cut_and_keep_the_end_token(void **state)
{
    struct clip_tokenizer *tokenizer = create_small();
    int32_t ids[CLIP_TOKENS + 1];
    char text[4 * 100]; /* a hundred words */
    struct error err;
    size_t cut;

    (void)state;
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = "low "[i % 4];
    ids[CLIP_TOKENS] = -7;
    assert_true(clip_tokenizer_encode_padded(tokenizer, text, (size_t)4 * 75, ids, &cut, &err));
    assert_int_equal(cut, 0);
    assert_int_equal(ids[75], 15);
    assert_int_equal(ids[76], 19);
    assert_true(clip_tokenizer_encode_padded(tokenizer, text, sizeof text, ids, &cut, &err));
    assert_int_equal(cut, 25);
    assert_int_equal(ids[75], 15);
    assert_int_equal(ids[76], 19);
    assert_int_equal(ids[CLIP_TOKENS], -7);
    clip_tokenizer_destroy(tokenizer);
}

static void encode_counts_what_does_not_fit_and_does_not_write_it(void **state)
{
    struct clip_tokenizer *tokenizer = create_small();
    int32_t ids[3] = {-7, -7, -7};
    struct error err;
    size_t count;

    (void)state;
    assert_true(clip_tokenizer_encode(tokenizer, "low low low", 11, ids, 2, &count, &err));
    assert_int_equal(count, 3);
    assert_int_equal(ids[1], 15);
    assert_int_equal(ids[2], -7);
    clip_tokenizer_destroy(tokenizer);
}

/* --- Texts that are made to take long --- */

static double encode_seconds(const struct clip_tokenizer *tokenizer, const char *part, size_t size)
{
    size_t part_size = strlen(part), count;
    char *text = malloc(size);
    struct timespec begin, end;
    struct error err;

    assert_non_null(text);
    for (size_t i = 0; i < size; i++)
        text[i] = part[i % part_size];
    clock_gettime(CLOCK_MONOTONIC, &begin);
    assert_true(clip_tokenizer_encode(tokenizer, text, size, NULL, 0, &count, &err));
    clock_gettime(CLOCK_MONOTONIC, &end);
    free(text);
    return (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
}

/* Quadratic time would be minutes; with sanitizers the right algorithm takes a quarter second. */
static void very_long_words_and_runs_of_marks_take_near_linear_time(void **state)
{
    struct clip_tokenizer *tokenizer = create_small();

    (void)state;
    assert_true(encode_seconds(tokenizer, "a", 64 << 10) < 5);
    assert_true(encode_seconds(tokenizer, "low", 64 << 10) < 5);
    assert_true(encode_seconds(tokenizer, "<|startoftext|", 64 << 10) < 5);
    /* Marks of classes 230 and 220 in turn: each 220 belongs before all the 230s. */
    assert_true(encode_seconds(tokenizer, "\xCC\x81\xCC\xA3", 200000) < 5);
    clip_tokenizer_destroy(tokenizer);
}

static void marks_in_any_order_are_normalised_alike(void **state)
{
    struct clip_tokenizer *tokenizer;
    int32_t first[16], second[16];
    size_t first_count, second_count;
    struct error err;

    (void)state;
    if (test_skip_without_shared(__func__))
        skip();
    assert_true(clip_tokenizer_create(&tokenizer, test_shared_path("tokenizers/tokenizer"),
                                      "<|endoftext|>", &err));
    assert_true(
        clip_tokenizer_encode(tokenizer, "q\xCC\x87\xCC\xA3", 5, first, 16, &first_count, &err));
    assert_true(
        clip_tokenizer_encode(tokenizer, "q\xCC\xA3\xCC\x87", 5, second, 16, &second_count, &err));
    assert_int_equal(first_count, second_count);
    assert_memory_equal(first, second, first_count * sizeof *first);
    clip_tokenizer_destroy(tokenizer);
}

static void a_text_beyond_the_limit_is_a_bad_request(void **state)
{
    struct clip_tokenizer *tokenizer = create_small();
    char *text = calloc(1, (1 << 20) + 1);
    struct error err;
    size_t count;

    (void)state;
    assert_non_null(text);
    assert_false(clip_tokenizer_encode(tokenizer, text, (1 << 20) + 1, NULL, 0, &count, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    free(text);
    clip_tokenizer_destroy(tokenizer);
}

/* --- Damaged files --- */

static void expect_refused(const struct tokenizer_files *files, enum error_code code,
                           const char *part, const char *also)
{
    struct clip_tokenizer *tokenizer = (void *)&tokenizer;
    struct error err = {0};

    if (clip_tokenizer_create_from_files(&tokenizer, files, "!", &err))
        fail_msg("accepted, but wanted: %s", also);
    assert_ptr_equal(tokenizer, &tokenizer); /* left alone */
    assert_int_equal(err.code, code);
    if (!strstr(err.message, part) || !strstr(err.message, also))
        fail_msg("'%s' names neither '%s' nor '%s'", err.message, part, also);
}

static void expect_file_refused(enum tokenizer_file_kind kind, const char *content,
                                const char *cause)
{
    struct tokenizer_files files = small_clip_folder();

    small_put_text(&files, kind, content);
    expect_refused(&files, ERROR_BAD_FILE, small_file_paths[kind], cause);
    tokenizer_files_finish(&files);
}

static void a_damaged_vocabulary_is_refused_with_file_and_cause(void **state)
{
    static const struct {
        const char *content, *cause;
    } cases[] = {
        {"", "not JSON"},
        {"\xEF\xBB\xBF{}", "byte order mark"},
        {"[]", "not a JSON object"},
        {"{\"a\":1,\"a\":2}", "duplicate"},
        {"{\"a\":1,\"b\":1}", "two symbols have the id 1"},
        {"{\"a\":-1}", "-1"},
        {"{\"a\":1000000}", "1000000"},
        {"{\"a\":99999999999999999999}", "not JSON"},
        {"{\"a\":1.5}", "whole number"},
        {"{\"a\":\"1\"}", "whole number"},
        {"{\"\":1}", "0 bytes"},
        {"{\"\\u0000\":1}", "not JSON"},
        {"{\"\xFF\":1}", "not JSON"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_file_refused(TOKENIZER_VOCAB, cases[i].content, cases[i].cause);
}

static void a_vocabulary_without_begin_or_end_is_refused(void **state)
{
    struct tokenizer_files files = small_folder();

    (void)state;
    small_put_text(&files, TOKENIZER_VOCAB, "{\"<|endoftext|>\":0}");
    small_put_text(&files, TOKENIZER_MERGES, "#version: 0.2\n");
    expect_refused(&files, ERROR_BAD_FILE, "vocab.json", "bos_token '<|startoftext|>'");
    small_put_text(&files, TOKENIZER_VOCAB, "{\"<|startoftext|>\":0}");
    expect_refused(&files, ERROR_BAD_FILE, "vocab.json", "eos_token '<|endoftext|>'");
    small_put_text(&files, TOKENIZER_VOCAB, "{\"<|startoftext|>\":0,\"<|endoftext|>\":1}");
    expect_refused(&files, ERROR_BAD_FILE, "vocab.json", "pad_token '!'");
    tokenizer_files_finish(&files);
}

static void a_symbol_that_is_too_long_is_refused(void **state)
{
    char symbol[514] = "", content[600];

    (void)state;
    memset(symbol, 'a', sizeof symbol - 1);
    snprintf(content, sizeof content, "{\"%s\":1}", symbol);
    expect_file_refused(TOKENIZER_VOCAB, content, "513 bytes");
}

static void damaged_merges_are_refused_with_file_and_cause(void **state)
{
    static const struct {
        const char *content, *cause;
    } cases[] = {
        {"", "empty"},
        {"\xEF\xBB\xBF#version: 0.2\n", "byte order mark"},
        {"l o\nl q\n", "merge 2 names a symbol"},
        {"o l\n", "merge 1 makes a symbol"},
        {"l o\nl l\nl o\n", "merges 1 and 3 are the same pair"},
        {"lo\n", "not two symbols"},
        {"l o o\n", "not two symbols"},
        {" o\n", "not two symbols"},
        {"l \n", "not two symbols"},
        {"l o\n#version: 0.2\n", "merge 2"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_file_refused(TOKENIZER_MERGES, cases[i].content, cases[i].cause);
}

static void merges_may_lack_the_version_and_the_last_newline(void **state)
{
    struct tokenizer_files files = small_clip_folder();
    struct clip_tokenizer *tokenizer;

    (void)state;
    small_put_text(&files, TOKENIZER_MERGES, "l o\r\nlo w</w>");
    tokenizer = create(&files, "!");
    EXPECT_IDS(tokenizer, "low", 15);
    clip_tokenizer_destroy(tokenizer);
    tokenizer_files_finish(&files);
}

static void a_damaged_tokenizer_json_is_refused_with_file_and_cause(void **state)
{
#define MODEL(vocab, merges) "{\"model\":{\"vocab\":" vocab ",\"merges\":" merges "}}"
    static const struct {
        const char *content, *cause;
    } cases[] = {
        {"{}", "not a byte-pair encoding"},
        {"{\"model\":{\"type\":\"Unigram\"}}", "not a byte-pair encoding"},
        {"{\"model\":{\"end_of_word_suffix\":\"@\"}}", "do not end in </w>"},
        {MODEL("[]", "[]"), "not an object"},
        {MODEL(SMALL_CLIP_VOCAB, "{}"), "not a list"},
        {MODEL(SMALL_CLIP_VOCAB, "[1]"), "not two symbols"},
        {MODEL(SMALL_CLIP_VOCAB, "[[\"l\"]]"), "not two symbols"},
        {MODEL(SMALL_CLIP_VOCAB, "[[\"l\",\"\"]]"), "not two symbols"},
        {MODEL(SMALL_CLIP_VOCAB, "[[\"l\",1]]"), "not two symbols"},
        {MODEL(SMALL_CLIP_VOCAB, "[[\"l\",\"o\",\"w\"]]"), "not two symbols"},
        {MODEL(SMALL_CLIP_VOCAB, "[\"l q\"]"), "names a symbol"},
        {"{\"added_tokens\":{},\"model\":{\"vocab\":" SMALL_CLIP_VOCAB ",\"merges\":[]}}",
         "not a list"},
        {"{\"added_tokens\":[{\"id\":1}],\"model\":{\"vocab\":" SMALL_CLIP_VOCAB ",\"merges\":[]}}",
         "no content"},
        {"{\"added_tokens\":[{\"content\":\"l\"}],\"model\":{\"vocab\":" SMALL_CLIP_VOCAB
         ",\"merges\":[]}}",
         "added token 0"},
        {"{\"added_tokens\":[{\"id\":-5,\"content\":\"x\"}],\"model\":{\"vocab\":" SMALL_CLIP_VOCAB
         ",\"merges\":[]}}",
         "-5"},
    };
#undef MODEL

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_file_refused(TOKENIZER_JSON, cases[i].content, cases[i].cause);
}

static void damaged_settings_are_refused_with_file_and_cause(void **state)
{
    static const struct {
        const char *content, *cause;
    } cases[] = {
        {"", "not JSON"},
        {"{\"pad_token\":5}", "pad_token"},
        {"{\"pad_token\":{}}", "pad_token"},
        {"{\"pad_token\":\"missing\"}", "'missing'"},
        {"{\"bos_token\":\"missing\"}", "'missing'"},
        {"{\"added_tokens_decoder\":[]}", "not an object"},
        {"{\"added_tokens_decoder\":{\"one\":{\"content\":\"x\"}}}", "no number"},
        {"{\"added_tokens_decoder\":{\"-1\":{\"content\":\"x\"}}}", "-1"},
        {"{\"added_tokens_decoder\":{\"1000000\":{\"content\":\"x\"}}}", "1000000"},
        {"{\"added_tokens_decoder\":{\"99999999999999999999\":{\"content\":\"x\"}}}", "no number"},
        {"{\"added_tokens_decoder\":{\"30\":{}}}", "no content"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_file_refused(TOKENIZER_CONFIG, cases[i].content, cases[i].cause);
}

static void added_tokens_that_contradict_the_vocabulary_are_refused(void **state)
{
    static const struct {
        const char *content, *cause;
    } cases[] = {
        {"{\"added_tokens_decoder\":{\"3\":{\"content\":\"l\"}}}", "the id 3, but 0"},
        {"{\"added_tokens_decoder\":{\"3\":{\"content\":\"new\"}}}", "two tokens have the id 3"},
        {"{\"added_tokens_decoder\":{\"30\":{\"content\":\"x\"},\"31\":{\"content\":\"x\"}}}",
         "two ids"},
        {"{\"added_tokens_decoder\":{\"30\":{\"content\":\"x\"},\"030\":{\"content\":\"y\"}}}",
         "two tokens have the id 30"},
        {"{\"added_tokens_decoder\":{\"30\":{\"content\":\"\"}}}", "0 bytes"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokenizer_files files = small_clip_folder();

        small_put_text(&files, TOKENIZER_CONFIG, cases[i].content);
        expect_refused(&files, ERROR_BAD_FILE, "added tokens", cases[i].cause);
        tokenizer_files_finish(&files);
    }
}

/* A JSON file that ends early is never a JSON file. */
static void expect_every_cut_refused(struct tokenizer_files *files, enum tokenizer_file_kind kind,
                                     const char *content)
{
    for (size_t size = 0; size < strlen(content); size++) {
        small_put(files, kind, content, size);
        expect_refused(files, ERROR_BAD_FILE, small_file_paths[kind], "");
    }
}

static void json_files_cut_at_any_byte_are_refused(void **state)
{
    struct tokenizer_files files = small_clip_folder();

    (void)state;
    expect_every_cut_refused(&files, TOKENIZER_VOCAB, SMALL_CLIP_VOCAB);
    small_put_text(&files, TOKENIZER_VOCAB, SMALL_CLIP_VOCAB);
    expect_every_cut_refused(&files, TOKENIZER_CONFIG, small_clip_config);
    small_put_text(&files, TOKENIZER_CONFIG, small_clip_config);
    expect_every_cut_refused(&files, TOKENIZER_JSON, small_clip_json);
    tokenizer_files_finish(&files);
}

/* A text file that ends early can still be one with fewer merges. */
static void merges_cut_at_any_byte_are_refused_or_give_ids_of_the_vocabulary(void **state)
{
    struct tokenizer_files files = small_clip_folder();
    int refused = 0;

    (void)state;
    for (size_t size = 0; size < strlen(SMALL_CLIP_MERGES); size++) {
        struct clip_tokenizer *tokenizer;
        int32_t ids[16];
        struct error err;
        size_t count;

        small_put(&files, TOKENIZER_MERGES, SMALL_CLIP_MERGES, size);
        if (!clip_tokenizer_create_from_files(&tokenizer, &files, "!", &err)) {
            assert_non_null(strstr(err.message, "merges.txt"));
            refused++;
            continue;
        }
        assert_true(clip_tokenizer_encode(tokenizer, "lower low", 9, ids, 16, &count, &err));
        assert_true(count >= 4 && count <= 8);
        for (size_t i = 0; i < count; i++)
            assert_in_range(ids[i], 0, 27);
        clip_tokenizer_destroy(tokenizer);
    }
    assert_true(refused > 20);
    tokenizer_files_finish(&files);
}

static void missing_files_are_named(void **state)
{
    struct clip_tokenizer *tokenizer;
    struct error err;

    (void)state;
    assert_false(clip_tokenizer_create(&tokenizer, test_path("nowhere"), "!", &err));
    assert_int_equal(err.code, ERROR_IO);
    assert_non_null(strstr(err.message, "nowhere/vocab.json"));
    assert_int_equal(mkdir(test_path("half"), 0777), 0);
    test_write_file("half/vocab.json", SMALL_CLIP_VOCAB, strlen(SMALL_CLIP_VOCAB));
    assert_false(clip_tokenizer_create(&tokenizer, test_path("half"), "!", &err));
    assert_int_equal(err.code, ERROR_IO);
    assert_non_null(strstr(err.message, "half/merges.txt"));
}

static void files_beyond_the_limit_and_folders_in_their_place_are_refused(void **state)
{
    struct clip_tokenizer *tokenizer;
    struct error err;
    const char *path;

    (void)state;
    assert_int_equal(mkdir(test_path("big"), 0777), 0);
    path = test_write_file("big/vocab.json", "{", 1);
    assert_int_equal(truncate(path, (64 << 20) + 1), 0);
    assert_false(clip_tokenizer_create(&tokenizer, test_path("big"), "!", &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_non_null(strstr(err.message, "big/vocab.json"));
    assert_int_equal(remove(path), 0);
    assert_int_equal(mkdir(path, 0777), 0);
    assert_false(clip_tokenizer_create(&tokenizer, test_path("big"), "!", &err));
    assert_non_null(strstr(err.message, "not a regular file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vocab_and_merges_give_the_ids_of_the_reference),
        cmocka_unit_test(tokenizer_json_gives_the_ids_of_the_reference_from_both_forms_of_merges),
        cmocka_unit_test(padded_ids_are_those_of_the_reference_for_both_encoders),
        cmocka_unit_test(known_prompts_have_known_ids),
        cmocka_unit_test(an_exclamation_mark_is_the_pad_token_where_the_folder_says_so),
        cmocka_unit_test(words_merge_in_the_order_of_ranks),
        cmocka_unit_test(an_empty_text_has_no_ids),
        cmocka_unit_test(bytes_outside_the_vocabulary_become_the_unknown_token),
        cmocka_unit_test(without_an_unknown_token_the_end_token_takes_its_place),
        cmocka_unit_test(special_tokens_are_recognised_inside_texts),
        cmocka_unit_test(tokenizer_json_gives_the_same_ids_as_vocab_and_merges),
        cmocka_unit_test(added_tokens_beyond_the_vocabulary_have_ids_of_their_own),
        cmocka_unit_test(the_pad_token_comes_from_the_folder_and_else_from_the_caller),
        cmocka_unit_test(long_texts_are_cut_and_keep_the_end_token),
        cmocka_unit_test(encode_counts_what_does_not_fit_and_does_not_write_it),
        cmocka_unit_test(very_long_words_and_runs_of_marks_take_near_linear_time),
        cmocka_unit_test(marks_in_any_order_are_normalised_alike),
        cmocka_unit_test(a_text_beyond_the_limit_is_a_bad_request),
        cmocka_unit_test(a_damaged_vocabulary_is_refused_with_file_and_cause),
        cmocka_unit_test(a_vocabulary_without_begin_or_end_is_refused),
        cmocka_unit_test(a_symbol_that_is_too_long_is_refused),
        cmocka_unit_test(damaged_merges_are_refused_with_file_and_cause),
        cmocka_unit_test(merges_may_lack_the_version_and_the_last_newline),
        cmocka_unit_test(a_damaged_tokenizer_json_is_refused_with_file_and_cause),
        cmocka_unit_test(damaged_settings_are_refused_with_file_and_cause),
        cmocka_unit_test(added_tokens_that_contradict_the_vocabulary_are_refused),
        cmocka_unit_test(json_files_cut_at_any_byte_are_refused),
        cmocka_unit_test(merges_cut_at_any_byte_are_refused_or_give_ids_of_the_vocabulary),
        cmocka_unit_test(missing_files_are_named),
        cmocka_unit_test(files_beyond_the_limit_and_folders_in_their_place_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
